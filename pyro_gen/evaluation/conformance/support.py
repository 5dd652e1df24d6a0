"""The check that draws of the guide and the data can come from the model."""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch.distributions import constraints

from pyro_gen._random import seeded
from pyro_gen.distributions import innermost
from pyro_gen.evaluation.conformance.case import SIDES, Case
from pyro_gen.evaluation.conformance.check import Failed, check
from pyro_gen.evaluation.conformance.scores import density_sites

__all__ = ["support"]


@check
def support(case: Case) -> None:
    """Draws of the guide and the data lie in the support of the model's distributions."""
    model, guide = (density_sites(case.run(side)) for side in ("model", "guide"))
    for name, site in model.items():
        fn = site["fn"]
        if isinstance(innermost(fn), dist.Unit | dist.Delta):
            continue
        if site["is_observed"]:
            inside = fn.support.check(site["value"])
            if not inside.all():
                value = site["value"] if inside.shape == site["value"].shape else site["value"][~inside]
                wrong = value[~innermost(fn).support.check(value)] if innermost(fn).event_dim == 0 else value
                raise Failed(
                    f"Data at site '{name}' lie outside of the support of {type(innermost(fn)).__name__} "
                    f"({fn.support}), {wrong.flatten()[0]:.4g} for instance.",
                    "Transform the data (pg.data: Binarize, Standardize, Dequantize) or choose a likelihood that has "
                    "them; missing entries (NaN) belong in pg.observe.",
                )
        elif name in guide:
            _check_guide_support(case, name, fn, guide[name]["fn"])
    with pyro.validation_enabled(True):  # the distributions' own checks of arguments and values
        for side in SIDES:
            case.scores(side)


def _check_guide_support(case: Case, name: str, p: Any, q: Any) -> None:
    with seeded(case.seed), torch.no_grad():
        inside = p.support.check(q.sample(torch.Size([64])))
    unbounded = innermost(q).support is constraints.real and not isinstance(innermost(q), dist.Delta)
    if (unbounded and _is_narrow(innermost(p).support)) or not inside.all():
        raise Failed(
            f"The guide draws '{name}' from {type(innermost(q)).__name__} with support {q.support}, the model has "
            f"{type(innermost(p)).__name__} with support {p.support}.",
            "Choose a guide with the support of the model: LogNormal or Gamma for positive variables, a "
            "TransformedDistribution, or an autoguide, which transforms by itself.",
        )


def _is_narrow(support: Any) -> bool:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support is not constraints.real
