"""The options of annealing, the plan that is fixed before a run, and the divergence of its steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_gen._errors import refuse_unknown
from pyro_gen._sizes import check_counts
from pyro_gen.density import Density
from pyro_gen.inference.likelihood.kernels import engine_of
from pyro_gen.inference.likelihood.particles import Correlated
from pyro_gen.inference.likelihood.paths import Engine, Path
from pyro_gen.inference.mcmc import Kernel
from pyro_gen.inference.mcmc.hmc import Metric

__all__ = ["CHAINS", "Options", "Plan", "intensity"]

OF_DEFAULT_MOVES = ("leapfrog", "precondition", "target_acceptance")
CHAINS = (16, 1024)  # of each target of many, and of a single one


@dataclass(frozen=True)
class Options:
    """The options of :func:`pyro_gen.inference.likelihood.ais.ais`, checked; their meaning stands there.

    One leapfrog step is the default by measurement. Mean error of a log-weight in nats for PPCA (20 dimensions, rank 4)
    at equal cost, 480 gradients from the prior | 48 from the guide: L = 1: 0.11 | 0.02; L = 2: 0.25 | 0.10 (steps not
    jittered: 1.68 | 0.21); L = 4: 0.55 | 0.12.
    """

    chains: int | None = None
    temperatures: int | None = None
    spread: float = 0.5
    schedule: str | Tensor | Sequence[float] = "equalised"
    leapfrog: int = 1
    start: str | Distribution = "guide"
    precondition: bool = True
    target_acceptance: float = 0.75
    kernel: Kernel | None = None

    @staticmethod
    def of(preset: str | None, **options: Any) -> "Options":
        """The options of a preset, and those given besides it, which take precedence."""
        if preset == "wu2017":
            fixed = {"chains": 16, "temperatures": 10_000, "schedule": "sigmoid", "leapfrog": 10, "start": "prior"}
            options = {**fixed, "precondition": False, "target_acceptance": 0.65, **options}
        elif preset is not None:
            raise ValueError(f'ais(preset={preset!r}): the only preset is "wu2017".')
        refuse_unknown("ais", options, Options.__dataclass_fields__)
        if options.get("kernel") is not None and (wrong := [name for name in OF_DEFAULT_MOVES if name in options]):
            raise ValueError(f"ais(kernel=...) moves by a sampler with options of its own: leave {wrong[0]} out.")
        return Options(**options)

    def __post_init__(self) -> None:
        for name in ("chains", "temperatures", "leapfrog"):
            if (value := getattr(self, name)) is not None:
                check_counts("ais", **{name: value})
        if not isinstance(self.spread, Real) or not self.spread > 0:
            raise ValueError(f"ais(spread={self.spread!r}): give a positive number of nats.")
        if not isinstance(self.start, Distribution) and self.start not in ("prior", "guide"):
            raise ValueError(
                f'ais(start={self.start!r}): choose "prior" or "guide", or give a distribution of torch\'s.'
            )
        if isinstance(self.schedule, str):
            if self.schedule not in ("equalised", "sigmoid", "linear"):
                raise ValueError(
                    f'ais(schedule={self.schedule!r}): choose "equalised", "sigmoid", "linear" or a sequence of betas.'
                )
            return
        betas = torch.as_tensor(self.schedule).detach().to("cpu", torch.float64)
        object.__setattr__(self, "schedule", betas)
        if betas.dim() != 1 or len(betas) < 2 or betas[0] != 0 or betas[-1] != 1 or bool((betas.diff() <= 0).any()):
            raise ValueError("ais(schedule=...): betas rise from 0 to 1, in one dimension.")
        if self.temperatures is not None:
            raise ValueError("ais: a schedule of betas fixes the number of temperatures, so leave temperatures out.")

    def engine(self, target: Density | Path) -> Engine:
        """The target with its base and moves."""
        return engine_of(target, self.start, self.leapfrog, self.kernel)

    def chains_for(self, engine: Engine) -> int:
        """The number of chains of each target."""
        return self.chains or CHAINS[engine.n == 1 and not engine.batch_shape]


@dataclass(frozen=True)
class Plan:
    """All that is fixed before a run.

    Move t = 1, ..., T is at inverse temperature betas[t], with step_sizes[t - 1] and metrics(t - 1).
    """

    betas: Tensor  # (T + 1,) float64
    step_sizes: Tensor  # (T, N)
    scales: Tensor  # standard deviations of the coordinates, (T, N, D)
    factors: Tensor | None  # Cholesky factors of the correlations that all targets share, (T, D, D)

    def tuning(self, t: int) -> tuple[Tensor, Metric]:
        """Step sizes and metric of move t + 1."""
        if self.factors is None:
            return self.step_sizes[t], Metric.diagonal(self.scales[t])
        return self.step_sizes[t], Correlated(self.scales[t], self.factors[t])


def intensity(log_weights: Tensor, increment: Tensor) -> Tensor:
    """The divergence of a step: log E g^2 - 2 log E g of its weights g is about the square of its length."""
    normalised = log_weights.log_softmax(0)
    once, twice = ((normalised + power * increment).logsumexp(0) for power in (1, 2))
    return (twice - 2 * once).clamp(min=0).sqrt().nan_to_num(nan=math.inf, posinf=math.inf)
