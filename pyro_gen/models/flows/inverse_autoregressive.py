r"""The inverse autoregressive flow: noise scaled and shifted by the noise before it, all entries in one pass.

.. math::
    z_i = e^{a_i(u_{<i})} \, u_i + m_i(u_{<i}), \qquad
    \log \left| \det \frac{\partial z}{\partial u} \right| = \sum_{i=1}^D a_i(u_{<i})

Drawing takes one pass, and the density of what was drawn comes with it: the flow for posteriors
(:class:`~pyro_gen.inference.guides.AmortisedFlow` has it given an encoder, :class:`~pyro_gen.inference.guides.Flow` for
any program) and where many draws are needed. The density of data takes D passes, so that
:class:`~pyro_gen.models.flows.MAF`, the same map from the other end, is the one to train on data of many entries.

References:
    | Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016)
    | https://arxiv.org/abs/1606.04934
"""

from collections.abc import Sequence

from pyro_gen._sizes import event_of
from pyro_gen.data.small import normal_rows
from pyro_gen.distributions.flows import Transport
from pyro_gen.models.flows.parts.program import FlowProgram
from pyro_gen.registry import model

__all__ = ["IAF"]


@model(
    "inverse autoregressive flow",
    paper="Kingma et al. (2016)",
    small={
        "": lambda: (IAF(3, 2, (8,)), normal_rows(9, 3)),
        "context": lambda: (IAF(2, 2, (8,), context=2), normal_rows(9, 2), normal_rows(9, 2)),
    },
)
class IAF(FlowProgram):
    r"""Creates an inverse autoregressive flow.

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
        >>> flow = IAF(3, layers=2)
        >>> flow.model(torch.full((5, 3), torch.nan)).shape  # five draws, in one pass
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
        super().__init__(event_shape, Transport(dim, context, "affine", layers, hidden), marginals)
