"""Sequences of different length in one batch are those alone; what is beyond the end is neither scored nor drawn."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_gen as pg
from pyro_gen.density import density
from pyro_gen.inference.objectives import EnumELBO
from pyro_gen.traces import sample_sites

NAN = torch.nan
STEPS = 6
LENGTHS = (6, 3, 1, 4, 6)


def sequences(dim=2):
    x = torch.randn(len(LENGTHS), STEPS, dim, generator=torch.Generator().manual_seed(0))
    for row, length in zip(x, LENGTHS, strict=True):
        row[length:] = NAN
    x[0, 2] = NAN  # a step that is not seen
    x[3, 1, 0] = NAN  # a part of one
    return x


class Markov(pg.Program):
    """A deep Markov model in small, with a guide that reads one step at a time."""

    event_shape = torch.Size([STEPS, 2])
    any_length = True

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.transition, self.emission = nn.Linear(2, 2), nn.Linear(2, 2)
        self.encoder = nn.Linear(4, 2)

    def steps(self, x, *lengths):
        return pg.steps(x, *lengths)

    def model(self, x, *lengths):
        with self.plate(x):
            z = torch.zeros(len(x), 2)
            for t in self.steps(x, *lengths):
                z = pyro.sample(f"z_{t}", dist.Normal(self.transition(z).tanh(), 0.7).to_event(1))
                pg.observe(f"x_{t}", dist.Normal(self.emission(z), 0.5).to_event(1), x[:, t])

    def guide(self, x, *lengths):
        with self.plate(x):
            z = torch.zeros(len(x), 2)
            for t in self.steps(x, *lengths):
                loc = self.encoder(torch.cat([z, x[:, t].nan_to_num()], -1))
                z = pyro.sample(f"z_{t}", dist.Normal(loc, 0.6).to_event(1))


class Unended(Markov):
    """The defect: steps beyond the end are steps like others."""

    def steps(self, x, *lengths):
        return pyro.markov(range(x.shape[1]))


def elbo(program, x, z, *context):
    """The ELBO at given draws, summed over the data."""
    values = {f"z_{t}": z[:, t] for t in range(x.shape[1])}
    terms = []
    for side in (program.model, program.guide):
        trace = pyro.poutine.trace(pyro.poutine.condition(side, values)).get_trace(x, *context)
        terms.append(trace.log_prob_sum())
    return terms[0] - terms[1]


@pytest.mark.parametrize("given", [False, True])
def test_a_batch_is_the_sum_of_its_sequences(given):
    program, x = Markov(), sequences()
    z = torch.randn(len(x), STEPS, 2)

    def context(rows):
        return (torch.tensor(LENGTHS)[rows],) if given else ()

    def value_and_grad(*values):
        value = sum(values)
        return value.detach(), torch.cat([g.flatten() for g in torch.autograd.grad(value, list(program.parameters()))])

    batch = value_and_grad(elbo(program, x, z, *context(slice(None))))
    rows = [(x[i : i + 1, :n], z[i : i + 1], *context(slice(i, i + 1))) for i, n in enumerate(LENGTHS)]
    alone = value_and_grad(*(elbo(program, *row) for row in rows))
    for a, b in zip(batch, alone, strict=True):
        assert a.isfinite().all()
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    twin = Unended()
    assert (elbo(twin, x, z, *context(slice(None))) - alone[0]).abs() > 0.1
    # An end that comes too early leaves out what was seen.
    wrong = elbo(program, x, z, torch.tensor(LENGTHS).clamp(max=4))
    assert (wrong - batch[0]).abs() > 0.1


def test_padding_of_any_length_changes_nothing():
    program, x = Markov(), sequences()
    longer = torch.cat([x, torch.full((len(x), 3, 2), NAN)], 1)
    z = torch.randn(len(x), STEPS + 3, 2)
    torch.testing.assert_close(elbo(program, longer, z), elbo(program, x, z))


def test_imputation_generation_and_reconstruction_end_where_sequences_do():
    program, x = Markov(), sequences()
    end = torch.arange(STEPS) >= torch.tensor(LENGTHS)[:, None]
    imputed = pg.impute(program, x, draws=3)
    assert torch.equal(imputed.isnan().all(0), end.unsqueeze(-1).expand_as(x))
    assert torch.equal(imputed[:, ~x.isnan()], x[~x.isnan()].expand(3, -1))
    means = pg.reconstruct(program, x)
    assert torch.equal(means.isnan(), end.unsqueeze(-1).expand_as(x))
    assert pg.sample(program, 4).isfinite().all()
    given = pg.sample(program, 5, context=(torch.tensor(LENGTHS),))
    assert torch.equal(given.isnan(), end.unsqueeze(-1).expand_as(x))
    assert torch.equal(pg.lengths(given), torch.tensor(LENGTHS))


def test_training_reads_sequences_of_different_length():
    program, x = Markov(), sequences().repeat(4, 1, 1)
    before = pg.log_likelihood(program, x, method="iwae").mean()
    pg.fit(program, x, epochs=15, batch_size=10, lr=0.1, progress=False)
    assert pg.log_likelihood(program, x, method="iwae").mean() > before + 0.2


def test_reconstruction_of_steps_is_the_mean_of_each():
    """Also of steps that were not seen, and of steps that are alike."""
    program = Markov()
    x = sequences()
    x[:, 1] = x[:, 0]
    x[0, 1] = NAN
    with torch.no_grad():
        program.encoder.weight.zero_()
        draws = pg.reconstruct(program, x, draws=500)
        wanted = torch.full_like(x, NAN)
        loc = program.encoder.bias
        wanted[:] = program.emission(loc)
    inside = ~draws.isnan()
    assert (draws - wanted)[inside].abs().max() < 0.15  # more than 6 standard errors, of 0.6 |weights| / 500**0.5


class Linear(pg.Program):
    """A linear Gaussian chain in one dimension, whose likelihood a GaussianHMM knows."""

    event_shape = torch.Size([STEPS])

    def model(self, x):
        with self.plate(x):
            z = torch.zeros(len(x))
            for t in pg.steps(x):
                z = pyro.sample(f"z_{t}", dist.Normal(0.8 * z, 1.0))
                pg.observe(f"x_{t}", dist.Normal(z, 0.5), x[:, t])

    def guide(self, x):
        with self.plate(x):
            for t in pg.steps(x):
                pyro.sample(f"z_{t}", dist.Normal(0.8 * x[:, t].nan_to_num(), 0.7))

    def exact(self, x):
        one, noise = torch.ones(1, 1), dist.Normal(torch.zeros(1), 1.0).to_event(1)
        start = dist.Normal(torch.zeros(1), 1e-4).to_event(1)
        seen = dist.Normal(torch.zeros(1), 0.5).to_event(1)
        with pyro.poutine.trace() as tape, self.plate(x):
            pg.observe("x", dist.GaussianHMM(start, 0.8 * one, noise, one, seen), x.unsqueeze(-1))
        tape.trace.compute_log_prob()
        return tape.trace.nodes["x"]["log_prob"]


def test_likelihoods_of_sequences_with_holes_and_ends():
    program = Linear()
    x = sequences(1).squeeze(-1)
    exact = program.exact(x)
    for options in ({"method": "iwae", "num_particles": 4000}, {"method": "ais", "chains": 32, "temperatures": 30}):
        found = pg.log_likelihood(program, x, **options)
        assert ((found.value - exact).abs() < 5 * found.standard_error + 0.02).all(), options
    draws = pg.impute(program, x[:1], draws=500)[:, 0, 2]  # between two steps that were seen
    full = torch.stack([torch.cat([x[0, :2], torch.tensor([v]), x[0, 3:]]) for v in torch.linspace(-4, 4, 801)])
    weights = program.exact(full).softmax(0)
    mean = (weights * torch.linspace(-4, 4, 801)).sum()
    assert abs(draws.mean() - mean) < 5 * draws.std() / 500**0.5 + 0.03


class Autoregressive(pg.Program):
    """What is observed feeds the next step: missing steps between others are latent variables."""

    event_shape = torch.Size([STEPS])

    def model(self, x):
        with self.plate(x):
            last = torch.zeros(len(x))
            for t in pg.steps(x):
                last = pg.observe(f"x_{t}", dist.Normal(0.9 * last, 1.0), x[:, t])


def test_steps_that_feed_the_next():
    program = Autoregressive()
    x = torch.tensor([[0.5, 1.0, NAN, NAN, NAN, NAN], [0.3, NAN, 0.9, NAN, NAN, NAN], [0.2, 0.1, 0.0, 0.4, 1.0, 2.0]])

    def normal(value, mean, variance=1.0):
        return dist.Normal(mean, variance**0.5).log_prob(torch.tensor(value))

    exact = [
        normal(0.5, 0.0) + normal(1.0, 0.45),
        normal(0.3, 0.0) + normal(0.9, 0.81 * 0.3, 1 + 0.81),
        sum(normal(b, 0.9 * a) for a, b in zip([0.0, *x[2].tolist()], x[2].tolist(), strict=False)),
    ]
    found = pg.log_likelihood(program, x)
    assert (found.value - torch.stack(exact)).abs().max() < 0.05
    imputed = pg.impute(program, x, draws=500)
    assert torch.equal(imputed.isnan().all(0), torch.arange(STEPS) >= torch.tensor([2, 3, 6])[:, None])
    middle = imputed[:, 1, 1]  # given 0.3 before and 0.9 after
    variance = 1 / (1 + 0.81)
    mean = variance * (0.27 + 0.81)
    assert abs(middle.mean() - mean) < 5 * (variance / 500) ** 0.5 + 0.02


class Regimes(pg.Program):
    """A hidden Markov model written as a loop, its states summed out."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))

    def model(self, x):
        transition = torch.tensor([[0.8, 0.2], [0.3, 0.7]])
        with self.plate(x):
            z = torch.zeros(len(x), dtype=torch.long)
            for t in pg.steps(x):
                z = pyro.sample(f"z_{t}", dist.Categorical(transition[z]), infer={"enumerate": "parallel"})
                pg.observe(f"x_{t}", dist.Normal(2.0 * z + self.shift, 1.0), x[:, t])


