"""Hidden Markov model of 10,000 steps and 5 states: likelihood and gradient, against a loop in torch and hmmlearn.

Ours is the log-density of the program and its gradient with respect to all parameters; the loop is the forward
recursion in torch with the same emissions, and its gradient; hmmlearn's ``score_samples`` is its forward and backward
pass in C++, which gives likelihood and posteriors, what the gradient is made of. They take turns in rounds; medians.
Of the left-to-right model with a third of the series not seen, value and gradient are compared with the loop's in
float64, and those of float32 with those of float64.
"""

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import pyro
import torch

from pyro_gen.models import HiddenMarkov
from structure_parts import Bar, Result

STEPS, STATES, ROUNDS = 10_000, 5, 5


def program_of(dtype: torch.dtype, **options: Any) -> HiddenMarkov:
    program = HiddenMarkov(STEPS, STATES, **options).to(dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in program.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(dtype))
    return program


def series(dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    state = (torch.rand(STEPS, generator=generator) < 0.05).cumsum(0) % STATES
    return (torch.linspace(-2, 2, STATES)[state] + 0.5 * torch.randn(STEPS, generator=generator)).to(dtype)


def ours(program: HiddenMarkov, x: torch.Tensor) -> torch.Tensor:
    value: torch.Tensor = pyro.poutine.trace(program.model).get_trace(x.unsqueeze(0)).log_prob_sum()
    return value


def loop(program: HiddenMarkov, x: torch.Tensor) -> torch.Tensor:
    """The forward recursion; a forbidden transition is e^-1000, whose gradient is finite."""
    initial, transition = (torch.nan_to_num(part, neginf=-1000.0) for part in program.log_chain())
    seen = ~x.isnan()
    observed = program.emissions().log_prob(x.nan_to_num().unsqueeze(-1)) * seen.unsqueeze(-1)
    at = initial + observed[0]
    for t in range(1, len(x)):
        at = (at.unsqueeze(-1) + transition).logsumexp(0) + observed[t]
    return at.logsumexp(0)


def with_gradient(f: Callable[..., torch.Tensor], program: HiddenMarkov, x: torch.Tensor) -> tuple[float, torch.Tensor]:
    value = f(program, x)
    gradient = torch.autograd.grad(value, list(program.parameters()))
    return value.item(), torch.cat([g.double().flatten() for g in gradient])


def seconds(f: Callable[[], Any]) -> float:
    """Of the processor, which neighbours on the machine do not count in."""
    started = time.process_time()
    f()
    return time.process_time() - started


def rival(program: HiddenMarkov) -> Any:
    """The same model in hmmlearn, or nothing."""
    try:
        from hmmlearn.hmm import GaussianHMM
    except ImportError:
        return None
    with torch.no_grad():
        initial, transition = (part.exp().numpy() for part in program.log_chain())
        emissions = program.emissions()
        model = GaussianHMM(STATES, covariance_type="diag")
        model.startprob_, model.transmat_ = initial, transition
        model.means_ = emissions.mean.numpy().reshape(-1, 1)
        model.covars_ = emissions.variance.numpy().reshape(-1, 1)
    return model


def run() -> Result:
    program, x = program_of(torch.float64), series(torch.float64)
    model = rival(program)
    jobs: dict[str, Callable[[], Any]] = {
        "ours": lambda: with_gradient(ours, program, x),
        "loop": lambda: with_gradient(loop, program, x),
    }
    if model is not None:
        table = x.unsqueeze(1).numpy()
        jobs["hmmlearn"] = lambda: model.score_samples(table)
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(ROUNDS + 1):  # the first one warms up
        for name, job in jobs.items():
            times[name].append(seconds(job))
    medians = {name: statistics.median(t[1:]) for name, t in times.items()}
    for name, t in medians.items():
        print(f"    {name:10s} {1e3 * t:8.1f} ms")
    bars = [Bar("loop / ours, time of likelihood and gradient", medians["loop"] / medians["ours"], 15.0)]
    figures: dict[str, Any] = {"ms": {name: 1e3 * t for name, t in medians.items()}, "rounds": ROUNDS}
    value = ours(program, x).item()
    if model is not None:
        bars.append(Bar("ours / hmmlearn, time", medians["ours"] / medians["hmmlearn"], 6.0, False))
        figures["off hmmlearn, nats"] = abs(value - model.score(table))

    left = {"allowed": torch.ones(STATES, STATES).triu().bool(), "start": torch.arange(STATES) == 0}
    holed = torch.where(torch.rand(STEPS, generator=torch.Generator().manual_seed(2)) < 0.3, math.nan, x)
    chain = program_of(torch.float64, **left)
    (found, gradient), (expected, slow) = (with_gradient(f, chain, holed) for f in (ours, loop))
    possible = torch.isfinite(gradient)
    off = (gradient - slow)[possible].abs().max().item() / slow.abs().max().item()
    bars += [
        Bar("left to right, 30% not seen: value off the loop's, nats", abs(found - expected), 1e-6, False),
        Bar(
            "left to right, 30% not seen: gradient off, share of the greatest",
            off if possible.all() else math.inf,
            1e-8,
            False,
        ),
    ]
    single = program_of(torch.float64).float()
    rounded = HiddenMarkov(STEPS, STATES).double()
    rounded.load_state_dict({name: p.double() for name, p in single.state_dict().items()})
    y = x.float()
    bars.append(Bar("float32, nats off", abs(ours(single, y).item() - ours(rounded, y.double()).item()), 1e-3, False))
    return Result(figures, bars, ("hmmlearn",))
