"""Clusters: the number of iris and wine without their labels, holes, bad input, and scikit-learn's checks."""

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_iris, load_wine
from sklearn.metrics import adjusted_rand_score
from sklearn.utils.estimator_checks import check_estimator

import pyro_gen as pg
from pyro_gen.structure import Clusters, find_clusters
from pyro_gen.structure.mixed import MixedTable


@pytest.mark.parametrize(("load", "index"), [(load_iris, 0.85), (load_wine, 0.93)])
def test_three_kinds_without_their_labels(load, index):
    data = load()
    found = find_clusters(data.data, max_clusters=6, draws=40)
    assert found.number_probabilities_[3] >= 0.9 and found.n_clusters_ == 3
    assert adjusted_rand_score(data.target, found.labels_) >= index
    assert np.allclose(sum(found.number_probabilities_.values()), 1) and 0 < found.expected_loss_ < 0.5
    assert adjusted_rand_score(found.labels_, found.predict(data.data)) > 0.95
    sizes = np.bincount(found.labels_)
    assert (np.diff(sizes) <= 0).all()


def test_rows_of_one_kind_are_one_cluster_and_columns_alone_do_not_matter():
    x = np.random.default_rng(0).normal(size=(80, 3)) * [1, 100, 0.01] + [0, 7, 1]
    found = find_clusters(x, max_clusters=4, draws=20)
    assert found.number_probabilities_[1] > 0.8 and (found.labels_ == 0).all()


def test_holes_and_frames_and_a_density_that_integrates():
    rng = np.random.default_rng(0)
    kind = np.arange(60) % 2
    x = np.where(kind[:, None] == 1, [3.0, 0.0], [-3.0, 1.0]) + 0.5 * rng.normal(size=(60, 2))
    x[rng.random(x.shape) < 0.2] = np.nan
    found = pg.structure.find_clusters(pd.DataFrame(x, columns=["a", "b"]), max_clusters=3, draws=20)
    seen = ~np.isnan(x[:, 0])
    assert adjusted_rand_score(kind[seen], found.labels_[seen]) > 0.95
    grid = np.linspace(-60, 60, 4001)
    frame = pd.DataFrame({"a": grid, "b": np.nan})
    density = np.exp([found.score(frame.iloc[[i]]) for i in range(1, 4001, 16)])
    assert density.sum() * 16 * (grid[1] - grid[0]) == pytest.approx(1.0, abs=0.01)
    idata = found.posterior_
    assert idata.posterior["label"].shape == (4, 20, 60) and idata.posterior["number"].max() <= 3
    assert found.plot().axes


def people(rng, n=60):
    """Two kinds that one column of numbers hardly tells apart, and words do."""
    kind = np.arange(n) % 2
    frame = pd.DataFrame({"size": rng.normal(size=n) + 1.5 * kind, "weight": rng.normal(size=n)})
    for name, words in (("colour", ["red", "blue", "green"]), ("form", ["round", "square", "star"])):
        frame[name] = np.where(rng.random(n) < 0.1, words[2], np.array(words)[kind])
    frame["ripe"] = rng.random(n) < 0.2 + 0.6 * kind
    frame["colour"] = frame["colour"].astype("category").where(rng.random(n) > 0.1)
    return kind, frame


def test_numbers_in_columns_of_objects_are_numbers():
    frame = pd.DataFrame({"a": [1.5, None, 2.5], "b": [1, 2, 2], "c": ["x", "y", "y"]}, dtype=object)
    table = MixedTable(Clusters(), frame)
    values, codes = table.split(frame, reset=True)
    assert table.levels == {"c": ["x", "y"]}
    np.testing.assert_array_equal(values, [[1.5, 1], [np.nan, 2], [2.5, 2]])
    assert codes.tolist() == [[0], [1], [1]]


