r"""The laws of missing entries that are latent variables, given the seen entries of the same value.

Of elementwise distributions, Gaussians and mixtures they are known. Of a flow, or an autoregressive distribution, with
:math:`x = (x_o, x_m)` the conditional :math:`p(x_m \mid x_o)` is not known, but any proper density :math:`r(x_m)` may
stand as the prior of the missing entries, where the observed site scores the ratio to it,

.. math:: p(x_o) = \int r(x_m) \, \frac{p(x_o, x_m)}{r(x_m)} \, dx_m .

The nearer r is to the conditional, the shorter is the way from one to the other. Here it is that of a Gaussian in
unconstrained space with the moments of draws of p, made wider, given the seen entries; of discrete entries it is
uniform.
"""

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.transforms import ReshapeTransform

from pyro_gen._internals import site_mask
from pyro_gen.distributions import elements, gaussian
from pyro_gen.observation import MissingLaw, marginalise

__all__ = ["Moments", "law_of_missing", "moments_of", "splits"]

INFLATION = 1.25  # of the standard deviations: a reference needs wider tails than what it stands for
DENSE = 200  # entries up to which a reference has correlations
DRAWS = 2000  # of the distribution, for its moments
AT_ONCE = 250  # of them
FAR = 3  # times the width of the middle 96 percent of them, some 12 standard deviations


class Moments(NamedTuple):
    """What draws of a distribution look like in unconstrained space, flattened.

    Attributes:
        loc: The mean, float64 with shape :math:`(D)`.
        covariance: With shape :math:`(D, D)`; the variances alone, with shape :math:`(D)`, of many entries.
    """

    loc: Tensor
    covariance: Tensor


def law_of_missing(
    name: str, d: Any, value: Tensor, masked: bool = False, any_law: bool = False, moments: Moments | None = None
) -> MissingLaw:
    r"""The law of the missing entries of an observed value given its seen ones, :math:`p(x_m \mid x_o)`.

    Arguments:
        name: The name of the site, for errors.
        d: The distribution of the value.
        value: The value, with NaN where missing.
        masked: Whether the log-density is 0 in entries that were seen; else these have some proper law.
        any_law: Whether a reference may stand in its place, where it is not known.
        moments: Those of draws of the distribution, for the reference; ``None`` is a standard normal one.

    Returns:
        A distribution with the shape of the value, and what the completed value is scored by.

    Raises:
        ValueError: Such a law is not known.
    """
    missing = torch.isnan(value)
    if isinstance(d, dist.MaskedDistribution):
        law, scored = law_of_missing(name, d.base_dist, value, masked, any_law, moments)
        return MissingLaw(law, None if scored is None else scored.mask(site_mask(d)))
    if isinstance(d, torch.distributions.Independent):
        law, scored = law_of_missing(name, d.base_dist, value, masked, any_law, moments)
        dims = d.reinterpreted_batch_ndims
        return MissingLaw(law.to_event(dims), None if scored is None else scored.to_event(dims))
    if d.event_dim == 0:
        base = d.expand(torch.broadcast_shapes(d.batch_shape, value.shape))
        return MissingLaw(base.mask(missing) if masked else base)
    event = tuple(range(-d.event_dim, 0))
    if gaussian.is_gaussian(d):
        return MissingLaw(gaussian.conditional(d, value))
    if isinstance(d, torch.distributions.MixtureSameFamily) and (splits(d) or not any_law):
        k_dim = -1 - len(d.event_shape)
        seen, filled, _ = marginalise(d.component_distribution, value.unsqueeze(k_dim))
        laws = law_of_missing(name, d.component_distribution, value.unsqueeze(k_dim)).law
        mixing = dist.Categorical(logits=d.mixture_distribution.logits + seen.log_prob(filled))
        return MissingLaw(dist.MixtureSameFamily(mixing, laws, validate_args=False))
    if bool((missing.any(event) != missing.all(event)).any()):
        if any_law:
            return _reference_law(name, d, value, masked, moments)
        raise ValueError(
            f"observe('{name}'): its completed value feeds a later density, so its missing entries are latent "
            f"variables, and the law of a part of a {type(d).__name__} given the rest is not known. Write the parts as "
            "observe statements of their own, one given the other."
        )
    whole = missing.any(event)
    base = d.expand(torch.broadcast_shapes(d.batch_shape, whole.shape))
    return MissingLaw(base.mask(whole) if masked else base, base.mask(~whole))


def splits(d: Any) -> bool:
    """Whether a distribution is one whose entries are marginalised and conditioned in closed form."""
    d = elements(d)
    if isinstance(d, torch.distributions.MixtureSameFamily):
        return splits(d.component_distribution)
    return d.event_dim == 0 or gaussian.is_gaussian(d)


def _support(d: Any) -> Any:
    """The support of single entries."""
    try:
        support = d.support
    except NotImplementedError:  # as of Pyro's wrapper of zuko's flows, which says nothing
        return constraints.real
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return constraints.real if support is constraints.real_vector else support


def _transform(d: Any) -> Any:
    """The transform of single entries from unconstrained space; ``None`` where the support ties them to each other."""
    transform = biject_to(_support(d))
    return None if transform.domain.event_dim or transform.codomain.event_dim else transform


