"""Whether a model returns the data that it completed, which all that generates and imputes is made of."""

from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_gen._random import seeded
from pyro_gen.density import rows_of
from pyro_gen.observation import completions
from pyro_gen.program import Program, fixed
from pyro_gen.traces import sample_sites

__all__ = ["require_completed"]

ROWS = 64


def require_completed(program: Program, x: Tensor, context: tuple[Any, ...]) -> None:
    """Raises where a model returns something else, the means of its decoder say.

    With the latent variables fixed, the data are completed twice by other draws: what is returned must tell.

    Arguments:
        program: The program, in evaluation mode.
        x: Data with missing entries, with shape :math:`(N, *)`, of which the first rows are used.
        context: What the model conditions on.

    Raises:
        ValueError: The draws of the observed sites differ, and what is returned does not.
    """
    context, x = rows_of(x, context, slice(ROWS)), x[:ROWS]
    runs = []
    latent: dict[str, Tensor] = {}
    for seed in (0, 1):
        calm = (seeded(seed), torch.no_grad(), pyro.validation_enabled(False))
        with calm[0], calm[1], calm[2], pyro.poutine.trace() as tape, completions() as completed, fixed(latent):
            out = program.model(x, *context)
        latent = {n: s["value"] for n, s in sample_sites(tape.trace).items() if not s["is_observed"]}
        runs.append((out, completed))
    (out, first), (again, second) = runs
    if not isinstance(out, Tensor) or out.shape != x.shape or bool(out.isnan().any()):
        return  # said where it is used
    drawn = [n for n in first if n in second and not _same(first[n], second[n])]
    missing = x.isnan()
    if drawn and bool(missing.any()) and _same(out[missing], again[missing]):
        raise ValueError(
            f"The model of {type(program).__name__} returns something else than the data: missing entries are drawn at "
            f"'{drawn[0]}', and what it returns does not depend on these draws, as the means of a decoder do not. "
            "Return what observe(...) returns."
        )


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())
