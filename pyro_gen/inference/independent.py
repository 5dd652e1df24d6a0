"""Posteriors without chains: sums over discrete variables, weighted draws of a guide, particles."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_gen._random import seeded
from pyro_gen.density import ProgramDensity, evaluation
from pyro_gen.inference.export import Exporter, block_size
from pyro_gen.inference.labels import draw_exactly
from pyro_gen.inference.likelihood.smc import smc
from pyro_gen.inference.likelihood.weights import psis_khat
from pyro_gen.inference.proposals import draws_for
from pyro_gen.inference.storage import Disk, Memory
from pyro_gen.program import Program

if TYPE_CHECKING:
    import arviz as az

__all__ = ["from_guide", "from_smc", "from_sums"]


def _write(
    target: ProgramDensity,
    exporter: Exporter,
    path: Path | None,
    z: Tensor,
    values: Mapping[str, Tensor],
    stats: Mapping[str, Tensor],
    more: Mapping[str, Any],
) -> "az.InferenceData":
    """Writes draws z with shape (S, C, *B, D); ``more`` are figures of all of them, (*B)."""
    import xarray as xr

    sink: Memory | Disk = Memory(exporter) if path is None else Disk(exporter, path)
    size = block_size(target, exporter, z.shape[1])
    for at in range(0, len(z), size):
        rows = slice(at, at + size)
        part = [{n: v[rows] for n, v in tensors.items()} for tensors in (values, stats)]
        held = {n: part[0][n].flatten(0, 1) for n in target.hold}
        groups = exporter.groups(at, z[rows], part[0], part[1], held)
        sink.write(at, groups)
    figures = {n: (("data",) if v.dim() else (), v.cpu().numpy()) for n, v in more.items()}
    sink.put({**exporter.observed(), **({"sample_stats": xr.Dataset(figures)} if figures else {})})
    return sink.result()


def from_sums(
    target: ProgramDensity, exporter: Exporter, path: Path | None, chains: int, draws: int, seed: int
) -> "az.InferenceData":
    """Independent draws where all latent variables are discrete."""
    assert isinstance(target.program, Program)
    with seeded(seed):
        held = draw_exactly(target.program, target.data, draws * chains)
    z = torch.zeros(draws, chains, 0, dtype=target.dtype, device=target.device)
    values = {n: v.unflatten(0, (draws, chains)) for n, v in target.constrain(z.flatten(0, 1), held=held).items()}
    return _write(target, exporter, path, z, values, {}, {})


def from_guide(
    target: ProgramDensity, exporter: Exporter, path: Path | None, draws: int, seed: int
) -> "az.InferenceData":
    """Weighted draws of the guide."""
    with seeded(seed), torch.no_grad(), evaluation(target.program):
        drawn, log_w = draws_for(target, draws)
    z = target.unconstrain(drawn)
    values = {n: v for n, v in drawn.items() if n in target.prototype.nodes} | target.constrain(z)
    khat = psis_khat(log_w if log_w.dim() > 1 else log_w.unsqueeze(1))
    more = {"khat": khat if log_w.dim() > 1 else khat[0]}
    one = {n: v.unsqueeze(1) for n, v in values.items()}
    return _write(target, exporter, path, z.unsqueeze(1), one, {"log_weight": log_w.unsqueeze(1)}, more)


def from_smc(
    target: ProgramDensity,
    exporter: Exporter,
    path: Path | None,
    seed: int,
    report: Callable[[float, str], None],
    options: Mapping[str, Any],
) -> "az.InferenceData":
    """The weighted particles of sequential Monte Carlo, and the evidence in the attributes."""
    found = smc(target, seed=seed, progress=lambda fraction: report(fraction, ""), **options)
    islands = len(found.evidence.diagnostics["islands"])
    # Islands are chains: (I * P, *) -> (P, I, *).
    z, log_w = (t.unflatten(0, (islands, -1)).transpose(0, 1) for t in (found.z, found.log_weights))
    values = {n: v.unflatten(0, (islands, -1)).transpose(0, 1) for n, v in target.constrain(found.z).items()}
    evidence = found.evidence
    exporter.attrs["log_evidence"] = float(evidence.value.sum())
    exporter.attrs["log_evidence_error"] = float(evidence.standard_error.square().sum().sqrt())
    return _write(target, exporter, path, z, values, {"log_weight": log_w}, {})
