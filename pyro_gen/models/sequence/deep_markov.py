r"""The deep Markov model: a state space model whose transitions and emissions are networks.

.. math::
    z_t \mid z_{t-1} \sim \mathcal{N}\big(\mu_\theta(z_{t-1}), \operatorname{diag} \sigma_\theta(z_{t-1})^2\big),
    \qquad x_t \mid z_t \sim p\big(x \mid f_\theta(z_t)\big), \qquad z_0 \text{ learned.}

The gated transition goes between a line and a network, entry by entry,

.. math::
    \mu(z) = (1 - g) \odot (A z + b) + g \odot h, \qquad g = \operatorname{sigmoid}(\mathrm{NN}_g(z)), \quad
    h = \mathrm{NN}_h(z), \qquad \sigma(z) = \operatorname{softplus}(W \operatorname{relu}(h) + c) ,

and the linear one has :math:`\mu(z) = A z + b` and a constant :math:`\sigma`; with a linear normal emission (no hidden
units) the model is then the linear-Gaussian state space, whose likelihood the Kalman filter has.

**The guide** follows the posterior :math:`p(z_t \mid z_{t-1}, x_{t:T})`: what is still to come is read by a recurrent
network from the end, :math:`h_t`, and combined with the state before,

.. math::
    q(z_t \mid z_{t-1}, x) = \mathcal{N}\big(\mu_\phi(c_t), \operatorname{diag} \sigma_\phi(c_t)^2\big), \qquad
    c_t = \tfrac12 \big( \tanh(W z_{t-1} + b) + h_t \big) .

``direction="forward"`` reads what has been instead, which filters, and ``"both"`` has the mean of the three terms. With
``guide="iaf"`` the law of a step is an inverse autoregressive flow of noise, given :math:`c_t`, and so not normal.

What is missing of a step drops out, and the network is told which it is. Where nothing is seen from t on, the posterior
*is* the transition, and the guide takes it: NaN behind all that was seen, a forecast, costs nothing in the bound.

References:
    | Structured Inference Networks for Nonlinear State Space Models (Krishnan, Shalit & Sontag, 2017)
    | https://arxiv.org/abs/1609.09869
    | Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016)
    | https://arxiv.org/abs/1606.04934
"""

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_gen._sizes import check_sizes, check_widths
from pyro_gen.data.small import binary_rows, normal_rows
from pyro_gen.distributions import Either, MarkovPath
from pyro_gen.distributions.flows import AmortisedFlow
from pyro_gen.heads import Head
from pyro_gen.models.sequence.parts.steps import DeepSequence
from pyro_gen.models.sequence.parts.transitions import GatedTransition, LinearTransition
from pyro_gen.nets import GRU, MLP
from pyro_gen.observation import note_lengths, observe
from pyro_gen.registry import model

__all__ = ["DeepMarkov"]

DIRECTIONS = ("backward", "forward", "both")


