r"""The generative adversarial network: noise through a network, judged by what comes out.

.. math:: z_n \sim \mathcal{N}(0, I_K), \qquad x_n = G_\theta(z_n) .

Given :math:`z` there is nothing random about :math:`x`: the program is *implicit*, the distribution of the data at
their site is a point, and almost no :math:`x` has a likelihood. So there is no bound to train by. Draws are compared
with data instead, by a critic :math:`D` that learns to tell them apart (:class:`~pyro_gen.inference.Adversarial`):

.. math::
    \min_D \; \mathbb{E} \, \log(1 + e^{-D(x)}) + \mathbb{E} \, \log(1 + e^{D(G(z))})
        + \tfrac{\gamma}{2} \, \mathbb{E} \lVert \nabla D(x) \rVert^2 , \qquad
    \min_G \; \mathbb{E} \, \log(1 + e^{-D(G(z))}) ,

or by a kernel, with no second player (:class:`~pyro_gen.inference.MMD`). At its best the critic is
:math:`\log p(x) - \log p_G(x)`. Where the generator has the law of the data, that is 0 and nothing moves either; the
penalty, R1, keeps the two from circling around that point.

There is no encoder: what :math:`z` made an :math:`x` is asked under a stated observation noise
(:func:`pyro_gen.with_noise`), under which there is a likelihood too, ``pg.log_likelihood(gan, x, noise=0.1)``.

References:
    | Generative Adversarial Networks (Goodfellow et al., 2014)
    | https://arxiv.org/abs/1406.2661
    | Which Training Methods for GANs do actually Converge? (Mescheder, Geiger & Nowozin, 2018)
    | https://arxiv.org/abs/1801.04406
"""

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_gen.data.small import normal_rows
from pyro_gen.nets import MLP
from pyro_gen.observation import observe
from pyro_gen.program import Program
from pyro_gen.registry import model

__all__ = ["GAN"]


@model(
    "generative adversarial network",
    paper="Goodfellow et al. (2014)",
    small={
        "dense": lambda: (GAN((5,), 3, (8,)), normal_rows(9, 5)),
        "own generator": lambda: (GAN((2, 3), 4, nn.Sequential(nn.Linear(4, 6), nn.Tanh())), normal_rows(9, 2, 3)),
    },
)
class GAN(Program):
    r"""Creates a generator; give the game to :func:`pyro_gen.fit`, ``objective=Adversarial()``.

    Arguments:
        event_shape: The shape of one datum.
        latent: The number :math:`K` of latent dimensions.
        generator: The network :math:`G`, from noise of shape :math:`(N, K)`, and the context after it, to data; or the
            widths of the hidden layers of a multilayer perceptron.

    Example:
        >>> import pyro_gen as pg
        >>> gan = GAN((2,), latent=2)
        >>> pg.sample(gan, 3).shape
        torch.Size([3, 2])
    """

    def __init__(
        self, event_shape: Sequence[int], latent: int = 2, generator: nn.Module | Sequence[int] = (128, 128)
    ) -> None:
        super().__init__()
        self.event_shape = torch.Size(event_shape)
        self.latent = latent
        if not isinstance(generator, nn.Module):
            generator = MLP((latent, *generator, self.event_shape.numel()))
        self.generator = generator

    def check_inputs(self, x: Tensor, *context: Any) -> None:
        super().check_inputs(x, *context)
        if context and isinstance(self.generator, MLP):
            raise ValueError("GAN: layers of given widths take no context: give a generator of noise and context.")

    def model(self, x: Tensor, *context: Any) -> Tensor:
        r"""Draws :math:`x = G(z)` for each row of ``x``, with shape :math:`(N, *)`."""
        with self.plate(x):
            prior = dist.Normal(x.new_zeros(self.latent), 1.0).to_event(1)
            z = pyro.sample("z", prior)  # (N, K)
            generated = self.generator(z, *context).reshape(z.shape[:-1] + x.shape[1:])
            return observe("x", dist.Delta(generated, event_dim=x.dim() - 1), x)
