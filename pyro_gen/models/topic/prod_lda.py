r"""ProdLDA: a document's words have the product, not the mixture, of its topics as their law.

.. math::
    h_n \sim \mathcal{N}\big(0, \sigma^2 I_K\big), \qquad \theta_n = \operatorname{softmax}(h_n), \qquad
    p_n = \operatorname{softmax}(b + \theta_n \beta) , \qquad \xi_n \sim \operatorname{Gamma}(a, b'), \qquad
    x_{nv} \sim \operatorname{Poisson}(\xi_n \, p_{nv}) ,

with topics :math:`\beta_k \in \mathbb{R}^V` that need not be laws of words: they raise and lower words against the
background :math:`b`, the logarithms of the words' frequencies in all documents. The prior of :math:`h` is Laplace's
approximation of a Dirichlet law with parameters :math:`\alpha`, in the basis where softmax takes it,
:math:`\sigma^2 = \frac1\alpha \big(1 - \frac1K\big)`.

A network gives the guide :math:`q(h_n \mid x_n) = \mathcal{N}(\mu(x_n), \operatorname{diag} \sigma(x_n)^2)`. Training
such a network is prone to *component collapse*: it uses a few of the topics and leaves the others at the prior. As in
the paper, batch normalisation of its outputs keeps that off; it couples documents in training alone.

References:
    | Autoencoding Variational Inference for Topic Models (Srivastava & Sutton, 2017)
    | https://arxiv.org/abs/1703.01488
"""

from collections.abc import Sequence
from typing import Any, Self

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_gen._random import seeded
from pyro_gen.data.small import count_rows
from pyro_gen.models.topic.parts.bag_of_words import BagOfWords, check_counts
from pyro_gen.nets import MLP
from pyro_gen.observation import observe
from pyro_gen.registry import model

__all__ = ["ProdLDA"]

DRAWS = 100  # of the guide, for the probabilities of words


@model(
    "ProdLDA, a product of topics",
    paper="Srivastava & Sutton (2017)",
    small={"": lambda: (ProdLDA(6, 3, hidden=(8,)), count_rows(9, 6))},
)
class ProdLDA(BagOfWords):
    r"""Creates ProdLDA of counts with shape (N, V).

    Arguments:
        features: The size :math:`V` of the vocabulary, an entry of each word.
        topics: The number :math:`K` of topics, 2 or more.
        alpha: Of the Dirichlet law that the prior of shares approximates.
        hidden: The widths of the encoder's hidden layers.
        dropout: The share of its hidden units dropped in training.

    Attributes:
        background: The logarithms :math:`b` of frequencies, with shape :math:`(V,)`.
        weights: The topics :math:`\beta`, with shape :math:`(K, V)`.

    Raises:
        ValueError: There are fewer than two words or topics, or data are no counts.

    Example:
        >>> program = ProdLDA(5, topics=2)
        >>> program.model(torch.full((3, 5), torch.nan)).shape  # three documents, generated
        torch.Size([3, 5])
    """

    def __init__(
        self,
        features: int,
        topics: int = 20,
        alpha: float = 1.0,
        hidden: Sequence[int] = (100, 100),
        dropout: float = 0.0,
    ) -> None:
        super().__init__(features, topics)
        if topics < 2:
            raise ValueError(f"ProdLDA(topics={topics}): give at least 2 topics.")
        self.scale = ((1 - 1 / topics) / alpha) ** 0.5
        self.background = nn.Parameter(torch.zeros(features))
        self.weights = nn.Parameter(nn.init.xavier_uniform_(torch.empty(topics, features)))
        self.encoder = MLP((features, *hidden, 2 * topics), "softplus", dropout, missing=True)
        self.normalise = nn.BatchNorm1d(2 * topics, affine=False)

    def model(self, x: Tensor) -> Tensor:
        r"""The joint density of ``h`` and of counts with shape :math:`(N, V)`; returns these completed."""
        with self.plate(x):
            h = pyro.sample("h", dist.Normal(x.new_zeros(self.topics), self.scale).to_event(1))  # (N, K)
            return observe("x", self.counts(self.decode(h)), x)

    def guide(self, x: Tensor) -> None:
        r"""The approximate posterior :math:`q(h \mid x)`."""
        with self.plate(x):
            pyro.sample("h", self.encode(x))

    def decode(self, h: Tensor) -> Tensor:
        r"""The probabilities of words, with shape :math:`(*, V)`, of ``h`` with shape :math:`(*, K)`."""
        return (self.background + h.softmax(-1) @ self.weights).softmax(-1)

    def encode(self, x: Tensor) -> Any:
        r"""The guide's law of ``h`` for counts with shape :math:`(N, V)`."""
        loc, raw = self.normalise(self.encoder(x.log1p())).chunk(2, -1)
        return dist.Normal(self.scale * loc, 1e-3 + F.softplus(raw)).to_event(1)

    def initialise(self, x: Tensor, *context: Any, seed: int = 0) -> Self:
        """Sets background and lengths from data with shape :math:`(N, V)`, the first time only."""
        check_counts(self, x)
        if not self.initialised:
            self.fit_lengths(x)
            with torch.no_grad():
                self.background.copy_((x.nanmean(0).nan_to_num() + 1 / len(x)).log())
            self.initialised.fill_(True)
        return super().initialise(x, *context, seed=seed)

    def word_probabilities(self, x: Tensor, seed: int = 0) -> Tensor:
        r"""The probabilities of the next word of documents, with shape :math:`(N, V)`, in the mean of the guide."""
        check_counts(self, x)
        training = self.training
        with seeded(seed), torch.no_grad():
            law = self.eval().encode(x)
            found = sum(self.decode(law.sample()) for _ in range(DRAWS)) / DRAWS
        self.train(training)
        return found  # type: ignore[return-value]
