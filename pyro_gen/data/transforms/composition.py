"""One transform after another, and bits per dimension."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_gen.data.transforms.base import Transform

__all__ = ["Compose", "bits_per_dim"]


class Compose(Transform):
    r"""Creates the composition of transforms, applied from first to last. Log-Jacobians add up.

    Arguments:
        transforms: At least one transform.

    Raises:
        ValueError: If there is none.
        TypeError: If one of them is not a :class:`Transform`.

    Example:
        >>> from pyro_gen.data import Dequantize, Logit
        >>> t = Compose([Dequantize(256), Logit(1e-6)])
        >>> y, ladj = t.call_and_ladj(torch.tensor([[0.0, 128.0, 255.0]]), torch.Generator().manual_seed(0))
        >>> y.shape, ladj.shape
        (torch.Size([1, 3]), torch.Size([1]))
    """

    def __init__(self, transforms: Sequence[Transform]) -> None:
        if not transforms:
            raise ValueError("Compose: expected at least one transform.")
        for transform in transforms:
            if not isinstance(transform, Transform):
                raise TypeError(f"Compose: expected transforms, got {type(transform).__name__}.")
        self.transforms = tuple(transforms)
        self.draws = any(t.draws for t in transforms)
        self.constant_volume = all(t.constant_volume for t in transforms)
        self.levels_out = transforms[-1].levels_out

    def __repr__(self) -> str:
        return f"Compose([{', '.join(map(repr, self.transforms))}])"

    def _forward(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        for transform in self.transforms:
            x = transform(x, generator)
        return x

    def log_abs_det_jacobian(self, x: Tensor) -> Tensor:
        if self.draws and not self.constant_volume:
            raise ValueError(
                f"{self}: the log-Jacobian depends on the draw; "
                "y, ladj = transform.call_and_ladj(x) gives both from one draw."
            )
        # With constant volume any draw will do, and the caller's generator is left alone.
        return self.call_and_ladj(x, torch.Generator(x.device).manual_seed(0))[1]

    def call_and_ladj(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for transform in self.transforms:
            x, ladj = transform.call_and_ladj(x, generator)
            total = total + ladj
        return x, total

    def inverse(self, y: Tensor) -> Tensor:
        for transform in reversed(self.transforms):
            y = transform.inverse(y)
        return y


def bits_per_dim(log_likelihood: Tensor, dims: int, log_abs_det_jacobian: Tensor | float = 0.0) -> Tensor:
    r"""Converts log-likelihoods of transformed data to bits per dimension of the original data.

    .. math:: \text{bits/dim} = -\frac{\log p(y) + \log|\det \partial y/\partial x|}{D \log 2}

    Arguments:
        log_likelihood: :math:`\log p(y)` in nats, y the data as the model saw it, per datum (N,) or a mean.
        dims: Number :math:`D` of entries of one datum.
        log_abs_det_jacobian: :math:`\log|\det \partial y/\partial x|` in nats, as the transform returns it: added, so
            that division by 256 costs 8 bits per entry.

    Returns:
        Bits per dimension, float64, with the shape of the inputs. Smaller is better.

    Raises:
        ValueError: If ``dims`` is not a positive integer.

    Example:
        >>> from pyro_gen.data import Dequantize
        >>> x = torch.tensor([[0.0, 17.0, 255.0]])
        >>> uniform = torch.zeros(1)  # log-density of the uniform distribution on the unit cube
        >>> round(bits_per_dim(uniform, 3, Dequantize(256).log_abs_det_jacobian(x)).item(), 12)
        8.0
    """
    if isinstance(dims, bool) or not isinstance(dims, int) or dims < 1:
        raise ValueError(f"dims: expected a positive integer, got {dims!r}.")
    return -(log_likelihood.double() + log_abs_det_jacobian) / (dims * math.log(2))
