"""Each objective's expectation, or gradient, equals the honest one on a program where that is known.

Statistical checks compare means at 4.5 standard errors: false-alarm rate 7e-6 per number compared, below 1e-4 for a
whole test. Seeds are fixed. Each check has a twin with the defect planted, which must fail.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from torch import Tensor, nn

import pyro_gen as pg
from pyro_gen._random import seeded
from pyro_gen.inference import ELBO, IWAE, VIMCO, DReG, EnumELBO, Objective, Renyi, ScoreFunctionELBO
from pyro_gen.inference.objectives import elbo, importance, pairs
from pyro_gen.program import Program, data_size

Z = 4.5  # standard errors


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    with pyro.validation_enabled(False):
        yield
    torch.set_default_dtype(torch.float32)


class Linear(Program):
    """z1 ~ N(0, 1), z2 | z1 ~ N(a z1, 1), x | z2 ~ N(z2, s^2), with a linear-Gaussian guide of all parts.

    ``order`` is that of the guide's statements: (z1, z2) with q(z2 | z1, x), or (z2, z1) with q(z1 | z2).
    """

    def __init__(self, order: str = "12", c: float = 0.2) -> None:
        super().__init__()
        self.order = order
        self.a = nn.Parameter(torch.tensor(0.8))
        self.log_s = nn.Parameter(torch.tensor(-0.4))
        self.b = nn.Parameter(torch.tensor([0.3, 0.7]))
        self.c = nn.Parameter(torch.tensor(c))
        self.log_t = nn.Parameter(torch.tensor([-0.2, -0.5]))

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            z1 = pyro.sample("z1", dist.Normal(x.new_zeros(()), 1.0))
            z2 = pyro.sample("z2", dist.Normal(self.a * z1, 1.0))
            return pg.observe("x", dist.Normal(z2.unsqueeze(-1), self.log_s.exp()).to_event(1), x)

    def guide(self, x: Tensor) -> None:
        t1, t2 = self.log_t.exp()
        b1, b2 = (self.b * x).unbind(-1)
        with self.plate(x):
            if self.order == "12":
                z1 = pyro.sample("z1", dist.Normal(b1, t1))
                pyro.sample("z2", dist.Normal(b2 + self.c * z1, t2))
            else:
                z2 = pyro.sample("z2", dist.Normal(b2, t2))
                pyro.sample("z1", dist.Normal(b1 + self.c * z2, t1))

    def exact(self, x: Tensor) -> Tensor:
        """log p(x), with shape (N,)."""
        variance = self.a**2 + 1 + (2 * self.log_s).exp()
        return dist.Normal(0.0, variance.sqrt()).log_prob(x.squeeze(-1))


def _affine(x: Tensor, program: Linear) -> tuple[Tensor, Tensor]:
    """Mean (N, 2) and Cholesky factor (2, 2) of (z1, z2) under the guide, by the rules for linear Gaussians."""
    t, (b1, b2), c = program.log_t.exp(), (program.b * x).unbind(-1), program.c
    zero = torch.zeros(())
    if program.order == "12":
        return torch.stack([b1, b2 + c * b1], -1), torch.stack([t[0], zero, c * t[0], t[1]]).reshape(2, 2)
    return torch.stack([b1 + c * b2, b2], -1), torch.stack([c * t[1], t[0], t[1], zero]).reshape(2, 2)


def linear_elbo(program: Linear, x: Tensor, kl_weight: float = 1.0) -> Tensor:
    """The ELBO in closed form: expectations of quadratic forms, and the entropy of a Gaussian."""
    mean, factor = _affine(x, program)
    covariance = factor @ factor.T
    second = covariance + mean.unsqueeze(-1) * mean.unsqueeze(-2)  # E[z z^T], (N, 2, 2)
    s2 = (2 * program.log_s).exp()
    y = x.squeeze(-1)
    log_2pi = math.log(2 * math.pi)
    likelihood = -0.5 * (log_2pi + s2.log() + (y**2 - 2 * y * mean[:, 1] + second[:, 1, 1]) / s2)
    a = program.a
    prior = -0.5 * (2 * log_2pi + second[:, 0, 0] + second[:, 1, 1] - 2 * a * second[:, 0, 1] + a**2 * second[:, 0, 0])
    entropy = 1 + log_2pi + program.log_t.sum()
    return (likelihood + kl_weight * (prior + entropy)).sum()


X = torch.tensor([[1.3], [-0.4], [0.2]], dtype=torch.float64)


def gradients(loss: Tensor, program: nn.Module) -> Tensor:
    parameters = list(program.parameters())
    pieces = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([loss.detach().reshape(1), *(g.reshape(-1) for g in pieces)])


def estimates(
    objective: Objective, program: Program, x: Tensor, copies: int, repetitions: int, **options: Any
) -> Tensor:
    """Loss and gradients of the data x, as means over ``copies`` of it, (repetitions, 1 + parameters).

    The copies are independent because they are rows of a data plate; the loss is a sum over them.
    """
    data = x.repeat(copies, *(1,) * (x.dim() - 1))
    return torch.stack(
        [gradients(objective.loss(program, data, **options) / copies, program) for _ in range(repetitions)]
    )


def z_scores(samples: Tensor, truth: Tensor) -> Tensor:
    error = samples.std(0) / len(samples) ** 0.5
    return (samples.mean(0) - truth) / error.clamp(min=1e-9)


def agrees(samples: Tensor, truth: Tensor) -> bool:
    # 40 repetitions: the mean divided by its estimated error is Student t with 39 degrees of freedom,
    # |t| > 5.5 with probability 2.6e-6 per number.
    return bool((z_scores(samples, truth).abs() < 5.5).all())


# ----------------------------------------------------------------------------------------------------------------------
# ELBO


@pytest.mark.parametrize("order", ["12", "21"])
@pytest.mark.parametrize("analytic", [True, False])
@pytest.mark.parametrize(("particles", "kl_weight"), [(1, 1.0), (2, 0.3)])
def test_elbo_and_its_gradient_are_the_closed_form(
    order: str, analytic: bool, particles: int, kl_weight: float
) -> None:
    program = Linear(order)
    truth = gradients(-linear_elbo(program, X, kl_weight), program)
    found = estimates(ELBO(particles, analytic), program, X, 500, 40, kl_weight=kl_weight)
    assert agrees(found, truth)


def test_the_closed_form_kl_needs_its_condition(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twin: the guide samples z2 before z1, so KL(q(z2) || p(z2 | z1)) with z1 ~ q(z1 | z2) is not a divergence."""
    program = Linear("21")
    truth = gradients(-linear_elbo(program, X), program)
    monkeypatch.setattr(elbo, "set", lambda _: frozenset(), raising=False)  # "nothing was sampled before"
    assert not agrees(estimates(ELBO(), program, X, 500, 40), truth)


