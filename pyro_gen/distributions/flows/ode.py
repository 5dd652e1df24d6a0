r"""The flow of a velocity field, with the log-determinant of its Jacobian.

.. math::
    \frac{dx}{dt} = v(x, t), \qquad
    \log \left| \det \frac{\partial x(t_1)}{\partial x(t_0)} \right|
        = \int_{t_0}^{t_1} \operatorname{tr} \frac{\partial v}{\partial x} \big(x(t), t\big) \, dt

With a fixed number of steps (Runge-Kutta of order four) it is one graph, for training, and runs under ``torch.func``,
where chains over missing entries are. Else the adaptive method of Dormand and Prince (``torchdiffeq``) solves to a
tolerance, so that what is reported does not depend on the number of steps.

References:
    | Neural Ordinary Differential Equations (Chen et al., 2018)
    | https://arxiv.org/abs/1806.07366
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import vjp
from torchdiffeq import odeint

from pyro_gen._internals import is_transformed

__all__ = ["divergence", "flow_along"]

TOLERANCE = 1e-5  # of the adaptive solver, absolute and relative

State = tuple[Tensor, Tensor]  # x(t), and the integral of the divergence up to t
Field = Callable[[Tensor, Tensor], State]  # of t and x: the velocity, and its divergence


def flow_along(
    field: Field, x: Tensor, start: float, end: float, batch: torch.Size, steps: int, adaptive: bool
) -> State:
    """Follows a velocity field.

    Arguments:
        field: A function of the time, a scalar, and of points (*B, *), which returns the velocity there, (*B, *), and
            its divergence, (*B).
        x: The points at the start, with shape (*B, *).
        start: The time of the start.
        end: The time of the end, which may be the earlier one.
        batch: The shape B of the batch.
        steps: The number of fixed steps.
        adaptive: Whether to solve to a tolerance instead, where ``torch.func`` does not transform the points.

    Returns:
        The points at the end, (*B, *), and the log-determinant, (*B).
    """
    state = x, x.new_zeros(batch)
    if adaptive and not is_transformed(x):
        times = x.new_tensor([start, end])
        out, log_det = odeint(lambda t, s: field(t, s[0]), state, times, rtol=TOLERANCE, atol=TOLERANCE)
        return out[-1], log_det[-1]
    dt = (end - start) / steps
    for i in range(steps):
        state = _runge_kutta(field, x.new_full((), start + i * dt), dt, state)
    return state


def divergence(function: Callable[[Tensor], Tensor], x: Tensor, event_dim: int) -> State:
    r"""A function of points with the trace of its Jacobian, by as many derivatives as a point has entries.

    Arguments:
        function: From (\*, \*event) to (\*, \*event), each point by itself.
        x: The points.
        event_dim: The number of dimensions of a point.

    Returns:
        The values, (\*, \*event), and the traces, (\*).

    Example:
        >>> value, trace = divergence(lambda x: x * torch.tensor([2.0, 3.0]), torch.ones(4, 2), 1)
        >>> value[0].tolist(), trace.tolist()
        ([2.0, 3.0], [5.0, 5.0, 5.0, 5.0])
    """
    value, pull = vjp(function, x)  # type: ignore[misc]  # has_aux is False
    trace = x.new_zeros(x.shape[: x.dim() - event_dim])
    event = x.shape[x.dim() - event_dim :]
    for entry in torch.eye(event.numel(), dtype=x.dtype, device=x.device).reshape(-1, *event):
        trace = trace + (pull(entry.expand_as(value))[0] * entry).flatten(-event_dim).sum(-1)
    return value, trace


def _runge_kutta(field: Field, t: Tensor, dt: float, state: State) -> State:
    """One step of the classical method of order four."""

    def at(share: float, slope: State) -> Tensor:
        return state[0] + share * dt * slope[0]

    k1 = field(t, state[0])
    k2 = field(t + dt / 2, at(0.5, k1))
    k3 = field(t + dt / 2, at(0.5, k2))
    k4 = field(t + dt, at(1.0, k3))
    x, log_det = (s + dt / 6 * (a + 2 * b + 2 * c + d) for s, a, b, c, d in zip(state, k1, k2, k3, k4, strict=True))
    return x, log_det
