r"""The data plate: what stands in it is one of N independent copies, and counts for the full data in a minibatch.

A vectorised plate whose size goes with the number of rows of the data is the data plate, whatever its name:
``pyro.plate("batch", len(x))`` as :func:`plate`. One that has as many copies as there are rows by chance alone, as N
components of a mixture, is none: where sizes do not tell, the model runs once more, on one row more.
"""

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import effectful
from torch import Tensor
from torch.utils._pytree import tree_map

from pyro_gen._internals import own_buffers, own_parameters, parameter_context, without_handlers
from pyro_gen._random import seeded
from pyro_gen.traces import DATA_PLATE, is_subsample, sample_sites

if TYPE_CHECKING:
    from pyro_gen.program import Program

__all__ = ["DataPlates", "data_scale", "data_size", "plate"]


@effectful(type="data_size")
def _full_size(size: int) -> int:
    return size


class data_size(Messenger):
    """Effect handler: inside it, the data given to a program is a minibatch of a data set of ``size`` rows.

    :meth:`Program.plate` then scales the log-densities of its sites by ``size / len(x)``, so that the minibatch ELBO
    is an unbiased estimate of the full one.

    Arguments:
        size: The number of rows of the full data set.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def _pyro_data_size(self, msg: Any) -> None:
        if msg["value"] is None:  # the innermost handler answers
            msg["value"] = self.size


def data_scale(x: Tensor) -> float:
    """The ratio of the size of the full data set, see :class:`data_size`, to the rows of ``x``."""
    return _full_size(len(x)) / len(x)


def plate(x: Any, dim: int = -1) -> Any:
    """Creates the data plate: one independent copy of what it contains per row of ``x``.

    Arguments:
        x: The data, with shape :math:`(N, *)`; or several variables, a mapping or a tuple of such tensors.
        dim: The batch dimension of the plate, a negative integer.

    Returns:
        A ``pyro.plate`` named ``"data"``, scaled to the full data set inside :class:`data_size`.
    """
    if isinstance(x, Mapping | tuple):
        x = next(iter(x.values() if isinstance(x, Mapping) else x))
    return pyro.plate(DATA_PLATE, _full_size(len(x)), subsample=torch.arange(len(x), device=x.device), dim=dim)


# ----------------------------------------------------------------------------------------------------------------------
# Plates of Pyro that are data plates


class DataPlates(Messenger):
    """Effect handler: a plate with a row for each datum is the data plate, with its name and its scale.

    Arguments:
        program: The program that runs inside.
        inputs: What it was called with, the data first.

    Raises:
        ValueError: Two such plates stand in each other, or a plate draws some of the rows by itself.
    """

    def __init__(self, program: "Program", inputs: Sequence[Any]) -> None:
        super().__init__()
        self.program, self.inputs = program, inputs
        x = inputs[0] if inputs else None
        self.rows = len(x) if isinstance(x, Tensor) and x.dim() else None

    def _pyro_sample(self, msg: Any) -> None:
        if is_subsample(msg):
            size, part = msg["fn"].size, msg["fn"].subsample_size
            if size == self.rows and part is not None and part < size and msg["value"] is None:
                raise ValueError(
                    f"Plate '{msg['name']}' draws {part} of the {size} rows of the data by itself: a program is given "
                    "its minibatches, so write pg.plate(x), or a plate of len(x) rows, and give batch_size= to pg.fit."
                )
            return
        if self.rows is None:
            return
        frames = msg["cond_indep_stack"]
        for i, frame in enumerate(frames):
            if frame.vectorized and frame.size in (self.rows, OF_ANY_SIZE) and self._has_rows(frame.name):
                full = _full_size(self.rows)
                scale = full / self.rows * (frame.size / frame.full_size)
                if scale != 1:
                    msg["scale"] = msg["scale"] * scale
                if frame.name != DATA_PLATE or (frame.size, frame.full_size) != (self.rows, full):
                    same = frame._replace(name=DATA_PLATE, size=self.rows, full_size=full)
                    msg["cond_indep_stack"] = (*frames[:i], same, *frames[i + 1 :])
                return

    def _has_rows(self, name: str) -> bool:
        if name == DATA_PLATE:
            return True
        known = _KNOWN.setdefault(self.program, {})
        if name not in known:
            if self.program in _ASKED:  # this run is to find out
                return False
            _ASKED.add(self.program)
            try:
                known.update(_plates_of_rows(self.program, self.inputs))
            finally:
                _ASKED.discard(self.program)
        return known.setdefault(name, True)  # a plate of the guide alone


OF_ANY_SIZE = -1  # what Pyro has for the size of pyro.plate("data")

# By program: whether a plate, by name, has a row for each datum. Copies of a program find out anew.
_KNOWN: "weakref.WeakKeyDictionary[Program, dict[str, bool]]" = weakref.WeakKeyDictionary()
_ASKED: "weakref.WeakSet[Program]" = weakref.WeakSet()


def _plates_of_rows(program: "Program", inputs: Sequence[Any]) -> dict[str, bool]:
    """Which of the plates of a model that have as many copies as there are rows have a row for each datum."""
    n = len(inputs[0])
    sizes, nested, observed = _plates(program, inputs)
    same = {name for name, size in sizes.items() if size in (n, OF_ANY_SIZE)}
    more = tree_map(lambda t: torch.cat([t, t[-1:]]) if isinstance(t, Tensor) and t.shape[:1] == (n,) else t, inputs)
    try:
        follow = {m for m, size in _plates(program, more)[0].items() if size in (n + 1, OF_ANY_SIZE)}
        follow &= same
    except Exception:  # a model of so many rows and no other number: the data stand in their plate
        follow = same & observed
    if DATA_PLATE in follow:
        follow -= {name for pair in nested if DATA_PLATE in pair for name in pair if name != DATA_PLATE}
    for a, b in nested:
        if {a, b} <= follow:
            raise ValueError(
                f"Plates '{a}' and '{b}' of {type(program).__name__} both have a copy for each of the {n} rows of the "
                "data, and one stands in the other: open that of the data by pg.plate(x)."
            )
    return {name: name in follow for name in same}


def _plates(program: "Program", inputs: Sequence[Any]) -> tuple[dict[str, int], set[tuple[str, str]], set[str]]:
    """Sizes of the vectorised plates of a model by name, pairs that share a site, and those with observed sites."""
    sizes: dict[str, int] = {}
    nested: set[tuple[str, str]] = set()
    observed: set[str] = set()
    with _apart(program):
        sites = sample_sites(pyro.poutine.trace(program.model).get_trace(*inputs))
    for site in sites.values():
        frames = [f for f in site["cond_indep_stack"] if f.vectorized]
        sizes |= {f.name: f.size for f in frames}
        nested |= set(combinations([f.name for f in frames], 2))
        if site["is_observed"] and not site["infer"].get("_deterministic"):
            observed |= {f.name for f in frames}
    return sizes, nested, observed


@contextmanager
def _apart(program: "Program") -> Iterator[None]:
    """Runs of a program inside leave no trace: in handlers, generators, buffers, parameters, weights with a prior."""
    modules = list(program.modules())
    parameters = [(m, set(own_parameters(m))) for m in modules]
    buffers = [(m, k, b, b.clone()) for m in modules for k, b in own_buffers(m).items() if b is not None]
    contexts = {id(c): c for c in (parameter_context(m) for m in modules if isinstance(m, PyroModule))}.values()
    kept = [(c, dict(c.cache)) for c in contexts]
    for context in contexts:
        context.cache.clear()
    try:
        with without_handlers(), seeded(0), torch.no_grad(), pyro.validation_enabled(False):
            yield
    finally:
        for context, cache in kept:
            context.cache.clear()
            context.cache.update(cache)
        for module, names in parameters:
            for name in own_parameters(module).keys() - names:
                del own_parameters(module)[name]
        with torch.no_grad():
            for module, name, tensor, value in buffers:
                own_buffers(module)[name] = tensor.copy_(value)
