r"""A causal transformer: each entry has a law given those before it, which attention weighs by what they are.

.. math::
    p(x) = \prod_{t=1}^D p\big(x_t \mid h_t\big), \qquad
    h_t^{(0)} = E \, x_{t-1} + P_t + C c, \qquad E \, x_0 = s .

Every block adds to each position what the positions up to it say, and then what a network of two layers makes of that:

.. math::
    h^{(l)\prime}_t &= h_t^{(l-1)} + W_o \sum_{u \le t} \alpha_{tu} v_u, \qquad
        \alpha_{t \cdot} = \operatorname{softmax}_{u \le t} \big( q_t^\top k_u / \sqrt{d} + b_{t - u} \big) \\
    h^{(l)}_t &= h^{(l)\prime}_t + W_2 \operatorname{gelu}\big(W_1 \, \mathrm{LN}(h^{(l)\prime}_t)\big)

where q, k and v are linear in :math:`\mathrm{LN}(h^{(l-1)})`, in several heads of d dimensions, each with a
bias b of its own for how far back an entry is (Raffel et al., 2020): of images, the pixel above is one of these. The
norms stand before attention and network, as in GPT-2. One pass has all D laws; drawing keeps keys and values of the
entries before, so that an entry costs a pass of one position.

Missing entries are integrated out exactly where they come last: a sequence that is shorter than others is padded with
NaN at the end, and has the density of its entries. :func:`pyro_gen.impute` continues it. Elsewhere
:func:`pyro_gen.impute` draws missing entries, and :func:`pyro_gen.log_likelihood` weighs the seen ones, by particles
along the order (:mod:`pyro_gen.inference.likelihood.in_order`).

References:
    | Attention Is All You Need (Vaswani et al., 2017)
    | https://arxiv.org/abs/1706.03762
    | Language Models are Unsupervised Multitask Learners (Radford et al., 2019)
    | Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer (Raffel et al., 2020)
    | https://arxiv.org/abs/1910.10683
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_gen._sizes import check_sizes
from pyro_gen.data.small import binary_rows, level_rows, normal_rows
from pyro_gen.distributions import MaskedEntries, Steps
from pyro_gen.models.autoregressive.parts.entries import EntryProgram
from pyro_gen.observation import observe
from pyro_gen.registry import model

__all__ = ["CausalTransformer"]


@model(
    "causal transformer",
    paper="Vaswani et al. (2017), Radford et al. (2019)",
    small={
        "bernoulli": lambda: (CausalTransformer(4, 8, depth=1, heads=2), binary_rows(9, 4)),
        "categorical": lambda: (
            CausalTransformer((2, 2), 4, depth=1, heads=1, likelihood="categorical", levels=3),
            level_rows(3, 9, 2, 2),
        ),
        "normal, conditional": lambda: (
            CausalTransformer(4, 4, depth=1, heads=1, likelihood="normal", context=2),
            normal_rows(9, 4),
            normal_rows(9, 2),
        ),
    },
)
class CausalTransformer(EntryProgram):
    r"""Creates a causal transformer.

    Arguments:
        event_shape: The shape of one datum, whose entries follow each other row by row, or their number D.
        width: The dimensions of a position, those of the heads together.
        depth: The number of blocks.
        heads: The number of heads of attention.
        likelihood: The name of a likelihood head in :data:`pyro_gen.heads.HEADS`.
        context: The number C of features that the model is conditioned on, a context with shape :math:`(N, C)`.
        dropout: The share of what is added to a position that is dropped in training.
        head_options: Passed to the likelihood head, ``levels=17`` say.

    Raises:
        ValueError: Sizes are out of range, or the heads do not divide the width.

    Example:
        >>> program = CausalTransformer(3, width=8, depth=1, heads=2)
        >>> cube = torch.cartesian_prod(*3 * [torch.tensor([0.0, 1.0])])
        >>> round(program.observed(8).log_prob(cube).exp().sum().item(), 5)  # all that can be
        1.0
    """

    order: Tensor

    def __init__(
        self,
        event_shape: int | Sequence[int],
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        likelihood: str = "bernoulli",
        context: int = 0,
        dropout: float = 0.0,
        **head_options: Any,
    ) -> None:
        super().__init__(event_shape, likelihood, context, **head_options)
        check_sizes(self, width=width, depth=depth, heads=heads)
        if width % heads:
            raise ValueError(f"CausalTransformer(width={width}, heads={heads}): give heads that divide the width.")
        self.heads = heads
        self.embed = nn.Linear(self.inputs, width)
        self.start = nn.Parameter(torch.rand(width) - 0.5)
        self.positions = nn.Parameter(torch.rand(self.entries, width) - 0.5)  # as large as what is embedded
        self.conditioned = nn.Linear(context, width, bias=False) if context else None
        self.blocks = nn.ModuleList(Block(self.entries, width, heads, dropout, depth) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, self.likelihood.features.numel() // self.entries, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("order", torch.arange(self.entries).unsqueeze(0), persistent=False)

    def network(self, values: Tensor, m: Any, context: Tensor | None) -> Any:
        """The laws of entries of values with shape (*, D)."""
        e = self.embed(self.encode(values))  # (*, D, width)
        before = torch.cat([self.start.expand_as(e[..., :1, :]), e[..., :-1, :]], -2)
        h = before + self.positions
        h = self.dropout(h if self.conditioned is None else h + self.conditioned(context).unsqueeze(-2))
        for block in self.blocks:
            h = block(h)
        return self.laws(self.last(self.norm(h)).transpose(-1, -2).flatten(-2))

    def observed(self, rows: int, context: Tensor | None = None) -> MaskedEntries:
        """The law of so many data, with a context of shape (rows, C) where there is one."""
        shape = (self.event_shape, self.support, torch.Size((rows,)))
        return MaskedEntries(self.network, self.order, *shape, context, lambda n, m, c: CachedPositions(self, n, c))

    def model(self, x: Tensor, *context: Tensor) -> Tensor:
        """The density of data with shape :math:`(N, *event)`; returns them completed."""
        with self.plate(x):
            return observe("x", self.observed(len(x), self.given(x, context)), x)


class Block(nn.Module):
    """Attention to the positions up to each, and a network of each position."""

    def __init__(self, entries: int, width: int, heads: int, dropout: float, depth: int) -> None:
        super().__init__()
        self.back = nn.Parameter(torch.zeros(heads, entries))  # the bias of each distance
        self.before_attention, self.before_network = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        last = nn.Linear(4 * width, width)
        self.network = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), last)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.out, last):  # what 2 depth of them add has the variance of one
            nn.init.normal_(layer.weight, std=0.02 * (2 * depth) ** -0.5)

    def forward(self, h: Tensor, kept: Tensor | None = None, t: int = 0) -> Tensor:
        """Maps positions with shape (*, T, width); or position t alone, (N, 1, width), after others that are kept.

        Keys and values are kept in a tensor with shape (N, 2, heads, D, d), into which those of position t are written.
        """
        q, k, v = self.qkv(self.before_attention(h)).unflatten(-1, (3, len(self.back), -1)).movedim(-3, 0)
        q, k, v = (part.transpose(-2, -3) for part in (q, k, v))  # (*, heads, T, d)
        if kept is not None:
            kept[..., t, :] = torch.stack([k, v], 1).squeeze(-2)
            k, v = kept[..., : t + 1, :].unbind(1)
        if kept is None:
            steps = torch.arange(h.shape[-2], device=h.device)
            far = steps.unsqueeze(-1) - steps  # (T, T)
            bias = self.back[:, far.clamp(min=0)].masked_fill(far < 0, -torch.inf)
        else:
            bias = self.back[:, : t + 1].flip(-1).unsqueeze(-2)
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + bias  # (*, heads, T, T), or (N, heads, 1, t + 1)
        h = h + self.dropout(self.out((scores.softmax(-1) @ v).transpose(-2, -3).flatten(-2)))
        return h + self.dropout(self.network(self.before_network(h)))  # type: ignore[no-any-return]


class CachedPositions(Steps):
    """The laws of entries one after the other, from keys and values that are kept: the cache of a transformer."""

    def __init__(self, program: CausalTransformer, rows: int, context: Tensor | None) -> None:
        self.program, self.rows, self.t = program, rows, 0
        self.given = None if program.conditioned is None else program.conditioned(context)
        shape = (rows, 2, program.heads, program.entries, len(program.start) // program.heads)
        self.pairs = [program.start.new_empty(shape) for _ in program.blocks]  # of keys and values

    def kept(self) -> list[Tensor]:
        return [*self.pairs, *([] if self.given is None else [self.given])]

    def law(self, previous: Tensor | None) -> Any:
        """The law of the next entry, with batch shape (rows,), given the value of the one before."""
        p, t = self.program, self.t
        e = p.start if previous is None else p.embed(p.encode(previous.unsqueeze(-1)))
        h = e.expand(self.rows, 1, -1) + p.positions[t]
        h = h if self.given is None else h + self.given.unsqueeze(-2)
        for block, kept in zip(p.blocks, self.pairs, strict=True):
            h = block(h, kept, t)
        self.t += 1
        return p.law(p.last(p.norm(h)).squeeze(-2), t)
