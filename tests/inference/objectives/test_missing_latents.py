"""Missing values that feed a later density are latent variables: against enumeration, quadrature and closed forms."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_gen as pg
from pyro_gen.density import density
from pyro_gen.density import missing as missing_module
from pyro_gen.density.missing import LatentMissing, find_latent_missing
from pyro_gen.inference.objectives import ELBO, IWAE, DReG, EnumELBO, Objective, ScoreFunctionELBO
from pyro_gen.traces import sample_sites

NAN = math.nan


class Issue(pg.Program):
    """A binary value, then a normal one around 2 or -2."""

    support = ((0.0, 1.0), None)

    def __init__(self, slope=4.0):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def model(self, x):
        with self.plate(x):
            a = pg.observe("a", dist.Bernoulli(0.5).expand([len(x)]), x[:, 0])
            b = pg.observe("b", dist.Normal(self.slope * a - 2, 1.0), x[:, 1])
            return torch.stack([a, b], -1)


class Chain(pg.Program):
    """A Markov chain of three states, written in a loop, with an index into a table."""

    support = ((0.0, 1.0, 2.0),) * 4

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(3)))

    def model(self, x):
        state, values = torch.zeros(len(x)), []
        with self.plate(x):
            for t in range(4):
                state = pg.observe(f"x{t}", dist.Categorical(logits=self.table[t][state.long()]), x[:, t])
                values.append(state)
        return torch.stack(values, -1)


class Label(pg.Program):
    """A label, then an image of two pixels, one of which depends on a bit too."""

    support = ((0.0, 1.0, 2.0), (0.0, 1.0), None, None)

    def __init__(self):
        super().__init__()
        self.means = nn.Parameter(torch.randn(3, 2, generator=torch.Generator().manual_seed(1)))
        self.weights = nn.Parameter(torch.tensor([0.2, 1.0, -0.5]))

    def model(self, x):
        with self.plate(x):
            y = pg.observe("y", dist.Categorical(logits=self.weights), x[:, 0])
            bit = pg.observe("bit", dist.Bernoulli(torch.sigmoid(y - 1)), x[:, 1])  # y feeds two others
            loc = self.means[y.long()] + torch.stack([torch.zeros(len(x)), bit], -1)
            image = pg.observe("image", dist.Normal(loc, 0.7).to_event(1), x[:, 2:])
        return torch.cat([y.unsqueeze(-1), bit.unsqueeze(-1), image], -1)


class Bits(pg.Program):
    """Three bits in one event, of which some may be missing, feed a number."""

    support = ((0.0, 1.0),) * 3 + (None,)

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))

    def model(self, x):
        with self.plate(x):
            bits = pg.observe("bits", dist.Bernoulli(torch.tensor([0.3, 0.6, 0.5])).to_event(1), x[:, :3])
            y = pg.observe("y", dist.Normal(bits @ self.weights, 0.5), x[:, 3])
        return torch.cat([bits, y.unsqueeze(-1)], -1)


FINITE = [Issue, Chain, Label, Bits]


def complete_log_joint(program, x):
    """The log-density of data without holes, as plain Pyro has it, (N,)."""
    trace = pyro.poutine.trace(program.model).get_trace(x)
    trace.compute_log_prob()
    return sum(s["log_prob"] for s in sample_sites(trace).values())


def completions_of(program, row):
    """All completions of the discrete missing entries of a row, and the log-densities of what was seen with them."""
    holes = [d for d in range(len(row)) if row[d].isnan() and program.support[d] is not None]
    rows = []
    for values in itertools.product(*(program.support[d] for d in holes)):
        full = row.clone()
        full[holes] = torch.tensor(values)
        rows.append(full)
    rows = torch.stack(rows)
    number = [d for d in range(len(row)) if row[d].isnan() and program.support[d] is None]
    if not number:
        return rows, complete_log_joint(program, rows)
    grid = torch.linspace(-15, 15, 3001)  # a missing number is integrated out by quadrature
    lines = rows.unsqueeze(1).repeat(1, len(grid), 1)
    lines[:, :, number[0]] = grid
    values = complete_log_joint(program, lines.flatten(0, 1)).reshape(len(rows), -1)
    return rows, values.logsumexp(1) + math.log(30 / 3000)


def patterns(program, seed=0):
    """A row with each pattern of holes, with at most one missing number that is no latent variable."""
    torch.manual_seed(seed)
    d = len(program.support)
    nothing = torch.full((2**d, d), NAN)
    with torch.no_grad():
        full = program.model(nothing).detach()
    rows = torch.stack([torch.tensor([bool(i >> j & 1) for j in range(d)]) for i in range(2**d)])
    keep = (rows & torch.tensor([s is None for s in program.support])).sum(1) <= 1
    return torch.where(rows, torch.tensor(NAN), full)[keep]


def exact(program, x):
    return torch.stack([completions_of(program, row)[1].logsumexp(0) for row in x])


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("make", FINITE)
def test_likelihoods_equal_enumeration(make, double):
    program = make()
    x = patterns(program)
    found = pg.log_likelihood(program, x)
    assert found.kind == "exact"
    with torch.no_grad():
        assert torch.allclose(found.value, exact(program, x), atol=1e-9)


def test_the_example_of_the_issue():
    x = torch.tensor([[NAN, 2.0], [NAN, -2.0], [1.0, NAN], [NAN, NAN]])
    y = pg.impute(Issue(), x, draws=1500)
    # P(a = 1 | b) = sigmoid(4 b): 1 - 3e-4 and 3e-4; 1500 draws have 8 others or more less than once in 1e6.
    assert y[:, 0, 0].mean() > 1 - 8 / 1500 and y[:, 1, 0].mean() < 8 / 1500
    assert abs(y[:, 2, 1].mean() - 2) < 4.5 / 1500**0.5 and abs(y[:, 3, 0].mean() - 0.5) < 4.5 * 0.5 / 1500**0.5


@pytest.mark.parametrize("make", FINITE[1:])
def test_imputations_have_the_posterior_of_enumeration(make):
    program, draws = make(), 400
    x = patterns(program)
    x = x[x.isnan().any(1) & ~x.isnan().all(1)][::3]
    y = pg.impute(program, x, draws=draws)
    for n, row in enumerate(x):
        with torch.no_grad():
            rows, log_p = completions_of(program, row)
        p = log_p.softmax(0)
        holes = [d for d in range(len(row)) if row[d].isnan() and program.support[d] is not None]
        for d in holes:
            mean = (p * rows[:, d]).sum()
            error = ((p * rows[:, d].square()).sum() - mean**2).clamp(min=1e-4).sqrt() / draws**0.5
            # Some 20 comparisons at 5 standard errors: a false alarm once in 8e4; more often where p is near 0 or 1.
            assert abs(y[:, n, d].mean() - mean) < 5 * error, (n, d)


def test_twin_drawn_from_its_own_conditional_is_caught(monkeypatch):
    monkeypatch.setattr(missing_module, "find_latent_missing", lambda program, *data: LatentMissing(program, (), {}))
    with pytest.raises(AssertionError):
        test_the_example_of_the_issue()


# ----------------------------------------------------------------------------------------------------------------------
# Training


def objectives():
    return [ELBO(), ELBO(num_particles=3), IWAE(4), EnumELBO(), ScoreFunctionELBO(baseline=None)]


@pytest.mark.parametrize("objective", objectives(), ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("make", FINITE)
def test_training_sums_out_what_is_missing(make, objective, double):
    program = make()
    x = patterns(program)
    loss = objective.loss(program, x)
    expected = -exact(program, x).sum()
    assert torch.allclose(loss, expected, rtol=1e-10)
    parameters = list(program.parameters())
    for got, want in zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), strict=True):
        assert torch.allclose(got, want, rtol=1e-7, atol=1e-7)


def issue_data(n=600):
    generator = torch.Generator().manual_seed(0)
    a = (torch.rand(n, generator=generator) < 0.5).float()
    x = torch.stack([a, 4 * a - 2 + torch.randn(n, generator=generator)], -1)
    x[torch.rand(n, generator=generator) < 0.5, 0] = NAN
    return x


@pytest.mark.parametrize("compile", ["trace", False])
def test_the_slope_of_the_issue_is_found(compile):
    program = Issue(3.0)
    x = issue_data()
    pg.fit(program, x, epochs=12, batch_size=100, lr=0.1, schedule="cosine", compile=compile, progress=False)
    # It is known to 1 / sqrt(300) = .058; draws from its own conditional give about 3.
    assert program.slope.item() == pytest.approx(4.0, abs=0.2)


def test_minibatches_average_to_the_full_loss():
    x = issue_data(60)
    program = Issue(3.0)
    with pg.program.data_size(60):
        parts = torch.stack([ELBO().loss(program, x[i : i + 20]) for i in (0, 20, 40)])
    assert torch.allclose(parts.mean(), ELBO().loss(program, x), rtol=1e-5)


def test_a_loss_of_ones_own_is_served_too():
    from pyro_gen.inference.objectives.pairs import trace_pair_with_missing

    class Own(Objective):
        def loss(self, program, x, *context, kl_weight=1.0):
            trace, _ = trace_pair_with_missing(program, x, *context)
            trace.compute_log_prob()
            return -sum(s["log_prob"].sum() for s in trace.nodes.values() if s["type"] == "sample" and "log_prob" in s)

    x = issue_data(20)
    assert torch.allclose(Own().loss(Issue(), x), -exact(Issue(), x).sum(), rtol=1e-5)


class Semi(pg.Program):
    """A label, a latent variable around its place, and what is seen of it: x_1 | y ~ N(place_y, s^2 + .25)."""

    def __init__(self, guided=True):
        super().__init__()
        self.place = nn.Parameter(torch.tensor([-1.0, 0.0, 2.0]))
        self.guided = guided

    def model(self, x):
        with self.plate(x):
            y = pg.observe("y", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])), x[:, 0])
            z = pyro.sample("z", dist.Normal(self.place[y.long()], 1.0))
            v = pg.observe("v", dist.Normal(z, 0.5), x[:, 1])
        return torch.stack([y, v], -1)

    def guide(self, x):
        with self.plate(x):
            pyro.sample("z", dist.Normal(x[:, 1].nan_to_num(0.5), torch.where(x[:, 1].isnan(), 1.5, 0.6)))

    def exact(self, x):
        """log p(x), (N,), and P(y | v), (N, 3)."""
        prior = torch.tensor([0.2, 0.3, 0.5]).log()
        v = dist.Normal(self.place, 1.25**0.5).log_prob(x[:, 1:].nan_to_num()) * ~x[:, 1:].isnan()
        joint = prior + v
        known = joint.gather(1, x[:, :1].nan_to_num().long())[:, 0]
        return torch.where(x[:, 0].isnan(), joint.logsumexp(1), known), joint.softmax(1)


SEMI = torch.tensor([[NAN, 2.0], [NAN, -2.0], [1.0, NAN], [0.0, 1.0], [NAN, NAN], [2.0, 1.5]])


@pytest.mark.parametrize("method", ["iwae", "ais"])
def test_a_child_that_is_a_latent_variable(method):
    program = Semi()
    options = {"chains": 400} if method == "ais" else {"num_particles": 2000}
    found = pg.log_likelihood(program, SEMI, method=method, **options)
    value = program.exact(SEMI)[0].detach()
    # Six rows at 4.5 standard errors: a false alarm once in 2e4.
    assert ((found.value - value).abs() < 4.5 * found.standard_error + 1e-4).all(), (found.value, value)


@pytest.mark.parametrize("method", ["guide", "ais"])
def test_its_imputations(method):
    program, draws = Semi(), 1500
    y = pg.impute(program, SEMI, draws=draws, method=method, num_proposals=4000)
    p = program.exact(SEMI)[1].detach()
    for n in (0, 1, 4):
        for k in range(3):
            error = (p[n, k] * (1 - p[n, k]) / draws).sqrt()
            # Resampled from 4000 proposals the draws are worth about half: 9 comparisons at 5 standard errors of that.
            assert abs((y[:, n, 0] == k).float().mean() - p[n, k]) < 5 * 1.5 * error + 1e-3


def test_training_with_latent_variables_in_guide_and_holes_in_the_label():
    """IWAE of many particles is the exact likelihood; the ELBO is below it, and its gradient that of its own mean."""
    program = Semi()
    x = SEMI[:4]
    value = program.exact(x)[0].sum()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        bound = -IWAE(20000).loss(program, x)
        elbo = -ELBO(2000).loss(program, x)
    assert bound.item() == pytest.approx(value.item(), abs=0.05)
    assert elbo < value
    (got,) = torch.autograd.grad(bound, program.place)
    (want,) = torch.autograd.grad(value, program.place)
    assert torch.allclose(got, want, atol=0.05)


# ----------------------------------------------------------------------------------------------------------------------
# Numbers


class Walk(pg.Program):
    """x_t = .8 x_{t-1} + noise."""

    def __init__(self, slope=0.8, length=3):
        super().__init__()
        self.slope, self.length = nn.Parameter(torch.tensor(slope)), length

    def model(self, x):
        last, values = torch.zeros(len(x)), []
        with self.plate(x):
            for t in range(self.length):
                last = pg.observe(f"x{t}", dist.Normal(self.slope * last, 1.0), x[:, t])
                values.append(last)
        return torch.stack(values, -1)

    def covariance(self):
        inverse = torch.eye(self.length) - self.slope * torch.diag(torch.ones(self.length - 1), -1)
        return torch.linalg.inv(inverse.T @ inverse)

    def exact(self, x):
        trace = pyro.poutine.trace(
            lambda: pg.observe("x", dist.MultivariateNormal(torch.zeros(self.length), self.covariance()), x)
        ).get_trace()
        trace.compute_log_prob()
        return trace.nodes["x"]["log_prob"]


WALK = torch.tensor([[NAN, 2.0, 1.0], [NAN, NAN, -2.0], [1.0, NAN, 3.0], [0.0, 1.0, NAN], [1.0, NAN, NAN], [NAN] * 3])


@pytest.mark.parametrize("method", ["auto", "iwae"])
def test_a_chain_of_numbers(method):
    program = Walk()
    options = {"chains": 400} if method == "auto" else {"num_particles": 2000}
    found = pg.log_likelihood(program, WALK, method=method, **options)
    assert found.method == ("ais" if method == "auto" else "iwae")
    # Six rows at 4.5 standard errors: a false alarm once in 2e4.
    assert ((found.value - program.exact(WALK).detach()).abs() < 4.5 * found.standard_error + 1e-4).all()


def test_imputations_of_a_chain_of_numbers():
    program, draws = Walk(), 1000
    y = pg.impute(program, WALK, draws=draws)
    covariance = program.covariance().detach()
    for n, row in enumerate(WALK):
        o, m = ~row.isnan(), row.isnan()
        gain = covariance[m][:, o] @ torch.linalg.inv(covariance[o][:, o]) if o.any() else torch.zeros(int(m.sum()), 0)
        mean = gain @ row[o]
        spread = (covariance[m][:, m] - gain @ covariance[o][:, m]).diagonal().sqrt()
        # Draws that are resampled and moved on are worth about half: 11 comparisons at 5 standard errors of that.
        assert ((y[:, n, m].mean(0) - mean).abs() < 5 * 1.5 * spread / draws**0.5).all(), n


def test_what_feeds_only_what_is_missing_is_no_latent_variable():
    x = torch.tensor([[0.5, 1.0, NAN], [0.2, NAN, NAN]])
    handler = find_latent_missing(Walk(), x)
    assert handler.names == () and set(handler.barren) == {"x1"}
    found = pg.log_likelihood(Walk(), x)
    assert found.kind == "exact" and torch.allclose(found.value.float(), Walk().exact(x), atol=1e-5)
    assert find_latent_missing(Chain(), torch.tensor([[0.0, 1.0, NAN, NAN]])).names == ()
    assert pg.log_likelihood(Chain(), torch.tensor([[0.0, 1.0, NAN, NAN]])).value.isfinite().all()


def test_sites_that_feed_nothing_are_left_to_be_marginalised():
    class Two(pg.Program):
        def model(self, x):
            with self.plate(x):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                a = pg.observe("a", dist.Normal(z, 1.0), x[:, 0])
                b = pg.observe("b", dist.Normal(-z, 1.0), x[:, 1])
            return torch.stack([a, b], -1)

    assert find_latent_missing(Two(), torch.tensor([[NAN, 1.0], [1.0, NAN]])).names == ()


def test_a_rare_gate_is_found():
    """The second number depends on the first far out alone, where hardly a draw comes."""

    class Gate(pg.Program):
        def model(self, x):
            with self.plate(x):
                a = pg.observe("a", dist.Normal(0.0, 1.0).expand([len(x)]), x[:, 0])
                b = pg.observe("b", dist.Normal((a - 6).clamp(min=0), 1.0), x[:, 1])
            return torch.stack([a, b], -1)

    assert find_latent_missing(Gate(), torch.tensor([[NAN, 1.0]])).names == ("a",)


@pytest.mark.parametrize("objective", [ELBO(), ScoreFunctionELBO(), IWAE(1), DReG(3)], ids=lambda o: type(o).__name__)
def test_loose_bounds_are_refused(objective):
    with pytest.raises(ValueError, match=r"sample 'x0.missing' in the guide"):
        objective.loss(Walk(), WALK[:1])


def test_many_draws_of_the_model_train():
    """Half of the middle of each walk is missing: IWAE finds the slope, and the ELBO refuses."""
    generator = torch.Generator().manual_seed(1)
    noise, columns = torch.randn(500, 3, generator=generator), [torch.zeros(500)]
    for t in range(3):
        columns.append(1.5 * columns[-1] + noise[:, t])
    x = torch.stack(columns[1:], -1)
    x[torch.rand(500, generator=generator) < 0.5, 1] = NAN
    program, best = Walk(1.0), Walk(1.0)
    pg.fit(program, x, objective=IWAE(30), epochs=30, batch_size=250, lr=0.05, schedule="cosine", progress=False)
    grid = torch.linspace(1.2, 1.8, 61)
    values = []
    for slope in grid:
        best.slope.data.copy_(slope)
        values.append(best.exact(x).sum().item())
    top = grid[torch.tensor(values).argmax()]
    assert program.slope.item() == pytest.approx(top.item(), abs=0.02)


class GuidedWalk(Walk):
    """Two steps, with the posterior of the first given the second for a guide: the ELBO is the likelihood."""

    def __init__(self):
        super().__init__(0.8, 2)

    def guide(self, x):
        seen = ~x[:, 1].isnan()
        precision = 1 + self.slope**2 * seen
        with self.plate(x):
            pyro.sample("x0.missing", dist.Normal(self.slope * x[:, 1].nan_to_num() / precision, precision**-0.5))


def test_a_guide_that_samples_what_is_missing():
    program, x = GuidedWalk(), torch.tensor([[NAN, 2.0], [NAN, -1.0]])
    for objective in (ELBO(analytic_kl=False), IWAE(3), DReG(3)):
        assert torch.allclose(objective.loss(program, x), -program.exact(x).sum(), rtol=1e-5)


# ----------------------------------------------------------------------------------------------------------------------
# Events of which a part is missing, posteriors, reconstruction


class Pair(pg.Program):
    """A pair of correlated numbers feeds a third, the sum of both with noise: all of it is one Gaussian."""

    covariance = torch.tensor([[1.0, 0.7], [0.7, 1.5]])

    def model(self, x):
        with self.plate(x):
            a = pg.observe("a", dist.MultivariateNormal(torch.zeros(2), self.covariance), x[:, :2])
            b = pg.observe("b", dist.Normal(a.sum(-1), 0.5), x[:, 2])
        return torch.cat([a, b.unsqueeze(-1)], -1)

    def exact(self, x):
        lift = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        covariance = lift @ self.covariance @ lift.T + torch.diag(torch.tensor([0.0, 0.0, 0.25]))
        rows = []
        for row in x:
            o = ~row.isnan()
            rows.append(dist.MultivariateNormal(torch.zeros(int(o.sum())), covariance[o][:, o]).log_prob(row[o]))
        return torch.stack(rows)


def test_a_part_of_a_gaussian_event_is_drawn_given_the_rest():
    x = torch.tensor([[NAN, 1.0, 2.0], [0.5, NAN, -1.0], [NAN, NAN, 1.0], [1.0, 0.0, 1.0]])
    found = pg.log_likelihood(Pair(), x, chains=400)
    assert ((found.value - Pair().exact(x)).abs() < 4.5 * found.standard_error + 1e-4).all()


def test_a_law_that_is_not_known_is_refused():
    class Simplex(pg.Program):
        def model(self, x):
            with self.plate(x):
                a = pg.observe("a", dist.Multinomial(5, torch.ones(3)), x[:, :3])
                b = pg.observe("b", dist.Normal(a[:, 0], 0.5), x[:, 3])
            return torch.cat([a, b.unsqueeze(-1)], -1)

    with pytest.raises(ValueError, match="part of"):
        pg.log_likelihood(Simplex(), torch.tensor([[1.0, NAN, 2.0, 1.0]]))


def regression(x):
    """A slope for all rows; a bit, missing in some, tells which mean a row has."""
    slope = pyro.sample("slope", dist.Normal(0.0, 3.0))
    with pg.plate(x):
        a = pg.observe("a", dist.Bernoulli(0.3).expand([len(x)]), x[:, 0])
        b = pg.observe("b", dist.Normal(slope * a, 1.0), x[:, 1])
    return torch.stack([a, b], -1)


REGRESSION = torch.tensor([[1.0, 2.0], [0.0, -0.3], [NAN, 2.5], [NAN, 0.1], [NAN, 1.4], [1.0, 2.2]])


def grid_posterior():
    grid = torch.linspace(-6, 8, 2801)
    log_p = dist.Normal(0.0, 3.0).log_prob(grid)
    for a, b in REGRESSION:
        one = math.log(0.3) + dist.Normal(grid, 1.0).log_prob(b)
        none = math.log(0.7) + dist.Normal(0.0, 1.0).log_prob(b)
        log_p = log_p + (torch.logaddexp(one, none.expand_as(one)) if a.isnan() else (one if a else none))
    p = log_p.softmax(0)
    mean = (p * grid).sum()
    evidence = log_p.logsumexp(0) + math.log(14 / 2800)
    ones = []
    for _, b in REGRESSION[2:5]:
        one = math.log(0.3) + dist.Normal(grid, 1.0).log_prob(b)
        none = math.log(0.7) + dist.Normal(0.0, 1.0).log_prob(b)
        ones.append((p * torch.sigmoid(one - none)).sum())
    return mean, (p * (grid - mean) ** 2).sum().sqrt(), evidence, torch.stack(ones)


@pytest.mark.parametrize("as_program", [True, False])
def test_posterior_and_evidence_with_a_global_latent_variable(as_program):
    program = pg.Program.from_functions(regression) if as_program else regression
    mean, spread, evidence, _ = grid_posterior()
    found = pg.posterior(program, REGRESSION, chains=32, draws=100, warmup=150, progress=False).posterior["slope"]
    # 3200 draws, worth at least 1000: 4.5 standard errors.
    assert float(found.mean()) == pytest.approx(mean.item(), abs=4.5 * spread.item() / 1000**0.5)
    value = pg.log_evidence(program, REGRESSION)
    assert abs(value.value - evidence) < 4.5 * value.standard_error + 1e-3


def test_imputations_with_a_global_latent_variable():
    ones = grid_posterior()[3]
    y = pg.impute(regression, REGRESSION, draws=1500, options={"chains": 64, "draws": 40, "warmup": 150})
    assert ((y[:, 2:5, 0].mean(0) - ones).abs() < 5 * (ones * (1 - ones) / 1000).sqrt()).all()


def test_the_density_sums_over_the_values():
    program = pg.Program.from_functions(regression)
    target = density(program, REGRESSION)
    assert target.names == ("slope",) and not target.per_datum
    z = torch.tensor([[-1.0], [0.5], [2.0]])
    expected = []
    for slope in z[:, 0]:
        total = 0.0
        for a, b in REGRESSION:
            one = math.log(0.3) + dist.Normal(slope, 1.0).log_prob(b)
            none = math.log(0.7) + dist.Normal(0.0, 1.0).log_prob(b)
            total = total + (torch.logaddexp(one, none) if a.isnan() else (one if a else none))
        expected.append(total)
    assert torch.allclose(target.log_likelihood(z), torch.stack(expected), atol=1e-5)
    assert torch.allclose(target.log_prior(z), dist.Normal(0.0, 3.0).log_prob(z[:, 0]), atol=1e-6)


class Long(pg.Program):
    """Twenty bits, each as the one before it with probability sigmoid(2)."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def model(self, x):
        bit, values = torch.zeros(len(x)), []
        with self.plate(x):
            for t in range(20):
                bit = pg.observe(f"x{t}", dist.Bernoulli(logits=self.weight * (2 * bit - 1)), x[:, t])
                values.append(bit)
        return torch.stack(values, -1)