def test_the_closed_form_kl_is_used_where_it_may_be() -> None:
    class Wide(Program):
        def __init__(self) -> None:
            super().__init__()
            self.loc = nn.Parameter(torch.tensor([0.5, -0.3]))

        def model(self, x: Tensor) -> Tensor:
            with self.plate(x):
                pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                return pg.observe("x", dist.Normal(torch.zeros(1), 1.0).to_event(1), x)

        def guide(self, x: Tensor) -> None:
            with self.plate(x):
                pyro.sample("z", dist.Normal(self.loc, torch.tensor([1.0, 0.5])).to_event(1))

    program = Wide()
    a, b = (ELBO().loss(program, X) for _ in range(2))
    assert a == b  # the likelihood does not use z: no draw matters
    assert ELBO(analytic_kl=False).loss(program, X) != a
    kl = 0.5 * torch.tensor([0.25, 0.09 + 0.25 - 1 - 2 * math.log(0.5)])  # per dimension
    likelihood = dist.Normal(0.0, 1.0).log_prob(X).sum()
    torch.testing.assert_close(a, 3 * kl.sum() - likelihood)
    # free bits: the dimension below the floor counts as the floor and gets no gradient
    floor = 0.2
    assert kl[0] < floor < kl[1]
    with data_size(30):
        loss = ELBO(free_bits=floor).loss(program, X)
    torch.testing.assert_close(loss, 30 * (floor + kl[1]) - 10 * likelihood)
    (gradient,) = torch.autograd.grad(loss, [program.loc])
    torch.testing.assert_close(gradient, torch.tensor([0.0, 30 * -0.3]))


@pytest.mark.parametrize("analytic_kl", [True, False])
def test_free_bits_are_per_dimension_and_for_training_only(analytic_kl: bool) -> None:
    vae = pg.models.VAE(6, latent=5, hidden=(4,)).double()
    x = (torch.rand(20, 6) < 0.5).double()

    def loss(objective: Objective) -> float:
        torch.manual_seed(0)
        return objective.loss(vae, x).item()

    without, low, high = (loss(ELBO(free_bits=f, analytic_kl=analytic_kl)) for f in (0.0, 50.0, 60.0))
    assert high - low == pytest.approx(20 * 5 * 10.0)  # rows, dimensions, nats
    assert loss(ELBO(free_bits=50.0, analytic_kl=analytic_kl).eval()) == without


