"""Whether draws can be believed, in words.

The figures and the limits that they are held against; what to do where one is missed is said with each.

References:
    | Rank-normalization, folding, and localization: An improved R-hat (Vehtari et al., 2021)
    | https://arxiv.org/abs/1903.08008
    | A Conceptual Introduction to Hamiltonian Monte Carlo (Betancourt, 2017): E-BFMI
    | https://arxiv.org/abs/1701.02434
    | Pareto Smoothed Importance Sampling (Vehtari et al., 2024)
    | https://arxiv.org/abs/1507.02646
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_gen.inference.diagnose.statistics import MIN_CHAINS_FOR_SUPERCHAINS, RHAT, bfmi, parameter_table, pooled_bfmi

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Diagnosis", "Problem", "diagnose"]

ESS = 400.0  # with it R-hat and the ESS itself are estimated well enough; the mean is known to 5 % of a sd
BFMI = 0.3  # Betancourt (2017)
KHAT = 0.7  # Vehtari et al. (2024)
DIVERGENT = 1e-3  # the share of divergent transitions that is no alarm
DRIFT = 0.1  # standard deviations
RESTARTED = 0.1  # the share of chains that may be lost in the warm-up
STUCK = 0.02  # the share of steps that a chain must have moved in


@dataclass(frozen=True)
class Problem:
    """Something that keeps draws from being believed.

    Attributes:
        name: ``"convergence"``, ``"apart"``, ``"drift"``, ``"ess"``, ``"divergences"``, ``"bfmi"``, ``"stuck"``,
            ``"tree_depth"``, ``"restarted"``, ``"weights"`` or ``"not finite"``.
        text: What was seen, what it means and what to do.
        where: The parameters (or data) that it was seen at, worst first.
    """

    name: str
    text: str
    where: tuple[str, ...] = ()


@dataclass(frozen=True)
class Diagnosis:
    """What :func:`diagnose` found; prints itself in words.

    Attributes:
        problems: The problems, none where all is well.
        figures: Numbers over all parameters: the largest R-hat, the smallest effective sample size, ...
        table: One row per parameter, see :func:`summary`.
        about: What was diagnosed, in one line.
    """

    problems: tuple[Problem, ...]
    figures: Mapping[str, float]
    table: "pd.DataFrame" = field(repr=False)
    about: str = ""

    @property
    def ok(self) -> bool:
        """Whether no problem was found."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Numbers and text only, for JSON."""
        return {
            "ok": self.ok,
            "about": self.about,
            "problems": [{"name": p.name, "text": p.text, "where": list(p.where)} for p in self.problems],
            "figures": {k: (v if math.isfinite(v) else None) for k, v in self.figures.items()},
        }

    def __str__(self) -> str:
        words = {
            "rhat": "R-hat at most {:.3f}",
            "rhat_nested": "nested R-hat at most {:.3f}",
            "ess_bulk": "bulk-ESS at least {:,.0f}",
            "ess_tail": "tail-ESS at least {:,.0f}",
            "mcse_over_sd": "every mean known to {:.1%} of a standard deviation",
            "divergences": "divergent transitions {:,.0f}",
            "bfmi": "E-BFMI {:.2f}",
            "acceptance_rate": "acceptance {:.2f}",
            "khat": "Pareto k-hat {:.2f}",
            "ess": "weights worth {:,.0f} draws at least",
        }
        seen = ", ".join(text.format(self.figures[k]) for k, text in words.items() if k in self.figures)
        lines = [f"{self.about}: {seen}."]
        if self.ok:
            lines.append("No problem found.")
        else:
            lines.append(f"{len(self.problems)} problem{'s' if len(self.problems) > 1 else ''}:")
            lines += [f"- {p.text}" for p in self.problems]
        return "\n".join(lines)


