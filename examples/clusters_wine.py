"""How many cultivars are in the wine data? Clusters with their number inferred, a tenth of the entries missing.

Thirteen chemical measurements of 178 wines, their labels unused. The posterior says how many clusters there are and who
is together; scikit-learn's variational mixture of ten components, the common answer, uses all ten.
"""

import numpy as np
from sklearn.datasets import load_wine
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import BayesianGaussianMixture
from sklearn.preprocessing import StandardScaler

import pyro_gen as pg
from pyro_gen.pictures import write


def main() -> dict[str, float]:
    """Finds clusters of whole and of holed data, and saves the co-assignment matrix."""
    wine = load_wine(as_frame=True)
    found = pg.structure.find_clusters(wine.data, max_clusters=5, draws=40)
    print(found.summary())

    holes = np.random.default_rng(0).random(wine.data.shape) < 0.1
    with_holes = pg.structure.find_clusters(wine.data.mask(holes), max_clusters=5, draws=20)

    scaled = StandardScaler().fit_transform(wine.data)
    rival = BayesianGaussianMixture(n_components=10, max_iter=1000, random_state=0).fit_predict(scaled)
    print(f"saved {write(found.plot(), 'outputs/clusters_wine.png')}")
    numbers = {
        "probability_of_3": found.number_probabilities_[3],
        "rand_index": float(adjusted_rand_score(wine.target, found.labels_)),
        "expected_loss": found.expected_loss_,
        "probability_of_3_with_holes": with_holes.number_probabilities_[3],
        "rand_index_with_holes": float(adjusted_rand_score(wine.target, with_holes.labels_)),
        "rand_index_of_rival": float(adjusted_rand_score(wine.target, rival)),
    }
    for name, value in numbers.items():
        print(f"{name} {value:.3f}")
    return numbers


if __name__ == "__main__":
    main()
