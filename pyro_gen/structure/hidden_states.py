r"""The posterior of a hidden Markov model with K states, and its evidence.

.. math::
    \pi \sim \operatorname{Dirichlet}(1, \dots, 1), \quad
    A_{j \cdot} \sim \operatorname{Dirichlet}(e_j), \quad e_{jj} = 4, \; e_{jk} = 1, \quad
    \theta \sim p(\theta), \\
    z_1 \sim \pi, \quad z_t \sim A_{z_{t - 1}}, \quad x_t \sim p(x \mid \theta_{z_t})

with the emissions of :mod:`pyro_gen.structure.emission_priors`. States persist a priori. A state that no step needs
costs each row of A a factor of about 1 over its steps, so the evidence does not grow with idle states. Several series
have the same parameters.

The path from the prior to the posterior is :math:`f_\beta(\phi) = p(\phi) \sum_z p(z \mid \phi) \, p(x \mid z,
\theta)^\beta`, :math:`\phi = (\pi, A, \theta)`, whose sum is exact; a move draws the states given the parameters,
filtered forwards and sampled backwards, and the parameters given the states. Sequential Monte Carlo
(:func:`pyro_gen.inference.likelihood.smc.smc`) makes weighted draws and the evidence of it: no state is favoured, so
all :math:`K!` equal modes are in it alike, and islands of particles that do not meet say how far it is off.

Filters work with probabilities of a step scaled to at most 1, below :math:`10^{-300}` of which nothing is told apart.

References:
    | Markov chain Monte Carlo estimation of classical and dynamic switching and mixture models (Fruehwirth-Schnatter,
    |     2001), https://doi.org/10.1198/016214501750333063
    | Bayesian methods for hidden Markov models: recursive computing in the 21st century (Scott, 2002)
    | https://doi.org/10.1198/016214502753479464
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyro_gen.inference.likelihood.paths import Path
from pyro_gen.structure.emission_priors import TINY, Emission, dirichlet

__all__ = ["HiddenStates", "Smoothed", "smooth"]

PERSISTENCE = 4.0  # e_jj
ENTRIES = 2**20  # of the tensors over steps, states and chains that are worked on at a time: what a cache holds


class Smoothed(NamedTuple):
    """What C draws of the parameters say of series.

    Attributes:
        log_likelihood: With shape (C), in nats.
        probabilities: Of the states, with shape (C, S, K).
        change: The probability that the state before each step is another, 0 before the first, (C, S).
        states: A draw of the states, with shape (C, S).
    """

    log_likelihood: Tensor
    probabilities: Tensor
    change: Tensor
    states: Tensor


class HiddenStates(Path):
    """The tempered posterior of a hidden Markov model.

    Arguments:
        emission: The emissions of K states, of the steps of all series, one series after the other.
        lengths: How many steps each series has.
    """

    def __init__(self, emission: Emission, lengths: list[int]) -> None:
        self.emission, self.lengths, self.states = emission, lengths, emission.states
        self.prior = torch.ones(self.states, self.states).double().fill_diagonal_(PERSISTENCE)
        self.first = torch.from_numpy(_firsts(lengths))

    def unpack(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """pi, (C, K); A, (C, K, K); and the parameters of the emissions, (C, size)."""
        k = self.states
        return x[:, :k], x[:, k : k + k * k].view(-1, k, k), x[:, k + k * k :]

    def start(self, chains: int) -> Tensor:
        k = self.states
        pi = dirichlet(self.prior.new_ones(chains, k))
        moves = dirichlet(self.prior.expand(chains, k, k))
        return torch.cat([pi, moves.flatten(1), self.emission.draw(chains)], 1)

    def log_density(self, x: Tensor, beta: float) -> Tensor:
        """With respect to the prior."""
        if beta == 0:
            return x.new_zeros(len(x))
        size = max(256, ENTRIES // (len(self.first) * self.states))
        return torch.cat([self._filtered(part, beta)[0] for part in x.split(size)])

    def _filtered(self, x: Tensor, beta: float) -> tuple[Tensor, Tensor]:
        pi, moves, emission = self.unpack(x)
        return _filter(pi, moves, beta * self.emission.scores(emission), self.lengths)

    def move(self, x: Tensor, beta: float) -> Tensor:
        _, moves, emission = self.unpack(x)
        z = _draw_backwards(moves, self._filtered(x, beta)[1], self.lengths)  # (S, C)
        k = self.states
        starts = (z[self.first].unsqueeze(-1) == torch.arange(k)).sum(0)  # (C, K)
        jumps = (z[:-1] * k + z[1:])[~self.first[1:]]
        counts = x.new_zeros(k * k, len(x)).scatter_add_(0, jumps, x.new_ones(()).expand(jumps.shape))
        pi = dirichlet(1.0 + starts.to(x))
        moves = dirichlet(self.prior + counts.T.view(-1, k, k))
        return torch.cat([pi, moves.flatten(1), self.emission.update(emission, z, beta)], 1)

    def smoothed(self, x: Tensor, steps: Tensor | None = None, lengths: list[int] | None = None) -> Smoothed:
        """What draws say of the series, or of others.

        Arguments:
            x: Draws, with shape (C, size).
            steps: The steps of other series, with shape (S, D) and NaN where an entry is missing.
            lengths: How many each of these has.
        """
        pi, moves, emission = self.unpack(x)
        return smooth(pi, moves, self.emission.scores(emission, steps), lengths or self.lengths)


def smooth(pi: Tensor, moves: Tensor, scores: Tensor, lengths: list[int]) -> Smoothed:
    """Filters and smooths series.

    Arguments:
        pi: Probabilities of the first state, with shape (C, K).
        moves: Of transitions, with shape (C, K, K).
        scores: Log-densities of steps given states, with shape (S, K, C).
        lengths: How many steps each of the series has.
    """
    log_likelihood, filtered = _filter(pi, moves, scores, lengths)
    z = _draw_backwards(moves, filtered, lengths)
    f, a = filtered.numpy(), moves.permute(1, 2, 0).contiguous().numpy()  # (S, K, C), (K, K, C)
    found, change = np.empty_like(f), np.zeros((len(f), len(pi)))
    last = np.append(_firsts(lengths)[1:], True)
    for t in range(len(f) - 1, -1, -1):
        if last[t]:
            found[t] = f[t]
            continue
        ahead = np.einsum("ic,ijc->jc", f[t], a).clip(min=TINY)  # p(z_{t+1} | x_{<= t})
        ratio = found[t + 1] / ahead
        found[t] = f[t] * np.einsum("ijc,jc->ic", a, ratio)
        change[t + 1] = 1 - np.einsum("ic,iic,ic->c", f[t], a, ratio)
    p, changed = torch.from_numpy(found), torch.from_numpy(change.clip(0, 1))
    return Smoothed(log_likelihood, p.permute(2, 0, 1), changed.T, z.T)


# The loops over steps are numpy's, whose calls take a third of the time of torch's on arrays of this size.


def _firsts(lengths: list[int]) -> npt.NDArray[np.bool_]:
    """Whether each step is the first of its series, (S)."""
    firsts = np.zeros(sum(lengths), dtype=bool)
    firsts[np.cumsum([0, *lengths[:-1]])] = True
    return firsts


def _filter(pi: Tensor, moves: Tensor, scores: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor]:
    """The log-likelihood of all series, (C), and the filtered probabilities of states, (S, K, C)."""
    most = scores.amax(1, keepdim=True)
    emitted = (scores - most).exp().numpy()
    first = pi.T.contiguous().clamp(min=TINY).numpy()
    a = moves.permute(1, 2, 0).contiguous().clamp(min=TINY).numpy()
    filtered, norms = np.empty_like(emitted), np.empty((len(emitted), len(pi)))
    alpha = first
    for t, begins in enumerate(_firsts(lengths)):
        if begins:
            np.multiply(first, emitted[t], out=filtered[t])
        else:
            np.einsum("ic,ijc->jc", alpha, a, out=filtered[t])
            filtered[t] *= emitted[t]
        alpha = filtered[t]
        np.add.reduce(alpha, 0, out=norms[t])
        alpha /= norms[t]
    return torch.from_numpy(norms).log().sum(0) + most.sum((0, 1)), torch.from_numpy(filtered)


def _draw_backwards(moves: Tensor, filtered: Tensor, lengths: list[int]) -> Tensor:
    """States given the series, with shape (S, C), by the global generator.

    A uniform number for each step says which state each next one comes from; these maps are then followed from the end.
    """
    steps, k, chains = filtered.shape
    a, f = moves.permute(1, 2, 0).contiguous(), filtered.unsqueeze(2)
    last = torch.from_numpy(np.append(_firsts(lengths)[1:], True)).view(-1, 1, 1, 1)
    u = torch.rand(steps, 1, chains, dtype=filtered.dtype)
    z, state, every = np.empty((steps, chains), dtype=np.int64), np.zeros(chains, dtype=np.int64), np.arange(chains)
    size = max(1, ENTRIES // (k * k * chains))
    for high in range(steps, 0, -size):
        low = max(0, high - size)
        weight = f[low:high] * torch.where(last[low:high], 1.0, a) + TINY  # (s, K, K, C), of a state and the next one
        cumulative = weight.cumsum(1)
        maps = (cumulative < u[low:high].unsqueeze(1) * cumulative[:, -1:]).sum(1).numpy()
        for t in range(high - 1, low - 1, -1):
            z[t] = state = maps[t - low, state, every]
    return torch.from_numpy(z)
