"""Every model of the zoo passes the conformance suite, and a model that is not listed here fails a test."""

import inspect

import pytest
import torch

import pyro_gen as pg
from pyro_gen.evaluation.conformance import check_program


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def binary(*shape):
    return (normal(*shape) > 0).float()


def levels(*shape):
    return torch.randint(0, 5, shape, generator=torch.Generator().manual_seed(0)).float()


VAE_HEADS = {
    "bernoulli": ({}, binary),
    "normal": ({}, normal),
    "student_t": ({}, normal),
    "categorical": ({"levels": 5}, levels),
    "discretized_logistic": ({"levels": 5}, levels),
}


def vae(likelihood, architecture, options):
    event_shape = (6,) if architecture == "dense" else (8, 8)
    hidden = (10,) if architecture == "dense" else (4, 6)
    return pg.models.VAE(
        event_shape, latent=3, hidden=hidden, likelihood=likelihood, architecture=architecture, **options
    )


REALS = [pg.data.Column(name, "real") for name in "abcd"]


# (name, a function that creates the program, a function that creates data for it)
PROGRAMS = [
    ("Gaussian, full", lambda: pg.models.Gaussian(4), lambda: normal(9, 4)),
    ("Gaussian, full, image", lambda: pg.models.Gaussian((2, 3)), lambda: normal(9, 2, 3)),
    ("Gaussian, diagonal", lambda: pg.models.Gaussian(4, covariance="diagonal"), lambda: normal(9, 4)),
    ("ProbabilisticPCA", lambda: pg.models.ProbabilisticPCA(5, 2), lambda: normal(9, 5)),
    ("ProbabilisticPCA, amortised", lambda: pg.models.ProbabilisticPCA(5, 2, guide="amortised"), lambda: normal(9, 5)),
    ("ProbabilisticPCA, marginal", lambda: pg.models.ProbabilisticPCA(5, 2).marginal(), lambda: normal(9, 5)),
    ("FactorAnalysis", lambda: pg.models.FactorAnalysis(5, 2), lambda: normal(9, 5)),
    ("FactorAnalysis, amortised", lambda: pg.models.FactorAnalysis(5, 2, guide="amortised"), lambda: normal(9, 5)),
    ("FactorAnalysis, marginal", lambda: pg.models.FactorAnalysis(5, 2).marginal(), lambda: normal(9, 5)),
    *[
        (
            f"VAE, {architecture}, {head}",
            lambda head=head, architecture=architecture, options=options: vae(head, architecture, options),
            lambda draw=draw, shape=shape: draw(9, *shape),
        )
        for architecture, shape in (("dense", (6,)), ("conv", (8, 8)))
        for head, (options, draw) in VAE_HEADS.items()
    ],
    *[
        (name, lambda program=program: program(REALS), lambda: normal(9, 4).double())
        for name, program in pg.models.tabular.METHODS.items()
    ],
    ("VAE, normal head, fixed scale", lambda: vae("normal", "dense", {"scale": 0.5}), lambda: normal(9, 6)),
    ("VAE, normal head, entry scale", lambda: vae("normal", "conv", {"scale": "entry"}), lambda: normal(9, 8, 8)),
]


@pytest.mark.parametrize(("create", "data"), [pytest.param(c, d, id=name) for name, c, d in PROGRAMS])
def test_conformance(create, data):
    check_program(create(), data()).raise_for_failures()


@pytest.mark.parametrize(("create", "data"), [pytest.param(c, d, id=name) for name, c, d in PROGRAMS])
def test_generation_takes_the_declared_shape(create, data):
    assert create().event_shape == data().shape[1:]


def test_every_program_of_the_zoo_is_listed():
    public = {
        c for _, c in inspect.getmembers(pg.models, inspect.isclass) if issubclass(c, pg.Program)
    }  # fmt: skip
    assert public, "pyro_gen.models exports no program"
    missing = public - {type(create()) for _, create, _ in PROGRAMS}
    assert not missing, f"add {sorted(c.__name__ for c in missing)} to PROGRAMS"


def test_every_head_is_listed():
    assert set(VAE_HEADS) == set(pg.likelihoods.HEADS)
