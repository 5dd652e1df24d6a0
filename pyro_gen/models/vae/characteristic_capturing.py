r"""The characteristic-capturing variational autoencoder (CCVAE): latent variables that belong to the label.

.. math::
    y_n \sim \operatorname{Categorical}(\pi), \qquad
    c_n \mid y_n \sim \mathcal{N}\big(\mu_{y_n}, \operatorname{diag} \sigma_{y_n}^2\big), \qquad
    s_n \sim \mathcal{N}(0, I), \qquad x_n \mid c_n, s_n \sim p\big(x \mid f_\theta(c_n, s_n)\big)

The characteristics :math:`c` are a continuous variable with a normal distribution for each class: how much of a 7 an
image is, and which kind of 7. The style :math:`s` knows nothing of the label. A label that is not known is NaN and
summed out; the classifier is Bayes' rule on the characteristics alone,

.. math::
    p(y \mid c) \propto \pi_y \, \mathcal{N}(c \mid \mu_y, \sigma_y^2) , \qquad
    \mathcal{L}_n = \mathbb{E}_{q(c, s \mid x)} \Big[ \log \frac{p(x, c, s, y)}{q(c, s \mid x)}
        + \alpha \log p(y \mid c) \Big] \text{ of a known label} .

Joy et al. train a network :math:`q(y \mid c)` and weigh its draws; here it is the exact posterior of the label given
the characteristics, so that no weights are needed.

Changing the label is drawing :math:`c` anew, from another class, with the style kept (:meth:`CCVAE.relabel`). Of many
dimensions :math:`c` holds all of an image, and :math:`s` nothing: few of them, and ``ELBO(free_bits=...)``, keep a
style (``examples/label_latents.py``).

References:
    | Capturing Label Characteristics in VAEs (Joy, Schmon, Torr, Siddharth & Rainforth, 2021)
    | https://arxiv.org/abs/2006.10102
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_gen._sizes import check_sizes, check_weights, check_widths
from pyro_gen.data.small import binary_rows, level_rows
from pyro_gen.heads import Head, label
from pyro_gen.models.vae.parts.encoded import EncodedProgram
from pyro_gen.models.vae.parts.posteriors import normal
from pyro_gen.nets import MLP
from pyro_gen.observation import observe
from pyro_gen.registry import model

__all__ = ["CCVAE"]


@model(
    "characteristic-capturing variational autoencoder",
    paper="Joy et al. (2021)",
    small={"": lambda: (CCVAE((2, 3), 3, 2, 2, hidden=(5,)), {"x": binary_rows(9, 2, 3), "y": level_rows(3, 9)})},
)
class CCVAE(EncodedProgram):
    r"""Creates a characteristic-capturing variational autoencoder of a mapping of ``x`` and ``y``.

    Arguments:
        shape: The shape of ``x`` of one datum, or the number of its entries.
        classes: The number of classes; ``y`` is one of 0, 1, ... as a float, NaN where it is not known.
        characteristics: The number of dimensions of :math:`c`.
        style: The number of dimensions of :math:`s`.
        hidden: The widths of the hidden layers of encoder and decoder.
        likelihood: The name of a likelihood head of ``x`` in :data:`pyro_gen.heads.HEADS`, or a head.
        activation: The name of the activation in :data:`pyro_gen.nets.ACTIVATIONS`.
        dropout: The share of hidden units dropped in training.
        alpha: The weight :math:`\alpha` of the classifier's log-probability of the labels that are known.
        head_options: Passed to the likelihood head, ``levels=17`` say.

    Raises:
        ValueError: Sizes or the weight are out of range, or there is no likelihood or activation of that name.

    Example:
        >>> import pyro_gen as pg
        >>> ccvae = CCVAE((8, 8), classes=10, hidden=(32,))
        >>> ccvae.relabel(torch.rand(5, 8, 8).round(), torch.tensor([3.0] * 5)).shape  # five images as threes
        torch.Size([5, 8, 8])
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        classes: int,
        characteristics: int = 8,
        style: int = 8,
        hidden: Sequence[int] = (200, 200),
        likelihood: str | Head = "bernoulli",
        activation: str = "relu",
        dropout: float = 0.0,
        alpha: float = 20.0,
        **head_options: Any,
    ) -> None:
        super().__init__(shape, likelihood, **head_options)
        check_weights(self, alpha=alpha)
        check_sizes(self, characteristics=characteristics, style=style)
        check_sizes(self, 2, classes=classes)
        check_widths(self, hidden=hidden)
        one = self.event_shape
        self.event_shape = {"x": one, "y": torch.Size()}
        self.sizes, self.alpha = (characteristics, style), alpha
        self.label = label(classes)
        latent, features = characteristics + style, self.likelihood.features
        self.logits = nn.Parameter(torch.zeros(classes))
        # Far enough apart to be distinguished, and each about as wide as the prior of the style.
        self.means = nn.Parameter(torch.randn(classes, characteristics))
        self.raw_scales = nn.Parameter(torch.zeros(classes, characteristics))
        self.encoder = nn.Sequential(
            nn.Flatten(-len(one)), MLP((one.numel(), *hidden, 2 * latent), activation, dropout, missing=True)
        )
        self.decoder = nn.Sequential(
            MLP((latent, *hidden[::-1], features.numel()), activation, dropout), nn.Unflatten(-1, features)
        )

    def class_prior(self, weights: Tensor) -> Any:
        r"""The prior :math:`p(c \mid y)` of indicators :math:`(*, classes)`; standard normal where all are 0."""
        scales = 1e-2 + F.softplus(self.raw_scales)
        return dist.Normal(weights @ self.means, weights @ scales + (1 - weights.sum(-1, keepdim=True))).to_event(1)

    def label_given(self, c: Tensor) -> Tensor:
        r"""The log-probabilities :math:`\log p(y \mid c)`, with shape :math:`(*, classes)`."""
        each = self.class_prior(torch.eye(self.label.levels, dtype=c.dtype, device=c.device))
        return (each.log_prob(c.unsqueeze(-2)) + self.logits.log_softmax(-1)).log_softmax(-1)  # type: ignore[no-any-return]

    def check_inputs(self, data: Mapping[str, Tensor], *context: Any) -> None:
        super().check_inputs(data, *context)
        self.label.check(self, data["y"])

    def model(self, data: Mapping[str, Tensor]) -> None:
        r"""The joint density :math:`p(y, c, s, x)` of labels ``y``, (N,), and data ``x``, :math:`(N, *shape)`."""
        with self.plate(data):
            y = observe("y", self.label(self.logits), data["y"])  # (N,)
            c = pyro.sample("c", self.class_prior(self.label.one_hot(y)))  # (N, characteristics)
            s = pyro.sample("s", dist.Normal(c.new_zeros(self.sizes[1]), 1.0).to_event(1))  # (N, style)
            observe("x", self.decode(torch.cat([c, s], -1)), data["x"])

    def guide(self, data: Mapping[str, Tensor]) -> None:
        r"""The approximate posterior :math:`q(c, s \mid x_o)`, and the loss of the labels that are known."""
        with self.plate(data):
            raw = self.encoder(self.centre(data["x"]))  # (N, 2 (characteristics + style))
            of_c, of_s = (part for part in raw.split([2 * k for k in self.sizes], -1))
            c = pyro.sample("c", normal(of_c))
            pyro.sample("s", normal(of_s))
            if self.alpha > 0:
                log_p = (self.label_given(c) * self.label.one_hot(data["y"])).sum(-1)  # 0 where the label is not known
                pyro.factor("label", -self.alpha * log_p, has_rsample=True)

    def relabel(self, x: Tensor, y: Tensor, seed: int | None = None) -> Tensor:
        r"""The means of images with other labels and their own style.

        Arguments:
            x: Data with shape :math:`(N, *shape)`.
            y: The labels that they are to have, with shape (N,).
            seed: Draws the characteristics of the class; ``None`` for their mean.

        Raises:
            ValueError: There is not one label for each image, it is no class, or images are of another shape.
        """
        if x.shape != (*y.shape, *self.event_shape["x"]) or y.ndim != 1:
            one = ", ".join(map(str, self.event_shape["x"]))
            raise ValueError(
                f"relabel: give data of shape (N, {one}) and a label for each, (N,), not {tuple(x.shape)} and "
                f"{tuple(y.shape)}."
            )
        self.label.check(self, y)
        with torch.no_grad():
            raw = self.encoder(self.centre(x))
            s = normal(raw[..., 2 * self.sizes[0] :]).mean
            law = self.class_prior(self.label.one_hot(y))
            if seed is None:
                c = law.mean
            else:
                noise = torch.randn(law.mean.shape, generator=torch.Generator().manual_seed(seed))
                c = law.mean + law.stddev * noise.to(law.mean)
            return self.decode(torch.cat([c, s], -1)).mean  # type: ignore[no-any-return]
