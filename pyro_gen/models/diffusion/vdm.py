r"""Variational diffusion of levels: a chain of infinitely many steps, whose schedule is learned.

The data are entries of L levels, :math:`v_k \in [-1, 1]`. In the limit of many steps the bound is an integral over
time,

.. math::
    -\log p(x) \le \mathrm{KL}\big(q(z_1 \mid x) \,\|\, p(z_1)\big) - \mathbb{E} \log p(x \mid z_0)
    + \tfrac12 \int_0^1 \gamma'(t) \, e^{-\gamma(t)} \, \mathbb{E} \lVert x - \hat x(z_t, \gamma(t)) \rVert^2 dt ,

which depends on the schedule :math:`\gamma` through its ends alone. So the ends are learned with the network, by the
bound, and what lies between them to make the variance of the estimate by one random time small.

The network tells the probabilities of the levels of each entry, beside what is known without it: how frequent a level
is there, and how near the entry's own :math:`z_t` is to it,

.. math::
    p_t(x_d = k \mid z_t) \propto \pi_{dk} \; \mathcal{N}(z_{td}; \alpha_t v_k, \sigma_t^2) \;
    e^{\mathrm{NN}(z_t, \gamma)_{dk}}, \qquad \hat x_d = \sum_k v_k \, p_t(x_d = k \mid z_t), \qquad
    p(x \mid z_0) = p_0(x \mid z_0) .

With the network at 0 that is Bayes' rule for independent entries of the frequencies :math:`\pi`, and the bound is their
likelihood.

As a model/guide pair the chain has ``steps`` steps; :func:`pyro_gen.log_likelihood` and ``DiffusionELBO`` are of the
limit.

References:
    | Variational Diffusion Models (Kingma, Salimans, Poole & Ho, 2021)
    | https://arxiv.org/abs/2107.00630
    | Analog Bits: Generating Discrete Data Using Diffusion Models with Self-Conditioning (Chen et al., 2023),
    | a softmax in the denoiser of discrete data
    | https://arxiv.org/abs/2208.04202
"""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from pyro_gen._sizes import check_sizes, event_of
from pyro_gen.data.small import level_rows, normal_rows
from pyro_gen.heads import make_head
from pyro_gen.inference.objectives import DiffusionELBO
from pyro_gen.models.diffusion.parts.gaussian import GaussianChain
from pyro_gen.models.diffusion.parts.networks import make_network
from pyro_gen.models.diffusion.parts.schedules import Schedule, alpha_sigma, make_schedule
from pyro_gen.registry import model

__all__ = ["VDM"]


@model(
    "variational diffusion",
    paper="Kingma, Salimans, Poole & Ho (2021)",
    small={
        "learned schedule": lambda: (VDM((2, 2), 3, steps=3, width=8, depth=1), level_rows(3, 9, 2, 2)),
        "convolutional": lambda: (
            VDM((2, 2), 3, steps=2, schedule="cosine", network="convolutional", width=4, depth=1),
            level_rows(3, 9, 2, 2),
        ),
        "conditional": lambda: (
            VDM(3, 2, steps=2, width=8, depth=1, context=2),
            level_rows(2, 9, 3),
            normal_rows(9, 2),
        ),
    },
)
class VDM(GaussianChain):
    r"""Creates a variational diffusion model of levels.

    Arguments:
        event_shape: The shape of one datum, or the number of its entries.
        levels: The number L of levels 0, ..., L - 1.
        steps: The number T of steps of the chain that draws.
        schedule: How fast noise is added, ``"learned"``, ``"linear"``, ``"cosine"``, or a
            :class:`~pyro_gen.models.diffusion.parts.schedules.Schedule`.
        network: ``"mlp"``, or ``"convolutional"`` for images.
        width, depth, context, dropout, drop_context: Those of the network,
            :class:`~pyro_gen.models.diffusion.parts.networks.TimeMLP` or
            :class:`~pyro_gen.models.diffusion.parts.networks.TimeConvolutions`.

    Raises:
        ValueError: Sizes are out of range, or there is no such schedule or network.

    Example:
        >>> import pyro_gen as pg
        >>> pg.sample(VDM((8, 8), levels=17, steps=10), 5).shape
        torch.Size([5, 8, 8])
    """

    continuous = True
    initialised: Tensor
    frequencies: Tensor

    def __init__(
        self,
        event_shape: int | Sequence[int],
        levels: int,
        steps: int = 250,
        schedule: str | Schedule = "learned",
        network: str = "mlp",
        width: int = 512,
        depth: int = 2,
        context: int = 0,
        dropout: float = 0.0,
        drop_context: float = 0.0,
    ) -> None:
        super().__init__()
        self.event_shape = event_of(self, event_shape)
        check_sizes(self, 2, levels=levels)
        check_sizes(self, steps=steps)
        self.steps, self.levels = steps, levels
        self.likelihoods = make_head("categorical", self.event_shape, levels=levels)
        self.schedule = make_schedule(schedule)
        self.network = make_network(
            network, self.event_shape, (levels, *self.event_shape), width, depth, context, dropout, drop_context
        )
        self.register_buffer("frequencies", torch.zeros(levels, *self.event_shape))  # logarithms
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))
        self.objective = DiffusionELBO()

    def initialise(self, x: Tensor, *context: Any, seed: int = 0) -> Self:
        """Sets the frequencies of the levels from data with shape :math:`(N, *event)`, the first time only."""
        if not self.initialised:
            with torch.no_grad():
                self.frequencies.copy_(self.likelihoods.marginal_features(x))
                self.initialised.fill_(True)
        return super().initialise(x[:1], *(c[:1] for c in context), seed=seed)

    def known(self, x: Tensor) -> Tensor:
        """Data as they are noised, within [-1, 1]."""
        return self.likelihoods.normalise(x)

    @property
    def values(self) -> Tensor:
        """The levels as they are noised, (L, 1, ..., 1)."""
        levels = torch.arange(self.levels, dtype=self.frequencies.dtype, device=self.frequencies.device)
        return self.known(levels).reshape(-1, *(1,) * self.event_dim)

    def logits(self, z: Tensor, gamma: Tensor, *context: Any) -> Tensor:
        """What the levels are, given data (*, *event) at noise levels (*), with shape (*, L, *event)."""
        alpha, sigma = (part[(...,) + (None,) * (self.event_dim + 1)] for part in alpha_sigma(gamma))
        apart = (z.unsqueeze(-1 - self.event_dim) - alpha * self.values) / sigma
        return self.network(z, gamma, *context) + self.frequencies - apart.square() / 2  # type: ignore[no-any-return]

    def denoise(self, z: Tensor, gamma: Tensor, *context: Any) -> Tensor:
        shares = self.logits(z, gamma, *context).softmax(-1 - self.event_dim)
        return (shares * self.values).sum(-1 - self.event_dim)

    def likelihood(self, z: Tensor, *context: Any) -> Any:
        return self.likelihoods(self.logits(z, self.gamma(0).expand(z.shape[: z.dim() - self.event_dim]), *context))
