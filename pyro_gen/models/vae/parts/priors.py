r"""Priors :math:`p(z)` on :math:`\mathbb{R}^K` of latent variables, with parameters that are learned with the rest.

.. math::
    \text{standard:} \quad & \mathcal{N}(0, I_K) \\
    \text{mixture:} \quad & \textstyle\sum_c \pi_c \, \mathcal{N}\big(\mu_c, \operatorname{diag} \sigma_c^2\big) \\
    \text{vamp:} \quad & \textstyle\frac{1}{C} \sum_c q(z \mid u_c), \quad \text{pseudo-inputs } u_c \text{ learned} \\
    \text{flow:} \quad & \mathcal{N}(u; 0, I_K) \, |\det \partial u / \partial z|, \quad u = T(z) \\
    \text{autoregressive:} \quad & \textstyle\prod_i \sum_c \pi_c(z_{<i}) \, \mathcal{N}\big(z_i; \mu_c(z_{<i}),
        \sigma_c(z_{<i})^2\big) \\
    \text{correlated:} \quad & \mathcal{N}(z_1; 0, 1) \, \textstyle\prod_{i > 1} \mathcal{N}\big(z_i; \alpha z_{i-1},
        1 - \alpha^2\big)

The bound is highest where the prior is the mean of the approximate posteriors over the data,
:math:`\frac{1}{N} \sum_n q(z \mid x_n)`: the VampPrior is that mean over a few data that are made up. The flow is of
rational-quadratic splines; the autoregressive prior is a network with masked weights. The correlated one is not
learned: no mean-field posterior is equal to it, so that the divergence has a least value :math:`\delta > 0`, and the
posterior cannot collapse however strong the decoder is (the delta-VAE).

A prior is a module that is called with the approximate posterior, a function from data as the encoder sees it to a
distribution, which the VampPrior needs, and returns a distribution of event shape :math:`(K)`.

References:
    | VAE with a VampPrior (Tomczak & Welling, 2018)
    | https://arxiv.org/abs/1705.07120
    | Neural Spline Flows (Durkan et al., 2019)
    | https://arxiv.org/abs/1906.04032
    | MADE: Masked Autoencoder for Distribution Estimation (Germain et al., 2015)
    | https://arxiv.org/abs/1502.03509
    | Variational Lossy Autoencoder (Chen et al., 2017), autoregressive priors
    | https://arxiv.org/abs/1611.02731
    | Preventing Posterior Collapse with delta-VAEs (Razavi et al., 2019), the correlated prior
    | https://arxiv.org/abs/1901.03416
"""

from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_gen._random import seeded
from pyro_gen.distributions.flows import FlowDistribution, Inverse, Transport
from pyro_gen.nets import MaskedLinear

__all__ = [
    "PRIORS",
    "AutoregressivePrior",
    "CorrelatedPrior",
    "FlowPrior",
    "MixturePrior",
    "StandardPrior",
    "VampPrior",
    "make_prior",
]

Posterior = Callable[[Tensor], Any]
MIN_SCALE = 1e-3


class StandardPrior(nn.Module):
    """The standard normal distribution of K dimensions."""

    zeros: Tensor

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.register_buffer("zeros", torch.zeros(latent), persistent=False)

    def forward(self, posterior: Posterior) -> Any:
        return dist.Normal(self.zeros, 1.0).to_event(1)


class _Mixture(dist.MixtureSameFamily):  # type: ignore[misc]  # Pyro has no types
    """A mixture on the whole space: torch's says nothing of its support that a sampler could use."""

    support = constraints.real_vector


class MixturePrior(nn.Module):
    """A mixture of normal distributions with independent entries.

    Arguments:
        latent: The number of latent dimensions K.
        components: The number of components C.
    """

    def __init__(self, latent: int, components: int = 32) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.randn(components, latent))
        self.raw_scale = nn.Parameter(torch.zeros(components, latent))

    def forward(self, posterior: Posterior) -> Any:
        components = dist.Normal(self.loc, MIN_SCALE + F.softplus(self.raw_scale)).to_event(1)
        return _Mixture(dist.Categorical(logits=self.logits), components)


class VampPrior(nn.Module):
    """The mean of the approximate posteriors of pseudo-inputs.

    Pseudo-inputs are data as the encoder sees it; they start as data drawn from the first that is seen.

    Arguments:
        event_shape: The shape of one datum.
        components: The number of pseudo-inputs C.
    """

    logits: Tensor

    def __init__(self, event_shape: Sequence[int], components: int = 100) -> None:
        super().__init__()
        self.pseudo_inputs = nn.Parameter(0.1 * torch.randn(components, *event_shape))
        self.register_buffer("logits", torch.zeros(components), persistent=False)

    def initialise(self, x: Tensor, seed: int = 0) -> None:
        """Sets the pseudo-inputs to data with shape (N, *event) as the encoder sees it; 0 where it is missing."""
        with torch.no_grad(), seeded(seed):
            rows = torch.randint(len(x), (len(self.pseudo_inputs),), device=x.device)
            self.pseudo_inputs.copy_(x[rows].nan_to_num())

    def forward(self, posterior: Posterior) -> Any:
        return _Mixture(dist.Categorical(logits=self.logits), posterior(self.pseudo_inputs))


class FlowPrior(nn.Module):
    """A neural-spline flow, autoregressive from latent variables to noise: the density takes one pass, a draw K.

    Arguments:
        latent: The number of latent dimensions K.
        layers: The number of layers.
        hidden: Units in each hidden layer of their networks.
    """

    def __init__(self, latent: int, layers: int = 2, hidden: Sequence[int] = (64, 64)) -> None:
        super().__init__()
        self.bijection = Inverse(Transport(latent, 0, "spline", layers, hidden))

    def forward(self, posterior: Posterior) -> Any:
        return FlowDistribution(self.bijection, None, torch.Size())


