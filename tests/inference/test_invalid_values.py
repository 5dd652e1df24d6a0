"""What torch's validation refuses is said with the side of the program, the site, and what to do."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

import pyro_gen as pg
from pyro_gen._errors import InvalidValuesError
from pyro_gen.density import density
from pyro_gen.inference import ELBO

X = torch.linspace(-2.0, 2.0, 20).reshape(10, 2)
HOLES = torch.where(X > 1.5, torch.nan, X)


class Sound(pg.Program):
    """What the cases below break in one place each."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = torch.nn.Parameter(torch.zeros(2))

    def prior(self) -> Any:
        return dist.Normal(torch.zeros(2), 1.0).to_event(1)

    def likelihood(self, z: Tensor) -> Any:
        return dist.Normal(z + self.shift, 1.0).to_event(1)

    def posterior(self, x: Tensor) -> Any:
        return dist.Normal(x.nan_to_num(), 1.0).to_event(1)

    def model(self, x: Tensor) -> Any:
        with self.plate(x):
            return pg.observe("x", self.likelihood(pyro.sample("z", self.prior())), x)

    def guide(self, x: Tensor) -> None:
        with self.plate(x):
            pyro.sample("z", self.posterior(x))


class BlindGuide(Sound):
    def posterior(self, x: Tensor) -> Any:
        return dist.Normal(x, 1.0).to_event(1)


class BadPrior(Sound):
    def prior(self) -> Any:
        return dist.Normal(torch.zeros(2), -1.0).to_event(1)


class BadLikelihood(Sound):
    def likelihood(self, z: Tensor) -> Any:
        return dist.Normal(z, z - z.max() - 1).to_event(1)


class PositiveData(Sound):
    def likelihood(self, z: Tensor) -> Any:
        return dist.Gamma(z.exp(), 1.0).to_event(1)


class PositivePrior(Sound):
    def prior(self) -> Any:
        return dist.Exponential(torch.ones(2)).to_event(1)


def with_autoguide(sides: type[Sound]) -> pg.Program:
    return pg.Program.from_functions(sides().model, AutoNormal)


def fit(program: pg.Program, x: Tensor, **options: Any) -> None:
    pg.fit(program, x, epochs=1, progress=False, **{"batch_size": len(x), **options})


@pytest.mark.parametrize(
    ("program", "x", "said", "side", "site", "observed"),
    [
        (BlindGuide(), HOLES, "in the guide, the parameter loc of Normal is NaN .*nan_to_num", "guide", None, False),
        (BadPrior(), X, r"in the model, the parameter scale .*GreaterThan\(lower_bound=0", "model", None, False),
        (BadLikelihood(), X, "in the model, after site 'z', the parameter scale of Normal", "model", "z", False),
        # The first run of an autoguide is one of the model.
        (with_autoguide(BadPrior), X, "in the model, the parameter scale of Normal", "model", None, False),
        (
            PositiveData(),
            X,
            r"'x': the value -2 at index \[0, 0\] .* numbers of 0 or more",
            "model",
            "x",
            True,
        ),
        (PositivePrior(), X, "at site 'z', .*: the guide draws outside of the support", "model", "z", False),
    ],
)
def test_a_program_that_validation_refuses(
    program: pg.Program, x: Tensor, said: str, side: str, site: str | None, observed: bool
) -> None:
    with pytest.raises(InvalidValuesError, match=said) as caught:
        fit(program, x)
    assert (caught.value.side, caught.value.site, caught.value.observed) == (side, site, observed)
    assert "tensor(" not in str(caught.value) and "\n" not in str(caught.value)


def test_nan_in_the_rows_held_out_is_no_matter_of_minibatches() -> None:
    """They were said to be too few for a guide with parameters for each row."""
    with pytest.raises(InvalidValuesError, match=r"in the guide, the parameter loc of Normal is NaN"):
        fit(BlindGuide(), X, batch_size=5, validation=HOLES[-3:])
    fit(Sound(), X, batch_size=5, validation=HOLES[-3:])


def test_the_density_the_evidence_and_the_loss_say_it_too() -> None:
    with pytest.raises(InvalidValuesError, match="in the model, after site 'z', the parameter scale of Normal"):
        density(BadLikelihood(), X)
    with pytest.raises(InvalidValuesError, match="in the guide, the parameter loc of Normal is NaN"):
        pg.log_likelihood(BlindGuide(), HOLES, method="iwae", num_particles=2)
    with pytest.raises(InvalidValuesError, match=r"at site 'x', .* in the data: transform it"):
        ELBO().loss(PositiveData(), X)


def test_other_errors_of_a_program_stay_as_they_are() -> None:
    class Raises(Sound):
        def likelihood(self, z: Tensor) -> Any:
            raise ValueError("not today")

    with pytest.raises(ValueError, match="not today") as caught:
        fit(Raises(), X)
    assert not isinstance(caught.value, InvalidValuesError)
