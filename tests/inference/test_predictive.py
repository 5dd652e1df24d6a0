import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from pyro_gen.inference import predictive
from pyro_gen.inference.predictive import impute, reconstruct, sample
from pyro_gen.models.linear.factor_analysis import ProbabilisticPCA
from pyro_gen.models.linear.gaussian import Gaussian
from pyro_gen.observation import observe
from pyro_gen.program import Program, plate


class Narrow(ProbabilisticPCA):
    """PPCA with a guide that is wrong: shifted, and too narrow."""

    def guide(self, x):
        with self.plate(x):
            q = self._posterior(x)
            pyro.sample("z", dist.Normal(q.loc + 1.5 * q.variance.sqrt(), 0.3 * q.variance.sqrt()).to_event(1))


class Good(ProbabilisticPCA):
    """PPCA with a guide that is a little too wide."""

    def guide(self, x):
        with self.plate(x):
            q = self._posterior(x)
            pyro.sample("z", dist.Normal(q.loc, 1.2 * q.variance.sqrt()).to_event(1))


def make(kind):
    torch.manual_seed(1)
    program = kind(6, 2)
    with torch.no_grad():
        program.loadings.normal_()
        program.loc.normal_()
        program.log_scale.fill_(-0.7)
    return program


def conditional(program, x):
    """Mean and covariance of the missing entries of one row given the seen ones."""
    w = program.loadings.detach().double()
    covariance = w @ w.T + torch.eye(6).double() * (2 * program.log_scale.detach().double()).exp()
    m = torch.isnan(x)
    loc, solve = program.loc.detach().double(), torch.linalg.inv(covariance[~m][:, ~m])
    gain = covariance[m][:, ~m] @ solve
    return loc[m] + gain @ (x[~m].double() - loc[~m]), covariance[m][:, m] - gain @ covariance[~m][:, m]


def z_scores(draws, mean, covariance):
    """z-scores of the means and of all second moments of (S, D) independent draws."""
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), (draws - mean).T, upper=False)
    moments = torch.cat(
        [white, *[(white[i] * white[: i + 1] - torch.eye(len(white))[i, : i + 1, None]) for i in range(len(white))]]
    )
    return moments.mean(1) / (moments.std(1) / math.sqrt(moments.shape[1]))


X = torch.tensor([0.5, torch.nan, 1.0, torch.nan, -1.0, 0.3])


@pytest.mark.parametrize(("kind", "method"), [(Good, "auto"), (Narrow, "auto"), (Narrow, "ais")])
def test_imputations_against_the_conditional_gaussian(kind, method, untouched_rng):
    with torch.random.fork_rng():
        program = make(kind)
    # Rows are independent, draws of one row are resampled from one set of proposals: one draw of many rows.
    x = X.expand(1500, 6)
    y = impute(program, x, draws=1, method=method)[0]
    scores = z_scores(y[:, X.isnan()].double(), *conditional(program, X))
    assert scores.abs().max() < 4.2  # 5 scores: false-alarm rate 1.3e-4
    assert torch.equal(y[:, ~X.isnan()], x[:, ~X.isnan()])


def test_wrong_guide_alone_warns_and_fails_the_test():
    program = make(Narrow)
    with pytest.warns(UserWarning, match="k-hat"):
        y = impute(program, X.expand(1500, 6), draws=1, method="guide", num_proposals=50)[0]
    assert z_scores(y[:, X.isnan()].double(), *conditional(program, X)).abs().max() > 6


def test_many_draws_of_one_row():
    program = make(Narrow)
    y = impute(program, X.expand(40, 6), draws=30)
    assert y.shape == (30, 40, 6)
    mean, covariance = conditional(program, X)
    draws = y[..., X.isnan()].double()
    assert ((draws.mean((0, 1)) - mean) / covariance.diag().sqrt()).abs().max() < 0.2
    within = draws.var(0).mean(0) / covariance.diag()
    assert bool(((within > 0.8) & (within < 1.2)).all())


