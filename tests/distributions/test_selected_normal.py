"""Normal variables selected by a logistic function, against quadrature."""

import numpy as np
import pytest
import torch
from scipy import stats

from pyro_gen.distributions.selected_normal import _SHARES, _SLOPES, SelectedNormal

GRID = torch.linspace(-30.0, 30.0, 120_001).double()


CASES = [
    (0.3, 1.2, -0.5, 2.0),
    (-1.0, 0.7, 0.4, -1.5),
    (0.0, 1.0, 0.0, 0.0),
    (0.5, 0.4, 3.0, -20.0),
    (-2.0, 0.5, -1.0, 6.0),
]


def selected(case):
    return SelectedNormal(*torch.tensor(case).double())


def test_the_logistic_function_is_a_mixture_of_normal_ones():
    mixture = (
        torch.tensor(_SHARES).double() * torch.special.ndtr(torch.tensor(_SLOPES).double() * GRID.unsqueeze(1))
    ).sum(1)
    assert (mixture - torch.sigmoid(GRID)).abs().max() < 1e-7
    assert sum(_SHARES) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_selected_normal_against_quadrature(case, logistic_selection):
    d = selected(case)
    total, mean, _, _ = logistic_selection(*case)
    assert d.log_selected().exp().item() == pytest.approx(total.item(), rel=1e-5)
    assert d.log_selected(-1.0).exp().item() == pytest.approx(1 - total.item(), rel=1e-4, abs=1e-7)
    assert d.mean.item() == pytest.approx(mean.item(), rel=1e-4, abs=1e-6)
    assert torch.trapezoid(d.log_prob(GRID).exp(), GRID).item() == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_selected_normal_draws_what_it_scores(case, logistic_selection):
    draws = selected(case).sample((20_000,))
    _, _, _, cdf = logistic_selection(*case)

    def distribution(x):
        return np.interp(x, GRID[1:].numpy(), cdf.numpy())

    assert stats.kstest(draws.numpy(), distribution).pvalue > 1e-5  # by chance in 1e-5 of the seeds
    if case[3]:  # without the selection it is another distribution
        assert stats.kstest(draws.numpy(), stats.norm(case[0], case[1]).cdf).pvalue < 1e-5
