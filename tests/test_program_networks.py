"""Networks of functions, of methods and of inherited models belong to the program: modes, buffers, copies, names."""

import copy
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor, nn

import pyro_gen as pg
from pyro_gen._random import seeded

X = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))


def decoder() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))


def functions(network: nn.Module) -> pg.Program:
    def model(x: Tensor) -> Tensor:
        pyro.module("decoder", network)
        with pg.plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pg.observe("x", dist.Normal(network(z), 1.0).to_event(1), x)

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(2))
        with pg.plate(x):
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    return pg.Program.from_functions(model, guide)


def means(program: pg.Program, seed: int = 0) -> Tensor:
    with seeded(seed):
        return pyro.poutine.trace(program.model).get_trace(X).nodes["x"]["fn"].base_dist.loc.detach()


def test_modes_and_buffers_of_a_network_in_a_closure() -> None:
    program = functions(decoder()).initialise(X)
    state = program.state_dict()
    assert {"params.decoder.1.running_mean", "params.decoder.0.weight", "params.loc"} <= state.keys()
    assert int(state["params.decoder.1.num_batches_tracked"]) == 1
    program.eval()
    assert torch.equal(means(program), means(program))
    assert int(program.state_dict()["params.decoder.1.num_batches_tracked"]) == 1  # evaluation learns nothing
    program.train()
    assert bool((means(program) == 0).any())  # Dropout at work


def test_the_first_run_in_evaluation_mode_is_in_evaluation_mode() -> None:
    program = functions(decoder())
    program.event_shape = torch.Size([3])
    assert torch.equal(pg.sample(program, 5, seed=1), pg.sample(program, 5, seed=1))
    assert program.get_submodule("params.decoder.2").training  # as the rest of the program


def test_copies_have_networks_of_their_own() -> None:
    program = functions(decoder()).initialise(X).eval()
    before = means(program)
    other = copy.deepcopy(program)
    assert torch.equal(means(other), before)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.5)
    other.train()
    assert not torch.equal(means(other), before)
    assert torch.equal(means(program), before)  # parameters, buffers and mode are the other's alone
    assert int(other.get_submodule("params.decoder.1").num_batches_tracked) == 2
    third = copy.deepcopy(other).eval()
    program.load_state_dict(third.state_dict())
    assert torch.equal(means(program), means(third))
    assert pg.check_program(functions(nn.Sequential(nn.Linear(2, 3), nn.Tanh())), X).ok


def test_a_copy_trains_by_itself() -> None:
    program = functions(nn.Linear(2, 3)).initialise(X)
    other = copy.deepcopy(program)
    before = [p.clone() for p in program.parameters()]
    for compile in (False, "trace"):
        result = pg.fit(other, X, epochs=2, batch_size=24, lr=0.1, compile=compile, progress=False)
        assert result.mode == ("traced" if compile else "eager")
    assert all(torch.equal(a, b) for a, b in zip(before, program.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True))


