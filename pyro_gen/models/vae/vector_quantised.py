r"""The vector-quantised variational autoencoder (VQ-VAE): an image is coded by a few vectors of a codebook.

.. math::
    k_n \sim p_\psi(k) = \prod_{p=1}^P p_\psi(k_p \mid k_{<p}), \qquad
    x_n \mid k_n \sim p\big(x \mid f_\theta(e_{k_1}, \dots, e_{k_P})\big), \\
    q(k_p \mid x) = 1 \text{ at } \arg\min_k \lVert u_{\phi p}(x) - e_k \rVert

The latent variable ``z`` is the P vectors :math:`e_{k_p}` of the codebook. It has finitely many values, and its
posterior is a point (given a part of an image it is not: :func:`pyro_gen.impute` draws codes by Gibbs sampling), so the
ELBO is the description length of the image: its code by the prior, then the image by the decoder,

.. math:: \log p(x) \ge \log p_\psi(k(x)) + \log p_\theta(x \mid k(x)) .

No gradient goes through the choice of the nearest vector: that of the decoder goes straight to the encoder's output
:math:`u`, and a loss of their own brings vectors and outputs together,

.. math:: \lVert \operatorname{sg}(u) - e \rVert^2 + \beta \lVert u - \operatorname{sg}(e) \rVert^2 , \qquad
    \operatorname{sg} = \text{stop gradient} .

No gradient of the prior reaches the encoder. So there are two steps: after training, the codes are fixed
(:meth:`VQVAE.freeze_codes`), and training again fits the autoregressive prior to them.

References:
    | Neural Discrete Representation Learning (van den Oord, Vinyals & Kavukcuoglu, 2017)
    | https://arxiv.org/abs/1711.00937
"""

from collections.abc import Sequence
from typing import Any, Self

import pyro
import torch
from torch import Tensor, nn

from pyro_gen._errors import warn
from pyro_gen._progress import told
from pyro_gen._random import seeded
from pyro_gen._sizes import check_sizes, check_weights, check_widths
from pyro_gen.data.small import binary_rows, level_rows
from pyro_gen.density import row_chunks
from pyro_gen.heads import Head
from pyro_gen.models.vae.parts.codebook import Codewords, MaskedPredictor, NearestCodeword, nearest
from pyro_gen.models.vae.parts.encoded import EncodedProgram
from pyro_gen.nets import MLP
from pyro_gen.observation import marginalise, observe
from pyro_gen.registry import model

__all__ = ["VQVAE"]

SWEEPS, ROUNDS = 20, 8  # of Gibbs sampling; so many times as many where chains do not agree yet
CHAINS = 16  # of each datum, at least
APART = 4.0  # standard errors between chains from the encoder's codes and chains from the prior's
ROWS = 2**17  # that are decoded at once


