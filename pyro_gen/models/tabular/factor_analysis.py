r"""Bayesian factor analysis of a table, whose number of factors comes out of the data.

.. math::
    z_n \sim \mathcal{N}(0, I_K), \qquad
    x_{nd} \mid z_n \sim \mathcal{N}(w_d^\top z_n + \mu_d, \; \psi_d), \qquad
    w_{dk} \sim \mathcal{N}\big(0, \; (\phi_{dk} \tau_k)^{-1}\big), \qquad \tau_k = \textstyle\prod_{l \le k} \delta_l ,

with :math:`\phi_{dk} \sim \operatorname{Gamma}(3/2, 3/2)`, :math:`\delta_1 \sim \operatorname{Gamma}(2, 1)`,
:math:`\delta_{l > 1} \sim \operatorname{Gamma}(3, 1)`: the multiplicative gamma process, under which each further
factor is expected to matter less, so that :math:`K` is an upper bound and superfluous columns of :math:`W` shrink to
nothing. The noise has :math:`\psi_d^{-1} \sim \operatorname{Gamma}(1, 0.3)`, which keeps it away from zero, and
:math:`\mu_d \sim \mathcal{N}(0, 3^2)`; columns are standardised.

Given the factors, entries are independent, so missing ones drop out: all conditional distributions are conjugate and
use what was seen alone, in :math:`O(N D K^2)`, where a full covariance takes :math:`O(N D^3)`. A row is completed by

.. math::
    z_n \mid x_{n,o} \sim \mathcal{N}\big(M_n^{-1} W_o^\top \Psi_o^{-1} (x_{n,o} - \mu_o), \; M_n^{-1}\big), \qquad
    M_n = I + W_o^\top \Psi_o^{-1} W_o .

**The posterior** is sampled by Gibbs steps. With :math:`\tilde z_n = (z_n, 1)` and :math:`N_d` rows in which column d
was seen, one sweep:

1. :math:`z_n` as above;
2. loadings and mean of each column together, a regression on :math:`\tilde z`, with sums over these rows:

   .. math::
       (w_d, \mu_d) \sim \mathcal{N}\big(A_d^{-1} b_d, \; A_d^{-1}\big), \qquad
       A_d = \operatorname{diag}(\phi_{d1} \tau_1, \ldots, \phi_{dK} \tau_K, \tfrac{1}{9})
       + \textstyle\sum_n \tilde z_n \tilde z_n^\top / \psi_d, \qquad b_d = \sum_n \tilde z_n x_{nd} / \psi_d ;

3. :math:`\psi_d^{-1} \sim \operatorname{Gamma}\big(1 + \tfrac{N_d}{2}, \;
   0.3 + \tfrac{1}{2} \sum_n (x_{nd} - w_d^\top z_n - \mu_d)^2\big)` ;
4. :math:`\phi_{dk} \sim \operatorname{Gamma}\big(2, \; \tfrac{3}{2} + \tfrac{1}{2} \tau_k w_{dk}^2\big)` ;
5. one after another, with :math:`a_1 = 2`, :math:`a_{k > 1} = 3`,
   :math:`\delta_k \sim \operatorname{Gamma}\big(a_k + \tfrac{D (K - k + 1)}{2}, \;
   1 + \tfrac{1}{2} \sum_{l \ge k} \tfrac{\tau_l}{\delta_k} \sum_d \phi_{dl} w_{dl}^2\big)` .

References:
    | Sparse Bayesian infinite factor models (Bhattacharya & Dunson, 2011)
    | https://doi.org/10.1093/biomet/asr013
"""

import math
from collections.abc import Iterator, Sequence
from typing import ClassVar, NamedTuple, Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_gen._internals import standard_gamma
from pyro_gen._random import seeded
from pyro_gen._sizes import check_sizes
from pyro_gen.data.column import Column
from pyro_gen.distributions.factor_posterior import FactorPosterior, factor_posterior
from pyro_gen.inference.mcmc.blocked_gibbs import FitProgress, Schedule, blocked_gibbs, join_chains
from pyro_gen.models.tabular.parts.table_program import PosteriorDrawsProgram, table_model
from pyro_gen.observation import observe

__all__ = ["TableFactors"]

