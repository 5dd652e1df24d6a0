r"""Autoregression of order k: each step is predicted from the k before it.

.. math::
    x_t - m = \sum_{j=1}^k \phi_j (x_{t-j} - m) + \sigma \epsilon_t, \qquad
    \epsilon_t \sim \mathcal{N}(0, 1) \ \text{ or } \ \epsilon_t \sim t_\nu .

It is stationary, and a series begins in the stationary law. Its parameters are the partial autocorrelations
:math:`\rho_1, \dots, \rho_k \in (-1, 1)`, whatever they are (:mod:`pyro_gen.distributions.autoregressive`): those of
lag j given what lies between. With normal innovations missing steps are integrated out wherever they are. With
Student-t ones, which outliers do not lead astray, the first k steps are predicted with the stationary variances (times
that of t), forecasts are exact, and gaps are latent variables.

:class:`BayesianAutoregression` has priors, in units of the scale s of the data about their location,

.. math::
    \rho_j \sim \mathcal{U}(-1, 1), \qquad \sigma \sim s \, \mathcal{N}^+(0, 1), \qquad m \sim \mathcal{N}(0, (2 s)^2) ,

so that :func:`pyro_gen.log_evidence` or :func:`pyro_gen.compare` tells of the order, with gaps and from the first step
on. :func:`order_probabilities` does so in closed form: given the first K steps, an autoregression of any order up to K
is a linear regression on its lags, with the evidence of :mod:`pyro_gen.models.regression.conjugate`.

References:
    | Time Series Analysis: Forecasting and Control (Box & Jenkins, 1970)
    | https://doi.org/10.1002/9781118619193
    | On the parametrization of autoregressive models by partial autocorrelations (Barndorff-Nielsen & Schou, 1973)
    | https://doi.org/10.1016/0047-259X(73)90030-4
"""

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_gen.data.small import normal_rows
from pyro_gen.distributions.autoregressive import AutoregressiveSeries, autoregressive_coefficients
from pyro_gen.inference.guides import FullRank
from pyro_gen.models.regression.conjugate import ConjugateRegression
from pyro_gen.models.sequence.parts.units import SeriesProgram
from pyro_gen.observation import note_lengths, observe
from pyro_gen.registry import model

__all__ = ["Autoregression", "BayesianAutoregression", "order_probabilities"]


