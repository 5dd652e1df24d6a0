r"""The log-density of data under an unnormalised program, as a function of the data and the parameters.

A program that observes its data under a base distribution and then adds a factor,

.. math:: p(x) = \frac{1}{Z} \, p_0(x) \, e^{-E(x)}, \qquad Z = \int p_0(x) \, e^{-E(x)} \, dx ,

is known up to :math:`\log Z`. What samples from it, estimates its parameters or its :math:`Z` needs the two terms
:math:`\log p_0(x)` and :math:`-E(x)` of each datum. Of a program without a factor, the first is the log-likelihood, and
the second is 0.
"""

from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_gen.density.base import Density, Held
from pyro_gen.density.inputs import rows_of
from pyro_gen.density.sites import is_deterministic
from pyro_gen.density.validation import no_validation
from pyro_gen.distributions import elements, innermost
from pyro_gen.observation import assume_missing, completions
from pyro_gen.program import Program, data_size
from pyro_gen.traces import is_factor, per_datum_log_prob, sample_sites, trace_side

__all__ = [
    "EnergyDensity",
    "EnergyTerms",
    "Entries",
    "entries_of",
    "log_factor",
    "sample_base",
    "unnormalised_log_prob",
    "unnormalised_terms",
]


class EnergyTerms(NamedTuple):
    """The two terms of an unnormalised log-density.

    Attributes:
        base: The log-density of the observed sites, with shape :math:`(N,)`, in nats; 0 where there is none.
        factor: The sum of the factors, with shape :math:`(N,)`, in nats; 0 where there is none.
    """

    base: Tensor
    factor: Tensor


def unnormalised_terms(program: Program, x: Tensor, *context: Any) -> EnergyTerms:
    """Computes both terms of the unnormalised log-density of each datum; no term is scaled to a data size.

    The result is differentiable in ``x`` and in the parameters, and can be recorded as a graph.

    Arguments:
        program: A program without latent variables.
        x: Complete data, with shape :math:`(N, *)`.
        context: What the model conditions on.

    Raises:
        ValueError: The program has a latent variable, or a factor outside of the data plate.
    """
    bases, factors = _scored_sites(program, x, context)
    base, factor = x.new_zeros(len(x)), x.new_zeros(len(x))
    for site in factors:
        factor = factor + per_datum_log_prob(site)
    for site in bases:
        base = base + per_datum_log_prob(site)
    return EnergyTerms(base, factor)


def log_factor(program: Program, x: Tensor, *context: Any) -> Tensor:
    """The second term of :func:`unnormalised_terms` alone: chains that raise the factor do not ask for the base.

    Raises:
        ValueError: As there.
    """
    factor = x.new_zeros(len(x))
    for site in _scored_sites(program, x, context)[1]:
        factor = factor + per_datum_log_prob(site)
    return factor


def _scored_sites(program: Program, x: Tensor, context: tuple[Any, ...]) -> tuple[list[Any], list[Any]]:
    """The observed sites that have a density, and the factors."""
    with data_size(len(x)), assume_missing(False):
        trace = trace_side(program, "model", x, *context)
    bases: list[Any] = []
    factors: list[Any] = []
    for name, site in sample_sites(trace).items():
        if not site["is_observed"]:
            raise ValueError(
                f"{type(program).__name__} has the latent variable '{name}', so its density of x is not known up to a "
                "constant: sum the variable out and put the logarithm of the sum into a factor."
            )
        if not is_deterministic(site):
            (factors if is_factor(site) else bases).append(site)
    return bases, factors


def unnormalised_log_prob(program: Program, x: Tensor, *context: Any) -> Tensor:
    r"""Computes :math:`\log p_0(x) - E(x)`, the log-density of each datum up to :math:`-\log Z`.

    Arguments:
        program: A program without latent variables; without a factor its log-likelihood is what is computed.
        x: Complete data, with shape :math:`(N, *)`.
        context: What the model conditions on.

    Returns:
        Log-densities with shape :math:`(N,)`, in nats, differentiable in ``x`` and in the parameters.

    Raises:
        ValueError: The program has a latent variable, or a factor outside of the data plate.

    Example:
        >>> import pyro, torch
        >>> import pyro.distributions as dist
        >>> from pyro_gen import Program, observe
        >>> class Tilted(Program):  # N(0, 1) with the factor exp(3 x): N(3, 1), and log Z = 4.5
        ...     def model(self, x):
        ...         with self.plate(x):
        ...             observe("x", dist.Normal(0.0, 1.0), x)
        ...             pyro.factor("tilt", 3 * x)
        ...             return x
        >>> x = torch.tensor([0.0, 3.0])
        >>> log_z = unnormalised_log_prob(Tilted(), x) - dist.Normal(3.0, 1.0).log_prob(x)
        >>> [round(value, 4) for value in log_z.tolist()]
        [4.5, 4.5]
    """
    terms = unnormalised_terms(program, x, *context)
    return terms.base + terms.factor


