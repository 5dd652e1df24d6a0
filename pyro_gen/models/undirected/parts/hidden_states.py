r"""Sums over all states of the hidden units of a restricted Boltzmann machine.

With the visible units in a seen part o and a missing part m, given h the missing ones sum out one by one,

.. math:: \sum_{v_m} p_0(v) \, e^{a^\top \phi(v) + b^\top h + \phi(v)^\top W h}
    = p_0(v_o) \, e^{b^\top h + t_o^\top \phi(v_o) + \sum_{i \in m} A_i(t_i)} , \qquad t = a + W h ,

so that what is left is a sum over :math:`2^K` states of h, two products of matrices for all rows at once.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from pyro_gen.models.undirected.parts.visible import Visible

__all__ = ["draw_given_seen", "log_sum_over_hidden"]

STATES = 2**16  # at a time
CELLS = 2**24  # of rows by states, at a time


def log_sum_over_hidden(visible: Visible, weights: Tensor, a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """The logarithm of the sum over hidden states and missing visible units.

    Arguments:
        visible: The visible units.
        weights: W, with shape :math:`(D W, K)`.
        a: The biases of the visible units, with shape :math:`(D W,)`.
        b: Those of the hidden units, with shape :math:`(K,)`.
        x: Rows with shape :math:`(N, D)`, NaN where missing.

    Returns:
        float64 with shape :math:`(N,)`, in nats.
    """
    parts = []
    for rows in x.split(max(1, CELLS // min(2 ** len(b), STATES))):
        sums = [scores.logsumexp(1) for _, scores in _scores(visible, weights, a, b, rows)]
        parts.append(torch.stack(sums).logsumexp(0) + _log_base(visible, rows))
    return torch.cat(parts)


def draw_given_seen(visible: Visible, weights: Tensor, a: Tensor, b: Tensor, x: Tensor, draws: int) -> Tensor:
    """Draws missing visible units given the seen ones, by the global generator: a hidden state, and them given it.

    Arguments:
        visible: As for :func:`log_sum_over_hidden`, and so are the others.
        weights: W.
        a: The biases of the visible units.
        b: Those of the hidden units.
        x: Rows.
        draws: The number S of draws of each.

    Returns:
        Completed rows with shape :math:`(S, N, D)`.
    """
    out = []
    for rows in x.split(max(1, CELLS // 2 ** len(b))):
        every = list(_scores(visible, weights, a, b, rows))
        log_weights = torch.cat([scores for _, scores in every], 1)  # (n, M)
        # By inversion, for there may be more states than torch.multinomial takes.
        up_to = log_weights.softmax(1).cumsum(1)
        at = up_to[:, -1:] * (1 - torch.rand(len(rows), draws, dtype=up_to.dtype, device=x.device))
        state = torch.searchsorted(up_to, at).clamp(max=up_to.shape[1] - 1)  # (n, S)
        h = torch.cat([states for states, _ in every])[state.T.flatten()].to(weights)  # (S n, K)
        drawn = visible.draw(a + h @ weights.T).view(draws, *rows.shape)
        out.append(torch.where(rows.isnan(), drawn.to(x.dtype), rows))
    return torch.cat(out, 1)


def _scores(visible: Visible, weights: Tensor, a: Tensor, b: Tensor, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Some states (M, K) after the other, with the log-weight of each beside each row, float64 (N, M)."""
    weights, a, b = weights.double(), a.double(), b.double()
    missing = x.isnan()
    phi = visible.features(torch.where(missing, 0.0, x).double())
    phi = torch.where(missing.repeat_interleave(visible.width, 1), 0.0, phi)
    powers = 2 ** torch.arange(len(b), device=x.device)
    for first in range(0, 2 ** len(b), STATES):
        number = torch.arange(first, min(first + STATES, 2 ** len(b)), device=x.device)
        states = ((number.unsqueeze(1) & powers) > 0).double() - 0.5
        t = a + states @ weights.T  # (M, D W)
        scores = phi @ t.T + states @ b
        if bool(missing.any()):
            scores = scores + missing.double() @ visible.log_mean(t).T
        yield states, scores


def _log_base(visible: Visible, x: Tensor) -> Tensor:
    """The log-density of what was seen under the base, (N,)."""
    missing = x.isnan()
    log_p = visible.base(x.shape[1:]).log_prob(torch.where(missing, 0.0, x))
    return torch.where(missing, 0.0, log_p).double().sum(1)
