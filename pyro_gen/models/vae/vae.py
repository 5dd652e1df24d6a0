r"""The variational autoencoder: a deep latent variable model, and a network that inverts it.

.. math::
    z_n \sim \mathcal{N}(0, I_K), \qquad x_n \mid z_n \sim p\big(x \mid f_\theta(z_n)\big), \qquad
    q_\phi(z_n \mid x_n) = \mathcal{N}\big(\mu_\phi(x_n), \operatorname{diag} \sigma_\phi(x_n)^2\big)

The decoder :math:`f_\theta` outputs the parameters of the likelihood of one datum, the encoder those of the
approximate posterior. Both are trained together on the evidence lower bound

.. math::
    \mathcal{L}(x) = \mathbb{E}_{q_\phi(z \mid x)}\big[\log p_\theta(x \mid z)\big]
    - \mathrm{KL}\big(q_\phi(z \mid x) \,\|\, p(z)\big) \;\le\; \log p_\theta(x) .

Training starts from what is known about each entry by itself: the encoder sees data less its mean :math:`m`, and the
decoder adds to the output of its network an offset :math:`b`, learned further, that fits the marginal of each entry,
:math:`f_\theta(z) = \mathrm{NN}_\theta(z) + b`. Both are set from the first data seen (:meth:`VAE.initialise`).

Entries that are missing drop out of the likelihood (:func:`pyro_gen.observe`), and the encoder is told which they are,
so :math:`q_\phi(z \mid x_o)` depends on the seen ones alone.

References:
    | Auto-Encoding Variational Bayes (Kingma & Welling, 2014)
    | https://arxiv.org/abs/1312.6114
    | Stochastic Backpropagation and Approximate Inference in Deep Generative Models (Rezende et al., 2014)
    | https://arxiv.org/abs/1401.4082
"""

from collections.abc import Sequence
from typing import Any, Self

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_gen.data.small import binary_rows, level_rows, normal_rows
from pyro_gen.heads import Head, make_head
from pyro_gen.nets import MLP, ConvDecoder, ConvEncoder
from pyro_gen.observation import observe
from pyro_gen.program import Program
from pyro_gen.registry import model

__all__ = ["VAE"]


