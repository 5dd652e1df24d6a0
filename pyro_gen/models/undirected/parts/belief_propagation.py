r"""Loopy belief propagation: marginals from messages between factors and variables, exact on trees.

A factor a tells a variable i in it what the others say, and a variable tells a factor what the others tell it,

.. math::
    m_{a \to i}(x_i) \propto \sum_{x_a \setminus x_i} \psi_a(x_a) \prod_{j \in a, j \ne i} m_{j \to a}(x_j), \qquad
    m_{i \to a}(x_i) \propto \prod_{b \ni i, b \ne a} m_{b \to i}(x_i) .

Where messages stand still, beliefs :math:`b_i \propto \prod_a m_{a \to i}` and
:math:`b_a \propto \psi_a \prod_{i \in a} m_{i \to a}` approximate the marginals, and

.. math:: \log Z \approx \sum_a \mathbb{E}_{b_a} \log \frac{\psi_a}{b_a}
    + \sum_i (d_i - 1) \, \mathbb{E}_{b_i} \log b_i ,

Bethe's approximation, for variables in :math:`d_i` factors. On a tree both are exact.

References:
    | Factor graphs and the sum-product algorithm (Kschischang, Frey & Loeliger, 2001)
    | https://doi.org/10.1109/18.910572
    | Constructing free-energy approximations and generalized belief propagation algorithms (Yedidia et al., 2005)
    | https://doi.org/10.1109/TIT.2005.850085
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_gen.models.bayesian_network.parts.elimination import Factor
from pyro_gen.models.undirected.parts.marginals import Marginals

__all__ = ["propagate"]

SWEEPS = 2000
TOLERANCE = 1e-10  # of log-messages, in nats
DAMPING = 0.3  # the share of the old message that is kept; without it loops make messages swing


@dataclass
class _Group:
    """Factors of as many variables each."""

    places: list[int]  # among all factors
    variables: Tensor  # (F, A)
    tables: Tensor  # (F, K, ..., K), minus infinity where a variable has no such value
    messages: Tensor  # to the variables, (N, F, A, K)


@torch.no_grad()
def propagate(factors: Sequence[Factor], evidence: Sequence[Tensor], levels: Sequence[int]) -> Marginals:
    """Runs belief propagation on a factor graph, for rows of evidence at once.

    Arguments:
        factors: The factors; variables are called by their numbers, as text.
        evidence: For each variable log-weights of its values in each row, with shape :math:`(N, K_i)`.
        levels: The number of values of each variable.

    Returns:
        The marginals, approximate unless the graph is a tree.
    """
    most, rows = max(levels), len(evidence[0])
    own = torch.full((rows, len(levels), most), -torch.inf, dtype=torch.float64, device=evidence[0].device)
    for i, weights in enumerate(evidence):
        own[:, i, : levels[i]] = weights
    groups = _grouped(factors, own)
    beliefs = _beliefs(own, groups)
    change, sweeps = float("inf"), 0
    while change > TOLERANCE and sweeps < SWEEPS:
        change, sweeps = 0.0, sweeps + 1
        for group in groups:
            new = _messages(group, beliefs)
            old = group.messages
            moved = torch.where(new.isfinite(), (new - old).abs(), 0.0)
            change = max(change, float(moved.max()))
            group.messages = torch.where(new.isfinite(), (1 - DAMPING) * new + DAMPING * old, new)
        beliefs = _beliefs(own, groups)
    log_z, joint = _bethe(own, groups, beliefs, len(factors))
    nodes = beliefs.softmax(-1)
    return Marginals(
        log_z,
        [nodes[:, i, :k] for i, k in enumerate(levels)],
        [b[(slice(None), *(slice(levels[int(n)]) for n in f.names))] for f, b in zip(factors, joint, strict=True)],
        "loopy belief propagation",
        False,
        sweeps,
        change <= TOLERANCE,
    )


def _grouped(factors: Sequence[Factor], own: Tensor) -> list[_Group]:
    most = own.shape[-1]
    places = defaultdict(list)
    for i, factor in enumerate(factors):
        places[len(factor.names)].append(i)
    groups = []
    for arity, chosen in places.items():
        tables = own.new_full((len(chosen), *[most] * arity), -torch.inf)
        for table, i in zip(tables, chosen, strict=True):
            values = factors[i].values[0]
            table[tuple(slice(size) for size in values.shape)] = values.to(own)
        variables = torch.tensor([[int(n) for n in factors[i].names] for i in chosen], device=own.device)
        groups.append(_Group(chosen, variables, tables, own.new_zeros(len(own), len(chosen), arity, most)))
    return groups


def _beliefs(own: Tensor, groups: Sequence[_Group]) -> Tensor:
    """The sum of all that variables are told, (N, n, K)."""
    total = own.clone()
    for group in groups:
        total.index_add_(1, group.variables.flatten(), group.messages.flatten(1, 2))
    return total - total.logsumexp(-1, keepdim=True)


def _incoming(group: _Group, beliefs: Tensor) -> Tensor:
    """What variables tell the factors of a group, (N, F, A, K)."""
    told = beliefs[:, group.variables]
    return torch.where(told > -torch.inf, told - group.messages.clamp(min=-1e300), -torch.inf)


def _joint(group: _Group, incoming: Tensor, leave_out: int | None = None) -> Tensor:
    """The tables times what all variables tell them, but for one of them, (N, F, K, ..., K)."""
    total = group.tables.unsqueeze(0)
    arity = group.variables.shape[1]
    for slot in range(arity):
        if slot != leave_out:
            shape = [*incoming.shape[:2], *(incoming.shape[-1] if s == slot else 1 for s in range(arity))]
            total = total + incoming[:, :, slot].reshape(shape)
    return total


def _messages(group: _Group, beliefs: Tensor) -> Tensor:
    incoming = _incoming(group, beliefs)
    out = []
    for slot in range(group.variables.shape[1]):
        joint = _joint(group, incoming, slot).movedim(2 + slot, 2).expand(len(beliefs), *group.tables.shape)
        out.append(joint.flatten(3).logsumexp(3) if joint.dim() > 3 else joint)
    message = torch.stack(out, 2)
    return message - message.logsumexp(-1, keepdim=True)


def _bethe(own: Tensor, groups: Sequence[_Group], beliefs: Tensor, count: int) -> tuple[Tensor, list[Tensor]]:
    degree = own.new_zeros(own.shape[1])
    total = own.new_zeros(len(own))
    joint: list[Tensor] = [own] * count
    for group in groups:
        weights = _joint(group, _incoming(group, beliefs)).expand(len(own), *group.tables.shape)
        log_b = weights - weights.flatten(2).logsumexp(2).reshape(*weights.shape[:2], *(1 for _ in weights.shape[2:]))
        b = log_b.exp()
        tables = group.tables.unsqueeze(0)
        total = total + torch.where(b > 0, b * (tables - log_b), 0.0).flatten(1).sum(1)
        for k, place in enumerate(group.places):
            joint[place] = b[:, k]
        degree.index_add_(0, group.variables.flatten(), torch.ones_like(group.variables.flatten(), dtype=own.dtype))
    b = beliefs.exp()
    negative_entropy = torch.where(b > 0, b * beliefs, 0.0).sum(-1)  # (N, n)
    energy = torch.where(b > 0, b * own, 0.0).sum((1, 2))  # the evidence is a factor of each variable, too
    return total + ((degree - 1) * negative_entropy).sum(1) + energy, joint
