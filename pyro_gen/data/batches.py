"""Minibatches: which data a training step sees, as a pure function of (seed, epoch, step, rank)."""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset, default_collate

from pyro_gen._identity import digest
from pyro_gen._random import seeded
from pyro_gen.data.tables import as_numbers, as_tensor
from pyro_gen.data.transforms import Transform

__all__ = ["Batches", "on_device"]


class Batches:
    r"""Creates the minibatches of a data set, epoch by epoch.

    An epoch goes once through the data in a random order (that of the data, if one batch holds them all), which is a
    pure function of (seed, epoch): a run that is
    resumed at epoch 7 sees what the uninterrupted run saw, and all ranks agree without talking.

    **Several ranks.** Each global batch is cut into one contiguous slice per rank. All slices have the same size, so
    that the plain average over ranks of the gradients of the mean loss, which is what DDP takes, is the gradient of
    the mean loss over the global batch. Therefore ``batch_size`` must be a multiple of ``world_size``, and the last,
    short batch of an epoch gives up the fewer than ``world_size`` data that would make its slices unequal (another
    epoch's order takes others). With one rank nothing is left out.

    Arguments:
        data: The data: ``x`` (anything that :func:`as_tensor` takes); a tuple ``(x, *context)``, of which
            tensors and arrays with a row for each datum are cut into minibatches, and all else is handed on;
            or a torch map-style ``Dataset`` whose items are ``x`` or tuples
            ``(x, *context)``, of which every part is passed on. ``x`` becomes floating; context is left as it is.
        batch_size: Number of data in a global batch, all ranks together.
        seed: Seed of the order and of the transform's draws.
        transform: Applied to the ``x`` of each batch. Its draws come from (seed, epoch, step, rank).
        dtype: Of ``x`` after the transform, which sees all digits of the data: in single precision the hours of a year
            as Unix times are hardly two different numbers. Left out, that of the data.
        rank: Which of the processes this one is.
        world_size: Number of processes.

    Attributes:
        size: Number of data in the whole data set, which is what the plate of a minibatch is scaled to.
        event_shape: Shape of one datum before the transform.

    Raises:
        TypeError: If the data is an iterable data set, or its items are neither tensors, numbers nor tuples of them.
        ValueError: If the data is empty, its parts differ in length or device, or the batch size does not suit.

    Example:
        >>> batches = Batches(torch.arange(5.0)[:, None], batch_size=2, seed=0)
        >>> len(batches), batches.size, batches.event_shape
        (3, 5, torch.Size([1]))
        >>> [len(x) for (x,) in batches.epoch(0)]
        [2, 2, 1]
        >>> sorted(torch.cat([x for (x,) in batches.epoch(1)]).flatten().tolist())
        [0.0, 1.0, 2.0, 3.0, 4.0]
    """

    size: int
    event_shape: torch.Size

    def __init__(
        self,
        data: Any,
        batch_size: int,
        *,
        seed: int,
        transform: Callable[[Tensor], Tensor] | None = None,
        dtype: torch.dtype | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size: expected a positive integer, got {batch_size!r}.")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank: expected one of 0..{world_size - 1} for world_size={world_size}, got {rank}.")
        if batch_size % world_size:
            raise ValueError(
                f"batch_size: expected a multiple of the {world_size} processes, got {batch_size}; "
                f"{batch_size + -batch_size % world_size} would do."
            )
        self._fetch: Callable[[Tensor], tuple[Any, ...]]
        if isinstance(data, Dataset) and not isinstance(data, TensorDataset):
            self.size = _dataset_size(data)
            self._device = torch.device("cpu")
            self._fetch = _DatasetRows(data)
            self.event_shape = self._fetch(torch.tensor([0]))[0].shape[1:]
        else:
            parts = _in_memory(data.tensors if isinstance(data, TensorDataset) else data)
            self.size = len(parts[0])
            self._device = parts[0].device
            has_rows = [isinstance(part, Tensor) and part.shape[:1] == (self.size,) for part in parts]
            self._fetch = lambda rows: tuple(
                [part.index_select(0, rows) if has else part for part, has in zip(parts, has_rows, strict=True)]
            )
            self.event_shape = parts[0].shape[1:]
        if self.size < world_size:
            raise ValueError(f"data: expected at least one datum for each of {world_size} processes, got {self.size}.")
        self.batch_size = batch_size
        self.seed = seed
        self.transform = transform
        self.dtype = dtype
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        """Number of steps of an epoch."""
        whole, rest = divmod(self.size, self.batch_size)
        return whole + (rest >= self.world_size)

    def __repr__(self) -> str:
        return f"Batches({self.size} data of shape {tuple(self.event_shape)}, {len(self)} steps of {self.batch_size})"

    def reordered(self, stream: int) -> "Batches":
        """The same data in other orders, with other draws of the transform."""
        other = copy.copy(self)
        other.seed = _mix_seed(self.seed, stream)
        return other

    def fingerprint(self) -> str:
        """A short text that differs where the data do; of a ``Dataset`` some of its items, if they are not random."""
        if isinstance(self._fetch, _DatasetRows):
            rows = torch.linspace(0, self.size - 1, min(self.size, 64)).long()
            first, again = (digest(self._fetch(rows)) for _ in range(2))
            return first if first == again else digest((self.size, [*self.event_shape]))
        step = max(1, 2**22 // max(1, self.event_shape.numel()))  # rows at a time: another device's come by copies
        starts = range(0, self.size, step)
        return digest(
            [digest(self._fetch(torch.arange(s, min(s + step, self.size), device=self._device))) for s in starts]
        )

    def rows(self, epoch: int) -> Iterator[Tensor]:
        """Which rows of the data the batches of :meth:`epoch` hold."""
        generator = torch.Generator().manual_seed(_mix_seed(self.seed, epoch))
        # One batch with everything in it stays in order: a guide with parameters for each datum relies on that.
        whole = self.batch_size >= self.size
        order = (torch.arange(self.size) if whole else torch.randperm(self.size, generator=generator)).to(self._device)
        for step in range(len(self)):
            batch = order[step * self.batch_size : (step + 1) * self.batch_size]
            share = len(batch) // self.world_size
            yield batch[self.rank * share : (self.rank + 1) * share] if self.world_size > 1 else batch

    def epoch(self, epoch: int) -> Iterator[tuple[Any, ...]]:
        r"""Goes once through the data.

        Arguments:
            epoch: Number of the epoch, from 0.

        Yields:
            Tuples ``(x, *context)``: this rank's slice of each global batch, ``x`` with shape (n, \*event), on the
            device of the data (the CPU for a ``Dataset``). What has no rows is whole.
        """
        for step, batch in enumerate(self.rows(epoch)):
            x, *context = self._fetch(batch)
            if self.transform is not None:
                x = self._transformed(self.transform, x, _mix_seed(self.seed, epoch, step, self.rank))
                x = x.to(self.dtype or x.dtype)
            yield x, *context

    @staticmethod
    def _transformed(transform: Callable[[Tensor], Tensor], x: Tensor, seed: int) -> Tensor:
        if isinstance(transform, Transform):
            if not transform.draws:
                return transform(x)
            return transform(x, torch.Generator(x.device).manual_seed(seed))
        # Anyone's callable draws from torch's global generators.
        with seeded(seed):
            return transform(x)


def on_device(parts: Sequence[Any], device: torch.device) -> list[Any]:
    """The parts of a batch, tensors on a device."""
    return [part.to(device) if isinstance(part, Tensor) else part for part in parts]


def _mix_seed(*words: int) -> int:
    """A well-mixed 32-bit seed (torch's CPU generator takes no more) of a few integers."""
    return int(np.random.SeedSequence(words).generate_state(1)[0])


def _in_memory(data: Any) -> tuple[Any, ...]:
    if isinstance(data, tuple):
        if not data:
            raise ValueError("data: expected (x, *context), got an empty tuple.")
        x, *context = data
    else:
        x, context = data, []
    parts: list[Any] = [as_tensor(x, "data")]
    for i, part in enumerate(context, 1):
        numbers = isinstance(part, list) and len(part) == len(parts[0]) and not any(isinstance(p, Tensor) for p in part)
        if not isinstance(part, Tensor) and (numbers or hasattr(part, "__array__")):
            part = as_numbers(part, f"context {i}")
        if isinstance(part, Tensor) and part.shape[:1] == parts[0].shape[:1] and part.device != parts[0].device:
            raise ValueError(f"data: part {i} of the tuple is on {part.device}, x on {parts[0].device}.")
        parts.append(part)
    return tuple(parts)


def _dataset_size(data: Dataset[Any]) -> int:
    if isinstance(data, IterableDataset) or not hasattr(data, "__len__"):
        raise TypeError("data: expected a map-style data set, with __len__ and __getitem__; this one can only iterate.")
    if len(data) == 0:
        raise ValueError("data: the data set is empty.")
    return len(data)


class _DatasetRows:
    """Rows of a map-style data set, as a tuple of batched tensors."""

    def __init__(self, data: Dataset[Any]) -> None:
        self.data = data

    def __call__(self, rows: Tensor) -> tuple[Tensor, ...]:
        items: Sequence[Any] = [self.data[i] for i in rows.tolist()]
        if not isinstance(items[0], tuple | list):
            items = [(item,) for item in items]
        try:
            parts = [default_collate(list(part)) for part in zip(*items, strict=True)]
        except (TypeError, RuntimeError, ValueError) as error:
            raise TypeError(f"data: items of the data set do not stack into a batch: {error}") from error
        wrong = [type(part).__name__ for part in parts if not isinstance(part, Tensor)]
        if wrong:
            raise TypeError(f"data: items of the data set must be tensors or tuples of tensors, got {wrong[0]}.")
        x = parts[0]
        return (x if x.is_floating_point() else x.to(torch.get_default_dtype()), *parts[1:])
