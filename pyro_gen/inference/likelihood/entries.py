r"""Paths over missing entries that gradients do not move: discrete ones, by blocked Gibbs or another kernel.

With all missing entries latent (:mod:`pyro_gen.density.missing`), the law of the missing entries given the seen ones is
the base, and what else the program scores is tempered,

.. math:: \log f_\beta(x_m) = \log p_0(x_m \mid x_o) + \beta \, \log \ell(x_o, x_m) .

A sweep of Gibbs sampling gives each entry in turn a value from its conditional, by the density with each of its values,
for all chains and rows at once. Continuous latent variables beside them, as the code of a PixelVAE, take turns with
them: they are moved given the entries by Hamiltonian Monte Carlo. A program that knows a better kernel, one that draws
many entries together, offers it as :meth:`pyro_gen.program.Program.kernel`.
"""

import abc
import math
from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_gen.density import any_missing, rows_of
from pyro_gen.density.chains import vmap_or_loop
from pyro_gen.density.completed import completed_data
from pyro_gen.density.energy import log_factor
from pyro_gen.density.finite import FiniteSite, finite_sites, present_units
from pyro_gen.density.missing import active, missing_site
from pyro_gen.density.sites import is_deterministic
from pyro_gen.density.vectorised import vmappable
from pyro_gen.inference.likelihood.enumeration import probe
from pyro_gen.inference.likelihood.paths import Path
from pyro_gen.inference.mcmc import hmc
from pyro_gen.inference.model_log_prob import ModelLogProb
from pyro_gen.observation import assume_missing, completions
from pyro_gen.packing import PackedProgram
from pyro_gen.program import Program, fixed
from pyro_gen.traces import data_dim, is_factor, is_local, latent_sites, sample_sites
from pyro_gen.variables import Variables

__all__ = ["Entries", "EntriesPath", "GibbsPath", "KernelPath", "misses_levels", "path_of_entries"]

DRIFTS, LEAPFROG = 2, 4  # moves of continuous variables in a sweep, and their steps
LOG_STEP_SIZES = (math.log(0.05), 0.0)  # of variables whose prior has a scale of about 1


