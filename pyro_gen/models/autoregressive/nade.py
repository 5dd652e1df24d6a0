r"""Order-agnostic NADE: one network has the law of any entry given any others, so any order of entries is a density.

.. math::
    p_o(x) = \prod_{t=1}^D p\big(x_{o(t)} \mid x_{o(1)}, \dots, x_{o(t-1)}\big), \qquad
    p(x) = \frac1M \sum_{m=1}^M p_{o_m}(x)

The network sees the known entries, and which these are; it gives the laws of all others at once. It learns every order
together: with k entries known at random, the mean log-density of the others is an unbiased estimate of the mean of
:math:`\log p_o(x)` over all orders (:class:`pyro_gen.inference.OneOrder`). The orders are laws of their own, which need
not agree, and their mixture is better than each.

What is seen of a datum comes first in each order, so missing entries drop out, in training too, and are drawn one after
the other given all others: in-painting needs no sampler. (The density of a datum with missing entries is that of these
orders. It is the integral of the mixture only as far as orders agree.)

References:
    | A Deep and Tractable Density Estimator (Uria, Murray & Larochelle, 2014)
    | https://arxiv.org/abs/1310.1757
    | The Neural Autoregressive Distribution Estimator (Larochelle & Murray, 2011)
    | https://proceedings.mlr.press/v15/larochelle11a.html
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_gen._sizes import check_sizes
from pyro_gen.data.small import binary_rows, level_rows, normal_rows
from pyro_gen.distributions import OrderAgnosticEntries
from pyro_gen.inference.objectives import OneOrder
from pyro_gen.models.autoregressive.parts.entries import EntryProgram
from pyro_gen.observation import observe
from pyro_gen.registry import model

__all__ = ["NADE"]


@model(
    "order-agnostic neural autoregressive distribution estimator",
    paper="Uria, Murray & Larochelle (2014)",
    small={
        "bernoulli": lambda: (NADE(4, 8, orders=3), binary_rows(9, 4)),
        "categorical": lambda: (NADE((2, 2), 8, likelihood="categorical", orders=1, levels=3), level_rows(3, 9, 2, 2)),
        "conditional": lambda: (NADE(4, 8, orders=2, context=2), binary_rows(9, 4), normal_rows(9, 2)),
    },
)
class NADE(EntryProgram):
    r"""Creates an order-agnostic neural autoregressive distribution estimator.

    Arguments:
        event_shape: The shape of one datum, or the number D of its entries.
        width: The width of the hidden layers.
        depth: The number of hidden layers after the first, each added to what it sees.
        likelihood: The name of a likelihood head in :data:`pyro_gen.heads.HEADS`.
        orders: The number M of orders of the mixture, drawn.
        context: The number C of features that the model is conditioned on, a context with shape :math:`(N, C)`.
        dropout: The share of hidden units dropped in training.
        seed: Draws the orders.
        head_options: Passed to the likelihood head, ``levels=17`` say.

    Raises:
        ValueError: Sizes are out of range.

    Example:
        >>> import pyro_gen as pg
        >>> program = NADE(4, width=8, orders=2)
        >>> x = torch.tensor([[1.0, torch.nan, 0.0, torch.nan]])
        >>> pg.impute(program, x, draws=3).shape
        torch.Size([3, 1, 4])
    """

    orders: Tensor

    def __init__(
        self,
        event_shape: int | Sequence[int],
        width: int = 512,
        depth: int = 1,
        likelihood: str = "bernoulli",
        orders: int = 16,
        context: int = 0,
        dropout: float = 0.0,
        seed: int = 0,
        **head_options: Any,
    ) -> None:
        super().__init__(event_shape, likelihood, context, **head_options)
        check_sizes(self, width=width, orders=orders)
        check_sizes(self, 0, depth=depth)
        generator = torch.Generator().manual_seed(seed)
        drawn = [torch.randperm(self.entries, generator=generator) for _ in range(orders)]
        self.register_buffer("orders", torch.stack(drawn))
        self.first = nn.Linear(self.entries * (self.inputs + 1) + context, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.last = nn.Linear(width, self.likelihood.features.numel())
        self.dropout = nn.Dropout(dropout)
        self.objective = OneOrder()

    def network(self, values: Tensor, known: Tensor, context: Tensor | None) -> Any:
        """The laws of entries given those known, of values and booleans with shape (*, D)."""
        told = known.to(values.dtype)
        seen = (self.encode(values) * told.unsqueeze(-1)).flatten(-2)
        h = F.relu(self.first(torch.cat([seen, told, *([] if context is None else [context])], -1)))
        for layer in self.layers:
            h = h + F.relu(layer(self.dropout(h)))
        return self.laws(self.last(self.dropout(h)))

    def observed(self, rows: int, context: Tensor | None = None) -> OrderAgnosticEntries:
        """The law of so many data, with a context of shape (rows, C) where there is one."""
        return OrderAgnosticEntries(
            self.network, self.orders, self.event_shape, self.support, torch.Size((rows,)), context
        )

    def model(self, x: Tensor, *context: Tensor) -> Tensor:
        """The density of data with shape :math:`(N, *event)`; returns them completed."""
        with self.plate(x):
            return observe("x", self.observed(len(x), self.given(x, context)), x)
