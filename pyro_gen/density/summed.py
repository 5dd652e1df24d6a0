"""The density of data under a program whose latent variables are all discrete: summed out as their structure allows."""

from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_gen._random import seeded
from pyro_gen.density.inputs import any_missing
from pyro_gen.density.joint import ProgramDensity
from pyro_gen.density.missing import LatentMissing
from pyro_gen.density.sums import check_sums, summing
from pyro_gen.program import Program
from pyro_gen.traces import trace_side

__all__ = ["summed_log_prob"]


def summed_log_prob(program: Program, x: Tensor, *context: Any) -> Tensor:
    """The log-density of each datum, local discrete variables summed out: a mixture, or a chain of any length.

    Not by their joint values, but by Pyro's parallel enumeration, with chains (``pyro.markov``) as trees. The sum is
    compared with runs of the model.

    Arguments:
        program: A program in evaluation mode, with discrete local latent variables only, and no missing entry of the
            data among them.
        x: The data, with shape :math:`(N, *)`.
        context: What the model conditions on.

    Returns:
        In nats, with shape :math:`(N)`.

    Raises:
        NotSummableError: The model does not carry all values of its variables at once.
    """
    with seeded(0), torch.no_grad(), pyro.validation_enabled(False):
        data = (x, *context)
        prototype = trace_side(program, "model", *data)
        target = ProgramDensity(
            program,
            data,
            prototype,
            {},
            hold=(),
            improper=(),
            per_datum=True,
            stacked=None,
            missing=any_missing(*data),
            latent_missing=LatentMissing(program, (), {}),
            rereads=False,
            compile="off",
        )
        z = torch.zeros(len(x), 0, dtype=target.dtype, device=target.device)
        with target.ready(), summing(target):
            check_sums(target, z, {}, data)
            prior, likelihood = target.terms_of_set(z, {}, data)
    return prior + likelihood
