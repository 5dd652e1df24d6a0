r"""Absorbing diffusion: entries are hidden one after the other, and a network that sees the others reveals them.

Each entry has one of K values. At the noise level :math:`m_i`, which rises from :math:`m_0 = 1 / (T + 1)` to
:math:`m_T = 1`, an entry is hidden with that probability. A step back reveals a hidden entry with the probability
:math:`r_i = (m_i - m_{i-1}) / m_i`, with a value that the guide knows and the model draws,

.. math::
    q(z_{i-1} \mid z_i, x): \; x_d, \qquad p(z_{i-1} \mid z_i): \; \text{a draw of } p_d(\cdot \mid z_i),

and what is hidden in :math:`z_0` is the observation. So the negative bound is a sum of losses of hidden entries,

.. math::
    \sum_{i=0}^T r_i \, \mathbb{E} \sum_{d \text{ hidden in } z_i} - \log p_d(x_d \mid z_i), \qquad r_0 = 1 .

With many steps, hardly any two entries are revealed in the same one. The chain is then an autoregressive model in an
order drawn at random (:class:`~pyro_gen.models.NADE`), and the bound the mean of its log-densities over all orders.
The network is told no time: what is hidden says it.

References:
    | Structured Denoising Diffusion Models in Discrete State-Spaces (Austin et al., 2021)
    | https://arxiv.org/abs/2107.03006
    | Autoregressive Diffusion Models (Hoogeboom et al., 2022)
    | https://arxiv.org/abs/2110.02037
"""

from collections.abc import Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_gen._sizes import check_sizes, event_of
from pyro_gen.data.small import binary_rows, level_rows, normal_rows
from pyro_gen.distributions import LevelCategorical
from pyro_gen.heads import make_head
from pyro_gen.inference.likelihood.revealing import particles_by_revealing
from pyro_gen.inference.objectives import DiffusionELBO
from pyro_gen.models.diffusion.parts.networks import check_context
from pyro_gen.models.diffusion.parts.unmasking import Unmasking
from pyro_gen.noising import NoisingChain
from pyro_gen.program import MissingParticles
from pyro_gen.registry import model

__all__ = ["AbsorbingDiffusion"]


