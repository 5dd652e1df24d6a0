"""Missing entries of autoregressive laws and of codes: draws and likelihoods are those that sums over all values give.

Of S draws a share p is off by sqrt(p (1 - p) / S); each of the four shares of a program is 5 such errors off, and 1e-3,
with probability 1e-6. (Particles are eight times as many as draws, and their error is small beside it.) The twins leave
the weights out, or the moves.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import constraints

import pyro_gen as pg
from pyro_gen._random import seeded
from pyro_gen.distributions import MaskedEntries, Steps
from pyro_gen.inference.likelihood import api, by_particles, in_order
from pyro_gen.models.vae import vector_quantised
from pyro_gen.models.vae.parts.codebook import Codewords
from pyro_gen.program import MissingParticles

DRAWS = 4000
SEEN = torch.tensor([[torch.nan, 1.0, torch.nan, 0.0]])
FULL = SEEN.repeat(4, 1)
FULL[:, [0, 2]] = torch.cartesian_prod(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]))

Shares = tuple[pg.Program, Tensor, Tensor]  # a program, a datum with holes, and log-probabilities of what may fill them


def telling(program: pg.Program) -> pg.Program:
    """The same with weights three times as large, but for an encoder's, so that entries say much of each other."""
    with torch.no_grad():
        for name, p in program.named_parameters():
            p.mul_(1.0 if name.startswith("encoder") else 3.0)
    return program.eval()


def made(masks: int) -> Shares:
    with seeded(0):
        program = pg.models.MADE(4, (16,), masks=masks)
    telling(program)
    return program, SEEN, program.observed(4).log_prob(FULL)


def made_of_context() -> Shares:
    with seeded(2):
        program, c = pg.models.MADE(4, (16,), context=2), torch.randn(1, 2)
    telling(program)

    class Given(pg.Program):
        """The program with its context filled in."""

        event_shape = program.event_shape

        def model(self, x: Tensor) -> Tensor:
            return program.model(x, c.expand(len(x), 2))

        def missing_particles(self, x: Tensor, *context: Tensor) -> MissingParticles | None:
            make = program.missing_particles(x, c.expand(len(x), 2))
            return make and (lambda rows, _, count: make(rows, (c.expand(len(rows), 2),), count))

    return Given(), SEEN, program.observed(4, c.expand(4, 2)).log_prob(FULL)


def pixel_vae() -> Shares:
    with seeded(0):
        program = pg.models.PixelVAE((2, 2), 1, (6,), channels=6, layers=1)
    telling(program)
    z = torch.linspace(-6, 6, 400).reshape(-1, 1, 1).expand(400, 4, 1)  # by quadrature
    joint = program.decode(z).log_prob(FULL.view(4, 2, 2)) + torch.distributions.Normal(0.0, 1.0).log_prob(z[..., 0])
    return program, SEEN.view(1, 2, 2), joint.logsumexp(0) + math.log(12 / 399)


def vq_vae() -> Shares:
    with seeded(0):
        program = pg.models.VQVAE(4, 2, 3, 2, hidden=(5,), prior_hidden=4)
    telling(program)
    z = program.codebook[torch.cartesian_prod(torch.arange(3), torch.arange(3))]  # all nine codes
    prior = Codewords(program.codebook, program.prior, 2).log_prob(z).unsqueeze(1)
    return program, SEEN, (program.decode(z.unsqueeze(1).expand(9, 4, 2, 2)).log_prob(FULL) + prior).logsumexp(0)


def right(made: Shares) -> bool:
    program, x, log_p = made
    method = "auto" if isinstance(program, pg.models.VQVAE) else "smc"  # values of so few entries would be summed over
    drawn = pg.impute(program, x, draws=DRAWS, method=method, seed=1).reshape(DRAWS, 4)
    share = (drawn.unsqueeze(1) == FULL).all(2).double().mean(0)
    p = log_p.detach().double().softmax(0)
    return bool(((share - p).abs() < 5 * (p * (1 - p) / DRAWS).sqrt() + 1e-3).all())


CASES: dict[str, Callable[[], Shares]] = {
    "MADE": lambda: made(1),
    "MADE, three masks": lambda: made(3),
    "MADE, conditional": made_of_context,
    "PixelVAE": pixel_vae,
}


@pytest.mark.parametrize("case", [*CASES.values(), vq_vae], ids=[*CASES, "VQVAE"])
def test_shares_are_those_of_sums(case: Callable[[], Shares]) -> None:
    assert right(case())


def any_of_them(log_weights: Tensor, draws: int) -> Tensor:
    """The planted defect: particles are resampled whatever their weights."""
    return torch.randint(len(log_weights), (draws, log_weights.shape[1]))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_particles_without_weights_are_wrong(case: Callable[[], Shares], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_particles, "resample", any_of_them)
    monkeypatch.setattr(in_order, "resample", any_of_them)
    assert not right(case())


