"""Posteriors of local latent variables against closed forms and enumeration."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal, init_to_value
from torch import nn

import pyro_gen as pg
from pyro_gen.inference.latents import api, latents
from pyro_gen.inference.likelihood.enumeration import GuideDraws
from pyro_gen.models.linear.factor_analysis import FactorAnalysis
from pyro_gen.program import Program

LOC = torch.tensor([-2.0, 0.0, 3.0])
CHANCES = torch.tensor([0.2, 0.5, 0.3])


def mixture(x):
    with pg.plate(x):
        k = pyro.sample("k", dist.Categorical(CHANCES))
        return pg.observe("x", dist.Normal(LOC[k].unsqueeze(-1), torch.ones(2)).to_event(1), x)


def test_responsibilities_of_a_mixture_are_exact(untouched_rng):
    x = torch.tensor([[-2.0, -1.0], [0.5, torch.nan], [4.0, 2.0], [torch.nan, torch.nan]])
    found = latents(mixture, x)["k"]
    log_p = dist.Normal(LOC.double()[:, None], 1.0).log_prob(x.double()[:, None].nan_to_num()) * ~x.isnan()[:, None]
    exact = (log_p.sum(-1) + CHANCES.double().log()).softmax(-1)
    torch.testing.assert_close(found.probabilities, exact, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.mean, exact @ torch.arange(3.0).double(), atol=1e-6, rtol=0)
    assert found.most_likely.tolist() == exact.argmax(-1).tolist()
    assert found.draws.shape == (200, 4)
    share = torch.stack([(found.draws == k).double().mean(0) for k in range(3)], -1)
    assert (share - exact).abs().max() < 4.5 * 0.5 / 200**0.5  # 12 frequencies of 200 draws


def one_hot(x):
    with pg.plate(x, dim=-2), pyro.plate("part", 2, dim=-1):
        k = pyro.sample("k", dist.OneHotCategorical(CHANCES))
        return pg.observe("x", dist.Normal(k @ LOC, 1.0), x)


def test_units_and_events_of_discrete_variables_keep_their_places():
    x = torch.tensor([[-2.0, 3.0], [0.0, torch.nan], [1.0, -1.0]])
    found = latents(one_hot, x)["k"]
    log_p = (dist.Normal(LOC.double(), 1.0).log_prob(x.double().unsqueeze(-1).nan_to_num())) * ~x.isnan().unsqueeze(-1)
    exact = (log_p + CHANCES.double().log()).softmax(-1)
    assert found.values.shape == (3, 3) and found.draws.shape == (200, 3, 2, 3)
    torch.testing.assert_close(found.probabilities, exact, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.mean, exact, atol=1e-6, rtol=0)  # of the indicators
    assert latents(one_hot, x).to_pandas().shape == (3, 6)


class WideGuide(FactorAnalysis):
    """Factor analysis with a guide that is shifted and too wide, so that weights have something to do."""

    shift = 0.4

    def guide(self, x):
        with self.plate(x):
            q = self._posterior(x)
            scale = q.variance.sqrt()
            pyro.sample("z", dist.Normal(q.loc + self.shift * scale, 1.4 * scale).to_event(1))


@pytest.fixture(scope="module")
def factors():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        program = WideGuide(5, 2)
        with torch.no_grad():
            program.loadings.normal_()
            program.log_scale.fill_(-0.3)
        x = torch.randn(12, 5)
        x[::3, :2] = torch.nan
    return program, x


def closed_form(program, x):
    w, d = program.loadings.detach().double(), (-2 * program.log_scale.detach().double()).exp().expand(5)
    means, sds = [], []
    for row in x.double():
        s = ~row.isnan()
        covariance = torch.linalg.inv(torch.eye(2).double() + (w[s].T * d[s]) @ w[s])
        means.append(covariance @ (w[s].T * d[s]) @ (row[s] - program.loc.detach().double()[s]))
        sds.append(covariance.diagonal().sqrt())
    return torch.stack(means), torch.stack(sds)


@pytest.mark.parametrize("method", ["guide", "hmc"])
def test_factor_analysis_has_its_closed_form(factors, method):
    program, x = factors
    mean, sd = closed_form(program, x)
    options = {"chains": 32, "draws": 60, "warmup": 150} if method == "hmc" else None
    found = latents(program, x, method=method, num_proposals=4000, options=options)
    effective = found.ess.unsqueeze(-1) if found.ess is not None else 1000.0
    assert ((found["z"].mean - mean) / sd * effective**0.5).abs().max() < 4.5
    assert ((found["z"].sd / sd - 1) * (2 * effective) ** 0.5).abs().max() < 5
    assert found["z"].draws.shape == (200, 12, 2)
    of_draws = (found["z"].draws.mean(0) - mean) / sd * 200**0.5
    assert of_draws.abs().max() < 4.5


def test_unweighted_draws_of_the_guide_would_be_caught(factors, monkeypatch):
    program, x = factors
    mean, sd = closed_form(program, x)
    unweighted = api.guide_draws

    def plain(*args, **kwargs):
        for part in unweighted(*args, **kwargs):
            yield GuideDraws(part.rows, torch.zeros_like(part.log_weights), part.values, part.data_dims)

    monkeypatch.setattr(api, "guide_draws", plain)
    found = latents(program, x, method="guide", num_proposals=4000)
    assert ((found["z"].mean - mean) / sd * 4000**0.5).abs().min() > 10


def test_rows_that_the_guide_misses_are_annealed(factors):
    program, x = factors
    mean, sd = closed_form(program, x)
    program.shift = 6.0
    try:
        only = latents(program, x[:3], method="guide", num_proposals=300)
        mended = latents(program, x[:3], num_proposals=300, draws=400)
    finally:
        program.shift = 0.4
    assert "Pareto k-hat is above 0.7 for 3 data (the first is row 0" in str(only)
    assert bool(mended.annealed.all()) and "3 data drawn by annealed" in str(mended)
    assert ((mended["z"].mean - mean[:3]) / sd[:3] * 400**0.5).abs().max() < 5


class Labelled(Program):
    """A label before what is seen: its class has a code of its own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.8))

    def model(self, x):  # (N, 2): label, and what it looks like
        with self.plate(x):
            y = pg.observe("y", dist.Categorical(CHANCES), x[:, 0])
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            look = pg.observe("look", dist.Normal(LOC[y.long()] + z, self.scale), x[:, 1])
            return torch.stack([y, look], 1)

    def guide(self, x):
        with self.plate(x):
            pyro.sample("z", dist.Normal(0.0, 1.2))


