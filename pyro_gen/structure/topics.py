r"""What documents are about: topics with their words, and the shares of topics in each document, with intervals.

The model is latent Dirichlet allocation (:class:`pyro_gen.models.LatentDirichletAllocation`), sampled by blocked Gibbs
sweeps in several chains, with both priors estimated on the way. The number of topics, where it is not given, is the
one that predicts best: of documents left out half of the tokens are predicted from the others
(:mod:`pyro_gen.evaluation.completion`), for each number that is tried; how sure the choice is, is the share of
bootstrap samples of these documents that would choose the same.

Beside perplexity stands the coherence of each topic (:mod:`pyro_gen.structure.coherence`): topics that predict best are
not always those that read best.

References:
    | Latent Dirichlet Allocation (Blei, Ng & Jordan, 2003)
    | https://www.jmlr.org/papers/v3/blei03a.html
    | Reading Tea Leaves: How Humans Interpret Topic Models (Chang et al., 2009)
"""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from pyro_gen._random import fork, seeded
from pyro_gen.evaluation.completion import completion_perplexity
from pyro_gen.inference.progress import progress_bar
from pyro_gen.models.topic.parts.gibbs import Corpus
from pyro_gen.structure.coherence import npmi, umass
from pyro_gen.structure.documents import Documents, as_corpus, counter, read_documents
from pyro_gen.structure.topic_chains import aligned, predict, sample, stability

__all__ = ["Topics", "find_topics"]

NUMBERS = (2, 5, 10, 20, 40, 80, 160)  # of topics that are tried
BURN_IN, THIN = 150, 8
FIRST_BURN_IN, FIRST_DRAWS, FIRST_THIN = 100, 15, 4  # of the chain that tries a number
FOLD, BOOTSTRAPS = 5, 2000  # a fifth of the documents is left out to choose
TOP = 10  # words that coherence is of
LEVEL = 0.9  # of intervals