def test_exact_density_and_untouched_rows():
    program = make(Good).marginal()
    x = X.expand(3000, 6).clone()
    x[0] = 0.0
    y = impute(program, x, draws=2)
    scores = z_scores(y[1, 1:, X.isnan()].double(), *conditional(program, X))
    assert scores.abs().max() < 4.2  # false-alarm rate 1.3e-4
    assert torch.equal(y[:, 0], x[:1].expand(2, 6))
    assert torch.equal(impute(program, torch.zeros(2, 6), draws=3), torch.zeros(3, 2, 6))


def test_draws_of_few_rows_of_an_exact_density_share_runs_of_the_model(monkeypatch):
    program, runs = make(Good).marginal(), []
    model = type(program).model
    monkeypatch.setattr(type(program), "model", lambda self, x, *c: runs.append(len(x)) or model(self, x, *c))
    y = impute(program, torch.stack([X, -X]), draws=1500)
    assert max(runs) == 1024  # rows that are run together
    assert sum(runs) < 1.5 * 3000
    for row, x in enumerate((X, -X)):
        scores = z_scores(y[:, row, X.isnan()].double(), *conditional(program, x))
        assert scores.abs().max() < 4.2  # false-alarm rate 1.3e-4
        swapped = z_scores(y[:, 1 - row, X.isnan()].double(), *conditional(program, x))
        assert swapped.abs().max() > 4.2  # the twin: draws of the other row


def test_generation_has_the_marginal_distribution(untouched_rng):
    with torch.random.fork_rng():
        program = make(Good)
    x = sample(program, 3000, seed=5)
    w = program.loadings.detach().double()
    covariance = w @ w.T + torch.eye(6).double() * (2 * program.log_scale.detach().double()).exp()
    scores = z_scores(x.double(), program.loc.detach().double(), covariance)
    assert scores.abs().max() < 4.8  # 27 scores: false-alarm rate 4e-5
    assert torch.equal(x, sample(program, 3000, seed=5)) and not torch.equal(x, sample(program, 3000, seed=6))
    assert z_scores(x.double() + 0.2, program.loc.detach().double(), covariance).abs().max() > 6  # the twin


def test_global_latents_come_from_the_guide():
    class Mean(Program):
        event_shape = torch.Size([1])

        def model(self, x):
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
            with self.plate(x):
                return observe("x", dist.Normal(w.expand(1), 0.01).to_event(1), x)

        def guide(self, x):
            pyro.sample("w", dist.Normal(7.0, 0.01))

    assert (sample(Mean(), 2500) - 7).abs().max() < 0.2
    y = impute(Mean(), torch.tensor([[torch.nan], [1.0]]), draws=4)
    assert (y[:, 0] - 7).abs().max() < 0.2 and bool((y[:, 1] == 1).all())


def test_reconstruction():
    program = make(ProbabilisticPCA)
    x = X.expand(4, 6)
    mean, _ = conditional(program, X)
    y = reconstruct(program, x, draws=500)
    assert (y[0, X.isnan()] - mean).abs().max() < 0.15  # also of what is missing
    assert torch.equal(reconstruct(program, x, seed=1), reconstruct(program, x, seed=1))


def test_conditional_programs():
    class Conditional(Program):
        event_shape = torch.Size([])

        def model(self, x, c):
            with self.plate(x):
                z = pyro.sample("z", dist.Normal(c, 0.01))
                return observe("x", dist.Normal(z, 0.01), x)

        def guide(self, x, c):
            with self.plate(x):
                pyro.sample("z", dist.Normal(c, 0.01))

    c = torch.arange(2000.0)
    assert (sample(Conditional(), 2000, context=(c,)) - c).abs().max() < 0.2
    x = torch.where(c % 2 == 0, torch.nan, c)
    assert (impute(Conditional(), x, c, draws=2) - c).abs().max() < 0.2
    assert (reconstruct(Conditional(), x, c) - c).abs().max() < 0.2


