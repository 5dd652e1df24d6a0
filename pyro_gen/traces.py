"""Reading traces of a program: its sites, what stands in the data plate, log-densities, and the kind of its density."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer.autoguide import AutoGuide
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_gen._errors import InvalidValuesError
from pyro_gen._random import exclusive, seeded
from pyro_gen.distributions.innermost import innermost

if TYPE_CHECKING:
    from pyro_gen.program import Program

__all__ = [
    "DATA_PLATE",
    "Structure",
    "data_dim",
    "data_frame",
    "is_factor",
    "is_local",
    "is_subsample",
    "latent_sites",
    "per_datum_log_prob",
    "sample_sites",
    "site_log_prob",
    "structure",
    "trace_guide",
    "trace_pair",
    "trace_side",
    "validated",
]

DATA_PLATE = "data"


def is_subsample(site: Any) -> bool:
    """Whether a site of a trace, or a message to an effect handler, is where a plate draws its indices."""
    return type(site["fn"]).__name__ == "_Subsample"


def sample_sites(trace: Trace) -> dict[str, Any]:
    """The sample sites of a trace by name, in the order of execution, plates' own index sites left out."""
    return {n: s for n, s in trace.nodes.items() if s["type"] == "sample" and not is_subsample(s)}


def latent_sites(trace: Trace) -> dict[str, Any]:
    """The sample sites of a trace that are not observed, by name, in the order of execution."""
    return {n: s for n, s in sample_sites(trace).items() if not s["is_observed"]}


def is_factor(site: Any) -> bool:
    """Whether a site of a trace, or a message to an effect handler, is a ``pyro.factor`` statement."""
    return isinstance(innermost(site["fn"]), dist.Unit)


@contextmanager
def validated(side: str | None = None, site: Any = None, tape: Any = None) -> Iterator[None]:
    """What torch's validation complains of in here is said by :class:`InvalidValuesError`.

    Arguments:
        side: Which function of a program runs, ``"model"`` or ``"guide"``, if known.
        site: The site whose density is asked for.
        tape: The handler that traces the function, to say after which site it was stopped.
    """
    try:
        yield
    except ValueError as error:
        if isinstance(error, InvalidValuesError) or "but found invalid values" not in str(error):
            raise
        name, observed = (None, False) if site is None else (site["name"], site["is_observed"])
        after = None if tape is None else next(reversed(sample_sites(tape.trace)), None)
        # With the frames that it went through: who reports the line of the user's program looks for it there.
        raise InvalidValuesError.of(str(error), side, name, observed, after).with_traceback(
            error.__traceback__
        ) from error


def trace_side(program: "Program", side: str, x: Tensor, *context: Any, latents: Trace | None = None) -> Trace:
    """Runs the ``"model"`` or the ``"guide"`` of a program.

    Arguments:
        program: The program.
        side: Which of its functions.
        x: The data, with shape :math:`(N, *)`.
        context: What the model conditions on.
        latents: A trace whose values the latent variables take.

    Returns:
        The trace.

    Raises:
        InvalidValuesError: Pyro's validation is on, and a distribution does not take its parameters.
    """
    function = getattr(program, side)
    if side == "guide":
        given = program.given_guide
        if isinstance(given, AutoGuide) and given.prototype_trace is None:
            side = "model"  # which the first run of an autoguide is one of
    handler = pyro.poutine.trace(function if latents is None else pyro.poutine.replay(function, latents))
    with validated(side, tape=handler):
        trace: Trace = handler.get_trace(x, *context)
    return trace


def trace_guide(program: "Program", x: Tensor, *context: Any) -> Trace:
    """Runs the guide; its trace is without the sites at which plates draw their indices."""
    trace = trace_side(program, "guide", x, *context)
    for name in [n for n, s in trace.nodes.items() if s["type"] == "sample" and is_subsample(s)]:
        # Replaying an autoguide's plate would impose the batch size of its first run on the model.
        trace.remove_node(name)
    return trace


def trace_pair(program: "Program", x: Tensor, *context: Any) -> tuple[Trace, Trace]:
    """Runs the guide, then the model with the guide's latent variables.

    Arguments:
        program: The program.
        x: The data, with shape :math:`(N, *)`.
        context: What the model conditions on.

    Returns:
        The traces of model and guide.
    """
    with exclusive():
        guide_trace = trace_guide(program, x, *context)
        model_trace = trace_side(program, "model", x, *context, latents=guide_trace)
    return model_trace, guide_trace


