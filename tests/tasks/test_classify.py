"""Classes by a joint density of data and label."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_gen as pg
from pyro_gen.tasks import classify

X = torch.linspace(-3, 4, 12)
PRIOR = torch.tensor([0.2, 0.3, 0.5])


class Mixture(pg.Program):
    def model(self, x):
        with self.plate(x):
            y = pg.observe("y", dist.Categorical(PRIOR), x["y"])
            pg.observe("x", dist.Normal(y.unsqueeze(-1), torch.ones(2)).to_event(1), x["x"])


class Latent(pg.Program):
    """x | y is N(y, 2), and the guide is not the posterior."""

    def model(self, x):
        with self.plate(x):
            y = pg.observe("y", dist.Categorical(PRIOR), x["y"])
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pg.observe("x", dist.Normal(y + z, 1.0), x["x"])

    def guide(self, x):
        with self.plate(x):
            pyro.sample("z", dist.Normal(x["x"] / 2, 1.0))


def by_bayes(log_likelihood):
    return (log_likelihood + PRIOR.log()).softmax(1).double()


def test_exact_probabilities_are_those_of_bayes_and_of_the_latents():
    x = torch.stack([X, X.flip(0)], 1)
    found = classify(Mixture(), {"x": x}, label="y")
    log_p = dist.Normal(torch.arange(3.0)[:, None], 1.0).log_prob(x[:, None]).sum(-1)
    torch.testing.assert_close(found.probabilities, by_bayes(log_p), atol=1e-6, rtol=0)
    assert found.kind == "exact" and not found.standard_error.any()
    latents = pg.latents(Mixture(), {"x": x, "y": torch.full((12,), math.nan)})["y"]
    torch.testing.assert_close(found.probabilities, latents.probabilities, atol=1e-6, rtol=0)
    assert found.accuracy(found.most_likely) == 1 and "3 classes of 12 data by exact" in str(found)
    labels = torch.where(torch.arange(12) < 6, math.nan, (found.most_likely + 1) % 3)
    assert found.accuracy(labels) == 0


def test_labels_that_are_there_are_not_looked_at_and_missing_entries_are_integrated_out():
    x = torch.stack([X, torch.full_like(X, math.nan)], 1)
    found = classify(Mixture(), {"x": x, "y": torch.full((12,), 2.0)}, label="y")
    log_p = dist.Normal(torch.arange(3.0), 1.0).log_prob(X[:, None])
    torch.testing.assert_close(found.probabilities, by_bayes(log_p), atol=1e-6, rtol=0)


def test_with_latent_variables_the_errors_are_right():
    found = classify(Latent(), {"x": X}, label="y", num_particles=400)
    log_p = dist.Normal(torch.arange(3.0), 2**0.5).log_prob(X[:, None])
    gap = (found.probabilities - by_bayes(log_p)).abs()
    # All classes take the same draws, so that errors are smaller than those stated.
    assert found.method == "iwae" and (gap < 6 * found.standard_error + 1e-4).all() and gap.max() < 0.1
    again = classify(Latent(), {"x": X}, label="y", num_particles=400)
    assert torch.equal(found.probabilities, again.probabilities)


def test_what_is_no_label_is_said():
    with pytest.raises(ValueError, match="mapping of the data"):
        classify(Mixture(), X, label="y")
    with pytest.raises(ValueError, match="Normal has not finitely many values"):
        classify(Latent(), {"y": X * 0}, label="x")
    program = Mixture()
    program.event_shape = {"x": (2,), "y": ()}
    with pytest.raises(ValueError, match="not 'z'"):
        classify(program, {"x": torch.zeros(3, 2), "y": torch.zeros(3)}, label="z")
