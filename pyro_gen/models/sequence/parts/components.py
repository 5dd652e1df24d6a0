"""Components of series, each a block of the state of a linear-Gaussian state space and seen by its first entry.

Level and slope, seasons, and a stationary autoregression: the equations of :mod:`pyro_gen.models.sequence.state_space`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_gen.distributions.autoregressive import autoregressive_coefficients, predictors

__all__ = ["Component", "Components", "check_components", "components", "sizes"]

VAGUE = 10.0  # standard deviations of the data, that of the first states


class Component(NamedTuple):
    """A part of series, or their future, given what was seen.

    Attributes:
        mean: With shape :math:`(N, T)`.
        sd: Its standard deviation, with shape :math:`(N, T)`.
    """

    mean: Tensor
    sd: Tensor

    def interval(self, probability: float = 0.9) -> tuple[Tensor, Tensor]:
        """The central interval that holds it with that probability: two tensors with shape :math:`(N, T)`."""
        width = self.sd * torch.special.ndtri(self.sd.new_tensor(0.5 + 0.5 * probability))
        return self.mean - width, self.mean + width


class Components(NamedTuple):
    r"""The matrices of the state of S numbers, with K noises of scale 1.

    Attributes:
        vague: A factor of the covariance of the first states, without that of the autoregression, :math:`(S, S)`.
        stationary: That of the autoregression for noise of scale 1, 0 elsewhere, likewise.
        transition: The matrix F, with shape :math:`(S, S)`.
        entry: Which noise enters where, with shape :math:`(S, K)`.
        observation: The vector h, with shape :math:`(S)`.
    """

    vague: Tensor
    stationary: Tensor
    transition: Tensor
    entry: Tensor
    observation: Tensor


def check_components(name: str, level: bool, trend: bool, period: int, order: int) -> list[str]:
    """Refuses what makes no series; ``name`` is that of the class. Returns the names of the components."""
    if order < 0 or period == 1 or period < 0:
        raise ValueError(
            f"{name}(period={period}, order={order}): give a period of 2 or more (0 for no seasons), and an order of 1 "
            "or more (0 for no autoregression)."
        )
    if not (level or period or order) or (trend and not level):
        raise ValueError(f"{name}: give a level (a trend is one of it), a period, or an order.")
    there = {"level": level, "slope": trend, "season": period > 0, "autoregression": order > 0}
    return [part for part in there if there[part]]


def sizes(period: int, order: int) -> dict[str, int]:
    """How many entries of the state a component has, by name."""
    return {"level": 1, "slope": 1, "season": period - 1, "autoregression": order}


def components(parts: list[str], unit: Tensor, period: int, partial: Tensor | None) -> Components:
    """The matrices of some components.

    Arguments:
        parts: Their names, as of :func:`check_components`; a noise each.
        unit: The scale of the data, with shape :math:`()`: first states are ten times as uncertain.
        period: The period of the seasons.
        partial: The inverse hyperbolic tangents of the partial autocorrelations, with shape :math:`(p)`.
    """
    blocks: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    if "level" in parts:
        transition = unit.new_tensor([[1.0, 1.0], [0.0, 1.0]] if "slope" in parts else [[1.0]])
        eye = torch.eye(len(transition)).to(unit)
        blocks.append((VAGUE * unit * eye, 0 * eye, transition, eye))
    if "season" in parts:
        eye = torch.eye(period - 1).to(unit)
        blocks.append((VAGUE * unit * eye, 0 * eye, _companion(-unit.new_ones(period - 1)), eye[:, :1]))
    if partial is not None:
        transition = _companion(autoregressive_coefficients(partial))
        eye = torch.eye(len(partial)).to(unit)
        blocks.append((0 * eye, _stationary_root(partial), transition, eye[:, :1]))
    # Every block is seen by its first entry.
    first = [torch.cat([block[2].new_ones(1), block[2].new_zeros(len(block[2]) - 1)]) for block in blocks]
    vague, stationary, transition, entry = (torch.block_diag(*matrices) for matrices in zip(*blocks, strict=True))
    return Components(vague, stationary, transition, entry, torch.cat(first))


def _companion(coefficients: Tensor) -> Tensor:
    below = torch.eye(len(coefficients)).to(coefficients)[:-1]
    return torch.cat([coefficients.unsqueeze(0), below])


def _stationary_root(partial: Tensor) -> Tensor:
    r"""A factor of the covariance of which :math:`P = F P F^\top + e_1 e_1^\top`, latest value first.

    Each value less its best prediction from those before it is independent of them, with variance :math:`v_m`.
    """
    phi, v = predictors(partial.tanh())
    k = len(partial)
    eye = torch.eye(k).to(partial)
    errors = torch.stack([torch.cat([-phi[m, :m].flip(0), eye[m, m:]]) for m in range(k)]) / v[:k, None].sqrt()
    root: Tensor = torch.linalg.solve_triangular(errors, eye, upper=False)
    return root.flip(0)
