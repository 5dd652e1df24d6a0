r"""The deep belief network: a sigmoid belief network whose prior is a restricted Boltzmann machine.

.. math::
    p(x, h, g) = p(x \mid h) \, p(h, g) , \qquad p(x = 1 \mid h)
        = \sigma \big( \operatorname{logit} \mu + c + W (h - \tfrac{1}{2}) \big) ,

with :math:`\mu` the means of the data and :math:`p(h, g)` the top pair of layers, undirected, and from there down a
directed network. What the machine says of h, with g summed out, is a prior that is known up to log Z: exact for up to
20 units in g, else estimated once by :meth:`DeepBelief.normalise`. The guide is the recognition network,
:math:`q(h = 1 \mid x) = \sigma(b + R^\top \phi(x))` with :math:`\phi(x) = x - \mu`, and 0 for what was not seen.

Hinton, Osindero & Teh train layer by layer: a machine on the data, whose weights are W and R, and another one on draws
of its hidden units; :meth:`DeepBelief.from_machines` puts both together, which is their starting point. All at once,
with few enough units in g, is trained by reweighted wake-sleep, the successor of their up-down algorithm.

References:
    | A Fast Learning Algorithm for Deep Belief Nets (Hinton, Osindero & Teh, 2006)
    | https://doi.org/10.1162/neco.2006.18.7.1527
    | On the Quantitative Analysis of Deep Belief Networks (Salakhutdinov & Murray, 2008)
    | https://doi.org/10.1145/1390156.1390266
    | Reweighted Wake-Sleep (Bornschein & Bengio, 2015)
    | https://arxiv.org/abs/1406.2751
"""

import math
from collections.abc import Sequence
from typing import Any, Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_gen._sizes import check_widths, event_of
from pyro_gen.data.small import binary_rows
from pyro_gen.inference.likelihood.partition import log_partition
from pyro_gen.inference.objectives import Objective, ReweightedWakeSleep
from pyro_gen.models.undirected.parts.boltzmann_law import BoltzmannLaw
from pyro_gen.models.undirected.parts.visible import Binary
from pyro_gen.models.undirected.restricted_boltzmann import RestrictedBoltzmann
from pyro_gen.observation import observe
from pyro_gen.program import Program
from pyro_gen.registry import model

__all__ = ["DeepBelief"]


