r"""Draws from the guide, as proposals: of local latent variables datum by datum, of all of them at once, with weights.

Also what keeps a guide from proposing. Sums over discrete latent variables that the guide leaves out are part of the
weights.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_gen._errors import AdviceError
from pyro_gen._random import seeded
from pyro_gen.density import (
    ProgramDensity,
    any_missing,
    entries_per_datum,
    row_chunks,
    rows_of,
    rows_per_chunk,
)
from pyro_gen.density.chains import vmap_or_loop
from pyro_gen.density.finite import MAX_SUMMED, FiniteSite, finite_sites, joint_values, present_units
from pyro_gen.density.missing import propose_missing
from pyro_gen.distributions.innermost import innermost
from pyro_gen.inference.likelihood.enumeration import GuideDraws, Summed, is_enumerable, probe
from pyro_gen.inference.model_log_prob import ModelLogProb
from pyro_gen.program import Program
from pyro_gen.traces import (
    data_dim,
    data_frame,
    latent_sites,
    per_datum_log_prob,
    sample_sites,
    site_log_prob,
    trace_side,
)

__all__ = [
    "draws_for",
    "guide_draws",
    "guide_obstacle",
    "guide_on",
    "guide_trace",
    "joint_guide_draws",
    "require_encoder",
]


def guide_draws(program: Program, x: Tensor, *context: Any, num_particles: int) -> Iterator[GuideDraws]:
    r"""Draws from the guide, with log-weights :math:`\log p(x_n, z_n) - \log q(z_n | x_n)`, chunk by chunk of the data.

    Draws by the global generators (see :func:`pyro_gen._random.seeded`) and without gradients.

    Arguments:
        program: A program with local latent variables only, in evaluation mode.
        x: The data, with shape :math:`(N, *)`.
        context: What the model conditions on.
        num_particles: The number K of draws per datum.

    Yields:
        The draws, for consecutive rows of the data.

    Raises:
        ValueError: Model and guide do not have the same latent sites, the guide is a point, or it has parameters for
            another number of data.
    """
    with torch.no_grad():
        rows, entries = _plan(program, x, context, num_particles)
        summed = _left_to_sums(program, x, context)
        for chunk in row_chunks(len(x), rows):
            data = (x[chunk], *rows_of(x, context, chunk))
            guide = _Guide(program, data, summed)
            model = Summed(program, summed, data)
            size = max(1, rows_per_chunk(entries, x.device) // len(data[0]))
            weights, draws = [], []
            for start in range(0, num_particles, size):
                values, log_q = guide.draw(min(size, num_particles - start))
                weights.append(model.log_prob(values, len(log_q)) - log_q.double())
                draws.append(values)
            yield GuideDraws(
                chunk,
                torch.cat(weights),
                {n: torch.cat([d[n] for d in draws]) for n in guide.data_dims},
                guide.data_dims,
            )


def _plan(program: Program, x: Tensor, context: tuple[Any, ...], num_particles: int) -> tuple[int, int]:
    """Checks guide against model, and finds how many rows to take at once and the entries per row."""
    model = trace_side(program, "model", x[:1], *rows_of(x, context, slice(1)))
    entries = entries_per_datum(model)
    # Rows for which many particles fit, since the guide's network runs once per chunk.
    rows = min(len(x), max(1, rows_per_chunk(entries, x.device) // min(num_particles, 64)))
    summed = _left_to_sums(program, x, context)
    guide = guide_trace(program, x[:rows], *rows_of(x, context, slice(rows)), leave_out=summed)
    latent, guided = latent_sites(model), latent_sites(guide)
    if absent := sorted(set(latent) - set(guided) - set(summed)):
        other = "exact" if is_enumerable(program, x, *context) else 'ais", start="prior'
        raise ValueError(
            f"The guide of {type(program).__name__} does not sample the latent variable '{absent[0]}': give it a guide "
            f'that does, pg.with_guide say, or use a method without one (for a likelihood: method="{other}").'
        )
    if point := _point_site(program, guide, x[:rows], rows_of(x, context, slice(rows))):
        raise ValueError(
            f"The guide of {type(program).__name__} is a point at '{point}' (a Delta), which has no density: use "
            'pg.log_likelihood(method="ais", start="prior"), pg.impute(method="ais"), or give it a guide with a '
            "spread, as AutoNormal is."
        )
    for name, site in guided.items():
        if name not in latent and not site["infer"].get("is_auxiliary"):
            raise ValueError(f"The guide of {type(program).__name__} samples '{name}', which the model does not have.")
        frame = data_frame(site)
        if frame is None:
            raise AdviceError(
                f"The guide's site '{name}' stands outside of the data plate, so it has no density per datum: use "
                '{method}, start="prior", or a guide that samples inside the plate.',
                method="ais",
            )
        if frame.size != rows:  # an autoguide: one set of parameters per datum of its training
            if frame.size != len(x):
                raise AdviceError(
                    f"The guide of {type(program).__name__} has parameters for {frame.size} data and was given "
                    f'{len(x)}: it knows no other data than it was trained on. Use {{method}}, start="prior", or a '
                    "guide that reads x.",
                    method="ais",
                )
            rows = len(x)
    return rows, entries


def guide_trace(program: Program, *data: Any, leave_out: Collection[str] = ()) -> Trace:
    """A trace of the guide, in which missing entries that are latent variables and that it knows nothing of are draws
    of the model given the rest.

    Arguments:
        program: The program.
        data: What it is called with.
        leave_out: Latent variables for which no proposal is made.
    """
    trace = trace_side(program, "guide", *data)
    return propose_missing(program, trace, data, leave_out)


def _left_to_sums(program: Program, x: Tensor, context: tuple[Any, ...]) -> dict[str, FiniteSite]:
    """The discrete latent variables that the guide leaves out, where they are few enough to be summed over."""
    data = (x[:1], *rows_of(x, context, slice(1)))
    with seeded(0), torch.no_grad(), pyro.validation_enabled(False):
        guide = guide_on(program, *data) or guide_on(program, x, *context)
    guided = {} if guide is None else latent_sites(guide)
    trace = probe(program, x, *context)
    finite = finite_sites(trace, guided)
    if not finite or len(finite) == len(latent_sites(trace)):
        return {}
    few = joint_values(finite, present_units(finite, program, x, *context)) <= MAX_SUMMED
    return finite if bool(few.all()) else {}


def joint_guide_draws(
    program: Program, x: Tensor, *context: Any, num_particles: int
) -> tuple[dict[str, Tensor], Tensor]:
    r"""Draws all latent variables, local and global, from the guide, with weights :math:`\log p(x, z) - \log q(z)`.

    Draws by the global generators and without gradients.

    Arguments:
        program: A program in evaluation mode, whose guide samples what its model does.
        x: The data, with shape :math:`(N, *)`.
        context: What the model conditions on.
        num_particles: The number K of draws.

    Returns:
        The draws by name of the site, with shape :math:`(K, *)`, and the log-weights in float64, with shape
        :math:`(K,)`.

    Raises:
        ValueError: Model and guide do not have the same latent sites, or the guide is a point.
    """
    data = (x, *context)

    def one(_: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        trace = guide_trace(program, *data)
        sites = latent_sites(trace)
        return {n: s["value"] for n, s in sites.items()}, torch.stack(
            [site_log_prob(s).sum() for s in sites.values()]
        ).sum(0)

    with torch.no_grad(), pyro.validation_enabled(False):
        prototype = trace_side(program, "model", *data)
        guide = guide_trace(program, *data)
        model, guided = latent_sites(prototype), latent_sites(guide)
        name = type(program).__name__
        if absent := [n for n in model if n not in guided]:
            raise ValueError(
                f"The guide of {name} does not sample the latent variable '{absent[0]}': give it a guide that does "
                '(an autoguide, say), or start from the prior: start="prior".'
            )
        if point := _point_site(program, guide, x, context):
            raise ValueError(
                f"The guide of {name} is a point at '{point}' (a Delta), which has no density: use what needs no "
                'guide, pg.posterior(method="hmc") or pg.log_evidence(method="smc"), start="prior" where that is an '
                "option, or give it a guide with a spread, as AutoNormal is."
            )
        for n, site in guided.items():
            if n not in model and not site["infer"].get("is_auxiliary"):
                raise ValueError(f"The guide of {name} samples '{n}', which the model does not have.")
        parts = []
        log_p = ModelLogProb(program, any_missing(x, *context), joint=True)
        entries = max([1, *(s["value"].numel() for s in sample_sites(prototype).values())])
        size = rows_per_chunk(entries, x.device)
        for start in range(0, num_particles, size):
            count = min(size, num_particles - start)
            values, log_q = vmap_or_loop(one, torch.zeros(count), draws=True)
            parts.append((values, log_p(data, values).double().sum(1) - log_q.double()))
    return {n: torch.cat([p[0][n] for p in parts]) for n in guided}, torch.cat([p[1] for p in parts])


def draws_for(target: ProgramDensity, num_particles: int) -> tuple[dict[str, Tensor], Tensor]:
    """Draws from the guide of a density's program, for all of its targets at once.

    Draws by the global generators and without gradients.

    Arguments:
        target: The density of a program, which is in evaluation mode.
        num_particles: The number K of draws for each target.

    Returns:
        The draws by name of the site, with shape :math:`(K, *)`, and the log-weights in float64, with shape
        :math:`(K, *batch)`.

    Raises:
        ValueError: As by :func:`guide_draws` and :func:`joint_guide_draws`.
    """
    program = target.program
    assert isinstance(program, Program)
    if not target.per_datum:
        return joint_guide_draws(program, *target.data, num_particles=num_particles)
    parts = list(guide_draws(program, *target.data, num_particles=num_particles))  # of some rows each
    values = {n: torch.cat([p.values[n] for p in parts], dim + 1) for n, dim in parts[0].data_dims.items()}
    return values, torch.cat([p.log_weights for p in parts], 1)


def _point_site(program: Program, guide: Trace, x: Tensor, context: tuple[Any, ...]) -> str | None:
    """The name of a site at which the guide always takes the same values: MAP estimates and the like.

    An autoguide's Delta is no such point, since it holds the transformed value of an auxiliary site; nor is one of
    finitely many values, which has a probability there.
    """
    sites = {n: s for n, s in latent_sites(guide).items() if isinstance(innermost(s["fn"]), dist.Delta)}
    deltas = {n: s["value"] for n, s in sites.items() if not s["fn"].support.is_discrete}
    if not deltas:
        return None
    again = latent_sites(trace_side(program, "guide", x, *context))
    return next((n for n, value in deltas.items() if torch.equal(value, again[n]["value"])), None)


def guide_obstacle(program: Program, x: Tensor, *context: Any) -> str | None:
    """What keeps the guide from proposing latent variables for any rows of the data.

    Returns:
        ``"point"``: it always takes the same values; ``"rows"``: it is not amortised, with parameters for each of these
        rows, so it runs on all of them or none; ``"other rows"``: for another number of rows; else ``None``.
    """
    few = (x[:1], *rows_of(x, context, slice(1)))
    with seeded(0), torch.no_grad(), pyro.validation_enabled(False):
        for data, found in ((few, None), ((x, *context), "rows")):
            if (guide := guide_on(program, *data)) is not None:
                return "point" if _point_site(program, guide, data[0], data[1:]) is not None else found
        return "other rows"


def guide_on(program: Program, x: Tensor, *context: Any) -> Trace | None:
    """A trace of the guide, or ``None`` where it has parameters for another number of rows than these."""
    try:
        guide = trace_side(program, "guide", x, *context)
    except (RuntimeError, ValueError, IndexError):
        # What else may be wrong with the guide comes out where it is used.
        return None
    for site in latent_sites(guide).values():
        frame = data_frame(site)
        batch = site["fn"].batch_shape
        if frame is not None and {frame.size, *batch[len(batch) + frame.dim :][:1]} - {1, len(x)}:
            return None
    return guide


def require_encoder(program: Program, guide: Mapping[str, Any], names: Sequence[str]) -> None:
    """Raises where a guide leaves out what it is to encode data by.

    Arguments:
        program: The program.
        guide: The sites of its guide, by name.
        names: Latent variables that it has to sample.

    Raises:
        ValueError: It does not sample one of them.
    """
    if absent := [name for name in names if name not in guide]:
        raise ValueError(
            f"The guide of {type(program).__name__} does not sample '{absent[0]}', so nothing encodes the data: give "
            "it a guide that does, by pg.with_guide say, and train it; pg.latents and pg.posterior need none, and "
            "pg.interpolate(program, 0, 1) goes between two draws of the prior."
        )


class _Guide:
    """The guide for some rows of the data, as a sampler."""

    def __init__(self, program: Program, data: tuple[Any, ...], leave_out: Collection[str] = ()) -> None:
        self.program, self.data, self.leave_out = program, data, leave_out
        trace = self._trace()
        sites = latent_sites(trace)
        self.single = next(iter(sites.values())) if len(sites) == 1 else None
        self.data_dims = {n: data_dim(s) for n, s in sites.items()}

    def _trace(self) -> Trace:
        with pyro.validation_enabled(False):
            return guide_trace(self.program, *self.data, leave_out=self.leave_out)

    def draw(self, size: int) -> tuple[dict[str, Tensor], Tensor]:
        """Draws values of shape (size, *) with their log-densities, of shape (size, n)."""
        if self.single is not None:
            # The distribution of a lone site depends on nothing random: the guide's network need not run again.
            site = self.single
            value = site["fn"].sample((size,))
            log_prob = scale_and_mask(site["fn"].log_prob(value), site["scale"], site["mask"])
            return {site["name"]: value}, log_prob.movedim(data_frame(site).dim, -1).reshape(
                size, -1, len(self.data[0])
            ).sum(1)

        def one(_: Tensor) -> tuple[dict[str, Tensor], Tensor]:
            sites = latent_sites(self._trace())
            log_q = torch.stack([per_datum_log_prob(s) for s in sites.values()]).sum(0)
            return {n: s["value"] for n, s in sites.items()}, log_q

        return vmap_or_loop(one, torch.zeros(size), draws=True)  # type: ignore[no-any-return]
