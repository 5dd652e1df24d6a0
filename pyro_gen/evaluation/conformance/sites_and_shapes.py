"""Checks of the sites of guide and model, their shapes and their plates."""

from typing import Any

import torch

from pyro_gen.evaluation.conformance.case import SIDES, Case
from pyro_gen.evaluation.conformance.check import Failed, check
from pyro_gen.evaluation.conformance.scores import density_sites, quoted, sizes
from pyro_gen.traces import DATA_PLATE, is_local, site_log_prob

__all__ = ["data_plate", "per_datum", "runs", "shapes", "sites"]


@check
def runs(case: Case) -> None:
    """Guide and model run on the data."""
    for side in SIDES:
        case.run(side, latents={})


@check
def sites(case: Case) -> str | None:
    """The guide samples the latent sites of the model, with the same shapes."""
    model, guide = (density_sites(case.run(side, latents={})) for side in ("model", "guide"))
    latent = {n: s for n, s in model.items() if not s["is_observed"]}
    summed = [n for n, s in latent.items() if n not in guide and s["infer"].get("enumerate")]
    missing = [n for n in latent if n not in guide and n not in summed]
    if missing and case.kind != "implicit":  # trained by comparing draws, without a posterior
        chains = (
            "" if any(is_local(latent[n]) for n in missing) else " Draws of Markov chains, pg.posterior, need none."
        )
        raise Failed(
            f"The model samples {quoted(missing)}, the guide does not.",
            f"Sample {quoted(missing)} in guide(x, *context) too, let an autoguide do it "
            "(Program.from_functions(model, AutoNormal)), or mark a discrete site with "
            f'infer={{"enumerate": "parallel"}} to sum it out with EnumELBO.{chains}',
        )
    for name, site in guide.items():
        if name in model and model[name]["is_observed"]:
            raise Failed(f"The guide samples '{name}', which the model observes.", f"Remove '{name}' from the guide.")
        if name not in model and not site["is_observed"] and not site["infer"].get("is_auxiliary"):
            raise Failed(
                f"The guide samples '{name}', the model does not.",
                f"Remove '{name}' from the guide, give it the name it has in the model, or mark it with "
                'infer={"is_auxiliary": True}.',
            )
    for name in [n for n in latent if n in guide]:
        p, q = latent[name], guide[name]
        if p["value"].shape != q["value"].shape or p["fn"].event_dim != q["fn"].event_dim:
            raise Failed(
                f"Site '{name}' has batch and event shape {sizes(p['fn'].batch_shape)}, {sizes(p['fn'].event_shape)} "
                f"in the model, {sizes(q['fn'].batch_shape)}, {sizes(q['fn'].event_shape)} in the guide.",
                "Give both the same sizes, and use .to_event(...) for the same dimensions in both.",
            )
        if _plates(p) != _plates(q):
            raise Failed(
                f"Site '{name}' stands in the plates {_plates(p)} in the model, {_plates(q)} in the guide.",
                "Open the same plates in both, `with self.plate(x):` for what there is one of per datum.",
            )
    return f"{quoted(summed)} left to enumeration" if summed else None


def _plates(site: Any) -> dict[str, int]:
    return {f.name: f.size for f in site["cond_indep_stack"] if f.dim is not None}


@check
def shapes(case: Case) -> None:
    """Batch dimensions are those of the plates: no silent broadcast."""
    for side in SIDES:
        for name, site in density_sites(case.run(side)).items():
            frames = {f.dim: f for f in site["cond_indep_stack"] if f.dim is not None}
            shape = site_log_prob(site).shape
            for dim in range(-max(len(shape), *(-d for d in frames), 0), 0):
                actual = shape[dim] if -dim <= len(shape) else 1
                expected = frames[dim].size if dim in frames else 1
                if actual != expected:
                    plates = ", ".join(f"'{f.name}' of size {f.size} at {d}" for d, f in sorted(frames.items()))
                    raise Failed(
                        f"Site '{name}' of the {side} has log-densities of shape {sizes(shape)}, its plates are "
                        f"{plates or 'none'}: dimension {dim} should have size {expected}.",
                        "Declare event dimensions with .to_event(...), enclose batch dimensions in plates, and look "
                        "for an (N, 1) that met an (N,): squeeze one or unsqueeze the other.",
                    )


@check
def data_plate(case: Case) -> None:
    """The data are observed inside the plate "data", one row each."""
    advice = "Observe inside `with self.plate(x):` (pg.plate(x) in a function)."
    model = density_sites(case.run("model"))
    if not case.data_sites:
        raise Failed(
            "No observed site of the model depends on x.", 'End the model with `return pg.observe("x", ..., x)`.'
        )
    for name in case.data_sites:
        if DATA_PLATE not in _plates(model[name]):
            plates = ", ".join(_plates(model[name])) or "none"
            raise Failed(f"Site '{name}' scores data outside the plate \"data\" (its plates: {plates}).", advice)
    for side in SIDES:
        for name, site in density_sites(case.run(side)).items():
            size = _plates(site).get(DATA_PLATE, len(case.x))
            if size != len(case.x):
                raise Failed(f"Site '{name}' has {size} rows in its data plate, x has {len(case.x)}.", advice)


@check
def per_datum(case: Case) -> None:
    """A site has one log-density per datum: no event dimension grows with the number of rows."""
    index = torch.arange(len(case.x) - 1, device=case.x.device)
    x, context = case.rows(index)
    for side in SIDES:
        fewer = density_sites(case.run(side, x=x, context=context, latents={}))
        for name, site in density_sites(case.run(side, latents={})).items():
            if name not in fewer:
                continue
            here, there = site["fn"], fewer[name]["fn"]
            if here.event_shape != there.event_shape:
                raise Failed(
                    f"Site '{name}' of the {side} has event shape {sizes(here.event_shape)} for {len(case.x)} rows, "
                    f"{sizes(there.event_shape)} for {len(x)}: its log-density sums over the data.",
                    "Leave the data dimension out of .to_event(...) and sample the site inside the data plate.",
                )
            if case.row_frame(site) is None and here.batch_shape != there.batch_shape:
                raise Failed(
                    f"Site '{name}' of the {side} has batch shape {sizes(here.batch_shape)} for {len(case.x)} rows, "
                    f"{sizes(there.batch_shape)} for {len(x)}, outside of the data plate.",
                    "Sample it inside `with self.plate(x):` (pg.plate(x) in a function).",
                )
