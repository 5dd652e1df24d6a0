r"""Score matching: an energy is fitted by its gradient in the data, in which the normalising constant is no more.

With the score :math:`s(x) = \nabla_x \log p(x) = \nabla_x (\log p_0(x) - E(x))`, the Fisher divergence between data and
model is, up to a constant,

.. math:: J = \mathbb{E}_x \Big[ \operatorname{tr} \nabla_x s(x) + \tfrac{1}{2} \|s(x)\|^2 \Big] .

A program with scores at all levels of noise, a score-based SDE, is matched at all of them,

.. math:: \mathbb{E}_t \, \lambda_t \, \mathbb{E}_{x_t} \Big[ \tfrac{1}{2} \|s(x_t, t)
    - \nabla \log p_t(x_t) \|^2 \Big] ,

which with the weights :math:`\lambda_t = g(t)^2` of the likelihood bounds the Kullback-Leibler divergence, from data to
draws by the equation, in nats.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from pyro_gen.density.energy import entries_of, unnormalised_log_prob
from pyro_gen.inference.objectives.base import Objective
from pyro_gen.program import Program, data_scale
from pyro_gen.registry import objective

__all__ = ["Noised", "ScoreMatching"]


class Noised(NamedTuple):
    r"""Data with noise, and the score of their density.

    Attributes:
        x: The data with noise, with shape :math:`(N, *)`.
        score: The score of the program at the noise of each row, a function from shape :math:`(N, *)` to the same.
        target: The score of the noise itself, :math:`-\epsilon / \sigma`, with shape :math:`(N, *)`.
        weight: The weight of each row, with shape :math:`(N,)`, its share of time in it.
    """

    x: Tensor
    score: Callable[[Tensor], Tensor]
    target: Tensor
    weight: Tensor


@runtime_checkable
class _HasScores(Protocol):
    """A program with scores at all levels of noise, told by times in [0, 1]."""

    def perturb(self, x: Tensor, time: Tensor, *context: Any) -> Noised: ...


@objective
class ScoreMatching(Objective):
    r"""The Fisher divergence between data and model, for densities on the whole of :math:`\mathbb{R}^D`.

    - ``"exact"`` takes the trace by D backward passes.
    - ``"sliced"`` estimates it without bias by one, :math:`v^\top \nabla_x s(x) v` with random signs :math:`v`.
    - ``"denoising"`` fits the density of the data plus noise, :math:`\tilde{x} = x + \sigma \epsilon`, by
      :math:`\tfrac{1}{2} \| s(\tilde{x}) + \epsilon / \sigma \|^2`, which takes no second derivative.

    Of a program with scores at all levels of noise one level is drawn for each datum; those of a minibatch are spread
    evenly. The loss is no bound, and its unit is not nats.

    References:
        | Estimation of Non-Normalized Statistical Models by Score Matching (Hyvärinen, 2005)
        | https://jmlr.org/papers/v6/hyvarinen05a.html
        | Sliced Score Matching: A Scalable Approach to Density and Score Estimation (Song et al., 2020)
        | https://arxiv.org/abs/1905.07088
        | A Connection Between Score Matching and Denoising Autoencoders (Vincent, 2011)
        | https://doi.org/10.1162/NECO_a_00142
        | Maximum Likelihood Training of Score-Based Diffusion Models (Song et al., 2021), the weights
        | https://arxiv.org/abs/2101.09258

    Arguments:
        method: ``"exact"``, ``"sliced"`` or ``"denoising"``.
        noise: The standard deviation :math:`\sigma` of the noise, in the units of the data, for ``"denoising"`` of a
            program that has no levels of noise.

    Raises:
        ValueError: There is no such method, or the noise does not go with it.
    """

    anneals = False
    serves_missing = False
    kinds = ("exact", "unnormalised")

    def __init__(self, method: str = "exact", noise: float | None = None) -> None:
        super().__init__()
        if method not in ("exact", "sliced", "denoising"):
            raise ValueError(f'method={method!r}: choose "exact", "sliced" or "denoising".')
        if method != "denoising" and noise is not None:
            raise ValueError(f'noise={noise}: method="denoising" takes a noise, and no other method does.')
        if noise is not None and not noise > 0:
            raise ValueError(f"noise={noise}: the standard deviation of the noise is positive.")
        self.method, self.noise = method, noise

    def loss(self, program: Program, x: Tensor, *context: Any, kl_weight: Tensor | float = 1.0) -> Tensor:
        if isinstance(program, _HasScores):
            return data_scale(x) * self._at_all_levels(program, x, *context)
        if self.method == "denoising" and self.noise is None:
            raise ValueError(
                f"{type(program).__name__} has a score at no level of noise but 0: give the standard deviation of the "
                'noise, as ScoreMatching("denoising", noise=0.1).'
            )
        if not entries_of(program, x, *context).real:
            raise ValueError(
                f"ScoreMatching is for densities of any real numbers, and the base of {type(program).__name__} is not "
                "one: transform the data to the whole real line, or use PseudoLikelihood or ContrastiveDivergence."
            )
        with torch.enable_grad():  # of the data, in validation too
            at, target = x.detach(), None
            if self.noise is not None:
                added = torch.randn_like(x)
                at, target = at + self.noise * added, -added / self.noise
            at.requires_grad_()
            score = _gradient(unnormalised_log_prob(program, at, *context), at)  # (N, *)
            rows = self._rows(score, at, target)
        return data_scale(x) * rows.sum()

    def _at_all_levels(self, program: _HasScores, x: Tensor, *context: Any) -> Tensor:
        """The loss of some rows at levels of noise that are spread evenly over them."""
        if self.noise is not None:
            raise ValueError(
                f"ScoreMatching(noise={self.noise}): {type(program).__name__} has scores at all levels of noise; leave "
                "noise out."
            )
        spread = torch.arange(len(x), dtype=x.dtype, device=x.device) / len(x)
        noised = program.perturb(x, (torch.rand_like(spread[:1]) + spread) % 1, *context)
        with torch.enable_grad():
            at = noised.x.detach().requires_grad_()
            score = noised.score(at)
            rows = self._rows(score, at, noised.target if self.method == "denoising" else None)
        return (noised.weight * rows).sum()

    def _rows(self, score: Tensor, x: Tensor, target: Tensor | None) -> Tensor:
        """The loss of each row, (N,): towards a target, or by the trace."""
        if target is not None:
            return 0.5 * (score - target).flatten(1).square().sum(-1)
        return 0.5 * score.flatten(1).square().sum(-1) + self._trace(score, x)

    def _trace(self, score: Tensor, x: Tensor) -> Tensor:
        """The trace of the score's Jacobian, (N,), or an unbiased estimate."""
        if self.method == "sliced":
            v = torch.randint_like(score, 2) * 2 - 1
            return (_gradient(score * v, x) * v).flatten(1).sum(-1)
        columns = score.flatten(1).unbind(-1)
        return torch.stack([_gradient(s, x).flatten(1)[:, d] for d, s in enumerate(columns)]).sum(0)


def _gradient(value: Tensor, x: Tensor) -> Tensor:
    """The gradient of a sum of rows, each of which depends on its own row of x; zero where it depends on none."""
    if not value.requires_grad:
        return torch.zeros_like(x)
    return torch.autograd.grad(value.sum(), x, create_graph=True, allow_unused=True, materialize_grads=True)[0]
