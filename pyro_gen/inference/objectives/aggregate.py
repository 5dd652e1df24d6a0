r"""Objectives that compare the aggregate posterior with the prior, in the place of each posterior or beside it.

With :math:`q(z) = \frac{1}{N} \sum_n q(z \mid x_n)`, the loss of a datum is

.. math::
    - \mathbb{E}_{q(z \mid x)} \log p(x \mid z) + (1 - \alpha) \, \mathrm{KL}\big(q(z \mid x) \,\|\, p(z)\big)
    + (\alpha + \lambda - 1) \, \text{MMD}^2\big(q(z), p(z)\big) .

The codes of all data together are to look like draws of the prior, so that drawing from it and decoding gives data;
the code of one datum need not. At :math:`\alpha = 0, \lambda = 1` it is the ELBO; at :math:`\alpha = 1` the
divergence of the single posteriors is gone, the guide may be a point, and with a Gaussian likelihood of fixed width the
loss is that of a Wasserstein autoencoder, an optimal transport from p(x) to the data. It is no bound where
:math:`\alpha \ne 0`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_gen.inference.objectives.base import Objective
from pyro_gen.inference.objectives.discrepancy import check_kernel, squared_mmd
from pyro_gen.inference.objectives.pairs import (
    log_ratio_of,
    observed_sites,
    paired_latents,
    require_no_own_loss,
    require_proposals,
    require_reparameterised,
    trace_pair_with_missing,
)
from pyro_gen.inference.objectives.total_correlation import one_code
from pyro_gen.program import Program, data_scale, data_size
from pyro_gen.registry import objective
from pyro_gen.traces import latent_sites, per_datum_log_prob, trace_side

__all__ = ["InfoVAE", "WassersteinAutoencoder"]

WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # in units of the prior's typical distance, the square root of 2 K


@objective
class InfoVAE(Objective):
    r"""The ELBO with less weight on the single posteriors and more on their aggregate (InfoVAE, MMD-VAE).

    The discrepancy is estimated without bias, from the codes of a minibatch and as many draws of the prior. A prior
    that is learned goes towards the codes, as far as its draws can be reparameterised.

    References:
        | InfoVAE: Balancing Learning and Inference in Variational Autoencoders (Zhao, Song & Ermon, 2019)
        | https://arxiv.org/abs/1706.02262

    Arguments:
        alpha: The weight :math:`\alpha` of the information, 1 for no divergence of the single posteriors.
        scale: The weight :math:`\lambda`.
        kernel: As of :class:`~pyro_gen.inference.MMD`.
        widths: The widths of the kernel; by default 1/4, 1/2, 1, 2 and 4 times :math:`\sqrt{2 K}`, the distance of two
            standard normal draws in K dimensions.

    Raises:
        ValueError: A weight is out of its range, there is no kernel of that name, or a width is not positive.
    """

    def __init__(
        self,
        alpha: float = 0.0,
        scale: float = 10.0,
        kernel: str = "rational_quadratic",
        widths: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= alpha <= 1 or alpha + scale < 1:
            raise ValueError(
                f"{type(self).__name__}(alpha={alpha}, scale={scale}): alpha is in [0, 1] and alpha + scale at least 1."
            )
        check_kernel(type(self).__name__, kernel, widths)
        self.alpha, self.scale, self.kernel = alpha, scale, kernel
        self.widths = None if widths is None else tuple(widths)

    def loss(self, program: Program, x: Tensor, *context: Any, kl_weight: Tensor | float = 1.0) -> Tensor:
        n = len(x)
        with data_size(n):
            model_trace, guide_trace = trace_pair_with_missing(program, x, *context)
            prior_trace = trace_side(program, "model", x, *context)
        require_no_own_loss(guide_trace)
        require_proposals(guide_trace)
        require_reparameterised(guide_trace)
        site = one_code(self, guide_trace)
        z, drawn = site["value"], latent_sites(prior_trace)[site["name"]]["value"]
        loss = -torch.stack([per_datum_log_prob(s) for s in observed_sites(model_trace)]).sum(0)  # (N,)
        if self.alpha < 1:
            for p, q in paired_latents(model_trace, guide_trace).values():
                loss = loss - kl_weight * (1 - self.alpha) * log_ratio_of(p, q, per_datum_log_prob)
        widths = self.widths or [w * (2 * z.shape[1]) ** 0.5 for w in WIDTHS]
        pairs = n * squared_mmd(z, drawn, self.kernel, widths)
        return data_scale(x) * (loss.sum() + kl_weight * (self.alpha + self.scale - 1) * pairs)


@objective
class WassersteinAutoencoder(InfoVAE):
    r"""Reconstruction, and a penalty where the codes of all data together are no draws of the prior (WAE-MMD).

    The guide may be a point. With a normal likelihood of standard deviation s the cost is :math:`\lVert x - G(z)
    \rVert^2 / 2 s^2`.

    References:
        | Wasserstein Auto-Encoders (Tolstikhin, Bousquet, Gelly & Schoelkopf, 2018)
        | https://arxiv.org/abs/1711.01558

    Arguments:
        scale: The weight :math:`\lambda` of the discrepancy.
        kernel: As of :class:`InfoVAE`.
        widths: As of :class:`InfoVAE`.
    """

    def __init__(
        self, scale: float = 10.0, kernel: str = "rational_quadratic", widths: Sequence[float] | None = None
    ) -> None:
        super().__init__(1.0, scale, kernel, widths)
