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
:math:`f_\theta(z) = \mathrm{NN}_\theta(z) + b`. Both are set from the first data seen
(:mod:`pyro_gen.models.vae.parts.encoded`).

The prior can be learned, too, and the approximate posterior be any density that can be drawn from: their mathematics is
in :mod:`pyro_gen.models.vae.parts.priors` and :mod:`pyro_gen.models.vae.parts.posteriors`.

Entries that are missing drop out of the likelihood (:func:`pyro_gen.observe`), and the encoder is told which they are,
so :math:`q_\phi(z \mid x_o)` depends on the seen ones alone.

References:
    | Auto-Encoding Variational Bayes (Kingma & Welling, 2014)
    | https://arxiv.org/abs/1312.6114
    | Stochastic Backpropagation and Approximate Inference in Deep Generative Models (Rezende et al., 2014)
    | https://arxiv.org/abs/1401.4082
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Self

import pyro
from torch import Tensor, nn

from pyro_gen._sizes import check_sizes, check_widths
from pyro_gen.data.small import binary_rows, level_rows, normal_rows
from pyro_gen.heads import Head
from pyro_gen.models.vae.parts.encoded import EncodedProgram
from pyro_gen.models.vae.parts.posteriors import POSTERIORS, make_posterior
from pyro_gen.models.vae.parts.priors import PRIORS, VampPrior, make_prior
from pyro_gen.nets import MLP, ConvDecoder, ConvEncoder
from pyro_gen.observation import observe
from pyro_gen.registry import model

__all__ = ["VAE"]


def small_vae(**options: Any) -> tuple["VAE", Tensor]:
    """A small instance, and data to try it on."""
    return VAE(6, 2, (10,), **options), binary_rows(9, 6)


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
        **{f"prior {name}": partial(small_vae, prior=name) for name in PRIORS if name != "standard"},
        **{f"guide {name}": partial(small_vae, guide=name) for name in POSTERIORS if name != "mean field"},
    },
)
class VAE(EncodedProgram):
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
            to :math:`(*, features)` of the guide; in mean field :math:`(*, 2 K)`, the means, then the raw scales.
        decoder: A module to use instead, from :math:`(*, K)` to :math:`(*, features)` of the likelihood head.
        prior: ``"standard"``, ``"mixture"`` (of normals), ``"vamp"`` (VampPrior), ``"flow"`` (neural spline),
            ``"autoregressive"``, ``"correlated"`` (delta-VAE), or a module of
            :mod:`~pyro_gen.models.vae.parts.priors` or one's own that is called with the approximate posterior, a
            function, and returns a distribution of event shape :math:`(K)`.
        guide: The approximate posterior: ``"mean field"``, ``"full covariance"``, ``"iaf"`` or ``"spline"`` (amortised
            flows), or a module from an encoder's output, whose size is its attribute ``features``, to a distribution.
        head_options: Passed to the likelihood head, ``levels=17`` say.

    Raises:
        ValueError: There is no likelihood, architecture, activation, prior or guide of that name, it does not fit the
            data, or a width is no positive integer.

    Example:
        >>> import torch
        >>> vae = VAE((8, 8), latent=4, hidden=(32,), likelihood="categorical", levels=17)
        >>> vae.model(torch.full((5, 8, 8), torch.nan)).shape  # five generated images
        torch.Size([5, 8, 8])
    """

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
        prior: str | nn.Module = "standard",
        guide: str | nn.Module = "mean field",
        **head_options: Any,
    ) -> None:
        super().__init__(event_shape, likelihood, **head_options)
        check_sizes(self, latent=latent)
        check_widths(self, hidden=() if hidden is None else hidden)
        self.latent = latent
        self.prior, self.posterior = make_prior(prior, latent, self.event_shape), make_posterior(guide, latent)
        features, out = self.likelihood.features, self.posterior.features
        if architecture == "dense":
            hidden = (200, 200) if hidden is None else hidden
            sizes = (self.event_shape.numel(), *hidden, out)
            mirrored = (latent, *hidden[::-1], features.numel())
            self.encoder = encoder or nn.Sequential(
                nn.Flatten(-len(self.event_shape)), MLP(sizes, activation, dropout, missing=True)
            )
            self.decoder = decoder or nn.Sequential(MLP(mirrored, activation, dropout), nn.Unflatten(-1, features))
        elif architecture == "conv":
            hidden = (32, 64) if hidden is None else hidden
            self.encoder = encoder or ConvEncoder(self.event_shape, out, hidden, activation, dropout, missing=True)
            self.decoder = decoder or ConvDecoder(latent, features, hidden[::-1], activation, dropout)
        else:
            raise ValueError(f'VAE(architecture={architecture!r}): give "dense" or "conv".')

    def initialise(self, x: Tensor, *context: Any, seed: int = 0) -> Self:
        """Sets mean, offset and pseudo-inputs from data with shape :math:`(N, *event)`, the first time only."""
        first = not self.initialised
        super().initialise(x, *context, seed=seed)
        if first and isinstance(self.prior, VampPrior):
            self.prior.initialise(self.centre(x), seed)
        return self

    def encode(self, centred: Tensor) -> Any:
        """The approximate posterior given data as the encoder sees it, with shape :math:`(*, event)`."""
        return self.posterior(self.encoder(centred))

    def model(self, x: Tensor) -> Tensor:
        r"""The joint density :math:`p(x, z)` of data with shape :math:`(N, *event)`; returns it completed."""
        with self.plate(x):
            z = pyro.sample("z", self.prior(self.encode))  # (N, K)
            return observe("x", self.decode(z), x)

    def guide(self, x: Tensor) -> None:
        r"""The approximate posterior :math:`q(z \mid x_o)`."""
        with self.plate(x):
            pyro.sample("z", self.encode(self.centre(x)))
