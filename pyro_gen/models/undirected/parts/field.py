r"""What fields of discrete variables share: exact sums by elimination, belief propagation else, and blocks for Gibbs.

.. math:: p(x) = \frac{1}{Z} \prod_a \psi_a(x_a)

Sums over what is missing are exact where elimination of one variable after another makes no large table, on graphs of
small width: :math:`\log Z`, likelihoods of rows with missing values, and draws. All marginals at once are the gradient
of :math:`\log Z` with respect to :math:`\log \psi` (Darwiche, 2003). Where the width is too large, marginals come from
loopy belief propagation, and the result says so.

References:
    | A differential approach to inference in Bayesian networks (Darwiche, 2003)
    | https://doi.org/10.1145/765568.765570
"""

import abc
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pyro_gen._random import fork, seeded
from pyro_gen.density.energy import sample_base
from pyro_gen.models.bayesian_network.parts.elimination import Factor, draw, largest_table, log_marginal, maximise
from pyro_gen.models.undirected.parts.belief_propagation import propagate
from pyro_gen.models.undirected.parts.graph import Graph, Neighbours, neighbours
from pyro_gen.models.undirected.parts.marginals import Marginals
from pyro_gen.models.undirected.parts.samplers import BlockedGibbs, FieldSampler
from pyro_gen.program import Program

__all__ = ["DiscreteField"]

MAX_CELLS = 2**20  # of the largest table of an elimination, for each row


