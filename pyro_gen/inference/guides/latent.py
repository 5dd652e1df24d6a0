r"""Guides for the latent variables of any program, as one vector.

All continuous latent variables of a model, mapped to unconstrained space and flattened, are a vector
:math:`v \in \mathbb{R}^D`; a :class:`Guide` is a distribution of v. It runs the model and gives each latent site its
part of v, through the transform of the site's support *at that moment*: a support that depends on other latent
variables is that of this draw. With :math:`z = T(v)`,

.. math:: \log q(z) = \log q(v) - \log \left| \det \frac{\partial T}{\partial v} \right| .

A guide is attached by :func:`with_guide` or by :meth:`pyro_gen.Program.from_functions`, and makes its parameters when
it first meets the model (``Program.initialise``; :func:`pyro_gen.fit` calls it).

References:
    | Automatic Differentiation Variational Inference (Kucukelbir et al., 2017)
    | https://arxiv.org/abs/1603.00788
    | Gaussian Variational Approximation With a Factor Covariance Structure (Ong, Nott & Smith, 2018)
    | https://arxiv.org/abs/1701.03208
    | Variational Inference with Normalizing Flows (Rezende & Mohamed, 2015)
    | https://arxiv.org/abs/1505.05770
"""

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.infer.autoguide import AutoGuide
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_gen._internals import without_parts
from pyro_gen.density.sites import Slot, bijection
from pyro_gen.inference.guides.flows import FlowDistribution, Transport, check_options
from pyro_gen.observation import no_completion
from pyro_gen.program import ModelGuide, Program
from pyro_gen.traces import is_local, is_subsample, sample_sites

__all__ = ["Flow", "FullRank", "Guide", "LowRank", "MeanField", "guide_of", "with_guide"]

AUXILIARY = "_guide"
PRIOR_DRAWS = 25  # from whose median a guide starts


# ----------------------------------------------------------------------------------------------------------------------
# The latent variables of a model as one vector


class _Survey(Messenger):
    """Effect handler: finds the continuous latent sites and a starting point, the median of each prior."""

    def __init__(self, leave: Collection[str]) -> None:
        super().__init__()
        self.leave = leave
        self.start: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        fn, name = msg["fn"], msg["name"]
        if msg["is_observed"] or is_subsample(msg) or name in self.leave or fn.support.is_discrete:
            return
        transform = bijection(fn.support)
        try:
            draws = fn.sample((PRIOR_DRAWS,))
        except NotImplementedError:  # an improper prior cannot be drawn from: zero it is
            u = torch.zeros(transform.inverse_shape(fn.shape()), **_like(fn))
        else:
            u = transform.inv(draws).median(0).values
        self.start[name] = u
        msg["value"] = transform(u)
        msg["done"] = True


def _like(fn: Any) -> dict[str, Any]:
    """Dtype and device of a distribution that cannot be drawn from."""
    for name in fn.arg_constraints:
        if isinstance(value := getattr(fn, name, None), Tensor) and value.is_floating_point():
            return {"dtype": value.dtype, "device": value.device}
    return {}


class _AllPlaced(Exception):
    """No error: the rest of the model is of no interest."""


