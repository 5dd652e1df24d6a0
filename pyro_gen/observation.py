r"""Observing data with holes in it.

:func:`observe` makes the sample site of the data. NaN means "not observed": with :math:`x = (x_o, x_m)` the site scores
the marginal likelihood of what was seen,

.. math:: p(x_o \mid z) = \int p(x_o, x_m \mid z) \, dx_m ,

exactly, and the completed value has :math:`x_m \sim p(x_m \mid x_o, z)`. So generation is imputation of nothing
observed, and in-painting is imputation of a region.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import effectful
from torch import Tensor
from torch.distributions import transform_to

from pyro_gen._errors import CannotMarginaliseError
from pyro_gen.distributions import gaussian, hidden_markov

__all__ = [
    "CannotMarginaliseError",
    "MissingLaw",
    "assume_missing",
    "called_with",
    "completions",
    "entries_of",
    "marginalise",
    "may_be_missing",
    "missing_observed",
    "no_completion",
    "note_lengths",
    "observe",
    "point_in",
]


# ----------------------------------------------------------------------------------------------------------------------
# Effects: what tools may ask of an observe statement


@effectful(type="missing")
def _any_missing(value: Tensor) -> bool:
    return value.is_floating_point() and bool(torch.isnan(value).any())


@effectful(type="observed_law")
def _law_of_observed(distribution: Any, value: Tensor | None) -> Any:
    """The distribution that an observe statement of data is of: a handler may put another one in its place."""
    return distribution


class MissingLaw(NamedTuple):
    """An answer to what becomes of missing entries: they are a latent variable.

    Attributes:
        law: The distribution of the latent variable, with the shape of the value; entries that were seen have some law
            of their own.
        scored: What the completed value is scored by; ``None`` for the marginal distribution of the seen entries.
    """

    law: Any
    scored: Any = None


@effectful(type="missing_law")
def _law_of_missing(distribution: Any, value: Tensor) -> Any:
    """``None``: what is missing is drawn; a :class:`MissingLaw`: it is latent; ``"filled"``: any value will do."""
    return None


@effectful(type="completion")
def _complete(value: Tensor, draw: Callable[[], Tensor] | None = None) -> Tensor:
    if draw is None:
        return value
    drawn = draw()
    # Beside a discrete variable that is summed out there is a draw for each of its values: any one has the right shape.
    drawn = drawn[(0,) * (drawn.dim() - value.dim())]
    return torch.where(torch.isnan(value), drawn.to(value.dtype), value)


def may_be_missing(value: Tensor) -> bool:
    """Whether data has missing entries; inside :class:`assume_missing` what is said there, whatever the data."""
    return _any_missing(value)


class assume_missing(Messenger):
    """Effect handler: answers whether data has missing entries, instead of looking at it.

    Inside a traced graph the data cannot be looked at. ``True`` is always right, ``False`` is faster.

    Arguments:
        missing: Whether any observed value may have missing entries.
        of: The data that this is known of. A program that is called with any other, to generate in a loss say, may
            have missing entries.
    """

    def __init__(self, missing: bool, of: Sequence[Tensor] | None = None) -> None:
        super().__init__()
        self.missing, self.of = missing, of

    def _pyro_missing(self, msg: Any) -> None:
        if not msg["done"]:  # the innermost handler answers
            inputs = [getattr(i, "packed", i) for i in msg["infer"].get("inputs", ())]  # several variables: their whole
            data = [i for i in inputs if isinstance(i, Tensor | Mapping)]
            other = self.of is not None and any(all(i is not known for known in self.of) for i in data)
            msg["value"] = self.missing or other
            msg["done"] = True


class called_with(Messenger):
    """Effect handler: notes for other handlers what a program was called with.

    Arguments:
        inputs: The data and its context.
    """

    def __init__(self, inputs: Sequence[Any]) -> None:
        super().__init__()
        self.inputs = inputs

    def _pyro_missing(self, msg: Any) -> None:
        msg["infer"].setdefault("inputs", self.inputs)


@effectful(type="lengths")
def note_lengths(x: Tensor, lengths: Tensor) -> None:
    """Tells handlers how long sequences (N, T, *) are: what comes after is no missing entry, but beyond the end."""


class completions(Messenger):
    """Effect handler: collects the completed values of the observe statements inside it.

    Entering it returns a dictionary that maps site names to completed values.

    Attributes:
        values: That dictionary.
        observed: The values as they were observed, with their missing entries.
        sequences: Sequences of which the lengths were said, and these.
    """

    def __enter__(self) -> dict[str, Tensor]:  # type: ignore[override]
        super().__enter__()
        self.values: dict[str, Tensor] = {}
        self.observed: dict[str, Tensor] = {}
        self.sequences: list[tuple[Tensor, Tensor]] = []
        return self.values

    def _pyro_post_lengths(self, msg: Any) -> None:
        self.sequences.append(msg["args"])

    def _pyro_post_completion(self, msg: Any) -> None:
        self.values[msg["name"]] = msg["value"]
        self.observed[msg["name"]] = msg["args"][0]

    def of(self, x: Tensor) -> Tensor | None:
        """Data with its missing entries completed, where the sites tell: their values are parts of it.

        A column, a step in time, another shape of the data are views of the same memory, which says what entries they
        are.

        Arguments:
            x: The data that the program was called with, contiguous.

        Returns:
            The completed data, or ``None``: some missing entry was not observed, or more than once, or the values are
            computed from the data and no parts of it.
        """
        whole, times = x.flatten().clone(), torch.zeros(x.numel(), dtype=torch.long, device=x.device)
        for name, value in self.observed.items():
            if (where := entries_of(value, x)) is not None:
                whole[where], times[where] = self.values[name].to(x.dtype), times[where] + 1
        missing = torch.isnan(x)
        if not bool((times.view_as(x)[missing] == 1).all()):
            return None
        return torch.where(missing, whole.view_as(x), x)

    def beyond(self, x: Tensor) -> Tensor:
        """Which missing entries of the data are beyond the end of their sequence, with the shape of ``x``.

        Arguments:
            x: As for :meth:`of`. Sequences that are no part of it have its shape.
        """
        out = torch.zeros(x.numel(), dtype=torch.bool, device=x.device)
        for sequences, lengths in self.sequences:
            after = torch.arange(sequences.shape[1], device=x.device) >= lengths.unsqueeze(1)  # (N, T)
            after = after.reshape(*after.shape, *(1 for _ in sequences.shape[2:])).expand(sequences.shape)
            if (where := entries_of(sequences, x)) is not None:
                out[where[after]] = True
            elif sequences.shape == x.shape:
                out |= after.flatten()
        return out.view_as(x) & torch.isnan(x)


def entries_of(part: Tensor, x: Tensor) -> Tensor | None:
    """Which entries of a contiguous tensor, flattened, another one is a view of; ``None`` where it is none.

    Example:
        >>> x = torch.zeros(2, 3)
        >>> entries_of(x[:, 1], x).tolist()
        [1, 4]
    """
    if part.dtype != x.dtype or part.untyped_storage().data_ptr() != x.untyped_storage().data_ptr():
        return None
    if not x.is_contiguous():
        return None
    start = part.storage_offset() - x.storage_offset()
    extent = sum((n - 1) * step for n, step in zip(part.shape, part.stride(), strict=True))
    if part.numel() == 0 or start < 0 or start + extent >= x.numel():
        return None
    return torch.arange(x.numel(), device=x.device).as_strided(part.shape, part.stride(), start)


class no_completion(Messenger):
    """Effect handler: draws no missing entries, for densities that must be functions of their inputs alone.

    The completed value keeps its NaNs, so that a model which goes on computing with them cannot do so unnoticed.
    """

    def _pyro_completion(self, msg: Any) -> None:
        msg["value"] = msg["args"][0]
        msg["done"] = True


# ----------------------------------------------------------------------------------------------------------------------
# observe


def observe(name: str, distribution: Any, value: Tensor | None = None) -> Tensor:
    """Makes the sample site of observed data, in which NaN means "not observed".

    Without missing entries this is ``pyro.sample(name, distribution, obs=value)``. With missing entries the site
    scores exactly what was seen: elementwise distributions are masked, Gaussians (full, low-rank) are marginalised,
    mixtures do so inside their components, hidden Markov models (discrete, Gaussian) at each step, and any other
    distribution can be used as long as each event is seen entirely or not at all. A distribution of one's own may have
    a method ``marginalise(value)``, which returns the distribution of what is seen, the value without NaN, and a
    function that draws all entries given the seen ones.

    Arguments:
        name: The name of the site.
        distribution: A Pyro distribution with the batch and event shape of ``value``.
        value: The data, with NaN where nothing was observed; ``None`` samples the site.

    Returns:
        The completed value, with the shape of ``value``: seen entries untouched, missing ones drawn from
        p(missing | seen, latents).

    Raises:
        ValueError: The shapes do not fit, or the distribution cannot be marginalised over part of an event.

    Example:
        >>> import pyro, torch
        >>> import pyro.distributions as dist
        >>> x = torch.tensor([[0.0, torch.nan]])
        >>> def model():
        ...     return observe("x", dist.Normal(0.0, 1.0).expand([1, 2]).to_event(2), x)
        >>> trace = pyro.poutine.trace(model).get_trace()
        >>> round(trace.log_prob_sum().item(), 4)  # one standard normal at its mode
        -0.9189
    """
    distribution = _law_of_observed(distribution, value, name=name)
    if value is None:
        return pyro.sample(name, distribution)
    distribution = hidden_markov.of_sequence(distribution, value)
    _check_shape(name, distribution, value)
    scored, filled, complete = _observed(name, distribution, value)
    infer: Any = {_SERVED: True}
    return complete(pyro.sample(name, scored, obs=filled, infer=infer))


_SERVED = "missing_observed"  # marks a site whose missing entries are seen to


def _observed(name: str, distribution: Any, value: Tensor) -> tuple[Any, Tensor, Callable[[Tensor], Tensor]]:
    """What is scored in the place of data that may have missing entries, and what completes the site's value then."""
    if not _any_missing(value, name=name):
        return distribution, value, lambda at_site: _complete(at_site, name=name)  # which may have been drawn anew
    law = _law_of_missing(distribution, value, name=name)
    latent: Tensor | None = None
    if isinstance(law, MissingLaw):
        infer: Any = {"missing_of": name}
        drawn = pyro.sample(f"{name}.missing", law.law, infer=infer)
        latent = torch.where(torch.isnan(value), drawn.to(value.dtype), value)
        if law.scored is not None:
            return law.scored, latent, lambda _: _heard(name, value, latent)
    try:
        scored, filled, draw = marginalise(distribution, value)
    except CannotMarginaliseError as error:
        raise CannotMarginaliseError(
            f"observe('{name}'): {error} cannot be marginalised over part of an event. pg.impute and pg.log_likelihood "
            "treat the missing entries as latent variables by themselves; to train with them, sample them in model and "
            "guide and observe the completed value, or use an elementwise, Gaussian or mixture distribution."
        ) from None
    if latent is not None:
        return scored, filled, lambda _: _heard(name, value, latent)

    def complete(_: Tensor) -> Tensor:
        completed = _complete(value, draw, name=name)
        return completed if law is None else torch.where(torch.isnan(completed), filled.to(value.dtype), completed)

    return scored, filled, complete