TEN = torch.tensor([torch.nan, 1.0, torch.nan, torch.nan, 0.0, 0.0, torch.nan, 1.0, torch.nan, 1.0])
THIRTY_TWO = TEN.repeat(32, 1)
THIRTY_TWO[:, TEN.isnan()] = torch.cartesian_prod(*5 * [torch.tensor([0.0, 1.0])])

OF_TEN: dict[str, tuple[Callable[[], pg.Program], int, float]] = {  # with a seed, and a factor of what is last
    "MADE": (lambda: pg.models.MADE(10, (16,), masks=2), 2, 2.0),
    "CausalTransformer": (lambda: pg.models.CausalTransformer(10, 4, depth=1, heads=1), 16, 2.0),
    "PixelCNN": (lambda: pg.models.PixelCNN((2, 5), channels=4, layers=2), 3, 4.0),
    "WaveNet": (lambda: pg.models.WaveNet(10, 4, 2, likelihood="bernoulli"), 2, 2.0),
}


def of_ten(name: str) -> Shares:
    """Programs in which what is seen says so much of what is missing before it that particles are resampled."""
    make, seed, factor = OF_TEN[name]
    program = make().eval()
    with torch.no_grad(), seeded(seed):
        for p in program.parameters():
            torch.nn.init.normal_(p)
        for part, p in program.named_parameters():
            p.mul_(0.2 * factor if part == "offset" else factor if "last" in part or "direct" in part else 1.0)
        shape = program.event_shape
        return program, TEN.view(1, *shape), program.observed(32).log_prob(THIRTY_TWO.view(32, *shape))


def off(made: Shares, copies: int = 2000) -> float:
    """By how many standard errors the mean of 2 x 2000 estimates of p(x_o), by 8 particles each, is off its sum.

    More than 4 in 6e-5 of seeds.
    """
    program, x, log_p = made
    many = x.expand(copies, *x.shape[1:])
    found = pg.log_likelihood(program, many, method="smc", particles=8, islands=2, seed=1)
    ratio = (found.diagnostics["islands"] - log_p.logsumexp(0).detach()).exp().flatten()
    return abs(float((ratio.mean() - 1) / (ratio.std() / len(ratio) ** 0.5)))


LIKELIHOODS = {**CASES, **{f"{name} of ten": lambda name=name: of_ten(name) for name in OF_TEN}}


@pytest.mark.parametrize("case", LIKELIHOODS.values(), ids=LIKELIHOODS)
def test_the_mean_weight_is_the_likelihood_of_what_is_seen(case: Callable[[], Shares]) -> None:
    assert off(case()) < 4


@pytest.mark.parametrize("name", OF_TEN)
def test_without_weights_it_is_not(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_order, "resample", any_of_them)
    assert off(of_ten(name)) > 8


@pytest.mark.parametrize("name", OF_TEN)
def test_what_networks_keep_changes_no_draw(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_particles, "FEWEST", 1)
    program, x, _ = of_ten(name)

    def draws() -> Tensor:
        return pg.impute(program, x.expand(50, *x.shape[1:]), draws=4, method="smc", options={"particles": 64})

    kept = draws()
    with monkeypatch.context() as patch:
        patch.setattr(in_order, "KEPT", 0)  # and here anew after each draw
        assert torch.equal(draws(), kept)
    monkeypatch.setattr(Steps, "follow", lambda self, index: None)  # the twin: particles forget where they come from
    assert not torch.equal(draws(), kept)
    assert off(of_ten(name)) > 8


def test_rows_of_which_nothing_is_missing_have_their_exact_likelihood() -> None:
    program, x, _ = of_ten("MADE")
    rows = torch.cat([x, THIRTY_TWO[:2]])
    found = pg.log_likelihood(program, rows, method="smc")
    assert torch.allclose(found.value[1:], pg.log_likelihood(program, rows[1:]).value)
    assert found.standard_error[1:].tolist() == [0.0, 0.0]
    assert 0 < float(found.standard_error[0]) < 0.1
    assert found.event_dims == 25 / 3


