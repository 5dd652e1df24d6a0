r"""Latent Dirichlet allocation: each document mixes a few topics, each topic is a law of words.

.. math::
    \beta_k &\sim \operatorname{Dirichlet}_V(\eta), \qquad \theta_n \sim \operatorname{Dirichlet}_K(\alpha), \\
    p_n &= \theta_n \beta, \qquad \xi_n \sim \operatorname{Gamma}(a, b), \qquad
    x_{nv} \mid \xi_n, p_n \sim \operatorname{Poisson}(\xi_n \, p_{nv}) .

Topics :math:`\beta` are *global*, the shares :math:`\theta_n` of topics in a document *local*; the topic of each token
is summed out, and so is the length :math:`\xi_n`: given its total a document is multinomial, as in the paper, which
has one :math:`\xi` for all. A count that is NaN was not seen and drops out, whatever its size may have been.

**Gibbs sampling** (:meth:`LatentDirichletAllocation.blocks`, for ``pg.posterior(method="gibbs")``) splits the tokens of
each cell among the topics, and then draws :math:`\theta` and :math:`\beta`, see
:mod:`pyro_gen.models.topic.parts.gibbs`; its first sweeps, with Minka's updates of the priors :math:`\alpha` and
:math:`\eta`, start the program.

**The guide** is amortised. With :math:`\bar\beta` the mean of :math:`q(\beta) = \prod_k \operatorname{Dirichlet}
(\lambda_k)`, a network guesses the shares :math:`\pi(x_n)`, and an E-step of the paper from there gives

.. math::
    q(\theta_n \mid x_n) = \operatorname{Dirichlet}(\gamma_n), \qquad
    \gamma_{nk} = \alpha_k + \sum_v x_{nv} \frac{\pi_k(x_n) \, \bar\beta_{kv}}{\sum_j \pi_j(x_n) \, \bar\beta_{jv}} .

References:
    | Latent Dirichlet Allocation (Blei, Ng & Jordan, 2003)
    | https://www.jmlr.org/papers/v3/blei03a.html
    | Stochastic Variational Inference (Hoffman, Blei, Wang & Paisley, 2013)
    | https://www.jmlr.org/papers/v14/hoffman13a.html
"""

from collections.abc import Callable, Mapping
from typing import Any, Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_gen._random import seeded
from pyro_gen.data.small import count_rows
from pyro_gen.models.topic.parts.bag_of_words import BagOfWords, check_counts
from pyro_gen.models.topic.parts.gibbs import Corpus, State, corpus_of, fold_in, sweep, sweeps
from pyro_gen.nets import MLP
from pyro_gen.observation import observe
from pyro_gen.registry import model

__all__ = ["LatentDirichletAllocation"]

START = 100  # sweeps


