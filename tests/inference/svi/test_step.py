"""The recorded step is the program's own step, and a program that cannot be recorded is found out."""

import copy
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pyro_gen as pg
from pyro_gen.inference import ELBO, IWAE, DReG, EnumELBO, Objective, Renyi, ScoreFunctionELBO
from pyro_gen.inference.svi import devices
from pyro_gen.inference.svi import step as svi_step
from pyro_gen.inference.svi.step import GradientStep, LossModule, NotTraceableError, compiler_available
from pyro_gen.program import Program


class Classes(Program):
    """A mixture of three classes whose labels are summed out, and a shift of each datum that the guide draws."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.event_shape = torch.Size([9])
        self.logits = nn.Parameter(torch.randn(3, 9))
        self.law = nn.Parameter(torch.zeros(2))

    def model(self, x: Tensor) -> Any:
        with self.plate(x):
            shift = pyro.sample("shift", dist.Normal(0.0, 0.3))
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])), infer={"enumerate": "parallel"})
            return pg.observe("x", dist.Bernoulli(logits=self.logits[z] + shift.unsqueeze(-1)).to_event(1), x)

    def guide(self, x: Tensor) -> None:
        with self.plate(x):
            pyro.sample("shift", dist.Normal(self.law[0], self.law[1].exp()))


def binary(rows: int = 50, holes: bool = False) -> Tensor:
    x = (torch.rand(rows, 9, generator=torch.Generator().manual_seed(1)) < 0.4).float()
    if holes:
        x[torch.rand(rows, 9, generator=torch.Generator().manual_seed(2)) < 0.3] = torch.nan
    return x


def vae(**options: Any) -> Program:
    torch.manual_seed(5)
    return pg.models.VAE(9, latent=2, hidden=(6,), **options)


def gradient_step(program: Program, objective: Objective, mode: str, lr: float = 0.01, **options: Any) -> GradientStep:
    module = LossModule(program, objective, 50, missing=False)
    return GradientStep(module, torch.optim.Adam(module.own.values(), lr, fused=True, **options), None, mode)


def trained(
    make: Callable[[], Program], data: Any, compile: bool | str, **options: Any
) -> tuple[Any, dict[str, Tensor]]:
    program = make()
    options = {"epochs": 2, "batch_size": 16, "lr": 0.01, "seed": 3} | options
    result = pg.fit(program, data, compile=compile, progress=False, **options)
    return result, program.state_dict()


CASES: dict[str, tuple[Callable[[], Program], bool, dict[str, Any]]] = {
    "elbo": (vae, False, {}),
    "several particles": (vae, False, {"objective": ELBO(3, analytic_kl=False)}),
    "iwae": (vae, False, {"objective": IWAE(4)}),
    "dreg": (vae, False, {"objective": DReG(4)}),
    "dreg, missing data": (vae, True, {"objective": DReG(4)}),
    "renyi": (vae, False, {"objective": Renyi(0.5, 3)}),
    "score function": (vae, False, {"objective": ScoreFunctionELBO()}),
    "free bits and warm-up": (vae, False, {"objective": ELBO(free_bits=0.1), "kl_warmup": 2}),
    "missing data": (vae, True, {}),
    "dropout": (lambda: vae(dropout=0.3), False, {}),
    "dropout, given in eval mode": (lambda: vae(dropout=0.3).eval(), False, {}),
    "clipped": (vae, False, {"clip_norm": 0.1}),
    "weight decay": (vae, False, {"weight_decay": 0.1}),
    "summed out": (Classes, False, {"objective": EnumELBO()}),
    "summed out, missing data": (Classes, True, {"objective": EnumELBO(num_particles=2)}),
    "gaussian, missing data": (lambda: pg.models.Gaussian(9), True, {}),
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_traced_run_is_the_eager_run(case: str) -> None:
    """50 rows in batches of 16: the last, short batch is recorded too."""
    make, holes, options = CASES[case]
    eager, a = trained(make, binary(holes=holes), False, **options)
    traced, b = trained(make, binary(holes=holes), "trace", **options)
    assert (eager.mode, traced.mode) == ("eager", "traced")
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-6, msg=name)
    for row, other in zip(eager.history, traced.history, strict=True):
        assert row["train_loss"] == pytest.approx(other["train_loss"], rel=1e-5)


def test_twin_a_recording_with_other_draws_is_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the unused draws of the missing entries, the others move: the comparison above must notice."""
    original = torch.fx.Graph.eliminate_dead_code
    monkeypatch.setattr(
        torch.fx.Graph,
        "eliminate_dead_code",
        lambda self, _: original(self, lambda n: n.op in ("placeholder", "output")),
    )
    monkeypatch.setattr(GradientStep, "_verify", lambda *_: None)
    make, _, options = CASES["missing data"]
    _, a = trained(make, binary(holes=True), False, **options)
    _, b = trained(make, binary(holes=True), "trace", **options)
    assert any(not torch.allclose(a[n], b[n], rtol=1e-5, atol=1e-6) for n in a)


