r"""Baselines: what a model must beat before its likelihood means anything.

Each takes training and test data and returns :math:`\log p(x)` of every test datum in nats, with shape (N_test,),
float64, exactly. Nothing is tuned on the data they are judged by: numbers of components and smoothing are fixed
beforehand, by the defaults below.

The discrete ones smooth by pseudo-counts, so that no test datum is impossible: half a one per outcome (Jeffreys'
prior), a quarter in mixtures, whose components have fewer data. They take NaN as "not observed", in training and in
test data, and score what was seen.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_gen._random import seeded
from pyro_gen.data import Standardize, as_tensor

__all__ = [
    "full_gaussian",
    "gaussian_mixture",
    "independent_bernoulli",
    "independent_categorical",
    "mixture_of_bernoullis",
]

_JEFFREYS = 0.5
# Best of 0.05, 0.1, 0.2, 0.3, 0.5 on held-out training data of the digits lies between 0.2 and 0.3.
_MIXTURE_COUNT = 0.25


def independent_bernoulli(train: Tensor, test: Tensor) -> Tensor:
    r"""Scores test data under independent Bernoulli entries, :math:`p_d = (n_{d1} + 1/2) / (n_d + 1)`.

    This is the posterior predictive of one datum under Jeffreys' prior Beta(1/2, 1/2); :math:`n_d` counts the observed
    training values of entry d, :math:`n_{d1}` the ones among them.

    Arguments:
        train: Zeros and ones, with shape (N, \*event). NaN = not observed.
        test: Zeros and ones, with shape (N_test, \*event).

    Returns:
        Nats per test datum, with shape (N_test,), float64.

    Raises:
        ValueError: If values are neither 0 nor 1, or the event shapes differ.

    Example:
        >>> train = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
        >>> p = independent_bernoulli(train, torch.tensor([[0.0, 1.0]])).exp()
        >>> round(p.item() - (2.5 / 4) * (3.5 / 4), 12)
        0.0
    """
    return independent_categorical(train, test, levels=2)


def independent_categorical(train: Tensor, test: Tensor, levels: int) -> Tensor:
    r"""Scores test data under independent categorical entries, :math:`p_{dl} = (n_{dl} + 1/2) / (n_d + L/2)`.

    Arguments:
        train: Whole numbers 0..L-1, with shape (N, \*event). NaN = not observed.
        test: Whole numbers 0..L-1, with shape (N_test, \*event).
        levels: Number of levels :math:`L`.

    Returns:
        Nats per test datum, with shape (N_test,), float64.

    Raises:
        ValueError: If values are no whole numbers 0..L-1, or the event shapes differ.
    """
    train, test = _levels_rows(train, test, levels)
    counts = torch.stack([(train == level).sum(0) for level in range(levels)], 1).double() + _JEFFREYS  # (D, L)
    log_p = (counts / counts.sum(1, keepdim=True)).log()
    entries = torch.arange(test.shape[1], device=test.device)
    seen = ~torch.isnan(test)
    return torch.where(seen, log_p[entries, test.nan_to_num().long()], 0.0).sum(1)


def mixture_of_bernoullis(train: Tensor, test: Tensor, components: int = 50, seed: int = 0) -> Tensor:
    r"""Scores test data under a mixture of products of Bernoullis, fitted by EM.

    .. math:: p(x) = \sum_k \pi_k \prod_d \mu_{kd}^{x_d} (1 - \mu_{kd})^{1 - x_d}

    EM maximises the penalised log-likelihood with a quarter of a pseudo-count per outcome of every :math:`\mu_{kd}` and
    per component, from components centred at random training data, until a step gains less than 1e-6 nats per datum.

    References:
        | Pattern Recognition and Machine Learning, section 9.3.3 (Bishop, 2006)

    Arguments:
        train: Zeros and ones, with shape (N, \*event). NaN = not observed.
        test: Zeros and ones, with shape (N_test, \*event).
        components: Number of components :math:`K`.
        seed: Seed of the start. The caller's random state is left alone.

    Returns:
        Nats per test datum, with shape (N_test,), float64.

    Raises:
        ValueError: If values are neither 0 nor 1, the event shapes differ, or there are fewer training data than
            components.
    """
    train, test = _levels_rows(train, test, 2)
    return _BernoulliMixture.fit(train, components, seed)[0].log_joint(test).logsumexp(1)


class _BernoulliMixture(NamedTuple):
    weights: Tensor  # (K,)
    probs: Tensor  # (K, D)

    def log_joint(self, x: Tensor) -> Tensor:
        """Log of weight times likelihood of each component, with shape (N, K); a NaN entry counts nothing."""
        ones, zeros = _indicators(x)
        return self.weights.log() + ones @ self.probs.log().T + zeros @ (-self.probs).log1p().T

    @classmethod
    def fit(cls, x: Tensor, components: int, seed: int) -> tuple["_BernoulliMixture", list[float]]:
        """EM; also returns the objective after each step, in nats."""
        if not 0 < components <= len(x):
            raise ValueError(f"components: expected one to {len(x)}, the number of training data, got {components}.")
        with seeded(seed):
            centres = x[torch.randperm(len(x))[:components].to(x.device)]
        # Half-way to the middle, so that no component starts certain of anything.
        mixture = cls(x.new_full((components,), 1 / components), 0.25 + 0.5 * centres.nan_to_num(nan=0.5))
        ones, zeros = _indicators(x)
        objective: list[float] = []
        while len(objective) < 2 or objective[-1] - objective[-2] > 1e-6 * len(x):
            log_joint = mixture.log_joint(x)
            log_p = log_joint.logsumexp(1)
            objective.append((log_p.sum() + mixture._log_penalty()).item())
            responsibility = (log_joint - log_p[:, None]).exp()
            on = responsibility.T @ ones + _MIXTURE_COUNT
            off = responsibility.T @ zeros + _MIXTURE_COUNT
            weights = responsibility.sum(0) + _MIXTURE_COUNT
            mixture = cls(weights / weights.sum(), on / (on + off))
        return mixture, objective

    def _log_penalty(self) -> Tensor:
        return _MIXTURE_COUNT * (self.weights.log().sum() + self.probs.log().sum() + (-self.probs).log1p().sum())


def _indicators(x: Tensor) -> tuple[Tensor, Tensor]:
    return (x == 1).double(), (x == 0).double()


def full_gaussian(train: Tensor, test: Tensor) -> Tensor:
    r"""Scores test data under one Gaussian with full covariance, at its maximum of likelihood.

    Arguments:
        train: Numbers, with shape (N, D).
        test: Numbers, with shape (N_test, D).

    Returns:
        Nats per test datum in the units of the data, with shape (N_test,), float64.

    Raises:
        ValueError: If values are missing, a column is constant, or columns are linear functions of others (as they
            always are with N <= D).
    """
    train, test, ladj = _standardized(train, test)
    covariance = torch.cov(train.T, correction=0).reshape(train.shape[1], train.shape[1])
    # Columns are standardised, so a tiny eigenvalue is a linear relation, in whatever units.
    if torch.linalg.eigvalsh(covariance)[0] < 1e-10:
        raise ValueError(
            f"full_gaussian: the covariance of {len(train)} training data with {train.shape[1]} columns is singular; "
            "leave out columns that follow from others."
        )
    mean = train.mean(0)
    log_p: Tensor = torch.distributions.MultivariateNormal(mean, covariance).log_prob(test)
    return log_p + ladj


def gaussian_mixture(train: Tensor, test: Tensor, components: int = 3, seed: int = 0) -> Tensor:
    r"""Scores test data under a mixture of Gaussians with full covariances, fitted by scikit-learn's EM.

    Columns are standardised before the fit, so that the ridge on the covariances (1e-3 of a column's variance) means
    the same in all units; the best of five starts counts.

    Arguments:
        train: Numbers, with shape (N, D).
        test: Numbers, with shape (N_test, D).
        components: Number of components.
        seed: Seed of the starts. The caller's random state is left alone.

    Returns:
        Nats per test datum in the units of the data, with shape (N_test,), float64.

    Raises:
        ValueError: If values are missing, a column is constant, or there are fewer training data than components.
    """
    from sklearn.mixture import GaussianMixture

    train, test, ladj = _standardized(train, test)
    if not 0 < components <= len(train):
        raise ValueError(f"components: expected one to {len(train)}, the number of training data, got {components}.")
    model = GaussianMixture(components, reg_covar=1e-3, n_init=5, max_iter=1000, random_state=seed)
    model.fit(train.cpu().numpy())
    return torch.as_tensor(model.score_samples(test.cpu().numpy()), device=test.device) + ladj


def _rows(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    train, test = as_tensor(train, "train"), as_tensor(test, "test")
    if train.shape[1:] != test.shape[1:]:
        raise ValueError(
            f"training data has event shape {tuple(train.shape[1:])}, test data {tuple(test.shape[1:])}; "
            "expected the same."
        )
    return train.reshape(len(train), -1).double(), test.reshape(len(test), -1).double()


def _levels_rows(train: Tensor, test: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    train, test = _rows(train, test)
    for name, x in (("train", train), ("test", test)):
        bad = (x < 0) | (x > levels - 1) | (x > x.floor())  # false for NaN
        if bad.any():
            raise ValueError(f"{name}: expected whole numbers 0..{levels - 1}, got {x[bad][0].item():g}.")
    return train, test


def _standardized(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both on the scale of the training data, with the log-Jacobian of the test data."""
    train, test = _rows(train, test)
    for name, x in (("train", train), ("test", test)):
        if torch.isnan(x).any():
            raise ValueError(f"{name}: values are missing; this baseline needs complete data.")
    standardize = Standardize.fit(train)
    return standardize(train), standardize(test), standardize.log_abs_det_jacobian(test)
