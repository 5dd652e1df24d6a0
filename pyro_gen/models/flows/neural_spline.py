r"""The neural spline flow: each entry bent by a monotone curve that the entries before it, or the other half, choose.

.. math::
    u_i = e^{a_i(x_{<i})} \, S_i\big(x_i; w_i(x_{<i}), h_i(x_{<i}), d_i(x_{<i})\big) + m_i(x_{<i})

:math:`S_i` is a rational-quadratic spline on :math:`[-5, 5]` with K bins of widths w, heights h and slopes d at the
knots, and the identity outside. It is inverted by solving a quadratic equation. A curve can make two peaks of one,
which an affine map cannot: three layers do what takes a deep stack of those.

``"autoregressive"`` lets entry i see all before it: the density takes one pass, a draw D. ``"coupling"`` lets half of
the entries see the other half: both take one pass.

References:
    | Neural Spline Flows (Durkan et al., 2019)
    | https://arxiv.org/abs/1906.04032
"""

from collections.abc import Sequence

from pyro_gen._sizes import event_of
from pyro_gen.data.small import normal_rows
from pyro_gen.distributions.flows import Inverse, Transport
from pyro_gen.models.flows.parts.program import FlowProgram
from pyro_gen.registry import model

__all__ = ["NeuralSpline"]

DEPENDENCE = {"autoregressive": "spline", "coupling": "coupling"}


@model(
    "neural spline flow",
    paper="Durkan et al. (2019)",
    small={
        "autoregressive": lambda: (NeuralSpline(3, "autoregressive", 2, (8,), 4), normal_rows(9, 3)),
        "coupling": lambda: (NeuralSpline(3, "coupling", 2, (8,), 4, marginals="spline"), normal_rows(9, 3)),
        "context": lambda: (
            NeuralSpline(2, layers=1, hidden=(8,), bins=4, context=2),
            normal_rows(9, 2),
            normal_rows(9, 2),
        ),
    },
)
class NeuralSpline(FlowProgram):
    r"""Creates a neural spline flow.

    Arguments:
        event_shape: The shape of one datum, or the number of its entries.
        dependence: ``"autoregressive"`` or ``"coupling"``.
        layers: The number of layers; their orders of the entries alternate.
        hidden: Units in each hidden layer of the networks.
        bins: The number K of bins of the splines.
        context: The number of entries of what the density is conditional on.
        marginals: What the layer next to the data gives each entry, ``"normal"`` or ``"spline"``, see
            :class:`~pyro_gen.models.flows.parts.program.FlowProgram`.

    Raises:
        ValueError: There is no dependence or marginals of that name, or sizes are out of range.

    Example:
        >>> import torch
        >>> flow = NeuralSpline((2, 2), "coupling", layers=2)
        >>> flow.model(torch.full((5, 2, 2), torch.nan)).shape  # five draws
        torch.Size([5, 2, 2])
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        dependence: str = "autoregressive",
        layers: int = 3,
        hidden: Sequence[int] = (64, 64),
        bins: int = 8,
        context: int = 0,
        marginals: str = "normal",
    ) -> None:
        if dependence not in DEPENDENCE:
            raise ValueError(f"NeuralSpline(dependence={dependence!r}): choose one of {', '.join(DEPENDENCE)}.")
        dim = event_of(self, event_shape).numel()
        transport = Transport(dim, context, DEPENDENCE[dependence], layers, hidden, bins)
        super().__init__(event_shape, Inverse(transport), marginals)
