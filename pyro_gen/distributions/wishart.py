r"""The Wishart distribution of positive definite matrices, such as the precision of a Gaussian.

With :math:`\nu > D - 1` degrees of freedom and the scale :math:`V = L L^T`,

.. math::
    p(X) = \frac{|X|^{(\nu - D - 1) / 2} \, e^{-\operatorname{tr}(V^{-1} X) / 2}}
        {2^{\nu D / 2} \, |V|^{\nu / 2} \, \Gamma_D(\nu / 2)} , \qquad
    \operatorname{E} X = \nu V , \quad \operatorname{var} X_{ij} = \nu (V_{ij}^2 + V_{ii} V_{jj}) .

Draws are :math:`L A A^T L^T` with a lower triangular :math:`A` of independent entries, standard normal below the
diagonal and :math:`A_{ii}^2 \sim \chi^2_{\nu - i}` on it, counted from 0. Torch's own distribution looks at its draws,
so that it cannot be vectorised over chains.

References:
    | On the Theory of Statistical Regression (Bartlett, 1933)
    | https://doi.org/10.1017/S0370164600014139
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_gen._internals import standard_gamma
from pyro_gen.distributions.positive_definite import positive_definite

__all__ = ["Wishart"]


class Wishart(dist.TorchDistribution):
    r"""The Wishart distribution, with one of three forms of its scale.

    Arguments:
        df: The degrees of freedom :math:`\nu`, above D - 1, with shape :math:`(*)`.
        scale: The scale V, with shape :math:`(*, D, D)`.
        inverse_scale: :math:`V^{-1}`, with shape :math:`(*, D, D)`, as posteriors have it.
        scale_tril: The Cholesky factor of V, with shape :math:`(*, D, D)`.

    Raises:
        ValueError: Not exactly one form of the scale is given, or there are too few degrees of freedom.

    Example:
        >>> d = Wishart(3.0, scale=torch.eye(2))
        >>> round(d.log_prob(torch.eye(2)).item(), 4)
        -3.531
        >>> d.mean.diagonal().tolist()
        [3.0, 3.0]
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"scale_tril": constraints.lower_cholesky}
    support = positive_definite
    has_rsample = True

    def __init__(
        self,
        df: Tensor | float,
        scale: Tensor | None = None,
        inverse_scale: Tensor | None = None,
        scale_tril: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        given = [t for t in (scale, inverse_scale, scale_tril) if t is not None]
        if len(given) != 1:
            raise ValueError(f"Wishart: give one of scale, inverse_scale and scale_tril; there are {len(given)}.")
        if scale is not None:
            scale_tril = torch.linalg.cholesky(scale)
        elif inverse_scale is not None:
            scale_tril = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(inverse_scale)))
        assert scale_tril is not None
        size = scale_tril.shape[-1]
        df = torch.as_tensor(df, dtype=scale_tril.dtype, device=scale_tril.device)
        shape = torch.broadcast_shapes(df.shape, scale_tril.shape[:-2])
        self.df, self.scale_tril = df.expand(shape), scale_tril.expand(*shape, size, size)
        super().__init__(shape, scale_tril.shape[-2:], validate_args=validate_args)
        if self._validate_args and not bool((self.df > size - 1).all()):
            raise ValueError(
                f"Wishart: {float(self.df.min()):.6g} degrees of freedom for matrices of {size} x {size}; more "
                f"than {size - 1} are needed."
            )

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "Wishart":
        shape = torch.Size(batch_shape)
        factor = self.scale_tril.expand(*shape, *self.event_shape)
        return Wishart(self.df.expand(shape), scale_tril=factor, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The mean, with shape (*, D, D)."""
        return self.df[..., None, None] * (self.scale_tril @ self.scale_tril.mT)

    @property
    def variance(self) -> Tensor:
        """The variance of each entry, with shape (*, D, D)."""
        scale = self.scale_tril @ self.scale_tril.mT
        diagonal = scale.diagonal(dim1=-2, dim2=-1)
        return self.df[..., None, None] * (scale.square() + diagonal.unsqueeze(-1) * diagonal.unsqueeze(-2))

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        size = self.event_shape[-1]
        factor = torch.linalg.cholesky(value)
        whitened = torch.linalg.solve_triangular(self.scale_tril, factor, upper=False)
        log_prob: Tensor = (
            (self.df - size - 1) * _log_diagonal(factor)
            - self.df * _log_diagonal(self.scale_tril)
            - whitened.square().sum((-2, -1)) / 2
            - self.df * size / 2 * math.log(2)
            - torch.special.multigammaln(self.df / 2, size)
        )
        return log_prob

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        size = shape[-1]
        places = torch.arange(size, dtype=self.df.dtype, device=self.df.device)
        chi2 = 2 * standard_gamma(((self.df.unsqueeze(-1) - places) / 2).expand(shape[:-1]))
        below = torch.randn(shape, dtype=self.df.dtype, device=self.df.device).tril(-1)
        factor = self.scale_tril @ (below + torch.diag_embed(chi2.sqrt()))
        return factor @ factor.mT


def _log_diagonal(factor: Tensor) -> Tensor:
    """Half of the log-determinant of the matrix that a Cholesky factor is of."""
    return factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
