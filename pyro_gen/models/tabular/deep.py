r"""A deep latent-variable model of tables: an importance-weighted autoencoder that takes rows with holes.

.. math::
    z_n \sim \mathcal{N}(0, I_K), \qquad h_n = b + W z_n + \mathrm{NN}_\theta(z_n), \qquad
    x_{nd} \mid z_n \sim p_d(x_{nd} \mid h_n)

Each column has a likelihood of its kind: Student-t or normal (real), negative binomial (count), Bernoulli (binary),
categorical (nominal), cumulative logit with ordered cut-points (ordinal). The linear part is a factor analysis, which
is all that a small table supports; a network is added to it, whose weights have a normal prior.

The guide knows what factor analysis knows, that evidence about :math:`z` adds up over the entries that were seen,

.. math::
    q(z \mid x_o) = \mathcal{N}(P^{-1} v, P^{-1}), \qquad P = I + \sum_{f \in o} e^{\tau_f} a_f a_f^\top, \qquad
    v = \sum_{f \in o} e^{\tau_f} \phi_f a_f ,

with :math:`\phi` the standardised entries (levels one by one), and a network of entries and holes moves its mean and
stretches its scales. So it is right for any pattern of holes where the model is linear and normal.

Training maximises the importance-weighted bound on what was seen. Missing entries then follow

.. math::
    p(x_m \mid x_o) = \int p(x_m \mid z) \, p(z \mid x_o) \, dz \approx \sum_l \bar w_l \, p(x_m \mid z_l), \qquad
    \bar w_l \propto \frac{p(x_o \mid z_l) \, p(z_l)}{r(z_l)} ,

where :math:`r` is the guide with a tenth of the prior in it, so that no weight is larger than ten likelihoods.

The posterior of the parameters is an ensemble: members start at different weights and are trained side by side, each on
rows weighted anew (the Bayesian bootstrap) and, where there is a network, without a tenth of the entries: by these the
precision of its prior is chosen, and training stopped.

References:
    | MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets (Mattei & Frellsen, 2019)
    | https://arxiv.org/abs/1812.02633
    | Handling Incomplete Heterogeneous Data using VAEs (Nazabal et al., 2020)
    | https://arxiv.org/abs/1807.03653
    | Approximate Bayesian Inference with the Weighted Likelihood Bootstrap (Newton & Raftery, 1994)
    | Weighted average importance sampling and defensive mixture distributions (Hesterberg, 1995)
"""

import abc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, ClassVar, Self

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.poutine.messenger import block_messengers
from scipy import stats
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_gen._random import fork, normals, seeded, uniforms, vmap_draws
from pyro_gen.data.schema import Column
from pyro_gen.density import row_chunks, rows_per_chunk
from pyro_gen.inference.importance import psis_khat
from pyro_gen.inference.objectives import Objective, local_log_weight
from pyro_gen.inference.svi import fit
from pyro_gen.likelihoods import assume_missing, no_completion, observe
from pyro_gen.models.tabular.table import LearningProgress, TableProgram
from pyro_gen.program import data_scale, data_size, fixed, per_datum_log_prob, sample_sites, trace_pair

__all__ = ["DeepLatentTable", "EnsembleBound", "LatentEnsemble", "MixedColumns"]

Weights = dict[str, Tensor]

LEAST_SCALE = 0.05  # of a real column's noise, on the working scale
NO_LEVEL = -1e4  # a logit that exp makes 0 in any precision
HELD_OUT = 0.1  # the share of the seen entries that a member is stopped by
DECAYS = (10.0, 100.0, 1000.0)  # precisions of the prior of the networks' weights, to choose from
FROM_PRIOR = 0.1  # the prior's share of the proposals
STEPS, BATCH, PARTICLES = 1500, 64, 5
LOOK_EVERY = 100  # steps between two looks at the held-out entries
STARTS = {"cuts": 0.5, "log_df": 2.0}  # of the parameters that do not start at 0
ROWS_TO_LOOK_AT = 512
ROWS_TO_START_FROM = 10_000


# ----------------------------------------------------------------------------------------------------------------------
# Likelihoods of mixed columns


