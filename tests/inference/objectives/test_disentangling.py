"""Objectives on the aggregate posterior: of a Gaussian aggregate everything is known in closed form."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_gen as pg
from pyro_gen._random import seeded
from pyro_gen.inference import ELBO, MMD, BetaTCVAE, FactorVAE, InfoVAE, WassersteinAutoencoder
from pyro_gen.inference.objectives.discrepancy import squared_mmd
from pyro_gen.program import data_size

N, SD = 500, 0.6
MIX = torch.tensor([[1.0, 0.0, 0.0], [0.7, 0.5, 0.0], [0.0, 0.3, 0.8]])


class Linear(pg.Program):
    """q(z | x) = N(x, SD^2): with x ~ N(0, M M') the aggregate is N(0, M M' + SD^2)."""

    def __init__(self, point=False):
        super().__init__()
        self.point, self.shift = point, nn.Parameter(torch.zeros(3))

    def model(self, x):
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            return pg.observe("x", dist.Normal(z, 1.0).to_event(1), x)

    def guide(self, x):
        with self.plate(x):
            law = dist.Delta(x + self.shift, event_dim=1) if self.point else dist.Normal(x + self.shift, SD).to_event(1)
            pyro.sample("z", law)


def rows(n=N):
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(4321))  # no seed that draws use
    x = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov())).T  # moments as they should be
    return x @ MIX.T


COVARIANCE = MIX @ MIX.T + SD**2 * torch.eye(3)
TOTAL_CORRELATION = 0.5 * (COVARIANCE.diagonal().log().sum() - COVARIANCE.logdet()).item()


class TrueRatio(nn.Module):
    """The critic that has learned everything: log q(z) - sum_j log q(z_j)."""

    def forward(self, z):
        joint = dist.MultivariateNormal(torch.zeros(3), COVARIANCE).log_prob(z)
        return joint - dist.Normal(0.0, COVARIANCE.diagonal().sqrt()).log_prob(z).sum(1)


def losses(objective, x, repeats=6, program=None):
    program = program or Linear()
    with torch.no_grad():
        return torch.stack([objective.loss(program, x) for _ in range(repeats)]) / len(x)


def test_total_correlation_of_a_gaussian_aggregate():
    x = rows()
    with seeded(0):
        plain = losses(BetaTCVAE(1.0), x)
    with seeded(0):
        weighed = losses(BetaTCVAE(3.0), x)
    found = (weighed - plain) / 2  # same draws
    assert TOTAL_CORRELATION > 0.2
    # A mixture of 500 normals is no Gaussian: a tenth of a nat covers that and the draws.
    assert abs(found.mean() - TOTAL_CORRELATION) < 0.1
    exact = losses(ELBO(), x)
    assert abs(plain.mean() - exact.mean()) < 4 * (plain.std() + exact.std()) / 6**0.5


def test_minibatches_estimate_the_aggregate_without_bias_and_one_without_its_own_row_does_not():
    """E over minibatches of exp(log q(z_i)) is q(z_i) of all data, at one and the same draw."""
    from pyro_gen.inference.objectives.total_correlation import aggregate_log_densities

    x = rows(40)
    z = x + SD * torch.randn(40, 3, generator=torch.Generator().manual_seed(1))

    def densities(index):
        law = dist.Normal(x[index], SD).to_event(1)
        return aggregate_log_densities({"fn": law, "value": z[index], "name": "z"}, 40.0)[0].exp()

    whole = densities(torch.arange(40))
    by_hand = dist.Normal(x, SD).to_event(1).log_prob(z[:, None]).exp().mean(1)
    torch.testing.assert_close(whole, by_hand)
    found = torch.zeros(40, 400)
    for r in range(400):
        index = torch.cat([torch.zeros(1, dtype=torch.long), 1 + torch.randperm(39)[:7]])  # row 0 and seven others
        found[0, r] = densities(index)[0]
    error = found[0].std() / 400**0.5
    assert abs(found[0].mean() - whole[0]) < 4.5 * error + 1e-6  # a false alarm in 1e5
    own, others = (dist.Normal(x[i], SD).to_event(1).log_prob(z[0]).exp().mean() for i in (0, slice(1, None)))
    assert (
        abs((own + 7 * others) / 8 - whole[0]) > 6 * error
    )  # the mean of the minibatch gives the own row 1/8, not 1/40


def test_factor_vae_with_the_true_critic_takes_gamma_times_the_total_correlation():
    x = rows()
    plain, objective = ELBO(analytic_kl=False), FactorVAE(2.0, critic=TrueRatio())
    with seeded(0):
        a = losses(plain, x)
    with seeded(0):
        b = losses(objective, x)
    found = (b - a) / 2
    assert abs(found.mean() - TOTAL_CORRELATION) < 4 * found.std() / 6**0.5 + 0.01
    objective.eval()  # validation reports the bound
    with seeded(0):
        torch.testing.assert_close(losses(objective, x), a)


def test_a_critic_that_is_trained_finds_the_total_correlation():
    x, program = rows(), Linear()
    program.requires_grad_(False)
    program.shift.requires_grad_()
    objective = FactorVAE(0.0, critic=(32,), critic_lr=3e-3)
    pg.fit(program, x, objective=objective, epochs=40, batch_size=100, lr=1e-9, progress=False)
    with torch.no_grad():
        scores = torch.stack([objective.critic(x + SD * torch.randn(N, 3)).mean() for _ in range(10)])
    assert abs(scores.mean() - TOTAL_CORRELATION) < 0.1
    untrained = FactorVAE(0.0, critic=(32,))
    untrained.prepare(program, x)
    with torch.no_grad():
        assert abs(untrained.critic(x).mean() - TOTAL_CORRELATION) > 0.1


def mmd_of_normals(covariance, width):
    """The squared MMD of N(0, covariance) and N(0, 1) under a Gaussian kernel, in closed form."""

    def kernel_mean(total):  # E k(x, y), x - y ~ N(0, total)
        return 1 / torch.linalg.det(torch.eye(3) + total / width**2).sqrt()

    eye = torch.eye(3)
    return (kernel_mean(2 * covariance) + kernel_mean(2 * eye) - 2 * kernel_mean(covariance + eye)).item()


def test_info_vae_and_wasserstein_autoencoder_at_a_gaussian_aggregate():
    x, width = rows(), 2.0
    options = {"kernel": "gaussian", "widths": [width]}
    assert losses(InfoVAE(0.0, 1.0, **options), x).mean().item() == pytest.approx(
        losses(ELBO(), x).mean().item(), abs=0.05
    )
    exact = mmd_of_normals(COVARIANCE, width)
    likelihood = 0.5 * (3 * math.log(2 * math.pi) + 3 * SD**2)  # -E log p(x | z), by q(z | x) around x
    # 4.5 standard errors; the same draws of the codes in all repeats have 500 rows, so the error is theirs as well.
    weight = 50.0
    found = losses(WassersteinAutoencoder(weight, **options), x, 20)
    assert exact > 0.004
    assert abs(found.mean() - likelihood - weight * exact) < 4.5 * found.std() / 20**0.5 + weight * 1e-3
    assert abs(found.mean() - likelihood) > 0.15  # a twin without the discrepancy is far off
    half = losses(InfoVAE(0.5, 0.5, **options), x, 20)  # half of the divergence, and nothing of the discrepancy
    kl = (losses(ELBO(), x).mean() - likelihood).item()
    assert abs(half.mean() - likelihood - 0.5 * kl) < 0.05


def test_a_guide_that_is_a_point_trains_by_the_discrepancy():
    x, program = rows(400), Linear(point=True)
    with torch.no_grad():
        program.shift += 3.0
    pg.fit(program, x, objective=WassersteinAutoencoder(5.0), epochs=40, batch_size=100, lr=0.05, progress=False)
    assert program.shift.abs().max() < 0.5  # codes about the prior's place again
    assert squared_mmd(x[:200], x[200:], "energy", None).abs() < 0.2


def test_beta_multiplies_the_divergence_in_training_alone():
    x, program = rows(50), Linear()
    kl = 0.5 * (3 * SD**2 + x.square().sum(1) - 3 - 6 * math.log(SD)).sum()
    with seeded(0):
        one = ELBO().loss(program, x)
    with seeded(0):
        four = ELBO(beta=4.0).loss(program, x)
    torch.testing.assert_close(four - one, 3 * kl, rtol=1e-4, atol=1e-2)
    with seeded(0):
        torch.testing.assert_close(ELBO(beta=4.0).eval().loss(program, x), one)


@pytest.mark.parametrize("make", [BetaTCVAE, FactorVAE, InfoVAE, WassersteinAutoencoder, lambda: ELBO(beta=2.0)])
def test_they_are_recorded_as_graphs_and_minibatches_weigh_the_data(make):
    x = rows(60)
    result = pg.fit(Linear(), x, objective=make(), epochs=1, batch_size=20, lr=1e-12, progress=False)
    assert result.mode == "traced", result.mode_reason
    objective = make()
    objective.prepare(Linear(), x)
    with torch.no_grad(), data_size(120):
        doubled = torch.stack([objective.loss(Linear(), x) for _ in range(12)]).mean()
    single = torch.stack([objective.loss(Linear(), x).detach() for _ in range(12)]).mean()
    assert doubled == pytest.approx(2 * single.item(), rel=0.1)  # the total correlation itself knows of N


def test_what_does_not_fit_is_said():
    class Two(Linear):
        def model(self, x):
            with self.plate(x):
                z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
                pyro.sample("u", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                return pg.observe("x", dist.Normal(z, 1.0).to_event(1), x)

        def guide(self, x):
            with self.plate(x):
                pyro.sample("z", dist.Normal(x, 1.0).to_event(1))
                pyro.sample("u", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    for objective in (BetaTCVAE(), InfoVAE(), FactorVAE(critic=TrueRatio())):
        with pytest.raises(ValueError, match=r"one latent variable for each datum.*'u' of shape \(5, 2\)"):
            objective.loss(Two(), rows(5))
    with pytest.raises(ValueError, match="alpha is in"):
        InfoVAE(alpha=2.0)
    with pytest.raises(ValueError, match="0 or more"):
        ELBO(beta=-1.0)
    assert isinstance(WassersteinAutoencoder(), InfoVAE) and MMD().kernel == "gaussian"


def test_a_kernel_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match=r"InfoVAE\(kernel='guassian'\): choose"):
        InfoVAE(kernel="guassian")
    with pytest.raises(ValueError, match=r"WassersteinAutoencoder\(widths=\(-1.0,\)\): give positive widths"):
        WassersteinAutoencoder(widths=(-1.0,))
    with pytest.raises(ValueError, match="none for the energy distance"):
        InfoVAE(kernel="energy", widths=(1.0,))


def test_a_learned_prior_goes_towards_the_codes():
    class Learned(Linear):
        def __init__(self):
            super().__init__(point=True)
            self.loc = nn.Parameter(torch.full((3,), 2.0))

        def model(self, x):
            with self.plate(x):
                z = pyro.sample("z", dist.Normal(self.loc, 1.0).to_event(1))
                return pg.observe("x", dist.Normal(z, 1.0).to_event(1), x)

    program = Learned()
    with seeded(0):
        WassersteinAutoencoder().loss(program, rows(200)).backward()  # codes around 0
    assert (program.loc.grad > 0).all()  # it had none
