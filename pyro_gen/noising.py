r"""Chains that turn noise into data, whose guide is fixed: data turned into noise.

.. math::
    p(x, z_{0:T}) = p(z_T) \prod_{i=1}^T p(z_{i-1} \mid z_i) \; p(x \mid z_0), \qquad
    q(z_{0:T} \mid x) = q(z_T \mid x) \prod_{i=1}^T q(z_{i-1} \mid z_i, x)

Noise is added in steps of which every conditional law is known. Both sides take the same step
:math:`q(z_{i-1} \mid z_i, \hat x)`: the guide with the datum, the model with what its network makes of :math:`z_i`. So
the guide has no parameters, and the bound is a sum over steps. Its terms need only
:math:`z_i \sim q(z_i \mid x)`, which is known for each i by itself: one random step stands for all
(:class:`pyro_gen.inference.DiffusionELBO`).

Of entries that are missing the guide knows no more than the model, and takes the step of the model; they cost nothing
in the bound, and generation, where all are missing, is that same step.
"""

from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyro_gen._sizes import check_sizes
from pyro_gen.observation import may_be_missing, observe
from pyro_gen.program import Program

__all__ = ["NoisingChain"]


class NoisingChain(Program):
    """A program whose latent variables are the data with more and more noise, at the sites ``z0``, ..., ``zT``.

    Attributes:
        steps: The number T of steps. It can be set to another number after training, too.
    """

    steps: int

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "steps":
            check_sizes(self, steps=value)
        super().__setattr__(name, value)

    def start(self, x: Tensor) -> Any:
        """The law :math:`p(z_T)` of data with the shape of ``x``."""
        raise NotImplementedError

    def end(self, x: Tensor) -> Any:
        r"""The law :math:`q(z_T \mid x)`, and that of the start where an entry is missing."""
        raise NotImplementedError

    def known(self, x: Tensor) -> Tensor:
        """What is known of the clean datum, in the form of :meth:`predict`, NaN where nothing is."""
        raise NotImplementedError

    def predict(self, z: Tensor, i: int, *context: Any) -> Tensor:
        """What the network makes of :math:`z_i`."""
        raise NotImplementedError

    def transition(self, z: Tensor, i: int, clean: Tensor) -> Any:
        r"""The law :math:`q(z_{i-1} \mid z_i, \hat x)` for what :meth:`known` or :meth:`predict` say of the datum."""
        raise NotImplementedError

    def likelihood(self, z: Tensor, *context: Any) -> Any:
        r"""The law :math:`p(x \mid z_0)`."""
        raise NotImplementedError

    def ends(self, x: Tensor, *context: Any) -> Tensor:
        r"""An unbiased estimate of the terms of the negative bound besides the steps, in nats.

        Arguments:
            x: Complete data, with shape :math:`(N, *)`.
            context: What the model conditions on.

        Returns:
            :math:`\mathrm{KL}(q(z_T \mid x) \,\|\, p(z_T)) - \mathbb{E} \log p(x \mid z_0)`, with shape
            :math:`(N,)`.
        """
        raise NotImplementedError

    def step(self, x: Tensor, time: Tensor, *context: Any) -> tuple[Tensor, Tensor]:
        """An unbiased estimate of one term of the negative bound.

        Arguments:
            x: Complete data, with shape :math:`(N, *)`.
            time: When, in [0, 1), with shape :math:`(N,)`.
            context: What the model conditions on.

        Returns:
            The loss of the network then, and its weight, both with shape :math:`(N,)`: the mean of their product over
            uniform times is the sum over all steps, in nats.
        """
        raise NotImplementedError

    def variance_parameters(self) -> tuple[nn.Parameter, ...]:
        """Parameters on which the mean of :meth:`step` does not depend, there to make its variance small."""
        return ()

    def model(self, x: Tensor, *context: Any) -> Tensor:
        r"""The joint density of data, with shape :math:`(N, *event)`, and all steps; returns the data completed."""
        with self.plate(x):
            z = pyro.sample(f"z{self.steps}", self.start(x))
            for i in range(self.steps, 0, -1):
                z = pyro.sample(f"z{i - 1}", self.transition(z, i, self.predict(z, i, *context)))
            return observe("x", self.likelihood(z, *context), x)

    def guide(self, x: Tensor, *context: Any) -> None:
        r"""The noise :math:`q(z_{0:T} \mid x)`."""
        missing = may_be_missing(x)
        with self.plate(x):
            z = pyro.sample(f"z{self.steps}", self.end(x))
            for i in range(self.steps, 0, -1):
                clean = self.known(x)
                if missing:
                    clean = torch.where(torch.isnan(clean), self.predict(z, i, *context), clean)
                z = pyro.sample(f"z{i - 1}", self.transition(z, i, clean))
