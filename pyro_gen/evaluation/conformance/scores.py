"""Log-densities by site, and what it is that two runs differ in."""

from collections.abc import Callable, Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.util import scale_and_mask, sum_rightmost
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_gen.distributions import innermost
from pyro_gen.traces import DATA_PLATE, per_datum_log_prob, sample_sites, site_log_prob

__all__ = ["close", "density_sites", "differing", "gap", "quoted", "same", "score", "sizes"]


def density_sites(trace: Trace) -> dict[str, Any]:
    """The sites that have a density: pyro.deterministic makes none."""
    return {n: s for n, s in sample_sites(trace).items() if not s["infer"].get("_deterministic")}


def _log_prob(site: Any) -> Tensor:
    """The site's log-density; of a ``Delta`` its log-density plus its place, which any other value would hide."""
    if not isinstance(innermost(site["fn"]), dist.Delta):
        return site_log_prob(site)
    place = site["fn"].mean
    mark = site["fn"].log_prob(place) + sum_rightmost(place, site["fn"].event_dim)
    return scale_and_mask(mark, site["scale"], site["mask"])  # type: ignore[no-any-return]


def score(site: Any) -> Tensor:
    """The log-density of a site, (N,) in the data plate and a scalar elsewhere."""
    if any(f.name == DATA_PLATE for f in site["cond_indep_stack"]):
        return per_datum_log_prob(site, _log_prob(site))
    return _log_prob(site).sum()


def same(a: Any, b: Any) -> bool:
    """Whether two tensors are equal to the last bit, NaN in the same places; of anything else, one object."""
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return bool(a is b)
    return a.shape == b.shape and bool(torch.isclose(a, b, rtol=0, atol=0, equal_nan=True).all())


def close(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal but for rounding."""
    # float32 sums of different lengths differ in the last digits; the defects looked for are of order 1 / N and more.
    return a.shape == b.shape and bool(torch.isclose(a, b, rtol=1e-4, atol=1e-4, equal_nan=True).all())


def differing(a: Mapping[str, Tensor], b: Mapping[str, Tensor], same: Callable[[Tensor, Tensor], bool]) -> str | None:
    """The name of the first site at which two runs differ."""
    if a.keys() != b.keys():
        return sorted(a.keys() ^ b.keys())[0]
    return next((n for n in a if not same(a[n], b[n])), None)


def gap(a: Tensor, b: Tensor) -> str:
    """By how much two tensors differ, in words."""
    return f"{(a - b).abs().max():.3g} nats" if a.shape == b.shape else f"shapes {tuple(a.shape)} and {tuple(b.shape)}"


def sizes(size: Any) -> str:
    """A shape in words."""
    return str(tuple(size))


def quoted(names: Any) -> str:
    """Names in quotation marks."""
    return ", ".join(f"'{n}'" for n in names)
