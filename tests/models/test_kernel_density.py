"""Kernel density estimates against scikit-learn, brute force over bandwidths, and dense conditionals."""

import math

import pytest
import torch
from sklearn.neighbors import KernelDensity as Reference
from torch import Tensor

import pyro_gen as pg
from pyro_gen.distributions import GaussianKernels
from pyro_gen.inference import ELBO, LeaveOneOut
from pyro_gen.models import KernelDensity
from pyro_gen.traces import structure

NAN = torch.nan


def clouds(n: int, d: int = 3) -> Tensor:
    return torch.randn(n, d).double() * torch.linspace(0.3, 2.0, d) + 4.0 * (torch.rand(n, 1) < 0.4).double() + 50


def fitted(x: Tensor, bandwidth: str = "entry") -> KernelDensity:
    return KernelDensity(x.shape[1], bandwidth).double().initialise(x)


def by_scikit_learn(program: KernelDensity, x: Tensor) -> Tensor:
    """A product kernel is a spherical one of columns divided by their bandwidths."""
    h = program.bandwidth.detach().expand(x.shape[1])
    fit = Reference(bandwidth=1.0, rtol=0.0, atol=0.0).fit((program.points / h).numpy())
    return torch.as_tensor(fit.score_samples((x / h).numpy())) - h.log().sum()


@pytest.mark.parametrize("bandwidth", ["entry", "shared"])
def test_densities_are_those_of_scikit_learn(bandwidth: str) -> None:
    program, x = fitted(clouds(200), bandwidth), clouds(50)
    found = pg.log_likelihood(program, x)
    assert structure(program, x).kind == "exact" and found.kind == "exact"
    assert torch.allclose(found.value, by_scikit_learn(program, x), atol=1e-8, rtol=0)
    # The twin: one bandwidth for all columns is another density.
    program.bandwidth = program.bandwidth.detach().mean() * torch.ones_like(program.bandwidth)
    if bandwidth == "entry":
        assert (by_scikit_learn(program, x) - found.value).abs().max() > 0.1


def left_out(x: Tensor, h: Tensor) -> Tensor:
    """The leave-one-out log-likelihood per datum, written out."""
    log_kernels = torch.distributions.Normal(x, h).log_prob(x.unsqueeze(1)).sum(-1)
    return (log_kernels.fill_diagonal_(-torch.inf).logsumexp(1) - math.log(len(x) - 1)).mean()


def test_the_bandwidths_are_the_best_by_leaving_one_out() -> None:
    x = clouds(60, 2)
    program = fitted(x)
    h = program.bandwidth.detach()
    assert program.leave_one_out(x).mean().item() == pytest.approx(left_out(x, h).item(), abs=1e-10)
    factors = torch.cat([torch.linspace(0.5, 2.0, 31), torch.linspace(0.99, 1.01, 5)]).double()
    grid = torch.cartesian_prod(factors, factors)
    values = torch.stack([left_out(x, h * factor) for factor in grid])
    assert left_out(x, h) >= values.max() - 1e-9
    one = fitted(x, "shared").bandwidth.detach()
    around = torch.stack([left_out(x, one * factor) for factor in factors])
    assert left_out(x, one) >= around.max() - 1e-9 and left_out(x, one) < left_out(x, h)
    # The twin: Scott's rule, at which EM starts, is not the best.
    assert left_out(x, x.std(0) * 60 ** (-1 / 6)) < values.max() - 0.01


def test_training_leaves_one_out_and_the_likelihood_itself_would_not() -> None:
    x = clouds(100, 2)
    program = KernelDensity(2).double()
    result = pg.fit(program, x, epochs=3, lr=1e-3, batch_size=50, progress=False)
    best = left_out(x, fitted(x).bandwidth.detach()).item()
    assert result.history[-1]["train_loss"] == pytest.approx(-best, abs=1e-3)
    stays = program.bandwidth.detach().clone()
    assert torch.allclose(stays, fitted(x).bandwidth.detach(), rtol=0.02)
    pg.fit(program, x, epochs=60, lr=5e-2, objective=ELBO(), progress=False)  # the twin: each datum explains itself
    assert (program.bandwidth < 0.5 * stays).all()
    with pytest.raises(ValueError, match="Gaussian has no method leave_one_out"):
        pg.fit(pg.models.Gaussian(2).double(), x, epochs=1, objective=LeaveOneOut(), progress=False)


