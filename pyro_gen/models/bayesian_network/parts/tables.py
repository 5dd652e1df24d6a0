r"""The tables of a discrete network: one for each node, with a dimension for each of its parents and its own last."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from pyro_gen.data.bif import network_file, read_bif
from pyro_gen.models.bayesian_network.parts.elimination import Factor
from pyro_gen.models.bayesian_network.parts.graph import ancestors, check_graph, check_known
from pyro_gen.program import Program

__all__ = ["Levels", "TableNetwork", "Value", "of_rows"]

Value = str | int | Tensor
Levels = Mapping[str, int | Sequence[str]]


class TableNetwork(Program):
    r"""A graph, the names of the values of its nodes, and their tables as unnormalised logarithms.

    Arguments:
        parents: The parents of each node, by name; data have a column for each node, in this order.
        levels: For each node the number of its values, or their names. In data they are 0, 1, ... and NaN.

    Raises:
        ValueError: The graph has a circle or names that it does not have, or a node has no levels.
    """

    def __init__(self, parents: Mapping[str, Sequence[str]], levels: Levels) -> None:
        super().__init__()
        self.parents = check_graph(parents)
        check_known("levels", levels, self.parents)
        self.levels = {name: _level_names(name, levels.get(name)) for name in self.parents}
        self.event_shape = torch.Size((len(self.parents),))
        shapes = [[len(self.levels[n]) for n in (*above, name)] for name, above in self.parents.items()]
        self.logits = nn.ParameterList(0.1 * torch.randn(shape) for shape in shapes)
        for i, shape in enumerate(shapes):  # zeros are kept apart: an infinite logarithm could not be trained
            self.register_buffer(f"impossible_{i}", torch.zeros(shape, dtype=torch.bool))

    @classmethod
    def from_tables(
        cls, parents: Mapping[str, Sequence[str]], tables: Mapping[str, Tensor], levels: Levels | None = None
    ) -> Self:
        r"""Creates a network with given tables.

        Arguments:
            parents: As in the constructor.
            tables: The conditional probabilities of each node, with a dimension for each of its parents in order, its
                own last: (\*levels of the parents, levels). The network has their dtype.
            levels: As in the constructor; 0, 1, ... if not given.

        Raises:
            ValueError: A table is lost, has another shape, or rows that are no probabilities (sums off by over 1e-6).
        """
        sizes = {name: table.shape[-1] for name, table in tables.items()}
        network = cls(parents, sizes if levels is None else levels)
        for i, (name, above) in enumerate(network.parents.items()):
            logits = network.logits[i]
            table = tables.get(name)
            if table is None or table.shape != logits.shape:
                raise ValueError(
                    f"The table of {name!r} is to have a dimension for each of {', '.join((*above, name))}, "
                    f"{tuple(logits.shape)}, and has {None if table is None else tuple(table.shape)}."
                )
            if not (bool((table >= 0).all()) and bool(((table.sum(-1) - 1).abs() < 1e-6).all())):
                raise ValueError(
                    f"The table of {name!r} is to have probabilities that sum to 1 along its last dimension."
                )
            logits.data = table.clamp(min=torch.finfo(table.dtype).tiny).log()
            network.get_buffer(f"impossible_{i}").copy_(table == 0)
        return network.to(network.logits[0].device)

    @classmethod
    def from_bif(cls, source: str | os.PathLike[str]) -> Self:
        """Creates a network from a file with the suffix ``.bif``, or a published one; its tables are float64.

        Arguments:
            source: The path of the file, or ``"asia"``, ``"sachs"``, ``"insurance"``.

        Raises:
            ValueError: There is no such network, or the file is not one.
        """
        parents, levels, tables = read_bif(source if str(source).endswith(".bif") else network_file(str(source)))
        return cls.from_tables(parents, tables, levels)

    @property
    def tables(self) -> dict[str, Tensor]:
        r"""The conditional probabilities of each node, (\*levels of the parents, levels)."""
        return {n: table.exp() for n, table in self.log_tables().items()}

    def code(self, name: str, value: Value) -> Tensor:
        """Values of a node as numbers 0, 1, ..., int64, with shape (1,) or (N,).

        Raises:
            ValueError: They are no values of the node.
        """
        levels = self.levels[name]
        if isinstance(value, str):
            if value not in levels:
                raise ValueError(f"{value!r} is no value of {name!r}, which has {', '.join(levels)}.")
            value = levels.index(value)
        codes = torch.as_tensor(value, device=self.logits[0].device).reshape(-1)
        if bad := codes[~torch.isin(codes, torch.arange(len(levels), device=codes.device))].tolist():
            raise ValueError(
                f"{bad[0]} is no value of {name!r}: expected 0 to {len(levels) - 1} ({', '.join(levels)})."
            )
        return codes.long()

    def log_tables(self) -> dict[str, Tensor]:
        r"""The logarithms :math:`\log \theta_i` by node, in the shapes of the tables, minus infinity for zeros."""
        cells = ((logits, self.get_buffer(f"impossible_{i}")) for i, logits in enumerate(self.logits))
        masked = (logits.masked_fill(impossible, -torch.inf).log_softmax(-1) for logits, impossible in cells)
        return dict(zip(self.parents, masked, strict=True))

    def codes(self, given: Mapping[str, Value] | None) -> dict[str, Tensor]:
        """What was seen as numbers, by name, each with shape (1,) or (N,)."""
        check_known("given", given or {}, self.parents)
        return {name: self.code(name, value) for name, value in (given or {}).items()}

    def factors(self, names: Iterable[str], codes: Mapping[str, Tensor]) -> list[Factor]:
        """The tables at what is known, of the nodes that matter: what is below all that is asked or seen sums to 1."""
        relevant = ancestors(self.parents, (*names, *codes))
        tables = {n: t.detach().double().unsqueeze(0) for n, t in self.log_tables().items() if n in relevant}
        one = Factor((), torch.zeros(1, dtype=torch.float64, device=self.logits[0].device))
        return [one, *(Factor((*self.parents[n], n), table).given(codes) for n, table in tables.items())]


def _level_names(name: str, levels: int | Sequence[str] | None) -> tuple[str, ...]:
    names = tuple(map(str, range(levels))) if isinstance(levels, int) else tuple(levels or ())
    if not names or len(set(names)) < len(names):
        raise ValueError(f"levels of {name!r}: expected the number of its values or their names, got {levels!r}.")
    return names


def of_rows(codes: Mapping[str, Tensor]) -> bool:
    """Whether something was seen of several rows."""
    return any(len(c) > 1 for c in codes.values())
