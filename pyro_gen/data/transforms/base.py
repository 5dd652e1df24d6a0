"""What a transform is, and what all of them ask of data."""

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

__all__ = ["Transform", "by_rows", "check_batch", "check_levels", "check_range", "require_function"]


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
        check_batch(self, x)
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


def by_rows(x: Tensor) -> Tensor:
    """The entries of each datum in a row, (N, D)."""
    return x.reshape(len(x), math.prod(x.shape[1:]))  # -1 would be ambiguous for an empty batch


def check_batch(who: object, x: object) -> None:
    """Refuses what is no batch of numbers."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{who}: expected a floating tensor, got {kind}; pg.data.as_tensor(x) makes one.")
    if x.ndim == 0:
        raise ValueError(f"{who}: expected a batch of shape (N, *event), got a scalar.")


def check_levels(levels: int) -> None:
    """Refuses what is no number of levels."""
    if isinstance(levels, bool) or not isinstance(levels, int) or levels < 2:
        raise ValueError(f"levels: expected an integer >= 2, got {levels!r}.")


def check_range(transform: Transform, x: Tensor, upper: float) -> None:
    """Refuses values outside of [0, upper]."""
    # Comparisons with NaN are false, so missing entries pass.
    bad = (x < 0) | (x > upper)
    if bad.any():
        raise ValueError(f"{transform}: expected values in [0, {upper:g}], got {x[bad][0].item():g}.")


def require_function(transform: Any) -> None:
    """Refuses what is given as a transform of data, and is none: a text, or the class of one.

    Raises:
        TypeError: It is no function.
    """
    if transform is not None and (isinstance(transform, type) or not callable(transform)):
        given = transform.__name__ if isinstance(transform, type) else repr(transform)
        raise TypeError(f"transform={given}: give a function of data, or an instance, pg.data.Binarize(8) say.")
