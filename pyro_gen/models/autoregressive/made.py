r"""MADE: an autoencoder whose connections are masked, so that each output sees the entries before it alone.

.. math::
    p(x) = \prod_{t=1}^D p\big(x_{o(t)} \mid x_{o(1)}, \dots, x_{o(t-1)}\big)

Entry :math:`o(t)` has the degree t as input and as output, and a hidden unit a degree between 1 and D - 1. A connection
is there where a hidden unit has at least the degree of what it sees, and where an output has more than that of a hidden
unit or, directly, of an input. So one pass of the network has all D laws, and training is that of an autoencoder.
Drawing keeps the sums of the first layer, to which each entry adds its own (as those of NADE; Larochelle & Murray,
2011), and computes the outputs of one entry at a time. What the model is conditioned on has the degree 0.

With several masks, each with an order and degrees of hidden units of its own, the weights are shared, training takes
one of them at a time (:class:`pyro_gen.inference.OneOrder`), and the density is the mean of theirs.

Missing entries are integrated out exactly where they come last in every order. Elsewhere :func:`pyro_gen.impute` draws
them, and :func:`pyro_gen.log_likelihood` weighs the seen ones, by particles along the order
(:mod:`pyro_gen.inference.likelihood.in_order`).

References:
    | MADE: Masked Autoencoder for Distribution Estimation (Germain, Gregor, Murray & Larochelle, 2015)
    | https://arxiv.org/abs/1502.03509
    | The Neural Autoregressive Distribution Estimator (Larochelle & Murray, 2011)
    | https://proceedings.mlr.press/v15/larochelle11a.html
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_gen._sizes import check_widths
from pyro_gen.data.small import binary_rows, level_rows, normal_rows
from pyro_gen.distributions import MaskedEntries, Steps
from pyro_gen.inference.objectives import OneOrder
from pyro_gen.models.autoregressive.parts.entries import EntryProgram
from pyro_gen.observation import observe
from pyro_gen.registry import model

__all__ = ["MADE"]


@model(
    "masked autoencoder for distribution estimation",
    paper="Germain et al. (2015)",
    small={
        "bernoulli": lambda: (MADE(4, (8,)), binary_rows(9, 4)),
        "categorical": lambda: (MADE((2, 2), (8,), "categorical", levels=3), level_rows(3, 9, 2, 2)),
        "three masks, conditional": lambda: (MADE(4, (8,), masks=3, context=2), binary_rows(9, 4), normal_rows(9, 2)),
    },
)
class MADE(EntryProgram):
    r"""Creates a masked autoencoder for distribution estimation.

    Arguments:
        event_shape: The shape of one datum, or the number D of its entries.
        hidden: The widths of the hidden layers.
        likelihood: The name of a likelihood head in :data:`pyro_gen.heads.HEADS`.
        order: The entries in their order, flattened; by default as they are, row by row. For one mask alone.
        masks: The number M of masks; of several, each has an order of its own, drawn.
        context: The number C of features that the model is conditioned on, a context with shape :math:`(N, C)`.
        dropout: The share of hidden units dropped in training.
        seed: Draws orders and degrees.
        head_options: Passed to the likelihood head, ``levels=17`` say.

    Raises:
        ValueError: Sizes are out of range, or the order is none of all entries.

    Example:
        >>> program = MADE(3, hidden=(16,))
        >>> cube = torch.cartesian_prod(*3 * [torch.tensor([0.0, 1.0])])
        >>> round(program.observed(8).log_prob(cube).exp().sum().item(), 5)  # all that can be
        1.0
    """

    orders: Tensor

    def __init__(
        self,
        event_shape: int | Sequence[int],
        hidden: Sequence[int] = (256,),
        likelihood: str = "bernoulli",
        order: Sequence[int] | None = None,
        masks: int = 1,
        context: int = 0,
        dropout: float = 0.0,
        seed: int = 0,
        **head_options: Any,
    ) -> None:
        super().__init__(event_shape, likelihood, context, **head_options)
        check_widths(self, hidden=hidden)
        d = self.entries
        if masks < 1 or (order is not None and (masks > 1 or sorted(order) != list(range(d)))):
            raise ValueError(
                f"MADE(order={order}, masks={masks}): give one mask or more, and an order, of all {d} entries once "
                "each, with one mask alone."
            )
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.stack([torch.randperm(d, generator=generator) for _ in range(masks)])
        given = torch.arange(d) if order is None else torch.tensor(list(order))
        self.register_buffer("orders", drawn if masks > 1 else given.unsqueeze(0))
        own = self.orders.argsort(1) + 1  # (M, D): the degrees of entries
        given_degrees = own.new_zeros(masks, context)
        degrees = [torch.cat([own.repeat_interleave(self.inputs, 1), given_degrees], 1)]
        for width in hidden:
            degrees.append(torch.randint(1, max(2, d), (masks, width), generator=generator))
        features = self.likelihood.features.numel()
        out = own.repeat(1, features // d)
        self.layers = nn.ModuleList(Masked(of.unsqueeze(2) >= to.unsqueeze(1)) for to, of in pairwise(degrees))
        self.last = Masked(out.unsqueeze(2) > degrees[-1].unsqueeze(1))
        self.direct = Masked(out.unsqueeze(2) > degrees[0].unsqueeze(1))
        self.dropout = nn.Dropout(dropout)
        self.objective = OneOrder()

    def network(self, values: Tensor, m: Any, context: Tensor | None) -> Any:
        """The laws of entries of values with shape (*, D), by the m-th mask."""
        x = self.encode(values).flatten(-2)
        x = x if context is None else torch.cat([x, context.expand(*x.shape[:-1], -1)], -1)
        h = x
        for layer in self.layers:
            h = self.dropout(F.relu(layer(h, m)))
        return self.laws(self.last(h, m) + self.direct(x, m))

    def observed(self, rows: int, context: Tensor | None = None) -> MaskedEntries:
        """The law of so many data, with a context of shape (rows, C) where there is one."""
        shape = (self.event_shape, self.support, torch.Size((rows,)))
        return MaskedEntries(self.network, self.orders, *shape, context, lambda n, m, c: KeptSums(self, n, m, c))

    def model(self, x: Tensor, *context: Tensor) -> Tensor:
        """The density of data with shape :math:`(N, *event)`; returns them completed."""
        with self.plate(x):
            return observe("x", self.observed(len(x), self.given(x, context)), x)


class Masked(nn.Module):
    """A linear layer with M masks of its weights, with shape (M, outputs, inputs)."""

    masks: Tensor

    def __init__(self, masks: Tensor) -> None:
        super().__init__()
        self.register_buffer("masks", masks)
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(masks.shape[1:])))
        self.bias = nn.Parameter(torch.zeros(masks.shape[1]))

    def forward(self, x: Tensor, m: Any) -> Tensor:
        return F.linear(x, self.weight * self.masks[m], self.bias)


class KeptSums(Steps):
    """The laws of entries one after the other, from the sums of the first layer over those before."""

    def __init__(self, program: MADE, rows: int, m: int, context: Tensor | None) -> None:
        self.program, self.t, self.order = program, 0, program.orders[m].tolist()
        layers: list[Any] = [*program.layers, program.last, program.direct]
        *self.hidden, self.last, self.direct = ((part.weight * part.masks[m], part.bias) for part in layers)
        self.x = program.offset.new_zeros(rows, self.direct[0].shape[1])  # encoded entries, and the context
        if context is not None:
            self.x[:, -context.shape[1] :] = context
        self.sums = F.linear(self.x, *self.hidden[0]) if self.hidden else self.x

    def kept(self) -> list[Tensor]:
        return [self.x, self.sums] if self.hidden else [self.x]

    def law(self, previous: Tensor | None) -> Any:
        """The law of the next entry, with batch shape (rows,), given the value of the one before."""
        p, d = self.program, self.program.entries
        if previous is not None:
            at = slice(self.order[self.t - 1] * p.inputs, (self.order[self.t - 1] + 1) * p.inputs)
            self.x[:, at] = p.encode(previous.unsqueeze(-1)).squeeze(-2)
            if self.hidden:
                self.sums += self.x[:, at] @ self.hidden[0][0][:, at].T
        h = p.dropout(F.relu(self.sums)) if self.hidden else self.sums
        for weight, bias in self.hidden[1:]:
            h = p.dropout(F.relu(F.linear(h, weight, bias)))
        entry = self.order[self.t]
        ((u, a), (v, b)) = ((weight[entry::d], bias[entry::d]) for weight, bias in (self.last, self.direct))
        self.t += 1
        return p.law(F.linear(h, u, a) + F.linear(self.x, v, b), entry)
