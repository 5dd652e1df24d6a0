"""Reproducible randomness that leaves the caller's generators alone, and randomness under ``vmap``.

Torch's generators, Pyro's stack of effect handlers and the mode of a module belong to the whole process: while a thread
uses them, others wait.
"""

import math
import os
import random
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

T = TypeVar("T")

_LOCK = threading.RLock()


@contextmanager
def exclusive() -> Iterator[None]:
    """Holds what belongs to the whole process for this thread, which may enter again; another one waits."""
    with _LOCK:
        yield


def _after_fork() -> None:
    """In a forked process the lock is free, unless the thread that forked holds it: the others are gone."""
    if not _LOCK._is_owned():  # type: ignore[attr-defined]  # noqa: SLF001 -- as threading does it
        _LOCK._at_fork_reinit()  # type: ignore[attr-defined]  # noqa: SLF001


os.register_at_fork(after_in_child=_after_fork)


def checked_seed(seed: Any) -> int:
    """A seed as an integer of Python's.

    Raises:
        ValueError: It is no integer, negative, or has more than 63 bits.
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= int(seed) < 2**63:
        raise ValueError(f"seed={seed!r}: give an integer of 0 or more, below 2^63.")
    return int(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch's generators inside the block and restores their states after it.

    Arguments:
        seed: A non-negative integer. Same seed, same device, same draws.

    Raises:
        ValueError: It is no such integer, or has more than 63 bits.

    Example:
        >>> before = torch.get_rng_state()
        >>> with seeded(0):
        ...     first = torch.rand(3)
        >>> with seeded(0):
        ...     bool((torch.rand(3) == first).all())
        True
        >>> bool((torch.get_rng_state() == before).all())
        True
    """
    # CUDA is forked only once it is in use: asking for its state would initialise it, and torch.manual_seed would
    # note its seed for later, with a stack trace that takes milliseconds.
    cuda, seed = torch.cuda.is_initialized(), checked_seed(seed)
    with exclusive(), torch.random.fork_rng(devices=range(torch.cuda.device_count()) if cuda else ()):
        (torch.manual_seed if cuda else torch.default_generator.manual_seed)(seed)
        yield


def fork(seed: int) -> int:
    """A seed for the next stage of a computation, whose draws must not be those of the first stage over again.

    Arguments:
        seed: The seed of the first stage.

    Example:
        >>> with seeded(0):
        ...     first = torch.rand(3)
        >>> with seeded(fork(0)):
        ...     bool((torch.rand(3) == first).any())
        False
    """
    with seeded(seed):
        return int(torch.randint(2**31, ()))


_OUT_OF_PLACE: dict[Any, Callable[..., Tensor]] = {
    torch.Tensor.normal_: lambda t, mean=0.0, std=1.0: mean + std * torch.randn_like(t),
    torch.Tensor.uniform_: lambda t, low=0.0, high=1.0: low + (high - low) * torch.rand_like(t),
    torch.Tensor.exponential_: lambda t, rate=1.0: -torch.log1p(-torch.rand_like(t)) / rate,
    torch.Tensor.cauchy_: lambda t, median=0.0, sigma=1.0: (
        median + sigma * (math.pi * (torch.rand_like(t) - 0.5)).tan()
    ),
    # Of counts that particles share torch resizes its result, and warns.
    torch.binomial: lambda count, prob, generator=None: torch.binomial(count + torch.zeros_like(prob), prob, generator),
}


class _OutOfPlaceDraws(TorchFunctionMode):
    """Replaces in-place draws, ``torch.empty(shape).normal_()`` in torch's distributions, by fresh tensors.

    Under ``vmap`` an in-place draw into a tensor that all particles share is refused.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _OUT_OF_PLACE.get(func, func)(*args, **(kwargs or {}))


def _dirichlet_by_gammas(self: Any, sample_shape: Any = ()) -> Tensor:
    """``Dirichlet.rsample`` as shares of Gamma draws, for which torch has a rule under ``vmap`` and a gradient.

    In logarithms, where draws of a small concentration do not underflow: one of a is one of a + 1 times u^(1/a).

    References:
        | A Simple Method for Generating Gamma Variables (Marsaglia & Tsang, 2000)
        | https://doi.org/10.1145/358407.358414
    """
    concentration = self.concentration.expand(self._extended_shape(torch.Size(sample_shape)))
    boost = torch.log1p(-torch.rand_like(concentration)) / concentration
    logs = torch._standard_gamma(concentration + 1).log() + boost  # noqa: SLF001 -- as torch.distributions.Gamma
    return logs.softmax(-1).clamp(min=torch.finfo(logs.dtype).tiny)  # type: ignore[no-any-return]


@contextmanager
def _vectorised_dirichlet() -> Iterator[None]:
    """Puts it in the place of torch's own, an autograd function of the old style; Beta draws go through it too."""
    with exclusive():
        own = torch.distributions.Dirichlet.rsample
        torch.distributions.Dirichlet.rsample = _dirichlet_by_gammas  # type: ignore[method-assign]
        try:
            yield
        finally:
            torch.distributions.Dirichlet.rsample = own  # type: ignore[method-assign]