@model(
    "latent Dirichlet allocation",
    paper="Blei, Ng & Jordan (2003)",
    small={"": lambda: (LatentDirichletAllocation(6, 2, alpha=0.7, eta=0.9), count_rows(9, 6))},
)
class LatentDirichletAllocation(BagOfWords):
    r"""Creates latent Dirichlet allocation of counts with shape (N, V).

    Arguments:
        features: The size :math:`V` of the vocabulary, an entry of each word.
        topics: The number :math:`K` of topics.
        alpha: Where the prior of shares starts, each of its K entries; left out, 1 / K.
        eta: Where the prior of topics starts.
        hidden: The width of the encoder's hidden layer.

    Attributes:
        log_alpha: The logarithm of :math:`\alpha`, with shape :math:`(K,)`.
        log_eta: The logarithm of :math:`\eta`, a scalar.
        log_topics: The logarithm of :math:`\lambda`, with shape :math:`(K, V)`.

    Raises:
        ValueError: There are fewer than two words or no topic, or data are no counts.

    Example:
        >>> x = torch.tensor([[5.0, 4, 0, 0], [0, 0, 6, 3]]).repeat(20, 1)
        >>> program = LatentDirichletAllocation(4, topics=2).initialise(x)
        >>> p = program.word_probabilities(torch.tensor([[3.0, 0, 0, torch.nan]]))
        >>> p.shape, bool(p[0, 1] > 0.3)
        (torch.Size([1, 4]), True)
    """

    def __init__(
        self, features: int, topics: int = 20, alpha: float | None = None, eta: float = 0.05, hidden: int = 100
    ) -> None:
        super().__init__(features, topics)
        self.log_alpha = nn.Parameter(torch.full((topics,), 1 / topics if alpha is None else alpha).log())
        self.log_eta = nn.Parameter(torch.tensor(eta).log())
        self.log_topics = nn.Parameter(torch.randn(topics, features) * 0.1)
        self.encoder = MLP((features, hidden, topics), missing=True)

    def model(self, x: Tensor) -> Tensor:
        r"""The joint density of topics, shares and counts with shape :math:`(N, V)`; returns these completed."""
        eta = self.log_eta.exp().expand(self.topics, self.features)
        topics = pyro.sample("topics", dist.Dirichlet(eta).to_event(1))  # (K, V)
        with self.plate(x):
            shares = pyro.sample("shares", dist.Dirichlet(self.log_alpha.exp()))  # (N, K)
            return observe("x", self.counts(_mixed(shares, topics)), x)

    def guide(self, x: Tensor) -> None:
        r"""The approximate posterior :math:`q(\beta) \, q(\theta \mid x)`."""
        concentration = self.log_topics.exp()
        pyro.sample("topics", dist.Dirichlet(concentration).to_event(1))
        with self.plate(x):
            pyro.sample("shares", dist.Dirichlet(self.encode(x, concentration)))

    def encode(self, x: Tensor, concentration: Tensor) -> Tensor:
        r"""The parameters :math:`\gamma` of :math:`q(\theta \mid x)`, of those of topics, with shape :math:`(N, K)`."""
        topics = concentration / concentration.sum(-1, keepdim=True)
        guess = self.encoder(x.log1p()).softmax(-1)  # (N, K)
        ratio = x.nan_to_num() / (guess @ topics)
        gamma: Tensor = self.log_alpha.exp() + guess * (ratio @ topics.mT)
        return gamma

    def initialise(self, x: Tensor, *context: Any, seed: int = 0) -> Self:
        """Starts from Gibbs sweeps over data with shape :math:`(N, V)`, the first time only."""
        check_counts(self, x)
        if not self.initialised:
            self.fit_lengths(x)
            with seeded(seed), torch.no_grad():
                *_, state = sweeps(self.corpus(x), self.topics, START)
                self.log_alpha.copy_(state.alpha.log())
                self.log_eta.copy_(state.eta.log())
                self.log_topics.copy_((state.of_words + state.eta).log())
            self.initialised.fill_(True)
        return super().initialise(x, *context, seed=seed)

    def corpus(self, x: Tensor) -> Corpus:
        """The documents, as sweeps take them."""
        return corpus_of(x, self.log_length.detach().exp())

    def blocks(self) -> dict[tuple[str, str], Callable[..., Mapping[str, Tensor]]]:
        """What ``pg.posterior(program, x, method="gibbs", blocks=program.blocks())`` draws topics and shares by."""

        def update(values: Mapping[str, Tensor], x: Tensor, *context: Any) -> dict[str, Tensor]:
            corpus, prior = self.corpus(x), (self.log_alpha.detach().exp(), self.log_eta.detach().exp())
            chains = [
                sweep(corpus, State(shares, topics, *prior, topics), priors=False)
                for shares, topics in zip(values["shares"], values["topics"], strict=True)
            ]
            return {name: torch.stack([getattr(c, name) for c in chains]) for name in ("topics", "shares")}

        return {("topics", "shares"): update}

    def word_probabilities(self, x: Tensor, seed: int = 0) -> Tensor:
        r"""The probabilities of the next word of documents, with shape (N, V), by mean field; nothing is drawn.

        Topics stand at the mean of :math:`q(\beta)`.
        """
        check_counts(self, x)
        with torch.no_grad():
            raised = self.log_topics.exp()
            topics = raised / raised.sum(1, keepdim=True)
            gamma = fold_in(self.corpus(x), topics, self.log_alpha.exp())
            return gamma / gamma.sum(1, keepdim=True) @ topics


def _mixed(shares: Tensor, topics: Tensor) -> Tensor:
    """The probabilities of words; beside particles topics have a dimension in the place of documents."""
    return shares @ (topics if topics.dim() == 2 else topics.squeeze(-3))
