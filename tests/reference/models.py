"""Ten posteriors with reference draws, as Pyro models.

Data and reference moments are those of posteriordb (Magnusson et al., BSD-3 licence), one JSON file each in this
folder: means, standard deviations, mean squares and Monte Carlo errors of 10,000 nearly independent draws that Stan
made. The models are the Stan programs' own, in their parametrisation, written for vectors: each is a function of
tensors that any inference of Pyro takes. Sites bear the names of the reference's parameters.

Loaded by path, from the tests and from ``benchmarks/mcmc.py``.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import constraints
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import biject_to

FOLDER = Path(__file__).parent


def flat(*shape: int) -> dist.ImproperUniform:
    """The flat prior of a number, or of a vector of independent numbers."""
    return dist.ImproperUniform(constraints.real_vector if shape else constraints.real, (), shape)


def flat_positive() -> dist.ImproperUniform:
    return dist.ImproperUniform(constraints.positive, (), ())


# ----------------------------------------------------------------------------------------------------------------------
# The models


def eight_schools(y: Tensor, sigma: Tensor) -> None:
    """Rubin's hierarchical model of eight randomised trials, not centred."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", len(y)):
        theta_trans = pyro.sample("theta_trans", dist.Normal(0.0, 1.0))
        theta = pyro.deterministic("theta", mu + tau * theta_trans)
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def linear(x: Tensor, y: Tensor, sigma: Tensor, beta: Tensor) -> None:
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(x @ beta, sigma), obs=y)


def flat_regression(x: Tensor, y: Tensor) -> None:
    """Linear regression, everything flat."""
    beta = pyro.sample("beta", flat(x.shape[1]))
    linear(x, y, pyro.sample("sigma", flat_positive()), beta)


def half_flat_regression(x: Tensor, y: Tensor) -> None:
    """Linear regression, flat coefficients, half-Cauchy noise."""
    beta = pyro.sample("beta", flat(x.shape[1]))
    linear(x, y, pyro.sample("sigma", dist.HalfCauchy(2.5)), beta)


def proper_regression(x: Tensor, y: Tensor) -> None:
    """Linear regression, weakly informed."""
    beta = pyro.sample("beta", dist.Normal(0.0, 10.0).expand((x.shape[1],)).to_event(1))
    linear(x, y, pyro.sample("sigma", dist.HalfNormal(10.0)), beta)


def autoregression(lags: Tensor, y: Tensor) -> None:
    r"""AR(K): :math:`y_t \sim \mathcal{N}(\alpha + \sum_k \beta_k y_{t-k}, \sigma)`, the lagged series in columns."""
    alpha = pyro.sample("alpha", dist.Normal(0.0, 10.0))
    beta = pyro.sample("beta", dist.Normal(0.0, 10.0).expand((lags.shape[1],)).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(alpha + lags @ beta, sigma), obs=y)


def geometric_sums(x: Tensor, ratio: Tensor) -> Tensor:
    r"""Solves :math:`s_t = x_t + r s_{t-1}` in :math:`\log_2 T` steps, as :math:`\prod_j (1 + (rL)^{2^j}) x`."""
    shift = 1
    while shift < x.shape[-1]:
        x = x + ratio * F.pad(x[..., :-shift], (shift, 0))
        ratio, shift = ratio * ratio, 2 * shift
    return x


def garch(y: Tensor, sigma1: Tensor) -> None:
    r"""GARCH(1, 1), flat on the stationary region: the range of :math:`\beta_1` depends on :math:`\alpha_1`."""
    mu = pyro.sample("mu", flat())
    alpha0 = pyro.sample("alpha0", flat_positive())
    alpha1 = pyro.sample("alpha1", dist.Uniform(0.0, 1.0))
    beta1 = pyro.sample("beta1", dist.ImproperUniform(constraints.interval(0.0, 1.0 - alpha1), (), ()))
    garch_series(y, sigma1, mu, alpha0, alpha1, beta1)


def garch_series(y: Tensor, sigma1: Tensor, mu: Tensor, alpha0: Tensor, alpha1: Tensor, beta1: Tensor) -> None:
    news = alpha0 + alpha1 * (y[:-1] - mu).square()
    variance = geometric_sums(torch.cat([sigma1.square().reshape(1), news]), beta1)
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mu, variance.sqrt()), obs=y)


