r"""Stationary autoregression: a series of numbers, each a weighted sum of those before it and a new innovation.

.. math:: y_t = \sum_{j=1}^k \phi_j y_{t-j} + \sigma \epsilon_t .

The partial autocorrelations :math:`\rho_1, \dots, \rho_k \in (-1, 1)` are free of each other, and give the best
prediction from the last m values, and its variance, by the recursion of Durbin and Levinson,

.. math::
    \phi^{(m)}_j = \phi^{(m-1)}_j - \rho_m \phi^{(m-1)}_{m-j}, \quad \phi^{(m)}_m = \rho_m, \qquad
    v_m = \sigma^2 \prod_{j > m} \frac{1}{1 - \rho_j^2} .

So the series begins in its stationary law when its first k steps are predicted from the m < k before them. With
:math:`m = \min(t - 1, k)` the standardised innovations are :math:`e_t = (y_t - \sum_j \phi^{(m)}_j y_{t-j}) /
\sqrt{v_m}`, or :math:`e = B y` with a matrix of k + 1 diagonals, and

.. math:: \log p(y) = \sum_t \big[ \log p(e_t) - \tfrac{1}{2} \log v_m \big] .

Normal ones have the precision :math:`Q = B^\top B`. Of what is seen, :math:`y_o`, with the missing entries m at 0 and
:math:`r = (Q y)_m`,

.. math::
    \log p(y_o) = - \tfrac{|o|}{2} \log 2 \pi - \tfrac{1}{2} \sum_t \log v_m - \tfrac{1}{2} y^\top Q y
        + \tfrac{1}{2} r^\top Q_{mm}^{-1} r - \tfrac{1}{2} \log |Q_{mm}|, \qquad
    \mathbb{E}[y_m \mid y_o] = - Q_{mm}^{-1} r .

In blocks of k steps Q is tridiagonal, and every second block is eliminated at a time: :math:`\log_2 T` steps.

References:
    | On the parametrization of autoregressive models by partial autocorrelations (Barndorff-Nielsen & Schou, 1973)
    | https://doi.org/10.1016/0047-259X(73)90030-4
    | Time Series Analysis by State Space Methods (Durbin & Koopman, 2012), for draws given what was seen
    | https://doi.org/10.1093/acprof:oso/9780199641178.001.0001
    | Gaussian Markov Random Fields (Rue & Held, 2005)
    | https://doi.org/10.1201/9780203492024
"""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import StudentT, constraints

from pyro_gen._errors import CannotMarginaliseError

__all__ = ["AutoregressiveSeries", "autoregressive_coefficients", "predictors"]


def predictors(partial: Tensor) -> tuple[Tensor, Tensor]:
    r"""The best predictions from the last 0, 1, ..., k values, by the recursion of Durbin and Levinson.

    Arguments:
        partial: The partial autocorrelations, with shape :math:`(*, k)`.

    Returns:
        :math:`\phi^{(m)}_j`, 0 where j > m, with shape :math:`(*, k + 1, k)`, and the variances :math:`v_m / \sigma^2`
        with shape :math:`(*, k + 1)`.
    """
    k = partial.shape[-1]
    phi, rows = partial[..., :0], [torch.zeros_like(partial)]
    for m in range(k):
        rho = partial[..., m : m + 1]
        phi = torch.cat([phi - rho * phi.flip(-1), rho], -1)
        rows.append(torch.cat([phi, torch.zeros_like(partial[..., m + 1 :])], -1))
    after = (1 - partial.square()).flip(-1).cumprod(-1).flip(-1)
    return torch.stack(rows, -2), torch.cat([1 / after, partial.new_ones(*partial.shape[:-1], 1)], -1)


