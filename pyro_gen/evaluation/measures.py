"""What a recipe of the zoo can assert of a trained program: measurements with their unit and their error.

Each is registered by :func:`pyro_gen.registry.measure`; ``[figure] measure = "log_likelihood"`` in a recipe names one.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_gen._random import seeded
from pyro_gen.data.prepared import Prepared
from pyro_gen.density import evaluation
from pyro_gen.evaluation.agreement import label_agreement, translation_agreement
from pyro_gen.evaluation.completion import completion_perplexity, halves
from pyro_gen.evaluation.disentanglement import mutual_information_gap_of
from pyro_gen.evaluation.samples.modes import good_samples, modes_covered
from pyro_gen.inference.likelihood.api import log_likelihood
from pyro_gen.inference.likelihood.result import LogLikelihood
from pyro_gen.inference.objectives.base import over_particles
from pyro_gen.inference.objectives.importance import local_log_weight
from pyro_gen.inference.objectives.pairs import trace_pair_with_missing
from pyro_gen.inference.posterior import posterior
from pyro_gen.inference.predictive import reconstruct
from pyro_gen.program import Program
from pyro_gen.registry import Measured, measure
from pyro_gen.tasks.classify import classify

__all__ = [
    "accuracy",
    "bits_per_dim",
    "completion_perplexity_of_words",
    "good_samples",
    "label_agreement",
    "log_likelihood_per_datum",
    "log_predictive",
    "modes_covered",
    "mutual_information_gap_of",
    "perplexity",
    "rate",
    "translation_agreement",
    "variance_explained",
]

Progress = Callable[[float], None] | None


def _test_likelihood(
    program: Program, data: Prepared, seed: int, progress: Progress, options: dict[str, Any]
) -> LogLikelihood:
    parts = _on_device(program, (data.test, *data.test_context))
    return log_likelihood(program, *parts, seed=seed, progress=progress or False, **options)


def _on_device(program: Program, data: Any) -> Any:
    """Tensors, mappings and tuples of them where the program is."""
    if isinstance(data, Mapping):
        return {name: _on_device(program, value) for name, value in data.items()}
    if isinstance(data, tuple):
        return tuple(_on_device(program, value) for value in data)
    return data.to(next(iter((*program.parameters(), *program.buffers()))).device)


@measure("log_likelihood", unit="nats", better="higher")
def log_likelihood_per_datum(
    program: Program, data: Prepared, *, seed: int = 0, progress: Progress = None, **options: Any
) -> Measured:
    """The mean log-likelihood of a test datum, in nats; the options are those of :func:`pyro_gen.log_likelihood`."""
    found = _test_likelihood(program, data, seed, progress, options)
    return Measured(found.mean(), found.mean_standard_error(), found.sampling_error(), found.kind, found.method)


@measure("log_predictive", unit="nats", better="higher")
def log_predictive(
    program: Program, data: Prepared, *, seed: int = 0, progress: Progress = None, **options: Any
) -> Measured:
    """The mean log predictive density of a test datum by draws from the posterior given the training data, nats.

    For programs whose parameters are all latent variables: there is nothing to train.

    Arguments:
        program: The program; for ``method="gibbs"`` it has its conditionals in a method ``blocks``.
        data: The data.
        seed: Seeds the draws.
        progress: Not used.
        options: Of :func:`pyro_gen.posterior`.
    """
    if options.get("method") == "gibbs":
        options["blocks"] = program.blocks()
    train = _on_device(program, (data.train, *data.context))
    drawn = posterior(program, *train, seed=seed, progress=False, **options)
    test = _on_device(program, (data.test, *data.test_context))
    found = log_likelihood(program, *test, posterior=drawn, seed=seed, progress=False)
    return Measured(found.mean(), found.mean_standard_error(), found.sampling_error(), found.kind, found.method)


@measure("bits_per_dim", unit="bits/dim", better="lower")
def bits_per_dim(
    program: Program, data: Prepared, *, seed: int = 0, progress: Progress = None, **options: Any
) -> Measured:
    """The negative log-likelihood of the test data before their transform, in bits per number.

    Raises:
        ValueError: The transform throws information away.
    """
    if data.log_abs_det_jacobian is None:
        raise ValueError("the transform throws information away, so there are no bits/dim of the data.")
    found = _test_likelihood(program, data, seed, progress, options)
    scale = 1 / (found.event_dims * math.log(2))
    value = found.bits_per_dim(data.log_abs_det_jacobian)
    errors = (scale * found.mean_standard_error(), scale * found.sampling_error())
    return Measured(value, *errors, found.kind, found.method)


@measure("perplexity", unit="", better="lower")
def perplexity(
    program: Program, data: Prepared, *, seed: int = 0, progress: Progress = None, **options: Any
) -> Measured:
    """The exponential of the negative log-likelihood per number of the test data, per token of text say."""
    found = _test_likelihood(program, data, seed, progress, options)
    value = found.perplexity()
    scale = value / found.event_dims  # of the exponential, by the delta method
    errors = (scale * found.mean_standard_error(), scale * found.sampling_error())
    return Measured(value, *errors, found.kind, found.method)


@measure("rate", unit="nats", better="higher")
def rate(
    program: Program, data: Prepared, *, num_particles: int = 100, seed: int = 0, progress: Progress = None
) -> Measured:
    r"""What the latent variables say of a test datum: the divergence of the guide from the prior, in nats.

    .. math:: R = \mathbb{E}_x \, \mathbb{E}_{q(z \mid x)} \Big[ \log \frac{q(z \mid x)}{p(z)} \Big]

    A decoder that is strong enough for the data alone leaves latent variables unused, with a rate of 0.

    References:
        | Fixing a Broken ELBO (Alemi et al., 2018)
        | https://arxiv.org/abs/1711.00464

    Arguments:
        program: A program whose latent variables belong to a datum each.
        data: The data.
        num_particles: The number of draws of the guide.
        seed: Seeds them.
        progress: Not used.

    Raises:
        ValueError: The program has no latent variables, or one that all data share.
    """
    x, *context = _on_device(program, (data.test, *data.test_context))

    def particle() -> Tensor:
        _, log_ratio = local_log_weight(*trace_pair_with_missing(program, x, *context))
        if not isinstance(log_ratio, Tensor):
            raise ValueError(f"{type(program).__name__} has no latent variables, so there is no rate.")
        return -log_ratio  # (N,)

    with evaluation(program), seeded(seed), torch.no_grad():
        drawn = over_particles(particle, num_particles).double()  # (S, N)
    errors = (drawn.mean(1).std() / math.sqrt(num_particles), drawn.mean(0).std() / math.sqrt(drawn.shape[1]))
    return Measured(drawn.mean().item(), errors[0].item(), errors[1].item(), "estimate", "draws of the guide")


@measure("completion_perplexity", unit="", better="lower")
def completion_perplexity_of_words(
    program: Program, data: Prepared, *, seed: int = 0, progress: Progress = None
) -> Measured:
    """The perplexity of half of the tokens of each test document given the others, for models of counts of words.

    See :mod:`pyro_gen.evaluation.completion`.

    Raises:
        ValueError: The program has no probabilities of words.
    """
    predict = getattr(program, "word_probabilities", None)
    if predict is None:
        raise ValueError(f"{type(program).__name__} has no method word_probabilities: completion is for topic models.")
    seen, held = halves(data.test, seed)
    p = predict(seen.to(next(program.parameters()).device), seed=seed).cpu()
    value, error = completion_perplexity(held, p)
    return Measured(value, 0.0, error, "held-out prediction", "document completion")


@measure("accuracy", unit="", better="higher")
def accuracy(
    program: Program, data: Prepared, *, missing: float = 0.0, seed: int = 0, progress: Progress = None, **options: Any
) -> Measured:
    """The share of test data whose most likely label is theirs, by :func:`pyro_gen.tasks.classify`.

    Arguments:
        program: A program of data ``x`` and labels ``y``.
        data: The data, in the form ``"labelled"``.
        missing: The share of the entries of each datum that are hidden, drawn by the seed.
        seed: Seeds the draws.
        progress: Not used.
        options: Of :func:`pyro_gen.tasks.classify`.
    """
    if not isinstance(data.test, Mapping) or "y" not in data.test:
        raise ValueError('accuracy is of data with labels: give the data the form "labelled".')
    x = data.test["x"]
    with seeded(seed):
        hidden = torch.rand(x.shape) < missing
    known = _on_device(program, {"x": torch.where(hidden, torch.nan, x)})
    found = classify(program, known, label="y", seed=seed, **options)
    value = found.accuracy(data.test["y"])
    kind = found.kind if found.kind == "exact" else "estimate"
    return Measured(value, 0.0, math.sqrt(value * (1 - value) / len(x)), kind, found.method)


@measure("variance_explained", unit="", better="higher")
def variance_explained(
    program: Program, data: Prepared, *, missing: float = 0.0, draws: int = 1, seed: int = 0, progress: Progress = None
) -> Measured:
    r"""The share of the variance of test data that their reconstructions explain, also of programs without a density.

    .. math:: 1 - \sum_n \lVert x_n - \hat x_n \rVert^2 \Big/ \sum_n \lVert x_n - \bar x \rVert^2

    Arguments:
        program: A program with a guide.
        data: The data.
        missing: The share of the entries of each datum that are hidden from the guide, drawn by the seed. They are to
            be reconstructed as the others.
        draws: How many draws of the guide a reconstruction is the mean of.
        seed: Seeds all draws.
        progress: Not used.

    Raises:
        ValueError: The data are several variables, or have missing entries themselves.
    """
    if isinstance(data.test, Mapping) or torch.isnan(data.test).any():
        raise ValueError("variance_explained is of data that are one tensor, without missing entries.")
    x, *context = _on_device(program, (data.test, *data.test_context))
    with seeded(seed):
        hidden = torch.rand(data.test.shape) < missing
    found = reconstruct(program, x.masked_fill(hidden.to(x.device), torch.nan), *context, draws=draws, seed=seed)
    left = (x - found).double().square().flatten(1).sum(1)  # (N,)
    whole = (x - x.mean(0)).double().square().flatten(1).sum(1)
    share = float(left.sum() / whole.sum())
    error = float((left - share * whole).std() / (whole.mean() * math.sqrt(len(x))))  # of a ratio: the delta method
    return Measured(1 - share, 0.0, error, "estimate", f"reconstruction, {missing:.0%} hidden")
