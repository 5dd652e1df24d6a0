r"""Whether each known factor of variation has a latent dimension of its own: the mutual information gap (MIG).

With the factors :math:`v_k` of the data and the means :math:`z_j` of their codes,

.. math:: \text{MIG} = \frac{1}{F} \sum_k \frac{1}{H(v_k)} \Big( I(z_{j_1}; v_k) - I(z_{j_2}; v_k) \Big) ,

:math:`j_1` the dimension that tells most of the factor and :math:`j_2` the next: 1 where one dimension knows it and no
other anything, 0 where two know as much. The information is that of a table of counts, the codes cut into bins.

References:
    | Isolating Sources of Disentanglement in Variational Autoencoders (Chen, Li, Grosse & Duvenaud, 2018)
    | https://arxiv.org/abs/1802.04942
    | Challenging Common Assumptions in the Unsupervised Learning of Disentangled Representations (Locatello et al.,
      2019), the bins
    | https://arxiv.org/abs/1811.12359
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_gen.data.datasets import load
from pyro_gen.inference.latent_space import latent_space
from pyro_gen.program import Program
from pyro_gen.registry import Measured, measure

__all__ = ["mutual_information", "mutual_information_gap", "mutual_information_gap_of"]

Progress = Callable[[float], None] | None


def mutual_information(codes: Tensor, factors: Tensor, bins: int = 20) -> tuple[Tensor, Tensor]:
    """The mutual information of each dimension of codes with each factor.

    Arguments:
        codes: With shape (N, K).
        factors: Whole numbers from 0, with shape (N, F).
        bins: The number of bins of equal width that a dimension is cut into.

    Returns:
        The information, with shape (K, F), and the entropy of the factors, with shape (F,), in nats.
    """
    low, high = codes.min(0).values, codes.max(0).values
    cut = ((codes - low) / (high - low).clamp(min=1e-12) * bins).long().clamp(max=bins - 1)  # (N, K)
    z = torch.nn.functional.one_hot(cut, bins).double()  # (N, K, B)
    information, entropy = [], []
    for k in range(factors.shape[1]):
        v = torch.nn.functional.one_hot(factors[:, k].long()).double()  # (N, V)
        joint = torch.einsum("nkb,nv->kbv", z, v) / len(codes)
        own = [joint.sum(2, keepdim=True), joint.sum(1, keepdim=True)]
        information.append(torch.special.xlogy(joint, joint / (own[0] * own[1]).clamp(min=1e-300)).sum((1, 2)))
        entropy.append(torch.special.entr(v.mean(0)).sum())
    return torch.stack(information, 1), torch.stack(entropy)


def mutual_information_gap(codes: Tensor, factors: Tensor, bins: int = 20) -> float:
    """The gap, in [0, 1]; arguments as of :func:`mutual_information`.

    Example:
        >>> factors = torch.cartesian_prod(torch.arange(4), torch.arange(5))
        >>> round(mutual_information_gap(factors.float(), factors), 3)  # a dimension each
        1.0
        >>> round(mutual_information_gap(factors.float()[:, [0, 0, 1, 1]], factors), 3)  # two each
        0.0

    Raises:
        ValueError: A factor has one value only.
    """
    information, entropy = mutual_information(codes, factors, bins)
    if constant := (entropy == 0).nonzero().flatten().tolist():
        raise ValueError(f"the mutual information gap: factor {constant[0]} has one value, so nothing can tell it.")
    none = information.new_zeros(1, information.shape[1])  # a single dimension has no next
    best = torch.cat([information, none]).topk(2, 0).values  # (2, F)
    return float(((best[0] - best[1]) / entropy).mean())


@measure("mutual_information_gap", unit="", better="higher")
def mutual_information_gap_of(
    program: Program, data: Any, *, of: str = "shapes", bins: int = 20, seed: int = 0, progress: Progress = None
) -> Measured:
    """The gap of the means of a program's guide, of all data of ``of``, whose targets are the factors.

    Of all the images that there are, no sample: it has no sampling error.
    """
    whole = load(of)
    if whole.train_target is None or whole.train_target.dim() != 2:
        raise ValueError(f"the mutual information gap needs known factors, which {of!r} has not: use 'shapes'.")
    assert whole.test_target is not None
    factors = torch.cat([whole.train_target, whole.test_target])
    x = torch.cat([whole.train, whole.test]).to(next(program.parameters()))
    with latent_space(program, torch.full_like(x, torch.nan), (), seed, "the mutual information gap") as space:
        found = space.coordinates(x)
        means = torch.cat([z.movedim(space.dims[n], 0).flatten(1) for n, z in found.items()], 1).cpu()
    return Measured(mutual_information_gap(means, factors, bins), 0.0, float("nan"), "estimate", f"{bins} bins")
