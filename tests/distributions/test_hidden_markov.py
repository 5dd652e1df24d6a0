"""Hidden Markov models with holes: sums over all chains of states, and the joint Gaussian of all observations."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyro_gen as pg
from pyro_gen.density import density
from pyro_gen.distributions.hidden_markov import chain_product
from pyro_gen.observation import observe

NAN = torch.nan
STATES, STEPS = 3, 5
F64 = torch.float64


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(F64)
    yield
    torch.set_default_dtype(torch.float32)


def site(distribution, value):
    """The log-densities of an observe statement, with its batch shape, and its completed value."""
    trace = pyro.poutine.trace(lambda: observe("x", distribution, value)).get_trace()
    trace.compute_log_prob()
    return trace.nodes["x"]["log_prob"], trace.nodes["_RETURN"]["value"]


def logits(forbidden=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    initial = torch.rand(STATES, generator=generator).log()
    transition = torch.rand(STATES, STATES, generator=generator).log()
    if forbidden:  # from left to right
        initial = torch.tensor([0.0, -math.inf, -math.inf])
        transition = transition.masked_fill(torch.ones(STATES, STATES).tril(-1).bool(), -math.inf)
    return initial.log_softmax(-1), transition.log_softmax(-1)


COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 0.8]], dtype=F64)
LOC = torch.tensor([[-1.0, 0.5], [0.0, -0.5], [2.0, 1.0]], dtype=F64)


def observation(kind):
    """What is observed in each of the states, and the log-density (K,) of what is seen at one step."""
    if kind == "normal":
        d = dist.Normal(LOC[:, 0], 1.0)
        return d, lambda y: torch.zeros(STATES) if y.isnan() else d.log_prob(y)
    if kind == "categorical":
        p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.3, 0.4]])
        return dist.Categorical(p), lambda y: torch.zeros(STATES) if y.isnan() else p[:, int(y)].log()
    if kind == "independent":
        d = dist.Normal(LOC, 1.0)

        def seen(y):
            return d.log_prob(y.nan_to_num())[:, ~y.isnan()].sum(-1)

        return d.to_event(1), seen

    def seen_part(y):
        o = ~y.isnan()
        if not o.any():
            return torch.zeros(STATES)
        return dist.MultivariateNormal(LOC[:, o], COVARIANCE[o][:, o]).log_prob(y[o])

    return dist.MultivariateNormal(LOC, COVARIANCE), seen_part


KINDS = ["normal", "categorical", "independent", "gaussian"]


def sequences(kind, n=6, seed=1):
    """With elements of steps missing, whole steps, a whole sequence, and none."""
    generator = torch.Generator().manual_seed(seed)
    event = () if kind in ("normal", "categorical") else (2,)
    x = torch.randn(n, STEPS, *event, generator=generator)
    if kind == "categorical":
        x = torch.randint(3, (n, STEPS), generator=generator).double()
    x[torch.rand(x.shape, generator=generator) < 0.3] = NAN
    x[0] = NAN
    x[1] = x[1].nan_to_num(1.0)
    x[2, 1:3] = NAN
    x[3, 3:] = NAN
    return x


def by_enumeration(x: Tensor, initial, transition, seen) -> tuple[Tensor, Tensor]:
    """The log-density of one sequence, and the probabilities of the states at each step (T, K)."""
    chains = torch.tensor(list(itertools.product(range(STATES), repeat=len(x) + 1)))
    steps = torch.stack([seen(y) for y in x])  # (T, K)
    terms = initial[chains[:, 0]] + transition[chains[:, :-1], chains[:, 1:]].sum(1)
    terms = terms + steps[torch.arange(len(x)), chains[:, 1:]].sum(1)
    states = torch.nn.functional.one_hot(chains[:, 1:], STATES).double()
    return terms.logsumexp(0), (terms.softmax(0)[:, None, None] * states).sum(0)


@pytest.mark.parametrize("forbidden", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_discrete_states_against_enumeration(kind, forbidden):
    initial, transition = logits(forbidden)
    emission, seen = observation(kind)
    x = sequences(kind)
    found, completed = site(dist.DiscreteHMM(initial, transition, emission), x)
    exact = torch.stack([by_enumeration(row, initial, transition, seen)[0] for row in x])
    torch.testing.assert_close(found, exact, atol=1e-9, rtol=1e-9)
    assert abs(found[0]) < 1e-9  # of nothing
    assert torch.equal(completed[~x.isnan()], x[~x.isnan()]) and not completed.isnan().any()
    # The twin: holes filled by what is most likely.
    wrong = dist.DiscreteHMM(initial, transition, emission).log_prob(x.nan_to_num(0.0))
    assert (wrong - exact)[2:].abs().max() > 0.1


def test_transitions_and_observations_that_change_with_time():
    initial, _ = logits()
    transition = torch.stack([logits(seed=t)[1] for t in range(STEPS)])
    loc = torch.randn(STEPS, STATES)
    x = sequences("normal")
    found, _ = site(dist.DiscreteHMM(initial, transition, dist.Normal(loc, 1.0)), x)
    for row, value in zip(x, found, strict=True):
        terms = []
        for chain in itertools.product(range(STATES), repeat=STEPS + 1):
            term = initial[chain[0]]
            for t, (a, b) in enumerate(itertools.pairwise(chain)):
                term = term + transition[t, a, b]
                if not row[t].isnan():
                    term = term + dist.Normal(loc[t, b], 1.0).log_prob(row[t])
            terms.append(term)
        assert abs(value - torch.stack(terms).logsumexp(0)) < 1e-9


@pytest.mark.parametrize("kind", ["normal", "gaussian"])
def test_completions_of_discrete_states_are_draws_given_what_is_seen(kind):
    """The mean of the missing entries, over 4000 copies of a row, within 5 standard errors: false-alarm rate 1e-5."""
    initial, transition = logits()
    emission, seen = observation(kind)
    row = sequences(kind)[4]
    assert 0 < row.isnan().sum() < row.numel()
    _, states = by_enumeration(row, initial, transition, seen)
    _, completed = site(dist.DiscreteHMM(initial, transition, emission), row.expand(4000, *row.shape).clone())
    if kind == "normal":
        exact = states @ LOC[:, 0]
    else:
        part = LOC.expand(STEPS, STATES, 2).clone()
        for t, y in enumerate(row):
            o = ~y.isnan()
            if o.any():
                m = ~o
                shift = torch.linalg.solve(COVARIANCE[o][:, o], (y - LOC)[:, o].T)
                part[t][:, m] += (COVARIANCE[m][:, o] @ shift).T
        exact = (states.unsqueeze(-1) * part).sum(1)
    missing = row.isnan()
    score = (completed.mean(0) - exact) / (completed.std(0) / 4000**0.5)
    assert score[missing].abs().max() < 5
    # The twin: states by the prior, and not given what is seen.
    first = by_enumeration(row, initial, transition, lambda y: torch.zeros(STATES))[1]
    prior = first @ LOC[:, 0] if kind == "normal" else first @ LOC
    assert ((completed.mean(0) - prior) / (completed.std(0) / 4000**0.5))[missing].abs().max() > 5


# ----------------------------------------------------------------------------------------------------------------------
# Gaussian states


def gaussian_chain(diagonal, steps=4, hidden=2, seen=3):
    """A model whose parts change with time, and the mean and the covariance of all observations."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    def noise(*batch, dim):
        if diagonal:
            return dist.Normal(random(*batch, dim), 0.5 + random(*batch, dim).abs()).to_event(1)
        root = random(*batch, dim, dim)
        return dist.MultivariateNormal(random(*batch, dim), root @ root.mT + 0.3 * torch.eye(dim))

    initial, into, out = noise(dim=hidden), noise(steps, dim=hidden), noise(steps, dim=seen)
    move, show = 0.6 * random(steps, hidden, hidden), random(steps, hidden, seen)
    parts = (initial, move, into, show, out)

    def moments(d):
        return (d.mean, d.variance.diag_embed()) if diagonal else (d.mean, d.covariance_matrix)

    mean, covariance = moments(initial)
    means, blocks, states = [], {}, []
    for t in range(steps):
        m, c = moments(into)
        mean, covariance = mean @ move[t] + m[t], move[t].T @ covariance @ move[t] + c[t]
        states.append(covariance)
        means.append(mean @ show[t] + moments(out)[0][t])
        for s in range(t + 1):
            across = states[s]
            for r in range(s + 1, t + 1):
                across = across @ move[r]
            blocks[s, t] = show[s].T @ across @ show[t] + (moments(out)[1][t] if s == t else 0)
    full = torch.cat(
        [torch.cat([blocks[s, t] if s <= t else blocks[t, s].T for t in range(steps)], 1) for s in range(steps)]
    )
    return parts, torch.cat(means), full


