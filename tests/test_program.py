"""The contract: parameters live on the module, plates scale, and one trace tells what a program is."""

import copy
import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoDelta, AutoGuideList, AutoNormal
from pyro.nn import PyroParam, PyroSample
from torch import nn

import pyro_gen as pg
from pyro_gen.program import Program, data_scale, data_size, fixed
from pyro_gen.traces import DATA_PLATE, is_local, per_datum_log_prob, sample_sites, structure, trace_pair


class Mixed(Program):
    """A local and a global latent variable, an ordinary layer and a constrained parameter."""

    def __init__(self):
        super().__init__()
        self.decoder = nn.Linear(2, 3)
        self.scale = PyroParam(torch.ones(3), constraint=constraints.positive)
        self.w_loc = nn.Parameter(torch.zeros(3))
        self.encoder = nn.Linear(3, 2)

    def model(self, x):
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pg.observe("x", dist.Normal(self.decoder(z) + w, self.scale).to_event(1), x)

    def guide(self, x):
        pyro.sample("w", dist.Normal(self.w_loc, 0.5).to_event(1))
        with self.plate(x):
            pyro.sample("z", dist.Normal(self.encoder(x.nan_to_num()), 0.7).to_event(1))


class Bayesian(Program):
    """Logistic regression of the first column on the context, weights with a prior."""

    def __init__(self):
        super().__init__()
        self.linear = pyro.nn.PyroModule[nn.Linear](2, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 2]).to_event(2))
        self.loc = nn.Parameter(torch.zeros(1, 2))

    def model(self, x, context):
        logits = self.linear(context)
        with self.plate(x):
            return pg.observe("x", dist.Bernoulli(logits=logits).to_event(1), x)

    def guide(self, x, context):
        pyro.sample("linear.weight", dist.Normal(self.loc, 0.1).to_event(2))


def elbo(program, x, *context):
    model, guide = trace_pair(program, x, *context)
    return model.log_prob_sum() - guide.log_prob_sum()


def train(program, x, *context, steps=20):
    optimiser = torch.optim.Adam(program.parameters(), 0.05)
    for _ in range(steps):
        optimiser.zero_grad()
        (-elbo(program, x, *context)).backward()
        optimiser.step()


def values(program):
    return {n: p.detach().clone() for n, p in program.named_parameters()}


# ----------------------------------------------------------------------------------------------------------------------
# Parameters


def test_two_instances_train_apart_and_leave_no_global_state():
    x = torch.randn(30, 3) + 2
    a, b = Mixed(), Mixed()
    before = values(b)
    start = values(a)
    train(a, x)
    assert all(not torch.equal(start[n], v) for n, v in values(a).items())
    assert all(torch.equal(before[n], v) for n, v in values(b).items())
    train(b, x)
    assert all(not torch.equal(before[n], v) for n, v in values(b).items())
    assert len(pyro.get_param_store()) == 0
    assert pyro.settings.get("module_local_params") is False


def test_state_dict_is_the_whole_truth(tmp_path):
    x = torch.randn(30, 3)
    a, b = Mixed(), Mixed()
    train(a, x)
    torch.save(a.state_dict(), tmp_path / "a.pt")
    b.load_state_dict(torch.load(tmp_path / "a.pt", weights_only=True))
    results = []
    for program in (a, b, copy.deepcopy(a)):
        pyro.set_rng_seed(1)
        results.append(elbo(program, x).item())
    assert results[0] == results[1] == results[2]
    assert set(a.state_dict()) == set(dict(a.named_parameters()))


def test_a_copy_is_independent():
    x = torch.randn(30, 3)
    a = Mixed()
    b = copy.deepcopy(a)
    before = values(a)
    train(b, x)
    assert all(torch.equal(before[n], v) for n, v in values(a).items())


def test_forward_dispatches_so_that_functional_call_reaches_both():
    program, x = Mixed(), torch.zeros(4, 3)
    other = {n: p + 1 for n, p in values(program).items()}
    trace = pyro.poutine.trace(lambda: torch.func.functional_call(program, other, ("guide", x))).get_trace()
    assert torch.equal(trace.nodes["w"]["fn"].mean, other["w_loc"])


def test_weights_with_a_prior_are_global_latents():
    program, c = Bayesian(), torch.randn(20, 2)
    x = (c[:, :1] > 0).float()
    s = structure(program, x, c)
    assert (s.local, s.global_, s.observed, s.kind) == ((), ("linear.weight",), ("x",), "bound")
    train(program, x, c, steps=100)
    assert program.loc[0, 0] > 1.0  # the first column decides
    model, _ = trace_pair(program, x, c)
    assert not is_local(model.nodes["linear.weight"]) and is_local(model.nodes["x"])
    assert len(pyro.get_param_store()) == 0