class Topics(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Finds the topics of documents, with intervals and with a check of the chains; NaN is "not seen".

    Arguments:
        n_topics: The number K of topics; left out, it is chosen among 2, 5, 10, 20, 40, 80 and 160.
        chains: Chains that are sampled.
        draws: Draws of each chain.
        stop_words: Of texts, words that are left out: ``"english"``, a list, or ``None``.
        min_documents: Of texts, words that fewer documents have are left out.
        random_state: An integer that seeds all that is random.

    Attributes:
        n_topics_: The number K.
        perplexities_: Where it was chosen, the perplexity of held-out tokens by number, a mapping.
        number_probabilities_: Where it was chosen, the share of bootstrap samples of held-out documents in which each
            number predicts best, a mapping: not a posterior, but how far these documents tell.
        vocabulary_: The V words.
        topics_: The probabilities of words in topics, the most frequent topic first, with shape (K, V).
        topic_intervals_: Their 90% intervals, with shape (2, K, V).
        shares_: The shares of topics in documents, with shape (N, K).
        share_intervals_: Their 90% intervals, with shape (2, N, K).
        prevalence_: The share of all tokens that are of each topic, with shape (K,).
        npmi_, umass_: The coherence of the ten first words of each topic, with shape (K,).
        stability_: How alike the chains' topics are, from 0 to 1, with shape (K,): a topic of one chain only is low.
        r_hat_: R-hat of what does not depend on labels: ``lp``, the log-likelihood of tokens, the concentration of both
            priors, and the entropy of the topics' prevalence; NaN of one chain.
        n_features_in_: The number V of words.

    Raises:
        ValueError: A document has no word, a number is no count, or there is no word at all.

    Example:
        >>> texts = ["the cat and the dog", "dog and cat food", "stars and planets", "planets, stars, moons"] * 5
        >>> found = Topics(2, chains=2, draws=10).fit(texts)
        >>> found.vocabulary_[:3], int(found.predict(["a dog"])[0] == found.predict(["cat food"])[0])
        (('cat', 'dog', 'food'), 1)
    """

    def __init__(
        self,
        n_topics: int | None = None,
        chains: int = 4,
        draws: int = 25,
        stop_words: str | Sequence[str] | None = "english",
        min_documents: int = 2,
        random_state: int = 0,
    ) -> None:
        self.n_topics = n_topics
        self.chains = chains
        self.draws = draws
        self.stop_words = stop_words
        self.min_documents = min_documents
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.sparse = tags.input_tags.string = True
        tags.input_tags.positive_only = True
        return tags

    def fit(self, X: Any, y: None = None, progress: bool | Callable[[float], None] = False) -> Self:
        """Finds the topics of documents.

        Arguments:
            X: Counts with shape (N, V), documents as rows and words as columns, NaN where one was not seen: an array, a
                scipy matrix, a data frame; or a sequence of texts; or a folder of .txt files, or a file with a text a
                line.
            y: Not used.
            progress: Whether to show a progress bar on standard error once 2 seconds have passed; or a function to be
                called with the fraction done.
        """
        if (self.n_topics is not None and self.n_topics < 1) or self.chains < 1 or self.draws < 4:
            raise ValueError(
                f"Topics(n_topics={self.n_topics}, chains={self.chains}, draws={self.draws}): give 1, 1 and 4 or more."
            )
        self._vectorizer = counter(self.stop_words, self.min_documents)
        documents = read_documents(X, self._vectorizer)
        _check(documents)
        self.vocabulary_, self.documents_ = documents.words, documents.names
        self.n_features_in_ = len(documents.words)
        self._length = _length(documents)
        corpus = as_corpus(documents, self._length)
        with seeded(self.random_state):
            self._choose(documents)
        with seeded(fork(self.random_state)), progress_bar("Topics", progress) as tell:
            drawn = sample(corpus, self.n_topics_, self.chains, BURN_IN, self.draws, THIN, tell)
            self._chains = aligned(drawn)
            self._summarise(documents)
        return self

    def _choose(self, documents: Documents) -> None:
        """The number of topics by held-out prediction, where it is not given."""
        if self.n_topics is not None:
            self.n_topics_ = self.n_topics
            return
        n = documents.counts.shape[0]
        if n < 2 * FOLD:
            raise ValueError(f"Topics: {n} documents are too few to choose the number of topics by: give n_topics.")
        left_out = torch.randperm(n).numpy()[: n // FOLD]
        kept = np.setdiff1d(np.arange(n), left_out)
        corpus = as_corpus(_rows(documents, kept), self._length)
        seen, held = _halves(as_corpus(_rows(documents, left_out), self._length))
        scores: dict[int, torch.Tensor] = {}
        self.perplexities_: dict[int, float] = {}
        for k in NUMBERS:
            if k > max(len(kept), 2):
                break
            chains = sample(corpus, k, 1, FIRST_BURN_IN, FIRST_DRAWS, FIRST_THIN)
            p = predict(chains, seen)[1]
            scores[k] = (held * p.double().log()).sum(1)
            self.perplexities_[k] = completion_perplexity(held, p)[0]
            if self.perplexities_[k] > min(self.perplexities_.values()):
                break
        self.n_topics_ = min(self.perplexities_, key=lambda k: self.perplexities_[k])
        weights = torch.distributions.Multinomial(len(held), torch.ones(len(held))).sample((BOOTSTRAPS,)).double()
        best = (weights @ torch.stack(list(scores.values()), 1)).argmax(1)  # of the same documents for each number
        self.number_probabilities_ = {k: float((best == i).double().mean()) for i, k in enumerate(scores)}

    def _summarise(self, documents: Documents) -> None:
        chains = self._chains
        tail = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        drawn = chains.drawn_topics().flatten(0, 1)  # (S, K, V)
        means = torch.stack([chains.topics(i, j) for i in range(self.chains) for j in range(self.draws)])
        self.topics_ = means.mean(0).double().numpy()
        self.topic_intervals_ = torch.stack([drawn[:, k].quantile(tail, 0) for k in range(drawn.shape[1])], 1).numpy()
        shares = chains.shares.flatten(0, 1)
        self.shares_ = shares.mean(0).double().numpy()
        self.share_intervals_ = torch.stack([s.quantile(tail, 0) for s in shares.unbind(1)], 1).numpy()
        tokens = chains.of_words.sum(-1).double()  # (C, S, K)
        prevalence = tokens / tokens.sum(-1, keepdim=True)
        self.prevalence_ = prevalence.mean((0, 1)).numpy()
        self.stability_ = stability(chains).numpy()
        first = np.argsort(-self.topics_, axis=1)[:, :TOP]
        self.npmi_, self.umass_ = npmi(documents.counts, first), umass(documents.counts, first)
        self._free = {
            "lp": chains.log_likelihood.double().numpy(),
            "alpha": chains.alpha.sum(-1).double().numpy(),
            "eta": chains.eta.double().numpy(),
            "entropy": torch.special.entr(prevalence).sum(-1).numpy(),
        }
        self.r_hat_ = self._r_hats()

    def _r_hats(self) -> dict[str, float]:
        import arviz

        if self.chains == 1:
            return dict.fromkeys(self._free, math.nan)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of one topic, whose entropy never changes
            found = arviz.rhat(arviz.from_dict(posterior=self._free))
        return {name: 1.0 if math.isnan(v := float(found[name])) else v for name in self._free}

    @property
    def posterior_(self) -> Any:
        """What was drawn as ArviZ's InferenceData: ``topics``, ``shares`` and what does not depend on labels."""
        import arviz

        check_is_fitted(self, "topics_")
        with seeded(fork(self.random_state)):
            topics = self._chains.drawn_topics().numpy()
        values = {**self._free, "topics": topics, "shares": self._chains.shares.numpy()}
        dims = {"topics": ["topic", "word"], "shares": ["document", "topic"]}
        coords = {"word": list(self.vocabulary_), "document": list(self.documents_)}
        return arviz.from_dict(posterior=values, dims=dims, coords=coords)

    def _read(self, X: Any) -> Corpus:
        check_is_fitted(self, "topics_")
        return as_corpus(read_documents(X, self._vectorizer, self.vocabulary_), self._length)

    def transform(self, X: Any) -> npt.NDArray[np.float64]:
        """The expected shares of topics in documents, with shape (N, K); without any word those of the prior."""
        corpus = self._read(X)
        return np.asarray(predict(self._chains, corpus, words=False)[0].double().numpy())

    def predict_proba(self, X: Any) -> npt.NDArray[np.float64]:
        """The same as :meth:`transform`: the probability of each topic for a token of each document."""
        return self.transform(X)

    def predict(self, X: Any) -> npt.NDArray[np.int64]:
        """The most frequent topic of each document, with shape (N,)."""
        return np.asarray(self.transform(X).argmax(1), dtype=np.int64)

    def word_probabilities(self, X: Any) -> npt.NDArray[np.float64]:
        """The probabilities of the next word of documents given what is seen of them, with shape (N, V)."""
        corpus = self._read(X)
        return np.asarray(predict(self._chains, corpus)[1].double().numpy())

    def perplexity(self, X: Any) -> float:
        """The perplexity of half of the tokens of each document, given the others; lower is better.

        Raises:
            ValueError: The documents have no token.
        """
        corpus = self._read(X)
        with seeded(self.random_state):
            seen, held = _halves(corpus)
        if not held.any():
            raise ValueError("the documents have no token to predict: give more of them.")
        return completion_perplexity(held, predict(self._chains, seen)[1])[0]

    def score(self, X: Any, y: None = None) -> float:
        """The mean log-probability of a token given half of its document, in nats: minus the log of perplexity."""
        return -math.log(self.perplexity(X))

    def words(self, topic: int, n: int = TOP) -> pd.DataFrame:
        """The first words of a topic with their probabilities and 90% intervals."""
        check_is_fitted(self, "topics_")
        first = np.argsort(-self.topics_[topic])[:n]
        low, high = self.topic_intervals_[:, topic, first]
        columns = {"word": np.array(self.vocabulary_)[first], "probability": self.topics_[topic, first]}
        return pd.DataFrame({**columns, "low": low, "high": high})

    def table(self, n: int = 8) -> pd.DataFrame:
        """A row a topic: its prevalence, its first words, coherence and stability."""
        check_is_fitted(self, "topics_")
        return pd.DataFrame(
            {
                "prevalence": self.prevalence_,
                "words": [" ".join(self.words(k, n)["word"]) for k in range(self.n_topics_)],
                "NPMI": self.npmi_,
                "UMass": self.umass_,
                "stability": self.stability_,
            }
        )

    def summary(self) -> str:
        """The answer in a few sentences, a line each."""
        check_is_fitted(self, "topics_")
        lines = [f"Topics of {len(self.documents_)} documents with {self.n_features_in_} words: {self.n_topics_}."]
        if self.n_topics is None:
            sure = self.number_probabilities_[self.n_topics_]
            tried = ", ".join(f"{k}: {p:.0f}" for k, p in self.perplexities_.items())
            lines.append(
                f"Of the numbers tried it predicts left-out words best (perplexity {tried}), in {sure:.0%} of "
                "bootstrap samples of the documents."
                + (" It is the largest that was tried." if self.n_topics_ == max(self.perplexities_) else "")
            )
        if self.chains == 1:
            return "\n".join([*lines, "One chain cannot tell what others would find: give 2 or more."])
        alike = int((self.stability_ >= 0.7).sum())
        others = "; others are one way to divide the documents among several" if alike < self.n_topics_ else ""
        lines.append(f"{alike} of the topics are alike in all chains (stability 0.7 or more){others}.")
        mixed = max(self.r_hat_.values())
        lines.append(
            f"R-hat of what does not depend on labels: {mixed:.2f}"
            + (", the chains agree." if mixed < 1.1 else ", the chains do not agree: averages over them still predict.")
        )
        return "\n".join(lines)

    def plot(self, topics: int = 12, words: int = 8) -> Any:
        """Draws the first words of the most frequent topics with their intervals; a figure."""
        from pyro_gen.structure.topic_pages import topics_figure

        check_is_fitted(self, "topics_")
        shown = range(min(topics, self.n_topics_))
        return topics_figure([(self.prevalence_[k], self.words(k, words)) for k in shown])


def find_topics(
    data: Any,
    *,
    n_topics: int | None = None,
    chains: int = 4,
    draws: int = 25,
    stop_words: str | Sequence[str] | None = "english",
    min_documents: int = 2,
    seed: int = 0,
) -> Topics:
    """Finds the topics of documents, see :class:`Topics`.

    Arguments:
        data: Counts with shape (N, V), texts, or a folder of .txt files.
        n_topics: The number of topics; left out, it is chosen by how well held-out words are predicted.
        chains: Chains that are sampled.
        draws: Draws of each chain.
        stop_words: Of texts, words that are left out: ``"english"``, a list, or ``None``.
        min_documents: Of texts, words that fewer documents have are left out.
        seed: Seeds all that is random.

    Returns:
        The fitted estimator.
    """
    return Topics(n_topics, chains, draws, stop_words, min_documents, seed).fit(data)


def _check(documents: Documents) -> None:
    """Refuses documents without a word, and a vocabulary that says nothing."""
    totals = np.asarray(documents.counts.sum(1)).ravel()
    if not totals.any():
        raise ValueError("Topics: no document has a word: the counts are all 0 or not seen.")
    if (totals == 0).any():
        empty = np.flatnonzero(totals == 0)
        more = f" and {len(empty) - 1} others" if len(empty) > 1 else ""
        raise ValueError(f"Topics: document {documents.names[empty[0]]!r}{more} has no word that counts: leave it out.")
    if len(documents.words) < 2:
        raise ValueError(f"Topics: the only word is {documents.words[0]!r}: one word has no topics.")


def _length(documents: Documents) -> tuple[float, float]:
    """A and b of the Gamma law of lengths, by moments; it matters where counts were not seen."""
    totals = np.asarray(documents.counts.sum(1), dtype=np.float64).ravel()
    mean, variance = totals.mean(), totals.var()
    a = float(np.clip(mean**2 / max(variance - mean, mean / 100), 1e-2, 1e4))
    return a, a / float(mean)


def _rows(documents: Documents, rows: npt.NDArray[np.int64]) -> Documents:
    place = np.full(documents.counts.shape[0], -1)
    place[rows] = np.arange(len(rows))
    missing = documents.missing[:, place[documents.missing[0]] >= 0]
    missing = np.stack([place[missing[0]], missing[1]])
    return Documents(documents.counts[rows], missing, documents.words, tuple(documents.names[i] for i in rows))


def _halves(corpus: Corpus) -> tuple[Corpus, torch.Tensor]:
    """Tokens by a fair coin each, by the global generator: what is seen, and counts held out, with shape (N, V)."""
    held = torch.binomial(corpus.counts.double(), torch.full((len(corpus.counts),), 0.5).double())
    counts = torch.zeros(corpus.shape, dtype=torch.float64).index_put_((corpus.documents, corpus.words), held)
    seen = corpus.counts - held.long()
    there = seen > 0
    return corpus._replace(documents=corpus.documents[there], words=corpus.words[there], counts=seen[there]), counts
