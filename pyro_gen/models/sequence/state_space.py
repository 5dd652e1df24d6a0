r"""Linear-Gaussian state space: a series is the sum of a level, a trend, seasons and an autoregression, and noise.

.. math::
    y_t &= \mu_t + \gamma_t + u_t + \sigma \epsilon_t \\
    \mu_{t+1} &= \mu_t + \nu_t + \sigma_\mu \epsilon^\mu_t, \qquad \nu_{t+1} = \nu_t + \sigma_\nu \epsilon^\nu_t
        && \text{(level and slope)} \\
    \gamma_{t+1} &= - \textstyle\sum_{j=0}^{s-2} \gamma_{t-j} + \sigma_\gamma \epsilon^\gamma_t
        && \text{(seasons, of period } s) \\
    u_{t+1} &= \textstyle\sum_{j=1}^{p} \phi_j u_{t+1-j} + \sigma_u \epsilon^u_t
        && \text{(stationary autoregression)}

with all :math:`\epsilon \sim \mathcal{N}(0, 1)`. The state :math:`\alpha_t = (\mu_t, \nu_t, \gamma_t, \dots, u_t,
\dots)` is integrated out exactly (:class:`pyro_gen.distributions.StateSpaceSeries`), so there is no latent variable
left: the likelihood is exact, and a NaN is integrated out with it. A forecast is what was seen with NaN behind, for
:func:`pyro_gen.predict`; gaps are filled by :func:`pyro_gen.impute`; :meth:`StateSpace.smooth` has the components.

The first level, slope and seasons are :math:`\mathcal{N}(m, (10 s)^2)` about the location m (0 for slope and seasons)
in units of the scale s of the data; the autoregression starts in its stationary law. What was seen first then has a
density like any other. The difference :math:`\log p(y_{2:T} \mid y_1) = \log p(y) - \log p(y_1)`, by
:func:`pyro_gen.log_likelihood` of the series and of the series with all but the first NaN, is what others call the
diffuse likelihood of a local level.

References:
    | Time Series Analysis by State Space Methods (Durbin & Koopman, 2012)
    | https://doi.org/10.1093/acprof:oso/9780199641178.001.0001
    | Forecasting, Structural Time Series Models and the Kalman Filter (Harvey, 1989)
    | https://doi.org/10.1017/CBO9781107049994
    | A note on enforcing stationarity in autoregressive-moving average models (Monahan, 1984)
    | https://doi.org/10.1093/biomet/71.2.403
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from pyro_gen.data.small import normal_rows
from pyro_gen.distributions import StateSpaceSeries
from pyro_gen.distributions.autoregressive import autoregressive_coefficients
from pyro_gen.observation import note_lengths, observe
from pyro_gen.program import Program
from pyro_gen.registry import model

__all__ = ["Component", "StateSpace"]

VAGUE = 10.0  # standard deviations of the data, that of the first states


class Component(NamedTuple):
    """A part of series given what was seen.

    Attributes:
        mean: With shape :math:`(N, T)`.
        sd: Its standard deviation, with shape :math:`(N, T)`.
    """

    mean: Tensor
    sd: Tensor


@model(
    "linear-Gaussian state space",
    paper="Kalman (1960), Harvey (1989)",
    small={
        "local level": lambda: (StateSpace(7), normal_rows(9, 7)),
        "trend, seasons": lambda: (StateSpace(7, trend=True, period=3), normal_rows(9, 7)),
        "autoregression": lambda: (StateSpace(7, level=False, order=2), normal_rows(9, 7)),
    },
)
class StateSpace(Program):
    r"""Creates a structural time series model.

    Arguments:
        event_shape: The shape of a series to generate, or its length T; series of any length are observed.
        level: Whether there is a level :math:`\mu_t`; without it there is none but the location.
        trend: Whether the level has a slope :math:`\nu_t`.
        period: The period :math:`s \ge 2` of the seasons, 0 for none.
        order: The order p of the autoregression, 0 for none.
        loc: The location m of the data; without it, the mean of the first that the program is trained on.
        scale: The scale s of the data; likewise their standard deviation.

    Attributes:
        log_scales: The logarithms of :math:`\sigma, \sigma_\mu, \sigma_\nu, \sigma_\gamma, \sigma_u`, of those that
            there are, in units of s.
        partial: The partial autocorrelations are its hyperbolic tangent, with shape :math:`(p)`.

    Raises:
        ValueError: Sizes are out of range, or there is nothing but noise.

    Example:
        >>> import pyro_gen as pg
        >>> nile = pg.data.load("nile").train
        >>> local_level = StateSpace(100, loc=0.0, scale=100.0).with_scales(noise=122.88, level=38.33)
        >>> first = torch.where(torch.arange(100) == 0, nile, torch.nan)
        >>> both = pg.log_likelihood(local_level, torch.cat([nile, first]).double()).value
        >>> round((both[0] - both[1]).item(), 3)  # Durbin & Koopman's variances 15099 and 1469.1
        -632.538
    """

    loc: Tensor
    scale: Tensor
    initialised: Tensor

    def __init__(
        self,
        event_shape: int | Sequence[int],
        *,
        level: bool = True,
        trend: bool = False,
        period: int = 0,
        order: int = 0,
        loc: float | None = None,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        self.event_shape = torch.Size((event_shape,) if isinstance(event_shape, int) else event_shape)
        if len(self.event_shape) != 1:
            raise ValueError(f"StateSpace: a datum is a series of T numbers, not of shape {tuple(self.event_shape)}.")
        if order < 0 or period == 1 or period < 0:
            raise ValueError(
                f"StateSpace(period={period}, order={order}): give a period of 2 or more (0 for no seasons), and an "
                "order of 1 or more (0 for no autoregression)."
            )
        if not (level or period or order) or (trend and not level):
            raise ValueError("StateSpace: give a level (a trend is one of it), a period, or an order.")
        if scale is not None and not scale > 0:
            raise ValueError(f"StateSpace(scale={scale}): a standard deviation is positive.")
        there = {"level": level, "slope": trend, "season": period > 0, "autoregression": order > 0}
        self.parts = [name for name in there if there[name]]
        self.period, self.order = period, order
        self.log_scales = nn.ParameterDict(
            {name: nn.Parameter(torch.tensor(0.5 if name == "noise" else 0.1).log()) for name in ("noise", *self.parts)}
        )
        self.partial = nn.Parameter(torch.full((order,), 0.1)) if order else None
        self.register_buffer("loc", torch.tensor(0.0 if loc is None else loc))
        self.register_buffer("scale", torch.tensor(1.0 if scale is None else scale))
        self.register_buffer("initialised", torch.tensor(loc is not None and scale is not None))

    def initialise(self, x: Tensor, *context: Any, seed: int = 0) -> Self:
        """Sets location and scale from series with shape :math:`(N, T)`, the first time only, where none were given."""
        if not self.initialised:
            seen = x[~x.isnan()]
            with torch.no_grad():
                if len(seen):
                    self.loc.copy_(seen.mean())
                if len(seen) > 1 and seen.std() > 0:
                    self.scale.copy_(seen.std())
                self.initialised.fill_(True)
        return super().initialise(x, *context, seed=seed)

    def with_scales(self, **scales: float) -> Self:
        """Sets standard deviations by name, in units of the data: noise, level, slope, season, autoregression."""
        if unknown := set(scales) - set(self.log_scales):
            raise ValueError(f"with_scales: no {', '.join(sorted(unknown))} here, but {', '.join(self.log_scales)}.")
        with torch.no_grad():
            for name, value in scales.items():
                self.log_scales[name].copy_(torch.as_tensor(value / self.scale).log())
        return self

    def series(self, steps: int) -> StateSpaceSeries:
        """The law of series of so many steps."""
        unit = self.scale.double()
        scale = {name: unit * value.double().exp() for name, value in self.log_scales.items()}
        blocks: list[tuple[Tensor, Tensor, Tensor]] = []  # root, transition and noise of each block of the state
        if "level" in scale:
            trend = "slope" in scale
            noises = torch.stack([scale[name] for name in ("level", "slope") if name in scale])
            transition = unit.new_tensor([[1.0, 1.0], [0.0, 1.0]] if trend else [[1.0]])
            blocks.append((VAGUE * unit * torch.ones_like(noises).diag(), transition, noises.diag()))
        if self.period:
            transition = _companion(-unit.new_ones(self.period - 1))
            eye = torch.eye(self.period - 1).to(transition)
            blocks.append((VAGUE * unit * eye, transition, scale["season"] * eye[:, :1]))
        if self.partial is not None:
            transition = _companion(autoregressive_coefficients(self.partial.double()))
            noise = scale["autoregression"] * torch.eye(self.order).to(transition)[:, :1]
            blocks.append((_stationary_root(transition, noise), transition, noise))
        root, transition, noise = (torch.block_diag(*parts) for parts in zip(*blocks, strict=True))
        # Every block is seen by its first entry.
        first = [torch.cat([block[1].new_ones(1), block[1].new_zeros(len(block[1]) - 1)]) for block in blocks]
        observation = torch.cat(first)
        loc = self.loc.new_zeros(len(observation))
        return StateSpaceSeries(loc, root, transition, noise, observation, scale["noise"], steps, self.loc)

    def model(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The density of series with shape :math:`(N, T)`; returns them completed.

        With the length of each, :math:`(N)`, as context, what is beyond the end stays NaN; else it is a forecast.
        """
        if lengths is not None:
            note_lengths(x, lengths)
        with self.plate(x):
            return observe("x", self.series(x.shape[1]), x)

    def smooth(self, x: Tensor) -> dict[str, Component]:
        """The components given all that was seen, by name; the level is about the location.

        Arguments:
            x: Series with shape :math:`(N, T)` and NaN where nothing was seen.
        """
        with torch.no_grad():
            mean, covariance = self.series(x.shape[1]).smooth(x)
        variance = covariance.diagonal(dim1=-2, dim2=-1)
        sizes = {"level": 1, "slope": 1, "season": self.period - 1, "autoregression": self.order}
        found, at = {}, 0
        for name in self.parts:
            shift = self.loc if name == "level" else 0.0
            found[name] = Component(mean[..., at] + shift, variance[..., at].clamp(min=0).sqrt())
            at += sizes[name]
        return found


def _companion(coefficients: Tensor) -> Tensor:
    below = torch.eye(len(coefficients)).to(coefficients)[:-1]
    return torch.cat([coefficients.unsqueeze(0), below])


def _stationary_root(transition: Tensor, noise: Tensor) -> Tensor:
    r"""A factor of the covariance of which :math:`P = F P F^\top + L L^\top`."""
    f, size = transition, len(transition)
    cov = (noise @ noise.mT).flatten()
    p = torch.linalg.solve(torch.eye(size**2).to(f) - torch.kron(f, f), cov).view(size, size)
    root: Tensor = torch.linalg.cholesky((p + p.mT) / 2)
    return root
