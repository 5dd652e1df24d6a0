r"""A variational autoencoder whose latent variables are discrete: bits, or symbols of a small alphabet.

.. math::
    z_{nk} \sim \operatorname{Categorical}(\pi_k), \quad k = 1, \dots, K, \qquad
    x_n \mid z_n \sim p\big(x \mid f_\theta(z_n)\big), \qquad
    q_\phi(z_n \mid x_n) = \prod_k \operatorname{Categorical}\big(z_{nk} \mid \pi_{\phi k}(x_n)\big)

With two categories a unit is a bit, :math:`z_{nk} \in \{0, 1\}`; with more it is an indicator of its symbol. No
gradient goes through a draw of them, so the objective decides how the guide learns:

* :class:`~pyro_gen.inference.ScoreFunctionELBO` follows :math:`(f - b) \nabla \log q(z \mid x)`, where
  :math:`f = \log p(x, z) - \log q(z \mid x)`: no bias, and much variance, which a baseline :math:`b` takes (a network:
  NVIL; the other draws: leave one out).
* :class:`~pyro_gen.inference.RelaxedELBO` draws from a continuous law beside it, or passes the gradient straight
  through: little variance, some bias.
* Of few units, ``pg.log_likelihood(method="exact")`` sums over all :math:`C^K` values.

References:
    | Neural Variational Inference and Learning in Belief Networks (Mnih & Gregor, 2014)
    | https://arxiv.org/abs/1402.0030
    | The Concrete Distribution (Maddison, Mnih & Teh, 2017)
    | https://arxiv.org/abs/1611.00712
    | Categorical Reparameterization with Gumbel-Softmax (Jang, Gu & Poole, 2017)
    | https://arxiv.org/abs/1611.01144
"""

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_gen._sizes import check_sizes, check_widths
from pyro_gen.data.small import binary_rows
from pyro_gen.heads import Head
from pyro_gen.inference.objectives import ScoreFunctionELBO
from pyro_gen.models.vae.parts.encoded import EncodedProgram
from pyro_gen.nets import MLP
from pyro_gen.observation import observe
from pyro_gen.registry import model

__all__ = ["DiscreteVAE"]


@model(
    "variational autoencoder with discrete latent variables",
    paper="Mnih & Gregor (2014); Jang, Gu & Poole (2017)",
    small={
        "bits": lambda: (DiscreteVAE(6, 3, hidden=(5,)), binary_rows(9, 6)),
        "symbols": lambda: (DiscreteVAE((2, 3), 2, 3, hidden=(5,)), binary_rows(9, 2, 3)),
    },
)
class DiscreteVAE(EncodedProgram):
    r"""Creates a variational autoencoder with discrete latent variables.

    Arguments:
        event_shape: The shape of one datum, or the number of its entries.
        units: The number K of latent units.
        categories: The number C of values of a unit: 2 for bits.
        hidden: The widths of the encoder's hidden layers; the decoder has them in reverse.
        likelihood: The name of a likelihood head in :data:`pyro_gen.heads.HEADS`, or a head.
        activation: The name of the activation in :data:`pyro_gen.nets.ACTIVATIONS`.
        dropout: The share of hidden units dropped in training.
        head_options: Passed to the likelihood head, ``levels=17`` say.

    Raises:
        ValueError: There are fewer than two categories, sizes are out of range, or there is no likelihood or activation
            of that name.

    Example:
        >>> import pyro_gen as pg
        >>> vae = DiscreteVAE(4, units=3, hidden=(8,))
        >>> pg.log_likelihood(vae, torch.ones(2, 4), method="exact").kind
        'exact'
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        units: int = 30,
        categories: int = 2,
        hidden: Sequence[int] = (200,),
        likelihood: str | Head = "bernoulli",
        activation: str = "relu",
        dropout: float = 0.0,
        **head_options: Any,
    ) -> None:
        super().__init__(event_shape, likelihood, **head_options)
        if categories < 2:
            raise ValueError(f"DiscreteVAE(categories={categories!r}): a unit has two values or more.")
        check_sizes(self, units=units)
        check_widths(self, hidden=hidden)
        self.units = (units,) if categories == 2 else (units, categories)  # the logits of a datum
        width, features = torch.Size(self.units).numel(), self.likelihood.features
        self.prior = nn.Parameter(torch.zeros(self.units).unsqueeze(1))  # (K, 1), or (K, 1, C)
        self.encoder = nn.Sequential(
            nn.Flatten(-len(self.event_shape)),
            MLP((self.event_shape.numel(), *hidden, width), activation, dropout, missing=True),
            nn.Unflatten(-1, self.units),
        )
        self.decoder = nn.Sequential(
            nn.Flatten(-len(self.units)),
            MLP((width, *hidden[::-1], features.numel()), activation, dropout),
            nn.Unflatten(-1, features),
        )
        self.objective = ScoreFunctionELBO(baseline="leave_one_out", num_particles=4)

    def law(self, logits: Tensor) -> Any:
        """The law of the units, from logits of shape :math:`(K, N)`, or :math:`(K, N, C)`."""
        return dist.Bernoulli(logits=logits) if len(self.units) == 1 else dist.OneHotCategorical(logits=logits)

    def model(self, x: Tensor) -> Tensor:
        r"""The joint density :math:`p(x, z)` of data with shape :math:`(N, *event)`; returns it completed."""
        with self.plate(x):
            with pyro.plate("units", self.units[0], dim=-2):
                z = pyro.sample("z", self.law(self.prior))  # (K, N), or (K, N, C)
            return observe("x", self.decode(z.transpose(0, 1)), x)

    def guide(self, x: Tensor) -> None:
        r"""The approximate posterior :math:`q(z \mid x_o)`."""
        logits = self.encoder(self.centre(x)).transpose(0, 1)  # (K, N), or (K, N, C)
        with self.plate(x), pyro.plate("units", self.units[0], dim=-2):
            pyro.sample("z", self.law(logits))
