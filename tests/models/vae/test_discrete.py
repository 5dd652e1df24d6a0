"""Discrete latent variables: eight bits are summed out exactly, and so is the gradient that estimators must have."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_gen as pg
from pyro_gen._random import seeded
from pyro_gen.inference import VIMCO, RelaxedELBO, ScoreFunctionELBO, predictive
from pyro_gen.models import DiscreteVAE

UNITS = 8
Z = torch.tensor(list(itertools.product([0.0, 1.0], repeat=UNITS)))  # (256, K)


def small(units=UNITS):
    with seeded(3):
        program = DiscreteVAE(5, units, hidden=(4,))
        for p in program.parameters():  # away from the start, where much is zero
            p.data.add_(0.5 * torch.randn_like(p))
        x = torch.rand(3, 5).round()
    return program.eval(), x


def log_joint(program, x, z):
    """log p(x, z), with shape (N, Z), for z of shape (Z, K)."""
    log_p = torch.where(z == 1, program.prior[:, 0], -program.prior[:, 0]).sigmoid().log().sum(-1)
    logits = program.decoder(z) + program.offset
    return log_p + (x[:, None] * logits - torch.nn.functional.softplus(logits)).sum(-1)


def log_q(program, x, z):
    logits = program.encoder(program.centre(x))
    return torch.where(z == 1, logits[:, None], -logits[:, None]).sigmoid().log().sum(-1)


def exact_gradient(program, x):
    """Of the negative ELBO, by the sum over all 256 values."""
    q = log_q(program, x, Z)
    loss = -(q.exp() * (log_joint(program, x, Z) - q)).sum()
    return torch.cat(
        [g.flatten() for g in torch.autograd.grad(loss, list(program.parameters()), allow_unused=True) if g is not None]
    )


def gradients(objective, program, x, repeats):
    found = []
    for _ in range(repeats):
        g = torch.autograd.grad(objective.loss(program, x), list(program.parameters()), allow_unused=True)
        found.append(torch.cat([part.flatten() for part in g if part is not None]))
    return torch.stack(found)


def largest_z(found, exact):
    """The greatest deviation in standard errors, of the coordinates that vary."""
    error = found.std(0) / len(found) ** 0.5
    moves = error > 1e-7
    return ((found.mean(0) - exact).abs()[moves] / error[moves]).max()


def test_the_likelihood_of_eight_bits_is_the_sum_over_all_values():
    program, x = small()
    found = pg.log_likelihood(program, x, method="exact")
    torch.testing.assert_close(
        found.value.float(), log_joint(program, x, Z).logsumexp(1).detach(), rtol=1e-5, atol=1e-5
    )
    x[0, :3] = math.nan
    holed = pg.log_likelihood(program, x, method="exact").value
    assert holed[0] > found.value[0] and torch.allclose(holed[1:], found.value[1:])


@pytest.mark.parametrize("options", [{"baseline": "leave_one_out", "num_particles": 4}, {"baseline": None}])
def test_score_function_gradients_are_the_exact_one(options):
    program, x = small()
    objective, exact = ScoreFunctionELBO(**options), exact_gradient(program, x)
    # About 90 coordinates at 4.5 standard errors: a false alarm in 1600.
    found = gradients(objective, program, x, 300)
    assert largest_z(found, exact) < 4.5
    # A twin whose baseline is the mean of all draws, its own too, shrinks the guide's part by a quarter.
    if options["baseline"] == "leave_one_out":
        assert found.std(0).norm() * 2 < 0.8 * gradients(ScoreFunctionELBO(None), program, x, 100).std(0).norm()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pyro_gen.inference.objectives.score_function._less_the_others", lambda s: s - s.mean(0))
            assert largest_z(gradients(objective, program, x, 300), exact) > 4.5


def test_the_gradient_of_two_weighted_draws_is_that_of_the_sum_over_all_pairs():
    program, x = small(3)
    z = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)))  # (8, 3)
    parameters = list(program.parameters())

    def exact(draws):
        q = log_q(program, x, z)
        log_w = log_joint(program, x, z) - q  # (N, 8)
        pairs = torch.stack([log_w[:, :, None].expand(-1, -1, 8), log_w[:, None].expand(-1, 8, -1)]).logsumexp(0)
        mean = (
            ((q[:, :, None] + q[:, None]).exp() * (pairs - math.log(2))).sum()
            if draws == 2
            else (q.exp() * log_w).sum()
        )
        g = torch.autograd.grad(-mean, parameters, allow_unused=True)
        return torch.cat([part.flatten() for part in g if part is not None])

    found = gradients(VIMCO(2), program, x, 400)
    assert largest_z(found, exact(2)) < 4.5
    assert largest_z(found, exact(1)) > 4.5  # of the ELBO it is not


def test_the_relaxed_gradient_is_that_of_its_own_objective():
    """Two bits: the relaxed objective by quadrature over the two uniforms."""
    program, x = small(2)
    parameters = list(program.parameters())
    temperature = 0.7
    u = (torch.arange(200) + 0.5) / 200
    noise = torch.cartesian_prod(u, u).logit()  # (40000, 2)
    logits = program.encoder(program.centre(x))  # (N, 2)
    soft = ((logits[:, None] + noise) / temperature).sigmoid()
    h = program.decoder(soft) + program.offset
    likelihood = (x[:, None] * h - torch.nn.functional.softplus(h)).sum(-1).mean(1)
    q, p = logits.sigmoid(), program.prior[:, 0].sigmoid()
    kl = (q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()).sum(-1)
    g = torch.autograd.grad((kl - likelihood).sum(), parameters, allow_unused=True)
    exact = torch.cat([part.flatten() for part in g if part is not None])
    objective = RelaxedELBO(temperature)
    found = gradients(objective, program, x, 300)
    assert largest_z(found, exact) < 4.5
    assert largest_z(gradients(RelaxedELBO(0.3), program, x, 300), exact) > 4.5  # a twin at another temperature


def test_straight_through_has_the_loss_of_the_bound_and_a_gradient_with_bias():
    program, x = small()
    q = log_q(program, x, Z)
    bound = -(q.exp() * (log_joint(program, x, Z) - q)).sum().item()
    exact = exact_gradient(program, x)
    objective = RelaxedELBO(0.67, straight_through=True)
    losses = torch.stack([objective.loss(program, x).detach() for _ in range(200)])
    assert abs(losses.mean() - bound) < 4.5 * losses.std() / 200**0.5
    assert abs(torch.stack([RelaxedELBO(0.67).loss(program, x).detach() for _ in range(200)]).mean() - bound) > 0.02
    found = gradients(objective, program, x, 300)
    bias = (found.mean(0) - exact).norm() / exact.norm()
    assert largest_z(found, exact) > 4.5 and 0.01 < bias < 0.5
    assert objective.eval().loss(program, x).isfinite()


@pytest.mark.parametrize("categories", [2, 3])
def test_particles_of_the_relaxation_have_the_divergence_of_the_laws(categories):
    """Of a guide with dropout, too, whose laws are others for each particle."""
    with seeded(0):
        program, x = DiscreteVAE(6, 3, categories, hidden=(5,), dropout=0.5).eval(), torch.rand(4, 6).round()
        program.prior.data.add_(torch.randn_like(program.prior))
    objective = RelaxedELBO(num_particles=2)

    def loss(kl_weight):
        with seeded(1):
            return objective.loss(program, x, kl_weight=kl_weight).item()

    q = program.law(program.encoder(program.centre(x)).transpose(0, 1))
    p = program.law(program.prior.expand(q.shape()))
    kl, other = (torch.distributions.kl_divergence(*laws).sum().item() for laws in ((q, p), (p, q)))
    assert abs(loss(1.0) - loss(0.0) - kl) < 1e-4 < abs(other - kl)
    program.train()
    assert loss(1.0) > loss(0.0)


def test_values_that_a_guide_never_has_add_nothing_to_the_divergence():
    weights = torch.tensor([0.5, 1.0, 2.0], requires_grad=True)

    def law():
        return dist.OneHotCategorical(logits=weights.masked_fill(torch.tensor([False, False, True]), -math.inf))

    def symbols(x):
        with pg.plate(x):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(3)))
            pg.observe("x", dist.Normal(z @ torch.arange(3.0), 1.0), x)

    def guide(x):
        with pg.plate(x):
            pyro.sample("z", law())

    program, x, objective = pg.Program.from_functions(symbols, guide), torch.zeros(1), RelaxedELBO().eval()

    def loss(kl_weight):
        with seeded(1):
            return objective.loss(program, x, kl_weight=kl_weight)

    found = loss(1.0) - loss(0.0)
    exact = math.log(3) - dist.Categorical(logits=weights[:2]).entropy()
    assert torch.allclose(found, exact, atol=1e-6)
    slopes = [torch.autograd.grad(value, weights)[0] for value in (found, exact)]
    assert torch.allclose(*slopes, atol=1e-6)


@pytest.mark.parametrize(
    "objective", [ScoreFunctionELBO("leave_one_out", num_particles=3), RelaxedELBO(), RelaxedELBO(1.0, True), VIMCO(3)]
)
def test_symbols_and_bits_train_in_graphs(objective):
    x = torch.rand(40, 6).round()
    for program in (DiscreteVAE(6, 3, hidden=(5,)), DiscreteVAE(6, 2, 3, hidden=(5,))):
        result = pg.fit(program, x, objective=objective, epochs=2, batch_size=20, progress=False, kl_warmup=2)
        assert result.mode == "traced", result.mode_reason


def test_misfits_are_explained():
    with pytest.raises(ValueError, match="two values or more"):
        DiscreteVAE(4, 3, 1)
    with pytest.raises(ValueError, match="num_particles=2"):
        ScoreFunctionELBO("leave_one_out")
    with pytest.raises(ValueError, match="temperature is positive"):
        RelaxedELBO(0.0)
    with pytest.raises(ValueError, match="has no relaxation"):
        RelaxedELBO().loss(pg.Program.from_functions(poisson, poisson_guide), torch.ones(4))


def poisson(x):
    import pyro
    import pyro.distributions as dist

    with pg.plate(x):
        z = pyro.sample("z", dist.Poisson(torch.ones(())))
        return pg.observe("x", dist.Normal(z, 1.0), x)


def poisson_guide(x):
    import pyro
    import pyro.distributions as dist

    with pg.plate(x):
        pyro.sample("z", dist.Poisson(torch.ones(len(x))))


# Of 2,000 draws a share is 5 of its standard errors off, and .02 for the weights of 5,000 proposals, once in 1e6.
@pytest.mark.parametrize("weighed", [True, False], ids=["right", "draws of the guide"])
def test_units_that_are_too_many_to_sum_are_proposed_by_the_guide(
    weighed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with seeded(0):
        program = DiscreteVAE(3, units=15, hidden=())
        with torch.no_grad():  # entries are ones where most bits are
            program.decoder[1][-1].weight.fill_(0.6)
            program.decoder[1][-1].bias.fill_(-4.5)
            program.encoder[1][-1].seen.bias.fill_(0.7)  # a guide that prefers ones
    program.eval()
    row = torch.tensor([[torch.nan, 1.0, torch.nan]])
    full = torch.tensor([[a, 1.0, b] for a in (0.0, 1.0) for b in (0.0, 1.0)])
    bits = torch.cartesian_prod(*15 * [torch.tensor([0.0, 1.0])])  # all 2^15, of equal probability at first
    with torch.no_grad():
        p = program.decode(bits.unsqueeze(1).expand(-1, 4, -1)).log_prob(full).double().logsumexp(0).softmax(0)
    if not weighed:
        monkeypatch.setattr(
            predictive, "resample", lambda log_w, draws: torch.randint(len(log_w), (draws, log_w.shape[1]))
        )
    drawn = pg.impute(program, row, draws=2000, num_proposals=5000, seed=1)[:, 0]
    share = (drawn.unsqueeze(1) == full).all(2).double().mean(0)
    assert bool(((share - p).abs() < 5 * (p * (1 - p) / 2000).sqrt() + 0.02).all()) is weighed