@model(
    "absorbing discrete diffusion",
    paper="Austin et al. (2021)",
    small={
        "binary": lambda: (AbsorbingDiffusion(4, steps=3, width=8), binary_rows(9, 4)),
        "levels": lambda: (AbsorbingDiffusion((2, 2), 3, steps=2, width=8), level_rows(3, 9, 2, 2)),
        "conditional": lambda: (
            AbsorbingDiffusion(3, steps=2, width=8, context=2),
            binary_rows(9, 3),
            normal_rows(9, 2),
        ),
    },
)
class AbsorbingDiffusion(NoisingChain):
    r"""Creates an absorbing diffusion model of discrete entries.

    Arguments:
        event_shape: The shape of one datum, or the number D of its entries.
        levels: The number K of values 0, ..., K - 1 of an entry.
        steps: The number T of steps before the observation.
        width: The width of the hidden layers.
        depth: The number of hidden layers after the first, each added to what it sees.
        context: The number C of features that the model is conditioned on, a context with shape :math:`(N, C)`, NaN
            where it is not given.
        dropout: The share of hidden units dropped in training.

    Raises:
        ValueError: Sizes are out of range.

    Example:
        >>> import pyro_gen as pg
        >>> pg.sample(AbsorbingDiffusion((8, 8), steps=16), 5).shape
        torch.Size([5, 8, 8])
    """

    initialised: Tensor

    def __init__(
        self,
        event_shape: int | Sequence[int],
        levels: int = 2,
        steps: int = 64,
        width: int = 512,
        depth: int = 1,
        context: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.event_shape = event_of(self, event_shape)
        check_sizes(self, 2, levels=levels)
        check_sizes(self, steps=steps, width=width)
        check_sizes(self, 0, depth=depth, context=context)
        self.levels, self.steps, self.context = levels, steps, context
        self.entries = self.event_shape.numel()
        self.head = make_head("categorical", (self.entries,), levels=levels)
        self.offset = nn.Parameter(torch.zeros(levels, self.entries))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))
        self.first = nn.Linear(self.entries * (levels + 1) + 2 * context, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.last = nn.Linear(width, levels * self.entries)
        self.dropout = nn.Dropout(dropout)
        self.objective = DiffusionELBO()

    def check_inputs(self, x: Tensor, *context: Any) -> None:
        super().check_inputs(x, *context)
        if len(context) > 1:
            raise ValueError(
                f"AbsorbingDiffusion(context={self.context}) was given {len(context)} context: give one tensor, (N, C)."
            )
        check_context(context[0] if context else None, self.context)

    def initialise(self, x: Tensor, *context: Any, seed: int = 0) -> Self:
        """Sets the offset to the frequencies in data with shape :math:`(N, *event)`, the first time only."""
        if not self.initialised:
            with torch.no_grad():
                self.offset.copy_(self.head.marginal_features(x.flatten(1)))
                self.initialised.fill_(True)
        return super().initialise(x[:1], *(c[:1] for c in context), seed=seed)

    def share(self, i: int | Tensor) -> Tensor:
        """The probability of being hidden at a noise level, :math:`m_i`."""
        return (torch.as_tensor(i, dtype=self.offset.dtype, device=self.offset.device) + 1) / (self.steps + 1)

    def log_probs(self, z: Tensor, *context: Tensor) -> Tensor:
        """The laws of the values, given entries (*, D) of which some are hidden, with shape (*, D, K)."""
        seen = (z.unsqueeze(-1) == torch.arange(self.levels + 1, device=z.device)).to(self.offset.dtype).flatten(-2)
        if self.context:
            given = context[0] if context else seen.new_full((*seen.shape[:-1], self.context), torch.nan)
            unknown = torch.isnan(given)
            told = [given.masked_fill(unknown, 0.0), unknown.to(seen.dtype)]
            seen = torch.cat([seen, *(c.expand(*seen.shape[:-1], -1) for c in told)], -1)
        h = F.relu(self.first(seen))
        for layer in self.layers:
            h = h + F.relu(layer(self.dropout(h)))
        h = self.last(self.dropout(h)).unflatten(-1, (self.levels, self.entries)) + self.offset
        return h.mT.log_softmax(-1)  # type: ignore[no-any-return]

    def start(self, x: Tensor) -> Any:
        hidden = torch.full_like(x.flatten(1), self.levels)
        even = self.offset.new_full((self.entries, self.levels), 1 / self.levels)
        return Unmasking(hidden, self.offset.new_zeros(()), even)  # and none is revealed

    end = start

    def known(self, x: Tensor) -> Tensor:
        """The value of each entry as probabilities (N, D, K), NaN where it is missing."""
        x = x.flatten(1).unsqueeze(-1)
        sure = (x == torch.arange(self.levels, device=x.device)).to(self.offset.dtype)
        return torch.where(torch.isnan(x), torch.nan, sure)

    def predict(self, z: Tensor, i: int, *context: Any) -> Tensor:
        return self.log_probs(z, *context).exp()

    def transition(self, z: Tensor, i: int, clean: Tensor) -> Any:
        return Unmasking(z, 1 - self.share(i - 1) / self.share(i), clean)

    def likelihood(self, z: Tensor, *context: Any) -> Any:
        sure = (z.unsqueeze(-1) == torch.arange(self.levels, device=z.device)).to(self.offset.dtype).log()
        logits = torch.where((z == self.levels).unsqueeze(-1), self.log_probs(z, *context), sure)
        law: Any = LevelCategorical(logits=logits.unflatten(-2, self.event_shape))
        return law.to_event(len(self.event_shape))

    def loss(self, x: Tensor, i: Tensor, *context: Any) -> Tensor:
        """The loss of hidden entries of data, (N, *event), at noise levels (N), in nats, with shape (N)."""
        x = x.flatten(1)
        hidden = torch.rand_like(x) < self.share(i).unsqueeze(-1)
        scores = self.log_probs(torch.where(hidden, self.levels, x), *context)
        told = scores.gather(-1, x.long().unsqueeze(-1)).squeeze(-1)
        return -torch.where(hidden, told, 0.0).sum(-1)

    def ends(self, x: Tensor, *context: Any) -> Tensor:
        return self.loss(x, x.new_zeros(len(x)), *context)

    def step(self, x: Tensor, time: Tensor, *context: Any) -> tuple[Tensor, Tensor]:
        i = (self.steps * time).floor() + 1  # one of 1, ..., T
        return self.loss(x, i, *context), self.steps * (1 - self.share(i - 1) / self.share(i))

    def missing_particles(self, x: Tensor, *context: Any) -> MissingParticles:
        """Particles along the chain.

        Raises:
            ValueError: A seen entry is no value that an entry can have.
        """
        seen = x.nan_to_num()
        wrong = seen[(seen != seen.round()) | (seen < 0) | (seen >= self.levels)]
        if len(wrong):
            raise ValueError(
                f"{type(self).__name__}: data have the value {wrong[0]:g}, and values are 0, ..., {self.levels - 1}: "
                "transform them as in training."
            )
        reveal = [float(1 - self.share(i - 1) / self.share(i)) for i in range(self.steps, 0, -1)] + [1.0]

        def make(rows: Tensor, given: tuple[Any, ...], count: int) -> tuple[Tensor, Tensor, Tensor]:
            return particles_by_revealing(self.log_probs, self.levels, reveal, rows, given, count)

        return make
