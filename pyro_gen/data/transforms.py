r"""Transforms of data, and what they do to a density.

A transform is a callable ``y = t(x)`` on a batch ``x`` of shape (N, \*event). Grey levels become zeros and ones
(binarisation) or real numbers (dequantisation), columns get zero mean and unit scale, pixels leave the unit interval.
A model of :math:`y` is a model of :math:`x` once the change of volume is accounted for,

.. math:: \log p(x) = \log p(y) + \log \left| \det \frac{\partial y}{\partial x} \right| ,

and ``t.log_abs_det_jacobian(x)`` is that last term, per datum, in nats. The sign is the whole point: a transform that
shrinks the data, as division by 256 does, makes :math:`p(y)` larger than :math:`p(x)`, and its term is negative.
:func:`bits_per_dim` puts the two together. Binarisation throws information away, so it has no such term: a likelihood
of binarised data is the likelihood of another data set.

NaN means "not observed" and passes through every transform untouched; a missing entry adds nothing to the log-Jacobian,
in step with the marginal likelihood of what was seen.

References:
    | A Note on the Evaluation of Generative Models (Theis et al., 2016): uniform dequantisation, bits/dim
    | https://arxiv.org/abs/1511.01844
    | Masked Autoregressive Flow for Density Estimation (Papamakarios et al., 2017): the logit transform
    | https://arxiv.org/abs/1705.07057
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from pyro_gen._random import WEYL, mix

__all__ = [
    "Binarize",
    "Compose",
    "Dequantize",
    "DynamicBinarize",
    "JitteredBinarize",
    "Logit",
    "Standardize",
    "StochasticBinarize",
    "Transform",
    "bits_per_dim",
]


class Transform(ABC):
    r"""A transform of a batch of data.

    Subclasses write ``_forward``, and the Jacobian and the inverse where there are any. All take floating tensors of
    shape (N, \*event) and leave NaN where it is.

    Attributes:
        draws: Whether the result depends on a random draw at each call.
        constant_volume: Whether the log-Jacobian is the same for all values of the data.
        levels_out: Number of levels of the result where that is discrete, else None.
    """

    draws: bool = False
    constant_volume: bool = True
    levels_out: int | None = None

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        r"""Transforms a batch.

        Arguments:
            x: The data, with shape (N, \*event). NaN = not observed.
            generator: Source of the random draws, on the device of ``x``; None is torch's global generator. Transforms
                that do not draw ignore it.

        Returns:
            The transformed data, with the shape, dtype and device of ``x``.

        Raises:
            TypeError: If ``x`` is not a floating tensor.
            ValueError: If ``x`` has no batch dimension or has values outside the domain of the transform.
        """
        _check_batch(self, x)
        return self._forward(x, generator)

    @abstractmethod
    def _forward(self, x: Tensor, generator: torch.Generator | None) -> Tensor: ...

    def log_abs_det_jacobian(self, x: Tensor) -> Tensor:
        r"""Returns :math:`\log|\det \partial y / \partial x|` at ``x``, summed over the observed entries.

        Arguments:
            x: The data before the transform, with shape (N, \*event).

        Returns:
            Nats per datum, with shape (N,), float64.

        Raises:
            TypeError: If the transform is not a bijection.
            ValueError: If the answer depends on a draw (see :meth:`call_and_ladj`).
        """
        raise TypeError(
            f"{self} is not a bijection, so it has no log-Jacobian: likelihoods of its result "
            "are not likelihoods of the original data."
        )

    def call_and_ladj(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        r"""Returns the transformed data and the log-Jacobian of the same call, draws included.

        Arguments:
            x: The data, with shape (N, \*event).
            generator: As in ``__call__``.

        Returns:
            The result, with shape (N, \*event), and nats per datum, with shape (N,), float64.

        Raises:
            TypeError: If the transform is not a bijection.
        """
        return self(x, generator), self.log_abs_det_jacobian(x)

    def inverse(self, y: Tensor) -> Tensor:
        r"""Takes transformed data, or samples of a model of it, back to the original scale.

        Arguments:
            y: Data on the transformed scale, with shape (N, \*event).

        Raises:
            TypeError: If the transform is not a bijection.
        """
        raise TypeError(f"{self} is not a bijection: what it threw away cannot be restored.")


def _rows(x: Tensor) -> Tensor:
    return x.reshape(len(x), math.prod(x.shape[1:]))  # -1 would be ambiguous for an empty batch


def _check_batch(who: object, x: object) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{who}: expected a floating tensor, got {kind}; pg.data.as_tensor(x) makes one.")
    if x.ndim == 0:
        raise ValueError(f"{who}: expected a batch of shape (N, *event), got a scalar.")


def _check_levels(levels: int) -> None:
    if isinstance(levels, bool) or not isinstance(levels, int) or levels < 2:
        raise ValueError(f"levels: expected an integer >= 2, got {levels!r}.")


def _check_range(transform: Transform, x: Tensor, upper: float) -> None:
    # Comparisons with NaN are false, so missing entries pass.
    bad = (x < 0) | (x > upper)
    if bad.any():
        raise ValueError(f"{transform}: expected values in [0, {upper:g}], got {x[bad][0].item():g}.")


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
        _check_levels(self.levels)

    def _forward(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        _check_range(self, x, self.levels - 1)
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
        _check_levels(self.levels)

    def _forward(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        _check_range(self, x, self.levels - 1)
        # In chunks: the hash holds several 64-bit copies of what it works on.
        draws = [(_hashed_uniform(part, self.seed) * (self.levels - 1) < part).to(x.dtype) for part in x.split(1024)]
        return torch.where(torch.isnan(x), x, torch.cat(draws)) if draws else x


def _hashed_uniform(x: Tensor, seed: int) -> Tensor:
    """Uniforms in [0, 1), float64, shaped like ``x``: SplitMix64 streams keyed by (seed, datum)."""
    values = _rows(x).nan_to_num(nan=-1.0).double() + 0.0  # -0.0 becomes 0.0
    weyl = WEYL * torch.arange(1, values.shape[1] + 1, device=x.device)
    datum = mix(values.contiguous().view(torch.int64) ^ mix(weyl)).sum(1, keepdim=True)
    key = mix(datum + mix(torch.tensor(seed, device=x.device)))
    return (((mix(key + weyl) >> 11) & ((1 << 53) - 1)).double() * 2.0**-53).reshape(x.shape)


@dataclass(frozen=True)
class Dequantize(Transform):
    r"""Creates the uniform dequantisation :math:`y = (x + u) / L`, :math:`u \sim U[0, 1)`, with values in [0, 1).

    With :math:`\log|\partial y/\partial x| = -D \log L`, a density of :math:`y` gives a lower bound of the probability
    of the discrete :math:`x`: :math:`E_u \log p(x + u) \le \log \int p(x + u) \, du = \log P(x)` (Theis et al., 2016).

    Arguments:
        levels: Number of levels :math:`L`: data has the values 0, 1, ..., L - 1.

    Example:
        >>> x = torch.tensor([[0.0, 255.0]])
        >>> t = Dequantize(256)
        >>> bool((t.inverse(t(x)) == x).all())
        True
        >>> round(t.log_abs_det_jacobian(x).item() / math.log(2), 6)
        -16.0
    """

    levels: int
    draws = True

    def __post_init__(self) -> None:
        _check_levels(self.levels)

    def _forward(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        _check_range(self, x, self.levels - 1)
        between = x > x.floor()
        if between.any():
            raise ValueError(
                f"{self}: expected whole numbers 0..{self.levels - 1}, got {x[between][0].item():g}; "
                "was the data scaled or dequantised before?"
            )
        uniform = torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        # x + u may round up to x + 1, which belongs to the next level, or at the top lies outside [0, 1).
        top = torch.nextafter(x.detach() + 1, x.detach())  # detached: torch 2.8 has no derivative of nextafter
        return torch.minimum(x + uniform, top) / self.levels

    def log_abs_det_jacobian(self, x: Tensor) -> Tensor:
        return -math.log(self.levels) * (~torch.isnan(_rows(x))).sum(1).double()

    def inverse(self, y: Tensor) -> Tensor:
        return (y * self.levels).floor().clamp(0, self.levels - 1)


@dataclass(frozen=True, eq=False)
class Standardize(Transform):
    r"""Creates the standardisation :math:`y = (x - m) / s`, entry by entry.

    Arguments:
        mean: The means :math:`m`, with the shape of one datum.
        scale: The scales :math:`s > 0`, with the shape of one datum.

    Raises:
        ValueError: If the shapes differ, or a scale is not positive and finite, or a mean not finite.

    Example:
        >>> train = torch.tensor([[1.0, 10.0], [3.0, float("nan")], [5.0, 30.0]])
        >>> t = Standardize.fit(train)
        >>> t.mean, t.scale
        (tensor([ 3., 20.]), tensor([ 1.6330, 10.0000]))
        >>> t.inverse(t(train))[2]
        tensor([ 5., 30.])
    """

    mean: Tensor
    scale: Tensor

    def __post_init__(self) -> None:
        if self.mean.shape != self.scale.shape:
            raise ValueError(
                f"Standardize: mean has shape {tuple(self.mean.shape)}, scale {tuple(self.scale.shape)}; "
                "expected the shape of one datum for both."
            )
        if not (self.mean.isfinite().all() and self.scale.isfinite().all() and (self.scale > 0).all()):
            raise ValueError("Standardize: expected finite means and finite positive scales.")

    def __repr__(self) -> str:
        return f"Standardize(event_shape={tuple(self.mean.shape)})"

    @classmethod
    def fit(cls, x: Tensor) -> Self:
        r"""Takes mean and standard deviation (dividing by the count) of the observed entries.

        Fit on training data only: moments that have seen the test data leak it.

        Arguments:
            x: Training data, with shape (N, \*event). NaN = not observed.

        Raises:
            TypeError: If ``x`` is not a floating tensor.
            ValueError: If an entry has no observed value or is constant.
        """
        _check_batch("Standardize.fit", x)
        wide = x.double()
        count = (~torch.isnan(wide)).sum(0)
        mean = wide.nanmean(0)
        scale = (wide - mean).square().nanmean(0).sqrt()
        # Compared without arithmetic: the rounded standard deviation of a constant need not be zero.
        constant = (wide.nan_to_num(nan=math.inf).amin(0) == wide.nan_to_num(nan=-math.inf).amax(0)) & (count > 0)
        for bad, what in ((count == 0, "no observed value"), (constant, "one constant value")):
            if bad.any():
                places = [tuple(i) if len(i) != 1 else i[0] for i in bad.nonzero().tolist()]
                shown = ", ".join(map(str, places[:5])) + (", ..." if len(places) > 5 else "")
                raise ValueError(
                    f"Standardize.fit: {len(places)} of {bad.numel()} entries of a datum have {what} "
                    f"in the training data (index {shown}); leave them out."
                )
        return cls(mean.to(x.dtype), scale.to(x.dtype))

    def _check_event(self, x: Tensor) -> None:
        if x.shape[1:] != self.mean.shape:
            raise ValueError(f"{self}: got data with event shape {tuple(x.shape[1:])}.")

    def _forward(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        self._check_event(x)
        return (x - self.mean.to(x)) / self.scale.to(x)

    def log_abs_det_jacobian(self, x: Tensor) -> Tensor:
        self._check_event(x)
        log_scale = self.scale.to(x.device).double().log()
        return -_rows(torch.where(torch.isnan(x), 0.0, log_scale)).sum(1)

    def inverse(self, y: Tensor) -> Tensor:
        self._check_event(y)
        return y * self.scale.to(y) + self.mean.to(y)


@dataclass(frozen=True)
class Logit(Transform):
    r"""Creates :math:`y = \mathrm{logit}(\alpha + (1 - 2\alpha) x)`, which takes [0, 1] to the real line.

    .. math:: \log\left|\frac{\partial y}{\partial x}\right| = \sum_d \log(1 - 2\alpha) - \log s_d - \log(1 - s_d),
              \quad s_d = \alpha + (1 - 2\alpha) x_d

    References:
        | Masked Autoregressive Flow for Density Estimation (Papamakarios et al., 2017), appendix
        | https://arxiv.org/abs/1705.07057

    Arguments:
        alpha: Distance kept from 0 and 1; the paper has 1e-6 for MNIST, 0.05 for CIFAR-10.

    Raises:
        ValueError: If ``alpha`` is not in (0, 1/2).

    Example:
        >>> Logit(0.05)(torch.tensor([[0.5]]))
        tensor([[0.]])
    """

    alpha: float = 1e-6
    constant_volume = False

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 0.5:
            raise ValueError(f"Logit: expected alpha in (0, 1/2), got {self.alpha!r}.")

    def _logs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns log s and log(1 - s), each from its own end of the interval, so that neither loses digits."""
        _check_range(self, x, 1.0)
        shrink = 1 - 2 * self.alpha
        return (self.alpha + shrink * x).log(), (self.alpha + shrink * (1 - x)).log()

    def _forward(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        log_s, log_1_s = self._logs(x)
        return log_s - log_1_s

    def log_abs_det_jacobian(self, x: Tensor) -> Tensor:
        log_s, log_1_s = self._logs(x.double())
        # NaN appears only where x is missing.
        return _rows(math.log1p(-2 * self.alpha) - log_s - log_1_s).nansum(1)

    def inverse(self, y: Tensor) -> Tensor:
        return ((y.sigmoid() - self.alpha) / (1 - 2 * self.alpha)).clamp(0, 1)


class Compose(Transform):
    r"""Creates the composition of transforms, applied from first to last. Log-Jacobians add up.

    Arguments:
        transforms: At least one transform.

    Raises:
        ValueError: If there is none.
        TypeError: If one of them is not a :class:`Transform`.

    Example:
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
        >>> x = torch.tensor([[0.0, 17.0, 255.0]])
        >>> uniform = torch.zeros(1)  # log-density of the uniform distribution on the unit cube
        >>> round(bits_per_dim(uniform, 3, Dequantize(256).log_abs_det_jacobian(x)).item(), 12)
        8.0
    """
    if isinstance(dims, bool) or not isinstance(dims, int) or dims < 1:
        raise ValueError(f"dims: expected a positive integer, got {dims!r}.")
    return -(log_likelihood.double() + log_abs_det_jacobian) / (dims * math.log(2))
