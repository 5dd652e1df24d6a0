"""The figures of a report against the numbers that they show."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyro_gen.imputation.report import plots

LEVELS = ("low", "middle", "high")


def test_patterns_are_counted_as_by_hand() -> None:
    rng = np.random.default_rng(0)
    for columns in (1, 3, 8, 11):
        missing = rng.random((200, columns)) < 0.3
        by_hand = Counter(map(tuple, missing.tolist()))
        found = plots.pattern_counts(missing)
        assert dict(found) == by_hand and len(found) == len(by_hand)
        assert [count for _, count in found] == sorted(by_hand.values(), reverse=True)


def test_co_missingness_is_that_of_the_rows() -> None:
    missing = np.random.default_rng(0).random((100, 4)) < 0.4
    missing[:, 3] |= missing[:, 0]
    shares = plots.together(missing)
    for i in range(4):
        for j in range(4):
            assert shares[i, j] == pytest.approx(missing[missing[:, j], i].mean())
    assert shares[3, 0] == 1.0 > shares[0, 3]


def stairs(figure: Any, label: str) -> Any:
    return next(patch for patch in figure.axes[0].patches if patch.get_label() == label).get_data()


def test_densities_are_shares_of_the_entries() -> None:
    rng = np.random.default_rng(0)
    observed, imputed = rng.normal(size=500), rng.normal(1.0, 1.0, size=(20, 80))
    figure = plots.density(observed, imputed)
    values, edges, _ = stairs(figure, "observed")
    assert values == pytest.approx(np.histogram(observed, edges)[0] / 500) and values.sum() == pytest.approx(1.0)
    values, edges, _ = stairs(figure, "imputed")
    assert values == pytest.approx(np.histogram(imputed, edges)[0] / imputed.size)
    assert values.sum() >= 0.99  # all but the most extreme


def test_whole_numbers_have_bins_of_their_own() -> None:
    rng = np.random.default_rng(0)
    figure = plots.density(rng.poisson(3, 300).astype(float), rng.poisson(3, (5, 50)).astype(float), integer=True)
    _, edges, _ = stairs(figure, "observed")
    assert set(np.diff(edges)) == {1.0} and edges[0] % 1 == 0.5
    wide = rng.integers(0, 5000, 300).astype(float)
    _, edges, _ = stairs(plots.density(wide, wide.reshape(3, 100), integer=True), "observed")
    assert len(set(np.diff(edges))) == 1 and np.diff(edges)[0] % 1 == 0 and edges[0] <= wide.min() and len(edges) < 60
    assert edges[-1] >= wide.max()


def test_counts_of_all_sizes_have_bins_that_grow() -> None:
    rng = np.random.default_rng(0)
    counts = np.concatenate([np.zeros(150), rng.lognormal(3, 2, 300).round(), [0.0, 7300.0]])
    figure = plots.density(counts, rng.choice(counts, (5, 50)), integer=True)
    assert figure.axes[0].get_xscale() == "symlog"
    values, edges, _ = stairs(figure, "observed")
    assert edges[0] == -0.5 and (edges % 1 == 0.5).all() and (np.diff(edges) >= 1).all() and edges[-1] >= 7300
    assert values.sum() == pytest.approx(1.0) and values[0] == (counts < edges[1]).mean()
    assert values.max() < 0.4  # with bins of one width it were nearly all in the first
    assert plots.density(counts - 1, counts[None] - 1, integer=True).axes[0].get_xscale() == "linear"


@pytest.mark.parametrize("value", [0.0, 3.0, -1e9])
def test_constant_columns_and_wide_ones_can_be_drawn(tmp_path: Path, value: float) -> None:
    constant = np.full(20, value)
    values, edges, _ = stairs(plots.density(constant, np.full((3, 5), value)), "imputed")
    assert values.sum() == pytest.approx(1.0) and edges[0] < value < edges[-1]
    incomes = np.geomspace(0.5, 1e6, 200)
    figure = plots.density(incomes, incomes.reshape(4, 50), positive=True)
    assert figure.axes[0].get_xscale() == "log"
    values, edges, _ = stairs(figure, "observed")
    assert edges[0] > 0 and values.sum() == pytest.approx(1.0)


def test_shares_of_levels_are_those_of_the_entries() -> None:
    observed = np.array([0.0, 0, 0, 1, 2, 2, 2, 2])
    imputed = np.array([[0.0, 1, 1, 2], [0, 0, 1, 1]])
    bars = plots.level_shares(observed, imputed, LEVELS).axes[0].containers
    assert [bar.get_width() for bar in bars[0]] == [3 / 8, 1 / 8, 4 / 8]
    assert [bar.get_width() for bar in bars[1]] == [3 / 8, 4 / 8, 1 / 8]
    numbers = plots.level_shares(observed, imputed, (1.0, 2.5, 3.0)).axes[0]
    assert [label.get_text() for label in numbers.get_yticklabels()] == ["1", "2.5", "3"]
    many = plots.level_shares(np.arange(40.0), np.zeros((2, 5)), [f"level {i}" for i in range(40)], most=12)
    assert len(many.axes[0].get_yticks()) == 12


def test_the_band_of_a_pit_histogram_holds_what_chance_does() -> None:
    rng = np.random.default_rng(0)

    def inside(values: np.ndarray[Any, Any]) -> float:
        figure = plots.pit_histogram(values)
        band = next(p for p in figure.axes[0].patches if p.get_alpha() == 0.1)
        low, high = band.get_y(), band.get_y() + band.get_height()
        shares = np.histogram(values, 10, (0, 1))[0] / len(values)
        return float(((low <= shares) & (shares <= high)).mean())

    # 200 bins, 95% or a little more of them inside: below 85% is 4 standard errors and more off.
    assert np.mean([inside(rng.random(500)) for _ in range(20)]) > 0.85
    assert np.mean([inside(rng.beta(0.5, 0.5, 500)) for _ in range(5)]) < 0.7


def test_running_means_end_at_the_mean() -> None:
    means = np.random.default_rng(0).normal(size=20)
    line = plots.running_means(means).axes[0].lines[0].get_ydata()
    assert line[0] == means[0] and line[-1] == pytest.approx(means.mean())


def test_a_map_of_a_long_table_averages_rows() -> None:
    missing = np.zeros((1000, 2), dtype=bool)
    missing[500:, 1] = True
    image = plots.missing_map(missing, ["a", "b"], most=100).axes[0].images[0].get_array()
    assert image.shape == (100, 2) and image[:, 0].max() == 0
    assert image[:50, 1].max() == 0 and image[50:, 1].min() == 1
