"""Generation and imputation by the density alone: of energy-based programs and of flows, against what is known."""

import math
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as transforms
import pytest
import torch
from torch import Tensor

import pyro_gen as pg
from pyro_gen._random import seeded
from pyro_gen.inference import unnormalised
from pyro_gen.inference.likelihood import ais

NAN = math.nan
N = 2000


class Tilted(pg.Program):
    """A standard normal base weighed by exp(3 x): N(3, 1), with log Z = 4.5."""

    event_shape = torch.Size([])

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            pg.observe("x", dist.Normal(0.0, 1.0), x)
            pyro.factor("tilt", 3 * x)
            return x


class Pair(pg.Program):
    """Two normal entries of correlation 0.8, the second weighed by exp(3 x_2)."""

    event_shape = torch.Size([2])

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            base = dist.MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.8], [0.8, 1.0]]))
            x = pg.observe("x", base, x)
            pyro.factor("tilt", 3 * x[:, 1])
            return x


class Modes(pg.Program):
    """Two narrow modes, at 3 and -3, the first with e times the mass of the second."""

    event_shape = torch.Size([1])

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            x = pg.observe("x", dist.Normal(torch.zeros(1), 3.0).to_event(1), x)
            pyro.factor("wells", -20 * (x.abs().squeeze(1) - 3).square() + (x.squeeze(1) > 0))
            return x


class Shifted(pg.Program):
    """N(0, 1) weighed by exp(c x) for the context c: N(c, 1)."""

    event_shape = torch.Size([])

    def model(self, x: Tensor, c: Tensor) -> Tensor:
        with self.plate(x):
            x = pg.observe("x", dist.Normal(0.0, 1.0), x)
            pyro.factor("tilt", c * x)
            return x


class Ising(pg.Program):
    """Nine spins on a square that like to agree, in a field."""

    event_shape = torch.Size([3, 3])

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            x = pg.observe("x", dist.Bernoulli(torch.full((3, 3), 0.5)).to_event(2), x)
            pyro.factor("energy", bonds(x))
            return x


def bonds(x: Tensor) -> Tensor:
    s = 2 * x - 1
    return 0.4 * ((s[:, 1:] * s[:, :-1]).sum((1, 2)) + (s[:, :, 1:] * s[:, :, :-1]).sum((1, 2))) + 0.1 * s.sum((1, 2))


STATES = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 9).reshape(-1, 3, 3)
WEIGHTS = bonds(STATES).double().softmax(0)


class Blocked(Ising):
    """The same with a kernel of its own: the black fields of the board, then the white ones."""

    calls = 0

    def kernel(self, x: Tensor, missing: Tensor, beta: float, *context: object) -> Tensor:
        Blocked.calls += 1
        for colour in (0, 1):
            s = torch.nn.functional.pad(2 * x - 1, (1, 1, 1, 1))
            near = s[..., :-2, 1:-1] + s[..., 2:, 1:-1] + s[..., 1:-1, :-2] + s[..., 1:-1, 2:]
            drawn = torch.bernoulli(torch.sigmoid(2 * beta * (0.4 * near + 0.1)))
            board = (torch.arange(3).unsqueeze(1) + torch.arange(3)) % 2 == colour
            x = torch.where(board & missing, drawn, x)
        return x


class Flow(pg.Program):
    """A Gaussian that does not say so."""

    event_shape = torch.Size([4])

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.register_buffer("loc", torch.randn(4))
        self.register_buffer(
            "factor", 0.5 * torch.randn(4, 4).tril(-1) + torch.diag(torch.tensor([1.0, 0.7, 0.5, 0.8]))
        )

    def model(self, x: Tensor) -> Tensor:
        base = dist.Normal(torch.zeros(4), 1.0).to_event(1)
        with self.plate(x):
            steps = [transforms.LowerCholeskyAffine(self.loc, self.factor)]
            return pg.observe("x", dist.TransformedDistribution(base, steps), x)


class Spline(pg.Program):
    """A flow of two neural splines."""

    event_shape = torch.Size([2])

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.flows = torch.nn.ModuleList([transforms.spline_coupling(2, count_bins=8) for _ in range(2)])

    def model(self, x: Tensor) -> Tensor:
        base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        steps = [self.flows[0], transforms.Permute(torch.tensor([1, 0])), self.flows[1]]
        with self.plate(x):
            return pg.observe("x", dist.TransformedDistribution(base, steps), x)


