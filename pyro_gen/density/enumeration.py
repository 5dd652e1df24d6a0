r"""Discrete latent variables summed out of a density, in a form that ``torch.func.vmap`` can carry.

Pyro's parallel enumeration gives each discrete site a tensor dimension of its own that runs over its values, and
contracts the log-densities of all sites by message passing; here chains come first, as trees, see
:mod:`pyro_gen.density.elimination`. One spot of it does not survive ``vmap``, a look at ``tensor.data``, and is mended
here; for others see :mod:`pyro_gen.density.vectorised`.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro.infer import config_enumerate
from pyro.ops.contract import contract_to_tensor
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_gen._internals import enumeration_dims
from pyro_gen.density.elimination import join_chains
from pyro_gen.density.vectorised import vmappable
from pyro_gen.traces import DATA_PLATE, sample_sites

__all__ = ["NotSummableError", "contract", "enumerated_components", "enumerating", "mark_discrete"]


class NotSummableError(ValueError):
    """A discrete latent variable cannot be summed out; the message says why and what to do."""


class _Enumerate(EnumMessenger):
    """Pyro's enumeration of discrete sites along dimensions of their own."""

    def _pyro_post_sample(self, msg: Any) -> None:
        value = msg["value"]
        if isinstance(value, Tensor):
            # Pyro reads value.data.shape, which vmap refuses; an empty stand-in on the meta device has the shape.
            stand_in = torch.empty(value.shape, device="meta")
            super()._pyro_post_sample({**msg, "value": stand_in})  # type: ignore[typeddict-item]


@contextmanager
def enumerating(max_plate_nesting: int) -> Iterator[None]:
    """Enumerates the discrete sites that :func:`mark_discrete` marked, to the left of the plates' dimensions.

    Arguments:
        max_plate_nesting: The number of dimensions that plates take.
    """
    with _Enumerate(-1 - max_plate_nesting):
        yield


def mark_discrete(model: Callable[..., Any]) -> Callable[..., Any]:
    """Marks the enumerable sites of a model for :func:`enumerating`."""
    return config_enumerate(model, "parallel")  # type: ignore[no-any-return]


def _ordinals(trace: Trace) -> dict[str, frozenset[str]]:
    """The plates of each site, by symbol. Those of size 1 are none to Pyro, which packs tensors without them."""
    symbols = trace.plate_to_symbol
    return {
        name: frozenset(symbols[f.name] for f in site["cond_indep_stack"] if f.vectorized and f.size > 1)
        for name, site in sample_sites(trace).items()
    }


def enumerated_components(trace: Trace) -> dict[str, frozenset[str]]:
    """The enumerated dimensions, by symbol, that the log-density of each site extends over.

    Arguments:
        trace: A trace made inside :func:`enumerating`, with log-densities computed and packed.

    Returns:
        A dictionary that maps site names to symbols.

    Raises:
        NotSummableError: A site that is scaled depends on an enumerated variable.
    """
    discrete = set(trace.symbol_to_dim) - set(trace.plate_to_symbol.values())
    over = {}
    for name, site in sample_sites(trace).items():
        over[name] = frozenset(enumeration_dims(site["packed"]["log_prob"])) & discrete
        scaled = site["scale"] if isinstance(site["scale"], Tensor) else float(site["scale"]) != 1.0
        if over[name] and (isinstance(scaled, Tensor) or scaled):
            raise NotSummableError(
                f"Site '{name}' depends on a discrete latent variable that is summed out, and is scaled: the logarithm "
                "of a sum has no such scale. Take poutine.scale away from it."
            )
    return over


def contract(trace: Trace, names: list[str], per_datum: bool = False, plates_of: str | None = None) -> Tensor:
    r"""Sums the discrete variables out: :math:`\log \sum_k \prod_s p_s(k)` over sites s.

    Arguments:
        trace: As for :func:`enumerated_components`.
        names: The sites whose log-densities are in the product.
        per_datum: Whether to keep the dimension of the data plate.
        plates_of: A site whose plates are all kept, with its batch shape.

    Returns:
        The log-density: a scalar, shape :math:`(N,)`, or the batch shape of ``plates_of``.
    """
    ordinals = _ordinals(trace)
    factors: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
    for name in names:
        factors.setdefault(ordinals[name], []).append(trace.nodes[name]["packed"]["log_prob"])
    discrete = set(trace.symbol_to_dim) - set(trace.plate_to_symbol.values())
    target: frozenset[str] = frozenset()
    if per_datum:
        target = frozenset({trace.plate_to_symbol[DATA_PLATE]}).intersection(*(ordinals[name] for name in names))
    if plates_of is not None:
        target = ordinals[plates_of]
    with vmappable():
        total: Any = contract_to_tensor(join_chains(factors, discrete, target), discrete, target_ordinal=target)
    dims: str = enumeration_dims(total)
    if plates_of is None:
        return total.reshape(-1) if per_datum else total  # type: ignore[no-any-return]
    site: Any = trace.nodes[plates_of]
    frames = sorted((f.dim, trace.plate_to_symbol[f.name], f.size) for f in site["cond_indep_stack"] if f.vectorized)
    kept = total.permute([dims.index(s) for _, s, _ in frames if s in dims])
    shape = [1] * (-frames[0][0] if frames else 0)
    for dim, symbol, size in frames:
        if symbol in dims:
            shape[dim] = size
    return kept.reshape(shape)  # type: ignore[no-any-return]
