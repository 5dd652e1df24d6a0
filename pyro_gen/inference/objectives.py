r"""What training minimises: negative bounds on the log-likelihood :math:`\log p(x_{1:N})`, in nats.

With particles :math:`z_k \sim q(z \mid x)` and weights :math:`w_k = p(x, z_k) / q(z_k \mid x)`,

.. math::
    \text{ELBO} = \mathbb{E} \big[ \log w_1 \big], \qquad
    \text{IWAE}_K = \mathbb{E} \Big[ \log \tfrac{1}{K} \sum_k w_k \Big], \qquad
    \text{Renyi}_\alpha = \tfrac{1}{1 - \alpha} \, \mathbb{E} \Big[ \log \tfrac{1}{K} \sum_k w_k^{1 - \alpha} \Big] .

An objective is a module whose :meth:`~Objective.loss` returns a differentiable scalar; what is traced inside is the
program's guide, then its model with the guide's latent variables. On a minibatch, inside
:class:`~pyro_gen.program.data_size`, the loss is an unbiased estimate of that of the full data set.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.poutine.trace_struct import Trace
from torch import Tensor, nn
from torch.distributions import kl_divergence
from torch.utils._pytree import tree_map

from pyro_gen._random import vmap_draws
from pyro_gen.density.finite import finite_sites
from pyro_gen.density.missing import active, latent_missing
from pyro_gen.inference.traces import proposed_by_model, trace_model, trace_pair
from pyro_gen.program import Program, data_scale, data_size, fixed
from pyro_gen.registry import objective
from pyro_gen.traces import is_local, per_datum_log_prob, sample_sites, site_log_prob

__all__ = ["ELBO", "IWAE", "DReG", "EnumELBO", "Objective", "Renyi", "ScoreFunctionELBO"]


def _with_latent_missing(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(loss)
    def wrapper(self: "Objective", program: Program, x: Tensor, *context: Any, **options: Any) -> Tensor:
        with latent_missing(program, x, *context):
            return loss(self, program, x, *context, **options)

    return wrapper


class Objective(nn.Module):
    """A negative bound on the log-likelihood of data under a program.

    Attributes:
        traceable: Whether the loss is a pure function of parameters and data, so that :func:`pyro_gen.fit` may turn
            it into a graph.
        anneals: Whether ``kl_weight`` means something to this objective.
        kinds: The kinds of density that it is right for, see :class:`~pyro_gen.traces.Structure`: of an
            ``"unnormalised"`` or an ``"implicit"`` one a bound is none.
    """

    traceable = True
    anneals = True
    kinds: tuple[str, ...] = ("exact", "bound")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "loss" in cls.__dict__:
            cls.loss = _with_latent_missing(cls.__dict__["loss"])  # type: ignore[method-assign]

    def loss(self, program: Program, x: Tensor, *context: Any, kl_weight: Tensor | float = 1.0) -> Tensor:
        r"""Computes the loss.

        In a subclass it runs with missing entries that feed a later density as latent variables, see
        :mod:`pyro_gen.density.missing`.

        Arguments:
            program: The program.
            x: The data, with shape :math:`(N, *)`, NaN where nothing was observed.
            context: What the program conditions on.
            kl_weight: Multiplies :math:`\log q(z) - \log p(z)` (KL annealing); 1 for the bound itself.

        Returns:
            A scalar, the negative bound in nats of the full data set.
        """
        raise NotImplementedError


def resolve_objective(program: Program, objective: Objective | None) -> Objective:
    """The objective that is given, else the program's own, else the ELBO.

    Raises:
        TypeError: It is no objective.
    """
    objective = objective or getattr(program, "objective", None) or ELBO()
    if not isinstance(objective, Objective):
        raise TypeError(f"objective={objective!r}: give an objective such as ELBO() or IWAE(10), from pg.inference.")
    return objective


def latent_sites(model_trace: Trace, guide_trace: Trace) -> dict[str, tuple[Any | None, Any]]:
    """Pairs the latent sites of model and guide, in the order of the model.

    An autoguide draws unconstrained auxiliary variables and makes the latent ones from them, as ``Delta`` sites whose
    log-density is the Jacobian. The auxiliary sites come last, paired with ``None``.

    Raises:
        ValueError: A site stands in only one of them.
    """
    model = {n: s for n, s in sample_sites(model_trace).items() if not s["is_observed"]}
    guide = {n: s for n, s in sample_sites(guide_trace).items() if not s["is_observed"]}
    auxiliary = {n for n, s in guide.items() if s["infer"].get("is_auxiliary")}
    if missing := [n for n in model if n not in guide]:
        raise ValueError(
            f"The model samples {', '.join(map(repr, missing))} but the guide does not: sample every latent variable "
            "in the guide too, or sum a discrete one out with EnumELBO."
        )
    if extra := [n for n in guide if n not in model and n not in auxiliary]:
        raise ValueError(
            f"The guide samples {', '.join(map(repr, extra))} but the model does not: remove the site, or mark it "
            "with infer={'is_auxiliary': True}."
        )
    unmatched = {n: (None, guide[n]) for n in guide if n not in model}
    if unmatched and not any(_is_delta(guide[n]) for n in model):
        raise ValueError(
            f"The guide's auxiliary sites {', '.join(map(repr, unmatched))} have no density to score them against, "
            "since no latent variable is a function (a Delta site) of them: write the guide without them."
        )
    return {n: (model[n], guide[n]) for n in model} | unmatched


def _is_delta(site: Any) -> bool:
    fn = site["fn"]
    while isinstance(fn, torch.distributions.Independent | dist.MaskedDistribution):
        fn = fn.base_dist
    return isinstance(fn, dist.Delta)


def _log_ratio(p: Any | None, q: Any, log_prob: Callable[[Any], Tensor]) -> Tensor:
    """The log-density of a latent site in the model over that in the guide; an auxiliary site has only the latter."""
    return -log_prob(q) if p is None else log_prob(p) - log_prob(q)


def _observed_sites(model_trace: Trace) -> list[Any]:
    sites = sample_sites(model_trace).values()
    return [s for s in sites if s["is_observed"] and not s["infer"].get("_deterministic")]


def _require_proposals(guide_trace: Trace) -> None:
    """Refuses draws of the model in the place of a guide's: the bound of one draw is too loose to train by."""
    if name := proposed_by_model(guide_trace):
        raise ValueError(
            f"observe('{name}'): its completed value feeds a later density, so its missing entries are latent "
            f"variables, which the guide has to sample: sample '{name}.missing' in the guide, inside the data plate, "
            "with the shape of the value; or use IWAE(50), for which many draws of the model itself do; or leave out "
            f"rows without '{name}'."
        )


