r"""Several members of a latent-variable program as the posterior of its parameters, and the imputations of them all.

Each member :math:`\theta_e` is a program :math:`p(z) \, p(x \mid z, \theta_e)` with a guide
:math:`q(z \mid x_o, \theta_e)`, and missing entries follow

.. math::
    p(x_m \mid x_o) = \frac{1}{E} \sum_e \int p(x_m \mid z, \theta_e) \, p(z \mid x_o, \theta_e) \, dz
    \approx \frac{1}{E} \sum_e \sum_l \bar w_{el} \, p(x_m \mid z_{el}, \theta_e), \qquad
    \bar w_{el} \propto \frac{p(x_o \mid z_{el}) \, p(z_{el})}{r(z_{el})}, \quad z_{el} \sim r ,

with the proposals :math:`r` of :mod:`pyro_gen.inference.adaptive_importance`, more of them where the guide is far off.

References:
    | Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles (Lakshminarayanan et al., 2017)
    | https://arxiv.org/abs/1612.01474
"""

import abc
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyro_gen._random import normals, uniforms
from pyro_gen.data.column import Column
from pyro_gen.density import row_chunks, rows_per_chunk
from pyro_gen.distributions.mixed_columns import MixedColumns
from pyro_gen.inference.adaptive_importance import importance_draws
from pyro_gen.inference.likelihood.weights import psis_khat
from pyro_gen.models.tabular.parts.table_program import TableProgram
from pyro_gen.observation import assume_missing, no_completion
from pyro_gen.program import fixed
from pyro_gen.traces import per_datum_log_prob, sample_sites, trace_side

__all__ = ["Ensemble", "Weights"]

Weights = Mapping[str, Tensor]