def normal_error(draws: Tensor, mean: float, sd: float) -> tuple[float, float]:
    """How far mean and standard deviation of draws are from the true ones, in standard errors."""
    n = len(draws)
    return (
        float(draws.mean() - mean) / (sd / n**0.5),
        float(draws.std() - sd) / (sd / (2 * n) ** 0.5),
    )


# Draws are resampled from four times as many chains, nearly independent: errors 1.1 times those of independent ones.
def test_a_tilted_normal_is_generated() -> None:
    errors = normal_error(pg.sample(Tilted(), N), 3.0, 1.0)
    assert max(map(abs, errors)) < 5  # false alarms: 1e-5


def test_modes_have_their_weights() -> None:
    x = pg.sample(Modes(), N, seed=1)
    assert abs(share_error(x)) < 5  # false alarms: 1e-5
    assert bool(((x.abs() - 3).abs() < 1).all())


def share_error(x: Tensor) -> float:
    """How far the share of the upper mode is from the true one, in standard errors: the base has the same at both."""
    p = math.e / (1 + math.e)
    return (float((x > 0).float().mean()) - p) / (p * (1 - p) / len(x)) ** 0.5


def test_twin_chains_that_are_not_weighed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ais, "resample", lambda log_w, draws: torch.arange(draws).unsqueeze(1) % len(log_w))
    assert abs(share_error(pg.sample(Modes(), N, seed=1))) > 5


def test_each_row_of_the_context_has_its_own_density() -> None:
    c = torch.tensor([-2.0, 0.0, 3.0]).repeat_interleave(200)
    x = pg.sample(Shifted(), 600, context=(c,))
    assert abs(float((x - c).mean())) < 5 / 600**0.5  # false alarms: 1e-5
    assert abs(float((x - c).var()) - 1) < 5 * (2 / 600) ** 0.5


@pytest.mark.parametrize("method", ["auto", "hmc"])
def test_one_of_two_correlated_entries_is_drawn_from_its_conditional(method: str) -> None:
    x = torch.tensor([[1.0, NAN], [NAN, 0.5], [1.0, 2.0]])
    options = {"chains": 64, "draws": 40, "warmup": 100} if method == "hmc" else None
    y = pg.impute(Pair(), x, draws=N, method=method, options=options)
    # x_2 given x_1 = 1 is N(0.8 + 3 * 0.36, 0.36); x_1 given x_2 = 0.5 does not see the factor: N(0.4, 0.36).
    for draws, mean in ((y[:, 0, 1], 1.88), (y[:, 1, 0], 0.4)):
        assert max(map(abs, normal_error(draws, mean, 0.6))) < 5  # false alarms: 4e-5
    assert bool((y[:, 2] == x[2]).all()) and bool((y[:, 0, 0] == 1.0).all())


@pytest.mark.parametrize("draws", [N, 300])
def test_spins_are_generated_and_imputed_as_by_enumeration(draws: int) -> None:
    options = None if draws == N else {"chains": draws}  # which ask for chains of Gibbs sampling
    x = pg.sample(Ising(), draws, options=options).double()
    for statistic in (lambda s: s.sum((1, 2)), lambda s: s[:, 0, 0] * s[:, 0, 1]):
        assert_mean(statistic(x), statistic(STATES.double()), WEIGHTS)
    holes = torch.full((2, 3, 3), NAN)
    holes[0, 0] = 1.0
    holes[1, :, 2] = 0.0
    y = pg.impute(Ising(), holes, draws=draws, options=options).double()
    for n in range(2):
        seen = ~holes[n].isnan()
        agrees = (holes[n] == STATES)[:, seen].all(1)
        given = torch.where(agrees, WEIGHTS, 0.0)
        assert_mean(y[:, n].sum((1, 2)), STATES.double().sum((1, 2)), given / given.sum())
        assert bool((y[:, n][:, seen] == holes[n][seen]).all())


def assert_mean(draws: Tensor, values: Tensor, weights: Tensor) -> None:
    mean = float((weights * values).sum())
    error = float((weights * (values - mean).square()).sum().sqrt()) / len(draws) ** 0.5
    assert abs(float(draws.mean()) - mean) < 5.5 * error  # false alarms: 1e-6 each


def test_a_program_brings_its_own_kernel() -> None:
    Blocked.calls = 0
    x = pg.sample(Blocked(), N, options={"chains": N}).double()
    assert Blocked.calls > 100
    assert_mean(x.sum((1, 2)), STATES.double().sum((1, 2)), WEIGHTS)


