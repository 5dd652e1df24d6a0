r"""The joint distribution of the nodes of a discrete network, as one distribution.

With a statement for each node, a missing value would be a latent variable with a dimension of its own in every tensor,
for which large networks have too many. As one distribution the network sums what is missing out by variable
elimination, row by row: what was seen of node :math:`i` is a factor :math:`\mathbb{1}[x_i = v]`, which is 1 where it is
missing. Its completions are drawn by elimination, too, from the last variable back to the first.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_gen.models.bayesian_network.parts.elimination import Factor, draw, largest_table, log_marginal
from pyro_gen.models.bayesian_network.parts.graph import topological_order

__all__ = ["NetworkLaw"]

CELLS = 2**22  # of all rows that are summed at a time, of the largest table


class NetworkLaw(dist.TorchDistribution):
    r"""Creates the distribution of values 0, 1, ... with event shape :math:`(D,)`, a node each.

    Arguments:
        parents: The parents of each node, by name.
        log_tables: For each node, in order, :math:`\log p(x_i \mid x_{\mathrm{pa}(i)})`, (\*levels of the parents,
            levels).
        missing: Which entries of the values that are scored are missing, :math:`(*, D)`; they are summed out.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = False

    def __init__(
        self,
        parents: Mapping[str, Sequence[str]],
        log_tables: Sequence[Tensor],
        missing: Tensor | None = None,
        batch_shape: torch.Size | tuple[int, ...] = (),
    ) -> None:
        self.parents, self.log_tables, self.missing = parents, log_tables, missing
        super().__init__(torch.Size(batch_shape), torch.Size((len(parents),)), validate_args=False)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> Any:
        """Values below the number of levels of their node."""
        last = torch.tensor([t.shape[-1] - 1 for t in self.log_tables], device=self.log_tables[0].device)
        return constraints.independent(constraints.integer_interval(torch.zeros_like(last), last), 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "NetworkLaw":
        """The same distribution for each datum of a batch."""
        return NetworkLaw(self.parents, self.log_tables, self.missing, batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        r"""The log-probability in nats of what is seen of values with shape :math:`(*, D)`, :math:`(*)`."""
        lead = torch.broadcast_shapes(self.batch_shape, value.shape[:-1])
        if self.missing is None:
            return self._complete(value.long()).expand(lead)
        shape = torch.broadcast_shapes(self.missing.shape, value.shape)
        x, missing = value.expand(shape).flatten(0, -2), self.missing.expand(shape).flatten(0, -2)
        summed = [log_marginal(factors, ()).expand(rows) for factors, rows in self._chunks(x, missing)]
        return torch.cat(summed).reshape(shape[:-1]).expand(lead)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Ancestral draws, each node after its parents."""
        shape = torch.Size((*sample_shape, *self.batch_shape))
        tables = dict(zip(self.parents, self.log_tables, strict=True))
        value: dict[str, Tensor] = {}
        with torch.no_grad():
            for name in topological_order(self.parents):
                logits = tables[name][tuple(value[p] for p in self.parents[name])].expand(*shape, -1)
                value[name] = torch.distributions.Categorical(logits=logits).sample()
        return torch.stack([value[n] for n in self.parents], -1).to(self.log_tables[0].dtype)

    def marginalise(self, value: Tensor) -> tuple["NetworkLaw", Tensor, Callable[[], Tensor]]:
        """The distribution of what is seen, the values with 0 for NaN, and draws of all entries given the seen ones."""
        missing = torch.isnan(value)
        filled = value.masked_fill(missing, 0.0)

        def complete() -> Tensor:
            x, holes = filled.flatten(0, -2), missing.flatten(0, -2)
            with torch.no_grad():
                drawn = [draw(factors, rows) for factors, rows in self._chunks(x, holes)]
            columns = [torch.cat([some[n] for some in drawn]) for n in self.parents]
            return torch.stack(columns, -1).view_as(value).to(value.dtype)

        return NetworkLaw(self.parents, self.log_tables, missing, self.batch_shape), filled, complete

    def _complete(self, x: Tensor) -> Tensor:
        column = dict(zip(self.parents, x.unbind(-1), strict=True))
        return torch.stack(
            [
                table[tuple(column[n] for n in (*above, name))]
                for table, (name, above) in zip(self.log_tables, self.parents.items(), strict=True)
            ]
        ).sum(0)

    def _chunks(self, x: Tensor, missing: Tensor) -> Iterator[tuple[list[Factor], int]]:
        """The factors of so many rows at a time as memory has room for, and their number."""
        rows = max(1, CELLS // largest_table(self._factors(x[:1], missing[:1])))
        for some, holes in zip(x.split(rows), missing.split(rows), strict=True):
            yield self._factors(some, holes), len(some)

    def _factors(self, x: Tensor, missing: Tensor) -> list[Factor]:
        """The tables, and a factor for what was seen of each node in each row, (N, D)."""
        factors = []
        for i, (name, above) in enumerate(self.parents.items()):
            table = self.log_tables[i]
            possible = missing[:, i, None] | (x[:, i, None] == torch.arange(table.shape[-1], device=x.device))
            evidence = torch.zeros_like(possible, dtype=table.dtype).masked_fill(~possible, -torch.inf)
            factors += [Factor((*above, name), table.unsqueeze(0)), Factor((name,), evidence)]
        return factors
