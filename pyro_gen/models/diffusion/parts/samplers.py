r"""Ways from noise to data along a stochastic differential equation, with the score :math:`s(x, t)` in it.

Each takes steps from :math:`t` to an earlier :math:`t'`, :math:`\Delta = t' - t < 0`, with noise
:math:`\epsilon \sim \mathcal{N}(0, I)`:

- ``"heun"``, the probability flow, :math:`v(x, t) = f x - \tfrac12 g^2 s`, by steps of order two,
  :math:`x' = x + \tfrac{\Delta}{2} \big( v(x, t) + v(x + \Delta v(x, t), t') \big)`;
- ``"euler-maruyama"``, the equation run backwards,
  :math:`x' = x + \Delta \, (f x - g^2 s) + \sqrt{-\Delta} \, g \, \epsilon`;
- ``"ancestral"``, :math:`x' \sim q(x_{t'} \mid x_t, \hat x)` with the mean :math:`\hat x` of the datum that the score
  tells, :math:`\hat x = (x + \sigma^2 s) / \alpha`;
- ``"predictor-corrector"``, the same, and after it a step of Langevin dynamics that leaves the density at :math:`t'`
  as it is, :math:`x' = x + \eta s + \sqrt{2 \eta} \, \epsilon`, :math:`\eta = (r \sigma_{t'})^2`.

References:
    | Score-Based Generative Modeling through Stochastic Differential Equations (Song et al., 2021)
    | https://arxiv.org/abs/2011.13456
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022), Heun's steps
    | https://arxiv.org/abs/2206.00364
"""

from collections.abc import Callable

import torch
from torch import Tensor

from pyro_gen.models.diffusion.parts.sdes import SDE

__all__ = ["SAMPLERS", "reverse_step"]

CORRECTION = 0.3  # r: the corrector moves by so many standard deviations of the noise

Score = Callable[[Tensor, Tensor], Tensor]
Step = Callable[[SDE, Score, Tensor, Tensor, Tensor], Tensor]  # of x, t and t'


def reverse_step(alpha: tuple[Tensor, Tensor], sigma: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    r"""The law :math:`q(x_{t'} \mid x_t, x) = \mathcal{N}(a x_t + b x, c^2 I)` of an earlier time t' given a later one.

    Arguments:
        alpha: The weights of the datum at t' and t.
        sigma: The standard deviations of the noise at t' and t.

    Returns:
        The numbers a, b and c.
    """
    ratio = alpha[1] / alpha[0]
    added = sigma[1].square() - (ratio * sigma[0]).square()
    shares = sigma[0].square() / sigma[1].square(), added / sigma[1].square()
    return ratio * shares[0], alpha[0] * shares[1], sigma[0] * shares[1].sqrt()


def _heun(sde: SDE, score: Score, x: Tensor, t: Tensor, earlier: Tensor) -> Tensor:
    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return sde.drift(t) * x - 0.5 * sde.diffusion(t) * score(x, t)

    dt, v = earlier - t, velocity(x, t)
    return x + 0.5 * dt * (v + velocity(x + dt * v, earlier))


def _euler_maruyama(sde: SDE, score: Score, x: Tensor, t: Tensor, earlier: Tensor) -> Tensor:
    dt, g2 = earlier - t, sde.diffusion(t)
    return x + dt * (sde.drift(t) * x - g2 * score(x, t)) + (-dt * g2).sqrt() * torch.randn_like(x)


def _ancestral(sde: SDE, score: Score, x: Tensor, t: Tensor, earlier: Tensor) -> Tensor:
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    clean = (x + sigma.square() * score(x, t)) / alpha
    a, b, c = reverse_step((sde.alpha(earlier), alpha), (sde.sigma(earlier), sigma))
    return a * x + b * clean + c * torch.randn_like(x)


def _predictor_corrector(sde: SDE, score: Score, x: Tensor, t: Tensor, earlier: Tensor) -> Tensor:
    x = _ancestral(sde, score, x, t, earlier)
    eta = (CORRECTION * sde.sigma(earlier)).square()
    return x + eta * score(x, earlier) + (2 * eta).sqrt() * torch.randn_like(x)


SAMPLERS: dict[str, Step] = {
    "heun": _heun,
    "euler-maruyama": _euler_maruyama,
    "ancestral": _ancestral,
    "predictor-corrector": _predictor_corrector,
}