class _Place(Messenger):
    """Effect handler: gives the latent sites their parts of the vector, as Delta sites that carry log|det dv/dT|.

    It hides all other sites from the handlers outside, and ends the run of the model after the last latent site.
    """

    def __init__(self, layout: dict[str, Slot], vector: Tensor) -> None:
        super().__init__()
        self.layout, self.vector = layout, vector
        self.values: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        name, fn = msg["name"], msg["fn"]
        slot = self.layout.get(name)
        if slot is None or msg["is_observed"]:
            msg["stop"] = True
            return
        for frame in msg["cond_indep_stack"]:
            if frame.full_size not in (None, frame.size):
                raise ValueError(
                    f"The guide has parameters for each value of '{name}', which the plate '{frame.name}' subsamples "
                    f"({frame.size} of {frame.full_size}): give batch_size= the size of the data, or a program whose "
                    "own guide computes these from the data (AmortisedFlow, say)."
                )
        transform = bijection(fn.support)
        shape = transform.inverse_shape(fn.shape())
        if shape != slot.shape:
            raise ValueError(
                f"The guide was made for '{name}' of unconstrained shape {tuple(slot.shape)}, and now meets "
                f"{tuple(shape)}: use it with data of the size that it was made for."
            )
        u = slot.read(self.vector)
        value = transform(u)
        log_det = transform.log_abs_det_jacobian(u, value)
        batch_dims = value.dim() - fn.event_dim
        log_det = log_det.sum(list(range(batch_dims, log_det.dim()))) if log_det.dim() > batch_dims else log_det
        msg["fn"] = dist.Delta(value, log_density=-log_det, event_dim=fn.event_dim)
        msg["value"] = self.values[name] = value
        # The density of the guide is that of the guide, whatever the model does to its own.
        msg["scale"], msg["mask"] = 1.0, None

    def _pyro_post_sample(self, msg: Any) -> None:
        if len(self.values) == len(self.layout) and msg["name"] in self.values:
            raise _AllPlaced


# ----------------------------------------------------------------------------------------------------------------------
# Guides


