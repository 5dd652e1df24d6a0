"""The traces of guide and model that an objective is made of, and their latent sites in pairs.

Missing values that feed a later density are latent variables among them.
"""

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_gen._random import vmap_draws
from pyro_gen.density.finite import FiniteSite, assignments, finite_sites, joint_values
from pyro_gen.density.missing import active, missing_site
from pyro_gen.distributions.innermost import innermost
from pyro_gen.program import Program, data_size, fixed
from pyro_gen.traces import data_frame, is_local, per_datum_log_prob, sample_sites, trace_guide, trace_side

__all__ = [
    "is_delta",
    "log_ratio_of",
    "observed_sites",
    "paired_latents",
    "proposed_by_model",
    "require_no_own_loss",
    "require_proposals",
    "require_reparameterised",
    "trace_model_with_missing",
    "trace_pair_with_missing",
]

MAX_IN_TRAINING = 1024  # joint values that a training step runs the model for


def trace_pair_with_missing(
    program: Program, x: Tensor, *context: Any, everything: bool = False
) -> tuple[Trace, Trace]:
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
    guide_trace = trace_guide(program, x, *context)
    model_trace = trace_model_with_missing(program, guide_trace, x, *context, everything=everything)
    for name, site in sample_sites(model_trace).items():
        if missing_site(site) and not site["is_observed"] and name not in guide_trace.nodes:
            guide_trace.add_node(name, **{**site, "infer": {**site["infer"], "from_model": True}})
    return model_trace, guide_trace


def proposed_by_model(guide_trace: Trace) -> str | None:
    """The name of an observe statement whose missing entries are draws of the model in a trace of the guide."""
    return next((missing_site(s) for s in sample_sites(guide_trace).values() if s["infer"].get("from_model")), None)


def trace_model_with_missing(
    program: Program, guide_trace: Trace, x: Tensor, *context: Any, everything: bool = False
) -> Trace:
    """Runs the model with the guide's latent variables, see :func:`trace_pair_with_missing`."""
    trace = trace_side(program, "model", x, *context, latents=guide_trace)
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
            run = trace_side(program, "model", x, *context, latents=guide_trace)
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


def paired_latents(model_trace: Trace, guide_trace: Trace) -> dict[str, tuple[Any | None, Any]]:
    """Pairs the latent sites of model and guide, in the order of the model.

    An autoguide draws unconstrained auxiliary variables and makes the latent ones from them, as ``Delta`` sites whose
    log-density is the Jacobian. The auxiliary sites come last, paired with ``None``.

    Raises:
        ValueError: A site stands in only one of them.
    """
    model = {n: s for n, s in sample_sites(model_trace).items() if not s["is_observed"]}
    guide = {n: s for n, s in sample_sites(guide_trace).items() if not s["is_observed"]}
    auxiliary = {n for n, s in guide.items() if s["infer"].get("is_auxiliary")}
    if missing := [n for n in model if n not in guide]:
        raise ValueError(
            f"The model samples {', '.join(map(repr, missing))} but the guide does not: sample every latent variable "
            "in the guide too, or sum a discrete one out with EnumELBO."
        )
    if extra := [n for n in guide if n not in model and n not in auxiliary]:
        raise ValueError(
            f"The guide samples {', '.join(map(repr, extra))} but the model does not: remove the site, or mark it "
            "with infer={'is_auxiliary': True}."
        )
    unmatched = {n: (None, guide[n]) for n in guide if n not in model}
    if unmatched and not any(is_delta(guide[n]) for n in model):
        raise ValueError(
            f"The guide's auxiliary sites {', '.join(map(repr, unmatched))} have no density to score them against, "
            "since no latent variable is a function (a Delta site) of them: write the guide without them."
        )
    return {n: (model[n], guide[n]) for n in model} | unmatched


def is_delta(site: Any) -> bool:
    """Whether a site has a value and no spread, under masks and event dimensions."""
    return isinstance(innermost(site["fn"]), dist.Delta)


def log_ratio_of(p: Any | None, q: Any, log_prob: Callable[[Any], Tensor]) -> Tensor:
    """The log-density of a latent site in the model over that in the guide; an auxiliary site has only the latter."""
    return -log_prob(q) if p is None else log_prob(p) - log_prob(q)


def observed_sites(trace: Trace) -> list[Any]:
    """The observed sites of a trace, deterministic ones left out: of the model the data, of the guide its own loss."""
    sites = sample_sites(trace).values()
    return [s for s in sites if s["is_observed"] and not s["infer"].get("_deterministic")]


def require_proposals(guide_trace: Trace) -> None:
    """Refuses draws of the model in the place of a guide's: the bound of one draw is too loose to train by."""
    if name := proposed_by_model(guide_trace):
        raise ValueError(
            f"observe('{name}'): its completed value feeds a later density, so its missing entries are latent "
            f"variables, which the guide has to sample: sample '{name}.missing' in the guide, inside the data plate, "
            "with the shape of the value; or use IWAE(50), for which many draws of the model itself do; or leave out "
            f"rows without '{name}'."
        )


def require_no_own_loss(guide_trace: Trace) -> None:
    """Refuses a guide with a loss of its own, a ``pyro.factor`` statement, for objectives that have no place for it."""
    if own := observed_sites(guide_trace):
        raise ValueError(
            f"The guide's site '{own[0]['name']}' is a loss of its own (pyro.factor), which this objective would leave "
            "out: use ELBO, ScoreFunctionELBO or RelaxedELBO, which add it to the bound."
        )


def require_reparameterised(guide_trace: Trace) -> None:
    """Refuses draws of the guide through which no gradient goes."""
    for name, site in sample_sites(guide_trace).items():
        if not site["is_observed"] and not site["fn"].has_rsample:
            raise ValueError(
                f"Site '{name}' ({type(site['fn']).__name__}) cannot be reparameterised, its gradient would be wrong: "
                "use ScoreFunctionELBO, or EnumELBO for an enumerable discrete site."
            )
