r"""Switching autoregression: mean, coefficients and noise of an autoregression depend on a hidden regime.

.. math::
    z_1 \sim \operatorname{Categorical}(\pi), \qquad
    z_t \mid z_{t-1} = i \sim \operatorname{Categorical}(A_{i \cdot}), \\
    x_t - m_{z_t} = \sum_{j=1}^k \phi_{z_t j} \, (x_{t-j} - m_{z_t}) + \sigma_{z_t} \epsilon_t, \qquad
    \epsilon_t \sim \mathcal{N}(0, 1) .

Hamilton takes each lag about the mean of its own regime, which needs :math:`K^{k+1}` states; here all are about that of
the present one, so that an intercept switches. Given the steps before it a step depends on its own regime alone, so
this is a hidden Markov model whose emissions look back, and the regimes are summed out as a product of matrices in
logarithms, multiplied as a tree,

.. math::
    p(x) = \pi^\top B_1 A B_2 \cdots A B_T \mathbf{1}, \qquad
    B_t = \operatorname{diag}_i \, p(x_t \mid x_{t-k}, \dots, x_{t-1}, z_t = i) .

The likelihood is exact. Every regime is stationary by itself, and predicts the first k steps from its own stationary
law (:mod:`pyro_gen.distributions.autoregressive`). Forecasts are exact: what is missing behind all that was seen is
integrated out and drawn. A gap feeds the next k steps of every regime, so it is a latent variable, for
:func:`pyro_gen.impute` and :func:`pyro_gen.log_likelihood`; where noise is seen beside the autoregression,
:mod:`pyro_gen.models.sequence.switching_state_space` integrates gaps out.

References:
    | A New Approach to the Economic Analysis of Nonstationary Time Series and the Business Cycle (Hamilton, 1989)
    | https://doi.org/10.2307/1912559
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_gen.data.small import normal_rows
from pyro_gen.distributions.autoregressive import AutoregressiveSeries, autoregressive_coefficients
from pyro_gen.models.sequence.parts.chains import most_likely_path, state_probabilities
from pyro_gen.models.sequence.parts.switching import SwitchingSeries
from pyro_gen.models.sequence.parts.units import SeriesProgram
from pyro_gen.observation import note_lengths, observe
from pyro_gen.registry import model

__all__ = ["SwitchingAutoregression"]


@model(
    "switching autoregression",
    paper="Hamilton (1989)",
    small={
        "": lambda: (SwitchingAutoregression(7, 2, 2), normal_rows(9, 7)),
        "common": lambda: (SwitchingAutoregression(7, 3, 1, switching=("loc",)), normal_rows(9, 7)),
    },
)
class SwitchingAutoregression(SeriesProgram):
    r"""Creates an autoregression whose parameters switch.

    Arguments:
        event_shape: The shape of a series to generate, or its length T; series of any length are observed.
        states: The number K of regimes.
        order: The order k.
        switching: What a regime has of its own, of ``"loc"``, ``"partial"`` and ``"scale"``; the rest is common.

    Attributes:
        initial: The logits of :math:`\pi`, with shape :math:`(K)`.
        transition: The logits of A, with shape :math:`(K, K)`.
        loc: The means m, about that of the first data that the program is trained on, in units of their scale; with
            shape :math:`(K)`, or :math:`(1)` where it is common.
        partial: The partial autocorrelations are its hyperbolic tangent, with shape :math:`(K, k)` or :math:`(1, k)`.
        log_scale: The logarithms of :math:`\sigma`, with shape :math:`(K)` or :math:`(1)`, in these units.

    Raises:
        ValueError: Sizes or names are out of range.

    Example:
        >>> import pyro_gen as pg
        >>> nile = pg.data.load("nile").train
        >>> program = SwitchingAutoregression(100, 2, 1, switching=("loc",))
        >>> _ = pg.fit(program, nile, epochs=300, lr=0.05, schedule="cosine", progress=False)
        >>> high = program.probabilities(nile)[0, :, 1]
        >>> 1871 + int((high < 0.5).double().argmax())  # the first year of the dry regime
        1899
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        states: int,
        order: int,
        *,
        switching: Sequence[str] = ("loc", "partial", "scale"),
    ) -> None:
        super().__init__(event_shape)
        if states < 1 or order < 1 or not set(switching) <= {"loc", "partial", "scale"}:
            raise ValueError(
                f"SwitchingAutoregression(states={states}, order={order}, switching={tuple(switching)!r}): give one "
                "regime or more, an order of 1 or more, and of loc, partial and scale those that switch."
            )
        each = {name: states if name in switching else 1 for name in ("loc", "partial", "scale")}
        self.states, self.order = states, order
        self.initial = nn.Parameter(torch.zeros(states))
        self.transition = nn.Parameter(2.0 * torch.eye(states))
        spread = torch.linspace(-1.0, 1.0, each["loc"]) if each["loc"] > 1 else torch.zeros(1)
        self.loc = nn.Parameter(spread)
        self.partial = nn.Parameter(torch.full((each["partial"], order), 0.1))
        scales = torch.linspace(-0.5, 0.5, each["scale"]) if each["scale"] > 1 else torch.zeros(1)
        self.log_scale = nn.Parameter(scales)

    @property
    def coefficients(self) -> Tensor:
        r"""The numbers :math:`\phi`, with shape :math:`(K, k)`, or :math:`(1, k)` where they are common."""
        return autoregressive_coefficients(self.partial)

    def series(self, steps: int) -> SwitchingSeries:
        """The law of series of so many steps."""
        loc, scale = self.centre + self.unit * self.loc.double(), self.unit * self.log_scale.double().exp()
        partial, k = self.partial.double().tanh(), self.states
        regimes = AutoregressiveSeries(loc.expand(k), partial.expand(k, -1), scale.expand(k), steps)
        regimes.dtype = self.loc.dtype
        initial, transition = self.initial.double().log_softmax(-1), self.transition.double().log_softmax(-1)
        return SwitchingSeries(initial, transition, regimes)

    def model(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The density of series with shape :math:`(N, T)`; returns them completed.

        With the length of each, :math:`(N)`, as context, what is beyond the end stays NaN; else it is a forecast.
        """
        if lengths is not None:
            note_lengths(x, lengths)
        with self.plate(x):
            return observe("x", self.series(x.shape[1]), x)

    def probabilities(self, x: Tensor) -> Tensor:
        r"""The posterior of regimes, :math:`p(z_t = i \mid x)`.

        Arguments:
            x: Series with shape :math:`(N, T)`, and NaN behind what was seen.

        Returns:
            Probabilities with shape :math:`(N, T, K)`, in float64.
        """
        return state_probabilities(*self._scored(x))

    def viterbi(self, x: Tensor) -> Tensor:
        """The most likely path of regimes, as integers with shape :math:`(N, T)`; arguments as above."""
        return most_likely_path(*self._scored(x))

    def _scored(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            scored, filled, _ = self.series(x.shape[1]).marginalise(x)
            return scored.initial, scored.transition, scored.observed(filled, scored.seen)
