r"""A Bayesian mixture of Student-t laws whose covariances are alike: its evidence by variational Bayes, Gibbs sampling.

.. math::
    \pi &\sim \operatorname{Dirichlet}(1, \ldots, 1), \qquad c_n \sim \operatorname{Categorical}(\pi), \qquad
    u_n \sim \operatorname{Gamma}(\tfrac{t}{2}, \tfrac{t}{2}), \\
    \Psi &\sim \operatorname{Wishart}\big(\eta, \tfrac{s}{\eta} I\big), \qquad
    \Lambda_k \sim \operatorname{Wishart}\big(\nu_0, (\nu_0 \Psi)^{-1}\big), \qquad
    \mu_k \sim \mathcal{N}\big(0, (\kappa \Lambda_k)^{-1}\big), \\
    x_n \mid c_n = k &\sim \mathcal{N}\big(\mu_k, (u_n \Lambda_k)^{-1}\big) , \qquad
    a_{nj} \mid c_n = k \sim \operatorname{Categorical}(\phi_{kj}), \quad
    \phi_{kj} \sim \operatorname{Dirichlet}(1, \ldots, 1) ,

on standardised columns x of numbers and columns a of categories, which are independent inside a component.
:math:`\Psi` is the covariance that components have in common, and :math:`\nu_0` says how much: from free covariances to
tied ones. :math:`\kappa` says that means lie anywhere in the range of the data (Richardson & Green, 1997); each
component costs :math:`\tfrac D2 \log \kappa`, so their number depends on it. Tails of :math:`t` degrees of freedom keep
outliers from becoming clusters.

**Variational Bayes.** With :math:`q = q(\pi) q(\Psi) \prod_k q(\mu_k, \Lambda_k) \prod_n q(c_n, u_n, x_{n,m})`, each
factor conjugate, where :math:`q(\Lambda_k)` is Wishart with :math:`\nu_k` and :math:`W_k`, and :math:`q(\mu_k \mid
\Lambda_k)` normal with :math:`m_k` and :math:`\kappa_k`: with the :math:`D_n` seen entries of a datum,
:math:`P_k = \nu_k W_k`, :math:`\delta_{nk} = D / \kappa_k + (x_o - m_o)^\top (P_{oo} - P_{om} P_{mm}^{-1} P_{mo})
(x_o - m_o)`,

.. math::
    q(u_n \mid k) &= \operatorname{Gamma}\big(\tfrac{t + D_n}{2}, \tfrac{t + \delta_{nk}}{2}\big), \\
    \log \rho_{nk} &= \mathbb{E} \log \pi_k + \tfrac12 \mathbb{E} \log |\Lambda_k| - \tfrac12 \log |P_{mm}| -
    \tfrac{D_n}{2} \log 2 \pi + \log \frac{\Gamma(\frac{t + D_n}{2})}{\Gamma(\frac t2)} + \tfrac t2 \log \tfrac t2 -
    \tfrac{t + D_n}{2} \log \tfrac{t + \delta_{nk}}{2} .

The bound on the evidence is :math:`\sum_n \log \sum_k \rho_{nk}` less the divergences of the global factors. It sees
one of the :math:`K!` equal modes, so :math:`\log K!` is added (Bishop, 2006, section 10.2.4).

**Gibbs** draws the same conditionals: c, u and missing entries of each datum, then :math:`\pi, \Lambda, \mu`, then
:math:`\Psi`.

References:
    | On Bayesian Analysis of Mixtures with an Unknown Number of Components (Richardson & Green, 1997)
    | https://doi.org/10.1111/1467-9868.00095
    | Robust Bayesian clustering (Archambeau & Verleysen, 2007), https://doi.org/10.1016/j.neunet.2006.06.009
    | Bayesian Model-Based Clustering ... (Malsiner-Walli, Fruehwirth-Schnatter & Gruen, 2016)
    | https://doi.org/10.1007/s11222-014-9500-2
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Categories", "Setting", "Variational", "ascend", "gibbs", "log_joint"]

SCALE = 0.2  # s: a fifth of the variance inside
MEAN_PRECISION = (
    0.01  # kappa: means spread by sqrt(SCALE / 0.01) = 4.5 standard deviations of a column, about its range
)
STEPS, TOLERANCE = 400, 1e-3  # of the bound, nats


class Setting(NamedTuple):
    """What the evidence is taken over: K, nu_0 - D + 1, t, and kappa."""

    components: int
    likeness: float
    dof: float
    mean_precision: float = MEAN_PRECISION


class Variational(NamedTuple):
    """The variational posterior: shapes (K), (K, D), (K), (K, D, D), (K), (D, D), (K, L); ``bound`` has log K! too."""

    setting: Setting
    bound: float
    counts: Tensor  # of the Dirichlet law
    loc: Tensor
    kappa: Tensor
    scale: Tensor  # W_k
    nu: Tensor
    psi: Tensor  # the expected Psi
    levels: Tensor  # counts of the Dirichlet laws of categories, all columns in a row


class Categories(NamedTuple):
    """Columns of categories.

    Attributes:
        seen: Indicators of the levels of all columns in a row, with shape (N, L), all 0 where an entry is missing.
        sizes: The number of levels of each column, which sum to L.
    """

    seen: Tensor
    sizes: tuple[int, ...]

    def log_p(self, counts: Tensor, expected: bool) -> Tensor:
        """The expected logarithms of probabilities (K, L) under Dirichlet laws, or the logarithms of their means."""
        parts = [
            torch.digamma(n) - torch.digamma(n.sum(1, keepdim=True)) if expected else (n / n.sum(1, keepdim=True)).log()
            for n in counts.split(self.sizes, 1)
        ]
        return torch.cat([counts[:, :0], *parts], 1)

    def divergence(self, counts: Tensor) -> Tensor:
        """KL of Dirichlet laws with these counts from the uniform ones, nats."""
        total = counts.new_zeros(())
        for n, log_p in zip(counts.split(self.sizes, 1), self.log_p(counts, True).split(self.sizes, 1), strict=True):
            size = n.shape[1]
            total = total + (torch.lgamma(n.sum(1)) - torch.lgamma(n).sum(1) - math.lgamma(size)).sum()
            total = total + ((n - 1) * log_p).sum()
        return total


def none_of(x: Tensor) -> Categories:
    """No column of categories, for rows (N, D)."""
    return Categories(x.new_zeros(len(x), 0), ())


class _Local(NamedTuple):
    """Given a component: log rho (N, K), shape and rate of u, x completed (K, N, D), and its spread."""

    log_rho: Tensor
    shape: Tensor
    rate: Tensor
    mean: Tensor
    factor: Tensor | None  # covariances of missing entries are factor factor^T / u, (K, N, D, D)


def _local(
    x: Tensor, loc: Tensor, precision: Tensor, log_det: Tensor, log_pi: Tensor, dof: float, extra: Tensor
) -> _Local:
    """The formulas for a datum, for means (K, D), precisions (K, D, D), log-determinants and D / kappa (K)."""
    seen = ~torch.isnan(x)
    missing = (~seen).to(x)
    half_missing, factor = x.new_zeros(len(loc), len(x)), None
    mean = x.expand(len(loc), *x.shape)
    if bool(missing.any()):
        block = precision.unsqueeze(1) * missing.unsqueeze(-1) * missing.unsqueeze(-2)
        lower = torch.linalg.cholesky(block + torch.diag_embed(1 - missing))  # (K, N, D, D)
        residual = torch.where(seen, x - loc.unsqueeze(1), 0.0)  # (K, N, D)
        shift = (residual @ precision) * missing
        mean = loc.unsqueeze(1) - torch.cholesky_solve(shift.unsqueeze(-1), lower).squeeze(-1)
        mean = torch.where(seen, x, mean)
        factor = torch.linalg.solve_triangular(lower.mT, torch.diag_embed(missing).expand_as(lower), upper=True)
        half_missing = lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    centred = mean - loc.unsqueeze(1)
    delta = ((centred @ precision) * centred).sum(-1) + extra.unsqueeze(1)  # (K, N)
    size = seen.sum(1).to(x)
    shape, rate = ((dof + size) / 2).expand_as(delta), (dof + delta) / 2
    value = (log_pi + log_det / 2).unsqueeze(1) - half_missing - size / 2 * math.log(2 * math.pi)
    value = value + torch.lgamma(shape) - math.lgamma(dof / 2) + dof / 2 * math.log(dof / 2) - shape * rate.log()
    return _Local(value.T, shape, rate, mean, factor)


def _expected_log_det(log_det: Tensor, nu: Tensor, size: int) -> Tensor:
    i = torch.arange(size, dtype=nu.dtype)
    return torch.digamma((nu.unsqueeze(-1) - i) / 2).sum(-1) + size * math.log(2) + log_det


def _log_b(log_det: Tensor, nu: Tensor, size: int) -> Tensor:
    """The logarithm of the normalising constant of a Wishart law with scale W, given log |W|."""
    return -nu / 2 * (log_det + size * math.log(2)) - torch.mvlgamma(nu / 2, size)


def _of(x: Tensor, q: Variational) -> _Local:
    size = x.shape[1]
    log_pi = torch.digamma(q.counts) - torch.digamma(q.counts.sum())
    log_det = _expected_log_det(torch.logdet(q.scale), q.nu, size)
    return _local(x, q.loc, q.nu.view(-1, 1, 1) * q.scale, log_det, log_pi, q.setting.dof, size / q.kappa)


def log_joint(x: Tensor, q: Variational, categories: Categories | None = None) -> Tensor:
    """The log-density of standardised rows and each component at the expected parameters, with shape (N, K)."""
    categories = none_of(x) if categories is None else categories
    precision = q.nu.view(-1, 1, 1) * q.scale
    log_pi = (q.counts / q.counts.sum()).log()
    local = _local(x, q.loc, precision, torch.logdet(precision), log_pi, q.setting.dof, torch.zeros_like(q.nu))
    return local.log_rho + categories.seen @ categories.log_p(q.levels, False).T


def _moments(
    r: Tensor, u: Tensor, mean: Tensor, factor: Tensor | None, kappa0: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Counts, m, kappa, and scatter about m, from r (N, K), u (K, N) and completed rows (K, N, D)."""
    weight = r.T * u  # (K, N)
    kappa = kappa0 + weight.sum(1)
    loc = (weight.unsqueeze(-1) * mean).sum(1) / kappa.unsqueeze(1)
    centred = mean - loc.unsqueeze(1)
    scatter = (weight.unsqueeze(-1) * centred).mT @ centred + kappa0 * loc.unsqueeze(2) * loc.unsqueeze(1)
    if factor is not None:
        scatter = scatter + torch.einsum("kn,knij,knlj->kil", r.T, factor, factor)
    return r.sum(0), loc, kappa, scatter


