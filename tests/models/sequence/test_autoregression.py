"""Autoregressions against the Gaussian with the Yule-Walker autocovariances, statsmodels, and products of densities."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, StudentT

import pyro_gen as pg
from pyro_gen.distributions import AutoregressiveSeries
from pyro_gen.models import Autoregression, BayesianAutoregression
from pyro_gen.models.sequence.autoregression import order_probabilities

NAN = math.nan


def program_of(order: int, steps: int = 13, innovations: str = "normal") -> Autoregression:
    generator = torch.Generator().manual_seed(order)
    program = Autoregression(steps, order, innovations).double()
    with torch.no_grad():
        program.partial.copy_(0.7 * torch.randn(order, generator=generator, dtype=torch.float64))
        program.loc.fill_(3.0)
        program.log_scale.fill_(0.5)
    return program


def rows_with_holes(steps: int = 13) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = 3 + 3 * torch.randn(7, steps, generator=generator, dtype=torch.float64)
    x[torch.rand(x.shape, generator=generator) < 0.4] = NAN
    x[0] = x[0].nan_to_num(1.0)
    x[1], x[2, -4:], x[3, :4] = NAN, NAN, NAN
    return x


def yule_walker(phi: Tensor, variance: float, steps: int) -> Tensor:
    """The covariance of all steps: autocovariances that solve the Yule-Walker equations, then their recursion."""
    k = len(phi)
    equations, right = torch.zeros(k + 1, k + 1, dtype=torch.float64), torch.zeros(k + 1, dtype=torch.float64)
    right[0] = variance
    for lag in range(k + 1):
        equations[lag, lag] += 1
        for j in range(1, k + 1):
            equations[lag, abs(lag - j)] -= phi[j - 1]
    gamma = list(torch.linalg.solve(equations, right))
    while len(gamma) < steps:
        gamma.append(sum(phi[j - 1] * gamma[-j] for j in range(1, k + 1)))
    at = torch.arange(steps)
    return torch.stack(gamma)[(at - at.unsqueeze(-1)).abs()]


def dense(x: Tensor, loc: float, cov: Tensor) -> Tensor:
    values = []
    for row in x:
        o = ~row.isnan()
        d = MultivariateNormal(torch.full((int(o.sum()),), loc).double(), cov[o][:, o]) if o.any() else None
        values.append(torch.zeros((), dtype=torch.float64) if d is None else d.log_prob(row[o]))
    return torch.stack(values)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("steps", [3, 12, 13])
def test_the_likelihood_is_that_of_the_dense_gaussian(order: int, steps: int) -> None:
    program, x = program_of(order, steps), rows_with_holes(steps)
    cov = yule_walker(program.coefficients.detach(), math.exp(1.0), steps)
    found = pg.log_likelihood(program, x)
    assert found.kind == "exact" and (found.value - dense(x, 3.0, cov)).abs().max() < 1e-8


def test_a_start_that_is_not_stationary_and_a_forgotten_hole_are_noticed() -> None:
    program, x = program_of(2), rows_with_holes()
    cov = yule_walker(program.coefficients.detach(), math.exp(1.0), 13)
    d = program.series(13)
    assert ((d.log_prob(x.nan_to_num()) - dense(x, 3.0, cov)).abs() > 1e-3).sum() == 6  # all but the whole row
    b = d.diagonals.detach()
    b[:2] = 0
    b[:2, 0] = b[2, 0]  # the first steps as innovations of their own
    e = torch.stack([sum(b[t, j] * (x[0, t - j] - 3) for j in range(min(t, 2) + 1)) for t in range(13)])
    wrong = (b[:, 0].log() - 0.5 * (e.square() + math.log(2 * math.pi))).sum()
    assert (wrong - dense(x[:1], 3.0, cov)).abs() > 1e-2


@pytest.mark.parametrize("order", [1, 3])
def test_the_likelihood_of_the_nile_is_that_of_statsmodels(order: int) -> None:
    arima = pytest.importorskip("statsmodels.tsa.arima.model").ARIMA
    nile = pg.data.load("nile").train.double()
    holed = nile.clone()
    holed[0, [0, 20, 21, 60, 99]] = NAN
    program = program_of(order, 100)
    with torch.no_grad():
        program.centre.fill_(900.0)
        program.unit.fill_(100.0)
    parameters = [1200.0, *program.coefficients.tolist(), 100.0**2 * math.exp(1.0)]
    expected = [arima(x[0].numpy(), order=(order, 0, 0)).loglike(parameters) for x in (nile, holed)]
    assert pg.log_likelihood(program, torch.cat([nile, holed])).value.tolist() == pytest.approx(expected, abs=1e-6)


def test_gaps_and_forecasts_are_drawn_from_the_conditional() -> None:
    # 4,000 draws: the greatest of 40 |z| is above 5 in 2e-5 of seeds; variances have sd 2.2 %, 6 of which.
    program, x = program_of(3), rows_with_holes()
    cov = yule_walker(program.coefficients.detach(), math.exp(1.0), 13)
    drawn = pg.predict(program, x.repeat(800, 1), draws=5).reshape(4000, 7, 13)
    for n in (1, 2, 3, 5):
        o = ~x[n].isnan()
        gain = cov[~o][:, o] @ torch.linalg.inv(cov[o][:, o])
        variance = (cov[~o][:, ~o] - gain @ cov[o][:, ~o]).diagonal()
        found = drawn[:, n, ~o]
        assert ((found.mean(0) - 3 - gain @ (x[n, o] - 3)) / (variance / 4000).sqrt()).abs().max() < 5
        assert (found.var(0) / variance - 1).abs().max() < 0.14
        assert n == 1 or (found.var(0) / cov[0, 0] - 1).abs().max() > 0.14  # the twin: what is seen is not looked at


def test_student_t_innovations() -> None:
    program, x = program_of(2, innovations="student_t"), rows_with_holes()[:3]
    x[2, :9] = x[2, :9].nan_to_num(2.0)  # a forecast of four steps
    phi, scale, df = program.coefficients.tolist(), math.exp(0.5), 1 + program.log_df.exp().item()
    root = yule_walker(torch.tensor(phi, dtype=torch.float64), scale**2, 2)
    y = x[0] - 3
    ahead = root[0, 1] / root[0, 0]
    start = [(y[0], root[0, 0].sqrt()), (y[1] - ahead * y[0], (root[0, 0] - ahead * root[0, 1]).sqrt())]
    steps = start + [
        (y[t] - phi[0] * y[t - 1] - phi[1] * y[t - 2], torch.tensor(scale, dtype=torch.float64)) for t in range(2, 13)
    ]
    law = StudentT(torch.tensor(df, dtype=torch.float64))
    expected = sum(law.log_prob(e / s) - s.log() for e, s in steps)
    found = pg.log_likelihood(program, x).value
    assert found[0].item() == pytest.approx(float(expected), abs=1e-8) and found[1] == 0
    assert found[2].item() == pytest.approx(pg.log_likelihood(program, x[2:, :9]).value.item(), abs=1e-8)
    # The mean of the first forecast: 8,000 draws, |z| above 4.5 in 7e-6 of seeds.
    drawn = pg.predict(program, x[2:].repeat(800, 1), draws=10)[..., 9]
    mean = 3 + phi[0] * (x[2, 8] - 3) + phi[1] * (x[2, 7] - 3)
    assert abs(drawn.mean() - mean) < 4.5 * (scale * math.sqrt(df / (df - 2) / 8000))


def test_a_gap_between_student_t_steps_is_a_latent_variable() -> None:
    program = program_of(1, 4, "student_t")
    x = torch.tensor([[3.0, 5.0, NAN, 4.0]], dtype=torch.float64)
    grid = torch.linspace(-60, 60, 4001, dtype=torch.float64)
    filled = x.repeat(4001, 1)
    filled[:, 2] = grid
    expected = pg.log_likelihood(program, filled).value.exp().sum() * (grid[1] - grid[0])
    found = pg.log_likelihood(program, x, seed=0)
    assert abs(found.value - expected.log()) < 5 * found.standard_error + 1e-3
    assert found.standard_error < 0.1


def test_the_order_by_its_evidence() -> None:
    law = AutoregressiveSeries(torch.tensor(2.0), torch.tensor([0.7, -0.6]), torch.tensor(1.5), 200)
    torch.manual_seed(0)
    x = law.sample((2,))
    found = order_probabilities(x, 5)
    assert found.sum().item() == pytest.approx(1.0) and found.argmax() == 2 and found[2] > 0.8
    shuffled = x.flatten()[torch.randperm(400)].view(2, 200)  # the twin: no order in time
    assert order_probabilities(shuffled, 5).argmax() == 0
    # A regression on 5 lags of one row, its evidence as a Student-t density written out.
    both = order_probabilities(x[:1, :9], 5)
    z = (x[:1, :9] - x[:1, :9].mean()).double()[0] / x[:1, :9].double().std()
    u = torch.stack([z[5 - j : 9 - j] for j in range(1, 6)], -1)
    values = []
    for k in range(6):
        h = torch.cat([torch.ones(4, 1), u[:, :k]], -1).double()
        shape = (torch.eye(4).double() + h @ h.mT) / 2  # b / a
        quadratic = z[5:] @ torch.linalg.solve(shape, z[5:])
        values.append(-0.5 * torch.logdet(shape) - 4.0 * torch.log1p(quadratic / 4))
    assert (both - torch.stack(values).softmax(0)).abs().max() < 1e-6


def test_the_evidence_with_priors_is_that_of_a_quadrature() -> None:
    x = torch.tensor([[1.0, 0.2, NAN, 1.5, -0.5, 0.1]], dtype=torch.float64)
    program = BayesianAutoregression(6, 1).double()
    found = pg.log_evidence(program, x, particles=64, islands=4, leapfrog=2, seed=0)
    rho = torch.linspace(-0.9975, 0.9975, 400, dtype=torch.float64)
    scale = torch.linspace(0.01, 6.0, 600, dtype=torch.float64)
    at = torch.tensor([0, 1, 3, 4, 5])  # what is seen; the mean integrates out into the covariance
    gamma = rho.view(-1, 1, 1) ** (at - at.unsqueeze(-1)).abs() / (1 - rho.square()).view(-1, 1, 1)
    cov = gamma.unsqueeze(1) * scale.square().view(-1, 1, 1) + 4.0
    log_p = MultivariateNormal(torch.zeros(5, dtype=torch.float64), cov).log_prob(x[0, at])
    prior = torch.distributions.HalfNormal(1.0).log_prob(scale) - math.log(2)
    expected = (log_p + prior).exp().sum() * 0.005 * (scale[1] - scale[0])
    assert abs(found.value - expected.log()) < 5 * found.standard_error + 5e-3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Autoregression(10, 0), "give an order of 1 or more"),
        (lambda: Autoregression(10, 1, "cauchy"), "give an order of 1 or more, and normal or student_t"),
        (lambda: Autoregression((10, 2), 1), "a datum is a series of T numbers"),
        (lambda: BayesianAutoregression(10, -1), "give an order of 0 or more"),
        (lambda: order_probabilities(torch.ones(2, 4), 5), "of more than most = 5"),
        (lambda: order_probabilities(torch.tensor([[1.0, NAN, 2.0]]), 1), "compare the evidence"),
    ],
)
def test_what_makes_no_model_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


SBC: dict[str, Any] = {"simulations": 60, "draws": 15, "warmup": 100, "alpha": 1e-4}  # the false-alarm rate, exactly


@pytest.mark.slow
def test_the_posterior_with_priors_is_calibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    program = BayesianAutoregression(8, 2)
    assert pg.sbc(program, (1, 8), method="hmc", **SBC).passed

    def without_scales(law: AutoregressiveSeries, value: Tensor) -> Tensor:
        return -0.5 * law.innovations(value).square().sum(-1)

    monkeypatch.setattr(AutoregressiveSeries, "log_prob", without_scales)  # the twin: the scales of innovations dropped
    assert not pg.sbc(program, (1, 8), method="hmc", **SBC).passed
