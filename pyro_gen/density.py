r"""A program and its data as a pure function of tensors.

For a program with local latent variables only, the joint density factorises over the data,
:math:`p(x, z) = \prod_n p(z_n) \, p(x_n \mid z_n)`. Every latent variable is mapped to an unconstrained one,
:math:`z = T(u)`, and :class:`Density` gives the two terms per datum,

.. math::
    \log \pi_0(u_n) = \log p(T(u_n)) + \log \left| \det \frac{\partial T}{\partial u_n} \right|, \qquad
    \ell(u_n) = \log p(x_n \mid T(u_n)),

and their gradients, for many chains at once. The transforms are recomputed at every evaluation, since the support of
a variable may depend on other variables.

Pyro's handlers run once: the function is vectorised over chains by ``torch.func.vmap`` and traced to a graph of plain
tensor operations by ``make_fx``. The graph is compared with the function it came from before it is used.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import biject_to
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_gen._random import seeded
from pyro_gen.data import as_tensor
from pyro_gen.likelihoods import assume_missing, no_completion
from pyro_gen.program import Program, data_dim, data_frame, is_local, per_datum_log_prob, sample_sites, structure

__all__ = [
    "Density",
    "Terms",
    "any_missing",
    "as_inputs",
    "density",
    "entries_per_datum",
    "evaluation",
    "first_line",
    "local_site",
    "row_chunks",
    "rows_of",
    "rows_per_chunk",
]


# ----------------------------------------------------------------------------------------------------------------------
# Shared by everything that evaluates a program


def as_inputs(program: Program, x: Any, *context: Any) -> tuple[Any, ...]:
    """Makes data and context tensors of the program's floating dtype.

    Arguments:
        program: The program.
        x: The data: a tensor, array, data frame or list of numbers with shape :math:`(N, *)`, NaN where missing.
        context: Tensors, arrays or data frames; whatever else is handed on as it is.

    Returns:
        ``(x, *context)``.

    Raises:
        ValueError: As by :func:`pyro_gen.data.as_tensor`.
    """
    like = next((p for p in program.parameters() if p.is_floating_point()), None)
    parts = [as_tensor(x)]
    for part in context:
        array_like = not isinstance(part, Tensor) and hasattr(part, "__array__")
        parts.append(torch.as_tensor(np.array(part)) if array_like else part)
    floating = [isinstance(p, Tensor) and p.is_floating_point() for p in parts]
    return tuple(p.to(like.dtype) if f and like is not None else p for p, f in zip(parts, floating, strict=True))


@contextmanager
def evaluation(program: Program) -> Iterator[None]:
    """Puts a program in evaluation mode (dropout off, ...) and restores the modes of its modules afterwards."""
    training = [module for module in program.modules() if module.training]
    program.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def constants(program: Program) -> dict[str, Tensor]:
    """The parameters and buffers of a program by name, detached: what a density holds fixed."""
    return {n: p.detach() for n, p in (*program.named_parameters(), *program.named_buffers())}


def entries_per_datum(trace: Trace) -> int:
    """The size of the largest tensor per datum in the local sites of a trace: the unit of memory for chunking."""
    largest = 1
    for site in sample_sites(trace).values():
        if is_local(site):
            fn, tensors = site["fn"], [site["value"]]
            while hasattr(fn, "base_dist"):
                fn = fn.base_dist
            tensors += [getattr(fn, name) for name in fn.arg_constraints if name in fn.__dict__]
            size = data_frame(site).size
            largest = max(largest, *(math.ceil(t.numel() / size) for t in tensors if isinstance(t, Tensor)))
    return largest


def rows_per_chunk(entries: int, device: torch.device) -> int:
    """How many (chain, datum) pairs of ``entries`` numbers each to evaluate at once.

    On a CPU a chunk's tensors (16 MiB in float32) stay near the caches; on a GPU they keep it busy (512 MiB).
    """
    return max(1, 2 ** (22 if device.type == "cpu" else 27) // entries)


def rows_of(x: Tensor, context: tuple[Any, ...], rows: slice | Tensor) -> tuple[Any, ...]:
    """The rows of what a model conditions on, for the same rows of the data; what is not a tensor is handed on."""
    return tuple(c[rows] if isinstance(c, Tensor) and c.shape[:1] == x.shape[:1] else c for c in context)


def any_missing(x: Tensor, *context: Any) -> bool:
    """Whether anything that the model may observe has holes: the data, or a tensor that it conditions on."""
    return any(isinstance(c, Tensor) and c.is_floating_point() and bool(c.isnan().any()) for c in (x, *context))


def row_chunks(n: int, size: int) -> Iterator[slice]:
    """Cuts n rows into slices of at most ``size``."""
    yield from (slice(start, min(start + size, n)) for start in range(0, n, size))


def local_site(site: Any) -> Any:
    """The site itself, where it stands inside the data plate; else a clear error."""
    if not is_local(site):
        raise ValueError(f"The observed site '{site['name']}' stands outside of the data plate: move it into it.")
    return site


def first_line(error: Exception) -> str:
    """What an exception says, in one line."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