def vmap_draws(particle: Callable[..., T], num_particles: int, *batched: Any) -> T:
    """Runs a random function for many particles at once, each with draws of its own.

    Arguments:
        particle: A function whose tensors may be random.
        num_particles: The number of particles :math:`K`.
        batched: Its arguments, each with a leading dimension :math:`K`.

    Returns:
        What ``particle`` returns, each tensor with a leading dimension :math:`K`.

    Example:
        >>> with seeded(0):
        ...     z = vmap_draws(lambda: torch.distributions.Normal(0.0, 1.0).rsample((2,)), 3)
        >>> z.shape, z.unique().numel()
        (torch.Size([3, 2]), 6)
    """
    with _vectorised_dirichlet(), _OutOfPlaceDraws(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")  # a clamp in Gamma, one particle at a time
        return torch.vmap(lambda _, *args: particle(*args), randomness="different")(
            torch.zeros(num_particles), *batched
        )


# ----------------------------------------------------------------------------------------------------------------------
# Randomness that belongs to a datum, whatever batch it comes in


def _signed(word: int) -> int:
    """The int64 with the bits of an unsigned 64-bit word."""
    return word - (1 << 64) if word >> 63 else word


WEYL, _MIX_1, _MIX_2 = _signed(0x9E3779B97F4A7C15), _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def mix(z: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele et al., 2014): an int64 whose every bit depends on all bits of ``z``."""

    def shifted(z: Tensor, bits: int) -> Tensor:  # logical: torch's own shift keeps the sign
        return (z >> bits) & ((1 << (64 - bits)) - 1)

    z = (z ^ shifted(z, 30)) * _MIX_1
    z = (z ^ shifted(z, 27)) * _MIX_2
    return z ^ shifted(z, 31)


def uniforms(seeds: Tensor, size: int, stream: int = 0, first: int = 0) -> Tensor:
    """Uniform numbers that depend on a seed alone, so that a row draws the same by itself and in any batch.

    SplitMix64 (Steele et al., 2014), evaluated at counters instead of step by step.

    Arguments:
        seeds: One seed a row, int64, with shape :math:`(N)`.
        size: The number M of draws for each.
        stream: Draws of different streams are independent.
        first: How many draws of the stream to leave out before these.

    Returns:
        Numbers in the open interval (0, 1), float64, with shape :math:`(N, M)`.

    Example:
        >>> batch = uniforms(torch.arange(5), 3)
        >>> bool((uniforms(torch.tensor([4]), 3) == batch[4]).all())
        True
    """
    counters = WEYL * torch.arange(first + 1, first + size + 1, device=seeds.device)
    key = mix(seeds.unsqueeze(-1) * WEYL + mix(torch.tensor(stream, device=seeds.device) + WEYL))
    return (((mix(mix(key) + counters) >> 12) & ((1 << 52) - 1)).double() + 0.5) * 2.0**-52


def normals(seeds: Tensor, size: int, stream: int = 0) -> Tensor:
    """Standard normal numbers that depend on a seed alone, see :func:`uniforms`.

    Returns:
        Numbers with shape :math:`(N, M)`, float64.
    """
    numbers: Tensor = torch.special.ndtri(uniforms(seeds, size, stream))
    return numbers


@contextmanager
def undisturbed() -> Iterator[None]:
    """What is Python's own stays as it was: ``random``, the filters of warnings, and the environment.

    Lightning and torch change them when first used. The environment of processes that train together stays, for
    it says who they are.
    """
    state, before = random.getstate(), dict(os.environ)
    with warnings.catch_warnings():
        try:
            yield
        finally:
            random.setstate(state)
            if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
                for name in os.environ.keys() - before.keys():
                    del os.environ[name]
                os.environ.update(before)
