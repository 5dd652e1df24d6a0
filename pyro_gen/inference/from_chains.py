"""Draws of Markov chains as ``arviz.InferenceData``, a block at a time."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_gen._errors import warn
from pyro_gen.density import ProgramDensity
from pyro_gen.inference import mcmc
from pyro_gen.inference.export import Exporter, block_size
from pyro_gen.inference.mcmc.samplers import check_options
from pyro_gen.inference.mcmc.stopping import Watch
from pyro_gen.inference.run_state import RunState, fingerprint
from pyro_gen.inference.storage import Disk, Memory

if TYPE_CHECKING:
    import arviz as az

__all__ = ["Length", "from_chains"]


@dataclass(frozen=True)
class Length:
    """When a run ends.

    Attributes:
        draws: After so many draws of each chain; ``None`` where it ends when a target is met.
        target: The effective sample size that each latent variable is to reach.
        first: After how many draws of each chain to look.
        last: After how many to end in any case.
    """

    draws: int | None
    target: float
    first: int
    last: int

    def further(self, goal: int, watch: Watch) -> int:
        """Up to how many draws of each chain to go on."""
        return goal if self.draws is not None or goal >= self.last else min(self.last, goal + watch.more())

    def complain(self, watch: Watch, done: int) -> None:
        """Warns of a run that ended before its target."""
        if self.draws is None and done >= self.last and watch.more():
            warn(
                f"posterior: the run ended at {done:,} draws of each chain, worth {watch.worth:,.0f} independent ones "
                f"where target_ess={self.target:g} was asked for, with chains that agree: see pg.diagnose, and give "
                "draws= for more."
            )


def from_chains(
    target: ProgramDensity,
    exporter: Exporter,
    method: str,
    path: Path | None,
    length: "Length",
    state: RunState | None,
    settings: dict[str, Any],
    start: dict[str, Any],
    report: Callable[[float, str], None],
    options: dict[str, Any],
) -> "az.InferenceData":
    """Runs Markov chains to their end.

    Arguments:
        target: The density.
        exporter: Names what is kept.
        method: The name of the sampler.
        path: Where the draws go, or ``None`` for memory.
        length: When the run ends.
        state: That of a run on disk to go on with.
        settings: Of :func:`pyro_gen.inference.mcmc.run`: ``chains``, ``thin``, ``seed``.
        start: What a run begins with: ``warmup``, ``init``, ``keep_warmup``.
        report: Receives the fraction done and words on it.
        options: Of the method.
    """
    check_options(f'posterior(method="{method}")', method, options)
    size = block_size(target, exporter, settings["chains"])
    mark = fingerprint(target, exporter, method, settings, start, options)
    if state is not None:
        state.check(mark, length.draws)
    else:
        state = RunState(mark=mark)
    limit = options.get("max_depth", 10)
    sink: Memory | Disk = Memory(exporter) if path is None else Disk(exporter, path, fresh=state.done == 0)
    watch = Watch(length.target, state.watched or None)
    goal = length.draws or state.goal or length.first
    if path is not None and state.sampler is None:
        state.save(path)  # so that what dies within the first block is known to be ours
    tail = state.tail
    while state.done < goal or (goal := length.further(goal, watch)) > state.done:
        # In memory one run makes all draws; to disk, a run for each block, which the state of the last one links.
        done, until = state.done, goal if path is None else min(goal, (state.done // size + 1) * size)

        def tick(fraction: float, figures: dict[str, Any], done: int = done, until: int = until) -> None:
            report((done + fraction * (until - done)) / goal, _words(figures))

        samples = mcmc.run(
            target,
            method,
            draws=until - done,
            state=state.sampler,
            progress=tick,
            **settings,
            **(start if state.sampler is None else {}),
            **options,
        )
        if state.sampler is None:
            others = exporter.observed() | _note(exporter, samples.warmup, limit if method == "nuts" else None)
            state.attrs = exporter.attrs
        exporter.attrs = dict(state.attrs)
        block = {"": samples.z, **_prefixed("stats", samples.stats), **_prefixed("values", samples.values)}
        if tail:  # the last block was cut short: it is made again as a whole
            block = {name: torch.cat([tail[name], tensor]) for name, tensor in block.items()}
        first = until - len(block[""])
        for at in range(0, len(block[""]), size):
            part = {name: tensor[at : at + size] for name, tensor in block.items()}
            sink.write(first + at, _groups(exporter, target, first + at, part))
        if state.sampler is None:
            sink.put(others)
        watch.add(samples.z)
        state.done, state.sampler, state.goal, state.watched = until, samples.state, goal, watch.state_dict()
        tail = {name: tensor[-(until % size) :].clone() for name, tensor in block.items()} if until % size else {}
        if path is not None:
            state.tail = tail
            state.save(path)
    length.complain(watch, state.done)
    return sink.result()


def _words(figures: Mapping[str, Any]) -> str:
    shown = [str(figures.get("phase", ""))]
    if "acceptance" in figures:
        shown.append(f"acceptance {figures['acceptance']:.2f}")
    if figures.get("divergences"):
        shown.append(f"{figures['divergences']} divergences")
    return f": {', '.join(shown)}"


def _prefixed(kind: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{kind}/{name}": tensor for name, tensor in tensors.items()}


def _groups(exporter: Exporter, target: ProgramDensity, start: int, block: dict[str, Tensor]) -> Any:
    stats, values = (
        {name.removeprefix(kind): t for name, t in block.items() if name.startswith(kind)}
        for kind in ("stats/", "values/")
    )
    held = {name: values[name].flatten(0, 1).to(target.device) for name in target.hold}
    z = block[""].to(target.device)
    return exporter.groups(start, z, values, stats, held)


def _note(exporter: Exporter, warmup: Mapping[str, Any], max_tree_depth: int | None) -> dict[str, Any]:
    """Notes the report on the warm-up in the attributes; returns the groups of its draws."""
    report = {name: _plain(value) for name, value in warmup.items() if name != "draws"}
    exporter.attrs["warmup"] = json.dumps(report)
    exporter.attrs["restarted"] = int(report.get("restarted") or 0)
    if max_tree_depth is not None:
        exporter.attrs["max_tree_depth"] = max_tree_depth
    if "draws" not in warmup or len(warmup["draws"].z) == 0:
        return {}
    block = warmup["draws"]
    bare = Exporter(None, exporter.layout)
    groups = bare.groups(0, block.z, block.values, block.stats)
    return bare.datasets({f"warmup_{group}": arrays for group, arrays in groups.items()})


def _plain(value: Any) -> Any:
    """A figure of the report as plain data; many numbers as the least, the median and the greatest."""
    if isinstance(value, Tensor):
        values = value.detach().double().flatten()
        if values.numel() == 1:
            return _plain(float(values))
        return [_plain(float(v)) for v in (values.min(), values.median(), values.max())] if values.numel() else []
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)
