r"""Entries one after the other, each with the law that a network gives it from those before: exact autoregression.

.. math:: p_o(x) = \prod_{t=1}^D p\big(x_{o(t)} \mid x_{o(1)}, \dots, x_{o(t-1)}\big), \qquad
    p(x) = \frac1M \sum_{m=1}^M p_{o_m}(x)

for an order o of the entries, or an ensemble of M orders. A network with masks has all D laws in one pass, for the
order that its masks are of. A network that is told which entries it sees has them in D passes, for any order at all;
then what is seen of a datum may come first, so missing entries drop out, and are drawn one after the other given all
others.

References:
    | MADE: Masked Autoencoder for Distribution Estimation (Germain et al., 2015)
    | https://arxiv.org/abs/1502.03509
    | A Deep and Tractable Density Estimator (Uria, Murray & Larochelle, 2014)
    | https://arxiv.org/abs/1310.1757
"""

import abc
import copy
import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_gen._errors import CannotMarginaliseError
from pyro_gen._progress import told
from pyro_gen.distributions.innermost import of_entry

__all__ = ["MaskedEntries", "OrderAgnosticEntries", "OrderedEntries", "Steps"]

ROWS = 16384  # that a network is given at once


class Steps(abc.ABC):
    """The laws of entries one after the other, by a network that keeps what it computed from the entries before.

    One is made for so many rows that are completed together; it is called once for each entry in its order.
    """

    @abc.abstractmethod
    def law(self, previous: Tensor | None) -> Any:
        """The law of the next entry, with batch shape (rows,), given the one before.

        Arguments:
            previous: The value of the entry before, with shape (rows,), drawn or seen; ``None`` at the first entry.
        """

    @abc.abstractmethod
    def kept(self) -> list[Tensor]:
        """What it keeps, each with shape (rows, *), in memory of its own."""

    def follow(self, index: Tensor) -> None:
        """Each row goes on from what another kept, by its number: particles that are resampled, with shape (rows,)."""
        moved = (index != torch.arange(len(index), device=index.device)).nonzero()[:, 0]
        for tensor in self.kept():
            tensor[moved] = tensor[index[moved]]