def test_more_joint_values_than_can_be_summed_over():
    x = torch.full((2, 20), NAN)
    x[:, 19] = torch.tensor([1.0, 0.0])
    stay = torch.sigmoid(torch.tensor(2.0))
    step = torch.stack([torch.stack([stay, 1 - stay]), torch.stack([1 - stay, stay])])
    power = torch.linalg.matrix_power
    found = pg.log_likelihood(Long(), x)
    expected = torch.stack([power(step, 20)[0, 1], power(step, 20)[0, 0]]).log()
    assert found.method == "iwae" and ((found.value - expected).abs() < 4.5 * found.standard_error).all()
    y = pg.impute(Long(), x, draws=400)
    # P(x_t = 1 | x_19): 4 comparisons at 5 standard errors of draws worth half as many.
    for t in (9, 18):
        joint = power(step, t + 1)[0, 1] * power(step, 19 - t)[1]  # with x_19 = 0 and 1
        p = joint / power(step, 20)[0]
        assert abs(y[:, 0, t].mean() - p[1]) < 5 * (p[1] * (1 - p[1]) / 200).sqrt()
        assert abs(y[:, 1, t].mean() - p[0]) < 5 * (p[0] * (1 - p[0]) / 200).sqrt()
    with pytest.raises(ValueError, match="a training step sums over"):
        ELBO().loss(Long(), x)


