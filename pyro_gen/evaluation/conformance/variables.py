"""The check of several variables: each is observed, once."""

import torch
from torch import Tensor

from pyro_gen._random import seeded
from pyro_gen.evaluation.conformance.case import Case
from pyro_gen.evaluation.conformance.check import Failed, check
from pyro_gen.evaluation.conformance.scores import density_sites, quoted
from pyro_gen.packing import PackedProgram
from pyro_gen.variables import items

__all__ = ["variables"]


@check
def variables(case: Case) -> str | None:
    """Of several variables each is observed, and once: no entry is scored at two sites."""
    if not isinstance(case.program, PackedProgram):
        return "the data are one tensor"
    layout, x = case.program.variables, case.completed()  # of what is missing too, a site may have an indicator
    here = _values(case, x)
    for name, view in items(layout.unpack(x)):
        moved = dict(items(layout.unpack(x)))
        with seeded(case.seed):
            moved[name] = view[torch.randperm(len(view)).to(view.device)].roll(1, 0)
        there = _values(case, layout.join(moved, x.shape[:1]))
        followed = [n for n in here if n in there and not _same(here[n], there[n])]
        if not followed and not _same(view, moved[name]):
            raise Failed(
                f"Variable '{name}' is never observed: no observed site has its values.",
                "Observe it as it is, by pg.observe, or give it as context where it is conditioned on.",
            )
        # A site may be of several variables together: what counts are the entries that followed this one.
        if sum(_changed(here[n], there[n]) for n in followed) > _changed(view, moved[name]):
            raise Failed(
                f"Variable '{name}' is scored more than once, at the sites {quoted(followed)}: its density counts "
                "twice.",
                "Observe each variable at one site; a classifier's loss belongs into the objective.",
            )
    return None


def _values(case: Case, x: Tensor) -> dict[str, Tensor]:
    """The values at the observed sites."""
    return {n: s["value"] for n, s in density_sites(case.run("model", x=x)).items() if s["is_observed"]}


def _changed(a: Tensor, b: Tensor) -> int:
    """How many entries differ; all of them where the shapes do."""
    return a.numel() if a.shape != b.shape else int(((a != b) & ~(a.isnan() & b.isnan())).sum())


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())
