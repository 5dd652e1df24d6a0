r"""Training an ensemble of autoregressive orders by one of them at a time.

.. math:: \mathbb{E}_o \big[ \log p_o(x) \big] \le \log \mathbb{E}_o \big[ p_o(x) \big]

The left side has an unbiased estimate that costs one pass of the network: with k of the D entries known at random, the
mean of the others' log-densities times D stands for all orders that begin with these k; of a network with masks, the
log-density in one order. So one network learns every order, and what is sampled is the mixture of some.

References:
    | A Deep and Tractable Density Estimator (Uria, Murray & Larochelle, 2014)
    | https://arxiv.org/abs/1310.1757
"""

from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_gen.distributions import OrderedEntries
from pyro_gen.inference.objectives.elbo import ELBO
from pyro_gen.program import Program
from pyro_gen.registry import objective

__all__ = ["OneOrder"]


class _InOneOrder(Messenger):
    """Effect handler: ensembles of orders that are observed are scored in one, drawn at random."""

    def _pyro_observed_law(self, msg: Any) -> None:
        if isinstance(msg["args"][0], OrderedEntries) and not msg["done"]:
            msg["value"], msg["done"] = msg["args"][0].of_one_order(), True


@objective
class OneOrder(ELBO):
    """The negative mean log-density over orders, in nats, of :class:`~pyro_gen.distributions.OrderedEntries`.

    Data may have missing entries where the program's distribution can marginalise them.
    """

    anneals = False
    kinds = ("exact",)

    def __init__(self) -> None:
        super().__init__()

    def loss(self, program: Program, x: Tensor, *context: Any, kl_weight: Tensor | float = 1.0) -> Tensor:
        with _InOneOrder():
            return super().loss(program, x, *context)
