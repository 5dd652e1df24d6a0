r"""Sequences of different length: padded with NaN at the end, which is beyond the sequence, and not unseen.

A sequence of length :math:`L` has the density of its first :math:`L` steps, and what stands in later steps counts for
nothing, neither in the model nor in the guide:

.. math:: \log p(x) = \sum_{t \le L} \log p(x_t, z_t \mid x_{<t}, z_{<t}) .

:func:`steps` is a loop over time inside the data plate that says so. NaN before the end is not seen, as everywhere.
"""

from collections.abc import Iterator
from typing import Any

import pyro
import torch
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_gen._internals import handlers
from pyro_gen.observation import note_lengths
from pyro_gen.traces import DATA_PLATE

__all__ = ["lengths", "steps"]


def lengths(x: Tensor) -> Tensor:
    """How many steps sequences have that are padded with NaN at the end.

    Arguments:
        x: Sequences with shape :math:`(N, T, *)`.

    Returns:
        For each the number of steps up to the last one with anything seen, with shape :math:`(N)`. A sequence of which
        nothing is seen, one to be generated say, is not known to end: it has T.

    Example:
        >>> nan = torch.nan
        >>> lengths(torch.tensor([[0.5, nan, nan], [nan, 1.0, nan], [nan, nan, nan]])).tolist()
        [1, 2, 3]
    """
    if x.dim() < 2:
        raise ValueError(f"lengths got data of shape {tuple(x.shape)}: give sequences of shape (N, T, ...).")
    count = x.shape[1]
    seen = ~torch.isnan(x).reshape(*x.shape[:2], -1).all(-1)
    last = (seen * torch.arange(1, count + 1, device=x.device)).amax(1)
    return torch.where(last == 0, count, last)


def steps(x: Tensor, lengths: Tensor | None = None, *, history: int = 1) -> Iterator[int]:
    """Loops over the steps of sequences, inside the data plate: sites of steps beyond the end of a row count nothing.

    It is ``pyro.markov`` over a range, with each step masked where a sequence has ended. Imputation and generation
    leave what is beyond the end NaN. Where a step depends on a missing value before, see :func:`pyro_gen.observe`.

    Arguments:
        x: The sequences that the program was called with, with shape :math:`(N, T, *)`.
        lengths: The length of each, with shape :math:`(N)`, as part of the context say; left out, they are derived by
            :func:`lengths`.
        history: How many steps back a step depends on, for sums over discrete variables.

    Yields:
        The steps 0, 1, ..., T - 1.

    Raises:
        ValueError: The loop does not stand in a plate of N rows, or the lengths are not one for each row.

    Example:
        >>> import pyro, torch
        >>> import pyro.distributions as dist
        >>> import pyro_gen as pg
        >>> class Walk(pg.Program):
        ...     def model(self, x):
        ...         with self.plate(x):
        ...             last = torch.zeros(len(x))
        ...             for t in pg.steps(x):
        ...                 last = pg.observe(f"x_{t}", dist.Normal(last, 1.0), x[:, t])
        >>> x = torch.tensor([[0.0, 0.0, 0.0], [0.0, torch.nan, torch.nan]])
        >>> pg.log_likelihood(Walk(), x).value.tolist()  # three steps, and one
        [-2.7568..., -0.9189...]
        >>> pg.impute(Walk(), x, draws=1)[0].tolist()
        [[0.0, 0.0, 0.0], [0.0, nan, nan]]
    """
    ends = _lengths(x) if lengths is None else lengths
    if ends.shape != x.shape[:1]:
        raise ValueError(
            f"steps(lengths) has shape {tuple(ends.shape)}: give one length for each of the {len(x)} sequences."
        )
    note_lengths(x, ends)
    shape = (-1,) + (1,) * (-1 - _data_dim(len(x)))
    for t in pyro.markov(range(x.shape[1]), history=history):
        with _Masked((t < ends).reshape(shape)):
            yield t


_lengths = lengths


class _Masked(Messenger):
    """Effect handler: masks all sites inside; what a statement completes is drawn where it is masked, too."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask = mask

    def _pyro_sample(self, msg: Any) -> None:
        msg["mask"] = self.mask if msg["mask"] is None else msg["mask"] & self.mask


def _data_dim(rows: int) -> int:
    """The batch dimension of the data plate inside which this is called."""
    vectorised: list[Any] = [h for h in handlers() if isinstance(h, IndepMessenger) and h.dim is not None]
    plates = [h for h in vectorised if getattr(h, "subsample_size", h.size) == rows]
    named = [h for h in plates if h.name == DATA_PLATE] or plates
    if not named:
        raise ValueError(
            f"steps(x) is to stand inside the data plate of the {rows} sequences: write it under `with self.plate(x):`."
        )
    dim: int = named[-1].dim
    return dim
