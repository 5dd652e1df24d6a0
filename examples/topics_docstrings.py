"""What is Python's standard library about? Topics of its docstrings, real text that is on every machine.

A document is a module. Topics come with intervals, with how alike they are in two chains, and with two figures of
quality: how well the words of modules left out are predicted (perplexity), and how often a topic's first words meet
(coherence, NPMI). scikit-learn's variational topics are beside it, on the same words.
"""

import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import LatentDirichletAllocation

import pyro_gen as pg
from pyro_gen.data.docstrings import docstrings
from pyro_gen.evaluation.completion import completion_perplexity, halves
from pyro_gen.pictures import write


def main() -> dict[str, float]:
    """Finds topics, asks what a sentence is about, and saves a picture of the topics' words."""
    data = pg.data.load("docstrings")
    names = [name for i, name in enumerate(docstrings()) if i % 5]  # of the training documents
    table = pd.DataFrame(data.train.numpy(), index=names, columns=data.columns)
    found = pg.structure.find_topics(table, n_topics=30, chains=2, draws=15)
    words = np.array(data.columns)
    print(found.summary())
    for k in range(5):
        print(f"topic {k}, {found.prevalence_[k]:.1%} of tokens:", *found.words(k, 8)["word"])

    sentence = np.isin(words, ["send", "message", "mail", "server", "headers"]).astype(float)
    shares = found.transform(sentence[None])[0]
    about = int(shares.argmax())
    first = list(found.words(about, 20)["word"])
    modules = [names[i] for i in np.argsort(-found.shares_[:, about])[:5]]
    print(f"a sentence on mail is {shares[about]:.0%} of topic {about}: {' '.join(first[:8])}; as {', '.join(modules)}")

    seen, held = halves(data.test)
    rival = LatentDirichletAllocation(30, max_iter=30, random_state=0).fit(data.train.numpy())
    topics = rival.components_ / rival.components_.sum(1, keepdims=True)
    frequencies = (data.train.sum(0) + 0.5) / (data.train.sum(0) + 0.5).sum()
    predictions = {
        "perplexity": torch.as_tensor(found.word_probabilities(seen.numpy())),
        "perplexity_of_rival": torch.as_tensor(rival.transform(seen.numpy()) @ topics),
        "perplexity_of_frequencies": frequencies.expand(len(seen), -1),
    }
    print(f"saved {write(found.plot(), 'outputs/topics_docstrings.png')}")
    numbers = {
        **{name: completion_perplexity(held, p)[0] for name, p in predictions.items()},
        "coherence": float(found.npmi_.mean()),
        "alike": float((found.stability_ > 0.7).mean()),
        "mail": float(len({"message", "mail", "server", "headers", "header"} & set(first))),
    }
    for name, value in numbers.items():
        print(f"{name} {value:.3f}")
    return numbers


if __name__ == "__main__":
    main()
