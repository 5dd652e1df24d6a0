"""The traces of guide and model that an objective is made of, missing values that feed a later density among them."""

from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_gen._random import vmap_draws
from pyro_gen.density.finite import FiniteSite, assignments, finite_sites, joint_values
from pyro_gen.density.missing import active, missing_site
from pyro_gen.program import Program, data_size, fixed
from pyro_gen.traces import data_frame, is_local, is_subsample, per_datum_log_prob, sample_sites

__all__ = ["proposed_by_model", "trace_model", "trace_pair"]

MAX_IN_TRAINING = 1024  # joint values that a training step runs the model for


def trace_pair(program: Program, x: Tensor, *context: Any, everything: bool = False) -> tuple[Trace, Trace]:
    """Runs the guide, then the model with the guide's latent variables.

    Missing entries that are latent variables (see :mod:`pyro_gen.density.missing`) and that the guide does not sample
    are summed out where they have finitely many values: an observed site of that name then stands for all sites that
    depend on them. Others are draws of the model, in both traces.

    Arguments:
        program: The program.
        x: The data, with shape :math:`(N, *)`.
        context: What the model conditions on.
        everything: Whether other discrete latent variables that the guide does not sample are summed out too.

    Returns:
        The traces of model and guide.
    """
    guide_trace = pyro.poutine.trace(program.guide).get_trace(x, *context)
    for name in [n for n, s in guide_trace.nodes.items() if s["type"] == "sample" and is_subsample(s)]:
        # Replaying an autoguide's plate would impose the batch size of its first run on the model.
        guide_trace.remove_node(name)
    model_trace = trace_model(program, guide_trace, x, *context, everything=everything)
    for name, site in sample_sites(model_trace).items():
        if missing_site(site) and not site["is_observed"] and name not in guide_trace.nodes:
            guide_trace.add_node(name, **{**site, "infer": {**site["infer"], "from_model": True}})
    return model_trace, guide_trace


def proposed_by_model(guide_trace: Trace) -> str | None:
    """The name of an observe statement whose missing entries are draws of the model in a trace of the guide."""
    return next((missing_site(s) for s in sample_sites(guide_trace).values() if s["infer"].get("from_model")), None)


def trace_model(program: Program, guide_trace: Trace, x: Tensor, *context: Any, everything: bool = False) -> Trace:
    """Runs the model with the guide's latent variables, see :func:`trace_pair`."""
    trace: Trace = pyro.poutine.trace(pyro.poutine.replay(program.model, guide_trace)).get_trace(x, *context)
    handler = active()
    if handler is None or not handler.names:
        return trace
    sites = sample_sites(trace)
    finite = {n: f for n, f in finite_sites(trace, guide_trace.nodes).items() if everything or missing_site(sites[n])}
    if not finite:
        return trace
    if everything:
        moved = {n for n, s in sites.items() if is_local(s) and not s["infer"].get("_deterministic")}
    else:
        statements = {c for n in finite for c in handler.children.get(str(missing_site(sites[n])), ())}
        moved = {n for n, s in sites.items() if n in statements or n in finite or missing_site(s) in statements}
    for name in moved - finite.keys():
        if not is_local(sites[name]):
            raise ValueError(
                f"Site '{name}' stands outside of the data plate and depends on '{next(iter(finite))}', which is "
                "summed out for each datum: move it into the plate."
            )
        if missing_site(sites[name]) and name not in guide_trace.nodes:
            raise ValueError(
                f"'{next(iter(finite))}' is summed out, and '{name}' depends on it, missing too and not discrete: "
                f"sample '{name}' in the guide, or leave out rows in which both are missing."
            )
    return _sum_out(program, guide_trace, trace, finite, moved, x, *context)


def _sum_out(
    program: Program,
    guide_trace: Trace,
    trace: Trace,
    finite: Mapping[str, FiniteSite],
    moved: set[str],
    x: Tensor,
    *context: Any,
) -> Trace:
    """Puts the logarithm of a sum in the place of all sites that depend on some discrete variables, and of these."""
    n = len(x)
    one_row = {name: torch.ones(1, f.units, dtype=torch.bool, device=x.device) for name, f in finite.items()}
    if (most := int(joint_values(finite, one_row).max())) > MAX_IN_TRAINING:
        raise ValueError(
            f"The discrete latent variables of a datum that are summed out, {len(finite)} with '{next(iter(finite))}', "
            f"have {most} joint values, more than the {MAX_IN_TRAINING} that a training step sums over: sample them in "
            "the guide and use ScoreFunctionELBO, or leave out rows in which they are missing."
        )
    values, _ = assignments(finite, one_row)
    for name, site in finite.items():
        shape = list(values[name].shape)
        shape[site.data_dim + 1] = n
        values[name] = values[name].expand(shape)

    def one(values: dict[str, Tensor]) -> Tensor:
        with data_size(n), fixed(values):
            run = pyro.poutine.trace(pyro.poutine.replay(program.model, guide_trace)).get_trace(x, *context)
        return torch.stack([per_datum_log_prob(s) for name, s in sample_sites(run).items() if name in moved]).sum(0)

    with pyro.validation_enabled(False):
        try:
            log_joint = vmap_draws(one, most, values)  # (A, N)
        except Exception:  # torch has no rule for what the model does; an error of the model comes again
            log_joint = torch.stack([one({name: v[a] for name, v in values.items()}) for a in range(most)])
    nodes: dict[str, Any] = dict(trace.nodes)
    first = nodes[next(iter(finite))]
    frame = data_frame(first)
    total = log_joint.logsumexp(0).reshape(n, *(1,) * (-1 - frame.dim))
    for name in moved:
        if name in finite or nodes[name]["is_observed"]:
            trace.remove_node(name)
        else:  # the guide's latent variable: its density is in the sum
            nodes[name]["mask"] = torch.zeros((), dtype=torch.bool, device=x.device)
    observed = {"fn": dist.Unit(total), "value": total.new_empty(*total.shape, 0), "is_observed": True, "infer": {}}
    trace.add_node(first["name"], **{**first, **observed, "mask": None, "cond_indep_stack": (frame,)})
    return trace
