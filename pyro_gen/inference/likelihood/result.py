r"""The result of a likelihood estimate: its numbers, their errors, and what kind of number they are.

Of each datum, :math:`\log p(x_n)`, or of data sets as wholes, :math:`\log p(x_{1:N})` with all latent variables
integrated out: the evidence. Evidences of two models of the same data compare them; their difference is the logarithm
of the Bayes factor.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

__all__ = ["LogLikelihood", "entries_seen", "number_or_none"]

_KINDS = ("exact", "estimate", "stochastic lower bound", "stochastic upper bound", "sandwich")
_UNITS = {  # the unit, and what the values are counted in
    "nats per datum": "data",
    "nats": "data set",
    "nats per data set": "data sets",
    "nats per row": "rows of the context",
}


@dataclass(frozen=True)
class LogLikelihood:
    r"""Estimates of :math:`\log p(x_n)` of N data, or of the evidence of N data sets, in nats.

    Arguments:
        value: The estimates, float64 with shape :math:`(N,)`; N = 1 for the evidence of one data set.
        standard_error: Their Monte Carlo standard errors, float64 with shape :math:`(N,)`; 0 where exact, NaN where one
            draw gives none.
        kind: ``"exact"``, ``"estimate"`` (consistent, but no bound), ``"stochastic lower bound"`` (its expectation is
            at most :math:`\log p(x_n)`), ``"stochastic upper bound"``, or ``"sandwich"`` (both, in ``lower`` and
            ``upper``).
        method: The method that made them.
        event_dims: How many numbers of a datum, or of a data set, were seen, in the mean over them.
        lower: Stochastic lower bounds with shape :math:`(N,)`, where known.
        upper: Stochastic upper bounds with shape :math:`(N,)`, where known.
        diagnostics: Tensors by name: effective sample size, Pareto k-hat, acceptance, ...
        unit: ``"nats per datum"``, ``"nats"`` for the evidence of one data set, ``"nats per data set"`` for several;
            ``"nats per row"`` for what each row of a context has.
        error_of_mean: The Monte Carlo standard error of the mean, where the estimates share draws, so that their
            errors are not independent.
        quantity: What they estimate, where that is neither a likelihood nor an evidence: ``"log Z"``.

    Example:
        >>> result = LogLikelihood(torch.tensor([-3.0, -5.0]), torch.tensor([0.3, 0.4]), "exact", "exact", 2.0)
        >>> result.mean(), round(result.mean_standard_error(), 4), result.sampling_error()
        (-4.0, 0.25, 1.0)
        >>> print(result)
        log-likelihood -4.000 +- 0.250 nats per datum (exact; 2 data, sampling error 1.000)
        >>> print(LogLikelihood(torch.tensor([-61.2]), torch.tensor([0.02]), "estimate", "bridge", 90.0, unit="nats"))
        log-evidence -61.200 +- 0.020 nats (bridge, estimate)
    """

    value: Tensor
    standard_error: Tensor
    kind: str
    method: str
    event_dims: float
    lower: Tensor | None = None
    upper: Tensor | None = None
    diagnostics: dict[str, Tensor] = field(default_factory=dict)
    unit: str = "nats per datum"
    error_of_mean: float | None = None
    quantity: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"LogLikelihood(kind={self.kind!r}): choose one of {', '.join(_KINDS)}.")
        if self.unit not in _UNITS:
            raise ValueError(f"LogLikelihood(unit={self.unit!r}): choose one of {', '.join(_UNITS)}.")
        for name in ("value", "standard_error", "lower", "upper"):
            tensor = getattr(self, name)
            if tensor is not None:
                object.__setattr__(self, name, tensor.detach().to("cpu", torch.float64))

    def mean(self) -> float:
        """The mean over the data (or data sets), in nats; of one evidence, the evidence itself."""
        return float(self.value.mean())

    def mean_standard_error(self) -> float:
        r"""The standard error of :meth:`mean` as an estimate for *these* data: Monte Carlo error only.

        It does not cover the bias of a bound, nor the choice of the data (:meth:`sampling_error`). Errors of different
        data are independent, so this is :math:`\sqrt{\sum_n se_n^2} / N`, unless ``error_of_mean`` says otherwise.
        """
        if self.error_of_mean is not None:
            return self.error_of_mean
        return float(self.standard_error.square().sum().sqrt()) / len(self.value)

    def sampling_error(self) -> float:
        r"""The standard error of :meth:`mean` as an estimate for the population that the data were drawn from.

        It is the standard deviation of the values over :math:`\sqrt{N}`, so Monte Carlo error is in it;
        NaN for one datum.
        """
        if len(self.value) < 2:
            return math.nan
        return float(self.value.std()) / math.sqrt(len(self.value))

    def bits_per_dim(self, log_abs_det_jacobian: float | Tensor = 0.0) -> float:
        r"""The mean negative log-likelihood in bits per number seen.

        Arguments:
            log_abs_det_jacobian: :math:`\log |\det dy/dx|` where the program saw the transformed data y(x) and bits per
                number of x are wanted: a number, or one per datum with shape :math:`(N,)`.
        """
        jacobian = torch.as_tensor(log_abs_det_jacobian, dtype=torch.float64).mean()
        return -(self.mean() + float(jacobian)) / (self.event_dims * math.log(2))

    def perplexity(self) -> float:
        """The exponential of the mean negative log-likelihood in nats per number seen (per token, for text)."""
        return math.exp(-self.mean() / self.event_dims)

    def to_dict(self) -> dict[str, Any]:
        """Numbers and text only, for JSON: means over the data, diagnostics by their means."""
        out: dict[str, Any] = {
            "method": self.method,
            "kind": self.kind,
            "unit": self.unit,
            _UNITS[self.unit].replace(" ", "_"): len(self.value),
            "mean": self.mean(),
            "standard_error": number_or_none(self.mean_standard_error()),
            "sampling_error": number_or_none(self.sampling_error()),
            "bits_per_dim": number_or_none(self.bits_per_dim()),
        }
        for name in ("lower", "upper"):
            tensor = getattr(self, name)
            if tensor is not None:
                out[name] = float(tensor.mean())
        out["diagnostics"] = {name: number_or_none(t.double().mean()) for name, t in self.diagnostics.items()}
        return out

    def __str__(self) -> str:
        error, sampling = self.mean_standard_error(), self.sampling_error()
        bounds = "" if self.upper is None else _between(_mean(self.lower), _mean(self.upper), error)
        if self.upper is None and "gap" in self.diagnostics:  # from data simulated from the program
            bounds = f" (upper bound on simulated data: {float(self.diagnostics['gap'].mean()):.3f} above)"
        if self.quantity is not None and "ess_back" in self.diagnostics:
            ess = float(torch.minimum(self.diagnostics["ess"], self.diagnostics["ess_back"]).min())
            bounds += f", effective sample size {ess:.0f} of {int(self.diagnostics['chains'])}"
        label = self.method if self.kind == self.method else f"{self.method}, {self.kind}"
        what = self.quantity or ("log-likelihood" if self.unit == "nats per datum" else "log-evidence")
        of = "" if self.unit == "nats" else f"; {len(self.value)} {_UNITS[self.unit]}"
        of += "" if self.unit == "nats" or math.isnan(sampling) else f", sampling error {sampling:.3f}"
        return f"{what} {self.mean():.3f} +- {error:.3f} {self.unit}{bounds} ({label}{of})"


def _between(lower: float, upper: float, error: float) -> str:
    """Both bounds of a sandwich in words, the errors of which are about ``error`` each: by noise they may cross."""
    if not round(lower, 3) > round(upper, 3):
        return f" in [{lower:.3f}, {upper:.3f}]"
    crossed = f", lower bound {lower:.3f} above the upper {upper:.3f}"
    within = lower - upper <= 4 * error  # two standard errors of each, if they add up
    return crossed + (" within their errors" if within else ", more than their errors explain: take more chains")


def _mean(tensor: Tensor | None) -> float:
    return math.nan if tensor is None else float(tensor.mean())


def number_or_none(value: float | Tensor) -> float | None:
    """A number for JSON, which has neither NaN nor infinity."""
    value = float(value)
    return value if math.isfinite(value) else None


def entries_seen(x: Tensor) -> float:
    """How many numbers of a datum were seen, in the mean over the data."""
    return float((~torch.isnan(x)).sum()) / len(x)
