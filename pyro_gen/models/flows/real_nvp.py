r"""Real NVP: half of the entries scaled and shifted by what the other half says, in turns.

.. math::
    z_A = u_A, \qquad z_B = e^{a(z_A)} \odot u_B + m(z_A), \qquad
    \log \left| \det \frac{\partial z}{\partial u} \right| = \sum_{i \in B} a_i(z_A)

Here A are the entries of even number and B the others; the next layer has them the other way round. The inverse asks
the same networks, :math:`u_B = (z_B - m(z_A)) \, e^{-a(z_A)}`: drawing and the density of data cost the same. Besides
its network, m has a linear part, and A has a scale and a shift of its own, so that one layer is a Gaussian already.

References:
    | Density Estimation Using Real NVP (Dinh et al., 2017)
    | https://arxiv.org/abs/1605.08803
"""

from collections.abc import Sequence

from pyro_gen._sizes import event_of
from pyro_gen.data.small import normal_rows
from pyro_gen.distributions.flows import Inverse, Transport
from pyro_gen.models.flows.parts.program import FlowProgram
from pyro_gen.registry import model

__all__ = ["RealNVP"]


@model(
    "Real NVP",
    paper="Dinh et al. (2017)",
    small={
        "": lambda: (RealNVP(3, 2, (8,)), normal_rows(9, 3)),
        "context": lambda: (RealNVP(2, 2, (8,), context=2), normal_rows(9, 2), normal_rows(9, 2)),
    },
)
class RealNVP(FlowProgram):
    r"""Creates a flow of affine coupling layers.

    Arguments:
        event_shape: The shape of one datum, or the number of its entries.
        layers: The number of layers.
        hidden: Units in each hidden layer of the networks.
        context: The number of entries of what the density is conditional on.
        marginals: What the layer next to the data gives each entry, ``"normal"`` or ``"spline"``, see
            :class:`~pyro_gen.models.flows.parts.program.FlowProgram`.

    Raises:
        ValueError: Sizes are out of range, or there are no marginals of that name.

    Example:
        >>> import pyro, torch
        >>> flow = RealNVP(2)
        >>> trace = pyro.poutine.trace(flow.model).get_trace(torch.zeros(1, 2))
        >>> round(trace.log_prob_sum().item(), 4)  # a new flow is a standard normal
        -1.8379
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        layers: int = 6,
        hidden: Sequence[int] = (64, 64),
        context: int = 0,
        marginals: str = "normal",
    ) -> None:
        dim = event_of(self, event_shape).numel()
        coupling = Transport(dim, context, "affine-coupling", layers, hidden)
        super().__init__(event_shape, Inverse(coupling), marginals)
