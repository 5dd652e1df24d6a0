r"""The multivariate normal with a selection model: entries that are missing because of what they are.

.. math::
    x_n \sim \mathcal{N}(\mu, \Sigma), \qquad
    P(s_{nd} = 1 \mid x_{nd}) = \operatorname{logit}^{-1}\big(\beta_d x_{nd} - \sqrt{1 + \beta_d^2} \, \tau_d\big),
    \qquad \beta_d \sim \mathcal{N}(0, \sigma_\beta^2), \quad \tau_d \sim \mathcal{N}(0, 3^2) ,

where :math:`s_{nd} = 1` says that the entry is missing. :math:`(\mu, \Sigma)` have the prior of :class:`TableGaussian`.
Each column masks itself: high values where :math:`\beta_d > 0`, low ones where it is negative; the sign is often known.
A steep slope makes :math:`\tau_d` a threshold, no slope makes :math:`-\tau_d` the logit of the share that is missing.

**The posterior** is sampled by Gibbs steps. One sweep:

1. the missing entries of each row given the seen ones, whose normal :math:`\mathcal{N}(m, V)` the mechanism restricts,

   .. math:: p(x_m \mid x_o, s) \propto \mathcal{N}(x_m; m, V) \, L(x_m), \qquad
       L(x_m) = \prod_{d \in m} P(s_{nd} = 1 \mid x_{nd}) ,

   by five elliptical slices: :math:`y \sim \mathcal{N}(0, V)`, a height :math:`h = u \, L(x_m)`, and points
   :math:`m + (x_m - m) \cos \vartheta + y \sin \vartheta` from ever shorter arcs until :math:`L > h`;
2. :math:`(\beta_d, \tau_d)` of each column by random-walk Metropolis on

   .. math::
       \mathcal{N}(\beta_d; 0, \sigma_\beta^2) \, \mathcal{N}(\tau_d; 0, 3^2)
       \prod_n P(s_{nd} = 1 \mid x_{nd})^{s_{nd}} \, P(s_{nd} = 0 \mid x_{nd})^{1 - s_{nd}} ;

3. :math:`\log \kappa` by random-walk Metropolis, then, given complete rows and with :math:`P = \Sigma^{-1}`,

   .. math::
       s_d &\sim \operatorname{Gamma}\big(1 + \tfrac{D + 1 + \kappa}{2}, \; 1 + \tfrac{\kappa}{2} P_{dd}\big) ; \\
       P &\sim \mathcal{W}\big(D + 1 + \kappa + N, \;
       (\kappa \operatorname{diag}(s) + \textstyle\sum_n (x_n - \mu)(x_n - \mu)^\top)^{-1}\big) ; \\
       \mu &\sim \mathcal{N}\big(V P \textstyle\sum_n x_n, \; V\big), \quad V = (N P + I / 9)^{-1} .

New rows are completed by twenty slices, from where the mechanism lets the conditional mean be.

not-MIWAE with its best decoder, the linear one, is a normal of low rank with this selection model and point estimates.

**What the data cannot tell.** That values are missing because of what they are cannot be tested by what was seen, see
:mod:`pyro_gen.models.tabular.not_miwae`: what identifies the missing values here is that rows are normal, the mechanism
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
from pyro_gen.distributions.gaussian import condition_factor
from pyro_gen.distributions.selected_normal import SelectedNormal
from pyro_gen.inference.mcmc.blocked_gibbs import FitProgress, Schedule, blocked_gibbs, join_chains
from pyro_gen.inference.mcmc.elliptical_slice import elliptical_slice, slice_uniforms
from pyro_gen.models.tabular.parts.mechanism import THRESHOLD_SCALE, Mechanism, known_signs, signed
from pyro_gen.models.tabular.parts.normal_posterior import (
    NormalParameters,
    draw_normal_parameters,
    normal_of_draw,
    sample_normal_parameters,
)
from pyro_gen.models.tabular.parts.table_program import PosteriorDrawsProgram, rows_to_fit, table_model
from pyro_gen.observation import observe

__all__ = ["TableSelection"]

CHAINS, SCHEDULE = 2, Schedule(burn_in=150, draws=25, thin=6)
SLICES_PER_SWEEP = 5  # of the missing entries in a sweep
SLICES_PER_ROW = 20  # slices that complete a row


class _State(NamedTuple):
    """Parameters of C chains."""

    normal: NormalParameters
    mechanism: Mechanism


@table_model("multivariate normal whose columns mask themselves", paper="Heckman (1979)")
class TableSelection(PosteriorDrawsProgram):
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
        >>> program = TableSelection([Column("a", "real"), Column("b", "real")], sign="high").fit_posterior(x)
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
        if not isinstance(strength, int | float) or not strength > 0:
            raise ValueError(f"{type(self).__name__}(strength={strength!r}): the scale of a prior is positive.")
        self.strength = strength
        self.register_buffer("active", torch.ones(len(columns), dtype=torch.bool))
        self.register_buffer("known_sign", torch.tensor(known_signs(type(self).__name__, columns, sign)).double())
        ones = torch.ones(1, len(columns), dtype=torch.float64)
        self.store_draws(
            {**NormalParameters.centre(ones).sites(), "slope": ones * self.known_sign, "threshold": 0 * ones}
        )

    @classmethod
    def automatic(cls, columns: int, observed: int) -> bool:
        return False  # what it assumes, the data cannot tell: it has to be asked for

    def model(self, x: Tensor, taken: Tensor | None = None) -> Tensor:
        r"""The joint density of rows (N, D), what the mechanism did and parameters; returns the rows completed."""
        loc, factor = sample_normal_parameters(x, x.shape[-1])  # mu, (D,), and the precision's factor, (D, D)
        zeros = x.new_zeros(x.shape[-1])
        slope = pyro.sample("slope", dist.Normal(zeros, self.strength).to_event(1))  # beta, (D,)
        threshold = pyro.sample("threshold", dist.Normal(zeros, THRESHOLD_SCALE).to_event(1))  # tau, (D,)
        with self.plate(x):
            # The missing entries are latent: standard normal numbers, so that they can be for any pattern of holes.
            e = pyro.sample("e", dist.Normal(x.new_zeros(len(x), len(zeros)), 1.0).to_event(1))  # (N, D)
            rows = _Rows(loc, factor @ factor.mT, e)
            if taken is not None:
                s = taken.to(x.dtype).masked_fill(~self.active, torch.nan)
                logits = Mechanism(signed(slope, self.known_sign.to(x)), threshold).logits(rows.complete(x))
                observe("missing", dist.Bernoulli(logits=logits, validate_args=False).to_event(1), s)
            return observe("x", rows, x)

    def guide(self, x: Tensor, taken: Tensor | None = None) -> None:
        """Picks a posterior draw; for missing entries, proposes from an ignorable model."""
        super().guide(x)
        with self.plate(x):
            pyro.sample("e", dist.Normal(x.new_zeros(len(x), len(self.columns)), 1.0).to_event(1))

    def fit_posterior(
        self, x: Tensor, *, seed: int = 0, progress: FitProgress | None = None, deadline: float | None = None
    ) -> Self:
        """Samples the posterior by Gibbs sampling, see :meth:`TableProgram.fit_posterior`."""
        self.to(x.device)

        with seeded(seed), torch.no_grad():
            x = rows_to_fit(x)
            taken = torch.isnan(x)
            self.active.copy_(taken.any(0))
            complete, start = self._start(x)

            def sweep(state: _State) -> _State:
                nonlocal complete  # not stored: it is as long as the table
                given = condition_factor(x, state.normal.loc, state.normal.precision)
                u = torch.rand(CHAINS, len(x), slice_uniforms(x.shape[1], SLICES_PER_SWEEP)).to(x)
                complete = elliptical_slice(complete, *given, state.mechanism.log_likelihood(taken, taken), u)
                mechanism = state.mechanism.moved(complete, taken, self.known_sign.to(x), self.strength)
                return _State(draw_normal_parameters(complete, state.normal), mechanism)

            states = blocked_gibbs(sweep, start, SCHEDULE, progress, deadline)
        normal = NormalParameters.join([k.normal for k in states])
        mechanism = Mechanism(*(join_chains(values) for values in zip(*(k.mechanism for k in states), strict=True)))
        self.store_draws({**normal.sites(), **mechanism._asdict()})
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
        return complete, _State(NormalParameters.centre(ones), Mechanism(slope * ones, threshold * ones))

    # Entries given a draw of the parameters

    @property
    def uniforms_per_row(self) -> int:
        return slice_uniforms(len(self.columns), SLICES_PER_ROW)

    def numbers_per_row(self) -> int:
        return max(len(self.columns) ** 2, self.uniforms_per_row)

    def complete_rows(self, rows: Tensor, s: int, u: Tensor) -> Tensor:
        return self._drawn(rows, torch.isnan(rows), s, u)[0]

    def conditionals(self, x: Tensor) -> Iterator[tuple[SelectedNormal]]:
        return self._cells(x, torch.isnan(x))

    def score_conditional(self, values: Tensor, cells: SelectedNormal) -> Tensor:
        return cells.log_prob(values)

    def expect_conditional(self, cells: SelectedNormal) -> Sequence[Tensor]:
        return cells.mean.unsqueeze(-1).unbind(1)

    def cell_log_prob(self, x: Tensor, values: Tensor) -> Tensor:
        """Scores entries held out, so that the mechanism left them, as :meth:`TableProgram.cell_log_prob`."""
        parts = []
        for part, wanted in zip(self._parts(x), self._parts(values), strict=True):
            cells = self._cells(part, torch.isnan(part) & torch.isnan(wanted))
            found = torch.stack([self.score_conditional(wanted, *given) for given in cells])
            parts.append(found.logsumexp(0) - math.log(len(found)))
        return torch.where(torch.isnan(values), torch.nan, torch.cat(parts))

    def _drawn(self, x: Tensor, taken: Tensor, s: int, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Mechanism]:
        """Rows completed given which entries the mechanism took, and the s-th posterior draw of the parameters."""
        loc, covariance = normal_of_draw(self.posterior_draws, s)
        precision = torch.cholesky_inverse(torch.linalg.cholesky(covariance))
        # Where nothing was missing, nothing is known of a mechanism.
        slope, threshold = (torch.where(self.active, self.posterior_draws(name)[s], 0.0) for name in Mechanism._fields)
        mechanism = Mechanism(slope, threshold)
        mean, factor = condition_factor(x, loc, precision)
        # Slices start where the mechanism is: a steep one is at its threshold.
        edge = threshold * (1 + slope.square()).sqrt() / slope.where(slope.abs() > 1, torch.nan)
        beyond = torch.where((slope > 0) == taken, torch.maximum(mean, edge), torch.minimum(mean, edge))
        start = torch.where(torch.isnan(x) & ~torch.isnan(edge), beyond, mean)
        rows = elliptical_slice(start, mean, factor, mechanism.log_likelihood(torch.isnan(x), taken), u)
        return rows, loc, precision, mechanism

    def _cells(self, x: Tensor, taken: Tensor) -> Iterator[tuple[SelectedNormal]]:
        """Each entry given all others of its row, the missing ones as drawn, for posterior draws."""
        u = uniforms(
            torch.arange(self.num_posterior_draws, device=x.device), self.uniforms_per_row
        )  # the same for all rows
        for s in range(self.num_posterior_draws):
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
        mean, factor = condition_factor(x, self.loc, self.precision)
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
