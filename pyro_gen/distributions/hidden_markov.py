r"""Hidden Markov models: sums over chains of states, and what is seen of sequences with holes.

A chain of hidden states, :math:`z_0 \sim p(z_0)` and :math:`z_t \sim p(z_t \mid z_{t-1})`, with observations
:math:`x_t \sim p(x_t \mid z_t)`, is a product of matrices over time,

.. math:: p(x_{1:T}) = \sum_{z_0, \dots, z_T} p(z_0) \prod_t p(z_t \mid z_{t-1}) \, p(x_t \mid z_t) ,

and is multiplied as a tree, in logarithms. Of a step with holes :math:`p(x_t \mid z_t)` becomes the density of what is
seen there, 1 where nothing is. To complete a sequence the states are drawn given all that is seen, forwards filtered
and backwards sampled, and then the missing entries given their state and what is seen beside them: so they are exact
draws of :math:`p(x_m \mid x_o)`.

With Gaussian states the observation is a factor :math:`f(z, y) = \exp(c + h^\top u - \frac{1}{2} u^\top P u)` of
:math:`u = (z, y)`. Missing entries m are integrated out of it,

.. math::
    P_{rr} \gets P_{rr} - P_{rm} P_{mm}^{-1} P_{mr}, \qquad h_r \gets h_r - P_{rm} P_{mm}^{-1} h_m, \qquad
    c \gets c + \tfrac{1}{2} \left( |m| \log 2 \pi - \log |P_{mm}| + h_m^\top P_{mm}^{-1} h_m \right) .

References:
    | Temporal Parallelization of Bayesian Smoothers (Särkkä & García-Fernández, 2019)
    | https://arxiv.org/abs/1905.13002
"""

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.hmm import HiddenMarkovModel
from pyro.ops.gaussian import Gaussian, sequential_gaussian_filter_sample
from torch import Tensor

from pyro_gen._internals import gaussian_hmm_parts, gaussian_hmm_with

__all__ = ["chain_product", "complete_gaussian", "discrete", "draw_states", "marginal_gaussian", "of_sequence"]


# ----------------------------------------------------------------------------------------------------------------------
# Discrete states


def chain_product(logits: Tensor) -> Tensor:
    """The logarithm of a product of matrices over time, from their logarithms.

    In float64, without a bound on gradients: values and gradients are exact, also where transitions are forbidden.

    Arguments:
        logits: With shape :math:`(*, T, K, K)`; minus infinity for 0.

    Returns:
        The logarithm of the product, with shape :math:`(*, K, K)`.

    Example:
        >>> stay = torch.tensor([[0.5, 0.5], [0.0, 1.0]])  # the second state is never left
        >>> chain_product(stay.log().expand(3, 2, 2)).exp().tolist()
        [[0.125, 0.875], [0.0, 1.0]]
    """
    product = logits.double()
    while (steps := product.shape[-3]) > 1:
        pairs = product[..., : steps // 2 * 2, :, :].unflatten(-3, (steps // 2, 2))
        joined = _log_matmul(pairs[..., 0, :, :], pairs[..., 1, :, :])
        product = torch.cat([joined, product[..., -1:, :, :]], -3) if steps % 2 else joined
    return product.squeeze(-3).to(logits.dtype)


MOST_STATES = 32  # of which sums are taken term by term, in memory of T K^3


def _log_matmul(x: Tensor, y: Tensor) -> Tensor:
    """The logarithm of a product of matrices; of more than 32 states without terms e^-700 of their row and column."""
    least = torch.finfo(x.dtype).min  # of a row of zeros: -inf - -inf would be NaN
    if x.shape[-1] <= MOST_STATES:
        terms = x.unsqueeze(-1) + y.unsqueeze(-3)  # (*, i, k, j)
        most = terms.detach().amax(-2, keepdim=True).clamp(min=least)
        product, most = (terms - most).exp().sum(-2), most.squeeze(-2)
    else:
        x_most = x.detach().amax(-1, keepdim=True).clamp(min=least)
        y_most = y.detach().amax(-2, keepdim=True).clamp(min=least)
        product, most = (x - x_most).exp() @ (y - y_most).exp(), x_most + y_most
    positive = product > 0
    return torch.where(positive, torch.where(positive, product, 1.0).log(), -math.inf) + most


class _DiscreteHMM(dist.DiscreteHMM):
    """Pyro's hidden Markov model of discrete states, its density by :func:`chain_product`."""

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)  # type: ignore[no-untyped-call]
        observed = self.observation_dist.log_prob(value.unsqueeze(-1 - self.observation_dist.event_dim))
        product = chain_product(self.transition_logits + observed.unsqueeze(-2))
        return (self.initial_logits + product.logsumexp(-1)).logsumexp(-1)  # type: ignore[no-any-return]


def discrete(initial: Tensor, transition: Tensor, observation: Any, steps: int, validate: bool | None = None) -> Any:
    """Makes Pyro's hidden Markov model of discrete states, with a density by :func:`chain_product`."""
    make: Any = _DiscreteHMM
    return make(initial, transition, observation, duration=steps, validate_args=validate)


