"""The loop around a sampler: starting points, warm-up, draws, and what is kept of them."""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from pyro_gen._random import seeded
from pyro_gen.density import Density
from pyro_gen.inference.mcmc import initial
from pyro_gen.inference.mcmc.sampler import Sampler
from pyro_gen.inference.mcmc.samplers import Kernel, make_sampler

__all__ = ["Block", "Progress", "Samples", "run"]

Progress = Callable[[float, dict[str, Any]], None]

BLOCK = 2**24  # entries of the draws that are held on the device, and handed to a sink, at a time
PERIOD = 0.1  # seconds between two reports
CHAINS = 64  # where nothing says how many
GRADIENTS = 5  # of a transition, about, by which a density decides whether to compile


class Block(NamedTuple):
    """Some consecutive draws, on the CPU.

    Attributes:
        start: The number of draws before them.
        z: Unconstrained points, with shape :math:`(S, C, *B, D)`.
        stats: Figures of each transition by name, each with shape :math:`(S, C, *B)`.
        values: Latent and deterministic sites by name, each with shape :math:`(S, C, *)`.
    """

    start: int
    z: Tensor
    stats: dict[str, Tensor]
    values: dict[str, Tensor]


@dataclass
class Samples:
    """What :func:`run` returns. All tensors are on the CPU.

    Attributes:
        z: Unconstrained draws, with shape :math:`(S, C, *B, D)` for S draws, C chains, batch shape B.
        stats: Figures of each transition by ArviZ's names, each with shape :math:`(S, C, *B)`.
        warmup: The report on the warm-up: ``iterations``, ``seconds``, ``acceptance`` and ``divergences`` of its last
            tenth, and what the sampler found. With ``keep_warmup`` also the draws, as the :class:`Block` ``draws``.
        seconds: How long warm-up and sampling took.
        state: Tensors and numbers from which :func:`run` goes on.
        density: What was drawn from.
        held: Draws of the sites that the density holds, by name, each with shape :math:`(S, C, *B, *)`.
    """

    z: Tensor
    stats: dict[str, Tensor]
    warmup: dict[str, Any]
    seconds: float
    state: dict[str, Any] = field(repr=False)
    density: Density = field(repr=False)
    held: dict[str, Tensor] = field(repr=False)

    @functools.cached_property
    def values(self) -> dict[str, Tensor]:
        """Draws of latent and deterministic sites by name, each with shape :math:`(S, C, *)`; made when asked for."""
        return _constrained(self.density, self.z, self.held) if self.z.numel() or self.held else {}


def default_warmup(chains: int) -> int:
    """Iterations of warm-up: many chains know at once what few must learn in time."""
    return 120 if chains >= 512 else 200 if chains >= 128 else 400 if chains >= 32 else 1000