class GlobalMean(Program):
    """w ~ N(0, 1), z_n ~ N(w, 1), x_n ~ N(z_n, 1); guide q(w), q(z_n | x_n)."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(0.4))
        self.slope = nn.Parameter(torch.tensor(0.6))

    def model(self, x: Tensor) -> Tensor:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(w, 1.0))
            return pg.observe("x", dist.Normal(z.unsqueeze(-1), 1.0).to_event(1), x)

    def guide(self, x: Tensor) -> None:
        pyro.sample("w", dist.Normal(self.loc, 0.1))
        with self.plate(x):
            pyro.sample("z", dist.Normal(self.slope * x.squeeze(-1), 0.5))

    def exact_elbo(self, x: Tensor) -> Tensor:
        log_2pi, y, m = math.log(2 * math.pi), x.squeeze(-1), self.slope * x.squeeze(-1)
        kl_w = 0.5 * (0.01 + self.loc**2 - 1) - math.log(0.1)
        likelihood = -0.5 * (log_2pi + (y - m) ** 2 + 0.25)
        prior = -0.5 * (log_2pi + (m - self.loc) ** 2 + 0.25 + 0.01)
        return (likelihood + prior + 0.5 * (1 + log_2pi) + math.log(0.5)).sum() - kl_w


@pytest.mark.parametrize(
    "objective", [ELBO(), ELBO(2, analytic_kl=False), ScoreFunctionELBO()], ids=lambda o: type(o).__name__
)
def test_minibatches_of_an_epoch_average_to_the_full_elbo(objective: Objective) -> None:
    program = GlobalMean()
    x = torch.linspace(-2, 3, 12).unsqueeze(-1)
    truth = gradients(-program.exact_elbo(x), program)
    assert agrees(epoch_averages(objective, program, x, scaled=True), truth)


def test_unscaled_minibatches_do_not() -> None:
    program = GlobalMean()
    x = torch.linspace(-2, 3, 12).unsqueeze(-1)
    truth = gradients(-program.exact_elbo(x), program)
    assert not agrees(epoch_averages(ELBO(), program, x, scaled=False), truth)


def epoch_averages(objective: Objective, program: Program, x: Tensor, scaled: bool) -> Tensor:
    def loss(batch: Tensor) -> Tensor:
        with data_size(len(x) if scaled else len(batch)):
            return objective.loss(program, batch)

    epochs = [torch.stack([gradients(loss(b), program) for b in x.split(4)]).mean(0) for _ in range(80)]
    return torch.stack(epochs).reshape(40, 2, -1).mean(1)


# ----------------------------------------------------------------------------------------------------------------------
# Several particles


def test_the_iwae_bound_starts_at_the_elbo_rises_and_stays_below_the_truth() -> None:
    program = Linear()
    exact = program.exact(X).sum()
    bounds = {k: -estimates(IWAE(k), program, X, 500, 40)[:, 0] for k in (1, 2, 8, 64)}
    assert agrees(bounds[1].unsqueeze(-1), linear_elbo(program, X))
    means = {k: b.mean() for k, b in bounds.items()}
    errors = {k: b.std() / 40**0.5 for k, b in bounds.items()}
    for low, high in ((1, 2), (2, 8), (8, 64)):
        assert means[high] - means[low] > Z * (errors[high] ** 2 + errors[low] ** 2).sqrt()
    assert means[64] < exact + Z * errors[64]
    assert exact - means[64] < 0.02


def test_iwae_with_the_exact_posterior_is_exact() -> None:
    model = pg.models.ProbabilisticPCA(4, 2)
    x = torch.randn(7, 4)
    x[0, 1] = x[3] = torch.nan
    exact = ELBO().loss(model.marginal(), x)
    torch.testing.assert_close(IWAE(3).loss(model, x), exact)
    torch.testing.assert_close(Renyi(0.5, 3).loss(model, x), exact)
    torch.testing.assert_close(ELBO(analytic_kl=False).loss(model, x), exact)


def test_renyi_has_iwae_and_elbo_as_its_ends() -> None:
    program = Linear()

    def value(objective: Objective) -> Tensor:
        torch.manual_seed(3)
        return gradients(objective.loss(program, X), program)

    torch.testing.assert_close(value(Renyi(0.0, 5)), value(IWAE(5)))
    near = value(Renyi(1 - 1e-7, 5))
    torch.testing.assert_close(near, value(ELBO(5, analytic_kl=False)), rtol=1e-5, atol=1e-5)
    assert value(Renyi(0.5, 5))[0] > value(IWAE(5))[0]  # the bound falls with alpha, draw by draw
    with pytest.raises(ValueError, match="use ELBO"):
        Renyi(1, 5)


def test_iwae_gradient_against_quadrature_for_one_particle_pair() -> None:
    """IWAE with K = 2 on a one-dimensional program, value and gradient by Gauss-Hermite quadrature over both draws."""
    program = Shared()
    nodes, weights = _hermite(60)

    def bound(x: Tensor) -> Tensor:
        z = program.loc(x) + program.scale() * nodes  # (60,)
        log_w = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(program.a * z, 1.0).log_prob(x)
        log_w = log_w - dist.Normal(program.loc(x), program.scale()).log_prob(z)
        pair = torch.logaddexp(log_w.unsqueeze(0), log_w.unsqueeze(1)) - math.log(2)
        return (weights.unsqueeze(0) * weights.unsqueeze(1) * pair).sum()

    truth = gradients(-sum(bound(x) for x in X.squeeze(-1)), program)
    for objective in (IWAE(2), DReG(2)):
        assert agrees(estimates(objective, program, X, 500, 40), truth)


class Shared(Program):
    """z ~ N(0, 1), x ~ N(a z, 1); the guide N(b a x, t) uses the model's parameter a too."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(1.2))
        self.b = nn.Parameter(torch.tensor(0.2))
        self.log_t = nn.Parameter(torch.tensor(-0.1))

    def loc(self, x: Tensor) -> Tensor:
        return self.b * self.a * x

    def scale(self) -> Tensor:
        return self.log_t.exp()

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            return pg.observe("x", dist.Normal(self.a * z, 1.0).to_event(1), x)

    def guide(self, x: Tensor) -> None:
        with self.plate(x):
            pyro.sample("z", dist.Normal(self.loc(x), self.scale()).to_event(1))


