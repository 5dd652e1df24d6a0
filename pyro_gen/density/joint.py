"""The joint density of a program and its data."""

import functools
import math
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.func import functional_call

from pyro_gen._internals import is_vmapped
from pyro_gen._random import seeded
from pyro_gen.density.base import RANDOM, Density, Held, generator_states, looped, no_validation, vmap_or_loop
from pyro_gen.density.enumeration import contract, enumerated_components, enumerating, mark_discrete
from pyro_gen.density.finite import MAX_SUMMED, assignments, finite_sites, joint_values, present_units
from pyro_gen.density.inputs import (
    any_missing,
    as_inputs,
    constants_of,
    entries_per_datum,
    evaluation,
    largest_tensor,
    local_site,
)
from pyro_gen.density.masks import along, flat_sites, masked_out
from pyro_gen.density.missing import LatentMissing, active, find_latent_missing, latent_missing, missing_site
from pyro_gen.density.shapes import check_broadcasts
from pyro_gen.density.sites import (
    Constrained,
    HeldSite,
    HeldValues,
    Predicted,
    Slot,
    Unconstrained,
    connected,
    drawn_anew,
    flat_where,
    frames,
    held_site,
    is_data,
    is_deterministic,
    is_factor,
)
from pyro_gen.density.sums import check_sums, summing
from pyro_gen.density.support import check_observations
from pyro_gen.distributions import elements, innermost
from pyro_gen.observation import assume_missing, completions, no_completion
from pyro_gen.program import Program
from pyro_gen.traces import data_dim, data_frame, is_local, is_subsample, per_datum_log_prob, sample_sites