def _heard(name: str, value: Tensor, completed: Tensor) -> Tensor:
    """Tells handlers that listen of completed values that are known."""
    _complete(value, lambda: completed, name=name)
    return completed


class missing_observed(Messenger):
    """Effect handler: ``pyro.sample(name, distribution, obs=value)`` serves missing entries as :func:`observe` does.

    The statement returns the completed value.
    """

    def __enter__(self) -> Any:
        self.complete: dict[str, Callable[[Tensor], Tensor]] = {}
        return super().__enter__()

    def _pyro_sample(self, msg: Any) -> None:
        value = msg["value"]
        if not msg["is_observed"] or not isinstance(value, Tensor) or not value.is_floating_point():
            return
        if msg["infer"].get(_SERVED) or msg["infer"].get("_deterministic") or value.numel() == 0:
            return
        msg["infer"] = {**msg["infer"], _SERVED: True}
        distribution = _law_of_observed(msg["fn"], value, name=msg["name"])
        msg["fn"], msg["value"], self.complete[msg["name"]] = _observed(msg["name"], distribution, value)

    def _pyro_post_sample(self, msg: Any) -> None:
        if (complete := self.complete.pop(msg["name"], None)) is not None:
            msg["value"] = complete(msg["value"])


def _check_shape(name: str, distribution: Any, value: Tensor) -> None:
    event_dim = getattr(distribution, "event_dim", None)
    if event_dim is None:
        kind = type(distribution)
        raise TypeError(
            f"observe('{name}'): {kind.__module__}.{kind.__name__} is no distribution of Pyro: take that of its name "
            "in pyro.distributions; of a zuko flow, dist.TransformedDistribution(base, [flow().transform.inv]) with a "
            "base of Pyro's."
        )
    shape = tuple(value.shape)
    if shape[value.dim() - event_dim :] != tuple(distribution.event_shape):
        raise ValueError(
            f"observe('{name}'): the value has shape {shape}, the distribution event shape "
            f"{tuple(distribution.event_shape)}: the rightmost dimensions must agree (use .to_event)."
        )
    batch = shape[: value.dim() - event_dim]
    try:
        joint = torch.broadcast_shapes(distribution.batch_shape, batch)
    except RuntimeError:
        joint = None
    # Dimensions to the left of the value's are particles or enumerated values.
    if joint is None or tuple(joint[len(joint) - len(batch) :]) != batch:
        column = (
            " A table of one column is (N, 1): give the distribution that shape and .to_event(1), or observe x[:, 0]."
            if batch == (*distribution.batch_shape, 1)
            else ""
        )
        raise ValueError(
            f"observe('{name}'): distribution of batch shape {tuple(distribution.batch_shape)} and value of batch "
            f"shape {batch} do not fit.{column}"
        )


