r"""The deep convolutional generative adversarial network: noise that grows into an image, of a class that is asked for.

.. math:: z_n \sim \mathcal{N}(0, I_K), \qquad x_n = \sigma\big(G_\theta([z_n, e_{y_n}])\big) .

The network :math:`G` is a linear layer to a few wide maps, then transposed convolutions that double height and width;
a class :math:`y`, which is context and never modelled, enters as its indicator :math:`e_y` beside the noise. Values lie
in (0, 1).

The game is :class:`~pyro_gen.inference.Adversarial` with ``channels`` for a critic of convolutions, and ``classes`` for
one that projects on the label: :math:`D(x, y) = w^\top \phi(x) + b + e_y^\top \phi(x)`. The paper steadies the game by
batch normalisation, under which the draws of a batch depend on each other; here R1 or bounded spectra do it, and draws
are independent.

References:
    | Unsupervised Representation Learning with Deep Convolutional GANs (Radford, Metz & Chintala, 2016)
    | https://arxiv.org/abs/1511.06434
    | cGANs with Projection Discriminator (Miyato & Koyama, 2018)
    | https://arxiv.org/abs/1802.05637
"""

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_gen._sizes import check_sizes
from pyro_gen.data.small import level_rows, normal_rows
from pyro_gen.heads import check_asked, label
from pyro_gen.nets import ConvDecoder
from pyro_gen.observation import observe
from pyro_gen.program import Program
from pyro_gen.registry import model

__all__ = ["DCGAN"]


@model(
    "deep convolutional generative adversarial network",
    paper="Radford, Metz & Chintala (2016)",
    small={
        "images": lambda: (DCGAN((5, 6), latent=3, channels=(4, 3)), normal_rows(9, 5, 6).sigmoid()),
        "classes": lambda: (DCGAN((4, 4), 3, (4,), classes=3), normal_rows(9, 4, 4).sigmoid(), level_rows(3, 9)),
    },
)
class DCGAN(Program):
    r"""Creates a generator of images with values in (0, 1); give the game to :func:`pyro_gen.fit`.

    Arguments:
        event_shape: The shape of an image, (H, W) or (C, H, W).
        latent: The number :math:`K` of latent dimensions.
        channels: The number of channels that enters each stage, of which each doubles height and width.
        classes: The number of classes, 0 for none; else the context is a label 0, 1, ... for each image, shape (N,).

    Raises:
        ValueError: The shape is not one of an image, or a number is not positive.

    Example:
        >>> import pyro_gen as pg
        >>> gan = DCGAN((28, 28), channels=(16, 8), classes=10)
        >>> pg.sample(gan, 2, context=(torch.tensor([7.0, 1.0]),)).shape
        torch.Size([2, 28, 28])
    """

    def __init__(
        self, event_shape: Sequence[int], latent: int = 32, channels: Sequence[int] = (64, 32), classes: int = 0
    ) -> None:
        super().__init__()
        check_sizes(self, latent=latent)
        self.event_shape = torch.Size(event_shape)
        self.latent = latent
        if classes:
            check_sizes(self, 2, classes=classes)
        self.classes = label(classes) if classes else None
        self.generator = ConvDecoder(latent + classes, self.event_shape, channels)

    def check_inputs(self, x: Tensor, *labels: Tensor) -> None:
        super().check_inputs(x, *labels)
        check_asked(self, self.classes, x, labels)

    def model(self, x: Tensor, *labels: Tensor) -> Tensor:
        r"""Draws :math:`x = \sigma(G(z, y))` for each row of ``x``, with shape :math:`(N, *event)`."""
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.latent), 1.0).to_event(1))  # (N, K)
            if self.classes is not None:
                asked = self.classes.one_hot(labels[0]).to(z)
                z = torch.cat([z, asked.expand(*z.shape[:-1], -1)], -1)
            generated = torch.sigmoid(self.generator(z))
            return observe("x", dist.Delta(generated, event_dim=len(self.event_shape)), x)
