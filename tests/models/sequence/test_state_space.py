"""A structural series against its joint Gaussian, written down entry by entry, and against the figures of the Nile."""

from typing import Any

import pytest
import torch
from torch import Tensor

import pyro_gen as pg
from pyro_gen.models import StateSpace

KINDS: dict[str, dict[str, Any]] = {
    "level": {},
    "trend": {"trend": True},
    "seasons": {"trend": True, "period": 4},
    "autoregression": {"level": False, "order": 3},
    "all": {"trend": True, "period": 3, "order": 2},
}
NAN = torch.nan


def program_of(kind: str, steps: int = 12, seed: int = 0) -> StateSpace:
    program = StateSpace(steps, loc=3.0, scale=2.0, **KINDS[kind]).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in program.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return program


def joint_of(program: StateSpace, steps: int) -> tuple[Tensor, Tensor]:
    """Mean and covariance of all T values: covariances of states walked forwards, one step after the other."""
    with torch.no_grad():
        d = program.series(steps)
        f, q, h = d.transition, d.noise @ d.noise.mT, d.observation
        at, cov = d.root @ d.root.mT, torch.zeros(steps, steps, dtype=torch.float64)
        for s in range(steps):
            ahead = at
            for t in range(s, steps):
                cov[s, t] = cov[t, s] = h @ ahead @ h
                ahead = f @ ahead
            at = f @ at @ f.mT + q
        return d.offset.expand(steps), cov + d.scale.square() * torch.eye(steps, dtype=torch.float64)


