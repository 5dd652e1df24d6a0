"""Zero mean and unit scale."""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from pyro_gen.data.transforms.base import Transform, by_rows, check_batch

__all__ = ["Standardize"]


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
        check_batch("Standardize.fit", x)
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
        return -by_rows(torch.where(torch.isnan(x), 0.0, log_scale)).sum(1)

    def inverse(self, y: Tensor) -> Tensor:
        self._check_event(y)
        return y * self.scale.to(y) + self.mean.to(y)
