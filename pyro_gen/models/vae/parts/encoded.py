"""Where the training of an encoder and a decoder starts: at what is known about each entry by itself."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from pyro_gen._sizes import event_of
from pyro_gen.heads import Head, make_head
from pyro_gen.program import Program

__all__ = ["EncodedProgram"]


class EncodedProgram(Program):
    r"""A program of data that an encoder reads and a decoder, with a likelihood head, makes.

    The encoder sees data less its mean :math:`m`, and the decoder adds to the output of its network an offset
    :math:`b`, learned further, that fits the marginal of each entry. Both are set from the first data seen.

    Arguments:
        event_shape: The shape of one datum, or the number of its entries.
        likelihood: The name of a likelihood head in :data:`pyro_gen.heads.HEADS`, or a head.
        head_options: Passed to the likelihood head.
    """

    mean: Tensor
    initialised: Tensor
    decoder: nn.Module

    def __init__(self, event_shape: int | Sequence[int], likelihood: str | Head, **head_options: Any) -> None:
        super().__init__()
        self.event_shape = event_of(self, event_shape)
        self.likelihood = make_head(likelihood, self.event_shape, **head_options)
        self.offset = nn.Parameter(torch.zeros(self.likelihood.features))
        self.register_buffer("mean", torch.zeros(self.event_shape))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))

    def initialise(self, x: Any, *context: Any, seed: int = 0) -> Self:
        """Sets the mean and the decoder's offset from data with shape :math:`(N, *event)`, the first time only.

        Of a mapping, of data and their labels say, from its ``x``.
        """
        self._start(x["x"] if isinstance(x, Mapping) else x)
        return super().initialise(x, *context, seed=seed)

    def _start(self, x: Tensor) -> None:
        if not self.initialised:
            with torch.no_grad():
                self.mean.copy_(self.likelihood.normalise(x).nanmean(0).nan_to_num())
                self.offset.copy_(self.likelihood.marginal_features(x))
                self.initialised.fill_(True)

    def centre(self, x: Tensor) -> Tensor:
        """Data as the encoder sees it: normalised, less its mean, NaN where missing; same shape."""
        return self.likelihood.normalise(x) - self.mean

    def decode(self, z: Tensor) -> Any:
        """The likelihood of data given latent variables with shape :math:`(*, K)`."""
        return self.likelihood(self.decoder(z) + self.offset)
