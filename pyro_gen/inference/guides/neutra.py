r"""Neural transport: a trained guide straightens the posterior before Hamiltonian Monte Carlo runs on it.

A guide maps noise to latent variables, :math:`v = T(u)`. In the noise's coordinates the posterior has the density

.. math:: \log \tilde\pi(u) = \log \pi(T(u)) + \log \left| \det \frac{\partial T}{\partial u} \right| ,

which is standard normal where the guide is exact. A chain for it, mapped by T, is a chain for the posterior, however
good or bad the guide: a bad one costs time, not truth.

References:
    | NeuTra-lizing Bad Geometry in Hamiltonian Monte Carlo Using Neural Transport (Hoffman et al., 2019)
    | https://arxiv.org/abs/1903.03704
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from pyro_gen.density import Density
from pyro_gen.density.base import Held
from pyro_gen.inference.guides.base import Guide

__all__ = ["NeuTra", "neutra"]


class NeuTra(Density):
    """A density in the coordinates of a guide's noise, made by :func:`neutra`.

    Attributes:
        target: The density in the coordinates of the latent variables.
    """

    def __init__(self, target: Density, guide: Guide) -> None:
        names = target.names
        entries = max(target.entries, max(p.numel() for p in guide.parameters()) // max(1, target.dim))
        super().__init__(target.dim, (), target.dtype, target.device, names, entries, target.compile)
        self.target = target
        self._guide = copy.deepcopy(guide).to(target.device, target.dtype).requires_grad_(False)

    def terms_of_chain(self, z: Tensor, held: Held) -> tuple[Tensor, Tensor]:
        v, log_det = self._guide.transport(z)
        prior, likelihood = self.target.terms_of_chain(v, held)
        return prior + log_det, likelihood

    def constrain_chain(self, z: Tensor, held: Held) -> dict[str, Tensor]:
        return self.target.constrain_chain(self._guide.transport(z)[0], held)

    @contextmanager
    def ready(self) -> Iterator[None]:
        with self.target.ready():
            yield

    def sample_prior(self, chains: int) -> Tensor:
        with torch.no_grad():
            return self._guide.inverse(self.target.sample_prior(chains))

    def push(self, u: Tensor) -> Tensor:
        """Maps points to those of ``target``.

        Arguments:
            u: With shape :math:`(*, D)`, on any device.

        Returns:
            Unconstrained latent variables, with shape :math:`(*, D)`, on the device of ``u``.
        """
        with torch.no_grad():
            return self._guide.transport(u.to(self.device))[0].to(u.device)


def neutra(target: Density, guide: Guide) -> NeuTra:
    r"""Warps a density by a trained guide, for samplers to run on.

    The guide is copied: training it further does not change the result.

    Arguments:
        target: The joint density of a program, ``density(program, x, per_datum=False)``.
        guide: The guide of this program, :func:`guide_of`, trained by :func:`pyro_gen.fit`.

    Returns:
        The density of u. ``constrain`` gives the named values of the program, ``push`` the points of ``target``.

    Raises:
        ValueError: The guide is not one of the latent variables of the density.

    Example:
        >>> import pyro, torch
        >>> import pyro.distributions as dist
        >>> import pyro_gen as pg
        >>> from pyro_gen.density import density
        >>> from pyro_gen.inference.guides import MeanField, guide_of
        >>> def model(x):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     with pg.plate(x):
        ...         return pg.observe("x", dist.Normal(mean, 1.0), x)
        >>> program = pg.Program.from_functions(model, MeanField()).initialise(torch.zeros(3))
        >>> warped = neutra(density(program, torch.zeros(3), per_datum=False), guide_of(program))
        >>> warped.constrain(torch.zeros(4, 1))["mean"].shape
        torch.Size([4])
    """
    if target.batch_shape:
        raise ValueError(
            f"neutra warps one joint density, and was given {tuple(target.batch_shape)} of them: make it by "
            "density(program, x, per_datum=False)."
        )
    if guide.dim != target.dim or (target.names and guide.names != target.names):
        raise ValueError(
            f"The guide draws {', '.join(guide.names) or 'nothing yet'} ({guide.dim} numbers), the density is one of "
            f"{', '.join(target.names) or 'z'} ({target.dim}): give the guide of the same program and data."
        )
    return NeuTra(target, guide)