def holes(n, steps, dim, seed=2):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, steps, dim, generator=generator)
    x[torch.rand(x.shape, generator=generator) < 0.4] = NAN
    x[0], x[1, 1], x[2, 2:] = NAN, NAN, NAN
    x[3] = x[3].nan_to_num(0.3)
    return x


def joint_log_prob(x, mean, covariance):
    values = []
    for row in x.flatten(1):
        o = ~row.isnan()
        law = dist.MultivariateNormal(mean[o], covariance[o][:, o]) if o.any() else None
        values.append(law.log_prob(row[o]) if law else torch.zeros(()))
    return torch.stack(values)


@pytest.mark.parametrize("diagonal", [True, False])
@pytest.mark.parametrize("make", [dist.GaussianHMM, dist.LinearHMM])
def test_gaussian_states_against_the_joint_gaussian(make, diagonal):
    parts, mean, covariance = gaussian_chain(diagonal)
    x = holes(6, 4, 3)
    found, completed = site(make(*parts), x)
    exact = joint_log_prob(x, mean, covariance)
    torch.testing.assert_close(found, exact, atol=1e-9, rtol=1e-9)
    assert torch.equal(completed[~x.isnan()], x[~x.isnan()]) and not completed.isnan().any()
    whole = x.nan_to_num(0.1)
    torch.testing.assert_close(site(make(*parts), whole)[0], joint_log_prob(whole, mean, covariance))
    wrong = dist.GaussianHMM(*parts).log_prob(x.nan_to_num())  # the twin: holes filled with zeros
    assert (wrong - exact).abs().max() > 0.1


