"""Likelihood heads: the output of a decoder becomes the distribution of one datum."""

import inspect
import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_gen._sizes import check_sizes
from pyro_gen.distributions import Censored, DiscretizedLogistic, LevelCategorical

__all__ = [
    "HEADS",
    "BernoulliHead",
    "CategoricalHead",
    "CensoredHead",
    "DiscretizedLogisticHead",
    "DiscretizedLogisticMixtureHead",
    "Head",
    "LabelHead",
    "NormalHead",
    "StudentTHead",
    "check_asked",
    "label",
    "make_head",
]


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


class LabelHead(CategoricalHead):
    """A label, one of K classes 0, ..., K - 1: ``pg.observe("y", head(h), y)``; the decoder outputs K logits.

    Labels are observed as floats; NaN is a label that is not known. A label that feeds what is observed after it,
    ``head.one_hot(y)`` in the input of a decoder say, is then summed out.

    Arguments:
        classes: The number K of classes.

    Example:
        >>> head = LabelHead(3)
        >>> head.one_hot(torch.tensor([2.0, torch.nan]))
        tensor([[0., 0., 1.],
                [0., 0., 0.]])
        >>> head(torch.zeros(3)).probs
        tensor([0.3333, 0.3333, 0.3333])
    """

    def __init__(self, classes: int) -> None:
        if isinstance(classes, bool) or not isinstance(classes, int) or classes < 2:
            raise ValueError(f"LabelHead(classes={classes!r}): give the number of classes, 2 or more.")
        super().__init__((), classes)

    def forward(self, h: Tensor) -> Any:
        return dist.Categorical(logits=h)  # labels are no quantity: without a mean

    def check(self, owner: object, y: Tensor) -> None:
        """Refuses labels that are neither a class nor NaN.

        Arguments:
            owner: The program whose labels they are, for the error.
            y: The labels, with shape :math:`(N)`.

        Raises:
            ValueError: One is something else; the message names it.
        """
        known = y[~y.isnan()].double()  # of booleans, too
        if len(wrong := known[(known != known.round()) | (known < 0) | (known >= self.levels)]):
            raise ValueError(
                f"{type(owner).__name__} has the {self.levels} classes 0, ..., {self.levels - 1}, and was given the "
                f"label {wrong[0].item():g}: number classes from 0 on, and give NaN for a label that is not known."
            )

    def one_hot(self, y: Tensor) -> Tensor:
        """Labels with shape :math:`(*)` as indicators, :math:`(*, K)`, all zero where the label is not known."""
        dtype = y.dtype if y.is_floating_point() else torch.get_default_dtype()
        return (y.unsqueeze(-1) == torch.arange(self.levels, device=y.device)).to(dtype)


def label(classes: int) -> LabelHead:
    """Creates the head of a label with so many classes, see :class:`LabelHead`."""
    return LabelHead(classes)


def check_asked(model: object, classes: LabelHead | None, x: Tensor, context: Sequence[Any]) -> None:
    """Refuses a context that is not the class of each datum, NaN for any, and all context where there are no classes.

    Raises:
        ValueError: It is something else.
    """
    if classes is None and context:
        raise ValueError(f"{type(model).__name__}(classes=0) takes no context: give it the number of classes.")
    if classes is None:
        return
    shapes = [tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__ for part in context]
    if shapes != [(len(x),)]:
        given = f"context of shapes {shapes}" if shapes else "none"
        raise ValueError(
            f"{type(model).__name__} with {classes.levels} classes takes one context, the label 0, 1, ... of each of "
            f"the {len(x)} data, with shape ({len(x)},), and was given {given}."
        )
    classes.check(model, context[0])


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
        return self._to_event(self.rounded(*h.unbind(-1 - len(self.event_shape))))

    def rounded(self, loc: Tensor, log_scale: Tensor) -> DiscretizedLogistic:
        """The law of entries for what a decoder says of location and scale, with the shape of both."""
        half = (self.levels - 1) / 2
        # A network output near 0 starts at the middle level with a scale of a quarter of the range.
        scale = half / 2 * log_scale.clamp(-7.0, 7.0).exp()
        return DiscretizedLogistic(half * (1 + loc), scale, self.levels)

    def normalise(self, x: Tensor) -> Tensor:
        return 2 * x / (self.levels - 1) - 1

    def marginal_features(self, x: Tensor) -> Tensor:
        mean, scale = _moments(x)
        half = (self.levels - 1) / 2
        # The standard deviation of a logistic distribution is pi / sqrt(3) of its scale.
        return torch.stack([mean / half - 1, torch.log(scale * math.sqrt(3) / math.pi / (half / 2))])


class DiscretizedLogisticMixtureHead(DiscretizedLogisticHead):
    """Entries that are mixtures of discretised logistics; the decoder outputs weights, locations and scales of each.

    References:
        | PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture Likelihood (Salimans et al., 2017)
        | https://arxiv.org/abs/1701.05517

    Arguments:
        event_shape: The shape of one datum.
        levels: The number of levels.
        components: The number K of components.

    Example:
        >>> head = DiscretizedLogisticMixtureHead((2,), levels=5, components=3)
        >>> d = head(torch.randn(head.features))
        >>> round(d.log_prob(torch.cartesian_prod(torch.arange(5.0), torch.arange(5.0))).exp().sum().item(), 5)
        1.0
    """

    def __init__(self, event_shape: torch.Size | tuple[int, ...], levels: int = 256, components: int = 5) -> None:
        super().__init__(event_shape, levels)
        check_sizes(self, components=components)
        self.components = components

    @property
    def features(self) -> torch.Size:
        return torch.Size((3 * self.components, *self.event_shape))

    def forward(self, h: Tensor) -> Any:
        parts = h.movedim(-1 - len(self.event_shape), -1)  # (*, event, 3 K)
        logits, loc, log_scale = parts.chunk(3, -1)
        components = self.rounded(loc, log_scale)
        return self._to_event(dist.MixtureSameFamily(dist.Categorical(logits=logits), components))

    def marginal_features(self, x: Tensor) -> Tensor:
        loc, log_scale = super().marginal_features(x).unbind(0)
        # Components side by side, within a standard deviation or so; alike, they would stay alike.
        places = torch.linspace(-1.0, 1.0, self.components) if self.components > 1 else torch.zeros(1)
        places = places.reshape(-1, *(1 for _ in self.event_shape))
        spread = log_scale.exp() * places.to(x)
        return torch.cat([torch.zeros_like(spread), loc + spread, log_scale.expand_as(spread)])


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
    "discretized_logistic_mixture": DiscretizedLogisticMixtureHead,
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
        TypeError: The head has no such option.
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
    parameters = inspect.signature(HEADS[likelihood]).parameters
    known = [name for name in parameters if name != "event_shape"]
    hands_on = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())  # to a head inside it
    if not hands_on and (unknown := [name for name in options if name not in known]):
        has = f"has the options {', '.join(known)}" if known else "has no options"
        raise TypeError(
            f"unexpected keyword argument {unknown[0]!r}: it is none of the program's, and the likelihood "
            f"{likelihood!r} {has}."
        )
    return HEADS[likelihood](event_shape, **options)
