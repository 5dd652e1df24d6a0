"""The mean of the likelihood: what a program's latent variables decode to, read off a trace of its model."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_gen.observation import entries_of
from pyro_gen.packing import PackedProgram
from pyro_gen.program import Program
from pyro_gen.traces import sample_sites
from pyro_gen.variables import items

__all__ = ["mean_of"]


def mean_of(program: Program, trace: Any, x: Tensor, observed: Mapping[str, Tensor] | None = None) -> Tensor:
    """The mean of the observed distribution that has the data, or of those that have parts of them.

    Arguments:
        program: The program.
        trace: A trace of its model.
        x: The data.
        observed: What its sites observed, where these were completed.

    Returns:
        The mean, with the shape of ``x``.
    """
    sites = [s for s in sample_sites(trace).values() if s["is_observed"] and not s["infer"].get("_deterministic")]
    if not isinstance(program, PackedProgram):
        whole = [s for s in sites if s["value"].numel() == x.numel()]
        found = None if whole else _of_parts(sites, x, observed or {})
        return _mean_at(program, sites, x) if found is None else found
    means: dict[Any, Tensor] = {}
    for name, view in items(program.variables.unpack(x)):
        own = [s for s in sites if s["name"] == name]
        try:
            means[name] = _mean_at(program, own or sites, view)
        except _NoMeanError:
            means[name] = torch.full_like(view, torch.nan)
    joined: Tensor = program.variables.join(means, x.shape[:1])
    return joined


class _NoMeanError(ValueError):
    pass


def _mean_at(program: Program, sites: list[Any], x: Tensor) -> Tensor:
    # The model may observe the data in their own shape, or their entries in another one.
    own = [s for s in sites if s["value"].shape == x.shape]
    other = [s for s in sites if s["value"].shape[:1] == x.shape[:1] and s["value"].numel() == x.numel()]
    if not own + other and (means := _of_steps(sites, x)) is not None:
        return means
    if not own + other:
        raise ValueError(f"No observed site of {type(program).__name__} has the shape {tuple(x.shape)} of the data.")
    seen = ~x.isnan()  # beside a label of the same shape, the site of the data is the one that has their values
    data = [s for s in own if torch.equal(s["value"][seen].to(x.dtype), x[seen])]
    site = (data + own + other)[0]
    try:
        mean = site["fn"].mean
    except NotImplementedError:
        mean = torch.full_like(x, torch.nan)
    if bool(mean.isnan().all()):  # torch's way to say that a distribution has none
        raise _NoMeanError(
            f"The likelihood of {type(program).__name__} at '{site['name']}' has no mean in closed form: use "
            "pyro_gen.sample or pyro_gen.impute."
        )
    return mean.expand(site["value"].shape).reshape(x.shape).to(x.dtype)  # type: ignore[no-any-return]


def _of_parts(sites: list[Any], x: Tensor, observed: Mapping[str, Tensor]) -> Tensor | None:
    """The means of data of which sites observe parts, each entry once, as ``x[:, t]``; ``None`` where they do not."""
    means, times = torch.full_like(x, torch.nan).flatten(), torch.zeros(x.numel(), dtype=torch.long, device=x.device)
    for site in sites:
        part = observed.get(site["name"], site["value"])
        if (where := entries_of(part, x)) is not None:
            means[where] = site["fn"].mean.expand(part.shape).to(x.dtype)
            times[where] += 1
    return means.view_as(x) if bool((times == 1).all()) and not bool(means.isnan().all()) else None


def _of_steps(sites: list[Any], x: Tensor) -> Tensor | None:
    """The means of data (N, T, *) that are observed step by step, at sites (N, *); ``None`` where they are not."""
    steps: dict[int, Tensor] = {}
    for site in sites:
        value = site["value"]
        for t in range(x.shape[1] if x.dim() > 1 else 0):
            if t not in steps and value.shape == x[:, t].shape and value.nan_to_num().equal(x[:, t].nan_to_num()):
                steps[t] = site["fn"].mean.expand(value.shape).to(x.dtype)
                break
    return torch.stack([steps[t] for t in range(x.shape[1])], 1) if steps and len(steps) == x.shape[1] else None
