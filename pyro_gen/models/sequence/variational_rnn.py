r"""The variational recurrent network: each step has latent variables, and a state that remembers all there has been.

.. math::
    z_t \mid h_{t-1} &\sim \mathcal{N}\big(\mu_\theta(h_{t-1}), \operatorname{diag} \sigma_\theta(h_{t-1})^2\big),
    \qquad x_t \mid z_t, h_{t-1} \sim p\big(x \mid f_\theta(z_t, h_{t-1})\big), \\
    h_t &= \operatorname{GRU}\big((x_t, z_t), h_{t-1}\big), \qquad
    q(z_t \mid x_t, h_{t-1}) = \mathcal{N}\big(\mu_\phi(x_t, h_{t-1}), \operatorname{diag} \sigma_\phi(\cdot)^2\big) .

The state is no random variable of its own: it is a function of what was seen and drawn, which makes it a model of
sequences that is at once recurrent and, in each step, as rich as a variational autoencoder.

Everything seen feeds the state, so what is missing before something that is seen is a latent variable:
:func:`pyro_gen.log_likelihood` and :func:`pyro_gen.impute` sample it. The guide does not know it, and puts the mean in
its place. NaN at the end is a forecast, as everywhere in this family; of sequences of different length give the lengths
as context: what is beyond the end counts nothing then, in training too.

References:
    | A Recurrent Latent Variable Model for Sequential Data (Chung et al., 2015)
    | https://arxiv.org/abs/1506.02216
"""

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_gen._sizes import check_sizes, check_widths
from pyro_gen.data.small import binary_rows, normal_rows
from pyro_gen.heads import Head
from pyro_gen.models.sequence.parts.steps import DeepSequence
from pyro_gen.nets import GRU, MLP
from pyro_gen.observation import observe
from pyro_gen.registry import model
from pyro_gen.sequences import steps

__all__ = ["VariationalRNN"]


@model(
    "variational recurrent network",
    paper="Chung et al. (2015)",
    small={
        "normal": lambda: (VariationalRNN((3, 2), 2, hidden=(6,), recurrent=5), normal_rows(9, 3, 2)),
        "bernoulli": lambda: (VariationalRNN(3, 2, (6,), 5, likelihood="bernoulli"), binary_rows(9, 3)),
    },
)
class VariationalRNN(DeepSequence):
    r"""Creates a variational recurrent network.

    Arguments:
        event_shape: The shape of a sequence to generate, :math:`(T)` or :math:`(T, D)`, or its length T; sequences of
            any length are observed.
        latent: The number K of latent dimensions of a step.
        hidden: The widths of hidden layers of prior, decoder and encoder.
        recurrent: The width H of the state.
        likelihood: The name of a likelihood head in :data:`pyro_gen.heads.HEADS`, or a head, of a step.
        head_options: Passed to the likelihood head.

    Raises:
        ValueError: A datum is no sequence, sizes are out of range, or there is no such head.

    Example:
        >>> program = VariationalRNN((4, 3), latent=2, hidden=(8,), recurrent=8)
        >>> program.model(torch.full((5, 4, 3), torch.nan)).shape  # five generated sequences
        torch.Size([5, 4, 3])
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        latent: int = 8,
        hidden: Sequence[int] = (64,),
        recurrent: int = 64,
        likelihood: str | Head = "normal",
        **head_options: Any,
    ) -> None:
        super().__init__(event_shape, latent, likelihood, **head_options)
        check_sizes(self, recurrent=recurrent)
        check_widths(self, hidden=hidden)
        entries, features = self.event_shape[1:].numel(), self.likelihood.features.numel()
        self.prior = MLP((recurrent, *hidden, 2 * latent))
        self.decoder = MLP((latent + recurrent, *hidden, features))
        self.encoder = MLP((entries + recurrent, *hidden, 2 * latent), missing=True)
        self.memory = GRU(entries + latent, recurrent)

    def model(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        r"""The joint density of ``z_0``, ... and sequences with shape :math:`(N, T, *D)`; returns these completed.

        With the length of each, :math:`(N)`, as context, what is beyond the end stays NaN; else it is a forecast.
        """
        completed = []
        with self.plate(x):
            h = x.new_zeros(len(x), self.memory.width)  # (N, H)
            for t in steps(x, _ends(x, lengths)):
                z = pyro.sample(f"z_{t}", _normal(self.prior(h)))  # (N, K)
                x_t = observe(f"x_{t}", self.emit(self.decoder(_beside(z, h))), x[:, t])
                completed.append(x_t)
                h = self.memory.step(_beside(self.inputs(x_t), z), h)
        return torch.stack(completed, 1)

    def guide(self, x: Tensor, lengths: Tensor | None = None) -> None:
        r"""The approximate posterior :math:`\prod_t q(z_t \mid x_{\le t}, z_{<t})`."""
        inputs = self.inputs(x)  # (N, T, D)
        with self.plate(x):
            h = x.new_zeros(len(x), self.memory.width)
            for t in steps(x, _ends(x, lengths)):
                z = pyro.sample(f"z_{t}", _normal(self.encoder(_beside(inputs[:, t], h))))
                h = self.memory.step(_beside(inputs[:, t].nan_to_num(), z), h)


def _ends(x: Tensor, lengths: Tensor | None) -> Tensor:
    """The lengths of sequences, T of all where none are given."""
    return torch.full(x.shape[:1], x.shape[1], device=x.device) if lengths is None else lengths


def _normal(features: Tensor) -> Any:
    loc, raw = features.chunk(2, -1)
    return dist.Normal(loc, 1e-3 + F.softplus(raw)).to_event(1)


def _beside(*parts: Tensor) -> Tensor:
    """Features side by side, of parts whose dimensions to the left broadcast."""
    batch = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return torch.cat([part.expand(*batch, part.shape[-1]) for part in parts], -1)
