r"""The deep Boltzmann machine: layers of binary units, each with weights to the next layer alone.

With two hidden layers, features :math:`\phi(v) = v - \mu` and units :math:`\pm \tfrac{1}{2}` in :math:`h` and
:math:`g`,

.. math::
    p(v, h, g) = \frac{1}{Z} \, p_0(v) \exp \big( a^\top \phi(v) + b^\top h + c^\top g
        + \phi(v)^\top W_1 h + g^\top W_2 h \big) .

Unlike in a belief network no layer is drawn from the one above alone: h is drawn given both neighbours, and what it
says of v takes the top layer into account. Odd and even layers are independent given each other: the machine is a
restricted one with the hidden units h, whose visible units are v and g, of which g is never seen. So it is written
here, in a row :math:`(v, g)` whose last entries are missing, and everything is that of rows with missing entries:
blocked Gibbs sampling of h, then of v and g; h summed out,

.. math::
    p(v, g) = \frac{1}{Z} \, p_0(v) \, e^{a^\top \phi(v) + c^\top g} \prod_j 2 \cosh (u_j / 2) ,
    \qquad u = b + W_1^\top \phi(v) + W_2^\top g ;

:math:`p(v) = \sum_g p(v, g)` exactly for up to 14 units in g or 20 in h, else annealed, a path for each datum, from
fair coins to :math:`p(g \mid v)`; and training by contrastive divergence with chains for g given the data
beside those that persist, which take the place of the mean-field approximation of Salakhutdinov & Hinton.

References:
    | Deep Boltzmann Machines (Salakhutdinov & Hinton, 2009)
    | https://proceedings.mlr.press/v5/salakhutdinov09a.html
    | Deep Boltzmann Machines and the Centering Trick (Montavon & Müller, 2012)
    | https://doi.org/10.1007/978-3-642-35289-8_33
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_gen._sizes import check_widths, event_of
from pyro_gen.data.small import binary_rows
from pyro_gen.inference.objectives import ContrastiveDivergence, Objective
from pyro_gen.models.undirected.restricted_boltzmann import RestrictedBoltzmann
from pyro_gen.registry import model

__all__ = ["DeepBoltzmann"]

MAX_TOP = 14  # units of the top layer, of whose states the sum is taken
CELLS = 2**22  # of rows by states by units, at a time


@model(
    "deep Boltzmann machine",
    paper="Salakhutdinov & Hinton (2009)",
    small={"": lambda: (DeepBoltzmann([2, 3], [4, 3]), {"x": binary_rows(9, 2, 3), "top": binary_rows(9, 3)})},
)
class DeepBoltzmann(RestrictedBoltzmann):
    r"""Creates a machine of two hidden layers with small random weights.

    Data are binary, a tensor :math:`(N, *event)`, or a mapping with these as ``"x"`` and the top layer as ``"top"``,
    :math:`(N, K_2)`, which is NaN, or left out. What is drawn is such a mapping.

    Arguments:
        event_shape: The shape of one datum, or the number D of its entries.
        hidden: The numbers :math:`K_1` and :math:`K_2` of hidden units.
        objective: What it is trained by; by default persistent contrastive divergence, five sweeps a step.

    Attributes:
        weights: :math:`W_1` above :math:`W_2`, with shape :math:`(D + K_2, K_1)`.
        visible_biases: a and c, with shape :math:`(D + K_2,)`.
        hidden_biases: b, with shape :math:`(K_1,)`.

    Raises:
        ValueError: There are not two hidden layers, or sizes are out of range.

    Example:
        >>> import pyro_gen as pg
        >>> machine = DeepBoltzmann(3, [4, 2])
        >>> pg.log_likelihood(machine, torch.tensor([[0.0, 1.0, 1.0]])).kind
        'exact'
        >>> pg.sample(machine, 5)["x"].shape
        torch.Size([5, 3])
    """

    hidden_variables = ("top",)

    def __init__(
        self, event_shape: int | Sequence[int], hidden: Sequence[int], objective: Objective | None = None
    ) -> None:
        check_widths(self, hidden=hidden)
        if len(hidden) != 2:
            raise ValueError(f"DeepBoltzmann(hidden={hidden!r}): give the numbers of units of two layers.")
        shape = event_of(self, event_shape)
        super().__init__(
            shape.numel() + hidden[1], hidden[0], objective=objective or ContrastiveDivergence(5, persistent=500)
        )
        self.event_shape: Any = {"x": shape, "top": torch.Size([hidden[1]])}

    def initialise(self, x: Any, *context: Any, seed: int = 0) -> Self:
        """Sets the base to the margins of the data, and to fair coins in the top layer, the first time only."""
        if not self.initialised:
            with torch.no_grad():
                self.visible.fit_base(self._rows({**x, "top": torch.full_like(x["top"], torch.nan)}))
                self.initialised.fill_(True)
        return super().initialise(x, *context, seed=seed)

    def model(self, x: Any) -> Mapping[str, Tensor]:  # type: ignore[override]
        """The density of rows of both variables; returns these completed by the base."""
        completed = super().model(self._rows(x))
        parts = completed.split([shape.numel() for shape in self.event_shape.values()], -1)
        return {n: p.unflatten(-1, s) for (n, s), p in zip(self.event_shape.items(), parts, strict=True)}

    def log_sum(self, x: Tensor, *context: Any) -> Tensor | None:
        """Over the states of g, where that alone is missing and is the smaller layer; else over those of h."""
        size, units = (shape.numel() for shape in self.event_shape.values())
        alone = not bool(x[:, :size].isnan().any()) and bool(x[:, size:].isnan().all())
        if not alone or units > min(MAX_TOP, len(self.hidden_biases)):
            return super().log_sum(x)
        g = torch.cartesian_prod(*[torch.tensor([-0.5, 0.5], device=x.device)] * units).view(-1, units).to(x)
        phi = self.visible.features(x)[:, :size]
        own = g @ self.visible_biases[size:]  # (2^K_2,)
        lower = phi @ self.weights[:size] + self.hidden_biases  # (N, K_1)
        upper = g @ self.weights[size:]  # (2^K_2, K_1)
        sums = []
        for rows in lower.split(max(1, CELLS // upper.numel())):
            u = rows.unsqueeze(1) + upper
            sums.append((own + (F.softplus(u) - u / 2).sum(2)).double().logsumexp(1))
        logits = self.visible.logits[:size]
        base = (x[:, :size] * logits - F.softplus(logits)).sum(1) - units * math.log(2.0)
        total: Tensor = torch.cat(sums) + base + phi @ self.visible_biases[:size]
        return total

    def _rows(self, x: Mapping[str, Tensor]) -> Tensor:
        """Both variables in one tensor, (N, D + K_2)."""
        return torch.cat([x["x"].flatten(1), x["top"]], 1)