def test_missing_entries_drop_out_and_are_drawn_given_the_seen_ones() -> None:
    program = fitted(clouds(40, 2))
    x = torch.tensor([[50.2, NAN], [NAN, 46.0], [NAN, NAN], [54.0, 50.0]]).double()
    law = torch.distributions.Normal(program.points, program.bandwidth.detach())
    log_kernels = torch.where(x.isnan().unsqueeze(1), 0.0, law.log_prob(x.nan_to_num().unsqueeze(1))).sum(-1)
    expected = log_kernels.logsumexp(1) - math.log(40)
    assert torch.allclose(pg.log_likelihood(program, x).value, expected, atol=1e-10)
    draws = pg.impute(program, x[:2], draws=1000)
    weights = log_kernels.softmax(1)
    for row, missing in ((0, 1), (1, 0)):
        at, drawn = program.points[:, missing], draws[:, row, missing]
        mean = (weights[row] * at).sum()
        variance = (weights[row] * (at - mean) ** 2).sum() + program.bandwidth.detach()[missing] ** 2
        error = (variance / 1000).sqrt()
        assert abs(drawn.mean() - mean) < 4.5 * error  # two-sided at 4.5 standard errors: 7e-6
        assert abs(drawn.mean() - at.mean()) > 4.5 * error  # the twin: points drawn without regard to the seen entry
        assert drawn.var() == pytest.approx(variance.item(), rel=0.2)


def test_rows_in_parts_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    x, new = clouds(30), clouds(17)
    kernels, program = GaussianKernels(x, torch.ones(3).double()), fitted(x)
    whole = kernels.log_prob(new)
    monkeypatch.setattr("pyro_gen.distributions.gaussian_kernels.ENTRIES", 64)
    monkeypatch.setattr("pyro_gen.models.mixture.kernel_density.ENTRIES", 64)
    assert torch.allclose(kernels.log_prob(new), whole, atol=1e-12)
    assert torch.allclose(fitted(x).bandwidth, program.bandwidth, atol=1e-12)
    samples = kernels.expand([5]).sample((4,))
    assert samples.shape == (4, 5, 3)


def test_it_is_saved_with_its_points_and_refuses_what_it_cannot_take(tmp_path: pytest.TempPathFactory) -> None:
    program, x = fitted(clouds(30)), clouds(5)
    other = KernelDensity(3).double()
    with pytest.raises(ValueError, match="no points yet"):
        pg.log_likelihood(other, x)
    other.load_state_dict(program.state_dict())
    assert torch.equal(pg.log_likelihood(other, x).value, pg.log_likelihood(program, x).value)
    with pytest.raises(ValueError, match="two complete data at least, got 2 with 1 missing"):
        KernelDensity(2).initialise(torch.tensor([[0.0, NAN], [1.0, 2.0]]))
    with pytest.raises(ValueError, match='give "entry" or "shared"'):
        KernelDensity(2, "full")
    tied = KernelDensity(1).initialise(torch.zeros(5, 1))
    assert tied.bandwidth.item() == pytest.approx(tied.min_bandwidth)


def test_arguments_and_data_of_other_shapes_are_refused() -> None:
    for wrong in ({"event_shape": 0}, {"event_shape": 3, "min_bandwidth": -1.0}):
        with pytest.raises(ValueError, match="give a positive"):
            KernelDensity(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"takes data of shape \(N, 3\), and was given \(20, 4\)"):
        pg.fit(KernelDensity(3), torch.randn(20, 4), epochs=1, progress=False)
