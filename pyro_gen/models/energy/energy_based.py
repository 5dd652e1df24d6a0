r"""An energy-based model: a network says which data are likely, and nothing has to be drawn from it to write it down.

.. math::
    p_\theta(x) = \frac{1}{Z_\theta} \, p_0(x) \, e^{-E_\theta(x)}, \qquad
    Z_\theta = \int p_0(x) \, e^{-E_\theta(x)} \, dx, \qquad
    p_0(x) = \mathcal{N}\big(x \mid m, \operatorname{diag} s^2\big)

The base :math:`p_0` has the mean :math:`m` and the standard deviations :math:`s` of the first data seen
(:meth:`EnergyBased.initialise`) and is not trained. It makes :math:`p_\theta` proper whatever the network, since
:math:`E_\theta` grows no faster than a line. Chains start there, and so does the annealed importance sampling that
estimates :math:`Z_\theta`. The last layer of the network begins at zero, and the model at its base.

The gradient of the log-likelihood needs draws of the model,

.. math:: \nabla_\theta \log p_\theta(x) = -\nabla_\theta E_\theta(x) + \mathbb{E}_{y \sim p_\theta} \big[
    \nabla_\theta E_\theta(y) \big] ,

which contrastive divergence takes from Markov chains: short ones from the data, or ones that persist from step to step.
Score matching and noise contrast do without; the latter learns :math:`\log Z_\theta` too, in ``log_partition``.

With a context c the energy is :math:`E_\theta(x, c)`, and :math:`Z_\theta(c)` is another one for each.

References:
    | A Tutorial on Energy-Based Learning (LeCun et al., 2006)
    | http://yann.lecun.com/exdb/publis/pdf/lecun-06.pdf
    | Implicit Generation and Modeling with Energy-Based Models (Du & Mordatch, 2019)
    | https://arxiv.org/abs/1903.08689
"""

from collections.abc import Sequence
from typing import Any, Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_gen.data.small import normal_rows
from pyro_gen.inference.objectives import ContrastiveDivergence, NoiseContrastive, Objective, ScoreMatching
from pyro_gen.nets import MLP
from pyro_gen.observation import observe
from pyro_gen.program import Program
from pyro_gen.registry import model

__all__ = ["EnergyBased"]


@model(
    "energy-based model",
    paper="LeCun et al. (2006)",
    small={
        "contrastive divergence": lambda: (EnergyBased(2, (10,)), normal_rows(9, 2)),
        "score matching": lambda: (EnergyBased((2, 3), (10,), objective=ScoreMatching("sliced")), normal_rows(9, 2, 3)),
        "noise contrast": lambda: (EnergyBased(2, (10,), objective=NoiseContrastive()), normal_rows(9, 2)),
    },
)
class EnergyBased(Program):
    r"""Creates an energy-based model of real numbers.

    Arguments:
        event_shape: The shape of one datum, or the number of its entries.
        hidden: The widths of the hidden layers.
        activation: The name of the activation in :data:`pyro_gen.nets.ACTIVATIONS`.
        context: The number of entries of what the energy is conditional on.
        objective: What it is trained by; by default contrastive divergence by ten transitions from the data.

    Example:
        >>> from pyro_gen.density.energy import unnormalised_log_prob
        >>> energy_based = EnergyBased(2)
        >>> x = torch.tensor([[0.0, 0.0]])
        >>> round(unnormalised_log_prob(energy_based, x).item(), 4)  # untrained, that of its base
        -1.8379
    """

    loc: Tensor
    scale: Tensor
    initialised: Tensor

    def __init__(
        self,
        event_shape: int | Sequence[int],
        hidden: Sequence[int] = (128, 128),
        activation: str = "silu",
        context: int = 0,
        objective: Objective | None = None,
    ) -> None:
        super().__init__()
        self.event_shape = torch.Size((event_shape,) if isinstance(event_shape, int) else event_shape)
        self.network = MLP((self.event_shape.numel() + context, *hidden, 1), activation)
        for parameter in self.network[-1].parameters():
            nn.init.zeros_(parameter)
        self.log_partition = nn.Parameter(torch.zeros(()))  # learned by NoiseContrastive alone
        self.objective = objective or ContrastiveDivergence(10)
        self.register_buffer("loc", torch.zeros(self.event_shape))
        self.register_buffer("scale", torch.ones(self.event_shape))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))

    def initialise(self, x: Tensor, *context: Any, seed: int = 0) -> Self:
        """Sets the base from data with shape :math:`(N, *event)`, the first time only."""
        if not self.initialised:
            with torch.no_grad():
                mean = x.nanmean(0)
                variance = (x - mean).square().nanmean(0)
                self.loc.copy_(mean.nan_to_num())
                self.scale.copy_(torch.where(variance > 0, variance.sqrt(), 1.0))
                self.initialised.fill_(True)
        return super().initialise(x, *context, seed=seed)

    def energy(self, x: Tensor, *context: Tensor) -> Tensor:
        r"""The energy :math:`E_\theta` of data with shape :math:`(N, *event)`: shape :math:`(N,)`, in nats."""
        rows = [((x - self.loc) / self.scale).flatten(1), *(c.flatten(1) for c in context)]
        return self.network(torch.cat(rows, -1)).squeeze(-1)  # type: ignore[no-any-return]

    def model(self, x: Tensor, *context: Tensor) -> Tensor:
        """The density of data with shape :math:`(N, *event)`; returns it completed by the base."""
        with self.plate(x):
            base = dist.Normal(self.loc, self.scale).to_event(len(self.event_shape or ()))
            x = observe("x", base, x)
            pyro.factor("energy", -self.energy(x, *context))  # (N,)
            return x
