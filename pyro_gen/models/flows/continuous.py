r"""The continuous flow (FFJORD): data carried to noise by a velocity field, without any form that layers must have.

.. math::
    \frac{dx}{dt} = f(x, t), \quad x(1) = x, \; x(0) = u, \qquad \log p(x) = \log \mathcal{N}(u; 0, I)
        - \int_0^1 \operatorname{tr} \frac{\partial f}{\partial x} \big(x(t), t\big) \, dt

f is a network of two hidden layers of tanh with slopes :math:`d_1, d_2`, and the trace of its Jacobian is known,

.. math::
    \operatorname{tr}\big(W_3 D_2 W_2 D_1 W_1\big) = d_2^\top \big( W_2 \odot (W_1 W_3)^\top \big) \, d_1 ,

at the price of one product, in any number of dimensions: what Hutchinson's estimator is for, which has a standard
deviation of about a nat a datum and makes likelihoods noisy, is not needed.

**Solver.** In training the steps are fixed, in evaluation they are adaptive, see
:mod:`pyro_gen.distributions.flows.ode`.

References:
    | FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models (Grathwohl et al., 2019)
    | https://arxiv.org/abs/1810.01367
    | Neural Ordinary Differential Equations (Chen et al., 2018)
    | https://arxiv.org/abs/1806.07366
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_gen._sizes import check_sizes, event_of
from pyro_gen.data.small import normal_rows
from pyro_gen.distributions.flows import Bijection, flow_along
from pyro_gen.models.flows.parts.program import FlowProgram
from pyro_gen.registry import model

__all__ = ["ContinuousFlow"]


class _Flow(Bijection):
    """The flow of a velocity field from t = 0, noise, to t = 1, data; standing still at first."""

    def __init__(self, dim: int, hidden: int, steps: int, features: int, dropout: float) -> None:
        super().__init__()
        self.event_shape, self.features, self.steps = torch.Size((dim,)), features, steps
        self.first, self.second = nn.Linear(dim, hidden), nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, dim)
        self.times = nn.Linear(1, 2 * hidden + dim, bias=False)
        self.context = nn.Linear(features, hidden, bias=False) if features else None
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        nn.init.zeros_(self.times.weight)

    def velocity(self, t: Tensor, x: Tensor, h: Tensor | None, keep: Tensor) -> tuple[Tensor, Tensor]:
        r"""The velocity :math:`f(x, t)`, (*, D), and its divergence, (*); ``keep`` is what dropout leaves of units."""
        hidden, time = self.second.in_features, self.times(t.reshape(1))
        a = self.first(x) + time[:hidden]
        a = torch.tanh(a if self.context is None or h is None else a + self.context(h))
        b = torch.tanh(self.second(a) + time[hidden : 2 * hidden])
        v = self.last(b * keep) + time[2 * hidden :]
        # d_1 and d_2 are the slopes of the two layers.
        cross = self.second.weight * (self.first.weight @ self.last.weight).mT
        return v, ((1 - b.square()) * keep * ((1 - a.square()) @ cross.mT)).sum(-1)

    def _solve(self, x: Tensor, h: Tensor | None, start: float, end: float) -> tuple[Tensor, Tensor]:
        keep = self.dropout(x.new_ones(*x.shape[:-1], self.second.out_features))  # the same at all times

        def field(t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.velocity(t, x, h, keep)

        return flow_along(field, x, start, end, x.shape[:-1], self.steps, adaptive=not self.training)

    def forward(self, u: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._solve(u, h, 0.0, 1.0)

    def inverse(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        u, log_det = self._solve(x, h, 1.0, 0.0)
        return u, -log_det


@model(
    "continuous flow",
    paper="Grathwohl et al. (2019)",
    small={
        "": lambda: (ContinuousFlow(3, 8), normal_rows(9, 3)),
        "context": lambda: (ContinuousFlow((2, 1), 8, context=2), normal_rows(9, 2, 1), normal_rows(9, 2)),
    },
)
class ContinuousFlow(FlowProgram):
    r"""Creates a continuous flow.

    Arguments:
        event_shape: The shape of one datum, or the number of its entries.
        hidden: Units in each of the two hidden layers of the velocity field.
        steps: The number of steps of the solver in training.
        context: The number of entries of what the density is conditional on.
        dropout: The share of the second layer's units dropped in training, the same along a path.
        marginals: What the layer next to the data gives each entry, ``"normal"`` or ``"spline"``, see
            :class:`~pyro_gen.models.flows.parts.program.FlowProgram`.

    Raises:
        ValueError: Sizes are out of range, or there are no marginals of that name.

    Example:
        >>> ContinuousFlow(3).model(torch.full((5, 3), torch.nan)).shape  # five draws
        torch.Size([5, 3])
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        hidden: int = 64,
        steps: int = 8,
        context: int = 0,
        dropout: float = 0.0,
        marginals: str = "normal",
    ) -> None:
        dim = event_of(self, event_shape).numel()
        check_sizes(self, hidden=hidden, steps=steps)
        check_sizes(self, 0, context=context)
        super().__init__(event_shape, _Flow(dim, hidden, steps, context, dropout), marginals)
