r"""An energy-based model: a network says which data are likely, and nothing has to be drawn from it to write it down.

.. math::
    p_\theta(x) = \frac{1}{Z_\theta} \, p_0(x) \, e^{-E_\theta(x)}, \qquad
    Z_\theta = \int p_0(x) \, e^{-E_\theta(x)} \, dx

The base :math:`p_0` has independent entries with the margins of the first data seen (:meth:`EnergyBased.initialise`)
and is not trained: normal ones, or Bernoulli ones where the data are 0 and 1. Grey levels become real numbers by the
transforms ``dequantize`` and ``logit``. With a normal base :math:`p_\theta` is proper whatever the weights, since
the energy of a multilayer perceptron grows no faster than a line. Chains start at the base, and so does the annealed
importance sampling that estimates :math:`Z_\theta`. The last layer of the network begins at zero, and the model at its
base.

The gradient of the log-likelihood needs draws of the model,

.. math:: \nabla_\theta \log p_\theta(x) = -\nabla_\theta E_\theta(x) + \mathbb{E}_{y \sim p_\theta} \big[
    \nabla_\theta E_\theta(y) \big] ,

which contrastive divergence takes from Markov chains: short ones from the data, or ones that persist from step to step.
The gradient of :math:`E_\theta` in x leads them, of real numbers by Langevin dynamics, of binary entries by
:class:`~pyro_gen.inference.mcmc.discrete_langevin.DiscreteLangevin`. Score matching, of real numbers, and noise
contrast do without chains; the latter learns :math:`\log Z_\theta` too, in ``log_partition``.

With a context c the energy is :math:`E_\theta(x, c)`, and :math:`Z_\theta(c)` is another one for each.

References:
    | A Tutorial on Energy-Based Learning (LeCun et al., 2006)
    | http://yann.lecun.com/exdb/publis/pdf/lecun-06.pdf
    | Implicit Generation and Modeling with Energy-Based Models (Du & Mordatch, 2019)
    | https://arxiv.org/abs/1903.08689
    | Oops I Took A Gradient: Scalable Sampling for Discrete Distributions (Grathwohl et al., 2021)
    | https://arxiv.org/abs/2102.04509
"""

from collections.abc import Sequence
from typing import Any, Self

import pyro
import torch
from torch import Tensor, nn

from pyro_gen._sizes import check_conditions_a_row, check_known, event_of
from pyro_gen.data.small import binary_rows, normal_rows
from pyro_gen.inference.mcmc.discrete_langevin import DiscreteLangevin
from pyro_gen.inference.mcmc.missing_entries import move_missing
from pyro_gen.inference.objectives import ContrastiveDivergence, NoiseContrastive, Objective, ScoreMatching
from pyro_gen.models.energy.parts.base import IndependentBase
from pyro_gen.nets import MLP, ConvEncoder
from pyro_gen.observation import observe
from pyro_gen.program import Program
from pyro_gen.registry import model

__all__ = ["EnergyBased"]

STEPS = 3  # of discrete Langevin proposals in a transition of a chain


@model(
    "energy-based model",
    paper="LeCun et al. (2006)",
    small={
        "contrastive divergence": lambda: (EnergyBased(2, (10,)), normal_rows(9, 2)),
        "score matching": lambda: (EnergyBased((2, 3), (10,), objective=ScoreMatching("sliced")), normal_rows(9, 2, 3)),
        "noise contrast": lambda: (EnergyBased(2, (10,), objective=NoiseContrastive()), normal_rows(9, 2)),
        "binary, convolutional": lambda: (
            EnergyBased((2, 3), base="bernoulli", network=ConvEncoder((2, 3), 1, (4,))),
            binary_rows(9, 2, 3),
        ),
    },
)
class EnergyBased(Program):
    r"""Creates an energy-based model.

    Arguments:
        event_shape: The shape of one datum, or the number of its entries.
        hidden: The widths of the hidden layers.
        activation: The name of the activation in :data:`pyro_gen.nets.ACTIVATIONS`.
        context: The number of entries of what the energy is conditional on.
        base: ``"normal"`` for real numbers, ``"bernoulli"`` for entries that are 0 or 1.
        network: In the place of the layers above, a network of data less their mean with shape :math:`(N, *event)`, and
            of the context, that returns energies with shape :math:`(N, 1)`: ``ConvEncoder((8, 8), out=1)`` say. It
            begins as it is given.
        objective: What it is trained by; by default contrastive divergence by ten transitions from the data, of binary
            entries by four of chains that persist.

    Raises:
        ValueError: A size is none, or there is no base of that name.

    Example:
        >>> from pyro_gen.density.energy import unnormalised_log_prob
        >>> energy_based = EnergyBased(2)
        >>> x = torch.tensor([[0.0, 0.0]])
        >>> round(unnormalised_log_prob(energy_based, x).item(), 4)  # untrained, that of its base
        -1.8379
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        hidden: Sequence[int] = (128, 128),
        activation: str = "silu",
        context: int = 0,
        base: str = "normal",
        network: nn.Module | None = None,
        objective: Objective | None = None,
    ) -> None:
        super().__init__()
        self.event_shape = event_of(self, event_shape)
        self.base, self.context = IndependentBase(base, self.event_shape), context
        if network is None:
            network = MLP((self.event_shape.numel() + context, *hidden, 1), activation)
            for parameter in network[-1].parameters():
                nn.init.zeros_(parameter)
        self.network = network
        self.log_partition = nn.Parameter(torch.zeros(()))  # learned by NoiseContrastive alone
        chains = ContrastiveDivergence(4, persistent=500) if base == "bernoulli" else ContrastiveDivergence(10)
        self.objective = objective or chains

    def initialise(self, x: Tensor, *context: Any, seed: int = 0) -> Self:
        """Sets the base from data with shape :math:`(N, *event)`, the first time only."""
        self.base.fit(x)
        return super().initialise(x, *context, seed=seed)

    def check_inputs(self, x: Tensor, *context: Any) -> None:
        super().check_inputs(x, *context)
        check_known(self, *context)
        if isinstance(self.network, MLP):
            given = sum(part.shape[1:].numel() for part in context if isinstance(part, Tensor))
            check_conditions_a_row(self, self.context, given)

    def energy(self, x: Tensor, *context: Tensor) -> Tensor:
        r"""The energy :math:`E_\theta` of data with shape :math:`(N, *event)`: shape :math:`(N,)`, in nats."""
        x = self.base.centre(x)
        if isinstance(self.network, MLP):
            return self.network(torch.cat([x.flatten(1), *(c.flatten(1) for c in context)], -1)).squeeze(-1)  # type: ignore[no-any-return]
        return self.network(x, *context).squeeze(-1)  # type: ignore[no-any-return]

    def model(self, x: Tensor, *context: Tensor) -> Tensor:
        """The density of data with shape :math:`(N, *event)`; returns it completed by the base."""
        with self.plate(x):
            x = observe("x", self.base.law(), x)
            pyro.factor("energy", -self.energy(x, *context))  # (N,)
            return x

    @property
    def has_kernel(self) -> bool:
        """Whether the entries are binary; real ones are moved by the samplers that adapt to them."""
        return self.base.kind == "bernoulli"

    def kernel(self, x: Tensor, missing: Tensor, beta: float, *context: Any) -> Tensor:
        """Moves missing binary entries, many at once, as the gradient of the energy says."""
        return move_missing(DiscreteLangevin, self, x, missing, beta, *context, steps=STEPS)
