"""Topics: planted ones, their number, holes, texts and folders, bad input, and one order of the chains' topics."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from sklearn.base import clone
from sklearn.utils.estimator_checks import check_estimator

import pyro_gen as pg
from pyro_gen.structure import Topics, find_topics
from pyro_gen.structure.coherence import npmi, umass
from pyro_gen.structure.documents import is_text
from pyro_gen.structure.topic_chains import Chains, aligned, stability

WORDS = [*["cat", "dog", "bird", "fish"], *["star", "moon", "planet", "comet"], *["bread", "cheese", "apple", "butter"]]
TRUTH = np.kron(np.eye(3), np.full(4, 0.25))  # (3, 12): four words each


def planted(n: int, seed: int = 0, length: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Counts of documents, and the shares of topics in them."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(3, 0.3), size=n)
    return np.stack([rng.multinomial(length, p) for p in shares @ TRUTH]).astype(float), shares


@pytest.fixture(scope="module")
def fitted() -> tuple[Topics, np.ndarray, np.ndarray]:
    x, shares = planted(80)
    x[np.random.default_rng(1).random(x.shape) < 0.1] = np.nan
    frame = pd.DataFrame(x, columns=WORDS, index=[f"d{i}" for i in range(80)])
    return find_topics(frame, n_topics=3, chains=2, draws=40), x, shares


def order(found: Topics) -> np.ndarray:
    """Of each planted topic the one found."""
    return (found.topics_ @ TRUTH.T).argmax(0)


def test_planted_topics_are_found_with_their_intervals(fitted: Any) -> None:
    found, _, shares = fitted
    at = order(found)
    assert sorted(at) == [0, 1, 2] and found.n_features_in_ == 12 and found.vocabulary_ == tuple(WORDS)
    assert np.abs(found.topics_[at] - TRUTH).max() < 0.04
    assert np.abs(found.shares_[:, at] - shares).mean() < 0.06
    low, high = found.share_intervals_
    covered = ((low[:, at] <= shares) & (shares <= high[:, at])).mean()
    assert 0.75 < covered < 0.99 and (low <= found.shares_ + 1e-6).all() and (found.shares_ <= high + 1e-6).all()
    assert np.allclose(found.prevalence_.sum(), 1) and (np.diff(found.prevalence_) <= 1e-9).all()
    assert found.stability_.min() > 0.97 and max(found.r_hat_.values()) < 1.3
    assert found.npmi_.shape == found.umass_.shape == (3,)
    first = found.words(0, 4)
    assert set(first["word"]) in [set(WORDS[i : i + 4]) for i in (0, 4, 8)]
    assert (first["low"] < first["probability"]).all() and (first["probability"] < first["high"]).all()
    assert found.posterior_.posterior["topics"].shape == (2, 40, 3, 12)
    assert found.plot().axes and "3" in found.summary().splitlines()[0]


def test_new_documents_are_judged(fitted: Any) -> None:
    found, _, _ = fitted
    x, shares = planted(40, seed=5)
    at = order(found)
    assert np.abs(found.transform(x)[:, at] - shares).mean() < 0.06
    assert (found.predict(x) == found.predict_proba(x).argmax(1)).all()
    assert np.allclose(found.word_probabilities(x).sum(1), 1, atol=1e-5)
    truth = np.exp(-(x * np.log(np.maximum(shares @ TRUTH, 1e-12))).sum() / x.sum())
    assert truth < found.perplexity(x) < 1.12 * truth < 11 and found.score(x) == -np.log(found.perplexity(x))
    assert np.allclose(found.transform(x[3:5]), found.transform(x)[3:5], atol=1e-5)  # whatever they come with
    empty = np.zeros((1, 12))
    assert np.allclose(found.transform(empty).sum(), 1)
    assert np.allclose(found.transform(scipy.sparse.csr_matrix(x)), found.transform(torch.tensor(x)))


def test_the_number_is_the_planted_one() -> None:
    x, _ = planted(150, length=60)
    found = find_topics(scipy.sparse.csr_matrix(x), chains=1, draws=4)
    assert found.n_topics_ in (2, 5) and found.perplexities_[2] > 0 and 5 in found.perplexities_
    assert found.n_topics_ == 5 and found.number_probabilities_[2] < 0.01  # two are not enough for three
    assert all(np.isnan(v) for v in found.r_hat_.values()) and "One chain" in found.summary()
    assert sum(found.number_probabilities_.values()) == pytest.approx(1) and "left-out words" in found.summary()
    assert "largest" not in found.summary()
    found.perplexities_ = {k: v for k, v in found.perplexities_.items() if k <= 5}  # the search ended here
    assert "the largest that was tried" in found.summary()


def test_texts_and_folders_are_the_same(tmp_path: Path) -> None:
    texts = ["The cat and the dog.", "Dogs, a dog; cat!", "Stars: a star, the moon", "moon and star and moon"] * 6
    for i, text in enumerate(texts):
        (tmp_path / f"{i:02}.txt").write_text(text, encoding="utf-8")
    (tmp_path / "all.text").write_text("no document", encoding="utf-8")
    found = Topics(2, chains=1, draws=4).fit(texts)
    assert found.vocabulary_ == ("cat", "dog", "dogs", "moon", "star", "stars")
    same = clone(found).fit(tmp_path)
    assert np.allclose(same.topics_, found.topics_) and same.documents_[0] == "00"
    lines = tmp_path / "lines.txt"
    lines.write_text("\n\n".join(texts), encoding="utf-8")
    assert np.allclose(Topics(2, chains=1, draws=4).fit(str(lines)).topics_, found.topics_)
    one, other = found.predict(["a moon of stars, the star", "a dog"])
    assert one != other
    assert found.transform(pd.Series(["words that nobody knows"])).shape == (1, 2)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([[1.0, 2], [0, 0]], "document '1' has no word that counts: leave it out"),
        ([[1.0, 2], [np.nan, 0]], "document '1' has no word"),
        ([[0.0, 0], [0, 0]], "no document has a word"),
        ([[1.0, -2], [1, 0]], "-2 is no count"),
        ([[1.0, 0.5], [1, 0]], "0.5 is no count"),
        ([[1.0, np.inf], [1, 0]], "inf is no count"),
        ([[3.0], [1]], "the only word is 'word 0'"),
        (np.zeros((0, 3)), "have shape"),
        (["of the", "and"], "none of the 2 documents has a word that counts"),
        (["cat cat", 3.0], "document 1 is 3.0, no text"),
        (["cat dog", "cat dog", "bird"], "document '2' has no word that counts"),
        ("nowhere", "nowhere: no such folder or file"),
        ([[1.0, 2], [1, 2]], "too few to choose"),
    ],
)
def test_bad_input_gets_one_line(data: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        Topics(draws=4).fit(data)
    assert "\n" not in str(caught.value)


def test_other_words_than_those_fitted_get_one_line(fitted: Any, tmp_path: Path) -> None:
    found, x, _ = fitted
    with pytest.raises(ValueError, match="'dragon' is no word of the topics"):
        found.transform(pd.DataFrame(x, columns=["dragon", *WORDS[1:]]))
    with pytest.raises(ValueError, match="11 features, but Topics is expecting 12"):
        found.transform(x[:, 1:])
    with pytest.raises(ValueError, match=r"no \.txt file"):
        found.transform(tmp_path)
    with pytest.raises(ValueError, match="1, 1 and 4 or more"):
        Topics(2, draws=1).fit(x)


def chains_of(of_words: torch.Tensor) -> Chains:
    c, s = of_words.shape[:2]
    shares = of_words.sum(-1)[:, :, None].float()  # one document, by which the order shows
    return Chains(of_words, shares, shares[:, :, 0], torch.full((c, s), 0.1), torch.arange(c).expand(s, c).T.float())


def test_topics_of_chains_are_brought_into_one_order() -> None:
    a = torch.tensor([[9, 0, 0], [0, 20, 0], [0, 0, 5]], dtype=torch.int32)
    moved = a[[2, 0, 1]]
    found = aligned(chains_of(torch.stack([torch.stack([a, moved]), torch.stack([moved, a])])))
    assert bool((found.of_words == a[[1, 0, 2]]).all())  # the most frequent topic first
    assert found.shares[1, 1, 0].tolist() == [20, 9, 5] and found.alpha[0, 1].tolist() == [20, 9, 5]
    assert bool((stability(found) > 0.999).all())
    assert bool((stability(chains_of(torch.stack([a[None], moved[None]]))) < 0.5).all())  # the twin: not aligned


def test_coherence_is_counted_by_hand() -> None:
    x = scipy.sparse.csr_matrix(np.array([[1, 1, 0], [2, 0, 0], [1, 3, 0], [0, 0, 1]]))
    joint, p, q = 2 / 4, 3 / 4, 2 / 4
    assert npmi(x, np.array([[0, 1]]))[0] == pytest.approx(np.log(joint / (p * q)) / -np.log(joint))
    assert umass(x, np.array([[0, 1], [1, 2]])) == pytest.approx([np.log(3 / 3), np.log(1 / 2)])


class Rounded(Topics):
    """Takes any numbers: those of scikit-learn's checks are no counts."""

    def fit(self, X: Any, y: None = None) -> "Rounded":
        return super().fit(counts_of(X), y)

    def transform(self, X: Any) -> np.ndarray:
        return super().transform(counts_of(X))

    def perplexity(self, X: Any) -> float:
        return super().perplexity(counts_of(X))


