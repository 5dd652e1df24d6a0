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
    \frac{\sum_n [\Psi(n_{nk} + \alpha_k) - \Psi(\alpha_k)]}
    {\sum_n [\Psi(n_n + \alpha_\cdot) - \Psi(\alpha_\cdot)]} .

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
        of_words: How many tokens of each word are of each topic, with shape (K, V).
    """

    shares: Tensor
    topics: Tensor
    alpha: Tensor
    eta: Tensor
    of_words: Tensor


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
    return State(shares, topics, alpha, eta, counts)


def sweep(corpus: Corpus, state: State, *, priors: bool = True) -> State:
    """One sweep, by the global generator.

    Arguments:
        corpus: The documents.
        state: Where the chain is.
        priors: Whether a step of Minka's updates is made.
    """
    alpha, eta = state.alpha, state.eta
    of_documents, of_words = split(completed(corpus, state), state.shares, state.topics)
    if priors:
        alpha = minka(of_documents, alpha)
        eta = minka(of_words, eta.expand(corpus.shape[1])).mean()
    return State(_dirichlet(alpha + of_documents), _dirichlet(eta + of_words), alpha, eta, of_words)


def sweeps(corpus: Corpus, k: int, count: int) -> Iterator[State]:
    """A chain from its start on: the states after each of so many sweeps."""
    state = start(corpus, k)
    for _ in range(count):
        state = sweep(corpus, state)
        yield state


def fold_in(corpus: Corpus, topics: Tensor, alpha: Tensor, steps: int = 40) -> Tensor:
    r"""Shares of documents given topics: the parameters of the best Dirichlet laws, by steps of mean field.

    .. math::
        \gamma_{nk} \leftarrow \alpha_k + \sum_v x_{nv} \frac{e^{\Psi(\gamma_{nk})} \beta_{kv}}
        {\sum_j e^{\Psi(\gamma_{nj})} \beta_{jv}}

    (Blei, Ng & Jordan, 2003). A count that was not seen has its expectation. Nothing is drawn, so that a document has
    the same shares whatever others it comes with.

    Arguments:
        corpus: The documents.
        topics: With shape (K, V).
        alpha: The prior of shares, with shape (K,).
        steps: How often, from tokens that are of all topics alike.

    Returns:
        The parameters, with shape (N, K); shares are in proportion to them in the mean.
    """
    n, k = corpus.shape[0], len(alpha)
    total = topics.new_zeros(n).index_add_(0, corpus.documents, corpus.counts.to(topics))
    gamma = alpha + total.unsqueeze(1) / k
    documents, words = torch.cat([torch.stack([corpus.documents, corpus.words]), corpus.missing], 1)
    by_cell = topics.T[words]  # (M + L, K)
    for _ in range(steps):
        weights = torch.digamma(gamma).exp()
        unseen = _expected(corpus, gamma / gamma.sum(1, keepdim=True), topics, total)
        counts = torch.cat([corpus.counts.to(topics), unseen])
        ratio = counts / (weights[documents] * by_cell).sum(1).clamp(min=torch.finfo(topics.dtype).tiny)
        mixed = topics.new_zeros(n, k).index_add_(0, documents, ratio.unsqueeze(1) * by_cell)
        gamma = alpha + weights * mixed
    return gamma


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
        chosen.append(_steps_up_to(upto, token, level).clamp(max=k - 1))
    topic = torch.cat(chosen) if chosen else torch.zeros(0, dtype=torch.long)
    cell = torch.repeat_interleave(corpus.counts)
    of_documents = torch.bincount(corpus.documents[cell] * k + topic, minlength=n * k).view(n, k)
    of_words = torch.bincount(corpus.words[cell] * k + topic, minlength=v * k).view(v, k)
    return of_documents.to(shares), of_words.T.to(shares)


def _steps_up_to(upto: Tensor, row: Tensor, level: Tensor) -> Tensor:
    """How many entries of its row of ``upto``, which rises, are at most each level: by halving, in log K steps."""
    k = upto.shape[1]
    flat, first = upto.flatten(), row * k
    found = torch.zeros_like(row)
    for step in (2**i for i in reversed(range(k.bit_length()))):
        probe = (found + (step - 1)).clamp(max=k - 1)
        found += step * (flat[first + probe] <= level)
    return found


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
    total = state.shares.new_zeros(corpus.shape[0]).index_add_(0, corpus.documents, corpus.counts.to(state.shares))
    p, a, b = _unseen(corpus, state.shares, state.topics, total)
    rate = torch.distributions.Gamma(a, b).sample()
    drawn = torch.poisson(rate[corpus.missing[0]] * p).long()
    return corpus._replace(
        documents=torch.cat([corpus.documents, corpus.missing[0]]),
        words=torch.cat([corpus.words, corpus.missing[1]]),
        counts=torch.cat([corpus.counts, drawn]),
    )


def _unseen(corpus: Corpus, shares: Tensor, topics: Tensor, total: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of counts that were not seen the probabilities, (L,), and the Gamma law of each document's length, (N,) each."""
    documents, words = corpus.missing
    p = (shares[documents] * topics.T[words]).sum(1)
    unseen = p.new_zeros(corpus.shape[0]).index_add_(0, documents, p)
    a, b = corpus.length.to(p)
    return p, a + total, (b + 1 - unseen).clamp(min=1e-6)


def _expected(corpus: Corpus, shares: Tensor, topics: Tensor, total: Tensor) -> Tensor:
    """The expectation of counts that were not seen, with shape (L,)."""
    p, a, b = _unseen(corpus, shares, topics, total)
    return (a / b)[corpus.missing[0]] * p


def _dirichlet(concentration: Tensor) -> Tensor:
    drawn: Tensor = torch.distributions.Dirichlet(concentration, validate_args=False).sample()
    return drawn