def moments_of(d: Any, draws: int = DRAWS) -> Moments | None:
    """The moments of draws of a distribution with continuous entries, by the global generator; ``None`` if it has none.

    Those of all of a batch are pooled.

    Arguments:
        d: The distribution, with event shape of D entries in all.
        draws: How many to make at least.
    """
    d = elements(d)
    if _support(d).is_discrete:
        return None
    parts: list[Tensor] = []
    if (transform := _transform(d)) is None:
        return None
    batch = d.batch_shape.numel()
    shape = torch.Size([math.ceil(AT_ONCE / batch)]) if batch < AT_ONCE else torch.Size()
    with suppress(NotImplementedError):  # densities that cannot be drawn from
        while sum(len(p) for p in parts) < draws:
            parts.append(transform.inv(d(shape)).reshape(-1, d.event_shape.numel()).double())
    if not parts:
        return None
    u = torch.cat(parts)
    u = u[u.isfinite().all(1)]
    # Without those far out: of a flow some lie so far that they would be all that the moments tell of.
    ordered = u.sort(0).values
    low, middle, high = (ordered[int(share * (len(u) - 1))] for share in (0.02, 0.5, 0.98))
    far = (u - middle).abs() > FAR * (high - low)
    u = u[~(far & (high > low)).any(1)]
    size = u.shape[1]
    variance = INFLATION**2 * u.var(0) + 1e-10
    if size > DENSE:
        return Moments(u.mean(0), variance)
    # Drawn to the diagonal a little, since the draws may be fewer than the entries.
    covariance = INFLATION**2 * torch.cov(u.T).reshape(size, size)
    return Moments(u.mean(0), 0.99 * covariance + 0.01 * variance.diag_embed())


class _Relative(dist.TorchDistribution):
    """The density of a distribution relative to a reference for some of the entries."""

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, base: Any, reference: Callable[[Tensor], Tensor], shape: torch.Size) -> None:
        self.base, self.reference = base, reference
        super().__init__(shape, base.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        return constraints.independent(_support(self.base), len(self.base.event_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        return self.base.log_prob(value) - self.reference(value)  # type: ignore[no-any-return]


def _reference_law(name: str, d: Any, value: Tensor, masked: bool, moments: Moments | None) -> MissingLaw:
    """A law for the missing entries, and what the completed value is scored by.

    Arguments:
        name: The name of the site, for errors.
        d: The distribution, without to_event and mask around it.
        value: The value, with NaN where missing.
        masked: Whether the log-density of discrete entries is 0 where they were seen.
        moments: Those of its draws; ``None`` is a standard normal reference.

    Raises:
        ValueError: The support ties entries to each other, or is one of infinitely many discrete values.
    """
    missing = torch.isnan(value)
    events = len(d.event_shape)
    rows = torch.broadcast_shapes(d.batch_shape, value.shape[: value.dim() - events])
    if (support := _support(d)).is_discrete:
        unit = _uniform(name, d, support).expand((*rows, *d.event_shape))
        each = float(unit.log_prob(torch.zeros((), device=value.device)).flatten()[0])

        def of_values(completed: Tensor) -> Tensor:
            return each * missing.sum(tuple(range(-events, 0))).to(value.dtype)

        return MissingLaw((unit.mask(missing) if masked else unit).to_event(events), _Relative(d, of_values, rows))
    size, shape = d.event_shape.numel(), d.event_shape
    if moments is None:
        moments = Moments(torch.zeros(size), torch.ones(size))
    loc, covariance = moments.loc.to(value), moments.covariance.to(value)
    if (transform := _transform(d)) is None:
        raise ValueError(
            f"observe('{name}'): the entries of a {type(d).__name__} are tied to each other by its support, "
            f"{d.support}, so some of them cannot be latent variables beside others that were seen: let each event be "
            "missing as a whole."
        )
    fill = torch.zeros((), dtype=value.dtype, device=value.device)
    seen = transform.inv(torch.where(missing, transform(fill), value)).masked_fill(missing, math.nan)
    flat, holes = (
        seen.reshape(*seen.shape[: seen.dim() - events], size),
        missing.reshape(*missing.shape[:-events], size),
    )
    if covariance.dim() == 2:
        law = gaussian.conditional(dist.MultivariateNormal(loc, covariance, validate_args=False), flat)
    else:
        scale = torch.where(holes, covariance.sqrt(), 1.0)
        law = dist.Normal(torch.where(holes, loc, 0.0), scale, validate_args=False).to_event(1)
    constant = (~holes).sum(-1).to(value.dtype) * 0.5 * math.log(2 * math.pi)  # seen ones are at their mode, 0

    def reference(completed: Tensor) -> Tensor:
        u = transform.inv(completed)
        jacobian = torch.where(missing, transform.log_abs_det_jacobian(u, completed), 0.0)
        u = torch.where(missing, u, 0.0).reshape(*u.shape[: u.dim() - events], size)
        out: Tensor = law.log_prob(u) + constant - jacobian.sum(tuple(range(-events, 0)))
        return out

    wide = law.expand(rows)
    back = [ReshapeTransform(torch.Size((size,)), shape)] if events > 1 else []
    if _support(d) is not constraints.real:
        back.append(transform)
    return MissingLaw(dist.TransformedDistribution(wide, back) if back else wide, _Relative(d, reference, rows))


def _uniform(name: str, d: Any, support: Any) -> Any:
    if support is constraints.boolean:
        return dist.Bernoulli(0.5)
    first, last = (getattr(support, f"{end}_bound", None) for end in ("lower", "upper"))
    if first is None or last is None or float(torch.as_tensor(first).max()) != 0:
        raise ValueError(
            f"observe('{name}'): the law of a part of a {type(d).__name__} given the rest is not known, and nothing "
            f"can stand in its place: its support, {support}, is neither continuous nor one of finitely many values "
            "from 0 on. Write the parts as observe statements of their own, one given the other."
        )
    return dist.Categorical(torch.ones(int(torch.as_tensor(last).max()) + 1))
