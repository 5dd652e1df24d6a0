import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import biject_to

import pyro_gen.density.sites as module
from pyro_gen._random import seeded
from pyro_gen.density import density
from pyro_gen.observation import observe
from pyro_gen.program import Program
from pyro_gen.traces import trace_pair


class Nested(Program):
    """Two latent sites, one with an event dimension, the support of the other depending on it."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(3, 4)

    def model(self, x):
        with self.plate(x):
            a = pyro.sample("a", dist.LogNormal(torch.zeros(3), 0.5).to_event(1))
            b = pyro.sample("b", dist.Uniform(torch.zeros(len(x)), a.sum(-1)))
            pyro.deterministic("ratio", b / a.sum(-1))
            return observe("x", dist.Normal(self.net(a) * b.unsqueeze(-1), 1.0).to_event(1), x)


def data(n=5):
    with seeded(1):
        x = torch.randn(n, 4)
    x[0, 1] = torch.nan
    return x


def test_terms_against_formula():
    program, x = Nested(), data()
    target = density(program, x)
    z = torch.randn(6, 5, 4)
    prior, likelihood, _, _ = target.value_and_grad(z)
    a, s = z[..., :3].exp(), z[..., 3].sigmoid()
    b = a.sum(-1) * s
    # log N(log a; 0, 0.5) is what is left of the log-normal; the uniform 1 / sum(a) cancels in its Jacobian.
    expected = dist.Normal(0.0, 0.5).log_prob(z[..., :3]).sum(-1) + (s * (1 - s)).log()
    torch.testing.assert_close(prior, expected, rtol=1e-4, atol=1e-4)
    mean = program.net(a) * b.unsqueeze(-1)
    terms = torch.where(x.isnan(), 0.0, dist.Normal(mean, 1.0).log_prob(x.nan_to_num()))
    torch.testing.assert_close(likelihood, terms.sum(-1), rtol=1e-4, atol=1e-3)
    assert target.mode == "traced" and target.dim == 4 and target.batch_shape == (5,)
    torch.testing.assert_close(target.log_prior(z), prior)
    torch.testing.assert_close(target.log_likelihood(z), likelihood)


def test_gradients_against_a_loop():
    target = density(Nested(), data())
    z = torch.randn(3, 5, 4)
    terms = target.value_and_grad(z)
    for c in range(3):
        point = z[c].clone().requires_grad_()
        prior, likelihood = target.terms_of_chain(point, {})
        (g,) = torch.autograd.grad(prior.sum(), point, retain_graph=True)
        (h,) = torch.autograd.grad(likelihood.sum(), point)
        torch.testing.assert_close(terms.grad_prior[c], g, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(terms.grad_likelihood[c], h, rtol=1e-3, atol=1e-3)


def test_draws_and_their_constrained_values(untouched_rng):
    with seeded(0):
        program = Nested()
    target = density(program, data(4000))
    with seeded(0):
        z = target.sample_prior(2)
    values = target.constrain(z)
    assert set(values) == {"a", "b", "ratio"} and values["a"].shape == (2, 4000, 3)
    assert bool((values["b"] <= values["a"].sum(-1)).all())
    torch.testing.assert_close(values["ratio"], z[..., 3].sigmoid(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(target.unconstrain(values), z, rtol=1e-3, atol=1e-3)
    # ratio is uniform: mean within 4 standard errors (false-alarm rate 6e-5)
    assert abs(values["ratio"].mean().item() - 0.5) < 4 * math.sqrt(1 / 12 / 8000)


class Scale(Program):
    def model(self, x):
        with self.plate(x):
            s = pyro.sample("s", dist.Gamma(2.0, 1.0))
            return observe("x", dist.Normal(0.0, s), x)


def evidence(target, x):
    """p(x) by quadrature over u = log s."""
    u = torch.linspace(-12, 5, 4001, dtype=torch.float64)
    z = u.float().reshape(-1, 1, 1).expand(-1, len(x), 1)
    terms = target.value_and_grad(z)
    return torch.trapezoid((terms.log_prior + terms.log_likelihood).double().exp(), u, dim=0)


def exact_evidence(x):
    s = torch.linspace(1e-4, 40, 400_001, dtype=torch.float64)
    joint = dist.Gamma(2.0, 1.0).log_prob(s)[:, None] + dist.Normal(0.0, s[:, None]).log_prob(x.double())
    return torch.trapezoid(joint.exp(), s, dim=0)


def test_jacobian_by_quadrature(monkeypatch):
    x = torch.tensor([0.5, -2.0])
    torch.testing.assert_close(evidence(density(Scale(), x), x), exact_evidence(x), rtol=1e-3, atol=0)

    def flat(support):
        transform = biject_to(support)
        transform.log_abs_det_jacobian = lambda u, y: torch.zeros_like(u)
        return transform

    # The twin: a density without its Jacobian.
    monkeypatch.setattr(module, "biject_to", flat)
    wrong = evidence(density(Scale(), x), x)
    assert bool(((wrong / exact_evidence(x)).log().abs() > 0.1).any())


def test_float64_and_context():
    class Conditional(Program):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

        def model(self, x, c):
            with self.plate(x):
                z = pyro.sample("z", dist.Normal(c, torch.ones_like(c)))
                return observe("x", dist.Normal(self.w * z, 1.0), x)

    x, c = torch.randn(4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    target = density(Conditional(), x, c)
    z = target.sample_prior(3)
    terms = target.value_and_grad(z)
    assert all(t.dtype == torch.float64 for t in terms)
    torch.testing.assert_close(terms.grad_likelihood[..., 0], 2 * (x - 2 * z[..., 0]))
    torch.testing.assert_close(terms.grad_prior[..., 0], c - z[..., 0])


def test_evaluation_mode_is_restored():
    class Dropout(Nested):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(0.5))

    program = Dropout()
    density(program, data()).value_and_grad(torch.zeros(2, 5, 4))
    assert program.training and program.net[1].training


class Gaussian(Program):
    """A normal sample whose mean and scale are global."""

    def model(self, x):
        mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with self.plate(x):
            return observe("x", dist.Normal(mean, scale), x)


def variant(inside):
    class Variant(Program):
        def model(self, x):
            with self.plate(x):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
                return observe("x", dist.Normal(inside(z), 1.0), x)

    return Variant()


def test_falls_back_with_a_warning_that_says_why():
    x, z = torch.randn(3), torch.randn(4, 3, 1)
    expected = density(variant(lambda z: z.abs()), x).value_and_grad(z)
    looped = density(variant(lambda z: torch.stack([v if v > 0 else -v for v in z])), x)
    with pytest.warns(UserWarning, match="one by one.*data-dependent"):
        terms = looped.value_and_grad(z)
    assert looped.mode == "loop"
    for a, b in zip(terms, expected, strict=True):
        torch.testing.assert_close(a, b)
    # Tracing freezes what happens at one point: seen at the second point.
    calls = []

    def drifting(z):
        calls.append(1)
        return z * len(calls)

    target = density(variant(drifting), x)
    with pytest.warns(UserWarning, match="gives other numbers"):
        target.value_and_grad(z)
    assert target.mode == "vmap"


def test_refusals():
    x = torch.randn(3)
    with pytest.raises(ValueError, match="random numbers outside"):
        density(variant(lambda z: z + torch.randn(())), x)

    class Discrete(Program):
        def model(self, x):
            with self.plate(x):
                k = pyro.sample("k", dist.Bernoulli(0.5))
                return observe("x", dist.Normal(k, 1.0), x)

    class Exact(Program):
        def model(self, x):
            with self.plate(x):
                return observe("x", dist.Normal(0.0, 1.0), x)

    def countable(x):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        n = pyro.sample("n", dist.Poisson(rate))
        pyro.sample("x", dist.Normal(n, 1.0).expand([3]).to_event(1), obs=x)

    def implicit(x):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Delta(mean), obs=x[0])

    def subsampled(x):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 3, subsample_size=2) as rows:
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x[rows])

    for program, words in (
        (Discrete(), "'k' is discrete"),
        (Exact(), "exact"),
        (countable, "'n' is discrete.*gibbs"),
        (implicit, "without a density, 'x'"),
        (subsampled, "'rows' takes a random subsample"),
    ):
        with pytest.raises(ValueError, match=words):
            density(program, x)
    with pytest.raises(ValueError, match="global latent variable 'mean'"):
        density(Gaussian(), x, per_datum=True)
    with pytest.raises(ValueError, match="one leading dimension"):
        density(lambda a, b: None, torch.zeros(3), torch.zeros(4), stacked=True)
    with pytest.raises(ValueError, match="no latent site 'nobody'"):
        density(Gaussian(), x, hold=("nobody",))
    with pytest.raises(ValueError, match="0 rows"):
        density(Exact(), x[:0])


def test_agrees_with_pyro():
    program, x = Nested(), data()
    trace, _ = trace_pair(program, x)
    trace.compute_log_prob()
    target = density(program, x)
    z = target.unconstrain({n: trace.nodes[n]["value"].unsqueeze(0) for n in ("a", "b")})
    a, b = trace.nodes["a"]["value"], trace.nodes["b"]["value"]
    jacobian = a.log().sum(-1) + (b * (1 - b / a.sum(-1))).log()
    terms = target.value_and_grad(z)
    total = (terms.log_prior + terms.log_likelihood)[0] - jacobian
    torch.testing.assert_close(total.sum(), trace.log_prob_sum(), rtol=1e-4, atol=1e-3)


def test_a_plate_that_couples_its_data_gives_a_joint_target():
    def walk(x):
        with pyro.plate("data", len(x)):
            step = pyro.sample("step", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(step.cumsum(-1), 1.0), obs=x)

    def last(x):  # only one pair of data
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(torch.cat([z[:-1], z[-1:] * z[3]]), 1.0), obs=x)

    x, z = torch.tensor([0.5, -1.0, 2.0, 0.0, 1.0, 0.3]), torch.randn(3, 6)
    target = density(walk, x)
    assert target.batch_shape == ()
    torch.testing.assert_close(target.log_likelihood(z), dist.Normal(z.cumsum(-1), 1.0).log_prob(x).sum(-1))
    assert density(last, x).batch_shape == ()
    with pytest.raises(ValueError, match=r"walk couples the data.*leave per_datum out"):
        density(walk, x, per_datum=True)


def test_the_number_of_data_is_that_of_the_plate():
    x = torch.tensor([0.5, -1.0, 2.0])

    def enclosed():
        with pyro.plate("data", 3):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def second(scale, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, scale), obs=x)

    z = torch.randn(2, 3, 1)
    expected = dist.Normal(z[..., 0], 1.0).log_prob(x)
    for target in (density(enclosed), density(second, torch.ones(1), x), density(second, 1.0, x)):
        assert target.batch_shape == (3,)
        torch.testing.assert_close(target.log_likelihood(z), expected)

    def serial(x):  # no dimension of data
        for i in pyro.plate("data", len(x)):
            z = pyro.sample(f"z_{i}", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample(f"x_{i}", dist.Normal(z, 1.0), obs=x[i])

    joint = density(serial, x)
    assert joint.batch_shape == ()
    torch.testing.assert_close(joint.log_likelihood(z[..., 0]), expected.sum(-1))


def test_a_density_stays_what_it_was_when_training_goes_on():
    program, x, z = Nested(), data(), torch.randn(2, 5, 4)
    target = density(program, x)
    before = target.value_and_grad(z)
    with torch.no_grad():
        for p in program.parameters():
            p.add_(1.0)
    torch.testing.assert_close(target.value_and_grad(z), before, rtol=0, atol=0)
    torch.testing.assert_close(target.log_density(z), before.log_prior + before.log_likelihood)  # a graph of its own
    assert not torch.allclose(density(program, x).log_likelihood(z), before.log_likelihood)


@pytest.mark.parametrize("as_method", [False, True])
def test_a_module_as_a_function_is_in_evaluation_mode(as_method: bool):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Sequential(torch.nn.Linear(1, 3), torch.nn.BatchNorm1d(3), torch.nn.Dropout(0.5))

        def forward(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.net(z).sum(-1), 1.0), obs=x)

    model, x, z = Model(), torch.randn(5), torch.randn(2, 5, 1)
    target = density(model.forward if as_method else model, x)
    found = target.log_likelihood(z)
    assert target.mode == "traced" and model.training and model.net[1].training
    assert not model.net[1].num_batches_tracked  # nothing was learnt
    model.eval()
    mean = model.net(z.view(10, 1)).sum(-1).view(2, 5)
    torch.testing.assert_close(found, dist.Normal(mean, 1.0).log_prob(x))


def test_a_function_that_encloses_its_data_has_the_dtype_of_its_latent_variables():
    x = torch.tensor([0.5, -1.0], dtype=torch.float64)

    def model():
        a = pyro.sample("a", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("x", dist.Normal(a, 1.0).expand([2]).to_event(1), obs=x)

    target = density(model)
    assert target.dtype == target.sample_prior(2).dtype == torch.float64

    def counts():  # nothing in it is a floating number
        k = pyro.sample("k", dist.Categorical(torch.ones(3)))
        pyro.sample("n", dist.Categorical(torch.ones(3) + k), obs=torch.tensor(1))

    assert density(counts, hold=("k",)).dtype == torch.get_default_dtype()