def test_options_of_particles(monkeypatch: pytest.MonkeyPatch) -> None:
    program, x, log_p = of_ten("MADE")
    monkeypatch.setattr(by_particles, "FEWEST", 1)
    monkeypatch.setattr(api, "is_enumerable", lambda *_: False)  # as where there are more missing entries
    found = pg.log_likelihood(program, x, particles=500)
    assert (found.method, found.kind) == ("smc", "stochastic lower bound")
    assert abs(found.mean() - float(log_p.logsumexp(0).detach())) < 5 * found.mean_standard_error()
    for options, message in (
        ({"chains": 3}, "no option 'chains': choose from particles"),
        ({"particles": 1}, "give an integer of 2 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            pg.log_likelihood(program, x, **options)
        with pytest.raises(ValueError, match=message):
            pg.impute(program, x, options=options)
    with pytest.raises(ValueError, match="give particles=, of each island"):
        pg.log_likelihood(program, x, num_particles=9)


def test_codes_that_move_too_slowly_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chains that stay where they started do not agree; with one sweep a round more are made until they do."""
    with seeded(0):
        program = telling(pg.models.VQVAE(12, 2, 8, 2, hidden=(8,), prior_hidden=4))
        x = program.model(torch.full((50, 12), torch.nan))
    x[:, ::3] = torch.nan
    monkeypatch.setattr(vector_quantised, "SWEEPS", 1)
    pg.impute(program, x, draws=5)  # without a warning, which would be an error
    still = lambda program, k, x: program.decode(program.codebook[k]).log_prob(x.nan_to_num())  # noqa: E731
    monkeypatch.setattr(vector_quantised.VQVAE, "_sweep", still)
    with pytest.warns(UserWarning, match="they move too slowly to be trusted"):
        pg.impute(program, x, draws=5)


def test_codes_that_do_not_move_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_quantised, "SWEEPS", 0)
    assert not right(vq_vae())


def test_a_network_that_is_given_some_particles_at_a_time_draws_the_same_shares(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(in_order, "ROWS", 5000)
    assert right(made(3))


def test_every_order_has_particles() -> None:
    """Of 100 orders, with 256 particles, the last fourteen draw ones; all have the same weight."""

    def network(values: Tensor, m: int, context: Tensor | None) -> torch.distributions.Bernoulli:
        return torch.distributions.Bernoulli(torch.full_like(values, 0.5).index_fill(-1, FIRST, float(m >= 86)))

    orders = torch.tensor([[0, 1]]).expand(100, 2)
    law = MaskedEntries(network, orders, torch.Size((2,)), constraints.boolean, torch.Size((1,)))
    x, log_w = torch.tensor([[torch.nan, 1.0]]), torch.zeros(256, 1, dtype=torch.float64)
    with seeded(0):
        drawn, log_w, _ = in_order.particles_in_order(law, log_w, x)
    assert abs(float((log_w.softmax(0) * drawn[:, :, 0]).sum()) - 0.14) < 1e-6
    assert abs(float(log_w.exp().mean()) - 0.5) < 1e-6


FIRST = torch.tensor([0])


@pytest.mark.parametrize("case", [lambda: made(2), vq_vae], ids=["MADE", "VQVAE"])
def test_imputation_tells_how_far_it_is(case: Callable[[], Shares]) -> None:
    program, x, _ = case()
    fractions: list[float] = []
    pg.impute(program, x, draws=2, method="smc" if case is not vq_vae else "auto", progress=fractions.append)
    assert fractions == sorted(fractions)
    assert len(set(fractions)) > 4
    assert fractions[-1] == pytest.approx(1.0)


def test_too_few_particles_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_particles, "FEWEST", 10**6)
    program, x, _ = made(1)
    with pytest.warns(UserWarning, match="of 4096 particles fewer than"):
        pg.impute(program, x, draws=3, method="smc")
    with pytest.warns(UserWarning, match="of 50 particles .* options with more of them"):
        pg.impute(program, x, draws=3, options={"particles": 50})


def test_a_row_where_no_particle_can_be_is_told() -> None:
    """Of one whose weights are all zero no number counts, not even too few of them."""
    x = torch.tensor([[torch.nan, 1e30, 0.0]])  # its square is infinite
    with pytest.warns(UserWarning, match="particles fewer than"):
        pg.impute(pg.models.WaveNet(3, 4, 2, likelihood="normal"), x, draws=3)


def test_resampling_along_the_way() -> None:
    """A chain of bits, of which every fourth is seen: most particles are lost on the way, and others take their place.

    All particles go back to few ancestors, so errors are larger than those of independent draws; the bound is three
    times theirs of 256 draws. Draws that forget what comes later are off by .4.
    """
    with seeded(3):
        program = pg.models.MADE(20, (4,))
    with torch.no_grad():
        for p in program.parameters():
            p.zero_()
        for t in range(1, 20):
            program.direct.weight[t, t - 1] = 2.0
    bits = torch.tensor([0.0, 1.0]).unsqueeze(1).expand(2, 20)
    p = program.observed(2).law(bits, bits.bool(), 0, None).probs[:, 1]  # of a one after a zero, and after a one
    step = torch.stack([1 - p, p], 1).double().detach()
    x = torch.full((1, 20), torch.nan)
    x[0, 3::4] = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0])
    drawn = pg.impute(program, x, draws=DRAWS, seed=0)[:, 0]
    for t in (4, 5, 6, 9, 14, 17, 18):
        before, after = (t - 3) // 4 * 4 + 3, ((t - 3) // 4 + 1) * 4 + 3
        paths = step.matrix_power(t - before)[int(x[0, before])] * step.matrix_power(after - t)[:, int(x[0, after])]
        share = float(paths[1] / paths.sum())
        assert abs(float(drawn[:, t].mean()) - share) < 3 * (share * (1 - share) / 256) ** 0.5, t
