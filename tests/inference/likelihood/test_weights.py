import arviz
import pytest
import torch

from pyro_gen.inference.likelihood.weights import effective_sample_size, log_mean_exp, psis, psis_khat

SPREADS = torch.tensor([0.1, 0.5, 1.0, 2.0, 4.0, 8.0])


def test_pareto_tails_against_arviz():
    log_w = torch.randn(1000, 6).double() * SPREADS
    smooth, khat = zip(*(arviz.psislw(column) for column in log_w.T.numpy()), strict=True)
    torch.testing.assert_close(psis_khat(log_w), torch.tensor([float(k) for k in khat]).double(), rtol=1e-6, atol=1e-6)
    expected = torch.stack([torch.from_numpy(column) for column in smooth], 1)
    torch.testing.assert_close(psis(log_w).log_softmax(0), expected, rtol=1e-6, atol=1e-6)
    changed = (psis(log_w) != log_w).sum(0)
    assert bool(((changed > 90) & (changed <= 95)).all())  # 3 sqrt(1000), rounded up: the largest ones alone


def test_weights_without_a_tail():
    assert psis_khat(torch.zeros(100, 2)).tolist() == [0.0, 0.0]
    assert psis_khat(torch.zeros(20, 2)).isnan().all()
    assert psis_khat(torch.randn(100, 1) * 1e5)[0] > 0.7
    few = torch.randn(20, 2).double()
    assert torch.equal(psis(few), few)


def test_mean_and_size():
    log_w = torch.tensor([[0.0, -1e4], [0.0, 0.0], [0.0, -1e4], [0.0, -1e4]]).double()
    value, error = log_mean_exp(log_w)
    assert value.tolist() == pytest.approx([0.0, -1.3862943611])
    assert error[0] == 0 and error[1] > 1e3  # all rests on one weight, and the jackknife says so
    assert effective_sample_size(log_w).tolist() == pytest.approx([4.0, 1.0])


def test_weights_of_discrete_variables_are_tied():
    counts = torch.tensor([2500, 2000, 350, 150])
    ties = torch.tensor([0.0, 0.5, 1.0, 1.2]).repeat_interleave(counts)  # bounded, and most of the tail is at 1 or 1.2
    assert psis_khat(ties[:, None]) < 0.5
    assert psis_khat(torch.cat([torch.zeros(4997), torch.full((3,), 1.0)])[:, None]) == 0.0
    # The defect that must be seen: three draws that carry everything.
    assert psis_khat(torch.cat([torch.zeros(4997), torch.full((3,), 800.0)])[:, None]).isinf()