def test_refusals():
    class Silent(Program):
        def model(self, x):
            with self.plate(x):
                observe("x", dist.Categorical(torch.ones(3)), x + 1)
            return 3

    with pytest.raises(ValueError, match="event_shape"):
        sample(Silent(), 2)
    silent = Silent()
    silent.event_shape = torch.Size([])
    with pytest.raises(ValueError, match="must return the completed data"):
        sample(silent, 2)
    with pytest.raises(ValueError, match="positive"):
        sample(silent, 0)
    with pytest.raises(ValueError, match='choose "auto"'):
        impute(silent, X, method="mean")
    with pytest.raises(ValueError, match="positive"):
        impute(silent, X, draws=0)
    with pytest.raises(ValueError, match="positive"):
        reconstruct(silent, X, draws=0)


def pair_model(x):
    with plate(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
        return observe("x", dist.Normal(z.unsqueeze(-1).expand(-1, 2), 0.5).to_event(1), x)


@pytest.mark.parametrize("guide", [pyro.infer.autoguide.AutoDelta, pyro.infer.autoguide.AutoNormal])
@pytest.mark.parametrize("method", ["auto", "ais"])
def test_guides_that_propose_nothing_for_some_rows(guide, method):
    # A point has no spread; parameters per datum run on all rows or none.
    x = torch.full((800, 2), 1.0)
    x[:400, 1] = torch.nan
    program = Program.from_functions(pair_model, guide).initialise(x)
    y = impute(program, x, draws=1, method=method)[0]
    assert torch.equal(y[400:], x[400:]) and torch.equal(y[:400, 0], x[:400, 0])
    # p(x2 | x1 = 1): mean 1 / 1.25, variance 1.25 - 1 / 1.25.
    scores = z_scores(y[:400, 1:].double(), torch.tensor([0.8]).double(), torch.tensor([[0.45]]).double())
    assert scores.abs().max() < 4.2  # 2 scores: false-alarm rate 5e-5


def test_discrete_latents_are_drawn_from_their_posterior():
    class Mixture(Program):
        def model(self, x):
            with self.plate(x):
                k = pyro.sample("k", dist.Bernoulli(0.3))
                return observe("x", dist.Normal(4 * k.unsqueeze(-1).expand(-1, 2), 1.0).to_event(1), x)

    x = torch.tensor([2.0, torch.nan]).expand(2000, 2)
    y = impute(Mixture(), x, draws=2)
    assert torch.equal(y[..., 0], x[:, 0].expand(2, -1))
    # x1 = 2 says nothing of k: x2 has mean 4 * 0.3 and variance 1 + 16 * 0.21.
    for draw in y[..., 1].double():
        assert abs((draw.mean() - 1.2) / math.sqrt(4.36 / 2000)) < 4.2  # false-alarm rate 3e-5
        assert 0.9 < draw.var() / 4.36 < 1.1
    assert not torch.equal(y[0], y[1])


def test_reconstruction_needs_a_mean_and_takes_any_shape():
    class Levels(Program):
        def model(self, x):
            with self.plate(x):
                return observe("x", dist.Categorical(torch.ones(2, 3)).to_event(1), x)

    with pytest.raises(ValueError, match="has no mean in closed form"):
        reconstruct(Levels(), torch.zeros(4, 2))
    program = Gaussian((4, 4))
    with torch.no_grad():
        program.loc.copy_(torch.arange(16.0).reshape(program.loc.shape))
    y = reconstruct(program, torch.randn(3, 4, 4))
    assert torch.equal(y, torch.arange(16.0).reshape(4, 4).expand(3, 4, 4))


# ----------------------------------------------------------------------------------------------------------------------
# Programs without a guide


def unknown_mean(x):
    mean = pyro.sample("mean", dist.Normal(torch.zeros((), dtype=x.dtype), 10.0))
    with plate(x):
        return observe("x", dist.Normal(mean, 1.0), x)


FEW = torch.tensor([0.5, math.nan, 2.0, 1.1], dtype=torch.float64)


def predictive_p_value(draws):
    """Draws of the missing entry against N(mean, 1 + 1 / 3.01), the posterior predictive of three observations."""
    variance = 1 / (3 + 0.01)
    z = (draws - variance * FEW.nansum()) / math.sqrt(1 + variance)
    return stats.kstest(z.numpy(), "norm").pvalue


@pytest.mark.usefixtures("untouched_rng")
def test_a_plain_function_is_imputed_by_its_posterior():
    """False alarm 1e-4; draws that forget that the mean is uncertain must fail."""
    completed = impute(unknown_mean, FEW, draws=6000)
    assert torch.equal(completed[:, [0, 2, 3]], FEW[[0, 2, 3]].expand(6000, -1))
    draws = completed[:, 1]
    assert predictive_p_value(draws) > 1e-4
    centre = draws.mean()
    assert predictive_p_value(centre + (draws - centre) / math.sqrt(1 + 1 / 3.01)) < 1e-4


def test_hmc_where_it_is_asked_for():
    program = make(Good)
    x = torch.tensor([[0.5, math.nan, -1.0, math.nan, 2.0, 0.3]])
    drawn = impute(program, x, draws=2000, method="hmc")[:, 0]
    mean, covariance = conditional(program, x[0])
    # Nine z-scores of nearly independent draws beyond 5.5: a chance below 1e-6.
    assert float(z_scores(drawn[:, torch.isnan(x[0])].double(), mean, covariance).abs().max()) < 5.5


@pytest.fixture
def options_of(monkeypatch):
    """The options of every call of a function of ``predictive``, noted from then on."""

    def noted(name):
        asked, call = [], getattr(predictive, name)

        def noting(*arguments, **options):
            asked.append(options)
            return call(*arguments, **options)

        monkeypatch.setattr(predictive, name, noting)
        return asked

    return noted


def test_hmc_takes_what_a_posterior_takes(options_of):
    asked = options_of("posterior")
    options = {"chains": 100, "draws": 40, "warmup": 200, "init": "prior"}
    draws = impute(unknown_mean, FEW, draws=3000, options=options)[:, 1]
    assert options.items() <= asked[0].items()
    assert predictive_p_value(draws) > 1e-4  # false alarm 1e-4
    assert predictive_p_value(draws + 0.2) < 1e-4  # the twin
    # Without options there are as many as are asked for, and none twice.
    impute(unknown_mean, FEW, draws=6500, method="hmc")
    assert asked[1]["draws"] == 102
    with pytest.raises(ValueError, match=r"draws=3000\): the posterior has 160 draws; give options with more"):
        impute(unknown_mean, FEW, draws=3000, options={"chains": 4, "draws": 40})


def test_options_that_nobody_reads_are_refused():
    x = X.expand(3, 6)
    for method, options in {"guide": {"chains": 4}, "hmc": {"method": "smc"}}.items():
        with pytest.raises(ValueError, match="no weighted draws"):
            impute(make(Good), x, method=method, options=options)
    with pytest.raises(ValueError, match="imputed without chains"):
        impute(make(Good), x, options={"chains": 4})
    with pytest.raises(ValueError, match="ais has no option 'draws'"):
        impute(make(Good), x, method="ais", options={"draws": 4})


def test_options_of_the_annealing_reach_it(options_of):
    asked = options_of("posterior_draws")
    options = {"temperatures": 7, "start": "prior"}
    impute(make(Good), X.expand(3, 6), method="ais", options=options, draws=2)
    assert options.items() <= asked[0].items()


def test_what_hmc_sums_out_is_drawn_from_its_posterior():
    """The missing entry is from the upper component with probability (1 + 1) / (2 + 5): its mean is 4 * 2/7 - 2."""

    def mixture(x):
        weight = pyro.sample("weight", dist.Beta(1.0, 1.0))
        with plate(x):
            k = pyro.sample("k", dist.Bernoulli(weight), infer={"enumerate": "parallel"})
            return observe("x", dist.Normal(4 * k - 2, 1.0), x)

    x = torch.tensor([-2.4, -2.2, -2.5, -2.1, 2.3, math.nan])
    y = impute(mixture, x, draws=1600, options={"chains": 64, "draws": 100, "warmup": 200})
    # The assignments that are not quite certain change this by 1e-3. The standard deviation of a draw is
    # sqrt(1 + 16 * 2/7 * 5/7) = 2.07: 4 standard errors, a false alarm in 1.6e4.
    assert float(y[:, 5].mean()) == pytest.approx(4 * 2 / 7 - 2, abs=4 * 2.07 / 40)
    assert torch.equal(y[:, :5], x[:5].expand(1600, 5))


# ----------------------------------------------------------------------------------------------------------------------
# What the model returns


class Returning(Program):
    """Returns what ``out`` makes of the means, the completed data and x."""

    event_shape = torch.Size([2])

    def __init__(self, out):
        super().__init__()
        self.out = out

    def model(self, x):
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            halves = observe("x", dist.Normal(z / 2, 0.05).to_event(1), x / 2)  # halves of entries of x
            return self.out(z, 2 * halves, x)

    def guide(self, x):
        with self.plate(x):
            pyro.sample("z", dist.Normal(x.nan_to_num(), 0.1).to_event(1))


HOLES = torch.tensor([[0.3, torch.nan], [1.0, 2.0]])


@pytest.mark.parametrize(
    "verb", [lambda p: sample(p, 3), lambda p: impute(p, HOLES, draws=2)], ids=["sample", "impute"]
)
@pytest.mark.parametrize(
    ("out", "message"),
    [
        (lambda mean, y, x: mean, "returns something else than the data"),
        (lambda mean, y, x: mean + 0 * y, "returns something else than the data"),
        (lambda mean, y, x: x, "returns NaN for entries"),
        (lambda mean, y, x: torch.where(x.isnan(), y, x), None),
        (lambda mean, y, x: (2 * y) / 2, None),
    ],
    ids=["means", "means, disguised", "x", "completed", "completed, in other units between"],
)
def test_what_is_not_the_completed_data_is_refused(verb, out, message):
    if message is None:
        assert verb(Returning(out)).isfinite().all()
        return
    with pytest.raises(ValueError, match=message):
        verb(Returning(out))


def test_a_model_without_noise_returns_its_means():
    class Plain(Program):
        event_shape = torch.Size([2])

        def model(self, x):
            with self.plate(x):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                observe("x", dist.Delta(z).to_event(1), x)
                return z

    assert sample(Plain(), 3).unique().numel() == 6


class Clusters(Program):
    """Three clusters far apart, each with a direction; the guide leaves the cluster to be summed out."""

    event_shape = torch.Size([2])

    def model(self, x):
        loc = torch.tensor([[-20.0, 0.0], [0.0, 20.0], [20.0, 0.0]])
        with self.plate(x):
            k = pyro.sample("k", dist.Categorical(torch.ones(3)), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            return observe("x", dist.Normal(loc[k] + z.unsqueeze(-1), 0.1).to_event(1), x)

    def guide(self, x):
        with self.plate(x):
            pyro.sample("z", dist.Normal((x[:, 0] + 20.0) % 10, 0.01))


def test_what_a_guide_leaves_to_sums_is_decoded_at_draws_of_its_posterior():
    x = torch.tensor([[-20.0, 0.0], [1.0, 21.0], [20.5, 0.5]]).repeat(20, 1)
    assert bool((reconstruct(Clusters(), x) - x).abs().max() < 0.1)