class Guide(ModelGuide):
    """A distribution of all latent variables of a model as one vector, in unconstrained space.

    Arguments:
        init_scale: The first standard deviation of each variable.

    Attributes:
        dim: The number D of unconstrained latent variables, 0 before the guide has met its model.
        layout: Where each latent site lies in the vector.
    """

    def __init__(self, init_scale: float = 0.1) -> None:
        super().__init__()
        if not init_scale > 0:
            raise ValueError(f"init_scale={init_scale}: the first standard deviation is positive.")
        self.init_scale = init_scale
        self.dim = 0
        self.layout: dict[str, Slot] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The latent sites that the guide draws, in the order of the model."""
        return tuple(self.layout)

    def untrained(self) -> "Guide":
        """A guide of the same kind and options that has not met a model."""
        fresh = without_parts(self)
        fresh.layout, fresh.dim = {}, 0
        return fresh

    def forward(self, model: Callable[..., Any], x: Tensor, *context: Any) -> dict[str, Tensor]:
        """Draws the latent variables of a model, as sites of the same names.

        Arguments:
            model: The model.
            x: The data, with shape :math:`(N, *)`.
            context: What the model conditions on.

        Returns:
            The values by site.
        """
        if not self.layout:
            self.prepare(model, x, *context)
        vector = pyro.sample(AUXILIARY, self.distribution(), infer={"is_auxiliary": True})
        place = _Place(self.layout, vector)
        try:
            with place, no_completion():
                model(x, *context)
        except _AllPlaced:
            pass
        return place.values

    def prepare(self, model: Callable[..., Any], x: Tensor, *context: Any, leave: Collection[str] = ()) -> None:
        """Makes the parameters for the continuous latent variables of a model.

        Arguments:
            model: The model.
            x: The data, with shape :math:`(N, *)`.
            context: What the model conditions on.
            leave: Names of latent sites that are not this guide's.

        Raises:
            ValueError: There is no latent variable left for the guide.
        """
        survey = _Survey(leave)
        with torch.no_grad(), pyro.poutine.block(), survey, no_completion():
            model(x, *context)
        if not survey.start:
            raise ValueError(
                f"{type(self).__name__} finds no continuous latent variable that the program's own guide leaves to "
                "it: a guide for local ones is made with AmortisedFlow."
            )
        offset = 0
        for name, u in survey.start.items():
            self.layout[name] = Slot(offset, u.numel(), u.shape, None)
            offset += u.numel()
        self.dim = offset
        self.build(torch.cat([u.reshape(-1) for u in survey.start.values()]))

    def build(self, start: Tensor) -> None:
        """Makes the parameters.

        Arguments:
            start: The first location, with shape :math:`(D)`.
        """
        raise NotImplementedError

    def distribution(self) -> Any:
        """The distribution of the vector v, with event shape :math:`(D)`."""
        raise NotImplementedError

    def transport(self, u: Tensor) -> tuple[Tensor, Tensor]:
        r"""The map from standard normal noise to v.

        Arguments:
            u: Noise, with shape :math:`(*, D)`.

        Returns:
            v with shape :math:`(*, D)`, and :math:`\log |\det \partial v / \partial u|` with shape :math:`(*)`.
        """
        raise NotImplementedError

    def inverse(self, v: Tensor) -> Tensor:
        """The inverse of :meth:`transport`, with shape :math:`(*, D)`."""
        raise NotImplementedError


class MeanField(Guide):
    """Independent normal variables: it finds the means, and standard deviations that are too small where the posterior
    is correlated.

    Arguments:
        init_scale: The first standard deviation.

    Example:
        >>> import pyro, torch
        >>> import pyro.distributions as dist
        >>> import pyro_gen as pg
        >>> from pyro_gen.inference.guides import MeanField, guide_of
        >>> def model(x):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     with pg.plate(x):
        ...         return pg.observe("x", dist.Normal(mean, 1.0), x)
        >>> program = pg.Program.from_functions(model, MeanField())
        >>> result = pg.fit(program, torch.ones(9), epochs=500, lr=0.05, schedule="cosine", progress=False)
        >>> guide = guide_of(program)
        >>> round(guide.loc.item(), 1), round(guide.log_scale.exp().item(), 1)  # exactly 9 / 10 and 1 / sqrt(10)
        (0.9, 0.3)
    """

    loc: Tensor
    log_scale: Tensor

    def build(self, start: Tensor) -> None:
        self.loc = nn.Parameter(start)
        self.log_scale = nn.Parameter(torch.full_like(start, math.log(self.init_scale)))

    def distribution(self) -> Any:
        return dist.Normal(self.loc, self.log_scale.exp()).to_event(1)

    def transport(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return self.loc + self.log_scale.exp() * u, self.log_scale.sum().expand(u.shape[:-1])

    def inverse(self, v: Tensor) -> Tensor:
        return (v - self.loc) * (-self.log_scale).exp()


class _Gaussian(Guide):
    """A normal distribution with a Cholesky factor."""

    loc: Tensor

    def scale_tril(self) -> Tensor:
        """The Cholesky factor of the covariance, with shape :math:`(D, D)`."""
        raise NotImplementedError

    def transport(self, u: Tensor) -> tuple[Tensor, Tensor]:
        tril = self.scale_tril()
        return self.loc + u @ tril.mT, tril.diagonal().log().sum().expand(u.shape[:-1])

    def inverse(self, v: Tensor) -> Tensor:
        centred = (v - self.loc).unsqueeze(-1)
        return torch.linalg.solve_triangular(self.scale_tril(), centred, upper=False).squeeze(-1)  # type: ignore[no-any-return]


class FullRank(_Gaussian):
    r"""A normal distribution with any covariance: :math:`D^2` parameters.

    Arguments:
        init_scale: The first standard deviation.
    """

    log_scale: Tensor
    lower: Tensor

    def build(self, start: Tensor) -> None:
        self.loc = nn.Parameter(start)
        self.log_scale = nn.Parameter(torch.full_like(start, math.log(self.init_scale)))
        self.lower = nn.Parameter(start.new_zeros(len(start), len(start)))  # below the diagonal, in units of the scale

    def scale_tril(self) -> Tensor:
        unit = torch.eye(self.dim, dtype=self.loc.dtype, device=self.loc.device) + self.lower.tril(-1)
        return self.log_scale.exp().unsqueeze(-1) * unit

    def distribution(self) -> Any:
        return dist.MultivariateNormal(self.loc, scale_tril=self.scale_tril())


class _LowRankNormal(TorchDistribution):
    """As torch's LowRankMultivariateNormal, which adds its identity matrix in place and so cannot be recorded."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  # torch's name and type
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, loc: Tensor, factor: Tensor, log_scale: Tensor) -> None:
        self.loc, self.factor, self.log_scale = loc, factor, log_scale
        super().__init__(torch.Size(), loc.shape, validate_args=False)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008  # torch's signature
        options: dict[str, Any] = {"dtype": self.loc.dtype, "device": self.loc.device}
        common = torch.randn(*sample_shape, self.factor.shape[1], **options) @ self.factor.mT
        own = self.log_scale.exp() * torch.randn(*sample_shape, len(self.loc), **options)
        return self.loc + common + own

    def log_prob(self, value: Tensor) -> Tensor:
        z = (value - self.loc) * (-self.log_scale).exp()  # (*, D)
        a = self.factor * (-self.log_scale).exp().unsqueeze(-1)  # of covariance I + a a^T in units of the scale
        eye = torch.eye(a.shape[1], dtype=a.dtype, device=a.device)
        tril = torch.linalg.cholesky(eye + a.mT @ a)
        projected = torch.linalg.solve_triangular(tril, (z @ a).unsqueeze(-1), upper=False).squeeze(-1)
        quadratic = z.square().sum(-1) - projected.square().sum(-1)
        log_det = self.log_scale.sum() + tril.diagonal().log().sum()
        return -0.5 * (quadratic + len(self.loc) * math.log(2 * math.pi)) - log_det  # type: ignore[no-any-return]


