r"""PixelVAE: a variational autoencoder whose decoder sees, besides the latent variable, the pixels before each pixel.

.. math::
    z \sim p(z), \qquad
    p(x \mid z) = \prod_{t=1}^{D} p\big(x_t \mid x_1, \dots, x_{t-1}, z\big), \qquad
    q(z \mid x) = \mathcal{N}\big(\mu(x), \operatorname{diag} \sigma(x)^2\big)

with the pixels in reading order, and a prior :math:`\mathcal{N}(0, I_K)` or one that is learned
(:mod:`pyro_gen.models.vae.parts.priors`). The decoder is a stack of masked convolutions (van den Oord et al., 2016):
the first sees the pixels above and those to the left, the others their own place, too, and the latent variable is added
to what the first one says.

.. math:: h_0 = A * x + \mathrm{NN}(z), \qquad h_{l} = h_{l-1} + B_l * \mathrm{relu}(h_{l-1}) .

(Such a stack has a blind spot: no path leads from pixels above and far to the right.)

The convolutions see detail, a few pixels far; what an image is as a whole is left to :math:`z`. A stack that sees the
whole image needs no latent variable, and the bound then leaves it unused: few layers, or
``ELBO(free_bits=...)``, keep it in use.

Entries that are missing after all that was seen, in reading order, are integrated out exactly. Others are drawn by
:func:`pyro_gen.impute`, and what is seen weighed by :func:`pyro_gen.log_likelihood`, with particles along the order
(:mod:`pyro_gen.inference.likelihood.in_order`), each of which has a latent variable of its own.

References:
    | PixelVAE: A Latent Variable Model for Natural Images (Gulrajani et al., 2017)
    | https://arxiv.org/abs/1611.05013
    | Pixel Recurrent Neural Networks (van den Oord et al., 2016)
    | https://arxiv.org/abs/1601.06759
"""

from collections.abc import Sequence
from typing import Any, Self

import pyro
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_gen._sizes import check_sizes, check_widths
from pyro_gen.data.small import binary_rows, level_rows
from pyro_gen.distributions import MaskedEntries
from pyro_gen.models.autoregressive.parts.convolutions import MaskedConv
from pyro_gen.models.autoregressive.parts.pixels import PixelProgram
from pyro_gen.models.vae.parts.posteriors import normal
from pyro_gen.models.vae.parts.priors import VampPrior, make_prior
from pyro_gen.nets import MLP
from pyro_gen.observation import observe
from pyro_gen.registry import model

__all__ = ["PixelVAE"]