class MixedColumns(dist.TorchDistribution):
    r"""Independent entries of mixed columns: :math:`R` real ones, :math:`C` counts and :math:`G` with levels.

    Arguments:
        loc: Locations of the real columns, with shape :math:`(*, R)`.
        scale: Their scales, with shape :math:`(*, R)`.
        df: Their degrees of freedom (Student-t) with shape :math:`(R)`, or ``None`` (normal).
        log_mean: Logarithms of the means of counts, with shape :math:`(*, C)`.
        log_size: Logarithms of the sizes :math:`r` of their negative binomials, whose variance is
            :math:`\mu + \mu^2 / r`, with shape :math:`(C)`.
        logits: Of the levels of the other columns, with shape :math:`(*, G, L)`.
        order: Where the real columns, the counts and the others are in a row, with shape :math:`(D)`.

    Example:
        >>> d = MixedColumns(
        ...     torch.zeros(1), torch.ones(1), None, torch.zeros(1), torch.zeros(1), torch.zeros(1, 4), torch.arange(3)
        ... )
        >>> [round(p, 3) for p in d.log_prob(torch.zeros(3)).exp().tolist()]  # density, 1 / (1 + mean), 1 of 4 levels
        [0.399, 0.5, 0.25]
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real
    uniforms_per_entry = 2

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        df: Tensor | None,
        log_mean: Tensor,
        log_size: Tensor,
        logits: Tensor,
        order: Tensor,
        batch_shape: torch.Size | None = None,
    ) -> None:
        self.loc, self.scale, self.df = loc, scale, df
        self.log_mean, self.log_size = log_mean, log_size
        self.logits = logits.log_softmax(-1)
        self.order = order
        self.sizes = [loc.shape[-1], log_mean.shape[-1], logits.shape[-2]]
        shape = torch.Size((*loc.shape[:-1], len(order))) if batch_shape is None else batch_shape
        super().__init__(shape, validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "MixedColumns":
        return MixedColumns(
            self.loc,
            self.scale,
            self.df,
            self.log_mean,
            self.log_size,
            self.logits,
            self.order,
            torch.Size(batch_shape),
        )

    def _in_row_order(self, *parts: Tensor) -> Tensor:
        return torch.cat(parts, -1).index_select(-1, torch.argsort(self.order))

    def log_prob(self, value: Tensor) -> Tensor:
        value = value.expand(torch.broadcast_shapes(value.shape, self.batch_shape))
        x, count, code = value.index_select(-1, self.order).split(self.sizes, -1)
        y = (x - self.loc) / self.scale
        if self.df is None:
            real = -0.5 * y.square() - 0.5 * math.log(2 * math.pi)
        else:
            half = 0.5 * self.df
            constant = torch.lgamma(half + 0.5) - torch.lgamma(half) - 0.5 * (math.pi * self.df).log()
            real = constant - (half + 0.5) * torch.log1p(y.square() / self.df)
        real = real - self.scale.log()
        # In double precision: lgamma of a large count has no digits to lose.
        n, r, odds = count.double(), self.log_size.double().exp(), (self.log_mean - self.log_size).double()
        binomial = torch.lgamma(n + r) - torch.lgamma(r) - torch.lgamma(n + 1)
        counts = (binomial + r * F.logsigmoid(-odds) + n * F.logsigmoid(odds)).to(real.dtype)
        logits = self.logits.expand(*code.shape, self.logits.shape[-1])
        levels = logits.gather(-1, code.long().unsqueeze(-1)).squeeze(-1)
        return self._in_row_order(real, counts, levels)

    @property
    def probs(self) -> Tensor:
        """The probabilities of the levels, with shape :math:`(*, G, L)`."""
        return self.logits.exp()

    @property
    def mean(self) -> Tensor:
        """Expectations, of codes where there are levels, with the batch shape."""
        codes = torch.arange(self.logits.shape[-1], device=self.loc.device, dtype=self.loc.dtype)
        return self._in_row_order(self.loc, self.log_mean.exp(), self.probs @ codes).expand(self.batch_shape)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            shape = torch.Size((*sample_shape, *self.batch_shape, self.uniforms_per_entry))
            u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
            return self.from_uniforms(u.clamp(torch.finfo(u.dtype).tiny, 1 - torch.finfo(u.dtype).eps), _counts)

    def from_uniforms(self, u: Tensor, counts: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None) -> Tensor:
        """Turns uniform numbers into draws.

        Arguments:
            u: In (0, 1), with shape :math:`(*, D, 2)`.
            counts: Draws counts of a size, a mean and uniform numbers; the quantile function by default.

        Returns:
            Entries with shape :math:`(*, D)`.
        """
        first, second = u.index_select(-2, self.order).unbind(-1)
        (a, c, g), (b, _, _) = first.split(self.sizes, -1), second.split(self.sizes, -1)
        # Box & Muller, and their like for Student's t (Bailey, 1994).
        squared = -2 * a.log() if self.df is None else self.df * torch.expm1(-2 / self.df * a.log())
        radius = squared.sqrt()
        real = self.loc + self.scale * radius * torch.cos(2 * math.pi * b)
        number = (counts or _count_quantile)(self.log_size.exp().expand_as(c), self.log_mean.exp().expand_as(c), c)
        below = (g.unsqueeze(-1) > self.probs.cumsum(-1)).sum(-1)
        last = (self.logits > 0.5 * NO_LEVEL).sum(-1) - 1  # rounding must not reach a level that there is not
        return self._in_row_order(real, number.to(real.dtype), torch.minimum(below, last).to(real.dtype))


def _counts(size: Tensor, mean: Tensor, u: Tensor) -> Tensor:
    return torch.poisson(torch.distributions.Gamma(size, size / mean).sample())


def _count_quantile(size: Tensor, mean: Tensor, u: Tensor) -> Tensor:
    if not u.numel():
        return u
    r, mu, numbers = (t.detach().double().cpu().numpy() for t in (size, mean, u))
    return torch.from_numpy(stats.nbinom.ppf(numbers, r, r / (r + mu))).to(u.device)


# ----------------------------------------------------------------------------------------------------------------------
# The objective


class EnsembleBound(Objective):
    r"""The negative importance-weighted bounds of all members of an ensemble, less their log-priors.

    .. math::
        -\sum_e \Big( \sum_n \omega_{ne} \log \frac{1}{K} \sum_k w_{nke} + \log p(\theta_e) \Big)

    Member :math:`e` sees row :math:`n` with weight :math:`\omega_{ne}`, without the entries held out from it. In
    evaluation mode the loss is that of held-out entries given the others, :math:`-\log p(x_h \mid x_o, \theta_e)`.

    Arguments:
        num_particles: The number of particles :math:`K`; evaluation takes twice as many.
        rows: The number of rows that the log-likelihood is that of.

    References:
        | Importance Weighted Autoencoders (Burda, Grosse & Salakhutdinov, 2016)
        | https://arxiv.org/abs/1509.00519
    """

    anneals = False

    def __init__(self, num_particles: int, rows: int) -> None:
        super().__init__()
        self.num_particles, self.rows = num_particles, rows

    def loss(self, program: Any, x: Tensor, *context: Any, kl_weight: Tensor | float = 1.0) -> Tensor:
        """Computes the loss.

        Arguments:
            program: A :class:`LatentEnsemble` of E members.
            x: Rows with shape :math:`(N, D)`.
            context: What the program conditions on; then weights with shape :math:`(N, E)` and which entries are held
                out, boolean with shape :math:`(N, E, D)`.
            kl_weight: Of no effect.
        """
        return self.member_losses(program, x, *context).sum()

    def member_losses(self, program: Any, x: Tensor, *context: Any) -> Tensor:
        """The losses of the members, with shape :math:`(E)`, see :meth:`loss`."""
        *given, weights, held = context
        scale = data_scale(x)
        prior_share = scale * len(x) / self.rows  # fit counts a row as often as it comes in an epoch

        def member(parameters: Weights, decay: Tensor, weight: Tensor, held: Tensor) -> Tensor:
            with program.at(parameters):
                inputs = (x.masked_fill(held, torch.nan), *given)
                if self.training:
                    bound = vmap_draws(lambda: _log_weight(program, inputs)[0], self.num_particles).logsumexp(0)
                    log_prior: Tensor = prior_share * program.log_prior(decay)
                    return -scale * (weight * (bound - math.log(self.num_particles))).sum() - log_prior
                targets = (x.masked_fill(~held, torch.nan), *given)

                def particle() -> tuple[Tensor, Tensor]:
                    log_weight, z = _log_weight(program, inputs)
                    with fixed({"z": z}):
                        trace = pyro.poutine.trace(program.model).get_trace(*targets)
                    return log_weight, per_datum_log_prob(trace.nodes["x"])

                log_weight, log_prob = vmap_draws(particle, 2 * self.num_particles)
                return -scale * ((log_weight + log_prob).logsumexp(0) - log_weight.logsumexp(0)).sum()

        # Held-out entries are missing whatever fit has found, so that an answer from outside does not hold in here.
        with (
            block_messengers(lambda handler: isinstance(handler, assume_missing)),
            assume_missing(True),
            no_completion(),
            data_size(len(x)),
        ):
            losses: Tensor = torch.vmap(member, in_dims=(0, 0, 1, 1), randomness="different")(
                dict(program.weights.items()), program.decay, weights, held
            )
        return losses


def _log_weight(program: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """The log importance weight of one draw of the guide for each row, and the draw."""
    model_trace, guide_trace = trace_pair(program, *inputs)
    log_likelihood, log_ratio = local_log_weight(model_trace, guide_trace)
    z: Any = guide_trace.nodes["z"]["value"]
    return log_likelihood + log_ratio, z


# ----------------------------------------------------------------------------------------------------------------------
# Programs with an ensemble of decoders


class _OutOfTime(Exception):
    pass


class LatentEnsemble(TableProgram):
    """What programs share that decode rows of a table from latent variables, by an ensemble of decoders.

    As a model/guide pair it is the program of one member, ``member``; :meth:`complete`, :meth:`cell_log_prob` and
    :meth:`cell_mean` take all of them.

    Arguments:
        columns: The D columns, as the working scale has them.
        latent: The number K of latent dimensions.
        hidden: The widths of the decoder's hidden layers, the guide's has the last one; none for a linear decoder.
        members: The number E of members.
        particles: Latent draws of each member for a row, in imputation.
        steps: Gradient steps of the training, at most.

    Attributes:
        member: The index of the member that :meth:`model` and :meth:`guide` are of, a buffer.
        weights: The parameters, with a leading dimension E.
        decay: The precisions of the normal prior of the networks' weights, with shape :math:`(E)`.

    Raises:
        ValueError: A size is not positive, or as by :class:`TableProgram`.
    """

    numbers_per_entry: ClassVar[int] = 1  # that the distribution of an entry computes with

    member: Tensor
    decay: Tensor
    centre: Tensor
    spread: Tensor
    ceiling: Tensor
    order: Tensor
    column_of: Tensor
    level_of: Tensor
    nominal_at: Tensor

    def __init__(
        self,
        columns: Sequence[Column],
        latent: int | None = None,
        hidden: Sequence[int] = (),
        members: int = 5,
        particles: int = 200,
        steps: int = STEPS,
        noise_features: int = 0,
    ) -> None:
        super().__init__(columns)
        self._lay_out()
        features = len(self.column_of)
        latent = max(1, min(features - 1, math.ceil(features / 3), 16)) if latent is None else latent
        for name, size in (("latent", latent), ("members", members), ("particles", particles), ("steps", steps)):
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{type(self).__name__}({name}={size!r}): give a positive whole number.")
        self.latent, self.hidden, self.members = latent, tuple(hidden), members
        self.particles, self.steps = particles, steps
        self._current: Weights | None = None

        real, count, ordinal = self.sizes["real"], self.sizes["count"], self.sizes["ordinal"]
        shapes: dict[str, tuple[int, ...]] = {
            "offset": (features,),
            "loadings": (features, latent),
            "log_scale": (real,),
            "log_size": (count,),
            "cuts": (ordinal, max(1, self.levels - 1)),
            "experts": (features, latent),
            "log_precision": (features,),
        }
        self.decoder_sizes = (latent, *hidden, features + noise_features) if hidden else ()
        self.encoder_sizes = (2 * features, hidden[-1], 2 * latent) if hidden else ()
        for net, sizes in (("decoder", self.decoder_sizes), ("encoder", self.encoder_sizes)):
            for i, (before, after) in enumerate(pairwise(sizes)):
                shapes[f"{net}_weight_{i}"], shapes[f"{net}_bias_{i}"] = (before, after), (after,)
        self.weights = nn.ParameterDict(
            {n: nn.Parameter(torch.zeros(members, *shape)) for n, shape in shapes.items() if 0 not in shape}
        )
        self.register_buffer("member", torch.zeros((), dtype=torch.long))
        self.register_buffer("decay", torch.full((members,), DECAYS[1]))
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("spread", torch.ones(features))
        self.register_buffer("ceiling", torch.full((count,), 20.0))
        with torch.no_grad():
            self._scatter_weights()

    def _lay_out(self) -> None:
        """Features are the real columns, counts, binary and ordinal ones, then the levels of the nominal ones."""
        kinds = ("real", "count", "binary", "ordinal", "nominal")
        of_kind = {kind: [d for d, c in enumerate(self.columns) if c.kind == kind] for kind in kinds}
        self.sizes = {kind: len(of_kind[kind]) for kind in kinds}
        depth = {d: max(2, len(c.levels)) for d, c in enumerate(self.columns) if c.discrete}
        self.levels = max(depth.values(), default=2)
        flat = [(d, level) for d in of_kind["nominal"] for level in range(depth[d])]
        single = [d for kind in kinds[:-1] for d in of_kind[kind]]
        self.depths = [depth[d] for kind in kinds[2:] for d in of_kind[kind]]
        position = {cell: len(single) + i for i, cell in enumerate(flat)}
        at = [[position.get((d, level), 0) - len(single) for level in range(self.levels)] for d in of_kind["nominal"]]
        for name, value in (
            ("order", [d for kind in kinds for d in of_kind[kind]]),
            ("column_of", single + [d for d, _ in flat]),
            ("level_of", [level for _, level in flat]),
            ("nominal_at", at),
        ):
            self.register_buffer(name, torch.tensor(value, dtype=torch.long).clamp(min=0), persistent=False)

    # ------------------------------------------------------------------------------------------------------------------
    # Members

    @contextmanager
    def at(self, weights: Weights) -> Iterator[None]:
        """Inside the block, model and guide are those of a member with these parameters."""
        before, self._current = self._current, weights
        try:
            yield
        finally:
            self._current = before

    def _weights(self) -> Weights:
        if self._current is not None:
            return self._current
        index = self.member.reshape(1)
        return {n: p.index_select(0, index).squeeze(0) for n, p in self.weights.items()}

    def _network(self, name: str, h: Tensor) -> Tensor:
        w = self._weights()
        layers = len(self.decoder_sizes if name == "decoder" else self.encoder_sizes) - 1
        for i in range(layers):
            h = h @ w[f"{name}_weight_{i}"] + w[f"{name}_bias_{i}"]
            h = torch.tanh(h) if i < layers - 1 else h
        return h

    def log_prior(self, decay: Tensor) -> Tensor:
        """The log-density of the prior of a member's parameters, up to a constant.

        Arguments:
            decay: The precision of the networks' weights.
        """
        w = self._weights()
        networks = sum((p.square().sum() for n, p in w.items() if "_weight_" in n), start=torch.zeros_like(decay))
        return -0.5 * decay * networks - 0.5 * w["loadings"].square().sum()

    # ------------------------------------------------------------------------------------------------------------------
    # The pair

    @abc.abstractmethod
    def cells(self, z: Tensor, x: Tensor, *context: Tensor) -> Any:
        """The distribution of entries given latent variables: a batch of shape (*, D) for z of shape (*, K)."""

    @abc.abstractmethod
    def inputs(self, x: Tensor) -> tuple[Tensor, ...]:
        """What the pair is given for rows of a table: the rows and their context."""

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The features :math:`h` that latent variables stand for, and what else the network says."""
        w = self._weights()
        h = z @ w["loadings"].mT + w["offset"]
        if not self.decoder_sizes:
            return h, h[..., :0]
        out = self._network("decoder", z)
        return h + out[..., : h.shape[-1]], out[..., h.shape[-1] :]

    def prior(self) -> Any:
        """The prior of the latent variables of a row."""
        return dist.Normal(self._weights()["offset"].new_zeros(self.latent), 1.0).to_event(1)

    def guide(self, x: Tensor, *context: Any) -> None:
        r"""The approximate posterior :math:`q(z \mid x_o)`."""
        with self.plate(x):
            pyro.sample("z", self.posterior(x, *context))

    def evidence(self, x: Tensor, *context: Any) -> tuple[Tensor, Tensor]:
        """What entries say of the latent variables: standardised features and their precisions, each (N, F)."""
        w = self._weights()
        phi, seen = self.features(x.to(w["offset"].dtype))
        return phi, seen * w["log_precision"].exp()

    def posterior(self, x: Tensor, *context: Any) -> Any:
        """The guide's normal distribution of the latent variables of rows with shape (N, D)."""
        w = self._weights()
        phi, precision = self.evidence(x, *context)  # (N, F) each
        a = w["experts"]  # (F, K)
        outer = (a.unsqueeze(-1) * a.unsqueeze(-2)).flatten(1)  # (F, K K)
        total = torch.eye(self.latent).to(a) + (precision @ outer).unflatten(-1, (self.latent, self.latent))
        tril = dist.MultivariateNormal(a.new_zeros(self.latent), precision_matrix=total, validate_args=False).scale_tril
        shift = (precision * phi) @ a
        loc = (tril @ (tril.mT @ shift.unsqueeze(-1))).squeeze(-1)
        if self.encoder_sizes:
            move, stretch = self._network("encoder", torch.cat([phi, (precision > 0).to(phi)], -1)).chunk(2, -1)
            loc, tril = loc + move, stretch.clamp(-3.0, 3.0).exp().unsqueeze(-1) * tril
        return dist.MultivariateNormal(loc, scale_tril=tril, validate_args=False)

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Standardised features of rows, 0 where missing, and which were seen: (N, D) gives (N, F) and (N, F)."""
        raw = self._raw_features(x)
        seen = ~torch.isnan(raw)
        return ((raw - self.centre.to(raw)) / self.spread.to(raw)).masked_fill(~seen, 0.0), seen

    def _raw_features(self, x: Tensor) -> Tensor:
        value = x.index_select(-1, self.column_of)
        real, count, code, level = value.split(self._feature_sizes(), -1)
        hit = torch.where(torch.isnan(level), level, (level == self.level_of).to(level))
        return torch.cat([real, count.clamp(min=0.0).log1p(), code, hit], -1)

    def _feature_sizes(self) -> list[int]:
        sizes = [self.sizes["real"], self.sizes["count"], self.sizes["binary"] + self.sizes["ordinal"]]
        return [*sizes, len(self.column_of) - sum(sizes)]

    # ------------------------------------------------------------------------------------------------------------------
    # Learning

    def learn(
        self, x: Tensor, *, seed: int = 0, progress: LearningProgress | None = None, deadline: float | None = None
    ) -> Self:
        if x.dim() != 2 or x.shape[1:] != self.event_shape:
            raise ValueError(
                f"{type(self).__name__}.learn: x has shape {tuple(x.shape)}, expected (N, {len(self.columns)})."
            )
        seen = ~torch.isnan(x)
        x = x[seen.any(1)]
        if not len(x):
            raise ValueError(f"{type(self).__name__}.learn: no entry of x was seen: give rows with numbers in them.")
        self.to(x.device)
        with seeded(seed):
            self._start(x)
            self._train(x, seed, progress, deadline)
        if progress is not None:
            progress(1.0, f"{self.members} decoders")
        return self

    def _train(self, x: Tensor, seed: int, progress: LearningProgress | None, deadline: float | None) -> None:
        share = 0.0
        if self.hidden and self.members >= len(DECAYS):
            # The prior of the networks: members that differ in it alone race for held-out entries.
            with torch.no_grad():
                self.decay.copy_(torch.tensor([DECAYS[e % len(DECAYS)] for e in range(self.members)]))
            held = self._held_out(x, same=True)
            share = 0.3
            self._run(x, torch.ones(len(x), self.members), held, seed, (0.0, share), progress, deadline)
            losses = self._held_out_loss(x, held)
            best = min(DECAYS, key=lambda decay: float(losses[self.decay == decay].mean()))
            self.decay.fill_(best)
            self._start(x)
        weights = -torch.rand(len(x), self.members).log() if self.members > 1 else torch.ones(len(x), self.members)
        held = self._held_out(x, same=False) & bool(self.hidden)
        self._run(x, weights / weights.mean(0), held, fork(seed), (share, 1.0), progress, deadline)

    def _held_out(self, x: Tensor, same: bool) -> Tensor:
        """Which entries are held out from which member, boolean with shape (N, E, D)."""
        draw = torch.rand(len(x), 1 if same else self.members, x.shape[1], device=x.device)
        return ((draw < HELD_OUT) & ~torch.isnan(x).unsqueeze(1)).expand(-1, self.members, -1)

    def _held_out_loss(self, x: Tensor, held: Tensor) -> Tensor:
        rows = slice(ROWS_TO_LOOK_AT)
        objective = EnsembleBound(PARTICLES, len(x)).eval()
        some = self._typed(x[rows])
        with torch.no_grad(), pyro.validation_enabled(False):
            weights = some.new_ones(len(some), self.members)
            return objective.member_losses(self, *self.inputs(some), weights, held[rows])

    def _typed(self, x: Tensor) -> Tensor:
        return x.to(self.weights["offset"].dtype)

    def _run(
        self,
        x: Tensor,
        weights: Tensor,
        held: Tensor,
        seed: int,
        span: tuple[float, float],
        progress: LearningProgress | None,
        deadline: float | None,
    ) -> None:
        """Trains all members for a share of the steps."""
        n, batch = len(x), min(len(x), BATCH)
        repeats = max(1, math.ceil(LOOK_EVERY * batch / n))  # rows come several times in an epoch of a small table
        order = torch.cat([torch.randperm(n) for _ in range(repeats)])
        order = order[: len(order) // batch * batch].to(x.device)  # whole batches: one graph for all of them
        epochs = max(1, round(self.steps * (span[1] - span[0]) * batch / len(order)))
        look = order[:n].unique()[:ROWS_TO_LOOK_AT]
        inputs = self.inputs(self._typed(x))
        weights = self._typed(weights.to(x.device))

        def rows(index: Tensor) -> tuple[Tensor, ...]:
            return (*(part[index] for part in inputs), weights[index], held[index])

        def schedule(share: float) -> float:  # called before each step
            if deadline is not None and time.monotonic() > deadline:
                raise _OutOfTime
            if progress is not None:
                progress(span[0] + share * (span[1] - span[0]), f"{self.members} decoders")
            return 0.5 * (1 + math.cos(math.pi * share))

        try:
            fit(
                self,
                rows(order),
                objective=EnsembleBound(PARTICLES, n),
                epochs=epochs,
                batch_size=batch,
                lr=1e-2,
                schedule=schedule,
                # A linear decoder does not overfit by long training, and a slope of selection takes long to grow.
                validation=rows(look) if self.hidden else None,
                patience=max(2, epochs // 3) if self.hidden else None,
                seed=seed,
                progress=False,
            )
        except _OutOfTime:
            if progress is not None:
                progress(span[1], f"{type(self).__name__}: out of time, its training was cut short")

    def _scatter_weights(self) -> None:
        """Networks start at Glorot's weights with a last layer of 0, experts and loadings at small ones."""
        for name, p in self.weights.items():
            if "_weight_" in name:
                sizes = self.decoder_sizes if name.startswith("decoder") else self.encoder_sizes
                last = int(name.rsplit("_", 1)[1]) == len(sizes) - 2
                p.copy_(0.0 * p if last else torch.randn_like(p) * (2 / (p.shape[-2] + p.shape[-1])) ** 0.5)
            elif name == "loadings":
                p.copy_(0.3 * torch.randn_like(p))
            elif name == "experts":
                p.copy_(self.weights["loadings"])
            elif name in STARTS:
                p.fill_(STARTS[name])
            else:
                p.zero_()

    @torch.no_grad()
    def _start(self, x: Tensor) -> None:
        """Starts every member at the principal axes of pairwise correlations, of its own weighting of the rows."""
        self._scatter_weights()
        sample = torch.randperm(len(x), device=x.device)[:ROWS_TO_START_FROM]
        raw = self._raw_features(x[sample].double())
        centre = raw.nanmean(0).nan_to_num()
        spread = (raw - centre).square().nanmean(0).sqrt().nan_to_num()
        spread = torch.where(spread > 1e-6, spread, torch.ones_like(spread))
        self.centre.copy_(centre)
        self.spread.copy_(spread)
        real, count, code, _ = sizes = self._feature_sizes()
        binary = self.sizes["binary"]
        value = x.double()

        # What each feature is worth in the decoder's output: the logarithm of a mean, about 2 logits per deviation.
        worth = torch.cat([spread[: real + count], torch.full_like(spread[real + count :], 2.0)])
        offset = centre.clone()
        numbers = value.index_select(-1, self.column_of[real : real + count])
        mean = numbers.nanmean(0).nan_to_num(1.0).clamp(min=1e-2)
        offset[real : real + count] = mean.log()
        offset[real + count : real + count + binary] = (
            centre[real + count : real + count + binary].clamp(0.02, 0.98).logit()
        )
        offset[real + count + binary : real + count + code] = 0.0  # ordinal: the cut-points
        offset[sum(sizes[:3]) :] = centre[sum(sizes[:3]) :].clamp(min=1e-3).log()
        self.weights["offset"].copy_(offset.expand(self.members, -1))
        if count:
            top = numbers.nan_to_num(0.0).max(0).values
            self.ceiling.copy_((10 * top + 10).log())
            variance = (numbers - mean).square().nanmean(0).nan_to_num(1.0)
            size = mean.square() / (variance - mean).clamp(min=0.01 * mean.square())
            self.weights["log_size"].copy_(size.clamp(0.1, 100.0).log().expand(self.members, -1))
        if self.sizes["ordinal"]:
            self.weights["cuts"].copy_(self._marginal_cuts(value).expand(self.members, -1, -1))

        for e in range(self.members):
            weight = -torch.rand(len(raw), 1, device=x.device, dtype=raw.dtype).log()
            phi, seen = self.features(x[sample].double())
            seen = seen * weight.sqrt()
            together = seen.mT @ seen
            correlation = ((phi * seen).mT @ (phi * seen)) / together.clamp(min=1.0)
            correlation = correlation * (together / (together + 5.0))  # pairs hardly ever seen together say little
            values, axes = torch.linalg.eigh(correlation)
            k = min(self.latent, len(values))
            rest = values[:-k].clamp(min=0.0).mean() if len(values) > k else values.new_tensor(0.1)
            axes = axes[:, -k:] * (values[-k:] - rest).clamp(min=1e-2).sqrt()  # (F, k)
            noise = (1 - axes.square().sum(1)).clamp(0.05, 1.0)
            self.weights["loadings"][e, :, :k] = (worth.unsqueeze(1) * axes).to(self.centre)
            self.weights["experts"][e, :, :k] = axes.to(self.centre)
            self.weights["log_precision"][e] = -noise.log().to(self.centre)
            if real:
                self.weights["log_scale"][e] = (noise[:real].sqrt() * spread[:real]).log().to(self.centre)

    def _marginal_cuts(self, x: Tensor) -> Tensor:
        """The cut-points that fit each ordinal column by itself, in the form of the parameter."""
        first = self.sizes["real"] + self.sizes["count"] + self.sizes["binary"]
        code = x.index_select(-1, self.order[first : first + self.sizes["ordinal"]])
        n = (~torch.isnan(code)).sum(0)
        k = torch.arange(max(1, self.levels - 1), device=x.device)
        below = (code.unsqueeze(-1) <= k).sum(0) + 0.5 * (k + 1)
        cuts = (below / (n + 0.5 * self.levels + 0.5).unsqueeze(-1)).clamp(0.01, 0.99).logit()
        gaps = cuts.diff(dim=-1).clamp(min=0.05)
        return torch.cat([cuts[:, :1], gaps + torch.log(-torch.expm1(-gaps))], -1)  # softplus gives the gaps

    # ------------------------------------------------------------------------------------------------------------------
    # Imputing

    def complete(self, x: Tensor, draws: int, *, seeds: Tensor) -> Tensor:
        out = x.expand(draws, *x.shape).clone()
        for rows, row_x in self._incomplete(x):
            noise = self._latent_noise(seeds[rows])
            missing = torch.isnan(row_x)
            for e in range(min(self.members, draws)):
                mine = torch.arange(e, draws, self.members, device=x.device)
                size, width = len(mine), x.shape[1]
                with self._double(e):
                    inputs = self.inputs(row_x)
                    z, log_weight = self._weigh(inputs, noise)
                    total = log_weight.mT.softmax(-1).cumsum(-1).contiguous()  # (n, L)
                    u = uniforms(seeds[rows], size, stream=2 * e + 1)
                    index = torch.searchsorted(total, u * total[:, -1:]).clamp(max=len(z) - 1)
                    picked = z[index.mT, torch.arange(len(row_x), device=x.device)]  # (S, n, K)
                    cells = self.cells(picked, *inputs)
                    k = cells.uniforms_per_entry
                    v = uniforms(seeds[rows], size * width * k, stream=2 * e + 2)
                    value = cells.from_uniforms(v.unflatten(-1, (size, width, k)).movedim(1, 0))
                out[mine.unsqueeze(1), rows] = torch.where(missing, _settle(value), row_x).to(out.dtype)
        return out

    def cell_log_prob(self, x: Tensor, values: Tensor) -> Tensor:
        asked = ~torch.isnan(values)
        out = torch.full_like(values, torch.nan)
        for rows, row_x in self._incomplete(x, asked.any(1)):
            wanted = values[rows].nan_to_num().double()
            terms = []
            for e in range(self.members):
                with self._double(e):
                    inputs = self._scored_inputs(row_x, values[rows])
                    z, log_weight = self._weigh(inputs, self._latent_noise(None))
                    log_prob = self.cells(z, *inputs).log_prob(wanted)  # (L, n, D)
                    terms.append((log_weight.log_softmax(0).unsqueeze(-1) + log_prob).logsumexp(0))
            log_prob = torch.stack(terms).logsumexp(0) - math.log(self.members)
            out[rows] = torch.where(asked[rows], log_prob, torch.nan).to(out.dtype)
        return out

    def _scored_inputs(self, x: Tensor, values: Tensor) -> tuple[Tensor, ...]:
        return self.inputs(x)

    def cell_mean(self, x: Tensor) -> Tensor:
        out = x.clone()
        for rows, row_x in self._incomplete(x):
            means, probs = [], []
            for e in range(self.members):
                with self._double(e):
                    inputs = self.inputs(row_x)
                    z, log_weight = self._weigh(inputs, self._latent_noise(None))
                    weight = log_weight.softmax(0)  # (L, n)
                    cells = self.cells(z, *inputs)
                    means.append((weight.unsqueeze(-1) * cells.mean).sum(0))
                    if isinstance(cells, MixedColumns):
                        probs.append((weight[..., None, None] * cells.probs).sum(0))
            mean = torch.stack(means).mean(0)
            if probs and self.depths:
                columns = self.order[-len(self.depths) :]
                mean[:, columns] = torch.stack(probs).mean(0).argmax(-1).to(mean)
            out[rows] = torch.where(torch.isnan(row_x), _settle(mean), row_x).to(out.dtype)
        return out

    def row_khat(self, x: Tensor) -> Tensor:
        """How far the importance weights of rows can be trusted: the largest Pareto shape among the members.

        Arguments:
            x: Rows with shape :math:`(N, D)`.

        Returns:
            The shapes k, with shape :math:`(N)`: below 0.7 they can, see :func:`pyro_gen.inference.psis_khat`.
        """
        out = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for rows, row_x in self._incomplete(x, torch.ones_like(out, dtype=torch.bool)):
            for e in range(self.members):
                with self._double(e):
                    _, log_weight = self._weigh(self.inputs(row_x), self._latent_noise(None))
                out[rows] = torch.maximum(out[rows], psis_khat(log_weight))
        return out

    def _incomplete(self, x: Tensor, which: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Indices and values of rows with missing entries, or of those asked for, as many as memory suits."""
        rows = (torch.isnan(x).any(1) if which is None else which).nonzero().squeeze(1)
        entries = self.numbers_per_entry * len(self.columns)
        widths = (self.latent, *self.decoder_sizes, entries, len(self.depths) * self.levels)
        for chunk in row_chunks(len(rows), rows_per_chunk(self.particles * max(widths), x.device)):
            yield rows[chunk], x[rows[chunk]]

    @contextmanager
    def _double(self, e: int) -> Iterator[None]:
        # In double precision: BLAS sums in another order for a row alone, and a draw must not turn over for that.
        with (
            torch.no_grad(),
            pyro.validation_enabled(False),
            self.at({n: p[e].double() for n, p in self.weights.items()}),
        ):
            yield

    def _latent_noise(self, seeds: Tensor | None) -> Tensor:
        """Standard normal numbers with shape (L, n, K), the same for all rows (L, 1, K) where there are no seeds."""
        if seeds is None:
            seeds = torch.zeros(1, dtype=torch.long, device=self.order.device)
        noise = normals(seeds, self.particles * self.latent).reshape(-1, self.particles, self.latent)
        return noise.movedim(1, 0)

    def _weigh(self, inputs: tuple[Tensor, ...], noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draws latent variables from the guide with a tenth of the prior: (L, n, K), and log-weights (L, n)."""
        x = inputs[0].double()
        posterior = self.posterior(x, *inputs[1:])
        few = math.ceil(FROM_PRIOR * self.particles) if self.particles > 1 else 0
        from_prior, noise = noise.expand(-1, len(x), -1).split([few, self.particles - few])
        from_guide = posterior.loc + torch.einsum("nij,lnj->lni", posterior.scale_tril, noise)
        z = torch.cat([from_prior, from_guide])
        share = few / self.particles
        log_guide = posterior.log_prob(z) + math.log1p(-share)
        log_proposal = torch.logaddexp(log_guide, self.prior().log_prob(z) + math.log(share)) if few else log_guide

        def log_joint(z: Tensor) -> Tensor:
            with no_completion(), assume_missing(True), fixed({"z": z}):
                trace = pyro.poutine.trace(self.model).get_trace(x, *inputs[1:])
            return torch.stack([per_datum_log_prob(site) for site in sample_sites(trace).values()]).sum(0)

        return z, torch.vmap(log_joint)(z) - log_proposal


def _settle(value: Tensor) -> Tensor:
    """Drops the last digits, in which a row alone may differ from the same row in a batch."""
    return value.float().double()


class DeepLatentTable(LatentEnsemble):
    r"""Creates a deep latent-variable model of mixed columns.

    Arguments:
        columns: The D columns, as the working scale has them.
        latent: The number K of latent dimensions; a third of the number of features by default, 16 at most.
        hidden: The widths of the decoder's hidden layers; ``()`` leaves the linear part alone.
        members: The number E of members of the ensemble.
        particles: Latent draws of each member for a row, in imputation.
        steps: Gradient steps of the training, at most.
        real: The likelihood of real columns, ``"student_t"`` (with a scale that depends on :math:`z` where there is a
            network) or ``"normal"``.

    Raises:
        ValueError: A size is not positive, there is no such likelihood, or as by :class:`TableProgram`.

    Example:
        >>> columns = [Column("height", "real"), Column("visits", "count"), Column("smokes", "binary", ("no", "yes"))]
        >>> program = DeepLatentTable(columns)
        >>> program.model(torch.full((5, 3), torch.nan)).shape  # five generated rows
        torch.Size([5, 3])
    """

    KINDS: ClassVar[frozenset[str]] = frozenset(("real", "count", "binary", "nominal", "ordinal"))

    def __init__(
        self,
        columns: Sequence[Column],
        latent: int | None = None,
        hidden: Sequence[int] = (32,),
        members: int = 5,
        particles: int = 200,
        steps: int = STEPS,
        real: str = "student_t",
    ) -> None:
        if real not in ("student_t", "normal"):
            raise ValueError(f'DeepLatentTable(real={real!r}): give "student_t" or "normal".')
        number = sum(column.kind == "real" for column in columns)
        super().__init__(columns, latent, hidden, members, particles, steps, noise_features=number)
        self.real = real
        if number and real == "student_t":
            self.weights["log_df"] = nn.Parameter(torch.full((members, number), 2.0))

    @classmethod
    def automatic(cls, columns: int, observed: int) -> bool:
        return observed >= 20_000  # of fewer entries a network learns little that others do not, and takes its time

    def inputs(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x,)

    def log_prior(self, decay: Tensor) -> Tensor:
        log_prior = super().log_prior(decay)
        w = self._weights()
        if "log_df" in w:  # 3 + 7 degrees of freedom, within a factor of e
            log_prior = log_prior - 0.5 * (w["log_df"] - 2.0).square().sum()
        if "log_size" in w:
            log_prior = log_prior - 0.125 * (w["log_size"] - 1.0).square().sum()
        return log_prior

    def model(self, x: Tensor, *context: Any) -> Tensor:
        """The joint density :math:`p(x, z)` of rows with shape :math:`(N, D)`; returns them completed."""
        with self.plate(x):
            z = pyro.sample("z", self.prior())  # (N, K)
            cells: Any = self.cells(z, x)
            return observe("x", cells.to_event(1), x)

    def cells(self, z: Tensor, x: Tensor, *context: Tensor) -> MixedColumns:
        r"""The likelihoods :math:`p_d(x_d \mid z)` of all columns."""
        w = self._weights()
        h, noise = self.decode(z)
        loc, log_mean, code, level = h.split(self._feature_sizes(), -1)
        log_scale = w["log_scale"] if "log_scale" in w else h.new_zeros(0)
        scale = LEAST_SCALE + (log_scale + noise if self.decoder_sizes else log_scale).clamp(max=5.0).exp()
        return MixedColumns(
            loc,
            scale.expand_as(loc),
            3 + w["log_df"].clamp(max=8.0).exp() if "log_df" in w else None,
            torch.minimum(log_mean.clamp(min=-10.0), self.ceiling.to(log_mean)),
            w["log_size"].clamp(-4.0, 8.0) if "log_size" in w else h.new_zeros(0),
            self._level_logits(code, level),
            self.order,
        )

    def _level_logits(self, code: Tensor, level: Tensor) -> Tensor:
        """Logits of binary, ordinal and nominal columns, with shape (*, G, L)."""
        depth = torch.tensor(self.depths, dtype=torch.long, device=code.device).unsqueeze(-1)
        absent = torch.arange(self.levels, device=code.device) >= depth  # (G, L)
        binary, ordinal = code.split([self.sizes["binary"], self.sizes["ordinal"]], -1)
        parts = [F.pad(torch.stack([torch.zeros_like(binary), binary], -1), (0, self.levels - 2))]
        if self.sizes["ordinal"]:
            raw = self._weights()["cuts"]
            gaps = 1e-3 + F.softplus(raw[:, 1:])
            cuts = torch.cat([raw[:, :1], raw[:, :1] + gaps.cumsum(-1)], -1)  # (O, L - 1)
            mine = absent[self.sizes["binary"] :][: self.sizes["ordinal"]]
            cuts = cuts.masked_fill(mine[:, 1:], -NO_LEVEL)  # the last level has no upper cut-point
            upper, lower = F.pad(cuts, (0, 1), value=-NO_LEVEL), F.pad(cuts, (1, 0), value=NO_LEVEL)
            inner = torch.log(-torch.expm1((lower - upper).masked_fill(mine, -1.0)))
            eta = ordinal.unsqueeze(-1)
            parts.append(F.logsigmoid(upper - eta) + F.logsigmoid(eta - lower) + inner)
        if self.sizes["nominal"]:
            parts.append(level.index_select(-1, self.nominal_at.flatten()).unflatten(-1, self.nominal_at.shape))
        return torch.cat(parts, -2).masked_fill(absent, NO_LEVEL)
