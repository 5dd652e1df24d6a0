"""Distributions of Pyro and PyTorch in a form that ``torch.func.vmap`` can carry.

What writes into a tensor of fewer dimensions, looks at values, or is an autograd function of the old style would have
the chains evaluated one by one. Each function here computes the same numbers otherwise, and stands in the place of the
original for the time of an evaluation.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import pyro.distributions as dist
import pyro.distributions.coalescent
import pyro.distributions.hmm
import pyro.ops.einsum.torch_log
import pyro.ops.gaussian
import pyro.ops.special
import pyro.ops.tensor_utils
import torch
from torch import Tensor
from torch.distributions.utils import broadcast_all

from pyro_gen.density.vectorised_splines import monotonic_rational_spline
from pyro_gen.distributions.hidden_markov import chain_product


class _SafeLog(torch.autograd.Function):
    """The logarithm, its gradient at 0 bounded by 1 / eps: Pyro's own, with a rule for vmap."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.log()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad / x.clamp(min=torch.finfo(x.dtype).eps)  # type: ignore[no-any-return]


def _ordered_logistic(self: Any, predictor: Tensor, cutpoints: Tensor, validate_args: bool | None = None) -> None:
    """``OrderedLogistic``: its probabilities are put together, not written into zeros."""
    below = torch.sigmoid(cutpoints - predictor.unsqueeze(-1))
    self.predictor = predictor.expand(below.shape[:-1])
    self.cutpoints = cutpoints.expand(below.shape)
    probs = torch.cat([below[..., :1], below.diff(dim=-1), 1 - below[..., -1:]], -1)
    dist.Categorical.__init__(self, probs, validate_args=validate_args)


def _multinomial_log_prob(self: Any, value: Tensor) -> Tensor:
    """``Multinomial.log_prob``: 0 times -inf is replaced, not written over."""
    if self._validate_args:
        self._validate_sample(value)
    logits, value = broadcast_all(self.logits, value)
    logits = torch.where((value == 0) & (logits == -torch.inf), 0.0, logits)
    ways = torch.lgamma(value.sum(-1) + 1) - torch.lgamma(value + 1).sum(-1)
    return ways + (logits * value).sum(-1)


def _safe_cholesky(x: Tensor) -> Tensor:
    """The Cholesky factor of Pyro's Gaussian factors: their jitter is added, not written into the data."""
    if x.shape[-1] == 1:
        return x.clamp(min=torch.finfo(x.dtype).tiny).sqrt()
    share = pyro.ops.tensor_utils.CHOLESKY_RELATIVE_JITTER * torch.finfo(x.dtype).eps
    jitter = share * x.detach().abs().amax(-1)
    factor: Tensor = torch.linalg.cholesky(x + jitter.diag_embed())
    return factor


_torch_broadcast_shapes = torch.broadcast_shapes


def _broadcast_shapes(*shapes: Any) -> torch.Size:
    """``torch.broadcast_shapes``, which imports sympy at its first call, a third of a second."""
    sizes = [(s,) if isinstance(s, int) else tuple(s) for s in shapes]
    rank = max(map(len, sizes), default=0)
    columns = list(zip(*((1,) * (rank - len(s)) + s for s in sizes), strict=True))
    found = [next((n for n in column if n != 1), 1) for column in columns]
    if any(n not in (1, size) for column, size in zip(columns, found, strict=True) for n in column):
        return _torch_broadcast_shapes(*shapes)  # type: ignore[no-any-return, no-untyped-call]  # says what is wrong
    return torch.Size(found)


SPLINES = import_module("pyro.distributions.transforms.spline")  # a function of the package has the name of the module
PLACES: tuple[tuple[Any, str, Any], ...] = (
    (pyro.ops.special, "safe_log", _SafeLog.apply),
    (pyro.ops.einsum.torch_log, "safe_log", _SafeLog.apply),
    (pyro.distributions.hmm, "_sequential_logmatmulexp", chain_product),
    (pyro.distributions.hmm, "safe_cholesky", _safe_cholesky),
    (pyro.ops.gaussian, "safe_cholesky", _safe_cholesky),
    (pyro.distributions.coalescent, "safe_log", _SafeLog.apply),
    (SPLINES, "_monotonic_rational_spline", monotonic_rational_spline),
    (dist.OrderedLogistic, "__init__", _ordered_logistic),
    (torch.distributions.Multinomial, "log_prob", _multinomial_log_prob),
)
LIGHT: tuple[tuple[Any, str, Any], ...] = ((torch, "broadcast_shapes", _broadcast_shapes),)


@contextmanager
def vmappable() -> Iterator[None]:
    """Puts these functions in the place of the originals."""
    with _replaced(PLACES + LIGHT):
        yield


@contextmanager
def light() -> Iterator[None]:
    """Has what a distribution is made with import no more than it needs."""
    with _replaced(LIGHT):
        yield


@contextmanager
def _replaced(places: tuple[tuple[Any, str, Any], ...]) -> Iterator[None]:
    before = [getattr(owner, name) for owner, name, _ in places]
    for owner, name, function in places:
        setattr(owner, name, function)
    try:
        yield
    finally:
        for (owner, name, _), function in zip(places, before, strict=True):
            setattr(owner, name, function)
