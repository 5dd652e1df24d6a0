r"""Linear-Gaussian state space: a series of numbers that are seen of a hidden vector with noise.

.. math::
    \alpha_1 \sim \mathcal{N}(a, P), \qquad
    \alpha_{t+1} = F \alpha_t + L w_t, \qquad
    y_t = m + h^\top \alpha_t + \sigma \epsilon_t .

L and :math:`\sigma` may differ from step to step by factors, :math:`L \operatorname{diag}(f_t)` and :math:`\sigma g_t`.

With m = 0 the density is a product over time of kernels, what is seen at t and the step to t + 1,

.. math::
    f(\alpha, \alpha') = e^{c + \eta^\top \alpha - \frac{1}{2} \alpha^\top J \alpha}
        \, \mathcal{N}(\alpha'; \, A \alpha + b, \, C), \qquad
    \eta_t = h y_t / \sigma^2, \; J_t = h h^\top / \sigma^2, \; A = F, \; C = L L^\top ,

and 1 in the place of the exponential where nothing was seen. Two of them, one after the other, are one of their kind:
with :math:`M = (I + C_1 J_2)^{-1}`,

.. math::
    A &= A_2 M A_1, \qquad b = A_2 M (b_1 + C_1 \eta_2) + b_2, \qquad C = A_2 M C_1 A_2^\top + C_2, \\
    \eta &= \eta_1 + A_1^\top M^\top (\eta_2 - J_2 b_1), \qquad J = J_1 + A_1^\top J_2 M A_1, \\
    c &= c_1 + c_2 - \tfrac{1}{2} \log |M^{-1}| + \tfrac{1}{2} \eta_2^\top M C_1 \eta_2
        + \eta_2^\top M b_1 - \tfrac{1}{2} b_1^\top J_2 M b_1 ,

so they are multiplied as a tree, in :math:`\log_2 T` steps instead of the T of a Kalman filter. C may be singular, as
with slopes that do not change. The logarithm's gradient with respect to :math:`\eta_t` is the smoothed mean of
:math:`\alpha_t`, that with respect to :math:`J_t` is :math:`-\frac{1}{2}` of its second moment.

References:
    | A New Approach to Linear Filtering and Prediction Problems (Kalman, 1960)
    | https://doi.org/10.1115/1.3662552
    | Temporal Parallelization of Bayesian Smoothers (Särkkä & García-Fernández, 2019)
    | https://arxiv.org/abs/1905.13002
    | A simple and efficient simulation smoother (Durbin & Koopman, 2002), for draws given what was seen
    | https://doi.org/10.1093/biomet/89.3.603
"""

import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

__all__ = ["StateSpaceSeries"]


class _Kernels(NamedTuple):
    """Kernels at T steps: shapes (*, T), (*, T, S) and (*, T, S, S); matrices may lack batch dimensions."""

    c: Tensor
    eta: Tensor
    j: Tensor
    a: Tensor
    b: Tensor
    cov: Tensor

    def at(self, steps: slice) -> "_Kernels":
        event = (0, 1, 2, 2, 1, 2)
        return _Kernels(*(x[(..., steps) + (slice(None),) * k] for x, k in zip(self, event, strict=True)))