@model(
    "variational autoencoder",
    paper="Kingma & Welling (2014)",
    small={
        "dense, bernoulli": lambda: (VAE(6, 3, (10,)), binary_rows(9, 6)),
        "conv, categorical": lambda: (
            VAE((8, 8), 3, (4, 6), "categorical", "conv", levels=5),
            level_rows(5, 9, 8, 8),
        ),
        "conv, normal": lambda: (VAE((8, 8), 3, (4, 6), "normal", "conv", scale="entry"), normal_rows(9, 8, 8)),
    },
)
class VAE(Program):
    r"""Creates a variational autoencoder.

    Arguments:
        event_shape: The shape of one datum, or the number of its entries.
        latent: The number of latent dimensions :math:`K`.
        hidden: The widths of the encoder's hidden layers, or the channels of its stages if convolutional; the decoder
            has them in reverse. The default is (200, 200), or (32, 64) if convolutional.
        likelihood: The name of a likelihood head in :data:`pyro_gen.heads.HEADS`, or a head.
        architecture: ``"dense"``, or ``"conv"`` for data of shape :math:`(H, W)` or :math:`(C, H, W)`.
        activation: The name of the activation in :data:`pyro_gen.nets.ACTIVATIONS`.
        dropout: The share of hidden units dropped in training.
        encoder: A module to use instead, from normalised, centred data of shape :math:`(*, event)`, NaN where missing,
            to :math:`(*, 2 K)`: the means, then the raw scales.
        decoder: A module to use instead, from :math:`(*, K)` to :math:`(*, features)` of the likelihood head.
        head_options: Passed to the likelihood head, ``levels=17`` say.

    Raises:
        ValueError: There is no likelihood, architecture or activation of that name, it does not fit the data, or a
            width is no positive integer.

    Example:
        >>> vae = VAE((8, 8), latent=4, hidden=(32,), likelihood="categorical", levels=17)
        >>> vae.model(torch.full((5, 8, 8), torch.nan)).shape  # five generated images
        torch.Size([5, 8, 8])
    """

    mean: Tensor
    initialised: Tensor

    def __init__(
        self,
        event_shape: int | Sequence[int],
        latent: int = 8,
        hidden: Sequence[int] | None = None,
        likelihood: str | Head = "bernoulli",
        architecture: str = "dense",
        activation: str = "tanh",
        dropout: float = 0.0,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        **head_options: Any,
    ) -> None:
        super().__init__()
        self.event_shape = torch.Size((event_shape,) if isinstance(event_shape, int) else event_shape)
        self.latent = _positive("latent", latent)
        if hidden is not None:
            if not isinstance(hidden, Sequence) or isinstance(hidden, str):
                raise ValueError(f"VAE(hidden={hidden!r}): give a sequence of widths, (200, 200) say.")
            hidden = [_positive("hidden", width) for width in hidden]
        self.likelihood = make_head(likelihood, self.event_shape, **head_options)
        features = self.likelihood.features
        if architecture == "dense":
            hidden = (200, 200) if hidden is None else hidden
            sizes = (self.event_shape.numel(), *hidden, 2 * latent)
            mirrored = (latent, *hidden[::-1], features.numel())
            self.encoder = encoder or nn.Sequential(
                nn.Flatten(-len(self.event_shape)), MLP(sizes, activation, dropout, missing=True)
            )
            self.decoder = decoder or nn.Sequential(MLP(mirrored, activation, dropout), nn.Unflatten(-1, features))
        elif architecture == "conv":
            hidden = (32, 64) if hidden is None else hidden
            self.encoder = encoder or ConvEncoder(
                self.event_shape, 2 * latent, hidden, activation, dropout, missing=True
            )
            self.decoder = decoder or ConvDecoder(latent, features, hidden[::-1], activation, dropout)
        else:
            raise ValueError(f'VAE(architecture={architecture!r}): give "dense" or "conv".')

        self.offset = nn.Parameter(torch.zeros(features))
        self.register_buffer("mean", torch.zeros(self.event_shape))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))

    def initialise(self, x: Tensor, *context: Any, seed: int = 0) -> Self:
        """Sets the mean and the decoder's offset from data with shape :math:`(N, *event)`, the first time only."""
        if not self.initialised:
            with torch.no_grad():
                self.mean.copy_(self.likelihood.normalise(x).nanmean(0).nan_to_num())
                self.offset.copy_(self.likelihood.marginal_features(x))
                self.initialised.fill_(True)
        return super().initialise(x, *context, seed=seed)

    def decode(self, z: Tensor) -> Any:
        """The likelihood of data given latent variables with shape :math:`(*, K)`."""
        return self.likelihood(self.decoder(z) + self.offset)

    def model(self, x: Tensor, *context: Any) -> Tensor:
        r"""The joint density :math:`p(x, z)` of data with shape :math:`(N, *event)`; returns it completed."""
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.latent), 1.0).to_event(1))  # (N, K)
            return observe("x", self.decode(z), x)

    def guide(self, x: Tensor, *context: Any) -> None:
        r"""The approximate posterior :math:`q(z \mid x_o)`."""
        with self.plate(x):
            loc, raw_scale = self.encoder(self.likelihood.normalise(x) - self.mean).chunk(2, -1)  # (N, K) each
            # The floor keeps log q finite where the posterior collapses to a point.
            pyro.sample("z", dist.Normal(loc, 1e-4 + F.softplus(raw_scale)).to_event(1))


def _positive(name: str, width: Any) -> int:
    if isinstance(width, bool) or not isinstance(width, int) or width < 1:
        raise ValueError(f"VAE({name}): a width is a positive integer, not {width!r}.")
    return width
