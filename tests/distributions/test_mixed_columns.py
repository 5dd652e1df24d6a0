"""Likelihoods of mixed columns against the textbook's."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import pyro_gen as pg
from pyro_gen import check_program
from pyro_gen.distributions.mixed_columns import ABSENT_LOGIT, MixedColumns, cut_points, level_logits, marginal_cuts


def mixed_columns(df):
    order = torch.tensor([2, 0, 1, 3])
    return MixedColumns(
        loc=torch.tensor([0.5]).double(),
        scale=torch.tensor([2.0]).double(),
        df=df,
        log_mean=torch.tensor([1.0]).double(),
        log_size=torch.tensor([0.3]).double(),
        logits=torch.tensor([[0.0, 1.0, -1.0], [0.2, 0.0, ABSENT_LOGIT]]).double(),
        order=order,
    )


@pytest.mark.parametrize("df", [None, torch.tensor([3.7]).double()])
def test_mixed_columns_are_the_textbook_densities(df):
    d = mixed_columns(df)
    value = torch.tensor([[4.0, 1.0, -0.7, 1.0], [0.0, 2.0, 5.0, 0.0], [123456.0, 0.0, 0.5, 1.0]]).double()
    size, mean = math.exp(0.3), math.exp(1.0)
    real = stats.norm(0.5, 2.0) if df is None else stats.t(3.7, 0.5, 2.0)
    probs = [torch.tensor([0.0, 1.0, -1.0]).double().softmax(0), torch.tensor([0.2, 0.0]).double().softmax(0)]
    for row, got in zip(value.tolist(), d.log_prob(value).tolist(), strict=True):
        expected = [
            stats.nbinom(size, size / (size + mean)).logpmf(row[0]),
            probs[0][int(row[1])].log().item(),
            real.logpdf(row[2]),
            probs[1][int(row[3])].log().item(),
        ]
        assert got == pytest.approx(expected, rel=1e-6)
    assert d.mean.tolist() == pytest.approx(
        [mean, float(probs[0] @ torch.arange(3.0).double()), 0.5, float(probs[1][1])]
    )


@pytest.mark.parametrize("how", ["sample", "from_uniforms"])
@pytest.mark.parametrize("df", [None, torch.tensor([3.7]).double()])
def test_mixed_columns_draw_what_they_score(df, how):
    d, n = mixed_columns(df), 20_000
    u = torch.rand(n, 4, 2, dtype=torch.float64)
    draws = d.sample((n,)) if how == "sample" else d.from_uniforms(u)
    size, mean = math.exp(0.3), math.exp(1.0)
    real = stats.norm(0.5, 2.0) if df is None else stats.t(3.7, 0.5, 2.0)
    # Each p-value is below 1e-5 by chance in 1e-5 of the seeds: 4 tests a case.
    assert stats.kstest(draws[:, 2].numpy(), real.cdf).pvalue > 1e-5
    assert stats.kstest(draws[:, 2].numpy(), stats.norm(0.5, 2.3).cdf).pvalue < 1e-5  # and another scale is noticed
    counts = torch.bincount(draws[:, 0].long().clamp(max=8), minlength=9)
    pmf = stats.nbinom(size, size / (size + mean)).pmf(range(8))
    assert stats.chisquare(counts.numpy(), n * torch.tensor([*pmf, 1 - pmf.sum()]).numpy()).pvalue > 1e-5
    for column, probs in ((1, d.probs[0]), (3, d.probs[1, :2])):
        counts = torch.bincount(draws[:, column].long(), minlength=len(probs))
        assert stats.chisquare(counts.numpy(), n * probs.numpy()).pvalue > 1e-5


def test_logits_of_levels():
    eta, raw = torch.tensor([[0.3, -2.0]]).double(), torch.tensor([[-1.0, 0.5], [0.7, 9.0]]).double()
    cuts = cut_points(raw)
    nominal = torch.tensor([[[0.1, 2.0, -1.0]]]).double()
    probs = level_logits(torch.tensor([[1.5]]).double(), eta, cuts, nominal, [2, 3, 2, 3]).softmax(-1)[0]
    gap = 1e-3 + math.log1p(math.exp(0.5))
    below = [torch.tensor(c - 0.3).sigmoid().item() for c in (-1.0, -1.0 + gap)]
    assert probs[0].tolist() == pytest.approx([1 / (1 + math.exp(1.5)), 1 - 1 / (1 + math.exp(1.5)), 0.0])
    assert probs[1].tolist() == pytest.approx([below[0], below[1] - below[0], 1 - below[1]], abs=1e-6)
    assert probs[2].tolist() == pytest.approx([1 / (1 + math.exp(-2.7)), 1 - 1 / (1 + math.exp(-2.7)), 0.0])
    assert torch.allclose(probs[3], nominal[0, 0].softmax(-1))


def test_cut_points_that_fit_a_column():
    codes = torch.tensor([[0.0]] * 30 + [[1.0]] * 50 + [[2.0]] * 20 + [[math.nan]] * 7).double()
    cuts = cut_points(marginal_cuts(codes, 3))[0]
    assert cuts.sigmoid().tolist() == pytest.approx([0.3, 0.8], abs=0.01)
    assert marginal_cuts(codes[:100] * 0, 3)[0].isfinite().all()


def test_means_and_draws_of_counts_end_at_the_last():
    """Against the sum over all counts; the twin, without the end, is far off."""
    log_mean, log_size = torch.tensor([1.0, 4.0, 9.0]).double(), torch.tensor([0.3, -2.0, 1.0]).double()
    last = torch.tensor([5.0, 40.0, torch.inf]).double()
    nothing = torch.zeros(0).double()
    d = MixedColumns(nothing, nothing, None, log_mean, log_size, torch.zeros(0, 2).double(), torch.arange(3), last)
    k = torch.arange(41).double().numpy()
    for i in range(2):
        size, mean = math.exp(log_size[i]), math.exp(log_mean[i])
        pmf = stats.nbinom(size, size / (size + mean)).pmf(k)
        n = k.clip(max=float(last[i]))
        exact = float(pmf @ n + (1 - pmf.sum()) * last[i])
        assert d.mean[i].item() == pytest.approx(exact, rel=1e-9)
        assert abs(mean - exact) > 0.05 * exact
    assert d.mean[2].item() == pytest.approx(math.exp(9.0))
    draws = d.sample((2000,))
    assert (draws.amax(0)[:2] == last[:2]).all() and draws[:, 2].max() > 40
    # At 4 standard errors a correct program fails in 1.2e-4 of the seeds.
    error = draws[:, :2].std(0) / 2000**0.5
    assert ((draws[:, :2].mean(0) - d.mean[:2]).abs() < 4 * error).all()
    assert ((draws[:, :2].mean(0) - log_mean[:2].exp()).abs() > 4 * error).all()


class TooHeavy(MixedColumns):
    """Entries whose probabilities sum to 1.01."""

    def expand(self, batch_shape, _instance=None):
        return self

    def log_prob(self, value):
        return super().log_prob(value) + math.log(1.01)


class EveryKind(pg.Program):
    """Rows of a real column, a count, a binary column and one of three levels."""

    def __init__(self, law):
        super().__init__()
        self.law = law

    def model(self, x):
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0)).unsqueeze(-1)
            logits = torch.tensor([[0.3, -0.2, ABSENT_LOGIT], [0.0, 1.0, 2.0]]).to(x)
            rows = self.law(z, 0 * z + 1, None, z, 0 * z[:1, 0], z.unsqueeze(-1) + logits, torch.arange(4))
            return pg.observe("x", rows.to_event(1), x)

    def guide(self, x):
        with self.plate(x):
            pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))


@pytest.mark.parametrize("law", [MixedColumns, TooHeavy])
def test_check_program_sums_over_levels_and_counts(law):
    """Missing entries of each kind are integrated over the values that they have; a mass of 1.01 is found out."""
    x = torch.tensor([[0.3, 2.0, 1.0, 2.0], [-1.0, 0.0, 0.0, 0.0], [0.5, 1.0, 0.0, 1.0]], dtype=torch.float64)
    for seed in range(3):  # other entries are taken away
        result = check_program(EveryKind(law), x, seed=seed)["missing_exact"]
        assert (result.status == "failed") == (law is TooHeavy)
        wanted = "With an entry of site 'x' missing" if law is TooHeavy else "2 entries to 1e-05"
        assert wanted in result.message
