r"""Several programs in one: their draws, brought together so that they spread as far as their errors do.

A mixture of programs that are right about their errors is wrong about its own: it is underconfident. Say that program k
expects :math:`m_k` of an entry, with the variance :math:`V_k`, and has the weight :math:`w_k`; let
:math:`m = \sum_k w_k m_k` and

.. math:: V = \sum_k w_k V_k , \qquad A = \sum_k w_k (m_k - m)^2 .

Where each program errs by as much as it says, the mean errs by less than they do on average, namely

.. math:: \mathbb{E} (x - m)^2 = \sum_k w_k \mathbb{E} (x - m_k)^2 - A = V - A ,

since programs that disagree cannot all be wrong in the same way, whereas draws of the mixture have the variance
:math:`V + A` around it. So draws of numbers are pulled towards the mean,

.. math:: x \mapsto m + c \, (x - m) , \qquad c = \sqrt{\frac{V - A}{V + A}} ,

with one c for a table, by sums over missing entries. No truth is needed for it. Counts and levels stay as they were
drawn, and columns with an atom, which pulling would move draws off.

References:
    | Neural Network Ensembles, Cross Validation, and Active Learning (Krogh & Vedelsby, 1995): V - A
    | Combining predictive distributions (Gneiting & Ranjan, 2013): mixtures spread too far, and can be pulled together
    | https://doi.org/10.1214/13-EJS823
"""

import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from pyro_gen._random import WEYL, mix
from pyro_gen.models.tabular import TableProgram

__all__ = ["CENTRE_DRAWS", "LinearPool", "allocated"]

SPREAD_ROWS, SPREAD_DRAWS = 300, 100  # by which c is estimated
SPREAD_ENTRIES, HURRIED_ENTRIES = 60_000, 12_000  # of these rows at most, but one row: draws of wide ones take minutes
CENTRE_DRAWS = 8  # draws of each program whose mean draws are pulled to: (1 - c) of its error gets into a draw
FULL_SPREAD = 0.98  # a greater c is taken for 1: what it would change is less than what its estimate is off by
LOWEST_SPREAD = 0.7  # c where programs disagree by a third of what they say that they err by, or more


