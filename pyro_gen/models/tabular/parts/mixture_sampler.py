r"""Blocked Gibbs sampling for the mixture of factor analysers.

Nothing missing is ever drawn. One sweep, of all chains at once:

1. rows are assigned to components given their seen entries, with the factors integrated out;
2. sticks and concentration: with :math:`n_k` rows in component k, :math:`v_k \sim \operatorname{Beta}(1 + n_k, \;
   \alpha + \sum_{l > k} n_l)` and :math:`\alpha \sim \operatorname{Gamma}(a + K - 1, \; b - \sum_k \log(1 - v_k))`;
3. the factors :math:`z_n` of each row in its component;
4. what components share, given those that have rows: :math:`\bar W, \lambda, \tau, \bar\psi`, all conjugate;
5. loadings and mean of each component, by a regression of each column on :math:`(z, 1)` over the rows where it was
   seen, and its noise;
6. for counts and ordinal columns the same without factors, their latent variables drawn from truncated normals;
   levels, and whether rows are at atoms, have Dirichlet distributions.

Empty components follow what is shared, so that a row can always go to a new one.

References:
    | Gibbs Sampling Methods for Stick-Breaking Priors (Ishwaran & James, 2001)
    | https://doi.org/10.1198/016214501750332758
    | Bayesian Kernel Mixtures for Counts (Canale & Dunson, 2011)
    | https://doi.org/10.1198/jasa.2011.tm10552
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_gen._internals import standard_gamma
from pyro_gen.distributions.truncated_normal import truncated_normal
from pyro_gen.models.tabular.parts.mixture_columns import MixtureEvidence
from pyro_gen.models.tabular.parts.mixture_rows import Draw, component_posterior

__all__ = ["Prior", "start", "sweep"]

ROUNDING_DEVIATION = 1e-2  # as if entries were rounded so: a component of equal entries would have no density


class Prior(NamedTuple):
    r"""The constants of the prior, pairs of shape and rate of gamma distributions.

    Attributes:
        concentration: Of :math:`\alpha`.
        use: Of :math:`\tau`.
        alike: Of :math:`\lambda`.
        common_noise: Of :math:`\bar\psi`.
        noise: The a of the inverse gamma distribution of :math:`\psi`.
    """

    concentration: tuple[float, float]
    use: tuple[float, float]
    alike: tuple[float, float]
    common_noise: tuple[float, float]
    noise: float


class _Members(NamedTuple):
    """Which rows are in which components.

    Attributes:
        k: The component of each row, with shape :math:`(C, N)`.
        member: One where a component has a row, with shape :math:`(C, K, N)`.
        occupied: One where it has any, with shape :math:`(C, K)`.
    """

    k: Tensor
    member: Tensor
    occupied: Tensor

    def sums(self, left: Tensor, right: Tensor) -> Tensor:
        """The products of (N, D) and (C, N, Q) over the rows of each component, with shape (C, K, D, Q)."""
        out = right.new_zeros(*self.occupied.shape, left.shape[1], right.shape[2])
        for c, k in self.occupied.nonzero().tolist():
            rows = (self.k[c] == k).nonzero()[:, 0]
            out[c, k] = left[rows].T @ right[c, rows]
        return out

    def own(self, values: Tensor) -> Tensor:
        """The values (C, N, *) that the components of rows have, of all (C, K, *)."""
        return values[torch.arange(len(self.k), device=self.k.device)[:, None], self.k]


def start(rows: MixtureEvidence, components: int, rank: int, chains: int) -> Draw:
    """Components around random rows, all of one weight."""
    x, size = rows.real, components
    real, numeric = x.shape[1], x.shape[1] + rows.lower.shape[1]
    sticks = 1 / torch.arange(size, 1, -1).to(x)
    draw = {"concentration": x.new_ones(chains), "sticks": sticks.expand(chains, -1)}
    chosen = torch.randint(len(x), (chains, size)).to(x.device)
    if real:
        draw |= {name: x.new_ones(chains, rank) for name in ("use", "alike")}
        draw["common_loadings"] = torch.randn(chains, real, rank).to(x) * 0.3
        draw["loadings"] = draw["common_loadings"].unsqueeze(1).expand(-1, size, -1, -1)
    if numeric:
        draw["common_noise"], draw["noise"] = x.new_ones(chains, numeric) / 2, x.new_ones(chains, size, numeric) / 2
        middle = (rows.lower.clamp(min=-3) + rows.upper.clamp(max=3)) / 2
        draw["loc"] = torch.cat([x, middle], 1).nan_to_num()[chosen]
    for j, levels in enumerate(rows.by_column()):
        draw[f"levels_{j}"] = (1 + levels[chosen]) / (1 + levels[chosen]).sum(-1, keepdim=True)
    return draw


def sweep(rows: MixtureEvidence, p: Draw, prior: Prior) -> Draw:
    """Draws all parameters, one block after another.

    Arguments:
        rows: What is seen of the table.
        p: The parameters as they were.
        prior: The constants of the prior.
    """
    p = dict(p)
    log_prob, factors = component_posterior(rows, p)
    size = log_prob.shape[1]
    k = (log_prob - (-torch.rand_like(log_prob).log()).log()).argmax(1)  # Gumbel's way to draw, (C, N)
    member = torch.nn.functional.one_hot(k, size).mT.to(log_prob)  # (C, K, N)
    count = member.sum(-1)
    after = count.sum(-1, keepdim=True) - count.cumsum(-1)
    first, second = (_gamma(s, 1.0) for s in (1 + count[:, :-1], p["concentration"].unsqueeze(-1) + after[:, :-1]))
    p["sticks"] = (first / (first + second)).clamp(1e-9, 1 - 1e-9)
    left = (-p["sticks"]).log1p().sum(-1)
    shape, rate = prior.concentration
    p["concentration"] = _gamma(shape + size - 1 + 0 * left, rate - left)
    members = _Members(k, member, (count > 0).to(log_prob))
    if rows.real.shape[1]:
        own = factors.select(lambda v: v.take_along_dim(k[None, :, None], 2).squeeze(2))
        z = own.draw(torch.randn_like(own.e))  # (C, N, R)
        p = _draw_loadings(rows, _draw_shared(p, members.occupied, prior), members, z, prior)
    if rows.lower.shape[1]:
        p = _draw_whole(rows, p, members, prior)
    for j, levels in enumerate(rows.by_column()):
        chances = _gamma(1 + member @ levels, 1.0).clamp(min=1e-12)
        p[f"levels_{j}"] = chances / chances.sum(-1, keepdim=True)
    return p


def _draw_shared(p: Draw, occupied: Tensor, prior: Prior) -> Draw:
    """What the loadings of components share, given those of components with rows."""
    real = p["loadings"].shape[2]
    used, number = occupied[..., None, None], occupied.sum(-1)[:, None, None]
    use, alike = p["use"].unsqueeze(1), p["alike"].unsqueeze(1)
    precision = use + number * alike  # (C, 1, R)
    common = alike * (used * p["loadings"]).sum(1) / precision
    common = common + torch.randn_like(common) / precision.sqrt()  # (C, D, R)
    squares = (used * (p["loadings"] - common.unsqueeze(1)).square()).sum((1, 2))
    alike = _gamma(prior.alike[0] + number[..., 0] * real / 2 + 0 * squares, prior.alike[1] + squares / 2)
    squares = common.square().sum(1)
    use = _gamma(prior.use[0] + real / 2 + 0 * squares, prior.use[1] + squares / 2)
    return p | {"common_loadings": common, "alike": alike, "use": use}


def _draw_loadings(rows: MixtureEvidence, p: Draw, members: _Members, z: Tensor, prior: Prior) -> Draw:
    """Loadings and means of each component: a regression of each real column on (z, 1), where it was seen; noise."""
    member, common, alike = members.member, p["common_loadings"], p["alike"]
    real, rank = common.shape[1:]
    seen, x = (~torch.isnan(rows.real)).to(member), rows.real.nan_to_num()
    design = torch.cat([z, torch.ones_like(z[..., :1])], -1)  # (C, N, R + 1)
    outer = (design.unsqueeze(-1) * design.unsqueeze(-2)).flatten(2)
    noise = p["noise"][..., :real, None]
    strength = torch.cat([alike, torch.ones_like(alike[:, :1])], -1)[:, None, None]  # (C, 1, 1, R + 1)
    centre = torch.cat([common, torch.zeros_like(common[..., :1])], -1).unsqueeze(1)
    gram, projected = (members.sums(*v) / noise for v in ((seen, outer), (x, design)))
    precision = gram.unflatten(-1, (rank + 1, rank + 1)) + torch.diag_embed(strength)
    factor = torch.linalg.cholesky(precision)
    weights = torch.cholesky_solve((projected + strength * centre).unsqueeze(-1), factor)
    weights = weights + torch.linalg.solve_triangular(factor.mT, torch.randn_like(weights), upper=True)
    weights = weights.squeeze(-1)  # (C, K, D, R + 1)
    fitted = (members.own(weights) @ design.unsqueeze(-1)).squeeze(-1)  # (C, N, D)
    squares = member @ ((x - fitted) * seen).square()
    common_noise, noise = _draw_noise(p, slice(0, real), members.occupied, member @ seen, squares, prior)
    new = {"loc": weights[..., rank], "common_noise": common_noise, "noise": noise}
    new = {name: torch.cat([value, p[name][..., real:]], -1) for name, value in new.items()}
    return p | {"loadings": weights[..., :rank]} | new


def _draw_whole(rows: MixtureEvidence, p: Draw, members: _Members, prior: Prior) -> Draw:
    """Means and variances of the latent variables of whole numbers."""
    real, member = rows.real.shape[1], members.member
    whole = slice(real, None)
    seen = ((rows.lower > -torch.inf) | (rows.upper < torch.inf)).to(member)
    loc, scale = members.own(p["loc"])[..., whole], members.own(p["noise"])[..., whole].sqrt()  # (C, N, D)
    z = truncated_normal(torch.rand_like(loc), (rows.lower - loc) / scale, (rows.upper - loc) / scale)
    z = loc + scale * z
    number = member @ seen  # (C, K, D)
    precision = 1 + number / p["noise"][..., whole]
    loc = (member @ (seen * z)) / p["noise"][..., whole] / precision
    loc = loc + torch.randn_like(loc) / precision.sqrt()
    squares = member @ (seen * (z - members.own(loc))).square()
    common_noise, noise = _draw_noise(p, whole, members.occupied, number, squares, prior)
    new = {"loc": loc, "common_noise": common_noise, "noise": noise}
    return p | {name: torch.cat([p[name][..., :real], value], -1) for name, value in new.items()}


def _draw_noise(
    p: Draw, columns: slice, occupied: Tensor, number: Tensor, squares: Tensor, prior: Prior
) -> tuple[Tensor, Tensor]:
    """The common noise (C, D) and that of components (C, K, D), by the squares of residuals and how many there are."""
    precision = (occupied.unsqueeze(-1) / p["noise"][..., columns]).sum(1)
    shape = prior.common_noise[0] + prior.noise * occupied.sum(-1, keepdim=True)
    common = _gamma(shape.expand_as(precision), prior.common_noise[1] + prior.noise * precision)
    squares = squares + number * ROUNDING_DEVIATION**2
    return common, (prior.noise * common.unsqueeze(1) + squares / 2) / _gamma(prior.noise + number / 2, 1.0)


def _gamma(shape: Tensor, rate: Any) -> Tensor:
    drawn: Tensor = standard_gamma(shape) / rate
    return drawn
