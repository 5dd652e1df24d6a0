"""Deep Markov models: the linear one has the Kalman filter's likelihood, and what is to come costs nothing."""

import pyro.distributions as dist
import pytest
import torch

import pyro_gen as pg
from pyro_gen._random import seeded
from pyro_gen.distributions.flows import FlowDistribution
from pyro_gen.models import DeepMarkov
from pyro_gen.traces import trace_pair

NAN = torch.nan


def linear(start: float = 0.5, guide: str = "mean field") -> DeepMarkov:
    with seeded(0):
        program = DeepMarkov((4, 2), latent=2, hidden=(), recurrent=4, transition="linear", guide=guide)
    with torch.no_grad():
        program.transition.line.weight.copy_(torch.tensor([[0.8, 0.3], [-0.2, 0.6]]))
        program.transition.line.bias.copy_(torch.tensor([0.1, -0.2]))
        program.transition.raw_scale.copy_(torch.tensor([0.2, -0.5]))
        program.start.fill_(start)
    return program.eval()


def kalman(program: DeepMarkov, x: torch.Tensor) -> torch.Tensor:
    """The exact log-density of sequences, as that of one normal vector of all steps seen."""
    line, steps = program.transition.line, x.shape[1]
    emission = program.emission[0]
    scale = torch.nn.functional.softplus(program.transition.raw_scale)
    mean, covariance = program.start.detach(), torch.zeros(2, 2)
    means, blocks = [], {}
    for t in range(steps):
        mean = line(mean)
        for s in range(t):
            blocks[t, s] = line.weight @ blocks[t - 1, s]
        covariance = line.weight @ covariance @ line.weight.mT + scale.square().diag()
        blocks[t, t] = covariance
        means.append(emission(mean) + program.offset)
    noise = program.likelihood(torch.zeros(2)).base_dist.scale.square() * torch.eye(2)
    rows = []
    for t in range(steps):
        row = [blocks[t, s] if s <= t else blocks[s, t].mT for s in range(steps)]
        rows.append(
            torch.cat([emission.weight @ b @ emission.weight.mT + noise * (s == t) for s, b in enumerate(row)], 1)
        )
    joint, centre = torch.cat(rows), torch.cat(means)
    values = []
    for row in x.flatten(1):
        seen = ~row.isnan()
        law = dist.MultivariateNormal(centre[seen], joint[seen][:, seen])
        values.append(law.log_prob(row[seen]))
    return torch.stack(values).detach()


def sequences() -> torch.Tensor:
    x = torch.randn(4, 4, 2, generator=torch.Generator().manual_seed(1))
    x[0, 2:], x[1, 1], x[2, 1, 0] = NAN, NAN, NAN
    return x


# The error of a row's estimate is known to about a tenth, so |z| > 5 has probability 1e-5 for a correct program.
@pytest.mark.parametrize(("planted", "holds"), [(0.0, True), (2.0, False)], ids=["right", "another start"])
def test_the_linear_one_has_the_likelihood_of_the_kalman_filter(planted, holds) -> None:
    program, x = linear(), sequences()
    found = pg.log_likelihood(program, x, method="ais", chains=32, temperatures=100, seed=0)
    exact = kalman(linear(0.5 + planted), x)
    z = (found.value - exact) / found.standard_error.clamp(min=1e-3)
    assert bool((z.abs() < 5).all()) is holds


def far_from_normal() -> DeepMarkov:
    program = linear(guide="iaf")
    with seeded(5), torch.no_grad():
        for p in program.posterior.parameters():
            p.add_(0.2 * torch.randn_like(p))
        program.posterior.transport.log_scale.fill_(0.5)  # wider than any posterior
    return program


# As above; the weights of these draws have a tail that their error knows well enough. The twin leaves the flow's
# volumes out.
@pytest.mark.parametrize("planted", [False, True], ids=["right", "volumes left out"])
def test_the_flow_as_guide_has_the_likelihood_of_the_kalman_filter(
    planted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, x = far_from_normal(), sequences()
    if planted:
        of_noise = FlowDistribution._of_noise
        monkeypatch.setattr(FlowDistribution, "log_prob", lambda d, v: of_noise(d, d.transport.inverse(v, d.h)[0]))
    found = pg.log_likelihood(program, x, method="iwae", num_particles=20_000, seed=0)
    z = (found.value - kalman(linear(), x)) / found.standard_error.clamp(min=2e-3)
    assert bool((z.abs() < 5).all()) is not planted


def test_a_path_that_was_drawn_has_the_density_of_its_value() -> None:
    """What is kept with a draw is the density of the flow run backwards, or of the transition where it is the guide."""
    program, x = far_from_normal(), sequences()
    with seeded(1):
        _, guide = trace_pair(program, x)
    law, z = guide.nodes["z"]["fn"], guide.nodes["z"]["value"]
    assert law._drawn[0] is z
    assert torch.allclose(law.log_prob(z), law.log_prob(z.clone()), atol=1e-3)


def test_what_is_to_come_costs_nothing_and_is_drawn_by_the_model() -> None:
    program, x = linear(), sequences()[:1]

    def terms(x: torch.Tensor) -> torch.Tensor:
        with seeded(3):
            _, guide = trace_pair(program, x)
        law = guide.nodes["z"]["fn"]
        z = guide.nodes["z"]["value"]
        before = torch.cat([program.start.expand(1, 1, 2), z[:, :-1]], 1)
        return (law.law(before, *law.inputs).log_prob(z) - program.transition(before).log_prob(z))[0]

    ratio = terms(x)  # log q - log p of each step: two seen, two to come
    assert bool((ratio[:2].abs() > 1e-3).all()) and torch.equal(ratio[2:], torch.zeros(2))
    assert terms(torch.randn(1, 4, 2))[2:].abs().min() > 1e-3  # seen, they do cost


@pytest.mark.parametrize("direction", ["backward", "forward", "both"])
def test_guides_read_what_they_say(direction) -> None:
    with seeded(0):
        program = DeepMarkov((4, 2), 2, (5,), 6, direction=direction).eval()
    x = torch.zeros(1, 4, 2)
    inputs = program.inputs(x)
    read = sum(net(inputs, back) for net, back in zip(program.readers, program.reversed, strict=True))
    x[:, 1] = 1.0
    again = sum(net(program.inputs(x), back) for net, back in zip(program.readers, program.reversed, strict=True))
    moved = (read - again).abs().amax((0, 2)) > 1e-6
    assert moved.tolist() == {
        "backward": [True, True, False, False], "forward": [False, True, True, True], "both": [True] * 4,
    }[direction]  # fmt: skip


def test_lengths_say_whether_it_is_an_end_or_a_forecast() -> None:
    program, x = linear(), sequences()
    forecast = pg.impute(program, x, draws=4)
    assert not forecast.isnan().any()
    ended = pg.impute(program, x, torch.tensor([2, 4, 4, 4]), draws=4)
    assert bool(ended[:, 0, 2:].isnan().all()) and not ended[:, 1:].isnan().any()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"event_shape": (4, 2, 2)}, "a datum is a sequence"),
        ({"transition": "square"}, '"gated" or "linear"'),
        ({"direction": "sideways"}, "backward, forward, both"),
        ({"hidden": ()}, "hidden units"),
        ({"latent": 0}, "latent=0.: give a positive integer"),
    ],
)
def test_errors_name_what_is_wrong(options, said) -> None:
    with pytest.raises(ValueError, match=said):
        DeepMarkov(**({"event_shape": (4, 2)} | options))
