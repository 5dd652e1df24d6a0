r"""Class-conditional densities: generative classification, of which naive Bayes is the simplest case.

.. math::
    y_n \sim \operatorname{Categorical}(\pi), \qquad x_n \mid y_n = k \sim p_k(x), \qquad
    p(y_n = k \mid x_{n,o}) = \frac{\pi_k \, p_k(x_{n,o})}{\sum_j \pi_j \, p_j(x_{n,o})} .

The laws of the classes are the components of a mixture whose labels are seen: diagonal Gaussians or Bernoullis are
naive Bayes, tied Gaussians linear discriminant analysis, full ones quadratic, factor analysers those of many correlated
entries. What is missing of :math:`x` is integrated out, and a label that is missing is summed out, so data without
labels teach too. Classify by :func:`pyro_gen.tasks.classify`.

**Estimates** are those of the mixture's EM with the seen labels as responsibilities.

References:
    | On Discriminative vs. Generative Classifiers (Ng & Jordan, 2001)
    | Modeling the Manifolds of Images of Handwritten Digits (Hinton, Dayan & Revow, 1997)
    | https://doi.org/10.1109/72.554192
"""

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from pyro_gen._sizes import check_sizes
from pyro_gen.data.small import binary_rows, level_rows, normal_rows
from pyro_gen.heads import label
from pyro_gen.models.mixture.base import Mixture
from pyro_gen.models.mixture.factor_analysers import MixtureOfFactorAnalysers
from pyro_gen.models.mixture.gaussian import GaussianMixture
from pyro_gen.models.mixture.latent_class import BernoulliMixture
from pyro_gen.observation import observe
from pyro_gen.program import Program
from pyro_gen.registry import model

__all__ = ["ClassConditional"]


@model(
    "class-conditional densities, naive Bayes",
    paper="Ng & Jordan (2001)",
    small={
        "discriminant analysis": lambda: (ClassConditional(GaussianMixture(4, 3)), _small(normal_rows(12, 4))),
        "naive Bayes": lambda: (ClassConditional(BernoulliMixture(4, 3)), _small(binary_rows(12, 4))),
        "factor analysers": lambda: (ClassConditional(MixtureOfFactorAnalysers(4, 3, 1)), _small(normal_rows(12, 4))),
    },
)
class ClassConditional(Program):
    r"""Creates a classifier of data ``x`` into labels ``y`` from the components of a mixture.

    Arguments:
        mixture: A mixture of as many components as there are classes, 2 or more.

    Example:
        >>> from pyro_gen.tasks import classify
        >>> x = torch.cat([normal_rows(20, 2) - 3, normal_rows(20, 2) + 3])
        >>> y = torch.arange(40) // 20
        >>> program = ClassConditional(GaussianMixture(2, 2, "diagonal")).initialise({"x": x, "y": y.float()})
        >>> classify(program, {"x": torch.tensor([[3.0, torch.nan], [-3.0, -3.0]])}, label="y").most_likely
        tensor([1, 0])
    """

    def __init__(self, mixture: Mixture) -> None:
        super().__init__()
        self.mixture = mixture
        check_sizes(mixture, 2, components=mixture.components)
        self.label = label(mixture.components)
        self.event_shape = {"x": mixture.event_shape, "y": torch.Size()}

    def check_inputs(self, data: Mapping[str, Tensor], *context: Any) -> None:
        super().check_inputs(data, *context)
        self.label.check(self, data["y"])

    def model(self, data: Mapping[str, Tensor]) -> None:
        r"""The joint density :math:`p(y, x)` of labels ``y``, (N,), and data ``x``, :math:`(N, *event)`."""
        with self.plate(data):
            y = observe("y", self.label(self.mixture.logits), data["y"])  # (N,)
            observe("x", self.mixture.component(y.nan_to_num().long()), data["x"])

    def initialise(self, data: Mapping[str, Tensor], *context: Any, seed: int = 0) -> Self:
        """Estimates the classes from the data with labels, and then by EM from all; the first time only."""
        if not self.mixture.initialised:
            self.mixture.ascend(data["x"], self.label.one_hot(data["y"]).to(data["x"]))
        return super().initialise(data, *context, seed=seed)


def _small(x: Tensor) -> dict[str, Tensor]:
    """Data with labels."""
    return {"x": x, "y": level_rows(3, len(x))}
