r"""Sums, maxima and draws over all segmentations of a series, from the weights of segments.

A segment after s, up to t, has the weight :math:`w_{st}`, and a change before it (none before the first) the prior
probability :math:`h_s`, so a segmentation has the weight :math:`\prod h_s w_{st}` over its segments. With
:math:`F_0 = B_T = 1`,

.. math::
    F_t = \sum_{s < t} F_s h_s w_{st}, \qquad B_s = \sum_{t > s} h_s w_{st} B_t, \qquad p(x) = F_T = B_0 ,

in :math:`T^2` terms. All here is in logarithms: weights with shape :math:`(N, T + 1, T + 1)`, of no meaning where s is
not before t, and changes with shape :math:`(T)`, 0 before the first step.

References:
    | Exact and efficient Bayesian inference for multiple changepoint problems (Fearnhead, 2006)
    | https://doi.org/10.1007/s11222-006-8450-8
"""

import math

import torch
from torch import Tensor

__all__ = ["change_probabilities", "draw", "forward", "most_probable", "number_of_changes", "segment_probabilities"]


def forward(weights: Tensor, log_change: Tensor) -> Tensor:
    r"""The logarithms of :math:`F_0, \dots, F_T`, with shape :math:`(N, T + 1)`."""
    total = torch.zeros_like(weights[..., 0, :1])
    for t in range(1, weights.shape[-1]):
        new = (total + log_change[..., :t] + weights[..., :t, t]).logsumexp(-1, keepdim=True)
        total = torch.cat([total, new], -1)
    return total


def _backward(weights: Tensor, log_change: Tensor) -> Tensor:
    r"""The logarithms of :math:`B_0, \dots, B_T`, with shape :math:`(N, T + 1)`."""
    total = torch.zeros_like(weights[..., 0, :1])
    for s in range(weights.shape[-1] - 2, -1, -1):
        new = (weights[..., s, s + 1 :] + total).logsumexp(-1, keepdim=True) + log_change[s]
        total = torch.cat([new, total], -1)
    return total


def change_probabilities(weights: Tensor, log_change: Tensor) -> Tensor:
    """The posterior probability of a change before each step, 0 before the first, with shape :math:`(N, T)`.

    It is that of paths through s, :math:`F_s B_s / F_T`.
    """
    found, back = forward(weights, log_change), _backward(weights, log_change)
    through = (found[..., :-1] + back[..., :-1] - found[..., -1:]).exp()
    through[..., 0] = 0.0
    return through


def _by_number(weights: Tensor, log_change: Tensor, most: int) -> Tensor:
    """The logarithms of F by the number 0, ..., most of segments, with shape :math:`(N, T + 1, most + 1)`."""
    total = weights.new_full((*weights.shape[:1], 1, most + 1), -math.inf)
    total[..., 0] = 0.0
    for t in range(1, weights.shape[-1]):
        paths = total[..., :-1] + (log_change[:t] + weights[..., :t, t]).unsqueeze(-1)
        new = torch.nn.functional.pad(paths.logsumexp(1, keepdim=True), (1, 0), value=-math.inf)
        total = torch.cat([total, new], 1)
    return total


def number_of_changes(weights: Tensor, log_change: Tensor, most: int) -> Tensor:
    """The posterior probabilities of 0, ..., most changes, with shape :math:`(N, most + 1)`."""
    ends = _by_number(weights, log_change, most + 1)[:, -1, 1:]
    return (ends - forward(weights, log_change)[..., -1:]).exp()


def segment_probabilities(weights: Tensor, log_change: Tensor, most: int) -> Tensor:
    r"""The posterior probability that a step is in the first, second, ... segment: of the changes before it.

    Of a segment m, :math:`J_{st} = F_s^{(m - 1)} h_s w_{st} B_t / F_T` is the probability that it is :math:`(s, t]`,
    and a step is in it where it has begun and not ended.

    Returns:
        Probabilities with shape :math:`(N, T, most + 1)` of 0, ..., ``most`` changes up to a step; what they lack to 1
        is the probability of more.
    """
    back, before = _backward(weights, log_change), _by_number(weights, log_change, most)
    joint = log_change.unsqueeze(-1) + weights[:, :-1, 1:] + back[:, None, 1:] - back[:, :1, None]  # (N, T, T)
    joint = joint.masked_fill(~torch.ones_like(joint[0], dtype=torch.bool).triu(), -math.inf)
    members = []
    for m in range(most + 1):
        is_segment = (before[:, :-1, m].unsqueeze(-1) + joint).exp()
        begun = is_segment.sum(2).cumsum(1)
        ended = torch.nn.functional.pad(is_segment.sum(1).cumsum(1)[:, :-1], (1, 0))
        members.append((begun - ended).clamp(0, 1))
    return torch.stack(members, -1)


def most_probable(weights: Tensor, log_change: Tensor) -> Tensor:
    """The most probable segmentation, the number 0, 1, ... of the segment of each step, with shape :math:`(N, T)`."""
    best, origins = torch.zeros_like(weights[..., 0, :1]), []
    for t in range(1, weights.shape[-1]):
        new, origin = (best + log_change[:t] + weights[..., :t, t]).max(-1, keepdim=True)
        best = torch.cat([best, new], -1)
        origins.append(origin)
    origin = torch.cat(origins, -1)  # where the last segment of the first t steps begins, (N, T)
    change = torch.zeros_like(origin)
    begin = origin[:, -1:]
    for _ in range(len(origins)):
        change.scatter_(1, begin, 1)
        begin = origin.gather(1, (begin - 1).clamp(min=0))
    return change.cumsum(1) - 1


def draw(weights: Tensor, log_change: Tensor, draws: int) -> tuple[Tensor, Tensor]:
    """Draws segmentations from their posterior, from the last segment to the first, by the global generator.

    Arguments:
        weights: As above, of any batch shape :math:`(*, T + 1, T + 1)`.
        log_change: As above.
        draws: The number S of draws of each.

    Returns:
        The s and the t of the segment of each step, both with shape :math:`(S, *, T)`.
    """
    total, steps = forward(weights, log_change), weights.shape[-1] - 1
    ends = torch.full((*total.shape[:-1], draws), steps, device=weights.device)
    begin = ends  # of the segment that is being drawn
    begins, stops = [], []  # of the segment of each step, from the last step to the first
    for last in range(steps, 0, -1):
        cumulative = (total[..., :last] + log_change[:last] + weights[..., :last, last]).softmax(-1).cumsum(-1)
        u = torch.rand(ends.shape, dtype=weights.dtype, device=weights.device) * cumulative[..., -1:]
        fresh = begin == last
        ends = torch.where(fresh, last, ends)
        begin = torch.where(fresh, torch.searchsorted(cumulative, u).clamp(max=last - 1), begin)
        stops.append(ends)
        begins.append(begin)
    s, t = torch.stack(begins[::-1], -1), torch.stack(stops[::-1], -1)  # (*, S, T)
    return s.movedim(-2, 0), t.movedim(-2, 0)
