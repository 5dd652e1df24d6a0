r"""Moving in latent space, from what made one datum to what made another.

A latent variable of a Gaussian prior moves on a great circle: with :math:`\epsilon = (z - \mu) / \sigma`,

.. math::
    \epsilon_t = \frac{\sin((1 - t) \, \Omega)}{\sin \Omega} \, \epsilon_0
        + \frac{\sin(t \, \Omega)}{\sin \Omega} \, \epsilon_1 , \qquad
    \Omega = \angle(\epsilon_0, \epsilon_1) ,

since the mass of a Gaussian in many dimensions lies in a shell, which a straight line leaves: half-way its squared
distance from the centre is half of what the prior has. Any other continuous variable moves on a straight line in
unconstrained space, a discrete one changes half-way.

References:
    | Sampling Generative Networks (White, 2016)
    | https://arxiv.org/abs/1609.04468
"""

import math
from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, biject_to

from pyro_gen._random import seeded
from pyro_gen.density import as_inputs, evaluation
from pyro_gen.distributions.innermost import innermost
from pyro_gen.inference.likelihood_means import mean_of
from pyro_gen.inference.proposals import require_encoder
from pyro_gen.observation import assume_missing
from pyro_gen.program import Program, fixed
from pyro_gen.traces import data_dim, is_local, is_subsample, latent_sites, structure, trace_side

__all__ = ["interpolate"]


def interpolate(
    program: Program, a: Any = 0, b: Any = 1, *context: Any, steps: int = 8, n: int = 1, seed: int = 0
) -> Tensor:
    r"""Decodes a path in latent space from ``a`` to ``b``.

    Arguments:
        program: A program with local latent variables.
        a: Where the paths start: data of shape :math:`(n, *)`, which the guide encodes (by the means of its
            distributions, where they have one); or a whole number, the seed of ``n`` draws of the prior.
        b: Where they end, as ``a``.
        context: What the model conditions on, each with shape :math:`(n, *)`.
        steps: The number S of points of a path, both ends among them.
        n: The number of paths, where both ends are draws of the prior.
        seed: Seeds what else is drawn: global latent variables, once.

    Returns:
        The means of the likelihood along the paths, with shape :math:`(S, n, *)`; of an implicit program what it
        generates.

    Raises:
        ValueError: The program has no local latent variable, or the guide does not sample it; the likelihood has no
            mean; the shape of a datum is not known.

    Example:
        >>> import pyro.distributions as dist
        >>> import pyro_gen as pg
        >>> def double(x):
        ...     with pg.plate(x):
        ...         z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        ...         return pg.observe("x", dist.Delta(2 * z, event_dim=1), x)
        >>> program = pg.Program.from_functions(double)
        >>> program.event_shape = torch.Size([2])
        >>> path = interpolate(program, 0, 1, steps=5)
        >>> path.shape, bool((path[0] == pg.interpolate(program, 0, 2, steps=2)[0]).all())
        (torch.Size([5, 1, 2]), True)
    """
    if steps < 2:
        raise ValueError(f"interpolate(steps={steps}): a path has at least its two ends.")
    ends = [end if isinstance(end, int) else as_inputs(program, end)[0] for end in (a, b)]
    data = [end for end in ends if isinstance(end, Tensor)]
    if len({end.shape for end in data}) > 1:
        raise ValueError(f"interpolate: the ends have shapes {', '.join(str(tuple(e.shape)) for e in data)}.")
    x = torch.full_like(data[0], math.nan) if data else _nothing(program, n)
    _, *context_ = as_inputs(program, x, *context)
    with seeded(seed), torch.no_grad(), evaluation(program), pyro.validation_enabled(False):
        kinds = structure(program, x, *context_)
        if kinds.kind == "unnormalised" or not kinds.local:
            what = "has a factor" if kinds.kind == "unnormalised" else "has no local latent variable"
            raise ValueError(
                f"interpolate moves the latent variables of each datum, and {type(program).__name__} {what}."
            )
        guide = latent_sites(trace_side(program, "guide", x, *context_)) if kinds.global_ else {}
        shared = {name: site["value"] for name, site in guide.items() if name in kinds.global_}
        coordinates = []
        for end in ends:
            values = {}
            if isinstance(end, Tensor):
                values = _encoded(program, end, context_, kinds.local)
            with seeded(end if isinstance(end, int) else seed), fixed({**values, **shared}):
                sites = latent_sites(trace_side(program, "model", x, *context_))
            coordinates.append({n: _chart(s["fn"])[0](s["value"]) for n, s in sites.items() if is_local(s)})
        dims = {name: data_dim(sites[name]) for name in kinds.local}
        path = []
        for t in torch.linspace(0, 1, steps).tolist():
            handler = _Along(coordinates[0], coordinates[1], dims, t)
            with pyro.poutine.trace() as tape, fixed(shared), handler, assume_missing(False):
                program.model(x, *context_)
            path.append(mean_of(program, tape.trace, x))
    out = torch.stack(path)
    if bool(out.isnan().any()):
        raise ValueError(
            f"The mean of a datum of {type(program).__name__} given its latent variables depends on entries of the "
            "datum itself, so latent variables alone do not decode: use pg.sample or pg.impute."
        )
    return out