def sample_base(program: Program, x: Tensor, *context: Any) -> Tensor:
    """Draws the missing entries of data from the base distribution, given those seen, by the global generator.

    Arguments:
        program: The program.
        x: Data with shape :math:`(N, *)`, NaN where it is to be drawn: all NaN for draws of the base itself.
        context: What the model conditions on.

    Returns:
        Complete data with the shape of ``x``.

    Raises:
        ValueError: The program observes no data of that shape, so that it has no base to draw from.
    """
    with no_validation(), torch.no_grad(), data_size(len(x)), assume_missing(True), completions() as completed:
        returned = program.model(x, *context)
    drawn = list(completed.values())
    draws = drawn[0].reshape(x.shape) if len(drawn) == 1 and drawn[0].numel() == x.numel() else returned
    if not drawn or not isinstance(draws, Tensor) or draws.shape != x.shape:
        raise ValueError(
            f"{type(program).__name__} has no base distribution to draw from: observe x under one in the model, as by "
            'observe("x", dist.Normal(0.0, 1.0).expand(x.shape).to_event(1), x), before its factor.'
        )
    return draws


class Entries(NamedTuple):
    """What the entries of the data can be.

    Attributes:
        values: The values that each entry can take, with shape :math:`(K,)`, where they are finitely many and the same
            for all entries; else ``None``.
        real: Whether each entry can be any number. Without a base distribution nothing says otherwise.
    """

    values: Tensor | None
    real: bool


def entries_of(program: Program, x: Tensor, *context: Any) -> Entries:
    """Reads off a trace of the model what the entries of the data can be; what is recorded as a graph may ask it.

    Arguments:
        program: The program.
        x: Data with shape :math:`(N, *)`; their values do not matter.
        context: What the model conditions on.
    """
    with no_validation(), torch.no_grad(), data_size(len(x)), assume_missing(False):
        trace = trace_side(program, "model", x, *context)
    observed = [s for s in sample_sites(trace).values() if s["is_observed"] and not is_deterministic(s)]
    bases = [s["fn"] for s in observed if not is_factor(s)]
    supports = [getattr(innermost(fn), "support", None) for fn in bases]
    real = all(support in (constraints.real, constraints.real_vector) for support in supports)
    found = [_values_of(fn) for fn in bases]
    first = found[0] if found else None
    same = first is not None and all(v is not None and v.shape == first.shape for v in found)
    return Entries(first.to(x) if same and first is not None else None, real)


def _values_of(distribution: Any) -> Tensor | None:
    element = elements(distribution)
    if getattr(element, "has_enumerate_support", False) and element.event_dim == 0:
        with suppress(NotImplementedError):  # entries with other possible values each: a binomial of many counts
            values: Tensor = element.enumerate_support(expand=False).flatten()
            return values
    return None


class EnergyDensity(Density):
    r"""The unnormalised density of data, :math:`\log p_0(x) - E(x)`, for chains that move the data.

    Row n of the data is where chain n may go: a chain has the context of its row, and keeps the entries of its row that
    are fixed. The coordinates of fixed entries are standard normal variables that nothing depends on, so that every
    kernel serves, whichever entries it is to leave alone. Parameters are those of the program at the time of an
    evaluation. Log-prior is the base, log-likelihood the factor.

    Arguments:
        program: The program.
        x: Data with shape :math:`(N, *)`.
        context: What the model conditions on.
        moving: Which entries of ``x`` move, with its shape; all of them by default.
    """

    def __init__(self, program: Program, x: Tensor, *context: Any, moving: Tensor | None = None) -> None:
        entries = x[0].numel()
        super().__init__(entries, (), x.dtype, x.device, ("x",), entries, "off")
        self.mode = "vmap"  # not recorded: it is evaluated a few times, and may be a part of what is recorded
        self.program, self.x, self.context, self.moving = program, x, context, moving

    def data(self, z: Tensor) -> Tensor:
        """The data of chains at ``z``, with shape :math:`(C, D)`, C a multiple of N: shape :math:`(C, *)`."""
        x = z.reshape(len(z), *self.x.shape[1:])
        if self.moving is None:
            return x
        times = (len(z) // len(self.x), *(1 for _ in self.x.shape[1:]))
        return torch.where(self.moving.repeat(times), x, self.x.repeat(times))

    def _values(self, z: Tensor, *held: Tensor) -> tuple[Tensor, Tensor]:
        copies = len(z) // len(self.x)
        index = torch.arange(len(self.x), device=z.device).repeat(copies)
        context = self.context if copies == 1 else rows_of(self.x, self.context, index)
        base, factor = unnormalised_terms(self.program, self.data(z), *context)
        if self.moving is not None:
            fixed = (~self.moving).flatten(1).repeat(copies, 1)
            base = base - 0.5 * torch.where(fixed, z.square(), 0.0).sum(-1)
        return base, factor

    def _chunk(self, chains: int, in_cache: bool) -> int:
        return max(chains, 1)  # a chain is one of its row

    def terms_of_chain(self, z: Tensor, held: Held) -> tuple[Tensor, Tensor]:
        base, factor = self._values(z.expand(len(self.x), -1))
        return base[0], factor[0]

    def constrain_chain(self, z: Tensor, held: Held) -> dict[str, Tensor]:
        return {"x": z.reshape(self.x.shape[1:])}

    def sample_prior(self, chains: int) -> Tensor:
        index = torch.arange(chains, device=self.x.device) % len(self.x)
        nothing = torch.full_like(self.x[index], torch.nan)
        return sample_base(self.program, nothing, *rows_of(self.x, self.context, index)).flatten(1)