def _require_reparameterised(guide_trace: Trace) -> None:
    for name, site in sample_sites(guide_trace).items():
        if not site["is_observed"] and not site["fn"].has_rsample:
            raise ValueError(
                f"Site '{name}' ({type(site['fn']).__name__}) cannot be reparameterised, its gradient would be wrong: "
                "use ScoreFunctionELBO, or EnumELBO for an enumerable discrete site."
            )


@objective
class ELBO(Objective):
    r"""The evidence lower bound, :math:`\mathbb{E}_q[\log p(x \mid z)] - \mathrm{KL}(q(z \mid x) \,\|\, p(z))`.

    The divergence of a site is taken in closed form where one is known and the model conditions the site only on
    what the guide samples before it; otherwise it is estimated by the same draws.

    References:
        | Auto-Encoding Variational Bayes (Kingma & Welling, 2014)
        | https://arxiv.org/abs/1312.6114
        | Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016), free bits
        | https://arxiv.org/abs/1606.04934

    Arguments:
        num_particles: Draws per datum; more of them lower the variance of the gradient.
        analytic_kl: Whether to use closed-form divergences.
        free_bits: Nats per latent dimension below which the divergence, averaged over the minibatch, is not pushed in
            training; in evaluation mode the loss is the bound. Where the divergence is not known per dimension, the
            dimensions of a site share their nats.
    """

    everything = False  # whether all discrete latent variables that the guide does not sample are summed out

    def __init__(self, num_particles: int = 1, analytic_kl: bool = True, free_bits: float = 0.0) -> None:
        super().__init__()
        self.num_particles, self.analytic_kl, self.free_bits = _positive(num_particles), analytic_kl, free_bits

    def loss(self, program: Program, x: Tensor, *context: Any, kl_weight: Tensor | float = 1.0) -> Tensor:
        def particle() -> Tensor:
            model_trace, guide_trace = trace_pair(program, x, *context, everything=self.everything)
            _require_proposals(guide_trace)
            _require_reparameterised(guide_trace)
            divergence = self._divergence(model_trace, guide_trace)
            log_likelihood = torch.stack([site_log_prob(s).sum() for s in _observed_sites(model_trace)]).sum()
            return kl_weight * divergence - log_likelihood

        return _over_particles(particle, self.num_particles).mean()

    def _divergence(self, model_trace: Trace, guide_trace: Trace) -> Tensor | float:
        latents = latent_sites(model_trace, guide_trace)
        guide_order = [n for n in sample_sites(guide_trace) if n in latents]
        total: Tensor | float = 0.0
        for i, (name, (p, q)) in enumerate(latents.items()):
            before_in_model = set(list(latents)[:i])
            before_in_guide = set(guide_order[: guide_order.index(name)])
            divergence = None
            if self.analytic_kl and p is not None and before_in_model <= before_in_guide:
                divergence = _analytic_kl(p, q, self.free_bits > 0)
            if divergence is None:
                divergence = -_log_ratio(p, q, site_log_prob)
            total = total + self._freed(divergence, q)
        return total

    def _freed(self, divergence: Tensor, site: Any) -> Tensor:
        if self.free_bits == 0 or not self.training or not is_local(site):
            return divergence.sum()
        # divergence: (*batch, *event) when it is known per dimension, else (*batch)
        rows = divergence.reshape(site["fn"].batch_shape.numel(), -1)  # (N, dimensions)
        floor = self.free_bits * site["scale"] * (site["fn"].event_shape.numel() / rows.shape[1])
        return rows.mean(0).clamp(min=floor).sum() * len(rows)


