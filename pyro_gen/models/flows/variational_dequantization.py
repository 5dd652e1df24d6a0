r"""Variational dequantisation: the real number behind each level is a latent variable of a flow.

.. math::
    v \sim p_{\text{flow}}(v), \qquad x_d = \lfloor v_d \rfloor \text{ in } 0, \dots, L - 1, \qquad
    P(x) = \int_{[x, x + 1)} p_{\text{flow}}(v) \, dv

The flow is of continuous numbers and the data are levels: a pixel's grey value, a count. With uniform noise,
:math:`v = x + u`, a flow has to model the edges of little boxes. Here a network chooses the noise,

.. math:: q(v \mid x): \quad v_d = x_d + \sigma\big(\mu_d(x) + s_d(x) \, \epsilon_d\big), \quad \epsilon_d \sim
    \mathcal{N}(0, 1) ,

and the ELBO bounds :math:`\log P(x)`; it is tight where q is the flow's own law within the box. It starts near uniform
noise. (The lowest and the highest level reach to infinity, so that every v has a level.)

A level that is missing puts no bound on v: there q is normal, with the mean and the standard deviation of the data.

References:
    | Flow++: Improving Flow-Based Generative Models with Variational Dequantization and Architecture Design (Ho et al.,
      2019)
    | https://arxiv.org/abs/1902.00275
    | A note on the evaluation of generative models (Theis et al., 2016), for uniform noise
    | https://arxiv.org/abs/1511.01844
"""

import math
from collections.abc import Sequence
from typing import Any, Self

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_gen._errors import meant, shown
from pyro_gen._sizes import check_sizes, check_widths, event_of
from pyro_gen.data.small import level_rows
from pyro_gen.distributions.flows import FlowDistribution
from pyro_gen.inference.unnormalised import complete_by_particles
from pyro_gen.models.flows.parts.boxes import IntoBox, LevelOf, Relative
from pyro_gen.nets import MLP
from pyro_gen.observation import observe
from pyro_gen.program import Program
from pyro_gen.registry import MODELS, model

__all__ = ["VariationalDequantization"]

MOVES = 300  # of each draw of missing levels at the end: inside boxes chains forget slowly where they came from
LOGISTIC = math.pi / math.sqrt(3)  # the standard deviation of the logit of uniform noise


