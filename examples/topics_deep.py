"""Topics by a network: ProdLDA of the docstrings of Python's standard library, and a picture of their words.

A document's law is a product of its topics, not their mixture, so a topic raises some words against the background and
lowers others. One pass of a network says what a new document is about; no chains run.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.sparse import csr_matrix

import pyro_gen as pg
from pyro_gen.evaluation.completion import completion_perplexity, halves
from pyro_gen.pictures import write
from pyro_gen.structure.coherence import npmi

TOPICS = 20


def main() -> dict[str, float]:
    """Trains, scores held-out words of modules that were left out, and saves a picture of six topics."""
    data = pg.data.load("docstrings")
    words = np.array(data.columns)
    program = pg.models.ProdLDA(len(words), TOPICS, alpha=0.2, hidden=(100,), dropout=0.7)
    pg.fit(program, data.train, epochs=60, batch_size=64, lr=0.02)

    # Shares add up to 1, so only differences between topics count.
    beta = (program.weights - program.weights.mean(0)).detach().numpy()
    first = np.argsort(-beta, axis=1)[:, :10]
    coherence = npmi(csr_matrix(data.train.numpy()), first)
    best = np.argsort(-coherence)[:6]
    figure, axes = plt.subplots(2, 3, figsize=(10, 6), layout="constrained")
    for axis, k in zip(axes.flat, best, strict=True):
        print(f"topic {k}, coherence {coherence[k]:.2f}:", *words[first[k]])
        axis.barh(words[first[k]][::-1], beta[k, first[k]][::-1])
        axis.set_title(f"topic {k}")
    figure.supxlabel("log-ratio of a word's probability in the topic to that in the mean topic")
    print(f"saved {write(figure, 'outputs/topics_deep.png')}")

    seen, held = halves(data.test)
    frequencies = (data.train.sum(0) + 0.5) / (data.train.sum(0) + 0.5).sum()
    numbers = {
        "perplexity": completion_perplexity(held, program.word_probabilities(seen))[0],
        "perplexity_of_frequencies": completion_perplexity(held, frequencies.expand(len(seen), -1))[0],
        "coherence": float(coherence.mean()),
        "coherence_of_best": float(coherence[best].mean()),
    }
    for name, value in numbers.items():
        print(f"{name} {value:.3f}")
    return numbers


if __name__ == "__main__":
    main()