@model(
    "deep belief network",
    paper="Hinton, Osindero & Teh (2006)",
    small={"": lambda: (DeepBelief([2, 3], [4, 3]), binary_rows(9, 2, 3))},
)
class DeepBelief(Program):
    r"""Creates a network of binary units with small random weights.

    Arguments:
        event_shape: The shape of one datum, or the number D of its entries.
        hidden: The numbers :math:`K_1` of units in h and :math:`K_2` in g.
        objective: What it is trained by, by default reweighted wake-sleep with five particles.

    Attributes:
        top: The machine of h and g.
        weights: W, with shape :math:`(D, K_1)`.
        biases: c, above the log-odds of the data's means, with shape :math:`(D,)`.
        recognition: R, with shape :math:`(D, K_1)`.
        recognition_biases: b, with shape :math:`(K_1,)`.
        log_partition: log Z of the machine, where it was estimated; else NaN.

    Example:
        >>> import pyro_gen as pg
        >>> network = DeepBelief(3, [4, 2])
        >>> bound = pg.log_likelihood(network, torch.tensor([[0.0, 1.0, 1.0]]), method="iwae", num_particles=500)
        >>> bound.kind, bool(-3 < bound.mean() < -1)
        ('stochastic lower bound', True)
    """

    log_partition: Tensor
    initialised: Tensor

    def __init__(
        self, event_shape: int | Sequence[int], hidden: Sequence[int], objective: Objective | None = None
    ) -> None:
        super().__init__()
        check_widths(self, hidden=hidden)
        if len(hidden) != 2:
            raise ValueError(f"DeepBelief(hidden={hidden!r}): give the numbers of units of two layers.")
        self.event_shape = event_of(self, event_shape)
        size, units = self.event_shape.numel(), hidden[0]
        self.visible = Binary(size)
        self.top = RestrictedBoltzmann(units, hidden[1])
        self.weights = nn.Parameter(torch.randn(size, units) / math.sqrt(size + units))
        self.biases = nn.Parameter(torch.zeros(size))
        self.recognition = nn.Parameter(self.weights.detach().clone())
        self.recognition_biases = nn.Parameter(torch.zeros(units))
        self.objective = objective or ReweightedWakeSleep(5)
        self.register_buffer("log_partition", torch.tensor(math.nan, dtype=torch.float64))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))

    @classmethod
    def from_machines(cls, lower: RestrictedBoltzmann, top: RestrictedBoltzmann, **options: Any) -> Self:
        """Puts two machines together: one of the data, and one whose visible units are the hidden ones of the first.

        Raises:
            ValueError: The machines do not fit, or the units of the data are not binary.
        """
        if not isinstance(lower.visible, Binary) or top.event_shape != lower.hidden_biases.shape:
            raise ValueError(
                f"The lower machine has {len(lower.hidden_biases)} hidden units and the upper one data of shape "
                f"{tuple(top.event_shape)}: these are to be as many, and the data binary."
            )
        network = cls(lower.event_shape, [len(lower.hidden_biases), len(top.hidden_biases)], **options)
        network.visible.load_state_dict(lower.visible.state_dict())
        network.top.load_state_dict(top.state_dict(), strict=False)  # but for chains that persist
        for own, given in (
            (network.weights, lower.weights),
            (network.recognition, lower.weights),
            (network.biases, lower.visible_biases),
            (network.recognition_biases, lower.hidden_biases),
        ):
            own.data.copy_(given.detach())
        network.initialised.fill_(True)
        return network

    def initialise(self, x: Tensor, *context: Any, seed: int = 0) -> Self:
        """Centres the units on data with shape :math:`(N, *event)`, the first time only."""
        if not self.initialised:
            with torch.no_grad():
                self.visible.fit_base(x.flatten(1))
                self.initialised.fill_(True)
        return super().initialise(x, *context, seed=seed)

    def normalise(self, **options: Any) -> Self:
        """Estimates log Z of the top pair and keeps it: after training, where there are more than 20 units in g.

        Arguments:
            options: As :func:`pyro_gen.log_partition` takes them.

        Returns:
            The network itself.
        """
        self.log_partition.fill_(log_partition(self.top, **options).mean())
        return self

    def prior(self) -> BoltzmannLaw:
        """The law of h.

        Raises:
            ValueError: Its constant is neither exact nor estimated.
        """
        nothing = self.weights.new_full((1, *self.top.event_shape), math.nan)
        known = self.top.log_sum(nothing)
        if known is None and bool(self.log_partition.isnan()):
            raise ValueError(
                f"log Z of the top pair, with {len(self.top.hidden_biases)} units in its upper layer, is not known: "
                "call normalise(), which estimates it, after training."
            )
        return BoltzmannLaw(self.top, self.log_partition if known is None else known[0])

    def model(self, x: Tensor) -> Tensor:
        """The joint density of h and data with shape :math:`(N, *event)`; returns these completed."""
        with self.plate(x):
            h = pyro.sample("h", self.prior())  # (N, K_1)
            logits = self.visible.logits + self.biases + (h - 0.5) @ self.weights.T
            likelihood: Any = dist.Bernoulli(logits=logits.unflatten(-1, self.event_shape))
            return observe("x", likelihood.to_event(len(self.event_shape)), x)

    def guide(self, x: Tensor) -> None:
        """Proposes h given what was seen."""
        with self.plate(x):
            phi = self.visible.features(x.flatten(1)).nan_to_num(nan=0.0)
            logits: Any = phi @ self.recognition + self.recognition_biases
            pyro.sample("h", dist.Bernoulli(logits=logits).to_event(1))