class OrderedEntries(TorchDistribution):
    r"""Entries one after the other in each of M orders; abstract: networks that are told different things follow.

    Arguments:
        network: Gives the laws of entries.
        orders: The entries in each of M orders, with shape :math:`(M, D)`.
        event_shape: The shape of a value, of D entries.
        support: The support of a single entry.
        batch_shape: The batch shape.
        context: What the network is given besides, with shape :math:`(*, C)`.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = False
    seen: Tensor | None

    def __init__(
        self,
        network: Callable[..., Any],
        orders: Tensor,
        event_shape: torch.Size,
        support: Any,
        batch_shape: torch.Size = torch.Size(),  # noqa: B008, it is constant
        context: Tensor | None = None,
    ) -> None:
        self.network, self.orders, self.support_of_entry, self.context, self.one = (
            network,
            orders,
            support,
            context,
            False,
        )
        self.seen: Tensor | None = None
        super().__init__(torch.Size(batch_shape), torch.Size(event_shape), validate_args=False)

    @property
    def support(self) -> Any:
        return constraints.independent(self.support_of_entry, len(self.event_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> "OrderedEntries":
        new = copy.copy(self)
        new._batch_shape = torch.Size(batch_shape)  # noqa: SLF001 -- as expand does it everywhere
        return new

    def of_one_order(self) -> "OrderedEntries":
        """The same whose log-density is that of one random order: in expectation the mean, at most that of the mixture.

        It is what training follows, see :class:`pyro_gen.inference.OneOrder`.
        """
        new = copy.copy(self)
        new.one = True
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        flat = self._flat(value)
        seen = torch.ones_like(flat, dtype=torch.bool) if self.seen is None else self._flat(self.seen)
        if self.one:
            return self.estimate(flat, seen, self.context)
        each = [self.log_density(flat, seen, m, self.context) for m in range(len(self.orders))]
        return torch.stack(each).logsumexp(0) - math.log(len(each))

    def log_density(self, flat: Tensor, seen: Tensor, m: int, context: Tensor | None) -> Tensor:
        """The log-density of what is seen in the m-th order, with shape (*), of values with shape (*, D)."""
        raise NotImplementedError

    def estimate(self, flat: Tensor, seen: Tensor, context: Tensor | None) -> Tensor:
        """An estimate of the mean over orders, with shape (*)."""
        raise NotImplementedError

    def law(self, flat: Tensor, known: Tensor, m: int, context: Tensor | None) -> Any:
        """The laws of entries given those known, in the m-th order."""
        raise NotImplementedError

    def start(self, rows: int, m: int, context: Tensor | None) -> Steps | None:
        """What has the laws of so many rows one entry after the other; ``None`` where all laws are computed anew."""
        return None

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        return self._complete(torch.full(shape, math.nan, device=self.orders.device))

    def marginalise(self, value: Tensor) -> tuple["OrderedEntries", Tensor, Callable[[], Tensor]]:
        """What is seen of values with NaN, these without it, and a function that draws all given what is seen.

        Raises:
            CannotMarginaliseError: Something is missing before something that is seen, in an order that is fixed.
        """
        scored = copy.copy(self)
        scored.seen = ~torch.isnan(value)
        self.check_seen(self._flat(scored.seen))
        return scored, value.nan_to_num(), lambda: self._complete(value)

    def check_seen(self, seen: Tensor) -> None:
        """Refuses what is not to be marginalised."""

    def _flat(self, value: Tensor) -> Tensor:
        return value.flatten(-len(self.event_shape)) if self.event_shape else value.unsqueeze(-1)

    def _complete(self, value: Tensor) -> Tensor:
        """Missing entries drawn in one of the orders, by how well it does with what is seen."""
        flat = self._flat(value)
        rows = torch.broadcast_shapes(self.batch_shape, flat.shape[:-1])
        x = flat.expand(*rows, -1).reshape(-1, flat.shape[-1]).clone()
        context = None if self.context is None else self.context.expand(*rows, -1).reshape(len(x), -1)
        missing = torch.isnan(x)
        x.masked_fill_(missing, 0.0)
        with torch.no_grad():
            weights = torch.zeros(len(x), len(self.orders), device=x.device)
            if len(self.orders) > 1 and not bool(missing.all()):
                columns = [self.log_density(x, ~missing, m, context) for m in range(len(self.orders))]
                weights = torch.stack(columns, -1)
            chosen = torch.distributions.Categorical(logits=weights).sample()
            for m in told(chosen.unique().tolist()):
                at = chosen == m
                own, v, known = (None if context is None else context[at]), x[at], ~missing[at]
                steps = self.start(len(v), m, own)
                to_draw = ~known[:, self.orders[m]].all(0)
                until = int(to_draw.nonzero().max()) + 1 if bool(to_draw.any()) else 0
                for t in told(range(until)):
                    entry = int(self.orders[m, t])
                    law = None if steps is None else steps.law(v[:, self.orders[m, t - 1]] if t else None)
                    if not bool(to_draw[t]):
                        continue
                    if law is None:
                        law = of_entry(self.law(v, known, m, own), entry)
                    v[:, entry] = torch.where(known[:, entry], v[:, entry], law.sample().to(v.dtype))
                    known[:, entry] = True
                x[at] = v
        return x.reshape(*rows, *self.event_shape)


class MaskedEntries(OrderedEntries):
    """Entries by a network with masks: ``network(values, m, context)`` has all laws of the m-th order at once.

    The network maps values with shape (*, D) to a distribution with batch shape (*, D). Entries may be missing behind
    all that was seen, in each of the orders, and nowhere else.

    Arguments:
        network, orders, event_shape, support, batch_shape, context: As of :class:`OrderedEntries`.
        steps: ``steps(rows, m, context)`` makes a :class:`Steps` of the m-th order, whose laws are those of the network
            and cost less than to run it on all entries once more for each that is drawn.

    Example:
        >>> import pyro.distributions as dist
        >>> def after_a_one(x, m, context):  # a one is likely after a one
        ...     before = torch.nn.functional.pad(x[..., :-1], (1, 0))
        ...     return dist.Bernoulli(0.5 + 0.4 * before)
        >>> d = MaskedEntries(after_a_one, torch.arange(3)[None], torch.Size((3,)), constraints.boolean)
        >>> round(d.log_prob(torch.tensor([1.0, 1.0, 0.0])).exp().item(), 4)  # .5 of a one, .9 of another, .1 of none
        0.045
        >>> class AfterAOne(Steps):
        ...     def __init__(self, rows, m, context):
        ...         self.rows = rows
        ...     def kept(self):
        ...         return []
        ...     def law(self, previous):
        ...         return dist.Bernoulli(0.5 + 0.4 * (torch.zeros(self.rows) if previous is None else previous))
        >>> d = MaskedEntries(after_a_one, torch.arange(3)[None], d.event_shape, constraints.boolean, steps=AfterAOne)
        >>> d.sample((2,)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        network: Callable[..., Any],
        orders: Tensor,
        event_shape: torch.Size,
        support: Any,
        batch_shape: torch.Size = torch.Size(),  # noqa: B008, it is constant
        context: Tensor | None = None,
        steps: Callable[[int, int, Tensor | None], Steps] | None = None,
    ) -> None:
        super().__init__(network, orders, event_shape, support, batch_shape, context)
        self.steps = steps

    def log_density(self, flat: Tensor, seen: Tensor, m: int, context: Tensor | None) -> Tensor:
        log_p = self.network(flat, m, context).log_prob(flat)
        return torch.where(seen, log_p, 0.0).sum(-1)

    def estimate(self, flat: Tensor, seen: Tensor, context: Tensor | None) -> Tensor:
        return self.log_density(flat, seen, torch.randint(len(self.orders), (), device=flat.device), context)  # type: ignore[arg-type]

    def law(self, flat: Tensor, known: Tensor, m: int, context: Tensor | None) -> Any:
        return self.network(flat, m, context)

    def start(self, rows: int, m: int, context: Tensor | None) -> Steps | None:
        return None if self.steps is None else self.steps(rows, m, context)

    def check_seen(self, seen: Tensor) -> None:
        if not self.drops_out(seen):
            raise CannotMarginaliseError("An autoregressive network with a fixed order of entries")

    def drops_out(self, seen: Tensor) -> bool:
        """Whether what is missing, of booleans with shape (*, D), comes after all that was seen in each order."""
        along = seen[..., self.orders]  # (*, M, D)
        return not bool((along[..., 1:] & ~along[..., :-1]).any())


