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

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor

from pyro_gen.data.small import binary_rows
from pyro_gen.models.bayesian_network.parts.elimination import log_marginal, maximise
from pyro_gen.models.bayesian_network.parts.graph import check_known
from pyro_gen.models.bayesian_network.parts.law import NetworkLaw
from pyro_gen.models.bayesian_network.parts.tables import Levels, TableNetwork, Value, of_rows
from pyro_gen.observation import observe
from pyro_gen.registry import model

__all__ = ["DiscreteBayesianNetwork"]


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
class DiscreteBayesianNetwork(TableNetwork):
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

    def model(self, x: Tensor) -> Tensor:
        r"""The density :math:`p(x)` of values with shape :math:`(N, D)`; returns them completed."""
        with self.plate(x):
            return observe("x", NetworkLaw(self.parents, [*self.log_tables().values()]), x)

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
        codes = self.codes(given)
        if both := [n for n in names if n in codes]:
            raise ValueError(f"query: {both[0]!r} is a target, and given: take it away from one of them.")
        joint = log_marginal(self.factors(names, codes), names)
        total = self._possible(joint.flatten(1).logsumexp(1), given)
        probabilities = (joint - total.reshape(-1, *[1] * len(names))).exp()
        return probabilities if of_rows(codes) else probabilities[0]

    def log_probability(self, given: Mapping[str, Value]) -> Tensor:
        """The log-probability in nats of what was seen, whatever the other nodes: (), or (N,) of rows; float64."""
        codes = self.codes(given)
        value = log_marginal(self.factors((), codes), ())
        return value if of_rows(codes) else value[0]

    def most_probable(self, given: Mapping[str, str | int] | None = None) -> dict[str, str]:
        """The most probable values of all nodes together given some (the most probable explanation).

        Arguments:
            given: What was seen: names of values, or their numbers.

        Raises:
            ValueError: A name is not in the network, or what is given is impossible.
        """
        codes = self.codes(given)
        found, best = maximise(self.factors(self.parents, codes))
        self._possible(best, given)
        return {n: self.levels[n][int({**found, **codes}[n])] for n in self.parents}

    def do(self, values: Mapping[str, str | int]) -> "DiscreteBayesianNetwork":
        r"""The network of the other nodes where some are set to values: :math:`p(x_{-i} \mid \mathrm{do}(x_i = v))`.

        Raises:
            ValueError: A name is not in the network, or all of its nodes are set.
        """
        codes = self.codes(values)
        parents = {n: [p for p in above if p not in codes] for n, above in self.parents.items() if n not in codes}
        tables = {}
        for name in parents:
            index = tuple(int(codes[p]) if p in codes else slice(None) for p in self.parents[name])
            tables[name] = self.tables[name].detach()[index]
        return DiscreteBayesianNetwork.from_tables(parents, tables, {n: self.levels[n] for n in parents})

    def _possible(self, log_probability: Tensor, given: Mapping[str, Value] | None) -> Tensor:
        if bool((log_probability == -torch.inf).any()):
            raise ValueError(f"What is given has probability 0 in this network: {given}.")
        return log_probability