def data_frame(site: Any) -> Any:
    """The data plate that a trace's site stands in (with ``dim``, a negative integer, and ``size``), else ``None``."""
    return next((f for f in site["cond_indep_stack"] if f.name == DATA_PLATE), None)


def data_dim(site: Any) -> int:
    """Where the data dimension of a local site's value lies, counted from the left."""
    return int(site["value"].dim() - site["fn"].event_dim + data_frame(site).dim)


def is_local(site: Any) -> bool:
    """Whether a trace's site stands inside the data plate (one value per datum)."""
    return data_frame(site) is not None


def site_log_prob(site: Any) -> Tensor:
    """The log-density of a site's value with its batch shape, in nats, masks and scales applied."""
    with validated(site=site):
        log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    return scale_and_mask(log_prob, site["scale"], site["mask"])  # type: ignore[no-any-return]


def per_datum_log_prob(site: Any, log_prob: Tensor | None = None) -> Tensor:
    """Sums a local site's log-density over everything but the data plate.

    Arguments:
        site: A site of a trace.
        log_prob: Another tensor of the batch shape of the site to sum instead, a Kullback-Leibler divergence say.

    Returns:
        The log-densities with shape :math:`(N,)`, in nats, masks and scales applied.

    Raises:
        ValueError: The batch shape of the site does not fit its plates: a broadcast mixed the data.
    """
    frame = data_frame(site)
    if frame is None:
        raise ValueError(f"Site '{site['name']}' stands outside of the data plate, so it has no log-density per datum.")
    log_prob = site_log_prob(site) if log_prob is None else log_prob
    sizes = {f.dim: f.size for f in site["cond_indep_stack"] if f.vectorized}
    in_plates = all(n == sizes.get(i - log_prob.dim(), 1) for i, n in enumerate(log_prob.shape) if n > 1)
    if not in_plates or log_prob.dim() < -frame.dim or log_prob.shape[frame.dim] != frame.size:
        raise ValueError(
            f"Site '{site['name']}' has log_prob of shape {tuple(log_prob.shape)}, but its data plate has size "
            f"{frame.size} at dimension {frame.dim}: enclose batch dimensions in plates, declare event dimensions "
            "with .to_event(...), and look for an (N, 1) that met an (N,)."
        )
    return log_prob.movedim(frame.dim, -1).reshape(-1, frame.size).sum(0)


@dataclass(frozen=True)
class Structure:
    """What one trace tells about a program.

    Attributes:
        local: Names of the latent sites inside the data plate, in order.
        global_: Names of the latent sites outside of it, in order.
        observed: Names of the observed sites.
        kind: ``"exact"`` (no latent site), ``"bound"`` (latent sites), ``"unnormalised"`` (a factor) or
            ``"implicit"`` (an observed site without a density).
    """

    local: tuple[str, ...]
    global_: tuple[str, ...]
    observed: tuple[str, ...]
    kind: str


def structure(program: "Program", x: Tensor, *context: Any, seed: int = 0) -> Structure:
    """Reads off one trace of the model what kind of density a program is.

    Arguments:
        program: The program.
        x: Some data, with shape :math:`(N, *)`.
        context: What the model conditions on.
        seed: Seeds the trace.

    Returns:
        The names of its sites and the kind of its density.
    """
    with seeded(seed), torch.no_grad():
        sites = sample_sites(trace_side(program, "model", x, *context))
    latent = {n: s for n, s in sites.items() if not s["is_observed"]}
    observed = {n: s for n, s in sites.items() if s["is_observed"] and not s["infer"].get("_deterministic")}
    if any(is_factor(s) for s in observed.values()):
        kind = "unnormalised"
    elif any(isinstance(innermost(s["fn"]), dist.Delta) for s in observed.values()):
        kind = "implicit"
    else:
        kind = "bound" if latent else "exact"
    return Structure(
        local=tuple(n for n, s in latent.items() if is_local(s)),
        global_=tuple(n for n, s in latent.items() if not is_local(s)),
        observed=tuple(observed),
        kind=kind,
    )
