"""Every verb on a program without a density does what is right, or says that an observation noise gives it one."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pyro_gen as pg
from pyro_gen.models import GAN


class Plain(pg.Program):
    """As Pyro's users write it."""

    event_shape = torch.Size([3])

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Linear(2, 3)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Delta(self.generator(z), event_dim=1), obs=x)


class Conditional(pg.Program):
    """A generator that is told what of."""

    event_shape = torch.Size([1])

    def model(self, x: Tensor, c: Tensor) -> Tensor:
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            return pg.observe("x", dist.Delta(100 * c + z, event_dim=1), x)


PROGRAMS: list[Callable[[], pg.Program]] = [lambda: GAN((3,), 2, (8,)), Plain]


@pytest.mark.parametrize("make", PROGRAMS, ids=["observe", "pyro.sample"])
def test_what_generates(make: Callable[[], pg.Program]) -> None:
    program = make()
    x = pg.sample(program, 5, seed=3)
    assert x.isfinite().all() and x.unique(dim=0).shape == (5, 3)
    holes = x.clone()
    holes[1:3] = math.nan
    y = pg.impute(program, holes, draws=40)  # rows of which nothing was seen are drawn
    assert torch.equal(y[:, [0, 3, 4]], x[[0, 3, 4]].expand(40, 3, 3)) and y[:, 1].unique(dim=0).shape == (40, 3)
    assert torch.equal(pg.impute(program, x, draws=2), x.expand(2, 5, 3))
    assert pg.check_program(program, x).ok
    result = pg.fit(program, x, objective=pg.inference.MMD((1.0,)), epochs=2, progress=False)
    assert result.mode == "traced" and math.isfinite(result.history[-1]["train_loss"])
    assert pg.interpolate(program, steps=3, n=2).isfinite().all()


def test_context_is_conditioned_on() -> None:
    c = torch.tensor([[1.0], [2.0], [3.0]])
    assert (pg.sample(Conditional(), 3, context=(c,)) / 100).round().tolist() == c.tolist()
    assert (pg.interpolate(Conditional(), 0, 1, c, n=3) / 100).round().tolist() == c.expand(8, 3, 1).tolist()


VERBS: dict[str, Callable[[pg.Program, Tensor], Any]] = {
    "impute": lambda p, x: pg.impute(p, torch.where(x == x[0, 0], math.nan, x)),
    "reconstruct": lambda p, x: pg.reconstruct(p, x),
    "posterior": lambda p, x: pg.posterior(p, x, progress=False),
    "guide": lambda p, x: pg.posterior(p, x, method="guide", progress=False),
    "latents": lambda p, x: pg.latents(p, x),
    "bdmc": lambda p, x: pg.bdmc(p, 3),
    "log_likelihood": lambda p, x: pg.log_likelihood(p, x),
    "log_evidence": lambda p, x: pg.log_evidence(p, x),
    "sbc": lambda p, x: pg.sbc(p, x, simulations=3),
    "loo": lambda p, x: pg.loo(p, x, posterior={"w": torch.zeros(5)}),
    "check_guide": lambda p, x: pg.check_guide(p, x),
}


@pytest.mark.parametrize("verb", VERBS)
def test_what_needs_a_density_names_what_gives_one(verb: str) -> None:
    program = GAN((3,), 2, (8,))
    words = r"does not sample 'z'.*with_guide" if verb == "reconstruct" else r"with_noise\(program, 0.1\)|noise=0.1"
    with pytest.raises(ValueError, match=words):
        VERBS[verb](program, pg.sample(program, 4))


def test_training_names_the_objectives() -> None:
    with pytest.raises(ValueError, match=r"GAN is implicit .* Adversarial, CycleConsistent, MMD"):
        pg.fit(GAN((3,)), torch.zeros(4, 3), epochs=1, progress=False)
