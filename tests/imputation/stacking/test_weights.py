"""Stacking weights against optimisation by hand, and the choice of entries to hide."""

import pytest
import torch
from scipy.optimize import minimize_scalar

from pyro_gen.imputation.stacking.learning import scored_columns
from pyro_gen.imputation.stacking.weights import hide, stacking_weights


def test_weights_maximise_the_score_of_the_mixture():
    torch.manual_seed(0)
    log_prob = torch.randn(2, 300, dtype=torch.float64)

    def loss(w: float) -> float:
        mixture = torch.tensor([w, 1 - w], dtype=torch.float64).log().unsqueeze(-1) + log_prob
        return -float(mixture.logsumexp(0).sum() + 2 * torch.tensor([w, 1 - w]).log().sum())

    best = minimize_scalar(loss, bounds=(1e-6, 1 - 1e-6), method="bounded", options={"xatol": 1e-10}).x
    assert float(stacking_weights(log_prob)[0]) == pytest.approx(best, abs=1e-5)


def test_programs_that_complement_each_other_share_the_weight():
    # The first knows half of the entries, the second the other half; the third is always middling.
    good, bad = torch.full((100,), -0.5), torch.full((100,), -6.0)
    log_prob = torch.stack([torch.cat([good, bad]), torch.cat([bad, good]), torch.full((200,), -2.0)]).double()
    weights = stacking_weights(log_prob)
    assert weights.sum() == pytest.approx(1)
    assert float(weights[0]) == pytest.approx(float(weights[1]), abs=1e-6)
    assert float(weights[2]) < 0.05


def test_equal_programs_share_equally():
    torch.testing.assert_close(stacking_weights(torch.zeros(4, 10).double()), torch.full((4,), 0.25).double())


def test_densities_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        stacking_weights(torch.tensor([[0.0, -torch.inf]]))


EVERY = torch.ones(3, dtype=torch.bool)


@pytest.mark.usefixtures("untouched_rng")
def test_hidden_entries_are_observed_and_columns_keep_two():
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    x[0, :2] = torch.nan
    x[:47, 2] = torch.nan
    mask = hide(x, 0.9, 1, EVERY)
    assert not bool(mask[torch.isnan(x)].any())
    assert bool(((~torch.isnan(x) & ~mask).sum(0) >= 2).all())
    assert 0.8 < float(mask[1:, :2].double().mean()) < 0.98
    assert torch.equal(mask, hide(x, 0.9, 1, EVERY))
    assert not torch.equal(mask, hide(x, 0.9, 2, EVERY))


def test_entries_are_hidden_of_the_columns_that_are_named():
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    assert hide(x, 0.5, 1, torch.tensor([False, True, False])).any(0).tolist() == [False, True, False]


def test_programs_are_scored_where_there_are_holes_and_densities_to_compare():
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    fine = torch.tensor([True, True, False])
    assert scored_columns(x, fine).tolist() == [True, True, False]
    x[0, 1:] = torch.nan
    assert scored_columns(x, fine).tolist() == [False, True, False]
    assert scored_columns(x, torch.tensor([True, False, False])).tolist() == [False, True, True]