@pytest.mark.parametrize("method", ["auto", "guide"])
def test_missing_labels_have_their_probabilities(method):
    program = Labelled()
    x = torch.tensor([[torch.nan, 1.0], [2.0, 0.0], [torch.nan, torch.nan], [torch.nan, -2.5]])
    found = latents(program, x, method=method, num_proposals=4000)
    scale = (1 + 0.8**2) ** 0.5
    log_p = dist.Normal(LOC.double(), scale).log_prob(x[:, 1:].double().nan_to_num()) * ~x[:, 1:].isnan()
    exact = (log_p + CHANCES.double().log()).softmax(-1)
    exact[1] = torch.tensor([0.0, 0.0, 1.0])
    assert list(found) == ["y", "z"] and found["y"].values.tolist() == [0, 1, 2]
    assert (found["y"].probabilities - exact).abs().max() < 4 * 0.5 / 1000**0.5
    assert torch.equal(found["y"].probabilities[1], exact[1]) and bool((found["y"].draws[:, 1] == 2).all())


def shared(x):
    loc = pyro.sample("loc", dist.Normal(torch.zeros(2), 3.0).to_event(1))
    with pg.plate(x):
        k = pyro.sample("k", dist.Categorical(torch.tensor([0.5, 0.5])))
        return pg.observe("x", dist.Normal(loc[k], 1.0), x)


