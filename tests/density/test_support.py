"""Observations that nothing explains are named with their site and value, and sound ones are left alone."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_gen as pg
from pyro_gen.density import density


def one(family):
    """A model of data of a family whose parameters are latent."""

    def model(y):
        a = pyro.sample("a", dist.Gamma(2.0, 1.0))
        b = pyro.sample("b", dist.Gamma(2.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", family(a, b), obs=y)

    return model


def dirichlet(a, b):
    return dist.Dirichlet(a * torch.ones(3))


EDGE = [
    (dist.Beta, [0.2, 0.0, 0.5], r"value 0 \(entry 1\) lies on the edge of the support of Beta"),
    (dist.Beta, [0.2, 0.5, 1.0], r"value 1 \(entry 2\) lies on the edge of the support of Beta"),
    (dist.Gamma, [0.0, 2.0], r"value 0 \(entry 0\) lies on the edge of the support of Gamma"),
    (dist.Weibull, [1.0, 0.0], r"value 0 \(entry 1\) is outside of the support of Weibull"),
    (dist.Kumaraswamy, [0.5, 1.0], r"value 1 \(entry 1\) lies on the edge of the support of Kumaraswamy"),
    (
        dirichlet,
        [[0.2, 0.3, 0.5], [0.0, 0.5, 0.5]],
        r"value \[0.0, 0.5, 0.5\] \(entry 1\) lies on the edge of the support",
    ),
    (dist.Beta, [0.2, 1.5], r"value 1.5 \(entry 1\) is outside of the support of Beta"),
    (dist.LogNormal, [1.0, 0.0], r"value 0 \(entry 1\) is outside of the support of LogNormal"),
    (dist.Normal, [1.0, torch.nan], r"value nan \(entry 1\) is outside of the support of Normal.*pg.observe"),
    (lambda a, b: dist.Poisson(a), [1.0, 0.5], r"value 0.5 \(entry 1\) is outside of the support of Poisson"),
]


@pytest.mark.parametrize(("family", "values", "message"), EDGE)
@pytest.mark.parametrize("run", [density, pg.posterior, pg.log_evidence], ids=lambda f: f.__name__)
def test_the_site_and_the_value_are_named(run, family, values, message):
    with pytest.raises(ValueError, match=f"^Site 'y': the observed {message}") as caught:
        run(one(family), torch.tensor(values))
    assert "\n" not in str(caught.value)


def test_a_program_that_observes_with_holes():
    class Shares(pg.Program):
        def model(self, x):
            a = pyro.sample("a", dist.Gamma(2.0, 1.0))
            with self.plate(x):
                return pg.observe("x", dist.Beta(a, 2.0).expand([len(x), 2]).to_event(1), x)

    x = torch.tensor([[0.2, torch.nan], [0.4, 0.0]])
    with pytest.raises(ValueError, match=r"Site 'x': the observed value \[0.4.*, 0.0\] \(entry 1\) lies on the edge"):
        pg.posterior(Shares(), x, progress=False)
    density(Shares(), x[:1])  # what is missing stands nowhere


@pytest.mark.parametrize("masks", [False, True])
def test_sound_models_are_left_alone(masks):
    def edges(y):  # densities that are finite at the edge, at masked entries, and with a support that moves
        scale = pyro.sample("scale", dist.Gamma(2.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("half", dist.HalfNormal(scale), obs=y)
            pyro.sample("uniform", dist.Uniform(0.0, 1.0), obs=y)
            pyro.sample("moving", dist.Uniform(0.0, scale), obs=y)
            if not masks:
                return
            pyro.sample("masked", dist.Beta(scale, 2.0).mask(y > 0), obs=y)
            with pyro.poutine.mask(mask=y > 0):
                pyro.sample("coded", dist.LogNormal(0.0, scale), obs=torch.where(y > 0, y, -999.0))

    y = torch.tensor([0.0, 0.3, 1.0 - 1e-3])
    target = density(edges, y)
    z = torch.tensor([[1.0], [-0.5]])
    scale = z.exp()
    inside = torch.where(y < scale, -scale.log(), -torch.inf).sum(1)
    expected = inside + dist.HalfNormal(scale).log_prob(y).sum(1)
    if masks:
        for family in (dist.Beta(scale, 2.0), dist.LogNormal(0.0, scale)):
            expected = expected + family.log_prob(y[1:]).sum(1)
    torch.testing.assert_close(target.log_likelihood(z), expected)
    if not masks:
        idata = pg.posterior(edges, y, method="rwm", chains=8, draws=20, warmup=50, progress=False)
        assert float(idata.posterior["scale"].min()) > 0.999


def test_what_underflows_is_named_where_chains_find_no_start():
    def censored(y):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)
        pyro.factor("beyond", torch.log(1 - dist.Normal(mean, 1.0).cdf(torch.tensor([20.0, 30.0]))).sum())

    with pytest.raises(ValueError, match=r"the factor 'beyond' is -inf.*Censored"):
        pg.posterior(censored, torch.zeros(3), progress=False)

    def impossible(y):
        level = pyro.sample("level", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Uniform(level, level + 1), obs=y)

    with pytest.raises(ValueError, match=r"observed value 50 \(entry 1\) of 'y' has log-density -inf at all"):
        pg.posterior(impossible, torch.tensor([0.5, 50.0]), progress=False)
    with pytest.raises(ValueError, match=r"observed value 50 \(entry 1\) of 'y' has log-density -inf at all"):
        pg.log_evidence(impossible, torch.tensor([0.5, 50.0]))


@pytest.mark.filterwarnings("ignore:Singular sample detected:UserWarning")  # PyTorch's own, of a Wishart
@pytest.mark.parametrize("family", [dist.Wishart, dist.ProjectedNormal])
def test_latent_variables_without_a_map_from_unconstrained_space(family):
    def model():
        pyro.sample("w", family(5.0, torch.eye(2)) if family is dist.Wishart else family(torch.ones(2)))

    with pytest.raises(ValueError, match=rf"latent variable 'w' \({family.__name__}\) cannot be sampled"):
        pg.posterior(model, progress=False)
