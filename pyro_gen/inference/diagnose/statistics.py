r"""What is to be known of the draws of each parameter: convergence, effective sample size, moments and quantiles.

For a parameter with draws :math:`\theta_{cn}` of chains :math:`c = 1, \dots, C`, all of it on normal scores: ranks over
all chains, mapped by :math:`\Phi^{-1}`, so that heavy tails do no harm, and folded ranks of
:math:`|\theta - \mathrm{median}|` beside them, which see chains that differ in scale.

*Few chains, many draws.* The split :math:`\hat R` compares the variance B of the means of half-chains with the variance
W within them,

.. math::
    \hat R^2 = \frac{N - 1}{N} + \frac{B}{W} , \qquad \mathbb{E} \, \hat R^2 - 1 \approx 1 / \mathrm{ESS}_{N / 2}

for chains that have converged: the error of the mean of half a chain is in it.

*Many chains, few draws.* That error alone puts :math:`\hat R` above 1.01 however good the chains are. The nested
:math:`\hat R` averages over the M chains of a superchain before it compares,

.. math::
    \mathfrak{n} \hat R^2 =
        1 + \frac{\operatorname{var}_k \bar \theta_k}{\operatorname{mean}_k (\tilde B_k + \tilde W_k)} ,

with :math:`\tilde B_k, \tilde W_k` the variances between and within the chains of superchain k. Chains of a superchain
that start from one point would carry it in their common mean. Where chains start independently of each other, groups of
them take the place of superchains; two ways to fail are then averaged out, and are looked for on their own in the
means :math:`\theta'_c, \theta''_c` of the first and last third of each chain:

.. math::
    \operatorname{cov}_c(\theta'_c, \theta''_c) / W , \qquad \operatorname{mean}_c(\theta''_c - \theta'_c) / \sqrt{W} ,

that chains stay apart (modes between which they do not move; the covariance has none of the error of the means in it),
and that all of them drift.

References:
    | Rank-normalization, folding, and localization: An improved R-hat (Vehtari et al., 2021)
    | https://arxiv.org/abs/1903.08008
    | Nested R-hat: Assessing the convergence of Markov chain Monte Carlo when running many short chains (Margossian et
      al., 2024)
    | https://arxiv.org/abs/2110.13017
    | A Conceptual Introduction to Hamiltonian Monte Carlo (Betancourt, 2017): E-BFMI
    | https://arxiv.org/abs/1701.02434
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri
from scipy.stats import chi2, norm

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "MIN_CHAINS_FOR_SUPERCHAINS",
    "RHAT",
    "bfmi",
    "effective_draws",
    "effective_draws_of_each",
    "nested_rhat",
    "parameter_table",
    "pooled_bfmi",
    "summary",
    "worth",
]

Array = npt.NDArray[np.float64]

MIN_CHAINS_FOR_SUPERCHAINS = 32  # chains, from which on a group of them is a superchain
RHAT = 1.01  # Vehtari et al. (2021)
Z = 5.0  # standard errors, for what is tested for each of perhaps thousands of parameters
ENTRIES = 2**20  # numbers that are looked at at once: they stay near the caches


# ----------------------------------------------------------------------------------------------------------------------
# Parameters as rows


def _parameters(data: Any) -> Iterator[tuple[list[str], Array]]:
    """Names and draws (P, C, N) of the parameters of a group, as many at once as fit: it may lie on disk."""
    for name, variable in data.data_vars.items():
        if variable.dtype.kind not in "biuf":
            continue
        values = variable.transpose("chain", "draw", ...)
        values = values.assign_coords({d: range(values.sizes[d]) for d in values.dims if d not in values.coords})
        draws = values.sizes["chain"] * values.sizes["draw"]
        parts = [values]
        if values.ndim > 2 and values.size > ENTRIES:
            along, rows = values.dims[2], max(1, ENTRIES * values.shape[2] // values.size)
            parts = [values.isel({along: slice(at, at + rows)}) for at in range(0, values.shape[2], rows)]
        for part in parts:
            labels = itertools.product(*(part.coords[d].values for d in part.dims[2:]))
            names = [f"{name}[{', '.join(map(str, index))}]" if index else str(name) for index in labels]
            flat = part.values.reshape(*part.shape[:2], -1)
            size = max(1, ENTRIES // draws)
            for start in range(0, len(names), size):
                x = np.moveaxis(flat[:, :, start : start + size], 2, 0)
                yield names[start : start + size], np.ascontiguousarray(x, dtype=np.float64)


def _split(x: Array) -> Array:
    """Half-chains: (P, C, N) -> (P, 2C, N // 2)."""
    half = x.shape[2] // 2
    return np.concatenate([x[:, :, :half], x[:, :, x.shape[2] - half :]], 1)


def _normal_scores(x: Array) -> tuple[Array, Array, Array]:
    """Ranks among all draws of a parameter as normal scores, those of the distance from the median, and the draws in
    ascending order: (P, C, N) -> (P, C, N), (P, C, N), (P, C * N).
    """
    flat = x.reshape(len(x), -1)
    order = np.argsort(flat, 1)
    ascending = np.take_along_axis(flat, order, 1)
    half = flat.shape[1] // 2
    median = (ascending[:, half] + ascending[:, -half - 1]) / 2
    # Falling, then rising: what a stable sort merges in linear time.
    folded = np.abs(ascending - median[:, None])
    merge = np.argsort(folded, 1, kind="stable")
    outwards = np.take_along_axis(order, merge, 1)
    scores = _ranked(order, ascending), _ranked(outwards, np.take_along_axis(folded, merge, 1))
    return scores[0].reshape(x.shape), scores[1].reshape(x.shape), ascending


def _ranked(order: npt.NDArray[Any], ascending: Array) -> Array:
    """Normal scores of ranks, ties averaged, put back into the order of the draws: (P, S) -> (P, S)."""
    n = ascending.shape[1]
    scores = np.broadcast_to(ndtri((np.arange(1, n + 1) - 3 / 8) / (n + 1 / 4)), ascending.shape).copy()
    tied = ascending[:, 1:] == ascending[:, :-1]
    if tied.any():
        after, before = (np.pad(tied, ((0, 0), side)) for side in ((1, 0), (0, 1)))
        low, high = (np.flatnonzero(run) % n for run in (before & ~after, after & ~before))  # of each run of ties
        scores[before | after] = np.repeat(ndtri(((low + high) / 2 + 1 - 3 / 8) / (n + 1 / 4)), high - low + 1)
    out = np.empty_like(scores)
    np.put_along_axis(out, order, scores, 1)
    return out


# ----------------------------------------------------------------------------------------------------------------------
# R-hat


def _rhat(x: Array) -> Array:
    """R-hat as it stands: (P, C, N) -> (P)."""
    n = x.shape[2]
    between, within = x.mean(2).var(1, ddof=1), x.var(2, ddof=1).mean(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.sqrt(between / within + (n - 1) / n))


def _chance(scores: Array, folded: Array, means: int, draws: int, floor: float) -> Array:
    r"""What R-hat of chains that have converged stays below but for :math:`3 \cdot 10^{-7}` of times: (P, C, N) -> (P).

    The variance of M means of n draws each, of autocorrelation time :math:`\tau` within chains, is
    :math:`\tau / n \cdot \chi^2_{M - 1} / (M - 1)`.

    Arguments:
        scores: Normal scores of half-chains.
        folded: Folded ones.
        means: The number M of means that are compared.
        draws: The number n of draws in each.
        floor: The square of R-hat where they are equal.
    """
    total = scores.shape[1] * scores.shape[2]
    tau = np.maximum(*(total / _ess(s, apart=False) for s in (scores, folded)))
    worst = chi2.isf(norm.sf(Z), means - 1) / (means - 1)
    return np.asarray(np.sqrt(floor + np.maximum(tau, 1.0) / draws * worst))


def _groups(chains: int) -> npt.NDArray[Any]:
    """Group numbers of independent chains: up to 16 groups of 8 chains or more, of sizes that differ by one at most."""
    return np.arange(chains) * min(16, max(2, chains // 8)) // chains


def _nested(x: Array, groups: npt.NDArray[Any]) -> Array:
    """Nested R-hat as it stands: (P, C, N) and the superchain of each chain (C,) -> (P)."""
    means = x.mean(2)
    within = x.var(2, ddof=1) if x.shape[2] > 1 else np.zeros_like(means)
    centres, spreads = [], []
    for group in np.unique(groups):
        member = groups == group
        between = means[:, member].var(1, ddof=1) if member.sum() > 1 else 0.0
        centres.append(means[:, member].mean(1))
        spreads.append(between + within[:, member].mean(1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.sqrt(1 + np.var(centres, 0, ddof=1) / np.mean(spreads, 0)))


def nested_rhat(draws: Any, superchains: int | Sequence[int] | None = None) -> float:
    r"""Computes the nested R-hat of one parameter, on normal scores and folded ones, whichever is larger.

    Arguments:
        draws: With shape :math:`(C, N)`: chains, draws.
        superchains: The number M of consecutive chains that started from one point, or the number of its superchain
            for each chain. By default groups of chains that started independently of each other.

    Returns:
        The nested R-hat, NaN where the draws do not vary.

    Raises:
        ValueError: There are fewer than two superchains.

    Example:
        >>> draws = np.random.default_rng(0).normal(size=(256, 20))
        >>> nested_rhat(draws) < 1.01, nested_rhat(draws + np.repeat([0, 1], 128)[:, None]) > 1.1
        (True, True)
    """
    x = np.asarray(draws, np.float64)[None]
    groups = _superchains(superchains, x.shape[1])
    scores, folded, _ = _normal_scores(x)
    return float(np.maximum(_nested(scores, groups), _nested(folded, groups))[0])


def _superchains(given: Any, chains: int) -> npt.NDArray[Any]:
    groups: npt.NDArray[Any]
    if given is None:
        groups = _groups(chains)
    elif np.ndim(given) == 0:
        groups = np.arange(chains) // int(given)
    else:
        groups = np.asarray(given)
    if groups.shape != (chains,) or len(np.unique(groups)) < 2:
        raise ValueError(
            f"superchains={given!r} for {chains} chains: give how many consecutive chains started from one point, or "
            "the number of its superchain for each chain, at least two superchains in all."
        )
    return groups


# ----------------------------------------------------------------------------------------------------------------------
# Effective sample size


def effective_draws(draws: Any) -> float:
    r"""The effective sample size of the mean of a number, by autocorrelation within chains and spread between them.

    Arguments:
        draws: With shape :math:`(C, N)`: chains, draws.

    Returns:
        The size, at most :math:`C N \log_{10}(C N)`; the number of chains, which are independent of each other, where
        they are shorter than 8 draws and so have no autocorrelation to speak of.

    Example:
        >>> walk = np.random.default_rng(0).normal(size=(100, 20)).repeat(10, 1)  # each number comes ten times
        >>> 1500 < effective_draws(walk) < 2500
        True
    """
    return float(effective_draws_of_each(np.asarray(draws)[None])[0])


def effective_draws_of_each(draws: Any) -> Array:
    """As :func:`effective_draws`, of many numbers: with shape :math:`(P, C, N)`, numbers, chains, draws, to (P)."""
    x = np.asarray(draws, np.float64)
    return _ess(_split(x)) if x.shape[2] >= 8 else np.full(len(x), float(x.shape[1]))


def _ess(x: Array, apart: bool = True) -> Array:
    """Effective sample size by Geyer's initial monotone sequence: (P, C, N) -> (P).

    Without ``apart`` as if the chains had the same mean: what says that they have not then counts for nothing.
    """
    count, chains, n = x.shape
    means = x.mean(2)
    centred = x - means[:, :, None]
    first = np.square(centred).mean((1, 2))
    within = first * n / (n - 1)
    total = within if not apart else first + (means.var(1, ddof=1) if chains > 1 else 0.0)
    last = max(0, math.ceil((n - 2) / 2) - 1)  # the last pair of lags, (2k, 2k + 1)
    sums, evens = np.full((count, last + 1), np.nan), np.ones((count, last + 1))
    open_ = np.arange(count)
    with np.errstate(invalid="ignore", divide="ignore"):
        for k in range(last + 1):
            rho = [
                1 - (within[open_] - _autocovariance(centred, open_, lag)) / total[open_]
                if lag
                else np.ones(len(open_))
                for lag in (2 * k, 2 * k + 1)
            ]
            evens[open_, k], sums[open_, k] = rho[0], rho[0] + rho[1]
            open_ = open_[sums[open_, k] > 0]
            if len(open_) == 0:
                break
        ends = np.where((sums <= 0).any(1), (sums <= 0).argmax(1), last)
        inside = np.arange(last + 1) < ends[:, None]
        monotone = np.where(inside, np.minimum.accumulate(np.where(inside, sums, np.inf), 1), 0.0)
        even = np.maximum(evens[np.arange(count), ends], 0.0)
        tau = np.maximum(-1 + 2 * monotone.sum(1) + even, 1 / math.log10(chains * n))
        found = chains * n / tau
    constant = np.ptp(x.reshape(count, -1), 1) < np.finfo(float).resolution
    return np.where(constant, float(chains * n), found)


def _autocovariance(centred: Array, rows: npt.NDArray[Any], lag: int) -> Array:
    n = centred.shape[2]
    if len(rows) < len(centred):
        centred = centred[rows]
    return np.asarray(np.einsum("pcn,pcn->p", centred[:, :, : n - lag], centred[:, :, lag:]) / (centred.shape[1] * n))


def _quantiles(ascending: Array, probabilities: Sequence[float]) -> Array:
    """Quantiles of sorted rows (P, S) -> (Q, P), interpolated linearly as by NumPy."""
    out = []
    for p in probabilities:
        k, share = divmod((ascending.shape[1] - 1) * p, 1)
        low = int(k)
        out.append((1 - share) * ascending[:, low] + share * ascending[:, low + 1])
    return np.array(out)


def bfmi(energy: Any) -> Array:
    """The estimated Bayesian fraction of missing information of each chain: energies (C, N, *) give (C, *).

    Below 0.3 the momentum that is drawn anew in each transition changes the energy too little to explore it.
    """
    energy = np.asarray(energy, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.square(np.diff(energy, axis=1)).mean(1) / energy.var(1, ddof=1))


def pooled_bfmi(energy: Any) -> Array:
    """As :func:`bfmi`, of all chains together, with shape (*): many short chains know their own variance badly."""
    energy = np.asarray(energy, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.square(np.diff(energy, axis=1)).mean((0, 1)) / energy.var((0, 1)))


# ----------------------------------------------------------------------------------------------------------------------
# Summary


def _columns(x: Array, groups: npt.NDArray[Any] | None) -> dict[str, Array]:
    """What is to be known of each of the parameters with draws (P, C, N)."""
    halves = _split(x)
    scores, folded, ascending = _normal_scores(halves)
    if x.shape[2] % 2:  # the halves leave out a draw
        ascending = np.sort(x.reshape(len(x), -1), 1)
    low, median, high = _quantiles(ascending, (0.05, 0.5, 0.95))
    sd = ascending.std(1, ddof=1)
    tails = [_ess((halves <= q[:, None, None]).astype(np.float64)) for q in (low, high)]
    columns = {
        "mean": ascending.mean(1),
        "sd": sd,
        "5%": low,
        "50%": median,
        "95%": high,
        "mcse_mean": sd / np.sqrt(_ess(halves)),
        "ess_bulk": _ess(scores),
        "ess_tail": np.minimum(*tails),
        "rhat": np.maximum(_rhat(scores), _rhat(folded)),
    }
    columns["chance"] = _chance(scores, folded, halves.shape[1], halves.shape[2], 1 - 1 / halves.shape[2])
    if groups is not None:
        # The halves of all chains come one after the other, so that halves are put together again by moving axes.
        whole = [np.concatenate(np.split(s, 2, 1), 2) for s in (scores, folded)]
        columns["rhat_nested"] = np.maximum(*(_nested(s, groups) for s in whole))
        sizes = np.unique(groups, return_counts=True)[1]
        columns["chance"] = _chance(scores, folded, len(sizes), sizes.min() * x.shape[2], 1.0)
        apart = [_apart(s) for s in whole]
        columns["apart"] = np.maximum(*(a for a, _ in apart))
        columns["drift"] = np.maximum(*(d for _, d in apart))
    return columns


def worth(draws: Array) -> tuple[float, bool]:
    """What draws of some parameters are worth, and whether their chains agree.

    Arguments:
        draws: With shape :math:`(P, C, N)`: parameters, chains, draws.

    Returns:
        The least bulk effective sample size, and whether R-hat, nested where there are many chains, is that of chains
        that have converged everywhere.
    """
    many = draws.shape[1] >= MIN_CHAINS_FOR_SUPERCHAINS
    columns = _columns(draws, _groups(draws.shape[1]) if many else None)
    varies = columns["sd"] > 0
    rhat = columns["rhat_nested" if many else "rhat"]
    agree = ~(rhat > np.maximum(columns["chance"], RHAT)) | ~varies
    return float(columns["ess_bulk"][varies].min(initial=math.inf)), bool(agree.all())


def _apart(x: Array) -> tuple[Array, Array]:
    """How far chains stay apart, as an R-hat without the error of the means, and how far all drift, in sd; 1 and 0
    where it can be chance: (P, C, N), N >= 3 -> (P), (P).
    """
    chains, third = x.shape[1], x.shape[2] // 3
    first, last = x[:, :, :third].mean(2), x[:, :, x.shape[2] - third :].mean(2)
    covariance = ((first - first.mean(1, keepdims=True)) * (last - last.mean(1, keepdims=True))).sum(1) / (chains - 1)
    moved = last - first
    within = x.var(2, ddof=1).mean(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        certain = covariance * math.sqrt(chains - 1) > Z * first.std(1, ddof=1) * last.std(1, ddof=1)
        far = np.abs(moved.mean(1)) * math.sqrt(chains) > Z * moved.std(1, ddof=1)
        apart = np.where(certain, np.sqrt(1 + covariance / within), 1.0)
        return apart, np.where(far, np.abs(moved.mean(1)) / np.sqrt(within), 0.0)


def _weighted(x: Array, log_weights: Array) -> dict[str, Array]:
    """Moments and quantiles of draws (P, C, N) with log-weights of the same shape."""
    flat, log_w = x.reshape(len(x), -1), log_weights.reshape(len(x), -1)
    with np.errstate(invalid="ignore"):  # a weight that is NaN or infinite makes all of it NaN
        w = np.exp(log_w - log_w.max(1, keepdims=True))
    w /= w.sum(1, keepdims=True)
    order = np.argsort(flat, 1)
    ascending, level = np.take_along_axis(flat, order, 1), np.cumsum(np.take_along_axis(w, order, 1), 1)
    mean = (w * flat).sum(1)
    columns = {"mean": mean, "sd": np.sqrt((w * np.square(flat - mean[:, None])).sum(1))}
    for name, p in (("5%", 0.05), ("50%", 0.5), ("95%", 0.95)):
        at = np.minimum((level < p).sum(1), flat.shape[1] - 1)
        columns[name] = ascending[np.arange(len(flat)), at]
    variance, kish = (np.square(w) * np.square(flat - mean[:, None])).sum(1), 1 / np.square(w).sum(1)
    if x.shape[1] >= 4:
        # Islands of particles: those of one are not independent, the islands are.
        of_island = w.reshape(x.shape)
        share = of_island.sum(2)
        apart = (of_island * x).sum(2) - share * mean[:, None]
        variance = np.square(apart).sum(1) * x.shape[1] / (x.shape[1] - 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            kish = np.fmin(kish, np.square(columns["sd"]) / variance)
    columns["mcse_mean"], columns["ess"] = np.sqrt(variance), kish
    return columns


def _weights_of(idata: Any, name: str) -> Any:
    """The log-weights of a variable, broadcast against it; None where draws are not weighted."""
    stats = getattr(idata, "sample_stats", None)
    if stats is None or "log_weight" not in stats:
        return None
    weights, variable = stats["log_weight"], idata.posterior[name]
    if not set(weights.dims) <= set(variable.dims):
        raise ValueError(
            f"The log-weights have the dimensions {tuple(weights.dims)}, which {name!r} does not have: its draws have "
            "no weights of their own."
        )
    return weights.broadcast_like(variable)


def summary(idata: Any, superchains: int | Sequence[int] | None = None) -> "pd.DataFrame":
    """Moments, quantiles and convergence of each parameter, vectorised over parameters.

    Arguments:
        idata: An ``arviz.InferenceData`` with a group ``posterior``.
        superchains: As for :func:`pyro_gen.diagnose`.

    Returns:
        A table with a row per parameter and columns ``mean, sd, 5%, 50%, 95%, mcse_mean, ess_bulk, ess_tail, rhat``,
        for 32 chains or more also ``rhat_nested``; for weighted draws ``ess`` in the place of the last ones.

    Example:
        >>> import arviz as az
        >>> draws = np.random.default_rng(0).normal(size=(4, 500, 2))
        >>> table = summary(az.from_dict(posterior={"mu": draws}))
        >>> list(table.index), bool(table["rhat"].max() < 1.01)
        (['mu[0]', 'mu[1]'], True)
    """
    table = parameter_table(idata, superchains)
    return table.drop(columns=["apart", "chance", "drift", "finite"], errors="ignore")


def parameter_table(idata: Any, superchains: int | Sequence[int] | None = None) -> "pd.DataFrame":
    """The columns of :func:`summary`, and some more for the verdict.

    Arguments:
        idata: As for :func:`summary`.
        superchains: As for :func:`summary`.

    Returns:
        A table with the further columns ``finite``, whether all draws are, ``chance``, what R-hat (nested, where there
        is one) of converged chains with this autocorrelation may come to, and for 32 chains or more ``apart`` and
        ``drift``: how far chains stay apart, as an R-hat, and how far all of them drift, in standard deviations; 1 and
        0 where it can be chance.

    Raises:
        TypeError: There are no draws in what was given.
        ValueError: There are fewer than 4 draws per chain, or the superchains do not fit.
    """
    import pandas as pd

    posterior = getattr(idata, "posterior", None)
    if posterior is None or not {"chain", "draw"} <= set(posterior.sizes):
        raise TypeError(
            f"expected an arviz.InferenceData with a group posterior of chains and draws, got {type(idata).__name__}."
        )
    groups = _superchains_of(posterior, superchains)
    if posterior.sizes["draw"] < 4:
        raise ValueError(f"there are {posterior.sizes['draw']} draws per chain: diagnosis takes 4 or more.")
    names: list[str] = []
    columns: dict[str, list[Any]] = {}
    for variable in posterior.data_vars:
        one = posterior[[variable]]
        weights = _weights_of(idata, variable)
        log_w = None if weights is None else _parameters(weights.to_dataset(name=variable))
        for labels, x in _parameters(one):
            names += labels
            part: dict[str, Any] = _columns(x, groups) if log_w is None else _weighted(x, next(log_w)[1])
            part["finite"] = np.asarray(np.isfinite(x).all((1, 2)))
            for name, column in part.items():
                columns.setdefault(name, []).append(column)
    return pd.DataFrame({name: np.concatenate(parts) for name, parts in columns.items()}, index=pd.Index(names))


def _superchains_of(posterior: Any, given: Any) -> npt.NDArray[Any] | None:
    """The superchain of each chain: the given ones, else those that the draws know of, or groups of many chains."""
    superchains = posterior.attrs.get("superchains") if given is None else given
    if superchains is None and posterior.sizes["chain"] < MIN_CHAINS_FOR_SUPERCHAINS:
        return None
    return _superchains(superchains, posterior.sizes["chain"])
