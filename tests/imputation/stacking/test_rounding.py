"""Noise in place of rounding: where, how much, and what it is for."""

import math

import torch

from pyro_gen._random import fork, seeded
from pyro_gen.data.column import Column
from pyro_gen.imputation.stacking.rounding import comparable, dequantise
from pyro_gen.imputation.stacking.weights import hide
from pyro_gen.models.tabular import TableMixture


def test_rounded_columns_alone_get_noise():
    with seeded(0):
        x = torch.randn(200, 4, dtype=torch.float64)
    x[:, 1] = (4 * x[:, 1]).round() / 4
    x[:, 2] = (x[:, 2] > 0).double()  # too coarse
    x[:, 3] = x[:, 3].round().clamp(0, 3)
    x[::5] = torch.nan
    columns = [*(Column(name, "real") for name in "abc"), Column("d", "ordinal", levels=(0, 1, 2, 3))]
    noise = dequantise(x, columns, seed=1) - x
    seen = ~torch.isnan(x[:, 1])
    assert torch.equal(torch.isnan(noise), torch.isnan(x))
    assert float(noise[seen][:, [0, 2, 3]].abs().max()) == 0
    assert 0.11 < float(noise[seen, 1].abs().max()) <= 0.125
    assert torch.equal(dequantise(x, columns, seed=1)[seen], dequantise(x, columns, seed=1)[seen])


def test_entries_at_an_atom_stay_there_and_no_noise_crosses_it():
    x = torch.tensor([0.0] * 60 + [0.01, 0.02, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, -0.01] * 4).double().unsqueeze(1)
    told, untold = (dequantise(x, [Column("a", "real", atom=atom)], seed=0) for atom in (0.0, None))
    assert torch.equal(told[:60], x[:60]) and not torch.equal(untold[:60], x[:60])
    assert torch.equal(told[60:].sign(), x[60:].sign()) and not torch.equal(untold[60:].sign(), x[60:].sign())
    assert float((told - x)[60:].abs().max()) > 0.1  # there is noise, as wide as the median step


def test_a_column_is_scored_beside_its_atom():
    x = (
        torch.cat([torch.zeros(300), torch.randn(300, generator=torch.Generator().manual_seed(0))])
        .double()
        .unsqueeze(1)
    )
    assert not bool(comparable(x, [Column("a", "real")]))
    assert bool(comparable(x, [Column("a", "real", atom=0.0)]))


def test_a_value_that_many_rows_share_wins_nothing():
    """A mixture scores whole numbers by their probabilities, or less; without noise it scores them by its spikes."""
    with seeded(0):
        z = torch.randn(400, 1, dtype=torch.float64)
        x = torch.cat([z + 0.5 * torch.randn(400, 1).double(), ((2.7 * z).round() / 2.7).clamp(-1.5, 1.5)], 1)
    columns = [Column("a", "real"), Column("b", "real")]
    held = torch.arange(400) % 5 == 0

    def score(x):
        shown = x.clone()
        shown[held, 1] = torch.nan
        values = torch.where(held.unsqueeze(1), x, torch.nan)
        values[:, 0] = torch.nan
        program = TableMixture(columns).fit_posterior(shown, seed=0)
        return float(program.cell_log_prob(shown, values)[held, 1].mean())

    most = math.log(2.7)  # nats of density, where all the probability is in the interval that is rounded to the value
    assert score(dequantise(x, columns, seed=0)) < most - 1
    assert score(x) > most


def test_what_is_hidden_has_noise_like_the_rest():
    """Hidden entries and noise come of one seed; were they of the same numbers, the hidden would lie at low edges."""
    with seeded(0):
        x = (4 * torch.randn(3000, 2, dtype=torch.float64)).round() / 4
    x[:5] = torch.nan
    columns = [Column("a", "real"), Column("b", "real")]
    hidden = hide(x, 0.15, 7, torch.tensor([True, True]))
    independent, same = (float((dequantise(x, columns, seed) - x)[hidden].mean()) / 0.25 for seed in (fork(7), 7))
    assert abs(independent) < 0.05  # five standard errors of 880 uniform numbers: false alarm 6e-7
    assert same < -0.3


def test_columns_of_a_few_coarse_values_are_not_compared():
    with seeded(0):
        x = torch.randn(100, 3, dtype=torch.float64)
    x[:, 1] = x[:, 1].sign()
    x[:, 2] = (5 * x[:, 2]).round() / 5
    columns = [Column(name, "real") for name in "abc"]
    assert comparable(x, columns).tolist() == [True, False, True]
    assert comparable(x, [columns[0], Column("b", "binary", levels=(-1, 1)), columns[2]]).all()


def test_columns_with_a_value_of_their_own_are_not_compared():
    with seeded(0):
        x = torch.randn(400, 4, dtype=torch.float64)
    x[::4, 1] = 0.5  # among numbers that are never the same
    x[:, 2] = (20 * x[:, 2]).round() / 20
    x[::4, 2] = 0.5  # among rounded ones
    x[:, 3] = (20 * x[:, 3]).round() / 20
    columns = [Column(name, "real") for name in "abcd"]
    assert comparable(x, columns).tolist() == [True, False, False, True]
