"""Marginals of a field of discrete variables, and how they were found."""

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Marginals"]


@dataclass(frozen=True)
class Marginals:
    """Probabilities of values, given what was seen of N rows.

    Attributes:
        log_partition: The logarithm of the sum over what was not seen, with shape :math:`(N,)`, in nats: log Z where
            nothing was; by belief propagation Bethe's approximation of it.
        variables: For each variable the probabilities of its values, with shape :math:`(N, K)`.
        factors: For each factor the joint probabilities of its variables, with shape :math:`(N, K_1, K_2, ...)`.
        method: ``"variable elimination"`` or ``"loopy belief propagation"``.
        exact: Whether they are exact.
        sweeps: Of belief propagation, until messages stood still.
        converged: Whether they did.
    """

    log_partition: Tensor
    variables: list[Tensor]
    factors: list[Tensor]
    method: str
    exact: bool
    sweeps: int = 0
    converged: bool = True

    def __str__(self) -> str:
        how = "exact" if self.exact else f"approximate, {self.sweeps} sweeps"
        how += "" if self.converged else ", not converged"
        return f"log Z {float(self.log_partition.mean()):.4f} nats by {self.method} ({how})"