def ascend(x: Tensor, r: Tensor, setting: Setting, categories: Categories | None = None) -> tuple[Variational, Tensor]:
    """Coordinate ascent from responsibilities.

    Arguments:
        x: Standardised rows with shape (N, D), float64, NaN where nothing was observed.
        r: Responsibilities, with shape (N, K).
        setting: The prior.
        categories: Columns of categories, if there are any.

    Returns:
        The variational posterior and the responsibilities that it ends at.
    """
    categories = none_of(x) if categories is None else categories
    size = x.shape[1]
    nu0 = size - 1 + setting.likeness
    eta = size + 2.0
    eye = torch.eye(size).to(x)
    psi, h = SCALE * eye, torch.tensor(eta + setting.components * nu0).to(x)
    u = x.new_ones(setting.components, len(x))
    column_mean = x.nanmean(0).nan_to_num()
    mean = torch.where(torch.isnan(x), column_mean, x).expand(setting.components, *x.shape)
    factor, last = None, -math.inf
    for step in range(STEPS):
        n, loc, kappa, scatter = _moments(r, u, mean, factor, setting.mean_precision)
        nu = nu0 + n
        for _ in range(3):
            scale = torch.linalg.inv(nu0 * psi + scatter)
            inverse = eta / SCALE * eye + nu0 * (nu.view(-1, 1, 1) * scale).sum(0)
            psi = h * torch.linalg.inv(inverse)
        levels = 1.0 + r.T @ categories.seen
        q = Variational(setting, 0.0, 1.0 + n, loc, kappa, scale, nu, psi, levels)
        local = _of(x, q)
        log_rho = local.log_rho + categories.seen @ categories.log_p(levels, True).T
        bound = log_rho.logsumexp(1).sum() - _divergence(q, inverse, h, nu0, eta) - categories.divergence(levels)
        r, u, mean, factor = log_rho.softmax(1), local.shape / local.rate, local.mean, local.factor
        if step > 5 and float(bound) - last < TOLERANCE:
            break
        last = float(bound)
    return q._replace(bound=float(bound) + math.lgamma(setting.components + 1)), r