class OrderAgnosticEntries(OrderedEntries):
    """Entries by a network that is told what it sees: ``network(values, known, context)`` has laws of all others.

    The network maps values and booleans with shape (*, D) to a distribution with batch shape (*, D), that does not
    depend on values not known. What is seen of a datum with missing entries comes first in each of the orders.

    Arguments:
        network, orders, event_shape, support, batch_shape, context: As of :class:`OrderedEntries`.

    Example:
        >>> import pyro.distributions as dist
        >>> def urn(x, known, context):  # a one is likely as often as there were ones
        ...     share = ((x * known).sum(-1, keepdim=True) + 0.5) / (known.sum(-1, keepdim=True) + 1)
        ...     return dist.Bernoulli(share.expand(x.shape))
        >>> d = OrderAgnosticEntries(urn, torch.tensor([[0, 1, 2], [2, 1, 0]]), torch.Size((3,)), constraints.boolean)
        >>> round(d.log_prob(torch.tensor([1.0, 1.0, 0.0])).exp().item(), 4)  # 1/2 of a one, 3/4 of another, 1/6
        0.0625
        >>> seen, values, draw = d.marginalise(torch.tensor([torch.nan, torch.nan, 0.0]))
        >>> round(seen.log_prob(values).exp().item(), 4)
        0.5
    """

    def log_density(self, flat: Tensor, seen: Tensor, m: int, context: Tensor | None) -> Tensor:
        order, size = self.orders[m], flat.shape[-1]
        rank = torch.empty_like(order).scatter_(0, order, torch.arange(size, device=order.device))
        rows = max(1, flat[..., 0].numel())
        total = flat.new_zeros(flat.shape[:-1])
        for entries in order.split(max(1, ROWS // rows)):
            known = (rank < rank[entries].unsqueeze(-1)) & seen.unsqueeze(-2)  # (*, T, D)
            values = flat.unsqueeze(-2).expand(*flat.shape[:-1], len(entries), size)
            beside = None if context is None else context.unsqueeze(-2).expand(*values.shape[:-1], -1)
            log_p = self.network(values, known, beside).log_prob(values)
            own = log_p.gather(-1, entries.unsqueeze(-1).expand(*log_p.shape[:-1], 1)).squeeze(-1)
            total = total + torch.where(seen[..., entries], own, 0.0).sum(-1)
        return total

    def estimate(self, flat: Tensor, seen: Tensor, context: Tensor | None) -> Tensor:
        """By one pass: of K seen entries k at random are known, and stand for all orders that begin with them."""
        lot = torch.rand_like(flat).masked_fill(~seen, 2.0)
        rank = lot.argsort(-1).argsort(-1)
        count = seen.sum(-1, keepdim=True)
        k = (torch.rand_like(flat[..., :1]) * count).floor().clamp(max=(count - 1).clamp(min=0))
        known = (rank < k) & seen
        log_p = self.network(flat, known, context).log_prob(flat)
        weight = count / (count - k).clamp(min=1)
        return (weight * torch.where(seen & ~known, log_p, 0.0)).sum(-1)

    def law(self, flat: Tensor, known: Tensor, m: int, context: Tensor | None) -> Any:
        return self.network(flat, known, context)