def test_what_is_global_is_averaged_over_its_draws():
    draws = torch.randn(100, 2) + torch.tensor([-1.0, 1.0])
    x = torch.tensor([-1.0, 0.2])
    found = latents(shared, x, posterior={"loc": draws})
    exact = dist.Normal(draws, 1.0).log_prob(x[:, None, None]).softmax(-1).mean(1)
    torch.testing.assert_close(found["k"].probabilities, exact.double(), atol=1e-6, rtol=0)


def levels(x):
    mean = pyro.sample("mean", dist.Normal(0.0, 3.0))
    with pg.plate(x):
        z = pyro.sample("z", dist.Normal(mean, 1.0))
        return pg.observe("x", dist.Normal(z, 1.0), x)


def test_an_autoguide_proposes_beside_draws_of_what_is_global(monkeypatch):
    monkeypatch.setattr(api, "GLOBAL_DRAWS", 30)
    x = torch.tensor([0.5, 2.0])
    near = init_to_value(values={"z": (x + 1) / 2, "mean": torch.tensor(1.0)})
    program = Program.from_functions(levels, AutoNormal(levels, init_scale=0.9, init_loc_fn=near)).initialise(x)
    draws = 1.0 + 0.3 * torch.randn(30)
    found = latents(program, x, posterior={"mean": draws}, method="guide")["z"]
    exact = (x + draws.mean()) / 2
    assert (found.mean - exact).abs().max() < 0.15 and (found.sd - (0.5 + 0.15**2) ** 0.5).abs().max() < 0.15


def test_results_go_elsewhere(factors):
    program, x = factors
    found = latents(program, x, draws=50, num_proposals=500)
    table = found.to_pandas()
    assert table.columns.tolist() == ["z[0]", "z[0] sd", "z[1]", "z[1] sd", "khat"] and len(table) == 12
    assert found.to_numpy()["z"]["draws"].shape == (50, 12, 2)
    idata = found.to_arviz()
    assert dict(idata.posterior.sizes) == {"chain": 1, "draw": 50, "data": 12, "z_dim_0": 2}
    with pytest.raises(KeyError, match="no local latent variable 'y'"):
        found["y"]
    with pytest.raises(ValueError, match="take its mean"):
        found["z"].most_likely  # noqa: B018


@pytest.mark.parametrize(
    ("program", "options", "line"),
    [
        (mixture, {"method": "mcmc"}, "choose one of auto, exact, guide, hmc"),
        (mixture, {"draws": 0}, "positive"),
        (mixture, {"options": {"chains": 3}}, 'give method="hmc"'),
        (WideGuide(2, 1), {"method": "exact"}, "has others: leave method out"),
        (pg.models.Gaussian(2), {}, "no local latent variable"),
    ],
)
def test_wrong_calls_are_said(program, options, line):
    with pytest.raises(ValueError, match=line):
        latents(program, torch.zeros(3, 2), **options)


def labelled_images(data):
    with pg.plate(data["look"]):
        y = pg.observe("y", dist.Categorical(CHANCES), data["y"])
        return pg.observe("look", dist.Normal(LOC[y.long()], 0.8), data["look"])


def test_data_may_be_a_mapping():
    look, y = torch.tensor([1.0, 0.0, -2.5]), torch.tensor([torch.nan, 2.0, torch.nan])
    found = latents(labelled_images, {"y": y, "look": look})
    exact = (dist.Normal(LOC.double(), 0.8).log_prob(look.double()[:, None]) + CHANCES.double().log()).softmax(-1)
    exact[1] = torch.tensor([0.0, 0.0, 1.0])
    assert found.method == "exact" and list(found) == ["y"]
    torch.testing.assert_close(found["y"].probabilities, exact, atol=1e-6, rtol=0)
