r"""Sequences of different length: padded with NaN at the end, which is beyond the sequence, and not unseen.

A sequence of length :math:`L` has the density of its first :math:`L` steps, and what stands in later steps counts for
nothing, neither in the model nor in the guide:

.. math:: \log p(x) = \sum_{t \le L} \log p(x_t, z_t \mid x_{<t}, z_{<t}) .

:func:`steps` is a loop over time inside the data plate that says so. NaN before the end is not seen, as everywhere.
:func:`scan` is a loop whose body is a function, with the carry and the outputs of ``jax.lax.scan``.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyro
import torch
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from pyro_gen._internals import handlers
from pyro_gen.observation import note_lengths
from pyro_gen.traces import DATA_PLATE

__all__ = ["lengths", "scan", "steps"]


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


def scan(
    body: Callable[[Any, Any], tuple[Any, Any]],
    carry: Any,
    xs: Any = None,
    *,
    length: int | None = None,
    dim: int = 0,
    lengths: Tensor | None = None,
    history: int = 1,
) -> tuple[Any, Any]:
    """Calls a function of a step again and again, with what it carries from one to the next: ``jax.lax.scan``.

    .. code-block:: python

        ys = []
        for t in pyro.markov(range(length)):
            carry, y = body(carry, xs[t])
            ys.append(y)
        return carry, torch.stack(ys)

    A site ``"z"`` of the body is ``"z_0"``, ``"z_1"``, ... in the steps, and a name with ``{t}`` has the number of the
    step there: sites have the names, and the program the density, of the loop that is written out. NaN is not observed,
    as everywhere, and :func:`pyro_gen.observe` returns the completed step, which may be carried on. Graphs of densities
    and of training steps have the body once, recorded and compiled, as they have that of a loop in Python.

    Arguments:
        body: Maps the carry and a step of ``xs`` to the next carry and an output.
        carry: What the first step is given: a tensor, or tuples, lists and mappings of them.
        xs: What is cut into steps, likewise; ``None`` gives each step ``None``.
        length: The number T of steps, if ``xs`` does not tell.
        dim: Along which dimension of ``xs`` steps are, and are put together: 0, or 1 of data with shape
            :math:`(N, T, *)`.
        lengths: Inside the data plate, with ``dim=1``: how many steps each sequence has, with shape :math:`(N)`
            (:func:`lengths`). What comes later counts nothing.
        history: How many steps back a step depends on, for sums over discrete variables.

    Returns:
        The last carry, and the outputs of all steps, stacked; ``None`` where the body has none. What depends on a
        discrete variable that is summed out cannot be stacked: observe it in the body.

    Raises:
        ValueError: There is no step, ``xs`` have different numbers of them, or the names of two sites meet: of
            ``"z"`` and ``"z_1"`` in step 1.

    Example:
        >>> import pyro, torch
        >>> import pyro.distributions as dist
        >>> import pyro_gen as pg
        >>> class Walk(pg.Program):
        ...     def model(self, x):  # (N, T)
        ...         def step(last, x_t):
        ...             completed = pg.observe("x", dist.Normal(last, 1.0), x_t)
        ...             return completed, completed
        ...         with self.plate(x):
        ...             return pg.scan(step, torch.zeros(len(x)), x, dim=1)[1]
        >>> x = torch.tensor([[0.0, 0.0, torch.nan], [0.0, torch.nan, torch.nan]])
        >>> pg.log_likelihood(Walk(), x).value.tolist()  # two steps, and one
        [-1.8378..., -0.9189...]
        >>> pg.impute(Walk(), x, draws=4).shape  # each completed step is what the next one follows
        torch.Size([4, 2, 3])
    """
    parts = [part for part in tree_leaves(xs) if part is not None]
    counts = {part.shape[dim] for part in parts} | ({length} if length is not None else set())
    if len(counts) != 1 or not (count := counts.pop()):
        raise ValueError(
            f"scan has xs of shapes {[tuple(part.shape) for part in parts]} and length={length}: give one number of "
            f"steps, at least 1, in dimension {dim} of all xs, or as length."
        )
    turns: Iterable[int] = pyro.markov(range(count), history=history)
    if lengths is not None:
        if dim != 1 or not parts:
            raise ValueError("scan(lengths) is for data of shape (N, T, ...): give xs, and dim=1.")
        turns = steps(parts[0], lengths, history=history)
    outputs = []
    named = _Named(count)
    for t in turns:
        named.step = t
        with named:
            carry, y = body(carry, tree_map(lambda x, t=t: x if x is None else x.select(dim, t), xs))
        outputs.append(y)

    def stacked(*of_steps: Any) -> Any:
        if of_steps[0] is None:
            return None
        if len(shapes := dict.fromkeys(tuple(y.shape) for y in of_steps)) > 1:
            raise ValueError(
                f"scan cannot stack outputs of the shapes {list(shapes)}: a step that depends on a discrete variable "
                "that is summed out gives no output of it, return None and observe it in the body."
            )
        return torch.stack(of_steps, dim)

    return carry, tree_map(stacked, *outputs)


class _Named(Messenger):
    """Effect handler: gives the sites of a step its number, each once.

    An outer handler that makes other statements of a site, for its missing entries say, makes them inside of this one,
    by the name that it has already.
    """

    step = 0

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.names: set[str] = set()

    def __enter__(self) -> Any:
        self.root: _Named = next((h for h in handlers() if isinstance(h, _Named)), self)
        self.done: set[str] = set()
        return super().__enter__()

    def _pyro_sample(self, msg: Any) -> None:
        whole = msg["infer"].get("missing_of") if msg["infer"] else None
        name: str = whole or msg["name"]
        if name is None or name in self.root.done:
            return
        if name not in self.names:
            self._require_apart(name)
        new = name.replace("{t}", str(self.step)) if "{t}" in name else f"{name}_{self.step}"
        if self.root is self:
            self.done.add(new)
        if whole:
            msg["infer"] = {**msg["infer"], "missing_of": new}
        msg["name"] = msg["name"].replace(name, new, 1)

    def _require_apart(self, name: str) -> None:
        for short, long in [(name, other) for other in self.names] + [(other, name) for other in self.names]:
            number = long.removeprefix(f"{short}_")
            if number != long and number.isdecimal() and int(number) < self.count:
                raise ValueError(
                    f"The body of pg.scan has sites {short!r} and {long!r}; {short!r} is {long!r} in step {number}: "
                    "rename one of them."
                )
        self.names.add(name)

    _pyro_missing = _pyro_observed_law = _pyro_missing_law = _pyro_completion = _pyro_sample


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