def marginalise(d: Any, value: Tensor) -> tuple[Any, Tensor, Callable[[], Tensor]]:
    """Splits a distribution at the missing entries of ``value``.

    Returns a distribution and a NaN-free value whose log-density is the marginal one of the seen entries, and a
    function that draws all entries given the seen ones. NaN is filled *before* log_prob: a NaN masked afterwards would
    still reach the gradient.
    """
    if hasattr(d, "marginalise"):
        return d.marginalise(value)  # type: ignore[no-any-return]
    missing = torch.isnan(value)
    if isinstance(d, dist.Delta) and d.event_dim > 0:  # a point has a point for each of its entries
        d = dist.Delta(d.v).to_event(d.event_dim)
    if isinstance(d, torch.distributions.Independent):
        scored, filled, draw = marginalise(d.base_dist, value)
        return scored.to_event(d.reinterpreted_batch_ndims), filled, draw
    if isinstance(d, torch.distributions.MixtureSameFamily):
        return _marginalise_mixture(d, value)
    if isinstance(d, dist.DiscreteHMM):
        return _marginalise_chain(d, value)
    if isinstance(d, dist.GaussianHMM):
        scored = hidden_markov.marginal_gaussian(d, value)
        return scored, value.nan_to_num(), lambda: hidden_markov.complete_gaussian(d, value)
    if isinstance(d, dist.LinearHMM):
        raise CannotMarginaliseError("A LinearHMM with noise that is not Gaussian, which has no density,")
    if d.event_dim == 0:
        base = d.expand(torch.broadcast_shapes(d.batch_shape, value.shape))
        filled = torch.where(missing, point_in(base.support).to(value), value)
        return base.mask(~missing), filled, lambda: _draw(base)
    if gaussian.is_gaussian(d):
        return gaussian.marginal(d, value), value.nan_to_num(), lambda: gaussian.complete(d, value)
    event = tuple(range(-d.event_dim, 0))
    if bool((missing.any(event) != missing.all(event)).any()):
        raise CannotMarginaliseError(type(d).__name__)
    whole = missing.any(event)
    base = d.expand(torch.broadcast_shapes(d.batch_shape, whole.shape))
    fill = d.enumerate_support(expand=False)[0] if d.has_enumerate_support else _draw(base).detach()
    return base.mask(~whole), torch.where(missing, fill.to(value.dtype), value), lambda: _draw(base)


