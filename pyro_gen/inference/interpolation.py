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
from typing import Any

import torch
from torch import Tensor

from pyro_gen.density import as_inputs
from pyro_gen.inference.latent_space import latent_space, nothing_of
from pyro_gen.program import Program

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
        >>> import pyro
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
    ends = [end if isinstance(end, int) else as_inputs(program, end, *context)[0] for end in (a, b)]
    data = [end for end in ends if isinstance(end, Tensor)]
    if len({end.shape for end in data}) > 1:
        raise ValueError(f"interpolate: the ends have shapes {', '.join(str(tuple(e.shape)) for e in data)}.")
    x = torch.full_like(data[0], math.nan) if data else nothing_of(program, n)
    _, *rest = as_inputs(program, x, *context)
    with latent_space(program, x, tuple(rest), seed, "interpolate") as space:
        first, last = (space.coordinates(end) for end in ends)
        path = []
        for t in torch.linspace(0, 1, steps).tolist():
            moved = {n: _between(first[n], last[n], t, space.ways[n], space.dims[n]) for n in first}
            path.append(space.decode(moved))
    return torch.stack(path)


def _between(a: Tensor, b: Tensor, t: float, way: str, data_dim: int) -> Tensor:
    """The coordinates at time t of a path."""
    if way == "circle":
        return _on_circle(a, b, data_dim, t)
    if way == "step":
        return a if t < 0.5 else b
    return torch.lerp(a, b, t)


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
