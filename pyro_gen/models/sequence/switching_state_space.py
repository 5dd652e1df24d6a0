r"""Switching state space: the noise of level, slope, seasons and observations depends on a hidden regime.

.. math::
    z_1 \sim \operatorname{Categorical}(\pi), \qquad
    z_t \mid z_{t-1} = i \sim \operatorname{Categorical}(A_{i \cdot}), \\
    \alpha_t = F \alpha_{t-1} + L \operatorname{diag}(s_{z_t}) \, w_t, \qquad
    y_t = m + h^\top \alpha_t + \sigma_{z_t} \epsilon_t ,

with the components of :mod:`pyro_gen.models.sequence.state_space`: a regime of great :math:`\sigma` has outliers, one
of great :math:`s_\mu` shifts of the level, and two of both are calm and turbulent times. Given the path of regimes all
is Gaussian: :math:`p(y \mid z)` is exact, a NaN is integrated out, and gaps and forecasts are drawn. The sum over
:math:`K^T` paths is exact for short series. Longer ones have the guide

.. math:: q(z \mid y) = \tilde p(z_T \mid y) \prod_{t < T} \tilde p(z_t \mid z_{t+1}, y_{1:t+1}) ,

Kim's filter, a Kalman filter for each pair of regimes in which the K Gaussians that lead to a regime become one of the
same mean and covariance. It is an approximation, and what is found with it is not: paths are weighed by
:math:`p(y, z) / q(z \mid y)`, whose mean is the likelihood, without bias, and whose spread is its error (``"iwae"`` of
:func:`pyro_gen.log_likelihood`, with effective sample size and Pareto k). The guide has no parameters of its own;
training climbs the importance-weighted bound. Beyond about a hundred steps few paths carry weight, and a filter of
particles, each with a Kalman filter (Fearnhead & Clifford, 2003), is the better estimate, without bias too.

References:
    | Dynamic linear models with Markov-switching (Kim, 1994)
    | https://doi.org/10.1016/0304-4076(94)90036-1
    | On-line inference for hidden Markov models via particle filters (Fearnhead & Clifford, 2003)
    | https://doi.org/10.1111/1467-9868.00421
"""

from collections.abc import Sequence

import pyro
import torch
from torch import Tensor, nn

from pyro_gen._errors import warn
from pyro_gen._random import seeded
from pyro_gen.data.small import normal_rows
from pyro_gen.distributions import StateSpaceSeries
from pyro_gen.inference.likelihood.result import LogLikelihood
from pyro_gen.inference.likelihood.weights import log_mean_exp
from pyro_gen.inference.objectives import ReweightedWakeSleep
from pyro_gen.models.sequence.parts.components import Components, check_components, components
from pyro_gen.models.sequence.parts.kim import kim_filter
from pyro_gen.models.sequence.parts.particle_filter import particle_filter
from pyro_gen.models.sequence.parts.paths import MarkovPath
from pyro_gen.models.sequence.parts.units import SeriesProgram
from pyro_gen.observation import note_lengths, observe
from pyro_gen.registry import model

__all__ = ["SwitchingStateSpace"]

FEWEST_PATHS = 16  # that are to count where the posterior of regimes is asked of weighed paths


