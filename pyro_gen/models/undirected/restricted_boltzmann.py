r"""The restricted Boltzmann machine: visible and hidden units, with weights between the two kinds alone.

With features :math:`\phi(v)` of the visible units, :math:`v - \mu` of binary ones, hidden units
:math:`h_j = \pm \tfrac{1}{2}` and a base :math:`p_0(v)` of independent units,

.. math:: p(v, h) = \frac{1}{Z} \, p_0(v) \exp \big( a^\top \phi(v) + b^\top h + \phi(v)^\top W h \big) .

Given one side the units of the other are independent, so that a whole side is drawn at once (blocked Gibbs):
:math:`p(h_j = \tfrac{1}{2} \mid v) = \sigma(u_j)` with :math:`u = b + W^\top \phi(v)`, and v from the base tilted by
:math:`a + W h`. The hidden units are summed out of the density of the data, a product of experts,

.. math:: p(v) = \frac{1}{Z} \, p_0(v) \, e^{a^\top \phi(v)} \prod_j 2 \cosh (u_j / 2) .

Units 0 and 1 on both sides, as most papers have them, are the same family with other biases; around their means
gradients behave better (the centring trick). The base is the product of the margins of the data. Annealing scales a, b
and W with :math:`\beta` and sums the hidden units out at each temperature (Salakhutdinov & Murray, 2008).

Up to 20 hidden units everything is exact, by the sum over their states: Z, likelihoods of rows with missing values,
draws. Training is by persistent contrastive divergence.

References:
    | Information Processing in Dynamical Systems: Foundations of Harmony Theory (Smolensky, 1986)
    | Training Restricted Boltzmann Machines using Approximations to the Likelihood Gradient (Tieleman, 2008)
    | https://doi.org/10.1145/1390156.1390290
    | Deep Boltzmann Machines and the Centering Trick (Montavon & Müller, 2012)
    | https://doi.org/10.1007/978-3-642-35289-8_33
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import pyro
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_gen._sizes import check_sizes, event_of
from pyro_gen.data.small import binary_rows, level_rows, normal_rows
from pyro_gen.inference.objectives import ContrastiveDivergence, Objective
from pyro_gen.models.undirected.parts.hidden_states import draw_given_seen, log_sum_over_hidden
from pyro_gen.models.undirected.parts.visible import draw_binary, make_visible
from pyro_gen.observation import observe
from pyro_gen.program import Program
from pyro_gen.registry import model

__all__ = ["RestrictedBoltzmann"]

MAX_SUMMED = 20  # hidden units, of whose states the sum is taken


@model(
    "restricted Boltzmann machine",
    paper="Smolensky (1986)",
    small={
        "": lambda: (RestrictedBoltzmann([2, 3], 3), binary_rows(9, 2, 3)),
        "Gaussian visible units": lambda: (RestrictedBoltzmann(4, 3, "gaussian"), normal_rows(9, 4)),
        "softmax visible units": lambda: (RestrictedBoltzmann(4, 2, {"softmax": 3}), level_rows(3, 9, 4)),
    },
)
class RestrictedBoltzmann(Program):
    r"""Creates a machine with small random weights.

    Arguments:
        event_shape: The shape of one datum, or the number D of its entries.
        hidden: The number K of hidden units.
        visible: ``"binary"``, ``"gaussian"``, or ``{"softmax": L}`` for values 0, ..., L - 1.
        objective: What it is trained by; by default persistent contrastive divergence, two sweeps a step.

    Attributes:
        weights: W, with shape :math:`(D W_\phi, K)` for :math:`W_\phi` features of a visible unit, L of a softmax one
            and else 1.
        visible_biases: a, with shape :math:`(D W_\phi,)`, above those of the base.
        hidden_biases: b, with shape :math:`(K,)`.

    Raises:
        ValueError: There are no such visible units, or sizes are out of range.

    Example:
        >>> import pyro_gen as pg
        >>> x = (torch.rand(200, 1) < 0.5).float().expand(200, 4)  # four units that are always alike
        >>> machine = RestrictedBoltzmann(4, 2, objective=pg.inference.ExactLikelihood())
        >>> result = pg.fit(machine, x, epochs=100, batch_size=200, lr=0.1, progress=False)
        >>> bool(pg.log_likelihood(machine, x).mean() > -0.8)  # independent coins have -2.77, and these -0.69
        True
    """

    initialised: Tensor
    visible: Any

    def __init__(
        self,
        event_shape: int | Sequence[int],
        hidden: int,
        visible: str | Mapping[str, int] = "binary",
        objective: Objective | None = None,
    ) -> None:
        super().__init__()
        self.event_shape = event_of(self, event_shape)
        check_sizes(self, hidden=hidden)
        self.visible = make_visible(visible, self.event_shape.numel())
        features = self.event_shape.numel() * self.visible.width
        self.weights = nn.Parameter(torch.randn(features, hidden) / math.sqrt(features + hidden))
        self.visible_biases = nn.Parameter(torch.zeros(features))
        self.hidden_biases = nn.Parameter(torch.zeros(hidden))
        self.objective = objective or ContrastiveDivergence(2, persistent=500)
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))

    def initialise(self, x: Tensor, *context: Any, seed: int = 0) -> Self:
        """Sets the base to the margins of data with shape :math:`(N, *event)`, the first time only."""
        if not self.initialised:
            with torch.no_grad():
                self.visible.fit_base(x.flatten(1))
                self.initialised.fill_(True)
        return super().initialise(x, *context, seed=seed)

    def model(self, x: Tensor) -> Tensor:
        """The density of data with shape :math:`(N, *event)`; returns them completed by the base."""
        with self.plate(x):
            shape = x.shape[1:]
            x = observe("x", self.visible.base(shape).to_event(len(shape)), x)
            pyro.factor("energy", self.tempered_factor(x, 1.0))  # (N,)
            return x

    def field(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r""":math:`a^\top \phi` and :math:`u = b + W^\top \phi` of data with shape (N, *event): (N,) and (N, K)."""
        phi = self.visible.features(x.flatten(1))
        return phi @ self.visible_biases, phi @ self.weights + self.hidden_biases

    def tempered_factor(self, x: Tensor, beta: float, *context: Any) -> Tensor:
        linear, u = self.field(x)
        hidden = F.softplus(beta * u) - beta * u / 2  # log 2 cosh(beta u / 2)
        return beta * linear + hidden.sum(-1) - (1 - beta) * u.shape[-1] * math.log(2.0)

    def hidden_means(self, x: Tensor) -> Tensor:
        """The probabilities that hidden units are up, with shape (N, K), of complete data (N, *event)."""
        return self.field(x)[1].sigmoid()

    def kernel(self, x: Tensor, missing: Tensor, beta: float, *context: Any) -> Tensor:
        """Draws the hidden units given the visible ones, then the missing ones of these given the hidden ones."""
        h = draw_binary(self.visible.to_hidden(x.flatten(0, 1).flatten(1), self.weights, self.hidden_biases, beta))
        biases = self.visible_biases - 0.5 * self.weights.sum(1)  # h are 0 and 1 here
        drawn = self.visible.draw_given(h, self.weights, biases, beta).view_as(x)
        return drawn if bool(missing.all()) else torch.where(missing, drawn, x)

    def log_sum(self, x: Tensor, *context: Any) -> Tensor | None:
        if len(self.hidden_biases) > MAX_SUMMED:
            return None
        return log_sum_over_hidden(self.visible, self.weights, self.visible_biases, self.hidden_biases, x.flatten(1))

    def draw_missing(self, x: Tensor, draws: int, *context: Any) -> Tensor | None:
        if len(self.hidden_biases) > MAX_SUMMED:
            return None
        parameters = (self.weights, self.visible_biases, self.hidden_biases)
        return draw_given_seen(self.visible, *parameters, x.flatten(1), draws).view(draws, *x.shape)