def diagnose(idata: Any, superchains: int | Sequence[int] | None = None) -> Diagnosis:
    r"""Says what a user of draws should know about them, and what to do where something is wrong.

    From 32 chains on the verdict on convergence is that of the nested R-hat, of chains that stay apart and of drift
    (see :mod:`pyro_gen.inference.diagnose.statistics`), below it that of the rank-normalised split R-hat. Both must be
    below 1.01, or what chance makes of it for so many draws of that autocorrelation; bulk and tail effective sample
    sizes above 400 [1]. Divergent transitions may be one in 1,000; the fraction of missing information must be
    above 0.3, where there are energies of Hamiltonian trajectories, unless the attribute ``thin`` of the posterior
    says that they are not successive.

    Arguments:
        idata: An ``arviz.InferenceData`` with a group ``posterior``, as of :func:`pyro_gen.posterior`; what
            ``sample_stats`` has of ``diverging``, ``energy``, ``tree_depth``, ``acceptance_rate`` and ``log_weight`` is
            used.
        superchains: The number of consecutive chains that started from one point, or for each chain the number of its
            superchain; by default what the attribute ``superchains`` of the posterior says, else chains started
            independently of each other.

    Returns:
        The :class:`Diagnosis`; ``.ok`` is the verdict.

    Raises:
        TypeError: There are no draws in what was given.
        ValueError: There are fewer than 4 draws per chain, or the superchains do not fit.

    References:
        | [1] Rank-normalization, folding, and localization: An improved R-hat (Vehtari et al., 2021)
        | https://arxiv.org/abs/1903.08008

    Example:
        >>> import arviz as az
        >>> draws = np.random.default_rng(0).normal(size=(4, 500))
        >>> diagnose(az.from_dict(posterior={"mu": draws})).ok
        True
        >>> draws[3] += 2.0
        >>> print(diagnose(az.from_dict(posterior={"mu": draws})).problems[0].name)
        convergence
    """
    table = parameter_table(idata, superchains)
    posterior, stats = idata.posterior, getattr(idata, "sample_stats", None)
    chains, draws = posterior.sizes["chain"], posterior.sizes["draw"]
    method = str(posterior.attrs.get("method", ""))
    figures: dict[str, float] = {}
    problems = list(_not_finite(table))
    if "ess" in table:
        about = f"{method or 'weights'}: {_count(chains * draws, 'weighted draw')}, {_count(len(table), 'parameter')}"
        problems += _of_weights(table, stats, figures)
    else:
        about = f"{method or 'draws'}: {_count(chains, 'chain')} of {draws:,} draws, {_count(len(table), 'parameter')}"
        if method not in ("guide", "smc", "exact"):  # whose draws are independent
            problems += _of_convergence(table, chains, draws, figures)
            problems += _of_size(table, chains, draws, figures)
        if stats is not None:
            problems += _of_transitions(posterior, stats, method, figures)
    return Diagnosis(tuple(problems), figures, table, about)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _worst(column: Any, bad: Any, ascending: bool = False) -> tuple[str, ...]:
    return tuple(column[bad].sort_values(ascending=ascending).index)


def _named(where: Sequence[str], total: int) -> str:
    shown = ", ".join(where[:3]) + (", ..." if len(where) > 3 else "")
    return f"{shown} ({len(where):,} of {total:,} parameters)" if total > 1 else shown


def _not_finite(table: Any) -> Iterator[Problem]:
    if len(where := tuple(table.index[~table["finite"]])):
        yield Problem(
            "not finite",
            f"Some draws of {_named(where, len(table))} are NaN or infinite: the transform to the support overflows, "
            "or a deterministic site divides by zero. Look at the model there, or use float64.",
            where,
        )