def test_discrete_states_of_a_loop():
    x = sequences(1).squeeze(-1)
    found = pg.log_likelihood(Regimes(), x).value
    alone = torch.cat([pg.log_likelihood(Regimes(), x[i : i + 1, :n]).value for i, n in enumerate(LENGTHS)])
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-5)
    law = dist.DiscreteHMM(
        torch.tensor([1.0, 0.0]).log(),
        torch.tensor([[0.8, 0.2], [0.3, 0.7]]).log(),
        dist.Normal(torch.tensor([0.0, 2.0]), 1.0),
    )
    with pyro.poutine.trace() as tape:
        pg.observe("x", law, x)
    tape.trace.compute_log_prob()
    torch.testing.assert_close(found.float(), tape.trace.nodes["x"]["log_prob"], atol=1e-5, rtol=1e-5)


class Offset(Regimes):
    """With a parameter, and a guide for the states."""

    def __init__(self):
        super().__init__()
        self.logit = nn.Parameter(torch.zeros(2))

    def guide(self, x):
        with self.plate(x):
            for t in pg.steps(x):
                law = dist.Categorical(logits=self.logit.expand(len(x), 2))
                pyro.sample(f"z_{t}", law, infer={"enumerate": "parallel"})


@pytest.mark.parametrize("make", [Regimes, Offset])
def test_bounds_with_states_summed_out(make):
    program, x = make(), sequences(1).squeeze(-1)
    rows = [x[i : i + 1, :n] for i, n in enumerate(LENGTHS)]
    batch, *alone = (EnumELBO().loss(program, data).detach() for data in (x, *rows))
    torch.testing.assert_close(batch, sum(alone), atol=1e-4, rtol=1e-5)


