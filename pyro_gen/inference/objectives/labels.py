r"""Training with labels of which some are known: the label is summed out where it is not.

With the bound of one draw for each value of the label, :math:`w_{nk} = p(x_n, y = k, z_k) / q(z_k \mid x_n, y = k)`
where :math:`z_k \sim q(z \mid x_n, y = k)`,

.. math::
    \mathcal{L}_n = \begin{cases} \log w_{n y_n} & y_n \text{ known} \\ \log \sum_k w_{nk} & \text{else} \end{cases}
    \qquad \text{and} \qquad
    \mathcal{L}_n + \alpha \log \frac{w_{n y_n}}{\sum_k w_{nk}} \text{ for known ones} .

Both cases are bounds, :math:`\mathbb{E} \log \sum_k w_{nk} \le \log \sum_k p(x_n, y = k)`, and the sum is the bound of
M2 (Kingma et al., 2014) at the best classifier :math:`q(y \mid x_n)`, which is :math:`w_{nk} / \sum_j w_{nj}`: there is
none to be trained. The last term makes it one that tells the known labels.
"""

from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_gen._sizes import check_sizes, check_weights
from pyro_gen.density import rows_of
from pyro_gen.inference.objectives.base import Objective
from pyro_gen.inference.objectives.importance import local_log_weight
from pyro_gen.inference.objectives.pairs import (
    require_proposals,
    require_reparameterised,
    trace_pair_with_missing,
)
from pyro_gen.packing import PackedProgram
from pyro_gen.program import Program, data_scale, data_size
from pyro_gen.registry import objective

__all__ = ["SemiSupervisedELBO"]


@objective
class SemiSupervisedELBO(Objective):
    r"""The ELBO with a label summed out where it is not known, and weight on telling the known ones.

    The guide is called with each value of the label, so that it may condition on it, :math:`q(z \mid x, y)`.

    References:
        | Semi-supervised Learning with Deep Generative Models (Kingma et al., 2014), M2
        | https://arxiv.org/abs/1406.5298

    Arguments:
        label: The name of the label among the variables of the data, and of the site that observes it.
        classes: The number K of classes, 0, ..., K - 1.
        alpha: The weight :math:`\alpha` of the classification of known labels.

    Example:
        >>> import math
        >>> import pyro.distributions as dist
        >>> import pyro_gen as pg
        >>> class Mixture(pg.Program):
        ...     def model(self, data):
        ...         with self.plate(data):
        ...             y = pg.observe("y", dist.Categorical(torch.ones(2)), data["y"])
        ...             pg.observe("x", dist.Normal(2 * y, 1.0), data["x"])
        >>> data = {"x": torch.tensor([1.0, 2.0]), "y": torch.tensor([torch.nan, 1.0])}
        >>> loss = SemiSupervisedELBO("y", classes=2).loss(Mixture(), data)  # log p(x = 1) and log p(x = 2, y = 1)
        >>> exact = 0.5 + math.log(2 * math.pi) - math.log(0.5)
        >>> abs(loss - exact).item() < 1e-5
        True
    """

    def __init__(self, label: str, classes: int, alpha: float = 0.0) -> None:
        super().__init__()
        check_sizes(self, 2, classes=classes)
        check_weights(self, alpha=alpha)
        self.label, self.classes, self.alpha = label, classes, alpha

    def loss(self, program: Program, x: Tensor, *context: Any, kl_weight: Tensor | float = 1.0) -> Tensor:
        log_w = self.log_weights(program, x, *context, kl_weight=kl_weight)  # (K, N)
        y = program.variables.unpack(x)[self.label]
        known = ~torch.isnan(y)
        own = log_w.gather(0, y.nan_to_num().long().unsqueeze(0))[0]
        total = log_w.logsumexp(0)
        bound = torch.where(known, own + self.alpha * (own - total), total)
        return -data_scale(x) * bound.sum()

    def log_weights(self, program: Program, x: Any, *context: Any, kl_weight: Tensor | float = 1.0) -> Tensor:
        """The bounds of one draw for each value of the label, with shape :math:`(K, N)`."""
        if not isinstance(program, PackedProgram) or self.label not in program.variables.names:
            raise ValueError(
                f"SemiSupervisedELBO(label={self.label!r}): the data of {type(program).__name__} have no variable of "
                "that name: give a mapping such as {'x': x, " + f"'{self.label}': labels, NaN where not known" + "}."
            )
        n, k = len(x), self.classes
        rows = torch.arange(n, device=x.device).repeat(k)
        parts = dict(program.variables.unpack(x[rows]))
        parts[self.label] = torch.arange(k, dtype=x.dtype, device=x.device).repeat_interleave(n)
        filled = program.variables.join(parts, (k * n,))
        with data_size(k * n), _Known(self.label) as given:
            model_trace, guide_trace = trace_pair_with_missing(program, filled, *rows_of(x, context, rows))
        if not given.met:
            raise ValueError(
                f"SemiSupervisedELBO(label={self.label!r}): {type(program).__name__} has no observe statement "
                f"'{self.label}': name the site as the variable."
            )
        require_proposals(guide_trace)
        require_reparameterised(guide_trace)
        log_likelihood, log_ratio = local_log_weight(model_trace, guide_trace)
        return (log_likelihood + kl_weight * log_ratio).reshape(k, n)


class _Known(Messenger):
    """Effect handler: nothing is missing of one observe statement."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.met = name, False

    def _pyro_missing(self, msg: Any) -> None:
        if msg["name"] == self.name and not msg["done"]:
            msg["value"], msg["done"], self.met = False, True, True
