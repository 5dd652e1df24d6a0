"""Weighted particles: resampling, covariances under weights, and metrics made of them."""

import torch
from torch import Tensor

from pyro_gen.inference.mcmc.hmc import Metric

__all__ = ["Correlated", "cholesky_factors", "correlations", "covariances", "gather", "resample"]


def resample(log_weights: Tensor, draws: int) -> Tensor:
    """Systematic resampling: (K, N) log-weights -> (draws, N) indices, in random order."""
    cumulative = log_weights.softmax(0).cumsum(0).T.contiguous()
    n = len(cumulative)
    device = log_weights.device
    points = (torch.arange(draws, device=device) + torch.rand(n, 1, dtype=torch.float64, device=device)) / draws
    index = torch.searchsorted(cumulative, points).clamp(max=len(log_weights) - 1)
    shuffle = torch.rand(n, draws, device=device).argsort(1)
    return index.gather(1, shuffle).T


def gather(tensor: Tensor, index: Tensor) -> Tensor:
    """Picks chains of each target, (C, N, *) -> (S, N, *), by an index of shape (S, N)."""
    return tensor[index, torch.arange(index.shape[1], device=index.device)]


def covariances(z: Tensor, log_weights: Tensor, dense: bool = False) -> Tensor:
    """The weighted variances of points (C, N, D), with shape :math:`(N, D)`; or the covariances, :math:`(N, D, D)`."""
    w = log_weights.softmax(0).to(z.dtype).unsqueeze(-1)
    centred = z - (w * z).sum(0)
    return torch.einsum("cni,cnj->nij", w * centred, centred) if dense else (w * centred.square()).sum(0)


def correlations(z: Tensor, log_weights: Tensor) -> Tensor:
    """The weighted correlations of points (C, N, D), in the mean over targets, with shape :math:`(D, D)`."""
    root = log_weights.softmax(0).sqrt().to(z.dtype).unsqueeze(-1)
    centred = root * (z - (root.square() * z).sum(0))
    standard = (centred / centred.square().sum(0).sqrt().clamp(min=1e-12)).flatten(0, 1)
    return standard.T @ standard / z.shape[1]


class Correlated(Metric):
    """Scales of each target (*B, D) after a factor (D, D) of correlations that all of them share."""

    kind = "correlated"

    def __init__(self, scale: Tensor, factor: Tensor) -> None:
        self.scale, self.factor = scale, factor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.scale, self.factor

    def push(self, u: Tensor) -> Tensor:
        return self.scale * (u @ self.factor.mT)

    def pull(self, g: Tensor) -> Tensor:
        return (self.scale * g) @ self.factor

    def whiten(self, z: Tensor) -> Tensor:
        u: Tensor = torch.linalg.solve_triangular(self.factor.mT, z / self.scale, upper=True, left=False)
        return u

    def pull_inverse(self, q: Tensor) -> Tensor:
        g: Tensor = torch.linalg.solve_triangular(self.factor, q, upper=False, left=False)
        return g / self.scale

    def scaled(self, factor: float | Tensor) -> Metric:
        return Correlated(self.scale * (factor.unsqueeze(-1) if isinstance(factor, Tensor) else factor), self.factor)


def cholesky_factors(covariance: Tensor, effective: Tensor) -> Tensor:
    """Cholesky factors of covariances (*, D, D), drawn to their diagonal the more the fewer draws (*) they are from."""
    diagonal = covariance.diagonal(dim1=-2, dim2=-1).clamp(min=1e-12).diag_embed()
    share = (effective / (effective + 5 + 0.5 * covariance.shape[-1])).reshape(*effective.shape, 1, 1)
    factor: Tensor = torch.linalg.cholesky((share * covariance + (1 - share) * diagonal).double())
    return factor.to(covariance)