@pytest.mark.parametrize("diagonal", [True, False])
def test_completions_of_gaussian_states(diagonal):
    """Means and variances of 4000 completions, within 5 standard errors: false-alarm rate 2e-5."""
    parts, mean, covariance = gaussian_chain(diagonal)
    row = holes(6, 4, 3)[4]
    _, completed = site(dist.GaussianHMM(*parts), row.expand(4000, 4, 3).clone())
    flat, m = row.flatten(), row.isnan().flatten()
    o = ~m
    gain = torch.linalg.solve(covariance[o][:, o], covariance[o][:, m])
    exact, spread = mean[m] + (flat - mean)[o] @ gain, covariance[m][:, m] - covariance[m][:, o] @ gain
    drawn = completed.flatten(1)[:, m]
    assert ((drawn.mean(0) - exact) / (spread.diagonal() / 4000).sqrt()).abs().max() < 5
    assert (drawn.T.cov() / spread - 1).diagonal().abs().max() < 5 * (2 / 4000) ** 0.5
    outer = (spread.diagonal().outer(spread.diagonal()) + spread.square()) / 4000
    assert ((drawn.T.cov() - spread) / outer.sqrt()).abs().max() < 5
    assert ((drawn.mean(0) - mean[m]) / (spread.diagonal() / 4000).sqrt()).abs().max() > 5  # the twin: the prior


def test_homogeneous_models_take_the_length_of_the_data():
    initial, transition = logits()
    normal = dist.MultivariateNormal(torch.zeros(2), torch.eye(2))
    gaussian = dist.GaussianHMM(
        normal, 0.5 * torch.eye(2), normal, torch.ones(2, 1), dist.Normal(torch.zeros(1), 1.0).to_event(1)
    )
    for d, x in (
        (dist.DiscreteHMM(initial, transition, dist.Normal(LOC[:, 0], 1.0)), torch.randn(2, 7)),
        (gaussian, torch.randn(2, 7, 1)),
    ):
        torch.testing.assert_close(site(d, x)[0], d.log_prob(x))
        x[:, 2:4] = NAN
        assert site(d, x)[1].isfinite().all()
        assert site(d, torch.full_like(x, NAN))[1].isfinite().all()  # generation


def test_noise_that_is_not_gaussian_is_refused_where_something_is_missing():
    normal = dist.Normal(torch.zeros(2), 1.0).to_event(1)
    heavy = dist.StudentT(3.0, torch.zeros(2), 1.0).to_event(1)
    d = dist.LinearHMM(normal, torch.eye(2), normal, torch.eye(2).expand(3, 2, 2), heavy)
    with pytest.raises(ValueError, match="observe\\('x'\\): A LinearHMM with noise that is not Gaussian"):
        site(d, torch.full((4, 3, 2), NAN))


# ----------------------------------------------------------------------------------------------------------------------
# Gradients, many chains


def left_to_right(y):
    p = pyro.sample("p", dist.Beta(torch.ones(2), 1.0).to_event(1))
    loc = pyro.sample("loc", dist.Normal(torch.zeros(3), 2.0).to_event(1))
    none, sure = torch.zeros_like(p[..., 0]), torch.ones_like(p[..., 0])
    rows = ((p[..., 0], 1 - p[..., 0], none), (none, p[..., 1], 1 - p[..., 1]), (none, none, sure))
    transition = torch.stack([torch.stack(row, -1) for row in rows], -2)
    initial = torch.stack([sure, none, none], -1)
    observe("y", dist.DiscreteHMM(initial.log(), transition.log(), dist.Normal(loc, 1.0)), y)