def test_initialise_and_structure_leave_the_generator_alone():
    program = Mixed()
    before = torch.get_rng_state()
    structure(program.initialise(torch.zeros(4, 3)), torch.zeros(4, 3))
    assert torch.equal(torch.get_rng_state(), before)


# ----------------------------------------------------------------------------------------------------------------------
# Plain functions and autoguides


def function_model(x):
    loc = pyro.param("loc", torch.zeros(3))
    scale = pyro.param("scale", lambda: 2 * torch.ones(3), constraint=constraints.positive)
    with pg.plate(x):
        return pg.observe("x", dist.Normal(loc, scale).to_event(1), x)


def test_functions_own_their_parameters():
    x = torch.randn(200, 3) * 0.5 + 1
    a, b = (Program.from_functions(function_model).initialise(x) for _ in range(2))
    assert {n: tuple(p.shape) for n, p in a.named_parameters()} == {"params.loc": (3,), "params.scale": (3,)}
    trace = pyro.poutine.trace(a.model).get_trace(x)
    assert torch.allclose(trace.nodes["x"]["fn"].base_dist.scale, 2 * torch.ones(3))
    train(a, x, steps=300)
    fitted = pyro.poutine.trace(a.model).get_trace(x).nodes["x"]["fn"].base_dist
    assert torch.allclose(fitted.loc, x.mean(0), atol=0.02)
    assert torch.allclose(fitted.scale, x.std(0, correction=0), atol=0.02)
    assert torch.equal(b.params.loc, torch.zeros(3))
    b.load_state_dict(a.state_dict())
    assert torch.equal(b.params.loc, a.params.loc) and len(pyro.get_param_store()) == 0


def test_functions_own_their_networks():
    net = nn.Linear(2, 3)

    def model(x):
        pyro.module("decoder", net)
        with pg.plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pg.observe("x", dist.Normal(net(z), 1.0).to_event(1), x)

    def guide(x):
        loc = pyro.param("z_loc", torch.zeros(2))
        with pg.plate(x):
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    x = torch.randn(20, 3)
    program = Program.from_functions(model, guide).initialise(x)
    assert sorted(n for n, _ in program.named_parameters()) == [
        "params.decoder.bias",
        "params.decoder.weight",
        "params.z_loc",
    ]
    weight = net.weight.detach().clone()
    train(program, x)
    assert not torch.equal(net.weight, weight)  # the network's own parameters, no copies
    assert structure(program, x).local == ("z",) and len(pyro.get_param_store()) == 0


@pytest.mark.parametrize("guide", [AutoNormal, AutoDelta])
def test_autoguides_of_global_latents(guide):
    def model(x):
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        with pg.plate(x):
            return pg.observe("x", dist.Normal(loc, 1.0), x)

    x = torch.randn(100) + 3
    program = Program.from_functions(model, guide).initialise(x)
    assert len(list(program.parameters())) == (2 if guide is AutoNormal else 1)
    train(program, x, steps=400)
    _, trace = trace_pair(program, x)
    posterior = 100 * x.mean() / (100 + 0.01)
    assert trace.nodes["loc"]["fn"].mean.item() == pytest.approx(posterior.item(), abs=0.3)  # one-draw gradients
    # Minibatches of another size than the first run's.
    with data_size(100):
        assert trace_pair(program, x[:7])[0].nodes["x"]["scale"] == pytest.approx(100 / 7)


@pytest.mark.parametrize("listed", [False, True])
def test_an_autoguide_instance_is_a_guide(listed):
    def model(x):
        scale = pyro.param("scale", torch.ones(()), constraint=constraints.positive)
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        with pg.plate(x):
            return pg.observe("x", dist.Normal(loc, scale), x)

    guide = AutoNormal(model)
    if listed:
        guide = AutoGuideList(model)
        guide.append(AutoNormal(model))
    x = torch.zeros(5)
    program = Program.from_functions(model, guide).initialise(x)
    assert len(list(program.parameters())) == 3 and len(pyro.get_param_store()) == 0
    assert structure(program, x).global_ == ("loc",) and torch.isfinite(elbo(program, x))
    with pytest.raises(ValueError, match=r"has run before.*new one"):
        Program.from_functions(model, guide)


def test_a_parameter_without_a_value_is_named():
    program = Program.from_functions(lambda x: pyro.param("missing_one"))
    with pytest.raises(ValueError, match="missing_one"):
        program.model(torch.zeros(2))


# ----------------------------------------------------------------------------------------------------------------------
# The data plate


def minibatch_elbos(program, x, z, w):
    """The scaled ELBO of every minibatch of 2 rows."""
    rows = list(itertools.combinations(range(len(x)), 2))
    elbos = []
    for pair in rows:
        index = list(pair)
        with data_size(len(x)), fixed({"z": z[index], "w": w}):
            elbos.append(elbo(program, x[index]))
    return torch.stack(elbos)


