r"""Covariance functions of Gaussian processes, with a length for each covariate.

With :math:`r^2 = \sum_p (u_p - v_p)^2 / \ell_p^2` and the amplitude :math:`a`, ``"squared_exponential"`` is
:math:`a^2 e^{-r^2 / 2}`, smooth, and ``"matern52"`` is :math:`a^2 (1 + \sqrt5 r + \tfrac53 r^2) e^{-\sqrt5 r}`, twice
differentiable (Rasmussen & Williams, 2006, chapter 4).
"""

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["KERNELS", "Kernel", "start_kernel"]

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


def start_kernel(program: Any, y: Tensor, u: Tensor) -> None:
    """Mean, amplitude, lengths and noise of a process from moments: half of the variance to the function.

    Arguments:
        program: With ``mean``, ``covariance`` and ``log_noise``.
        y: Outcomes, with shape (*), NaN where not known.
        u: Their covariates, with shape (*, P).
    """
    mean = y.nanmean().nan_to_num()
    deviation = (y - mean).square().nanmean().nan_to_num(1.0).sqrt().clamp(min=1e-6)
    program.mean.copy_(mean)
    program.log_noise.copy_((deviation / 2**0.5).log())
    program.covariance.log_amplitude.copy_((deviation / 2**0.5).log())
    lengths = u.flatten(0, -2).std(0).clamp(min=1e-6)
    program.covariance.log_length.copy_(torch.where(lengths.isfinite(), lengths, 1.0).log())
