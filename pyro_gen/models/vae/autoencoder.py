r"""The autoencoder, and the denoising one: a code that is a point.

.. math::
    z_n \sim \mathcal{N}(0, I_K), \qquad x_n \mid z_n \sim p\big(x \mid f_\theta(z_n)\big), \qquad
    z_n = g_\phi(\tilde{x}_n)

The guide is a point, the code :math:`g_\phi(\tilde{x})`, and training by the ELBO then maximises
:math:`\log p(x \mid z) + \log p(z)` at the code: reconstruction, with the codes held near 0. In training a share of the
entries of :math:`\tilde{x}` may be hidden from the encoder, and all of x is to be reconstructed: no code that copies
the input does that.

The model is a density like that of any VAE, only that its training has not looked for a likelihood. What needs the
density of the guide does not apply, and says so: the ELBO as a number, importance sampling, imputation by the guide.
What needs its code does: ``pg.reconstruct``, ``pg.interpolate``, ``pg.arithmetic``; and what needs the model alone:
``pg.sample``, and annealed importance sampling from the prior, ``method="ais", start="prior"``. Codes of all data
together that look like draws of the prior are what :class:`~pyro_gen.inference.WassersteinAutoencoder` is for.

References:
    | Reducing the Dimensionality of Data with Neural Networks (Hinton & Salakhutdinov, 2006)
    | https://doi.org/10.1126/science.1127647
    | Extracting and Composing Robust Features with Denoising Autoencoders (Vincent et al., 2008), masking noise
    | https://doi.org/10.1145/1390156.1390294
"""

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_gen._sizes import check_sizes, check_widths
from pyro_gen.data.small import binary_rows, normal_rows
from pyro_gen.heads import Head
from pyro_gen.models.vae.parts.encoded import EncodedProgram
from pyro_gen.nets import MLP
from pyro_gen.observation import observe
from pyro_gen.registry import model

__all__ = ["Autoencoder"]


@model(
    "autoencoder, denoising autoencoder",
    paper="Hinton & Salakhutdinov (2006); Vincent et al. (2008)",
    small={
        "bernoulli": lambda: (Autoencoder(6, 2, (5,)), binary_rows(9, 6)),
        "denoising, normal": lambda: (
            Autoencoder((2, 3), 2, (5,), hide=0.3, likelihood="normal"),
            normal_rows(9, 2, 3),
        ),
    },
)
class Autoencoder(EncodedProgram):
    r"""Creates an autoencoder.

    Arguments:
        event_shape: The shape of one datum, or the number of its entries.
        latent: The number K of entries of the code.
        hidden: The widths of the encoder's hidden layers; the decoder has them in reverse.
        hide: The share of entries that are hidden from the encoder in training, in [0, 1): masking noise.
        likelihood: The name of a likelihood head in :data:`pyro_gen.heads.HEADS`, or a head.
        activation: The name of the activation in :data:`pyro_gen.nets.ACTIVATIONS`.
        head_options: Passed to the likelihood head, ``levels=17`` say.

    Raises:
        ValueError: The share is not in [0, 1), sizes are out of range, or there is no likelihood or activation of
            that name.

    Example:
        >>> import pyro_gen as pg
        >>> autoencoder = Autoencoder((8, 8), latent=4, hide=0.25)
        >>> pg.reconstruct(autoencoder, torch.zeros(3, 8, 8)).shape
        torch.Size([3, 8, 8])
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        latent: int = 8,
        hidden: Sequence[int] = (200, 200),
        hide: float = 0.0,
        likelihood: str | Head = "bernoulli",
        activation: str = "relu",
        **head_options: Any,
    ) -> None:
        super().__init__(event_shape, likelihood, **head_options)
        if not 0 <= hide < 1:
            raise ValueError(f"Autoencoder(hide={hide!r}): a share of the entries is in [0, 1).")
        check_sizes(self, latent=latent)
        check_widths(self, hidden=hidden)
        self.latent, self.hide = latent, Hide(hide)
        features = self.likelihood.features
        self.encoder = nn.Sequential(
            nn.Flatten(-len(self.event_shape)),
            MLP((self.event_shape.numel(), *hidden, latent), activation, missing=True),
        )
        self.decoder = nn.Sequential(
            MLP((latent, *hidden[::-1], features.numel()), activation), nn.Unflatten(-1, features)
        )

    def model(self, x: Tensor) -> Tensor:
        r"""The joint density :math:`p(x, z)` of data with shape :math:`(N, *event)`; returns it completed."""
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.latent), 1.0).to_event(1))  # (N, K)
            return observe("x", self.decode(z), x)

    def guide(self, x: Tensor) -> None:
        """The code of what the encoder sees."""
        with self.plate(x):
            pyro.sample("z", dist.Delta(self.encoder(self.hide(self.centre(x))), event_dim=1))


class Hide(nn.Dropout):
    """Masking noise: in training, entries are missing at random. To the rest of the package it is dropout."""

    def forward(self, x: Tensor) -> Tensor:
        """NaN at a share of the entries."""
        return torch.where(torch.rand_like(x) < self.p, torch.nan, x) if self.training and self.p > 0 else x
