"""What single precision takes from numbers that are large and differ little, such as Unix times."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_gen._errors import warn

__all__ = ["to_precision"]

MAX_SPACING = 0.05  # of neighbouring numbers, in standard deviations of a column: a greater one shows in a density


def to_precision(x: Tensor, dtype: torch.dtype, columns: Sequence[str] | None = None) -> Tensor:
    """Data in another precision, with a warning where that loses what its columns differ by.

    Arguments:
        x: The data, with shape :math:`(N, *)`, NaN where missing.
        dtype: The precision to go to.
        columns: The names of the columns, if they have some.

    Example:
        >>> import warnings
        >>> seconds = torch.tensor([1.7e9, 1.7e9 + 1, 1.7e9 + 3], dtype=torch.float64)
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     rounded = to_precision(seconds, torch.float32)
        >>> len(caught), (rounded.double() - seconds).abs().max().item()
        (1, 3.0)
    """
    out = x.to(dtype)
    if x.dtype != torch.float64 or torch.finfo(dtype).bits >= 64 or len(x) < 2:
        return out
    rows = x.detach().reshape(len(x), -1)
    seen = ~torch.isnan(rows)
    count = seen.sum(0).clamp(min=1)
    mean = rows.nan_to_num().sum(0) / count
    spread = ((rows - mean).nan_to_num().square().sum(0) / count).sqrt()
    step = rows.nan_to_num().abs().amax(0) * torch.finfo(dtype).eps
    coarse = ((spread > 0) & (step > MAX_SPACING * spread)).nonzero()[:, 0].tolist()
    if coarse:
        first = coarse[0]
        what = f"Column {first if columns is None else repr(columns[first])}" if rows.shape[1] > 1 else "The data"
        more = f" and {len(coarse) - 1} more" if len(coarse) > 1 else ""
        precision = str(dtype).removeprefix("torch.")
        warn(
            f"{what}{more}: numbers near {float(mean[first]):.6g} that differ by {float(spread[first]):.2g} or so lose "
            f"that in {precision}, in which the program computes. Standardise them before, as by "
            "fit(transform=Standardize.fit(x)) on float64 data, or compute in float64 (program.double(), a tensor of "
            "float64 for a plain function)."
        )
    return out
