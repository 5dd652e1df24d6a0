r"""What hidden states emit, with priors: laws of which all conditionals of Gibbs sampling are known, tempered too.

The D entries of a step are independent given its state. With the likelihood to the power :math:`\beta`, of which the
steps of a state have n values, in columns scaled to mean 0 and variance 1:

===========  ==========================================================================================================
normal       :math:`\mu_{kd} \sim \mathcal{N}(0, \tau^2)`, :math:`\sigma^2_{kd} \sim \operatorname{Inv-Gamma}(a, b_d)`,
             :math:`b_d \sim \operatorname{Gamma}(g, h)`: states share the scale of their variances, not its value
             (Richardson & Green, 1997). Given the rest, :math:`\mu` is normal of precision :math:`\tau^{-2} + \sum w /
             \sigma^2`, :math:`\sigma^2 \sim \operatorname{Inv-Gamma}(a + \beta n / 2, b + \sum w (x - \mu)^2 / 2)`,
             :math:`b \sim \operatorname{Gamma}(g + K a, h + \sum_k \sigma_k^{-2})`, with weights :math:`w = \beta`
student_t    the same with :math:`\nu` degrees of freedom, uniform over 2, 4, ..., 32. Its power is a scale mixture,
             :math:`(1 + r^2 / \nu)^{-c} = \int u^{c - 1} e^{-u (1 + r^2 / \nu)} \, du / \Gamma(c)`,
             :math:`c = \beta (\nu + 1) / 2`, so :math:`u \mid r \sim \operatorname{Gamma}(c, 1 + r^2 / \nu)` and
             :math:`w = 2 u / \nu`
poisson      :math:`\lambda_{kd} \sim \operatorname{Gamma}(1, 1 / \bar x_d)`; given the rest
             :math:`\operatorname{Gamma}(1 + \beta \sum x, 1 / \bar x_d + \beta n)`
categorical  :math:`\phi_{kd} \sim \operatorname{Dirichlet}(1, \dots, 1)`; given the rest
             :math:`\operatorname{Dirichlet}(1 + \beta n_l)`
===========  ==========================================================================================================

Parameters of C chains are rows of a tensor, (C, size). Steps are those of all series, one after the other, (S, D).

References:
    | On Bayesian analysis of mixtures with an unknown number of components (Richardson & Green, 1997)
    | https://doi.org/10.1111/1467-9868.00095
"""

import abc
import math

import torch
from torch import Tensor

__all__ = ["EMISSIONS", "Emission", "dirichlet", "gamma"]

A, G, H, TAU = 2.0, 1.0, 2.0, 2.0  # a, g, h and tau: means spread twice as far as data, half of the variance inside
DOF = (2.0, 4.0, 8.0, 16.0, 32.0)
TINY = 1e-300


def _gamma(shape: Tensor) -> Tensor:
    return torch.distributions.Gamma(shape, torch.ones_like(shape), validate_args=False).sample()


def gamma(shape: Tensor, rate: Tensor | float = 1.0) -> Tensor:
    """Draws of gamma laws by the global generator, never 0."""
    return _gamma(shape).clamp(min=TINY) / rate


def dirichlet(counts: Tensor) -> Tensor:
    """Draws of Dirichlet laws, in the last dimension."""
    drawn = gamma(counts)
    return drawn / drawn.sum(-1, keepdim=True)


