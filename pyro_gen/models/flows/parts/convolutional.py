"""One step of Glow: activation norm, invertible 1 x 1 convolution, affine coupling by a convolutional network."""

import torch
from torch import Tensor, nn

__all__ = ["Coupling", "Step"]

MAX_LOG_SCALE = 3.0  # of a coupling: a wild step of the optimiser must not overflow


class Coupling(nn.Module):
    """Affine maps of some channels by a network of others: shift and log-scale, zero at first."""

    def __init__(self, seen: int, moved: int, hidden: int, features: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Conv2d(seen, hidden, 3, padding=1)
        self.context = nn.Linear(features, hidden, bias=False) if features else None
        self.rest = nn.Sequential(nn.SiLU(), nn.Conv2d(hidden, hidden, 1), nn.SiLU(), nn.Dropout(dropout))
        self.last = nn.Conv2d(hidden, 2 * moved, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, a: Tensor, h: Tensor | None) -> tuple[Tensor, Tensor]:
        x = self.first(a)
        if self.context is not None and h is not None:
            x = x + self.context(h)[..., None, None]
        shift, raw = self.last(self.rest(x)).chunk(2, 1)
        return shift, MAX_LOG_SCALE * torch.tanh(raw / MAX_LOG_SCALE)


class Step(nn.Module):
    """Activation norm, 1 x 1 convolution and coupling of images (N, C, H, W), C at least 2."""

    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int, hidden: int, features: int, dropout: float) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))
        rotation = torch.linalg.qr(torch.randn(channels, channels, dtype=torch.float64))[0]
        p, lower, upper = (m.to(self.loc.dtype) for m in torch.linalg.lu(rotation))
        self.register_buffer("permutation", p)
        self.register_buffer("sign", upper.diagonal().sign())
        self.log_diagonal = nn.Parameter(upper.diagonal().abs().log())
        self.lower, self.upper = nn.Parameter(lower.tril(-1)), nn.Parameter(upper.triu(1))
        self.kept = channels // 2
        self.coupling = Coupling(self.kept, channels - self.kept, hidden, features, dropout)

    def _triangles(self) -> tuple[Tensor, Tensor]:
        lower = self.lower.tril(-1) + torch.eye(len(self.loc)).to(self.loc)
        return lower, self.upper.triu(1) + (self.sign * self.log_diagonal.exp()).diag()

    def encode(self, x: Tensor, h: Tensor | None) -> tuple[Tensor, Tensor]:
        """Towards noise; the log-determinant of this map is (N)."""
        lower, upper = self._triangles()
        y = (x - self.loc[:, None, None]) * (-self.log_scale).exp()[:, None, None]
        z = torch.einsum("ab,nbij->naij", self.permutation @ lower @ upper, y)
        a, b = z.split((self.kept, z.shape[1] - self.kept), 1)
        shift, log_scale = self.coupling(a, h)
        b = (b - shift) * (-log_scale).exp()
        log_det = x.shape[2] * x.shape[3] * (self.log_diagonal - self.log_scale).sum()
        return torch.cat([a, b], 1), log_det - log_scale.sum((1, 2, 3))

    def decode(self, u: Tensor, h: Tensor | None) -> Tensor:
        lower, upper = self._triangles()
        a, b = u.split((self.kept, u.shape[1] - self.kept), 1)
        shift, log_scale = self.coupling(a, h)
        z = torch.cat([a, b * log_scale.exp() + shift], 1)
        y: Tensor = torch.linalg.solve_triangular(
            lower, torch.einsum("ba,nbij->naij", self.permutation, z).flatten(2), upper=False, unitriangular=True
        )
        y = torch.linalg.solve_triangular(upper, y, upper=True).view_as(z)
        return y * self.log_scale.exp()[:, None, None] + self.loc[:, None, None]

    def start(self, x: Tensor) -> None:
        deviation = x.std((0, 2, 3), correction=0)
        self.loc.copy_(x.mean((0, 2, 3)))
        self.log_scale.copy_(torch.where(deviation > 0, deviation, 1.0).log())