class StateSpaceSeries(TorchDistribution):
    r"""Series :math:`y_1, \dots, y_T` of a linear-Gaussian state space with S states and K noises.

    Computed in float64, whatever the arguments, log-densities too; values have the dtype of the mean. Entries may be
    missing, see :meth:`marginalise`.

    Arguments:
        loc: The mean :math:`a` of the first state, with shape :math:`(*, S)`.
        root: A factor of its covariance, :math:`P = R R^\top`, with shape :math:`(*, S, S)`.
        transition: The matrix F, with shape :math:`(*, S, S)`.
        noise: The matrix L, with shape :math:`(*, S, K)`.
        observation: The vector h, with shape :math:`(*, S)`.
        scale: The standard deviation :math:`\sigma > 0` of what is seen, with shape :math:`(*)`.
        steps: The number T of steps.
        offset: The number m that values are seen about, with shape :math:`(*)`.
        factors: The factors f of each noise in the step from t to t + 1, with shape :math:`(*, T, K)`, and g of what
            is seen at t, with shape :math:`(*, T)`; 1 without. Of the last step f has no meaning.

    Example:
        >>> one = torch.ones(1)
        >>> d = StateSpaceSeries(0 * one, torch.eye(1), torch.eye(1), torch.eye(1), one, torch.tensor(1.0), 2)
        >>> y = torch.tensor([1.0, 2.0])
        >>> joint = torch.distributions.MultivariateNormal(torch.zeros(2), torch.tensor([[2.0, 1.0], [1.0, 3.0]]))
        >>> round(d.log_prob(y).item(), 6), round(joint.log_prob(y).item(), 6)
        (-3.342596, -3.342596)
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        loc: Tensor,
        root: Tensor,
        transition: Tensor,
        noise: Tensor,
        observation: Tensor,
        scale: Tensor,
        steps: int,
        offset: Tensor | float = 0.0,
        factors: tuple[Tensor, Tensor] | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.dtype = loc.dtype  # of values
        self.loc, self.root, self.transition, self.noise = (
            loc.double(),
            root.double(),
            transition.double(),
            noise.double(),
        )
        self.observation, self.scale = observation.double(), scale.double()
        self.offset = torch.as_tensor(offset, dtype=torch.float64, device=loc.device)
        self.factors = None if factors is None else (factors[0].double(), factors[1].double())
        self.seen: Tensor | None = None
        of_factors = [] if factors is None else [factors[0].shape[:-2], factors[1].shape[:-1]]
        shapes = (loc.shape[:-1], root.shape[:-2], transition.shape[:-2], noise.shape[:-2], observation.shape[:-1])
        batch = torch.broadcast_shapes(*shapes, *of_factors, scale.shape, self.offset.shape)
        super().__init__(batch, torch.Size((steps,)), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "StateSpaceSeries":
        arguments = self.loc.expand(*batch_shape, -1), self.root, self.transition, self.noise, self.observation
        steps = self.event_shape[0]
        new = StateSpaceSeries(*arguments, self.scale, steps, self.offset, self.factors, validate_args=False)
        new.dtype, new.seen = self.dtype, self.seen
        return new

    @property
    def mean(self) -> Tensor:
        at, means = self.loc, []
        for _ in range(self.event_shape[0]):
            means.append(self.offset + (self.observation * at).sum(-1))
            at = _apply(self.transition, at)
        return torch.stack(means, -1).expand(self.batch_shape + self.event_shape).to(self.dtype)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self._draw(torch.Size(sample_shape) + self.batch_shape)[1].to(self.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        c, eta, j = self._evidence(value - self.offset.unsqueeze(-1), self.seen)
        return self._integral(c, eta, j, self.loc)

    def marginalise(self, value: Tensor) -> tuple["StateSpaceSeries", Tensor, Callable[[], Tensor]]:
        """What is seen of series with NaN, these without it, and a function that draws all given what is seen."""
        scored = self.expand(self.batch_shape)
        scored.seen = ~torch.isnan(value)
        return scored, value.nan_to_num(), lambda: self._complete(value)

    def smooth(self, value: Tensor) -> tuple[Tensor, Tensor]:
        r"""The states given all that was seen, :math:`p(\alpha_t \mid y)`.

        Arguments:
            value: Series with shape :math:`(*, T)` and NaN where nothing was seen.

        Returns:
            Means with shape :math:`(*, T, S)`, and covariances with shape :math:`(*, T, S, S)`, in float64.
        """
        c, eta, j = self._evidence((value - self.offset.unsqueeze(-1)).nan_to_num(), ~torch.isnan(value))
        j = j.expand(*eta.shape, eta.shape[-1])

        def integral(eta: Tensor, j: Tensor) -> Tensor:
            return self._integral(c, eta, j, self.loc).sum()

        mean, second = torch.func.grad(integral, argnums=(0, 1))(eta, j)
        second = -(second + second.mT)
        return mean, second - mean.unsqueeze(-1) * mean.unsqueeze(-2)

    # ------------------------------------------------------------------------------------------------------------------

    def _scales(self) -> Tensor:
        """The standard deviations of what is seen, with shape (*, 1) or (*, T)."""
        scale = self.scale.unsqueeze(-1)
        return scale if self.factors is None else scale * self.factors[1]

    def _evidence(self, value: Tensor, seen: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The logarithms of constants (*, T), and eta (*, T, S) and J (*, T, S, S), of what is seen of a value."""
        y, h = value.double(), self.observation.unsqueeze(-2)  # h: (*, 1, S)
        variance = self._scales().square()  # (*, 1) or (*, T)
        c = -0.5 * (y.square() / variance + torch.log(2 * math.pi * variance))
        eta = h * (y / variance).unsqueeze(-1)
        outer = h.unsqueeze(-1) * h.unsqueeze(-2) / variance[..., None, None]
        j = outer.expand(*outer.shape[:-3], y.shape[-1], *outer.shape[-2:])
        if seen is not None:
            one = seen.to(y)
            c, eta, j = c * one, eta * one.unsqueeze(-1), j * one[..., None, None]
        return c, eta, j

    def _integral(self, c: Tensor, eta: Tensor, j: Tensor, loc: Tensor) -> Tensor:
        """The logarithm of the integral over all states, of kernels with what is seen; (*)."""
        steps, batch = c.shape[-1], torch.broadcast_shapes(c.shape[:-1], eta.shape[:-2], self.batch_shape)
        a, noise = self.transition.unsqueeze(-3), self.noise.unsqueeze(-3)
        if self.factors is not None:
            noise = noise * self.factors[0].unsqueeze(-2)  # (*, T, S, K)
        cov = noise @ noise.mT
        matrices = torch.broadcast_shapes(a.shape, cov.shape, j.shape)
        vectors = batch + eta.shape[-2:]
        each = _Kernels(
            c.expand(*batch, steps), eta.expand(vectors), j.expand(matrices),
            a.expand(matrices), eta.new_zeros(vectors), cov.expand(matrices),
        )  # fmt: skip
        while (steps := each.c.shape[-1]) > 1:
            joined = _join(each.at(slice(0, steps - 1, 2)), each.at(slice(1, steps, 2)))
            if steps % 2:
                parts = zip(joined, each.at(slice(steps - 1, steps)), (-1, -2, -3, -3, -2, -3), strict=True)
                joined = _Kernels(
                    *(torch.cat([x, y.expand(*x.shape[:dim], *y.shape[dim:])], dim) for x, y, dim in parts)
                )
            each = joined
        root = self.root
        return _constant(each.at(slice(0, 1)), loc.unsqueeze(-2), (root @ root.mT).unsqueeze(-3))[0].squeeze(-1)

    def _draw(self, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """States (*, T, S) and values (*, T), by the global generator."""
        state = self.loc + _apply(self.root, torch.randn(*shape, self.root.shape[-1]).to(self.loc))
        moves = torch.randn(self.event_shape[0], *shape, self.noise.shape[-1]).to(self.loc)
        if self.factors is not None:
            moves = moves * self.factors[0].expand(*shape, len(moves), -1).movedim(-2, 0)
        states = []
        for move in moves:
            states.append(state)
            state = _apply(self.transition, state) + _apply(self.noise, move)
        path = torch.stack(states, -2)
        noise = self._scales() * torch.randn(*shape, len(moves)).to(self.loc)
        return path, self.offset.unsqueeze(-1) + (path * self.observation.unsqueeze(-2)).sum(-1) + noise

    def _complete(self, value: Tensor) -> Tensor:
        """A joint draw, shifted by the smoothed mean of what it differs in from what was seen (Durbin & Koopman)."""
        drawn = self._draw(torch.broadcast_shapes(self.batch_shape, value.shape[:-1]))[1]
        c, eta, j = self._evidence((value - drawn).nan_to_num(), ~torch.isnan(value))

        def integral(eta: Tensor) -> Tensor:
            return self._integral(c, eta, j, torch.zeros_like(self.loc)).sum()

        shift = torch.func.grad(integral)(eta)  # (*, T, S)
        shift = (shift * self.observation.unsqueeze(-2)).sum(-1)
        return torch.where(torch.isnan(value), (drawn + shift).to(value.dtype), value)


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def _constant(right: _Kernels, b: Tensor, cov: Tensor) -> tuple[Tensor, Tensor]:
    """The logarithm of what a kernel integrates to under a Gaussian state N(b, C), and M = (I + C J)^-1."""
    inverse = torch.eye(cov.shape[-1]).to(cov) + cov @ right.j
    m = torch.linalg.inv(inverse)
    quadratic = (right.eta * (_apply(m, b + _apply(cov, 0.5 * right.eta)))).sum(-1)
    quadratic = quadratic - 0.5 * (b * _apply(right.j @ m, b)).sum(-1)
    return right.c + quadratic - 0.5 * torch.linalg.slogdet(inverse)[1], m


def _join(left: _Kernels, right: _Kernels) -> _Kernels:
    """The product of two kernels, one after the other, the state between them integrated out."""
    constant, m = _constant(right, left.b, left.cov)
    after = right.a @ m
    return _Kernels(
        left.c + constant,
        left.eta + _apply((m @ left.a).mT, right.eta - _apply(right.j, left.b)),
        left.j + left.a.mT @ right.j @ m @ left.a,
        after @ left.a,
        _apply(after, left.b + _apply(left.cov, right.eta)) + right.b,
        after @ left.cov @ right.a.mT + right.cov,
    )