class AutoregressivePrior(nn.Module):
    """Each entry has a mixture of normal distributions given those before it.

    Arguments:
        latent: The number of latent dimensions K.
        components: The number of components of each mixture.
        hidden: Units in each hidden layer of the network.
    """

    zeros: Tensor

    def __init__(self, latent: int, components: int = 8, hidden: Sequence[int] = (64, 64)) -> None:
        super().__init__()
        self.latent, self.components = latent, components
        self.register_buffer("zeros", torch.zeros(latent), persistent=False)
        # A hidden unit of degree d sees the entries 0, ..., d; the parameters of entry i see the units of degree < i.
        entries, seen = torch.arange(latent), torch.arange(latent)
        layers: list[nn.Module] = []
        for units in hidden:
            degrees = torch.arange(units) % max(latent - 1, 1)
            layers += [MaskedLinear(degrees[:, None] >= seen), nn.SiLU()]
            seen = degrees
        last = MaskedLinear((entries[:, None] > seen).repeat_interleave(3 * components, 0))
        with torch.no_grad():  # at first the entries are independent, with components that spread over N(0, 1)
            last.weight.zero_()
            last.bias.copy_(
                torch.stack([torch.zeros(components), torch.randn(components), torch.zeros(components)])
                .flatten()
                .repeat(latent)
            )
        self.network = nn.Sequential(*layers, last)

    def conditionals(self, z: Tensor) -> Any:
        """The laws of the entries given those before them, with batch shape (*, K), of ``z`` with shape (*, K)."""
        logits, loc, raw_scale = self.network(z).unflatten(-1, (self.latent, 3, self.components)).unbind(-2)
        components = dist.Normal(loc, MIN_SCALE + F.softplus(raw_scale))
        return dist.MixtureSameFamily(dist.Categorical(logits=logits), components)

    def forward(self, posterior: Posterior) -> Any:
        return _Autoregressive(self, torch.Size())


class _Autoregressive(dist.TorchDistribution):
    """The distribution of which an autoregressive prior has the conditionals."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  # torch's name and type
    support = constraints.real_vector

    def __init__(self, prior: AutoregressivePrior, batch_shape: torch.Size) -> None:
        self.prior = prior
        super().__init__(batch_shape, torch.Size([prior.latent]), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "_Autoregressive":
        return _Autoregressive(self.prior, torch.Size(batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        return self.prior.conditionals(value).log_prob(value).sum(-1)  # type: ignore[no-any-return]

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008  # torch's signature
        with torch.no_grad():
            z = self.prior.zeros.expand(*sample_shape, *self.batch_shape, -1)
            for i in range(self.prior.latent):
                drawn = self.prior.conditionals(z).sample()
                z = torch.cat([z[..., :i], drawn[..., i : i + 1], z[..., i + 1 :]], -1)
            return z


class CorrelatedPrior(nn.Module):
    r"""A stationary autoregression of order one over the latent dimensions, fixed: the prior of the delta-VAE.

    Arguments:
        latent: The number of latent dimensions K.
        correlation: The correlation :math:`\alpha` of neighbours, between -1 and 1.

    Raises:
        ValueError: The correlation is out of range.

    Example:
        >>> round(CorrelatedPrior(8).least_divergence(), 2)
        1.99
    """

    factor: Tensor

    def __init__(self, latent: int, correlation: float = 0.8) -> None:
        super().__init__()
        if not -1 < correlation < 1:
            raise ValueError(f"CorrelatedPrior(correlation={correlation!r}): give a number between -1 and 1.")
        lags = (torch.arange(latent)[:, None] - torch.arange(latent)).abs()
        covariance = torch.tensor(correlation, dtype=torch.float64) ** lags
        factor = torch.linalg.cholesky(covariance).to(torch.get_default_dtype())
        self.register_buffer("factor", factor, persistent=False)

    def least_divergence(self) -> float:
        r"""The least :math:`\delta = \min_q \mathrm{KL}(q \,\|\, p)` of normal q with independent entries, in nats.

        With the precision :math:`\Lambda` of the prior it is that of variances :math:`1 / \Lambda_{ii}`,
        :math:`\tfrac{1}{2} \big( \sum_i \log \Lambda_{ii} - \log |\Lambda| \big)`.
        """
        factor = self.factor.double()
        precision = torch.cholesky_inverse(factor)
        return float(0.5 * precision.diagonal().log().sum() + factor.diagonal().log().sum())

    def forward(self, posterior: Posterior) -> Any:
        return dist.MultivariateNormal(self.factor.new_zeros(len(self.factor)), scale_tril=self.factor)


PRIORS: dict[str, Callable[[int, Sequence[int]], nn.Module]] = {
    "standard": lambda latent, shape: StandardPrior(latent),
    "mixture": lambda latent, shape: MixturePrior(latent),
    "vamp": lambda latent, shape: VampPrior(shape),
    "flow": lambda latent, shape: FlowPrior(latent),
    "autoregressive": lambda latent, shape: AutoregressivePrior(latent),
    "correlated": lambda latent, shape: CorrelatedPrior(latent),
}


def make_prior(prior: str | nn.Module, latent: int, event_shape: Sequence[int]) -> nn.Module:
    """Creates a prior by name, or returns the module given.

    Raises:
        ValueError: There is none of that name.
    """
    if isinstance(prior, nn.Module):
        return prior
    if prior not in PRIORS:
        raise ValueError(f"There is no prior named {prior!r}: choose one of {', '.join(PRIORS)}.")
    return PRIORS[prior](latent, event_shape)
