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
from typing import Self

import torch
from torch import Tensor, nn

from pyro_gen.data.small import normal_rows
from pyro_gen.distributions import StateSpaceSeries
from pyro_gen.models.sequence.parts.components import Component, check_components, components, sizes
from pyro_gen.models.sequence.parts.units import SeriesProgram
from pyro_gen.observation import note_lengths, observe
from pyro_gen.registry import model

__all__ = ["StateSpace"]


@model(
    "linear-Gaussian state space",
    paper="Kalman (1960), Harvey (1989)",
    small={
        "local level": lambda: (StateSpace(7), normal_rows(9, 7)),
        "trend, seasons": lambda: (StateSpace(7, trend=True, period=3), normal_rows(9, 7)),
        "autoregression": lambda: (StateSpace(7, level=False, order=2), normal_rows(9, 7)),
    },
)
class StateSpace(SeriesProgram):
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
        super().__init__(event_shape, loc, scale)
        self.parts = check_components("StateSpace", level, trend, period, order)
        self.period, self.order = period, order
        self.log_scales = nn.ParameterDict(
            {name: nn.Parameter(torch.tensor(0.5 if name == "noise" else 0.1).log()) for name in ("noise", *self.parts)}
        )
        self.partial = nn.Parameter(torch.full((order,), 0.1)) if order else None

    def with_scales(self, **scales: float) -> Self:
        """Sets standard deviations by name, in units of the data: noise, level, slope, season, autoregression."""
        if unknown := set(scales) - set(self.log_scales):
            raise ValueError(f"with_scales: no {', '.join(sorted(unknown))} here, but {', '.join(self.log_scales)}.")
        with torch.no_grad():
            for name, value in scales.items():
                self.log_scales[name].copy_(torch.as_tensor(value / self.unit).log())
        return self

    def series(self, steps: int) -> StateSpaceSeries:
        """The law of series of so many steps."""
        unit = self.unit.double()
        scale = {name: unit * value.double().exp() for name, value in self.log_scales.items()}
        noise = torch.stack([scale[name] for name in self.parts])
        partial = None if self.partial is None else self.partial.double()
        of = components(self.parts, unit, self.period, partial)
        root = of.vague if partial is None else of.vague + of.stationary * scale["autoregression"]
        zero = self.centre.new_zeros(len(of.observation))
        return StateSpaceSeries(
            zero, root, of.transition, of.entry * noise, of.observation, scale["noise"], steps, self.centre
        )

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
        size, found, at = sizes(self.period, self.order), {}, 0
        for name in self.parts:
            shift = self.centre if name == "level" else 0.0
            found[name] = Component(mean[..., at] + shift, variance[..., at].clamp(min=0).sqrt())
            at += size[name]
        return found

    def forecast(self, x: Tensor, steps: int) -> Component:
        """The values of the steps to come given all that was seen: their mean and standard deviation.

        Joint draws of them are those of :func:`pyro_gen.predict` with NaN behind what was seen.

        Arguments:
            x: Series with shape :math:`(N, T)` and NaN where nothing was seen.
            steps: How many steps H to look ahead.

        Returns:
            What has shape :math:`(N, H)`.
        """
        if steps < 1:
            raise ValueError(f"forecast(steps={steps}): give one step or more.")
        with torch.no_grad():
            d = self.series(x.shape[1] + steps)
            mean, cov = d.smooth(nn.functional.pad(x, (0, steps), value=torch.nan))
            ahead = mean[:, x.shape[1] :] @ d.observation + self.centre
            variance = torch.einsum("nhij,i,j->nh", cov[:, x.shape[1] :], d.observation, d.observation)
        return Component(ahead, (variance.clamp(min=0) + d.scale.square()).sqrt())
