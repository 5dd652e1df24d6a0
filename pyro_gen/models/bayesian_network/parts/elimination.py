r"""Variable elimination: sums, or maxima, of a product of tables, one variable at a time.

A sum over :math:`x` of a product concerns only the factors that have :math:`x`,

.. math:: \sum_x \prod_k f_k = \Big( \prod_{k: x \notin f_k} f_k \Big) \sum_x \prod_{k: x \in f_k} f_k ,

and leaves a factor of the other variables of those. The order is greedy: next is the variable that makes
the fewest new pairs of neighbours (minimum fill). All is done in logarithms, so that long products of small numbers do
not vanish.

References:
    | Bucket elimination (Dechter, 1999), https://doi.org/10.1016/S0004-3702(99)00059-4
    | Probabilistic Graphical Models (Koller & Friedman, 2009), chapter 9
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Factor", "draw", "largest_table", "log_marginal", "maximise"]


class Factor(NamedTuple):
    """A factor of a product.

    Attributes:
        names: Its variables.
        values: Logarithms, with a leading dimension for several rows of evidence, 1 or N, then one for each variable.
    """

    names: tuple[str, ...]
    values: Tensor

    def given(self, codes: Mapping[str, Tensor]) -> "Factor":
        """The factor at values of some variables, which it loses.

        Arguments:
            codes: Values by name, with shape (1,) or (N,).
        """
        known = [n for n in self.names if n in codes]
        if not known:
            return self
        free = tuple(n for n in self.names if n not in codes)
        table = self.values[0].permute([self.names.index(n) for n in (*known, *free)])
        return Factor(free, table[tuple(codes[n] for n in known)])

    def along(self, names: Sequence[str]) -> Tensor:
        """The values with a dimension for each of some names, of size 1 where the factor does not have it."""
        ordered = self.values.permute(0, *(1 + self.names.index(n) for n in names if n in self.names))
        return ordered[(slice(None), *(slice(None) if n in self.names else None for n in names))]


def product(factors: Sequence[Factor]) -> Factor:
    """The product of factors."""
    names = tuple(dict.fromkeys(n for f in factors for n in f.names))
    total = factors[0].along(names)
    for factor in factors[1:]:
        total = total + factor.along(names)
    return Factor(names, total)


def log_marginal(factors: Sequence[Factor], names: Sequence[str]) -> Tensor:
    """Sums all other variables out.

    Arguments:
        factors: The factors.
        names: The variables that are kept.

    Returns:
        The logarithm of the sum, with shape (1 or N, *levels of the variables kept).
    """
    rest, _ = _eliminate(factors, _order(factors, names), _log_sum)
    return rest.along(names)


def maximise(factors: Sequence[Factor]) -> tuple[dict[str, Tensor], Tensor]:
    """The values of all variables at which the product is largest.

    Returns:
        The values by name, each with shape (1,) or (N,), and the logarithm of the product there, (1,) or (N,).
    """
    best, joints = _eliminate(factors, _order(factors, ()), torch.amax)
    return _look_back(joints, len(best.values), lambda values: values.argmax(-1)), best.values


def draw(factors: Sequence[Factor], rows: int) -> dict[str, Tensor]:
    """Draws all variables from the distribution that the product is proportional to.

    Arguments:
        factors: The factors; the product is positive somewhere in each row.
        rows: The number N of draws, one for each row of the factors that have several.

    Returns:
        The values by name, each with shape (N,).
    """
    _, joints = _eliminate(factors, _order(factors, ()), _log_sum)
    return _look_back(joints, rows, lambda values: torch.distributions.Categorical(logits=values).sample())


def largest_table(factors: Sequence[Factor], limit: float = math.inf) -> int:
    """The number of cells, for each row of evidence, of the largest product that elimination of all makes.

    Arguments:
        factors: The factors.
        limit: Above this number of cells it need not be known how many there are.
    """
    size, scopes, largest = _sizes(factors), [set(f.names) for f in factors], 1
    for name in _order(factors, ()):
        joint = set().union(*(s for s in scopes if name in s))
        scopes = [*(s for s in scopes if name not in s), joint - {name}]
        largest = max(largest, math.prod(size[n] for n in joint))
        if largest > limit:
            break
    return largest


def _log_sum(values: Tensor, dim: int) -> Tensor:
    """``logsumexp`` whose gradient is 0, not NaN, where all is impossible, as it is in networks with zeros."""
    top = values.detach().amax(dim, keepdim=True)
    top = torch.where(top > -torch.inf, top, 0.0)
    total = (values - top).exp().sum(dim)
    return torch.where(total > 0, torch.where(total > 0, total, 1.0).log() + top.squeeze(dim), -torch.inf)


def _eliminate(
    factors: Sequence[Factor], order: Iterable[str], reduce: Callable[[Tensor, int], Tensor]
) -> tuple[Factor, list[tuple[str, Factor]]]:
    """Takes variables out of a product.

    Returns:
        What is left, and for each variable in order the product in which it stood before it was taken out.
    """
    rest, joints = list(factors), []
    for name in order:
        joined = product([f for f in rest if name in f.names])
        dim = joined.names.index(name)
        left = Factor(joined.names[:dim] + joined.names[dim + 1 :], reduce(joined.values, 1 + dim))
        rest = [*(f for f in rest if name not in f.names), left]
        joints.append((name, joined))
    return product(rest), joints


def _look_back(joints: list[tuple[str, Factor]], rows: int, choose: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Chooses values, last eliminated first: what stood beside a variable when it was taken out is known by then."""
    found: dict[str, Tensor] = {}
    for name, joined in reversed(joints):
        others = tuple(n for n in joined.names if n != name)
        table = joined.along((*others, name)).expand(rows, *(-1 for _ in joined.names))
        index = (torch.arange(rows, device=table.device), *(found[n] for n in others))
        found[name] = choose(table[index])
    return found


def _order(factors: Iterable[Factor], kept: Collection[str]) -> Iterator[str]:
    """The order in which variables are eliminated: next the one that makes the fewest new pairs of neighbours."""
    beside: dict[str, set[str]] = {}
    for factor in factors:
        for name in factor.names:
            beside.setdefault(name, set()).update(n for n in factor.names if n != name)

    def new_pairs(name: str) -> int:
        return sum(len(beside[name] - beside[n]) - 1 for n in beside[name])  # n itself is not beside n

    waiting = {n: new_pairs(n) for n in beside if n not in kept}
    while waiting:
        name = min(waiting, key=waiting.__getitem__)
        yield name
        del waiting[name]
        around = beside.pop(name)
        for n in around:
            beside[n] = (beside[n] | around) - {n, name}
        for n in set().union(around, *(beside[m] for m in around)):
            if n in waiting:
                waiting[n] = new_pairs(n)


def _sizes(factors: Iterable[Factor]) -> dict[str, int]:
    return {n: s for f in factors for n, s in zip(f.names, f.values.shape[1:], strict=True)}
