"""Does a karate club fall into two? Communities of a network with their number inferred, and edges that were hidden.

Zachary's club split in two in 1972. Given that there are two groups, the best of the degree-corrected block model are
the later clubs but for two members; the posterior says that the friendships before do not tell whether there are any
groups at all. Women and events of Davis's, mixed into one network, are told apart without a doubt. Of les miserables a
tenth of the pairs is hidden, and given probabilities; one hiding of some 25 edges does not tell whether common
neighbours do worse, the five of benchmarks/structure.py do.
"""

import networkx as nx
import numpy as np
from sklearn.metrics import roc_auc_score

import pyro_gen as pg
from pyro_gen.models.network.degree_corrected import profile_optimum
from pyro_gen.pictures import write


def main() -> dict[str, float]:
    """Finds communities of three networks, and saves a picture of one with a tenth of its pairs hidden."""
    data = pg.data.load("karate")
    best, profile = profile_optimum(data.train[0], 2)
    right = int((best == data.train_target[0]).sum())
    karate = pg.structure.find_communities(data.train[0])
    print(karate.summary())

    davis = nx.davis_southern_women_graph()
    women = pg.structure.find_communities(davis, draws=20)
    wrong = int((women.labels_ != [davis.nodes[v]["bipartite"] for v in davis]).sum())

    novel = pg.data.load("les_miserables")
    a = novel.train[0].numpy().copy()
    i, j = np.triu_indices(len(a), 1)
    hidden = np.random.default_rng(0).random(len(i)) < 0.1
    truth = a[i[hidden], j[hidden]]
    a[i[hidden], j[hidden]] = a[j[hidden], i[hidden]] = np.nan
    found = pg.structure.find_communities(a, draws=40)
    seen = np.nan_to_num(a)
    neighbours = roc_auc_score(truth, (seen @ seen)[i[hidden], j[hidden]])
    print("picture:", write(found.plot(), "outputs/communities_karate.png"))
    return {
        "clubs_right_of_34": max(right, 34 - right),
        "profile_log_likelihood": profile,
        "probability_of_one_group": karate.number_probabilities_[1],
        "probability_of_two": karate.number_probabilities_[2],
        "description_length": karate.description_length_of_one_group_,
        "davis_two": women.number_probabilities_[2],
        "davis_wrong": wrong,
        "auroc_of_hidden_edges": roc_auc_score(truth, found.links_["probability"]),
        "auroc_of_common_neighbours": neighbours,
    }


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:28}{value:9.3f}")
