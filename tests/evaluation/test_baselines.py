import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from pyro_gen.data import Binarize, Standardize, load
from pyro_gen.evaluation import baselines
from pyro_gen.evaluation.baselines import (
    _BernoulliMixture,
    full_gaussian,
    gaussian_mixture,
    independent_bernoulli,
    independent_categorical,
    mixture_of_bernoullis,
)

NAN = float("nan")


@pytest.fixture(scope="module")
def digits() -> Any:
    return load("digits", transform=Binarize(8.0))


def cube(dims: int, levels: int = 2) -> Tensor:
    return torch.tensor(list(itertools.product(range(levels), repeat=dims))).float()


def binary(n: int, dims: int) -> Tensor:
    """Two clusters of zeros and ones."""
    cluster = (torch.rand(n, 1) < 0.4).float()
    return (torch.rand(n, dims) < 0.15 + 0.7 * cluster).float()


@pytest.mark.parametrize("dims", [1, 5, 8])
def test_probabilities_sum_to_one(dims: int) -> None:
    train = binary(60, dims)
    for log_p in (
        independent_bernoulli(train, cube(dims)),
        mixture_of_bernoullis(train, cube(dims), components=4),
        independent_categorical(train[:, :3], cube(min(dims, 3), 4), levels=4),
    ):
        assert log_p.dtype == torch.float64
        assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_sum_over_the_cube_catches_a_component_that_is_no_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    def dropped_zeros(self: _BernoulliMixture, x: Tensor) -> Tensor:
        return self.weights.log() + x @ self.probs.log().T

    monkeypatch.setattr(_BernoulliMixture, "log_joint", dropped_zeros)
    mixture = _BernoulliMixture(torch.ones(1).double(), torch.full((1, 5), 0.3).double())
    assert mixture.log_joint(cube(5).double()).logsumexp(1).exp().sum().item() != pytest.approx(1, abs=0.1)


def test_independent_by_hand() -> None:
    train = torch.tensor([[0, 2], [1, 2], [1, NAN], [1, 0]])
    test = torch.tensor([[1.0, 2.0], [0.0, 1.0], [NAN, 0.0], [NAN, NAN]])
    first = np.array([1, 3, 0]) + 0.5
    second = np.array([1, 0, 2]) + 0.5
    first, second = first / first.sum(), second / second.sum()
    expected = [np.log(first[1] * second[2]), np.log(first[0] * second[1]), np.log(second[0]), 0.0]
    assert independent_categorical(train, test, 3).tolist() == pytest.approx(expected, abs=1e-12)


def test_bernoulli_is_jeffreys_posterior_predictive() -> None:
    """The integral over p of p^x (1-p)^(1-x) against Beta(n1 + 1/2, n0 + 1/2), by quadrature."""
    train = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0])[:, None]
    posterior = stats.beta(4.5, 1.5)
    one = posterior.expect(lambda p: p)
    assert independent_bernoulli(train, torch.tensor([[1.0], [0.0]])).exp().tolist() == pytest.approx([one, 1 - one])


