r"""Classification by a joint density of data and label.

.. math:: p(y = k \mid x) = \frac{p(x, y = k)}{\sum_j p(x, y = j)} ,

with the likelihood of data and label for each class, exact where :func:`pyro_gen.log_likelihood` is, else estimated.
The constant log Z of an unnormalised program is the same for all classes, and not asked for. Where something of
:math:`x` is missing, it is integrated out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_gen.density import as_inputs, evaluation, rows_of, sampling
from pyro_gen.density.missing import latent_missing, needs_latent
from pyro_gen.inference.likelihood.api import log_likelihood
from pyro_gen.inference.likelihood.enumeration import is_enumerable
from pyro_gen.inference.likelihood.partition import unnormalised_likelihood
from pyro_gen.inference.likelihood.result import LogLikelihood, entries_seen
from pyro_gen.packing import PackedProgram, packed_inputs
from pyro_gen.program import Program
from pyro_gen.traces import sample_sites, structure, trace_side

__all__ = ["Classes", "classify"]

DRAWS = 200  # of the guide, for each class


@dataclass(frozen=True)
class Classes:
    """The classes of N data.

    Attributes:
        probabilities: With shape :math:`(N, K)`, float64.
        standard_error: Their errors, with the same shape; 0 where they are exact.
        method: How the likelihoods were found.
        kind: Of which kind they are, as in :class:`~pyro_gen.LogLikelihood`.
    """

    probabilities: Tensor
    standard_error: Tensor
    method: str
    kind: str

    @property
    def most_likely(self) -> Tensor:
        """The most likely class of each datum, int64 with shape :math:`(N,)`."""
        return self.probabilities.argmax(1)

    def accuracy(self, labels: Tensor) -> float:
        """The share of data whose most likely class is their label, of those with one."""
        labels = torch.as_tensor(labels, device=self.probabilities.device)
        known = ~torch.isnan(labels) if labels.is_floating_point() else torch.ones_like(labels, dtype=torch.bool)
        return (self.most_likely[known] == labels[known]).double().mean().item()

    def __str__(self) -> str:
        sure = self.probabilities.max(1).values
        return (
            f"{self.probabilities.shape[1]} classes of {len(self.probabilities)} data by {self.method} ({self.kind}): "
            f"the most likely has probability {sure.mean():.3f} in the mean, {sure.min():.3f} at least"
        )


def classify(
    program: Program,
    x: Any,
    *context: Any,
    label: str,
    method: str = "auto",
    num_particles: int | None = None,
    seed: int = 0,
) -> Classes:
    r"""The probabilities of the classes of each datum.

    Arguments:
        program: A program of several variables, of which one is a label with finitely many values.
        x: The data, a mapping with each variable, of shape :math:`(N, *)`. Labels that it holds are not looked at,
            and may be left out.
        context: What the model conditions on.
        label: The name of the label, and of the site that observes it.
        method: As in :func:`pyro_gen.log_likelihood`, of the data with each of the labels. ``"auto"`` is exact where
            that is known, else by importance sampling from the guide, of missing entries of an unnormalised program by
            annealed importance sampling.
        num_particles: The number of draws of the guide, 200 by default.
        seed: Seeds the draws; all classes take the same.

    Returns:
        Probabilities with their errors.

    Raises:
        ValueError: There is no such label, or it has not finitely many values.

    Example:
        >>> import pyro.distributions as dist
        >>> import pyro_gen as pg
        >>> class Mixture(pg.Program):
        ...     def model(self, data):
        ...         with self.plate(data):
        ...             y = pg.observe("y", dist.Categorical(torch.ones(2)), data["y"])
        ...             pg.observe("x", dist.Normal(2 * y, 1.0), data["x"])
        >>> found = classify(Mixture(), {"x": torch.tensor([1.0, 3.0])}, label="y")
        >>> found.probabilities[0], found.most_likely
        (tensor([0.5000, 0.5000], dtype=torch.float64), tensor([0, 1]))
    """
    known = dict(x) if isinstance(x, Mapping) else {}
    if not known.keys() - {label}:
        raise ValueError(f"classify: give a mapping of the data, such as {{'x': x}}, without the label {label!r}.")
    rows = len(next(part for name, part in known.items() if name != label))
    shapes = program.event_shape if isinstance(program.event_shape, Mapping) else {}
    known[label] = torch.full((rows, *shapes.get(label, ())), torch.nan)
    program, packed = packed_inputs(program, known)
    assert isinstance(program, PackedProgram)
    packed, *rest = as_inputs(program, packed, *context)
    context = tuple(rest)
    parts = dict(program.variables.unpack(packed))
    values = _values(
        program, program.variables.join({**parts, label: torch.zeros_like(parts[label])}, (rows,)), context, label
    )
    found = []
    for value in values:
        filled = program.variables.join({**parts, label: value.to(packed).expand(parts[label].shape)}, (rows,))
        found.append(_likelihood(program, filled, context, method, num_particles, seed))
    log_p, error = (torch.stack([getattr(f, name) for f in found], 1) for name in ("value", "standard_error"))  # (N, K)
    p = log_p.softmax(1)
    # The derivative of log p_k by the log-likelihood of class j is (j = k) - p_j; errors taken for independent.
    others = (p * error).square()
    variance = (error.square() * (1 - p).square() - others) + others.sum(1, keepdim=True)
    return Classes(p, p * variance.clamp(min=0).sqrt(), found[0].method, found[0].kind)


def _values(program: PackedProgram, x: Tensor, context: tuple[Any, ...], label: str) -> Tensor:
    """The values of a label, with shape (K, *event)."""
    few = (x[:1], *rows_of(x, context, slice(1)))
    with sampling(program, 0):
        site = sample_sites(trace_side(program, "model", *few)).get(label)
    if site is None:
        raise ValueError(
            f"classify(label={label!r}): {type(program).__name__} has no observe statement of that name: name the site "
            "as the variable."
        )
    if not getattr(site["fn"], "has_enumerate_support", False):
        raise ValueError(
            f"classify(label={label!r}): {type(site['fn']).__name__} has not finitely many values: give a label with a "
            "categorical distribution, pg.heads.label(classes) say; pg.impute draws other variables."
        )
    support: Tensor = site["fn"].enumerate_support(expand=False)
    return support.reshape(len(support), *site["fn"].event_shape)


def _likelihood(
    program: Program, x: Tensor, context: tuple[Any, ...], method: str, num_particles: int | None, seed: int
) -> LogLikelihood:
    """The likelihood of the data with a label; of an unnormalised program without log Z, the same for all labels."""
    with evaluation(program), latent_missing(program, x, *context, every=needs_latent(program, x, *context)):
        kinds = structure(program, x[:2], *rows_of(x, context, slice(2)))
        if kinds.kind == "unnormalised":
            value, error, exact = unnormalised_likelihood(program, x, context, method, seed, {})
            how = ("exact", "exact") if exact else ("estimate", "ais")
            return LogLikelihood(value, error, *how, event_dims=entries_seen(x))
        if method == "auto":
            method = "exact" if kinds.kind == "exact" or _is_summed(program, x, context) else "iwae"
    particles: Any = {"num_particles": num_particles or DRAWS} if method in ("elbo", "iwae") else {}
    return log_likelihood(program, x, *context, method=method, seed=seed, progress=False, **particles)


def _is_summed(program: Program, x: Tensor, context: tuple[Any, ...]) -> bool:
    """Whether all latent variables are integrated out without draws."""
    return type(program).marginal is not Program.marginal or is_enumerable(program, x, *context)
