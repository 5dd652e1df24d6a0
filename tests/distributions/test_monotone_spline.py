"""Monotone splines: their inverse, their slope, and the density that they give."""

import math

import pytest
import torch

from pyro_gen.distributions.monotone_spline import MonotoneSpline
from pyro_gen.models.tabular.parts.marginal_transforms import fit_real, fit_whole


def skewed(count=300):
    return torch.randn(count, dtype=torch.float64).exp()


def log_density(curve, x):
    """Of numbers under a curve whose values are standard normal."""
    z, log_slope = curve(x.unsqueeze(-1))
    return (log_slope - z.square() / 2 - math.log(2 * math.pi) / 2).squeeze(-1)


def test_inverse_slope_and_mass():
    curve = fit_real(skewed())
    assert curve.x.shape[1] > 2, "log-normal entries need a curve"
    x = torch.linspace(-20, 60, 400001, dtype=torch.float64)
    z, log_slope = curve(x.unsqueeze(-1))
    torch.testing.assert_close(curve.inverse(z).squeeze(-1), x, rtol=1e-9, atol=1e-9)
    step = x[1] - x[0]
    torch.testing.assert_close(
        ((z[2:] - z[:-2]) / (2 * step)).squeeze(-1), log_slope[1:-1].exp().squeeze(-1), rtol=2e-2, atol=1e-3
    )
    assert log_density(curve, x).exp().sum() * step == pytest.approx(1.0, abs=1e-4)


def test_missing_entries_stay_missing():
    curve = fit_real(skewed())
    x = torch.tensor([[1.0], [torch.nan]], dtype=torch.float64)
    assert torch.isnan(curve(x)[0]).flatten().tolist() == [False, True]
    assert torch.isnan(curve.inverse(x)).flatten().tolist() == [False, True]


def test_joined_curves_are_the_curves():
    curves = [
        fit_real(skewed()),
        fit_real(torch.randn(300, dtype=torch.float64)),
        fit_whole(torch.arange(5.0).double()),
    ]
    x = torch.linspace(-3, 30, 50, dtype=torch.float64).unsqueeze(-1)
    joined = MonotoneSpline.join(curves)
    for d, curve in enumerate(curves):
        torch.testing.assert_close(joined(x.expand(-1, 3))[0][:, d], curve(x)[0][:, 0])
        torch.testing.assert_close(joined.inverse(x.expand(-1, 3))[:, d], curve.inverse(x)[:, 0])