class Tutorial(nn.Module):
    """As in Pyro's tutorial on variational autoencoders."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder, self.encoder = nn.Linear(2, 3), nn.Linear(3, 4)

    def model(self, x: Tensor) -> Tensor:
        pyro.module("decoder", self.decoder)
        with pg.plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pg.observe("x", dist.Normal(self.decoder(z), 1.0).to_event(1), x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pg.plate(x):
            loc, log_scale = self.encoder(x.nan_to_num()).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


class Inherited(Tutorial, pg.Program):
    pass


def of_methods() -> pg.Program:
    vae = Tutorial()
    return pg.Program.from_functions(vae.model, vae.guide)


@pytest.mark.parametrize("make", [Inherited, of_methods])
def test_inherited_models_and_methods_are_programs(make: Callable[[], pg.Program]) -> None:
    program = make()
    assert pg.check_program(program, X).ok
    before = [p.clone() for p in program.parameters()]
    result = pg.fit(program, X, epochs=2, batch_size=12, lr=0.1, progress=False)
    assert result.mode == "traced"
    assert len(before) == 4
    assert not any(torch.equal(a, b) for a, b in zip(before, program.parameters(), strict=True))
    assert len(pyro.get_param_store()) == 0


class Regression(pg.Program):
    def __init__(self) -> None:
        super().__init__()
        self.w = PyroSample(dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        self.b = nn.Parameter(torch.zeros(()))
        self.scale = PyroParam(torch.tensor(1.0), constraint=dist.constraints.positive)

    def model(self, x: Tensor, u: Tensor) -> Tensor:
        w = self.w
        with self.plate(x):
            return pg.observe("x", dist.Normal(u @ w + self.b, self.scale), x)


class Layers(pg.Program):
    def __init__(self) -> None:
        super().__init__()
        self.layer = PyroModule[nn.Linear](2, 1)
        self.layer.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 2]).to_event(2))
        self.plain = nn.Linear(2, 1)

    def model(self, x: Tensor, u: Tensor) -> Tensor:
        loc = self.layer(u)[:, 0] + self.plain(u)[:, 0]
        with self.plate(x):
            return pg.observe("x", dist.Normal(loc, 1.0), x)


@pytest.mark.parametrize("program", [Regression, Layers])
@pytest.mark.parametrize(
    "guided",
    [
        lambda p: pg.with_guide(p, pg.inference.guides.MeanField()),
        lambda p: pg.Program.from_functions(p.model, AutoNormal),
        lambda p: pg.Program.from_functions(p.model, pg.inference.guides.MeanField()),
    ],
    ids=["with_guide", "an autoguide of its model", "from_functions"],
)
def test_recorded_programs_see_the_sites_of_the_program(
    program: Callable[[], pg.Program], guided: Callable[[pg.Program], pg.Program]
) -> None:
    u = X[:, :2]
    x = u @ torch.tensor([1.0, -1.0]) + 0.3
    losses = {}
    for compile in (False, "trace"):
        torch.manual_seed(0)
        own = program()
        given = guided(own)
        result = pg.fit(given, (x, u), epochs=5, batch_size=12, lr=0.05, compile=compile, progress=False)
        losses[compile] = result.history[-1]["train_loss"]
        assert result.mode == ("traced" if compile else "eager")
        name = "w" if program is Regression else "layer.weight"
        assert name in pyro.poutine.trace(given.model).get_trace(x, u).nodes
        assert {id(p) for p in own.parameters()} <= {id(p) for p in given.parameters()}
        assert not torch.equal(next(own.parameters()), next(program().parameters())) or program is Layers
    assert abs(losses[False] - losses["trace"]) < 1e-5 * abs(losses[False])


def test_statements_of_methods_are_owned() -> None:
    """A module with a model and a guide, given as it is, by its methods, or as the base of a program."""

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.decoder = decoder()

        def model(self, x: Tensor) -> None:
            pyro.module("decoder", self.decoder)
            scale = pyro.param("scale", torch.ones(3), constraint=dist.constraints.positive)
            with pyro.plate("batch", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).expand([len(x), 2]).to_event(1))
                pyro.sample("x", dist.Normal(self.decoder(z), scale).to_event(1), obs=x)

        def guide(self, x: Tensor) -> None:
            with pyro.plate("batch", len(x)):
                pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(2)), 1.0).to_event(1))

    class Derived(Module, pg.Program):
        pass

    one, other = Module(), Module()
    for program in (pg.Program.from_functions(one), pg.Program.from_functions(other.model, other.guide), Derived()):
        before = pg.fit(program, X, epochs=2, lr=0.1, progress=False).program.state_dict()
        names = {name.rpartition(".")[2] for name in before}
        assert {"scale", "loc", "running_mean"} <= names
        scale = next(p for n, p in program.named_parameters() if n.endswith("scale"))
        assert bool((scale != 0).all())  # of its logarithm: it is trained
        program.eval()
        assert torch.equal(means(program), means(program))
        twin = copy.deepcopy(program)
        assert torch.equal(means(twin), means(program))
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.add_(0.5)
        assert not torch.equal(means(twin), means(program))
