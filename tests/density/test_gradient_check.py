"""Whether a gradient gets lost on the way through a model, told apart from rounding in whatever precision it has."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pyro_gen.density import density
from pyro_gen.density.gradient_check import check_gradient

N = 3000
T = torch.linspace(0, 100, N)
Y = 0.5 * T + torch.randn(N, generator=torch.Generator().manual_seed(0))
X = 30 * torch.randn(N, generator=torch.Generator().manual_seed(1))
K = torch.randint(0, 4, (N,), generator=torch.Generator().manual_seed(2))


def into_single_precision(t: Tensor, y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    loc = torch.zeros(len(t))
    loc[1:] = a * t[:-1]
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(loc, scale), obs=y)


def ordinal(x: Tensor, k: Tensor) -> None:
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    first = pyro.sample("first", dist.Normal(0.0, 2.0))
    gap = pyro.sample("gap", dist.LogNormal(0.0, 1.0))
    cuts = torch.zeros(3)
    cuts[0], cuts[1], cuts[2] = first, first + gap, first + 2 * gap
    with pyro.plate("data", len(x)):
        pyro.sample("k", dist.OrderedLogistic(b * x, cuts), obs=k)


NETWORK = nn.Sequential(nn.Linear(1, 5), nn.Tanh(), nn.Linear(5, 1))


def network(t: Tensor, y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(a * NETWORK(t.unsqueeze(1) * a)[:, 0], 1.0), obs=y)


def sharp(t: Tensor, y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(a * t, 1e-3), obs=y)


def by_float(t: Tensor, y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(float(a) * t, 1.0), obs=y)


def by_detach(t: Tensor, y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    loc = torch.zeros(len(t))
    loc[1:] = a.detach() * t[:-1]
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(loc, 1.0), obs=y)


def by_a_new_tensor(x: Tensor, k: Tensor) -> None:
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    first = pyro.sample("first", dist.Normal(0.0, 2.0))
    cuts = torch.tensor([first.item(), first.item() + 1, first.item() + 2])
    with pyro.plate("data", len(x)):
        pyro.sample("k", dist.OrderedLogistic(b * x, cuts), obs=k)


Model = Callable[[Tensor, Tensor], None]


def check(model: Model, data: tuple[Tensor, Tensor], near: list[float], seed: int) -> None:
    target = density(model, *data)
    z = torch.tensor([near]) + 0.02 * torch.randn(1, len(near), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad(), target.ready():
        check_gradient(lambda u: sum(target.terms_of_chain(u, {})).sum(), z[0], target.names)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("model", "data", "near"),
    [
        (into_single_precision, (T, Y), [0.5, 0.0]),
        (ordinal, (X, K), [0.0, -1.1, 0.1]),
        (network, (T, Y), [0.5]),
        (sharp, (T, Y), [0.5]),
    ],
)
def test_sound_models_are_not_accused(model: Model, data: tuple[Tensor, Tensor], near: list[float], seed: int) -> None:
    check(model, data, near, seed)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("model", "data", "near"),
    [(by_float, (T, Y), [0.5]), (by_detach, (T, Y), [0.5]), (by_a_new_tensor, (X, K), [0.0, -1.1])],
)
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
def test_a_lost_gradient_is_found(model: Model, data: tuple[Tensor, Tensor], near: list[float], seed: int) -> None:
    with pytest.raises(ValueError, match=r"by differences and .* by autograd"):
        check(model, data, near, seed)