def run(
    density: Density,
    method: Kernel = "hmc",
    *,
    chains: int | None = None,
    warmup: int | None = None,
    draws: int = 200,
    thin: int = 1,
    init: initial.Init = "uniform",
    seed: int = 0,
    progress: Progress | None = None,
    keep_warmup: bool = False,
    state: dict[str, Any] | None = None,
    sink: Callable[[Block], None] | None = None,
    **options: Any,
) -> Samples:
    r"""Draws from a density by Markov chain Monte Carlo.

    Arguments:
        density: The density.
        method: The name of a sampler, see :data:`pyro_gen.inference.mcmc.SAMPLERS`, its class, or a function that
            makes one for a density.
        chains: The number C of chains; left out, as many as ``init`` gives points for, else 64.
        warmup: Iterations in which the sampler adapts; left out, 120 to 1000, the fewer the more chains there are.
        draws: The number of draws that are kept of each chain.
        thin: Of this many transitions the last is kept.
        init: Where the chains start: ``"uniform"`` in (-2, 2) in unconstrained space, ``"prior"``, ``"guide"``,
            ``"pathfinder"``, unconstrained points with shape :math:`(C, *B, D)`, or a dictionary of values by name of
            the latent site, each with shape :math:`(C, *)`.
        seed: Seeds all draws; the caller's generators are left alone.
        progress: Called at most ten times a second with the fraction done and a dictionary: ``phase``, ``acceptance``,
            ``divergences`` so far, ``step_size``, ``num_steps``, as far as they apply.
        keep_warmup: Whether the draws of the warm-up are kept, too.
        state: The ``state`` of earlier :class:`Samples` of the same density, method and options: no warm-up, and the
            same draws as if that run had not been interrupted.
        sink: Receives the draws as :class:`Block` one after the other, and they are not kept: memory is bounded.
        options: Of the sampler.

    Returns:
        The draws.

    Raises:
        ValueError: There is no such method, an option or a number does not make sense, the state is that of another
            run, or no starting point on the support was found.

    Example:
        >>> import torch
        >>> from pyro_gen.density import Density
        >>> normal = Density.from_functions(lambda z: -0.5 * z.square().sum(-1), dim=2)
        >>> samples = run(normal, chains=64, draws=100)
        >>> samples.values["z"].shape, bool(samples.z.mean().abs() < 0.1)
        (torch.Size([100, 64, 2]), True)
        >>> more = run(normal, draws=50, state=samples.state)
    """
    sampler = make_sampler(method, density, **options)
    for name, value, least in (("chains", chains, 1), ("warmup", warmup, 0), ("draws", draws, 0), ("thin", thin, 1)):
        if value is not None and value < least:
            raise ValueError(f"run({name}={value}): give at least {least}.")
    began = time.perf_counter()
    with seeded(seed), torch.no_grad():
        if state is None:
            count = chains or initial.count(init) or CHAINS
            iterations = default_warmup(count) if warmup is None else warmup
            evaluations = GRADIENTS * (iterations + draws * thin)
            density.expect(evaluations)
            chain = sampler.init(initial.points(density, init, count, gradients=sampler.gradients))
        else:
            if warmup or keep_warmup:
                raise ValueError("run(state=...) goes on after the warm-up: leave warmup and keep_warmup out.")
            iterations, evaluations = 0, state["evaluations"]
            density.expect(evaluations)  # as announced then: a graph that is compiled gives other roundings
            chain = _resume(sampler, state, chains)
        clock = _Clock(progress, iterations + draws * thin)
        chain, report = _warm_up(sampler, chain, iterations, keep_warmup, clock)
        collector = _Collector(density, draws, sink, clock)
        clock.phase = "sampling"
        stats: dict[str, Tensor] = {}
        for _ in range(draws):
            for _ in range(thin):
                chain, stats = sampler.step(chain, None)
                clock.tick(stats)
            collector.add(chain.z, stats, sampler.held(chain))
        collector.flush()
        clock.done(stats)
        kept = collector.result()
        end = {**_state(sampler, chain), "evaluations": evaluations}
        return Samples(kept.z, kept.stats, report, time.perf_counter() - began, end, density, kept.values)


def _warm_up(sampler: Sampler, chain: Any, iterations: int, keep: bool, clock: "_Clock") -> tuple[Any, dict[str, Any]]:
    began = time.perf_counter()
    collector = _Collector(sampler.density, iterations, None, clock) if keep else None
    last: list[dict[str, Tensor]] = []
    for i in range(iterations):
        chain, stats = sampler.step(chain, i / iterations)
        clock.tick(stats)
        if 10 * i >= 9 * iterations:
            last.append(stats)
        if collector:
            collector.add(chain.z, stats, sampler.held(chain))
    report: dict[str, Any] = {"iterations": iterations}
    for name, figure in (("acceptance_rate", "acceptance"), ("diverging", "divergences")):
        if last and name in last[0]:
            values = torch.stack([stats[name] for stats in last])
            report[figure] = int(values.sum()) if values.dtype == torch.bool else float(values.mean())
    report["seconds"] = time.perf_counter() - began
    if iterations:
        report.update(sampler.report())
    if collector:
        collector.flush()
        draws = collector.result()
        report["draws"] = draws._replace(values=_constrained(sampler.density, draws.z, draws.values))
    return chain, report