def _nothing(program: Program, n: int) -> Tensor:
    """Data of which nothing was seen."""
    if program.event_shape is None:
        raise ValueError(
            f"{type(program).__name__} does not know the shape of one datum: set program.event_shape (pyro_gen.fit "
            "does)."
        )
    like = next((p for p in program.parameters() if p.is_floating_point()), torch.empty(0))
    return torch.full((n, *program.event_shape), math.nan, dtype=like.dtype, device=like.device)


def _encoded(program: Program, x: Tensor, context: Any, local: tuple[str, ...]) -> dict[str, Tensor]:
    """The values that the guide gives the local latent variables of data."""
    with _Means():
        sites = latent_sites(trace_side(program, "guide", x, *context))
    require_encoder(program, sites, local)
    return {name: sites[name]["value"] for name in local}


class _Means(Messenger):
    """Effect handler: latent variables that are not discrete take their means, where these are known."""

    def _pyro_sample(self, msg: Any) -> None:
        if is_subsample(msg) or msg["is_observed"] or msg["fn"].support.is_discrete:
            return
        try:
            mean = msg["fn"].mean
        except NotImplementedError:
            return
        if bool(mean.isfinite().all()):
            msg["value"] = mean.expand(msg["fn"].shape())


Map = Callable[[Tensor], Tensor]


def _chart(distribution: Any) -> tuple[Map, Map, str]:
    """From values to the coordinates that they move in, back, and how they move there."""
    law = innermost(distribution)
    if isinstance(law, Normal):
        return lambda z: (z - law.loc) / law.scale, lambda e: law.loc + law.scale * e, "circle"
    if isinstance(law, MultivariateNormal):
        loc, factor = law.loc, law.scale_tril
        return (
            lambda z: torch.linalg.solve_triangular(factor, (z - loc).unsqueeze(-1), upper=False).squeeze(-1),
            lambda e: loc + (factor @ e.unsqueeze(-1)).squeeze(-1),
            "circle",
        )
    if distribution.support.is_discrete:
        return lambda z: z, lambda e: e, "step"
    transform = biject_to(distribution.support)
    return transform.inv, transform, "line"


class _Along(Messenger):
    """Effect handler: local latent variables take the values at time t of their paths."""

    def __init__(self, a: dict[str, Tensor], b: dict[str, Tensor], dims: dict[str, int], t: float) -> None:
        super().__init__()
        self.a, self.b, self.dims, self.t = a, b, dims, t

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if msg["is_observed"] or name not in self.a or name not in self.b:
            return
        _, back, way = _chart(msg["fn"])
        a, b = self.a[name], self.b[name]
        if way == "circle":
            moved = _on_circle(a, b, self.dims[name], self.t)
        else:
            moved = (a if self.t < 0.5 else b) if way == "step" else torch.lerp(a, b, self.t)
        msg["value"] = back(moved)


def _on_circle(a: Tensor, b: Tensor, data_dim: int, t: float) -> Tensor:
    """Moves on a great circle, each datum by itself; on a straight line where the ends lie on one through 0."""
    other = [d for d in range(a.dim()) if d != data_dim]
    if not other:
        return torch.lerp(a, b, t)

    def dot(u: Tensor, v: Tensor) -> Tensor:
        return (u * v).sum(other, keepdim=True)

    cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().clamp(min=1e-30)
    angle = cosine.clamp(-1, 1).acos()
    sine = angle.sin()
    straight = sine < 1e-4
    sine = torch.where(straight, 1.0, sine)
    weight = torch.where(straight, 1 - t, ((1 - t) * angle).sin() / sine)
    return weight * a + torch.where(straight, t, (t * angle).sin() / sine) * b
