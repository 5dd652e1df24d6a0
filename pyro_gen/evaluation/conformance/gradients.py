"""The check that the ELBO reaches every parameter, and gradients for other checks."""

import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_gen._random import seeded
from pyro_gen.evaluation.conformance.case import Case
from pyro_gen.evaluation.conformance.check import Failed, Skipped, check
from pyro_gen.evaluation.conformance.scores import density_sites, quoted
from pyro_gen.program import Program
from pyro_gen.traces import site_log_prob, trace_pair

__all__ = ["gradients", "gradients_of", "loss_of", "require_finite_gradients"]


def loss_of(case: Case, x: Tensor) -> tuple[Tensor, Trace, Trace]:
    """One draw of the negative ELBO; sites that cannot be reparameterised enter by the score function."""
    with seeded(case.seed):
        model, guide = trace_pair(case.program, x, *case.context)
    log_p = [site_log_prob(s).sum() for s in density_sites(model).values()]
    log_q = {n: site_log_prob(s).sum() for n, s in density_sites(guide).items()}
    elbo = sum(log_p, start=torch.zeros((), device=x.device)) - sum(log_q.values())
    fixed_sites = [n for n, s in density_sites(guide).items() if not s["fn"].has_rsample]
    return -elbo - sum(log_q[n] * elbo.detach() for n in fixed_sites), model, guide


def require_finite_gradients(case: Case, x: Tensor, when: str, advice: str) -> list[str]:
    """Returns the names of the parameters that the loss does not reach."""
    case.program.train()
    loss, model, guide = loss_of(case, x)
    if not loss.isfinite():
        sites = [(side, n, s) for side, t in (("guide", guide), ("model", model)) for n, s in density_sites(t).items()]
        side, name = next(((i, n) for i, n, s in sites if not site_log_prob(s).isfinite().all()), ("model", "x"))
        raise Failed(f"The loss is {loss.item():.3g}{when}, from site '{name}' of the {side} on.", advice)
    gradients = gradients_of(case.program, loss)
    for name, gradient in gradients.items():
        if gradient is not None and not gradient.isfinite().all():
            raise Failed(f"Parameter '{name}' has a gradient that is not finite{when}.", advice)
    return [n for n, g in gradients.items() if g is None]


def gradients_of(program: Program, loss: Tensor) -> dict[str, Tensor | None]:
    """The gradients by parameter, ``None`` where the loss does not depend on it; ``.grad`` stays as it is."""
    parameters = {n: p for n, p in program.named_parameters() if p.requires_grad}
    if not parameters or not loss.requires_grad:
        return dict.fromkeys(parameters)
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return dict(zip(parameters, gradients, strict=True))


@check
def gradients(case: Case) -> str | None:
    """Every parameter receives a finite gradient from the ELBO."""
    if case.kind in ("unnormalised", "implicit"):
        raise Skipped(f"The density of the data is {case.kind}: it trains by its own objective, not by the ELBO.")
    unused = require_finite_gradients(
        case, case.x, "", "Look for a logarithm or a square root of 0, a division by 0, or data of a very large scale."
    )
    if unused:
        raise Failed(
            f"The loss does not depend on {quoted(unused)}.",
            "Use the parameter, remove it, or set requires_grad to False; look for a detach(), a no_grad() or a sample "
            "site that lost it.",
        )
    return None if any(p.requires_grad for p in case.program.parameters()) else "no parameters to train"
