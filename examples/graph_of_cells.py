"""Which protein of a cell acts on which? The graph of a signalling network, with the probability of each edge.

A thousand rows are drawn from the published network of Sachs et al. (2005), whose 17 edges are known. The data tell
which proteins are joined, and no direction: for each edge some graph of the same class has it the other way. In a
second thousand rows three proteins are set by intervention, in a hundred rows each, and all directions show.

References:
    | Causal protein-signaling networks derived from multiparameter single-cell data (Sachs et al., 2005)
    | https://doi.org/10.1126/science.1105809
"""

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

import pyro_gen as pg
from pyro_gen.data.bif import NetworkTables, draw_rows, network_file, read_bif
from pyro_gen.pictures import write
from pyro_gen.structure.graphs.cpdag import completed, distance

SET = ("PKA", "PIP3", "Raf")


def set_at_random(network: NetworkTables, name: str) -> NetworkTables:
    """The network in which a protein has any level, whatever acts on it otherwise."""
    levels = len(network.levels[name])
    return network._replace(
        parents=network.parents | {name: ()}, tables=network.tables | {name: torch.ones(levels).double() / levels}
    )


def main() -> dict[str, float]:
    """Finds the graph without and with interventions, and saves a picture of the second."""
    network = read_bif(network_file("sachs"))
    names = list(network.parents)
    truth = np.array([[a in network.parents[b] for b in names] for a in names])
    rows = pd.DataFrame(draw_rows(network, 1000, seed=1).numpy(), columns=names)

    seen = pg.structure.find_graph(rows)
    print(seen.summary())
    upper = np.triu_indices(len(names), 1)
    joined = (seen.probabilities_ + seen.probabilities_.T).to_numpy()[upper]

    parts = [rows[:700]]
    for seed, name in enumerate(SET):
        parts.append(pd.DataFrame(draw_rows(set_at_random(network, name), 100, seed).numpy(), columns=names))
    targets = [None] * 700 + list(np.repeat(SET, 100))
    done = pg.structure.find_graph(pd.concat(parts), targets=targets)
    print(done.summary())
    print(done.table().head(17).round(3).to_string(index=False))
    print("picture:", write(done.plot(), "outputs/graph_of_cells.png"))
    tells = np.isin(names, SET)
    acted = truth & (tells[:, None] ^ tells)
    return {
        "auroc_of_edges": float(roc_auc_score((truth | truth.T)[upper], joined)),
        "distance": float(distance(seen.representative_, completed(truth))),
        "expected_distance": seen.expected_distance_,
        "edges_of_no_direction": int((seen.representative_ & seen.representative_.T).sum() // 2),
        "direction_of_edges_that_were_acted_on": float(done.probabilities_.to_numpy()[acted].mean()),
        "the_same_without": float(seen.probabilities_.to_numpy()[acted].mean()),
        "edges_of_no_direction_left": int((done.representative_ & done.representative_.T).sum() // 2),
    }


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:40}{value:9.3f}")
