"""Series whose steps are those of autoregressions that follow each other as a Markov chain."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_gen._errors import CannotMarginaliseError
from pyro_gen.distributions.autoregressive import AutoregressiveSeries
from pyro_gen.distributions.hidden_markov import chain_product, draw_states

__all__ = ["SwitchingSeries"]


class SwitchingSeries(TorchDistribution):
    r"""Series with shape :math:`(T)` whose steps are those of autoregressions that follow each other.

    Arguments:
        initial: The logarithms of :math:`\pi`, with shape :math:`(K)`.
        transition: Those of A, with shape :math:`(K, K)`.
        regimes: The autoregressions, with batch shape :math:`(K)`.
        rows: The batch shape.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector

    def __init__(self, initial: Tensor, transition: Tensor, regimes: AutoregressiveSeries, rows: Any = ()) -> None:
        self.initial, self.transition, self.regimes = initial, transition, regimes
        self.seen: Tensor | None = None
        super().__init__(torch.Size(rows), regimes.event_shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "SwitchingSeries":
        new = SwitchingSeries(self.initial, self.transition, self.regimes, batch_shape)
        new.seen = self.seen
        return new

    def observed(self, value: Tensor, seen: Tensor | None) -> Tensor:
        r"""The logarithms of :math:`B_t`, 0 where nothing was seen, with shape :math:`(*, T, K)`."""
        each = self.regimes.log_densities(value.unsqueeze(-2)).mT
        return each if seen is None else torch.where(seen.unsqueeze(-1), each, 0.0)

    def log_prob(self, value: Tensor) -> Tensor:
        observed = self.observed(value, self.seen)
        total = self.initial + observed[..., 0, :]
        if value.shape[-1] > 1:
            total = total + chain_product(self.transition + observed[..., 1:, :].unsqueeze(-2)).logsumexp(-1)
        return total.logsumexp(-1)

    def marginalise(self, value: Tensor) -> tuple["SwitchingSeries", Tensor, Callable[[], Tensor]]:
        """What is seen of series with nothing behind it, these without NaN, and a function that draws the rest.

        Raises:
            CannotMarginaliseError: A step is missing before one that is seen.
        """
        seen = ~torch.isnan(value)
        if bool((seen[..., 1:] & ~seen[..., :-1]).any()):
            raise CannotMarginaliseError("A gap in a switching autoregression")
        scored = self.expand(self.batch_shape)
        scored.seen = seen
        return scored, value.nan_to_num(), lambda: self._complete(value)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        return self._complete(self.regimes.loc.new_full(shape, torch.nan)).to(self.regimes.dtype)

    def _complete(self, value: Tensor) -> Tensor:
        """Draws regimes given what was seen, then the steps to come, one after the other."""
        seen, here = ~torch.isnan(value), torch.eye(len(self.initial)).to(self.transition).log()
        # The chain that is drawn makes a transition before the first step: to the regime that it is in.
        steps = torch.cat([here.unsqueeze(0), self.transition.expand(value.shape[-1] - 1, -1, -1)])
        regimes = draw_states(self.initial, steps, self.observed(value.nan_to_num(), seen))
        b, loc = self.regimes.diagonals, self.regimes.loc  # (K, T, k + 1), (K)
        e = torch.randn(value.shape, dtype=torch.float64, device=value.device)
        x: list[Tensor] = []
        for t in range(value.shape[-1]):
            row, m, total = b[regimes[..., t], t], loc[regimes[..., t]], e[..., t]
            for j in range(1, min(t, b.shape[-1] - 1) + 1):
                total = total - row[..., j] * (x[t - j] - m)
            x.append(torch.where(seen[..., t], value[..., t].double(), m + total / row[..., 0]))
        return torch.where(seen, value, torch.stack(x, -1).to(value.dtype))