class Entries:
    """The missing entries of some rows, and latent variables beside them.

    To be made, and used, where all missing entries are latent.

    Arguments:
        program: The program, in evaluation mode.
        data: The rows, with what the model conditions on.
    """

    def __init__(self, program: Program, data: tuple[Any, ...]) -> None:
        handler = active(program)
        assert handler is not None and handler.every
        self.program, self.data = program, data
        self.batch_shape = torch.Size((len(data[0]),))
        self.names = [f"{n}.missing" for n in handler.names]
        self.handler = handler.with_masked(handler.names)
        self.terms = ModelLogProb(program, any_missing(*data))

    def drawn(self, chains: int) -> dict[str, Tensor]:
        """Draws of the base by name of the site, each with shape :math:`(C, *)`."""

        def one(_: Tensor) -> dict[str, Tensor]:
            with pyro.poutine.trace() as tape, assume_missing(True):
                self.program.model(*self.data)
            return {n: s["value"] for n, s in latent_sites(tape.trace).items()}

        nothing = torch.zeros(chains, 0, device=self.data[0].device)
        return self._mapped(one, nothing, draws=True)  # type: ignore[no-any-return]

    def _mapped(self, function: Callable[..., Any], *args: Any, draws: bool = False) -> Any:
        with self.handler.again(), pyro.validation_enabled(False), vmappable():
            return vmap_or_loop(function, *args, draws=draws)

    def both(self, values: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The log-density of the base, and what is tempered, each with shape :math:`(C, N)`."""
        with self.handler.again():
            prior, likelihood = self.terms(self.data, values).double().unbind(1)
        return prior, likelihood

    def complete(self, values: dict[str, Tensor]) -> Tensor:
        """The completed data, with shape :math:`(C, N, *)`."""

        def one(values: dict[str, Tensor]) -> Tensor:
            with completions() as seen, assume_missing(True), fixed(values):
                returned = self.program.model(*self.data)
            return completed_data(self.data[0], returned, seen)

        return self._mapped(one, values)  # type: ignore[no-any-return]


class EntriesPath(Entries, Path):
    """A path over the missing entries of some rows; chains are states with leading shape (C, N)."""

    @abc.abstractmethod
    def terms_of(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """The log-density of the base, and what is tempered, of states (C, N, *), each with shape :math:`(C, N)`."""

    def log_density(self, x: Tensor, beta: float) -> Tensor:
        prior, likelihood = self.terms_of(x)
        return prior + beta * likelihood

    def slope(self, x: Tensor) -> Tensor | None:
        return self.terms_of(x)[1]

    @abc.abstractmethod
    def completed(self, state: Tensor) -> Tensor:
        """The completed data of states (C, N, *), with shape :math:`(C, N, *)`."""


class GibbsPath(EntriesPath):
    """Blocked Gibbs over discrete entries, and discrete latent variables beside them.

    A state has the number of each variable's value among its possible ones, with shape :math:`(C, N, U)`. Behind these
    come the values of continuous latent variables, where there are any, with shape :math:`(C, N, D)`: after each sweep
    they make moves of Hamiltonian Monte Carlo, whose step sizes are drawn anew each time, since nothing tunes them.

    Raises:
        ValueError: A variable has values that cannot be enumerated, or a continuous one is bounded or shared by data.
    """

    def __init__(self, program: Program, data: tuple[Any, ...]) -> None:
        super().__init__(program, data)
        trace = probe(program, *data)
        known = finite_sites(trace)
        others = {n: s for n, s in latent_sites(trace).items() if n not in known}
        if wrong := [n for n, s in others.items() if not is_local(s) or not _is_unbounded(s["fn"].support)]:
            raise ValueError(
                f"{type(program).__name__} has discrete missing entries, and beside them '{wrong[0]}', which is not a "
                "variable of a datum alone with values that can be enumerated or any real numbers. Write it as a "
                "transform of a normal variable, sum it out, or give the program a kernel of its own."
            )
        self.sites = {n: _of_rows(s, len(data[0])) for n, s in known.items()}
        self.present = torch.cat(list(present_units(self.sites, program, *data).values()), 1)  # (N, U)
        self.sizes = [s.units for s in self.sites.values()]
        self.data_dims = {n: data_dim(s) for n, s in others.items()}
        self.shapes = {n: s["value"].movedim(self.data_dims[n], 0).shape[1:] for n, s in others.items()}

    def values(self, state: Tensor) -> dict[str, Tensor]:
        """The values by site, each with shape :math:`(C, *)`."""
        numbers = state[..., : self.present.shape[1]].long().split(self.sizes, 2)
        values = {n: s.value(s.support[part]) for (n, s), part in zip(self.sites.items(), numbers, strict=True)}
        sizes = [shape.numel() for shape in self.shapes.values()]
        parts = state[..., self.present.shape[1] :].split(sizes, 2) if sizes else ()
        for (name, shape), part in zip(self.shapes.items(), parts, strict=True):
            values[name] = part.unflatten(2, shape or (1,)).movedim(1, 1 + self.data_dims[name])
            values[name] = values[name] if shape else values[name].squeeze(-1)
        return values

    def start(self, chains: int) -> Tensor:
        drawn, parts = self.drawn(chains), []
        for name, site in self.sites.items():
            units = torch.stack([site.rows_of_units(v) for v in drawn[name]])  # (C, N, U, *event)
            events = site.support.dim() - 1
            same = units.unsqueeze(3) == site.support.reshape(1, 1, 1, *site.support.shape)
            parts.append((same.flatten(4).all(4) if events else same).int().argmax(3))
        for name in self.shapes:
            parts.append(drawn[name].movedim(1 + self.data_dims[name], 1).reshape(chains, len(self.data[0]), -1))
        return torch.cat(parts, 2)

    def terms_of(self, state: Tensor) -> tuple[Tensor, Tensor]:
        return self.both(self.values(state))

    def move(self, x: Tensor, beta: float) -> Tensor:
        x, at = x.clone(), 0
        for site in self.sites.values():
            count = len(site.support)
            for unit in range(at, at + site.units):
                if bool((moved := self.present[:, unit]).any()):
                    options = x.expand(count, *x.shape).clone()  # (K, C, N, U)
                    options[..., unit] = torch.arange(count, device=x.device).reshape(-1, 1, 1)
                    log_p = self.log_density(options.flatten(0, 1), beta).unflatten(0, (count, len(x)))
                    # The largest of log-weights with Gumbel noise.
                    noise = torch.empty_like(log_p).exponential_().clamp(min=1e-30).log()
                    x[..., unit] = torch.where(moved, (log_p - noise).argmax(0).to(x), x[..., unit])
            at += site.units
        return self._drift(x, beta) if self.shapes else x

    def _drift(self, x: Tensor, beta: float) -> Tensor:
        """Moves the continuous variables given the discrete ones."""
        numbers, z = x.split([self.present.shape[1], x.shape[2] - self.present.shape[1]], 2)

        def target(z: Tensor) -> hmc.Evaluation:
            with torch.enable_grad():
                z = z.detach().requires_grad_()
                log_p = self.log_density(torch.cat([numbers, z], 2), beta).to(z)
                (grad,) = torch.autograd.grad(log_p.sum(), z)
            return log_p.detach(), grad, ()

        point, metric = hmc.init(z, target), hmc.Metric.diagonal(torch.ones_like(z[0, 0]))
        for _ in range(DRIFTS):
            sizes = torch.empty_like(z[..., 0]).uniform_(*LOG_STEP_SIZES).exp()
            point, _ = hmc.step(point, target, sizes, metric, LEAPFROG)
        return torch.cat([numbers, point.z], 2)

    def completed(self, state: Tensor) -> Tensor:
        return self.complete(self.values(state))


class KernelPath(EntriesPath):
    """Chains that a kernel of data moves; states are completed data, with shape :math:`(C, N, *)`.

    Arguments:
        program: The program, in evaluation mode.
        data: The rows, with what the model conditions on.
        kernel: As :meth:`pyro_gen.program.Program.kernel`, which it is by default.

    Raises:
        ValueError: The program has latent variables beside its data, or observes these in parts.
    """

    def __init__(self, program: Program, data: tuple[Any, ...], kernel: Callable[..., Tensor] | None = None) -> None:
        super().__init__(program, data)
        self.kernel = program.kernel if kernel is None else kernel
        trace = probe(program, *data)
        latent = latent_sites(trace)
        self.shapes = {n: latent[n]["value"].shape[1:] for n in self.names if n in latent}
        self.variables = self._observed_by_name(program)
        whole = self.names[1:] if self.variables is None else []
        if other := [n for n, s in latent.items() if missing_site(s) is None] or whole:
            raise ValueError(
                f"The kernel of {type(program).__name__} moves its data, observed as a whole, and there is "
                f"'{other[0]}' beside them: sum it out of the model."
            )
        self.missing = torch.isnan(data[0])
        measured = [
            n
            for n, s in sample_sites(trace).items()
            if s["is_observed"] and n not in self.handler.names and not (is_factor(s) or is_deterministic(s))
        ]
        self.tempers_factor_alone = bool(self.missing.all()) and not measured
        # Where the factor has a path of its own: what is tempered besides it, (N,).
        self.measured: Tensor | None = None
        if kernel is None and type(program).tempered_factor is not Program.tempered_factor:
            start = self.start(1)
            self.measured = (self.terms_of(start)[1] - self._factor(start, 1.0))[0]

    def start(self, chains: int) -> Tensor:
        return self.complete(self.drawn(chains))

    def log_density(self, x: Tensor, beta: float) -> Tensor:
        if self.measured is None:
            return super().log_density(x, beta)
        return beta * self.measured + self._factor(x, beta)  # the base is the same at all temperatures

    def _factor(self, x: Tensor, beta: float) -> Tensor:
        """The program's tempered factor, float64 with shape (C, N)."""
        chains, rows = x.shape[:2]
        index = torch.arange(rows, device=x.device).repeat(chains)
        factor = self.program.tempered_factor(x.flatten(0, 1), beta, *rows_of(self.data[0], self.data[1:], index))
        return factor.view(chains, rows).double()

    def terms_of(self, state: Tensor) -> tuple[Tensor, Tensor]:
        views = {} if self.variables is None else self.variables.unpack(state)
        parts = [views.get(n, state) for n in self.handler.names]
        lead, shapes = state.shape[:2], self.shapes.items()
        return self.both({n: part.reshape(*lead, *shape) for (n, shape), part in zip(shapes, parts, strict=True)})

    def _observed_by_name(self, program: Program) -> Variables | None:
        """The variables of the data, where the site of its name observes each; ``None`` where one observes them all."""
        if not isinstance(program, PackedProgram):
            return None
        numbers = dict(zip(program.variables.names, (s.numel() for s in program.variables.shapes), strict=True))
        by_name = all(numbers.get(n) == self.shapes[f"{n}.missing"].numel() for n in self.handler.names)
        return program.variables if by_name else None

    def slope(self, x: Tensor) -> Tensor | None:
        if self.measured is not None:
            return None
        if not self.tempers_factor_alone:
            return super().slope(x)
        # The law of what is missing is the base itself, so that what is tempered is the factor.
        chains, rows = x.shape[:2]
        index = torch.arange(rows, device=x.device).repeat(chains)
        with self.handler.again():
            factor = log_factor(self.program, x.flatten(0, 1), *rows_of(self.data[0], self.data[1:], index))
        return factor.view(chains, rows)

    def move(self, x: Tensor, beta: float) -> Tensor:
        moved = self.kernel(x, self.missing, beta, *self.data[1:])
        return torch.where(self.missing, moved.to(x), x)

    def completed(self, state: Tensor) -> Tensor:
        return state


def _is_unbounded(support: Any) -> bool:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support is constraints.real or support is constraints.real_vector


def _of_rows(site: FiniteSite, rows: int) -> FiniteSite:
    """What is known of a site from one row, for so many."""
    shape = list(site.shape)
    shape[site.data_dim] = rows
    return site._replace(shape=torch.Size(shape))


def misses_levels(program: Program, *data: Any) -> bool:
    """Whether missing entries that are latent are discrete, of a program without a kernel."""
    sites = latent_sites(probe(program, *data)).values()
    return not program.has_kernel and any(missing_site(s) and s["fn"].support.is_discrete for s in sites)


def path_of_entries(program: Program, data: tuple[Any, ...], kernel: Any = None) -> EntriesPath | None:
    """The path by which missing entries of some rows are moved; ``None`` for continuous ones that gradients move.

    Arguments:
        program: The program, in evaluation mode.
        data: The rows, with what the model conditions on.
        kernel: In the place of blocked Gibbs or the program's own kernel; that of continuous entries is a sampler's.
    """
    if program.has_kernel:
        return KernelPath(program, data, kernel)
    if not any(s["fn"].support.is_discrete for s in latent_sites(probe(program, *data)).values()):
        return None
    return GibbsPath(program, data) if kernel is None else KernelPath(program, data, kernel)