def _divergence(q: Variational, inverse: Tensor, h: Tensor, nu0: float, eta: float) -> Tensor:
    """KL from the prior to q of the global variables, nats."""
    size, k = q.loc.shape[1], len(q.loc)
    log_det, log_det_psi = torch.logdet(q.scale), -torch.logdet(inverse)
    e_lambda, e_psi = _expected_log_det(log_det, q.nu, size), _expected_log_det(log_det_psi, h, size)
    weights = torch.lgamma(q.counts.sum()) - torch.lgamma(q.counts).sum() - math.lgamma(k)
    log_pi = torch.digamma(q.counts) - torch.digamma(q.counts.sum())
    weights = weights + ((q.counts - 1) * log_pi).sum()
    kappa0 = q.setting.mean_precision
    ratio = kappa0 / q.kappa
    precision = q.nu.view(-1, 1, 1) * q.scale
    quadratic = ((q.loc.unsqueeze(1) @ precision).squeeze(1) * q.loc).sum(1)
    means = (size / 2 * (ratio - 1 - ratio.log()) + kappa0 / 2 * quadratic).sum()
    start = torch.tensor(nu0).to(h)
    own = _log_b(log_det, q.nu, size) + (q.nu - size - 1) / 2 * e_lambda - q.nu * size / 2
    prior = _log_b(-size * start.log() - e_psi, start, size) + (nu0 - size - 1) / 2 * e_lambda
    prior = prior - nu0 / 2 * (q.psi * precision).sum((1, 2))
    first = torch.tensor(eta).to(h)
    common = _log_b(log_det_psi, h, size) - _log_b(size * (math.log(SCALE) - first.log()), first, size)
    common = common + (h - eta) / 2 * e_psi - h * size / 2 + eta / SCALE / 2 * q.psi.trace()
    return weights + means + (own - prior).sum() + common


