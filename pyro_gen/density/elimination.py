r"""Chains of discrete variables summed out as a tree, before all else is.

The sum over the states of a Markov chain is a product of matrices,

.. math:: \sum_{z_1, \dots, z_{T-1}} \prod_{t=1}^{T} F_t(z_{t-1}, z_t) = \Big( \prod_t F_t \Big)(z_0, z_T) ,

and a product of T matrices is one of T / 2 products of two at a time, and so on: about :math:`\log_2 T` operations on
many numbers in the place of T on few. Factors are log-densities as Pyro packs them, a letter for each dimension. A
variable is inside of a chain if it has two factors, each of them of two variables of as many values; what a step
observes is added to one of these first.

References:
    | Temporal Parallelization of Bayesian Smoothers (Särkkä & García-Fernández, 2019)
    | https://arxiv.org/abs/1905.13002
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro.infer.traceenum_elbo
import torch
from pyro.ops import packed
from torch import Tensor

from pyro_gen._internals import enumeration_dims, set_enumeration_dims
from pyro_gen._random import exclusive
from pyro_gen.distributions.hidden_markov import MOST_STATES, chain_product

__all__ = ["Factors", "chains_first", "join_chains"]

Factors = Mapping[frozenset[str], list[Tensor]]  # by the plates that they stand in
MIN_STEPS = 8
MOST_NUMBERS = 2**22  # that a tree takes at once; a longer chain is joined in parts
_Edge = tuple[Tensor, str, str]


def join_chains(factors: Factors, discrete: set[str], kept: frozenset[str] = frozenset()) -> "OrderedDict[Any, Any]":
    """Puts one factor of its two ends in the place of the factors of a chain.

    Arguments:
        factors: Packed log-densities.
        discrete: The symbols of the variables that are summed out.
        kept: The symbols of plates that are not to be summed over.

    Returns:
        Factors whose sum over all values is that of those given.
    """
    merged = OrderedDict((t, _merged(terms)) for t, terms in _in_fewest_plates(factors, discrete, kept).items())
    counts = Counter(s for terms in merged.values() for term in terms for s in _of(term, discrete))
    joined: OrderedDict[Any, Any] = OrderedDict()
    for plates, terms in merged.items():
        pairs = [(term, ends) for term in terms if len(ends := _of(term, discrete)) == 2]
        edges: list[_Edge] = [(term, a, b) for term, (a, b) in pairs]
        degrees = Counter(s for _, ends in pairs for s in ends)
        inside = {s for s, degree in degrees.items() if degree == 2 == counts[s]}
        replaced: set[int] = set()
        joined[plates] = []
        for run in _runs([(t, a, b) for t, a, b in edges if _size(t, a) == _size(t, b)], inside):
            if len(run) >= MIN_STEPS:
                joined[plates] += _product(run)
                replaced |= {id(term) for term, _, _ in run}
        joined[plates] += [term for term in terms if id(term) not in replaced]
    return joined


@contextmanager
def chains_first() -> Iterator[None]:
    """Pyro's enumerating ELBO sums chains out by :func:`join_chains`."""
    owner: Any = pyro.infer.traceenum_elbo
    with exclusive():
        contract = owner.contract_tensor_tree

        def joining(factors: Any, discrete: set[str], **options: Any) -> Any:
            return contract(join_chains(factors, discrete), discrete, **options)

        owner.contract_tensor_tree = joining
        try:
            yield
        finally:
            owner.contract_tensor_tree = contract


def _of(term: Tensor, symbols: Iterable[str]) -> list[str]:
    """Those of some symbols that a term has."""
    return [s for s in enumeration_dims(term) if s in symbols]


def _size(term: Tensor, symbol: str) -> int:
    return int(term.shape[enumeration_dims(term).index(symbol)])


def _in_fewest_plates(factors: Factors, discrete: set[str], kept: frozenset[str]) -> Factors:
    """Adds terms up over plates that none of their variables stand in: what a state emits in many places."""
    within: dict[str, frozenset[str]] = {}
    for plates, terms in factors.items():
        for s in {s for term in terms for s in _of(term, discrete)}:
            within[s] = within.get(s, plates) & plates
    found: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
    for plates, terms in factors.items():
        for term in terms:
            symbols = _of(term, discrete)
            needed = plates & frozenset(kept).union(*(within[s] for s in symbols)) if symbols else plates
            found.setdefault(needed, []).append(_added_up(term, plates - needed))
    return found


