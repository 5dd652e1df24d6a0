"""Bayesian analyses of m completed tables, pooled by stacking their draws."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_gen.imputation.pooling.degrees_of_freedom import Array, checked_level

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["StackedPosterior", "stack_posteriors"]


@dataclass(frozen=True, eq=False)
class StackedPosterior:
    """The mixture of the posteriors of m tables, each of the same weight. Made by :func:`stack_posteriors`.

    Arguments:
        names: Of the k parameters.
        draws: All draws, with shape :math:`(S, k)`.
        weights: Of the draws, with shape :math:`(S)`; their sum is 1.
        means: Of the single posteriors, with shape :math:`(m, k)`.
        variances: Of the single posteriors, with shape :math:`(m, k)`.
    """

    names: tuple[str, ...]
    draws: Array = field(repr=False)
    weights: Array = field(repr=False)
    means: Array = field(repr=False)
    variances: Array = field(repr=False)

    @property
    def mean(self) -> Array:
        """The mean of the mixture, with shape :math:`(k)`."""
        return self.weights @ self.draws

    @property
    def sd(self) -> Array:
        """The standard deviation of the mixture, with shape :math:`(k)`."""
        return np.sqrt(self.weights @ (self.draws - self.mean) ** 2)

    def quantile(self, q: float) -> Array:
        """The smallest draws with at least a share q of the mixture at or below them, with shape :math:`(k)`."""
        order = np.argsort(self.draws, 0, kind="stable")
        below = np.cumsum(self.weights[order], 0)
        rows = np.minimum((below < q - 1e-12).sum(0), len(self.draws) - 1)
        columns = np.arange(len(self.names))
        return np.asarray(self.draws[order[rows, columns], columns])

    def summary(self, level: float = 0.95) -> "pd.DataFrame":
        """One row for each parameter: mean, sd, median and central interval, and Rubin's standard error beside them.

        Where sd is much below it, there are too few tables for stacking.
        """
        import pandas as pd

        m, tail = len(self.means), (1 - checked_level(level)) / 2
        rubin = self.variances.mean(0) + (1 + 1 / m) * self.means.var(0, ddof=1) if m > 1 else self.variances[0]
        return pd.DataFrame(
            {
                "term": self.names,
                "mean": self.mean,
                "sd": self.sd,
                "median": self.quantile(0.5),
                "conf.low": self.quantile(tail),
                "conf.high": self.quantile(1 - tail),
                "rubin.std.error": np.sqrt(rubin),
            }
        )

    def __str__(self) -> str:
        return self.summary().to_string(index=False, float_format=lambda value: f"{value:.4g}")


def stack_posteriors(posteriors: Sequence[Any], *, names: Sequence[str] | None = None) -> StackedPosterior:
    r"""Pools Bayesian analyses of m completed tables by stacking their draws: the mixture of the m posteriors.

    It keeps skewness and several modes, which Rubin's rules replace by a t-distribution. It needs many tables, about a
    hundred: with m of them its variance lacks :math:`2 B / m` of Rubin's.

    Arguments:
        posteriors: For each table the draws of its posterior, with shape :math:`(S_k, k)` or :math:`(S_k)`; a table
            with more draws weighs no more than the others.
        names: Of the k parameters.

    Returns:
        The mixture.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> posterior = stack_posteriors([rng.normal(shift, 1.0, 500) for shift in rng.normal(size=200)], names=["mu"])
        >>> posterior.summary().round(1)
          term  mean   sd  median  conf.low  conf.high  rubin.std.error
        0   mu   0.0  1.4     0.0      -2.7        2.7              1.4
    """
    parts = [np.asarray(draws, dtype=np.float64) for draws in posteriors]
    parts = [part[:, None] if part.ndim == 1 else part for part in parts]
    if not parts or any(part.ndim != 2 or len(part) < 2 or part.shape[1] != parts[0].shape[1] for part in parts):
        raise ValueError(
            "posteriors: expected arrays of at least 2 draws of the same k parameters, (S, k), one for each table; got "
            f"shapes {[np.shape(draws) for draws in posteriors][:5]}."
        )
    if not all(np.isfinite(part).all() for part in parts):
        raise ValueError("posteriors: some draws are not finite.")
    k = parts[0].shape[1]
    labels = tuple(map(str, names)) if names is not None else tuple(f"q{i}" for i in range(k))
    if len(labels) != k:
        raise ValueError(f"names: got {len(labels)} names for {k} parameters.")
    return StackedPosterior(
        labels,
        np.concatenate(parts),
        np.concatenate([np.full(len(part), 1 / (len(parts) * len(part))) for part in parts]),
        np.stack([part.mean(0) for part in parts]),
        np.stack([part.var(0, ddof=1) for part in parts]),
    )