class LowRank(_Gaussian):
    r"""A normal distribution with covariance :math:`W W^\top + \mathrm{diag}(d)`, for many latent variables.

    Arguments:
        rank: The number of columns of W, by default :math:`\sqrt{D}`.
        init_scale: The first standard deviation.
    """

    log_scale: Tensor
    factor: Tensor

    def __init__(self, rank: int | None = None, init_scale: float = 0.1) -> None:
        super().__init__(init_scale)
        if rank is not None and rank < 1:
            raise ValueError(f"LowRank(rank={rank}): give a positive number, or MeanField for none.")
        self.rank = rank

    def build(self, start: Tensor) -> None:
        rank = self.rank or max(1, round(len(start) ** 0.5))
        self.loc = nn.Parameter(start)
        scale = math.sqrt(0.5) * self.init_scale
        self.log_scale = nn.Parameter(torch.full_like(start, math.log(scale)))
        # At random: at zero its gradient is zero.
        noise = torch.randn(len(start), rank, dtype=start.dtype, device=start.device)
        self.factor = nn.Parameter(scale / rank**0.5 * noise)

    def distribution(self) -> Any:
        return _LowRankNormal(self.loc, self.factor, self.log_scale)

    def scale_tril(self) -> Tensor:
        covariance = self.factor @ self.factor.mT + (2 * self.log_scale).exp().diag()
        return torch.linalg.cholesky(covariance)  # type: ignore[no-any-return]