def test_minibatches_are_unbiased_for_local_and_global_latents():
    program, x = Mixed().double(), torch.randn(5, 3).double()
    x[0, 1] = torch.nan
    z, w = torch.randn(5, 2).double(), torch.randn(3).double()
    with fixed({"z": z, "w": w}):
        full = elbo(program, x)
    assert minibatch_elbos(program, x, z, w).mean().item() == pytest.approx(full.item(), rel=1e-10)


def test_a_plate_that_does_not_scale_is_noticed():
    class Apart(pyro.plate):
        def _process_message(self, msg):
            super()._process_message(msg)
            if msg["type"] == "sample":
                msg["scale"] = msg["scale"] / data_scale(torch.zeros(self.size))

    class Unscaled(Mixed):
        def plate(self, x, dim=-1):
            return Apart(DATA_PLATE, len(x), dim=dim)

    program, x = Unscaled().double(), torch.randn(5, 3).double()
    z, w = torch.randn(5, 2).double(), torch.randn(3).double()
    with fixed({"z": z, "w": w}):
        full = elbo(program, x)
    assert minibatch_elbos(program, x, z, w).mean().item() != pytest.approx(full.item(), rel=1e-2)


def test_the_innermost_data_size_holds():
    x = torch.zeros(4, 3)
    assert data_scale(x) == 1.0
    with data_size(100), data_size(8):
        assert data_scale(x) == 2.0


def test_fixed_sites_stay_latent():
    z = torch.randn(4, 2)
    with fixed({"z": z}):
        model, guide = trace_pair(Mixed(), torch.zeros(4, 3))
    for trace in (model, guide):
        assert torch.equal(trace.nodes["z"]["value"], z) and not trace.nodes["z"]["is_observed"]


def test_a_plate_may_stand_in_another_dimension():
    class Columns(Program):
        def model(self, x):
            with self.plate(x, dim=-2), pyro.plate("columns", 3):
                return pg.observe("x", dist.Normal(torch.zeros(()), 1.0).expand(x.shape), x)

    x = torch.randn(5, 3)
    trace = pyro.poutine.trace(Columns().model).get_trace(x)
    assert torch.allclose(per_datum_log_prob(trace.nodes["x"]), dist.Normal(0.0, 1.0).log_prob(x).sum(1))


def test_a_broadcast_that_mixes_data_is_caught():
    class Broadcast(Program):
        def model(self, x):
            with self.plate(x):
                pyro.sample("x", dist.Normal(torch.zeros(len(x), 1), 1.0), obs=x)

    class Forgotten(Program):  # .to_event(1)
        def model(self, x):
            with self.plate(x):
                pyro.sample("x", dist.Normal(torch.zeros(x.shape), 1.0), obs=x)

    for program, x in [(Broadcast(), torch.zeros(6)), (Forgotten(), torch.zeros(6, 6))]:
        with pyro.validation_enabled(False):
            site = pyro.poutine.trace(program.model).get_trace(x).nodes["x"]
        with pytest.raises(ValueError, match=r"'x'.*size 6.*\(N, 1\)"):
            per_datum_log_prob(site)


# ----------------------------------------------------------------------------------------------------------------------
# Structure


class Factor(Program):
    def model(self, x):
        with self.plate(x):
            pyro.factor("energy", -(x**2).sum(-1))


class Implicit(Program):
    def model(self, x):
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Delta(z.sum(-1, keepdim=True), event_dim=1), obs=z.sum(-1, keepdim=True))


class Deterministic(Program):
    def model(self, x):
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            loc = pyro.deterministic("loc", z.sum(-1, keepdim=True).expand(x.shape), event_dim=1)
            return pg.observe("x", dist.Normal(loc, 1.0).to_event(1), x)


def test_structure_is_read_off_one_trace():
    x = torch.zeros(4, 3)
    kinds = {
        p: structure(p, v)
        for p, v in [(Mixed(), x), (Factor(), x), (Implicit(), x[:, :1]), (Deterministic(), x[:, :1])]
    }
    assert [s.kind for s in kinds.values()] == ["bound", "unnormalised", "implicit", "bound"]
    mixed, *_, deterministic = kinds.values()
    assert (mixed.local, mixed.global_, mixed.observed) == (("z",), ("w",), ("x",))
    assert deterministic.observed == ("x",)
    assert structure(Program.from_functions(function_model), x).kind == "exact"
    assert list(sample_sites(pyro.poutine.trace(Mixed().model).get_trace(x))) == ["w", "z", "x"]


def test_what_is_not_defined_is_named():
    with pytest.raises(NotImplementedError, match=r"Program must define model"):
        Program().model(torch.zeros(1))
    with pytest.raises(ValueError, match=r'Mixed.*"iwae"'):
        Mixed().marginal()
    assert Program().guide(torch.zeros(1)) is None