class DiscreteField(Program):
    """A program of discrete variables, with factors that tables can be written down for.

    Arguments:
        graph: Which variables stand in a factor together.
        levels: The number of values of each variable.
        sampler: How chains move: what :meth:`kernel` calls.
    """

    def __init__(self, graph: Graph, levels: list[int], sampler: FieldSampler | None = None) -> None:
        super().__init__()
        self.graph, self.levels = graph, levels
        self.sampler = sampler or BlockedGibbs()
        self.event_shape = graph.event_shape
        for i, block in enumerate(neighbours(graph)):
            for name, indices in zip(block._fields, block, strict=True):
                self.register_buffer(f"block_{i}_{name}", indices, persistent=False)
        self._summable: bool | None = None

    @property
    def blocks(self) -> Iterator[Neighbours]:
        """The variables of each colour, with those beside them."""
        i = 0
        while f"block_{i}_nodes" in self._buffers:
            yield Neighbours(*(self.get_buffer(f"block_{i}_{name}") for name in Neighbours._fields))
            i += 1

    @abc.abstractmethod
    def factors(self) -> list[Factor]:
        """The factors, by numbers of the variables as text: logarithms in float64, whose sum is log p + log Z."""

    @abc.abstractmethod
    def draw_block(self, block: Neighbours, x: Tensor, beta: float) -> Tensor:
        r"""Draws variables from their conditional at an inverse temperature, by the global generator.

        Arguments:
            block: The variables, with what is beside them.
            x: The values of all, with shape :math:`(n, *)`.
            beta: The inverse temperature of all but the base.

        Returns:
            New values of those of the block, with shape :math:`(n_b, *)`.
        """

    # ------------------------------------------------------------------------------------------------------------------
    # Chains

    def kernel(self, x: Tensor, missing: Tensor, beta: float, *context: Any) -> Tensor:
        """Moves missing entries by the sampler."""
        chains, rows = x.shape[:2]
        state = x.reshape(chains, rows, -1).permute(2, 0, 1).contiguous()  # (n, C, N)
        moving = missing.reshape(rows, -1).T.unsqueeze(1)  # (n, 1, N)
        return self.sampler(self, state, moving, beta).permute(1, 2, 0).reshape(x.shape)

    def chains(
        self,
        sweeps: int,
        chains: int = 64,
        *,
        burn_in: int = 0,
        thin: int = 1,
        seed: int = 0,
        start: Tensor | None = None,
    ) -> Iterator[Tensor]:
        r"""Runs Markov chains by the sampler; yields where they stand after the burn-in and every ``thin`` sweeps.

        Arguments:
            sweeps: Sweeps over all variables after the burn-in.
            chains: The number C of chains.
            burn_in: Sweeps before the first state that is yielded.
            thin: Sweeps from one state to the next.
            seed: Seeds start and moves; the caller's generators are left alone.
            start: Where the chains start, with shape :math:`(C, *event)`; by default draws of the base.

        Yields:
            States with shape :math:`(C, *event)`.
        """
        like = next(self.parameters())
        nothing = torch.full((1, *self.event_shape), torch.nan, dtype=like.dtype, device=like.device)
        missing = nothing.isnan()
        x = None if start is None else start.unsqueeze(1)
        for sweeps_left in (burn_in, *[thin] * (sweeps // thin)):
            with torch.no_grad(), seeded(seed):
                if x is None:
                    x = sample_base(self, nothing.expand(chains, *self.event_shape)).unsqueeze(1)
                for _ in range(sweeps_left):
                    x = self.kernel(x, missing, 1.0)
            yield x.squeeze(1)
            seed = fork(seed)

    # ------------------------------------------------------------------------------------------------------------------
    # Sums and draws that are exact

    @property
    def summable(self) -> bool:
        """Whether the width is small enough for sums by elimination; it is measured once."""
        if self._summable is None:
            self._summable = largest_table(self.factors(), MAX_CELLS) <= MAX_CELLS
        return self._summable

    def log_sum(self, x: Tensor, *context: Any) -> Tensor | None:
        if not self.summable:
            return None
        return torch.cat([log_marginal(f, ()).expand(rows) for f, rows in self._chunks(x)])

    def draw_missing(self, x: Tensor, draws: int, *context: Any) -> Tensor | None:
        if not self.summable:
            return None
        parts = []
        for factors, rows in self._chunks(x.repeat(draws, *(1 for _ in x.shape[1:]))):
            drawn = draw(factors, rows)
            parts.append(torch.stack([drawn[str(i)] for i in range(len(self.levels))], -1))
        return torch.cat(parts).reshape(draws, *x.shape).to(x.dtype)

    def marginals(self, x: Tensor | None = None, *, method: str = "auto") -> Marginals:
        """The probabilities of the values of each variable, and of those in each factor, given what was seen.

        Arguments:
            x: Data with shape :math:`(N, *event)` and NaN where nothing was seen; one row of which nothing was seen by
                default.
            method: ``"elimination"``, ``"belief propagation"``, or ``"auto"``: the first where the width allows it.

        Raises:
            ValueError: There is no such method, or the width is too large for it.
        """
        if method not in ("auto", "elimination", "belief propagation"):
            raise ValueError(f'marginals(method={method!r}): choose "auto", "elimination" or "belief propagation".')
        x = self._rows(x)
        if method == "belief propagation" or (method == "auto" and not self.summable):
            return propagate(self.factors(), self._evidence(x), self.levels)
        self._require_small("marginals", 'use method="belief propagation"')
        parts = []
        for factors, rows in self._chunks(x):
            with torch.enable_grad():
                leaves = [
                    f._replace(values=f.values.detach().expand(rows, *f.values.shape[1:]).clone()) for f in factors
                ]
                for leaf in leaves:
                    leaf.values.requires_grad_()
                log_z = log_marginal(leaves, ())
                grads = torch.autograd.grad(log_z.sum(), [leaf.values for leaf in leaves])
            parts.append((log_z.detach(), *grads))
        log_z, *probabilities = (torch.cat(p) for p in zip(*parts, strict=True))
        count = len(probabilities) - len(self.levels)
        return Marginals(log_z, probabilities[count:], probabilities[:count], "variable elimination", True)

    def most_probable(self, x: Tensor | None = None) -> Tensor:
        """The values of largest joint probability given what was seen, by elimination.

        Arguments:
            x: As for :meth:`marginals`.

        Returns:
            Completed rows, with shape :math:`(N, *event)`.

        Raises:
            ValueError: The width is too large.
        """
        x = self._rows(x)
        self._require_small("most_probable", "take the best of the draws of pg.sample")
        parts = []
        for factors, rows in self._chunks(x):
            found, _ = maximise(factors)
            parts.append(torch.stack([found[str(i)].expand(rows) for i in range(len(self.levels))], -1))
        return torch.cat(parts).reshape(x.shape).to(x.dtype)

    def _require_small(self, verb: str, instead: str) -> None:
        if not self.summable:
            raise ValueError(
                f"{verb}: elimination on the graph of this {type(self).__name__} makes tables of more than {MAX_CELLS} "
                f"cells: {instead}."
            )

    def _rows(self, x: Tensor | None) -> Tensor:
        if x is None:
            return next(self.parameters()).new_full((1, *self.event_shape), torch.nan)
        if x.shape[1:] != self.event_shape:
            raise ValueError(f"x has shape {tuple(x.shape)}: expected (N, {', '.join(map(str, self.event_shape))}).")
        return x

    def _evidence(self, x: Tensor) -> list[Tensor]:
        """For each variable 0 for what it can be in each row, else minus infinity, with shape (N, levels)."""
        columns = x.flatten(1).unbind(1)
        out = []
        for column, levels in zip(columns, self.levels, strict=True):
            value = column.unsqueeze(1)
            possible = value.isnan() | (value == torch.arange(levels, device=x.device))
            out.append(
                torch.zeros(possible.shape, device=x.device, dtype=torch.float64).masked_fill(~possible, -torch.inf)
            )
        return out

    def _chunks(self, x: Tensor) -> Iterator[tuple[list[Factor], int]]:
        """The factors, evidence among them, of so many rows at a time as memory has room for, and their number."""
        known = self.factors()
        for rows in x.split(max(1, MAX_CELLS // largest_table(known, MAX_CELLS))):
            yield [*known, *(Factor((str(i),), e) for i, e in enumerate(self._evidence(rows)))], len(rows)
