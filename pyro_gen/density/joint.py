"""The joint density of a program and its data."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import pyro
import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.func import functional_call

from pyro_gen._internals import is_vmapped
from pyro_gen._random import seeded
from pyro_gen.density.base import IN_CACHE, Density, Held
from pyro_gen.density.chains import looped, vmap_or_loop
from pyro_gen.density.completed import completed_data, reread
from pyro_gen.density.enumeration import contract, enumerated_components, enumerating, mark_discrete
from pyro_gen.density.finite import summed_assignments
from pyro_gen.density.inputs import (
    constants_of,
    entries_per_datum,
    evaluation,
    largest_tensor,
)
from pyro_gen.density.masks import along, fill_masked, masked_out
from pyro_gen.density.missing import LatentMissing, missing_site
from pyro_gen.density.sites import (
    Constrained,
    HeldSite,
    HeldValues,
    Predicted,
    Slot,
    Unconstrained,
    connected,
    frames,
    held_site,
    is_data,
    is_deterministic,
)
from pyro_gen.distributions import innermost
from pyro_gen.observation import assume_missing, completions, no_completion
from pyro_gen.program import Program
from pyro_gen.traces import is_factor, is_local, per_datum_log_prob, sample_sites


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
        rereads: bool,
        compile: str,
    ) -> None:
        batch: tuple[int, ...] = () if stacked is None else (stacked,)
        if per_datum:  # as many as the plate has; with discrete sites alone those of a program's data
            batch = next(iter(sites.values())).shape[:1] if sites else data[0].shape[:1]
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
        self.slots = sites
        self._missing, self._rereads = missing, rereads
        self._constants = constants
        self.summed, self._counts, self.latent_missing = summed_assignments(
            program, data, prototype, hold, latent_missing, stacked is not None, self.device
        )
        discrete = [n for n, s in latent.items() if n not in hold and s["fn"].support.is_discrete]
        self.enumerated = [n for n in discrete if n not in self.summed]
        self.entries = max(self.entries, self._entries_of_trees() // (self.batch_shape.numel() if per_datum else 1))
        self._plate_dims = max((-f.dim for s in prototype.nodes.values() for f in frames(s)), default=0)
        self.held_sites = self._with_fixed_supports()

    @property
    def sums_out(self) -> bool:
        """Whether any variables are summed out."""
        return bool(self.enumerated or self.summed)

    @property
    def first_values(self) -> dict[str, Tensor]:
        """Some values of the variables that are summed over by running the model for each."""
        return {name: values[0] for name, values in self.summed.items()}

    def _entries_of_trees(self) -> int:
        """Numbers that the sums over chains of discrete variables take at once, in units of what is to be in caches."""
        sites: list[Any] = [self.prototype.nodes[n] for n in self.enumerated]
        chained = [s for s in sites if "_markov_depth" in s["infer"]]
        sizes = (s["value"].numel() * len(s["fn"].enumerate_support(expand=False)) ** 3 for s in chained)
        return int(sum(sizes)) // (2 * IN_CACHE)

    def _with_fixed_supports(self) -> dict[str, HeldSite]:
        """The held sites; those whose possible values depend on other variables, as some draws show, without them."""
        sites = {name: held_site(sample_sites(self.prototype)[name]) for name in self.hold}
        # A binomial of a random count; the number of categories is that of the columns of a tensor.
        doubtful = [
            n
            for n, s in sites.items()
            if s.support is not None and hasattr(innermost(self.prototype.nodes[n]["fn"]), "total_count")
        ]
        with self.ready():
            for _ in range(16 if doubtful else 0):
                drawn = sample_sites(self.run(self.data_set(0), Constrained({}, self.hold)))
                for name in doubtful:
                    known, support = sites[name].support, held_site(drawn[name]).support
                    if known is None or support is None or not torch.equal(support, known):
                        sites[name] = sites[name]._replace(support=None)
        return sites

    @contextmanager
    def ready(self) -> Iterator[None]:
        with super().ready(), evaluation(self.program), self.latent_missing.again():
            yield

    # The program, run by handlers, for one chain and one data set: everything else is built on these.

    def run(
        self, data: tuple[Any, ...], *handlers: Any, enumerate_discrete: bool = False, missing: bool | None = None
    ) -> Trace:
        return self._run(data, handlers, enumerate_discrete, self._missing if missing is None else missing)[0]

    def _run(
        self, data: tuple[Any, ...], handlers: tuple[Any, ...], enumerate_discrete: bool, missing: bool
    ) -> tuple[Trace, Callable[[], Tensor]]:
        """A trace of the model, and what returns the completed data where all missing entries are latent."""

        def run(*data: Any) -> Any:
            if isinstance(self.program, Program):
                return functional_call(self.program, self._constants, ("model", *data))
            return self.program(*data)

        with ExitStack() as stack:
            trace = stack.enter_context(pyro.poutine.trace())
            marked = run
            if enumerate_discrete:
                stack.enter_context(enumerating(self._plate_dims))
                marked = mark_discrete(run)
            seen = stack.enter_context(completions())
            if not self.latent_missing.every:
                stack.enter_context(no_completion())
            for handler in (assume_missing(missing), *handlers):
                stack.enter_context(handler)
            returned = marked(*data)

        def completed() -> Tensor:
            return completed_data(data[0], returned, seen)

        if self._rereads and missing:
            reread(run, trace.trace, completed(), data[1:])
        return trace.trace, completed

    def run_at(self, z: Tensor, held: Held, data: tuple[Any, ...]) -> tuple[Trace, Unconstrained]:
        feed = Unconstrained(self.slots, z)
        trace = self.run(data, feed, HeldValues(held), enumerate_discrete=bool(self.enumerated))
        for observed in sample_sites(trace).values():
            if observed["is_observed"] and not is_deterministic(observed):
                fill_masked(observed)
        trace.compute_log_prob()
        summed = [n for n in self.summed if not missing_site(self.prototype.nodes[n])]
        for name in (*self.enumerated, *summed):  # masked out, it is uniform: K times 1 would be no probability
            site: Any = trace.nodes[name]
            if (out := masked_out(site)) is not None:
                values = len(site["fn"].enumerate_support(expand=False))
                out = along(out, 0, site["fn"].event_dim)  # its dimensions are the last ones of the log-density
                site["log_prob"] = torch.where(out, -math.log(values), site["log_prob"])
        return trace, feed

    def scored(self, trace: Trace) -> tuple[dict[str, Any], dict[str, frozenset[str]]]:
        """The sites of a trace with a log-density, and the enumerated dimensions that it extends over, by site."""
        sites = {n: s for n, s in sample_sites(trace).items() if not is_deterministic(s)}
        if not self.enumerated:
            return sites, {}
        trace.pack_tensors()
        return sites, enumerated_components(trace)

    def _site_sum(self, site: Any) -> Tensor:
        return per_datum_log_prob(site) if self.per_datum else site["log_prob_sum"]

    def _by_rows(self, z: Tensor, held: Held, data: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The two terms of each datum, (N,), and what does not belong to one, with :attr:`summed` summed over."""

        def terms(values: Held) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            trace, feed = self.run_at(z, {**held, **values}, data)
            rows: list[Tensor] = [z.new_zeros(self._counts.shape[1]) for _ in range(2)]
            rest: list[Tensor] = [z.new_zeros(()) for _ in range(2)]
            for name, log_abs_det in feed.log_abs_det.items():
                into = rows if self.per_datum else rest
                into[0] = into[0] + self.slots[name].total(log_abs_det)
            for site in self.scored(trace)[0].values():
                term = int(site["is_observed"])
                if is_local(site):
                    rows[term] = rows[term] + per_datum_log_prob(site)
                else:
                    rest[term] = rest[term] + site["log_prob_sum"]
            return rows[0], rows[1], rest[0], rest[1]

        prior, likelihood, *rest = torch.vmap(terms)(self.summed)
        impossible = torch.where(self._counts, 0.0, -math.inf).to(prior.dtype)
        log_prior = (prior + impossible).logsumexp(0)
        log_joint = (prior + likelihood + impossible).logsumexp(0)
        return log_prior, log_joint - log_prior, rest[0][0], rest[1][0]

    def terms_of_set(self, z: Tensor, held: Held, data: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
        if self.summed:
            prior, likelihood, prior_rest, likelihood_rest = self._by_rows(z, held, data)
            if self.per_datum:
                return prior, likelihood
            return prior.sum() + prior_rest, likelihood.sum() + likelihood_rest
        trace, feed = self.run_at(z, held, data)
        sites, over = self.scored(trace)
        prior = likelihood = z.new_zeros(z.shape[:-1])
        for name, log_abs_det in feed.log_abs_det.items():
            prior = prior + self.slots[name].total(log_abs_det)
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
            if any(n in self.slots for n in latent):
                # A continuous variable depends on a discrete one: log p(z) is a sum over its values too.
                marginal = contract(trace, latent, self.per_datum)
                prior = prior + marginal
                likelihood = likelihood + (joint - marginal if seen else 0.0)
            else:
                likelihood = likelihood + joint
        return prior, likelihood

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

    def terms_of_chain(self, z: Tensor, held: Held) -> tuple[Tensor, Tensor]:
        return self._over_sets(self.terms_of_set)(z, held)  # type: ignore[no-any-return]

    def constrain_chain(self, z: Tensor, held: Held) -> dict[str, Tensor]:
        def has_a_value(name: str, site: Any) -> bool:
            # What depends on a discrete variable that is summed out has many, along the dimension of its enumeration.
            known: Any = self.prototype.nodes[name]["value"]
            return bool(site["value"].shape == known.shape)

        def one_set(z: Tensor, held: Held, data: tuple[Any, ...]) -> dict[str, Tensor]:
            feed = Unconstrained(self.slots, z)
            held = {**held, **self.first_values}
            trace = self.run(data, feed, HeldValues(held), enumerate_discrete=bool(self.enumerated))
            return {
                n: s["value"]
                for n, s in sample_sites(trace).items()
                if n in self.slots or n in self.hold or (is_deterministic(s) and not self.summed and has_a_value(n, s))
            }

        return self._over_sets(one_set)(z, held)  # type: ignore[no-any-return]

    def complete(self, z: Tensor, *, held: Held | None = None) -> Tensor:
        """The data with their missing entries as they are at some points, in a density with ``missing="latent"``.

        Arguments:
            z: Unconstrained points, with shape :math:`(C, *batch, D)`.
            held: Values of the held sites.

        Returns:
            Completed data, with shape :math:`(C, N, *)`.

        Raises:
            ValueError: The data were observed in parts, and the model does not return them.
        """

        def one_set(z: Tensor, held: Held, data: tuple[Any, ...]) -> Tensor:
            feed = (Unconstrained(self.slots, z), HeldValues({**held, **self.first_values}))
            return self._run(data, feed, False, True)[1]()

        return self._map(self._over_sets(one_set), z, held)  # type: ignore[no-any-return]

    @functools.cached_property
    def observed(self) -> dict[str, Tensor]:
        """The values of the observed sites by name, NaN where missing; those of stacked data sets stacked."""

        def one_set(data: tuple[Any, ...]) -> dict[str, Tensor]:
            with completions() as seen:
                sites = sample_sites(self.run(data, Constrained({})))
            return {n: seen.get(n, s["value"]) for n, s in sites.items() if is_data(s)}

        with torch.no_grad(), self.ready(), seeded(0):
            if self.stacked is None:
                return one_set(self.data)
            sets = [one_set(self.data_set(i)) for i in range(self.stacked)]
            return {name: torch.stack([values[name] for values in sets]) for name in sets[0]}

    def data_set(self, i: int) -> tuple[Any, ...]:
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
        handler = Constrained(values, self.hold, [n for n, site in self.slots.items() if site.flat])
        self.run(data, handler)
        return self.point({name: handler.unconstrained[name] for name in self.names})

    def point(self, values: Mapping[str, Tensor]) -> Tensor:
        """Unconstrained values by name as a point of one chain, with shape (*batch, D)."""
        parts = [self.slots[n].rows(u) for n, u in values.items()]
        return torch.cat(parts, -1).to(self.dtype) if parts else torch.zeros(0, dtype=self.dtype, device=self.device)

    def _drawn(self, one_set: Callable[..., Any], z: Tensor, held: Held) -> Any:
        """Runs a random function of one data set for all chains, each with draws of its own."""
        function = self._over_sets(one_set, "different")

        def chunk(z: Tensor, *tensors: Tensor) -> Any:
            here = dict(zip(held, tensors, strict=True))
            return looped(function, z, here) if self.mode == "loop" else vmap_or_loop(function, z, here, draws=True)

        with torch.no_grad(), self.ready():
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
        several sites give one entry, named after the first and the last of them. A factor in a plate is an entry too;
        one outside of all plates is a term of no datum.

        Arguments:
            z: Unconstrained points, with shape :math:`(C, *batch, D)`.
            held: Values of the held sites.

        Returns:
            Log-densities in nats by observed site, each with shape :math:`(C, *site batch)`; 0 where nothing was
            observed.
        """

        def one_set(z: Tensor, held: Held, data: tuple[Any, ...]) -> dict[str, Tensor]:
            if self.summed:
                seen = [n for n, s in sample_sites(self.prototype).items() if is_data(s)]
                return {seen[0] if len(seen) == 1 else f"{seen[0]}+...+{seen[-1]}": self._by_rows(z, held, data)[1]}
            trace, _ = self.run_at(z, held, data)
            sites, over = self.scored(trace)
            scored = {n: s for n, s in sites.items() if is_data(s) or (is_factor(s) and frames(s))}
            out = {n: s["log_prob"] for n, s in scored.items() if not over.get(n)}
            for group in connected(over):
                latent = [n for n in group if not sites[n]["is_observed"]]
                seen = [n for n in group if sites[n]["is_observed"]]
                if not seen:
                    continue
                # Latent ones too: what depends on one variable from outside of its plates is not independent in them.
                fewest = min(group, key=lambda n: len(frames(sites[n])))
                total = contract(trace, latent + seen, plates_of=fewest)
                if any(n in self.slots for n in latent):
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
        if summed := [*self.enumerated, *self.summed]:
            raise ValueError(
                f"The discrete latent variable '{summed[0]}' is summed out, so sites have no log-density of "
                f"their own: hold it, density(..., hold=({summed[0]!r},))."
            )

        def one_set(z: Tensor, held: Held, data: tuple[Any, ...]) -> dict[str, Tensor]:
            trace, feed = self.run_at(z, held, data)
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
            feed = Unconstrained(self.slots, z)
            trace = self.run(data, Predicted(), feed, HeldValues(held), missing=False)
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
            sites = sample_sites(self.run(data, Unconstrained(self.slots, z)))
            return {name: sites[name]["value"] for name in self.hold}

        return self._drawn(one_set, z, {})  # type: ignore[no-any-return]


def _entries(prototype: Trace) -> int:
    """The size of the largest tensor of the sites of a trace."""
    return max((largest_tensor(site) for site in sample_sites(prototype).values()), default=1)
