"""Moments of the two hierarchical regressions of :mod:`tests.inference.natural_scales`, by sums over grids.

Their funnels are no place for importance sampling, but given two or three parameters all others are integrated out in
closed form, or in one dimension each.
"""

import numpy as np
from scipy import stats

from tests.inference.natural_scales import REGRESSIONS

__all__ = ["counts", "dollars"]

Moments = tuple[np.ndarray, np.ndarray, np.ndarray]


def _moments(first: np.ndarray, second: np.ndarray) -> Moments:
    """Mean, standard deviation, and no error."""
    return first, np.sqrt(second - first**2), np.zeros_like(first)


def _normalised(log_p: np.ndarray) -> np.ndarray:
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    for axis in range(p.ndim):  # the grids reach far enough
        ends = p.take([0, -1], axis).sum()
        assert ends < 1e-5, (axis, ends)
    return p


def counts() -> dict[str, Moments]:
    r"""Given b, a clinic's counts depend on :math:`u = \alpha + s e` alone, with :math:`\alpha = a + b \bar x`."""
    clinic, age, visits = (d.double().numpy() for d in REGRESSIONS["hierarchical_counts"].data)
    middle = age.mean()
    u = np.arange(0.8, 3.4, 0.01)
    alpha = np.arange(-1.0, 5.5, 0.05)
    b = np.linspace(0.015, 0.055, 81)
    s = np.concatenate([np.arange(0.02, 1.0, 0.02), np.arange(1.0, 4.5, 0.1)])
    widths = np.gradient(s)
    kernel = stats.norm.pdf(u, alpha[:, None, None], s[:, None])  # (alpha, s, u)
    kernel /= kernel.sum(-1, keepdims=True).clip(1 / 0.01)
    e = (u - alpha[:, None, None]) / s[:, None]
    zeroth, first, second = [], [], []
    for c in range(6):
        x, y = age[clinic == c] - middle, visits[clinic == c]
        log_l = y.sum() * u[:, None] + (x * y).sum() * b - np.exp(u)[:, None] * np.exp(b[:, None] * x).sum(1)
        like = np.exp(log_l - log_l.max())  # (u, b)
        zeroth.append((kernel @ like).clip(1e-300))
        first.append((kernel * e) @ like / zeroth[-1])
        second.append((kernel * e**2) @ like / zeroth[-1])
    a = alpha[:, None, None] - b * middle
    log_p = np.log(zeroth).sum(0) + stats.norm.logpdf(a, 0, 5) + stats.norm.logpdf(b)
    p = _normalised(log_p + (stats.norm.logpdf(s) + np.log(widths))[:, None])
    effects = (np.array([(p * m).sum() for m in of]) for of in (first, second))
    sites = {"a": a, "b": b, "spread": s[:, None]}
    return {n: _moments((p * v).sum(), (p * v**2).sum()) for n, v in sites.items()} | {"effect": _moments(*effects)}


def dollars() -> dict[str, Moments]:
    """Given both scales, mean and levels are jointly normal."""
    region, salary = (d.double().numpy() for d in REGRESSIONS["hierarchical_dollars"].data)
    spread, scale = np.meshgrid(np.linspace(50, 4e4, 800), np.linspace(5e3, 1.4e4, 300), indexing="ij")
    each = [salary[region == r] for r in range(8)]
    means, size = np.array([y.mean() for y in each]), len(each[0])
    squares = sum(((y - y.mean()) ** 2).sum() for y in each)
    error = scale**2 / size  # of a region's mean
    marginal = spread**2 + error
    precision = 1e-10 + 8 / marginal
    loc = means.sum() / marginal / precision
    log_p = -(len(salary) - 8) * np.log(scale) - squares / 2 / scale**2
    log_p = log_p - 4 * np.log(marginal) - 0.5 * np.log(precision)
    log_p = log_p - (means**2).sum() / 2 / marginal + precision * loc**2 / 2
    p = _normalised(log_p - (spread**2 + scale**2) / 2 / 2e4**2)
    share = error / marginal  # of the mean in a level
    level = share * loc + (1 - share) * means[:, None, None]
    variance = share * spread**2 + share**2 / precision
    sites = {"mean": (loc, 1 / precision), "spread": (spread, 0), "scale": (scale, 0), "level": (level, variance)}
    return {n: _moments((p * m).sum((-2, -1)), (p * (m**2 + v)).sum((-2, -1))) for n, (m, v) in sites.items()}
