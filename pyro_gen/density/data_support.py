"""Whether all rows of data are in the support of the laws that a program observes them under, from a run on a few.

A log-density often has no word on a value that its law does not take, 2 under a Bernoulli, and a run on a few rows does
not see it. So the laws of that run are asked of all rows, where they are the same for each.
"""

import copy
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import constraints

from pyro_gen._errors import InvalidValuesError
from pyro_gen._random import seeded
from pyro_gen.density.inputs import row_chunks, rows_of
from pyro_gen.distributions import elements
from pyro_gen.observation import entries_of
from pyro_gen.program import Program
from pyro_gen.traces import trace_side

__all__ = ["DataSupport", "require_support"]

ROWS = 1000  # that are run at once


class _Rule(NamedTuple):
    """The support of a site, and which entries of the data it observes."""

    support: Any  # of single entries, or of events
    law: str
    shape: torch.Size  # of the value for one datum
    stride: tuple[int, ...]
    offset: int

    def part_of(self, x: Tensor) -> Tensor:
        return x.as_strided((len(x), *self.shape), self.stride, x.storage_offset() + self.offset)

    def outside(self, value: Tensor) -> Tensor:
        """Which entries, or events, are outside; what is missing in part is inside."""
        unknown = torch.isnan(value)
        if self.support.event_dim:
            unknown = unknown.flatten(-self.support.event_dim).any(-1)
        inside: Tensor = self.support.check(value) | unknown
        return ~inside


class DataSupport(Messenger):
    """Effect handler: keeps the supports of the laws of data in the runs inside it, to be asked of other rows.

    A site is left out whose law does not validate by its own choice, is masked, or has bounds that move with
    parameters, latent variables or the row.

    Arguments:
        x: The data that the program is called with, contiguous.
        twice: Whether the second half of the rows is the first once more. Then bounds of each row are kept, where both
            halves have the same, to be asked of these rows.

    Attributes:
        rules: What is known of the sites, by name.
        of_rows: Whether some law has bounds of each row, of which those of other rows say nothing.

    Example:
        >>> import pyro.distributions as dist
        >>> from pyro_gen.observation import observe
        >>> x = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> with DataSupport(x) as found:
        ...     _ = observe("x", dist.Bernoulli(0.5 * torch.ones(2)).to_event(1), x)
        >>> found.rows_outside(x), found.rows_outside(2 * x)
        (tensor([], dtype=torch.int64), tensor([0, 1]))
        >>> found.check(2 * x)
        Traceback (most recent call last):
            ...
        pyro_gen._errors.InvalidValuesError: Site 'x': the value 2 at index [0, 1] is outside of the support of \
Bernoulli, which takes 0 and 1: transform the data (transform=), mark it by NaN where it stands for "not observed", or \
choose another likelihood.
    """

    def __init__(self, x: Tensor, twice: bool = False) -> None:
        super().__init__()
        self.x, self.twice = x, twice
        self.rules: dict[str, _Rule] = {}
        self.of_rows = False

    def _pyro_post_observed_law(self, msg: Any) -> None:
        value = msg["args"][1]
        if value is None:
            return
        rule, of_rows = _rule(msg["value"], value, self.x, self.twice)
        self.of_rows = self.of_rows or of_rows
        if rule is not None:
            self.rules[msg["name"]] = rule

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["mask"] is not None and not bool(torch.as_tensor(msg["mask"]).all()):
            self.rules.pop(msg["name"], None)

    def rows_outside(self, x: Tensor) -> Tensor:
        """The rows of which an entry is outside, in order.

        Arguments:
            x: The data, with shape :math:`(N, *)`, laid out as those of the runs.
        """
        x = x.contiguous()
        found = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for rule in self.rules.values():
            found |= rule.outside(rule.part_of(x)).reshape(len(x), -1).any(1)
        return found.nonzero()[:, 0]

    def doubts(self, x: Tensor) -> Tensor:
        """The rows that are to be run themselves, since what was found on others does not say that they are inside."""
        return torch.arange(len(x), device=x.device) if self.of_rows else self.rows_outside(x)

    def check(self, x: Tensor, row: Callable[[int], int] = int) -> None:
        """Refuses data of which an entry is outside.

        Arguments:
            x: The data, with shape :math:`(N, *)`, laid out as those of the runs.
            row: The number that the user knows a row by.

        Raises:
            InvalidValuesError: There is one; the error names the first.
        """
        x = x.contiguous()
        for name, rule in self.rules.items():
            value = rule.part_of(x)
            outside = rule.outside(value)
            if not bool(outside.any()):
                continue
            place = outside.nonzero()[0].tolist()
            entry = value[tuple(place)]
            shown = f"{entry.item():.6g}" if entry.dim() == 0 else str(entry.tolist())
            takes = _in_words(rule.support, place)
            place[0] = row(place[0])
            error = InvalidValuesError(
                f"Site '{name}': the value {shown} at index {place} is outside of the support of {rule.law}, which "
                f"takes {takes}: transform the data ({{transform}}), mark it by NaN where it stands "
                'for "not observed", or choose another likelihood.',
                transform=...,
            )
            error.side, error.site, error.observed = "model", name, True
            raise error


