"""A loss of the guide's own, a ``pyro.factor`` statement in it, is part of an objective or refused, never left out."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pyro_gen as pg
from pyro_gen.inference import (
    ELBO,
    IWAE,
    VIMCO,
    BetaTCVAE,
    DReG,
    EnumELBO,
    FactorVAE,
    InfoVAE,
    Objective,
    RelaxedELBO,
    Renyi,
    ReweightedWakeSleep,
    ScoreFunctionELBO,
    SemiSupervisedELBO,
    WassersteinAutoencoder,
)
from pyro_gen.inference.objectives import elbo
from pyro_gen.program import Program

N, OWN = 6, 0.7  # data, nats of each


class WithOwnLoss(Program):
    """z ~ N(0, I), x | z ~ N(z, 1), and a guide that adds ``own`` nats for each datum to the loss."""

    def __init__(self, own: float) -> None:
        super().__init__()
        self.own, self.slope = own, nn.Parameter(torch.tensor(0.5))

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            return pg.observe("x", dist.Normal(z, 1.0).to_event(1), x)

    def guide(self, x: Tensor) -> None:
        with self.plate(x):
            pyro.sample("z", dist.Normal(self.slope * x, 1.0).to_event(1))
            if self.own:
                pyro.factor("told", x.new_full((len(x),), self.own), has_rsample=True)


def loss(objective: Objective, own: float) -> float:
    """The loss at the same draws whatever the guide adds."""
    x = torch.linspace(-1, 1, 2 * N).view(N, 2)
    program = WithOwnLoss(own)
    pyro.set_rng_seed(0)
    objective.prepare(program, x)
    pyro.set_rng_seed(1)
    with pyro.validation_enabled(False):
        return objective.loss(program, x).item()


@pytest.mark.parametrize(
    "objective",
    [ELBO(), ELBO(num_particles=3), ScoreFunctionELBO(num_particles=3), RelaxedELBO(), EnumELBO()],
    ids=repr,
)
def test_objectives_that_are_one_sum_add_the_loss_of_the_guide(objective):
    assert loss(objective, OWN) - loss(objective, 0.0) == pytest.approx(N * OWN, abs=1e-4)


def test_an_objective_that_leaves_the_loss_out_is_found(monkeypatch):
    observed = elbo.observed_sites

    def of_data_alone(trace):
        return [site for site in observed(trace) if site["name"] == "x"]

    monkeypatch.setattr(elbo, "observed_sites", of_data_alone)
    assert loss(ELBO(), OWN) - loss(ELBO(), 0.0) != pytest.approx(N * OWN, abs=1e-4)


@pytest.mark.parametrize(
    "objective",
    [
        IWAE(3),
        DReG(3),
        Renyi(0.5, 3),
        VIMCO(3),
        BetaTCVAE(),
        FactorVAE(critic=(4,)),
        InfoVAE(),
        WassersteinAutoencoder(),
        ReweightedWakeSleep(3),
    ],
    ids=lambda objective: type(objective).__name__,
)
def test_objectives_with_no_place_for_the_loss_of_the_guide_refuse_it(objective):
    assert loss(objective, 0.0) == loss(objective, 0.0)  # a program without one is welcome
    with pytest.raises(ValueError, match=r"'told' is a loss of its own \(pyro.factor\).*use ELBO"):
        loss(objective, OWN)


def test_programs_of_the_zoo_with_such_a_loss_are_refused():
    x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    y = torch.tensor([0.0, 1.0, torch.nan])
    ccvae = pg.models.CCVAE(2, 2, characteristics=2, style=1, hidden=(4,))
    with pytest.raises(ValueError, match="is a loss of its own"):
        pg.fit(ccvae, {"x": x, "y": y}, objective=IWAE(3), epochs=1, progress=False)
    with pytest.raises(ValueError, match="is a loss of its own"):
        pg.fit(ccvae, {"x": x, "y": y}, objective=SemiSupervisedELBO("y", 2), epochs=1, progress=False)
    vqvae = pg.models.VQVAE(2, places=1, words=2, size=1, hidden=(4,), prior_hidden=4)
    with pytest.raises(ValueError, match="is a loss of its own"):
        pg.fit(vqvae, x, objective=IWAE(3), epochs=1, progress=False)
