r"""Observation noise in the place of a program's likelihood, for models that have none.

A generator :math:`x = G(z)` has no density: almost no :math:`x` is one of its values. With noise of a stated size,

.. math:: p_\sigma(x) = \int p(z) \, \mathcal{N}\big(x; \, G(z), \, \sigma^2 I\big) \, dz ,

it is a program with latent variables like any other, which has a likelihood, a posterior and conditional draws. The
noise is part of what is measured: figures at two values of :math:`\sigma` do not compare. A program with a likelihood
can be measured at the same noise, its mean :math:`\mathbb{E}[x \mid z]` in the place of :math:`G(z)`.

References:
    | On the Quantitative Analysis of Decoder-Based Generative Models (Wu et al., 2017)
    | https://arxiv.org/abs/1611.04273
"""

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_gen._internals import site_mask
from pyro_gen.distributions.innermost import innermost
from pyro_gen.program import Program

__all__ = ["with_noise"]


def with_noise(program: Program, noise: float) -> Program:
    r"""Observes the mean of a program's data under Gaussian noise.

    Arguments:
        program: The program, an implicit one say. The new one shares its parameters and its guide.
        noise: The standard deviation :math:`\sigma` of each entry.

    Returns:
        A program whose observed sites are :math:`\mathcal{N}(\mathbb{E}[x \mid z], \sigma^2 I)`.

    Raises:
        TypeError: What is given is no program.
        ValueError: The noise is not positive; or, when the program runs, an observed site has no mean.

    Example:
        >>> import pyro, torch
        >>> import pyro.distributions as dist
        >>> import pyro_gen as pg
        >>> def double(x):
        ...     with pg.plate(x):
        ...         z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        ...         return pg.observe("x", dist.Delta(2 * z, event_dim=1), x)
        >>> program = with_noise(pg.Program.from_functions(double), 1.0)
        >>> found = pg.log_likelihood(program, torch.zeros(50, 2), seed=1)  # of N(0, 5 I)
        >>> abs(found.mean() + math.log(2 * math.pi * 5)) < 0.05
        True
    """
    if not isinstance(program, Program):
        raise TypeError(
            f"with_noise takes a Program, and was given a {type(program).__name__}: of a model function make one by "
            "Program.from_functions(model)."
        )
    if not (isinstance(noise, int | float) and 0 < noise < math.inf):
        raise ValueError(f"noise={noise!r}: give the standard deviation of the observation noise, a positive number.")
    return _Noisy(program, float(noise))


_WITHOUT_MEAN = (torch.distributions.Categorical, torch.distributions.Cauchy)


class _Noisy(Program):
    def __init__(self, program: Program, noise: float) -> None:
        super().__init__()
        self._adopt("_program", program)
        self.noise = noise
        self.event_shape = program.event_shape
        self.train(program.training)

    @property
    def given_guide(self) -> Any:
        return self._program.given_guide

    def check_inputs(self, x: Any, *context: Any) -> None:
        self._program.check_inputs(x, *context)

    def model(self, x: Tensor, *context: Any) -> Any:
        with _Noise(self.noise):
            return self._program.model(x, *context)

    def guide(self, x: Tensor, *context: Any) -> Any:
        return self._program.guide(x, *context)


class _Noise(Messenger):
    """Effect handler: observed sites are normal, with the mean that the program gives them."""

    def __init__(self, noise: float) -> None:
        super().__init__()
        self.noise = noise

    def __enter__(self) -> Any:
        self.replaced: set[str] = set()
        return super().__enter__()

    def _pyro_observed_law(self, msg: Any) -> None:
        msg["value"] = _normal(msg["args"][0], self.noise, msg["name"])
        msg["done"] = True
        self.replaced.add(msg["name"])

    def _pyro_sample(self, msg: Any) -> None:
        """A ``pyro.sample(..., obs=x)``, of no observe statement."""
        given = msg["is_observed"] and not msg["infer"].get("_deterministic") and msg["name"] not in self.replaced
        if given and not isinstance(innermost(msg["fn"]), dist.Unit):
            msg["fn"] = _normal(msg["fn"], self.noise, msg["name"])


def _normal(distribution: Any, noise: float, name: str) -> Any:
    if isinstance(distribution, dist.MaskedDistribution):
        return _normal(distribution.base_dist, noise, name).mask(site_mask(distribution))
    try:
        mean = distribution.mean
    except NotImplementedError:
        mean = None
    if mean is None or isinstance(innermost(distribution), _WITHOUT_MEAN):  # whose mean is NaN
        raise ValueError(
            f"Site '{name}' ({type(innermost(distribution)).__name__}) has no mean to observe under noise: its own "
            "likelihood is what it has, leave the noise out."
        )
    return dist.Normal(mean, noise).to_event(distribution.event_dim)
