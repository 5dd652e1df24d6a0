r"""Moves of any sampler between temperatures.

Annealed importance sampling and sequential Monte Carlo take a kernel as Markov chain Monte Carlo does: a class of
:class:`~pyro_gen.inference.mcmc.Sampler`, a function that makes one for a density, or a name. It is made for
:class:`pyro_gen.density.Tempered`, the density :math:`f_\beta`, and knows no temperature itself. In the pilot runs it
adapts, at each temperature anew, on copies of the chains. The samplers that this leaves are frozen, and those that move
the chains that are weighed.

From one temperature to the next a state is made anew (:meth:`~pyro_gen.inference.mcmc.Sampler.retempered`): values of
the old one in an acceptance are a known mistake that leaves a biased chain.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_gen.density import Base, Density, ProgramDensity
from pyro_gen.inference.likelihood.bases import Given, guide_base
from pyro_gen.inference.likelihood.paths import Engine, Hamiltonian, OfDensity, Own, Path
from pyro_gen.inference.mcmc import Gibbs, Kernel, Sampler, make_sampler
from pyro_gen.inference.mcmc.hmc import Metric, Point

__all__ = ["Kernels", "engine_of"]

ADAPTATION = 24  # transitions in which a sampler adapts at each temperature of a pilot run


class _Held(NamedTuple):
    """The state of the chains after the last move."""

    z: Tensor  # of the point that was returned
    beta: float
    sampler: Sampler
    state: Any


class Kernels(OfDensity):
    """Moves of a sampler for each temperature, that adapted there."""

    def __init__(self, density: Density, base: Base | None, kernel: Kernel) -> None:
        super().__init__(density, base)
        self.dim = 0  # it needs no step size and no metric
        self.kernel = kernel
        self.learnt: list[tuple[float, Sampler]] = []
        self._held: _Held | None = None

    def _sampler(self) -> Sampler:
        sampler = make_sampler(self.kernel, self.target)
        if isinstance(sampler, Gibbs):
            raise ValueError(
                "Blocks are drawn from the conditionals of the posterior, not of another temperature: define a "
                "pyro_gen.inference.likelihood.paths.Path, whose moves know it."
            )
        return sampler

    def _point(self, z: Tensor, q: Tensor, s: Tensor) -> Point:
        flat = (len(z), self.n)
        q, s = q.reshape(flat), torch.where(s.isnan(), -math.inf, s).reshape(flat)
        return Point(z.reshape(*flat, -1), q, z.new_zeros(*flat, 0), (q, s))

    def place(self, z: Tensor) -> Point:
        return self._point(z, *self.target.ends(self.unflatten(z)))

    def coordinates(self, point: Point) -> Tensor:
        return point.grad

    def learn(self, point: Point, beta: float) -> None:
        if self.learnt and beta <= self.learnt[-1][0]:
            self.learnt = []  # a pilot round begins
        sampler = self._sampler()
        if type(sampler).state_dict is not Sampler.state_dict:  # else it learns nothing
            self.target.beta = beta
            state = sampler.init(self.unflatten(point.z))
            for i in range(ADAPTATION):
                state, _ = sampler.step(state, i / ADAPTATION)
        self.learnt.append((beta, sampler))

    def _at(self, beta: float) -> Sampler:
        """What adapted at the temperature, or at the next colder one, where steps are shorter."""
        return next((sampler for known, sampler in self.learnt if known >= beta), self.learnt[-1][1])

    def move(self, point: Point, beta: float, step_size: Tensor, metric: Metric) -> tuple[Point, Tensor]:
        self.target.beta = beta
        sampler, held = self._at(beta), self._held
        if held is None or held.z is not point.z:
            state = sampler.place(self.unflatten(point.z))
        elif held.beta == beta and held.sampler is sampler:
            state = held.state
        else:
            state = sampler.retempered(held.state)
        state, figures = sampler.step(state, None)
        parts = state.parts if isinstance(state, Point) else ()
        moved = self._point(state.z, *(parts[:2] or self.target.ends(state.z)))
        self._held = _Held(moved.z, beta, sampler, state)
        acceptance = torch.as_tensor(figures.get("acceptance_rate", 1.0)).to(moved.log_density)
        return moved, acceptance.expand(state.z.shape[:-1]).reshape(moved.log_density.shape)


def engine_of(target: Density | Path, start: str | Distribution, leapfrog: int, kernel: Kernel | None = None) -> Engine:
    """The engine of a density or path; ``start`` and ``kernel`` as in :func:`pyro_gen.inference.likelihood.ais.ais`."""
    if isinstance(target, Path):
        return Own(target)
    base: Base | None = None
    if isinstance(start, Distribution):
        base = Given(start, target.batch_shape, target.dim)
    elif start == "guide":
        if not isinstance(target, ProgramDensity):
            raise ValueError('This density has no program and no guide to start from: use start="prior".')
        base = guide_base(target)
    return Hamiltonian(target, base, leapfrog) if kernel is None else Kernels(target, base, kernel)
