r"""A discrete Bayesian network: a table of conditional probabilities at each node of a directed acyclic graph.

.. math:: p(x_1, \ldots, x_D) = \prod_i p(x_i \mid x_{\mathrm{pa}(i)}) = \prod_i \theta_{i, x_{\mathrm{pa}(i)}, x_i}

Missing values are summed out, whatever they feed: a program of such nodes needs no guide. The closed form for complete
data is the posterior mean under a Dirichlet prior of equivalent sample size :math:`\alpha` (uniform over the cells of a
table, as in the BDeu score), with counts :math:`N_{iju}` of value :math:`u` where the parents are in state :math:`j`,

.. math:: \theta_{iju} = \frac{N_{iju} + \alpha / (q_i r_i)}{\sum_u N_{iju} + \alpha / q_i},

for :math:`q_i` states of the parents and :math:`r_i` values; with missing values :func:`pyro_gen.fit` finds the maximum
of the likelihood. Queries are exact, by variable elimination. An intervention :math:`\mathrm{do}(x_i = v)` takes the
factor of :math:`x_i` away and sets it in the others (the truncated factorisation),

.. math:: p(x_{-i} \mid \mathrm{do}(x_i = v)) = \prod_{k \ne i} p(x_k \mid x_{\mathrm{pa}(k)}) \Big|_{x_i = v} .

References:
    | Local computations with probabilities on graphical structures (Lauritzen & Spiegelhalter, 1988)
    | https://doi.org/10.1111/j.2517-6161.1988.tb01721.x
    | Learning Bayesian networks: the combination of knowledge and statistical data (Heckerman et al., 1995)
    | https://doi.org/10.1007/BF00994016
    | Causality (Pearl, 2009), section 3.2
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from pyro_gen.data.bif import network_file, read_bif
from pyro_gen.data.small import binary_rows
from pyro_gen.models.bayesian_network.parts.elimination import Factor, log_marginal, maximise
from pyro_gen.models.bayesian_network.parts.graph import ancestors, check_graph, check_known
from pyro_gen.models.bayesian_network.parts.law import NetworkLaw
from pyro_gen.observation import observe
from pyro_gen.program import Program
from pyro_gen.registry import model

__all__ = ["DiscreteBayesianNetwork"]

Value = str | int | Tensor
Levels = Mapping[str, int | Sequence[str]]


@model(
    "discrete Bayesian network",
    paper="Lauritzen & Spiegelhalter (1988)",
    small={
        "collider": lambda: (
            DiscreteBayesianNetwork({"a": [], "b": [], "c": ["a", "b"]}, {"a": 2, "b": 2, "c": 2}),
            binary_rows(9, 3),
        ),
    },
)
class DiscreteBayesianNetwork(Program):
    r"""Creates a network with random tables close to uniform ones.

    Arguments:
        parents: The parents of each node, by name; data have a column for each node, in this order.
        levels: For each node the number of its values, or their names. In data they are 0, 1, ... and NaN.

    Attributes:
        parents: The parents of each node, as tuples.
        levels: The names of the values of each node.
        logits: For each node, in order, unnormalised :math:`\log \theta_i`, (\*levels of the parents, levels). Where
            given tables are 0, noted in buffers ``impossible_0``, ..., they stay so in training.

    Raises:
        ValueError: The graph has a circle or names that it does not have, or a node has no levels.

    Example:
        >>> asia = DiscreteBayesianNetwork.from_bif("asia")
        >>> asia.query("lung", given={"xray": "yes", "smoke": "no"}).round(decimals=4)
        tensor([0.1423, 0.8577], dtype=torch.float64)
        >>> asia.most_probable(given={"dysp": "yes"})["bronc"]
        'yes'
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

    @classmethod
    def from_data(
        cls, x: Tensor, parents: Mapping[str, Sequence[str]], levels: Levels, equivalent_sample_size: float = 1.0
    ) -> Self:
        r"""Creates a network with the posterior mean of its tables given complete data.

        Arguments:
            x: Values 0, 1, ..., with shape :math:`(N, D)`, a column for each node.
            parents: As in the constructor.
            levels: As in the constructor.
            equivalent_sample_size: The weight :math:`\alpha > 0` of the Dirichlet prior, in rows.

        Raises:
            ValueError: Values are missing or no levels, or the weight is not positive.
        """
        network = cls(parents, levels)
        if not equivalent_sample_size > 0:
            raise ValueError(f"equivalent_sample_size={equivalent_sample_size}: give a number over 0.")
        if x.dim() != 2 or x.shape[1] != len(network.parents) or bool(x.isnan().any()):
            raise ValueError(
                f"from_data: expected a complete (N, {len(network.parents)}) matrix, got {tuple(x.shape)}; with "
                "missing values, train by pg.fit instead."
            )
        codes = {n: network.code(n, column) for n, column in zip(network.parents, x.cpu().T, strict=True)}
        dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        for logits, (name, above) in zip(network.logits, network.parents.items(), strict=True):
            counts = torch.zeros(logits.shape, dtype=torch.float64)
            index = tuple(codes[n] for n in (*above, name))
            counts.index_put_(index, torch.ones(len(x), dtype=torch.float64), accumulate=True)
            counts += equivalent_sample_size / counts.numel()
            logits.data = (counts / counts.sum(-1, keepdim=True)).log().to(x.device, dtype)
        return network.to(x.device)

    def model(self, x: Tensor, *context: Any) -> Tensor:
        r"""The density :math:`p(x)` of values with shape :math:`(N, D)`; returns them completed."""
        with self.plate(x):
            return observe("x", NetworkLaw(self.parents, [*self._log_tables().values()]), x)

    @property
    def tables(self) -> dict[str, Tensor]:
        r"""The conditional probabilities of each node, (\*levels of the parents, levels)."""
        return {n: table.exp() for n, table in self._log_tables().items()}

    def query(
        self,
        targets: str | Sequence[str],
        given: Mapping[str, Value] | None = None,
        do: Mapping[str, str | int] | None = None,
    ) -> Tensor:
        r"""The probabilities of some nodes given others: exact, by variable elimination.

        Arguments:
            targets: The name of a node, or several.
            given: What was seen: the name of a value, its number, or numbers of N rows at once, (N,).
            do: Values set by intervention, see :meth:`do`.

        Returns:
            Probabilities in float64, (\*levels of the targets), of N rows (N, \*levels).

        Raises:
            ValueError: A name is not in the network, a target is among what is given, or what is given is impossible.
        """
        if do:
            return self.do(do).query(targets, given)
        names = [targets] if isinstance(targets, str) else list(targets)
        check_known("query", names, self.parents)
        codes = self._codes(given)
        if both := [n for n in names if n in codes]:
            raise ValueError(f"query: {both[0]!r} is a target, and given: take it away from one of them.")
        joint = log_marginal(self._factors(names, codes), names)
        total = self._possible(joint.flatten(1).logsumexp(1), given)
        probabilities = (joint - total.reshape(-1, *[1] * len(names))).exp()
        return probabilities if _of_rows(codes) else probabilities[0]

    def log_probability(self, given: Mapping[str, Value]) -> Tensor:
        """The log-probability in nats of what was seen, whatever the other nodes: (), or (N,) of rows; float64."""
        codes = self._codes(given)
        value = log_marginal(self._factors((), codes), ())
        return value if _of_rows(codes) else value[0]

    def most_probable(self, given: Mapping[str, str | int] | None = None) -> dict[str, str]:
        """The most probable values of all nodes together given some (the most probable explanation).

        Arguments:
            given: What was seen: names of values, or their numbers.

        Raises:
            ValueError: A name is not in the network, or what is given is impossible.
        """
        codes = self._codes(given)
        found, best = maximise(self._factors(self.parents, codes))
        self._possible(best, given)
        return {n: self.levels[n][int({**found, **codes}[n])] for n in self.parents}

    def do(self, values: Mapping[str, str | int]) -> "DiscreteBayesianNetwork":
        r"""The network of the other nodes where some are set to values: :math:`p(x_{-i} \mid \mathrm{do}(x_i = v))`.

        Raises:
            ValueError: A name is not in the network, or all of its nodes are set.
        """
        codes = self._codes(values)
        parents = {n: [p for p in above if p not in codes] for n, above in self.parents.items() if n not in codes}
        tables = {}
        for name in parents:
            index = tuple(int(codes[p]) if p in codes else slice(None) for p in self.parents[name])
            tables[name] = self.tables[name].detach()[index]
        return DiscreteBayesianNetwork.from_tables(parents, tables, {n: self.levels[n] for n in parents})

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

    def _log_tables(self) -> dict[str, Tensor]:
        cells = ((logits, self.get_buffer(f"impossible_{i}")) for i, logits in enumerate(self.logits))
        masked = (logits.masked_fill(impossible, -torch.inf).log_softmax(-1) for logits, impossible in cells)
        return dict(zip(self.parents, masked, strict=True))

    def _codes(self, given: Mapping[str, Value] | None) -> dict[str, Tensor]:
        check_known("given", given or {}, self.parents)
        return {name: self.code(name, value) for name, value in (given or {}).items()}

    def _factors(self, names: Iterable[str], codes: Mapping[str, Tensor]) -> list[Factor]:
        """The tables at what is known, of the nodes that matter: what is below all that is asked or seen sums to 1."""
        relevant = ancestors(self.parents, (*names, *codes))
        tables = {n: t.detach().double().unsqueeze(0) for n, t in self._log_tables().items() if n in relevant}
        one = Factor((), torch.zeros(1, dtype=torch.float64, device=self.logits[0].device))
        return [one, *(Factor((*self.parents[n], n), table).given(codes) for n, table in tables.items())]

    def _possible(self, log_probability: Tensor, given: Mapping[str, Value] | None) -> Tensor:
        if bool((log_probability == -torch.inf).any()):
            raise ValueError(f"What is given has probability 0 in this network: {given}.")
        return log_probability


def _of_rows(codes: Mapping[str, Tensor]) -> bool:
    return any(len(c) > 1 for c in codes.values())


def _level_names(name: str, levels: int | Sequence[str] | None) -> tuple[str, ...]:
    names = tuple(map(str, range(levels))) if isinstance(levels, int) else tuple(levels or ())
    if not names or len(set(names)) < len(names):
        raise ValueError(f"levels of {name!r}: expected the number of its values or their names, got {levels!r}.")
    return names
