r"""The masked autoregressive flow: each entry is normal given those before it, and what is left is modelled again.

.. math::
    p(x) = \prod_{i=1}^D \mathcal{N}\big(x_i \mid \mu_i(x_{<i}), \sigma_i(x_{<i})^2\big), \qquad
    u_i = \frac{x_i - \mu_i(x_{<i})}{\sigma_i(x_{<i})} .

All :math:`\mu_i, \sigma_i` come from one network whose masks let output i see the inputs before it alone. The
innovations u need not be normal, so the next layer models them, in the reverse order, and so on. The density of data
takes one pass through each network; drawing takes D, entry by entry. (:class:`~pyro_gen.models.flows.IAF` is the same
map from the other end.)

References:
    | Masked Autoregressive Flow for Density Estimation (Papamakarios et al., 2017)
    | https://arxiv.org/abs/1705.07057
    | MADE: Masked Autoencoder for Distribution Estimation (Germain et al., 2015)
    | https://arxiv.org/abs/1502.03509
"""

from collections.abc import Sequence

from pyro_gen._sizes import event_of
from pyro_gen.data.small import normal_rows
from pyro_gen.distributions.flows import Inverse, Transport
from pyro_gen.models.flows.parts.program import FlowProgram
from pyro_gen.registry import model

__all__ = ["MAF"]


@model(
    "masked autoregressive flow",
    paper="Papamakarios et al. (2017)",
    small={
        "": lambda: (MAF(3, 2, (8,)), normal_rows(9, 3)),
        "context": lambda: (
            MAF((2, 2), 2, (8,), context=2, marginals="spline"),
            normal_rows(9, 2, 2),
            normal_rows(9, 2),
        ),
    },
)
class MAF(FlowProgram):
    r"""Creates a masked autoregressive flow.

    Arguments:
        event_shape: The shape of one datum, or the number of its entries.
        layers: The number of layers; their orders of the entries alternate.
        hidden: Units in each hidden layer of the networks.
        context: The number of entries of what the density is conditional on.
        marginals: What the layer next to the data gives each entry, ``"normal"`` or ``"spline"``, see
            :class:`~pyro_gen.models.flows.parts.program.FlowProgram`.

    Raises:
        ValueError: Sizes are out of range, or there are no marginals of that name.

    Example:
        >>> import torch
        >>> flow = MAF(3, layers=2)
        >>> flow.model(torch.full((5, 3), torch.nan)).shape  # five draws
        torch.Size([5, 3])
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        layers: int = 5,
        hidden: Sequence[int] = (64, 64),
        context: int = 0,
        marginals: str = "normal",
    ) -> None:
        dim = event_of(self, event_shape).numel()
        super().__init__(event_shape, Inverse(Transport(dim, context, "affine", layers, hidden)), marginals)