class LinearPool:
    """Programs with weights, as one.

    Arguments:
        programs: The programs, by name.
        weights: Their weights, by name, which sum to 1.
        spread: The c of draws.

    Attributes:
        programs: The programs.
        weights: Their weights.
        spread: The c of draws; 1 for one program.
    """

    def __init__(self, programs: Mapping[str, TableProgram], weights: Mapping[str, float], spread: float = 1.0) -> None:
        self.programs = list(programs.values())
        self.weights = [weights[name] for name in programs]
        self.spread = spread
        columns = self.programs[0].columns
        self.real = [d for d, column in enumerate(columns) if column.kind == "real" and column.atom is None]

    def estimate_spread(self, x: Tensor, seed: int, *, hurried: bool = False) -> float:
        """The c of draws, from what programs say of rows.

        Arguments:
            x: Rows with shape :math:`(N, D)`, with holes.
            seed: Seeds which rows are taken, and the draws.
            hurried: Whether there is no time left, so that of wide tables fewer rows are taken.
        """
        missing = torch.zeros_like(x, dtype=torch.bool)
        missing[:, self.real] = torch.isnan(x[:, self.real])
        rows = missing.any(1).nonzero()[:, 0]
        if len(self.programs) == 1 or not len(rows):
            return 1.0
        chosen = np.random.default_rng(seed).permutation(len(rows))[: self.spread_rows(x.shape[1], hurried)]
        rows = rows[torch.as_tensor(chosen, device=rows.device)]
        drawn = [of[:, missing[rows]] for of in self._by_program(x[rows], SPREAD_DRAWS, mix(rows + seed))]  # of (S, C)
        mean, variance = (torch.stack(v) for v in ([of.mean(0) for of in drawn], [of.var(0) for of in drawn]))
        w = torch.tensor(self.weights).to(x).unsqueeze(1)
        inside = (w * variance).sum()
        # Means of a few draws differ by chance, too.
        between = (w * (mean - (w * mean).sum(0)).square()).sum() - (w * (1 - w) * variance).sum() / SPREAD_DRAWS
        between = between.clamp(min=0)
        spread = float(((inside - between).clamp(min=0) / (inside + between)).sqrt().clamp(min=LOWEST_SPREAD))
        return spread if spread < FULL_SPREAD else 1.0

    @staticmethod
    def spread_rows(columns: int, hurried: bool = False) -> int:
        """How many rows of a table the c of draws is estimated by, at most."""
        return max(1, min(SPREAD_ROWS, (HURRIED_ENTRIES if hurried else SPREAD_ENTRIES) // columns))

    def expected(self, x: Tensor) -> list[Tensor]:
        """What is to be expected of missing entries, see :meth:`TableProgram.cell_expected`."""
        found = [program.cell_expected(x) for program in self.programs]
        weighted = ([w * v for w, v in zip(self.weights, of, strict=True)] for of in zip(*found, strict=True))
        return [torch.stack(parts).sum(0) for parts in weighted]

    def _by_program(self, x: Tensor, draws: int, seeds: Tensor) -> Iterator[Tensor]:
        """So many draws of every program, with shape (S, N, D)."""
        for p, program in enumerate(self.programs):
            yield program.complete(x, draws, seeds=_own(seeds, p))

    def centre(self, x: Tensor, seeds: Tensor) -> Tensor:
        """What draws are pulled to: the means of some, made for it, since these cost less than what is expected.

        Arguments:
            x: Rows with shape :math:`(N, D)`.
            seeds: One seed for each row, int64, with shape :math:`(N)`.

        Returns:
            Means, with shape :math:`(N, D)`, NaN where a column is not real, or has an atom.
        """
        centre = torch.full_like(x, torch.nan)
        drawn = zip(self.weights, self._by_program(x, CENTRE_DRAWS, mix(seeds)), strict=True)
        centre[:, self.real] = sum(w * of[..., self.real].mean(0) for w, of in drawn)
        return centre

    def cell_log_prob(self, x: Tensor, values: Tensor) -> Tensor:
        """Scores entries one by one, as they are drawn, see :meth:`TableProgram.cell_log_prob`."""
        slope = torch.zeros_like(values)
        if self.spread < 1:
            values, found = values.clone(), self.expected(x)
            for d in self.real:
                centre = found[d][:, 0].to(x)
                values[:, d] = centre + (values[:, d] - centre) / self.spread
            slope[:, self.real] = -math.log(self.spread)
        log_prob = torch.stack([program.cell_log_prob(x, values) for program in self.programs])
        weights = torch.tensor(self.weights).to(x).log().reshape(-1, 1, 1)
        return (log_prob + weights).logsumexp(0) + slope

    def complete(self, x: Tensor, centre: Tensor, owners: list[int], seeds: Tensor, wanted: range) -> Tensor:
        """Draws the missing entries of rows.

        Arguments:
            x: Rows with shape :math:`(N, D)`.
            centre: Of their C missing entries, as :meth:`centre` has them.
            owners: Which program makes each of all draws, see :func:`allocated`.
            seeds: One seed for each row, int64, with shape :math:`(N)`.
            wanted: Which draws to make.

        Returns:
            Rows with shape :math:`(S, N, D)`.
        """
        missing = torch.isnan(x)
        out = x.expand(len(wanted), *x.shape).clone()
        for p, program in enumerate(self.programs):
            mine = [i for i, k in enumerate(wanted) if owners[k] == p]
            if mine:
                before = owners[: wanted.start].count(p)
                which = range(before, before + len(mine))
                out[mine] = program.complete(x, owners.count(p), seeds=_own(seeds, p), which=which)
        if self.spread < 1:
            drawn = out[:, missing]
            out[:, missing] = torch.where(torch.isnan(centre), drawn, centre + self.spread * (drawn - centre))
        return out


def _own(seeds: Tensor, p: int) -> Tensor:
    """Seeds of program p: with the same noise the draws of two programs would resemble each other."""
    return mix(seeds + torch.tensor(p) * WEYL)


def allocated(weights: list[float], draws: int) -> list[int]:
    """Which program makes each of some draws: as many as its weight says, to less than one, and spread evenly.

    Example:
        >>> allocated([0.5, 0.25, 0.25], 4)
        [0, 1, 2, 0]
    """
    owed = np.zeros(len(weights))
    owners = []
    for _ in range(draws):
        owed += np.asarray(weights)
        owner = int(np.argmax(owed))
        owed[owner] -= 1
        owners.append(owner)
    return owners