class Terms(NamedTuple):
    """The two terms of a density and their gradients, at one set of points.

    Attributes:
        log_prior: With shape :math:`(C, N)`, in nats.
        log_likelihood: With shape :math:`(C, N)`, in nats.
        grad_prior: With shape :math:`(C, N, D)`.
        grad_likelihood: With shape :math:`(C, N, D)`.
    """

    log_prior: Tensor
    log_likelihood: Tensor
    grad_prior: Tensor
    grad_likelihood: Tensor


# ----------------------------------------------------------------------------------------------------------------------
# Latent variables as rows of a matrix


@dataclass(frozen=True)
class _Site:
    """Where a latent site's values lie in the rows of z."""

    offset: int
    size: int
    shape: tuple[int, ...]  # of the unconstrained value, the data dimension first
    data_dim: int  # counted from the left

    def read(self, z: Tensor) -> Tensor:
        """(N, dim) -> the unconstrained value."""
        return z[:, self.offset : self.offset + self.size].reshape(self.shape).movedim(0, self.data_dim)

    def rows(self, value: Tensor) -> Tensor:
        """A tensor with the data dimension of the site -> (N, -1)."""
        return value.movedim(self.data_dim, 0).reshape(self.shape[0], -1)


class _Unconstrained(Messenger):
    """Effect handler: gives the latent sites values T(u) from the rows of z, and adds up log|det dT/du|."""

    def __init__(self, sites: dict[str, _Site], z: Tensor) -> None:
        super().__init__()
        self.sites, self.z = sites, z
        self.log_abs_det: Tensor | float = 0.0

    def _pyro_sample(self, msg: Any) -> None:
        site = self.sites.get(msg["name"])
        if site is None or msg["is_observed"]:
            return
        transform = biject_to(msg["fn"].support)
        u = site.read(self.z)
        msg["value"] = transform(u)
        msg["done"] = True
        self.log_abs_det = self.log_abs_det + site.rows(transform.log_abs_det_jacobian(u, msg["value"])).sum(-1)