class Levels(pg.Program):
    """A continuous variable beside the states: they are summed out of a density."""

    def model(self, x):
        transition = torch.tensor([[0.8, 0.2], [0.3, 0.7]])
        with self.plate(x):
            level = pyro.sample("level", dist.Normal(0.0, 1.0))
            z = torch.zeros(len(x), dtype=torch.long)
            for t in pg.steps(x):
                z = pyro.sample(f"z_{t}", dist.Categorical(transition[z]), infer={"enumerate": "parallel"})
                pg.observe(f"x_{t}", dist.Normal(level + 2.0 * z, 1.0), x[:, t])


def test_densities_with_states_summed_out():
    x = sequences(1).squeeze(-1)
    target = density(Levels(), x)
    z = torch.randn(3, len(x), 1)
    found = target.log_likelihood(z)
    for i, n in enumerate(LENGTHS):
        alone = density(Levels(), x[i : i + 1, :n]).log_likelihood(z[:, i : i + 1])
        torch.testing.assert_close(found[:, i : i + 1], alone, atol=1e-5, rtol=1e-5)


def test_the_conformance_suite():
    pg.check_program(Markov(), sequences()[:, :4]).raise_for_failures()
    pg.check_program(Regimes(), torch.randn(9, 3)).raise_for_failures()


def test_a_mask_has_the_dimension_of_the_data_plate():
    def model(x):
        with pg.plate(x, dim=-2):
            for t in pg.steps(x):
                with pyro.plate(f"parts_{t}", 2, dim=-1):
                    pg.observe(f"x_{t}", dist.Normal(0.0, 1.0), x[:, t])

    x = sequences()
    trace = pyro.poutine.trace(model).get_trace(x)
    exact = dist.Normal(0.0, 1.0).log_prob(x[~x.isnan()]).sum()
    torch.testing.assert_close(trace.log_prob_sum(), exact)
    assert all(s["mask"] is not None for s in sample_sites(trace).values())


def test_refusals():
    x = sequences()
    with pytest.raises(ValueError, match="inside the data plate"):
        next(iter(pg.steps(x)))
    with pg.plate(x), pytest.raises(ValueError, match="one length for each of the 5"):
        next(iter(pg.steps(x, torch.tensor([1, 2]))))
    with pytest.raises(ValueError, match="shape \\(N, T"):
        pg.lengths(torch.zeros(3))
