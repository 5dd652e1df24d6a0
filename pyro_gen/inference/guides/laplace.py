r"""The Laplace approximation: a normal distribution at the posterior's mode, with the curvature there.

In unconstrained space, with the mode :math:`\hat v` of :math:`\log p(x, v)` and its Hessian H,

.. math:: q(v) = \mathcal{N}\big(\hat v, (-H)^{-1}\big) .

References:
    | Accurate Approximations for Posterior Moments and Marginal Densities (Tierney & Kadane, 1986)
    | https://doi.org/10.1080/01621459.1986.10478240
"""

from typing import Any

import torch
from torch import Tensor

from pyro_gen._random import seeded
from pyro_gen.density import as_inputs, density
from pyro_gen.inference.guides.attach import guide_of, with_guide
from pyro_gen.inference.guides.latent import FullRank
from pyro_gen.packing import packs
from pyro_gen.program import Program

__all__ = ["laplace"]

NEWTON_STEPS = 20


def laplace(program: Program, x: Any, *context: Any, seed: int = 0) -> Program:
    r"""Gives a program the normal guide of the posterior's mode and curvature; nothing is trained.

    Arguments:
        program: The program; its parameters are held as they are.
        x: The data, with shape :math:`(N, *)` and NaN where nothing was observed.
        context: What the model conditions on.
        seed: Seeds the starting point, the median of some draws from the prior.

    Returns:
        A program with the same model and a :class:`FullRank` guide.

    Raises:
        ValueError: No mode was found, or the posterior is not curved downwards there in every direction.

    Example:
        >>> import pyro, torch
        >>> import pyro.distributions as dist
        >>> import pyro_gen as pg
        >>> from pyro_gen.inference.guides import guide_of
        >>> def model(x):
        ...     rate = pyro.sample("rate", dist.Gamma(3.0, 1.0))
        ...     with pg.plate(x):
        ...         return pg.observe("x", dist.Poisson(rate), x)
        >>> program = laplace(pg.Program.from_functions(model), torch.tensor([4.0, 2.0]))
        >>> round(guide_of(program).loc.exp().item(), 4)  # the mode of log(rate): (3 + 6) / (1 + 2)
        3.0
    """
    guided = with_guide(program, FullRank())
    _to_mode(guided, x, *context, seed=seed)
    return guided


@packs
def _to_mode(guided: Program, x: Any, *context: Any, seed: int) -> None:
    """Makes a new guide that of the mode of the posterior."""
    x, *parts = as_inputs(guided, x, *context)
    guided.initialise(x, *parts, seed=seed)
    guide = guide_of(guided)
    assert isinstance(guide, FullRank)
    with seeded(seed):
        target = density(guided, x, *parts, per_datum=False)
    if target.names != guide.names:
        raise ValueError(
            f"laplace approximates all continuous latent variables ({', '.join(target.names)}), and the guide of "
            f"{_name(guided)} samples some of them itself: give a program without a guide."
        )

    def loss(v: Tensor) -> Tensor:
        return -target.log_density(v.unsqueeze(0))[0]

    v = guide.loc.detach().to(target.dtype).requires_grad_()
    optimizer = torch.optim.LBFGS([v], max_iter=1000, line_search_fn="strong_wolfe", tolerance_change=0.0)

    def closure() -> Tensor:
        value, grad = target.log_density_and_grad(v.detach().unsqueeze(0))
        v.grad = -grad[0]
        return -value[0]

    optimizer.step(closure)
    mode = v.detach()
    for _ in range(NEWTON_STEPS):  # which LBFGS ends short of
        factor = _cholesky(loss, mode, guided)
        grad = target.log_density_and_grad(mode.unsqueeze(0))[1][0]
        step = torch.cholesky_solve(grad.unsqueeze(-1), factor).squeeze(-1)
        if not bool(loss(mode + step) < loss(mode)):  # nothing left but rounding
            break
        mode = mode + step
    factor = _cholesky(loss, mode, guided)
    scale_tril = torch.linalg.cholesky(torch.cholesky_inverse(factor))
    scale = scale_tril.diagonal()
    with torch.no_grad():
        guide.loc.copy_(mode)
        guide.log_scale.copy_(scale.log())
        guide.lower.copy_(scale_tril / scale.unsqueeze(-1))


def _name(guided: Program) -> str:
    return type(guided.unguided).__name__


def _cholesky(loss: Any, mode: Tensor, guided: Program) -> Tensor:
    """The Cholesky factor of the Hessian of the negative log-density."""
    hessian = torch.autograd.functional.hessian(loss, mode)
    factor, info = torch.linalg.cholesky_ex(hessian)
    if info.item() != 0 or not bool(torch.isfinite(factor).all()):
        raise ValueError(
            f"The posterior of {_name(guided)} is not curved downwards in every direction where the search "
            "for its mode ended: the scale of a hierarchical model often has no mode. Use MeanField or Flow."
        )
    return torch.as_tensor(factor)