def rows_with_holes(steps: int, rows: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = 3 + 4 * torch.randn(rows, steps, generator=generator, dtype=torch.float64)
    x[torch.rand(x.shape, generator=generator) < 0.3] = NAN
    x[0, -3:], x[1] = NAN, NAN
    x[2] = x[2].nan_to_num(1.0)
    return x


def dense(x: Tensor, loc: Tensor, cov: Tensor) -> Tensor:
    values = []
    for row in x:
        o = ~row.isnan()
        if o.any():
            d = torch.distributions.MultivariateNormal(loc[o], cov[o][:, o])
            values.append(d.log_prob(row[o]))
        else:
            values.append(torch.zeros((), dtype=torch.float64))
    return torch.stack(values)


@pytest.mark.parametrize("kind", KINDS)
def test_the_likelihood_is_that_of_the_joint_gaussian(kind: str) -> None:
    program, x = program_of(kind), rows_with_holes(12)
    found = pg.log_likelihood(program, x)
    assert found.kind == "exact"
    assert (found.value - dense(x, *joint_of(program, 12))).abs().max() < 1e-8


def test_a_forgotten_hole_is_noticed() -> None:
    program, x = program_of("all"), rows_with_holes(12)
    d = program.series(12)
    wrong = d.log_prob(x.nan_to_num())  # as d.marginalise would be with the mask dropped
    assert ((wrong - dense(x, *joint_of(program, 12))).abs() > 1e-3).sum() == 5  # all but the row without holes


def test_the_stationary_start_is_one() -> None:
    _, cov = joint_of(program_of("autoregression"), 30)
    assert (cov.diagonal() - cov[0, 0]).abs().max() < 1e-10 and (cov.diagonal(1) - cov[0, 1]).abs().max() < 1e-10


def test_smoothed_components_are_those_of_the_joint_gaussian() -> None:
    program, x, steps = program_of("all"), rows_with_holes(12), 12
    _, cov = joint_of(program, steps)
    d = program.series(steps)
    f, q = d.transition, d.noise @ d.noise.mT
    at, across = d.root @ d.root.mT, []  # covariances of the state at t with the value at every s
    marginal, states = [], []
    for _ in range(steps):
        marginal.append(at)
        at = f @ at @ f.mT + q
    for t in range(steps):
        columns = []
        for s in range(steps):
            lag = torch.linalg.matrix_power(f, abs(t - s))
            columns.append((lag @ marginal[s] if s <= t else marginal[t] @ lag.mT) @ d.observation)
        across.append(torch.stack(columns, -1))
        states.append(marginal[t])
    smoothed = program.smooth(x)
    level = smoothed["level"]
    for n in (0, 3):
        o = ~x[n].isnan()
        gain = torch.stack([a[:, o] for a in across]) @ torch.linalg.inv(cov[o][:, o])  # (T, S, O)
        mean = gain @ (x[n, o] - 3.0)
        variance = torch.stack(states) - gain @ torch.stack([a[:, o] for a in across]).mT
        assert (level.mean[n] - 3.0 - mean[:, 0]).abs().max() < 1e-8
        assert (level.sd[n] - variance[:, 0, 0].sqrt()).abs().max() < 1e-6
        assert (smoothed["season"].mean[n] - mean[:, 2]).abs().max() < 1e-8
        assert (smoothed["autoregression"].sd[n] - variance[:, 4, 4].sqrt()).abs().max() < 1e-6


def test_gaps_and_forecasts_are_drawn_from_the_conditional() -> None:
    # 4,000 draws of each row: the greatest of 60 |z| is above 5 in 4e-5 of seeds; variances have sd 2.2 %, 6 of which.
    program, x = program_of("seasons"), rows_with_holes(12)
    loc, cov = joint_of(program, 12)
    drawn = pg.predict(program, x.repeat(800, 1), draws=5).reshape(4000, 6, 12)
    for n in (0, 1, 3, 4, 5):
        o = ~x[n].isnan()
        gain = cov[~o][:, o] @ torch.linalg.inv(cov[o][:, o])
        mean = loc[~o] + gain @ (x[n, o] - loc[o])
        variance = (cov[~o][:, ~o] - gain @ cov[o][:, ~o]).diagonal()
        found = drawn[:, n, ~o]
        assert ((found.mean(0) - mean).abs() / (variance / 4000).sqrt()).max() < 5
        assert (found.var(0) / variance - 1).abs().max() < 0.14
        assert torch.equal(drawn[0, n, o], x[n, o])
        unconditional = cov.diagonal()[~o]  # the twin: what is seen is not looked at
        assert n == 1 or (found.var(0) / unconditional - 1).abs().max() > 0.14


def test_what_is_beyond_the_end_is_left() -> None:
    program, x = program_of("level"), rows_with_holes(12)
    lengths = torch.tensor([9, 12, 12, 12, 12, 12])
    drawn = pg.impute(program, x, lengths, draws=2)
    assert drawn[:, 0, 9:].isnan().all() and not drawn[:, :, :9].isnan().any()
    assert torch.equal(pg.log_likelihood(program, x, lengths).value, pg.log_likelihood(program, x).value)


def test_single_precision_is_within_a_thousandth_of_a_nat_of_ten_thousand_steps() -> None:
    program = program_of("trend", 10_000)
    x = program.series(10_000).sample((1,)).float()
    single = program.float()
    found = pg.log_likelihood(single, x).value
    expected = pg.log_likelihood(single.double(), x.double()).value
    assert (found - expected).abs().max() < 1e-3


def test_the_local_level_of_the_nile() -> None:
    nile = pg.data.load("nile").train
    program = StateSpace(100, loc=0.0, scale=100.0)  # first level N(0, 1000^2), as in statsmodels
    pg.fit(program, nile, epochs=400, lr=0.05, schedule="cosine", progress=False)
    first = torch.where(torch.arange(100) == 0, nile, NAN)
    whole, of_first = pg.log_likelihood(program.double(), torch.cat([nile, first]).double()).value
    assert abs((whole - of_first).item() - -632.538) < 1e-3
    variances = {n: (100 * v.exp().item()) ** 2 for n, v in program.log_scales.items()}
    assert variances["noise"] == pytest.approx(15_099, rel=0.02)  # Durbin & Koopman (2012), 2.10.3
    assert variances["level"] == pytest.approx(1_469, rel=0.05)


def test_location_and_scale_are_those_of_the_first_data() -> None:
    nile = pg.data.load("nile").train
    program = StateSpace(100)
    pg.fit(program, nile, epochs=1, progress=False)
    assert program.centre.item() == pytest.approx(919.35) and program.unit.item() == pytest.approx(169.2, abs=0.1)
    known = StateSpace(100, loc=900.0)
    pg.fit(known, nile, epochs=1, progress=False)
    assert known.centre == 900 and known.unit.item() == pytest.approx(169.2, abs=0.1)
    pg.fit(program, nile - 900, epochs=1, progress=False)
    assert program.centre.item() == pytest.approx(919.35)


def test_forecasts_are_those_of_the_joint_gaussian() -> None:
    program, x = program_of("all", 16), rows_with_holes(12)
    loc, cov = joint_of(program, 16)
    found = program.forecast(x, 4)
    for n in range(6):
        o = torch.cat([~x[n].isnan(), torch.zeros(4, dtype=torch.bool)])
        gain = cov[12:][:, o] @ torch.linalg.inv(cov[o][:, o])
        variance = (cov[12:, 12:] - gain @ cov[o][:, 12:]).diagonal()
        assert (found.mean[n] - loc[12:] - gain @ (x[n, o[:12]] - 3.0)).abs().max() < 1e-8
        assert (found.sd[n] - variance.sqrt()).abs().max() < 1e-8
        assert n == 1 or ((found.sd[n] - cov.diagonal()[12:].sqrt()).abs() > 1e-2).any()  # the twin: nothing was seen
    low, high = found.interval(0.95)
    assert ((high - low) / (2 * 1.959964 * found.sd) - 1).abs().max() < 1e-6
    with pytest.raises(ValueError, match="give one step or more"):
        program.forecast(x, 0)


@pytest.mark.parametrize("kind", ["level", "trend", "seasons", "all", "seasons and order"])
def test_all_components_are_those_of_statsmodels(kind: str) -> None:
    structural = pytest.importorskip("statsmodels.tsa.statespace.structural").UnobservedComponents
    options = {**KINDS, "seasons and order": {"period": 4, "order": 1}}[kind]
    program, x = StateSpace(40, loc=0.0, scale=1.0, **options).double(), torch.arange(40.0).double().sin().cumsum(0)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in program.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    x[[3, 4, 20]] = NAN
    rival = structural(
        x.numpy(),
        irregular=True,
        level=True,
        stochastic_level=True,
        trend=program.parts.count("slope") > 0,
        stochastic_trend=program.parts.count("slope") > 0,
        seasonal=program.period or None,
        autoregressive=program.order or None,
        use_exact_diffuse=False,
    )
    scales = {name: v.exp().item() ** 2 for name, v in program.log_scales.items()}
    parameters = dict(zip(rival.param_names, rival.start_params, strict=True))
    names = {"sigma2.irregular": "noise", "sigma2.level": "level", "sigma2.trend": "slope", "sigma2.seasonal": "season"}
    names["sigma2.ar"] = "autoregression"
    phi = [] if program.partial is None else program.series(40).transition[-program.order, -program.order :].tolist()
    for name in parameters:
        parameters[name] = phi[int(name[-1]) - 1] if name.startswith("ar.") else scales[names[name]]
    d = program.series(40)
    cov = (d.root @ d.root.mT).detach().numpy()
    rival.ssm.initialize_known([0.0] * len(cov), cov)
    rival.ssm.loglikelihood_burn = 0
    rival.initialize_default = lambda *_: None
    expected = rival.loglike(list(parameters.values()))
    assert pg.log_likelihood(program, x.unsqueeze(0)).value.item() == pytest.approx(expected, abs=1e-8)


def test_forecasts_of_co2_are_those_of_statsmodels() -> None:
    structural = pytest.importorskip("statsmodels.tsa.statespace.structural").UnobservedComponents
    co2 = pg.data.load("co2").train.double()
    program = StateSpace(526, trend=True, period=12, order=1).initialise(co2[:, :406]).double()
    scales = {"noise": 0.117, "level": 0.08, "slope": 0.003, "season": 0.005, "autoregression": 0.23}
    program.with_scales(**scales)
    with torch.no_grad():
        program.partial.fill_(0.9)
    rival = structural(co2[0, :406].numpy(), "lltrend", seasonal=12, autoregressive=1)
    noises = [scales[name] ** 2 for name in ("noise", "level", "slope", "season", "autoregression")]
    expected = rival.smooth([*noises, program.partial.tanh().item()]).get_forecast(24)
    found = program.forecast(co2[:, :406], 24)
    # Its first states are a thousand times as uncertain, which 400 months tell of to the fourth digit.
    assert (found.mean[0] - torch.tensor(expected.predicted_mean)).abs().max() < 2e-3
    assert (found.sd[0] / torch.tensor(expected.se_mean) - 1).abs().max() < 2e-3
    slower = program.with_scales(slope=0.03).forecast(co2[:, :406], 24)  # the twin: another slope
    assert (slower.sd[0] / torch.tensor(expected.se_mean) - 1).abs().max() > 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"period": 1}, "give a period of 2 or more"),
        ({"level": False}, "give a level"),
        ({"level": False, "trend": True}, "give a level"),
        ({"scale": 0.0}, "a standard deviation is positive"),
    ],
)
def test_what_makes_no_model_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StateSpace(10, **options)


def test_scales_by_name() -> None:
    with pytest.raises(ValueError, match="no slope here, but level, noise"):
        StateSpace(10).with_scales(slope=1.0)
