r"""The columns of the mixture of factor analysers: where they are, how they are made straight, what is seen of rows."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_gen.data.column import Column
from pyro_gen.models.tabular.curves import fit_real, powers
from pyro_gen.models.tabular.warp import Warp

__all__ = ["Curves", "Layout", "Rows", "prepare"]


class Layout(NamedTuple):
    """Where in a row the columns of each kind are.

    Attributes:
        real: The real columns.
        counts: The counts.
        levels: The binary, nominal and ordinal columns.
        sizes: How many levels each of these has.
    """

    real: list[int]
    counts: list[int]
    levels: list[int]
    sizes: list[int]

    @staticmethod
    def of(columns: Sequence[Column]) -> "Layout":
        """That of some columns."""
        levels = [d for d, c in enumerate(columns) if c.discrete]
        real, counts = ([d for d, c in enumerate(columns) if c.kind == kind] for kind in ("real", "count"))
        return Layout(real, counts, levels, [len(columns[d].levels) for d in levels])


class Curves(NamedTuple):
    r"""What makes columns normal, or nearly so, where nothing is known of components.

    Attributes:
        real: The curves T of real columns.
        log_counts: Mean and scale of the logarithms of counts, with shape :math:`(2, \cdot)`.
    """

    real: Warp
    log_counts: Tensor

    @staticmethod
    def learn(x: Tensor, layout: Layout) -> "Curves":
        """Those of rows with shape :math:`(N, D)`, NaN where nothing was observed."""
        logs = (x[:, layout.counts] + 0.5).log()
        loc = logs.nanmean(0).nan_to_num()
        scale = (logs - loc).square().nanmean(0).nan_to_num(1.0).sqrt().clamp(min=0.1)
        curves = [fit_real(x[:, d][~torch.isnan(x[:, d])], [powers]) for d in layout.real]
        nothing = x.new_empty(0, 2)
        return Curves(Warp.join(curves) if curves else Warp(nothing, nothing), torch.stack([loc, scale]))


class Rows(NamedTuple):
    r"""What is seen of N rows.

    Attributes:
        real: Real columns, straightened, with shape :math:`(N, \cdot)`, NaN where missing.
        log_slope: The logarithms of the slopes of their curves, zero where missing.
        lower: Where the latent variables of counts begin; the whole line where missing.
        upper: Where they end.
        levels: One where a level is, for all levels of all columns, with shape :math:`(N, L)`; zeros where missing.
        sizes: How many levels each column has.
    """

    real: Tensor
    log_slope: Tensor
    lower: Tensor
    upper: Tensor
    levels: Tensor
    sizes: list[int]

    def by_column(self) -> tuple[Tensor, ...]:
        """The levels of each column."""
        return self.levels.split(self.sizes, 1) if self.sizes else ()


def prepare(x: Tensor, layout: Layout, curves: Curves) -> Rows:
    r"""What is seen of rows.

    Arguments:
        x: Rows with shape :math:`(N, D)`.
        layout: Where which columns are.
        curves: What makes them normal.
    """
    real, log_slope = curves.real(x[:, layout.real])
    loc, scale = curves.log_counts
    k = x[:, layout.counts]
    lower = torch.where(torch.isnan(k), -torch.inf, (k.log() - loc) / scale)
    upper = torch.where(torch.isnan(k), torch.inf, ((k + 1).log() - loc) / scale)
    chosen = [x.new_zeros(len(x), 0)]
    for d, size in zip(layout.levels, layout.sizes, strict=True):
        chosen.append((x[:, d, None] == torch.arange(size, device=x.device)).to(x))
    return Rows(real, log_slope.nan_to_num(), lower, upper, torch.cat(chosen, 1), layout.sizes)