@model(
    "autoregression of order k",
    paper="Box & Jenkins (1970)",
    small={
        "normal": lambda: (Autoregression(7, 2), normal_rows(9, 7)),
        "student_t": lambda: (Autoregression(7, 2, "student_t"), normal_rows(9, 7)),
    },
)
class Autoregression(SeriesProgram):
    r"""Creates an autoregression.

    Arguments:
        event_shape: The shape of a series to generate, or its length T; series of any length are observed.
        order: The order k.
        innovations: ``"normal"`` or ``"student_t"``.

    Attributes:
        partial: The partial autocorrelations are its hyperbolic tangent, with shape :math:`(k)`.
        loc: The mean m, about that of the first data that the program is trained on, in units of their scale.
        log_scale: The logarithm of :math:`\sigma`, likewise.
        log_df: Of Student-t innovations, the logarithm of the degrees of freedom less 1.

    Raises:
        ValueError: Sizes or names are out of range.

    Example:
        >>> import pyro_gen as pg
        >>> nile = pg.data.load("nile").train
        >>> program = Autoregression(100, 1)
        >>> _ = pg.fit(program, nile, epochs=300, lr=0.05, schedule="cosine", progress=False)
        >>> print(pg.log_likelihood(program, nile))  # statsmodels: -639.9526
        log-likelihood -639.952 +- 0.000 nats per datum (exact; 1 data)
        >>> round(program.coefficients.item(), 3)
        0.506
    """

    def __init__(self, event_shape: int | Sequence[int], order: int, innovations: str = "normal") -> None:
        super().__init__(event_shape)
        if order < 1 or innovations not in ("normal", "student_t"):
            raise ValueError(
                f"Autoregression(order={order}, innovations={innovations!r}): give an order of 1 or more, and normal "
                "or student_t."
            )
        self.order = order
        self.partial = nn.Parameter(torch.full((order,), 0.1))
        self.loc = nn.Parameter(torch.zeros(()))
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.log_df = nn.Parameter(torch.tensor(4.0).log()) if innovations == "student_t" else None

    @property
    def coefficients(self) -> Tensor:
        r"""The numbers :math:`\phi_1, \dots, \phi_k`, with shape :math:`(k)`."""
        return autoregressive_coefficients(self.partial)

    def series(self, steps: int) -> AutoregressiveSeries:
        """The law of series of so many steps."""
        df = None if self.log_df is None else 1 + self.log_df.double().exp()
        loc, scale = self.centre + self.unit * self.loc, self.unit * self.log_scale.double().exp()
        return AutoregressiveSeries(loc, self.partial.double().tanh(), scale, steps, df)

    def model(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The density of series with shape :math:`(N, T)`; returns them completed.

        With the length of each, :math:`(N)`, as context, what is beyond the end stays NaN; else it is a forecast.
        """
        if lengths is not None:
            note_lengths(x, lengths)
        with self.plate(x):
            return observe("x", self.series(x.shape[1]), x)


@model(
    "autoregression with priors",
    paper="Barndorff-Nielsen & Schou (1973)",
    small={"": lambda: (BayesianAutoregression(7, 2), normal_rows(9, 7))},
)
class BayesianAutoregression(SeriesProgram):
    """Creates an autoregression with priors on all that it has; the order may be 0, for independent steps.

    Attributes:
        centre: What the prior of the mean is about: the mean of the first data.
        unit: The scale s: their standard deviation.

    Example:
        >>> import pyro_gen as pg
        >>> nile = pg.data.load("nile").train
        >>> program = BayesianAutoregression(100, 1).initialise(nile)
        >>> idata = pg.posterior(program, nile, progress=False)
        >>> bool(0.4 < idata.posterior["partial"].mean() < 0.6)
        True
    """

    def __init__(self, event_shape: int | Sequence[int], order: int) -> None:
        super().__init__(event_shape)
        if order < 0:
            raise ValueError(f"BayesianAutoregression(order={order}): give an order of 0 or more.")
        self.order = order
        self._guide = FullRank()

    def model(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The density of series with shape :math:`(N, T)` and of the parameters; returns the series completed."""
        if lengths is not None:
            note_lengths(x, lengths)
        one = torch.ones_like(self.unit)
        partial = self.unit.new_zeros(0)
        if self.order:
            bound = one.expand(self.order)
            partial = pyro.sample("partial", dist.Uniform(-bound, bound).to_event(1))
        scale = self.unit * pyro.sample("scale", dist.HalfNormal(one))
        loc = self.centre + self.unit * pyro.sample("loc", dist.Normal(0 * one, 2 * one))
        with self.plate(x):
            return observe("x", AutoregressiveSeries(loc, partial, scale, x.shape[1]), x)

    def guide(self, x: Tensor, *context: Any) -> Any:
        """A draw of the parameters."""
        return self._guide(self.model, x, *context)


def order_probabilities(x: Tensor, most: int = 8) -> Tensor:
    r"""The posterior of the order of an autoregression, given the first K steps and a uniform prior up to K.

    Weights and intercept have the prior :math:`\mathcal{N}(0, \sigma^2)` and :math:`\sigma^2` has
    :math:`\operatorname{Inv-Gamma}(2, 1)`, in units of the standard deviation of the data.

    Arguments:
        x: Series with shape :math:`(N, T)`, all of one law, without NaN.
        most: The greatest order K.

    Returns:
        The probabilities of the orders 0, ..., K, with shape :math:`(K + 1)`, in float64.

    Raises:
        ValueError: Something is missing, or the series are not longer than K.

    Example:
        >>> import pyro_gen as pg
        >>> [round(p, 2) for p in order_probabilities(pg.data.load("nile").train, 4).tolist()]
        [0.0, 0.57, 0.34, 0.08, 0.01]
    """
    if x.dim() != 2 or x.shape[1] <= most or most < 1:
        raise ValueError(
            f"order_probabilities: give series (N, T) of more than most = {most} >= 1 steps, not {tuple(x.shape)}."
        )
    if bool(x.isnan().any()):
        raise ValueError(
            "order_probabilities: the closed form takes complete series; with gaps compare the evidence of "
            "BayesianAutoregression(T, order) for each order, by pg.log_evidence."
        )
    z = (x.double() - x.double().mean()) / x.double().std()
    lags = torch.stack([z[:, most - j : z.shape[1] - j] for j in range(most + 1)], -1).flatten(0, 1)  # (n, K + 1)
    regression, within = ConjugateRegression(most, scale=1.0), torch.arange(most) < torch.arange(most + 1).unsqueeze(-1)
    evidences = [regression.log_evidence(lags[:, 0], lags[:, 1:] * row.to(lags)) for row in within]  # 0 is no covariate
    return torch.stack(evidences).softmax(0)
