r"""Observing data with holes in it, and the likelihood heads of decoders.

:func:`observe` makes the sample site of the data. NaN means "not observed": with :math:`x = (x_o, x_m)` the site scores
the marginal likelihood of what was seen,

.. math:: p(x_o \mid z) = \int p(x_o, x_m \mid z) \, dx_m ,

exactly, and the completed value has :math:`x_m \sim p(x_m \mid x_o, z)`. So generation is imputation of nothing
observed, and in-painting is imputation of a region.

A head turns the output of a decoder into such a likelihood.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import effectful
from torch import Tensor, nn
from torch.distributions import constraints, transform_to
from torch.distributions.utils import broadcast_all

from pyro_gen.distributions import Censored

__all__ = [
    "HEADS",
    "BernoulliHead",
    "CategoricalHead",
    "CensoredHead",
    "DiscretizedLogistic",
    "DiscretizedLogisticHead",
    "Head",
    "LevelCategorical",
    "NormalHead",
    "StudentTHead",
    "assume_missing",
    "called_with",
    "completions",
    "make_head",
    "no_completion",
    "observe",
]


# ----------------------------------------------------------------------------------------------------------------------
# Effects: what tools may ask of an observe statement


@effectful(type="missing")
def _any_missing(value: Tensor) -> bool:
    return value.is_floating_point() and bool(torch.isnan(value).any())


@effectful(type="missing_law")
def _law_of_missing(distribution: Any, value: Tensor) -> Any:
    """``None``: what is missing is drawn; a distribution: it is a latent variable; ``"filled"``: any value will do."""
    return None


@effectful(type="completion")
def _complete(value: Tensor, draw: Callable[[], Tensor] | None = None) -> Tensor:
    if draw is None:
        return value
    drawn = draw()
    # Beside a discrete variable that is summed out there is a draw for each of its values: any one has the right shape.
    drawn = drawn[(0,) * (drawn.dim() - value.dim())]
    return torch.where(torch.isnan(value), drawn.to(value.dtype), value)


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
            inputs = [i for i in msg["infer"].get("inputs", ()) if isinstance(i, Tensor)]
            other = self.of is not None and any(all(i is not known for known in self.of) for i in inputs)
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


class completions(Messenger):
    """Effect handler: collects the completed values of the observe statements inside it.

    Entering it returns a dictionary that maps site names to completed values.
    """

    def __enter__(self) -> dict[str, Tensor]:  # type: ignore[override]
        super().__enter__()
        self.values: dict[str, Tensor] = {}
        return self.values

    def _pyro_post_completion(self, msg: Any) -> None:
        self.values[msg["name"]] = msg["value"]


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
    mixtures do so inside their components, and any other distribution can be used as long as each event is seen
    entirely or not at all. A distribution of one's own may have a method ``marginalise(value)``, which returns the
    distribution of what is seen, the value without NaN, and a function that draws all entries given the seen ones.

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
    if value is None:
        return pyro.sample(name, distribution)
    _check_shape(name, distribution, value)
    if not _any_missing(value, name=name):
        return _complete(pyro.sample(name, distribution, obs=value), name=name)
    try:
        scored, filled, draw = marginalise(distribution, value)
    except _CannotMarginaliseError as error:
        raise ValueError(
            f"observe('{name}'): {error} cannot be marginalised over part of an event. Treat the missing entries as "
            "latent variables (sample them in model and guide and observe the completed value), or use an elementwise, "
            "Gaussian or mixture distribution."
        ) from None
    law = _law_of_missing(distribution, value, name=name)
    if law is None or isinstance(law, str):
        pyro.sample(name, scored, obs=filled)
        completed = _complete(value, draw, name=name)
        return completed if law is None else torch.where(torch.isnan(completed), filled.to(value.dtype), completed)
    infer: Any = {"missing_of": name}
    latent = pyro.sample(f"{name}.missing", law, infer=infer)
    pyro.sample(name, scored, obs=filled)
    _complete(value, lambda: latent, name=name)  # for handlers that listen
    return torch.where(torch.isnan(value), latent.to(value.dtype), value)


class _CannotMarginaliseError(Exception):
    pass


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
        raise ValueError(
            f"observe('{name}'): distribution of batch shape {tuple(distribution.batch_shape)} and value of batch "
            f"shape {batch} do not fit."
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
    if isinstance(d, torch.distributions.Independent):
        scored, filled, draw = marginalise(d.base_dist, value)
        return scored.to_event(d.reinterpreted_batch_ndims), filled, draw
    if isinstance(d, torch.distributions.MixtureSameFamily):
        return _marginalise_mixture(d, value)
    if d.event_dim == 0:
        base = d.expand(torch.broadcast_shapes(d.batch_shape, value.shape))
        filled = torch.where(missing, _point_in(base.support).to(value), value)
        return base.mask(~missing), filled, lambda: _draw(base)
    # Gaussians: an entry that is missing becomes an independent N(0, 1 / (2 pi)) evaluated at its mode, log-density 0.
    seen = (~missing).to(value.dtype)
    if isinstance(d, torch.distributions.LowRankMultivariateNormal):
        scored = dist.LowRankMultivariateNormal(
            d.loc * seen,
            d.cov_factor * seen.unsqueeze(-1),
            torch.where(missing, 1 / (2 * math.pi), d.cov_diag),
            validate_args=False,
        )
        return scored, value.nan_to_num(), lambda: _draw_gaussian(d, scored, value, seen)
    if isinstance(d, torch.distributions.MultivariateNormal):
        covariance = d.covariance_matrix * seen.unsqueeze(-1) * seen.unsqueeze(-2)
        scored = dist.MultivariateNormal(
            d.loc * seen, covariance + torch.diag_embed((1 - seen) / (2 * math.pi)), validate_args=False
        )
        return scored, value.nan_to_num(), lambda: _draw_gaussian(d, scored, value, seen)
    event = tuple(range(-d.event_dim, 0))
    if bool((missing.any(event) != missing.all(event)).any()):
        raise _CannotMarginaliseError(type(d).__name__)
    whole = missing.any(event)
    base = d.expand(torch.broadcast_shapes(d.batch_shape, whole.shape))
    return base.mask(~whole), torch.where(missing, base.sample().to(value.dtype), value), lambda: _draw(base)


def _marginalise_mixture(d: Any, value: Tensor) -> tuple[Any, Tensor, Callable[[], Tensor]]:
    k_dim = -1 - d.event_dim  # the components' dimension
    components, filled, draw_components = marginalise(d.component_distribution, value.unsqueeze(k_dim))
    if filled.shape[k_dim] > 1:  # the support's fill value may depend on the component
        if not bool((filled == filled.narrow(k_dim, 0, 1)).all()):
            raise _CannotMarginaliseError(f"A mixture of {type(d.component_distribution).__name__} of unequal supports")
        filled = filled.narrow(k_dim, 0, 1)
    mixing = d.mixture_distribution

    def draw() -> Tensor:
        k = dist.Categorical(logits=mixing.logits + components.log_prob(filled)).sample()
        values = draw_components()
        index = k.reshape(k.shape + (1,) * (1 + d.event_dim))
        return values.take_along_dim(index, k_dim).squeeze(k_dim)

    scored = dist.MixtureSameFamily(mixing, components, validate_args=False)
    return scored, filled.squeeze(k_dim), draw


def _draw(d: Any) -> Tensor:
    return d.rsample() if d.has_rsample else d.sample()  # type: ignore[no-any-return]


def _draw_gaussian(d: Any, scored: Any, value: Tensor, seen: Tensor) -> Tensor:
    """Draws from N(loc, S) given the seen entries, by Matheron's rule: correct a joint draw by the seen residual."""
    joint = d.expand(scored.batch_shape).rsample()
    residual = (value.nan_to_num() - joint) * seen
    precision = torch.linalg.solve(scored.covariance_matrix, residual.unsqueeze(-1)) * seen.unsqueeze(-1)
    # The data may be of higher precision than the model.
    return joint + (d.covariance_matrix.to(precision.dtype) @ precision).squeeze(-1)  # type: ignore[no-any-return]


