r"""What all flows of this family share: a density of data that is exact, and how it starts.

.. math::
    u_n \sim \mathcal{N}(0, I_D), \qquad x_n = T(u_n; h_n), \qquad
    \log p(x_n \mid h_n) = \log \mathcal{N}(u_n; 0, I_D) - \log |\det \partial T / \partial u| ,

with a bijection T that is on each model's page. Next to the data stands one that is not trained and gives each entry
its mean and standard deviation, or its whole marginal distribution; it is set from the first data seen
(:meth:`FlowProgram.initialise`). So training starts from independent entries.

There is no latent variable, so the ELBO *is* the log-likelihood. A flow cannot marginalise: data with missing entries
are not trained on, and missing entries are latent variables: :func:`pyro_gen.impute` draws them by sequential Monte
Carlo, :func:`pyro_gen.log_likelihood` integrates them out by annealed importance sampling.
"""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from pyro_gen._sizes import check_conditions_a_row, check_known, event_of
from pyro_gen.distributions.flows import Bijection, Chain, FlowDistribution, NormalMarginals, Rescaling
from pyro_gen.observation import observe
from pyro_gen.program import Program

__all__ = ["FlowProgram"]

MARGINALS = {"normal": Rescaling, "spline": NormalMarginals}


class FlowProgram(Program):
    r"""A flow as a program; abstract: models give their bijection.

    Arguments:
        event_shape: The shape of one datum, or the number of its entries.
        bijection: The bijection from noise to standardised data.
        marginals: What the layer next to the data gives each entry: ``"normal"``, its mean and standard deviation, or
            ``"spline"``, its whole marginal distribution, which suits levels with noise and heavy tails.

    Raises:
        ValueError: There are no marginals of that name, or the shape is none.
    """

    initialised: Tensor

    def __init__(self, event_shape: int | Sequence[int], bijection: Bijection, marginals: str = "normal") -> None:
        super().__init__()
        if marginals not in MARGINALS:
            raise ValueError(f"marginals={marginals!r}: choose one of {', '.join(MARGINALS)}.")
        self.event_shape = event_of(self, event_shape)
        self.bijection = Chain(bijection, MARGINALS[marginals](self.event_shape))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))

    def initialise(self, x: Tensor, *context: Tensor, seed: int = 0) -> Self:
        """Sets what depends on data from rows with shape :math:`(N, *event)`, the first time only."""
        if not self.initialised:
            with torch.no_grad():
                mean = x.nanmean(0).nan_to_num()
                self.bijection.start(torch.where(torch.isnan(x), mean, x), self._features(context))
                self.initialised.fill_(True)
        return super().initialise(x, *context, seed=seed)

    def check_inputs(self, x: Tensor, *context: Any) -> None:
        super().check_inputs(x, *context)
        self._features(context)
        check_known(self, *context)

    def _features(self, context: Sequence[Tensor]) -> Tensor | None:
        """What is conditioned on, with shape :math:`(N, F)`, or ``None``."""
        rows = torch.cat([c.reshape(len(c), -1) for c in context], -1) if context else None
        size = 0 if rows is None else rows.shape[1]
        check_conditions_a_row(self, self.bijection.features, size)
        return rows

    def model(self, x: Tensor, *context: Any) -> Tensor:
        """The density of data with shape :math:`(N, *event)` given context :math:`(N, *)` each."""
        with self.plate(x):
            flow = FlowDistribution(self.bijection, self._features(context), x.shape[:1])
            return observe("x", flow, x)
