r"""Simulation-based calibration: whether a method draws from the posterior that a program defines.

Latent variables :math:`\theta^* \sim p(\theta)` and data :math:`x \sim p(x \mid \theta^*)` are drawn together. Then
:math:`\theta^*` is itself a draw from the posterior of :math:`x`, so among L independent draws
:math:`\theta_1, \dots, \theta_L` that a correct method makes, and for every function f of latent variables and data,
the rank

.. math::
    r = \#\{l : f(\theta_l, x) < f(\theta^*, x)\}

is uniform on 0, ..., L; ties are broken at random. Over S simulated data sets the ranks are compared with the uniform
distribution. The functions are every scalar latent variable, and the joint log-likelihood and log-prior: a method that
ignores the data and draws from the prior has uniform ranks of every variable, but not of the log-likelihood.

The comparison is exact: :mod:`pyro_gen.inference.uniformity`.

References:
    | Validating Bayesian Inference Algorithms with Simulation-Based Calibration (Talts et al., 2018)
    | https://arxiv.org/abs/1804.06788
    | Simulation-Based Calibration Checking: The Choice of Test Quantities Shapes Sensitivity (Modrak et al., 2023)
    | https://arxiv.org/abs/2211.02383
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
from torch import Tensor

from pyro_gen._errors import warn
from pyro_gen._files import save_figure
from pyro_gen._random import seeded
from pyro_gen.density import Density, ProgramDensity, as_inputs, density, evaluation
from pyro_gen.inference.factors import refuse_factors
from pyro_gen.inference.likelihood.smc import smc
from pyro_gen.inference.mcmc.driver import run
from pyro_gen.inference.mcmc.initial import NoStart
from pyro_gen.inference.mcmc.sampler import Sampler
from pyro_gen.inference.progress import progress_bar
from pyro_gen.inference.simulate import given_site, simulate_sets
from pyro_gen.inference.uniformity import simultaneous_band, uniformity
from pyro_gen.packing import PackedProgram, packs
from pyro_gen.program import Program
from pyro_gen.traces import sample_sites, trace_side

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Calibration", "sbc"]

LOG_LIKELIHOOD, LOG_PRIOR = "log-likelihood", "log-prior"


@dataclass(frozen=True)
class Calibration:
    """Ranks of what made the data among draws of a posterior, and what they say about the method.

    Arguments:
        ranks: By name of the quantity, int64 with shape (S,): a rank for each simulated data set, from 0 to L.
        draws: The number L of draws that were ranked against.
        method: The method that made them.
        alpha: The probability that a correct method is flagged, at most.

    Example:
        >>> with seeded(0):
        ...     ranks = {"scale": torch.randint(20, (500,)), "loc": (8 + torch.randint(5, (500,)))}
        >>> calibration = Calibration(ranks, 19, "hmc", 0.01)
        >>> calibration.passed, calibration.flagged
        (False, ('loc',))
        >>> print(calibration.explain("loc"))
        ranks pile up in the middle: the draws are too wide
    """

    ranks: dict[str, Tensor]
    draws: int
    method: str
    alpha: float

    def __post_init__(self) -> None:
        if not self.ranks:
            raise ValueError("Calibration got no quantity: give the ranks of at least one.")
        if not 0 < self.alpha < 1:
            raise ValueError(f"Calibration(alpha={self.alpha}): give a probability between 0 and 1.")
        for name, ranks in self.ranks.items():
            if ranks.dim() != 1 or len(ranks) == 0 or bool(((ranks < 0) | (ranks > self.draws)).any()):
                raise ValueError(f"Calibration: the ranks of {name!r} are no vector of numbers from 0 to {self.draws}.")

    @property
    def simulations(self) -> int:
        """The number S of simulated data sets."""
        return len(next(iter(self.ranks.values())))

    @functools.cached_property
    def p_values(self) -> dict[str, float]:
        """The exact p-value of each quantity by itself."""
        return {name: uniformity(ranks, self.draws + 1) for name, ranks in self.ranks.items()}

    @property
    def p_value(self) -> float:
        """The p-value of all quantities together, by Bonferroni: their smallest times their number."""
        return min(1.0, len(self.ranks) * min(self.p_values.values()))

    @property
    def flagged(self) -> tuple[str, ...]:
        """The quantities whose ranks leave their band of level 1 - alpha / Q."""
        return tuple(name for name, p in self.p_values.items() if p <= self.alpha / len(self.ranks))

    @property
    def passed(self) -> bool:
        """Whether the ranks of all quantities stay in their bands."""
        return not self.flagged

    def band(self) -> tuple[Tensor, Tensor]:
        """The band of one quantity at level 1 - alpha / Q, as by :func:`simultaneous_band`."""
        return simultaneous_band(self.simulations, self.draws + 1, self.alpha / len(self.ranks))[:2]

    def explain(self, name: str) -> str:
        """What the shape of the deviation of a quantity from uniformity means, in words."""
        if name not in self.flagged:
            return "ranks are as uniform as chance has it"
        length = self.draws
        values = torch.arange(length + 1, dtype=torch.float64) - length / 2
        centred = self.ranks[name].double().cpu() - length / 2

        def score(power: int) -> float:
            expected = values.pow(power)
            return float(centred.pow(power).mean() - expected.mean()) / float(
                (expected.var(correction=0) / len(centred)).sqrt().clamp(min=1e-300)
            )

        location, spread = score(1), score(2)
        meanings = []
        if spread > 3:
            meanings.append("ranks pile up at both ends: the draws are too narrow, or depend on one another")
        elif spread < -3:
            meanings.append("ranks pile up in the middle: the draws are too wide")
        if abs(location) > 3:
            meanings.append(_meaning_of_location(name, location > 0))
        if abs(location) > abs(spread):
            meanings.reverse()
        return "; ".join(meanings) or "ranks are uneven in no simple way: look at the picture"

    def to_dict(self) -> dict[str, Any]:
        """Numbers and text only, for JSON."""
        return {
            "method": self.method,
            "simulations": self.simulations,
            "draws": self.draws,
            "alpha": self.alpha,
            "passed": self.passed,
            "p_value": self.p_value,
            "quantities": {
                name: {"p_value": p, "flagged": name in self.flagged}
                | ({"meaning": self.explain(name)} if name in self.flagged else {})
                for name, p in self.p_values.items()
            },
        }

    def __str__(self) -> str:
        count = len(self.ranks)
        head = (
            f"simulation-based calibration of {self.method}: {self.simulations} data sets, {self.draws} draws each, "
            f"{count} quantit{'y' if count == 1 else 'ies'}"
        )
        level = f"a correct method is flagged with probability at most {self.alpha:g}"
        if self.passed:
            return f"{head}\npassed: all ranks are as uniform as chance has it (p = {self.p_value:.3g}; {level})"
        lines = [f"FAILED: {len(self.flagged)} of {count} quantities have ranks that are not uniform ({level})"]
        worst = sorted(self.flagged, key=lambda name: self.p_values[name])
        lines += [f"  {name}: {self.explain(name)} (p = {self.p_values[name]:.1e})" for name in worst[:10]]
        if len(worst) > 10:
            lines.append(f"  and {len(worst) - 10} more")
        return "\n".join([head, *lines])

    def plot(self, path: str | Path | None = None, names: Sequence[str] | None = None) -> "Figure":
        """Draws the empirical distribution function of the ranks less the uniform one, and the band, by quantity.

        Arguments:
            path: Where to write the picture, if anywhere; the suffix says the format.
            names: The quantities, by default the 12 of smallest p-value, in their own order.
        """
        from matplotlib.figure import Figure  # takes a second to import

        if names is None:
            worst = sorted(self.ranks, key=lambda name: self.p_values[name])[:12]
            names = [name for name in self.ranks if name in worst]
        columns = min(4, len(names))
        rows = math.ceil(len(names) / columns)
        figure = Figure((0.3 + 2.5 * columns, 0.7 + 2.0 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        share = torch.arange(1, self.draws + 1, dtype=torch.float64) / (self.draws + 1)
        lower, upper = self.band()
        for ax, name in itertools.zip_longest(axes, names):
            if name is None:
                ax.set_axis_off()
                continue
            below = torch.bincount(self.ranks[name].cpu(), minlength=self.draws + 1).cumsum(0)[:-1]
            ax.fill_between(share, lower - share, upper - share, color="#dfe3e8", linewidth=0)
            colour = "#b3421f" if name in self.flagged else "#1b1f24"
            ax.step(share, below / self.simulations - share, color=colour, linewidth=1.2, where="mid")
            ax.axhline(0.0, color="#9aa1a9", linewidth=0.6)
            ax.set_title(name, fontsize=9, color=colour)
            ax.tick_params(labelsize=7)
        figure.supxlabel("rank / number of draws", fontsize=8)
        figure.supylabel("share of ranks below it,\nless the uniform share", fontsize=8)
        verdict = "passed" if self.passed else "FAILED"
        figure.suptitle(f"{self.method}: {verdict} at level {1 - self.alpha:g}", fontsize=10)
        if path is not None:
            save_figure(figure, path, dpi=150)
        return figure


def _meaning_of_location(name: str, high: bool) -> str:
    """What it means that true values rank high, or low."""
    if name == LOG_LIKELIHOOD and high:
        return (
            "the draws fit the data worse than what made them: the data count for too little (not at all, where the "
            "posterior equals the prior)"
        )
    if name == LOG_LIKELIHOOD:
        return "the draws fit the data better than what made them: the data count for too much"
    if name == LOG_PRIOR:
        density, counts = ("low", "little") if high else ("high", "much")
        return f"the prior density of the draws is too {density}: it counts for too {counts}"
    rank, lie = ("high", "low") if high else ("low", "high")
    return f"true values rank {rank}: the draws lie too {lie}"


Method = Callable[..., dict[str, Tensor]]


@packs
def sbc(
    program: Program,
    x: Any,
    *context: Any,
    method: str | type[Sampler] | Method = "hmc",
    simulations: int = 500,
    draws: int = 63,
    alpha: float = 0.01,
    seed: int = 0,
    progress: bool | Callable[[float], None] = True,
    **options: Any,
) -> Calibration:
    r"""Checks by simulation-based calibration that a method draws from the posterior of a program.

    All simulated data sets are sampled together, as targets of one density. Markov chain methods run L chains for each
    and give the last state of each, so that draws are independent of one another.

    Arguments:
        program: A program whose priors are proper. Parameters of networks are constants.
        x: Data of the shape to simulate, :math:`(N, *)`, or that shape as a tuple. Values do not count; where they are
            NaN nothing is observed in the simulated data either.
        context: What the model conditions on, the same for all data sets.
        method: ``"hmc"``, ``"nuts"`` or another sampler of :func:`pyro_gen.inference.mcmc.run` or its class; ``"smc"``;
            ``"guide"`` for the program's own, which must read the data; or a function
            ``method(program, x, *context, draws, seed)`` that returns draws by name of the latent site, each with shape
            :math:`(L, *)`, and is called for each data set.
        simulations: The number S of data sets.
        draws: The number L of draws for each.
        alpha: The probability that a correct method is flagged, at most.
        seed: Seeds everything; the caller's generators are left alone.
        progress: Whether to show a progress bar on standard error once 2 seconds have passed; or a function to be
            called with the fraction done, where the method reports it.
        options: Passed to :func:`pyro_gen.inference.mcmc.run` (``warmup``, ``init``, ...) or
            :func:`pyro_gen.inference.likelihood.smc.smc`.

    Returns:
        The ranks and what they say.

    Raises:
        ValueError: The program observes what is not simulated, does not return the completed data, or has no continuous
            latent variable; the method does not exist, gives no draws of a latent site, or draws that are not finite.

    Example:
        >>> import pyro.distributions as dist
        >>> from pyro_gen import observe
        >>> class Mean(Program):
        ...     def model(self, x):
        ...         loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        ...         with self.plate(x):
        ...             return observe("x", dist.Normal(loc, 1.0), x)
        >>> def exact(program, x, *, draws, seed):
        ...     with seeded(seed):
        ...         return {"loc": x.sum() / (len(x) + 1) + torch.randn(draws) / (len(x) + 1) ** 0.5}
        >>> print(sbc(Mean(), (5,), method=exact, simulations=100))  # doctest: +ELLIPSIS
        simulation-based calibration of exact: 100 data sets, 63 draws each, 3 quantities
        passed: all ranks are as uniform as chance has it (p = ...
        >>> def prior(program, x, *, draws, seed):
        ...     with seeded(seed):
        ...         return {"loc": torch.randn(draws)}
        >>> sbc(Mean(), (5,), method=prior, simulations=100).flagged
        ('log-likelihood',)
    """
    if simulations < 1 or draws < 1:
        raise ValueError(f"sbc(simulations={simulations}, draws={draws}): give positive numbers.")
    if not 0 < alpha < 1:
        raise ValueError(f"sbc(alpha={alpha}): give a probability between 0 and 1.")
    if isinstance(x, tuple):
        x = torch.zeros(x, device=next((p.device for p in program.parameters()), None))
    x, *rest = as_inputs(program, x, *context)
    shown = progress_bar("simulation-based calibration", progress)
    with seeded(seed), torch.no_grad(), evaluation(program), shown as report:
        data, values = _simulate(program, x, tuple(rest), simulations)
        target, truth = _targets(program, data, rest, values)
        # Seeds of their own: the stream that made the data must not come again in the draws.
        method_seed, again = torch.randint(2**31, (2,)).tolist()
        if callable(method) and not isinstance(method, type):
            z = _one_by_one(target, method, draws, method_seed, report, options)
        elif method == "guide":
            z = _one_by_one(target, _guide, draws, method_seed, report, options)
        elif method == "smc":
            z = smc(target, seed=method_seed, progress=report, **options).draws(draws, again)
        else:
            tick = lambda fraction, figures: report(fraction)  # noqa: E731
            settings = {"chains": draws, "draws": 1, "seed": method_seed, "progress": tick, **options}
            try:
                z = run(target, method, **settings).z[-1]
            except NoStart as error:
                started = error.started
                if not bool(started.any()):
                    raise
                _announce(int((~started).sum()), simulations, "chains find no place to start from")
                data, values = data[started], {name: v[started] for name, v in values.items()}
                target, truth = _targets(program, data, rest, values)
                z = run(target, method, **settings).z[-1]
        ranks = _ranks(target, z.to(target.device), truth)
    name = method if isinstance(method, str) else getattr(method, "__name__", type(method).__name__)
    return Calibration(ranks, draws, name, alpha)


def _simulate(
    program: Program, x: Tensor, context: tuple[Any, ...], simulations: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Draws latent variables and data together: data (S, N, *) with the holes of x, and values (S, *) by name."""
    nothing = torch.full_like(x, math.nan)
    refuse_factors(program, nothing, *context, verb="sbc")
    if (name := given_site(program, nothing, *context)) is not None:  # which says more of the latent variables
        raise ValueError(
            f"The model of {type(program).__name__} observes '{name}', which is given and not simulated: observe only "
            "x, by pg.observe, so that data can be simulated."
        )
    data, values = simulate_sets(program, simulations, nothing, *context)
    return data.masked_fill(x.isnan(), math.nan), values


def _targets(
    program: Program, data: Tensor, context: Sequence[Any], values: dict[str, Tensor]
) -> tuple[ProgramDensity, Tensor]:
    """The density of data sets (S, N, *), and the points (1, S, D) that made them, without sets that no density has.

    Whether one has is for the data alone to say, so that the ranks of the others are uniform as before.
    """

    def stacked(data: Tensor) -> ProgramDensity:
        given = [c.expand(len(data), *c.shape) if isinstance(c, Tensor) else c for c in context]
        return density(program, data, *given, stacked=True)

    def points(target: ProgramDensity, kept: Tensor) -> Tensor:
        return target.unconstrain({name: v[kept].unsqueeze(0) for name, v in values.items()})

    kept = ~data.isinf().flatten(1).any(1)
    if not bool(kept.all()):
        if not bool(kept.any()):
            raise ValueError("sbc: all simulated data sets hold infinite values: the priors are too wide to simulate.")
        _announce(int((~kept).sum()), len(data), "their values are infinite")
        data, values = data[kept], {name: v[kept] for name, v in values.items()}
    kept = torch.ones(len(data), dtype=torch.bool, device=data.device)
    try:
        target = stacked(data)
    except ValueError:  # of the first set
        with pyro.validation_enabled(False):
            target = stacked(data)
            kept = target.log_density(points(target, kept))[0].isfinite()
        if bool(kept.all()) or not bool(kept.any()):
            raise
        _announce(
            int((~kept).sum()), len(data), "the model simulates values that it gives no density, such as overflows"
        )
        target = stacked(data[kept])
    return target, points(target, kept)


def _announce(count: int, simulations: int, why: str) -> None:
    warn(
        f"sbc: {count} of {simulations} simulated data sets are left out, since {why}: the priors allow values that "
        "overflow."
    )


def _one_by_one(
    target: ProgramDensity,
    method: Method,
    draws: int,
    seed: int,
    progress: Callable[[float], None],
    options: dict[str, Any],
) -> Tensor:
    """Calls a method for each data set: points with shape (L, S, D)."""
    count = target.batch_shape[0]
    kept: dict[str, list[Tensor]] = {name: [] for name in target.names}
    for i in range(count):
        data = tuple(d[i] if isinstance(d, Tensor) else d for d in target.data)
        program: Any = target.program
        if isinstance(program, PackedProgram):  # a method of the user's is given what the user's program is given
            program, data = program.inner, (program.variables.unpack(data[0]), *data[1:])
        values = method(program, *data, draws=draws, seed=seed + i, **options)
        for name, parts in kept.items():
            if name not in values or len(values[name]) != draws:
                raise ValueError(
                    f"The method of sbc gave no {draws} draws of the latent site '{name}': return a dictionary with "
                    f"tensors of shape ({draws}, ...) for all of {', '.join(kept)}."
                )
            parts.append(values[name])
        progress((i + 1) / count)
    return target.unconstrain({name: torch.stack(parts, 1) for name, parts in kept.items()})


def _guide(program: Program, x: Tensor, *context: Any, draws: int, seed: int) -> dict[str, Tensor]:
    """Draws of the guide, one after another: its sites may depend on one another in any way."""
    with seeded(seed), pyro.validation_enabled(False):
        runs = [sample_sites(trace_side(program, "guide", x, *context)) for _ in range(draws)]
    return {n: torch.stack([run[n]["value"] for run in runs]) for n, s in runs[0].items() if not s["is_observed"]}


def _ranks(target: Density, z: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """Ranks (S,) by quantity of the true points (1, S, D) among draws (L, S, D), ties broken at random."""
    if not bool(z.isfinite().all()):
        bad = int((~z.isfinite()).any(-1).sum())
        raise ValueError(f"sbc: {bad} of {z.shape[0] * z.shape[1]} draws are not finite, which is no posterior.")
    drawn, true = target.constrain(z), target.constrain(truth)
    quantities: dict[str, tuple[Tensor, Tensor]] = {}
    for site in target.names:
        entries = [t.reshape(*t.shape[:2], -1).unbind(-1) for t in (drawn[site], true[site])]
        for index, pair in zip(np.ndindex(drawn[site].shape[2:]), zip(*entries, strict=True), strict=True):
            quantities[f"{site}[{', '.join(map(str, index))}]" if index else site] = pair
    for name, function in ((LOG_LIKELIHOOD, target.log_likelihood), (LOG_PRIOR, target.log_prior)):
        quantities[name] = function(z), function(truth)
    ranks = {}
    for name, (among, value) in quantities.items():
        if bool((among == value[0, 0]).all()) and bool((value == value[0, 0]).all()):
            continue  # always the same: the upper triangle of a Cholesky factor, say
        below, equal = (among < value).sum(0), (among == value).sum(0)
        ranks[name] = (below + (torch.rand(below.shape, device=below.device) * (equal + 1)).long()).cpu()
    return ranks
