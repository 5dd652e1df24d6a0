r"""Covariance functions of Gaussian processes, with a length for each covariate.

With :math:`r^2 = \sum_p (u_p - v_p)^2 / \ell_p^2` and the amplitude :math:`a`, ``"squared_exponential"`` is
:math:`a^2 e^{-r^2 / 2}`, smooth, and ``"matern52"`` is :math:`a^2 (1 + \sqrt5 r + \tfrac53 r^2) e^{-\sqrt5 r}`, twice
differentiable (Rasmussen & Williams, 2006, chapter 4).
"""

import torch
from torch import Tensor, nn

__all__ = ["KERNELS", "Kernel"]

KERNELS = ("squared_exponential", "matern52")


class Kernel(nn.Module):
    """A covariance function of P covariates with amplitude and lengths, all 1 at first."""

    def __init__(self, covariates: int, name: str) -> None:
        super().__init__()
        if name not in KERNELS:
            raise ValueError(f"kernel={name!r}: choose one of {', '.join(KERNELS)}.")
        self.name = name
        self.log_amplitude = nn.Parameter(torch.zeros(()))
        self.log_length = nn.Parameter(torch.zeros(covariates))

    def variance(self) -> Tensor:
        """The covariance of a point with itself, a scalar."""
        return (2 * self.log_amplitude).exp()

    def forward(self, u: Tensor, v: Tensor) -> Tensor:
        """The covariances (*, N, M) of points with shapes (*, N, P) and (*, M, P)."""
        u, v = u / self.log_length.exp(), v / self.log_length.exp()
        square = u.square().sum(-1).unsqueeze(-1) + v.square().sum(-1).unsqueeze(-2) - 2 * u @ v.mT
        square = square.clamp(min=0.0)
        if self.name == "squared_exponential":
            return self.variance() * (-0.5 * square).exp()
        r = (5 * square + 1e-12).sqrt()  # whose gradient is finite at zero
        return self.variance() * (1 + r + r.square() / 3) * (-r).exp()
