"""The deep latent-variable model of tables, as a program and on tables that it learns."""

import time

import numpy as np
import pytest
import torch

from pyro_gen.data.column import Column
from pyro_gen.evaluation.conformance import check_program
from pyro_gen.models.tabular.deep import DeepLatentTable

NAN = torch.nan
REAL = [Column(f"x{i}", "real") for i in range(5)]
MIXED = [
    Column("grade", "ordinal", ("poor", "fair", "good", "best")),
    Column("height", "real"),
    Column("town", "nominal", ("a", "b", "c")),
    Column("visits", "count"),
    Column("smokes", "binary", ("no", "yes")),
    Column("weight", "real"),
    Column("mood", "ordinal", ("low", "high")),
]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_ordinal_levels_are_differences_of_a_logistic_function():
    program = DeepLatentTable(MIXED, latent=2, hidden=(), members=1).double()
    with torch.no_grad():
        program.weights["cuts"].copy_(random(1, 2, 3, seed=5))
    cells = program.cells(random(7, 2), torch.zeros(7, 7))
    probs = cells.probs  # binary; ordinal of 4 and of 2 levels; nominal of 3
    assert torch.allclose(probs.sum(-1), torch.ones(7, 4).double())
    assert (probs[:, [0, 2], 2:] == 0).all() and (probs[:, 3, 3] == 0).all()
    h, _ = program.decode(random(7, 2))
    raw = program.weights["cuts"][0, 0]
    cuts = raw[0] + torch.cat([torch.zeros(1), (1e-3 + torch.nn.functional.softplus(raw[1:])).cumsum(0)])
    eta = h[:, 4]  # after two real columns, a count and the binary one
    below = torch.sigmoid(cuts - eta.unsqueeze(-1))
    expected = torch.cat([below, torch.ones(7, 1)], -1).diff(dim=-1, prepend=torch.zeros(7, 1))
    assert torch.allclose(probs[:, 1], expected, atol=1e-9)


def test_a_level_that_there_is_not_is_never_drawn():
    columns = [Column("alive", "binary", (True,)), Column("height", "real")]
    program = DeepLatentTable(columns, latent=1, hidden=(), members=2, particles=10, steps=1)
    x = torch.stack([torch.full((500,), NAN), random(500)], 1)
    # Of two levels the untrained program draws each half of the time.
    assert bool((program.complete(x, 2, seeds=torch.arange(500))[..., 0] == 0).all())
    assert bool((program.cell_mean(x)[:, 0] == 0).all())


# ----------------------------------------------------------------------------------------------------------------------
# The contract


@pytest.mark.parametrize("hidden", [(), (8,)])
@pytest.mark.parametrize("columns", [REAL, MIXED])
def test_conformance(columns, hidden):
    program = DeepLatentTable(columns, latent=2, hidden=hidden, members=2)
    with torch.no_grad():
        for p in program.parameters():
            p.add_(0.1 * torch.randn_like(p))
        program.member.fill_(1)
        x = program.model(torch.full((12, len(columns)), NAN))
    check_program(program, x).raise_for_failures()


# ----------------------------------------------------------------------------------------------------------------------
# Learning


def linear_table(n=300, d=5, share=0.3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 1, generator=generator)
    complete = (z + 0.5 * torch.randn(n, d, generator=generator)).double()
    complete = (complete - complete.mean(0)) / complete.std(0)
    missing = torch.rand(n, d, generator=generator) < share
    return complete, torch.where(missing, NAN, complete)


def test_learning_finds_a_factor():
    complete, x = linear_table()
    heard = []
    program = DeepLatentTable(REAL, latent=2, hidden=(16,), members=3, particles=100, steps=200)
    assert program.fit_posterior(x, progress=lambda share, words: heard.append(share)) is program
    hole = x.isnan()
    error = (program.cell_mean(x) - complete)[hole].square().mean().item()
    # Each entry has variance 1, of which four fifths are shared: given about three others 0.26 is left.
    assert error < 0.32
    draws = program.complete(x, 30, seeds=torch.arange(len(x)))
    low, high = draws.quantile(torch.tensor([0.05, 0.95]).double(), 0)
    inside = ((complete >= low) & (complete <= high))[hole].double().mean().item()
    assert 0.83 < inside < 0.97  # of 450 entries 0.90 of 30 draws: standard error 0.015
    assert heard == sorted(heard) and heard[-1] == 1.0
    again = DeepLatentTable(REAL, latent=2, hidden=(16,), members=3, particles=100, steps=200).fit_posterior(x)
    assert torch.equal(again.cell_mean(x), program.cell_mean(x))


def test_a_deadline_stops_it():
    _, x = linear_table()
    said = []
    program = DeepLatentTable(REAL, hidden=(16,), steps=20_000)
    program.fit_posterior(x, deadline=time.monotonic() + 2, progress=lambda *words: said.append(words))
    assert any("out of time" in words for _, words in said)
    assert len(said) < 10_000  # each step of 20,000 is reported
    assert not program.cell_mean(x).isnan().any()


def test_a_column_never_seen_and_a_complete_table():
    complete, x = linear_table(60)
    x[:, 3] = NAN
    program = DeepLatentTable(REAL, latent=1, hidden=(), members=2, particles=50, steps=20).fit_posterior(x)
    assert not program.complete(x, 2, seeds=torch.arange(60)).isnan().any()
    program.fit_posterior(complete)
    assert torch.equal(program.cell_mean(complete), complete)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"real": "cauchy"}, "student_t"),
        ({"latent": 0}, "latent=0"),
        ({"members": 2.0}, "members=2.0"),
    ],
)
def test_options_that_do_not_exist(options, message):
    with pytest.raises(ValueError, match=message):
        DeepLatentTable(REAL, **options)


def test_tables_that_do_not_fit():
    program = DeepLatentTable(REAL)
    with pytest.raises(ValueError, match="expected"):
        program.fit_posterior(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="no entry"):
        program.fit_posterior(torch.full((3, 5), NAN))
    with pytest.raises(ValueError, match="positive"):
        DeepLatentTable([Column("a", "positive")])


@pytest.mark.slow
def test_the_breast_cancer_protocol():
    """Half of the entries missing completely at random, mean squared error of the posterior mean: knowledge 2.1."""

    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer().data
    data = (data - data.mean(0)) / data.std(0)
    np.random.seed(1234)  # noqa: NPY002 the protocol's generator
    mask = np.random.choice(data.size, data.size // 2, replace=False)  # noqa: NPY002
    x = data.copy()
    x.flat[mask] = np.nan
    x = torch.from_numpy(x)
    program = DeepLatentTable([Column(f"x{d}", "real") for d in range(30)]).fit_posterior(x)
    error = (program.cell_mean(x) - torch.from_numpy(data))[x.isnan()].square().mean().item()
    assert error < 0.28
