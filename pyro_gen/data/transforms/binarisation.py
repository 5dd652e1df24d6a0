"""Grey levels as zeros and ones: by a threshold, or at random."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_gen._random import WEYL, mix
from pyro_gen.data.transforms.base import Transform, by_rows, check_levels, check_range

__all__ = ["Binarize", "DynamicBinarize", "JitteredBinarize", "StochasticBinarize", "hashed_uniform"]


@dataclass(frozen=True)
class Binarize(Transform):
    r"""Creates the fixed binarisation :math:`y = 1[x \ge t]`.

    Arguments:
        threshold: The value from which on an entry is one.

    Example:
        >>> Binarize(8.0)(torch.tensor([[0.0, 8.0, 16.0]]))
        tensor([[0., 1., 1.]])
    """

    threshold: float
    levels_out = 2

    def _forward(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        return torch.where(torch.isnan(x), x, (x >= self.threshold).to(x.dtype))


@dataclass(frozen=True)
class JitteredBinarize(Transform):
    r"""Creates the binarisation :math:`y = 1[x \ge t + s e]` with one draw of :math:`e \sim N(0, 1)` per datum.

    Data augmentation for training on images that will be binarised at the threshold :math:`t`: the same image with
    strokes a little thinner or thicker. It uses the grey levels, which a data set of binary images does not have.

    Arguments:
        threshold: The threshold :math:`t`.
        scale: The standard deviation :math:`s` of the threshold.

    Example:
        >>> grey = torch.full((1000, 1), 8.0)
        >>> generator = torch.Generator().manual_seed(0)
        >>> 0.45 < JitteredBinarize(8.0, 1.0)(grey, generator).mean().item() < 0.55
        True
    """

    threshold: float
    scale: float
    draws = True
    levels_out = 2

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise ValueError(f"scale: expected a positive number, got {self.scale!r}; Binarize has no jitter.")

    def _forward(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        shape = (len(x), *(1 for _ in x.shape[1:]))
        jitter = torch.randn(shape, generator=generator, dtype=x.dtype, device=x.device)
        return torch.where(torch.isnan(x), x, (x >= self.threshold + self.scale * jitter).to(x.dtype))


@dataclass(frozen=True)
class DynamicBinarize(Transform):
    r"""Creates the dynamic binarisation :math:`y \sim \mathrm{Bernoulli}(x / (L - 1))`, drawn afresh at each call.

    Given to ``pg.fit`` as ``transform=``, every epoch sees other draws of the same grey images, which works as data
    augmentation. Test figures on dynamically and on fixed binarised data are not comparable.

    References:
        | On the Quantitative Analysis of Deep Belief Networks (Salakhutdinov & Murray, 2008)
        | https://dl.acm.org/doi/10.1145/1390156.1390266

    Arguments:
        levels: Number of grey levels :math:`L`: data has values in [0, L - 1] (256 for MNIST as loaded; 2 where the
            data is already a probability).

    Example:
        >>> half = torch.full((1000, 1), 127.5)
        >>> generator = torch.Generator().manual_seed(0)
        >>> 0.45 < DynamicBinarize(256)(half, generator).mean().item() < 0.55
        True
    """

    levels: int
    draws = True
    levels_out = 2

    def __post_init__(self) -> None:
        check_levels(self.levels)

    def _forward(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        check_range(self, x, self.levels - 1)
        uniform = torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        return torch.where(torch.isnan(x), x, (uniform * (self.levels - 1) < x).to(x.dtype))


@dataclass(frozen=True)
class StochasticBinarize(Transform):
    r"""Creates the binarisation :math:`y \sim \mathrm{Bernoulli}(x / (L - 1))`, drawn once and for all.

    The draw is a pure function of the datum and the seed: an image gets the same zeros and ones in every batch, epoch,
    process and on every device. So there is one binarised data set per seed, as with the binarised MNIST of the
    literature, and no copy of it need be kept. (Equal images get equal draws.)

    Arguments:
        levels: Number of grey levels :math:`L`: data has values in [0, L - 1].
        seed: Which of the binarised data sets.

    Example:
        >>> grey = torch.tensor([[3.0, 8.0, 14.0], [5.0, 8.0, 11.0]])
        >>> fixed = StochasticBinarize(17, seed=1)
        >>> bool((fixed(grey)[1] == fixed(grey[1:])[0]).all())
        True
    """

    levels: int
    seed: int = 0
    levels_out = 2

    def __post_init__(self) -> None:
        check_levels(self.levels)

    def _forward(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        check_range(self, x, self.levels - 1)
        # In chunks: the hash holds several 64-bit copies of what it works on.
        draws = [(hashed_uniform(part, self.seed) * (self.levels - 1) < part).to(x.dtype) for part in x.split(1024)]
        return torch.where(torch.isnan(x), x, torch.cat(draws)) if draws else x


def hashed_uniform(x: Tensor, seed: int) -> Tensor:
    """Uniforms in [0, 1), float64, shaped like ``x``: SplitMix64 streams keyed by (seed, datum)."""
    values = by_rows(x).nan_to_num(nan=-1.0).double() + 0.0  # -0.0 becomes 0.0
    weyl = WEYL * torch.arange(1, values.shape[1] + 1, device=x.device)
    datum = mix(values.contiguous().view(torch.int64) ^ mix(weyl)).sum(1, keepdim=True)
    key = mix(datum + mix(torch.tensor(seed, device=x.device)))
    return (((mix(key + weyl) >> 11) & ((1 << 53) - 1)).double() * 2.0**-53).reshape(x.shape)
