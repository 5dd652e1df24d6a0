r"""Mixed columns as numbers that a network can read: standardised features :math:`\phi` of a row.

Features are the real columns, logarithms :math:`\log(1 + n)` of counts, codes of binary and ordinal columns, and for
each level of a nominal column whether it is that one; of F features some are missing, as the columns are.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_gen.data.column import Column

__all__ = ["Features"]

KINDS = ("real", "count", "binary", "ordinal", "nominal")  # in this order


class Features(nn.Module):
    """Creates the features of columns.

    Arguments:
        columns: The D columns.

    Attributes:
        sizes: The number of columns of each kind.
        depths: The numbers of levels of the binary, the ordinal and the nominal columns.
        levels: The largest of them, 2 at least.
        order: Which columns these are, in the order of kinds, with shape (D).
        column_of: The column of each feature, with shape (F).
        nominal_at: Where the levels of nominal columns are among all of their features, with shape (M, L).
        centre, spread: What features are standardised by, with shape (F).

    Example:
        >>> features = Features([Column("town", "nominal", ("a", "b")), Column("height", "real")])
        >>> phi, seen = features(torch.tensor([[1.0, torch.nan]]))
        >>> phi.tolist(), seen.tolist()  # height; town a, town b
        ([[0.0, 0.0, 1.0]], [[False, True, True]])
    """

    order: Tensor
    column_of: Tensor
    level_of: Tensor
    nominal_at: Tensor
    centre: Tensor
    spread: Tensor

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__()
        of_kind = {kind: [d for d, c in enumerate(columns) if c.kind == kind] for kind in KINDS}
        depth = {d: len(c.levels) for d, c in enumerate(columns) if c.discrete}
        self.sizes = {kind: len(of_kind[kind]) for kind in KINDS}
        self.depths = [depth[d] for kind in KINDS[2:] for d in of_kind[kind]]
        self.levels = max([2, *self.depths])
        single = [d for kind in KINDS[:-1] for d in of_kind[kind]]
        flat = [(d, level) for d in of_kind["nominal"] for level in range(depth[d])]
        position = {cell: i for i, cell in enumerate(flat)}
        at = [[position.get((d, level), 0) for level in range(self.levels)] for d in of_kind["nominal"]]
        for name, value in (
            ("order", [d for kind in KINDS for d in of_kind[kind]]),
            ("column_of", single + [d for d, _ in flat]),
            ("level_of", [level for _, level in flat]),
            ("nominal_at", at),
        ):
            self.register_buffer(name, torch.tensor(value, dtype=torch.long), persistent=False)
        self.register_buffer("centre", torch.zeros(len(self)))
        self.register_buffer("spread", torch.ones(len(self)))

    def __len__(self) -> int:
        return len(self.column_of)

    @property
    def parts(self) -> list[int]:
        """How many features are real, counts, codes and levels."""
        sizes = [self.sizes["real"], self.sizes["count"], self.sizes["binary"] + self.sizes["ordinal"]]
        return [*sizes, len(self) - sum(sizes)]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Standardised features of rows (N, D), 0 where missing, and which were seen, each (N, F)."""
        raw = self.raw(x)
        seen = ~torch.isnan(raw)
        return ((raw - self.centre.to(raw)) / self.spread.to(raw)).masked_fill(~seen, 0.0), seen

    def raw(self, x: Tensor) -> Tensor:
        """Features of rows (N, D) before they are standardised, NaN where missing."""
        real, count, code, level = x.index_select(-1, self.column_of).split(self.parts, -1)
        hit = torch.where(torch.isnan(level), level, (level == self.level_of).to(level))
        return torch.cat([real, count.clamp(min=0.0).log1p(), code, hit], -1)

    def standardise(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Learns what to standardise by from raw features of a table (N, F): centre and spread, which it returns."""
        centre = raw.nanmean(0).nan_to_num()
        spread = (raw - centre).square().nanmean(0).sqrt().nan_to_num()
        spread = torch.where(spread > 1e-6, spread, torch.ones_like(spread))
        self.centre.copy_(centre)
        self.spread.copy_(spread)
        return centre, spread
