r"""The multivariate normal with a selection model: entries that are missing because of what they are.

.. math::
    x_n \sim \mathcal{N}(\mu, \Sigma), \qquad
    P(s_{nd} = 1 \mid x_{nd}) = \operatorname{logit}^{-1}\big(\beta_d x_{nd} - \sqrt{1 + \beta_d^2} \, \tau_d\big),
    \qquad \beta_d \sim \mathcal{N}(0, \sigma_\beta^2), \quad \tau_d \sim \mathcal{N}(0, 3^2) ,

where :math:`s_{nd} = 1` says that the entry is missing. :math:`(\mu, \Sigma)` have the prior of :class:`TableGaussian`.
Each column masks itself: high values where :math:`\beta_d > 0`, low ones where it is negative; the sign is often known.
A steep slope makes :math:`\tau_d` a threshold, no slope makes :math:`-\tau_d` the logit of the share that is missing.

**Learning** is Gibbs sampling. The missing entries of a row are drawn given the seen ones, from a normal restricted by
the mechanism,

.. math:: p(x_m \mid x_o, s) \propto \mathcal{N}(x_m; m, V) \prod_{d \in m} P(s_{nd} = 1 \mid x_{nd}) ,

by elliptical slices (:mod:`pyro_gen.models.tabular.slices`), then :math:`(\mu, \Sigma)` given complete rows, as in
:mod:`pyro_gen.models.tabular.normal`, and :math:`(\beta, \tau)` by random-walk Metropolis. New rows are completed by
the same slices, from where the mechanism lets the conditional mean be.

not-MIWAE with its best decoder, the linear one, is a normal of low rank with this selection model and point estimates.

**What the data cannot tell.** That values are missing because of what they are cannot be tested by what was seen, see
:mod:`pyro_gen.models.tabular.mnar`: what identifies the missing values here is that rows are normal, the mechanism
logistic in each column's own value, and the priors. Compare with :class:`TableGaussian`, and with shifted imputations.
Means stand up to more than intervals do: where columns are skewed, what went missing above a threshold is spread wider
than what was seen below. With breast cancer's columns masked above their means, 57% of the missing values are inside
intervals of 95%; with normal rows, as many as should be.

References:
    | Statistical Analysis with Missing Data (Little & Rubin, 2019), chapter 15
    | Sample Selection Bias as a Specification Error (Heckman, 1979)
    | not-MIWAE: Deep Generative Modelling with Missing not at Random Data (Ipsen, Mattei & Frellsen, 2021)
    | https://arxiv.org/abs/2006.12871
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_gen._random import seeded, uniforms
from pyro_gen.data.column import Column
from pyro_gen.models.tabular.gibbs import Schedule, gibbs, join
from pyro_gen.models.tabular.mechanism import THRESHOLD_SCALE, Mechanism, signed
from pyro_gen.models.tabular.normal import Normal, draw_normal, kept_normal, sample_normal
from pyro_gen.models.tabular.selected import SelectedNormal, known_signs
from pyro_gen.models.tabular.slices import elliptical_slices, given_seen, slice_randomness
from pyro_gen.models.tabular.table import KeptProgram, LearningProgress, table_model
from pyro_gen.observation import observe

__all__ = ["TableSelection"]

CHAINS, SCHEDULE = 2, Schedule(burn_in=150, kept=25, thin=6)
SLICES = 5  # of the missing entries in a sweep
LONG = 20  # slices that complete a row
MOST_ROWS = 4000  # of a longer table as many are drawn to learn from


class _State(NamedTuple):
    """Parameters of C chains."""

    normal: Normal
    mechanism: Mechanism


@table_model("multivariate normal whose columns mask themselves", paper="Heckman (1979)")
class TableSelection(KeptProgram):
    r"""Creates a multivariate normal whose columns may mask themselves (missing not at random).

    Read in the module's text what the data cannot tell. Without context the pair is that of the table alone; the
    context says what the mechanism did: 1 missing, 0 seen, NaN unknown. Learning and imputing take every missing entry
    as missing by the mechanism; columns that were complete in learning have none. :meth:`cell_log_prob` takes the
    entries that it scores as held out: the mechanism left them.

    Arguments:
        columns: The D columns, all real, as the working scale has them.
        sign: What is known of the slopes: ``"unknown"``; ``"high"`` where high values go missing, ``"low"`` where low
            ones do; or one of these for columns by name, unknown for those not named.
        strength: The scale :math:`\sigma_\beta` of the slopes' prior, in logits per unit of the working scale.

    Attributes:
        columns: The D columns.

    Raises:
        ValueError: A column is not real or unknown, or an option has no such value.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(300, 1, dtype=torch.float64) + 0.3 * torch.randn(300, 2, dtype=torch.float64)
        >>> x[:, 0] = torch.where(x[:, 0] > 0.5, torch.nan, x[:, 0])
        >>> program = TableSelection([Column("a", "real"), Column("b", "real")], sign="high").learn(x)
        >>> mean = program.cell_mean(torch.tensor([[torch.nan, 0.5]], dtype=torch.float64))
        >>> bool(mean[0, 0] > 0.6)  # an ignorable model says 0.5
        True
    """

    KINDS: ClassVar[frozenset[str]] = frozenset({"real"})

    active: Tensor
    known_sign: Tensor

    def __init__(
        self, columns: Sequence[Column], sign: str | Mapping[str, str] = "unknown", strength: float = 10.0
    ) -> None:
        super().__init__(columns)
        if not strength > 0:
            raise ValueError(f"{type(self).__name__}(strength={strength}): the scale of a prior is positive.")
        self.strength = strength
        self.register_buffer("active", torch.ones(len(columns), dtype=torch.bool))
        self.register_buffer("known_sign", torch.tensor(known_signs(type(self).__name__, columns, sign)).double())
        ones = torch.ones(1, len(columns), dtype=torch.float64)
        self.keep({**Normal.centre(ones).sites(), "slope": ones * self.known_sign, "threshold": 0 * ones})

    @classmethod
    def automatic(cls, columns: int, observed: int) -> bool:
        return False  # what it assumes, the data cannot tell: it has to be asked for

    def model(self, x: Tensor, *context: Any) -> Tensor:
        r"""The joint density of rows (N, D), what the mechanism did and parameters; returns the rows completed."""
        loc, factor = sample_normal(x, x.shape[-1])  # mu, (D,), and the precision's factor, (D, D)
        zeros = x.new_zeros(x.shape[-1])
        slope = pyro.sample("slope", dist.Normal(zeros, self.strength).to_event(1))  # beta, (D,)
        threshold = pyro.sample("threshold", dist.Normal(zeros, THRESHOLD_SCALE).to_event(1))  # tau, (D,)
        with self.plate(x):
            # The missing entries are latent: standard normal numbers, so that they can be for any pattern of holes.
            e = pyro.sample("e", dist.Normal(x.new_zeros(len(x), len(zeros)), 1.0).to_event(1))  # (N, D)
            rows = _Rows(loc, factor @ factor.mT, e)
            if context:
                s = context[0].to(x.dtype).masked_fill(~self.active, torch.nan)
                logits = Mechanism(signed(slope, self.known_sign.to(x)), threshold).logits(rows.complete(x))
                observe("missing", dist.Bernoulli(logits=logits, validate_args=False).to_event(1), s)
            return observe("x", rows, x)

    def guide(self, x: Tensor, *context: Any) -> None:
        """Deals out one of the kept draws of the posterior; for missing entries, proposes from an ignorable model."""
        super().guide(x, *context)
        with self.plate(x):
            pyro.sample("e", dist.Normal(x.new_zeros(len(x), len(self.columns)), 1.0).to_event(1))

    def learn(
        self, x: Tensor, *, seed: int = 0, progress: LearningProgress | None = None, deadline: float | None = None
    ) -> Self:
        """Learns the posterior by Gibbs sampling, see :meth:`TableProgram.learn`."""
        self.to(x.device)

        with seeded(seed), torch.no_grad():
            if len(x) > MOST_ROWS:
                x = x[torch.randperm(len(x))[:MOST_ROWS].to(x.device)]
            taken = torch.isnan(x)
            self.active.copy_(taken.any(0))
            complete, start = self._start(x)

            def sweep(state: _State) -> _State:
                nonlocal complete  # not kept: it is as long as the table
                given = given_seen(x, state.normal.loc, state.normal.precision)
                u = torch.rand(CHAINS, len(x), slice_randomness(x.shape[1], SLICES)).to(x)
                complete = elliptical_slices(complete, *given, state.mechanism.log_likelihood(taken, taken), u)
                mechanism = state.mechanism.moved(complete, taken, self.known_sign.to(x), self.strength)
                return _State(draw_normal(complete, state.normal), mechanism)

            kept = gibbs(sweep, start, SCHEDULE, progress, deadline)
        normal = Normal.join([k.normal for k in kept])
        mechanism = Mechanism(*(join(values) for values in zip(*(k.mechanism for k in kept), strict=True)))
        self.keep({**normal.sites(), **mechanism._asdict()})
        return self

    def _start(self, x: Tensor) -> tuple[Tensor, _State]:
        """Complete rows (C, N, D) and parameters: where a sign is known, a threshold at the last value that was seen,
        and the missing ones beyond it.
        """
        taken, sign = torch.isnan(x), self.known_sign.to(x)
        edge = torch.where(sign > 0, x.nan_to_num(-torch.inf).amax(0), x.nan_to_num(torch.inf).amin(0))
        edge = torch.where((sign != 0) & self.active & edge.isfinite(), edge, 0.0)
        complete = torch.where(taken, edge + 0.5 * sign * torch.rand(CHAINS, *x.shape).to(x), x)
        share = taken.to(x).mean(0).clamp(0.01, 0.99)
        slope = 2 * sign
        threshold = torch.where(sign == 0, -share.logit(), slope * edge * (1 + slope.square()).rsqrt())
        ones = x.new_ones(CHAINS, x.shape[1])
        return complete, _State(Normal.centre(ones), Mechanism(slope * ones, threshold * ones))

    # Entries given a draw of the parameters

    @property
    def randomness(self) -> int:
        return slice_randomness(len(self.columns), LONG)

    def numbers_per_row(self) -> int:
        return max(len(self.columns) ** 2, self.randomness)

    def drawn(self, rows: Tensor, s: int, u: Tensor) -> Tensor:
        return self._drawn(rows, torch.isnan(rows), s, u)[0]

    def given(self, x: Tensor) -> Iterator[tuple[SelectedNormal]]:
        return self._cells(x, torch.isnan(x))

    def scored(self, values: Tensor, cells: SelectedNormal) -> Tensor:
        return cells.log_prob(values)

    def expected(self, cells: SelectedNormal) -> Sequence[Tensor]:
        return cells.mean.unsqueeze(-1).unbind(1)

    def cell_log_prob(self, x: Tensor, values: Tensor) -> Tensor:
        """Scores entries that were held out, so that the mechanism left them, see :meth:`KeptProgram.cell_log_prob`."""
        parts = []
        for part, wanted in zip(self._parts(x), self._parts(values), strict=True):
            cells = self._cells(part, torch.isnan(part) & torch.isnan(wanted))
            found = torch.stack([self.scored(wanted, *given) for given in cells])
            parts.append(found.logsumexp(0) - math.log(len(found)))
        return torch.where(torch.isnan(values), torch.nan, torch.cat(parts))

    def _drawn(self, x: Tensor, taken: Tensor, s: int, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Mechanism]:
        """Rows completed given which entries the mechanism took, and the s-th kept draw of the parameters."""
        loc, covariance = kept_normal(self.kept, s)
        precision = torch.cholesky_inverse(torch.linalg.cholesky(covariance))
        # Where nothing was missing, nothing is known of a mechanism.
        slope, threshold = (torch.where(self.active, self.kept(name)[s], 0.0) for name in Mechanism._fields)
        mechanism = Mechanism(slope, threshold)
        mean, factor = given_seen(x, loc, precision)
        # Slices start where the mechanism is: a steep one is at its threshold.
        edge = threshold * (1 + slope.square()).sqrt() / slope.where(slope.abs() > 1, torch.nan)
        beyond = torch.where((slope > 0) == taken, torch.maximum(mean, edge), torch.minimum(mean, edge))
        start = torch.where(torch.isnan(x) & ~torch.isnan(edge), beyond, mean)
        rows = elliptical_slices(start, mean, factor, mechanism.log_likelihood(torch.isnan(x), taken), u)
        return rows, loc, precision, mechanism

    def _cells(self, x: Tensor, taken: Tensor) -> Iterator[tuple[SelectedNormal]]:
        """Each entry given all others of its row, the missing ones as drawn, for kept draws."""
        u = uniforms(torch.arange(self.num_kept, device=x.device), self.randomness)  # the same for all rows
        for s in range(self.num_kept):
            rows, loc, precision, mechanism = self._drawn(x, taken, s, u[s])
            scale = precision.diagonal().rsqrt()
            mean = rows - scale.square() * ((rows - loc) @ precision)
            sign = 2 * taken.to(x) - 1
            at_zero = mechanism.logits(torch.zeros_like(loc))
            yield (SelectedNormal(mean, scale.expand_as(mean), sign * at_zero, sign * mechanism.slope),)


class _Rows(dist.TorchDistribution):
    """Rows of a normal (D), of which missing entries are where standard normal numbers e (N, D) say."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector

    def __init__(self, loc: Tensor, precision: Tensor, e: Tensor) -> None:
        self.loc, self.precision, self.e = loc, precision, e
        super().__init__(e.shape[:-1], e.shape[-1:], validate_args=False)

    def complete(self, x: Tensor) -> Tensor:
        """Rows (N, D) with their missing entries."""
        mean, factor = given_seen(x, self.loc, self.precision)
        complete: Tensor = mean + (factor @ self.e.unsqueeze(-1)).squeeze(-1)
        return complete

    def log_prob(self, value: Tensor) -> Tensor:
        log_prob: Tensor = self.marginalise(value)[0].log_prob(value)
        return log_prob

    def marginalise(self, value: Tensor) -> tuple[Any, Tensor, Callable[[], Tensor]]:
        """What is seen, see :func:`pyro_gen.observe`: normal, with unit densities where nothing was."""
        seen = ~torch.isnan(value)
        mask = seen.unsqueeze(-1) & seen.unsqueeze(-2)
        covariance = torch.cholesky_inverse(torch.linalg.cholesky(self.precision))
        unit = torch.diag_embed((~seen).to(value) / (2 * math.pi))
        scored = dist.MultivariateNormal(self.loc * seen, torch.where(mask, covariance, unit), validate_args=False)
        return scored, value.nan_to_num(), lambda: self.complete(value)
