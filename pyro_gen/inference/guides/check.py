r"""How good a guide is, measured: :func:`check_guide`.

With draws :math:`z_k \sim q` and weights :math:`w_k = p(x, z_k) / q(z_k)`,

- the Pareto shape :math:`\hat k` of the largest weights says whether q covers what of the posterior it comes near to:
  below 0.7 its draws can be reweighted to the posterior, above they cannot;
- the gap between evidence and bound is what q has lost,
  :math:`\log p(x) - \mathbb{E} \log w = \mathrm{KL}(q \,\|\, p(\cdot \mid x))`;
- the evidence by the weights, :math:`\log \frac{1}{K} \sum_k w_k`, falls short of that by another method where q never
  comes near a part of the posterior, another mode say, which no weight can tell;
- simulation-based calibration says what is wrong with the margins: ranks of true values among draws that are uneven but
  symmetric mean a guide of wrong width, asymmetric ones a guide in the wrong place.

References:
    | Yes, but Did It Work?: Evaluating Variational Inference (Yao et al., 2018)
    | https://arxiv.org/abs/1802.02538
    | Pareto Smoothed Importance Sampling (Vehtari et al., 2024)
    | https://arxiv.org/abs/1507.02646
"""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from scipy import stats
from torch import Tensor

from pyro_gen._random import fork, seeded
from pyro_gen.density import as_inputs, evaluation
from pyro_gen.inference.calibration import LOG_LIKELIHOOD, LOG_PRIOR, Calibration, sbc
from pyro_gen.inference.guides.attach import guide_of, with_guide
from pyro_gen.inference.guides.base import Guide
from pyro_gen.inference.kinds import not_for
from pyro_gen.inference.likelihood.api import log_likelihood
from pyro_gen.inference.likelihood.evidence import log_evidence
from pyro_gen.inference.likelihood.result import LogLikelihood, number_or_none
from pyro_gen.inference.likelihood.weights import effective_sample_size, log_mean_exp, psis_khat, tail_length
from pyro_gen.inference.proposals import guide_draws, joint_guide_draws
from pyro_gen.inference.svi import fit
from pyro_gen.packing import packs
from pyro_gen.program import Program
from pyro_gen.traces import structure

__all__ = ["GuideReport", "check_guide"]

KHAT = 0.7  # Vehtari et al. (2024)
TOLERATED = 0.05  # share of data with a larger k-hat, of many
ERRORS, NATS = 4.0, 0.05  # by which the evidence of the weights may fall short