@model(
    "switching linear-Gaussian state space",
    paper="Kim (1994)",
    small={
        "outliers": lambda: (SwitchingStateSpace(6, 2), normal_rows(9, 6)),
        "seasons": lambda: (SwitchingStateSpace(6, 2, ("level",), trend=True, period=3), normal_rows(9, 6)),
        "order": lambda: (SwitchingStateSpace(6, 2, ("autoregression",), level=False, order=1), normal_rows(9, 6)),
    },
)
class SwitchingStateSpace(SeriesProgram):
    r"""Creates a structural time series model whose noises switch.

    Arguments:
        event_shape: The shape of a series to generate, or its length T; series of any length are observed.
        states: The number K of regimes.
        switching: The noises that a regime has of its own: ``"noise"``, ``"level"``, ``"slope"``, ``"season"``,
            ``"autoregression"``; the rest is common.
        level, trend, period, order: The components, as of :class:`~pyro_gen.models.StateSpace`.
        loc, scale: Location m and scale of the data; without them, those of the first that it is trained on.

    Attributes:
        initial: The logits of :math:`\pi`, with shape :math:`(K)`.
        transition: The logits of A, with shape :math:`(K, K)`.
        log_scales: The logarithms of the standard deviations of the noises by name, in units of the scale, with shape
            :math:`(K)`, or :math:`(1)` where they are common.
        partial: The partial autocorrelations are its hyperbolic tangent.

    Example:
        >>> import pyro_gen as pg
        >>> nile = pg.data.load("nile").train
        >>> program = SwitchingStateSpace(100, 2, switching=("level",)).initialise(nile)
        >>> print(pg.log_likelihood(program, nile[:, :10], method="exact"))  # the sum over 1,024 paths
        log-likelihood -71.439 +- 0.000 nats per datum (exact; 1 data)
        >>> print(program.filtered_likelihood(nile))
        log-likelihood -65...
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        states: int = 2,
        switching: Sequence[str] = ("noise",),
        *,
        level: bool = True,
        trend: bool = False,
        period: int = 0,
        order: int = 0,
        loc: float | None = None,
        scale: float | None = None,
    ) -> None:
        super().__init__(event_shape, loc, scale)
        self.parts = check_components("SwitchingStateSpace", level, trend, period, order)
        names = ["noise", *self.parts]
        if states < 1 or not set(switching) <= set(names):
            given = f"SwitchingStateSpace(states={states}, switching={tuple(switching)!r})"
            raise ValueError(f"{given}: give one regime or more, and of {', '.join(names)} those that switch.")
        self.states, self.period, self.order = states, period, order
        self.initial = nn.Parameter(torch.zeros(states))
        self.transition = nn.Parameter(2.0 * torch.eye(states))
        self.log_scales = nn.ParameterDict()
        for name in names:
            spread = torch.linspace(-1.0, 1.0, states) if name in switching and states > 1 else torch.zeros(1)
            self.log_scales[name] = nn.Parameter(torch.tensor(0.5 if name == "noise" else 0.1).log() + spread)
        self.partial = nn.Parameter(torch.full((order,), 0.1)) if order else None
        self.objective = ReweightedWakeSleep(16)  # paths, whose draws need no gradient

    def matrices(self) -> tuple[Components, dict[str, Tensor]]:
        """The matrices of the components, and the standard deviations of noises by name, with shape (K)."""
        unit, partial = self.unit.double(), None if self.partial is None else self.partial.double()
        scale = {n: (unit * v.double().exp()).expand(self.states) for n, v in self.log_scales.items()}
        return components(self.parts, unit, self.period, partial), scale

    def chain(self, steps: int) -> MarkovPath:
        """The law of paths of so many steps."""
        transition = self.transition.double().log_softmax(-1)
        return MarkovPath(self.initial.double().log_softmax(-1), transition.expand(steps - 1, -1, -1))

    def series(self, z: Tensor) -> StateSpaceSeries:
        """The law of series given their regimes, with shape :math:`(*, T)`."""
        of, scale = self.matrices()
        noises = torch.stack([scale[name] for name in self.parts], -1)  # (K, noises)
        after = noises[torch.cat([z[..., 1:], z[..., -1:]], -1)]  # of the step from t to t + 1: of the regime there
        root = of.vague
        if self.partial is not None:
            root = root + of.stationary * scale["autoregression"][z[..., 0]][..., None, None]
        zero, one = self.centre.new_zeros(len(of.observation)), torch.ones_like(scale["noise"][0])
        fixed = zero, root, of.transition, of.entry, of.observation, one
        return StateSpaceSeries(*fixed, z.shape[-1], self.centre, (after, scale["noise"][z]))

    def model(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The density of series with shape :math:`(N, T)` and their regimes; returns the series completed.

        With the length of each, :math:`(N)`, as context, what is beyond the end stays NaN; else it is a forecast.
        """
        if lengths is not None:
            note_lengths(x, lengths)
        with self.plate(x):
            z = pyro.sample("z", self.chain(x.shape[1]))
            return observe("x", self.series(z), x)

    def guide(self, x: Tensor, lengths: Tensor | None = None) -> None:
        """A path of regimes, by Kim's filter."""
        with self.plate(x):
            pyro.sample("z", self.proposal(x))

    def proposal(self, x: Tensor) -> MarkovPath:
        """The guide's law of paths, for series with shape :math:`(N, T)`."""
        with torch.no_grad():
            last, before = kim_filter(x.double() - self.centre, *self._law())
        return MarkovPath(last, before, backwards=True)

    def _law(self) -> tuple[Tensor, Tensor, Components, Tensor, Tensor, Tensor]:
        """What filters take: the chain's logarithms, matrices, roots of first states, noises and scales by regime."""
        of, scale = self.matrices()
        root = of.vague.expand(self.states, -1, -1)
        if self.partial is not None:
            root = root + of.stationary * scale["autoregression"][:, None, None]
        initial, transition = self.initial.double().log_softmax(-1), self.transition.double().log_softmax(-1)
        return initial, transition, of, root, torch.stack([scale[name] for name in self.parts], -1), scale["noise"]

    def filtered_likelihood(self, x: Tensor, particles: int = 256, islands: int = 16, seed: int = 0) -> LogLikelihood:
        """The likelihood by a particle filter of regimes, for series too long to weigh whole paths.

        Arguments:
            x: Series with shape :math:`(N, T)` and NaN where nothing was seen.
            particles: How many paths are kept; where there are no more, the result is exact.
            islands: The number of independent filters, of which the mean is taken and the error told.
            seed: Seeds the draws; the caller's generators are left alone.
        """
        with torch.no_grad(), seeded(seed):
            y = (x.double() - self.centre).repeat(islands, 1)
            found = particle_filter(y, *self._law(), particles).view(islands, -1)
        seen = (~x.isnan()).double().sum(-1).mean().item()
        return LogLikelihood(*log_mean_exp(found), "stochastic lower bound", "particle filter", seen)

    def probabilities(self, x: Tensor, num_particles: int = 1000, seed: int = 0) -> Tensor:
        r"""The posterior of regimes, :math:`p(z_t = k \mid x)` with shape :math:`(N, T, K)`, by paths of the guide.

        Arguments:
            x: Series with shape :math:`(N, T)` and NaN where nothing was seen.
            num_particles: How many paths are drawn and weighed. A warning says where hardly any of them counts.
            seed: Seeds the draws; the caller's generators are left alone.
        """
        with torch.no_grad(), seeded(seed):
            q = self.proposal(x)
            z = q.sample((num_particles,))  # (draws, N, T)
            law, filled, _ = self.series(z).marginalise(x.expand(num_particles, -1, -1))
            weights = (law.log_prob(filled) + self.chain(x.shape[1]).log_prob(z) - q.log_prob(z)).softmax(0)
        if bool((count := 1 / weights.square().sum(0).min()) < FEWEST_PATHS):
            warn(
                f"probabilities: {count:.1f} of {num_particles} paths count, so they are not to be trusted: give a "
                "greater num_particles, or a shorter series."
            )
        one_hot = nn.functional.one_hot(z, self.states).to(weights)
        return torch.einsum("sn,sntk->ntk", weights, one_hot)
