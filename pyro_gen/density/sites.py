"""Where the values of latent sites lie in a vector, and the effect handlers that move them there and back."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.transforms import IndependentTransform

from pyro_gen._internals import site_mask
from pyro_gen.density.enumeration import NotSummableError
from pyro_gen.density.masks import along, masked_out
from pyro_gen.distributions import elements, innermost
from pyro_gen.traces import is_factor, is_subsample


@dataclass(frozen=True)
class Slot:
    """Where a latent site's values lie in z: in its last dimension, for one chain of shape (*batch, dim)."""

    offset: int
    size: int
    shape: tuple[int, ...]  # of the unconstrained value; per datum: the data dimension first
    data_dim: int | None  # counted from the left; None in a joint target
    flat: bool = False  # whether masked values are no part of the target, see pyro_gen.density.masks
    kept: Tensor | None = None  # which of the unconstrained values are in z, where not all are; in a joint target
    fill: Tensor | None = None  # unconstrained values, which those that are not in z keep

    def read(self, z: Tensor) -> Tensor:
        """One chain -> the unconstrained value."""
        part = z[..., self.offset : self.offset + self.size]
        if self.kept is not None:
            assert self.fill is not None
            order = self.kept.long().cumsum(0) - 1
            order = torch.where(self.kept, order, self.size + torch.arange(len(order), device=order.device))
            part = torch.cat([part, self.fill.to(part)])[order]
        part = part.reshape(self.shape)
        return part if self.data_dim is None else part.movedim(0, self.data_dim)

    def rows(self, value: Tensor) -> Tensor:
        """The unconstrained value -> (N, -1) per datum, (-1,) in a joint target."""
        if self.kept is not None:
            return value.reshape(-1)[self.kept.nonzero().squeeze(1)]
        return (
            value.reshape(-1) if self.data_dim is None else value.movedim(self.data_dim, 0).reshape(self.shape[0], -1)
        )

    def total(self, log_abs_det: Tensor) -> Tensor:
        """The sum over all but the data: (N,) per datum, a scalar in a joint target."""
        if self.data_dim is None:
            return log_abs_det.sum()
        return log_abs_det.movedim(self.data_dim, 0).reshape(self.shape[0], -1).sum(-1)


class HeldSite(NamedTuple):
    """A latent site that a density holds at given values, see :func:`density`.

    Attributes:
        shape: The shape of its value, of one chain and one data set.
        event_dim: The number of event dimensions of one element; what ``to_event`` put together are elements.
        plates: The dimensions of its plates of size above 1, negative, counted from the right of the elements.
        support: Its possible values, with shape :math:`(K, *)`; ``None`` where they cannot be enumerated, or depend on
            the values of other sites.
        dtype: The dtype of its value.
        to_event: The number of dimensions of elements that are event dimensions of the site.
    """

    shape: torch.Size
    event_dim: int
    plates: tuple[int, ...]
    support: Tensor | None
    dtype: torch.dtype
    to_event: int = 0


class Unconstrained(Messenger):
    """Effect handler: gives the latent sites values T(u) from z, and collects log|det dT/du|."""

    def __init__(self, sites: dict[str, Slot], z: Tensor) -> None:
        super().__init__()
        self.sites, self.z = sites, z
        self.log_abs_det: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        site = self.sites.get(msg["name"])
        if site is None or msg["is_observed"]:
            return
        transform = bijection(msg["fn"].support)
        u = site.read(self.z)
        msg["value"] = transform(u)  # and not "done", at which the enumeration of its parents would pass it over
        rows, columns = u.dim() - transform.domain.event_dim, msg["value"].dim() - transform.codomain.event_dim
        if u.shape[:rows] != msg["value"].shape[:columns]:
            raise NotSummableError(
                f"The support of '{msg['name']}' depends on a discrete latent variable that is summed out: it would be "
                "another variable for each of its values."
            )
        self.log_abs_det[msg["name"]] = (
            _masked_log_abs_det(transform, u, msg, site.kept is None)
            if site.flat
            else transform.log_abs_det_jacobian(u, msg["value"])
        )


def _masked_log_abs_det(transform: Any, u: Tensor, msg: Any, normal: bool) -> Tensor:
    """The log-Jacobian of what is not masked out; of the rest, the density of a standard normal, or 0."""
    while isinstance(transform, IndependentTransform):  # whose sum over an event would mix both
        transform = transform.base_transform
    log_abs_det = transform.log_abs_det_jacobian(u, msg["value"])
    out = masked_out(msg)
    assert out is not None
    out = along(out, log_abs_det.dim(), transform.codomain.event_dim)
    events = tuple(range(log_abs_det.dim(), u.dim()))
    base = torch.distributions.Normal(0.0, 1.0, validate_args=False).log_prob(u) if normal else torch.zeros_like(u)
    return torch.where(out, base.sum(events) if events else base, log_abs_det)


def _some_point(improper: Any) -> Tensor:
    """Some point of the support of what cannot be drawn from, to learn shapes from."""
    transform = bijection(improper.support)
    point: Tensor = transform(torch.zeros(transform.inverse_shape(improper.shape())).uniform_(-1, 1))
    return point