def _hermite(n: int) -> tuple[Tensor, Tensor]:
    import numpy as np

    nodes, weights = np.polynomial.hermite_e.hermegauss(n)
    return torch.as_tensor(nodes), torch.as_tensor(weights / weights.sum())


def dreg_matches_iwae(program: Program) -> bool:
    iwae = estimates(IWAE(3), program, X, 2000, 40)
    dreg = estimates(DReG(3), program, X, 2000, 40)
    error = (iwae.var(0) / 40 + dreg.var(0) / 40).sqrt()
    return bool(((iwae.mean(0) - dreg.mean(0)).abs() < 5.5 * error).all())


def test_dreg_has_the_gradient_of_iwae_also_through_a_chain_of_latents() -> None:
    assert dreg_matches_iwae(Linear("12", c=0.9))
    assert dreg_matches_iwae(Linear("21", c=-0.7))


def test_dreg_has_less_variance_for_the_guide() -> None:
    program = Linear()
    iwae, dreg = (estimates(o(16), program, X, 50, 40) for o in (IWAE, DReG))
    guide = slice(3, None)  # after loss, a, log_s
    # b1, b2, c, log_t1, log_t2: an F ratio with (39, 39) degrees of freedom above 3.5 by chance: 1e-4
    assert (iwae[:, guide].var(0) / dreg[:, guide].var(0) > 3.5).all()


def test_dreg_twin_with_first_powers_of_the_weights_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    align = importance._align
    monkeypatch.setattr(importance, "_align", lambda squared, dims, data_dim: align(squared.sqrt(), dims, data_dim))
    assert not dreg_matches_iwae(Linear("12", c=0.9))


def network_functions() -> tuple[Program, list[nn.Parameter]]:
    """A program of plain functions, whose networks live in a closure where no functional_call reaches them."""
    encoder, decoder = nn.Linear(1, 2), nn.Linear(1, 1)
    with torch.no_grad():
        for i, parameter in enumerate((*encoder.parameters(), *decoder.parameters())):
            parameter.copy_(torch.linspace(-0.4, 0.9, parameter.numel()).reshape(parameter.shape) + 0.1 * i)

    def model(x: Tensor) -> Tensor:
        pyro.module("decoder", decoder)
        with pg.plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            return pg.observe("x", dist.Normal(decoder(z), 1.0).to_event(1), x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pg.plate(x):
            loc, raw = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))

    return Program.from_functions(model, guide).initialise(X), [*encoder.parameters(), *decoder.parameters()]