# Particles are states of the same chains: draws are worth half as many, and 7 errors are 5. False alarms: 1e-5.
@pytest.mark.parametrize("tempered", [True, False])
def test_half_of_a_flow_is_imputed(tempered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = Flow()
    x = torch.tensor([[0.5, NAN, NAN, -1.0], [NAN, 0.3, NAN, 0.8]])
    if not tempered:  # the twin: where particles start, at a normal law that is wider
        monkeypatch.setattr(unnormalised, "smc_draws", at_the_start)
    y = pg.impute(flow, x, draws=N)
    z_scores = []
    covariance = flow.factor @ flow.factor.T
    for n in range(2):
        seen = (~x[n].isnan()).nonzero()[:, 0]
        miss = x[n].isnan().nonzero()[:, 0]
        gain = covariance[miss][:, seen] @ torch.linalg.inv(covariance[seen][:, seen])
        mean = flow.loc[miss] + gain @ (x[n, seen] - flow.loc[seen])
        spread = covariance[miss][:, miss] - gain @ covariance[seen][:, miss]
        for i, entry in enumerate(miss):
            z_scores += normal_error(y[:, n, entry], float(mean[i]), float(spread[i, i].sqrt()))
        a, b = (y[:, n, entry] - mean[i] for i, entry in enumerate(miss))
        error = float((spread[0, 0] * spread[1, 1] + spread[0, 1] ** 2).sqrt()) / N**0.5
        z_scores.append(float((a * b).mean() - spread[0, 1]) / error)
    assert (max(map(abs, z_scores)) < 7) is tempered


def at_the_start(target: Any, draws: int, moves: int, seed: int, islands: int, **options: Any) -> Any:
    """Draws of sequential Monte Carlo that has not begun."""
    with seeded(seed):
        z = target.sample_prior(draws)
    log_z = torch.zeros(islands, *z.shape[1:2], dtype=torch.float64)
    return z, SimpleNamespace(diagnostics={"islands": log_z})


def test_a_row_where_no_particle_can_be_is_told() -> None:
    with pytest.raises(ValueError, match="impute: of some row no particle has a finite density"):
        pg.impute(Flow(), torch.tensor([[1e30, NAN, NAN, -1.0]]), draws=5)


def test_islands_that_do_not_agree_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unnormalised, "FEWEST_ISLANDS", 100)
    with pytest.warns(UserWarning, match="islands do not agree about 1 of 1 rows"):
        pg.impute(Flow(), torch.tensor([[0.5, NAN, NAN, -1.0]]), draws=5)


def test_the_likelihood_of_the_seen_half_of_a_flow() -> None:
    flow = Flow()
    x = torch.tensor([[0.5, NAN, NAN, -1.0], [NAN, 0.3, NAN, 0.8], [0.1, 0.2, 0.3, 0.4]])
    found = pg.log_likelihood(flow, x, chains=256)
    covariance = flow.factor @ flow.factor.T
    for n in range(3):
        seen = (~x[n].isnan()).nonzero()[:, 0]
        law = dist.MultivariateNormal(flow.loc[seen], covariance[seen][:, seen])
        error = max(float(found.standard_error[n]), 1e-5)
        assert abs(float(found.value[n]) - float(law.log_prob(x[n, seen]))) < 4.5 * error  # false alarms: 2e-5
    assert bool((found.standard_error < 0.05).all()) and found.method == "ais"
    with pytest.raises(ValueError, match="cannot be integrated out in closed form"):
        pg.log_likelihood(flow, x, method="exact")


def test_chains_that_do_not_count_are_warned_of() -> None:
    class Far(Tilted):
        def model(self, x: Tensor) -> Tensor:
            with self.plate(x):
                x = pg.observe("x", dist.Normal(0.0, 1.0), x)
                pyro.factor("needle", -5e5 * (x - 4).square())
                return x

    with pytest.warns(UserWarning, match="count by their weights"):
        pg.sample(Far(), 100, options={"temperatures": 2})


class NoBase(pg.Program):
    event_shape = torch.Size([2])

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            pyro.factor("energy", -x.square().sum(-1))
            return x


class Global(pg.Program):
    """An energy with a global latent variable: the constant of p(x | w) depends on w."""

    event_shape = torch.Size([])

    def model(self, x: Tensor) -> Tensor:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with self.plate(x):
            x = pg.observe("x", dist.Normal(0.0, 1.0), x)
            pyro.factor("tilt", w * x)
            return x


X = torch.tensor([[0.5, 1.0], [NAN, 2.0]])


