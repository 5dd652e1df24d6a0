r"""Score-based generative modelling: data become noise by a stochastic differential equation, and noise data.

The equation :math:`dx = f x \, dt + g \, dw` (:mod:`pyro_gen.models.diffusion.parts.sdes`) leads from data at time 0 to
noise at time 1. Run backwards it needs the score of the densities on the way, :math:`s(x, t) = \nabla \log p_t(x)`, and
so does the *probability flow*, an ordinary differential equation with the same densities,

.. math::
    dx = \big( f x - g^2 s(x, t) \big) dt + g \, d\bar w, \qquad
    \frac{dx}{dt} = f x - \tfrac12 g^2 s(x, t) .

The flow is a bijection of noise and data, of which the density of data is exact: it is the law of this program, which
has no latent variable. A network is trained by score matching at all times (:class:`pyro_gen.inference.ScoreMatching`):
it is told :math:`\hat x`, the mean of the datum given how it looks with noise, from which the score follows,

.. math::
    s(x_t, t) = \frac{\alpha_t \hat x - x_t}{\sigma_t^2}, \qquad
    \hat x = \frac{y}{1 + \rho^2} + \frac{\rho}{\sqrt{1 + \rho^2}} \,
        \mathrm{NN}\Big(\frac{y}{\sqrt{1 + \rho^2}}, \rho\Big), \qquad
    y = \frac{x_t}{\alpha_t}, \quad \rho = \frac{\sigma_t}{\alpha_t} .

With the network at 0, where it starts, this is right for standard normal data. In y and :math:`\log \rho` the flow is
the same for all equations,

.. math:: \frac{dy}{d \log \rho} = y - \hat x(y, \rho), \qquad
    \log p(x) = \log \mathcal{N}\big(y_1; 0, (1 + \rho_1^2) I\big)
        + \int_{\log \rho_0}^{\log \rho_1} \operatorname{tr} \Big( I - \frac{\partial \hat x}{\partial y} \Big)
        d \log \rho ,

which is solved to a tolerance, with the trace exact, by D derivatives at each step for D entries. (One random probe of
the trace has a standard deviation of about a nat a datum.) The density is that of data with noise of :math:`\rho_0`, a
hundredth of their standard deviation.

Draws follow the flow, and so this density, unless another of :mod:`~pyro_gen.models.diffusion.parts.samplers` is asked
for; where the score is not exact these have laws of their own. Missing entries are drawn by a chain of reverse steps
that is twisted towards what was seen (:mod:`pyro_gen.inference.likelihood.twisted`).

References:
    | Score-Based Generative Modeling through Stochastic Differential Equations (Song et al., 2021)
    | https://arxiv.org/abs/2011.13456
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022), y and its network
    | https://arxiv.org/abs/2206.00364
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_gen._sizes import check_sizes, event_of
from pyro_gen.data.small import normal_rows
from pyro_gen.inference.objectives import Noised, ScoreMatching
from pyro_gen.models.diffusion.parts.networks import TimeMLP
from pyro_gen.models.diffusion.parts.probability_flow import ProbabilityFlow
from pyro_gen.models.diffusion.parts.reverse_chain import ReverseChain, SampledFlow
from pyro_gen.models.diffusion.parts.samplers import SAMPLERS
from pyro_gen.models.diffusion.parts.sdes import SDE, SDES, VarianceExploding, VariancePreserving, VarianceSubPreserving
from pyro_gen.observation import observe
from pyro_gen.registry import model

__all__ = ["ScoreSDE"]


@model(
    "score-based SDE",
    paper="Song et al. (2021)",
    small={
        "variance exploding": lambda: (
            ScoreSDE(2, VarianceExploding(0.1, 5.0), width=8, depth=1, steps=4),
            normal_rows(9, 2),
        ),
        "variance preserving": lambda: (
            ScoreSDE((2, 1), VariancePreserving(0.1, beta_1=5.0), width=8, depth=1, steps=4, sampler="heun"),
            normal_rows(9, 2, 1),
        ),
        "sub-variance preserving, context": lambda: (
            ScoreSDE(2, VarianceSubPreserving(0.1, beta_1=5.0), width=8, depth=1, steps=4, context=2),
            normal_rows(9, 2),
            normal_rows(9, 2),
        ),
    },
)
class ScoreSDE(ReverseChain):
    r"""Creates a score-based model.

    Arguments:
        event_shape: The shape of one datum, or the number of its entries.
        sde: The equation, ``"variance exploding"``, ``"variance preserving"``, ``"sub-variance preserving"``, or a
            :class:`~pyro_gen.models.diffusion.parts.sdes.SDE`.
        width: The width of the network.
        depth: The number of its residual layers.
        waves: The number of frequencies at which the network is shown the sine and cosine of each entry, for data with
            fine structure.
        context: The number of entries of what the density is conditional on.
        dropout: The share of hidden units dropped in training.
        sampler: ``"flow"``, ``"heun"``, ``"euler-maruyama"``, ``"ancestral"`` or ``"predictor-corrector"``. It can be
            set to another one after training, too.
        steps: The number of steps of a sampler, and of a chain over missing entries; as for the sampler.

    Raises:
        ValueError: Sizes are out of range, or there is no such equation or sampler.

    Example:
        >>> import pyro_gen as pg
        >>> score_sde = ScoreSDE(2, width=16, depth=1).eval()
        >>> x = torch.zeros(1, 2)
        >>> round(pg.log_likelihood(score_sde, x).mean(), 2)  # untrained, that of standard normal numbers
        -1.84
        >>> score_sde.sampler, score_sde.steps = "predictor-corrector", 20
        >>> pg.sample(score_sde, 5).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        sde: str | SDE = "variance exploding",
        width: int = 128,
        depth: int = 2,
        waves: int = 0,
        context: int = 0,
        dropout: float = 0.0,
        sampler: str = "flow",
        steps: int = 100,
    ) -> None:
        shape = event_of(self, event_shape)
        check_sizes(self, width=width)
        check_sizes(self, 0, depth=depth, waves=waves, context=context)
        if isinstance(sde, str):
            if sde not in SDES:
                raise ValueError(f"ScoreSDE(sde={sde!r}): choose one of {', '.join(SDES)}.")
            sde = SDES[sde]()
        network = TimeMLP(shape, shape, width, depth, context, dropout, waves=waves)
        super().__init__(shape, ProbabilityFlow(shape, sde, network, context))
        self.sde, self.steps = sde, steps
        self.sampler = sampler
        self.objective = ScoreMatching("denoising")

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "sampler" and value not in ("flow", *SAMPLERS):
            raise ValueError(f"ScoreSDE(sampler={value!r}): choose one of flow, {', '.join(SAMPLERS)}.")
        if name == "steps":
            check_sizes(self, steps=value)
        super().__setattr__(name, value)

    def model(self, x: Tensor, *context: Any) -> Tensor:
        """The density of data with shape :math:`(N, *event)` given context :math:`(N, *)` each."""
        with self.plate(x):
            return observe("x", SampledFlow(self, self._features(context), x.shape[:1]), x)

    def perturb(self, x: Tensor, time: Tensor, *context: Any) -> Noised:
        r"""Data with noise, at times that are uniform in :math:`\log \rho`; see :class:`Noised`."""
        h, (least, greatest) = self._features(context), self.flow.ends
        t = self.sde.time((least + (greatest - least) * time).exp())
        alpha, sigma = (v.reshape(-1, *(1 for _ in self.event_shape)) for v in (self.sde.alpha(t), self.sde.sigma(t)))
        epsilon = torch.randn_like(x)
        z = alpha * self.scaling.inverse(x)[0] + sigma * epsilon
        # In log rho the weight of the likelihood, g^2 dt / 2, is sigma^2.
        weight = 2 * (greatest - least) * sigma.flatten().square()
        return Noised(z, lambda z: self.flow.score(z, t, h), -epsilon / sigma, weight)