def test_dreg_of_networks_in_closures_has_the_gradient_of_iwae() -> None:
    program, _ = network_functions()
    assert dreg_matches_iwae(program)


class Beta(Program):
    """A Beta posterior: Pyro's gradient of its draws does not go through vmap."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.3))

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            p = pyro.sample("p", dist.Beta(torch.tensor(2.0), torch.tensor(1.0)))
            return pg.observe("x", dist.Bernoulli(p), x)

    def guide(self, x: Tensor) -> None:
        with self.plate(x):
            pyro.sample("p", dist.Beta(1 + self.a.exp() + x, torch.tensor(1.5)))


def test_particles_that_cannot_be_vectorised_go_one_by_one() -> None:
    x = torch.tensor([0.0, 1.0])
    exact = -math.log(1 / 3) - math.log(2 / 3)  # p(x = 1) is the mean 2/3 of the prior
    with torch.no_grad():
        torch.manual_seed(0)
        assert abs(IWAE(2000).loss(Beta(), x).item() - exact) < 0.1
    DReG(3).loss(Beta(), x).backward()


class WithDeterministic(Linear):
    """A deterministic site outside of the data plate is no observation."""

    def model(self, x: Tensor) -> Tensor:
        pyro.deterministic("twice", 2 * self.a)
        return super().model(x)


@pytest.mark.parametrize("objective", [ELBO(), IWAE(2), DReG(2), Renyi(0.5, 2)])
def test_deterministic_sites_are_not_scored(objective: Objective) -> None:
    losses = []
    for program in (Linear(), WithDeterministic()):
        torch.manual_seed(0)
        losses.append(objective.loss(program, X).item())
    assert losses[0] == losses[1]


def test_dreg_refuses_dropout_in_training() -> None:
    vae = pg.models.VAE(6, latent=2, hidden=(4,), dropout=0.2)
    x = torch.ones(3, 6)
    with pytest.raises(ValueError, match="runs the guide twice"):
        DReG(2).loss(vae, x)
    assert DReG(2).loss(vae.eval(), x).isfinite()


# ----------------------------------------------------------------------------------------------------------------------
# Discrete latent variables


class Discrete(Program):
    """A global switch g and a local class k_n: x_n ~ N(loc[k_n] + shift g, 1), with discrete guides."""

    def __init__(self, with_global: bool = True) -> None:
        super().__init__()
        self.with_global = with_global
        self.loc = nn.Parameter(torch.tensor([-1.0, 0.5, 2.0]))
        self.shift = nn.Parameter(torch.tensor(0.7))
        self.table = nn.Parameter(torch.tensor([[0.3, -0.5, 0.1], [0.6, 0.2, -0.4]]))
        self.g_logit = nn.Parameter(torch.tensor(0.4))

    def model(self, x: Tensor) -> Tensor:
        g: Any = pyro.sample("g", dist.Bernoulli(0.3)) if self.with_global else 0.0
        with self.plate(x):
            k = pyro.sample("k", dist.Categorical(torch.tensor([0.5, 0.3, 0.2])))
            loc = self.loc[k] + self.shift * g
            return pg.observe("x", dist.Normal(loc.unsqueeze(-1), 1.0).to_event(1), x)

    def guide(self, x: Tensor) -> None:
        if self.with_global:
            pyro.sample("g", dist.Bernoulli(logits=self.g_logit))
        with self.plate(x):
            pyro.sample("k", dist.Categorical(logits=self.table[0] + x * self.table[1]))

    def exact_elbo(self, x: Tensor) -> Tensor:
        """By enumeration; the guide is mean-field."""
        total = torch.zeros(())
        q_k = dist.Categorical(logits=self.table[0] + x * self.table[1])  # (N,)
        q_g = torch.sigmoid(self.g_logit) if self.with_global else torch.zeros(())
        for g, weight in ((0.0, 1 - q_g), (1.0, q_g)):
            if not self.with_global and g == 1.0:
                continue
            terms = dist.Normal(self.loc + self.shift * g, 1.0).log_prob(x)  # (N, 3)
            terms = terms + torch.tensor([0.5, 0.3, 0.2]).log() - q_k.logits
            total = total + weight * (q_k.probs * terms).sum()
            if self.with_global:
                total = total + weight * (math.log(0.3 if g else 0.7) - weight.log())
        return total


class Baseline(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor([-3.0, -0.1]))

    def forward(self, x: Tensor) -> Tensor:
        return self.level[0] + self.level[1] * x.squeeze(-1) ** 2


def score_samples(baseline: Any, x: Tensor, particles: int = 1, repetitions: int = 400) -> Tensor:
    program, objective = Discrete(), ScoreFunctionELBO(baseline, num_particles=particles)
    return torch.stack([gradients(objective.loss(program, x), program) for _ in range(repetitions)])


def grouped(samples: Tensor) -> Tensor:
    return samples.reshape(40, -1, samples.shape[-1]).mean(1)


SCORE_BASELINES: list[Callable[[], Any]] = [lambda: None, lambda: "decaying_average", Baseline]


@pytest.mark.parametrize("baseline", SCORE_BASELINES, ids=["none", "average", "network"])
def test_score_function_gradient_equals_enumeration(baseline: Callable[[], Any]) -> None:
    program = Discrete()
    truth = gradients(-program.exact_elbo(X), program)
    assert agrees(grouped(score_samples(baseline(), X)), truth)


def test_the_average_does_not_learn_from_validation_data() -> None:
    objective = ScoreFunctionELBO().eval()
    objective.loss(Discrete(), X)
    assert not objective.started


def test_score_function_twin_without_the_surrogate_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    program = Discrete()
    truth = gradients(-program.exact_elbo(X), program)
    monkeypatch.setattr(dist.Categorical, "rsample", dist.Categorical.sample)
    monkeypatch.setattr(dist.Categorical, "has_rsample", True)  # "reparameterised": no surrogate for k
    assert not agrees(grouped(score_samples(None, X, repetitions=400)), truth)


def test_baselines_lower_the_variance() -> None:
    plain, average, network = (score_samples(b(), X, repetitions=300)[10:, 5:].var(0) for b in SCORE_BASELINES)
    # the guide's seven parameters; an F ratio with (289, 289) degrees of freedom above 1.5 by chance: 3e-4
    assert average.sum() * 1.5 < plain.sum()
    assert network.sum() * 1.5 < plain.sum()


def test_the_network_baseline_learns_the_signal() -> None:
    program, baseline = Discrete(), Baseline()
    objective = ScoreFunctionELBO(baseline)
    optimizer = torch.optim.Adam(baseline.parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        objective.loss(program, X).backward()
        optimizer.step()
    # the mean signal per datum is the local part of its ELBO
    local = (-estimates(ScoreFunctionELBO(None), program, X, 1, 100)[:, 0]).mean()
    assert abs(baseline(X).sum() - local) < 1.0
    wrong = nn.Linear(1, 1)
    with pytest.raises(ValueError, match=r"returns shape \(3, 1\), not \(3,\)"):
        ScoreFunctionELBO(wrong).loss(program, X)


def test_score_function_loss_is_the_elbo_also_with_continuous_sites() -> None:
    program = Linear()
    truth = gradients(-linear_elbo(program, X), program)
    assert agrees(estimates(ScoreFunctionELBO(num_particles=2), program, X, 300, 40), truth)


class Mixture(Program):
    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.tensor([-1.0, 0.5, 2.0]))
        self.logits = nn.Parameter(torch.tensor([0.1, 0.0, -0.3]))

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            k = pyro.sample("k", dist.Categorical(logits=self.logits))
            return pg.observe("x", dist.Normal(self.loc[k].unsqueeze(-1), 1.0).to_event(1), x)


def test_enumeration_is_the_marginal_likelihood_of_a_mixture() -> None:
    program = Mixture()
    mixture = dist.MixtureSameFamily(dist.Categorical(logits=program.logits), dist.Normal(program.loc, 1.0))
    truth = gradients(-4 * mixture.log_prob(X.squeeze(-1)).sum(), program)
    with data_size(12):
        found = gradients(EnumELBO().loss(program, X), program)
    torch.testing.assert_close(found, truth)
    holes = torch.cat([X, torch.full((2, 1), torch.nan)])  # a datum of which nothing was seen adds nothing
    torch.testing.assert_close(4 * gradients(EnumELBO().loss(program, holes), program), truth)


def test_enumeration_of_a_discrete_guide_is_the_exact_elbo() -> None:
    for program in (Discrete(with_global=True), Discrete(with_global=False)):
        truth = gradients(-program.exact_elbo(X), program)
        torch.testing.assert_close(gradients(EnumELBO().loss(program, X), program), truth)


def test_the_global_parameter_store_stays_empty() -> None:
    pyro.clear_param_store()
    EnumELBO().loss(Discrete(), X)
    ScoreFunctionELBO().loss(Discrete(), X)
    IWAE(2).loss(Linear(), X)
    assert len(pyro.get_param_store()) == 0


# ----------------------------------------------------------------------------------------------------------------------
# Autoguides


def _gamma_model(x: Tensor) -> Tensor:
    """precision ~ Gamma(3, 2), x_n ~ N(0, 1 / precision)."""
    precision = pyro.sample("precision", dist.Gamma(3.0, 2.0))
    with pg.plate(x):
        return pg.observe("x", dist.Normal(torch.zeros(1), precision.rsqrt()).to_event(1), x)


@pytest.mark.parametrize(
    ("guide", "objective"),
    [(AutoNormal, ELBO()), (AutoMultivariateNormal, ELBO(2)), (AutoNormal, ScoreFunctionELBO())],
    ids=["elbo", "full rank", "score function"],
)
def test_the_elbo_of_an_autoguide_counts_the_jacobian(guide: Any, objective: Objective) -> None:
    """A log-normal guide of a Gamma posterior, by quadrature over the unconstrained variable."""
    program = Program.from_functions(_gamma_model, guide).initialise(X)
    nodes, weights = _hermite(60)
    trace = pyro.poutine.trace(program.guide).get_trace(X)
    (auxiliary,) = [s for s in trace.nodes.values() if s["type"] == "sample" and s["infer"].get("is_auxiliary")]
    loc, scale = auxiliary["fn"].mean.reshape(()), auxiliary["fn"].variance.reshape(()).sqrt()
    u = loc + scale * nodes
    log_joint = dist.Gamma(3.0, 2.0).log_prob(u.exp())
    log_joint = log_joint + dist.Normal(0.0, (-u / 2).exp()).log_prob(X).sum(0)
    truth = gradients(-(weights * (log_joint + u - dist.Normal(loc, scale).log_prob(u))).sum(), program)
    samples = torch.stack([gradients(objective.loss(program, X), program) for _ in range(120)])
    assert agrees(grouped(samples), truth)


def test_autoguide_twin_without_the_jacobian_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (elbo, pairs):
        monkeypatch.setattr(module, "is_delta", lambda site: site["name"] == "never")
    with pytest.raises(ValueError, match="no density to score them against"):
        ELBO().loss(Program.from_functions(_gamma_model, AutoNormal).initialise(X), X)


# ----------------------------------------------------------------------------------------------------------------------
# Misuse


class Broken(Program):
    def __init__(self, model_sites: str, guide_sites: str, auxiliary: str = "") -> None:
        super().__init__()
        self.model_sites, self.guide_sites, self.auxiliary = model_sites, guide_sites, auxiliary

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            for name in self.model_sites:
                pyro.sample(name, dist.Normal(torch.zeros(()), 1.0))
            return pg.observe("x", dist.Normal(torch.zeros(1), 1.0).to_event(1), x)

    def guide(self, x: Tensor) -> None:
        with self.plate(x):
            for name in self.guide_sites:
                pyro.sample(
                    name,
                    dist.Normal(torch.zeros(()), 1.0),
                    infer={"is_auxiliary": True} if name in self.auxiliary else {},
                )


@pytest.mark.parametrize(
    "objective", [ELBO(), IWAE(2), DReG(2), Renyi(0.5, 2), ScoreFunctionELBO()], ids=lambda o: type(o).__name__
)
def test_sites_that_do_not_match_are_named(objective: Objective) -> None:
    with pytest.raises(ValueError, match="The model samples 'b' but the guide does not"):
        objective.loss(Broken("ab", "a"), X)
    with pytest.raises(ValueError, match="The guide samples 'b' but the model does not"):
        objective.loss(Broken("a", "ab"), X)
    with pytest.raises(ValueError, match="auxiliary sites 'b' have no density"):
        objective.loss(Broken("a", "ab", auxiliary="b"), X)


@pytest.mark.parametrize(
    "objective", [ELBO(), ELBO(2), IWAE(2), DReG(2), Renyi(0.5, 2)], ids=lambda o: type(o).__name__
)
def test_a_site_that_cannot_be_reparameterised_is_refused(objective: Objective) -> None:
    with pytest.raises(ValueError, match=r"'k' \(Categorical\) cannot be reparameterised.*ScoreFunctionELBO"):
        objective.loss(Discrete(with_global=False), X)


@pytest.mark.parametrize("objective", [IWAE(2), DReG(2), Renyi(0.5, 2)], ids=lambda o: type(o).__name__)
def test_a_global_latent_is_refused_by_bounds_per_datum(objective: Objective) -> None:
    with pytest.raises(ValueError, match="'w' is global"):
        objective.loss(GlobalMean(), X)


@pytest.mark.parametrize("make", [ELBO, IWAE, DReG, lambda k: Renyi(0.5, k), lambda k: EnumELBO(1, k)])
def test_particles_are_positive(make: Callable[[int], Objective]) -> None:
    with pytest.raises(ValueError, match="num_particles=0"):
        make(0)


def test_an_unknown_baseline_is_refused() -> None:
    with pytest.raises(ValueError, match="baseline='median'"):
        ScoreFunctionELBO("median")


class Bits(Program):
    """Three bits of one datum, which a factor outside of the plate and one of the guide read too."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.logits = (
            nn.Parameter(torch.tensor([0.4, -1.0, 0.7])),
            nn.Parameter(torch.tensor([2.0, 0, -1])),
        )

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            z = pyro.sample("z", dist.Bernoulli(torch.full((3,), 0.5)).to_event(1))
            out = pg.observe("x", dist.Normal((z * self.weight).sum(-1, keepdim=True), 1.0).to_event(1), x)
        pyro.factor("parity", 2 * (z.sum() % 2) * self.weight.sum())
        return out

    def guide(self, x: Tensor) -> None:
        with self.plate(x):
            z = pyro.sample("z", dist.Bernoulli(logits=self.logits).to_event(1))
            pyro.factor("own", (z[:, 0] - 0.3).square() * self.logits[1].exp(), has_rsample=False)