class ProgramDensity(Density):
    """The joint density of a program and its data, made by :func:`density`.

    Attributes:
        program: The program, or the plain model function.
        data: What it was called with.
        enumerated: The names of the discrete latent sites that Pyro enumerates, to be summed out.
        observed: The values of the observed sites by name, NaN where missing.
        held_sites: What is known of the sites in ``hold``.
        improper: The names of the sites without a proper prior.
        unnormalised: Whether the model has a factor.
        prototype: A trace of the model at a draw of its prior.
    """

    def __init__(
        self,
        program: Program | Callable[..., Any],
        data: tuple[Any, ...],
        prototype: Trace,
        sites: dict[str, Slot],
        *,
        hold: tuple[str, ...],
        improper: tuple[str, ...],
        per_datum: bool,
        stacked: int | None,
        missing: bool,
        latent_missing: LatentMissing,
        compile: str,
    ) -> None:
        batch = next(iter(sites.values())).shape[:1] if per_datum else () if stacked is None else (stacked,)
        tensors = [d for d in data if isinstance(d, Tensor)]
        constants = constants_of(program)
        latent = {n: s for n, s in sample_sites(prototype).items() if not s["is_observed"]}
        drawn = [s["value"] for s in latent.values()]  # all there is of a function that encloses its data
        known = (t.dtype for t in (*constants.values(), *tensors, *drawn) if t.is_floating_point())
        super().__init__(
            sum(site.size for site in sites.values()),
            batch,
            next(known, torch.get_default_dtype()),
            (*tensors, *drawn)[0].device,
            tuple(sites),
            entries_per_datum(prototype) if per_datum else _entries(prototype),
            compile,
        )
        self.program, self.data, self.prototype = program, data, prototype
        self.hold, self.improper, self.per_datum, self.stacked = hold, improper, per_datum, stacked
        self.unnormalised = any(is_factor(s) for s in sample_sites(prototype).values() if s["is_observed"])
        self._sites = sites
        self._missing = missing
        self._constants = constants
        self._summed, self._counts, self._latent_missing = self._joint_values(latent_missing)
        discrete = [n for n, s in latent.items() if n not in hold and s["fn"].support.is_discrete]
        self.enumerated = [n for n in discrete if n not in self._summed]
        self._plate_dims = max((-f.dim for s in prototype.nodes.values() for f in frames(s)), default=0)
        self.held_sites = self._with_fixed_supports()

    def _joint_values(self, handler: LatentMissing) -> tuple[dict[str, Tensor], Tensor, LatentMissing]:
        """Joint values of the discrete variables of a datum, (A, *site), where some are missing entries that feed more.

        How the model is written is then its own affair: it runs for each of them. Also which of them count in which
        row, booleans (A, N), and the handler that makes missing entries latent.
        """
        nothing: tuple[dict[str, Tensor], Tensor] = {}, torch.zeros(0, 0, dtype=torch.bool)
        finite = finite_sites(self.prototype, self.hold)
        summed = [n for n in handler.names if f"{n}.missing" in finite]
        if not summed:
            return *nothing, handler
        if self.stacked is None:
            handler = handler.with_masked(summed)
            present = present_units(finite, self.program, *self.data)
        else:  # each data set has holes of its own: all entries of all rows are summed over
            rows = {n: f.shape[f.data_dim] for n, f in finite.items()}
            present = {n: torch.ones(rows[n], f.units, dtype=torch.bool, device=self.device) for n, f in finite.items()}
        most = int(joint_values(finite, present).max())
        if most > MAX_SUMMED:
            raise ValueError(
                f"The discrete latent variables of a datum of {_name(self.program)}, the missing entries of "
                f"'{summed[0]}' among them, have {most} joint values, more than the {MAX_SUMMED} that are summed over "
                'beside continuous ones: use method="iwae".'
            )
        return *assignments(finite, present), handler

    @property
    def sums_out(self) -> bool:
        """Whether any variables are summed out."""
        return bool(self.enumerated or self._summed)

    @property
    def first_values(self) -> dict[str, Tensor]:
        """Some values of the variables that are summed over by running the model for each."""
        return {name: values[0] for name, values in self._summed.items()}

    def _with_fixed_supports(self) -> dict[str, HeldSite]:
        """The held sites; those whose possible values depend on other variables, as some draws show, without them."""
        sites = {name: held_site(sample_sites(self.prototype)[name]) for name in self.hold}
        # A binomial of a random count; the number of categories is that of the columns of a tensor.
        doubtful = [
            n
            for n, s in sites.items()
            if s.support is not None and hasattr(innermost(self.prototype.nodes[n]["fn"]), "total_count")
        ]
        with self._ready():
            for _ in range(16 if doubtful else 0):
                drawn = sample_sites(self._trace(self._set(0), Constrained({}, self.hold)))
                for name in doubtful:
                    known, support = sites[name].support, held_site(drawn[name]).support
                    if known is None or support is None or not torch.equal(support, known):
                        sites[name] = sites[name]._replace(support=None)
        return sites

    @contextmanager
    def _ready(self) -> Iterator[None]:
        with super()._ready(), evaluation(self.program), self._latent_missing.again():
            yield

    # The program, run by handlers, for one chain and one data set: everything else is built on these.

    def _trace(
        self, data: tuple[Any, ...], *handlers: Any, enumerate_discrete: bool = False, missing: bool | None = None
    ) -> Trace:
        def run(*data: Any) -> None:
            if isinstance(self.program, Program):
                functional_call(self.program, self._constants, ("model", *data))
            else:
                self.program(*data)

        with ExitStack() as stack:
            trace = stack.enter_context(pyro.poutine.trace())
            if enumerate_discrete:
                stack.enter_context(enumerating(self._plate_dims))
                run = mark_discrete(run)
            for handler in (no_completion(), assume_missing(self._missing if missing is None else missing), *handlers):
                stack.enter_context(handler)
            run(*data)
        return trace.trace

    def _fed(self, z: Tensor, held: Held, data: tuple[Any, ...]) -> tuple[Trace, Unconstrained]:
        feed = Unconstrained(self._sites, z)
        trace = self._trace(data, feed, HeldValues(held), enumerate_discrete=bool(self.enumerated))
        trace.compute_log_prob()
        summed = [n for n in self._summed if not missing_site(self.prototype.nodes[n])]
        for name in (*self.enumerated, *summed):  # masked out, it is uniform: K times 1 would be no probability
            site: Any = trace.nodes[name]
            if (out := masked_out(site)) is not None:
                values = len(site["fn"].enumerate_support(expand=False))
                out = along(out, site["log_prob"].dim(), site["fn"].event_dim)
                site["log_prob"] = torch.where(out, -math.log(values), site["log_prob"])
        return trace, feed

    def _scored(self, trace: Trace) -> tuple[dict[str, Any], dict[str, frozenset[str]]]:
        """The sites of a trace with a log-density, and the enumerated dimensions that it extends over, by site."""
        sites = {n: s for n, s in sample_sites(trace).items() if not is_deterministic(s)}
        if not self.enumerated:
            return sites, {}
        trace.pack_tensors()
        return sites, enumerated_components(trace)

    def _site_sum(self, site: Any) -> Tensor:
        return per_datum_log_prob(site) if self.per_datum else site["log_prob_sum"]

    def _by_rows(self, z: Tensor, held: Held, data: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The two terms of each datum, (N,), and what does not belong to one, with :attr:`_summed` summed over."""

        def terms(values: Held) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            trace, feed = self._fed(z, {**held, **values}, data)
            rows: list[Tensor] = [z.new_zeros(self._counts.shape[1]) for _ in range(2)]
            rest: list[Tensor] = [z.new_zeros(()) for _ in range(2)]
            for name, log_abs_det in feed.log_abs_det.items():
                into = rows if self.per_datum else rest
                into[0] = into[0] + self._sites[name].total(log_abs_det)
            for site in self._scored(trace)[0].values():
                term = int(site["is_observed"])
                if is_local(site):
                    rows[term] = rows[term] + per_datum_log_prob(site)
                else:
                    rest[term] = rest[term] + site["log_prob_sum"]
            return rows[0], rows[1], rest[0], rest[1]

        prior, likelihood, *rest = torch.vmap(terms)(self._summed)
        impossible = torch.where(self._counts, 0.0, -math.inf).to(prior.dtype)
        log_prior = (prior + impossible).logsumexp(0)
        log_joint = (prior + likelihood + impossible).logsumexp(0)
        return log_prior, log_joint - log_prior, rest[0][0], rest[1][0]

    def _one_set(self, z: Tensor, held: Held, data: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
        if self._summed:
            prior, likelihood, prior_rest, likelihood_rest = self._by_rows(z, held, data)
            if self.per_datum:
                return prior, likelihood
            return prior.sum() + prior_rest, likelihood.sum() + likelihood_rest
        trace, feed = self._fed(z, held, data)
        sites, over = self._scored(trace)
        prior = likelihood = z.new_zeros(z.shape[:-1])
        for name, log_abs_det in feed.log_abs_det.items():
            prior = prior + self._sites[name].total(log_abs_det)
        for name, site in sites.items():
            if over.get(name):
                continue
            if site["is_observed"]:
                likelihood = likelihood + self._site_sum(site)
            else:
                prior = prior + self._site_sum(site)
        if over:
            latent = [n for n in sites if over[n] and not sites[n]["is_observed"]]
            seen = [n for n in sites if over[n] and sites[n]["is_observed"]]
            joint = contract(trace, latent + seen, self.per_datum) if seen else 0.0
            if any(n in self._sites for n in latent):
                # A continuous variable depends on a discrete one: log p(z) is a sum over its values too.
                marginal = contract(trace, latent, self.per_datum)
                prior = prior + marginal
                likelihood = likelihood + (joint - marginal if seen else 0.0)
            else:
                likelihood = likelihood + joint
        return prior, likelihood

    def at_assignment(self, z: Tensor, held: Held, data: tuple[Any, ...], values: Held) -> tuple[Tensor, Tensor]:
        """The joint log-density of one chain at values of the variables that are summed out, in two ways.

        As the sum in which all other values have weight 0, and by a run of the model with these values.
        """

        def total(sites: Iterable[Any]) -> Tensor:
            return torch.stack([z.new_zeros(()), *(s["log_prob"].sum() for s in sites)]).sum()

        trace, _ = self._fed(z, held, data)
        for name, value in values.items():
            site: Any = trace.nodes[name]
            same = site["value"] == value
            for _ in range(site["fn"].event_dim):
                same = same.all(-1)
            site["log_prob"] = torch.where(same, site["log_prob"], -torch.inf)
        sites, over = self._scored(trace)
        summed = total(s for n, s in sites.items() if not over[n]) + contract(trace, [n for n in sites if over[n]])
        run, _ = self._fed(z, {**held, **values}, data)
        return summed, total(s for s in sample_sites(run).values() if not is_deterministic(s))

    def draw_summed(self, z: Tensor, held: Held, data: tuple[Any, ...]) -> dict[str, Tensor]:
        """Draws the variables that are summed out from their prior given one chain's point."""
        sites = sample_sites(self._trace(data, Unconstrained(self._sites, z), HeldValues(held)))
        return {name: sites[name]["value"] for name in self.enumerated}

    def _over_sets(self, function: Callable[..., Any], randomness: str = "error") -> Callable[[Tensor, Held], Any]:
        """A function of one data set -> one of all stacked sets, which maps over them."""
        if self.stacked is None:
            return lambda z, held: function(z, held, self.data)
        places = [i for i, d in enumerate(self.data) if isinstance(d, Tensor)]

        def one_set(z: Tensor, held: Held, tensors: list[Tensor]) -> Any:
            data = list(self.data)
            for i, t in zip(places, tensors, strict=True):
                data[i] = t
            return function(z, held, tuple(data))

        def all_sets(z: Tensor, held: Held) -> Any:
            args = (z, dict(held), [self.data[i] for i in places])
            # As the chains: they are looped over where torch has no rule for what the model does.
            if is_vmapped(z):
                return torch.vmap(one_set, randomness=randomness)(*args)
            return looped(one_set, *args)

        return all_sets

    def _one(self, z: Tensor, held: Held) -> tuple[Tensor, Tensor]:
        return self._over_sets(self._one_set)(z, held)  # type: ignore[no-any-return]

    def _constrain_one(self, z: Tensor, held: Held) -> dict[str, Tensor]:
        def has_a_value(name: str, site: Any) -> bool:
            # What depends on a discrete variable that is summed out has many, along the dimension of its enumeration.
            known: Any = self.prototype.nodes[name]["value"]
            return bool(site["value"].shape == known.shape)

        def one_set(z: Tensor, held: Held, data: tuple[Any, ...]) -> dict[str, Tensor]:
            feed = Unconstrained(self._sites, z)
            held = {**held, **self.first_values}
            trace = self._trace(data, feed, HeldValues(held), enumerate_discrete=bool(self.enumerated))
            return {
                n: s["value"]
                for n, s in sample_sites(trace).items()
                if n in self._sites
                or n in self.hold
                or (is_deterministic(s) and not self._summed and has_a_value(n, s))
            }

        return self._over_sets(one_set)(z, held)  # type: ignore[no-any-return]

    @functools.cached_property
    def observed(self) -> dict[str, Tensor]:
        """The values of the observed sites by name, NaN where missing; those of stacked data sets stacked."""

        def one_set(data: tuple[Any, ...]) -> dict[str, Tensor]:
            with completions() as seen:
                sites = sample_sites(self._trace(data, Constrained({})))
            return {n: seen.get(n, s["value"]) for n, s in sites.items() if is_data(s)}

        with torch.no_grad(), self._ready(), seeded(0):
            if self.stacked is None:
                return one_set(self.data)
            sets = [one_set(self._set(i)) for i in range(self.stacked)]
            return {name: torch.stack([values[name] for values in sets]) for name in sets[0]}

    def _set(self, i: int) -> tuple[Any, ...]:
        return self.data if self.stacked is None else tuple(d[i] if isinstance(d, Tensor) else d for d in self.data)

    def sample_prior(self, chains: int) -> Tensor:
        if self.improper:
            raise ValueError(
                f"The prior of '{self.improper[0]}' is improper and has no draws: chains can start elsewhere "
                '(init="uniform"), and what starts from the prior needs a proper one.'
            )

        def one_set(z: Tensor, held: Held, data: tuple[Any, ...]) -> Tensor:
            return self._rows_of({}, data)

        return self._drawn(one_set, self._empty(chains), {})  # type: ignore[no-any-return]

    def _rows_of(self, values: Mapping[str, Tensor], data: tuple[Any, ...]) -> Tensor:
        handler = Constrained(values, self.hold, [n for n, site in self._sites.items() if site.flat])
        self._trace(data, handler)
        return _point(self, {name: handler.unconstrained[name] for name in self.names})

    def _drawn(self, one_set: Callable[..., Any], z: Tensor, held: Held) -> Any:
        """Runs a random function of one data set for all chains, each with draws of its own."""
        function = self._over_sets(one_set, "different")

        def chunk(z: Tensor, *tensors: Tensor) -> Any:
            here = dict(zip(held, tensors, strict=True))
            return looped(function, z, here) if self.mode == "loop" else vmap_or_loop(function, z, here, draws=True)

        with torch.no_grad(), self._ready():
            return self._in_chunks(chunk, z, *held.values())

    def _empty(self, chains: int) -> Tensor:
        return torch.zeros(chains, *self.batch_shape, 0, device=self.device)

    def unconstrain(self, values: Mapping[str, Tensor]) -> Tensor:
        """Maps named values of the latent sites to points of shape :math:`(C, *batch, D)`.

        Arguments:
            values: Values by name, each with shape :math:`(C, *site)`, or :math:`(C, S, *site)` for stacked data sets.

        Raises:
            ValueError: A latent site has no value.
        """
        if absent := [name for name in self.names if name not in values]:
            raise ValueError(f"unconstrain needs the values of all latent sites: there is none for {absent[0]!r}.")
        given = {n: v for n, v in values.items() if n in self.names or n in self.hold}

        def one_set(z: Tensor, given: Held, data: tuple[Any, ...]) -> Tensor:
            return self._rows_of(given, data)

        chains = len(next(iter(given.values())))
        with seeded(0):  # discrete latent variables take some value: that of the others does not depend on it
            return self._drawn(one_set, self._empty(chains), given)  # type: ignore[no-any-return]

    def pointwise_log_likelihood(self, z: Tensor, *, held: Held | None = None) -> dict[str, Tensor]:
        r"""The log-density of each observation given the latent variables, masks and scales applied.

        Discrete latent variables are summed out. Observations that share one are not independent given the rest: those
        of one site in a plate that the variable stands outside of have one sum, without the plate's dimension, and
        several sites give one entry, named after the first and the last of them.

        Arguments:
            z: Unconstrained points, with shape :math:`(C, *batch, D)`.
            held: Values of the held sites.

        Returns:
            Log-densities in nats by observed site, each with shape :math:`(C, *site batch)`; 0 where nothing was
            observed.
        """

        def one_set(z: Tensor, held: Held, data: tuple[Any, ...]) -> dict[str, Tensor]:
            if self._summed:
                seen = [n for n, s in sample_sites(self.prototype).items() if is_data(s)]
                return {seen[0] if len(seen) == 1 else f"{seen[0]}+...+{seen[-1]}": self._by_rows(z, held, data)[1]}
            trace, _ = self._fed(z, held, data)
            sites, over = self._scored(trace)
            out = {n: s["log_prob"] for n, s in sites.items() if is_data(s) and not over.get(n)}
            for group in connected(over):
                latent = [n for n in group if not sites[n]["is_observed"]]
                seen = [n for n in group if sites[n]["is_observed"]]
                if not seen:
                    continue
                # Latent ones too: what depends on one variable from outside of its plates is not independent in them.
                fewest = min(group, key=lambda n: len(frames(sites[n])))
                total = contract(trace, latent + seen, plates_of=fewest)
                if any(n in self._sites for n in latent):
                    total = total - contract(trace, latent, plates_of=fewest)
                out[seen[0] if len(seen) == 1 else f"{seen[0]}+...+{seen[-1]}"] = total
            return out

        return self._map(self._over_sets(one_set), z, held)  # type: ignore[no-any-return]

    def site_log_probs(self, z: Tensor, *, held: Held | None = None) -> dict[str, Tensor]:
        """The log-density of each sample site, masks and scales applied, with log|det J| where a site is in ``z``.

        Arguments:
            z: Unconstrained points, with shape :math:`(C, *batch, D)`.
            held: Values of the held sites.

        Returns:
            Tensors in nats by name, each with shape :math:`(C, *site batch)`, which add up to :meth:`log_density`.

        Raises:
            ValueError: Discrete latent variables are summed out, so that sites have no log-density of their own.
        """
        if summed := [*self.enumerated, *self._summed]:
            raise ValueError(
                f"The discrete latent variable '{summed[0]}' is summed out, so sites have no log-density of "
                f"their own: hold it, density(..., hold=({summed[0]!r},))."
            )

        def one_set(z: Tensor, held: Held, data: tuple[Any, ...]) -> dict[str, Tensor]:
            trace, feed = self._fed(z, held, data)
            out = {n: s["log_prob"] for n, s in sample_sites(trace).items() if not is_deterministic(s)}
            for name, log_abs_det in feed.log_abs_det.items():
                extra = log_abs_det.dim() - out[name].dim()
                total = log_abs_det.sum(tuple(range(-extra, 0))) if extra > 0 else log_abs_det
                out[name] = out[name] + total
            return out

        return self._map(self._over_sets(one_set), z, held)  # type: ignore[no-any-return]

    def predict(self, z: Tensor, *, held: Held | None = None) -> dict[str, Tensor]:
        """Draws new data given the latent variables, by the global generator; discrete ones are drawn from their prior.

        Arguments:
            z: Unconstrained points, with shape :math:`(C, *batch, D)`.
            held: Values of the held sites.

        Returns:
            Draws by observed site, each with shape :math:`(C, *site]`, nothing missing.
        """

        def one_set(z: Tensor, held: Held, data: tuple[Any, ...]) -> dict[str, Tensor]:
            feed = Unconstrained(self._sites, z)
            trace = self._trace(data, Predicted(), feed, HeldValues(held), missing=False)
            return {n: s["value"] for n, s in sample_sites(trace).items() if is_data(s)}

        return self._drawn(one_set, z, self._named(self._held_tensors(held)))  # type: ignore[no-any-return]

    def draw_held(self, z: Tensor) -> dict[str, Tensor]:
        """Draws the held sites from their priors given the other latent variables, by the global generator.

        Arguments:
            z: Unconstrained points, with shape :math:`(C, *batch, D)`.

        Returns:
            Values by name, each with shape :math:`(C, *batch, *site)`.
        """

        def one_set(z: Tensor, held: Held, data: tuple[Any, ...]) -> dict[str, Tensor]:
            sites = sample_sites(self._trace(data, Unconstrained(self._sites, z)))
            return {name: sites[name]["value"] for name in self.hold}

        return self._drawn(one_set, z, {})  # type: ignore[no-any-return]


def density(
    program: Program | Callable[..., Any],
    *data: Any,
    per_datum: bool | None = None,
    stacked: bool = False,
    hold: Sequence[str] = (),
    compile: str = "off",
) -> ProgramDensity:
    r"""Turns a program and its data into a pure function of tensors.

    Parameters are constants: those of a program as they are now, whatever becomes of it. What a plain function reads
    from outside of its arguments must not change: make a new density when it did. Modules are put in evaluation mode
    for the time of an evaluation, where the model is one, or a method of one. The model runs once with Pyro's
    validation on, so that what is wrong with it is said in Pyro's own words. A model that ``vmap`` cannot take is
    evaluated chain by chain, with a warning that names the line.

    Arguments:
        program: A program, or a plain Pyro model function.
        data: What the model is called with: the data, with shape :math:`(N, *)` and NaN where nothing was observed, and
            its context. Any arguments for a plain function.
        per_datum: Whether there is one target per datum. The default is to have them where all latent sites are local
            and no datum moves with the latent variables of another; ``False`` gives the joint one.
        stacked: The tensors in ``data`` are many data sets, with a leading dimension S: one joint target each.
        hold: Names of latent sites that are neither part of ``z`` nor summed out: evaluations take their values. The
            target is then joint.
        compile: ``"off"``, ``"on"``, or ``"auto"``: compile when the number of evaluations announced by
            :meth:`Density.expect` repays it.

    Returns:
        The density of the latent variables and the data.

    Raises:
        ValueError: The program has no continuous latent variable, a discrete one that cannot be summed out, an observed
            site without a density, randomness outside of sample sites or a subsample; or ``per_datum=True`` and a
            global latent variable.

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
        >>> joint = density(Scale(), torch.tensor([0.5, -1.0]), per_datum=False)
        >>> joint.dim, joint.log_density(torch.zeros(3, 2)).shape
        (2, torch.Size([3]))
    """
    if compile not in ("off", "on", "auto"):
        raise ValueError(f'density(compile={compile!r}): choose "off", "on" or "auto".')
    if isinstance(program, Program):
        if not data:
            raise ValueError("A program needs its data: density(program, x, *context).")
        if len(data[0]) == 0:
            raise ValueError("The density of no data: x has 0 rows.")
        data = as_inputs(program, *data)
    tensors = [d for d in data if isinstance(d, Tensor)]
    sets = None
    first = data
    if stacked:
        lengths = {len(t) if t.dim() else None for t in tensors}
        if len(lengths) != 1 or None in lengths:
            raise ValueError(
                "density(stacked=True): each tensor in the data needs one leading dimension, the number of data sets; "
                f"their shapes are {[tuple(t.shape) for t in tensors]}."
            )
        sets = len(tensors[0])
        first = tuple(d[0] if isinstance(d, Tensor) else d for d in data)
    missing = bool(tensors) and any_missing(*tensors)
    with ExitStack() as stack:
        stack.enter_context(evaluation(program))
        latent = stack.enter_context(_latent_missing(program, data, sets))
        stack.enter_context(seeded(0))
        stack.enter_context(torch.no_grad())
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "Encountered")  # a draw of a wide prior may overflow; more is said below
        holes = missing or bool(latent.names)
        # Validation is on here as the user set it, so that errors of the model itself are Pyro's own.
        handler = Constrained({}, hold)

        def run_model(handler: Constrained) -> Trace:
            with pyro.poutine.trace() as tape, no_completion(), assume_missing(holes), handler:
                if isinstance(program, Program):
                    program.model(*first)
                else:
                    program(*first)
            return tape.trace

        def another() -> Trace:
            with no_validation():
                trace = run_model(Constrained({}, hold))
                trace.compute_log_prob()
            return trace

        prototype = run_model(handler)
        local = _check_structure(program, prototype, hold)
        try:
            prototype.compute_log_prob()
        except ValueError as error:
            if "within the support" not in str(error):
                raise
            stack.enter_context(no_validation())  # at this draw; see what others say
            prototype.compute_log_prob()
        check_broadcasts(prototype)
        check_observations(prototype, another)
        if per_datum and (stacked or hold or not local):
            raise ValueError(_NOT_PER_DATUM.format(_name(program), _first_global(prototype) or (*hold, "the stack")[0]))
        rows = local if per_datum is None else per_datum
        rows = rows and not stacked and not hold
        if rows:
            for site in sample_sites(prototype).values():
                if is_data(site):
                    local_site(site)
        unconstrained = handler.unconstrained

        def make(flat: Collection[str], improper: tuple[str, ...]) -> tuple[ProgramDensity, Tensor]:
            hole = not rows and not stacked
            sites = _slots(prototype, unconstrained, rows, {n: _unmasked(prototype, n, hole) for n in flat})
            target = ProgramDensity(
                program,
                data,
                prototype,
                sites,
                hold=tuple(hold),
                improper=improper,
                per_datum=rows,
                stacked=sets,
                missing=holes,
                latent_missing=latent,
                compile=compile,
            )
            return target, _point(target, unconstrained)

        nodes: dict[str, Any] = dict(prototype.nodes)
        held = {name: nodes[name]["value"] for name in hold}

        def terms_of(target: ProgramDensity, z: Tensor) -> tuple[Tensor, Tensor]:
            with target._ready() if target._summed else target._latent_missing.again():  # vmap cannot validate
                return target._one_set(z, held, first)

        target, z = make((), tuple(handler.improper))
        before = generator_states(target.device)
        with summing(target):
            terms = terms_of(target, z)
        if generator_states(target.device) != before:
            raise ValueError(RANDOM)
        if target.enumerated:
            with summing(target), target._latent_missing.again():
                check_sums(target, z, held | target.first_values, first)
        masked = [n for n in target.names if (out := masked_out(nodes[n])) is not None and bool(out.any())]
        if masked:

            def run(names: Collection[str]) -> tuple[Trace, dict[str, Tensor]]:
                moved = {n: drawn_anew(u, nodes[n]) if n in names else u for n, u in unconstrained.items()}
                trace, feed = target._fed(_point(target, moved), held | target.first_values, first)
                return trace, {n: value for n, value in feed.log_abs_det.items() if n not in masked}

            flat = flat_sites(masked, run)
            target, z = make(flat, (*handler.improper, *(n for n in masked if n not in flat)))
            terms = terms_of(target, z)
        # A program promises that its plate holds; evaluation.check_program looks whether it does.
        coupled = rows and not isinstance(program, Program) and _rows_are_coupled(target, z, terms)
    if coupled and per_datum:
        raise ValueError(_COUPLED.format(_name(program)))
    return density(program, *data, per_datum=False, compile=compile) if coupled else target