def require_support(program: Program, found: DataSupport, x: Tensor, context: tuple[Any, ...]) -> None:
    """Refuses data with a row that a run on it, too, has outside of the support: bounds may be those of other rows.

    Arguments:
        program: The program.
        found: What runs on other rows found.
        x: The data, with shape :math:`(N, *)`.
        context: What the model conditions on.

    Raises:
        InvalidValuesError: There is one.
    """
    rows = found.doubts(x)
    for some in row_chunks(len(rows), ROWS):
        part = rows[some]
        twice = torch.cat([part, part])  # what differs between the two moves with latent variables
        again = DataSupport(x[twice], twice=True)
        # What torch says has no row.
        with seeded(0), torch.no_grad(), pyro.validation_enabled(True), suppress(InvalidValuesError), again:
            trace_side(program, "model", again.x, *rows_of(x, context, twice))
        again.check(again.x[: len(part)], lambda i, part=part: int(part[i]))  # type: ignore[misc]


def _rule(law: Any, value: Tensor, x: Tensor, twice: bool) -> tuple[_Rule | None, bool]:
    """What is known of a site, ``None`` where that is nothing, and whether its law has bounds of each row."""
    if value.dim() == 0 or len(value) != len(x) or (len(x) > 1 and value.stride(0) != x.stride(0)):
        return None, False
    if (entries := entries_of(value, x)) is None or not _validates(law):
        return None, False
    try:
        support = law.support
    except (NotImplementedError, ValueError):
        return None, False
    while (inner := getattr(support, "base_constraint", None)) is not None:
        support = inner
    if type(support) is type(constraints.real) or support.event_dim > law.event_dim:
        return None, False
    support, of_rows = _with_bounds(support, value, twice)
    if support is None:
        return None, of_rows
    first, name = int(entries.flatten()[0]), type(elements(law)).__name__
    return _Rule(support, name, value.shape[1:], (x.stride(0), *value.stride()[1:]), first), of_rows


def _validates(law: Any) -> bool:
    """Whether a law of torch or Pyro, and all that it is made of, scores all values and is not told to take any.

    Where validation is off, ``expand`` writes that into a law: whether it was told so is seen where it is on.
    """
    while True:
        own = type(law).__module__.startswith("pyro_gen.")
        if isinstance(law, dist.MaskedDistribution):
            return False
        if not own and vars(law).get("_validate_args") is False and dist.is_validation_enabled():
            return False
        inner = getattr(law, "base_dist", getattr(law, "component_distribution", None))
        if inner is None or own:
            return True
        law = inner


def _with_bounds(support: Any, value: Tensor, twice: bool) -> tuple[Any | None, bool]:
    """A support with the bounds of one row, or of each, and whether each row has some; ``None`` where they move."""
    parts = vars(support)
    if any(isinstance(part, list | tuple) for part in parts.values()):
        return None, False  # of several constraints
    bounds = {name: part for name, part in parts.items() if isinstance(part, Tensor) and part.numel() > 1}
    numbers = {name: part.item() for name, part in parts.items() if isinstance(part, Tensor) and part.numel() == 1}
    if not bounds and not numbers:
        return support, False
    if not support.is_discrete:
        return None, False  # parameters, which training moves
    of_rows, same = False, copy.copy(support)
    vars(same).update(numbers)
    for name, bound in bounds.items():
        if bound.dim() > value.dim() or tuple(torch.broadcast_shapes(bound.shape, value.shape)) != tuple(value.shape):
            return None, False
        of_rows = of_rows or (bound.dim() == value.dim() and len(bound) > 1 and bound.stride(0) > 0)
        wide = bound.expand(value.shape)
        kept, others = wide.chunk(2) if twice else (wide[:1], wide)
        if not bool((kept == others).all()):
            return None, of_rows
        setattr(same, name, kept)
    return same, of_rows


def _in_words(support: Any, place: list[int]) -> str:
    """What an entry at some place takes."""
    if type(support) is type(constraints.boolean):
        return "0 and 1"

    def bound(side: str) -> Any:
        found = getattr(support, f"{side}_bound", None)
        if isinstance(found, Tensor) and found.dim() == len(place):
            return found[tuple(min(at, size - 1) for at, size in zip(place, found.shape, strict=True))].item()
        return found

    low, high = bound("lower"), bound("upper")
    if isinstance(low, Tensor) or isinstance(high, Tensor) or (low is None and high is None):
        return str(support)
    if support.is_discrete and low is not None:
        return f"integers from {low:g}" + ("" if high is None else f" to {high:g}")
    if low is not None and high is not None:
        return f"numbers from {low:g} to {high:g}"
    above = isinstance(support, constraints.greater_than)
    return f"numbers above {low:g}" if above else str(support) if low is None else f"numbers of {low:g} or more"