def _marginalise_components(d: Any, value: Tensor, k_dim: int) -> tuple[Any, Tensor, Callable[[], Tensor]]:
    """Of the components of a mixture in dimension ``k_dim``, all of the same value, which is filled alike for all."""
    components, filled, draw = marginalise(d, value.unsqueeze(k_dim))
    if filled.shape[k_dim] > 1:  # the support's fill value may depend on the component
        if not bool((filled == filled.narrow(k_dim, 0, 1)).all()):
            raise CannotMarginaliseError(f"A mixture of {type(d).__name__} of unequal supports")
        filled = filled.narrow(k_dim, 0, 1)
    return components, filled, draw


def _marginalise_chain(d: Any, value: Tensor) -> tuple[Any, Tensor, Callable[[], Tensor]]:
    k_dim = -1 - d.observation_dist.event_dim  # of the states
    observation, filled, draw_observations = _marginalise_components(d.observation_dist, value, k_dim)

    def draw() -> Tensor:
        observed = observation.log_prob(filled)
        states = hidden_markov.draw_states(d.initial_logits, d.transition_logits, observed)
        index = states.reshape(states.shape + (1,) * -k_dim)
        return draw_observations().take_along_dim(index, k_dim).squeeze(k_dim)

    logits = d.initial_logits, d.transition_logits
    scored: Any = hidden_markov.discrete(*logits, observation, d.duration, validate=False)
    return scored, filled.squeeze(k_dim), draw


def _marginalise_mixture(d: Any, value: Tensor) -> tuple[Any, Tensor, Callable[[], Tensor]]:
    k_dim = -1 - d.event_dim  # the components' dimension
    components, filled, draw_components = _marginalise_components(d.component_distribution, value, k_dim)
    mixing = d.mixture_distribution

    def draw() -> Tensor:
        k = dist.Categorical(logits=mixing.logits + components.log_prob(filled)).sample()
        values = draw_components()
        index = k.reshape(k.shape + (1,) * (1 + d.event_dim))
        return values.take_along_dim(index, k_dim).squeeze(k_dim)

    scored = dist.MixtureSameFamily(mixing, components, validate_args=False)
    return scored, filled.squeeze(k_dim), draw


def _draw(d: Any) -> Tensor:
    return d()  # type: ignore[no-any-return]  # as Pyro draws, and the only way that ZukoToPyro knows


def point_in(support: Any) -> Tensor:
    """A point inside a univariate support, to stand where nothing was observed."""
    if not support.is_discrete:
        return transform_to(support)(torch.zeros(()))  # type: ignore[no-any-return]
    return torch.as_tensor(getattr(support, "lower_bound", 0.0))  # booleans have no bounds
