r"""The rows of a copula given their weights, with the latent variables of levels integrated out.

With the Cholesky factor :math:`C` of the covariance :math:`\Sigma / w` of what is seen, real columns first,
:math:`z_j = \mu_j + C_{j,<j} e_{<j} + C_{jj} e_j` and

.. math::
    p(x_o) = p(x_{\text{real}}) \int_{[0, 1]^q} \prod_j P(x_j \mid e_{<j}(u)) \, du , \qquad
    e_j = \Phi^{-1}_{[a_j, b_j]}(u_j) ,

each factor the probability of an interval :math:`[a_j, b_j]` and :math:`e_j` the quantile of the normal truncated to
it. Importance sampling from the prior of the uniform :math:`u` is the simulator of Geweke, Hajivassiliou and Keane.

References:
    | Simulation estimation of multivariate normal rectangle probabilities (Hajivassiliou et al., 1996)
    | https://doi.org/10.1016/0304-4076(94)01716-6
"""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_gen.distributions.gaussian import draw_given, seen_factor
from pyro_gen.models.tabular.levels import draw_in_turn
from pyro_gen.models.tabular.marginals import Marginals

__all__ = ["CopulaRows"]


class CopulaRows(dist.TorchDistribution):
    r"""Creates the distribution of rows given u, of which some entries are seen.

    Arguments:
        marginals: The curves of the columns.
        loc: The mean :math:`\mu`, with shape :math:`(Q)`.
        covariance: :math:`\Sigma`, with shape :math:`(Q, Q)`.
        w: The weights of rows, with shape :math:`(N)`.
        u: The quantiles of the latent variables behind levels, with shape :math:`(N, q)`.
        seen: Which entries are seen, with shape :math:`(N, D)`.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector

    def __init__(
        self, marginals: Marginals, loc: Tensor, covariance: Tensor, w: Tensor, u: Tensor, seen: Tensor | bool = True
    ) -> None:
        self.marginals, self.loc, self.covariance, self.w, self.u, self.seen = marginals, loc, covariance, w, u, seen
        super().__init__(u.shape[:-1], torch.Size([len(marginals.layout.order)]), validate_args=False)

    def _in_turn(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Latent variables one after another given those before it: the log-density (N), and z (N, Q)."""
        rows = self.marginals.rows(torch.where(torch.as_tensor(self.seen), value, torch.nan))
        factor = seen_factor(torch.where(rows.seen, 0.0, torch.nan).to(value), self.covariance)[1]
        factor = factor * self.w.rsqrt()[..., None, None]  # C, with ones on the diagonal where nothing is seen
        split = len(self.marginals.layout.real)
        residual = (rows.real - self.loc[:split]).nan_to_num().unsqueeze(-1)
        e = torch.linalg.solve_triangular(factor[..., :split, :split], residual, upper=False).squeeze(-1)
        scale = factor.diagonal(dim1=-2, dim2=-1)[..., :split]
        density = rows.log_slope - (e.square() + math.log(2 * math.pi)) / 2 - scale.log()
        log_prob, z = draw_in_turn(rows.levels, self.u, self.loc[split:], factor[..., split:, :], e)
        real = torch.where(rows.seen[:, :split], density, 0.0).sum(-1)
        return real + log_prob + rows.mixed_slope.sum(-1), torch.cat([rows.real.expand(*z.shape[:-1], split), z], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        return self._in_turn(value)[0]

    def marginalise(self, value: Tensor) -> tuple["CopulaRows", Tensor, Callable[[], Tensor]]:
        """Rows of which NaN is not seen, see :func:`pyro_gen.observe`."""
        scored = CopulaRows(self.marginals, self.loc, self.covariance, self.w, self.u, ~torch.isnan(value))

        def draw() -> Tensor:
            z = scored._in_turn(value)[1]
            noise = torch.randn_like(z) * self.w.rsqrt().unsqueeze(-1)
            return self.marginals.values(draw_given(z, self.loc, self.covariance, noise))

        return scored, value.nan_to_num(), draw