def _of_convergence(table: Any, chains: int, draws: int, figures: dict[str, float]) -> Iterator[Problem]:
    many = "rhat_nested" in table
    key = "rhat_nested" if many else "rhat"
    column = table[key]
    figures[key] = float(column.max())
    name = "nested R-hat" if many else "R-hat"
    who = "groups of chains" if many else "chains" if chains > 1 else "halves of the chain"
    limit = table["chance"].clip(lower=RHAT)
    where = _worst(column - limit, column > limit)
    if len(where):
        yield Problem(
            "convergence",
            f"{name} is {column[where[0]]:.3f} at {_named(where, len(table))}, where {RHAT} is good and chains that "
            f"have converged would come to {limit[where[0]]:.3f} at most, as they are correlated: the {who} differ by "
            "more than chance, so they are not draws of one distribution. Run "
            "a longer warm-up; if that does not help, look at the trace plot: chains that sit in different places mean "
            'several modes (method="tempering"), chains that wander slowly a posterior that should be parametrised '
            "anew.",
            where,
        )
    if many and len(where := _worst(table["apart"], table["apart"] > RHAT)):
        yield Problem(
            "apart",
            f"The chains stay where they are at {_named(where, len(table))}: what tells them apart in the first third "
            f"of their draws does so in the last. The posterior has several modes between which they do not move, and "
            f'the share of draws in each is that of the starting points (use method="tempering"); or {draws:,} draws '
            "are too few for chains that move so slowly (more draws, or thin).",
            where,
        )
    if many and len(where := _worst(table["drift"], table["drift"] > DRIFT)):
        yield Problem(
            "drift",
            f"All chains drift at {_named(where, len(table))}, by {table['drift'].max():.2f} standard deviations from "
            "the first to the last third of the draws: they had not arrived yet. Run a longer warm-up.",
            where,
        )


def _of_size(table: Any, chains: int, draws: int, figures: dict[str, float]) -> Iterator[Problem]:
    varies = table["sd"] > 0
    kinds = {"ess_bulk": "middle", "ess_tail": "tails"}
    for column in kinds:
        figures[column] = float(table.loc[varies, column].min())
    figures["mcse_over_sd"] = float((table["mcse_mean"] / table["sd"])[varies].max())
    low = table[["ess_bulk", "ess_tail"]].min(axis=1)
    if len(where := _worst(low, varies & (low < ESS), ascending=True)):
        worst = low[where[0]]
        part = kinds["ess_bulk" if table.loc[where[0], "ess_bulk"] == worst else "ess_tail"]
        yield Problem(
            "ess",
            f"The {chains * draws:,} draws of {_named(where, len(table))} are worth {worst:,.0f} independent ones in "
            f"the {part}, fewer than {ESS:.0f}: take about {math.ceil(ESS / max(worst, 1.0)):,} times as many draws, "
            "more chains, or a parametrisation in which they move faster.",
            where,
        )


def _of_transitions(posterior: Any, stats: Any, method: str, figures: dict[str, float]) -> Iterator[Problem]:
    yield from _stuck(posterior, stats)
    if "acceptance_rate" in stats:
        figures["acceptance_rate"] = float(stats["acceptance_rate"].mean())
    if "diverging" in stats:
        diverging = stats["diverging"].values.astype(bool)
        count = int(diverging.sum())
        figures["divergences"] = count
        if count > DIVERGENT * diverging.size:
            where = _chains(diverging.reshape(*diverging.shape[:2], -1).any((1, 2)))
            yield Problem(
                "divergences",
                f"{count:,} of {diverging.size:,} transitions diverged, in {_count(len(where), 'chain')}: there are "
                "regions that the integrator cannot enter, so they are missing from the draws. "
                + _non_centred(posterior)
                + "Take smaller steps (a higher target_acceptance, .95 say) after a longer warm-up; where they diverge "
                'still, method="tempering", or a prior that keeps scales away from 0.',
                where,
            )
    # It compares successive transitions, of which thinning leaves out most.
    if "energy" in stats and method in ("", "hmc", "nuts") and int(posterior.attrs.get("thin", 1)) == 1:
        energy = stats["energy"].transpose("chain", "draw", ...).values.astype(np.float64)
        found = pooled_bfmi(energy) if len(energy) >= MIN_CHAINS_FOR_SUPERCHAINS else bfmi(energy)
        figures["bfmi"] = worst = float(np.min(found))
        if not worst > BFMI:
            bad = int((~(found > BFMI)).sum())
            yield Problem(
                "bfmi",
                f"The fraction of missing information (E-BFMI) is {worst:.2f}"
                f"{f' ({bad} of {found.size} chains and data)' if found.size > 1 else ''}, below {BFMI}: the energy "
                "changes too little in one transition to reach the tails. A heavy tail or a funnel does this. "
                + _non_centred(posterior)
                + 'Give priors tails less heavy, or use method="tempering".',
            )
    if "tree_depth" in stats:
        depth = stats["tree_depth"].values
        limit = int(posterior.attrs.get("max_tree_depth", 10))
        share = float((depth >= limit).mean())
        if share > 0.01:
            yield Problem(
                "tree_depth",
                f"{share:.0%} of the trajectories ended because they reached the greatest depth, {limit}: each costs "
                f"{2**limit - 1:,} gradients and still does not turn back. The scales of the posterior differ by "
                'orders of magnitude: put parameters on similar scales, use metric="dense", or raise max_depth.',
            )
    restarted = int(posterior.attrs.get("restarted", 0))
    of = math.prod(stats["lp"].shape[:1] + stats["lp"].shape[2:] if "lp" in stats else (posterior.sizes["chain"],))
    if restarted > RESTARTED * of:
        yield Problem(
            "restarted",
            f"{restarted:,} of {of:,} chains were lost in the warm-up and started anew where others were: the starting "
            'points lie in parts of the posterior that the method does not leave. Try init="prior" or '
            'init="pathfinder", or method="tempering" where these parts are modes.',
        )