# ----------------------------------------------------------------------------------------------------------------------
# Gibbs sampling


def gibbs(
    x: Tensor, q: Variational, draws: int, burn_in: int, categories: Categories | None = None
) -> tuple[Tensor, Tensor]:
    """One chain from a draw of the variational posterior, by the global generator.

    Arguments:
        x: Standardised rows with shape (N, D), float64, NaN where nothing was observed.
        q: Where it starts, and the setting.
        draws: The number S of draws that are kept.
        burn_in: The number before them.
        categories: Columns of categories, if there are any.

    Returns:
        Labels with shape (S, N), int64, and log-densities of the data given the parameters, (S).
    """
    categories = none_of(x) if categories is None else categories
    size, setting, counted = x.shape[1], q.setting, q.levels
    nu0 = size - 1 + setting.likeness
    psi, eye = q.psi, torch.eye(size).to(x)
    counts, loc, kappa, scale, nu = q.counts, q.loc, q.kappa, q.scale, q.nu
    labels, log_density = [], []
    for step in range(burn_in + draws):
        pi = torch.distributions.Dirichlet(counts).sample()
        precision = _wishart(nu, scale)
        lower = torch.linalg.cholesky(precision)
        noise = torch.linalg.solve_triangular(lower.mT, torch.randn_like(loc).unsqueeze(-1), upper=True).squeeze(-1)
        mu = loc + noise / kappa.sqrt().unsqueeze(1)
        total = eye * (size + 2.0) / SCALE + nu0 * precision.sum(0)
        psi = _wishart(torch.tensor(size + 2.0 + len(loc) * nu0).to(x).unsqueeze(0), torch.linalg.inv(total)[None])[0]
        local = _local(x, mu, precision, torch.logdet(precision), pi.log(), setting.dof, torch.zeros_like(pi))
        log_rho = local.log_rho + categories.seen @ _log_dirichlet(counted, categories.sizes).T
        c = torch.distributions.Categorical(logits=log_rho).sample()
        u = torch.distributions.Gamma(local.shape, local.rate).sample()  # (K, N), of which one a datum counts
        mean = local.mean
        if local.factor is not None:
            shift = local.factor @ torch.randn_like(mean).unsqueeze(-1)
            mean = mean + shift.squeeze(-1) / u.sqrt().unsqueeze(-1)
        r = torch.nn.functional.one_hot(c, len(loc)).to(x)
        n, loc, kappa, scatter = _moments(r, u, mean, None, setting.mean_precision)
        counted = 1.0 + r.T @ categories.seen
        counts, nu, scale = 1.0 + n, nu0 + n, torch.linalg.inv(nu0 * psi + scatter)
        if step >= burn_in:
            labels.append(c)
            log_density.append(log_rho.logsumexp(1).sum())
    return torch.stack(labels), torch.stack(log_density)


def _log_dirichlet(counts: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Logarithms of draws of Dirichlet laws that stand in a row, with shape (K, L)."""
    return torch.cat(
        [counts[:, :0], *(torch.distributions.Dirichlet(n).sample().log() for n in counts.split(sizes, 1))], 1
    )


def _wishart(nu: Tensor, scale: Tensor) -> Tensor:
    """Draws by Bartlett's decomposition, with shape (K, D, D)."""
    size = scale.shape[-1]
    i = torch.arange(size, dtype=nu.dtype)
    diagonal = torch.distributions.Chi2(nu.unsqueeze(-1) - i).sample().sqrt()
    a = torch.randn_like(scale).tril(-1) + torch.diag_embed(diagonal)
    factor = torch.linalg.cholesky(scale) @ a
    return torch.matmul(factor, factor.mT)