LOC_SCALE = 3.0  # prior standard deviation of the mean, of standardised columns
NOISE_PRIOR = (1.0, 0.3)  # shape and rate of the prior of 1 / psi
LOCAL_SHAPE = 1.5  # shape and rate of the prior of phi
FIRST_GROWTH_SHAPE, GROWTH_SHAPE = 2.0, 3.0  # shapes of the priors of delta
CHAINS, SCHEDULE = 2, Schedule(burn_in=100, draws=25, thin=4)


class _State(NamedTuple):
    """Parameters of C chains: (C, D, K), (C, D), (C, D), (C, D, K), (C, K)."""

    loadings: Tensor
    loc: Tensor
    noise: Tensor
    local: Tensor
    growth: Tensor


@table_model("Bayesian factor analysis, number of factors learnt", paper="Bhattacharya & Dunson (2011)")
class TableFactors(PosteriorDrawsProgram):
    r"""Creates a Bayesian factor analysis for the rows of a table.

    Arguments:
        columns: The columns, all real.
        rank: The greatest number :math:`K` of factors; left out, at most 20, and fewer than columns.

    Attributes:
        columns: The D columns.
        rank: The greatest number of factors.

    Raises:
        ValueError: A column is not real, or the rank is not positive.
    """

    KINDS: ClassVar[frozenset[str]] = frozenset({"real"})

    def __init__(self, columns: Sequence[Column], rank: int | None = None) -> None:
        super().__init__(columns)
        features = len(self.columns)
        self.rank = max(1, min(20, features - 1)) if rank is None else rank
        check_sizes(self, rank=self.rank)
        ones = torch.ones(1, features, self.rank, dtype=torch.float64)
        self.store_draws(_State(0.1 * ones, 0 * ones[..., 0], ones[..., 0], ones, ones[:, 0])._asdict())

    @classmethod
    def automatic(cls, columns: int, observed: int) -> bool:
        return columns > 40  # below, a full covariance says the same in less time

    def model(self, x: Tensor) -> Tensor:
        r"""The joint density of rows with shape :math:`(N, D)` and parameters; returns the rows completed."""
        ones = x.new_ones(len(self.columns), self.rank)
        shape = torch.cat([FIRST_GROWTH_SHAPE * ones[0, :1], GROWTH_SHAPE * ones[0, 1:]])
        growth = pyro.sample("growth", dist.Gamma(shape, 1.0).to_event(1))  # delta, (K,)
        local = pyro.sample("local", dist.Gamma(LOCAL_SHAPE * ones, LOCAL_SHAPE).to_event(2))  # phi, (D, K)
        scale = (local * growth.cumprod(-1).unsqueeze(-2)).rsqrt()
        loadings = pyro.sample("loadings", dist.Normal(0.0, scale).to_event(2))  # (D, K)
        noise = pyro.sample(
            "noise", dist.InverseGamma(NOISE_PRIOR[0] * ones[:, 0], NOISE_PRIOR[1]).to_event(1)
        )  # psi, (D,)
        loc = pyro.sample("loc", dist.Normal(0 * ones[:, 0], LOC_SCALE).to_event(1))  # (D,)
        with self.plate(x):
            return observe("x", dist.LowRankMultivariateNormal(loc, loadings, noise), x)

    def fit_posterior(
        self, x: Tensor, *, seed: int = 0, progress: FitProgress | None = None, deadline: float | None = None
    ) -> Self:
        """Samples the posterior by Gibbs sampling, see :meth:`TableProgram.fit_posterior`."""
        with seeded(seed), torch.no_grad():
            states = blocked_gibbs(lambda state: _sweep(x, state), _start(x, self.rank), SCHEDULE, progress, deadline)
        self.store_draws({name: join_chains([getattr(k, name) for k in states]) for name in _State._fields})
        return self

    # Entries given a draw of the parameters

    @property
    def uniforms_per_row(self) -> int:
        return self.rank + len(self.columns)

    def numbers_per_row(self) -> int:
        return self.rank * max(self.rank, len(self.columns))

    def _factors(self, x: Tensor, s: int) -> FactorPosterior:
        """Each row's factors, for one posterior draw."""
        return factor_posterior(x, *(self.posterior_draws(n)[s] for n in ("loadings", "loc", "noise")))

    def complete_rows(self, rows: Tensor, s: int, u: Tensor) -> Tensor:
        noise = torch.special.ndtri(u)
        z = self._factors(rows, s).draw(noise[:, : self.rank].T)
        expected = z @ self.posterior_draws("loadings")[s].T + self.posterior_draws("loc")[s]
        drawn: Tensor = expected + self.posterior_draws("noise")[s].sqrt() * noise[:, self.rank :]
        return drawn

    def conditionals(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for s in range(self.num_posterior_draws):
            loadings = self.posterior_draws("loadings")[s].T.unsqueeze(-1)
            mean, variance = (v.T for v in self._factors(x, s).entries(loadings))
            yield mean + self.posterior_draws("loc")[s], variance + self.posterior_draws("noise")[s]

    def score_conditional(self, values: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return -0.5 * ((values - mean).square() / variance + (2 * math.pi * variance).log())

    def expect_conditional(self, mean: Tensor, variance: Tensor) -> Sequence[Tensor]:
        return mean.unsqueeze(-1).unbind(1)


# ----------------------------------------------------------------------------------------------------------------------
# Gibbs sampling, for C chains


def _start(x: Tensor, rank: int) -> _State:
    features, loc = x.shape[1], x.nanmean(0).nan_to_num()  # of a column that rows drawn to learn from leave out, 0
    ones = x.new_ones(CHAINS, features, rank)
    variance = (x - loc).square().nanmean(0).nan_to_num(1.0).clamp(min=1e-3)
    return _State(
        torch.randn_like(ones) * (variance / rank).sqrt().unsqueeze(-1),
        loc.expand(CHAINS, features),
        (variance / 2).expand(CHAINS, features),
        ones,
        ones[:, 0],
    )


def _sweep(x: Tensor, state: _State) -> _State:
    loadings, loc, noise, local, growth = state
    chains, features, rank = loadings.shape
    seen = (~torch.isnan(x)).to(x.dtype)
    filled = x.nan_to_num()
    factors = factor_posterior(x, loadings, loc, noise)
    z = factors.draw(torch.randn_like(factors.e))
    # Loadings and means together: a regression of each column on (z, 1), where it was seen.
    design = torch.cat([z, torch.ones_like(z[..., :1])], -1)  # (C, N, K + 1)
    outer = (design.unsqueeze(-1) * design.unsqueeze(-2)).flatten(2)
    size = rank + 1
    prior = torch.cat([local * growth.cumprod(-1).unsqueeze(1), torch.full_like(local[..., :1], LOC_SCALE**-2)], -1)
    gram = (seen.T @ outer).unflatten(-1, (size, size))  # (C, D, K + 1, K + 1)
    precision = gram / noise[..., None, None] + torch.diag_embed(prior)
    projected = (filled.T @ design) / noise.unsqueeze(-1)  # (C, D, K + 1)
    factor = torch.linalg.cholesky(precision)
    weights = torch.cholesky_solve(projected.unsqueeze(-1), factor)
    weights = weights + torch.linalg.solve_triangular(factor.mT, torch.randn_like(weights), upper=True)
    loadings, loc = weights[..., :rank, 0], weights[..., rank, 0]
    residual = (filled - z @ loadings.mT - loc.unsqueeze(1)) * seen
    shape = (NOISE_PRIOR[0] + seen.sum(0) / 2).expand(chains, features)
    noise = (NOISE_PRIOR[1] + residual.square().sum(1) / 2) / standard_gamma(shape)
    squares = loadings.square()
    tau = growth.cumprod(-1).unsqueeze(1)
    local = standard_gamma(torch.full_like(local, LOCAL_SHAPE + 0.5)) / (LOCAL_SHAPE + tau * squares / 2)
    power = (local * squares).sum(1)  # (C, K)
    for k in range(rank):
        tau = growth.cumprod(-1) / growth[:, k : k + 1]
        rate = 1 + (tau * power)[:, k:].sum(-1) / 2
        shape = torch.full_like(rate, (GROWTH_SHAPE if k else FIRST_GROWTH_SHAPE) + features * (rank - k) / 2)
        growth = growth.clone()
        growth[:, k] = standard_gamma(shape) / rate
    return _State(loadings, loc, noise, local, growth)
