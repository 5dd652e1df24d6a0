"""Posterior predictive draws against closed forms: 4 standard errors with fixed seeds, a false alarm in 1,000 runs."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import pyro_gen as pg
from pyro_gen.inference.global_draws import GlobalDraws
from pyro_gen.inference.posterior import posterior
from pyro_gen.inference.predict import predict
from pyro_gen.program import Program

NOISE = 0.5


def regression(y, u):
    w = pyro.sample("w", dist.Normal(torch.zeros(u.shape[1]), 1.0).to_event(1))
    with pg.plate(y):
        return pg.observe("y", dist.Normal(u @ w, NOISE), y)


@pytest.fixture(scope="module")
def found():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        u, new = torch.randn(15, 2), torch.randn(6, 2)
        y = u @ torch.tensor([1.0, -2.0]) + NOISE * torch.randn(15)
    covariance = torch.linalg.inv(torch.eye(2).double() + u.double().T @ u.double() / NOISE**2)
    mean = covariance @ (u.double().T @ y.double()) / NOISE**2
    scale = (NOISE**2 + (new.double() @ covariance * new.double()).sum(-1)).sqrt()
    return posterior(regression, y, u, progress=False), new, new.double() @ mean, scale


def z_scores(drawn, mean, scale):
    size = len(drawn)
    return torch.cat([
        (drawn.double().mean(0) - mean) / scale * size**0.5,
        (drawn.double().std(0) / scale - 1) * (2 * size) ** 0.5,
    ])  # fmt: skip


def test_draws_are_of_the_closed_form(found, untouched_rng):
    idata, new, mean, scale = found
    drawn = predict(regression, None, new, posterior=idata, draws=2000, seed=1)
    assert drawn.shape == (2000, 6)
    assert z_scores(drawn, mean, scale).abs().max() < 4
    again = predict(regression, torch.full((6,), torch.nan), new, posterior=idata, draws=2000, seed=1)
    assert torch.equal(drawn, again)  # nothing seen is the same as no data


def test_one_draw_of_the_weights_for_all_would_be_caught(found, monkeypatch):
    idata, new, mean, scale = found
    equal = GlobalDraws.equal
    monkeypatch.setattr(GlobalDraws, "equal", lambda self, n: equal(self.select(torch.zeros(1).long(), 1), n))
    drawn = predict(regression, None, new, posterior=idata, draws=2000, seed=1)
    assert z_scores(drawn, mean, scale).abs().max() > 5


def test_the_expectation_is_of_less_error_than_draws(found):
    idata, new, mean, scale = found
    got = predict(regression, None, new, posterior=idata, returns="mean", draws=500)
    assert got.shape == (6,)
    # The spread of u'w alone, which is what is averaged over draws.
    of_weights = (scale.square() - NOISE**2).sqrt()
    assert ((got - mean) / of_weights * 500**0.5).abs().max() < 4


def test_predictions_are_a_group(found):
    idata, new, _, _ = found
    labels = [f"day {i}" for i in range(6)]
    got = predict(regression, None, new, posterior=idata, returns="inference_data", coords={"data": labels}, draws=50)
    assert got.predictions["x"].dims == ("chain", "draw", "data")
    assert list(got.predictions["data"].values) == labels
    whole = idata.copy()
    whole.extend(got)
    assert "predictions" in whole.groups() and "posterior" in whole.groups()


def test_weighted_particles_and_a_file_serve(found, tmp_path):
    import arviz as az

    _, new, mean, scale = found
    with torch.random.fork_rng():
        torch.manual_seed(0)
        u = torch.randn(15, 2)
        torch.randn(6, 2)
        y = u @ torch.tensor([1.0, -2.0]) + NOISE * torch.randn(15)
    posterior(regression, y, u, method="smc", progress=False, save=tmp_path / "run.nc")
    read = az.from_netcdf(tmp_path / "run.nc")
    drawn = predict(regression, None, new, posterior=read, draws=2000)
    assert z_scores(drawn, mean, scale).abs().max() < 4.5
    read.close()


def student(x):
    precision = pyro.sample("precision", dist.Gamma(1.5, 1.0))
    with pg.plate(x):
        return pg.observe("x", dist.Normal(0.0, precision**-0.5), x)


def test_an_unknown_scale_gives_student_t():
    x = torch.tensor([2.0])
    idata = posterior(student, x, progress=False)
    shape, rate = 1.5 + 0.5, 1.0 + float(x.square().sum()) / 2
    drawn = predict(student, 3000, posterior=idata, draws=1)[0]  # one draw of the precision: normal
    assert drawn.shape == (3000,)
    drawn = predict(student, 1, posterior=idata, draws=3000)[:, 0].double().numpy()
    exact = stats.t(2 * shape, scale=(rate / shape) ** 0.5)
    assert stats.kstest(drawn, exact.cdf).pvalue > 1e-4
    assert stats.kstest(drawn, stats.norm(scale=exact.std()).cdf).pvalue < 1e-4  # as one with its variance would be


class Levels(Program):
    """Two looks at z_n, which is drawn around a mean that all data share."""

    event_shape = torch.Size([2])

    def model(self, x):
        mean = pyro.sample("mean", dist.Normal(0.0, 3.0))
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(mean, 1.0))
            return pg.observe("x", dist.Normal(z.unsqueeze(-1), torch.tensor([0.5, 0.5])).to_event(1), x)

    def guide(self, x):
        mean = pyro.sample("mean", dist.Normal(2.0, 0.1))
        with self.plate(x):
            seen = (~x.isnan()).sum(-1)
            pyro.sample("z", dist.Normal((x.nan_to_num().sum(-1) / 0.25 + mean) / (seen / 0.25 + 1), 0.7))


def test_what_is_seen_of_new_data_tells_of_their_local_variables():
    x = torch.tensor([[torch.nan, torch.nan], [0.0, torch.nan]])
    draws = {"mean": 2.0 + 0.1 * torch.randn(400)}
    drawn = predict(Levels(), x, posterior=draws, draws=100)
    assert torch.equal(drawn[:, 1, 0], torch.zeros(100))
    # z given the mean and 0: precision 1 + 4, at 2 / 5; unseen: N(2, 1). Beside it the noise of 0.5.
    mean = torch.tensor([2.0, 2.0, 0.4]).double()
    scale = torch.tensor([1.25 + 0.01, 1.25 + 0.01, 0.25 + 0.2 + 0.0004]).double().sqrt()
    got = torch.stack([drawn[:, 0, 0], drawn[:, 0, 1], drawn[:, 1, 1]], 1)
    assert z_scores(got, mean, scale).abs().max() < 4
    of_guide = predict(Levels(), 50, draws=400)
    assert z_scores(of_guide[:, 0], mean[:2], scale[:2]).abs().max() < 4
    means = predict(Levels(), x, posterior=draws, draws=60, returns="mean")
    torch.testing.assert_close(means[1], torch.tensor([0.0, 0.4]), atol=4 * 0.67 / 60**0.5, rtol=0)


def autoregression(x):
    decay = pyro.sample("decay", dist.Uniform(-1.0, 1.0))
    with pg.plate(x):
        steps = [pg.observe("x_0", dist.Normal(0.0, 1.0), x[:, 0])]
        for t in range(1, x.shape[1]):
            steps.append(pg.observe(f"x_{t}", dist.Normal(decay * steps[-1], 0.1), x[:, t]))
        return torch.stack(steps, 1)


def test_a_series_is_forecast():
    x = torch.full((2, 6), torch.nan)
    x[0, :4], x[1, :2] = torch.tensor([1.0, 0.8, 0.7, 0.5]), torch.tensor([-2.0, -1.5])
    decay = 0.8 + 0.05 * torch.randn(1000).double()
    drawn = predict(autoregression, x, posterior={"decay": decay}, draws=1000)
    assert torch.equal(drawn[:, ~x.isnan()], x[~x.isnan()].expand(1000, -1))
    a = decay
    mean = torch.stack([0.5 * a, 0.5 * a**2, -1.5 * a, -1.5 * a**4], 1).double().mean(0)
    second = torch.stack([0.25 * a**2 + 0.01, 0.25 * a**4 + 0.01 * (1 + a**2)], 1).mean(0)
    got = torch.stack([drawn[:, 0, 4], drawn[:, 0, 5], drawn[:, 1, 2], drawn[:, 1, 5]], 1).double()
    assert ((got.mean(0) - mean) / got.std(0) * 1000**0.5).abs().max() < 4
    assert ((got[:, :2].square().mean(0) - second) / got[:, :2].square().std(0) * 1000**0.5).abs().max() < 4


def test_a_program_without_global_variables_is_completed():
    program = pg.models.Gaussian(2)
    assert predict(program, 7, draws=3).shape == (3, 7, 2)
    assert torch.equal(predict(program, 4, returns="mean"), program.loc.detach().expand(4, 2))


@pytest.mark.parametrize(
    ("arguments", "options", "line"),
    [
        ((torch.zeros(3, 2),), {}, r"takes \(y, u\), the data first.*predict\(program, None, u, posterior="),
        ((torch.zeros(3), torch.zeros(3, 2)), {}, "x has no NaN"),
        ((None, torch.zeros(3, 2)), {"posterior": {"w": torch.zeros(5, 2)}}, "does not know the shape of one datum"),
        ((0, torch.zeros(3, 2)), {}, "positive"),
        ((None, torch.zeros(3, 4)), {}, r"shape \(2,\), and with these data \(4,\)"),
        ((None, torch.zeros(3, 2)), {"returns": "median"}, "choose one of draws, mean"),
        ((None, torch.zeros(3, 2)), {"draws": 0}, "positive"),
        ((None, torch.zeros(3, 2)), {"coords": {"data": [1]}}, "returns="),
        ((None, torch.zeros(3, 2)), {"coords": {"data": [1]}, "returns": "inference_data"}, "1 labels for 'data'"),
        ((None, torch.zeros(3, 2)), {"coords": {"row": [1]}, "returns": "inference_data"}, "no dimension 'row'"),
    ],
)
def test_wrong_calls_are_said(found, arguments, options, line):
    with pytest.raises(ValueError, match=line):
        predict(regression, *arguments, **({"posterior": found[0]} | options))


def test_what_has_no_rows_or_no_draws_is_said():
    with pytest.raises(ValueError, match="number of rows is that of the context"):
        predict(student, posterior={"precision": torch.ones(3)})
    with pytest.raises(ValueError, match="leave posterior out"):
        predict(pg.models.Gaussian(2), 3, posterior={"w": torch.ones(3)})
    with pytest.raises(ValueError, match="does not sample the global latent variable 'precision'"):
        predict(student, torch.full((3,), torch.nan))


def two_views(data, u):
    slope = pyro.sample("slope", dist.Normal(0.0, 10.0))
    with pg.plate(data["a"]):
        pg.observe("a", dist.Normal(slope * u, 0.1), data["a"])
        pg.observe("b", dist.Normal(slope.expand(2), 0.1).to_event(1), data["b"])


def test_several_variables_are_predicted_together():
    u = torch.linspace(-1, 1, 20)
    data = {"a": 2 * u, "b": torch.full((20, 2), 2.0)}
    idata = posterior(pg.Program.from_functions(two_views), data, u, progress=False)
    got = predict(two_views, None, torch.tensor([3.0]), posterior=idata, draws=200)
    assert got["a"].shape == (200, 1) and got["b"].shape == (200, 1, 2)
    assert abs(got["a"].mean() - 6) < 0.2 and abs(got["b"].mean() - 2) < 0.1
    part = {"a": torch.tensor([1.5]), "b": torch.full((1, 2), torch.nan)}
    got = predict(two_views, part, torch.tensor([3.0]), posterior=idata, draws=20)
    assert bool((got["a"] == 1.5).all()) and not bool(got["b"].isnan().any())


def in_pyros_order(u, y=None):
    w = pyro.sample("w", dist.Normal(torch.zeros(u.shape[1]), 1.0).to_event(1))
    with pyro.plate("rows", len(u)):
        jitter = pyro.sample("jitter", dist.Normal(0.0, 0.3))
        pyro.sample("y", dist.Normal(u @ w + jitter, 0.4), obs=y)


def test_a_model_in_pyros_order_is_given_what_it_takes(found):
    _, new, mean, scale = found  # 0.3 and 0.4 make the noise of 0.5
    with torch.random.fork_rng():
        torch.manual_seed(0)
        u = torch.randn(15, 2)
        torch.randn(6, 2)
        y = u @ torch.tensor([1.0, -2.0]) + NOISE * torch.randn(15)
    idata = posterior(in_pyros_order, u, y, progress=False)
    drawn = predict(in_pyros_order, new, posterior=idata, draws=1500)
    assert drawn.shape == (1500, 6) and z_scores(drawn, mean, scale).abs().max() < 4.5
    assert torch.equal(drawn, predict(in_pyros_order, new, None, posterior=idata, draws=1500))
    got = predict(in_pyros_order, new, posterior=idata, draws=20, returns="inference_data")
    assert got.predictions["y"].dims == ("chain", "draw", "data")
    assert predict(in_pyros_order, new, posterior=idata, draws=400, returns="mean").sub(mean).abs().max() < 0.2
    with pytest.raises(TypeError, match="the program comes first"):
        predict(idata, new)
    with pytest.raises(ValueError, match="it tells which sites are the outcome"):
        predict(in_pyros_order, new, posterior={"w": torch.zeros(4, 2)})
