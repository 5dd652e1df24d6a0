r"""The conditional variational autoencoder: a density of data given their class, or given a part of them.

.. math::
    z_n \mid c_n \sim \mathcal{N}\big(\mu_\theta(c_n), \operatorname{diag} \sigma_\theta(c_n)^2\big), \qquad
    x_n \mid z_n, c_n \sim p\big(x \mid f_\theta(z_n, c_n)\big), \qquad
    q_\phi(z_n \mid x_n, c_n) = \mathcal{N}\big(\mu_\phi(x_n, c_n), \operatorname{diag} \sigma_\phi(x_n, c_n)^2\big)

The condition :math:`c` is context: it is never modelled. The bound is of the conditional likelihood,

.. math::
    \log p_\theta(x \mid c) \ge \mathbb{E}_{q_\phi(z \mid x, c)} \Big[ \log p_\theta(x \mid z, c)
    + \log \frac{p_\theta(z \mid c)}{q_\phi(z \mid x, c)} \Big] .

A network that maps :math:`c` to independent entries of :math:`x` knows each entry's law, but not which go together; the
latent variable does: given a quarter of a digit there may be a 3 or a 5, and not the mean of both.

Where :math:`c` is a part of an image, the image has NaN there, and :math:`c` has NaN elsewhere: the part is conditioned
on and not scored.

References:
    | Learning Structured Output Representation using Deep Conditional Generative Models (Sohn, Lee & Yan, 2015)
    | https://papers.nips.cc/paper/5775-learning-structured-output-representation-using-deep-conditional-generative-models
"""

from collections.abc import Sequence
from typing import Any, Self

import pyro
import torch
from torch import Tensor, nn

from pyro_gen._sizes import check_sizes, check_widths, event_of
from pyro_gen.data.small import binary_rows, level_rows, normal_rows
from pyro_gen.heads import Head, check_asked, label
from pyro_gen.models.vae.parts.encoded import EncodedProgram
from pyro_gen.models.vae.parts.posteriors import normal
from pyro_gen.nets import MLP
from pyro_gen.observation import observe
from pyro_gen.registry import model

__all__ = ["ConditionalVAE"]


@model(
    "conditional variational autoencoder",
    paper="Sohn, Lee & Yan (2015)",
    small={
        "classes": lambda: (ConditionalVAE(6, 3, latent=2, hidden=(5,)), binary_rows(9, 6), level_rows(3, 9)),
        "a part": lambda: (ConditionalVAE((2, 3), (4,), latent=2, hidden=(5,), likelihood="normal"), *small_part()),
    },
)
class ConditionalVAE(EncodedProgram):
    r"""Creates a conditional variational autoencoder, of ``x`` with one context ``c``.

    Arguments:
        event_shape: The shape of one datum, or the number of its entries.
        given: What the context of a datum is: the number of classes, of which it is one of 0, 1, ...; or the shape of a
            tensor of numbers, NaN where not known, such as the shape of an image of which a part is given.
        latent: The number of latent dimensions :math:`K`.
        hidden: The widths of the hidden layers of encoder, decoder and prior.
        likelihood: The name of a likelihood head in :data:`pyro_gen.heads.HEADS`, or a head.
        activation: The name of the activation in :data:`pyro_gen.nets.ACTIVATIONS`.
        dropout: The share of hidden units dropped in training.
        head_options: Passed to the likelihood head, ``levels=17`` say.

    Raises:
        ValueError: Sizes are out of range, or there is no likelihood or activation of that name.

    Example:
        >>> import pyro_gen as pg
        >>> cvae = ConditionalVAE((8, 8), given=10, hidden=(32,))
        >>> pg.sample(cvae, 3, context=(torch.tensor([7.0, 7.0, 1.0]),)).shape  # two sevens and a one
        torch.Size([3, 8, 8])
    """

    given_mean: Tensor
    given_scale: Tensor

    def __init__(
        self,
        event_shape: int | Sequence[int],
        given: int | Sequence[int],
        latent: int = 8,
        hidden: Sequence[int] = (200, 200),
        likelihood: str | Head = "bernoulli",
        activation: str = "relu",
        dropout: float = 0.0,
        **head_options: Any,
    ) -> None:
        super().__init__(event_shape, likelihood, **head_options)
        check_sizes(self, latent=latent)
        check_widths(self, hidden=hidden)
        self.latent = latent
        if isinstance(given, int):
            check_sizes(self, 2, given=given)
        self.classes = label(given) if isinstance(given, int) else None
        self.given_shape = torch.Size() if isinstance(given, int) else event_of(self, given, "given")
        condition = given if isinstance(given, int) else self.given_shape.numel()
        features = self.likelihood.features
        self.prior = MLP((condition, *hidden, 2 * latent), activation, dropout, missing=True)
        self.encoder = MLP(
            (self.event_shape.numel() + condition, *hidden, 2 * latent), activation, dropout, missing=True
        )
        self.decoder = nn.Sequential(
            MLP((latent + condition, *hidden[::-1], features.numel()), activation, dropout, missing=True),
            nn.Unflatten(-1, features),
        )
        self.register_buffer("given_mean", torch.zeros(self.given_shape))
        self.register_buffer("given_scale", torch.ones(self.given_shape))

    def initialise(self, x: Tensor, *context: Any, seed: int = 0) -> Self:
        r"""Sets mean, offset and the scale of the context from data :math:`(N, *event)`, the first time only."""
        if not self.initialised and self.classes is None:
            c = context[0]
            with torch.no_grad():
                self.given_mean.copy_(c.nanmean(0).nan_to_num())
                spread = (c - self.given_mean).square().nanmean(0).sqrt().nan_to_num()
                self.given_scale.copy_(torch.where(spread > 0, spread, 1.0))
        return super().initialise(x, *context, seed=seed)

    def check_inputs(self, x: Tensor, *context: Any) -> None:
        super().check_inputs(x, *context)
        if self.classes is not None:
            check_asked(self, self.classes, x, context)
        elif context[0].shape != (len(x), *self.given_shape):
            raise ValueError(
                f"ConditionalVAE(given={tuple(self.given_shape)}) takes a context of shape "
                f"{(len(x), *self.given_shape)} for {len(x)} data, and was given {tuple(context[0].shape)}."
            )

    def condition(self, c: Tensor) -> Tensor:
        """The context as the networks see it, with shape (N, C)."""
        if self.classes is not None:
            return self.classes.one_hot(c)
        return ((c - self.given_mean) / self.given_scale).flatten(-len(self.given_shape))

    def model(self, x: Tensor, c: Tensor) -> Tensor:
        r"""The density :math:`p(x, z \mid c)` of data with shape :math:`(N, *event)`; returns it completed."""
        condition = self.condition(c)  # (N, C)
        with self.plate(x):
            z = pyro.sample("z", normal(self.prior(condition)))  # (N, K)
            return observe("x", self.decode(torch.cat([z, condition.expand(*z.shape[:-1], -1)], -1)), x)

    def guide(self, x: Tensor, c: Tensor) -> None:
        r"""The approximate posterior :math:`q(z \mid x_o, c)`."""
        with self.plate(x):
            seen = self.centre(x).flatten(-len(self.event_shape))
            pyro.sample("z", normal(self.encoder(torch.cat([seen, self.condition(c)], -1))))


def small_part() -> tuple[Tensor, Tensor]:
    """Nine data of shape (2, 3), and of each four numbers that are given, one of them not known."""
    given = normal_rows(9, 4)
    given[2, 1] = torch.nan
    return normal_rows(9, 2, 3), given