def garch_with_fixed_support(y: Tensor, sigma1: Tensor) -> None:
    """The same posterior for those who take the support of a site for a constant."""
    mu = pyro.sample("mu", flat())
    alpha0 = pyro.sample("alpha0", flat_positive())
    alpha1 = pyro.sample("alpha1", dist.Uniform(0.0, 1.0))
    share = pyro.sample("share", dist.Uniform(0.0, 1.0))
    beta1 = pyro.deterministic("beta1", share * (1.0 - alpha1))
    pyro.factor("flat", (1.0 - alpha1).log())
    garch_series(y, sigma1, mu, alpha0, alpha1, beta1)


def gaussian_process(x: Tensor, y: Tensor) -> None:
    """Regression with a squared-exponential kernel; sigma is the variance of the noise."""
    rho = pyro.sample("rho", dist.Gamma(25.0, 4.0))
    alpha = pyro.sample("alpha", dist.HalfNormal(2.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    squares = (x.unsqueeze(-1) - x).square()
    kernel = alpha.square() * (-0.5 * squares / rho.square()).exp() + sigma * torch.eye(len(x), dtype=x.dtype)
    pyro.sample("y", dist.MultivariateNormal(torch.zeros_like(x), covariance_matrix=kernel), obs=y)


def scaled_product(m: Tensor) -> tuple[Tensor, Tensor]:
    """A product of non-negative matrices (K, K, T) in log2 T rounds of pairs, and the logarithm of its scale."""
    log_scale = m.new_zeros(())
    while m.shape[-1] > 1:
        even = m.shape[-1] // 2 * 2
        pairs = (m[:, :, None, 0:even:2] * m[None, :, :, 1:even:2]).sum(1)
        size = pairs.detach().amax((0, 1))  # what is taken out here is put back there: no gradient
        m = torch.cat([pairs / size, m[..., even:]], -1)
        log_scale = log_scale + size.log().sum()
    return m[..., 0], log_scale


def hidden_markov(y: Tensor) -> None:
    """A Markov chain of two states that emits normal variables, the states summed out by the forward algorithm."""
    theta1 = pyro.sample("theta1", dist.ImproperUniform(constraints.simplex, (), (2,)))
    theta2 = pyro.sample("theta2", dist.ImproperUniform(constraints.simplex, (), (2,)))
    rises = pyro.sample("rises", dist.ImproperUniform(constraints.independent(constraints.positive, 1), (), (2,)))
    mu = pyro.deterministic("mu", rises.cumsum(-1))  # ordered and positive, with Jacobian 1
    pyro.factor("prior", dist.Normal(mu.new_tensor([3.0, 10.0]), 1.0).log_prob(mu).sum())
    emission = dist.Normal(mu.unsqueeze(-1), 1.0).log_prob(y)  # (state, T)
    size = emission.detach().amax(0)
    emitted = (emission - size).exp()
    transition = torch.stack([theta1, theta2])
    product, log_scale = scaled_product(transition.unsqueeze(-1) * emitted[:, 1:])
    pyro.factor("y", (emitted[:, :1] * product).sum().log() + log_scale + size.sum())


def mixture(y: Tensor) -> None:
    """Two normal components in a known order, the allocations summed out."""
    mu = pyro.sample("mu", dist.ImproperUniform(constraints.ordered_vector, (), (2,)))
    pyro.factor("prior", dist.Normal(0.0, 2.0).log_prob(mu).sum())
    sigma = pyro.sample("sigma", dist.HalfNormal(2.0).expand((2,)).to_event(1))
    theta = pyro.sample("theta", dist.Beta(5.0, 5.0))
    components = dist.Normal(mu.unsqueeze(-1), sigma.unsqueeze(-1)).log_prob(y)
    with pyro.plate("data", len(y)):
        pyro.factor("y", torch.logaddexp(theta.log() + components[0], (-theta).log1p() + components[1]))


# ----------------------------------------------------------------------------------------------------------------------
# Their data


def _columns(*columns: Tensor) -> Tensor:
    return torch.stack([torch.ones_like(columns[0]), *columns], -1)


def _autoregression_data(d: dict[str, Tensor]) -> tuple[Tensor, ...]:
    y, order = d["y"], int(d["K"])
    return torch.stack([y[order - k : len(y) - k] for k in range(1, order + 1)], -1), y[order:]


def _nes_data(d: dict[str, Tensor]) -> tuple[Tensor, ...]:
    ages = [(d["age_discrete"] == k).to(d["educ1"]) for k in (2, 3, 4)]
    x = _columns(d["real_ideo"], d["race_adj"], *ages, d["educ1"], d["gender"], d["income"])
    return x, d["partyid7"]


def _mesquite_data(d: dict[str, Tensor]) -> tuple[Tensor, ...]:
    sizes = ("diam1", "diam2", "canopy_height", "total_height", "density")
    return _columns(*(d[name].log() for name in sizes), d["group"]), d["weight"].log()


@dataclass(frozen=True)
class Posterior:
    """A model, its data and what is known of its posterior.

    Attributes:
        name: Its name in posteriordb.
        model: The Pyro model, a function of ``data()``.
        arrange: Makes the model's arguments of the entries of the file's data.
    """

    name: str
    model: Callable[..., None]
    arrange: Callable[[dict[str, Tensor]], tuple[Tensor, ...]]

    def _read(self, key: str) -> dict:
        return json.loads((FOLDER / f"{self.name}.json").read_text(encoding="utf-8"))[key]

    def data(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
        """The model's arguments."""
        entries = {key: torch.tensor(value, dtype=torch.float64) for key, value in self._read("data").items()}
        return tuple(part.to(dtype) for part in self.arrange(entries))

    def reference(self) -> dict[str, dict[str, float]]:
        """By parameter: ``mean``, ``sd``, ``mean_square``, ``mcse_mean``, ``q05``, ``q95``."""
        return self._read("reference")

    def named(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """The sites' values by the names of the reference's parameters.

        Arguments:
            values: By site, with shape (*, *site shape).
        """
        named = {}
        for name in self.reference():
            site, _, index = name.removesuffix("]").partition("[")
            named[name] = values[site][..., int(index) - 1] if index else values[site]
        return named


POSTERIORS = {
    short: Posterior(name, model, arrange)
    for short, name, model, arrange in (
        ("arK", "arK-arK", autoregression, _autoregression_data),
        (
            "eight_schools",
            "eight_schools-eight_schools_noncentered",
            eight_schools,
            lambda d: (d["y"], d["sigma"]),
        ),
        ("garch", "garch-garch11", garch, lambda d: (d["y"], d["sigma1"])),
        ("gp_regr", "gp_pois_regr-gp_regr", gaussian_process, lambda d: (d["x"], d["y"])),
        ("hmm", "hmm_example-hmm_example", hidden_markov, lambda d: (d["y"],)),
        (
            "kidiq",
            "kidiq-kidscore_momiq",
            half_flat_regression,
            lambda d: (_columns(d["mom_iq"]), d["kid_score"]),
        ),
        ("gauss_mix", "low_dim_gauss_mix-low_dim_gauss_mix", mixture, lambda d: (d["y"],)),
        ("mesquite", "mesquite-logmesquite", flat_regression, _mesquite_data),
        ("nes1992", "nes1992-nes", flat_regression, _nes_data),
        ("blr", "sblrc-blr", proper_regression, lambda d: (d["X"], d["y"])),
    )
}

# For Pyro's own samplers, which keep the support of the first run.
FIXED_SUPPORT = {"garch": garch_with_fixed_support}


class _Filled(Messenger):
    """Gives latent sites some value of their support, without drawing: flat priors cannot be drawn from."""

    def _pyro_sample(self, msg: dict) -> None:
        if not msg["is_observed"] and type(msg["fn"]).__name__ != "_Subsample":
            transform = biject_to(msg["fn"].support)
            shape = transform.inverse_shape(msg["fn"].shape())
            msg["value"], msg["done"] = transform(torch.empty(shape).uniform_(-2, 2)), True


def some_values(model: Callable[..., None], data: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Values of the latent sites, uniform in (-2, 2) in unconstrained space."""
    with torch.no_grad(), _Filled():
        trace = pyro.poutine.trace(model).get_trace(*data)
    return {name: trace.nodes[name]["value"] for name in trace.stochastic_nodes if "fn" in trace.nodes[name]}


def with_deterministic(
    model: Callable[..., None], data: tuple[Tensor, ...], values: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Adds the deterministic sites to draws of the latent ones, one run of the model for each."""
    rows: dict[str, list[Tensor]] = {}
    for i in range(len(next(iter(values.values())))):
        conditioned = pyro.poutine.condition(model, {name: value[i] for name, value in values.items()})
        for name, site in pyro.poutine.trace(conditioned).get_trace(*data).nodes.items():
            if site["type"] == "sample" and site["infer"].get("_deterministic"):
                rows.setdefault(name, []).append(site["value"])
    return {**values, **{name: torch.stack(row) for name, row in rows.items()}}