@dataclass(frozen=True)
class GuideReport:
    r"""What :func:`check_guide` found.

    Attributes:
        name: The program.
        unit: ``"nats"`` for the joint posterior of all latent variables, ``"nats per datum"`` for one of each datum.
        draws: The number K of draws of the guide.
        khat: The Pareto shapes :math:`\hat k`, float64 with shape :math:`(N,)`, N = 1 for a joint posterior.
        khat_error: Their standard errors, :math:`(1 + \hat k) / \sqrt{M}` for M weights in the tail.
        ess: The effective sample sizes of the weights, with shape :math:`(N,)`.
        elbo: The mean bound, and ``elbo_error`` its standard error.
        weighted: The mean evidence by the weights, and ``weighted_error`` its standard error.
        evidence: The evidence by another method; ``None`` where it was not asked for.
        calibration: The ranks of simulation-based calibration; ``None`` where it was not asked for.
    """

    name: str
    unit: str
    draws: int
    khat: Tensor
    khat_error: Tensor
    ess: Tensor
    elbo: float
    elbo_error: float
    weighted: float
    weighted_error: float
    evidence: LogLikelihood | None
    calibration: Calibration | None

    @property
    def gap(self) -> tuple[float, float]:
        """The evidence less the bound, KL(guide || posterior) in nats, and its standard error; NaN without evidence."""
        if self.evidence is None:
            return math.nan, math.nan
        return self.evidence.mean() - self.elbo, math.hypot(self.evidence.mean_standard_error(), self.elbo_error)

    @property
    def uncovered(self) -> float:
        """The share of the data whose k-hat is 0.7 or more, or unknown."""
        return float((~(self.khat < KHAT)).double().mean())

    @property
    def covers(self) -> bool:
        """Whether k-hat is below 0.7, for at least 95% of the data where each has its own."""
        return self.uncovered <= (TOLERATED if len(self.khat) > 1 else 0.0)

    @property
    def complete(self) -> bool:
        """Whether the evidence by the weights reaches that of the other method, up to 4 standard errors; else the guide
        never comes near a part of the posterior.
        """
        if self.evidence is None:
            return True
        short = self.evidence.mean() - self.weighted
        return short <= max(NATS, ERRORS * math.hypot(self.evidence.mean_standard_error(), self.weighted_error))

    @property
    def misplaced(self) -> dict[str, float]:
        """Latent variables whose true values rank asymmetrically among draws of the guide (Yao et al., 2018): p-values.

        The test is Wilcoxon's, of the ranks about their middle, at the level of the calibration over all quantities.
        """
        if self.calibration is None:
            return {}
        found = {}
        for name, ranks in self.calibration.ranks.items():
            if name in (LOG_LIKELIHOOD, LOG_PRIOR):  # whose ranks are asymmetric for a guide of wrong width, too
                continue
            centred = ranks.double() - self.calibration.draws / 2
            p = float(stats.wilcoxon(centred.numpy(), zero_method="zsplit", method="approx").pvalue)
            if p <= self.calibration.alpha / len(self.calibration.ranks):
                found[name] = p
        return found

    @property
    def ok(self) -> bool:
        """Whether the guide covers the posterior, all of it, and is calibrated where that was run."""
        return self.covers and self.complete and (self.calibration is None or self.calibration.passed)

    def to_dict(self) -> dict[str, Any]:
        """Numbers and text only, for JSON."""
        gap, gap_error = self.gap
        return {
            "program": self.name,
            "ok": self.ok,
            "unit": self.unit,
            "draws": self.draws,
            "khat": number_or_none(self.khat.median()),
            "khat_error": number_or_none(self.khat_error.median()),
            "khat_above_0.7": self.uncovered,
            "ess": float(self.ess.median()),
            "elbo": self.elbo,
            "elbo_error": self.elbo_error,
            "weighted_evidence": self.weighted,
            "weighted_evidence_error": self.weighted_error,
            "evidence": None if self.evidence is None else self.evidence.to_dict(),
            "gap": number_or_none(gap),
            "gap_error": number_or_none(gap_error),
            "calibration": None if self.calibration is None else self.calibration.to_dict(),
            "misplaced": list(self.misplaced),
        }

    def __str__(self) -> str:
        verdict = "nothing wrong found" if self.ok else "NOT GOOD ENOUGH"
        lines = [f"guide of {self.name}: {verdict} ({self.draws} draws{self._of_data()})"]
        meaning = "its draws can be reweighted to the posterior" if self.covers else _NOT_COVERED
        if len(self.khat) == 1:
            lines.append(f"  k-hat {self.khat.item():.2f} +- {self.khat_error.item():.2f}: {meaning}")
        else:
            lines.append(
                f"  k-hat {self.khat.median():.2f} in the median, above 0.7 for {self.uncovered:.0%}: {meaning}"
            )
        lines.append(f"  ELBO {self.elbo:.3f} +- {self.elbo_error:.3f} {self.unit}")
        if self.evidence is not None:
            gap, error = self.gap
            by = f"by {self.evidence.method} {self.evidence.mean():.3f} +- {self.evidence.mean_standard_error():.3f}"
            lines.append(
                f"  evidence {by}: the guide has lost {gap:.3f} +- {error:.3f} {self.unit} (KL to the posterior)"
            )
            agreement = "agrees" if self.complete else _INCOMPLETE
            lines.append(f"  evidence by its weights {self.weighted:.3f} +- {self.weighted_error:.3f}: {agreement}")
        if self.calibration is not None:
            lines += ["  " + line for line in str(self.calibration).splitlines()]
            if names := list(self.misplaced):
                lines.append(f"  in the wrong place, not only of wrong width: {', '.join(names[:10])}")
        return "\n".join(lines)

    def _of_data(self) -> str:
        return "" if self.unit == "nats" else f" for each of {len(self.khat)} data"


_NOT_COVERED = (
    "the guide is too narrow for the posterior, or of another shape, and its draws cannot be reweighted (0.7 is the "
    "limit): train it longer, take a richer one (FullRank, Flow), or use MCMC"
)
_INCOMPLETE = (
    "falls short, so the guide misses a part of the posterior altogether, another mode say: use smc or tempering"
)