@contextmanager
def _latent_missing(
    program: Program | Callable[..., Any], data: tuple[Any, ...], sets: int | None
) -> Iterator[LatentMissing]:
    """What is missing and feeds a later density, in any of the stacked data sets."""
    if sets is None:
        with latent_missing(program, *data) as handler:
            yield handler
        return
    if (known := active(program)) is not None:
        yield known
        return
    found = [find_latent_missing(program, *(d[i] if isinstance(d, Tensor) else d for d in data)) for i in range(sets)]
    handler = LatentMissing.union(program, found)
    with handler:
        yield handler


def _rows_are_coupled(target: ProgramDensity, z: Tensor, terms: tuple[Tensor, Tensor]) -> bool:
    """Whether the terms of a datum move with the latent variables of another.

    A model may couple what stands in its data plate, by a cumulative sum say, and no plate tells of that. Two rows
    differ in some bit of their numbers: for each bit, those rows are changed where it is set, and then the others.
    """
    number = torch.arange(len(z), device=z.device)
    with target._ready():
        for bit in range((len(z) - 1).bit_length()):
            for value in (0, 1):
                change = (number >> bit) % 2 == value
                found = target._one_set(z + 0.5 * change.unsqueeze(-1), {}, target.data)
                for old, new in zip(terms, found, strict=True):
                    # The same operations on the same numbers: at most the last digits differ.
                    tolerance = 1e3 * torch.finfo(old.dtype).eps
                    if not torch.allclose(old[~change], new[~change], rtol=tolerance, atol=0.0, equal_nan=True):
                        return True
    return False