@model(
    "vector-quantised variational autoencoder",
    paper="van den Oord, Vinyals & Kavukcuoglu (2017)",
    small={
        "bernoulli": lambda: (VQVAE(6, 2, 3, 2, hidden=(5,), prior_hidden=4), binary_rows(9, 6)),
        "categorical": lambda: (
            VQVAE((2, 3), 2, 3, 2, hidden=(5,), prior_hidden=4, likelihood="categorical", levels=4),
            level_rows(4, 9, 2, 3),
        ),
    },
)
class VQVAE(EncodedProgram):
    r"""Creates a vector-quantised variational autoencoder.

    Arguments:
        event_shape: The shape of one datum, or the number of its entries.
        places: The number P of vectors that a datum is coded by.
        words: The number C of vectors in the codebook.
        size: The number d of entries of a vector.
        hidden: The widths of the encoder's hidden layers; the decoder has them in reverse.
        prior_hidden: The hidden units of the autoregressive prior.
        commitment: The weight :math:`\beta` of the commitment loss: it keeps the encoder's outputs near their vectors.
        likelihood: The name of a likelihood head in :data:`pyro_gen.heads.HEADS`, or a head.
        activation: The name of the activation in :data:`pyro_gen.nets.ACTIVATIONS`.
        dropout: The share of the decoder's hidden units dropped in training.
        head_options: Passed to the likelihood head, ``levels=17`` say.

    Raises:
        ValueError: Sizes are out of range, or there is no likelihood or activation of that name.

    Example:
        >>> VQVAE((8, 8), places=4, words=16).codes(torch.zeros(5, 8, 8)).shape
        torch.Size([5, 4])
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        places: int = 8,
        words: int = 16,
        size: int = 8,
        hidden: Sequence[int] = (200, 200),
        prior_hidden: int = 200,
        commitment: float = 0.25,
        likelihood: str | Head = "bernoulli",
        activation: str = "relu",
        dropout: float = 0.0,
        **head_options: Any,
    ) -> None:
        super().__init__(event_shape, likelihood, **head_options)
        check_sizes(self, places=places, words=words, size=size, prior_hidden=prior_hidden)
        check_widths(self, hidden=hidden)
        check_weights(self, commitment=commitment)
        self.places, self.commitment, features = places, commitment, self.likelihood.features
        self.codebook = nn.Parameter(torch.randn(words, size))
        self.prior = MaskedPredictor(places, words, prior_hidden)
        self.encoder = nn.Sequential(
            nn.Flatten(-len(self.event_shape)),
            MLP((self.event_shape.numel(), *hidden, places * size), activation, missing=True),
            nn.Unflatten(-1, (places, size)),
        )
        self.decoder = nn.Sequential(
            nn.Flatten(-2),
            MLP((places * size, *hidden[::-1], features.numel()), activation, dropout),
            nn.Unflatten(-1, features),
        )

    def initialise(self, x: Tensor, *context: Any, seed: int = 0) -> Self:
        """Sets mean and offset from data :math:`(N, *event)`, and the codebook to codes of theirs, the first time."""
        first = not self.initialised
        super().initialise(x, *context, seed=seed)
        if first:
            with seeded(seed), torch.no_grad():
                u = self.encoder(self.centre(x)).flatten(0, -2)  # (N P, d)
                self.codebook.copy_(u[torch.randint(len(u), (len(self.codebook),))])
        return self

    def freeze_codes(self) -> Self:
        """Fixes all parameters but those of the prior, for the second step of training; returns the program."""
        self.requires_grad_(False)
        self.prior.requires_grad_(True)
        return self

    def codes(self, x: Tensor) -> Tensor:
        """The numbers of the vectors that data :math:`(N, *event)` are coded by, with shape (N, P)."""
        self.check_inputs(x)
        with torch.no_grad():
            return nearest(self.encoder(self.centre(x)), self.codebook)

    def draw_missing(self, x: Tensor, draws: int, *context: Any) -> Tensor:
        """Draws missing entries by Gibbs sampling of the code, from the encoder's codes and from the prior's in turn.

        Where their log-density differs by more than chance after 20 sweeps, 20 more are made, up to 160 in all.
        """
        completed, chains, apart = [], max(CHAINS, draws), 0.0
        for rows in told(list(row_chunks(len(x), max(1, ROWS // (chains * len(self.codebook)))))):
            k = self.codes(x[rows]).repeat(chains, 1, 1)  # (S, N, P)
            prior = Codewords(self.codebook, self.prior, self.places, k[1::2].shape[:2])
            k[1::2] = nearest(prior.sample(), self.codebook)
            for _ in told(range(ROUNDS)):
                log_p = self._sweep(k, x[rows])
                a, b = log_p[::2], log_p[1::2]
                variance = (a.var(0) / len(a) + b.var(0) / len(b)).sum().clamp(min=1e-12)
                far = float((a.mean(0) - b.mean(0)).sum().abs() / variance.sqrt())
                if far <= APART:
                    break
            apart = max(apart, far)
            completed.append(marginalise(self.decode(self.codebook[k[:draws]]), x[rows])[2]())
        if apart > APART:
            warn(
                f"impute: after {ROUNDS * SWEEPS} sweeps codes that started at the encoder's are {apart:.1f} standard "
                "errors from those that started at the prior's: they move too slowly to be trusted."
            )
        return torch.where(torch.isnan(x), torch.cat(completed, 1), x)

    def _sweep(self, k: Tensor, x: Tensor) -> Tensor:
        """Moves codes (S, N, P), in place; the log-density of them and what is seen of x, (S, N)."""
        words = torch.arange(len(self.codebook), device=x.device).reshape(-1, 1, 1)
        prior, found = Codewords(self.codebook, self.prior, self.places), torch.zeros(k.shape[:2], device=x.device)
        for place in told(range(SWEEPS * self.places)):
            options = k.repeat(len(words), 1, 1, 1)  # (C, S, N, P): with each word in this place
            options[..., place % self.places] = words
            z = self.codebook[options]
            scored, filled, _ = marginalise(self.decode(z), x)
            log_p = scored.log_prob(filled) + prior.log_prob(z)
            drawn = torch.distributions.Categorical(logits=log_p.movedim(0, -1)).sample()  # (S, N)
            k[..., place % self.places] = drawn
            found = log_p.gather(0, drawn.unsqueeze(0))[0]
        return found

    def model(self, x: Tensor) -> Tensor:
        r"""The joint density :math:`p(x, z)` of data with shape :math:`(N, *event)`; returns it completed."""
        with self.plate(x):
            z = pyro.sample("z", Codewords(self.codebook, self.prior, self.places))  # (N, P, d)
            return observe("x", self.decode(z), x)

    def guide(self, x: Tensor) -> None:
        r"""The point :math:`q(z \mid x_o)`, and the loss of the codebook."""
        with self.plate(x):
            u = self.encoder(self.centre(x))  # (N, P, d)
            pyro.sample("z", NearestCodeword(u, self.codebook))
            e = self.codebook[nearest(u, self.codebook)]
            apart = (u.detach() - e).square() + self.commitment * (u - e.detach()).square()
            pyro.factor("apart", apart.sum((-1, -2)), has_rsample=True)