class Given(pyro.poutine.messenger.Messenger):
    def __init__(self, z: Tensor) -> None:
        super().__init__()
        self.z = z

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == "z" and msg["value"] is None:
            msg["value"] = self.z


def expected_score_gradient(program: Bits, baseline: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """The mean gradient over all draws, and that of the mean loss."""
    x, found, exact = torch.tensor([[0.8]]), torch.zeros(7), torch.zeros(())
    objective = ScoreFunctionELBO().eval()
    for z in torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3):
        log_q = dist.Bernoulli(logits=program.logits).log_prob(z).sum()
        log_p = dist.Normal(z @ program.weight, 1.0).log_prob(x).sum() - 3 * math.log(2)
        log_p = log_p + 2 * (z.sum() % 2) * program.weight.sum()
        own = (z[0] - 0.3).square() * program.logits[1].exp()
        exact = exact - log_q.exp() * (log_p - log_q - own)
        objective.average.copy_(baseline(z))
        with Given(z.unsqueeze(0)):
            found = found + log_q.exp().detach() * gradients(objective.loss(program, x), program)
    return found, gradients(exact, program)


def test_score_function_gradient_is_exact_in_expectation_over_all_draws() -> None:
    found, truth = expected_score_gradient(Bits(), lambda z: torch.tensor(-5.0))
    torch.testing.assert_close(found, truth, atol=1e-5, rtol=1e-5)
    # The twin: a baseline that knows the draw is biased.
    found, truth = expected_score_gradient(Bits(), lambda z: z.sum())
    assert (found - truth).abs().max() > 0.1


def test_vimco_with_draws_of_weight_zero() -> None:
    class Hard(Bits):
        def model(self, x: Tensor) -> Tensor:
            with self.plate(x):
                z = pyro.sample("z", dist.Bernoulli(torch.full((3,), 0.5)).to_event(1))
                pyro.factor("needs", torch.where(z[:, 0] > 0, 0.0, -math.inf))
                return pg.observe("x", dist.Normal(z[:, 1:2], 1.0).to_event(1), x)

        def guide(self, x: Tensor) -> None:
            with self.plate(x):
                pyro.sample("z", dist.Bernoulli(logits=self.logits).to_event(1))

    program = Hard()
    with seeded(0):
        samples = torch.stack([gradients(VIMCO(12).loss(program, X), program)[-3:] for _ in range(20)])
    assert samples.isfinite().all()
    assert samples[:, 0].mean() < 0  # the first bit is to be 1
