r"""Sums over directed acyclic graphs in which each counts once, exactly, for up to 13 nodes.

Every graph on S has sinks; with those in T set apart, and inclusion and exclusion over T,

.. math:: Z(S) = \sum_{\emptyset \ne T \subseteq S} (-1)^{|T| + 1} Z(S \setminus T) \prod_{i \in T}
    \alpha_i(S \setminus T), \qquad \alpha_i(U) = \sum_{\Pi \subseteq U} \beta_i(\Pi) .

The probability of parents :math:`\Pi` of i is the derivative of :math:`\log Z(V)` by :math:`\log \beta_i(\Pi)`, taken
backwards through the sums. Terms cancel by at most a factor of :math:`2^d`.

References:
    | Computing posterior probabilities of structural features in Bayesian networks (Tian & He, 2009)
    | https://arxiv.org/abs/1205.2612
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyro_gen.structure.graphs.exact import layers, set_codes, without
from pyro_gen.structure.graphs.scores import Families

__all__ = ["modular_sums"]

Array = npt.NDArray[np.float64]

IMPOSSIBLE = -1e30  # the log of 0, with finite derivatives


def modular_sums(families: Families, size: int) -> tuple[float, Array]:
    """The log of the sum over all graphs, nats, and the probability of each edge from i to j, (d, d).

    Arguments:
        families: The sets of parents.
        size: Which of the equivalent sample sizes.
    """
    d = len(families.sets)
    weights = [torch.tensor(w[size], requires_grad=True) for w in families.log_weights]
    alpha = torch.stack(
        [_subset_sums(set_codes(sets, i), w, d) for i, (sets, w) in enumerate(zip(families.sets, weights, strict=True))]
    )
    found = [torch.zeros(1, dtype=torch.float64)]
    at = torch.zeros(1 << d, dtype=torch.int64)  # where a set is among those found
    for sets, nodes in layers(d)[1:]:
        k = nodes.shape[1]
        chosen = (torch.arange(1, 1 << k)[:, None] >> torch.arange(k)) & 1
        sinks = (chosen[None] << nodes[:, None]).sum(-1)
        rest = sets[:, None] ^ sinks
        known = torch.cat(found)
        log_terms = known[at[rest]]
        for j in range(k):
            node = nodes[:, j : j + 1]
            term = alpha[node, without(torch.where(chosen[:, j].bool(), rest, 0), node)]
            log_terms = log_terms + torch.where(chosen[:, j].bool(), term, 0.0)
        sign = 1.0 - 2.0 * ((chosen.sum(1) + 1) % 2)
        top = log_terms.detach().amax(1)
        total = ((log_terms - top[:, None]).exp() * sign).sum(1)
        possible = top > IMPOSSIBLE / 2
        at[sets] = len(known) + torch.arange(len(sets))
        found.append(torch.where(possible, torch.where(possible, total, 1.0).log() + top, IMPOSSIBLE))
    found[-1].sum().backward()
    columns = [w.grad.numpy() @ sets for w, sets in zip(weights, families.sets, strict=True)]  # type: ignore[union-attr]
    return float(found[-1].detach()), np.stack(columns, 1)


def _subset_sums(codes: Tensor, weights: Tensor, d: int) -> Tensor:
    """Logs of sums of weights over the subsets of each set of d - 1 nodes, (2^(d - 1),)."""
    sums = torch.full((1 << (d - 1),), IMPOSSIBLE, dtype=torch.float64).index_put((codes,), weights)
    for bit in range(d - 1):
        low, high = sums.view(-1, 2, 1 << bit).unbind(1)
        sums = torch.stack([low, torch.logaddexp(low, high)], 1).flatten()
    return sums
