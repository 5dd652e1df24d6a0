"""Curves that make a column normal."""

import math

import pytest
import torch
from scipy.stats import yeojohnson

from pyro_gen.distributions.monotone_spline import MonotoneSpline
from pyro_gen.models.tabular.parts.marginal_transforms import (
    POWER_UNITS,
    POWERS,
    _tail,
    fit_real,
    fit_whole,
    powers,
    smooth,
)


def skewed(count=300):
    return torch.randn(count, dtype=torch.float64).exp()


def log_density(curve, x):
    """Of numbers under a curve whose values are standard normal."""
    z, log_slope = curve(x.unsqueeze(-1))
    return (log_slope - z.square() / 2 - math.log(2 * math.pi) / 2).squeeze(-1)


def test_a_curve_where_one_is_needed_and_a_line_where_none_is():
    straight = [fit_real(torch.randn(200, dtype=torch.float64)).x.shape[1] == 2 for _ in range(20)]
    # By chance a curve beats the line by one standard error now and then; half of the time would be another rule.
    assert sum(straight) >= 10
    train, test = skewed(), skewed(2000)
    line = MonotoneSpline(
        train.mean() + train.std() * torch.tensor([[-1.0, 1.0]]).double(), torch.tensor([[-1.0, 1.0]]).double()
    )
    gain = (log_density(fit_real(train), test) - log_density(line, test)).mean()
    assert gain > 0.4  # the entropy of a log-normal is 1.42 nats, a normal with its moments scores 2.19 and more


@pytest.mark.parametrize("values", [torch.zeros(0), torch.ones(50), torch.tensor([3.0])])
def test_columns_without_anything_to_learn(values):
    for curve in (fit_real(values.double()), fit_whole(values.double()), fit_whole(values.double(), 4)):
        z, log_slope = curve(torch.zeros(1, 1, dtype=torch.float64))
        assert bool(torch.isfinite(z).all()) and bool(torch.isfinite(log_slope).all())


def test_whole_numbers_have_their_frequencies():
    values = torch.tensor([0.0] * 60 + [1.0] * 25 + [4.0] * 14)
    z, _ = fit_whole(values.double())(torch.tensor([[0.5], [1.5], [4.5]]).double())
    torch.testing.assert_close(torch.special.ndtr(z).flatten(), torch.tensor([0.6, 0.85, 0.99]).double())
    z, _ = fit_whole(values.double(), levels=5)(torch.tensor([[0.5], [1.5], [2.5], [3.5]]).double())
    shares = torch.tensor([60.5, 86.0, 86.5, 87.0]).double() / 101.5
    torch.testing.assert_close(torch.special.ndtr(z).flatten(), shares)
    many = torch.randint(0, 5000, (3000,)).double()
    curve = fit_whole(many)
    assert curve.x.shape[1] < 400
    middle = torch.special.ndtr(curve(torch.tensor([[2499.5]]).double())[0]).item()
    assert middle == pytest.approx((many < 2499.5).double().mean().item(), abs=0.02)


def test_a_tail_goes_on_as_the_outer_fifth_says_and_not_as_one_outlier():
    torch.manual_seed(0)
    values = torch.cat([torch.randn(400).double().exp(), torch.tensor([60.0]).double()])
    warp = fit_real(values, [smooth])
    beyond = warp.z[:, -1:] + torch.tensor([[0.5], [1.5]]).double()
    slope = warp.inverse(beyond).diff(dim=0).item()
    edge = values.quantile(0.8)
    mean_excess = (values - edge).clamp(min=0).mean().item() / 0.2
    assert slope == pytest.approx(mean_excess / 0.5582, rel=1e-3)  # E[z - v | z > v] where P(z > v) = 0.2
    # Twin: the last two knots among the entries would send it far off.
    assert ((warp.x[0, -2] - warp.x[0, -3]) / (warp.z[0, -2] - warp.z[0, -3])).item() > 2 * slope


def test_a_tail_of_a_few_among_many_equal_entries_is_as_light_as_they_are_few():
    values = torch.cat([torch.zeros(380), torch.arange(1.0, 21.0)]).double()  # a twentieth of them
    right, left = _tail(values).item(), _tail(-values).item()
    assert right == pytest.approx(values.mean().item() / 0.2 / 0.5582, rel=1e-3)
    assert left == 0


def kurtosis(z):
    return float(((z - z.mean()) / z.std()).pow(4).mean())


def test_powers_take_skewness_and_leave_clusters():
    torch.manual_seed(0)
    both = torch.cat([torch.randn(200).double() - 4, torch.randn(100).double() + 4])
    # Two clusters of unequal weight: 1.7; a normal column: 3, with a standard error of 0.28.
    assert kurtosis(fit_real(both, [powers])(both.unsqueeze(-1))[0]) < 1.9
    assert kurtosis(fit_real(both, [smooth])(both.unsqueeze(-1))[0]) > 2.2
    values = skewed()
    z = fit_real(values, [powers])(values.unsqueeze(-1))[0].squeeze(-1)
    assert abs(float(((z - z.mean()) / z.std()).pow(3).mean())) < 0.45  # 3 standard errors of 300; of values it is 3


def test_powers_are_those_of_yeo_and_johnson():
    torch.manual_seed(0)
    values = skewed(200)
    z, _ = powers(values)(values.unsqueeze(-1).expand(-1, len(POWERS) * len(POWER_UNITS)))
    spread = float((values.quantile(0.75) - values.quantile(0.25)) / 1.349)
    close = 0
    for i, power in enumerate(POWERS):
        for j, unit in enumerate(POWER_UNITS):
            y = (values - values.median()) / (unit * spread)
            exact = torch.from_numpy(yeojohnson(y.numpy(), power))
            exact = (exact - exact.mean()) / exact.std()
            found = z[:, len(POWER_UNITS) * i + j]
            if exact.abs().max() < 4:  # farther out there are no knots
                close += 1
                assert float((found - exact).abs().max()) < 0.1 and float((found - exact).abs().mean()) < 0.01
    assert close >= 4


def test_a_column_of_one_value_and_one_outlier_has_a_curve():
    values = torch.cat([torch.full((99,), 3.0), torch.tensor([4.0])]).double()
    for families in ([powers], [smooth], [powers, smooth]):
        curve = fit_real(values, families)
        z, log_slope = curve(torch.tensor([[3.0], [4.0], [5.0]]).double())
        assert (
            bool(torch.isfinite(z).all()) and bool(torch.isfinite(log_slope).all()) and bool((z.diff(dim=0) > 0).all())
        )


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_column_with_many_zeros_has_curves_that_stay_near_it(share):
    torch.manual_seed(0)
    values = torch.where(torch.rand(500) < share, 0.0, torch.randn(500).exp()).double()
    values = (values - values.mean()) / values.std()
    curves = powers(values)
    assert bool(torch.isfinite(curves.x).all()) and bool((curves.x.diff(dim=1) > 0).all())
    width = values.max() - values.min()
    ends = curves.inverse(torch.tensor([[-3.0], [3.0]]).double().expand(-1, len(curves.x)))
    assert bool((ends[0] > values.min() - 3 * width).all()) and bool((ends[1] < values.max() + 3 * width).all())