class _Clock:
    """Reports progress, seldom enough to cost nothing."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total = progress, max(total, 1)
        self.phase = "warm-up"
        self.count = 0
        self.divergences: Tensor | int = 0
        self._next = time.perf_counter() + PERIOD

    def tick(self, stats: dict[str, Tensor]) -> None:
        self.count += 1
        if self.progress is None:
            return
        if "diverging" in stats:
            self.divergences = self.divergences + stats["diverging"].sum()
        if time.perf_counter() >= self._next:
            self._report(stats)
            self._next = time.perf_counter() + PERIOD

    def done(self, stats: dict[str, Tensor]) -> None:
        if self.progress is not None:
            self._report(stats)

    def _report(self, stats: dict[str, Tensor]) -> None:
        assert self.progress is not None
        names = (("acceptance_rate", "acceptance"), ("step_size", "step_size"), ("n_steps", "num_steps"))
        figures: dict[str, Any] = {"phase": self.phase, "divergences": int(self.divergences)}
        figures |= {figure: float(stats[name].double().mean()) for name, figure in names if name in stats}
        self.progress(self.count / self.total, figures)


def _constrained(density: Density, z: Tensor, held: dict[str, Tensor]) -> dict[str, Tensor]:
    """The values at draws (S, C, *B, D), on the CPU."""
    device = density.device
    here = {name: t.flatten(0, 1).to(device) for name, t in held.items()}
    values = density.constrain(z.flatten(0, 1).to(device), held=here)
    return {name: value.unflatten(0, z.shape[:2]).cpu() for name, value in values.items()}


def _spread(figures: Tensor, shape: torch.Size) -> Tensor:
    """Figures (S, ...) as (S, C, *B), with no memory for the dimensions in which they are the same."""
    ones = (1,) * (len(shape) - figures.dim())
    return figures.view(len(figures), *ones, *figures.shape[1:]).expand(shape)


class _Collector:
    """Collects draws in blocks on the device and hands them on: to a sink, or to arrays on the CPU."""

    def __init__(self, density: Density, draws: int, sink: Callable[[Block], None] | None, clock: _Clock) -> None:
        self.density, self.draws, self.sink = density, draws, sink
        self.start, self.size, self.count = 0, 1, 0
        self.waiting: dict[str, dict[str, Tensor]] = {}
        self.kept: dict[str, dict[str, Tensor]] = {"z": {}, "stats": {}, "values": {}}

    def add(self, z: Tensor, stats: dict[str, Tensor], held: dict[str, Tensor]) -> None:
        tensors = {"z": {"": z}, "stats": stats, "held": held}
        if not self.waiting:
            self.size = max(1, min(self.draws, BLOCK // max(t.numel() for t in (z, *held.values()))))
            self.waiting = {
                kind: {name: t.new_empty((self.size, *t.shape)) for name, t in named.items()}
                for kind, named in tensors.items()
            }
        for kind, named in tensors.items():
            for name, tensor in named.items():
                self.waiting[kind][name][self.count] = tensor
        self.count += 1
        if self.count == self.size:
            self.flush()

    def flush(self) -> None:
        if not self.count:
            return
        filled = {kind: {n: t[: self.count].cpu() for n, t in named.items()} for kind, named in self.waiting.items()}
        self.waiting, self.count = {}, 0
        z = filled["z"][""]
        stats = {name: _spread(t, z.shape[:-1]) for name, t in filled["stats"].items()}
        block = Block(self.start, z, stats, filled["held"])
        self.start += len(z)
        if self.sink is not None:
            self.sink(block._replace(values=_constrained(self.density, z, block.values)))
        else:
            self._keep("z", {"": block.z}, block.start)
            self._keep("stats", block.stats, block.start)
            self._keep("values", block.values, block.start)

    def _keep(self, kind: str, tensors: dict[str, Tensor], start: int) -> None:
        kept = self.kept[kind]
        for name, tensor in tensors.items():
            if len(tensor) == self.draws:
                kept[name] = tensor
                continue
            if name not in kept:
                kept[name] = tensor.new_empty((self.draws, *tensor.shape[1:]))
            kept[name][start : start + len(tensor)] = tensor

    def result(self) -> Block:
        """All draws, with the values of the held sites alone."""
        return Block(0, self.kept["z"].get("", torch.empty(0)), self.kept["stats"], self.kept["values"])


# ----------------------------------------------------------------------------------------------------------------------
# Interruption


def _state(sampler: Sampler, chain: Any) -> dict[str, Any]:
    leaves, _ = tree_flatten(chain)
    device = sampler.density.device
    state = {
        "sampler": type(sampler).__name__,
        "adaptation": sampler.state_dict(),
        "chains": [leaf.cpu() for leaf in leaves],
        "generator": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda_generator"] = torch.cuda.get_rng_state(device)
    return state


def _resume(sampler: Sampler, state: dict[str, Any], chains: int | None) -> Any:
    density = sampler.density
    if state["sampler"] != type(sampler).__name__:
        raise ValueError(f"The state is that of {state['sampler']}, not of {type(sampler).__name__}: give its method.")
    count = len(state["chains"][0])
    if chains is not None and chains != count:
        raise ValueError(f"run(chains={chains}): the state has {count} chains, so leave chains out.")
    z = torch.zeros(count, *density.batch_shape, density.dim, dtype=density.dtype, device=density.device)
    template, structure = tree_flatten(sampler.init(z))
    shapes = [tuple(leaf.shape) for leaf in state["chains"]]
    if shapes != [tuple(leaf.shape) for leaf in template]:
        raise ValueError("The state is that of another density: its chains have other shapes.")
    sampler.load_state_dict(state["adaptation"])
    torch.set_rng_state(state["generator"])
    if density.device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda_generator"], density.device)
    return tree_unflatten([leaf.to(density.device) for leaf in state["chains"]], structure)