def autoregressive_coefficients(partial: Tensor) -> Tensor:
    r"""The coefficients of a stationary autoregression.

    Arguments:
        partial: The inverse hyperbolic tangents of the partial autocorrelations, with shape :math:`(*, k)`.

    Returns:
        :math:`\phi_1, \dots, \phi_k`, with shape :math:`(*, k)`.

    Example:
        >>> autoregressive_coefficients(torch.tensor([0.5, -0.3]).atanh())  # 0.5 (1 + 0.3), -0.3
        tensor([ 0.6500, -0.3000])
    """
    return predictors(partial.tanh())[0][..., -1, :]


class AutoregressiveSeries(TorchDistribution):
    r"""Series :math:`x_1, \dots, x_T` of a stationary autoregression :math:`y = x - m` of order k.

    Computed in float64, whatever the arguments, log-densities too; values have the dtype of the mean.

    Arguments:
        loc: The mean m, with shape :math:`(*)`.
        partial: The partial autocorrelations, with shape :math:`(*, k)`; k may be 0.
        scale: The scale :math:`\sigma > 0` of the innovations, with shape :math:`(*)`.
        steps: The number T of steps.
        df: Degrees of freedom of Student-t innovations, with shape :math:`(*)`; normal ones without. Of those,
            entries may be missing behind everything that was seen, and nowhere else.

    Example:
        >>> d = AutoregressiveSeries(torch.tensor(0.0), torch.tensor([0.5]), torch.tensor(1.0), 3)
        >>> gamma = torch.tensor([[4.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 4.0]]) / 3
        >>> x = torch.tensor([1.0, 2.0, -1.0])
        >>> joint = torch.distributions.MultivariateNormal(torch.zeros(3), gamma)
        >>> round(d.log_prob(x).item(), 5), round(joint.log_prob(x).item(), 5)
        (-6.40066, -6.40066)
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector
    has_rsample = False

    def __init__(self, loc: Tensor, partial: Tensor, scale: Tensor, steps: int, df: Tensor | None = None) -> None:
        self.dtype = loc.dtype  # of values
        self.loc, self.partial, self.scale = loc.double(), partial.double(), scale.double()
        self.df = None if df is None else df.double()
        self.seen: Tensor | None = None
        shapes = loc.shape, partial.shape[:-1], scale.shape, () if df is None else df.shape
        super().__init__(torch.broadcast_shapes(*shapes), torch.Size((steps,)), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "AutoregressiveSeries":
        new = AutoregressiveSeries(self.loc.expand(batch_shape), self.partial, self.scale, self.event_shape[0], self.df)
        new.dtype, new.seen = self.dtype, self.seen
        return new

    @property
    def mean(self) -> Tensor:
        return self.loc.unsqueeze(-1).expand(self.batch_shape + self.event_shape).to(self.dtype)

    @property
    def diagonals(self) -> Tensor:
        r"""The rows of B, :math:`B_{t, t-j}` for t = 1, ..., T and j = 0, ..., k, with shape :math:`(*, T, k + 1)`."""
        phi, variance = predictors(self.partial)
        one = phi.new_ones(*phi.shape[:-1], 1)
        rows = torch.cat([one, -phi], -1) / (self.scale.unsqueeze(-1) * variance.sqrt()).unsqueeze(-1)
        steps = torch.arange(self.event_shape[0], device=rows.device).clamp(max=phi.shape[-1])
        return rows[..., steps, :]

    def innovations(self, value: Tensor) -> Tensor:
        """The standardised innovations of series without NaN, with shape :math:`(*, T)`."""
        return _whitened(self.diagonals, value.double() - self.loc.unsqueeze(-1))

    def log_densities(self, value: Tensor) -> Tensor:
        """The logarithm of the density of each step given those before it, with shape :math:`(*, T)`; without NaN."""
        e, diagonal = self.innovations(value), self.diagonals[..., 0]
        if self.df is not None:
            law: Any = StudentT(self.df.unsqueeze(-1), validate_args=False)
            return law.log_prob(e) + diagonal.log()  # type: ignore[no-any-return]
        return -0.5 * (e.square() + math.log(2 * math.pi)) + diagonal.log()

    def log_prob(self, value: Tensor) -> Tensor:
        if self.seen is None:
            return self.log_densities(value).sum(-1)
        if self.df is not None:
            return (self.log_densities(value) * self.seen).sum(-1)
        b = self.diagonals
        y = torch.where(self.seen, value.double() - self.loc.unsqueeze(-1), 0.0)
        e = _whitened(b, y)
        quadratic, log_det = self._of_missing(b, _whitened_transposed(b, e), self.seen)
        constant = b[..., 0].log().sum(-1) - 0.5 * math.log(2 * math.pi) * self.seen.double().sum(-1)
        return constant - 0.5 * (e.square().sum(-1) - quadratic + log_det)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        return self._complete(self.loc.new_full(shape, math.nan)).to(self.dtype)

    def marginalise(self, value: Tensor) -> tuple["AutoregressiveSeries", Tensor, Callable[[], Tensor]]:
        """What is seen of series with NaN, these without it, and a function that draws all given what is seen.

        Raises:
            CannotMarginaliseError: Innovations are Student-t, and an entry is missing before one that is seen.
        """
        seen = ~torch.isnan(value)
        if self.df is not None and bool((seen[..., 1:] & ~seen[..., :-1]).any()):
            raise CannotMarginaliseError("An autoregression with Student-t innovations")
        scored = self.expand(self.batch_shape)
        scored.seen = seen
        return scored, value.nan_to_num(), lambda: self._complete(value)

    # ------------------------------------------------------------------------------------------------------------------

    def _of_missing(self, b: Tensor, r: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        r"""The numbers :math:`r_m^\top Q_{mm}^{-1} r_m` and :math:`\log |Q_{mm}|`, with shape :math:`(*)`."""
        steps, k = seen.shape[-1], max(1, b.shape[-1] - 1)
        blocks = -(-steps // k)
        pad = blocks * k - steps
        b = torch.nn.functional.pad(b, (0, 0, 0, pad)).unflatten(-2, (blocks, k))  # (*, blocks, k, k + 1)
        missing = torch.nn.functional.pad(~seen, (0, pad)).unflatten(-1, (blocks, k))
        r = torch.where(missing, torch.nn.functional.pad(r, (0, pad)).unflatten(-1, (blocks, k)), 0.0)
        at = torch.arange(k, device=b.device)
        lag = (at.unsqueeze(-1) - at).expand(*b.shape[:-2], k, k)  # of row and column of a block

        def entries(lag: Tensor) -> Tensor:
            there = (lag >= 0) & (lag < b.shape[-1])
            return torch.where(there, b.gather(-1, lag.clamp(0, b.shape[-1] - 1)), 0.0)

        within, before = (
            entries(lag),
            entries(lag + k),
        )  # B by blocks: in a block, to the one before it
        after = torch.nn.functional.pad(before[..., 1:, :, :], (0, 0, 0, 0, 0, 1))
        q, below = within.mT @ within + after.mT @ after, within.mT @ before
        both = missing.unsqueeze(-1) & missing.unsqueeze(-2)
        across = missing[..., 1:, :].unsqueeze(-1) & missing[..., :-1, :].unsqueeze(-2)
        q = torch.where(both, q, torch.eye(k).to(q))
        return _eliminate(q, torch.where(across, below[..., 1:, :, :], 0.0), r)

    def _complete(self, value: Tensor) -> Tensor:
        """A joint draw, shifted by the mean of what it differs in from what was seen (Durbin & Koopman)."""
        seen, b = ~torch.isnan(value), self.diagonals
        shape = torch.broadcast_shapes(self.batch_shape + self.event_shape, value.shape)
        if self.df is None:
            e = torch.randn(shape, dtype=torch.float64, device=b.device)
        else:
            e = StudentT(self.df.unsqueeze(-1).expand(shape), validate_args=False).sample()
        known = (value.double() - self.loc.unsqueeze(-1)).nan_to_num()
        y: list[Tensor] = []
        for t in range(shape[-1]):
            total = e[..., t]
            for j in range(1, min(t, b.shape[-1] - 1) + 1):
                total = total - b[..., t, j] * y[t - j]
            drawn = total / b[..., t, 0]
            y.append(drawn if self.df is None else torch.where(seen[..., t], known[..., t], drawn))
        path = torch.stack(y, -1)
        if self.df is None:
            short = torch.where(seen, known - path, 0.0)
            r = _whitened_transposed(b, _whitened(b, short))

            def half(r: Tensor) -> Tensor:
                return 0.5 * self._of_missing(b, r, seen.expand(shape))[0].sum()

            path = path - torch.func.grad(half)(r.expand(shape))
        drawn = (path + self.loc.unsqueeze(-1)).to(value.dtype)
        return torch.where(seen, value, drawn)


def _whitened(b: Tensor, y: Tensor) -> Tensor:
    """B y."""
    k = b.shape[-1] - 1
    return (torch.nn.functional.pad(y, (k, 0)).unfold(-1, k + 1, 1).flip(-1) * b).sum(-1)


def _whitened_transposed(b: Tensor, e: Tensor) -> Tensor:
    """B' e."""
    steps, k = b.shape[-2], b.shape[-1] - 1
    terms = torch.nn.functional.pad(e.unsqueeze(-1) * b, (0, 0, 0, k))
    return torch.stack([terms[..., j : j + steps, j] for j in range(k + 1)]).sum(0)