def draw_states(initial: Tensor, transition: Tensor, observed: Tensor) -> Tensor:
    """Draws chains of states given what was seen, by the global generator: filtered forwards, sampled backwards.

    Arguments:
        initial: Log-probabilities of the state before the first step, with shape :math:`(*, K)`.
        transition: Of the transitions, with shape :math:`(*, T, K, K)` or :math:`(*, 1, K, K)` or :math:`(K, K)`.
        observed: Log-densities of what was seen, with shape :math:`(*, T, K)`.

    Returns:
        The states at the T steps, with shape :math:`(*, T)`.
    """
    steps = observed.shape[-2]
    transition = transition.expand(torch.broadcast_shapes(transition.shape, (steps, 1, 1)))
    filtered, log_p = [], initial
    for t in range(steps):
        log_p = (log_p.unsqueeze(-1) + transition[..., t, :, :]).logsumexp(-2) + observed[..., t, :]
        log_p = log_p - log_p.logsumexp(-1, keepdim=True)
        filtered.append(log_p)
    states = [dist.Categorical(logits=log_p).sample()]
    for t in range(steps - 2, -1, -1):
        into = transition[..., t + 1, :, :].expand(*states[-1].shape, -1, -1)
        next_state = states[-1][..., None, None].expand(*into.shape[:-1], 1)
        states.append(dist.Categorical(logits=filtered[t] + into.gather(-1, next_state).squeeze(-1)).sample())
    return torch.stack(states[::-1], -1)


# ----------------------------------------------------------------------------------------------------------------------
# Gaussian states


def marginal_gaussian(d: Any, value: Tensor) -> Any:
    """The distribution whose log-density at ``value.nan_to_num()`` is that of what is seen in ``value``.

    Arguments:
        d: A :class:`pyro.distributions.GaussianHMM`.
        value: Sequences with shape :math:`(*, T, D)` and NaN where nothing was observed.
    """
    _, _, observation = gaussian_hmm_parts(d)
    return gaussian_hmm_with(d, _without_missing(_joint(observation), torch.isnan(value)), value.shape)


def complete_gaussian(d: Any, value: Tensor) -> Tensor:
    """Draws the missing entries given the seen ones, by the global generator; with the shape of ``value``."""
    missing = torch.isnan(value)
    seen, known = marginal_gaussian(d, value), value.nan_to_num()
    initial, transition, observation = gaussian_hmm_parts(seen)
    hidden = initial.dim()
    steps = transition + observation.condition(known).event_pad(left=hidden)
    states = sequential_gaussian_filter_sample(initial, steps.expand(steps.batch_shape))[..., 1:, :]
    # Of the observation given its state, the missing entries given the seen ones: rows and columns of the seen ones
    # are those of the identity.
    law = _joint(gaussian_hmm_parts(d)[2]).left_condition(states)
    both = missing.unsqueeze(-1) & missing.unsqueeze(-2)
    mean_at = law.info_vec - (law.precision @ known.unsqueeze(-1)).squeeze(-1)
    drawn = Gaussian(
        law.log_normalizer,
        torch.where(missing, mean_at, 0.0),
        torch.where(both, law.precision, torch.eye(value.shape[-1]).to(value)),
    ).rsample()
    return torch.where(missing, drawn, value)


def _joint(factor: Any) -> Gaussian:
    """A factor of a state and an observation; Pyro keeps one of independent noise in another form."""
    return factor if isinstance(factor, Gaussian) else factor.to_gaussian()


def _without_missing(factor: Gaussian, missing: Tensor) -> Gaussian:
    """Integrates missing observations (*, T, D) out of a factor of states and observations."""
    gone = torch.nn.functional.pad(missing, (factor.dim() - missing.shape[-1], 0))
    kept = ~gone
    precision, info = factor.precision, factor.info_vec
    both = gone.unsqueeze(-1) & gone.unsqueeze(-2)
    root = torch.linalg.cholesky(torch.where(both, precision, torch.eye(factor.dim()).to(precision)))
    across = torch.where(gone.unsqueeze(-1) & kept.unsqueeze(-2), precision, 0.0)
    across = torch.linalg.solve_triangular(root, across, upper=False)
    own = torch.linalg.solve_triangular(root, torch.where(gone, info, 0.0).unsqueeze(-1), upper=False)
    constant = 0.5 * math.log(2 * math.pi) * gone.sum(-1) + 0.5 * own.square().sum((-2, -1))
    return Gaussian(
        factor.log_normalizer + constant - root.diagonal(dim1=-2, dim2=-1).log().sum(-1),
        torch.where(kept, info - (across.mT @ own).squeeze(-1), 0.0),
        torch.where(kept.unsqueeze(-1) & kept.unsqueeze(-2), precision - across.mT @ across, 0.0),
    )


# ----------------------------------------------------------------------------------------------------------------------
# What observe is given


def of_sequence(d: Any, value: Tensor) -> Any:
    """A hidden Markov model of Pyro as one that fits a value: of its length, and with a density.

    A homogeneous one does not know how many steps it has. Of one with linear dynamics the density is known where all of
    its noise is Gaussian: it is then a :class:`pyro.distributions.GaussianHMM`. Any other distribution is returned as
    it is.
    """
    if not isinstance(d, HiddenMarkovModel) or value.dim() < d.event_dim:
        return d
    steps = value.shape[-d.event_dim]
    if isinstance(d, dist.LinearHMM) and not d.transforms and all(map(_is_normal, _noises(d))):
        initial, transition, observation = _noises(d)
        matrices = d.transition_matrix, d.observation_matrix
        d = dist.GaussianHMM(initial, matrices[0], transition, matrices[1], observation, duration=d.duration)
    if isinstance(d, dist.DiscreteHMM):
        return discrete(d.initial_logits, d.transition_logits, d.observation_dist, d.duration or steps)
    if isinstance(d, dist.GaussianHMM) and d.duration is None:
        return gaussian_hmm_with(d, gaussian_hmm_parts(d)[2], (*d.batch_shape, steps, d.obs_dim))
    return d


def _noises(d: Any) -> tuple[Any, Any, Any]:
    return d.initial_dist, d.transition_dist, d.observation_dist


def _is_normal(d: Any) -> bool:
    if isinstance(d, torch.distributions.Independent):
        return isinstance(d.base_dist, torch.distributions.Normal) and len(d.event_shape) == 1
    return isinstance(d, torch.distributions.MultivariateNormal)
