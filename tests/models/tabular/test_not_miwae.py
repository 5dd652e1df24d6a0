"""The selection model against quadrature, and on simulated tables whose missing entries are known."""

import math

import pytest
import torch

from pyro_gen.data.column import Column
from pyro_gen.evaluation.conformance import check_program
from pyro_gen.models.tabular.deep import SCALE_FLOOR, DeepLatentTable
from pyro_gen.models.tabular.not_miwae import INTERCEPT_SCALE, NotMIWAE

NAN = torch.nan


# ----------------------------------------------------------------------------------------------------------------------
# One column: everything by quadrature


def one_column(intercept=-0.2, slope=1.7, particles=20_000):
    """z is all that a column has: x ~ N(0.3, 0.8^2 + 0.6^2) whatever share of it the noise has."""
    program = NotMIWAE([Column("x", "real")], latent=1, members=1, particles=particles).double()
    with torch.no_grad():
        w = program.weights
        w["offset"].fill_(0.3)
        w["loadings"].fill_(0.8)
        w["log_scale"].fill_(math.log(0.6 - SCALE_FLOOR))
        w["raw_intercept"].fill_(intercept / INTERCEPT_SCALE)
        w["raw_slope"].fill_(slope / program.strength)
    return program


@pytest.mark.parametrize("slope", [1.7, -3.0, 12.0])
def test_one_column_against_quadrature(slope, logistic_selection):
    program = one_column(slope=slope)
    x = torch.full((1, 1), NAN).double()
    total, mean, variance, _ = logistic_selection(0.3, 1.0, -0.2, slope)
    sd = variance.sqrt().item()
    assert program.cell_mean(x).item() == pytest.approx(mean.item(), abs=0.05 * sd)
    draws = program.complete(x, 4000, seeds=torch.zeros(1, dtype=torch.long))
    # Five standard errors, with room for those of the latents that all draws share: by chance in 1e-5 of the seeds.
    assert draws.mean().item() == pytest.approx(mean.item(), abs=5 * sd / 4000**0.5)
    assert draws.std().item() == pytest.approx(sd, rel=0.06)
    if abs(slope) < 5:
        unselected = abs(mean.item() - 0.3)  # an ignorable model would be off by that much
        assert unselected > 20 * sd / 4000**0.5
    # Entries that are scored were held out, so that they were seen: p(x) (1 - P(s = 1 | x)) / P(s = 0).
    value = torch.tensor([[-0.4]]).double()
    seen = torch.distributions.Normal(0.3, 1.0).log_prob(value) + torch.nn.functional.logsigmoid(0.2 - slope * value)
    expected = (seen - torch.log1p(-total)).item()
    assert program.cell_log_prob(x, value).item() == pytest.approx(expected, abs=0.05)


def test_the_pair_is_a_joint_density(logistic_selection):
    """log p(s) and log p(x, s) by importance sampling with the pair's own context."""
    import pyro_gen as pg

    program = one_column()
    total, _, _, _ = logistic_selection(0.3, 1.0, -0.2, 1.7)
    x = torch.tensor([[NAN], [0.5], [0.5], [NAN]]).double()
    s = torch.tensor([[1.0], [0.0], [NAN], [NAN]]).double()
    value = pg.log_likelihood(program, x, s, method="iwae", num_particles=20_000).value
    normal = torch.distributions.Normal(0.3, 1.0).log_prob(torch.tensor(0.5).double())
    kept = torch.nn.functional.logsigmoid(torch.tensor(0.2 - 1.7 * 0.5).double())
    expected = torch.stack([total.log(), normal + kept, normal, torch.zeros(()).double()])
    assert torch.allclose(value, expected, atol=0.03)


# ----------------------------------------------------------------------------------------------------------------------
# The contract


@pytest.mark.parametrize("hidden", [(), (6,)])
@pytest.mark.parametrize("with_context", [False, True])
def test_conformance(hidden, with_context):
    columns = [Column(f"x{i}", "real") for i in range(4)]
    program = NotMIWAE(columns, sign={"x0": "high", "x1": "low"}, latent=2, hidden=hidden, members=2)
    with torch.no_grad():
        for p in program.parameters():
            p.add_(0.2 * torch.randn_like(p))
        program.active.copy_(torch.tensor([True, True, True, False]))
    x = torch.randn(11, 4)
    s = (torch.rand(11, 4) < 0.3).float()
    s[2] = NAN
    check_program(program, x, *((s,) if with_context else ())).raise_for_failures()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sign": "up"}, "'up'"),
        ({"sign": {"y": "high"}}, "no column 'y'"),
        ({"strength": 0.0}, "positive"),
        ({"noise": "none"}, "shared"),
    ],
)
def test_options_that_do_not_exist(options, message):
    with pytest.raises(ValueError, match=message):
        NotMIWAE([Column("x", "real")], **options)


def test_known_signs_are_kept():
    columns = [Column("a", "real"), Column("b", "real"), Column("c", "real")]
    program = NotMIWAE(columns, sign={"a": "high", "b": "low"}, members=1)
    with torch.no_grad():
        program.weights["raw_slope"].copy_(torch.tensor([[-3.0, -3.0, -3.0]]))
    a, b, c = program.slope().tolist()
    assert a > 0 > b and c == -3.0 * program.strength


# ----------------------------------------------------------------------------------------------------------------------
# Learning


def self_masked(n=500, seed=0):
    """Four columns that share a factor; high values of the first go missing."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 1, generator=generator)
    complete = (0.8 * z + 0.6 * torch.randn(n, 4, generator=generator)).double()
    x = complete.clone()
    x[torch.rand(n, generator=generator) < torch.sigmoid(-1 + 3 * x[:, 0]), 0] = NAN
    return complete, x


def test_learning_finds_the_mechanism():
    complete, x = self_masked()
    columns = [Column(f"x{i}", "real") for i in range(4)]
    program = NotMIWAE(columns, sign="high", latent=1, members=2, particles=200, steps=300).fit_posterior(x)
    hole = x.isnan()
    truth = complete[hole].mean().item()
    ignorable = DeepLatentTable(
        columns, latent=1, hidden=(), members=2, particles=200, steps=300, real="normal"
    ).fit_posterior(x)
    off = truth - ignorable.cell_mean(x)[hole].mean().item()
    left = truth - program.cell_mean(x)[hole].mean().item()
    # With logits -1 + 3 x the missing values are 0.9 on average, where regression on the other columns says 0.6.
    assert off > 0.15 and abs(left) < 0.5 * off
    draws = program.complete(x, 4, seeds=torch.arange(len(x)))
    assert torch.equal(draws[:, ~hole], x[~hole].expand(4, -1)) and not draws.isnan().any()
    assert torch.equal(program.complete(x[:1], 4, seeds=torch.arange(1)), draws[:, :1])


@pytest.mark.slow
@pytest.mark.parametrize(("sign", "bar"), [("high", 0.77), ("unknown", 0.80)])
def test_the_protocol_of_not_miwae(sign, bar):
    """Breast cancer, the first half of the columns missing above their mean: knowledge 2.4.

    An ignorable Gaussian has 0.906 and the paper's linear decoder 0.72.
    """
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer().data
    data = torch.from_numpy((data - data.mean(0)) / data.std(0))
    x = data.clone()
    x[:, :15] = torch.where(x[:, :15] > 0, NAN, x[:, :15])
    program = NotMIWAE([Column(f"x{d}", "real") for d in range(30)], sign=sign).fit_posterior(x)
    error = (program.cell_mean(x) - data)[x.isnan()].square().mean().sqrt().item()
    assert error < bar