# ----------------------------------------------------------------------------------------------------------------------
# What cannot be recorded


class Shifted(Program):
    """x ~ N(loc + effect(x), 1) where ``effect`` is what makes recording hard."""

    def __init__(self, effect: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(1))
        self.effect = effect

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            return pg.observe("x", dist.Normal(self.loc + self.effect(x), 1.0).to_event(1), x)


class Wordless(Shifted):
    """An error that says nothing, where parameters are the tensors of a recording."""

    def model(self, x: Tensor) -> Tensor:
        if not isinstance(self.loc, nn.Parameter):
            raise TypeError
        return super().model(x)


class Counter:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor) -> float:
        self.calls += 1
        return 1 / self.calls


class MovingAverage(nn.Module):
    """A buffer that each step changes, in place or by another tensor."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place
        self.register_buffer("average", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.in_place:
            self.average.mul_(0.9).add_(0.1 * x.mean())
        else:
            self.average = 0.9 * self.average + 0.1 * x.mean()
        return self.average


class Normalised(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.reshape(-1, 1, 1)).reshape(x.shape)


def closure_program() -> Program:
    """Parameters in a closure: the functions use them without asking the program, or their network, for them."""
    network = nn.Linear(1, 1)
    weight, bias = network.weight, network.bias

    def model(x: Tensor) -> Tensor:
        pyro.module("network", network)
        with pg.plate(x):
            return pg.observe(
                "x", dist.Normal(nn.functional.linear(torch.ones_like(x), weight, bias), 1.0).to_event(1), x
            )

    return Program.from_functions(model)


X = torch.randn(40, 1, generator=torch.Generator().manual_seed(0)) + 1.0

IMPURE: dict[str, tuple[Callable[[], Program], str]] = {
    "branch on values": (lambda: Shifted(lambda x: 1.0 if x.mean() > 0.9 else -1.0), ""),
    "number of a tensor": (lambda: Shifted(lambda x: float(x.sum())), ""),
    "Python's random numbers": (lambda: Shifted(lambda x: random.random()), "another result"),
    "a counter": (lambda: Shifted(Counter()), "another result"),
    "moving average in place": (lambda: Shifted(MovingAverage(True)), "changes the buffer 'effect.average'"),
    "moving average replaced": (lambda: Shifted(MovingAverage(False)), "changes the buffer 'effect.average'"),
    "batch norm": (lambda: Shifted(Normalised(nn.BatchNorm1d(1))), "changes the buffer 'effect.layer"),
    "instance norm": (
        lambda: Shifted(
            Normalised(
                nn.Sequential(
                    nn.Flatten(0), nn.Unflatten(0, (1, 1, -1)), nn.InstanceNorm1d(1, track_running_stats=True)
                )
            )
        ),
        "changes the buffer 'effect.layer",
    ),
    "an error without words": (lambda: Wordless(lambda x: 0.0), "TypeError"),
    "parameters in a closure": (closure_program, "another result"),
}


@pytest.mark.parametrize("case", IMPURE, ids=str)
def test_what_cannot_be_recorded_runs_as_python_and_says_why(case: str) -> None:
    make, reason = IMPURE[case]
    torch.manual_seed(1)
    program = make()
    result = pg.fit(program, X, epochs=2, batch_size=16, progress=False)
    assert result.mode == "eager"
    assert result.mode_reason and reason in result.mode_reason
    assert "\n" not in result.mode_reason
    with pytest.raises(ValueError, match=r"cannot be traced .* use compile=False"):
        pg.fit(make(), X, epochs=2, batch_size=16, progress=False, compile="trace")


@pytest.mark.parametrize("case", ["moving average in place", "moving average replaced", "batch norm", "instance norm"])
def test_the_attempt_to_record_leaves_no_trace_in_the_buffers(case: str) -> None:
    make, _ = IMPURE[case]
    _, attempted = trained(make, X, "auto")
    _, eager = trained(make, X, False)
    for name in eager:
        assert torch.equal(attempted[name], eager[name])


def network_program() -> Program:
    network = nn.Linear(1, 1)

    def model(x: Tensor) -> Tensor:
        pyro.module("network", network)
        with pg.plate(x):
            return pg.observe("x", dist.Normal(network(torch.ones_like(x)), 1.0).to_event(1), x)

    return Program.from_functions(model)


class ShortOnly(pg.models.Gaussian):
    """Looks at the values of batches of fewer than 16 rows."""

    def model(self, x: Tensor) -> Tensor:
        if len(x) < 16:
            float(x.sum())
        return super().model(x)


def test_a_short_last_batch_that_cannot_be_recorded_runs_as_python() -> None:
    x = binary(50)
    result, state = trained(lambda: ShortOnly(9), x, "trace")
    assert result.mode == "traced"
    _, expected = trained(lambda: pg.models.Gaussian(9), x, False)
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-5)
    step = gradient_step(ShortOnly(9), ELBO(), "traced")
    with pytest.raises(NotTraceableError):  # nothing has a graph: it is for fit to say so
        step((x[:10],), torch.ones(()))


@pytest.mark.parametrize(("make", "mode"), [(closure_program, "eager"), (network_program, "traced")])
def test_what_is_in_a_closure_is_trained(make: Callable[[], Program], mode: str) -> None:
    torch.manual_seed(1)
    program = make()
    result = pg.fit(program, X, epochs=60, batch_size=40, lr=0.1, progress=False)
    assert result.mode == mode
    mean = sum(p.detach().sum() for p in result.program.parameters())  # weight + bias
    assert abs(float(mean) - float(X.mean())) < 1e-2


def test_twin_without_verification_the_closure_is_not_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GradientStep, "_verify", lambda *_: None)
    program = closure_program()
    result = pg.fit(program, X, epochs=60, batch_size=40, lr=0.1, progress=False)
    mean = sum(p.detach().sum() for p in result.program.parameters())
    assert result.mode == "traced"
    assert abs(float(mean) - float(X.mean())) > 1e-2


def test_verification_leaves_parameters_and_generators_as_they_were(untouched_rng: None) -> None:
    program = vae()
    torch.manual_seed(0)
    before = {n: p.clone() for n, p in program.named_parameters()}
    step = gradient_step(program, ELBO(), "traced")
    step.prepare([binary(16)])
    assert all(torch.equal(p, before[n]) for n, p in program.named_parameters())


def test_an_objective_that_says_so_is_not_recorded() -> None:
    class Impure(ELBO):
        traceable = False

    result, _ = trained(vae, binary(), "auto", objective=Impure())
    assert "Impure branches" in result.mode_reason
    with pytest.raises(NotTraceableError):
        gradient_step(vae(), Impure(), "traced")


class Remembers(ELBO):
    """The ELBO plus a penalty by what earlier steps saw, which is kept in two buffers."""

    seen: Tensor
    steps: Tensor

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place
        self.register_buffer("seen", torch.zeros(9))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def loss(self, program: Program, x: Tensor, *context: Any, kl_weight: Tensor | float = 1.0) -> Tensor:
        penalty = (self.seen - 0.4).square().sum() * sum(p.square().sum() for p in program.parameters())
        if self.in_place:
            self.seen.mul_(0.9).add_(x.mean(0))
            self.steps += 1
        else:
            self.seen, self.steps = 0.9 * self.seen + x.mean(0), self.steps + 1
        return super().loss(program, x, *context, kl_weight=kl_weight) + penalty


@pytest.mark.parametrize("in_place", [True, False])
def test_buffers_of_the_objective_are_state_of_a_recorded_step(in_place: bool) -> None:
    objectives = [Remembers(in_place), Remembers(in_place)]
    (eager, a), (traced, b) = (
        trained(vae, binary(), c, objective=o) for c, o in zip((False, "trace"), objectives, strict=True)
    )
    assert (eager.mode, traced.mode) == ("eager", "traced")
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-6, msg=name)
    assert objectives[0].steps == objectives[1].steps == 8
    torch.testing.assert_close(objectives[0].seen, objectives[1].seen)


def test_twin_a_recording_that_forgets_the_state_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GradientStep, "_state", lambda _: {})
    with pytest.raises(ValueError, match="each step changes the buffer"):
        trained(vae, binary(), "trace", objective=Remembers(True))


def test_frozen_parameters_stay() -> None:
    program = vae()
    frozen = next(program.decoder.parameters())
    frozen.requires_grad_(False)
    before = frozen.clone()
    pg.fit(program, binary(), epochs=2, batch_size=16, compile="trace", progress=False)
    assert torch.equal(frozen, before)


def test_a_parameter_without_entries_is_no_obstacle() -> None:
    class WithNothing(Program):
        def __init__(self) -> None:
            super().__init__()
            self.loc, self.none = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(0))

        def model(self, x: Tensor) -> Tensor:
            with self.plate(x):
                return pg.observe("x", dist.Normal(self.loc + self.none.sum(), 1.0), x)

    program = WithNothing()
    pg.fit(program, torch.full((20,), 2.0), epochs=50, lr=0.1, compile="trace", progress=False)
    assert abs(program.loc.item() - 2) < 0.3


def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert not compiler_available()
    with pytest.raises(ValueError, match=r"compile=True needs a C\+\+ compiler"):
        pg.fit(vae(), binary(), epochs=1, compile=True, progress=False)


needs_compiler = pytest.mark.skipif(not compiler_available(), reason="no C++ compiler")


@needs_compiler
def test_a_compiled_step_that_is_not_finite_moves_nothing() -> None:
    step = gradient_step(vae(), ELBO(), "compiled")
    x = binary(16)
    step([x], torch.ones(()))
    before = [p.clone() for p in step.parameters]
    state = copy.deepcopy(step.adam.optimizer.state_dict())
    loss, norm = step([x], torch.tensor(torch.inf))
    assert not (math.isfinite(loss) and math.isfinite(norm))
    assert all(torch.equal(p, b) for p, b in zip(step.parameters, before, strict=True))
    torch.testing.assert_close(step.adam.optimizer.state_dict(), state, rtol=0, atol=0)
    step([x], torch.ones(()))
    assert not torch.equal(step.parameters[0], before[0])


@needs_compiler
def test_a_compiled_run_is_the_eager_run_and_each_goes_on_from_the_others_checkpoint(tmp_path: Path) -> None:
    """With the same draws, and with short last batches, which are recorded."""
    options: dict[str, Any] = {"epochs": 4, "clip_norm": 5.0, "weight_decay": 0.1}
    eager, whole = trained(vae, binary(), False, **options)
    for first, then in ((True, False), (False, True)):
        file = tmp_path / f"{first}.pt"
        trained(vae, binary(), first, **options | {"epochs": 2, "checkpoint": file})
        result, state = trained(vae, binary(), then, **options | {"checkpoint": file, "resume": True})
        assert result.mode == ("compiled" if then else "eager")
        for name in whole:
            torch.testing.assert_close(state[name], whole[name], rtol=1e-4, atol=1e-5, msg=name)
        for row, other in zip(eager.history, result.history, strict=True):
            assert row["train_loss"] == pytest.approx(other["train_loss"], rel=1e-5)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_compiled_run_is_the_eager_run(case: str) -> None:
    make, holes, options = CASES[case]
    eager, a = trained(make, binary(holes=holes), False, **options)
    compiled, b = trained(make, binary(holes=holes), True, **options)
    assert (eager.mode, compiled.mode) == ("eager", "compiled")
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-5, msg=name)


def test_a_compiler_that_does_not_work_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **options: Any) -> Any:
        raise RuntimeError("InvalidCxxCompiler: no working compiler")

    monkeypatch.setattr(svi_step, "compile_for", broken)
    monkeypatch.setattr(devices, "repays_compiling", lambda *_: True)
    options: dict[str, Any] = {"epochs": 1, "progress": False}
    result = pg.fit(vae(), binary(), **options)
    assert result.mode == "traced" and "no working compiler" in result.mode_reason
    with pytest.raises(ValueError, match="cannot be compiled"):
        pg.fit(vae(), binary(), compile=True, **options)


class Chain(Program):
    """z_t | z_{t-1} ~ N(f(z_{t-1}), sigma), x_t | z_t ~ N(g(z_t), 1), and a guide that reads z_{t-1} and x_t."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.transition, self.emission, self.combiner = nn.Linear(2, 2), nn.Linear(2, 1), nn.Linear(3, 4)

    def model(self, x: Tensor) -> None:
        with self.plate(x):
            z = x.new_zeros(2)
            for t in range(x.shape[1]):
                z = pyro.sample(f"z_{t}", dist.Normal(self.transition(z).tanh(), 0.5).to_event(1))
                pyro.sample(f"x_{t}", dist.Normal(self.emission(z).squeeze(-1), 1.0), obs=x[:, t])

    def guide(self, x: Tensor) -> None:
        with self.plate(x):
            z = x.new_zeros(len(x), 2)
            for t in range(x.shape[1]):
                loc, scale = self.combiner(torch.cat([z, x[:, t, None]], -1)).chunk(2, -1)
                z = pyro.sample(f"z_{t}", dist.Normal(loc.tanh(), scale.sigmoid()).to_event(1))