class ImproperAnywhere(Messenger):
    """Effect handler: improper priors give some point of their support where nothing else gives a value.

    For what reads the shapes of a model, or is given draws of its posterior: such points are no draws.
    """

    def _pyro_sample(self, msg: Any) -> None:
        undrawn = not msg["is_observed"] and not msg["done"] and msg["value"] is None
        if undrawn and isinstance(innermost(msg["fn"]), dist.ImproperUniform):
            msg["value"], msg["done"] = _some_point(msg["fn"]), True


class Constrained(Messenger):
    """Effect handler: gives the latent sites these values, or else a draw, and collects u = T^{-1}(value).

    What is masked out of the sites in ``flat`` is drawn from a standard normal in unconstrained space.
    """

    def __init__(
        self, values: Mapping[str, Tensor], leave_out: Collection[str] = (), flat: Collection[str] = ()
    ) -> None:
        super().__init__()
        self.values, self.leave_out, self.flat = values, leave_out, flat
        self.unconstrained: dict[str, Tensor] = {}
        self.improper: list[str] = []

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"]:
            return
        if msg["name"] in self.values:
            msg["value"] = self.values[msg["name"]]
            msg["done"] = True
        elif isinstance(innermost(msg["fn"]), dist.ImproperUniform):
            self.improper.append(msg["name"])
            msg["value"] = _some_point(msg["fn"])
            msg["done"] = True

    def _pyro_post_sample(self, msg: Any) -> None:
        latent = not msg["is_observed"] and not is_subsample(msg)
        if latent and msg["name"] not in self.leave_out and not msg["fn"].support.is_discrete:
            try:
                u = bijection(msg["fn"].support).inv(msg["value"])
            except NotImplementedError:
                family = type(elements(msg["fn"])).__name__
                raise ValueError(
                    f"The latent variable '{msg['name']}' ({family}) cannot be sampled: there is no map from "
                    f"unconstrained space to its support, {msg['fn'].support}. A covariance is written as scales and "
                    "the Cholesky factor of a correlation (LKJCholesky), a direction as a normal vector by its length."
                ) from None
            self.unconstrained[msg["name"]] = drawn_anew(u, msg) if msg["name"] in self.flat else u


def flat_where(site: Any) -> Tensor | None:
    """Where unconstrained values of a site are masked out, in a shape that broadcasts to theirs."""
    out = masked_out(site)
    if out is None:
        return None
    transform = bijection(site["fn"].support)
    shape = transform.inverse_shape(site["value"].shape)
    if shape == out.shape:
        return out
    return along(out, len(shape), transform.codomain.event_dim)  # a simplex, say, whose events are masked as wholes


def drawn_anew(u: Tensor, site: Any) -> Tensor:
    """Unconstrained values of a site with standard normal draws where it is masked out."""
    out = flat_where(site)
    return u if out is None else torch.where(out, torch.randn_like(u), u)


class HeldValues(Messenger):
    """Effect handler: latent sites take the given values, which are not enumerated."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and msg["name"] in self.values:
            msg["value"] = self.values[msg["name"]]
            msg["infer"]["enumerate"] = None


class Predicted(Messenger):
    """Effect handler: draws the observed sites anew."""

    def _pyro_sample(self, msg: Any) -> None:
        if is_data(msg):
            msg["value"] = msg["fn"](*msg["args"], **msg["kwargs"])


def is_data(site: Any) -> bool:
    """Whether a site is an observation."""
    return bool(site["is_observed"]) and not is_factor(site) and not is_deterministic(site)


def is_deterministic(site: Any) -> bool:
    """Whether a site is a ``pyro.deterministic`` statement, or what Pyro's reparametrisations leave in its place."""
    if site["infer"].get("_deterministic"):
        return True
    fn = site["fn"]
    masked = site["is_observed"] and isinstance(fn, dist.MaskedDistribution) and site_mask(fn) is False
    return masked and isinstance(innermost(fn), dist.Delta)


def bijection(support: Any) -> Any:
    """The transform from unconstrained values to a support."""
    if isinstance(support, constraints.MixtureSameFamilyConstraint):  # which biject_to does not know
        return biject_to(support.base_constraint)
    return biject_to(support)


def frames(site: Any) -> list[Any]:
    """The vectorised plates that a site stands in."""
    return [f for f in site.get("cond_indep_stack", ()) if f.vectorized]


def held_site(site: Any) -> HeldSite:
    """What is known of a latent site of a trace."""
    fn, value = site["fn"], site["value"]
    element, support = elements(fn), None
    if getattr(element, "has_enumerate_support", False):
        with suppress(NotImplementedError):  # elements with other possible values each: a binomial of many counts
            support = element.enumerate_support(expand=False).reshape(-1, *element.event_shape)
    to_event = fn.event_dim - element.event_dim
    plates = tuple(sorted(f.dim - to_event for f in frames(site) if f.size > 1))
    return HeldSite(value.shape, element.event_dim, plates, support, value.dtype, to_event)


def connected(over: Mapping[str, frozenset[str]]) -> list[list[str]]:
    """Groups sites that share enumerated dimensions, directly or by way of others."""
    groups: list[tuple[set[str], list[str]]] = []
    for name, symbols in over.items():
        if not symbols:
            continue
        touching = [g for g in groups if g[0] & symbols]
        groups = [g for g in groups if g not in touching]
        groups.append((set(symbols).union(*(g[0] for g in touching)), [*(n for g in touching for n in g[1]), name]))
    order = list(over)
    return [sorted(names, key=order.index) for _, names in groups]
