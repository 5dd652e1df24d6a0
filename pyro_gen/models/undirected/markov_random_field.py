r"""A Markov random field of discrete variables: a product of tables, each over a few of them; a factor graph.

.. math:: p(x) = \frac{1}{Z} \prod_a \psi_a(x_a), \qquad Z = \sum_x \prod_a \psi_a(x_a)

Two variables that stand in no factor together are independent given all others. Any undirected model of discrete data
is one of these: tables over pairs, over patches of an image, over the cliques of a graph.

The base are uniform variables, the factor has all tables and the number of states, so that the program's Z is that of
the formula. On graphs of small width everything is exact, by elimination of one variable after another: Z, marginals,
the most probable values, draws, likelihoods of rows with missing values. Else :meth:`marginals` are those of loopy
belief propagation, and say so, and Z is estimated by annealed importance sampling with blocks of Gibbs sampling:
variables of one colour of the graph have the conditional

.. math:: p(x_i = k \mid x_{-i}) \propto \prod_{a \ni i} \psi_a(x_i = k, x_{a \setminus i}) .

References:
    | Probabilistic Graphical Models (Koller & Friedman, 2009), chapters 4, 9 and 11
    | Factor graphs and the sum-product algorithm (Kschischang, Frey & Loeliger, 2001)
    | https://doi.org/10.1109/18.910572
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import pyro
import torch
from torch import Tensor, nn

from pyro_gen.data.small import level_rows
from pyro_gen.distributions import LevelCategorical
from pyro_gen.inference.objectives import Objective, PseudoLikelihood
from pyro_gen.models.bayesian_network.parts.elimination import Factor, log_marginal
from pyro_gen.models.undirected.parts.draws import draw_values
from pyro_gen.models.undirected.parts.field import DiscreteField
from pyro_gen.models.undirected.parts.graph import Graph, Neighbours
from pyro_gen.models.undirected.parts.samplers import FieldSampler
from pyro_gen.models.undirected.parts.scopes import checked_scopes, windows
from pyro_gen.observation import observe
from pyro_gen.registry import model

__all__ = ["MarkovRandomField"]


@model(
    "Markov random field",
    paper="Kschischang, Frey & Loeliger (2001)",
    small={
        "pairs in a circle": lambda: (
            MarkovRandomField([["a", "b"], ["b", "c"], ["c", "a"]], {"a": 3, "b": 3, "c": 3}),
            level_rows(3, 9, 3),
        ),
        "three at a time": lambda: (
            MarkovRandomField([["a", "b", "c"], ["c", "d"], ["d"]], {"a": 2, "b": 2, "c": 2, "d": 2}),
            level_rows(2, 9, 4),
        ),
    },
)
class MarkovRandomField(DiscreteField):
    r"""Creates a field with random tables close to uniform ones.

    Arguments:
        scopes: The names of the variables of each table; or ``{"windows": [H, W, h, w]}``, as recipes write it: all
            windows of h rows and w columns in H rows and W columns of binary variables, whose data have shape
            :math:`(N, H, W)`.
        levels: The number of values of each variable, by name, in the order of the columns of the data; their values
            are 0, 1, ..., and NaN where not seen. Left out for windows.
        sampler: How chains move, :class:`BlockedGibbs` by default.
        objective: What it is trained by, by default the pseudo-likelihood.

    Attributes:
        scopes: The names of the variables of each table, as tuples.
        logits: For each table :math:`\log \psi_a`, with a dimension for each of its variables.

    Raises:
        ValueError: A scope is empty, or names a variable twice or one without levels, or a variable is in none.

    Example:
        >>> import pyro_gen as pg
        >>> chain = MarkovRandomField.from_tables({("a", "b"): torch.tensor([[4.0, 1.0], [1.0, 4.0]])})
        >>> print(pg.log_partition(chain))  # log 10
        log Z 2.303 +- 0.000 nats (exact)
        >>> chain.query("b", given={"a": 1}).round(decimals=4).tolist()
        [0.2, 0.8]
    """

    possible: Tensor

    def __init__(
        self,
        scopes: Sequence[Sequence[str]] | Mapping[str, Sequence[int]],
        levels: Mapping[str, int] | None = None,
        *,
        sampler: FieldSampler | None = None,
        objective: Objective | None = None,
    ) -> None:
        shape = None
        if isinstance(scopes, Mapping):
            *shape, height, width = scopes["windows"]
            scopes = windows(shape[0], shape[1], height, width)
            levels = {f"{i},{j}": 2 for i, j in itertools.product(range(shape[0]), range(shape[1]))}
        if levels is None:
            raise ValueError("levels: give the number of values of each variable, by name.")
        checked = checked_scopes(scopes, levels)
        number = {name: i for i, name in enumerate(levels)}
        pairs = {tuple(sorted((number[a], number[b]))) for s in checked for a, b in itertools.combinations(s, 2)}
        edges = torch.tensor(sorted(pairs), dtype=torch.long).reshape(-1, 2)
        super().__init__(Graph(tuple(levels), edges), list(levels.values()), sampler)
        self.scopes = checked
        self.event_shape = self.event_shape if shape is None else torch.Size(shape)
        self.places = [tuple(number[name] for name in scope) for scope in checked]
        self.logits = nn.ParameterList(0.1 * torch.randn([levels[n] for n in scope]) for scope in checked)
        for i, table in enumerate(self.logits):  # zeros are kept apart: an infinite logarithm could not be trained
            self.register_buffer(f"impossible_{i}", torch.zeros_like(table, dtype=torch.bool))
        most = torch.arange(max(self.levels))
        valid = most < torch.tensor(self.levels).unsqueeze(1)
        self.register_buffer("possible", torch.zeros(valid.shape).masked_fill(~valid, -torch.inf), persistent=False)
        self.objective = objective or PseudoLikelihood()

    @classmethod
    def from_tables(cls, tables: Mapping[Sequence[str], Tensor], **options: Any) -> Self:
        r"""Creates a field with given tables :math:`\psi_a \ge 0`, by the names of their variables.

        Variables come in the order in which tables name them.

        Raises:
            ValueError: A table has as many dimensions as it has no names for, a negative number, or sizes that differ
                from those of another table.
        """
        levels: dict[str, int] = {}
        for scope, table in tables.items():
            if table.dim() != len(scope) or bool((table < 0).any()):
                raise ValueError(
                    f"The table of {', '.join(scope)} has {table.dim()} dimensions: give one for each of its "
                    "variables, and numbers of at least 0."
                )
            for name, size in zip(scope, table.shape, strict=True):
                if levels.setdefault(name, size) != size:
                    raise ValueError(f"{name!r} has {levels[name]} values in one table, and {size} in another.")
        field = cls([*tables], levels, **options)
        for i, table in enumerate(tables.values()):
            field.logits[i].data = table.clamp(min=torch.finfo(table.dtype).tiny).log()
            field.get_buffer(f"impossible_{i}").copy_(table == 0)
        return field

    def model(self, x: Tensor) -> Tensor:
        r"""The density of values 0, 1, ... with shape :math:`(N, *event)`; returns them completed by the base."""
        with self.plate(x):
            base: Any = LevelCategorical(logits=self.possible.to(x.dtype).reshape(*self.event_shape, -1))
            x = observe("x", base.to_event(len(self.event_shape)), x)
            pyro.factor("tables", self.log_product(x) + sum(map(math.log, self.levels)))  # (N,)
            return x

    def log_product(self, x: Tensor) -> Tensor:
        r""":math:`\sum_a \log \psi_a(x_a)` of values with shape :math:`(N, *event)`: shape :math:`(N,)`, in nats."""
        flat = x.reshape(*x.shape[: x.dim() - len(self.event_shape)], -1).long()
        columns = [c.clamp(max=k - 1) for c, k in zip(flat.unbind(-1), self.levels, strict=True)]
        tables = zip(self.log_tables(), self.places, strict=True)
        return torch.stack([table[tuple(columns[i] for i in places)] for table, places in tables]).sum(0)

    def log_tables(self) -> list[Tensor]:
        r""":math:`\log \psi_a` of each table, minus infinity where it was given as 0."""
        impossible = (self.get_buffer(f"impossible_{i}") for i in range(len(self.logits)))
        return [table.masked_fill(out, -torch.inf) for table, out in zip(self.logits, impossible, strict=True)]

    def factors(self) -> list[Factor]:
        named = zip(self.places, self.log_tables(), strict=True)
        return [Factor(tuple(map(str, places)), table.double().unsqueeze(0)) for places, table in named]

    def draw_block(self, block: Neighbours, x: Tensor, beta: float) -> Tensor:
        tables, values = self.log_tables(), x.long()  # (n, C, N)
        drawn = []
        for node in block.nodes.tolist():
            logits = x.new_zeros(self.levels[node], *x.shape[1:])
            for table, places in zip(tables, self.places, strict=True):
                if node in places:
                    rows = table.movedim(places.index(node), -1)[tuple(values[i] for i in places if i != node)]
                    logits = logits + beta * rows.movedim(-1, 0).reshape(len(logits), *(rows.shape[:-1] or (1, 1)))
            drawn.append(draw_values(logits))
        return torch.stack(drawn).to(x.dtype)

    def query(self, targets: str | Sequence[str], given: Mapping[str, int] | None = None) -> Tensor:
        """The joint probabilities of some variables given values of others, exact, by elimination.

        Arguments:
            targets: The name of a variable, or several.
            given: Values by name.

        Returns:
            Probabilities with a dimension for each target.

        Raises:
            ValueError: There is no such variable or value, one is asked for and given too, or the width is too
                large.
        """
        names = [targets] if isinstance(targets, str) else list(targets)
        number = {name: str(i) for i, name in enumerate(self.graph.names)}
        if unknown := [n for n in (*names, *(given or {})) if n not in number]:
            raise ValueError(f"{unknown[0]!r} is no variable of the field, which has {', '.join(map(str, number))}.")
        if twice := [n for n in names if n in (given or {})]:
            raise ValueError(f"query: {twice[0]!r} is both asked for and given.")
        for name, value in (given or {}).items():
            if not 0 <= value < (levels := self.levels[int(number[name])]):
                raise ValueError(f"query: {name!r} is given as {value}, and has the values 0 to {levels - 1}.")
        self._require_small("query", "use marginals, by belief propagation")
        codes = {number[n]: torch.tensor([value]) for n, value in (given or {}).items()}
        with torch.no_grad():
            found = log_marginal([f.given(codes) for f in self.factors()], [number[n] for n in names])[0]
        return found.flatten().softmax(0).reshape(found.shape)
