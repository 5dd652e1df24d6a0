"""The ELBO with discrete latent variables summed out."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro.infer import TraceEnum_ELBO, config_enumerate, traceenum_elbo
from torch import Tensor

from pyro_gen._random import exclusive, seeded
from pyro_gen.density.elimination import chains_first
from pyro_gen.density.finite import finite_sites
from pyro_gen.density.missing import active
from pyro_gen.inference.objectives.base import Objective, positive
from pyro_gen.inference.objectives.elbo import ELBO
from pyro_gen.program import Program
from pyro_gen.registry import objective
from pyro_gen.traces import sample_sites, trace_pair, trace_side

__all__ = ["EnumELBO", "asked_to_enumerate"]


def asked_to_enumerate(program: Program, x: Tensor, *context: Any) -> "EnumELBO | None":
    """The objective of a program with latent sites marked ``infer={"enumerate": "parallel"}``; ``None`` of others."""
    with seeded(0), torch.no_grad():
        traces = trace_pair(program, x, *context)
    sites = [s for trace in traces for s in sample_sites(trace).values()]
    if not any(s["infer"].get("enumerate") and not s["is_observed"] for s in sites):
        return None
    return EnumELBO(
        max_plate_nesting=max((-f.dim for s in sites for f in s["cond_indep_stack"] if f.vectorized), default=0)
    )


@contextmanager
def _unread() -> Iterator[None]:
    """Pyro looks whether the loss is NaN, to warn, which no graph can record; training stops at one and says where."""
    with exclusive():
        module: Any = traceenum_elbo
        warn = module.warn_if_nan
        module.warn_if_nan = lambda *_, **__: None
        try:
            yield
        finally:
            module.warn_if_nan = warn


class _SummedELBO(ELBO):
    everything = True


@objective
class EnumELBO(Objective):
    """The ELBO with discrete latent variables summed out exactly, by Pyro's parallel enumeration.

    A discrete site in the model alone is marginalised; one in the guide too is averaged over its whole support. Chains,
    ``pyro.markov`` over discrete sites, are summed out as trees (:mod:`pyro_gen.density.elimination`).

    References:
        | Pyro: Deep Universal Probabilistic Programming (Bingham et al., 2019), ``TraceEnum_ELBO``
        | https://jmlr.org/papers/v20/18-403.html

    Arguments:
        max_plate_nesting: The number of nested plates of the model, 1 for the data plate alone.
        num_particles: Draws of the sites that are not enumerated.
        expand: Whether the values of an enumerated site have the full shape of its plates, for models that need it.
    """

    anneals = False

    def __init__(self, max_plate_nesting: int = 1, num_particles: int = 1, expand: bool = False) -> None:
        super().__init__()
        self.expand = expand
        self._by_runs = _SummedELBO(num_particles, analytic_kl=False)
        self._elbo = TraceEnum_ELBO(max_plate_nesting=max_plate_nesting, num_particles=positive(num_particles))

    def loss(self, program: Program, x: Tensor, *context: Any, kl_weight: Tensor | float = 1.0) -> Tensor:
        handler = active(program)
        if handler is not None and handler.names:
            with torch.no_grad():
                guide = trace_side(program, "guide", x, *context)
            if not finite_sites(guide):
                # Completed values go into what the model returns, which is not written for values side by side.
                return self._by_runs.loss(program, x, *context)
        model, guide = (config_enumerate(f, expand=self.expand) for f in (program.model, program.guide))
        with chains_first(), _unread():
            return self._elbo.differentiable_loss(model, guide, x, *context)  # type: ignore[no-any-return]