def _unmasked(prototype: Trace, name: str, hole: bool) -> Tensor | None:
    """Which of the unconstrained values of a flat site are a target's, where the others are to be left out of it."""
    out = flat_where(prototype.nodes[name]) if hole else None
    return None if out is None else ~out


def _slots(
    prototype: Trace, unconstrained: Mapping[str, Tensor], rows: bool, flat: Mapping[str, Tensor | None]
) -> dict[str, Slot]:
    """Where unconstrained values lie in a point; of flat sites, those that ``flat`` names, or all."""
    sites, offset = {}, 0
    for name, u in unconstrained.items():
        dim = data_dim(prototype.nodes[name]) if rows else None
        shape = u.shape if dim is None else u.movedim(dim, 0).shape
        kept = None if (mask := flat.get(name)) is None else mask.expand(u.shape).reshape(-1)
        fill = None if kept is None else u.reshape(-1)
        size = math.prod(shape if dim is None else shape[1:]) if kept is None else int(kept.sum())
        sites[name] = Slot(offset, size, tuple(shape), dim, name in flat, kept, fill)
        offset += size
    return sites


def _point(target: ProgramDensity, unconstrained: Mapping[str, Tensor]) -> Tensor:
    """Unconstrained values by name as a point of one chain, with shape (*batch, D)."""
    parts = [target._sites[n].rows(u) for n, u in unconstrained.items()]
    return torch.cat(parts, -1).to(target.dtype) if parts else torch.zeros(0, dtype=target.dtype, device=target.device)