# ----------------------------------------------------------------------------------------------------------------------
# The conformance suite


def complete_data(program, n=7):
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        d = len(program.support) if hasattr(program, "support") else 3
        return program.model(torch.full((n, d), NAN))


@pytest.mark.parametrize("make", [*FINITE, Walk, Pair])
def test_conformance_plants_holes_in_every_site(make):
    program = make()
    x = SEMI[2:4] if make is Semi else complete_data(program)
    result = pg.check_program(program, x)["missing_exact"]
    assert result.status == "passed" and "not compared" not in result.message, result
    assert ("within 5 standard errors" in result.message) == (make in (Walk, Pair)), result


@pytest.mark.parametrize("make", [Issue, Chain, Walk])
def test_conformance_twin_without_the_latent_variables_fails(make, monkeypatch):
    from pyro_gen.observation import no_completion

    monkeypatch.setattr(missing_module, "find_latent_missing", lambda program, *data: LatentMissing(program, (), {}))
    assert pg.check_program(make(), complete_data(make()))["missing_exact"].status == "failed"
    monkeypatch.setattr(no_completion, "_pyro_completion", lambda self, msg: None)  # nor NaN to notice it by
    assert pg.check_program(make(), complete_data(make()))["missing_exact"].status == "failed"


def test_a_label_that_is_a_context_is_data_too():
    class Conditional(pg.Program):
        def __init__(self):
            super().__init__()
            self.place = nn.Parameter(torch.tensor([-1.0, 2.0]))

        def model(self, x, y):
            with self.plate(x):
                y = pg.observe("y", dist.Bernoulli(0.3).expand([len(x)]), y)
                return pg.observe("x", dist.Normal(self.place[y.long()], 1.0), x)

    x, y = torch.tensor([1.5, -1.0, 0.5, NAN]), torch.tensor([NAN, 0.0, NAN, 1.0])
    program = Conditional()
    one = math.log(0.3) + dist.Normal(2.0, 1.0).log_prob(x.nan_to_num())
    none = math.log(0.7) + dist.Normal(-1.0, 1.0).log_prob(x.nan_to_num())
    expected = torch.where(y.isnan(), torch.logaddexp(one, none), torch.where(y == 1, one, none))
    expected[3] = math.log(0.3)
    found = pg.log_likelihood(program, x, y)
    assert torch.allclose(found.value.float(), expected, atol=1e-5)
    assert torch.allclose(ELBO().loss(program, x, y), -expected.sum(), atol=1e-4)
    means = pg.reconstruct(program, x, y, draws=2000)  # of each row the mean of the places, by P(y | x)
    p = torch.sigmoid(one - none)
    # The standard deviation of a draw is 3 sqrt(p (1 - p)): 4.5 standard errors.
    assert abs(means[0] - (3 * p[0] - 1)) < 4.5 * 3 * (p[0] * (1 - p[0]) / 2000).sqrt()
    assert pg.check_program(program, x[:3], torch.tensor([1.0, 0.0, 1.0]))["missing_exact"].status == "passed"
