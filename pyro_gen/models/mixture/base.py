r"""What all finite mixtures share: the exact density, responsibilities, and the EM algorithm.

.. math::
    p(x_n) = \sum_{k=1}^K \pi_k \, p_k(x_n), \qquad
    r_{nk} = p(c_n = k \mid x_{n,o}) \propto \pi_k \, p_k(x_{n,o}) .

The component is summed out, so there is no latent variable, and missing entries are integrated out inside each
component. The likelihood has many maxima: :meth:`Mixture.initialise` starts at well spread data (k-means++) and goes
up by EM, the best of a few short runs to its end,

.. math:: \pi_k \leftarrow \frac{a + \sum_n r_{nk}}{K a + N} ,

with the M-step of the components on each model's page; :func:`pyro_gen.fit` takes it from there by gradients.

References:
    | Maximum Likelihood from Incomplete Data via the EM Algorithm (Dempster, Laird & Rubin, 1977)
    | k-means++: The Advantages of Careful Seeding (Arthur & Vassilvitskii, 2007)
"""

from collections.abc import Sequence
from typing import Any, Self

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_gen._random import seeded
from pyro_gen.observation import marginalise, observe
from pyro_gen.program import Program

__all__ = ["Mixture"]

STARTS, SHORT, LONG, TOLERANCE = 4, 15, 300, 1e-4  # steps of EM from each start, and from the best; nats per datum
PSEUDO_COUNT = 1.0  # a: Dirichlet(1 + a) for the weights


class Mixture(Program):
    r"""A finite mixture; components say what their law is and how they are estimated.

    Arguments:
        event_shape: The shape of one datum, or the number :math:`D` of its entries.
        components: The number of components :math:`K`.

    Attributes:
        logits: The logarithms of the weights :math:`\pi`, up to a constant, with shape :math:`(K,)`.

    Raises:
        ValueError: There is no component.
    """

    initialised: Tensor

    def __init__(self, event_shape: int | Sequence[int], components: int) -> None:
        super().__init__()
        if components < 1:
            raise ValueError(f"{type(self).__name__}(components={components}): give at least one.")
        self.event_shape = torch.Size((event_shape,) if isinstance(event_shape, int) else event_shape)
        self.components = components
        self.logits = nn.Parameter(torch.zeros(components))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))

    def component(self, k: Any = slice(None)) -> Any:
        """The law of a datum in component ``k``, an index or indices with shape (*), which is its batch shape."""
        raise NotImplementedError

    def maximise(self, x: Tensor, r: Tensor) -> None:
        """The M-step: sets the components' parameters from data and their responsibilities, with shape (N, K)."""
        raise NotImplementedError

    def model(self, x: Tensor) -> Tensor:
        r"""The density :math:`p(x)` of data with shape :math:`(N, *event)`; returns it completed."""
        with self.plate(x):
            law: Any = dist.MixtureSameFamily(dist.Categorical(logits=self.logits), self.component())
            return observe("x", law, x)

    def log_joint(self, x: Tensor) -> Tensor:
        r"""The log-density :math:`\log \pi_k \, p_k(x_{n,o})`, with shape :math:`(N, K)`."""
        scored, filled, _ = marginalise(self.component(), x.unsqueeze(1))
        return self.logits.log_softmax(0) + scored.log_prob(filled)  # type: ignore[no-any-return]

    def responsibilities(self, x: Tensor) -> Tensor:
        r"""The probabilities :math:`r_{nk}` of components given what is seen of data, with shape :math:`(N, K)`."""
        with torch.no_grad():
            return self.log_joint(x).softmax(1)

    def initialise(self, x: Tensor, *context: Any, seed: int = 0) -> Self:
        """Starts EM from well spread data, the best of a few starts; the first time only.

        Arguments:
            x: Data, with shape :math:`(N, *event)`, NaN where nothing was observed.
            context: Not used.
            seed: Seeds the starts.
        """
        if not self.initialised:
            with seeded(seed), torch.no_grad():
                starts = [self._start(x) for _ in range(STARTS if self.components > 1 else 1)]
                self.load_state_dict(max(starts, key=lambda end: end[0])[1])
                self._ascend(x, self.responsibilities(x), LONG)
            self.initialised.fill_(True)
        return super().initialise(x, *context, seed=seed)

    def _start(self, x: Tensor) -> tuple[float, dict[str, Tensor]]:
        """A short run of EM from spread data: the log-likelihood per datum that it ends at, and the parameters."""
        value = self._ascend(x, _spread(x.flatten(1), self.components), SHORT)
        return value, {name: v.clone() for name, v in self.state_dict().items()}

    @torch.no_grad()
    def ascend(self, x: Tensor, known: Tensor) -> None:
        """EM where the component of some data is known: from an M-step on these, to its end.

        Arguments:
            x: Data, with shape :math:`(N, *event)`, NaN where nothing was observed.
            known: Indicators of components with shape :math:`(N, K)`, all zero where it is not known.
        """
        self._ascend(x, known, LONG, known)
        self.initialised.fill_(True)

    def _ascend(self, x: Tensor, r: Tensor, steps: int, known: Tensor | None = None) -> float:
        last, value = -torch.inf, -torch.inf
        for _ in range(steps):
            self.logits.copy_((r.sum(0) + PSEUDO_COUNT).log())
            self.maximise(x, r)
            joint = self.log_joint(x)
            r = joint.softmax(1)
            if known is not None:
                labelled = known.any(1, keepdim=True)
                joint = torch.where(labelled & (known == 0), -torch.inf, joint)
                r = torch.where(labelled, known, r)
            value = joint.logsumexp(1).mean().item()
            if value - last < TOLERANCE:
                break
            last = value
        return value


def _spread(x: Tensor, components: int) -> Tensor:
    """Rows (N, D) to the nearest of K of them, each drawn by its squared distance from those before; (N, K)."""
    mean = x.nanmean(0).nan_to_num()
    scale = (x - mean).square().nanmean(0).sqrt().nan_to_num(1.0)
    z = ((x - mean) / scale.clamp(min=1e-6 * scale.max().item() or 1.0)).nan_to_num()  # a missing entry is no distance
    distances = z.new_full((len(z), 0), torch.inf)
    for k in range(components):
        nearest = distances.min(1).values if k else z.new_ones(len(z))
        chosen = torch.multinomial(nearest + 1e-12, 1)
        distances = torch.cat([distances, (z - z[chosen]).square().sum(1, keepdim=True)], 1)
    return nn.functional.one_hot(distances.argmin(1), components).to(x)