class Flow(Guide):
    """A normalizing flow, for posteriors that are curved, skewed or funnel-shaped.

    Arguments:
        kind: ``"spline"`` (neural-spline autoregressive), ``"affine"`` (inverse autoregressive) or ``"coupling"``.
        layers: The number of layers.
        hidden: Units in each hidden layer of the networks.
        bins: Bins of the splines.
        init_scale: The first standard deviation.
    """

    def __init__(
        self,
        kind: str = "spline",
        layers: int = 3,
        hidden: Sequence[int] = (64, 64),
        bins: int = 8,
        init_scale: float = 0.1,
    ) -> None:
        super().__init__(init_scale)
        check_options(kind, layers, hidden, bins)
        self.kind, self.num_layers, self.hidden, self.bins = kind, layers, tuple(hidden), bins

    def build(self, start: Tensor) -> None:
        map_ = Transport(len(start), 0, self.kind, self.num_layers, self.hidden, self.bins).to(start)
        with torch.no_grad():
            map_.loc.copy_(start)
            map_.log_scale.fill_(math.log(self.init_scale))
        self.map = map_

    def distribution(self) -> Any:
        return FlowDistribution(self.map, None, torch.Size())

    def transport(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return self.map(u)  # type: ignore[no-any-return]

    def inverse(self, v: Tensor) -> Tensor:
        return self.map.inverse(v)[0]


# ----------------------------------------------------------------------------------------------------------------------
# Attaching a guide


def with_guide(program: Program, guide: Guide) -> Program:
    """Gives a program another guide for its latent variables.

    Local latent variables that the program's own guide samples stay with it, and see the new values of the others;
    everything else is drawn by the new guide. A program whose guide samples nothing inside the data plate, or is
    automatic, has all of its latent variables drawn by the new one.

    Arguments:
        program: The program. The new one shares its parameters.
        guide: A guide that has not been used yet.

    Returns:
        A program with the same model and the new guide.

    Raises:
        TypeError: What is given is no program, or no guide of this module.
        ValueError: The guide belongs to another program.

    Example:
        >>> import pyro, torch
        >>> import pyro.distributions as dist
        >>> import pyro_gen as pg
        >>> from pyro_gen.inference.guides import Flow, guide_of, with_guide
        >>> def model(x):
        ...     scale = pyro.sample("scale", dist.HalfNormal(1.0))
        ...     loc = pyro.sample("loc", dist.Uniform(-scale, scale))  # a support that depends on another variable
        ...     with pg.plate(x):
        ...         return pg.observe("x", dist.Normal(loc, 0.1), x)
        >>> program = with_guide(pg.Program.from_functions(model), Flow("affine")).initialise(torch.zeros(5))
        >>> guide_of(program).names, guide_of(program).dim
        (('scale', 'loc'), 2)
    """
    if not isinstance(program, Program):
        raise TypeError(
            f"A guide is given to a Program, and this is a {type(program).__name__}: of a model function make one by "
            "Program.from_functions(model)."
        )
    if not isinstance(guide, Guide):
        what = "a class: create an instance" if isinstance(guide, type) else type(guide).__name__
        raise TypeError(f"with_guide takes a guide such as Flow() or MeanField(), and was given {what}.")
    if guide.names:
        raise ValueError(f"The {type(guide).__name__} was made for another program: give a new one.")
    return _Guided(program.unguided if isinstance(program, _Guided) else program, guide)


def guide_of(program: Program) -> Guide:
    """The guide that a program got from :func:`with_guide` or ``Program.from_functions``.

    Raises:
        ValueError: It has none, or one that has not met its model yet.
    """
    guide = program.given_guide
    if not isinstance(guide, Guide):
        raise ValueError(
            "The program has no guide of pyro_gen.inference.guides: give it one by with_guide(program, Flow())."
        )
    if not guide.names:
        raise ValueError("The guide has not met its model: call program.initialise(x) or pg.fit first.")
    return guide


class _Given(Messenger):
    """Effect handler: sites take these values, and the handlers outside do not see them."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values:
            msg["value"] = self.values[msg["name"]]
            msg["done"] = msg["stop"] = True


class _Guided(Program):
    def __init__(self, program: Program, guide: Guide) -> None:
        super().__init__()
        self._adopt("_program", program)
        self._guide = guide
        self.event_shape = program.event_shape
        if (objective := getattr(program, "objective", None)) is not None:
            self.objective = objective
        self._own: frozenset[str] | None = None  # local sites that stay with the program's own guide

    @property
    def given_guide(self) -> Guide:
        return self._guide

    @property
    def unguided(self) -> Program:
        """The program under the guide."""
        program = self._modules["_program"]
        assert isinstance(program, Program)
        return program

    def model(self, x: Tensor, *context: Any) -> Any:
        return self.unguided.model(x, *context)

    def guide(self, x: Tensor, *context: Any) -> Any:
        program, guide = self.unguided, self._guide
        if self._own is None:
            self._own = _own_local_sites(program, x, *context)
            guide.prepare(program.model, x, *context, leave=self._own)
        values = guide(program.model, x, *context)
        if self._own:
            with _Given(values):
                program.guide(x, *context)


def _own_local_sites(program: Program, x: Tensor, *context: Any) -> frozenset[str]:
    if isinstance(program.given_guide, AutoGuide | ModelGuide):
        return frozenset()
    with torch.no_grad(), pyro.poutine.block():
        sites = sample_sites(pyro.poutine.trace(program.guide).get_trace(x, *context))
    return frozenset(n for n, s in sites.items() if not s["is_observed"] and is_local(s))
