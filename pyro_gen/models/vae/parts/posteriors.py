r"""Approximate posteriors :math:`q(z \mid x)`: the output :math:`h` of an encoder becomes a distribution on
:math:`\mathbb{R}^K`.

.. math::
    \text{mean field:} \quad & \mathcal{N}\big(\mu(h), \operatorname{diag} \sigma(h)^2\big) \\
    \text{full covariance:} \quad & \mathcal{N}\big(\mu(h), L(h) L(h)^\top\big), \quad L \text{ lower triangular} \\
    \text{iaf, spline:} \quad & z = T\big(\mu(h) + \sigma(h) \, u; h\big), \quad u \sim \mathcal{N}(0, I_K), \quad
        \log q(z \mid h) = \log \mathcal{N}(u; 0, I_K) - \log |\det \partial z / \partial u|

The flows are those of :mod:`pyro_gen.distributions.flows`: affine maps, each autoregressive in its input (Kingma et
al., 2016), and coupling layers of rational-quadratic splines (Durkan et al., 2019), of which a value that they did not
draw has its density in two passes a layer, which importance-weighted objectives need.

References:
    | Auto-Encoding Variational Bayes (Kingma & Welling, 2014)
    | https://arxiv.org/abs/1312.6114
    | Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016)
    | https://arxiv.org/abs/1606.04934
    | Neural Spline Flows (Durkan et al., 2019)
    | https://arxiv.org/abs/1906.04032
"""

from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_gen.distributions.flows import AmortisedFlow

__all__ = ["POSTERIORS", "FullCovariance", "MeanField", "make_posterior", "normal"]


def normal(h: Tensor, floor: float = 1e-4) -> Any:
    """The normal distribution whose means, then raw scales, are the last dimension of ``h``, independent entries.

    Arguments:
        h: Features with shape (*, 2 K).
        floor: The least scale. It keeps log q finite where the posterior collapses to a point.
    """
    loc, raw_scale = h.chunk(2, -1)
    return dist.Normal(loc, floor + F.softplus(raw_scale)).to_event(1)


class MeanField(nn.Module):
    """A normal distribution with independent entries.

    Arguments:
        latent: The number of latent dimensions K.

    Attributes:
        features: The size of an encoder's output.
    """

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.features = 2 * latent

    def forward(self, h: Tensor) -> Any:
        """The distribution given features with shape (*, features)."""
        return normal(h)


class FullCovariance(nn.Module):
    """A normal distribution with any covariance, through its lower triangular factor.

    What is below the diagonal is divided by K: an untrained encoder's noise there would be most of the variance.

    Arguments:
        latent: The number of latent dimensions K.

    Attributes:
        features: The size of an encoder's output: K means, K raw scales, K (K - 1) / 2 entries below the diagonal.

    Example:
        >>> q = FullCovariance(2)(torch.tensor([0.0, 0.0, 0.5413, 0.5413, 4.0]))  # softplus(0.5413) = 1
        >>> q.covariance_matrix.round(decimals=2).tolist()
        [[1.0, 2.0], [2.0, 5.0]]
    """

    below: Tensor

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.latent, self.features = latent, 2 * latent + latent * (latent - 1) // 2
        # Which entry of the features each entry of the factor is: 0, a mean, stands for none above the diagonal.
        places = torch.zeros(latent, latent, dtype=torch.long)
        rows, columns = torch.tril_indices(latent, latent, -1)
        places[rows, columns] = torch.arange(2 * latent, self.features)
        self.register_buffer("below", places, persistent=False)

    def forward(self, h: Tensor) -> Any:
        """The distribution given features with shape (*, features)."""
        loc, raw_scale = h[..., : 2 * self.latent].chunk(2, -1)
        factor = h[..., self.below.flatten()].unflatten(-1, (self.latent, self.latent)).tril(-1) / self.latent
        return dist.MultivariateNormal(loc, scale_tril=factor + torch.diag_embed(1e-4 + F.softplus(raw_scale)))


POSTERIORS: dict[str, Any] = {
    "mean field": MeanField,
    "full covariance": FullCovariance,
    "iaf": lambda latent: AmortisedFlow(2 * latent, latent, "affine", layers=2),
    "spline": lambda latent: AmortisedFlow(2 * latent, latent, "coupling", layers=2),
}


def make_posterior(guide: str | nn.Module, latent: int) -> Any:
    """Creates an approximate posterior by name, or returns the module given.

    Raises:
        ValueError: There is none of that name, or the module does not say how many features it takes.
    """
    if isinstance(guide, nn.Module):
        if not isinstance(getattr(guide, "features", None), int):
            raise ValueError(
                f"guide={type(guide).__name__}: a module of one's own has an attribute features, the size of the "
                "encoder's output that it makes a distribution of."
            )
        return guide
    if guide not in POSTERIORS:
        raise ValueError(f"There is no guide named {guide!r}: choose one of {', '.join(POSTERIORS)}.")
    return POSTERIORS[guide](latent)