def _non_centred(posterior: Any) -> str:
    """What is to be said of writing a model non-centred, by what was noted of its sites, if it was."""
    noted = posterior.attrs.get("scaled_by")
    if noted is None:
        return (
            "If the model has group effects with a scale that is unknown, write them non-centred (an effect is scale * "
            "a standard normal). "
        )
    said = [f"{name} (its scale is that of {', '.join(by)})" for name, by in json.loads(noted).items()]
    if not said:
        return ""
    return f"Write {' and '.join(said)} non-centred: the scale times a variable of scale 1. "


def _chains(bad: Any) -> tuple[str, ...]:
    return tuple(f"chain {c}" for c in np.flatnonzero(bad))


def _stuck(posterior: Any, stats: Any) -> Iterator[Problem]:
    """Chains that hardly moved: by what the log-density did, which a move of any parameter changes."""
    if "lp" not in stats or posterior.sizes["draw"] < 10:
        return
    lp = stats["lp"].transpose("chain", "draw", ...).values
    moved = (np.diff(lp, axis=1) != 0).mean(1)
    bad = moved < STUCK
    if bad.any():
        where = _chains(bad.reshape(len(bad), -1).any(1))
        each = "" if bad.ndim == 1 else f", at {int(bad.sum()):,} of {bad.size:,} pairs of chain and datum"
        yield Problem(
            "stuck",
            f"{len(where):,} of {len(bad):,} chains hardly moved ({', '.join(where[:3])}"
            f"{', ...' if len(where) > 3 else ''}){each}: every step from where they are is rejected. They sit where "
            "the posterior is much narrower than elsewhere (a funnel), or came to nothing in the warm-up. "
            + _non_centred(posterior)
            + "Run a longer warm-up.",
            where,
        )


def _of_weights(table: Any, stats: Any, figures: dict[str, float]) -> Iterator[Problem]:
    figures["ess"] = float(table["ess"].min())
    if "khat" in stats:
        khat = np.atleast_1d(stats["khat"].values)
        figures["khat"] = float(np.nanmax(khat)) if np.isfinite(khat).any() else math.nan
        bad = khat > KHAT
        if bad.any():
            where = tuple(f"datum {i}" for i in np.flatnonzero(bad)) if khat.size > 1 else ()
            yield Problem(
                "weights",
                f"Pareto k-hat is {figures['khat']:.2f}"
                f"{f' at the worst of {len(where):,} data of {khat.size:,}' if where else ''}, above {KHAT}: the guide "
                "misses part of the posterior, and weights do not mend it. Train a richer guide (full-rank, a flow), "
                'or use method="hmc".',
                where,
            )
    if len(where := _worst(table["ess"], ~(table["ess"] >= ESS), ascending=True)):
        yield Problem(
            "ess",
            f"The weighted draws of {_named(where, len(table))} are worth {figures['ess']:,.0f} independent ones, "
            f'fewer than {ESS:.0f}: take more draws, or use method="hmc".',
            where,
        )