def _analytic_kl(p: Any, q: Any, per_dimension: bool) -> Tensor | None:
    """KL(q || p) of a site with its batch shape (and event shape, if asked and known), or None if not closed-form."""
    if p["mask"] is not None or q["mask"] is not None or not _same(p["scale"], q["scale"]):
        return None
    if _is_delta(q):  # Pyro's closed form leaves out the Delta's own log-density, an autoguide's Jacobian
        return None
    p_fn, q_fn = p["fn"], q["fn"]
    if (
        per_dimension
        and isinstance(p_fn, torch.distributions.Independent)
        and isinstance(q_fn, torch.distributions.Independent)
        and p_fn.reinterpreted_batch_ndims == q_fn.reinterpreted_batch_ndims
    ):
        p_fn, q_fn = p_fn.base_dist, q_fn.base_dist
    try:
        return kl_divergence(q_fn, p_fn) * q["scale"]  # type: ignore[no-any-return]
    except NotImplementedError:
        return None


def _same(a: Any, b: Any) -> bool:
    return not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b


# ----------------------------------------------------------------------------------------------------------------------
# Bounds from several particles


@objective
class Renyi(Objective):
    r"""The Renyi (:math:`\alpha`) bound: the ELBO at :math:`\alpha \to 1`, IWAE at :math:`\alpha = 0`.

    In expectation it is a lower bound for :math:`\alpha \geq 0`; for :math:`\alpha < 0` the limit
    :math:`K \to \infty` is an upper bound.

    References:
        | Renyi Divergence Variational Inference (Li & Turner, 2016)
        | https://arxiv.org/abs/1602.02311

    Arguments:
        alpha: The order :math:`\alpha \neq 1`.
        num_particles: The number of particles :math:`K`.
    """

    def __init__(self, alpha: float, num_particles: int) -> None:
        super().__init__()
        if alpha == 1:
            raise ValueError("The Renyi bound of order 1 is the ELBO: use ELBO().")
        self.alpha, self.num_particles = alpha, _positive(num_particles)

    def loss(self, program: Program, x: Tensor, *context: Any, kl_weight: Tensor | float = 1.0) -> Tensor:
        def particle() -> Tensor:
            with data_size(len(x)):
                model_trace, guide_trace = trace_pair(program, x, *context)
            if self.alpha != 0 or self.num_particles == 1:
                _require_proposals(guide_trace)
            _require_reparameterised(guide_trace)
            return _log_weight(model_trace, guide_trace, kl_weight)

        log_w = _over_particles(particle, self.num_particles)  # (K, N)
        power = 1 - self.alpha
        bound = (torch.logsumexp(power * log_w, 0) - math.log(self.num_particles)) / power  # (N,)
        return -data_scale(x) * bound.sum()


