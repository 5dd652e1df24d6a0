"""Entries that are scored more than once are found, with or without plates, and sound models are left alone."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_gen as pg
import pyro_gen.density.api as api
from pyro_gen.density import density
from pyro_gen.inference.likelihood.ais import anneal
from pyro_gen.inference.likelihood.smc import smc

N = 30
X = torch.linspace(-1, 1, 2 * N).sin().reshape(2, N).T.contiguous()
Y = X @ torch.tensor([1.0, -1.0]) + 0.1 * torch.arange(N).sin()
COLUMN = torch.ones(N, 1)


def weights(*shape):
    return pyro.sample("w", dist.Normal(0.0, 1.0).expand(shape).to_event(len(shape)))


def column_of_means():
    w = weights(2, 1)
    with pyro.plate("data", N):
        pyro.sample("y", dist.Normal(X @ w, 0.5), obs=Y)


def without_a_plate():
    pyro.sample("y", dist.Normal(X @ weights(2, 1), 0.5), obs=Y)


def column_of_scales():
    w = weights(2)
    with pyro.plate("data", N):
        pyro.sample("y", dist.Normal(X @ w, 0.5 * COLUMN), obs=Y)


def column_of_scales_without_a_plate():
    pyro.sample("y", dist.Normal(X @ weights(2), 0.5 * COLUMN), obs=Y)


def column_of_data():
    pyro.sample("y", dist.Normal(X @ weights(2), 0.5), obs=Y.unsqueeze(1))


def column_of_a_mask():
    w = weights(2)
    with pyro.plate("data", N), pyro.poutine.mask(mask=COLUMN > 0):
        pyro.sample("y", dist.Normal(X @ w, 0.5), obs=Y)


def column_of_a_scale():
    w = weights(2)
    with pyro.poutine.scale(scale=COLUMN):
        pyro.sample("y", dist.Normal(X @ w, 0.5), obs=Y)


def inside_the_event():  # log_prob has the shape (N,) that it is to have
    w = weights(2, 1)
    with pyro.plate("data", N):
        pyro.sample("y", dist.Normal(X @ w, 0.5).to_event(1), obs=Y)


def all_inside_the_event():
    pyro.sample("y", dist.Normal(X @ weights(2, 1), 0.5).to_event(2), obs=Y)


def vectors_by_vectors():
    mean = weights(2).expand(N, 1, 2)
    pyro.sample("y", dist.MultivariateNormal(mean, torch.eye(2)), obs=X)


def a_latent_variable_under_a_mask():
    w = weights(2)
    with pyro.poutine.mask(mask=Y > 0):
        scale = pyro.sample("scale", dist.HalfNormal(1.0))
    pyro.sample("y", dist.Normal(X @ w, scale).to_event(1), obs=Y)


def column_in_a_factor():
    w = weights(2, 1)
    with pyro.plate("data", N):
        pyro.factor("y", dist.Normal(X @ w, 0.5).log_prob(Y))


WRONG = [
    column_of_means,
    without_a_plate,
    column_of_scales,
    column_of_scales_without_a_plate,
    column_of_data,
    column_of_a_mask,
    column_of_a_scale,
    inside_the_event,
    all_inside_the_event,
    vectors_by_vectors,
    a_latent_variable_under_a_mask,
    column_in_a_factor,
]


@pytest.mark.parametrize("model", WRONG, ids=lambda m: m.__name__)
def test_entries_scored_more_than_once_are_refused(model):
    with pytest.raises(ValueError, match=r"as where an \(N, 1\) meets an \(N,\)") as caught:
        density(model)
    site = "scale" if "latent" in model.__name__ else "y"
    assert f"Site '{site}'" in str(caught.value) and "\n" not in str(caught.value)
    if "plate" in model.__name__ or model is column_of_means:
        assert "a batch dimension without a plate" in str(caught.value)


@pytest.mark.parametrize("run", [pg.posterior, pg.log_evidence, anneal, smc], ids=lambda f: f.__name__)
def test_all_that_make_a_density_refuse_them(run):
    def model(x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([2, 1]).to_event(2))
        with pyro.plate("data", N):
            pyro.sample("y", dist.Normal(x @ w, 0.5), obs=Y)

    with pytest.raises(ValueError, match="without a plate"):
        run(model, X)


def evidence(model):
    return smc(density(model), seed=0, particles=256).evidence


def test_the_evidence_of_the_model_as_it_is_meant(monkeypatch):
    def model():
        w = weights(2)
        with pyro.plate("data", N):
            pyro.sample("y", dist.Normal(X @ w, 0.5), obs=Y)

    exact = dist.MultivariateNormal(torch.zeros(N), X @ X.T + 0.25 * torch.eye(N)).log_prob(Y).item()
    found = evidence(model)
    # False-alarm rate below 1e-6: five standard errors.
    assert abs(found.mean() - exact) < 5 * float(found.standard_error) + 1e-3
    # The twin: without the check the wrong model is scored, N times over.
    monkeypatch.setattr(api, "check_broadcasts", lambda trace: None)
    assert abs(evidence(without_a_plate).mean() - exact) > 100


def test_training_finds_what_hides_in_an_event():
    class Program(pg.Program):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.zeros(2, 1))

        def model(self, x):
            with self.plate(x):
                pyro.sample("y", dist.Normal(x @ self.w, 0.5).to_event(1), obs=Y)

    with pytest.raises(ValueError, match="meets an"):
        pg.fit(Program(), X, epochs=1, batch_size=N)


def sound():
    """Batch dimensions of all kinds that repeat nothing."""
    w = weights(2)
    mean = X @ w
    pyro.sample("vector", dist.Normal(mean, 0.5), obs=Y)
    pyro.sample("matrix", dist.Normal(mean.unsqueeze(1), torch.ones(3)), obs=Y.unsqueeze(1).expand(N, 3))
    pyro.sample("row", dist.Normal(mean, 0.5), obs=Y.expand(3, N))
    pyro.sample("one for all", dist.Normal(mean, 0.5), obs=torch.tensor(0.0))
    with pyro.plate("a", N, dim=-2), pyro.plate("b", 3, dim=-1):
        pyro.sample("plates", dist.Normal(mean.unsqueeze(1), 1.0), obs=Y.unsqueeze(1).expand(N, 3))
        pyro.sample("same in a", dist.Normal(mean.unsqueeze(1), 1.0), obs=torch.arange(3.0))
    with pyro.plate("c", N):
        pyro.sample("beside", dist.Normal(mean.expand(3, N), 1.0), obs=Y.expand(3, N))
        pyro.sample("event", dist.Normal(mean.unsqueeze(1), torch.ones(2)).to_event(1), obs=X)
        pyro.factor("in a plate", -mean.square())
    for i in pyro.plate("d", 2):
        pyro.sample(f"one of {i}", dist.Normal(mean, 1.0), obs=Y)
    pyro.factor("pairs", -(mean.unsqueeze(1) - mean).square())
    pyro.deterministic("gram", mean.unsqueeze(1) * mean)


def test_sound_models_are_left_alone():
    target = density(sound)
    z = torch.tensor([[0.3, -0.2]])
    trace = pyro.poutine.trace(pyro.poutine.condition(sound, {"w": z[0]})).get_trace()
    assert math.isclose(target.log_density(z).item(), trace.log_prob_sum().item(), rel_tol=1e-5)
