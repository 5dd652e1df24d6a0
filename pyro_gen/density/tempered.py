r"""A density joined to a base: what chains go by on their way from the one to the other.

A density :math:`\pi(z)`, unnormalised, and a normalised base :math:`q_0` make a family

.. math::
    \log f_\beta(z) = \log q_0(z) + \beta \, s(z), \qquad s(z) = \log \pi(z) - \log q_0(z), \qquad
    0 \le \beta \le 1 ,

in unconstrained space. Without a base of its own the prior is the base, and :math:`s` is the log-likelihood.
"""

import abc
import math

import torch
from torch import Tensor

from pyro_gen.density.base import Density, Held, Terms

__all__ = ["Base", "Tempered"]


class Base(abc.ABC):
    """A normalised density on unconstrained space with exact draws, for N targets in D dimensions."""

    @abc.abstractmethod
    def sample(self, chains: int) -> Tensor:
        """Draws with shape :math:`(C, N, D)`, by the global generator."""

    @abc.abstractmethod
    def log_density(self, z: Tensor) -> Tensor:
        """Log-densities of points (C, N, D), with shape :math:`(C, N)`, in nats; differentiable."""

    def evaluate(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Log-densities with shape :math:`(C, N)` and their gradients; NaN and 0 at points that are not finite."""
        # A trajectory may have left for infinity, at which torch's validation of values would raise.
        lost = ~z.isfinite().all(-1)
        with torch.enable_grad():
            z = z.detach().masked_fill(lost.unsqueeze(-1), 0.0).requires_grad_()
            value = self.log_density(z)
            (grad,) = torch.autograd.grad(value.sum(), z)
        return value.detach().masked_fill(lost, math.nan), grad


class Tempered(Density):
    """A density at an inverse temperature ``beta`` that its owner sets: its prior is the base.

    It evaluates the graphs of the density that it is made of, so that another temperature costs no recording.

    Arguments:
        density: The density at ``beta`` = 1.
        base: The base, of as many targets; ``None`` is the prior of the density.

    Attributes:
        inner: The density at ``beta`` = 1.
        beta: The inverse temperature.
        evaluations: How often it was evaluated so far, for each target.

    Example:
        >>> import torch
        >>> half = Tempered(Density.from_functions(lambda z: -0.5 * z.square().sum(-1), dim=2))
        >>> half.beta = 0.5
        >>> half.log_density(torch.ones(3, 2)).tolist()
        [-0.5, -0.5, -0.5]
    """

    def __init__(self, density: Density, base: Base | None = None) -> None:
        super().__init__(
            density.dim, density.batch_shape, density.dtype, density.device, density.names, density.entries, "off"
        )
        self.inner, self.base = density, base
        self.beta = 1.0
        self.evaluations = 0

    def _flat(self, z: Tensor) -> Tensor:
        return z.reshape(len(z), self.batch_shape.numel(), self.dim)

    def parts(self, z: Tensor) -> tuple[Tensor, ...]:
        """Evaluates log q_0 and s, each with shape :math:`(C, *B)`, and their gradients, for all temperatures."""
        self.evaluations += len(z)
        prior, likelihood, grad_prior, grad_likelihood = self.inner.value_and_grad(z)
        if self.base is None:
            return prior, likelihood, grad_prior, grad_likelihood
        q, grad_q = self.base.evaluate(self._flat(z))
        q, grad_q = q.view_as(prior), grad_q.view_as(grad_prior)
        return q, prior + likelihood - q, grad_q, grad_prior + grad_likelihood - grad_q

    def combine(self, parts: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """The log-density and its gradient at this temperature, from :meth:`parts`."""
        q, s, grad_q, grad_s = parts
        return torch.add(q, s, alpha=self.beta), torch.add(grad_q, grad_s, alpha=self.beta)

    def ends(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluates log q_0 and s alone, each with shape :math:`(C, *B)`, in nats; differentiable."""
        self.evaluations += len(z)
        prior, likelihood = self.inner.log_terms(z)
        if self.base is None:
            return prior, likelihood
        q = self.base.log_density(self._flat(z)).view_as(prior)
        return q, prior + likelihood - q

    # What kernels call.

    def value_and_grad(self, z: Tensor, *, held: Held | None = None) -> Terms:
        q, s, grad_q, grad_s = self.parts(z)
        return Terms(q, self.beta * s, grad_q, self.beta * grad_s)

    def log_density_and_grad(
        self, z: Tensor, beta: float | Tensor = 1.0, *, held: Held | None = None
    ) -> tuple[Tensor, Tensor]:
        if self.base is None:
            self.evaluations += len(z)
            return self.inner.log_density_and_grad(z, self.beta * beta)
        terms = self.value_and_grad(z)
        scale = beta.unsqueeze(-1) if isinstance(beta, Tensor) and beta.dim() else beta
        return terms.log_prior + beta * terms.log_likelihood, terms.grad_prior + scale * terms.grad_likelihood

    def log_terms(self, z: Tensor, *, held: Held | None = None) -> tuple[Tensor, Tensor]:
        q, s = self.ends(z)
        return q, self.beta * s

    def constrain(self, z: Tensor, *, held: Held | None = None) -> dict[str, Tensor]:
        return self.inner.constrain(z)

    def sample_prior(self, chains: int) -> Tensor:
        if self.base is None:
            return self.inner.sample_prior(chains)
        return self.base.sample(chains).reshape(chains, *self.batch_shape, self.dim)

    def expect(self, evaluations: int) -> None:
        self.inner.expect(evaluations)

    def terms_of_chain(self, z: Tensor, held: Held) -> tuple[Tensor, Tensor]:
        prior, likelihood = self.inner.terms_of_chain(z, held)
        if self.base is None:
            return prior, self.beta * likelihood
        q = self.base.log_density(self._flat(z.unsqueeze(0))).view_as(prior)
        return q, self.beta * (prior + likelihood - q)

    def constrain_chain(self, z: Tensor, held: Held) -> dict[str, Tensor]:
        return self.inner.constrain_chain(z, held)