def forward_sum(p, loc, y):
    """The same sum, one step after the other and without logarithms of matrices, in float64."""
    transition = torch.zeros(3, 3)
    transition = torch.stack(
        [
            torch.stack([p[0], 1 - p[0], p[0] * 0]),
            torch.stack([p[0] * 0, p[1], 1 - p[1]]),
            torch.stack([p[0] * 0, p[0] * 0, p[0] * 0 + 1]),
        ]
    )
    state, total = torch.tensor([1.0, 0.0, 0.0]), torch.zeros(())
    for value in y:
        state = state @ transition
        if not value.isnan():
            state = state * dist.Normal(loc, 1.0).log_prob(value).exp()
        total, state = total + state.sum().log(), state / state.sum()
    return total


@pytest.mark.parametrize("steps", [9, 400])
def test_forbidden_transitions_have_exact_values_and_gradients(steps):
    """Over many steps Pyro's bounded logarithm makes NaN of them."""
    y = torch.randn(steps, generator=torch.Generator().manual_seed(0))
    y[1::3] = NAN
    target = density(left_to_right, y.double())
    z = torch.randn(3, target.dim, dtype=target.dtype)
    value, grad = target.log_density_and_grad(z)
    assert target.mode == "traced"
    for i in range(3):
        point = z[i].double().requires_grad_()
        p, loc = torch.sigmoid(point[:2]), point[2:]
        exact = forward_sum(p, loc, y.double()) + dist.Normal(0.0, 2.0).log_prob(loc).sum() + (p * (1 - p)).log().sum()
        torch.testing.assert_close(value[i].double(), exact.detach())
        torch.testing.assert_close(grad[i].double(), torch.autograd.grad(exact, point)[0])


def test_products_over_time_with_zeros():
    x = torch.randn(2, 7, 3, 3)
    x[:, :, 1] = -math.inf  # a state that leads nowhere
    x[0, 3] = -math.inf
    x.requires_grad_()
    found = chain_product(x)
    exact = torch.eye(3).expand(2, 3, 3)
    for t in range(7):
        exact = exact @ x[:, t].exp()
    torch.testing.assert_close(found.exp(), exact)
    (grad,) = torch.autograd.grad(found[1, 0, 0], x)
    (expected,) = torch.autograd.grad(exact[1, 0, 0].log(), x)
    torch.testing.assert_close(grad, expected)
    assert grad.isfinite().all()


def test_gaussian_states_are_evaluated_for_all_chains_at_once():
    def model(y):
        scale = pyro.sample("scale", dist.LogNormal(torch.zeros(2), 0.5).to_event(1))
        eye, none = torch.eye(2), torch.zeros(2)
        noise = dist.Normal(none, scale).to_event(1)
        observe("y", dist.GaussianHMM(dist.MultivariateNormal(none, eye), 0.9 * eye, noise, eye, noise), y)

    y = holes(5, 6, 2)[4]
    targets = [density(model, y) for _ in range(2)]
    targets[1].mode = "loop"
    z = torch.randn(5, 2, dtype=targets[0].dtype)
    (value, grad), (one_by_one, slopes) = (t.log_density_and_grad(z) for t in targets)
    assert targets[0].mode == "traced"
    torch.testing.assert_close(value, one_by_one)
    torch.testing.assert_close(grad, slopes)


# ----------------------------------------------------------------------------------------------------------------------
# Programs


class Chain(pg.Program):
    """A hidden Markov model with parameters of its own."""

    event_shape = torch.Size([STEPS])
    any_length = True

    def __init__(self):
        super().__init__()
        self.initial, self.transition = (torch.nn.Parameter(t) for t in logits())
        self.loc = torch.nn.Parameter(LOC[:, 0].clone())

    def model(self, x):
        with self.plate(x):
            d = dist.DiscreteHMM(self.initial, self.transition, dist.Normal(self.loc, 1.0))
            return observe("x", d, x)


def test_a_program_of_sequences():
    """Likelihood, generation and imputation; sequences of different length in one batch are those alone."""
    program, x = Chain(), sequences("normal")
    found = pg.log_likelihood(program, x)
    alone = [pg.log_likelihood(program, row[None, : hidden_length(row)]).value for row in x[1:]]
    torch.testing.assert_close(found.value[1:], torch.cat(alone).to(found.value), atol=1e-5, rtol=1e-5)
    assert pg.sample(program, 4).shape == (4, STEPS)
    imputed = pg.impute(program, x, draws=3)
    assert imputed.isfinite().all() and torch.equal(imputed[0][~x.isnan()], x[~x.isnan()])
    before = float(found.mean())
    pg.fit(program, torch.cat([x[1:]] * 8), epochs=20, lr=0.05, progress=False)
    assert pg.log_likelihood(program, x).mean() > before


def hidden_length(row):
    return int((~row.isnan()).nonzero().max()) + 1


def test_the_conformance_suite_takes_a_hidden_markov_model():
    torch.set_default_dtype(torch.float32)
    program = Chain().float()
    pg.check_program(program, torch.randn(9, STEPS)).raise_for_failures()
