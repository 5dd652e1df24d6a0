"""Topics of the standard library's docstrings, K = 50: document completion, against tomotopy and scikit-learn.

All see the same training documents, and of each test document the same half of the tokens; what is measured is the
perplexity of the other half, by probabilities of words that each package's shares of topics and topics give. Ours is
``find_topics`` at its defaults, by one, two and all of its four chains. The rivals have the best of several settings by
these very perplexities, which ours has not: tomotopy, its priors optimised as it does by default, from four starts of
them, 300 sweeps, and 1,000 from the best; scikit-learn's variational Bayes from six priors, 100 passes. Beside the best
tomotopy stands the mean of its predictions over four seeds, for which it has no function. Seconds are of the processor.
"""

import itertools
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import LatentDirichletAllocation

from pyro_gen.data import load
from pyro_gen.evaluation.completion import completion_perplexity, halves
from pyro_gen.structure import find_topics
from pyro_gen.structure.documents import as_corpus, counter, read_documents
from pyro_gen.structure.topic_chains import Chains, predict
from structure_parts import Bar, Result

K = 50


def timed(f: Callable[[], Any]) -> tuple[Any, float]:
    started = time.process_time()
    found = f()
    return found, time.process_time() - started


def scikit_learn(train: np.ndarray, seen: np.ndarray, alpha: float | None, eta: float | None) -> np.ndarray:
    model = LatentDirichletAllocation(K, doc_topic_prior=alpha, topic_word_prior=eta, max_iter=100, random_state=0)
    shares = model.fit(train).transform(seen)
    topics = model.components_ / model.components_.sum(1, keepdims=True)
    return shares @ topics


def tomotopy(train: np.ndarray, seen: np.ndarray, alpha: float, eta: float, sweeps: int, seed: int = 1) -> np.ndarray:
    import tomotopy

    def tokens(counts: np.ndarray) -> list[str]:
        return [str(word) for word in np.repeat(np.arange(len(counts)), counts.astype(int))]

    model = tomotopy.LDAModel(k=K, alpha=alpha, eta=eta, seed=seed)
    for row in train:
        model.add_doc(tokens(row))
    model.train(sweeps, workers=1)
    topics = np.zeros((K, train.shape[1]))
    words = [int(word) for word in model.used_vocabs]
    for k in range(K):
        topics[k, words] = model.get_topic_word_dist(k)
    shares, _ = model.infer([model.make_doc(tokens(row)) for row in seen], iterations=200, workers=1)
    return np.asarray(shares) @ topics


def run() -> Result:
    data = load("docstrings")
    seen, held = halves(data.test)
    train, half = data.train.numpy(), seen.numpy()

    def perplexity(p: np.ndarray) -> float:
        return completion_perplexity(held, torch.as_tensor(p))[0]

    frequencies = (train.sum(0) + 0.5) / (train.sum(0) + 0.5).sum()
    figures: dict[str, Any] = {
        "documents": [len(train), len(half)],
        "words": train.shape[1],
        "tokens": [int(train.sum()), int(held.sum())],
        "perplexity": {"frequencies of words": perplexity(np.tile(frequencies, (len(half), 1)))},
        "seconds": {},
    }

    def note(name: str, p: np.ndarray, seconds: float) -> None:
        figures["perplexity"][name], figures["seconds"][name] = perplexity(p), seconds
        print(f"    {name:60s} {figures['perplexity'][name]:7.1f}  {seconds:6.1f} s", flush=True)

    found, seconds = timed(lambda: find_topics(train, n_topics=K))
    corpus = as_corpus(read_documents(half, counter(None, 1), found.vocabulary_), (1.0, 1.0))
    for n in (1, 2, 4):
        p = predict(Chains(*(part[:n] for part in found._chains)), corpus)[1]
        note(f"ours, {n} chain{'s' * (n > 1)}", p.numpy(), seconds * n / 4)
    for alpha, eta in itertools.product((0.1, 0.3, 1.0), (0.005, None)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            p, seconds = timed(lambda a=alpha, e=eta: scikit_learn(train, half, a, e))
        note(f"scikit-learn, alpha {alpha or 1 / K:g}, eta {eta or 1 / K:g}", p, seconds)
    rivals = [v for name, v in figures["perplexity"].items() if name.startswith("scikit-learn")]
    packages = ["scikit-learn"]
    try:
        best = (np.inf, 0.1, 0.01, 300)
        for start in ((0.1, 0.01), (0.02, 0.05), (0.1, 0.05), (0.1, 0.1), None):
            alpha, eta = start or best[1:3]
            sweeps = 300 if start else 1000
            p, seconds = timed(lambda a=alpha, e=eta, n=sweeps: tomotopy(train, half, a, e, n))
            note(f"tomotopy, alpha {alpha}, eta {eta}, {sweeps} sweeps", p, seconds)
            best = min(best, (perplexity(p), alpha, eta, sweeps))
        rivals.append(best[0])
        packages.append("tomotopy")
        mean, seconds = timed(lambda: np.mean([tomotopy(train, half, *best[1:], seed=s) for s in range(1, 5)], 0))
        note("tomotopy, its best, the mean of four seeds by hand", mean, seconds)
    except ImportError:
        print("    tomotopy is not installed: left out")
    ratio = figures["perplexity"]["ours, 2 chains"] / min(rivals)
    bars = [
        Bar("perplexity: ours, two chains / the best rival", ratio, 0.97, least=False),
        Bar(
            "perplexity: ours, one chain / the best rival",
            figures["perplexity"]["ours, 1 chain"] / min(rivals),
            0.97,
            least=False,
        ),
        Bar("seconds: ours, two chains", figures["seconds"]["ours, 2 chains"], 30.0, least=False),
    ]
    return Result(figures, bars, tuple(packages))
