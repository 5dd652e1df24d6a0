r"""Latent class analysis: mixtures of Bernoulli and of categorical entries, independent inside a class.

.. math::
    c_n \sim \operatorname{Categorical}(\pi), \qquad
    x_{nd} \mid c_n = k \sim \operatorname{Bernoulli}(p_{kd}) \quad \text{or} \quad \operatorname{Categorical}(p_{kd}) .

The class explains whatever dependence there is between entries. It is summed out, and entries that are missing drop
out of the product,

.. math:: p(x_{n,o}) = \sum_k \pi_k \prod_{d \in o} p(x_{nd} \mid p_{kd}) .

**EM** counts, over data where the entry was seen, with pseudo-counts :math:`b` (a Dirichlet prior) that keep levels a
class has not shown possible:

.. math:: p_{kdl} \leftarrow \frac{b + \sum_n r_{nk} [x_{nd} = l]}{b L + \sum_n r_{nk}} .

References:
    | Latent Structure Analysis (Lazarsfeld & Henry, 1968)
    | Exploratory latent structure analysis using both identifiable and unidentifiable models (Goodman, 1974)
    | https://doi.org/10.1093/biomet/61.2.215
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_gen.data.small import binary_rows, level_rows
from pyro_gen.heads import BernoulliHead, CategoricalHead, Head
from pyro_gen.models.mixture.base import Mixture
from pyro_gen.registry import model

__all__ = ["BernoulliMixture", "CategoricalMixture"]


class _LatentClasses(Mixture):
    """What both have in common: sums over levels are products of matrices."""

    def __init__(self, event_shape: int | Sequence[int], components: int, head: type[Head], **options: Any) -> None:
        super().__init__(event_shape, components)
        self.head = head(self.event_shape, **options)
        self.entry_logits = nn.Parameter(torch.randn(components, *self.head.features))

    def component(self, k: Any = slice(None)) -> Any:
        return self.head(self.entry_logits[k])

    def log_levels(self) -> Tensor:
        r"""The logarithms :math:`\log p_{kdl}`, with shape :math:`(K, L, *event)`."""
        raise NotImplementedError

    def indicators(self, x: Tensor) -> Tensor:
        """[x_nd = l], 0 for all levels where an entry is missing, with shape (N, L, *event)."""
        levels = self.log_levels().shape[1]
        return torch.stack([x == level for level in range(levels)], 1).to(self.logits)

    def log_joint(self, x: Tensor) -> Tensor:
        log_weights: Tensor = self.logits.log_softmax(0)
        return log_weights + self.indicators(x).flatten(1) @ self.log_levels().flatten(1).T

    def counts(self, x: Tensor, r: Tensor) -> Tensor:
        """How often each class is expected to show each level, with shape (K, L, *event)."""
        seen = self.indicators(x)
        counts: Tensor = r.T.to(seen) @ seen.flatten(1)
        return counts.view(-1, *seen.shape[1:])


@model(
    "mixture of Bernoullis",
    paper="Lazarsfeld & Henry (1968)",
    small={
        "vectors": lambda: (BernoulliMixture(5, 3), binary_rows(9, 5)),
        "images": lambda: (BernoulliMixture((2, 3), 2), binary_rows(9, 2, 3)),
    },
)
class BernoulliMixture(_LatentClasses):
    r"""Creates a mixture of Bernoullis, for data with entries 0.0 and 1.0.

    Arguments:
        event_shape: The shape of one datum, or the number of its entries.
        components: The number of classes :math:`K`.
        pseudo_count: What EM adds to the counts, :math:`b`.

    Attributes:
        logits: The logarithms of the weights :math:`\pi`, up to a constant, with shape :math:`(K,)`.
        entry_logits: :math:`\log p_{kd} / (1 - p_{kd})`, with shape :math:`(K, *event)`.

    Raises:
        ValueError: There is no class.

    Example:
        >>> x = torch.tensor([[1.0, 1, 1], [0, 0, 0]]).repeat(20, 1)
        >>> classes = BernoulliMixture(3, components=2).initialise(x)
        >>> classes.responsibilities(torch.tensor([[1.0, 1.0, torch.nan]])).max().item() > 0.99
        True
    """

    def __init__(self, event_shape: int | Sequence[int], components: int, pseudo_count: float = 0.5) -> None:
        super().__init__(event_shape, components, BernoulliHead)
        self.pseudo_count = pseudo_count

    def log_levels(self) -> Tensor:
        return F.logsigmoid(torch.stack([-self.entry_logits, self.entry_logits], 1))

    def maximise(self, x: Tensor, r: Tensor) -> None:
        zeros, ones = (self.counts(x, r) + self.pseudo_count).log().unbind(1)
        self.entry_logits.copy_(ones - zeros)


@model(
    "latent class analysis",
    paper="Goodman (1974)",
    small={"": lambda: (CategoricalMixture(4, 2, levels=3), level_rows(3, 9, 4))},
)
class CategoricalMixture(_LatentClasses):
    r"""Creates a mixture of categorical entries, for data with levels 0.0, 1.0, ..., L - 1.

    Arguments:
        event_shape: The shape of one datum, or the number of its entries.
        components: The number of classes :math:`K`.
        levels: The number of levels :math:`L` of an entry.
        pseudo_count: What EM adds to the counts, :math:`b`.

    Attributes:
        logits: The logarithms of the weights :math:`\pi`, up to a constant, with shape :math:`(K,)`.
        entry_logits: :math:`\log p_{kdl}` up to a constant, with shape :math:`(K, L, *event)`.

    Raises:
        ValueError: There is no class.

    Example:
        >>> x = torch.tensor([[2.0, 2], [0, 0]]).repeat(20, 1)
        >>> classes = CategoricalMixture(2, components=2, levels=3).initialise(x)
        >>> classes.responsibilities(torch.tensor([[2.0, torch.nan]])).max().item() > 0.9
        True
    """

    def __init__(
        self, event_shape: int | Sequence[int], components: int, levels: int, pseudo_count: float = 0.5
    ) -> None:
        super().__init__(event_shape, components, CategoricalHead, levels=levels)
        self.pseudo_count = pseudo_count

    def log_levels(self) -> Tensor:
        return self.entry_logits.log_softmax(1)

    def maximise(self, x: Tensor, r: Tensor) -> None:
        self.entry_logits.copy_((self.counts(x, r) + self.pseudo_count).log())
