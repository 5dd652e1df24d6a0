r"""Chains of latent Dirichlet allocation: what is kept of them, one order of their topics, predictions.

Chains find topics in an order of their own, and some topics in one chain only. Topics of all draws are matched with
those of the chain of the best likelihood by the assignment that maximises the sum of Bhattacharyya coefficients
:math:`\sum_v \sqrt{\beta_{kv} \beta'_{lv}}` (Kuhn, 1955); how well they match is a topic's *stability*. Predictions do
not depend on labels: the probability of the next word is averaged over draws and chains,

.. math:: p(w \mid x_n) \approx \frac{1}{S} \sum_s \sum_k \theta^{(s)}_{nk} \beta^{(s)}_{kw} .
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pyro_gen.models.topic.parts.gibbs import Corpus, State, fold_in, sweeps

__all__ = ["Chains", "aligned", "predict", "sample", "stability"]

STEPS = 15  # of mean field for new documents under each draw, each from the start: elsewhere it ends elsewhere


class Chains(NamedTuple):
    """Draws of C chains, S of each.

    Attributes:
        of_words: How many tokens of each word are of each topic, with shape (C, S, K, V), int32.
        shares: Of topics in documents, with shape (C, S, N, K).
        alpha: The prior of shares, with shape (C, S, K).
        eta: The prior of topics, with shape (C, S).
        log_likelihood: Of all tokens given topics and shares, nats, with shape (C, S).
    """

    of_words: Tensor
    shares: Tensor
    alpha: Tensor
    eta: Tensor
    log_likelihood: Tensor

    def topics(self, chain: int, draw: int) -> Tensor:
        """The mean of topics given the topics of tokens, with shape (K, V)."""
        raised = self.of_words[chain, draw] + self.eta[chain, draw]
        return raised / raised.sum(1, keepdim=True)

    def drawn_topics(self) -> Tensor:
        """Draws of topics given the topics of tokens, with shape (C, S, K, V), by the global generator."""
        law = torch.distributions.Dirichlet(self.of_words + self.eta[..., None, None], validate_args=False)
        drawn: Tensor = law.sample()
        return drawn


def sample(
    corpus: Corpus,
    k: int,
    chains: int,
    burn_in: int,
    draws: int,
    thin: int,
    progress: Callable[[float], None] | None = None,
) -> Chains:
    """Draws of chains with K topics, by the global generator; ``progress`` is told the fraction done."""
    total, found = burn_in + draws * thin, []
    for c in range(chains):
        kept = []
        for i, state in enumerate(sweeps(corpus, k, total)):
            if i >= burn_in and (i - burn_in) % thin == thin - 1:
                counts = state.of_words.to(torch.int32)
                kept.append((counts, state.shares, state.alpha, state.eta, _log_likelihood(corpus, state)))
            if progress is not None:
                progress((c + (i + 1) / total) / chains)
        found.append([torch.stack(part) for part in zip(*kept, strict=True)])
    return Chains(*(torch.stack(part) for part in zip(*found, strict=True)))


def _log_likelihood(corpus: Corpus, state: State) -> Tensor:
    p = (state.shares[corpus.documents] * state.topics.T[corpus.words]).sum(1)
    return (corpus.counts * p.clamp(min=torch.finfo(p.dtype).tiny).log()).sum()


def aligned(chains: Chains) -> Chains:
    """The chains with their topics in one order, the most frequent first."""
    c, s, k, _ = chains.of_words.shape
    best = int(chains.log_likelihood.mean(1).argmax())
    reference = chains.of_words[best].double().mean(0)
    root = (reference / reference.sum(1, keepdim=True).clamp(min=1)).sqrt()
    order = torch.empty(c, s, k, dtype=torch.long)
    for i in range(c):
        for j in range(s):
            affinity = root @ chains.topics(i, j).double().sqrt().T  # (K, K)
            order[i, j] = torch.as_tensor(linear_sum_assignment(affinity.numpy(), maximize=True)[1])
    tokens = chains.of_words.sum(-1).take_along_dim(order, 2).double().mean((0, 1))  # (K,)
    order = order[..., tokens.argsort(descending=True)]
    return chains._replace(
        of_words=chains.of_words.take_along_dim(order[..., None], 2),
        shares=chains.shares.take_along_dim(order[:, :, None], 3),
        alpha=chains.alpha.take_along_dim(order, 2),
    )


def stability(chains: Chains) -> Tensor:
    """How alike the chains' topics are: the mean Bhattacharyya coefficient of pairs of chains, with shape (K,)."""
    mean = chains.of_words.double().mean(1) + chains.eta.double().mean(1)[:, None, None]  # (C, K, V)
    root = (mean / mean.sum(-1, keepdim=True)).sqrt()
    c = len(root)
    if c == 1:
        return torch.full((mean.shape[1],), torch.nan)
    pairs = [(root[i] * root[j]).sum(-1) for i in range(c) for j in range(i)]
    return torch.stack(pairs).mean(0)


def predict(chains: Chains, corpus: Corpus, words: bool = True) -> tuple[Tensor, Tensor]:
    """What documents are about and what their next word is, by mean field under each draw of topics.

    Arguments:
        chains: The draws.
        corpus: The documents, other than those of the draws or the same.
        words: Whether probabilities of words are asked for.

    Returns:
        The expected shares with shape (N, K), and probabilities with shape (N, V) or (N, 0).
    """
    c, s, k, v = chains.of_words.shape
    n = corpus.shape[0]
    shares, p = torch.zeros(n, k), torch.zeros(n, v if words else 0)
    for i in range(c):
        for j in range(s):
            topics = chains.topics(i, j)
            gamma = fold_in(corpus, topics, chains.alpha[i, j], STEPS)
            expected = gamma / gamma.sum(1, keepdim=True)
            shares += expected / (c * s)
            if words:
                p += expected @ topics / (c * s)
    return shares, p
