"""Bases that paths to a posterior start from: a distribution that is given, and a Gaussian fitted to the guide."""

import math

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_gen._random import seeded
from pyro_gen.density import Base, ProgramDensity
from pyro_gen.inference.proposals import draws_for, guide_trace
from pyro_gen.program import Program
from pyro_gen.traces import latent_sites

__all__ = ["DENSE", "Given", "guide_base"]

INFLATION = 1.25  # of the guide's standard deviations: a base needs wider tails than its target
DENSE = 200  # latent variables up to which a joint target has a base and a metric with correlations


class _Independent(Base):
    """Independent coordinates: loc and scale (N, D)."""

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc, self.scale = loc, scale
        self.constant = (scale.log() + 0.5 * math.log(2 * math.pi)).sum(-1)

    def sample(self, chains: int) -> Tensor:
        return self.loc + self.scale * self.loc.new_empty(chains, *self.loc.shape).normal_()

    def log_density(self, z: Tensor) -> Tensor:
        return -0.5 * ((z - self.loc) / self.scale).square().sum(-1) - self.constant

    def evaluate(self, z: Tensor) -> tuple[Tensor, Tensor]:
        u = (z - self.loc) / self.scale
        return -0.5 * u.square().sum(-1) - self.constant, -u / self.scale


class Given(Base):
    """A distribution of torch's, of shape (*batch, D) in all."""

    def __init__(self, given: Distribution, batch: torch.Size, dim: int) -> None:
        shape = given.batch_shape + given.event_shape
        if shape != (*batch, dim):
            raise ValueError(
                f"The distribution to start from has shape {tuple(shape)}: give one over unconstrained points, of "
                f"shape {(*batch, dim)}."
            )
        with seeded(0):
            far = torch.full_like(given.sample(), 1e4)
        support = given.support
        if support is not None and not all(bool(support.check(point).all()) for point in (far, -far)):
            raise ValueError(
                f"The distribution to start from, {type(given).__name__}, has no density on part of unconstrained "
                "space, where chains could not start: give one over all of it, a normal one say."
            )
        self.given, self.rank = given, len(batch)
        self.shape = (batch.numel(), dim)

    def sample(self, chains: int) -> Tensor:
        return self.given.sample(torch.Size((chains,))).reshape(chains, *self.shape)

    def log_density(self, z: Tensor) -> Tensor:
        value: Tensor = self.given.log_prob(z.reshape(len(z), *self.given.batch_shape, *self.given.event_shape))
        return value.reshape(*value.shape[: 1 + self.rank], -1).sum(-1).reshape(z.shape[:2])


def guide_base(target: ProgramDensity) -> Base | None:
    """A Gaussian fitted to draws of the guide in unconstrained space, made wider by a quarter.

    Its coordinates are independent for targets per datum, and correlated (up to 200 of them) for a joint one. A program
    without a guide has its prior alone to start from: ``None``.
    """
    if not isinstance(target.program, Program):
        raise ValueError('A plain model function has no guide to start from: use start="prior", or a Program.')
    with seeded(0):
        if not latent_sites(guide_trace(target.program, *target.data)):
            return None
    if target.stacked is not None:
        raise ValueError('The guide knows no stacked data sets: use start="prior".')
    # A joint target has correlations to be known.
    values, _ = draws_for(target, 64 if target.per_datum else max(256, 4 * min(target.dim, DENSE)))
    z = target.unconstrain(values).reshape(-1, target.batch_shape.numel(), target.dim)
    if bool((z == z[:1]).all(0).any()):
        raise ValueError('All draws of the guide are one point, which is no base to start from: use start="prior".')
    loc, scale = z.mean(0), INFLATION * z.std(0).clamp(min=1e-6)
    if not bool((loc.isfinite() & scale.isfinite()).all()):
        raise ValueError('The guide has draws that are not finite: use ais(start="prior"), or train it again.')
    if target.batch_shape or target.dim > DENSE:
        return _Independent(loc, scale)
    covariance = INFLATION**2 * z[:, 0].T.double().cov() + 1e-10 * scale.square().double().diag_embed()[0]
    factor = torch.linalg.cholesky(covariance).to(z)
    gaussian = torch.distributions.MultivariateNormal(loc[0], scale_tril=factor, validate_args=False)
    return Given(gaussian, target.batch_shape, target.dim)
