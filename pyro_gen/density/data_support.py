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
from pyro_gen.density.inputs import rows_of
from pyro_gen.distributions import elements
from pyro_gen.observation import entries_of
from pyro_gen.program import Program
from pyro_gen.traces import trace_side

__all__ = ["DataSupport", "require_support"]


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

    Example:
        >>> import pyro.distributions as dist
        >>> from pyro_gen.observation import observe
        >>> x = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> with DataSupport(x) as found:
        ...     _ = observe("x", dist.Bernoulli(0.5 * torch.ones(2)).to_event(1), x)
        >>> found.first_outside(x), found.first_outside(2 * x)
        (None, 0)
        >>> found.check(2 * x)
        Traceback (most recent call last):
            ...
        pyro_gen._errors.InvalidValuesError: Site 'x': the value 2 at index [0, 1] is outside of the support of \
Bernoulli, which takes 0 and 1: transform the data (transform=), mark it by NaN where it stands for "not observed", or \
choose another likelihood.
    """

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = x
        self.rules: dict[str, _Rule] = {}

    def _pyro_post_observed_law(self, msg: Any) -> None:
        value = msg["args"][1]
        if value is not None and (rule := _rule(msg["value"], value, self.x)) is not None:
            self.rules[msg["name"]] = rule

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["mask"] is not None and not bool(torch.as_tensor(msg["mask"]).all()):
            self.rules.pop(msg["name"], None)

    def first_outside(self, x: Tensor) -> int | None:
        """The first row of which an entry is outside, where there is one.

        Arguments:
            x: The data, with shape :math:`(N, *)`, laid out as those of the runs.
        """
        x = x.contiguous()
        parts = [rule.outside(rule.part_of(x)) for rule in self.rules.values()]
        rows = [int(outside.nonzero()[0, 0]) for outside in parts if bool(outside.any())]
        return min(rows, default=None)

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
            place[0] = row(place[0])
            error = InvalidValuesError(
                f"Site '{name}': the value {shown} at index {place} is outside of the support of {rule.law}, which "
                f"takes {_in_words(rule.support)}: transform the data ({{transform}}), mark it by NaN where it stands "
                'for "not observed", or choose another likelihood.',
                transform=...,
            )
            error.side, error.site, error.observed = "model", name, True
            raise error


def require_support(program: Program, found: DataSupport, x: Tensor, context: tuple[Any, ...]) -> None:
    """Refuses data with a row that a run on it, too, has outside of the support: bounds may be computed from the data.

    Arguments:
        program: The program.
        found: What runs on other rows found.
        x: The data, with shape :math:`(N, *)`.
        context: What the model conditions on.

    Raises:
        InvalidValuesError: There is one.
    """
    if (first := found.first_outside(x)) is None:
        return
    rows = torch.tensor([first, first], device=x.device)  # of a single one dimensions are told from nothing
    again = DataSupport(part := x[rows])
    # What torch says has no row.
    with seeded(0), torch.no_grad(), pyro.validation_enabled(True), suppress(InvalidValuesError), again:
        trace_side(program, "model", part, *rows_of(x, context, rows))
    again.check(part, lambda _: first)


def _rule(law: Any, value: Tensor, x: Tensor) -> _Rule | None:
    """What is known of a site; ``None`` where that is nothing that holds for all rows."""
    if value.dim() == 0 or len(value) != len(x) or (len(x) > 1 and value.stride(0) != x.stride(0)):
        return None
    if (entries := entries_of(value, x)) is None or not _validates(law):
        return None
    try:
        support = law.support
    except (NotImplementedError, ValueError):
        return None
    while (inner := getattr(support, "base_constraint", None)) is not None:
        support = inner
    if type(support) is type(constraints.real) or support.event_dim > law.event_dim:
        return None
    if (support := _of_all_rows(support, value)) is None:
        return None
    first = int(entries.flatten()[0])
    return _Rule(support, type(elements(law)).__name__, value.shape[1:], (x.stride(0), *value.stride()[1:]), first)


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


def _of_all_rows(support: Any, value: Tensor) -> Any | None:
    """A support that is the same for all rows, with bounds for one of them; ``None`` where it is not."""
    parts = vars(support)
    if any(isinstance(part, list | tuple) for part in parts.values()):
        return None  # of several constraints
    bounds = {name: part for name, part in parts.items() if isinstance(part, Tensor) and part.numel() > 1}
    numbers = {name: part.item() for name, part in parts.items() if isinstance(part, Tensor) and part.numel() == 1}
    if not bounds and not numbers:
        return support
    if not support.is_discrete:
        return None  # parameters, which training moves
    same = copy.copy(support)
    vars(same).update(numbers)
    for name, bound in bounds.items():
        if bound.dim() > value.dim() or tuple(torch.broadcast_shapes(bound.shape, value.shape)) != tuple(value.shape):
            return None
        wide = bound.expand(value.shape)
        if not bool((wide == wide[:1]).all()):
            return None
        setattr(same, name, wide[:1])
    return same


def _in_words(support: Any) -> str:
    if type(support) is type(constraints.boolean):
        return "0 and 1"
    low, high = (getattr(support, f"{side}_bound", None) for side in ("lower", "upper"))
    if isinstance(low, Tensor) or isinstance(high, Tensor) or (low is None and high is None):
        return str(support)
    if support.is_discrete and low is not None:
        return f"integers from {low:g}" + ("" if high is None else f" to {high:g}")
    if low is not None and high is not None:
        return f"numbers from {low:g} to {high:g}"
    above = isinstance(support, constraints.greater_than)
    return f"numbers above {low:g}" if above else str(support) if low is None else f"numbers of {low:g} or more"
