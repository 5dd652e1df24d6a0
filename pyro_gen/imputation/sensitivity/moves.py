"""Moves of imputed values (C) by how far, (C) or (C, L): the formulas are in :mod:`pyro_gen.imputation.sensitivity`."""

import torch
from torch import Tensor

from pyro_gen.data.column import Column

__all__ = ["moved_levels", "moved_numbers", "prior", "recast", "slid", "slid_cumulative", "tilted"]

PRIOR_DRAWS = 0.1, 1e6  # the least and the most that a prior for the probabilities of levels weighs, in draws


def moved_numbers(column: Column, floor: float, values: Tensor, amount: Tensor) -> Tensor:
    """Numbers by how far: whole ones stay whole, none is less than the floor, and bounds hold."""
    moved = values + amount
    if column.integer:
        # Up with the probability of the part of a unit: so that the mean moves by delta, and not in steps.
        moved = (moved + torch.rand_like(moved)).floor()
    inside = moved.clamp(floor, column.limits[1])
    return torch.where(amount == 0, values, inside)


def moved_levels(column: Column, values: Tensor, amount: Tensor, p: Tensor) -> Tensor:
    """Codes of levels by how far, in log-odds, where a level has the probability p, (C, L)."""
    p = p.clamp_min(1e-12)
    p = p / p.sum(1, keepdim=True)
    noise = torch.rand(len(values), 2, dtype=torch.float64)
    if column.kind == "nominal":
        moved = recast(values.long(), p, tilted(p, amount), noise)
        return torch.where((amount == 0).all(1), values, moved.double())
    moved = slid(values.long(), p, slid_cumulative(p, amount), noise[:, 0])
    return torch.where(amount == 0, values, moved.double())


def prior(counts: Tensor) -> Tensor:
    """The Dirichlet prior (L) of the probabilities of holes, by moments from counts (C, L) of their m draws."""
    levels, m = counts.shape[1], float(counts[0].sum())
    mean = (counts.sum(0) + 1 / levels) / (counts.sum() + 1)
    if m == 1:  # one draw does not show how holes differ
        return mean * PRIOR_DRAWS[1]
    binomial = float((mean * (1 - mean)).sum())
    spread = float((counts / m - mean).square().sum(1).mean())
    # The correlation of two draws of a hole: 0 where holes are alike, 1 where they are certain.
    correlation = (spread - binomial / m) / (binomial * (1 - 1 / m)) if binomial else 0.0
    return mean * min(max(1 / max(correlation, 1e-12) - 1, PRIOR_DRAWS[0]), PRIOR_DRAWS[1])


def slid_cumulative(p: Tensor, amount: Tensor) -> Tensor:
    """Cumulative probabilities (C, L - 1) of levels whose cumulative log-odds were shifted up."""
    return (torch.logit(p.cumsum(1)[:, :-1].clamp(1e-300, 1 - 1e-16)) - amount[:, None]).sigmoid()


def slid(levels: Tensor, p: Tensor, cumulative: Tensor, noise: Tensor) -> Tensor:
    """Levels that follow the new cumulative probabilities where the old ones followed p, in the same order."""
    own = levels[:, None]
    below = (p.cumsum(1) - p).gather(1, own)[:, 0]
    point = below + noise * p.gather(1, own)[:, 0]
    return (cumulative < point[:, None]).sum(1)


def tilted(p: Tensor, amount: Tensor) -> Tensor:
    """Probabilities (C, L) of levels without an order, their log-odds shifted."""
    return (p.log() + amount).softmax(1)


def recast(levels: Tensor, p: Tensor, q: Tensor, noise: Tensor) -> Tensor:
    """Levels that follow q where the old ones followed p, as many of them the same as can be."""
    own = levels[:, None]
    stays = noise[:, 0] < (q / p).gather(1, own)[:, 0]
    grown = (q - p).clamp_min(0).cumsum(1)
    other = (grown < (noise[:, 1] * grown[:, -1])[:, None]).sum(1)
    return torch.where(stays, levels, other)