def _point_in(support: Any) -> Tensor:
    """A point inside a univariate support, to stand where nothing was observed."""
    if not support.is_discrete:
        return transform_to(support)(torch.zeros(()))  # type: ignore[no-any-return]
    return torch.as_tensor(getattr(support, "lower_bound", 0.0))  # booleans have no bounds


# ----------------------------------------------------------------------------------------------------------------------
# Distributions of K-level data


class LevelCategorical(dist.Categorical):
    """A categorical distribution over the levels 0, ..., K - 1 of a quantity: its draws are floats, and have a mean."""

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return super().sample(torch.Size(sample_shape)).to(self.logits.dtype)  # type: ignore[no-any-return, no-untyped-call]

    @property
    def mean(self) -> Tensor:
        """The expected level, with the batch shape."""
        levels = torch.arange(self.probs.shape[-1], dtype=self.probs.dtype, device=self.probs.device)
        return (self.probs * levels).sum(-1)


class DiscretizedLogistic(dist.TorchDistribution):
    r"""A logistic distribution rounded to the levels 0, ..., K - 1; the outer levels take the tails.

    .. math:: P(x = k) = \sigma\Big(\frac{k + 1/2 - \mu}{s}\Big) - \sigma\Big(\frac{k - 1/2 - \mu}{s}\Big)

    evaluated as :math:`\sigma(a) - \sigma(b) = \sigma(a) \, \sigma(-b) \, (1 - e^{b - a})`, which loses no digits.

    References:
        | Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016)
        | https://arxiv.org/abs/1606.04934

    Arguments:
        loc: The location :math:`\mu`, in levels.
        scale: The scale :math:`s`, in levels.
        levels: The number of levels :math:`K`.

    Example:
        >>> d = DiscretizedLogistic(torch.tensor(2.3), torch.tensor(0.7), levels=5)
        >>> round(d.log_prob(torch.arange(5.0)).exp().sum().item(), 5)
        1.0
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"loc": constraints.real, "scale": constraints.positive}

    def __init__(self, loc: Tensor, scale: Tensor, levels: int, validate_args: bool | None = None) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        self.levels = levels
        super().__init__(self.loc.shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.levels - 1)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "DiscretizedLogistic":
        return DiscretizedLogistic(
            self.loc.expand(batch_shape), self.scale.expand(batch_shape), self.levels, validate_args=False
        )

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        upper = (value + 0.5 - self.loc) / self.scale
        lower = (value - 0.5 - self.loc) / self.scale
        inner = torch.log(-torch.expm1(-1 / self.scale))
        left = F.logsigmoid(upper)  # log sigma(a)
        right = F.logsigmoid(-lower)  # log sigma(-b)
        first, last = value <= 0, value >= self.levels - 1
        return torch.where(first, left, torch.where(last, right, left + right + inner))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            u = torch.rand(self._extended_shape(torch.Size(sample_shape)), dtype=self.loc.dtype, device=self.loc.device)
            u = u.clamp(torch.finfo(u.dtype).tiny, 1 - torch.finfo(u.dtype).eps)
            return (self.loc + self.scale * u.logit()).round().clamp(0, self.levels - 1)

    @property
    def mean(self) -> Tensor:
        """The expected level, with the batch shape."""
        k = torch.arange(self.levels - 1, dtype=self.loc.dtype, device=self.loc.device)
        return torch.sigmoid((self.loc.unsqueeze(-1) - k - 0.5) / self.scale.unsqueeze(-1)).sum(-1)  # sum_k P(x > k)


# ----------------------------------------------------------------------------------------------------------------------
# Heads


class Head(nn.Module):
    """The last step of a decoder: its output becomes the distribution of one datum.

    Arguments:
        event_shape: The shape of one datum.

    Attributes:
        event_shape: The shape of one datum.
        features: The shape that the decoder must output per datum.
    """

    def __init__(self, event_shape: torch.Size | tuple[int, ...]) -> None:
        super().__init__()
        self.event_shape = torch.Size(event_shape)

    @property
    def features(self) -> torch.Size:
        return self.event_shape

    def forward(self, h: Tensor) -> Any:
        """Creates the likelihood.

        Arguments:
            h: The output of the decoder, with shape :math:`(*, features)`.

        Returns:
            A distribution with batch shape :math:`(*)` and event shape ``event_shape``.
        """
        raise NotImplementedError

    def normalise(self, x: Tensor) -> Tensor:
        """Maps data to about [-1, 1], as input of an encoder; same shape, NaN stays NaN."""
        return x

    def marginal_features(self, x: Tensor) -> Tensor:
        """The decoder output that fits each entry by itself, where a decoder's training should start.

        Arguments:
            x: Data with shape :math:`(N, *event)`, NaN where nothing was observed.

        Returns:
            A tensor of shape ``features``.
        """
        raise NotImplementedError

    def _to_event(self, base: Any) -> Any:
        return base.to_event(len(self.event_shape))


class BernoulliHead(Head):
    """Independent Bernoulli entries in {0, 1}; the decoder outputs their logits."""

    def forward(self, h: Tensor) -> Any:
        return self._to_event(dist.Bernoulli(logits=h))

    def normalise(self, x: Tensor) -> Tensor:
        return 2 * x - 1

    def marginal_features(self, x: Tensor) -> Tensor:
        return x.nanmean(0).nan_to_num(0.5).logit(eps=1e-3)


class NormalHead(Head):
    """Independent normal entries.

    Arguments:
        event_shape: The shape of one datum.
        scale: A number (fixed standard deviation), ``"shared"`` (one learned for all entries) or ``"entry"`` (the
            decoder outputs one per entry and datum).
        min_scale: The least standard deviation, which keeps the density bounded.
    """

    def __init__(
        self, event_shape: torch.Size | tuple[int, ...], scale: float | str = "shared", min_scale: float = 1e-3
    ) -> None:
        super().__init__(event_shape)
        if isinstance(scale, str) and scale not in ("shared", "entry"):
            raise ValueError(f'NormalHead(scale={scale!r}): give a positive number, "shared" or "entry".')
        if not isinstance(scale, str) and not scale > 0:
            raise ValueError(f"NormalHead(scale={scale!r}): a standard deviation is positive.")
        self.scale: Any = scale
        self.min_scale = min_scale
        if scale == "shared":
            self.raw_scale = nn.Parameter(torch.tensor(math.log(math.expm1(1.0))))  # softplus of it is 1

    @property
    def features(self) -> torch.Size:
        return torch.Size((2, *self.event_shape)) if self.scale == "entry" else self.event_shape

    def forward(self, h: Tensor) -> Any:
        if self.scale == "entry":
            loc, raw = h.unbind(-1 - len(self.event_shape))
            return self._to_event(dist.Normal(loc, self.min_scale + F.softplus(raw)))
        scale = self.min_scale + F.softplus(self.raw_scale) if self.scale == "shared" else self.scale
        return self._to_event(dist.Normal(h, scale))

    def marginal_features(self, x: Tensor) -> Tensor:
        mean, scale = _moments(x)
        if self.scale != "entry":
            return mean
        return torch.stack([mean, _softplus_inverse((scale - self.min_scale).clamp(min=1e-3))])


class StudentTHead(Head):
    """Independent Student-t entries: robust to outliers. Degrees of freedom and scale are learned, shared by entries.

    Arguments:
        event_shape: The shape of one datum.
        min_scale: The least scale, which keeps the density bounded.
    """

    def __init__(self, event_shape: torch.Size | tuple[int, ...], min_scale: float = 1e-3) -> None:
        super().__init__(event_shape)
        self.min_scale = min_scale
        self.raw_scale = nn.Parameter(torch.tensor(math.log(math.expm1(1.0))))
        self.raw_df = nn.Parameter(torch.tensor(math.log(math.expm1(4.0))))  # 5 degrees of freedom

    def forward(self, h: Tensor) -> Any:
        df, scale = 1 + F.softplus(self.raw_df), self.min_scale + F.softplus(self.raw_scale)
        return self._to_event(dist.StudentT(df, h, scale))

    def marginal_features(self, x: Tensor) -> Tensor:
        return _moments(x)[0]


class CategoricalHead(Head):
    """Independent categorical entries with levels 0, ..., K - 1; the decoder outputs K logits per entry.

    Arguments:
        event_shape: The shape of one datum.
        levels: The number of levels K.
    """

    def __init__(self, event_shape: torch.Size | tuple[int, ...], levels: int = 256) -> None:
        super().__init__(event_shape)
        self.levels = levels

    @property
    def features(self) -> torch.Size:
        return torch.Size((self.levels, *self.event_shape))

    def forward(self, h: Tensor) -> Any:
        return self._to_event(LevelCategorical(logits=h.movedim(-1 - len(self.event_shape), -1)))

    def normalise(self, x: Tensor) -> Tensor:
        return 2 * x / (self.levels - 1) - 1

    def marginal_features(self, x: Tensor) -> Tensor:
        counts = torch.stack([(x == k).sum(0) for k in range(self.levels)])  # (K, *event)
        return torch.log((counts + 0.5) / (counts + 0.5).sum(0)).to(x.dtype)


class DiscretizedLogisticHead(Head):
    """Independent discretised logistic entries with levels 0, ..., K - 1; the decoder outputs location and scale.

    Arguments:
        event_shape: The shape of one datum.
        levels: The number of levels K.
    """

    def __init__(self, event_shape: torch.Size | tuple[int, ...], levels: int = 256) -> None:
        super().__init__(event_shape)
        self.levels = levels

    @property
    def features(self) -> torch.Size:
        return torch.Size((2, *self.event_shape))

    def forward(self, h: Tensor) -> Any:
        loc, log_scale = h.unbind(-1 - len(self.event_shape))
        half = (self.levels - 1) / 2
        # A network output near 0 starts at the middle level with a scale of a quarter of the range.
        scale = half / 2 * log_scale.clamp(-7.0, 7.0).exp()
        return self._to_event(DiscretizedLogistic(half * (1 + loc), scale, self.levels))

    def normalise(self, x: Tensor) -> Tensor:
        return 2 * x / (self.levels - 1) - 1

    def marginal_features(self, x: Tensor) -> Tensor:
        mean, scale = _moments(x)
        half = (self.levels - 1) / 2
        # The standard deviation of a logistic distribution is pi / sqrt(3) of its scale.
        return torch.stack([mean / half - 1, torch.log(scale * math.sqrt(3) / math.pi / (half / 2))])


class CensoredHead(Head):
    """Entries of another head seen between two limits: values beyond a limit are seen as the limit (Tobin, 1958).

    Arguments:
        event_shape: The shape of one datum.
        likelihood: The head of what is censored: a name in :data:`HEADS`, or a head, with independent entries whose
            distribution function is known, see :class:`pyro_gen.distributions.Censored`.
        low: The least value that is seen, or one for each entry, with shape ``event_shape``.
        high: The greatest, likewise.
        options: Passed to the head of that name.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        event_shape: torch.Size | tuple[int, ...],
        likelihood: "str | Head" = "normal",
        low: Tensor | float = -math.inf,
        high: Tensor | float = math.inf,
        **options: Any,
    ) -> None:
        super().__init__(event_shape)
        self.head = make_head(likelihood, event_shape, **options)
        self.register_buffer("low", torch.as_tensor(low, dtype=torch.get_default_dtype()))
        self.register_buffer("high", torch.as_tensor(high, dtype=torch.get_default_dtype()))

    @property
    def features(self) -> torch.Size:
        return self.head.features

    def forward(self, h: Tensor) -> Any:
        inner = self.head(h)
        return self._to_event(Censored(inner.base_dist if self.event_shape else inner, self.low, self.high))

    def normalise(self, x: Tensor) -> Tensor:
        return self.head.normalise(x)

    def marginal_features(self, x: Tensor) -> Tensor:
        return self.head.marginal_features(x)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (at least a hundredth of the greatest) of each entry's seen values."""
    mean = x.nanmean(0).nan_to_num()
    scale = (x - mean).square().nanmean(0).sqrt().nan_to_num()
    return mean, scale.clamp(min=1e-2 * scale.max().item() or 1.0)