def _added_up(term: Tensor, plates: frozenset[str]) -> Tensor:
    for s in _of(term, plates):
        dims = enumeration_dims(term)
        term = set_enumeration_dims(term.sum(dims.index(s)), dims.replace(s, ""))
    return term


def _merged(terms: list[Tensor]) -> list[Tensor]:
    """Adds log-densities to one that has all their dimensions.

    Pyro shifts each factor of a product by its own greatest value. A prior that forbids the one value that the data
    favour by a hundred nats then leaves 0 of a product that is small but positive; of a single factor nothing is lost.
    """
    found: list[Tensor] = []
    having: dict[str, list[int]] = {}  # which of those found have a symbol
    for term in sorted(terms, key=lambda t: -len(enumeration_dims(t))):
        dims = enumeration_dims(term)
        near = having.get(dims[0], []) if dims else range(len(found))
        for i in near:
            if set(dims) <= set(enumeration_dims(found[i])):
                a, b = packed.broadcast_all(found[i], term)
                names = enumeration_dims(a)
                found[i] = packed.pack(a + b, dict(enumerate(names, -len(names))))
                break
        else:
            for s in dims:
                having.setdefault(s, []).append(len(found))
            found.append(term)
    return found


def _runs(edges: list[_Edge], inside: set[str]) -> Iterator[list[_Edge]]:
    """The longest paths through variables inside of chains, each edge in its direction along the path."""
    at: dict[str, list[_Edge]] = {}
    for edge in edges:
        for s in edge[1:]:
            at.setdefault(s, []).append(edge)
    seen: set[int] = set()

    def onwards(end: str) -> Iterator[_Edge]:
        while end in inside:
            after = [edge for edge in at[end] if id(edge) not in seen]
            if not after:
                return
            edge = after[0]
            seen.add(id(edge))
            term, a, b = edge
            start, end = (a, b) if end == a else (b, a)
            yield term, start, end

    for edge in edges:
        if id(edge) in seen:
            continue
        seen.add(id(edge))
        left = [(t, end, start) for t, start, end in onwards(edge[1])]
        run = [*left[::-1], edge, *onwards(edge[2])]
        yield run[:-1] if run[0][1] == run[-1][2] else run  # a ring is opened


def _product(run: list[_Edge]) -> list[Tensor]:
    """The product of a run as one factor, or as a few."""
    ends = {s for _, *both in run for s in both}
    plates = sorted({s for term, _, _ in run for s in enumeration_dims(term)} - ends)
    alike: dict[Any, list[int]] = {}  # edges whose dimensions stand in the same order, with the same sizes
    for i, (term, a, b) in enumerate(run):
        order = tuple({a: -2, b: -1}.get(s, s) for s in enumeration_dims(term))
        alike.setdefault((order, term.shape), []).append(i)
    stacks = [_aligned([run[i] for i in places], plates) for places in alike.values()]
    shape = torch.broadcast_shapes(*(t.shape[1:] for t in stacks))
    matrices = torch.cat([t.expand(len(t), *shape) for t in stacks])
    if len(stacks) > 1:
        places = torch.tensor([i for of in alike.values() for i in of], device=matrices.device)
        matrices = matrices[places.argsort()]
    numbers = shape[:-2].numel() * shape[-1] ** (3 if shape[-1] <= MOST_STATES else 2)
    steps = max(MIN_STEPS, 2 * MOST_NUMBERS // numbers)
    products = []
    for i in range(0, len(run), steps):
        part = matrices[i : i + steps]
        dims = "".join((*plates, run[i][1], run[i + len(part) - 1][2]))
        products.append(set_enumeration_dims(chain_product(part.movedim(0, -3)), dims))
    return products


def _aligned(edges: list[_Edge], plates: list[str]) -> Tensor:
    """Edges whose dimensions stand in the same order as one tensor (edges, *plates, K, K), 1 for what they lack."""
    own = enumeration_dims(edges[0][0])
    dims = [*plates, *edges[0][1:]]
    stacked = torch.stack([term for term, _, _ in edges])
    ordered = stacked.permute([0, *(1 + own.index(s) for s in dims if s in own)])
    return ordered[(slice(None), *(slice(None) if s in own else None for s in dims))]