def counts_of(x: Any) -> Any:
    """Rounded numbers, 1 or more."""
    if is_text(x) or getattr(x, "ndim", 2) != 2 or np.asarray(getattr(x, "data", x)).dtype.kind not in "fiu":
        return x
    return x if scipy.sparse.issparse(x) else 1 + np.abs(np.round(np.asarray(x, dtype=float)))


#: Of scikit-learn's checks, those whose numbers are no counts after rounding either, or whose words are others.
NOT_OF_COUNTS = {
    "check_complex_data",
    "check_dtype_object",
    "check_estimator_sparse_array",
    "check_estimator_sparse_matrix",
    "check_estimator_sparse_tag",
    "check_estimators_empty_data_messages",
    "check_fit2d_1feature",
    "check_fit_non_negative",
    "check_positive_only_tag_during_fit",
}


@pytest.mark.slow
def test_scikit_learn_takes_it_for_an_estimator() -> None:
    found = check_estimator(Rounded(2, chains=1, draws=4), on_skip=None, on_fail=None)
    failed = {one["check_name"]: str(one["exception"]) for one in found if one["status"] == "failed"}
    assert {name: words for name, words in failed.items() if name not in NOT_OF_COUNTS} == {}


def test_the_public_name() -> None:
    assert pg.structure.find_topics is find_topics
