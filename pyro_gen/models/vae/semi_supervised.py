r"""M2: a variational autoencoder of data and their labels, of which few are known.

.. math::
    y_n \sim \operatorname{Categorical}(\pi), \qquad z_n \sim \mathcal{N}(0, I_K), \qquad
    x_n \mid y_n, z_n \sim p\big(x \mid f_\theta(y_n, z_n)\big), \qquad
    q_\phi(z_n \mid x_n) = \mathcal{N}\big(\mu_\phi(x_n), \operatorname{diag} \sigma_\phi(x_n)^2\big)

The class :math:`y` says what is drawn, the latent variable :math:`z` how. A label that is not known is NaN and summed
out, :math:`p(x, z) = \sum_y p(y) \, p(z) \, p(x \mid y, z)`, so data without labels teach what the classes look like,
and those with labels which is which:

.. math::
    \log p(x_n, y_n) \ge \mathbb{E}_q \Big[ \log \frac{p(x_n, y_n, z)}{q(z \mid x_n)} \Big], \qquad
    \log p(x_n) \ge \mathbb{E}_q \Big[ \log \sum_y \frac{p(x_n, y, z)}{q(z \mid x_n)} \Big] .

Kingma et al. have a network :math:`q(y \mid x)` for the label, and :math:`q(z \mid x, y)` sees it. Here z is told by x
alone, so that the label's posterior given it, :math:`p(y \mid x, z)`, is exact: no network for labels could give a
tighter bound. The classifier is :func:`pyro_gen.tasks.classify`,
:math:`p(y \mid x)`. The default objective puts the weight :math:`\alpha` on its telling the labels that are known.

The offset :math:`b` of the decoder, :math:`f_\theta(y, z) = \mathrm{NN}_\theta(y, z) + b`, and the mean that is taken
from the encoder's input are set from the first data seen, as in :class:`~pyro_gen.models.vae.vae.VAE`.

References:
    | Semi-supervised Learning with Deep Generative Models (Kingma et al., 2014)
    | https://arxiv.org/abs/1406.5298
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_gen._sizes import check_sizes, check_widths
from pyro_gen.data.small import binary_rows, level_rows
from pyro_gen.heads import Head, label
from pyro_gen.inference.objectives import SemiSupervisedELBO
from pyro_gen.models.vae.parts.encoded import EncodedProgram
from pyro_gen.models.vae.parts.posteriors import normal
from pyro_gen.nets import MLP
from pyro_gen.observation import observe
from pyro_gen.registry import model

__all__ = ["SemiSupervisedVAE"]


@model(
    "semi-supervised variational autoencoder (M2)",
    paper="Kingma et al. (2014)",
    small={
        "bernoulli": lambda: (SemiSupervisedVAE((2, 3), 3, latent=2, hidden=(5,)), small_data()),
    },
)
class SemiSupervisedVAE(EncodedProgram):
    r"""Creates a variational autoencoder of data and labels: a mapping of ``x`` and ``y``.

    Arguments:
        shape: The shape of ``x`` of one datum, or the number of its entries.
        classes: The number of classes; ``y`` is one of 0, 1, ... as a float, NaN where it is not known.
        latent: The number of latent dimensions :math:`K`.
        hidden: The widths of the hidden layers of encoder and decoder.
        likelihood: The name of a likelihood head of ``x`` in :data:`pyro_gen.heads.HEADS`, or a head.
        activation: The name of the activation in :data:`pyro_gen.nets.ACTIVATIONS`.
        alpha: The weight of telling the known labels, see
            :class:`~pyro_gen.inference.objectives.SemiSupervisedELBO`.
        head_options: Passed to the likelihood head, ``levels=17`` say.

    Raises:
        ValueError: Sizes are out of range, or there is no likelihood or activation of that name.

    Example:
        >>> import pyro_gen as pg
        >>> vae = SemiSupervisedVAE((8, 8), classes=10, hidden=(32,))
        >>> sevens = {"x": torch.full((5, 8, 8), torch.nan), "y": torch.full((5,), 7.0)}
        >>> pg.impute(vae, sevens, draws=1)["x"].shape
        torch.Size([1, 5, 8, 8])
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        classes: int,
        latent: int = 8,
        hidden: Sequence[int] = (200, 200),
        likelihood: str | Head = "bernoulli",
        activation: str = "relu",
        alpha: float = 20.0,
        **head_options: Any,
    ) -> None:
        super().__init__(shape, likelihood, **head_options)
        check_sizes(self, latent=latent)
        check_sizes(self, 2, classes=classes)
        check_widths(self, hidden=hidden)
        one = self.event_shape
        self.event_shape = {"x": one, "y": torch.Size()}
        self.latent, self.label = latent, label(classes)
        features = self.likelihood.features
        self.logits = nn.Parameter(torch.zeros(classes))
        self.encoder = nn.Sequential(
            nn.Flatten(-len(one)), MLP((one.numel(), *hidden, 2 * latent), activation, missing=True)
        )
        self.decoder = nn.Sequential(
            MLP((classes + latent, *hidden[::-1], features.numel()), activation), nn.Unflatten(-1, features)
        )
        self.objective = SemiSupervisedELBO("y", classes, alpha)

    def check_inputs(self, data: Mapping[str, Tensor], *context: Any) -> None:
        super().check_inputs(data, *context)
        self.label.check(self, data["y"])

    def model(self, data: Mapping[str, Tensor]) -> None:
        r"""The joint density :math:`p(y, z, x)` of labels ``y``, (N,), and data ``x``, :math:`(N, *shape)`."""
        with self.plate(data):
            y = observe("y", self.label(self.logits), data["y"])  # (N,)
            z = pyro.sample("z", dist.Normal(data["x"].new_zeros(self.latent), 1.0).to_event(1))  # (N, K)
            classes = self.label.one_hot(y).expand(*z.shape[:-1], -1)  # (N, classes)
            observe("x", self.decode(torch.cat([classes, z], -1)), data["x"])

    def guide(self, data: Mapping[str, Tensor]) -> None:
        r"""The approximate posterior :math:`q(z \mid x_o)`."""
        with self.plate(data):
            pyro.sample("z", normal(self.encoder(self.centre(data["x"]))))  # (N, K)


def small_data() -> dict[str, Tensor]:
    """Nine data of shape (2, 3), all with a label."""
    return {"x": binary_rows(9, 2, 3), "y": level_rows(3, 9)}
