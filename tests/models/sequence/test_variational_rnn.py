"""Variational recurrent networks: likelihoods by importance and by annealing agree, with holes and ends."""

import torch

import pyro_gen as pg
from pyro_gen._random import seeded
from pyro_gen.models import VariationalRNN

NAN = torch.nan


def program_and_sequences() -> tuple[VariationalRNN, torch.Tensor]:
    with seeded(0):
        program = VariationalRNN((2, 2), latent=1, hidden=(5,), recurrent=4)
        with torch.no_grad():
            for parameter in program.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
            program.encoder[-1].weight.zero_()  # a guide that is wider than any posterior
            program.encoder[-1].bias.copy_(torch.tensor([0.0, 2.0]))
        return program.eval(), torch.randn(4, 2, 2)


def quadrature(program: VariationalRNN, x: torch.Tensor, points: int = 60) -> torch.Tensor:
    """The log-density of sequences of two steps: a sum over a grid of both latent variables."""
    nodes = torch.linspace(-8, 8, points)
    log_weight = torch.log(nodes[1] - nodes[0])
    h = torch.zeros(len(x), points, points, 4)
    total = torch.zeros(len(x), points, points)
    for t in range(2):
        z = nodes.reshape(1, *((points, 1) if t == 0 else (1, points)), 1).expand(len(x), points, points, 1)
        loc, raw = program.prior(h).chunk(2, -1)
        law = torch.distributions.Normal(loc, 1e-3 + torch.nn.functional.softplus(raw))
        total = total + law.log_prob(z)[..., 0] + log_weight
        seen = x[:, t].reshape(-1, 1, 1, 2).expand(len(x), points, points, 2)
        total = total + program.emit(program.decoder(torch.cat([z, h], -1))).log_prob(seen)
        h = program.memory.step(torch.cat([program.inputs(seen), z], -1), h)
    return total.logsumexp((1, 2)).detach()


# Errors are known to about a tenth: |z| > 5 has probability 1e-5 for a correct program. The twin forgets the memory.
def test_likelihood_equals_quadrature() -> None:
    program, x = program_and_sequences()
    found = pg.log_likelihood(program, x, method="iwae", num_particles=1000, seed=0)
    error = found.standard_error.clamp(min=2e-3)
    assert bool(((found.value - quadrature(program, x)).abs() < 5 * error).all())
    with torch.no_grad():
        program.memory.recurrent.weight.zero_()
        program.memory.input.weight.zero_()
    assert bool(((found.value - quadrature(program, x)).abs() > 5 * error).any())


def test_ends_count_nothing_and_gaps_are_sampled() -> None:
    program, x = program_and_sequences()
    short, whole = x.clone(), x[:, :1]
    short[:, 1] = NAN
    one = torch.ones(4)
    of_first = pg.log_likelihood(program, whole, method="iwae", num_particles=1000, seed=0)
    for context in ((), (one,)):  # a forecast integrates to one, and what is beyond the end counts nothing
        found = pg.log_likelihood(program, short, *context, method="iwae", num_particles=1000, seed=0)
        error = 5 * (found.standard_error**2 + of_first.standard_error**2).sqrt() + 2e-3
        assert bool(((found.value - of_first.value).abs() < error).all())
    assert bool(pg.impute(program, short, one, draws=2)[:, :, 1].isnan().all())
    forecast = pg.impute(program, short, draws=2)
    assert not forecast.isnan().any() and torch.equal(forecast[:, :, 0], short[:, 0].expand(2, 4, 2))
    gap = x.clone()
    gap[:, 0] = NAN
    assert not pg.impute(program, gap, draws=2).isnan().any()
