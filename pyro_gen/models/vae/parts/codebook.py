r"""Sequences of code vectors from a book of them: a point posterior on the nearest, and an autoregressive prior.

A code is P vectors of d numbers, each of the book :math:`e_1, \dots, e_C`. It has finitely many values, so a posterior
that is a point has probability 1 there and the ELBO is a bound:

.. math::
    q(k_p \mid x) = 1 \text{ at } \arg\min_k \lVert u_p(x) - e_k \rVert, \qquad
    p(k) = \prod_p p(k_p \mid k_1, \dots, k_{p-1}) .
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

__all__ = ["Codewords", "MaskedPredictor", "NearestCodeword", "nearest"]


def nearest(u: Tensor, book: Tensor) -> Tensor:
    """The numbers of the nearest vectors of a book (C, d), with shape (*), of vectors (*, d)."""
    distance = u.square().sum(-1, keepdim=True) - 2 * u @ book.T + book.square().sum(-1)
    return distance.argmin(-1)


def indicators(index: Tensor, size: int, like: Tensor) -> Tensor:
    """Whole numbers with shape (*) as indicators (*, size)."""
    return (index.unsqueeze(-1) == torch.arange(size, device=index.device)).to(like.dtype)


class _Codeword(constraints.Constraint):
    """Vectors of a book; not checked, since rounding moves them."""

    is_discrete = True
    event_dim = 2

    def check(self, value: Any) -> Any:
        return torch.ones(value.shape[:-2], dtype=torch.bool, device=value.device)


class Codewords(TorchDistribution):
    r"""Creates the autoregressive law of P vectors of a book, with event shape (P, d).

    Arguments:
        book: The vectors, with shape (C, d).
        predictor: A function from indicators of the code, (*, P, C), to logits of the same shape, those of a place
            depending on the places before it.
        places: The number P of places.
        batch_shape: The batch shape.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = _Codeword()

    def __init__(
        self, book: Tensor, predictor: Callable[[Tensor], Tensor], places: int, batch_shape: Sequence[int] = ()
    ) -> None:
        self.book, self.predictor, self.places = book, predictor, places
        super().__init__(torch.Size(batch_shape), torch.Size([places, book.shape[1]]), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Codewords":
        return Codewords(self.book, self.predictor, self.places, torch.Size(batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-probability of the nearest vectors, in nats."""
        z = indicators(nearest(value, self.book), len(self.book), value)  # (*, P, C)
        log_p = (self.predictor(z).log_softmax(-1) * z).sum((-1, -2))
        return log_p.expand(torch.broadcast_shapes(log_p.shape, self.batch_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws place after place."""
        shape = (*sample_shape, *self.batch_shape)
        with torch.no_grad():
            z = self.book.new_zeros(*shape, self.places, len(self.book))
            for place in range(self.places):
                logits = self.predictor(z)[..., place, :]
                noise = -torch.rand_like(logits).clamp(1e-12, 1 - 1e-7).log()
                drawn = indicators((logits - noise.log()).argmax(-1), len(self.book), z)
                z = torch.cat([z[..., :place, :], drawn.unsqueeze(-2), z[..., place + 1 :, :]], -2)
            return z @ self.book


class NearestCodeword(dist.Delta):
    r"""Creates the point at the nearest vectors of a book, through which gradients go straight to what was quantised.

    Of finitely many values, so its log-probability there is 0 and a point is a proposal.

    Arguments:
        u: What is quantised, with shape (*, P, d).
        book: The vectors, with shape (C, d).
    """

    support = _Codeword()

    def __init__(self, u: Tensor, book: Tensor) -> None:
        self.u, self.book = u, book
        super().__init__(u + (book[nearest(u, book)] - u).detach(), event_dim=2, validate_args=False)  # type: ignore[no-untyped-call]

    def expand(self, batch_shape: Any, _instance: Any = None) -> "NearestCodeword":
        return NearestCodeword(self.u.expand(*batch_shape, *self.event_shape), self.book)

    def log_prob(self, x: Tensor) -> Tensor:
        """0 where the value is the point, up to rounding, else minus infinity."""
        same = (nearest(x, self.book) == nearest(self.u, self.book)).all(-1)
        return torch.where(same, 0.0, -torch.inf).to(self.u.dtype)


class MaskedPredictor(nn.Module):
    r"""Creates a masked network (MADE) that predicts each of P symbols from those before it.

    References:
        | MADE: Masked Autoencoder for Distribution Estimation (Germain et al., 2015)
        | https://arxiv.org/abs/1502.03509

    Arguments:
        places: The number P of places.
        symbols: The number C of symbols.
        hidden: The number of hidden units.

    Example:
        >>> net = MaskedPredictor(3, 4, hidden=16)
        >>> z = torch.zeros(3, 4).requires_grad_()
        >>> slope = torch.autograd.grad(net(z)[1].sum(), z)[0].abs().sum(1)
        >>> bool(slope[0] > 0), slope[1:].tolist()
        (True, [0.0, 0.0])
    """

    after: Tensor
    before: Tensor
    direct: Tensor

    def __init__(self, places: int, symbols: int, hidden: int) -> None:
        super().__init__()
        self.shape, size = (places, symbols), places * symbols
        place = torch.arange(places).repeat_interleave(symbols)  # of each input and output
        unit = torch.arange(hidden) % max(places - 1, 1)  # the last place that a hidden unit sees
        self.register_buffer("after", (unit[:, None] >= place).float())  # (H, P C)
        self.register_buffer("before", (place[:, None] > unit).float())  # (P C, H)
        self.register_buffer("direct", (place[:, None] > place).float())
        self.first = nn.Linear(size, hidden)
        self.second = nn.Linear(hidden, size)
        self.skip = nn.Parameter(torch.zeros(size, size))
        nn.init.zeros_(self.second.bias)

    def forward(self, z: Tensor) -> Tensor:
        """Logits (*, P, C) from indicators (*, P, C)."""
        flat = z.flatten(-2)
        h = torch.relu(nn.functional.linear(flat, self.first.weight * self.after, self.first.bias))
        out = nn.functional.linear(h, self.second.weight * self.before, self.second.bias)
        return (out + flat @ (self.skip * self.direct).T).unflatten(-1, self.shape)  # type: ignore[no-any-return]