def test_mixture_against_the_written_out_sum() -> None:
    train, test = binary(50, 6), binary(7, 6)
    test[0, 2] = test[3, :] = NAN
    mixture, _ = _BernoulliMixture.fit(train.double(), 3, 0)
    expected = []
    for x in test:
        total = 0.0
        for weight, probs in zip(mixture.weights, mixture.probs, strict=True):
            terms = [p if value == 1 else 1 - p for value, p in zip(x, probs, strict=True) if not value.isnan()]
            total += weight.item() * float(np.prod([term.item() for term in terms]))
        expected.append(np.log(total))
    assert mixture_of_bernoullis(train, test, 3, seed=0).tolist() == pytest.approx(expected, abs=1e-12)
    assert expected[3] == pytest.approx(0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("missing", [False, True])
def test_em_never_goes_down(seed: int, missing: bool) -> None:
    x = binary(200, 10).double()
    if missing:
        x[torch.rand(x.shape) < 0.3] = NAN
    _, objective = _BernoulliMixture.fit(x, 8, seed)
    assert len(objective) > 3
    assert np.diff(objective).min() > -1e-9 * len(x)


def test_going_down_is_noticed(digits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted defect: an objective without the penalty that the step maximises stops or goes down."""
    x = digits.train.flatten(1).double()
    monkeypatch.setattr(_BernoulliMixture, "_log_penalty", lambda self: torch.tensor(0.0))
    monkeypatch.setattr(baselines, "_MIXTURE_COUNT", 2.0)
    assert np.diff(_BernoulliMixture.fit(x, 50, 0)[1]).min() < -1e-9 * len(x)


def test_em_recovers_two_clusters() -> None:
    """Density against the truth: mean log-ratio on 4000 fresh data within 0.05 nats, 18 parameters from 4000."""
    probs = torch.tensor([[0.9] * 4 + [0.1] * 4, [0.2] * 8])
    weights = torch.tensor([0.3, 0.7])
    data = torch.bernoulli(probs[torch.multinomial(weights, 8000, replacement=True)])
    log_p = mixture_of_bernoullis(data[:4000], data[4000:], components=2)
    truth = _BernoulliMixture(weights.double(), probs.double()).log_joint(data[4000:].double()).logsumexp(1)
    # Expected loss: 17 / (2 * 4000) = 0.002 nats. False alarm below 1e-6 (chi-squared with 17 degrees).
    assert 0 <= (truth - log_p).mean().item() + 0.002 < 0.012
    assert (truth - independent_bernoulli(data[:4000], data[4000:])).mean().item() > 0.1


def test_digits_figures(digits: Any, untouched_rng: None) -> None:
    """Reference: -25.28 for independent pixels, about -18.0 for 50 components (-18.2 +- 0.15 over seeds here)."""
    assert independent_bernoulli(digits.train, digits.test).mean().item() == pytest.approx(-25.28, abs=0.01)
    mixture = mixture_of_bernoullis(digits.train, digits.test)
    assert mixture.shape == (360,) and mixture.mean().item() == pytest.approx(-18.2, abs=0.4)
    assert torch.equal(mixture, mixture_of_bernoullis(digits.train, digits.test))
    grey = load("digits")
    # 2.436 bits/dim.
    assert independent_categorical(grey.train, grey.test, 17).mean().item() == pytest.approx(-108.06, abs=0.05)


@pytest.mark.parametrize(
    ("name", "gaussian", "components", "mixture"),
    [("iris", -3.68, 3, -2.33), ("wine", -15.93, 2, -14.67), ("breast_cancer", -7.04, 3, -2.06)],
)
def test_table_figures(name: str, gaussian: float, components: int, mixture: float, untouched_rng: None) -> None:
    data = load(name)
    standardize = Standardize.fit(data.train)
    train, test = standardize(data.train), standardize(data.test)
    assert full_gaussian(train, test).mean().item() == pytest.approx(gaussian, abs=0.02)
    assert gaussian_mixture(train, test, components).mean().item() == pytest.approx(mixture, abs=0.1)
    # In the units of the data: the same density, with the change of volume.
    ladj = standardize.log_abs_det_jacobian(data.test)
    for baseline in (full_gaussian, gaussian_mixture):
        raw = baseline(data.train.double(), data.test.double())
        assert raw.mean().item() == pytest.approx((baseline(train, test) + ladj).mean().item(), abs=0.01)


def test_full_gaussian_against_scipy() -> None:
    x = (torch.randn(100, 3) @ torch.randn(3, 3) * 5 + 2).double()
    expected = stats.multivariate_normal(x[:80].mean(0), np.cov(x[:80].T, ddof=0)).logpdf(x[80:])
    assert full_gaussian(x[:80], x[80:]).tolist() == pytest.approx(expected.tolist(), abs=1e-9)
    one = full_gaussian(x[:80, :1], x[80:, :1])
    assert one.tolist() == pytest.approx(stats.norm(x[:80, 0].mean(), x[:80, 0].std(correction=0)).logpdf(x[80:, 0]))


def test_errors() -> None:
    x = binary(10, 3)
    with pytest.raises(ValueError, match=r"train: expected whole numbers 0\.\.1, got 0\.5"):
        independent_bernoulli(x / 2 + 0.5, x)
    with pytest.raises(ValueError, match=r"test: expected whole numbers 0\.\.1, got 2"):
        mixture_of_bernoullis(x, x + 2, 2)
    with pytest.raises(ValueError, match=r"event shape \(3,\), test data \(2,\)"):
        independent_bernoulli(x, x[:, :2])
    with pytest.raises(ValueError, match="one to 10, the number of training data, got 50"):
        mixture_of_bernoullis(x, x)
    with pytest.raises(ValueError, match="one to 10, the number of training data, got 11"):
        gaussian_mixture(torch.randn(10, 2), torch.randn(3, 2), 11)
    with pytest.raises(ValueError, match="test: values are missing"):
        full_gaussian(torch.randn(10, 2), torch.tensor([[1.0, NAN]]))
    with pytest.raises(ValueError, match="singular"):
        full_gaussian(torch.randn(10, 1).expand(10, 2), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="constant"):
        full_gaussian(torch.ones(10, 2), torch.zeros(1, 2))