class Ensemble(TableProgram):
    """A program with E members, which share everything but the values of their parameters.

    As a model/guide pair it is the program of one of them, ``member``. :meth:`complete`, :meth:`cell_log_prob` and
    :meth:`cell_expected` take all.

    Arguments:
        columns: The D columns, as the working scale has them.
        latent: The number K of latent dimensions of the site ``"z"``.
        members: The number E of members.
        particles: The number L of latent draws of each member for a row, to begin with.

    Attributes:
        member: The index of the member that :meth:`model` and :meth:`guide` are of, a buffer.
        weights: The parameters, with a leading dimension E.
    """

    member: Tensor
    weights: nn.ParameterDict

    def __init__(self, columns: Sequence[Column], latent: int, members: int, particles: int) -> None:
        super().__init__(columns)
        for name, size in (("latent", latent), ("members", members), ("particles", particles)):
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{type(self).__name__}({name}={size!r}): give a positive whole number.")
        self.latent, self.members, self.particles = latent, members, particles
        self.register_buffer("member", torch.zeros((), dtype=torch.long))
        self._current: Weights | None = None

    @contextmanager
    def at(self, weights: Weights) -> Iterator[None]:
        """Inside the block, model and guide are those of a member with these parameters."""
        before, self._current = self._current, weights
        try:
            yield
        finally:
            self._current = before

    @property
    def current(self) -> Weights:
        """The parameters of the present member, by name."""
        if self._current is not None:
            return self._current
        index = self.member.reshape(1)
        return {n: p.index_select(0, index).squeeze(0) for n, p in self.weights.items()}

    # What a program has to say

    @abc.abstractmethod
    def prior(self) -> Any:
        """The prior of the latent variables of a row, of event shape (K)."""

    @abc.abstractmethod
    def posterior(self, x: Tensor, *context: Tensor) -> Any:
        """The guide's normal distribution of the latent variables of rows (N, D), of event shape (K)."""

    @abc.abstractmethod
    def cells(self, z: Tensor, x: Tensor, *context: Tensor) -> Any:
        """The distribution of entries given latent variables: a batch of shape (*, D) for z of shape (*, K)."""

    def inputs(self, x: Tensor) -> tuple[Tensor, ...]:
        """What the pair is given for rows of a table: the rows and their context."""
        return (x,)

    def scored_inputs(self, x: Tensor, values: Tensor) -> tuple[Tensor, ...]:
        """What the pair is given for rows of which some missing entries, ``values``, are to be scored."""
        return self.inputs(x)

    @abc.abstractmethod
    def numbers_per_row(self) -> int:
        """How many numbers the largest tensor has for a latent draw of a row."""

    # Imputing

    def complete(self, x: Tensor, draws: int, *, seeds: Tensor, which: range | None = None) -> Tensor:
        """Draws missing entries, the members taking turns, see :meth:`TableProgram.complete`."""
        wanted = range(draws) if which is None else which
        out = x.expand(len(wanted), *x.shape).clone()
        width = x.shape[1]
        for rows, row_x in self._incomplete(x):
            for e in range(self.members):
                mine = torch.tensor([i for i, s in enumerate(wanted) if s % self.members == e], device=x.device)
                if not len(mine):
                    continue
                size, first = len(mine), wanted[int(mine[0])] // self.members  # of the member's own draws
                for at, inputs, z, log_weight in self._weighed(e, self.inputs(row_x), seeds[rows]):
                    own = seeds[rows[at]]
                    total = log_weight.mT.softmax(-1).cumsum(-1).contiguous()  # (n, L)
                    u = uniforms(own, size, stream=2 * e + 1, first=first)
                    index = torch.searchsorted(total, u * total[:, -1:]).clamp(max=len(z) - 1)
                    picked = z[index.mT, torch.arange(len(at), device=x.device)]  # (S, n, K)
                    cells = self.cells(picked, *inputs)
                    k = cells.uniforms_per_entry
                    v = uniforms(own, size * width * k, stream=2 * e + 2, first=first * width * k)
                    value = _in_single_digits(cells.from_uniforms(v.unflatten(-1, (size, width, k)).movedim(1, 0)))
                    value = torch.where(torch.isnan(row_x[at]), value, row_x[at])
                    out[mine.unsqueeze(1), rows[at]] = value.to(out.dtype)
        return out

    def cell_log_prob(self, x: Tensor, values: Tensor) -> Tensor:
        """Scores entries one by one, see :meth:`TableProgram.cell_log_prob`."""
        asked = ~torch.isnan(values)
        out = torch.full_like(values, torch.nan)
        for rows, row_x in self._incomplete(x, asked.any(1)):
            wanted = values[rows].nan_to_num().double()
            log_prob = wanted.new_zeros(self.members, *wanted.shape)
            for e in range(self.members):
                for at, inputs, z, log_weight in self._weighed(e, self.scored_inputs(row_x, values[rows])):
                    given = self.cells(z, *inputs).log_prob(wanted[at])  # (L, n, D)
                    log_prob[e, at] = (log_weight.log_softmax(0).unsqueeze(-1) + given).logsumexp(0)
            found = log_prob.logsumexp(0) - math.log(self.members)
            out[rows] = torch.where(asked[rows], found, torch.nan).to(out.dtype)
        return out

    def cell_expected(self, x: Tensor) -> list[Tensor]:
        """Posterior means, and probabilities of levels, see :meth:`TableProgram.cell_expected`."""
        out = [
            torch.zeros(len(x), len(c.levels) if c.discrete else 1, dtype=torch.float64, device=x.device)
            for c in self.columns
        ]
        for rows, row_x in self._incomplete(x):
            for e in range(self.members):
                for at, inputs, z, log_weight in self._weighed(e, self.inputs(row_x)):
                    weight = log_weight.softmax(0) / self.members  # (L, n)
                    cells = self.cells(z, *inputs)
                    mean = (weight.unsqueeze(-1) * cells.mean).sum(0)  # (n, D)
                    found = dict(enumerate(mean.unsqueeze(-1).unbind(1)))
                    if isinstance(cells, MixedColumns) and cells.sizes[-1]:
                        probs = (weight[..., None, None] * cells.probs).sum(0)  # (n, G, L)
                        found |= zip(cells.order[-cells.sizes[-1] :].tolist(), probs.unbind(1), strict=True)
                    for d, values in found.items():
                        out[d][rows[at]] += values[:, : out[d].shape[1]]
        return [_in_single_digits(values).to(x.dtype) for values in out]

    def row_khat(self, x: Tensor) -> Tensor:
        """How far the importance weights of rows can be trusted: the largest Pareto shape among the members.

        Arguments:
            x: Rows with shape :math:`(N, D)`.

        Returns:
            The shapes k, with shape :math:`(N)`: below 0.7 they can, see
            :func:`pyro_gen.inference.likelihood.weights.psis_khat`. Rows that begin above it have had more draws, see
            :func:`.importance_draws`.
        """
        out = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for rows, row_x in self._incomplete(x, torch.ones_like(out, dtype=torch.bool)):
            for e in range(self.members):
                for at, _, _, log_weight in self._weighed(e, self.inputs(row_x)):
                    out[rows[at]] = torch.maximum(out[rows[at]], psis_khat(log_weight))
        return out

    def _incomplete(self, x: Tensor, which: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Indices and values of rows with missing entries, or of those asked for, as many as memory suits."""
        rows = (torch.isnan(x).any(1) if which is None else which).nonzero().squeeze(1)
        for chunk in row_chunks(len(rows), rows_per_chunk(self.particles * self.numbers_per_row(), x.device)):
            yield rows[chunk], x[rows[chunk]]

    def _weighed(
        self, e: int, inputs: tuple[Tensor, ...], seeds: Tensor | None = None
    ) -> Iterator[tuple[Tensor, tuple[Tensor, ...], Tensor, Tensor]]:
        """Member e's weighted draws of latent variables: which rows, their inputs, z (L, n, K), log-weights (L, n).

        Without seeds all rows have the same randomness. In double precision: BLAS sums in another order for a row
        alone, and a draw must not turn over for that.
        """
        with (
            torch.no_grad(),
            pyro.validation_enabled(False),
            self.at({n: p[e].double() for n, p in self.weights.items()}),
        ):
            inputs = (inputs[0].double(), *inputs[1:])

            def noise(rows: Tensor, first: int, last: int) -> Tensor:
                own = rows.new_zeros(1) if seeds is None else seeds[rows]
                numbers = normals(own, last * self.latent)[:, first * self.latent :]
                return torch.unflatten(numbers, 1, (last - first, self.latent)).movedim(1, 0)

            def log_joint(z: Tensor, rows: Tensor) -> Tensor:
                x, *context = (part[rows] for part in inputs)

                def one(z: Tensor) -> Tensor:
                    with no_completion(), assume_missing(True), fixed({"z": z}):
                        trace = trace_side(self, "model", x, *context)
                    return torch.stack([per_datum_log_prob(site) for site in sample_sites(trace).values()]).sum(0)

                found: Tensor = torch.vmap(one)(z)
                return found

            for draws in importance_draws(self.posterior(*inputs), self.prior(), log_joint, noise, self.particles):
                yield draws.rows, tuple(part[draws.rows] for part in inputs), draws.z, draws.log_weight


def _in_single_digits(value: Tensor) -> Tensor:
    """Drops the last digits, in which a row alone may differ from the same row in a batch."""
    return value.float().double()