def _softplus_inverse(y: Tensor) -> Tensor:
    return y + torch.log(-torch.expm1(-y))


HEADS: dict[str, type[Head]] = {
    "bernoulli": BernoulliHead,
    "normal": NormalHead,
    "student_t": StudentTHead,
    "categorical": CategoricalHead,
    "discretized_logistic": DiscretizedLogisticHead,
    "censored": CensoredHead,
}


def make_head(likelihood: str | Head, event_shape: torch.Size | tuple[int, ...], **options: Any) -> Head:
    """Creates a head by name.

    Arguments:
        likelihood: A name in :data:`HEADS`, or a head, which is returned as it is.
        event_shape: The shape of one datum.
        options: Passed to the head, ``levels=17`` say.

    Raises:
        ValueError: There is no head of that name, or the given head is for another shape or given with options.
    """
    if isinstance(likelihood, Head):
        if options:
            raise ValueError(f"Options ({', '.join(options)}) go with the name of a likelihood, not with a head.")
        if likelihood.event_shape != torch.Size(event_shape):
            raise ValueError(
                f"The head is for data of shape {tuple(likelihood.event_shape)}, not {tuple(event_shape)}."
            )
        return likelihood
    if likelihood not in HEADS:
        raise ValueError(f"There is no likelihood named {likelihood!r}: choose one of {', '.join(sorted(HEADS))}.")
    return HEADS[likelihood](event_shape, **options)