@model(
    "flow of levels by variational dequantisation",
    paper="Ho et al. (2019)",
    small={"": lambda: (VariationalDequantization(3, 5, "RealNVP", (8,), layers=2), level_rows(5, 9, 3))},
)
class VariationalDequantization(Program):
    r"""Creates a density of levels from a flow.

    Arguments:
        event_shape: The shape of one datum, or the number of its entries.
        levels: The number L of levels, 0, ..., L - 1.
        flow: The name of a flow of this family, which has these options too.
        hidden: Units in each hidden layer of the network of the noise.
        options: Passed to the flow; by default its marginals are splines.

    Raises:
        ValueError: There is no such flow, it is given a context, or sizes are out of range.

    Example:
        >>> flow = VariationalDequantization((4, 4), 17, "Glow", steps=2)
        >>> x = flow.model(torch.full((2, 4, 4), torch.nan))  # two draws
        >>> bool(((x >= 0) & (x <= 16) & (x == x.floor())).all())
        True
    """

    loc: Tensor
    scale: Tensor
    initialised: Tensor

    def __init__(
        self,
        event_shape: int | Sequence[int],
        levels: int,
        flow: str = "Glow",
        hidden: Sequence[int] = (128,),
        **options: Any,
    ) -> None:
        super().__init__()
        flows = {name: m.cls for name, m in MODELS.items() if m.family == "flows" and m.cls is not type(self)}
        if not isinstance(flow, str) or flow not in flows:
            raise ValueError(
                f"VariationalDequantization(flow={shown(flow)}){meant(flow, flows)}: give the name of a flow, one of "
                f"{', '.join(flows)}."
            )
        check_sizes(self, 2, levels=levels)
        check_widths(self, hidden=hidden)
        self.event_shape, self.levels = event_of(self, event_shape), levels
        make: Any = flows[flow]
        self.bijection = make(event_shape, **({"marginals": "spline"} | options)).bijection
        if self.bijection.features:
            raise ValueError("VariationalDequantization has no context: leave out context.")
        entries = self.event_shape.numel()
        self.noise = MLP((entries, *hidden, 2 * entries), "silu", missing=True)
        nn.init.zeros_(next(self.noise[-1].parameters()))
        self.register_buffer("loc", torch.zeros(self.event_shape))
        self.register_buffer("scale", torch.ones(self.event_shape))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))

    def initialise(self, x: Tensor, *context: Any, seed: int = 0) -> Self:
        """Starts the flow at levels with uniform noise, from data with shape :math:`(N, *event)`, the first time."""
        if not self.initialised:
            generator = torch.Generator(x.device).manual_seed(seed)
            with torch.no_grad():
                v = x + torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device)
                mean = v.nanmean(0).nan_to_num(self.levels / 2)
                deviation = (v - mean).square().nanmean(0).sqrt().nan_to_num()
                self.loc.copy_(mean)
                self.scale.copy_(deviation.clamp(min=0.5))
                self.bijection.start(torch.where(torch.isnan(v), mean, v))
                self.initialised.fill_(True)
        return super().initialise(x, *context, seed=seed)

    def model(self, x: Tensor) -> Tensor:
        r"""The joint density :math:`p(v) \, P(x \mid v)` of data with shape :math:`(N, *event)`."""
        with self.plate(x):
            v = pyro.sample("v", FlowDistribution(self.bijection, None, x.shape[:1]))  # (N, *event)
            level: Any = LevelOf(v, self.levels)
            return observe("x", level.to_event(len(self.event_shape)), x)

    def before(self, x: Tensor) -> Any:
        """The law of the noise before it is put into the boxes of x; of missing entries that of v itself."""
        mu, raw = self.noise((2 * x / (self.levels - 1) - 1).flatten(1)).chunk(2, -1)  # (N, D) each
        scale = LOGISTIC * raw.clamp(-5, 5).exp()
        missing = torch.isnan(x)
        loc = torch.where(missing, self.loc, mu.reshape(x.shape))
        return dist.Normal(loc, torch.where(missing, self.scale, scale.reshape(x.shape)))

    def guide(self, x: Tensor) -> None:
        r"""The noise :math:`q(v \mid x)`."""
        with self.plate(x):
            noise: Any = dist.TransformedDistribution(self.before(x), [IntoBox(x)])
            pyro.sample("v", noise.to_event(len(self.event_shape)))

    def draw_missing(self, x: Tensor, draws: int, *context: Any) -> Tensor:
        """Draws missing levels by sequential Monte Carlo over v inside the boxes, from q to what the flow says."""
        return complete_by_particles(_InBoxes(self), x, context, draws, "impute", moves=MOVES)


class _InBoxes(Program):
    """The same density in coordinates u without edges, in which chains may move; the end boxes reach to infinity."""

    def __init__(self, levels: VariationalDequantization) -> None:
        super().__init__()
        self.of, self.event_shape = levels, levels.event_shape

    def model(self, x: Tensor) -> Tensor:
        """The density of what is seen, and data with levels in the place of what is missing."""
        dims = len(self.event_shape)
        with self.plate(x):
            law = self.of.before(x).to_event(dims)
            u = pyro.sample("u", law)  # (N, *event)
            boxes = IntoBox(x)
            lowest, highest = x == 0, x == self.of.levels - 1
            ends = torch.where(lowest, 1 - F.softplus(-u), self.of.levels - 1 + F.softplus(u))
            v = torch.where(lowest | highest, ends, boxes(u))
            slope = F.logsigmoid(torch.where(lowest, -u, u))  # of the ends, its logarithm
            slope = torch.where(lowest | highest, slope, boxes.log_abs_det_jacobian(u, v))
            log_p = FlowDistribution(self.of.bijection, None, x.shape[:1]).log_prob(v)
            log_p = log_p + slope.flatten(-dims).sum(-1)  # of u, (N,)
            pyro.sample("x", Relative(log_p - law.log_prob(u)), obs=x.new_zeros(x.shape[:1]))
        return torch.where(torch.isnan(x), LevelOf(v, self.of.levels).sample(), x)