@pytest.mark.parametrize(
    ("verb", "message"),
    [
        (lambda: pg.sample(NoBase(), 3), "no base distribution"),
        (lambda: pg.log_partition(NoBase()), "no base distribution"),
        (lambda: pg.sample(Global(), 3), "pg.posterior draws these"),
        (lambda: pg.log_partition(Global()), "on which log Z of the data depends"),
        (lambda: pg.log_likelihood(Global(), X[:, 1]), "beside the latent variable 'w'"),
        (lambda: pg.reconstruct(Pair(), X[:1]), "pg.impute draws missing entries"),
        (lambda: pg.posterior(Pair(), X[:1]), "without latent variables there is no posterior"),
        (lambda: pg.log_evidence(Pair(), X[:1]), "pg.log_partition the constant"),
        (lambda: pg.log_likelihood(Pair(), X[:1], method="iwae"), "its likelihood needs log Z"),
        (lambda: pg.bdmc(Pair(), 4), "pg.log_partition puts log Z between two bounds"),
        (lambda: pg.sbc(Pair(), (4, 2), simulations=4), "what its model draws does not follow its density"),
        (lambda: pg.sample(Flow(), 4, options={"chains": 5}), "is for the chains of unnormalised programs"),
    ],
)
def test_what_a_verb_cannot_do_names_what_does(verb: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        verb()


@pytest.mark.parametrize("seen", [0, 1])
def test_an_entry_of_a_spline_flow_is_imputed_and_the_chains_run_at_once(seen: int) -> None:
    flow = Spline()
    x = torch.zeros(10, 2)
    x[3, 1 - seen], x[3, seen] = NAN, 0.7
    done: list[float] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as that chains come one by one
        y = pg.impute(flow, x, draws=500, options={"temperatures": 60}, progress=done.append)
    y = y[:, 3, 1 - seen].contiguous()
    assert done == sorted(done) and done[-1] == pytest.approx(1.0)
    grid = torch.linspace(-8, 8, 4001)
    rows = torch.full((4001, 2), 0.7)
    rows[:, 1 - seen] = grid
    p = pg.log_likelihood(flow, rows).value.softmax(0)
    # The ranks of draws are uniform; resampled from four times as many chains: 1.1 times the error. False alarms: 1e-4.
    ranks = p.cumsum(0)[torch.searchsorted(grid, y).clamp(max=4000)]
    assert abs(float(ranks.mean()) - 0.5) < 4 * 1.1 / (12 * 500) ** 0.5
    assert abs(float((ranks - 0.5).square().mean()) - 1 / 12) < 4 * 1.1 / (180 * 500) ** 0.5
    # The twin: draws of the entry alone, whatever was seen beside it.
    ranks = p.cumsum(0)[torch.searchsorted(grid, pg.sample(flow, 500)[:, 1 - seen].contiguous()).clamp(max=4000)]
    assert abs(float((ranks - 0.5).square().mean()) - 1 / 12) > 4 * 1.1 / (180 * 500) ** 0.5


class Learnt(pg.Program):
    """A standard normal base weighed by exp(w x), with a global w."""

    event_shape = torch.Size([])

    def model(self, x: Tensor) -> Tensor:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with self.plate(x):
            x = pg.observe("x", dist.Normal(0.0, 1.0), x)
            pyro.factor("tilt", w * x)
            return x


@pytest.mark.parametrize(
    ("program", "verb", "words"),
    [
        (Learnt, lambda p: pg.predict(p, 3), r"predict: Learnt is unnormalised .* pg.posterior draws these"),
        (Learnt, lambda p: pg.loo(p, torch.zeros(3), posterior={"w": torch.zeros(5)}), "loo: Learnt is unnormalised"),
        (Learnt, lambda p: pg.sbc(p, torch.zeros(3)), r"sbc: Learnt is unnormalised .* pg.posterior draws latent"),
        (
            Tilted,
            lambda p: pg.loo(p, torch.zeros(3), posterior={"w": torch.zeros(5)}),
            r"pg.log_likelihood\(program, x",
        ),
        (Tilted, lambda p: pg.sbc(p, torch.zeros(3)), "sbc: Tilted is unnormalised .* pg.log_partition says"),
    ],
)
def test_verbs_of_posteriors_say_what_applies(
    program: type[pg.Program], verb: Callable[[pg.Program], object], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        verb(program())


def test_what_is_predicted_of_a_tilted_normal_is_generated() -> None:
    errors = normal_error(pg.predict(Tilted(), 1, draws=N)[:, 0], 3.0, 1.0)
    assert max(map(abs, errors)) < 5  # false alarms: 1e-5
