r"""Blocked Gibbs sampling of latent Dirichlet allocation, for corpora of which most counts are zero.

A cell is a document n and a word v that occurs in it. Given shares and topics the tokens of a cell are split among
the topics by a multinomial law, all cells at once, and given these splits shares and topics are Dirichlet:

.. math::
    c_{nv} \mid \theta, \beta &\sim \operatorname{Multinomial}\big(x_{nv}, \;
    \theta_{nk} \beta_{kv} / \textstyle\sum_j \theta_{nj} \beta_{jv}\big) \\
    \theta_n \mid c &\sim \operatorname{Dirichlet}\big(\alpha + \textstyle\sum_v c_{nv}\big), \qquad
    \beta_k \mid c \sim \operatorname{Dirichlet}\big(\eta + \textstyle\sum_n c_{n \cdot k}\big) .

Counts that were not seen are drawn first, with the length of their document
(:mod:`pyro_gen.distributions.negative_multinomial`). The priors are estimated on the way: with the splits of each sweep
goes a step of Minka's fixed point,

.. math::
    \alpha_k \leftarrow \alpha_k
    \frac{\sum_n \Psi(n_{nk} + \alpha_k) - \Psi(\alpha_k)}{\sum_n \Psi(n_n + \alpha_\cdot) - \Psi(\alpha_\cdot)} .

References:
    | Finding Scientific Topics (Griffiths & Steyvers, 2004)
    | https://doi.org/10.1073/pnas.0307752101
    | Estimating a Dirichlet distribution (Minka, 2000)
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Corpus", "State", "completed", "corpus_of", "fold_in", "minka", "split", "start", "sweep", "sweeps"]

CHUNK = 2**20  # numbers of a block of cells by topics, which stays in the cache
LEAST, MOST = 1e-4, 1e3  # of the parameters of the priors


class Corpus(NamedTuple):
    """Counts of words in documents, as a list of the cells that are not zero.

    Attributes:
        documents: Of each cell its document, with shape (M,).
        words: Of each cell its word, with shape (M,).
        counts: Of each cell its count, with shape (M,), int64.
        shape: The numbers N of documents and V of words.
        missing: Document and word of counts that were not seen, with shape (2, L).
        length: a and b of the Gamma law of lengths, with shape (2,).
    """

    documents: Tensor
    words: Tensor
    counts: Tensor
    shape: tuple[int, int]
    missing: Tensor
    length: Tensor


class State(NamedTuple):
    """Where a chain is.

    Attributes:
        shares: Of topics in documents, with shape (N, K).
        topics: Probabilities of words, with shape (K, V).
        alpha: The prior of shares, with shape (K,).
        eta: The prior of topics, a scalar.
        of_documents: How many tokens of each document are of each topic, with shape (N, K).
        of_words: How many tokens of each word are of each topic, with shape (K, V).
    """

    shares: Tensor
    topics: Tensor
    alpha: Tensor
    eta: Tensor
    of_documents: Tensor
    of_words: Tensor

    @property
    def expected_topics(self) -> Tensor:
        """The mean of topics given the splits, with shape (K, V)."""
        raised = self.of_words + self.eta
        return raised / raised.sum(1, keepdim=True)

    @property
    def expected_shares(self) -> Tensor:
        """The mean of shares given the splits, with shape (N, K)."""
        raised = self.of_documents + self.alpha
        return raised / raised.sum(1, keepdim=True)


def corpus_of(x: Tensor, length: Tensor) -> Corpus:
    """The cells of counts with shape (N, V), NaN where one was not seen; ``length`` as in :class:`Corpus`."""
    missing = torch.isnan(x)
    documents, words = torch.nonzero(x.masked_fill(missing, 0.0), as_tuple=True)
    n, v = x.shape
    return Corpus(documents, words, x[documents, words].long(), (n, v), missing.nonzero().T, length)


def start(corpus: Corpus, k: int) -> State:
    """A chain before its first sweep: topics are the words of a few documents each."""
    n, v = corpus.shape
    alpha, eta = torch.full((k,), 1.0 / k), torch.tensor(0.05)
    shares = _dirichlet(torch.ones(n, k) * 0.5)
    tokens = torch.multinomial(shares, 1).squeeze(1)[corpus.documents]  # a topic for each document
    counts = torch.zeros(k * v).index_add_(0, tokens * v + corpus.words, corpus.counts.float()).view(k, v)
    topics = _dirichlet(counts + 10 * eta)
    return State(shares, topics, alpha, eta, torch.zeros(n, k), counts)


def sweep(corpus: Corpus, state: State, *, priors: bool = True, topics: bool = True) -> State:
    """One sweep, by the global generator.

    Arguments:
        corpus: The documents.
        state: Where the chain is.
        priors: Whether a step of Minka's updates is made.
        topics: Whether topics are drawn; else they stay as they are.
    """
    alpha, eta = state.alpha, state.eta
    of_documents, of_words = split(completed(corpus, state), state.shares, state.topics)
    if priors:
        alpha = minka(of_documents, alpha)
        eta = minka(of_words, eta.expand(corpus.shape[1])).mean()
    shares = _dirichlet(alpha + of_documents)
    drawn = _dirichlet(eta + of_words) if topics else state.topics
    return State(shares, drawn, alpha, eta, of_documents, of_words)


def sweeps(corpus: Corpus, k: int, count: int) -> Iterator[State]:
    """A chain from its start on: the states after each of so many sweeps."""
    state = start(corpus, k)
    for _ in range(count):
        state = sweep(corpus, state)
        yield state


def fold_in(corpus: Corpus, state: State, count: int) -> State:
    """Shares of documents given topics and priors: the state after so many sweeps, from where ``shares`` are."""
    for _ in range(count):
        state = sweep(corpus, state, priors=False, topics=False)
    return state


def split(corpus: Corpus, shares: Tensor, topics: Tensor) -> tuple[Tensor, Tensor]:
    """Draws the topics of all tokens: how many of each document, (N, K), and of each word, (K, V), are of each."""
    (n, v), k = corpus.shape, shares.shape[1]
    by_word = topics.T.contiguous()
    chosen = []
    for cells in torch.arange(len(corpus.counts)).split(max(CHUNK // k, 1)):
        weights = shares[corpus.documents[cells]] * by_word[corpus.words[cells]]  # (cells, K)
        upto = weights.cumsum(1)
        token = torch.repeat_interleave(corpus.counts[cells])
        level = torch.rand(len(token)) * upto[:, -1][token]
        chosen.append((upto[token] <= level.unsqueeze(1)).sum(1).clamp(max=k - 1))
    topic = torch.cat(chosen) if chosen else torch.zeros(0, dtype=torch.long)
    cell = torch.repeat_interleave(corpus.counts)
    of_documents = torch.bincount(corpus.documents[cell] * k + topic, minlength=n * k).view(n, k)
    of_words = torch.bincount(corpus.words[cell] * k + topic, minlength=v * k).view(v, k)
    return of_documents.to(shares), of_words.T.to(shares)


def minka(counts: Tensor, prior: Tensor) -> Tensor:
    """A step of Minka's fixed point for the Dirichlet prior of rows of counts, (N, K), from and to shape (K,)."""
    counts = counts[counts.sum(1) > 0].double()
    if len(counts) == 0:
        return prior
    before = prior.double()
    up = (torch.digamma(counts + before) - torch.digamma(before)).sum(0)
    down = (torch.digamma(counts.sum(1) + before.sum()) - torch.digamma(before.sum())).sum()
    return (before * up / down).clamp(LEAST, MOST).to(prior)


def completed(corpus: Corpus, state: State) -> Corpus:
    """The corpus with draws of the counts that were not seen."""
    if corpus.missing.shape[1] == 0:
        return corpus
    n = corpus.shape[0]
    documents, words = corpus.missing
    p = (state.shares[documents] * state.topics[:, words].T).sum(1)
    unseen = p.new_zeros(n).index_add_(0, documents, p)
    total = p.new_zeros(n).index_add_(0, corpus.documents, corpus.counts.to(p))
    a, b = corpus.length
    rate = torch.distributions.Gamma(a + total, (b + 1 - unseen).clamp(min=1e-6)).sample()
    drawn = torch.poisson(rate[documents] * p).long()
    return corpus._replace(
        documents=torch.cat([corpus.documents, documents]),
        words=torch.cat([corpus.words, words]),
        counts=torch.cat([corpus.counts, drawn]),
    )


def _dirichlet(concentration: Tensor) -> Tensor:
    drawn: Tensor = torch.distributions.Dirichlet(concentration, validate_args=False).sample()
    return drawn