class _Constrained(Messenger):
    """Effect handler: gives the latent sites these values, or else a draw, and collects u = T^{-1}(value)."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values
        self.unconstrained: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and msg["name"] in self.values:
            msg["value"] = self.values[msg["name"]]
            msg["done"] = True

    def _pyro_post_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and type(msg["fn"]).__name__ != "_Subsample":
            self.unconstrained[msg["name"]] = biject_to(msg["fn"].support).inv(msg["value"])


# ----------------------------------------------------------------------------------------------------------------------
# Density


class Density:
    """The joint density of a program and its data, made by :func:`density`.

    Attributes:
        program: The program.
        x: The data, with shape :math:`(N, *)`.
        context: What the model conditions on.
        names: The names of the latent sites.
        dim: The number D of unconstrained latent variables per datum.
        batch_shape: :math:`(N,)`.
        mode: How it is evaluated: ``"traced"``, ``"vmap"`` or ``"loop"``, known after the first evaluation.
    """

    def __init__(self, program: Program, x: Tensor, context: tuple[Any, ...], sites: dict[str, _Site]) -> None:
        self.program, self.x, self.context = program, x, context
        self.names = tuple(sites)
        self.dim = sum(site.size for site in sites.values())
        self.batch_shape = torch.Size(x.shape[:1])
        self.mode = "traced"
        self.entries = 1
        self._sites = sites
        self._missing = any_missing(x, *context)
        self._constants = constants(program)
        self.dtype = next((c.dtype for c in self._constants.values() if c.is_floating_point()), x.dtype)
        self._graphs: dict[tuple[torch.Size, torch.dtype], Callable[[Tensor], tuple[Tensor, ...]]] = {}

    # The program, run by handlers, for one chain: everything else is built on these.

    def _trace(self, *handlers: Messenger) -> Trace:
        with ExitStack() as stack:
            trace = stack.enter_context(pyro.poutine.trace())
            for handler in (no_completion(), assume_missing(self._missing), *handlers):
                stack.enter_context(handler)
            functional_call(self.program, self._constants, ("model", self.x, *self.context))
        return trace.trace

    def _one(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(N, dim) -> log-prior and log-likelihood, each (N,)."""
        feed = _Unconstrained(self._sites, z)
        trace = self._trace(feed)
        trace.compute_log_prob()
        prior, likelihood = feed.log_abs_det + z.new_zeros(len(z)), z.new_zeros(len(z))
        for name, site in sample_sites(trace).items():
            if name in self._sites:
                prior = prior + per_datum_log_prob(site)
            elif not site["infer"].get("_deterministic"):
                likelihood = likelihood + per_datum_log_prob(site)
        return prior, likelihood

    def _batched(self, function: Callable[..., Any], *args: Any) -> Any:
        """Maps a function of one chain over chains."""
        with pyro.validation_enabled(False):
            if self.mode != "loop":
                return torch.vmap(function, randomness="error")(*args)
            chains = [
                function(*(_index(a, c) for a in args)) for c in range(len(torch.utils._pytree.tree_leaves(args)[0]))
            ]
            return torch.utils._pytree.tree_map(lambda *leaves: torch.stack(leaves), *chains)

    def _eager(self, z: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            z = z if z.requires_grad else z.detach().requires_grad_()
            terms = self._batched(self._one, z)
            grads = [
                torch.autograd.grad(t.sum(), z, retain_graph=True, materialize_grads=True, allow_unused=True)[0]
                if t.requires_grad
                else torch.zeros_like(z)
                for t in terms
            ]
        return (*(t.detach() for t in terms), *grads)

    def _graph(self, z: Tensor) -> Callable[[Tensor], tuple[Tensor, ...]]:
        """The fastest function that is known to be right for points of this shape."""
        key = (z.shape, z.dtype)
        if key not in self._graphs:
            self._graphs[key] = self._make_graph(z)
        return self._graphs[key]

    def _make_graph(self, z: Tensor) -> Callable[[Tensor], tuple[Tensor, ...]]:
        if self.mode == "traced":
            try:
                graph = make_fx(lambda points: self._eager(points))(z.detach().clone().requires_grad_())
                # The tracer recorded what happened at z: does it also hold at another point?
                other = z.flip(0) + 0.1 * torch.linspace(-1, 1, z.numel(), dtype=z.dtype, device=z.device).view_as(z)
                with torch.no_grad():
                    traced = graph(other)
                if not all(_agree(a, b) for a, b in zip(traced, self._eager(other), strict=True)):
                    raise ValueError("the traced graph gives other numbers than the model at another point")
                return graph
            except Exception as error:
                reason = first_line(error)
            self.mode = "vmap"
            try:
                self._eager(z)
                warnings.warn(
                    f"The model cannot be traced to a graph, so Pyro runs at every evaluation. {reason}", stacklevel=4
                )
            except Exception as error:
                if _is_randomness(error):
                    raise ValueError(_RANDOM) from error
                self.mode = "loop"
                warnings.warn(
                    "The model cannot be vectorised by torch.vmap, so chains are evaluated one after another. "
                    f"{first_line(error)}",
                    stacklevel=4,
                )
        return self._eager

    # What users call.

    def value_and_grad(self, z: Tensor) -> Terms:
        """Evaluates both terms and both gradients from one forward pass.

        Arguments:
            z: Unconstrained points, with shape :math:`(C, N, D)`.

        Returns:
            The :class:`Terms`; re-tempering them costs nothing.
        """
        z = z.detach().contiguous()  # the graph holds for the strides it was traced with
        with torch.no_grad(), evaluation(self.program):
            return Terms(*self._graph(z)(z))

    def log_prior(self, z: Tensor) -> Tensor:
        """The log-density of the latent variables in unconstrained space, with shape :math:`(C, N)`, in nats."""
        with evaluation(self.program):
            return self._batched(self._one, z)[0]  # type: ignore[no-any-return]

    def log_likelihood(self, z: Tensor) -> Tensor:
        """The log-density of the data given the latent variables, with shape :math:`(C, N)`, in nats."""
        with evaluation(self.program):
            return self._batched(self._one, z)[1]  # type: ignore[no-any-return]

    def sample_prior(self, chains: int) -> Tensor:
        """Draws from the prior, by the global generator (see :func:`pyro_gen._random.seeded`).

        Arguments:
            chains: The number C of draws per datum.

        Returns:
            Unconstrained points, with shape :math:`(C, N, D)`.
        """
        with torch.no_grad(), evaluation(self.program), pyro.validation_enabled(False):
            # One after another: vmap cannot draw from many distributions.
            return torch.stack([self._rows_of({}) for _ in range(chains)])

    def _rows_of(self, values: dict[str, Tensor]) -> Tensor:
        handler = _Constrained(values)
        self._trace(handler)
        rows = [self._sites[name].rows(handler.unconstrained[name]) for name in self.names]
        return torch.cat(rows, -1).to(self.dtype)

    def constrain(self, z: Tensor) -> dict[str, Tensor]:
        """Maps unconstrained points to named values.

        Arguments:
            z: Unconstrained points, with shape :math:`(C, N, D)`.

        Returns:
            The values of the latent and deterministic sites by name, each with shape :math:`(C, *)`.
        """

        def one(z: Tensor) -> dict[str, Tensor]:
            sites = sample_sites(self._trace(_Unconstrained(self._sites, z)))
            return {n: s["value"] for n, s in sites.items() if n in self._sites or s["infer"].get("_deterministic")}

        with torch.no_grad(), evaluation(self.program):
            return self._batched(one, z)  # type: ignore[no-any-return]

    def unconstrain(self, values: dict[str, Tensor]) -> Tensor:
        """Maps named values of the latent sites, each with shape :math:`(C, *)`, to points of shape :math:`(C, N, D)`.

        Raises:
            ValueError: A latent site has no value.
        """
        if absent := [name for name in self.names if name not in values]:
            raise ValueError(f"unconstrain needs the values of all latent sites: there is none for {absent[0]!r}.")
        with torch.no_grad(), evaluation(self.program):
            return self._batched(self._rows_of, {name: values[name] for name in self.names})  # type: ignore[no-any-return]


_RANDOM = (
    "The model draws random numbers outside of sample sites, so it has no density: draw them by pyro.sample, or "
    "switch them off in evaluation mode as torch.nn.Dropout does."
)


def density(program: Program, x: Tensor, *context: Any) -> Density:
    r"""Turns a program with local latent variables and its data into a pure function of tensors.

    Parameters are constants. Modules are put in evaluation mode for the time of an evaluation.

    Arguments:
        program: The program.
        x: The data, with shape :math:`(N, *)` and NaN where nothing was observed.
        context: What the model conditions on.

    Returns:
        The density of :math:`(z_1, \dots, z_N)` and the data, one row per datum.

    Raises:
        ValueError: The program has no latent variable, a global or a discrete one, a factor or an observed site outside
            of the data plate, an observed site without a density, or randomness outside of sample sites.

    Example:
        >>> import pyro, torch
        >>> import pyro.distributions as dist
        >>> from pyro_gen import Program, observe
        >>> class Scale(Program):
        ...     def model(self, x):
        ...         with self.plate(x):
        ...             scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        ...             return observe("x", dist.Normal(0.0, scale), x)
        >>> target = density(Scale(), torch.tensor([0.5, -1.0]))
        >>> terms = target.value_and_grad(torch.zeros(3, 2, 1))  # 3 chains
        >>> [tuple(t.shape) for t in terms]
        [(3, 2), (3, 2), (3, 2, 1), (3, 2, 1)]
        >>> round(terms.log_prior[0, 0].item(), 4)  # of log(scale), which is standard normal
        -0.9189
    """
    if len(x) == 0:
        raise ValueError("The density of no data: x has 0 rows.")
    with evaluation(program):
        _require_local(program, x, *context)
        target = Density(program, x, context, {})
        with seeded(0), torch.no_grad():
            # Validation is on here as the user set it, so that errors of the model itself are Pyro's own.
            handler = _Constrained({})
            trace = target._trace(handler)
            sites, offset = {}, 0
            for name, u in handler.unconstrained.items():
                site: Any = trace.nodes[name]
                dim = data_dim(site)
                shape = u.movedim(dim, 0).shape
                sites[name] = _Site(offset, math.prod(shape[1:]), tuple(shape), dim)
                offset += sites[name].size
        fed = Density(program, x, context, sites)
        fed.entries = max(entries_per_datum(trace), fed.dim)
        with torch.no_grad():
            before = _generator_states(x.device)
            fed._one(torch.zeros(len(x), fed.dim, dtype=fed.dtype, device=x.device))
            if any(not torch.equal(a, b) for a, b in zip(before, _generator_states(x.device), strict=True)):
                raise ValueError(_RANDOM)
    return fed


def _require_local(program: Program, x: Tensor, *context: Any) -> None:
    kinds = structure(program, x, *context)
    if kinds.kind in ("unnormalised", "implicit"):
        what = "a factor" if kinds.kind == "unnormalised" else "an observed site without a density"
        raise ValueError(f"{type(program).__name__} has {what}: it gives no normalised density of data and latents.")
    if kinds.global_:
        raise ValueError(
            f"{type(program).__name__} has the global latent variable '{kinds.global_[0]}', shared by all data, so the "
            "data have no likelihood one by one: no method estimates it. The training loss of pyro_gen.fit bounds the "
            "joint likelihood."
        )
    if kinds.kind == "exact":
        raise ValueError(f'{type(program).__name__} has no latent variable: its likelihood is method="exact".')
    with seeded(0), torch.no_grad():
        trace = pyro.poutine.trace(program.model).get_trace(x, *context)
    for name in kinds.local:
        site: Any = trace.nodes[name]
        if site["fn"].support.is_discrete:
            raise ValueError(
                f"The latent variable '{name}' is discrete and has no gradient: use method=\"exact\", which sums over "
                'its values, where all latent variables are discrete, else method="iwae" with a guide that samples it.'
            )
    for name in kinds.observed:
        local_site(trace.nodes[name])


def _generator_states(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return states if device.type == "cpu" else [*states, torch.cuda.get_rng_state(device)]


def _index(tree: Any, c: int) -> Any:
    return torch.utils._pytree.tree_map(lambda leaf: leaf[c], tree)


def _agree(a: Tensor, b: Tensor) -> bool:
    # Sums of thousands of float32 terms in another order: relative to the largest entry.
    tolerance = (1e-4 if a.dtype == torch.float32 else 1e-8) * (1 + b.abs().nan_to_num(posinf=0.0).max())
    return torch.allclose(a, b, rtol=1e-3 if a.dtype == torch.float32 else 1e-7, atol=float(tolerance), equal_nan=True)


def _is_randomness(error: Exception) -> bool:
    return "vmap" in str(error) and "random" in str(error)