@needs_compiler
def test_the_loop_of_a_long_graph_is_compiled_and_its_run_is_the_eager_one() -> None:
    x = torch.randn(20, 40, generator=torch.Generator().manual_seed(0))
    (eager, a), (compiled, b) = (trained(Chain, x, c, batch_size=20, epochs=3) for c in (False, True))
    assert compiled.mode == "compiled"
    for name in a:
        torch.testing.assert_close(b[name], a[name], rtol=1e-4, atol=1e-5, msg=name)
    for row, other in zip(eager.history, compiled.history, strict=True):
        assert row["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)


def test_a_long_graph_without_a_loop_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svi_step, "MOST_COMPILED", 20)
    monkeypatch.setattr(devices, "repays_compiling", lambda *_: True)
    result, _ = trained(vae, binary(), "auto")
    assert result.mode == "traced" and "too long" in result.mode_reason


@pytest.mark.parametrize(
    ("shift", "rest", "passes"), [(0.0, math.inf, True), (1.0, math.nan, False), (0.0, 2.0, False)]
)
def test_a_compiled_step_is_compared_also_where_a_figure_is_not_finite(shift: float, rest: float, passes: bool) -> None:
    def step(x: Tensor) -> list[Tensor]:
        return [torch.stack([x.sum(), torch.tensor(math.nan)])]

    def compiled(x: Tensor) -> list[Tensor]:
        return [torch.stack([x.sum() + shift, torch.tensor(rest)])]

    if passes:
        assert svi_step._checked(step, lambda: compiled, [torch.ones(3)]) is compiled
        return
    with pytest.raises(NotTraceableError, match="another result"):
        svi_step._checked(step, lambda: compiled, [torch.ones(3)])