@model(
    "variational autoencoder with an autoregressive decoder (PixelVAE)",
    paper="Gulrajani et al. (2017)",
    small={
        "bernoulli": lambda: (PixelVAE((2, 3), 2, (6,), channels=4, layers=1), binary_rows(9, 2, 3)),
        "categorical": lambda: (
            PixelVAE((2, 2), 2, (6,), channels=4, layers=1, likelihood="categorical", levels=3),
            level_rows(3, 9, 2, 2),
        ),
    },
)
class PixelVAE(PixelProgram):
    r"""Creates a PixelVAE.

    Arguments:
        event_shape: The shape of one image, :math:`(H, W)`.
        latent: The number of latent dimensions :math:`K`.
        hidden: The widths of the hidden layers of the encoder; the network of :math:`z` has them in reverse.
        channels: The number of channels of the convolutions.
        layers: The number of convolutions after the first.
        kernel: Their height and width, an odd number.
        likelihood: The name of a likelihood head in :data:`pyro_gen.heads.HEADS`.
        dropout: The share of hidden units, and of features before each convolution but the first, dropped in training.
        prior: The name of a prior of :class:`~pyro_gen.models.VAE`, or a module.
        head_options: Passed to the likelihood head, ``levels=17`` say.

    Raises:
        ValueError: The data are no images, the kernel is even, sizes are out of range, or there is no such likelihood
            or prior.

    Example:
        >>> vae = PixelVAE((2, 2), latent=1, hidden=(8,), channels=4, layers=1)
        >>> images = torch.cartesian_prod(*4 * [torch.tensor([0.0, 1.0])]).unflatten(1, (2, 2))
        >>> p = vae.decode(torch.zeros(16, 1)).log_prob(images).exp()  # given z = 0
        >>> round(p.sum().item(), 5)
        1.0
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent: int = 8,
        hidden: Sequence[int] = (200, 200),
        channels: int = 32,
        layers: int = 2,
        kernel: int = 3,
        likelihood: str = "bernoulli",
        dropout: float = 0.0,
        prior: str | nn.Module = "standard",
        **head_options: Any,
    ) -> None:
        super().__init__(event_shape, channels, kernel, likelihood, **head_options)
        check_sizes(self, latent=latent)
        check_sizes(self, 0, layers=layers)
        check_widths(self, hidden=hidden)
        self.latent = latent
        self.prior = make_prior(prior, latent, self.event_shape)
        self.encoder = MLP((self.entries, *hidden, 2 * latent), "relu", dropout, missing=True)
        self.spread = MLP((latent, *hidden[::-1], channels * self.entries), "relu", dropout)
        self.first = MaskedConv(self.inputs, channels, kernel, "before", own=False)
        self.others = nn.ModuleList(MaskedConv(channels, channels, kernel, "before", own=True) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Conv2d(channels, self.numbers, 1)

    def initialise(self, x: Tensor, *context: Any, seed: int = 0) -> Self:
        """Sets offset and pseudo-inputs from data with shape :math:`(N, H, W)`, the first time only."""
        if not self.initialised and isinstance(self.prior, VampPrior):
            self.prior.initialise(self.likelihood.normalise(x), seed)
        return super().initialise(x, *context, seed=seed)

    def network(self, values: Tensor, m: Any, z: Tensor | None) -> Any:
        """The laws of pixels given those before them and the latent variable, of values with shape (*, D)."""
        assert z is not None
        shape = torch.broadcast_shapes(values.shape[:-1], z.shape[:-1])
        h = self.first(self.images(values.expand(*shape, -1)))  # (B, channels, H, W)
        h = h + self.spread(z.expand(*shape, -1)).reshape(h.shape)
        for layer in self.others:
            h = h + layer(self.dropout(F.relu(h)))
        return self.laws(self.last(self.dropout(F.relu(h))).reshape(*shape, -1))

    def decode(self, z: Tensor) -> MaskedEntries:
        """The law of images given latent variables with shape (N, K)."""
        return MaskedEntries(self.network, self.order, self.event_shape, self.support, z.shape[:-1], z)

    def posterior(self, normalised: Tensor) -> Any:
        """The approximate posterior given images as the encoder sees them, with shape (*, H, W)."""
        return normal(self.encoder(normalised.flatten(-2)))

    def particles(self, count: int, x: Tensor, *context: Any) -> tuple[MaskedEntries, Tensor]:
        """Particles whose latent variables are draws of guide and prior by turns, so that no weight is more than 2."""
        q = self.posterior(self.likelihood.normalise(x))
        prior = self.prior(self.posterior).expand((len(x),))
        from_prior = torch.arange(count, device=x.device).reshape(-1, 1, 1) % 2 == 0
        of_prior = (count + 1) // 2
        shares = torch.tensor([of_prior, count - of_prior], dtype=torch.float64, device=x.device).div(count).log()
        z = torch.where(from_prior, prior.sample((count,)), q.sample((count,)))  # (S, N, K)
        log_p, log_q = prior.log_prob(z).double(), q.log_prob(z).double()
        return self.decode(z), log_p - torch.logaddexp(log_p + shares[0], log_q + shares[1])

    def model(self, x: Tensor) -> Tensor:
        r"""The joint density :math:`p(x, z)` of images with shape :math:`(N, H, W)`; returns them completed."""
        with self.plate(x):
            z = pyro.sample("z", self.prior(self.posterior))  # (N, K)
            return observe("x", self.decode(z), x)

    def guide(self, x: Tensor) -> None:
        r"""The approximate posterior :math:`q(z \mid x_o)`."""
        with self.plate(x):
            pyro.sample("z", self.posterior(self.likelihood.normalise(x)))
