"""Data whose entries follow each other: how a network sees them, and where it starts."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from pyro_gen._sizes import check_known, check_sizes, event_of
from pyro_gen.density import rows_of
from pyro_gen.distributions import MaskedEntries, OrderedEntries, elements, of_entry
from pyro_gen.heads import CategoricalHead, Head, make_head
from pyro_gen.inference.likelihood.in_order import particles_in_order
from pyro_gen.program import MissingParticles, Program

__all__ = ["EntryProgram"]

PARTICLES_PER_ORDER = 64  # of an ensemble of orders, at least


class EntryProgram(Program):
    """A program of D entries that follow each other.

    Arguments:
        event_shape: The shape of one datum, or the number of its entries.
        likelihood: The name of a likelihood head in :data:`pyro_gen.heads.HEADS`, of entries that are independent given
            the output of a network.
        context: The number C of features that the model is conditioned on.
        shared: Whether entries are steps of one kind, whose head is one; a series may then have any number of them.
        head_options: Passed to the likelihood head.

    Attributes:
        entries: The number D of entries.
        inputs: How many inputs an entry has: one of each level where it is categorical, else one.
        offset: What the head is given where the network says nothing, with the shape of its features.

    Raises:
        ValueError: A datum has no entries, there is no such head, or the number of features is negative.
    """

    initialised: Tensor

    def __init__(
        self,
        event_shape: int | Sequence[int],
        likelihood: str,
        context: int,
        shared: bool = False,
        **head_options: Any,
    ) -> None:
        super().__init__()
        self.event_shape = event_of(self, event_shape)
        check_sizes(self, 0, context=context)
        self.entries, self.context = self.event_shape.numel(), context
        self.likelihood: Head = make_head(likelihood, (1 if shared else self.entries,), **head_options)
        self.inputs = self.likelihood.levels if isinstance(self.likelihood, CategoricalHead) else 1
        self.offset = nn.Parameter(torch.zeros(self.likelihood.features))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))

    def initialise(self, x: Tensor, *context: Any, seed: int = 0) -> Self:
        """Sets the offset from data with shape :math:`(N, *event)`, the first time only."""
        if not self.initialised:
            with torch.no_grad():
                self.offset.copy_(self.likelihood.marginal_features(x.reshape(-1, self.offset.shape[-1])))
                self.initialised.fill_(True)
        return super().initialise(x, *context, seed=seed)

    @property
    def support(self) -> Any:
        """The support of an entry."""
        return elements(self.likelihood(self.offset.detach())).support

    def encode(self, values: Tensor) -> Tensor:
        """Values as a network sees them, (*, D) to (*, D, inputs)."""
        if self.inputs > 1:
            levels = torch.arange(self.inputs, device=values.device)
            dtype = values.dtype if values.is_floating_point() else self.offset.dtype  # summed out, they are integers
            return (values.unsqueeze(-1) == levels).to(dtype)
        return self.likelihood.normalise(values).unsqueeze(-1)

    def laws(self, h: Tensor) -> Any:
        """The laws of entries, with batch shape (*, D), for the output of a network with shape (*, F)."""
        return elements(self.likelihood(h.reshape(*h.shape[:-1], *self.likelihood.features[:-1], -1) + self.offset))

    def law(self, h: Tensor, entry: int) -> Any:
        """The law of one entry, with batch shape (*), for the output of a network for it alone, of shape (*, F / D)."""
        features = (
            h.reshape(*h.shape[:-1], *self.likelihood.features[:-1], 1)
            + self.offset[..., entry % self.offset.shape[-1], None]
        )
        law = elements(self.likelihood(features))
        return of_entry(law, entry % law.batch_shape[-1])  # a head may keep something for each of the entries

    def observed(self, rows: int, context: Tensor | None = None) -> OrderedEntries:
        """The law of so many data, with a context of shape (rows, C) where there is one."""
        raise NotImplementedError

    def observed_like(self, x: Tensor, context: Tensor | None) -> OrderedEntries:
        """The law of data with the shape of x, (N, *), given a context of shape (*, N, C) where there is one."""
        return self.observed(len(x), context)

    def particles(self, count: int, x: Tensor, *context: Any) -> tuple[OrderedEntries, Tensor]:
        """The law of rows, with a context (S, N, C) of S particles of each, and the log-weights of these, (S, N)."""
        given = self.given(x, context)
        law = self.observed_like(x, None if given is None else given.expand(count, *given.shape))
        return law, torch.zeros(count, len(x), dtype=torch.float64, device=x.device)

    def missing_particles(self, x: Tensor, *context: Any) -> MissingParticles | None:
        """Particles along the order; ``None`` where no order is fixed, and where missing entries come last.

        Of an ensemble each order has 64 of them, or its share of those asked for where this is more.
        """
        first, _ = self.particles(1, x[:1], *rows_of(x, context, slice(1)))
        if not isinstance(first, MaskedEntries) or first.drops_out(~torch.isnan(x.flatten(1))):
            return None

        def make(rows: Tensor, given: tuple[Any, ...], count: int) -> tuple[Tensor, Tensor, Tensor]:
            enough = PARTICLES_PER_ORDER * len(first.orders) if len(first.orders) > 1 else count
            law, log_weights = self.particles(max(count, enough), rows, *given)
            assert isinstance(law, MaskedEntries)
            return particles_in_order(law, log_weights, rows)

        return make

    def check_inputs(self, x: Tensor, *context: Any) -> None:
        super().check_inputs(x, *context)
        self.given(x, context)
        check_known(self, *context)

    def given(self, x: Tensor, context: tuple[Tensor, ...]) -> Tensor | None:
        """The context, checked, in the precision of the weights.

        Raises:
            ValueError: It is there or not there, unlike what the program is for, is no single tensor, or has another
                shape.
        """
        shapes = [tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__ for part in context]
        if shapes != ([(len(x), self.context)] if self.context else []):
            want = f"one tensor with shape (N, {self.context}), a row for each datum" if self.context else "no context"
            raise ValueError(
                f"{type(self).__name__}(context={self.context}) got context of shapes {shapes} for {len(x)} data: give "
                f"{want}."
            )
        return context[0].to(self.offset.dtype) if context else None
