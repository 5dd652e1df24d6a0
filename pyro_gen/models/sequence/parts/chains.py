"""Posteriors over the states of Markov chains whose emissions have been scored."""

import torch
from torch import Tensor

from pyro_gen.distributions.hidden_markov import chain_product

__all__ = ["allowed_moves", "most_likely_path", "state_probabilities"]


def allowed_moves(name: str, states: int, allowed: Tensor | None, start: Tensor | None) -> tuple[Tensor, Tensor]:
    """Which transitions there are, (K, K), and where a chain may begin, (K): all by default.

    Raises:
        ValueError: The shapes are others, or a state has no successor; ``name`` is that of the class.
    """
    allowed = torch.ones(states, states, dtype=torch.bool) if allowed is None else torch.as_tensor(allowed).bool()
    start = torch.ones(states, dtype=torch.bool) if start is None else torch.as_tensor(start).bool()
    if allowed.shape != (states, states) or start.shape != (states,) or not allowed.any(1).all() or not start.any():
        raise ValueError(
            f"{name}: allowed is a matrix of {states} by {states} with a successor for each state, start has "
            f"{states} entries and one True, not shapes {tuple(allowed.shape)} and {tuple(start.shape)}."
        )
    return allowed, start


def state_probabilities(initial: Tensor, transition: Tensor, observed: Tensor) -> Tensor:
    r"""The posterior :math:`p(z_t = k \mid x)`: the gradient of :math:`\log p(x)` with respect to :math:`\log B_{tk}`.

    Arguments:
        initial: Log-probabilities of the first state, with shape :math:`(K)`.
        transition: Of the next state given the one before, with shape :math:`(K, K)`.
        observed: The logarithms of :math:`B_{tk} = p(x_t \mid z_t = k)`, with shape :math:`(N, T, K)`.

    Returns:
        Probabilities with shape :math:`(N, T, K)`.

    Example:
        >>> fair = torch.tensor([0.5, 0.5]).log()
        >>> stay = torch.eye(2).log()
        >>> state_probabilities(fair, stay, torch.tensor([[[0.2, 0.1], [0.6, 0.3]]]).log())[0, :, 0]  # 4 : 1
        tensor([0.8000, 0.8000])
    """

    def log_prob(observed: Tensor) -> Tensor:
        first = initial + observed[:, 0]
        if observed.shape[1] > 1:
            first = first + chain_product(transition + observed[:, 1:].unsqueeze(-2)).logsumexp(-1)
        return first.logsumexp(-1).sum()

    found: Tensor = torch.func.grad(log_prob)(observed)
    return found


def most_likely_path(initial: Tensor, transition: Tensor, observed: Tensor) -> Tensor:
    """The most likely path of states (Viterbi, 1967), as integers with shape :math:`(N, T)`; arguments as above.

    Example:
        >>> fair = torch.tensor([0.5, 0.5]).log()
        >>> stay = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).log()
        >>> most_likely_path(fair, stay, torch.tensor([[[0.2, 0.1], [0.1, 0.3], [0.9, 0.1]]]).log()).tolist()
        [[0, 0, 0]]
    """
    score, origins = initial + observed[:, 0], []
    for t in range(1, observed.shape[1]):
        score, origin = (score.unsqueeze(-1) + transition).max(-2)
        score = score + observed[:, t]
        origins.append(origin)
    path = [score.argmax(-1)]
    for origin in reversed(origins):
        path.append(origin.gather(-1, path[-1].unsqueeze(-1)).squeeze(-1))
    return torch.stack(path[::-1], 1)