@model(
    "deep Markov model",
    paper="Krishnan, Shalit & Sontag (2017)",
    small={
        "normal": lambda: (DeepMarkov((5, 2), 2, hidden=(6,), recurrent=7), normal_rows(9, 5, 2)),
        "bernoulli, both": lambda: (
            DeepMarkov((5, 2), 2, (6,), 7, likelihood="bernoulli", direction="both"),
            binary_rows(9, 5, 2),
        ),
        "iaf": lambda: (DeepMarkov((5, 2), 2, (6,), 7, guide="iaf"), normal_rows(9, 5, 2)),
        "linear": lambda: (DeepMarkov(4, 2, (), 7, transition="linear", direction="forward"), normal_rows(9, 4)),
    },
)
class DeepMarkov(DeepSequence):
    r"""Creates a deep Markov model.

    Arguments:
        event_shape: The shape of a sequence to generate, :math:`(T)` or :math:`(T, D)`, or its length T; sequences of
            any length are observed.
        latent: The number K of dimensions of a state.
        hidden: The widths of hidden layers of the emission; their first is that of the gated transition.
        recurrent: The width of the guide's recurrent network.
        likelihood: The name of a likelihood head in :data:`pyro_gen.heads.HEADS`, or a head, of a step.
        transition: ``"gated"`` or ``"linear"``.
        direction: What the guide reads: ``"backward"`` from the end, ``"forward"`` from the beginning, or ``"both"``.
        guide: The approximate posterior of a step: ``"mean field"``, or ``"iaf"``.
        dropout: The share of hidden units of the emission dropped in training.
        head_options: Passed to the likelihood head.

    Attributes:
        start: The state :math:`z_0`, with shape :math:`(K)`.

    Raises:
        ValueError: A datum is no sequence, sizes are out of range, or names are unknown.

    Example:
        >>> import pyro_gen as pg
        >>> program = DeepMarkov((7, 3), latent=2, hidden=(8,), recurrent=8)
        >>> x = torch.zeros(4, 7, 3)
        >>> x[:, 5:] = torch.nan  # two steps to come
        >>> pg.impute(program, x, draws=10).shape
        torch.Size([10, 4, 7, 3])
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        latent: int = 8,
        hidden: Sequence[int] = (64,),
        recurrent: int = 64,
        likelihood: str | Head = "normal",
        transition: str = "gated",
        direction: str = "backward",
        guide: str = "mean field",
        dropout: float = 0.0,
        **head_options: Any,
    ) -> None:
        super().__init__(event_shape, latent, likelihood, **head_options)
        check_sizes(self, recurrent=recurrent)
        check_widths(self, hidden=hidden)
        if transition not in ("gated", "linear"):
            raise ValueError(f'DeepMarkov(transition={transition!r}): give "gated" or "linear".')
        if direction not in DIRECTIONS:
            raise ValueError(f"DeepMarkov(direction={direction!r}): choose one of {', '.join(DIRECTIONS)}.")
        if guide not in ("mean field", "iaf"):
            raise ValueError(f'DeepMarkov(guide={guide!r}): give "mean field" or "iaf".')
        if transition == "gated" and not hidden:
            raise ValueError("DeepMarkov(hidden=()): a gated transition has hidden units, give their number.")
        features = self.likelihood.features.numel()
        self.transition: nn.Module = (
            GatedTransition(latent, hidden[0]) if hidden and transition == "gated" else (LinearTransition(latent))
        )
        self.emission = MLP((latent, *hidden, features), "relu", dropout)
        self.start = nn.Parameter(torch.zeros(latent))
        reads = {"backward": (True,), "forward": (False,), "both": (True, False)}[direction]
        entries = self.event_shape[1:].numel()
        self.reversed = reads
        self.readers = nn.ModuleList(GRU(entries, recurrent, missing=True) for _ in reads)
        self.combine = nn.Linear(latent, recurrent)
        self.posterior: nn.Module = (
            AmortisedFlow(recurrent, latent, "affine", layers=2) if guide == "iaf" else nn.Linear(recurrent, 2 * latent)
        )

    def model(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        r"""The joint density of paths ``z`` and sequences with shape :math:`(N, T, *D)`; returns these completed.

        With the length of each, :math:`(N)`, as context, what is beyond the end stays NaN; else it is a forecast.
        """
        if lengths is not None:
            note_lengths(x, lengths)
        with self.plate(x):
            z = pyro.sample("z", MarkovPath(self.transition, self.start, x.shape[1]))  # (N, T, K)
            return observe("x", self.emit(self.emission(z)).to_event(1), x)

    def guide(self, x: Tensor, lengths: Tensor | None = None) -> None:
        r"""The approximate posterior :math:`\prod_t q(z_t \mid z_{t-1}, x)`."""
        steps = self.inputs(x)  # (N, T, D)
        read = sum(net(steps, back) for net, back in zip(self.readers, self.reversed, strict=True))  # (N, T, H)
        seen = ~torch.isnan(steps).all(-1, keepdim=True)
        ahead = seen.flip(1).cumsum(1).flip(1) > 0  # (N, T, 1): whether anything is seen from here on
        start = self.start.expand(len(x), -1)
        with self.plate(x):
            flow = isinstance(self.posterior, AmortisedFlow)
            pyro.sample("z", MarkovPath(self.follow, start, x.shape[1], (read, ahead), keep=flow))

    def follow(self, z: Tensor, read: Tensor, ahead: Tensor) -> Any:
        r"""The law :math:`q(z_t \mid z_{t-1}, x)`, of :math:`z_{t-1}` with shape :math:`(*, K)`."""
        c = (torch.tanh(self.combine(z)) + read) / (1 + len(self.readers))
        if isinstance(self.posterior, AmortisedFlow):
            return Either(ahead[..., 0], self.posterior(c), self.transition(z))
        loc, raw = self.posterior(c).chunk(2, -1)
        prior = self.transition(z).base_dist
        scale = torch.where(ahead, 1e-3 + F.softplus(raw), prior.scale)
        return dist.Normal(torch.where(ahead, loc, prior.loc), scale).to_event(1)
