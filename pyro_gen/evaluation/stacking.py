r"""Stacking: the mixture of predictive distributions that predicts best.

With :math:`p_{nk} = p_k(x_n \mid x_{-n})`, the density of each datum under the k-th model given the other data, the
weights on the simplex are

.. math:: \hat w = \arg\max_w \sum_n \log \sum_k w_k p_{nk} .

The objective is concave, so its maximum is known by its gradient: no :math:`\frac{1}{N} \sum_n p_{nk} / \sum_j w_j
p_{nj}` exceeds 1, and by as much as the largest does, the mean can still rise at most. The densities must be of data
that a model was not fitted to; a model that adds nothing to the others has weight 0, however good it is by itself.

References:
    | Using stacking to average Bayesian predictive distributions (Yao, Vehtari, Simpson & Gelman, 2018)
    | https://doi.org/10.1214/17-BA1091
"""

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

__all__ = ["could_rise", "stacking_weights"]

ENOUGH = 1e-6  # nats per datum that the objective could still rise by
STEPS = 20_000  # of the fixed point


def stacking_weights(log_p: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    r"""The weights of K models, with shape (K,).

    Arguments:
        log_p: Log predictive densities of data that were left out, in nats, with shape (N, K).

    Raises:
        ValueError: A number is NaN, or a datum is impossible under all models.

    Example:
        >>> stacking_weights(np.log([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9]])).round(3)
        array([0.708, 0.292])
    """
    log_p = np.asarray(log_p, dtype=np.float64)
    best = log_p.max(1, keepdims=True)
    if not np.isfinite(best).all():
        raise ValueError("stacking_weights: a log-density is NaN, or -inf under all models: leave that datum out.")
    p = np.exp(log_p - best)
    k = p.shape[1]
    if k == 1:
        return np.ones(1)

    def objective(w: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        mixed = np.maximum(p @ w, 1e-300)
        return -float(np.log(mixed).mean()), -(p / mixed[:, None]).mean(0)

    found = minimize(
        objective,
        np.full(k, 1 / k),
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * k,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        options={"ftol": 1e-12, "maxiter": 500},
    )
    w: npt.NDArray[np.float64] = np.where(found.x > ENOUGH / k, found.x, 0.0)
    w /= w.sum()
    for _ in range(STEPS):  # of EM, which rises always, where the other has stopped early
        if could_rise(p, w) < ENOUGH:
            break
        w = np.maximum(w, ENOUGH / k)  # what is 0 would stay so
        w = w * (p / (p @ w)[:, None]).mean(0)
    return w


def could_rise(p: npt.NDArray[np.float64], w: npt.NDArray[np.float64]) -> float:
    """By how many nats per datum the objective could still rise at most.

    Arguments:
        p: Densities, with shape (N, K); each row up to a factor.
        w: The weights, with shape (K,).
    """
    return float((p / (p @ w)[:, None]).mean(0).max()) - 1