def test_words_and_booleans_are_categories_that_tell_clusters():
    kind, frame = people(np.random.default_rng(0))
    found = find_clusters(frame, max_clusters=3, draws=8)
    assert found.n_clusters_ == 2 and adjusted_rand_score(kind, found.labels_) > 0.9
    assert found.feature_names_in_.tolist() == list(frame) and found.n_features_in_ == 5
    # The twin: numbers alone do not tell.
    numbers = find_clusters(frame[["size", "weight"]], max_clusters=3, draws=8)
    assert adjusted_rand_score(kind, numbers.labels_) < 0.5
    # Probabilities of a word sum to one whatever else is known of a row.
    row = frame.iloc[[0]].copy()
    each = [found.score(row.assign(form=word)) for word in ("round", "square", "star")]
    unknown = found.score(row.assign(form=None))
    assert np.logaddexp.reduce(each) == pytest.approx(unknown, abs=1e-9)
    with pytest.raises(ValueError, match=r"column 'form' has 'oval', which is none"):
        found.predict(row.assign(form="oval"))
    with pytest.raises(ValueError, match="all columns are categories"):
        find_clusters(frame[["colour", "form"]])
    with pytest.raises(ValueError, match="column 'name' has 60 different words in 60 rows"):
        find_clusters(frame.assign(name=[f"row {i}" for i in range(60)]))
    with pytest.raises(ValueError, match="column 'form' is 'round' in every row"):
        find_clusters(frame.assign(form="round"))


def test_many_rows_have_no_matrix_but_any_part_of_it():
    rng = np.random.default_rng(0)
    kind = np.arange(5200) % 2
    x = rng.normal(size=(5200, 2)) + 8 * kind[:, None]
    found = Clusters(max_clusters=2, draws=4).fit(x)
    assert found.n_clusters_ == 2 and adjusted_rand_score(kind, found.labels_) > 0.99
    with pytest.raises(ValueError, match=r"5,200 rows has 0\.2 GB"):
        _ = found.co_assignment_
    assert np.allclose(found.together([0, 1, 2]), [[1, 0, 1], [0, 1, 0], [1, 0, 1]], atol=0.05)
    assert found.membership().shape == (5200,) and found.membership().min() > 0.4


def test_how_sure_a_row_is_of_its_cluster_is_the_mean_of_the_matrix():
    found = find_clusters(np.random.default_rng(1).normal(size=(40, 2)), max_clusters=2, draws=8)
    matrix = found.co_assignment_
    expected = [matrix[row][found.labels_ == k].mean() for row, k in enumerate(found.labels_)]
    assert np.allclose(found.membership(), expected)


def test_what_the_number_were_with_means_that_spread_otherwise_is_told():
    x = np.random.default_rng(0).normal(size=(60, 2)) + 3 * (np.arange(60) % 2)[:, None]
    found = find_clusters(x, max_clusters=3, draws=8)
    assert set(found.prior_sensitivity_) == {0.25, 0.5, 1.0, 2.0}
    for spread, p in found.prior_sensitivity_.items():
        assert sum(p.values()) == pytest.approx(1.0), spread
    # A component costs D / 2 log kappa: means that spread farther make clusters dearer.
    assert found.prior_sensitivity_[2.0][1] >= found.prior_sensitivity_[0.5][1]
    assert "a priori" in found.summary()


@pytest.mark.parametrize(
    ("x", "words"),
    [
        ([[1.0, 2.0], [1.0, 3.0]], "column 0 is 1 in every row"),
        ([[1.0, 2.0]], "minimum of 2"),
        ([[1.0, np.inf], [2.0, 3.0]], "infinity"),
        ([[np.nan, 1.0], [np.nan, 3.0]], "no number"),
    ],
)
def test_bad_input_gets_one_line(x, words):
    with pytest.raises(ValueError, match=words):
        Clusters().fit(x)


@pytest.mark.slow
def test_scikit_learn_takes_it_for_a_clusterer():
    failed = [
        f"{one['check_name']}: {one['exception']}"
        for one in check_estimator(Clusters(max_clusters=2, draws=4), on_skip=None, on_fail=None)
        if one["status"] == "failed"
    ]
    assert failed == []