@objective
class IWAE(Renyi):
    r"""The importance-weighted bound; it rises with :math:`K` to :math:`\log p(x)`.

    References:
        | Importance Weighted Autoencoders (Burda, Grosse & Salakhutdinov, 2016)
        | https://arxiv.org/abs/1509.00519

    Arguments:
        num_particles: The number of particles :math:`K`.
    """

    def __init__(self, num_particles: int) -> None:
        super().__init__(0.0, num_particles)


@objective
class DReG(Objective):
    r"""The IWAE bound with the doubly reparameterised gradient, whose guide signal does not vanish as K grows.

    With :math:`\tilde w_k = w_k / \sum_j w_j` the model's gradient is
    :math:`\sum_k \tilde w_k \nabla_\theta \log w_k` as in IWAE, the guide's
    :math:`\sum_k \tilde w_k^2 \, \partial_z \log w_k \, \nabla_\phi z_k`.

    References:
        | Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives (Tucker et al., 2019)
        | https://arxiv.org/abs/1810.04152

    Arguments:
        num_particles: The number of particles :math:`K`.

    Raises:
        ValueError: The program has dropout at work: the guide that draws and the one that is scored would differ.
    """

    anneals = False

    def __init__(self, num_particles: int) -> None:
        super().__init__()
        self.num_particles = _positive(num_particles)

    def loss(self, program: Program, x: Tensor, *context: Any, kl_weight: Tensor | float = 1.0) -> Tensor:
        for name, layer in program.named_modules():
            if isinstance(layer, nn.modules.dropout._DropoutNd) and layer.training and layer.p > 0:
                raise ValueError(f"DReG runs the guide twice, and '{name}' drops other units each time: use IWAE.")
        frames: dict[str, int] = {}  # name -> dimension of the data in the site's value, counted from the right

        def draw() -> dict[str, Tensor]:
            _, guide_trace = trace_pair(program, x, *context)
            _require_proposals(guide_trace)
            _require_reparameterised(guide_trace)
            sites = {n: s for n, s in sample_sites(guide_trace).items() if not s["is_observed"]}
            for name, site in sites.items():
                frame = next((f for f in site["cond_indep_stack"] if f.name == "data"), None)
                if frame is None:
                    raise _global_latent_error(name)
                frames[name] = frame.dim - site["fn"].event_dim
            return {n: s["value"] for n, s in sites.items()}

        def weigh(z: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            with data_size(len(x)), fixed(z):
                guide_trace = pyro.poutine.trace(program.guide).get_trace(x, *context)
                model_trace = trace_model(program, guide_trace, x, *context)
            joint = [s for s in sample_sites(model_trace).values() if not s["infer"].get("_deterministic")]
            log_p = torch.stack([per_datum_log_prob(s) for s in joint]).sum(0)
            return _log_weight(model_trace, guide_trace, 1.0), log_p

        draws: dict[str, Tensor] = _vmapped(draw, self.num_particles)
        z = {n: v.detach().requires_grad_() for n, v in draws.items()}
        log_w, log_p = _vmapped(weigh, self.num_particles, z)  # (K, N) each
        slopes = torch.autograd.grad(  # of log w along the draws, the parameters being constants
            log_w.sum(), list(z.values()), retain_graph=True, allow_unused=True, materialize_grads=True
        )
        weights = torch.softmax(log_w, 0).detach()
        surrogate: Tensor = (weights * log_p).sum()
        for (name, value), slope in zip(draws.items(), slopes, strict=True):
            squared = _align(weights.square(), value.dim(), frames[name])
            surrogate = surrogate + (squared * slope.detach() * value).sum()
        bound = (torch.logsumexp(log_w, 0) - math.log(self.num_particles)).sum().detach()
        return -data_scale(x) * (surrogate - surrogate.detach() + bound)


def _align(weights: Tensor, dims: int, data_dim: int) -> Tensor:
    """Reshapes weights (K, N) to ``dims`` dimensions with the particles first and the data at ``data_dim``."""
    shape = [1] * dims
    shape[0], shape[data_dim] = weights.shape
    return weights.reshape(shape)


def _log_weight(model_trace: Trace, guide_trace: Trace, kl_weight: Tensor | float) -> Tensor:
    """Log w_n = log p(x_n | z_n) + kl_weight (log p(z_n) - log q(z_n | x_n)), with shape (N,)."""
    log_likelihood, log_ratio = local_log_weight(model_trace, guide_trace)
    return log_likelihood + kl_weight * log_ratio


def local_log_weight(model_trace: Trace, guide_trace: Trace) -> tuple[Tensor, Tensor | float]:
    """The two parts of the log importance weight of each datum, for programs with local latent variables.

    Returns:
        log p(x_n | z_n) and log p(z_n) - log q(z_n | x_n), each with shape :math:`(N,)`, in nats.

    Raises:
        ValueError: The program has a global latent variable, whose weight does not split over the data.
    """
    log_ratio: Tensor | float = 0.0
    for name, (p, q) in latent_sites(model_trace, guide_trace).items():
        if not is_local(q):
            raise _global_latent_error(name)
        log_ratio = log_ratio + _log_ratio(p, q, per_datum_log_prob)
    log_likelihood = torch.stack([per_datum_log_prob(s) for s in _observed_sites(model_trace)]).sum(0)
    return log_likelihood, log_ratio


def _global_latent_error(name: str) -> ValueError:
    return ValueError(
        f"Site '{name}' is global (outside the data plate): a bound of several particles per datum needs local latent "
        "variables only. Use ELBO for training."
    )


# ----------------------------------------------------------------------------------------------------------------------
# Discrete latent variables


@objective
class ScoreFunctionELBO(Objective):
    r"""The ELBO with score-function gradients where a guide's site cannot be reparameterised.

    With the learning signal :math:`f_n`, all terms of the ELBO that datum :math:`n` enters, a non-reparameterisable
    local site contributes :math:`(f_n - b) \nabla \log q(z_n \mid x_n)`; a global one takes the whole ELBO as its
    signal. The control variate :math:`b` does not depend on the current draw, so the gradient stays unbiased.

    References:
        | Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning (Williams, 1992)
        | Neural Variational Inference and Learning in Belief Networks (Mnih & Gregor, 2014), the neural baseline
        | https://arxiv.org/abs/1402.0030

    Arguments:
        baseline: ``"decaying_average"`` of past signals, a network that maps ``x`` to shape :math:`(N,)` (trained
            along by least squares), or ``None``.
        decay: The decay of the average.
        num_particles: Draws per datum.
    """

    traceable = False  # the average is state
    anneals = False
    average: Tensor
    started: Tensor

    def __init__(
        self, baseline: str | nn.Module | None = "decaying_average", decay: float = 0.9, num_particles: int = 1
    ) -> None:
        super().__init__()
        if isinstance(baseline, str) and baseline != "decaying_average":
            raise ValueError(f'baseline={baseline!r}: give "decaying_average", a network or None.')
        self.baseline, self.decay, self.num_particles = baseline, decay, _positive(num_particles)
        self.register_buffer("average", torch.zeros(()))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def loss(self, program: Program, x: Tensor, *context: Any, kl_weight: Tensor | float = 1.0) -> Tensor:
        losses = [self._particle(program, x, *context) for _ in range(self.num_particles)]
        return torch.stack(losses).mean()

    def _particle(self, program: Program, x: Tensor, *context: Any) -> Tensor:
        scale = data_scale(x)
        with data_size(len(x)):
            model_trace, guide_trace = trace_pair(program, x, *context)
        _require_proposals(guide_trace)
        latents = latent_sites(model_trace, guide_trace)
        local: Tensor = x.new_zeros(len(x))
        global_ = x.new_zeros(())
        for p, q in latents.values():
            if is_local(q):
                local = local + _log_ratio(p, q, per_datum_log_prob)
            else:
                global_ = global_ + _log_ratio(p, q, lambda site: site_log_prob(site).sum())
        for site in _observed_sites(model_trace):
            if is_local(site):
                local = local + per_datum_log_prob(site)
            else:
                global_ = global_ + site_log_prob(site).sum()
        elbo = scale * local.sum() + global_

        baseline = self._baseline(x)  # () or (N,)
        surrogate = x.new_zeros(())
        for _, q in latents.values():
            if q["fn"].has_rsample:
                continue
            if is_local(q):
                surrogate = surrogate + scale * ((local - baseline).detach() * per_datum_log_prob(q)).sum()
            else:
                signal = elbo - scale * baseline.expand(len(x)).sum()
                surrogate = surrogate + signal.detach() * site_log_prob(q).sum()
        if isinstance(self.baseline, nn.Module):
            surrogate = surrogate - (local.detach() - baseline).square().sum()
        elif self.baseline is not None and self.training:
            self._update_average(local.detach().mean())
        return -(elbo + surrogate - surrogate.detach())

    def _baseline(self, x: Tensor) -> Tensor:
        if isinstance(self.baseline, nn.Module):
            value: Tensor = self.baseline(x)
            if value.shape != (len(x),):
                raise ValueError(f"The baseline network returns shape {tuple(value.shape)}, not {(len(x),)}.")
            return value
        return self.average.clone()

    def _update_average(self, signal: Tensor) -> None:
        decay = self.decay if self.started else 0.0
        self.average.mul_(decay).add_((1 - decay) * signal)
        self.started.fill_(True)


@objective
class _SummedELBO(ELBO):
    everything = True


class EnumELBO(Objective):
    """The ELBO with discrete latent variables summed out exactly, by Pyro's parallel enumeration.

    A discrete site in the model alone is marginalised; one in the guide too is averaged over its whole support.

    References:
        | Pyro: Deep Universal Probabilistic Programming (Bingham et al., 2019), ``TraceEnum_ELBO``
        | https://jmlr.org/papers/v20/18-403.html

    Arguments:
        max_plate_nesting: The number of nested plates of the model, 1 for the data plate alone.
        num_particles: Draws of the sites that are not enumerated.
        expand: Whether the values of an enumerated site have the full shape of its plates, for models that need it.
    """

    traceable = False
    anneals = False

    def __init__(self, max_plate_nesting: int = 1, num_particles: int = 1, expand: bool = False) -> None:
        super().__init__()
        self.expand = expand
        self._by_runs = _SummedELBO(num_particles, analytic_kl=False)
        self._elbo = TraceEnum_ELBO(max_plate_nesting=max_plate_nesting, num_particles=_positive(num_particles))

    def loss(self, program: Program, x: Tensor, *context: Any, kl_weight: Tensor | float = 1.0) -> Tensor:
        handler = active(program)
        if handler is not None and handler.names:
            with torch.no_grad():
                guide = pyro.poutine.trace(program.guide).get_trace(x, *context)
            if not finite_sites(guide):
                # Completed values go into what the model returns, which is not written for values side by side.
                return self._by_runs.loss(program, x, *context)
        model, guide = (config_enumerate(f, expand=self.expand) for f in (program.model, program.guide))
        return self._elbo.differentiable_loss(model, guide, x, *context)  # type: ignore[no-any-return]


# ----------------------------------------------------------------------------------------------------------------------
# Particles


def _positive(num_particles: int) -> int:
    if num_particles < 1:
        raise ValueError(f"num_particles={num_particles}: at least one particle is needed.")
    return num_particles


def _vmapped(particle: Callable[..., Any], num_particles: int, *batched: Any) -> Any:
    """Runs a random function for many particles at once, each with draws of its own; outputs get a leading K."""
    with pyro.validation_enabled(False):  # validation looks at values, which vmap forbids
        try:
            return vmap_draws(particle, num_particles, *batched)
        except RuntimeError as error:
            if "setup_context" not in str(error):
                raise
        # Pyro's own gradients of Beta and Dirichlet draws cannot be vectorised: one particle after another.
        outs = [particle(*tree_map(lambda t, k=k: t[k], batched)) for k in range(num_particles)]
        return tree_map(lambda *leaves: torch.stack(leaves), *outs)


def _over_particles(particle: Callable[[], Tensor], num_particles: int) -> Tensor:
    if num_particles == 1:
        return particle().unsqueeze(0)
    return _vmapped(particle, num_particles)  # type: ignore[no-any-return]