_NOT_PER_DATUM = (
    "{0} has the global latent variable '{1}', shared by all data, so the data have no likelihood one by one: "
    "no method estimates it. pg.log_evidence(program, x) estimates that of the whole data set."
)


_COUPLED = (
    "{0} couples the data: the density of one datum moves with the latent variables of another, so there is no target "
    "per datum: leave per_datum out, for the joint one."
)


def _name(program: Program | Callable[..., Any]) -> str:
    return type(program).__name__ if isinstance(program, Program) else getattr(program, "__name__", "The model")


def _first_global(prototype: Trace) -> str | None:
    sites = sample_sites(prototype).items()
    return next((n for n, s in sites if not s["is_observed"] and not is_local(s)), None)


def _check_structure(program: Program | Callable[..., Any], prototype: Trace, hold: Sequence[str]) -> bool:
    """Refuses what has no density; returns whether all latent sites are local."""
    for name, site in prototype.nodes.items():
        if site["type"] == "sample" and is_subsample(site):
            plate: Any = site["fn"]
            if plate.subsample_size is not None and plate.subsample_size < plate.size:
                raise ValueError(
                    f"The plate '{name}' takes a random subsample of its data, so there is no density of all of them: "
                    "leave subsample_size out."
                )
    sites = sample_sites(prototype)
    latent = {n: s for n, s in sites.items() if not s["is_observed"]}
    if unknown := [name for name in hold if name not in latent]:
        raise ValueError(f"density(hold=...): there is no latent site {unknown[0]!r}; there are {', '.join(latent)}.")
    for name, site in sites.items():
        if is_data(site) and isinstance(innermost(site["fn"]), dist.Delta):
            raise ValueError(f"{_name(program)} has an observed site without a density, '{name}': a Delta.")
    if not latent:
        raise ValueError(f'{_name(program)} has no latent variable, so no posterior: its likelihood is method="exact".')
    discrete = [n for n, s in latent.items() if s["fn"].support.is_discrete and n not in hold]
    for name in discrete:
        fn = latent[name]["fn"]
        if not fn.has_enumerate_support and getattr(elements(fn), "has_enumerate_support", False):
            raise ValueError(
                f"The latent variable '{name}' is an event of several discrete ones (to_event), which are not summed "
                "out: put them in a plate, where one does not depend on another, or sample them by a Gibbs block, "
                f'pg.posterior(..., method="gibbs", blocks={{{name!r}: "enumerate"}}).'
            )
        if not fn.has_enumerate_support:
            raise ValueError(
                f"The latent variable '{name}' is discrete, has no gradient, and infinitely many values or too many to "
                'be summed out: use pg.posterior(method="gibbs") with a block for it.'
            )
    if len(discrete) == len(latent):
        raise ValueError(
            f"The latent variable '{discrete[0]}' is discrete and has no gradient, and there is no continuous one: use "
            'pg.log_likelihood(method="exact"), which sums over its values, or draw it by a Gibbs block, '
            f'pg.posterior(..., method="gibbs", blocks={{{discrete[0]!r}: "enumerate"}}).'
        )
    return all(is_local(site) and data_frame(site).vectorized for site in latent.values())


def _entries(prototype: Trace) -> int:
    """The size of the largest tensor of the sites of a trace."""
    return max((largest_tensor(site) for site in sample_sites(prototype).values()), default=1)