class Emission(abc.ABC):
    """Emissions of K states in D columns.

    Attributes:
        states: The number K.
        size: How many numbers the parameters of a chain are.
    """

    size: int

    def __init__(self, states: int, steps: Tensor) -> None:
        self.states, self.columns = states, steps.shape[1]
        self.seen = ~steps.isnan()
        self.x = steps.nan_to_num()

    @abc.abstractmethod
    def draw(self, chains: int) -> Tensor:
        """Draws of the prior, (C, size)."""

    @abc.abstractmethod
    def scores(self, parameters: Tensor, steps: Tensor | None = None) -> Tensor:
        """The log-density of what is seen of each step in each state, with shape (S, K, C).

        Arguments:
            parameters: With shape (C, size).
            steps: Others than those fitted, with shape (S, D) and NaN where an entry is missing.
        """

    @abc.abstractmethod
    def update(self, parameters: Tensor, states: Tensor, beta: float) -> Tensor:
        """Draws the parameters given the states of the steps, (S, C), by Gibbs steps."""

    @abc.abstractmethod
    def moments(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each state, both with shape (C, K, D)."""


class _Linear(Emission):
    """Of the exponential family: scores are linear in features of a step, which are 0 where nothing is seen."""

    def __init__(self, states: int, steps: Tensor) -> None:
        super().__init__(states, steps)
        self.features, self.base = self.features_of(self.x, self.seen)

    @abc.abstractmethod
    def features_of(self, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Features (S, M), and what of the log-density depends on no parameter, (S)."""

    @abc.abstractmethod
    def natural(self, parameters: Tensor) -> Tensor:
        """The coefficients of the features, with shape (C, K, M)."""

    def scores(self, parameters: Tensor, steps: Tensor | None = None) -> Tensor:
        features, base = self.features, self.base
        if steps is not None:
            features, base = self.features_of(steps.nan_to_num(), ~steps.isnan())
        eta = self.natural(parameters)  # (C, K, M)
        found = features @ eta.permute(2, 1, 0).flatten(1)
        return found.view(len(features), self.states, len(parameters)) + base.view(-1, 1, 1)

    def sums(self, states: Tensor) -> Tensor:
        """The sums of features over the steps of each state, with shape (C, K, M)."""
        member = (states.unsqueeze(1) == torch.arange(self.states, device=states.device).view(-1, 1)).to(self.features)
        total = self.features.T @ member.flatten(1)  # (M, K * C)
        return total.view(-1, self.states, states.shape[1]).permute(2, 1, 0)


class Normal(_Linear):
    """Normal emissions; parameters are the means, the variances, and b."""

    def __init__(self, states: int, steps: Tensor) -> None:
        super().__init__(states, steps)
        self.size = (2 * states + 1) * self.columns

    def unpack(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means and variances, (C, K, D), and b, (C, D)."""
        mu, variance, b = parameters[:, : self.size].tensor_split(
            [self.states * self.columns, 2 * self.states * self.columns], 1
        )
        each = (len(parameters), self.states, self.columns)
        return mu.view(each), variance.view(each), b

    def draw(self, chains: int) -> Tensor:
        each = self.x.new_ones(chains, self.states, self.columns)
        b = gamma(G * each[:, 0], H)
        variance = b.unsqueeze(1) / gamma(A * each)
        return torch.cat([TAU * torch.randn_like(each).flatten(1), variance.flatten(1), b], 1)

    def features_of(self, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([seen.to(x), x, x.square()], 1), x.new_zeros(len(x))

    def natural(self, parameters: Tensor) -> Tensor:
        mu, variance, _ = self.unpack(parameters)
        constant = -0.5 * ((2 * math.pi * variance).log() + mu.square() / variance)
        return torch.cat([constant, mu / variance, -0.5 / variance], -1)

    def moments(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        mu, variance, _ = self.unpack(parameters)
        return mu, variance.sqrt()

    def update(self, parameters: Tensor, states: Tensor, beta: float) -> Tensor:
        n, sums, squares = self.sums(states).chunk(3, -1)
        return self.given(parameters, beta * n, beta * n, beta * sums, beta * squares)

    def given(self, parameters: Tensor, n: Tensor, w: Tensor, sums: Tensor, squares: Tensor) -> Tensor:
        """Draws means, variances and b given counts and weighted sums of 1, x and its square, each (C, K, D)."""
        _, variance, b = self.unpack(parameters)
        precision = TAU**-2 + w / variance
        mu = sums / variance / precision + torch.randn_like(sums) / precision.sqrt()
        spread = (squares - 2 * mu * sums + w * mu.square()).clamp(min=0)
        variance = (b.unsqueeze(1) + 0.5 * spread) / gamma(A + 0.5 * n)
        b = gamma(G + self.states * A + torch.zeros_like(b), H + (1 / variance).sum(1))
        return torch.cat([mu.flatten(1), variance.flatten(1), b], 1)


class StudentT(Normal):
    """Student-t emissions; the parameters end with the index of the degrees of freedom."""

    def __init__(self, states: int, steps: Tensor) -> None:
        super().__init__(states, steps)
        self.size += 1

    def unpack(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return super().unpack(parameters[:, :-1])

    def dof(self, parameters: Tensor) -> Tensor:
        """The degrees of freedom, (C)."""
        return parameters.new_tensor(DOF)[parameters[:, -1].long()]

    def draw(self, chains: int) -> Tensor:
        index = torch.randint(len(DOF), (chains, 1)).to(self.x)
        return torch.cat([super().draw(chains), index], 1)

    def moments(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        mu, variance, _ = self.unpack(parameters)
        return mu, variance.sqrt()  # the scale: of two degrees of freedom the variance is infinite

    def scores(self, parameters: Tensor, steps: Tensor | None = None) -> Tensor:
        x, seen = (self.x, self.seen) if steps is None else (steps.nan_to_num(), ~steps.isnan())
        mu, variance, _ = self.unpack(parameters)
        nu = self.dof(parameters)
        total = x.new_zeros(len(x), self.states, len(parameters))
        for d in range(self.columns):
            m, v = mu[..., d].T, variance[..., d].T  # (K, C)
            log_p = _log_constant(nu) - 0.5 * v.log()
            log_p = log_p - 0.5 * (nu + 1) * ((x[:, d, None, None] - m).square() / (nu * v)).log1p()
            total += log_p * seen[:, d, None, None]
        return total

    def update(self, parameters: Tensor, states: Tensor, beta: float) -> Tensor:
        mu, variance, _ = self.unpack(parameters)
        grid = self.x.new_tensor(DOF)
        one = [self.seen[:, d].to(self.x).unsqueeze(1).expand(states.shape) for d in range(self.columns)]
        ratios = [
            (self.x[:, d : d + 1] - mu[..., d].T.gather(0, states)).square() / variance[..., d].T.gather(0, states)
            for d in range(self.columns)
        ]  # r^2, each (S, C)
        number = sum(o.sum(0) for o in one)
        logits = [
            beta
            * (
                number * _log_constant(nu)
                - 0.5 * (nu + 1) * sum((o * (r / nu).log1p()).sum(0) for o, r in zip(one, ratios, strict=True))
            )
            for nu in grid
        ]
        index = torch.distributions.Categorical(logits=torch.stack(logits, -1)).sample()
        nu = grid[index]
        sums = []
        for d, (o, r) in enumerate(zip(one, ratios, strict=True)):
            u = _gamma((0.5 * beta * (nu + 1)).expand(r.shape)) / (1 + r / nu)
            w = o * 2 * u / nu
            x = self.x[:, d : d + 1]
            empty = self.x.new_zeros(self.states, states.shape[1])
            sums.append([empty.scatter_add(0, states, v).T for v in (beta * o, w, w * x, w * x.square())])
        n, w, first, second = (torch.stack(parts, -1) for parts in zip(*sums, strict=True))  # (C, K, D)
        return torch.cat([self.given(parameters, n, w, first, second), index.unsqueeze(1).to(self.x)], 1)


def _log_constant(nu: Tensor) -> Tensor:
    """Of the standard density of Student's t."""
    return torch.lgamma(0.5 * (nu + 1)) - torch.lgamma(0.5 * nu) - 0.5 * (math.pi * nu).log()


class Poisson(_Linear):
    """Counts; parameters are the rates."""

    def __init__(self, states: int, steps: Tensor) -> None:
        super().__init__(states, steps)
        self.size = states * self.columns
        self.mean = (self.x.sum(0) / self.seen.sum(0)).clamp(min=1e-6)

    def draw(self, chains: int) -> Tensor:
        return (gamma(self.x.new_ones(chains, self.states, self.columns)) * self.mean).flatten(1)

    def features_of(self, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([seen.to(x), x], 1), -(seen * torch.lgamma(x + 1)).sum(1)

    def natural(self, parameters: Tensor) -> Tensor:
        rate = self.moments(parameters)[0]
        return torch.cat([-rate, rate.log()], -1)

    def moments(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        rate = parameters.view(-1, self.states, self.columns)
        return rate, rate.sqrt()

    def update(self, parameters: Tensor, states: Tensor, beta: float) -> Tensor:
        n, sums = self.sums(states).chunk(2, -1)
        return gamma(1 + beta * sums, 1 / self.mean + beta * n).flatten(1)


class Categorical(_Linear):
    """Levels 0, 1, ..., of each column its own number; parameters are their probabilities."""

    def __init__(self, states: int, steps: Tensor) -> None:
        self.levels = [int(column.nan_to_num().max()) + 1 for column in steps.T]
        super().__init__(states, steps)
        self.size = states * sum(self.levels)

    def draw(self, chains: int) -> Tensor:
        return self._dirichlet(self.x.new_zeros(chains, self.states, sum(self.levels)))

    def features_of(self, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        parts = [
            (x[:, d : d + 1] == torch.arange(count, device=x.device)) & seen[:, d : d + 1]
            for d, count in enumerate(self.levels)
        ]
        return torch.cat(parts, 1).to(x), x.new_zeros(len(x))

    def natural(self, parameters: Tensor) -> Tensor:
        return parameters.view(-1, self.states, sum(self.levels)).clamp(min=TINY).log()

    def moments(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        shares = parameters.view(-1, self.states, sum(self.levels)).split(self.levels, -1)
        at = [torch.arange(count).to(parameters) for count in self.levels]
        mean = torch.stack([p @ v for p, v in zip(shares, at, strict=True)], -1)
        square = torch.stack([p @ v.square() for p, v in zip(shares, at, strict=True)], -1)
        return mean, (square - mean.square()).clamp(min=0).sqrt()

    def update(self, parameters: Tensor, states: Tensor, beta: float) -> Tensor:
        return self._dirichlet(beta * self.sums(states))

    def _dirichlet(self, counts: Tensor) -> Tensor:
        drawn = [dirichlet(1 + part) for part in counts.split(self.levels, -1)]
        return torch.cat(drawn, -1).flatten(1)


EMISSIONS: dict[str, type[Emission]] = {
    "normal": Normal,
    "student_t": StudentT,
    "poisson": Poisson,
    "categorical": Categorical,
}
