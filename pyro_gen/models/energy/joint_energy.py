r"""A joint energy-based model (JEM): your classifier is secretly an energy-based model.

The K outputs :math:`f(x)` of a classifier are read as negative energies of data and label together,

.. math::
    p(x, y = k) = \frac{1}{Z} \, p_0(x) \, e^{f_k(x)}, \qquad
    p(x) = \frac{1}{Z} \, p_0(x) \sum_k e^{f_k(x)}, \qquad
    p(y = k \mid x) = \frac{e^{f_k(x)}}{\sum_j e^{f_j(x)}} .

What a softmax throws away, :math:`\log \sum_k e^{f_k(x)}`, says how likely x is: a classifier that has seen data of
some classes then knows data of another one by their energy (outliers). The base :math:`p_0` is that of
:class:`~pyro_gen.models.energy.energy_based.EnergyBased`. The program is written as the two factors of

.. math:: \log p(x, y) = \log p(x) + \log p(y \mid x) ,

of which the second is normalised and trained by itself, as any classifier is; the gradient of the first takes draws of
the model, by chains. A label that is not known, NaN, is summed out, so data without labels teach too. Chains move data
by the gradient of the energy, given the label where it is known (class-conditional generation), and draw labels that
are not known from :math:`p(y \mid x)` itself.

References:
    | Your Classifier is Secretly an Energy Based Model and You Should Treat it Like One (Grathwohl et al., 2020)
    | https://arxiv.org/abs/1912.03263
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import pyro
import torch
from torch import Tensor, nn

from pyro_gen._sizes import check_sizes, event_of
from pyro_gen.data.small import binary_rows, level_rows, normal_rows
from pyro_gen.density import Density
from pyro_gen.heads import label
from pyro_gen.inference.mcmc.discrete_langevin import DiscreteLangevin
from pyro_gen.inference.mcmc.langevin import Langevin
from pyro_gen.inference.mcmc.missing_entries import move_missing
from pyro_gen.inference.mcmc.sampler import Sampler
from pyro_gen.inference.objectives import ContrastiveDivergence, Objective
from pyro_gen.models.energy.parts.base import IndependentBase
from pyro_gen.models.energy.parts.given_label import GivenLabel
from pyro_gen.nets import MLP
from pyro_gen.observation import observe
from pyro_gen.program import Program
from pyro_gen.registry import model

__all__ = ["JointEnergy"]

STEPS = 3  # of the sampler in a transition of a chain


@model(
    "joint energy-based model (JEM)",
    paper="Grathwohl et al. (2020)",
    small={
        "normal base": lambda: (JointEnergy(3, 3, (8,)), {"x": normal_rows(9, 3), "y": level_rows(3, 9)}),
        "bernoulli base": lambda: (
            JointEnergy((2, 2), 3, (8,), base="bernoulli"),
            {"x": binary_rows(9, 2, 2), "y": level_rows(3, 9)},
        ),
    },
)
class JointEnergy(Program):
    r"""Creates a joint energy-based model of data ``x`` and labels ``y``, a mapping of both.

    Arguments:
        shape: The shape of ``x`` of one datum, or the number of its entries.
        classes: The number K of classes; ``y`` is one of 0, 1, ... as a float, NaN where it is not known.
        hidden: The widths of the hidden layers.
        activation: The name of the activation in :data:`pyro_gen.nets.ACTIVATIONS`.
        base: ``"normal"`` for real numbers, ``"bernoulli"`` for entries that are 0 or 1.
        network: In the place of the layers above, a network of data less their mean with shape :math:`(N, *shape)` that
            returns f with shape :math:`(N, K)`. It begins as it is given.
        objective: What it is trained by; by default contrastive divergence by four transitions of chains that persist.

    Raises:
        ValueError: A size is none, or there is no base of that name.

    Example:
        >>> import pyro_gen as pg
        >>> program = JointEnergy((8, 8), classes=10, base="bernoulli")
        >>> x = torch.zeros(5, 8, 8)
        >>> pg.tasks.classify(program, {"x": x}, label="y").probabilities[0, :3]  # untrained
        tensor([0.1000, 0.1000, 0.1000], dtype=torch.float64)
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        classes: int,
        hidden: Sequence[int] = (128, 128),
        activation: str = "silu",
        base: str = "normal",
        network: nn.Module | None = None,
        objective: Objective | None = None,
    ) -> None:
        super().__init__()
        one = event_of(self, shape, "shape")
        self.event_shape = {"x": one, "y": torch.Size()}
        check_sizes(self, 2, classes=classes)
        self.label = label(classes)
        if network is None:
            network = MLP((one.numel(), *hidden, classes), activation)
            for parameter in network[-1].parameters():
                nn.init.zeros_(parameter)
        self.data = GivenLabel(IndependentBase(base, one), network)
        self.objective = objective or ContrastiveDivergence(4, persistent=500)

    def initialise(self, data: Mapping[str, Tensor], *context: Any, seed: int = 0) -> Self:
        """Sets the base from the data, the first time only."""
        self.data.base.fit(data["x"])
        return super().initialise(data, *context, seed=seed)

    def check_inputs(self, data: Mapping[str, Tensor], *context: Any) -> None:
        super().check_inputs(data, *context)
        self.label.check(self, data["y"])

    def model(self, data: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The joint density of data with shape :math:`(N, *shape)` and labels :math:`(N,)`; returns them completed."""
        with self.plate(data):
            x = observe("x", self.data.base.law(), data["x"])
            f = self.data.outputs(x)  # (N, K)
            pyro.factor("energy", f.logsumexp(-1))
            return {"x": x, "y": observe("y", self.label(f), data["y"])}

    def log_density(self, x: Tensor) -> Tensor:
        r""":math:`\log p(x) + \log Z = \log p_0(x) + \log \sum_k e^{f_k(x)}`: the lower, the more of an outlier is x.

        Of complete data with shape :math:`(N, *shape)`; shape :math:`(N,)`, in nats.
        """
        return self.data.base.law().log_prob(x) + self.data.outputs(x).logsumexp(-1)  # type: ignore[no-any-return]

    # ------------------------------------------------------------------------------------------------------------------
    # Chains, of rows (x, y) as one tensor

    def _parts(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Data and labels of rows with shape :math:`(*, D + 1)`."""
        return rows[..., :-1].unflatten(-1, self.event_shape["x"]), rows[..., -1]

    def _sampler(self, density: Density) -> Sampler:
        if self.data.base.kind == "bernoulli":
            return DiscreteLangevin(density)
        sampler = Langevin(density)
        sampler.load_state_dict({"scale": self.data.base.scale.flatten()})
        return sampler

    def _draw_labels(self, x: Tensor) -> Tensor:
        """Draws of p(y | x) for data with shape (B, *shape): shape (B,)."""
        return torch.multinomial(self.data.outputs(x).softmax(-1), 1).squeeze(-1).to(x.dtype)

    def kernel(self, x: Tensor, missing: Tensor, beta: float, *context: Any) -> Tensor:
        """Moves missing data by the gradient of their energy, and draws missing labels given the data."""
        (data, y), (holes, unknown) = self._parts(x), self._parts(missing)
        if bool(holes.any()):
            given = torch.where(unknown, torch.nan, y[0])  # (N,)
            data = move_missing(self._sampler, self.data, data, holes, beta, given, steps=STEPS)
        with torch.no_grad():
            drawn = self._draw_labels(data.flatten(0, 1)).view_as(y)
        return torch.cat([data.flatten(2), torch.where(unknown, drawn, y).unsqueeze(-1)], -1)

    def log_sum(self, x: Tensor, *context: Any) -> Tensor | None:
        """Over labels; where data are missing too the sum is not known."""
        data, y = self._parts(x)
        if bool(data.isnan().any()):
            return None
        total: Tensor = self.data.base.law().log_prob(data) + self.data.negative_energy(data, y)
        return total.double()

    def draw_missing(self, x: Tensor, draws: int, *context: Any) -> Tensor | None:
        """Labels are drawn exactly, data by chains."""
        data, y = self._parts(x)
        if bool(data.isnan().any()):
            return None
        drawn = self._draw_labels(data.repeat(draws, *(1 for _ in data.shape[1:]))).view(draws, -1)
        return torch.cat([x[..., :-1].expand(draws, -1, -1), torch.where(y.isnan(), drawn, y).unsqueeze(-1)], -1)
