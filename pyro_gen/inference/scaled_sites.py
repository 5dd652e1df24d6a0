"""Which latent variables have a scale that is itself latent: those that can be written non-centred."""

import torch
from pyro.poutine.condition_messenger import ConditionMessenger

from pyro_gen.density import ProgramDensity
from pyro_gen.distributions import innermost
from pyro_gen.traces import latent_sites

__all__ = ["scaled_sites"]


def scaled_sites(target: ProgramDensity) -> dict[str, list[str]]:
    """Finds the centred sites of a model, from the derivatives of scales at one draw of its prior.

    Arguments:
        target: The density of the model.

    Returns:
        By the name of a latent site, the names of the latent sites that its scale depends on; nothing of others.
    """
    drawn = {n: s["value"].detach() for n, s in latent_sites(target.prototype).items()}
    values = {n: v.clone().requires_grad_(v.is_floating_point()) for n, v in drawn.items()}
    leaves = {n: v for n, v in values.items() if v.requires_grad}
    with target.ready(), torch.enable_grad():
        trace = target.run(target.data_set(0), ConditionMessenger(values))
        found: dict[str, list[str]] = {}
        for name in leaves:
            law = innermost(trace.nodes[name]["fn"])
            scale = getattr(law, "scale_tril", getattr(law, "scale", None))
            if isinstance(scale, torch.Tensor) and scale.requires_grad:
                slopes = torch.autograd.grad(scale.sum(), list(leaves.values()), retain_graph=True, allow_unused=True)
                found[name] = [n for n, slope in zip(leaves, slopes, strict=True) if slope is not None]
    return {name: by for name, by in found.items() if by}