def _eliminate(q: Tensor, below: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    r"""Solves a block tridiagonal system by cyclic reduction.

    Arguments:
        q: The blocks of its diagonal, with shape :math:`(*, n, k, k)`, symmetric and positive.
        below: Those below them, with shape :math:`(*, n - 1, k, k)`.
        r: The right-hand side, with shape :math:`(*, n, k)`.

    Returns:
        :math:`r^\top Q^{-1} r` and :math:`\log |Q|`, with shape :math:`(*)`.
    """
    r = r.unsqueeze(-1)
    quadratic, log_det = 0.0 * r.sum((-3, -2, -1)), 0.0 * r.sum((-3, -2, -1))
    while (n := q.shape[-3]) > 1:
        odd = n // 2  # blocks 1, 3, ... are eliminated
        left = below[..., 0::2, :, :]  # below block 0, 2, ...: from an odd block to the one before it
        right = torch.nn.functional.pad(below[..., 1::2, :, :], (0, 0, 0, 0, 0, odd - (n - 1) // 2))  # to the next one
        root = torch.linalg.cholesky(q[..., 1::2, :, :])
        solved = torch.linalg.solve_triangular(root, torch.cat([left, right.mT], -1), upper=False)
        a, c = solved.split(q.shape[-1], -1)
        s = torch.linalg.solve_triangular(root, r[..., 1::2, :, :], upper=False)
        quadratic = quadratic + s.square().sum((-3, -2, -1))
        log_det = log_det + 2 * root.diagonal(dim1=-2, dim2=-1).log().sum((-2, -1))
        kept = n - odd
        before = (0, 0, 0, 0, 0, kept - odd)  # an odd block stands behind each kept one, but for the last at times
        later = (0, 0, 0, 0, 1, 0)
        pad = torch.nn.functional.pad
        q = q[..., 0::2, :, :] - pad(a.mT @ a, before) - pad(c.mT @ c, later)[..., :kept, :, :]
        r = r[..., 0::2, :, :] - pad(a.mT @ s, before) - pad(c.mT @ s, later)[..., :kept, :, :]
        below = -(c.mT @ a)[..., : kept - 1, :, :]
    root = torch.linalg.cholesky(q[..., 0, :, :])
    s = torch.linalg.solve_triangular(root, r[..., 0, :, :], upper=False)
    quadratic = quadratic + s.square().sum((-2, -1))
    return quadratic, log_det + 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
