r"""Sums over the values of discrete latent variables, a run of the model for each: it may be written in any way.

A datum's discrete variables, the missing entries of an observed site that feeds another among them, have finitely many
joint values :math:`y`, and

.. math:: \log p(x_n, z_n) = \log \sum_y p(x_n, y, z_n)

for any given values :math:`z_n` of the other latent variables.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import pyro
import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_gen._errors import AdviceError
from pyro_gen._random import seeded
from pyro_gen.density import any_missing, entries_per_datum, row_chunks, rows_of, rows_per_chunk
from pyro_gen.density.finite import FiniteSite, assignments, finite_sites, joint_values, present_units
from pyro_gen.density.missing import active, missing_site
from pyro_gen.density.sites import ImproperAnywhere
from pyro_gen.inference.model_log_prob import ModelLogProb
from pyro_gen.program import Program
from pyro_gen.traces import sample_sites, trace_side

__all__ = ["MAX_ASSIGNMENTS", "GuideDraws", "Summed", "enumerated", "is_enumerable", "marginals", "probe"]

MAX_ASSIGNMENTS = 2**14  # joint values of the discrete latent variables of a datum that are summed over


class GuideDraws(NamedTuple):
    """Draws of the guide for some rows of the data.

    Attributes:
        rows: The rows, a slice or their numbers.
        log_weights: In float64, with shape :math:`(K, n)`.
        values: The draws by name of the site, with shape :math:`(K, *)`.
        data_dims: Where the data dimension lies in each of ``values[name][0]``, counted from the left.
    """

    rows: slice | Tensor
    log_weights: Tensor
    values: dict[str, Tensor]
    data_dims: dict[str, int]

    def select(self, index: Tensor) -> dict[str, Tensor]:
        """Picks draws per datum: an index of shape (S, n) into the K draws gives values of shape (S, *)."""
        out = {}
        for name, value in self.values.items():
            dim = self.data_dims[name]
            picked = value.movedim(dim + 1, 1)[index, torch.arange(index.shape[1], device=index.device)]
            out[name] = picked.movedim(1, dim + 1)
        return out


def probe(program: Program, x: Tensor, *context: Any) -> Trace:
    """A trace of the model with the first row of the data."""
    with seeded(0), torch.no_grad(), pyro.validation_enabled(False), ImproperAnywhere():
        return trace_side(program, "model", x[:1], *rows_of(x, context, slice(1)))


def is_enumerable(program: Program, x: Tensor, *context: Any) -> bool:
    """Whether all latent variables of a program are local and discrete, with values that can be summed over.

    As many missing entries as have too many joint values in some row of ``x`` are not; other variables are for
    :func:`enumerated` to refuse.
    """
    trace = probe(program, x, *context)
    latent = {n: s for n, s in sample_sites(trace).items() if not s["is_observed"]}
    finite = finite_sites(trace)
    if not latent or len(finite) < len(latent):
        return False
    missing = {n: f for n, f in finite.items() if missing_site(latent[n])}
    return not missing or bool(
        (joint_values(missing, present_units(missing, program, x, *context)) <= MAX_ASSIGNMENTS).all()
    )


BY_IWAE = "use {method} with a guide that samples them"


def enumerated(program: Program, x: Tensor, *context: Any, instead: str = BY_IWAE) -> Iterator[GuideDraws]:
    r"""All joint values of the discrete latent variables in the place of draws of a guide, chunk by chunk of the data.

    The log-weights are :math:`\log p(x_n, y_k)`: their logsumexp is :math:`\log p(x_n)`, and draws in proportion to the
    weights are exact draws of the posterior.

    Arguments:
        program: A program for which :func:`is_enumerable` holds, in evaluation mode.
        x: The data, with shape :math:`(N, *)`.
        context: What the model conditions on.
        instead: What to do where there are too many, as an advice.

    Yields:
        The values, for rows of the data that have as many.

    Raises:
        ValueError: There are too many joint values, or which values there are depends on other latent variables.
    """
    trace = probe(program, x, *context)
    sites = finite_sites(trace)
    present = present_units(sites, program, x, *context)
    counts = joint_values(sites, present)
    if bool((counts > MAX_ASSIGNMENTS).any()):
        raise AdviceError(
            f"The discrete latent variables of a datum of {type(program).__name__} have {int(counts.max())} joint "
            f"values, more than the {MAX_ASSIGNMENTS} that are summed over: {instead}.",
            method="iwae",
        )
    entries, dims = entries_per_datum(trace), {n: f.data_dim for n, f in sites.items()}
    with torch.no_grad(), _masked(program, sites):
        model = ModelLogProb(program, any_missing(x, *context))
        for number in counts.unique().long().tolist():
            of_number = (counts == number).nonzero()[:, 0]
            for part in row_chunks(len(of_number), max(1, rows_per_chunk(entries, x.device) // min(number, 64))):
                rows = of_number[part]
                data = (x[rows], *rows_of(x, context, rows))
                values, _ = assignments(sites, {n: p[rows] for n, p in present.items()})
                size = max(1, rows_per_chunk(entries, x.device) // len(rows))
                parts = [{m: v[i : i + size] for m, v in values.items()} for i in range(0, number, size)]
                prior, likelihood = torch.cat([model(data, part).double() for part in parts]).unbind(1)
                if not bool((prior.logsumexp(0).abs() < 1e-3).all()):
                    raise AdviceError(
                        f"The joint values of the discrete latent variables of {type(program).__name__} do not sum to "
                        "probability 1: which values there are depends on other variables, so they cannot be "
                        f"enumerated: {instead}.",
                        method="iwae",
                    )
                yield GuideDraws(rows, prior + likelihood, values, dims)


def marginals(sites: Mapping[str, FiniteSite], values: Mapping[str, Tensor], log_weights: Tensor) -> dict[str, Tensor]:
    """The probability of each value of each variable by itself, out of log-weights of joint values.

    Arguments:
        sites: The variables.
        values: A joint values by name, each with shape :math:`(A, *site)`.
        log_weights: With shape :math:`(A, K, n)`.

    Returns:
        By name, float64 with shape :math:`(K, n, units, V)`.
    """
    chances = log_weights.softmax(0)
    found = {}
    for name, site in sites.items():
        units = torch.stack([site.rows_of_units(v) for v in values[name]])  # (A, n, units, *event)
        of_values = []
        for value in site.support:
            here = (units == value).reshape(*units.shape[:3], -1).all(3)
            of_values.append(torch.einsum("akn,anu->knu", chances, here.to(chances.dtype)))
        found[name] = torch.stack(of_values, -1)
    return found


def _masked(program: Program, sites: Mapping[str, FiniteSite]) -> Any:
    """A block in which the missing entries among finite sites have no density where nothing is missing."""
    handler = active(program)
    if handler is None:
        return nullcontext()
    return handler.with_masked([n for n in handler.names if f"{n}.missing" in sites])


class Summed:
    """Sums over the values of some discrete latent variables of some rows, at draws of the other latent variables.

    Arguments:
        program: The program, in evaluation mode.
        sites: The discrete variables; there may be none.
        data: Some rows of the data, and of what the model conditions on.
        without: Latent sites whose density is not counted.
    """

    def __init__(
        self,
        program: Program,
        sites: Mapping[str, FiniteSite],
        data: tuple[Any, ...],
        without: Collection[str] = (),
    ) -> None:
        self.program, self.sites, self.data = program, sites, data
        self.model = ModelLogProb(program, any_missing(*data), without=without)
        self.values: dict[str, Tensor] = {}
        if sites:
            self.values, self.counts = assignments(sites, present_units(sites, program, *data))

    def _terms(self, draws: Mapping[str, Tensor], size: int) -> Tensor:
        """Log p(x_n, y_a, z_n) for each joint value y_a and K draws, with shape (A, K, n)."""
        terms = []
        with _masked(self.program, self.sites):
            for a, counts in enumerate(self.counts):
                here = {n: v[a].expand(size, *v[a].shape) for n, v in self.values.items()}
                terms.append(self.model(self.data, {**draws, **here}).double().sum(1).masked_fill(~counts, -math.inf))
        return torch.stack(terms)

    def log_prob(self, draws: dict[str, Tensor], size: int) -> Tensor:
        """The log-density of data and draws, (K, n), of K draws by name of the site, each (K, *site)."""
        if not self.sites:
            return self.model(self.data, draws).double().sum(1)
        return self._terms(draws, size).logsumexp(0)

    def probabilities(self, draws: Mapping[str, Tensor], size: int) -> dict[str, Tensor]:
        """Their posterior given each of K draws, by name as of :func:`marginals`: (K, n, units, V)."""
        n = len(self.data[0])
        parts = []
        for k in row_chunks(size, max(1, 2**22 // (len(self.counts) * n))):
            here = {name: v[k] for name, v in draws.items()}
            parts.append(marginals(self.sites, self.values, self._terms(here, len(range(size)[k]))))
        return {name: torch.cat([p[name] for p in parts]) for name in self.sites}

    def draw(self, draws: Mapping[str, Tensor], size: int) -> dict[str, Tensor]:
        """Values of the discrete variables from their posterior given each of K draws, by name, each (K, *site)."""
        dims = {n: f.data_dim for n, f in self.sites.items()}
        n = len(self.data[0])
        parts: list[dict[str, Tensor]] = []
        for k in row_chunks(size, max(1, 2**22 // (len(self.counts) * n))):
            log_p = self._terms({name: v[k] for name, v in draws.items()}, len(range(size)[k]))  # (A, k, n)
            index = torch.multinomial(log_p.flatten(1).softmax(0).T, 1).reshape(log_p.shape[1:])
            parts.append(GuideDraws(slice(0, n), log_p[:, 0], self.values, dims).select(index))
        return {name: torch.cat([p[name] for p in parts]) for name in dims}
