"""Joint targets: global latent variables, functions, enumeration, held sites, stacked data sets."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import biject_to

from pyro_gen._random import seeded
from pyro_gen.density import Density, base, density
from pyro_gen.density.graphs import compiler_available
from pyro_gen.observation import observe
from pyro_gen.program import Program

DOUBLE = torch.float64


def schools(y, sigma):
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(y.new_tensor(5.0)))
    with pyro.plate("schools", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


Y = torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12], dtype=DOUBLE)
SIGMA = torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18], dtype=DOUBLE)


def schools_terms(z, y=Y, sigma=SIGMA):
    mu, log_tau, theta = z[..., 0], z[..., 1], z[..., 2:]
    tau = log_tau.exp()
    prior = dist.Normal(0.0, 5.0).log_prob(mu) + dist.HalfCauchy(5.0).log_prob(tau) + log_tau
    prior = prior + dist.Normal(mu.unsqueeze(-1), tau.unsqueeze(-1)).log_prob(theta).sum(-1)
    return prior, dist.Normal(theta, sigma).log_prob(y).sum(-1)


def test_against_formula():
    target = density(schools, Y, SIGMA)
    assert (target.dim, target.batch_shape, target.names) == (10, (), ("mu", "tau", "theta"))
    z = torch.randn(7, 10, dtype=DOUBLE)
    prior, likelihood = schools_terms(z)
    terms = target.value_and_grad(z)
    torch.testing.assert_close(terms.log_prior, prior)
    torch.testing.assert_close(terms.log_likelihood, likelihood)
    beta = torch.rand(7, dtype=DOUBLE)
    for b in (1.0, 0.3, beta):
        value, grad = target.log_density_and_grad(z, b)
        torch.testing.assert_close(value, prior + b * likelihood)
        b_column = b.unsqueeze(-1) if isinstance(b, torch.Tensor) else b
        torch.testing.assert_close(grad, terms.grad_prior + b_column * terms.grad_likelihood)
    leaf = z.clone().requires_grad_()
    (expected,) = torch.autograd.grad(sum(schools_terms(leaf)).sum(), leaf)
    torch.testing.assert_close(target.log_density_and_grad(z)[1], expected)
    (got,) = torch.autograd.grad(target.log_density(leaf).sum(), leaf)  # differentiable
    torch.testing.assert_close(got, expected)
    assert target.mode == "traced"
    pointwise = target.pointwise_log_likelihood(z)["y"]
    assert pointwise.shape == (7, 8)
    torch.testing.assert_close(pointwise.sum(-1), likelihood)
    assert torch.equal(target.observed["y"], Y)
    values = target.constrain(z)
    torch.testing.assert_close(values["tau"], z[:, 1].exp())
    torch.testing.assert_close(target.unconstrain(values), z)


def test_stacked_data_sets_are_targets_of_their_own():
    with seeded(0):
        y, sigma = torch.randn(4, 8, dtype=DOUBLE) * 10, 5 + 10 * torch.rand(4, 8, dtype=DOUBLE)
        z = torch.randn(6, 4, 10, dtype=DOUBLE)
    target = density(schools, y, sigma, stacked=True)
    assert target.batch_shape == (4,)
    terms = target.value_and_grad(z)
    for s in range(4):
        prior, likelihood = schools_terms(z[:, s], y[s], sigma[s])
        torch.testing.assert_close(terms.log_prior[:, s], prior)
        torch.testing.assert_close(terms.log_likelihood[:, s], likelihood)
    torch.testing.assert_close(target.pointwise_log_likelihood(z)["y"].sum(-1), terms.log_likelihood)
    assert torch.equal(target.observed["y"], y)
    values = target.constrain(z)
    assert values["theta"].shape == (6, 4, 8)
    torch.testing.assert_close(target.unconstrain(values), z)
    with seeded(0):
        draws = target.sample_prior(500)
        predicted = target.predict(z[:1].expand(2000, 4, 10))["y"]
    # mu has standard deviation 5 (false-alarm rate of each check: 6e-5)
    assert abs(draws[..., 0].mean().item()) < 4 * 5 / math.sqrt(2000)
    errors = (predicted.mean(0) - z[0, :, 2:]) / (sigma / math.sqrt(2000))
    assert errors.abs().max() < 5  # of 32: false-alarm rate 2e-5
    assert len(predicted.unique()) == predicted.numel()


def mixture(x):
    w = pyro.sample("w", dist.Dirichlet(x.new_ones(3)))
    with pyro.plate("components", 3):
        mu = pyro.sample("mu", dist.Normal(x.new_zeros(()), 3.0))
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Categorical(w))
        observe("x", dist.Normal(mu[k], 0.5), x)


def mixture_terms(target, z, x):
    values = target.constrain(z)
    w, mu = values["w"], values["mu"]
    transform = biject_to(dist.constraints.simplex)
    prior = dist.Dirichlet(torch.ones(3, dtype=DOUBLE)).log_prob(w) + dist.Normal(0.0, 3.0).log_prob(mu).sum(-1)
    prior = prior + transform.log_abs_det_jacobian(transform.inv(w), w)
    seen = x[~x.isnan()]
    each = (w.log().unsqueeze(1) + dist.Normal(mu.unsqueeze(1), 0.5).log_prob(seen.unsqueeze(-1))).logsumexp(-1)
    return prior, each.sum(-1)


def test_discrete_variables_are_summed_out():
    with seeded(0):
        x = torch.randn(5, dtype=DOUBLE)
        x[2] = torch.nan
        target = density(mixture, x)
        z = torch.randn(4, target.dim, dtype=DOUBLE)
    assert target.names == ("w", "mu") and target.dim == 5
    prior, likelihood = mixture_terms(target, z, x)
    terms = target.value_and_grad(z)
    torch.testing.assert_close(terms.log_prior, prior)
    torch.testing.assert_close(terms.log_likelihood, likelihood)
    assert target.mode == "traced"
    pointwise = target.pointwise_log_likelihood(z)["x"]
    assert pointwise.shape == (4, 5) and pointwise[:, 2].abs().max() < 1e-12
    torch.testing.assert_close(pointwise.sum(-1), likelihood)
    assert target.observed["x"].isnan().tolist() == [False, False, True, False, False]


def test_held_sites_against_the_sum_over_them():
    x = torch.tensor([-1.0, 0.3, 2.0], dtype=DOUBLE)
    summed, held = density(mixture, x), density(mixture, x, hold=("k",))
    with seeded(0):
        z = torch.randn(2, summed.dim, dtype=DOUBLE)
        drawn = held.draw_held(z)["k"]
    assert drawn.shape == (2, 3)
    assert held.held_sites["k"].support.tolist() == [0, 1, 2] and held.held_sites["k"].plates == (-1,)
    each = []
    for states in itertools.product(range(3), repeat=3):
        k = torch.tensor(states).expand(2, 3)
        each.append(held.log_density(z, held={"k": k}))
        total = sum(v.reshape(2, -1).sum(-1) for v in held.site_log_probs(z, held={"k": k}).values())
        torch.testing.assert_close(total, each[-1])
    torch.testing.assert_close(torch.stack(each).logsumexp(0), summed.log_density(z))
    assert torch.equal(held.constrain(z, held={"k": drawn})["k"], drawn)
    with pytest.raises(ValueError, match=r"holds the sites \['k'\].*given those of \[\]"):
        held.log_density(z)
    with pytest.raises(ValueError, match=r"'k' is summed out.*hold it"):
        summed.site_log_probs(z)


def test_markov_chain_against_the_forward_algorithm():
    y = torch.tensor([-1.2, 0.4, 1.1, -0.3], dtype=DOUBLE)

    def chain(y):
        transition = pyro.sample("transition", dist.Dirichlet(y.new_ones(2, 2)).to_event(1))
        mu = pyro.sample("mu", dist.Normal(y.new_tensor([-1.0, 1.0]), 1.0).to_event(1))
        state = 0
        for t in pyro.markov(range(len(y))):
            state = pyro.sample(f"state_{t}", dist.Categorical(transition[state]))
            pyro.sample(f"y_{t}", dist.Normal(mu[state], 1.0), obs=y[t])

    target = density(chain, y)
    z = torch.randn(3, target.dim, dtype=DOUBLE)
    values = target.constrain(z)
    log_transition, emission = values["transition"].log(), [dist.Normal(values["mu"], 1.0).log_prob(v) for v in y]
    alpha = log_transition[:, 0] + emission[0]
    for e in emission[1:]:
        alpha = (alpha.unsqueeze(-1) + log_transition).logsumexp(1) + e
    expected = alpha.logsumexp(-1)
    torch.testing.assert_close(target.value_and_grad(z).log_likelihood, expected)
    # They share the chain of states, so they have no likelihood one by one.
    torch.testing.assert_close(target.pointwise_log_likelihood(z), {"y_0+...+y_3": expected})


def test_a_continuous_variable_that_depends_on_a_discrete_one():
    def model(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(x.new_tensor([0.3, 0.7])))
            z = pyro.sample("z", dist.Normal(k * 4.0 - 2.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.randn(5, dtype=DOUBLE)
    z = torch.randn(3, 5, 1, dtype=DOUBLE)
    terms = density(model, x).value_and_grad(z)
    weights, centres = torch.tensor([0.3, 0.7], dtype=DOUBLE), torch.tensor([-2.0, 2.0], dtype=DOUBLE)
    prior = (weights.log() + dist.Normal(centres, 1.0).log_prob(z)).logsumexp(-1)
    torch.testing.assert_close(terms.log_prior, prior)
    torch.testing.assert_close(terms.log_likelihood, dist.Normal(z[..., 0], 1.0).log_prob(x))
    joint = density(model, x, per_datum=False)
    torch.testing.assert_close(joint.log_prior(z[..., 0]), prior.sum(-1))

    def bounded(x):
        k = pyro.sample("k", dist.Bernoulli(0.5))
        pyro.sample("z", dist.Uniform(0.0, 1.0 + k))
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x[0])

    with pytest.raises(ValueError, match="support of 'z' depends on a discrete"):
        density(bounded, x)

    def scaled(x):
        k = pyro.sample("k", dist.Bernoulli(0.5))
        pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.poutine.scale(scale=2.0):
            pyro.sample("x", dist.Normal(k, 1.0), obs=x[0])

    with pytest.raises(ValueError, match=r"'x' depends on a discrete.*scaled"):
        density(scaled, x)


def test_masks_scales_and_factors_as_in_pyro():
    mask = torch.tensor([True, False, True])

    def model(x):
        a = pyro.sample("a", dist.Normal(x.new_zeros(()), 1.0))
        pyro.factor("f", -(a**4))
        with pyro.plate("rows", 3), pyro.poutine.mask(mask=mask), pyro.poutine.scale(scale=2.5):
            pyro.sample("x", dist.Normal(a, 1.0), obs=x)

    x = torch.tensor([0.5, 100.0, -1.0], dtype=DOUBLE)
    target = density(model, x)
    z = torch.tensor([[0.3], [-2.0]], dtype=DOUBLE)
    terms = target.value_and_grad(z)
    for i in range(2):
        conditioned = pyro.condition(model, {"a": z[i, 0]})
        total = pyro.poutine.trace(conditioned).get_trace(x).log_prob_sum()
        torch.testing.assert_close(terms.log_prior[i] + terms.log_likelihood[i], total)
    assert target.unnormalised
    expected = 2.5 * dist.Normal(z, 1.0).log_prob(x) * mask
    torch.testing.assert_close(target.pointwise_log_likelihood(z), {"x": expected})


def test_improper_prior_with_a_support_that_depends_on_another_variable():
    def model(y):
        a = pyro.sample("a", dist.Uniform(y.new_zeros(()), 1.0))
        b = pyro.sample("b", dist.ImproperUniform(dist.constraints.interval(0.0, 1 - a), (), ()))
        pyro.sample("y", dist.Normal(a + b, 1.0), obs=y)

    target = density(model, torch.tensor(0.7, dtype=DOUBLE))
    z = torch.randn(4, 2, dtype=DOUBLE)
    s, t = z.sigmoid().unbind(-1)
    a, b = s, (1 - s) * t
    expected = (s * (1 - s)).log() + ((1 - s) * t * (1 - t)).log()
    torch.testing.assert_close(target.log_prior(z), expected)
    torch.testing.assert_close(target.constrain(z)["b"], b)
    torch.testing.assert_close(target.log_likelihood(z), dist.Normal(a + b, 1.0).log_prob(torch.tensor(0.7)))
    with pytest.raises(ValueError, match="prior of 'b' is improper"):
        target.sample_prior(3)


def test_chunks_of_chains(monkeypatch):
    target = density(schools, Y, SIGMA)
    z = torch.randn(11, 10, dtype=DOUBLE)
    whole = target.value_and_grad(z)
    monkeypatch.setattr(base, "rows_per_chunk", lambda entries, device: 64)
    few = density(schools, Y, SIGMA)
    for a, b in zip(few.value_and_grad(z), whole, strict=True):
        torch.testing.assert_close(a, b)
    assert [key[1][0][0] for key in few._graphs] == [4]  # 4 + 4 + 3 chains through one graph
    assert few.constrain(z)["theta"].shape == (11, 8)


def test_lost_gradients_are_refused_and_branches_are_not():
    def lost(y):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(a.item(), 1.0), obs=y)

    def branch(y):
        a = pyro.sample("a", dist.Normal(y.new_zeros(()), 1.0))
        pyro.sample("y", dist.Normal(a if a > 0 else -2 * a, 1.0), obs=y)

    y = torch.tensor(3.0)
    with pytest.raises(ValueError, match=r"1.* by differences and -1 by autograd.*float"):
        density(lost, y).log_density_and_grad(torch.tensor([[1.0]]))
    with pytest.warns(UserWarning, match=r"one by one.*test_joint.py:\d+: .*a if a > 0"):
        _, grad = density(branch, y).log_density_and_grad(torch.tensor([[1.0], [-1.0]]))
    torch.testing.assert_close(grad, torch.tensor([[1.0], [-1.0]]))


def test_stacked_data_sets_of_a_model_that_branches_come_one_by_one():
    def branch(y):
        a = pyro.sample("a", dist.Normal(y.new_zeros(()), 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(a if a > 0 else -2 * a, 1.0), obs=y)

    y, z = torch.randn(4, 3), torch.randn(5, 4, 1)
    target = density(branch, y, stacked=True)  # asked for values before any evaluation has shown how it must be run
    assert torch.equal(target.constrain(z)["a"], z[..., 0])
    expected = dist.Normal(torch.where(z > 0, z, -2 * z), 1.0).log_prob(y)
    torch.testing.assert_close(target.pointwise_log_likelihood(z)["y"], expected)
    with seeded(0):
        assert target.predict(z)["y"].unique().numel() == 60


def test_the_line_is_named_also_in_a_folder_called_pyro(tmp_path):
    file = tmp_path / "pyro" / "branch.py"
    file.parent.mkdir()
    file.write_text(
        "import pyro\nimport pyro.distributions as dist\n\n"
        "def model(y):\n"
        "    a = pyro.sample('a', dist.Normal(y.new_zeros(()), 1.0))\n"
        "    b = a if a > 0 else -a\n"
        "    pyro.sample('y', dist.Normal(b, 1.0), obs=y)\n"
    )
    namespace = {}
    exec(compile(file.read_text(), str(file), "exec"), namespace)
    with pytest.warns(UserWarning, match=r"branch.py:6: .*a if a > 0"):
        density(namespace["model"], torch.tensor(3.0)).log_density_and_grad(torch.tensor([[1.0]]))


def test_compiles_when_that_is_repaid(monkeypatch):
    calls = []
    monkeypatch.setattr(base, "compile_graph", lambda graph, *args: calls.append(1) or graph)
    monkeypatch.setattr(base, "compiler_available", lambda: True)
    z = torch.randn(16, 10, dtype=DOUBLE)
    for evaluations, compiled in ((100, 0), (1_000_000, 1)):
        target = density(schools, Y, SIGMA, compile="auto")
        target.expect(evaluations)
        target.log_density_and_grad(z)
        assert len(calls) == compiled
    density(schools, Y, SIGMA).log_density_and_grad(z)
    assert len(calls) == 1

    def many_rows(y):  # a gradient of 64 chains takes half a millisecond, a compiler four seconds
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mean, scale), obs=y)

    for evaluations, compiled in ((2500, 1), (250_000, 2)):
        target = density(many_rows, torch.randn(1350), compile="auto")
        target.expect(evaluations)
        target.log_density_and_grad(torch.randn(64, 2))
        assert len(calls) == compiled
    with pytest.raises(ValueError, match='choose "off", "on" or "auto"'):
        density(schools, Y, SIGMA, compile="yes")


@pytest.mark.slow
@pytest.mark.skipif(not compiler_available(), reason="no C++ compiler")
def test_compiled_is_traced():
    z = torch.randn(16, 10, dtype=DOUBLE)
    target = density(schools, Y, SIGMA, compile="on")
    for a, b in zip(target.value_and_grad(z), density(schools, Y, SIGMA).value_and_grad(z), strict=True):
        torch.testing.assert_close(a, b)
    assert target.mode == "compiled"


def test_from_functions():
    target = Density.from_functions(
        lambda z: -0.5 * (z - 1).square().sum(-1), 3, log_prior=lambda z: -z.abs().sum(-1), batch_shape=(2,)
    )
    z = torch.randn(5, 2, 3)
    terms = target.value_and_grad(z)
    torch.testing.assert_close(terms.grad_likelihood, 1 - z)
    torch.testing.assert_close(terms.grad_prior, -z.sign())
    assert torch.equal(target.constrain(z)["z"], z)
    with pytest.raises(ValueError, match="sample_prior"):
        target.sample_prior(1)


def test_global_and_local_variables_of_a_program():
    class Grouped(Program):
        def model(self, x):
            mean = pyro.sample("mean", dist.Normal(x.new_zeros(()), 2.0))
            with self.plate(x):
                z = pyro.sample("z", dist.Normal(mean, 1.0))
                return observe("x", dist.Normal(z.unsqueeze(-1), 1.0).expand([len(x), 2]).to_event(1), x)

    x = torch.tensor([[0.5, torch.nan], [1.0, -2.0], [torch.nan, torch.nan]], dtype=DOUBLE)
    target = density(Grouped(), x)
    z = torch.randn(4, 4, dtype=DOUBLE)
    mean, local = z[:, :1], z[:, 1:]
    prior = dist.Normal(0.0, 2.0).log_prob(mean[:, 0]) + dist.Normal(mean, 1.0).log_prob(local).sum(-1)
    seen = ~x.isnan()
    likelihood = (dist.Normal(local.unsqueeze(-1), 1.0).log_prob(x.nan_to_num()) * seen).sum((-1, -2))
    torch.testing.assert_close(target.log_prior(z), prior)
    torch.testing.assert_close(target.log_likelihood(z), likelihood)
    with seeded(0):
        assert not target.predict(z)["x"].isnan().any()


def test_a_chain_without_a_cholesky_factor_does_not_stop_the_others():
    def model(y):
        r = pyro.sample("r", dist.Normal(0 * y[0], 0.4))
        covariance = torch.eye(2, dtype=y.dtype) * (1 - r) + r
        pyro.sample("y", dist.MultivariateNormal(0 * y, covariance, validate_args=False), obs=y)

    y = torch.tensor([0.5, -1.0], dtype=DOUBLE)
    target = density(model, y)
    correlation = torch.tensor([0.5, 1.5, -0.5, -1.5], dtype=DOUBLE)
    z = target.unconstrain({"r": correlation})
    value, grad = target.log_density_and_grad(z)
    assert value.isfinite().tolist() == grad[:, 0].isfinite().tolist() == [True, False, True, False]
    covariance = torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=DOUBLE)
    expected = dist.MultivariateNormal(torch.zeros(2, dtype=DOUBLE), covariance).log_prob(y)
    torch.testing.assert_close(target.log_likelihood(z)[0], expected)


@pytest.mark.parametrize("inner", [False, True])
def test_data_that_share_a_discrete_variable_have_one_pointwise_entry(inner: bool):
    def model(x):
        a = pyro.sample("a", dist.Normal(x.new_zeros(()), 1.0))
        columns, rows = pyro.plate("columns", 4, dim=-1), pyro.plate("rows", 3, dim=-2)
        if not inner:
            k = pyro.sample("k", dist.Bernoulli(x.new_tensor(0.3)))
        with columns:
            if inner:
                k = pyro.sample("k", dist.Bernoulli(x.new_tensor(0.3)))
            with rows:
                pyro.sample("x", dist.Normal(a + k, 1.0), obs=x)

    x, z = torch.randn(3, 4, dtype=DOUBLE), torch.randn(2, 1, dtype=DOUBLE)
    target = density(model, x)
    over = (1,) if inner else (1, 2)
    given = [dist.Normal(z.unsqueeze(-1) + k, 1.0).log_prob(x).sum(over) + math.log(p) for k, p in ((0, 0.7), (1, 0.3))]
    expected = torch.stack(given).logsumexp(0)
    torch.testing.assert_close(target.pointwise_log_likelihood(z), {"x": expected})
    torch.testing.assert_close(target.log_likelihood(z), expected.view(2, -1).sum(-1))


def test_held_sites_whose_possible_values_vary():
    def model(x):
        p = pyro.sample("p", dist.Beta(x.new_ones(()), 1.0))
        n = pyro.sample("n", dist.Poisson(x.new_tensor(4.0)))
        with pyro.plate("x_plate", 2):
            pyro.sample("by_element", dist.Binomial(x.new_tensor([3.0, 5.0]), p))
            fixed = pyro.sample("fixed", dist.Binomial(2, p))
        by_count = pyro.sample("by_count", dist.Binomial(n, p))
        pyro.sample("x", dist.Normal(by_count + fixed.sum(), 1.0), obs=x)

    target = density(model, torch.tensor(2.0), hold=("n", "by_element", "fixed", "by_count"))
    supports = {name: site.support for name, site in target.held_sites.items()}
    # A draw of the count that was taken for all would cut off the others.
    assert supports["n"] is supports["by_element"] is supports["by_count"] is None
    assert supports["fixed"].tolist() == [0, 1, 2]


def test_held_values_of_another_dtype_have_a_graph_of_their_own():
    def model(x):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        k = pyro.sample("k", dist.Poisson(x.new_tensor(4.0)))
        half = torch.tensor(0.5).to(k.dtype)  # of whole numbers 0
        pyro.sample("x", dist.Normal(z + half * k, 1.0), obs=x)

    target = density(model, torch.tensor(0.0, dtype=DOUBLE), hold=("k",))
    z, k = torch.zeros(3, 1, dtype=DOUBLE), torch.tensor([0.0, 2.0, 4.0], dtype=DOUBLE)
    for held, loc in ((k.long(), 0 * k), (k, k / 2), (k.float(), k / 2), (k.long(), 0 * k)):
        expected = dist.Normal(loc, 1.0).log_prob(torch.zeros(3, dtype=DOUBLE))
        for found in (target.value_and_grad(z, held={"k": held})[1], target.log_likelihood(z, held={"k": held})):
            torch.testing.assert_close(found, expected)
    assert target.mode == "traced"


def test_stacked_data_take_the_dtype_of_the_parameters():
    class Scaled(Program):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(2.0))

        def model(self, x):
            with self.plate(x):
                z = pyro.sample("z", dist.Normal(0.0, self.scale))
                return observe("x", dist.Normal(z, 1.0), x)

    target = density(Scaled(), torch.randn(3, 5, dtype=DOUBLE), stacked=True)
    value, grad = target.log_density_and_grad(torch.zeros(2, 3, 5))
    assert target.dtype == value.dtype == grad.dtype == torch.float32


def test_what_depends_on_a_summed_variable_has_no_one_value():
    def model(x):
        mu = pyro.sample("mu", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.deterministic("mean", mu.mean())
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(x.new_tensor(0.5))).long()
            pyro.sample("x", dist.Normal(pyro.deterministic("own", mu[k]), 1.0), obs=x)

    x, z, k = torch.randn(3), torch.randn(4, 2), torch.ones(4, 3)
    values = density(model, x).constrain(z)
    assert set(values) == {"mu", "mean"}
    torch.testing.assert_close(values["mean"], z.mean(-1))
    held = density(model, x, hold=("k",)).constrain(z, held={"k": k})
    torch.testing.assert_close(held["own"], z[:, 1:].expand(4, 3))
