"""Sequences of vectors whose steps a likelihood head has: what deep models of them share."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from pyro_gen._sizes import check_sizes, event_of
from pyro_gen.heads import Head, make_head
from pyro_gen.program import Program

__all__ = ["DeepSequence"]


class DeepSequence(Program):
    """A program of sequences with shape (N, T) or (N, T, D), of which a step has a likelihood head.

    Arguments:
        event_shape: The shape of a sequence to generate, or its length T; sequences of any length are observed.
        latent: The number K of latent dimensions of a step.
        likelihood: The name of a likelihood head in :data:`pyro_gen.heads.HEADS`, or a head, of a step.
        head_options: Passed to the likelihood head.

    Attributes:
        offset: What a head is given where networks say nothing, with the shape of its features.
        mean: The mean of a step of the first data, as networks see it.

    Raises:
        ValueError: A datum is no sequence, there is no such head, or there is no latent dimension.
    """

    mean: Tensor
    initialised: Tensor
    any_length = True

    def __init__(
        self, event_shape: int | Sequence[int], latent: int, likelihood: str | Head, **head_options: Any
    ) -> None:
        super().__init__()
        self.event_shape = event_of(self, event_shape)
        check_sizes(self, latent=latent)
        if len(self.event_shape) not in (1, 2):
            raise ValueError(
                f"{type(self).__name__}(event_shape={event_shape!r}): a datum is a sequence of T numbers or vectors, "
                "give (T) or (T, D)."
            )
        self.latent, step = latent, self.event_shape[1:]
        self.likelihood = make_head(likelihood, step, **head_options)
        self.offset = nn.Parameter(torch.zeros(self.likelihood.features))
        self.register_buffer("mean", torch.zeros(step))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))

    def initialise(self, x: Tensor, *context: Any, seed: int = 0) -> Self:
        """Sets mean and offset from the steps of sequences, the first time only."""
        if not self.initialised:
            with torch.no_grad():
                steps = x.flatten(0, 1)
                self.mean.copy_(self.likelihood.normalise(steps).nanmean(0).nan_to_num())
                self.offset.copy_(self.likelihood.marginal_features(steps))
                self.initialised.fill_(True)
        return super().initialise(x, *context, seed=seed)

    def emit(self, h: Tensor) -> Any:
        """The law of steps for the output of a network, with shape :math:`(*, F)`: F features in one dimension."""
        return self.likelihood(h.reshape(*h.shape[:-1], *self.likelihood.features) + self.offset)

    def inputs(self, x: Tensor) -> Tensor:
        """Steps as a network sees them, with shape :math:`(*, D)`, D = 1 where they are numbers; NaN stays NaN."""
        normal = self.likelihood.normalise(x) - self.mean
        return normal if len(self.event_shape) > 1 else normal.unsqueeze(-1)
