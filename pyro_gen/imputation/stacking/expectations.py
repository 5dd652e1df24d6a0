"""What is to be expected of missing entries: the means of the draws, and the most probable levels.

Expectations are in closed form on the working scale. What limits, curves, atoms and rounding make of draws is added as
a mean over some.
"""

import torch
from torch import Tensor

from pyro_gen.data.column import Column
from pyro_gen.data.scaling import Scaling
from pyro_gen.data.schema import Schema
from pyro_gen.imputation.stacking.draws import NUMBERS_WORKED_ON, Draws
from pyro_gen.imputation.stacking.linear_pool import LinearPool

__all__ = ["Expectations"]

MEAN_DRAWS = 100  # by which what has no closed form is averaged


class Expectations:
    """Expectations of the missing entries of tables.

    Arguments:
        pool: The programs.
        scaling: The way to their scale.
        schema: What the columns of tables are.
    """

    def __init__(self, pool: LinearPool, scaling: Scaling, schema: Schema) -> None:
        self.pool, self.scaling, self.schema = pool, scaling, schema
        plain = [
            w.discrete or (c.kind == "count" and not c.lower) or (c == Column(c.name, "real") and w.atom is None)
            for c, w in zip(schema.columns, scaling.columns, strict=True)
        ]
        # The columns whose draws are not as the programs drew them on the line of the working scale.
        self.moved = [d for d, is_plain in enumerate(plain) if not is_plain]

    def filled(self, encoded: Tensor, seed: int) -> Tensor:
        """A table (N, D) completed by expectations, on the encoded scale; of levels by the most probable ones."""
        missing = torch.isnan(encoded)
        rows = missing.any(1).nonzero()[:, 0]
        if not len(rows):
            return encoded
        filled = encoded.clone()
        for part in rows.split(max(1, NUMBERS_WORKED_ON // encoded.shape[1])):
            filled[part] = self._in_closed_form(encoded[part])
        if bool(missing[:, self.moved].any()):
            draws = Draws(self.pool, self.scaling, encoded, MEAN_DRAWS, seed)
            moved = sum(draws.made(block, self._off_the_line).sum(0) for block in draws.blocks)
            filled[missing] += moved / MEAN_DRAWS
        return filled

    def _in_closed_form(self, part: Tensor) -> Tensor:
        """Rows completed by the working scale alone."""
        x = self.scaling.forward(self.scaling.plausible(part))
        expected = self.pool.expected(x)
        pairs = zip(self.scaling.columns, expected, strict=True)
        columns = [v.argmax(-1) if column.discrete else v[:, 0] for column, v in pairs]
        means = self._on_line(torch.stack([column.to(x) for column in columns], -1))
        for d, levels in enumerate(self.scaling.levels):
            if levels:  # numbers, so that they have a mean
                means[:, d] = expected[d].to(x) @ x.new_tensor(levels)
        return torch.where(torch.isnan(part), means, part)

    def _on_line(self, working: Tensor) -> Tensor:
        """Rows on the encoded scale, but for limits, rounding and atoms; nothing of curved columns."""
        out = self.scaling.line(working)
        out[..., self.scaling.curved] = 0.0
        return out

    def _off_the_line(self, working: Tensor) -> Tensor:
        """What of drawn rows (S, N, D) on the working scale limits, curves, atoms and rounding make more or less."""
        line, drawn, out = self._on_line(working), self.scaling.inverse(working), torch.zeros_like(working)
        for d in self.moved:
            values = self.schema.columns[d].settled(drawn[..., d].cpu().numpy())
            out[..., d] = torch.from_numpy(values).to(out) - line[..., d]
        return out
