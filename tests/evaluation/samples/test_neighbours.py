"""Precision, recall, density and coverage against loops over all pairs, on sets that differ in each of them."""

import pytest
import torch
from torch import Tensor

from pyro_gen.evaluation.samples import nearest_neighbours

K = 3


def by_loops(s: Tensor, r: Tensor, k: int) -> tuple[float, float, float, float]:
    def radius(x: Tensor, i: int) -> float:
        others = [(x[i] - x[j]).norm().item() for j in range(len(x)) if j != i]
        return sorted(others)[k - 1]

    def inside(points: Tensor, centres: Tensor) -> Tensor:
        radii = [radius(centres, i) for i in range(len(centres))]
        rows = [[(p - c).norm().item() <= t for c, t in zip(centres, radii, strict=True)] for p in points]
        return torch.tensor(rows)

    samples_in, real_in = inside(s, r), inside(r, s)
    means = samples_in.any(1), real_in.any(1), samples_in.double().sum(1) / k, samples_in.any(0)
    return tuple(m.double().mean().item() for m in means)  # type: ignore[return-value]


X = torch.randn(40, 2, generator=torch.Generator().manual_seed(3)).double()
FAR = X + 100
BINARY = (X[:, :1] > torch.linspace(-1, 1, 5)).double()  # many copies of few points
SETS = {
    "identical": (X, X),
    "disjoint": (FAR, X),
    "half of the samples are far": (torch.cat([X[:20], FAR[:20]]), X),
    "half of the data are far": (X, torch.cat([X[:20] + 0.01, FAR[:20]])),
    "in the middle": (0.3 * X, X),
    "copies": (BINARY, BINARY[:30]),
}


@pytest.mark.parametrize("name", SETS)
def test_all_four_equal_loops_over_all_pairs(name: str) -> None:
    s, r = SETS[name]
    found = [f.value for f in nearest_neighbours(s, r, k=K)]
    assert found == pytest.approx(by_loops(s, r, K), abs=1e-12)


def test_what_they_say() -> None:
    same, far, samples_far, data_far = (
        [f.value for f in nearest_neighbours(*SETS[name], k=K)] for name in list(SETS)[:4]
    )
    assert same == pytest.approx([1.0, 1.0, (K + 1) / K, 1.0]) and far == [0.0] * 4
    assert samples_far[0] == 0.5 and samples_far[1] > 0.9  # precision falls
    assert data_far[0] > 0.9 and data_far[1] == 0.5 and data_far[3] == 0.5  # recall and coverage fall


def test_planted_defect_of_balls_about_the_wrong_set() -> None:
    s, r = SETS["half of the data are far"]
    found, swapped = nearest_neighbours(s, r, k=K), nearest_neighbours(r, s, k=K)
    assert abs(found.precision.value - swapped.precision.value) > 0.3


def test_errors_are_the_spread_over_repeats() -> None:
    found = [nearest_neighbours(0.7 * torch.randn(150, 2), torch.randn(150, 2), k=K) for _ in range(40)]
    for i in range(4):
        values = torch.tensor([f[i].value for f in found])
        stated = torch.tensor([f[i].standard_error for f in found]).square().mean().sqrt()
        # A standard deviation of 40 numbers has an error of 11%. The jackknife of what is not smooth errs, as a rule
        # upwards: half to twice.
        assert 0.5 < stated / values.std() < 2.0
