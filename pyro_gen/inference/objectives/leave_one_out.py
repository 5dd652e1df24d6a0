"""The leave-one-out likelihood, of programs that keep their training data."""

from typing import Any

from torch import Tensor

from pyro_gen.inference.objectives.base import Objective
from pyro_gen.program import Program, data_scale
from pyro_gen.registry import objective

__all__ = ["LeaveOneOut"]


@objective
class LeaveOneOut(Objective):
    r"""The negative log-likelihood of each training datum by the others, :math:`-\sum_n \log p(x_n \mid x_{-n})`.

    For programs that keep their training data, as a kernel density estimate does, and say so by a method
    ``leave_one_out(x, *context)``, which returns that density of each row of a minibatch, with shape (N,). The
    likelihood itself would have each datum explained by itself.

    References:
        | Cross-Validatory Choice and Assessment of Statistical Predictions (Stone, 1974)
        | https://doi.org/10.1111/j.2517-6161.1974.tb00994.x
    """

    anneals = False
    kinds = ("exact",)

    def loss(self, program: Program, x: Tensor, *context: Any, kl_weight: Tensor | float = 1.0) -> Tensor:
        left_out = getattr(program, "leave_one_out", None)
        if left_out is None:
            raise ValueError(f"LeaveOneOut: {type(program).__name__} has no method leave_one_out(x): use ELBO().")
        loss: Tensor = -data_scale(x) * left_out(x, *context).sum()
        return loss