@packs
def check_guide(
    program: Program,
    x: Any,
    *context: Any,
    draws: int = 2000,
    evidence: str | LogLikelihood | None = "auto",
    simulations: int = 0,
    refit: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: bool | Callable[[float], None] = True,
    **options: Any,
) -> GuideReport:
    r"""Measures how near a program's guide is to the posterior.

    Arguments:
        program: The program, trained.
        x: The data, with shape :math:`(N, *)` and NaN where nothing was observed.
        context: What the model conditions on.
        draws: The number K of draws of the guide, for each datum where all latent variables are local.
        evidence: Another method to estimate the evidence by: ``"auto"`` is ``"smc"`` for a joint posterior
            (:func:`pyro_gen.log_evidence`) and ``"ais"`` from the prior for one of each datum
            (:func:`pyro_gen.log_likelihood`); an estimate that is already there; ``None`` leaves it out.
        simulations: The number of simulated data sets for simulation-based calibration, 0 for none. 200 and more tell
            something.
        refit: Options of :func:`pyro_gen.fit` by which a guide that does not read the data (:class:`Guide`) is
            trained anew on each simulated data set, the model's parameters held; another guide is taken as it is.
        seed: Seeds all draws; the caller's generators are left alone.
        progress: Whether to show progress bars on standard error once 2 seconds have passed; or a function to be
            called with the fraction of the simulations done.
        options: Passed to the estimate of the evidence.

    Returns:
        The report, which prints itself in words.

    Raises:
        ValueError: The program has no latent variable, its guide has no density, the evidence given is not one of what
            the guide is of, or options do not fit.

    Example:
        >>> import pyro, torch
        >>> import pyro.distributions as dist
        >>> import pyro_gen as pg
        >>> from pyro_gen.inference.guides import check_guide, laplace
        >>> def model(x):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     with pg.plate(x):
        ...         return pg.observe("x", dist.Normal(mean, 1.0), x)
        >>> program = laplace(pg.Program.from_functions(model), torch.tensor([0.5, 1.0]))  # exact here
        >>> report = check_guide(program, torch.tensor([0.5, 1.0]))
        >>> report.ok, abs(report.gap[0]) < 0.1
        (True, True)
    """
    if draws < 100:
        raise ValueError(f"check_guide(draws={draws}): give at least 100, of which the largest weights make k-hat.")
    x, *parts = as_inputs(program, x, *context)
    data = (x, *parts)
    blind = isinstance(program.given_guide, Guide)
    if simulations and blind and refit is None:
        raise ValueError(
            "The guide does not read the data, so calibration trains it anew on each simulated data set: give "
            'refit={"epochs": 500, "lr": 0.05, "batch_size": len(x)} or the like.'
        )
    with evaluation(program):
        kinds = structure(program, *data)
        joint = bool(kinds.global_) or blind
        if isinstance(evidence, LogLikelihood) and (evidence.unit == "nats") != joint:
            given = "pyro_gen.log_evidence(program, x)" if joint else "pyro_gen.log_likelihood(program, x)"
            raise ValueError(
                f"check_guide was given an evidence in {evidence.unit}, and this guide is of "
                f"{'all data together' if joint else 'each datum'}: give that of {given}."
            )
        if kinds.kind == "implicit":
            raise not_for(program, kinds.kind, "check_guide")
        if kinds.kind != "bound":
            raise ValueError(
                f"{type(program).__name__} is {kinds.kind}: it has no posterior for a guide to come near to."
            )
        with seeded(seed), torch.no_grad():
            if joint:
                log_w = joint_guide_draws(program, *data, num_particles=draws)[1].unsqueeze(1)
            else:
                log_w = torch.cat([d.log_weights for d in guide_draws(program, *data, num_particles=draws)], 1)
    log_w = log_w.double().cpu()
    if evidence == "auto":
        evidence = "smc" if joint else "ais"
    if isinstance(evidence, str):
        how: dict[str, Any] = {"method": evidence, "seed": fork(seed), "progress": progress is True, **options}
        evidence = log_evidence(program, *data, **how) if joint else log_likelihood(program, *data, **how)
    calibration = None
    if simulations:
        method = _Refit(refit) if blind and refit is not None else "guide"
        calibration = sbc(program, *data, method=method, simulations=simulations, seed=fork(seed), progress=progress)
    # Weights that are equal to a percent have no tail, and the fit of one breaks at the ties of their rounding.
    spread = log_w.max(0).values - log_w.min(0).values
    khat = torch.where(spread < 0.01, 0.0, psis_khat(log_w))
    weighted, weighted_error = log_mean_exp(log_w)
    return GuideReport(
        name=_name(program),
        unit="nats" if joint else "nats per datum",
        draws=draws,
        khat=khat,
        khat_error=(1 + khat) / math.sqrt(tail_length(draws)),
        ess=effective_sample_size(log_w),
        elbo=float(log_w.mean()),
        elbo_error=float((log_w.var(0) / draws).sum().sqrt()) / log_w.shape[1],
        weighted=float(weighted.mean()),
        weighted_error=float(weighted_error.square().sum().sqrt()) / log_w.shape[1],
        evidence=evidence,
        calibration=calibration,
    )


def _name(program: Program) -> str:
    program = getattr(program, "unguided", program)
    functions = getattr(program, "functions", None)  # of Program.from_functions
    return type(program).__name__ if functions is None else getattr(functions[0], "__name__", type(program).__name__)


class _Refit:
    """A method for :func:`sbc`: trains a new guide of the same kind on each data set."""

    __name__ = "the guide, trained anew"

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options

    def __call__(self, program: Program, x: Tensor, *context: Any, draws: int, seed: int) -> dict[str, Tensor]:
        fresh = guide_of(program).untrained()
        # Of a copy, and before its parameters exist: the model's stay as they are.
        again = with_guide(copy.deepcopy(program).requires_grad_(False), fresh)
        with torch.enable_grad():
            fit(again, (x, *context), **({"progress": False, "seed": seed} | dict(self.options)))
        with seeded(fork(seed)), torch.no_grad(), evaluation(again):
            values = joint_guide_draws(again, x, *context, num_particles=draws)[0]
        return {name: values[name] for name in fresh.names}
