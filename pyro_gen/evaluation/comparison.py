r"""Several models of the same data, side by side: evidence, leave-one-out and held-out density, stacking weights.

The columns answer different questions. The *evidence* :math:`\log p(x_{1:N})` asks which model, its priors included,
foretold the data; differences are logarithms of Bayes factors. *Leave-one-out* asks which one predicts a datum given
the others; priors matter as little as they do for that. *Held-out density* asks the same of data that no model has
seen. *Stacking weights* make the mixture of the models that predicts best, by their leave-one-out densities: the data
held out are not touched by them. Where a column is not to be had for an entry, the table says why.

References:
    | Practical Bayesian model evaluation using leave-one-out cross-validation and WAIC (Vehtari, Gelman & Gabry, 2017)
    | Using stacking to average Bayesian predictive distributions (Yao, Vehtari, Simpson & Gelman, 2018)
    | https://doi.org/10.1214/17-BA1091
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_gen._random import fork
from pyro_gen.density import as_inputs, evaluation
from pyro_gen.density.missing import latent_missing
from pyro_gen.density.sites import ImproperAnywhere
from pyro_gen.evaluation.comparison_table import COLUMNS, Compared, Comparison
from pyro_gen.evaluation.stacking import stacking_weights
from pyro_gen.inference.global_draws import GlobalDraws
from pyro_gen.inference.likelihood.api import log_likelihood
from pyro_gen.inference.likelihood.evidence import log_evidence, of_all_data
from pyro_gen.inference.likelihood.held_out import RELIABLE, leave_one_out, loo
from pyro_gen.inference.likelihood.result import LogLikelihood
from pyro_gen.inference.posterior import posterior
from pyro_gen.inference.progress import progress_bar
from pyro_gen.packing import packed_inputs
from pyro_gen.program import Program
from pyro_gen.traces import sample_sites, site_log_prob, structure, trace_side

__all__ = ["compare"]


def compare(
    entries: Mapping[str, Any],
    data: Any,
    *context: Any,
    held_out: Any = None,
    method: str = "smc",
    seed: int = 0,
    progress: bool | Callable[[float], None] = True,
) -> Comparison:
    r"""Compares models of the same data by evidence, leave-one-out and held-out density, and stacks them.

    Arguments:
        entries: Models by name: programs or plain Pyro model functions; pairs ``(program, posterior)`` of a program and
            what :func:`pyro_gen.posterior` found for these data; or that ``InferenceData`` alone, any library's with a
            group ``log_likelihood``. A program without a posterior is given one. One that has no global latent variable
            has data that are independent: its log-likelihoods are their leave-one-out densities, if no parameter of it
            was fitted.
        data: The data of all models, with shape :math:`(N, *)`, NaN where nothing was observed.
        context: What all models condition on, each with shape :math:`(N, *)`.
        held_out: Other data, which no model has seen; with context a tuple ``(data, *context)``.
        method: How evidences are estimated, see :func:`pyro_gen.log_evidence`. An ``InferenceData`` of
            ``pg.posterior(method="smc")`` has its own.
        seed: Seeds all draws; the caller's generators are left alone.
        progress: Whether to show a progress bar; or a function to be called with the fraction done.

    Returns:
        The table, which prints itself; ``to_pandas()``, ``plot()``, ``to_dict()``.

    Raises:
        ValueError: There is no entry, a posterior is of other data, or nothing can be computed for an entry.
        TypeError: An entry is neither program nor posterior.

    Example:
        >>> import pyro, pyro.distributions as dist, torch
        >>> def model(scale):
        ...     def normal(x):
        ...         mean = pyro.sample("mean", dist.Normal(0.0, scale))
        ...         with pyro.plate("data", len(x)):
        ...             pyro.sample("x", dist.Normal(mean, 1.0), obs=x)
        ...     return normal
        >>> x = torch.tensor([0.2, -0.4, 0.9, -1.1, 0.3])
        >>> found = compare({"narrow": model(1.0), "wide": model(100.0)}, x, progress=False)
        >>> found.best(), bool(found.to_pandas().loc["wide", "probability"] < 0.05)
        ('narrow', True)
    """
    if not isinstance(entries, Mapping) or not entries:
        raise ValueError(f'compare({type(entries).__name__}): give models by name, {{"linear": program, ...}}.')
    new = None if held_out is None else held_out if isinstance(held_out, tuple) else (held_out,)
    compared: dict[str, Compared] = {}
    with progress_bar("compare", progress) as report:
        for i, (name, entry) in enumerate(entries.items()):
            report(i / len(entries), f": {name}")
            program, draws = _parts(name, entry)
            if draws is not None and not isinstance(draws, str):
                _check_data(name, draws, data)
            if program is None:
                compared[name] = _of_draws(draws, new is not None)
            else:
                compared[name] = _of_program(program, draws, (data, *context), new, method, fork(seed))
            if all(getattr(compared[name], column) is None for column in COLUMNS):
                reasons = "; ".join(f"no {COLUMNS[c]}: {why}" for c, why in compared[name].reasons.items())
                raise ValueError(f"compare: nothing can be computed for {name!r}: {reasons}")
    lengths = {name: len(c.loo.value) for name, c in compared.items() if c.loo is not None}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"compare: the entries are of different data, of so many each: {lengths}.")
    weights = {}
    if lengths:
        log_p = np.stack([c.loo.value.numpy() for c in compared.values() if c.loo is not None], 1)
        weights = dict(zip(lengths, map(float, stacking_weights(log_p)), strict=True))
    return Comparison(compared, weights)


def _parts(name: str, entry: Any) -> tuple[Program | None, Any]:
    """The program and the posterior of an entry."""
    if isinstance(entry, tuple) and len(entry) == 2:
        program, draws = entry
    else:
        is_model = isinstance(entry, Program) or (callable(entry) and not hasattr(entry, "posterior"))
        program, draws = (entry, None) if is_model else (None, entry)
    if program is not None and not callable(program):
        raise TypeError(f"compare: the first of the pair {name!r} is no program but {type(program).__name__}.")
    if program is None and not hasattr(draws, "posterior"):
        raise TypeError(
            f"compare: {name!r} is {type(draws).__name__}: give a program, the InferenceData of pg.posterior, or a "
            "pair of both."
        )
    if program is not None and not isinstance(program, Program):
        program = Program.from_functions(program)
    return program, draws


def _check_data(name: str, draws: Any, data: Any) -> None:
    """Raises ValueError where a posterior says that it is of other data."""
    group = getattr(draws, "observed_data", None)
    if group is None or len(group.data_vars) != 1 or not hasattr(data, "shape"):
        return
    (known,) = (v.values for v in group.data_vars.values())
    given = np.asarray(data, dtype=np.float64)
    if known.shape[:1] != given.shape[:1]:
        raise ValueError(f"compare: the posterior of {name!r} is of {len(known)} data, and was given {len(given)}.")
    seen = ~np.isnan(given)
    if known.shape == given.shape and not np.allclose(known[seen], given[seen], rtol=1e-5, atol=1e-6, equal_nan=True):
        raise ValueError(f"compare: the posterior of {name!r} is of other data than these.")


def _of_program(
    program: Program, draws: Any, data: tuple[Any, ...], new: tuple[Any, ...] | None, method: str, seed: int
) -> Compared:
    out = Compared()
    quiet: dict[str, Any] = {"seed": seed, "progress": False}
    whole, x = packed_inputs(program, data[0])
    x, *context = as_inputs(whole, x, *data[1:])
    with evaluation(whole), ImproperAnywhere(), latent_missing(whole, x, *context):
        kinds = structure(whole, x, *context)
        fitted = _parameters_of_model(whole, x, context)
    if fitted:
        out.reasons = dict.fromkeys(
            ("evidence", "loo"),
            f"{_listed(fitted)} are numbers that may have been fitted to these data. Give them priors; or, if they "
            "are constants, say so by program.requires_grad_(False)",
        )
    if not kinds.global_:
        if not fitted:
            of_data = _tried(out, "loo", lambda: log_likelihood(program, *data, **quiet))
            if of_data is None:
                out.reasons["evidence"] = out.reasons["loo"]
            else:
                out.loo, out.evidence = of_data, of_all_data(of_data, of_data.method)
        if new is not None:
            out.held_out = _tried(out, "held_out", lambda: log_likelihood(program, *new, **quiet))
        return out
    if draws is None:
        try:
            draws = posterior(program, *data, seed=seed, progress=False, log_likelihood=False, predictive=False)
        except ValueError as error:
            out.reasons |= dict.fromkeys(("loo", "held_out") if new is not None else ("loo",), str(error))
    if "evidence" not in out.reasons:
        own = None if isinstance(draws, str) else _own_evidence(draws)
        out.evidence = own or _tried(out, "evidence", lambda: log_evidence(program, *data, method=method, **quiet))
    if draws is not None and "loo" not in out.reasons:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "loo: Pareto", UserWarning)  # a remark says it
            out.loo = _tried(out, "loo", lambda: loo(program, *data, posterior=draws, **quiet))
        _remark_khat(out)
    if draws is not None and new is not None:
        out.held_out = _tried(out, "held_out", lambda: log_likelihood(program, *new, posterior=draws, **quiet))
    return out


def _of_draws(draws: Any, scores_new: bool) -> Compared:
    """What an ``InferenceData`` has by itself."""
    out = Compared(evidence=_own_evidence(draws))
    if out.evidence is None:
        out.reasons["evidence"] = (
            'draws alone have none: give the program, the pair (program, posterior), or draws of method="smc"'
        )
    if scores_new:
        out.reasons["held_out"] = "draws alone do not score new data: give the pair (program, posterior)"
    group = getattr(draws, "log_likelihood", None)
    if group is None or not group.data_vars:
        out.reasons["loo"] = (
            "there is no group log_likelihood: give the pair (program, posterior), or draw with log_likelihood=True"
        )
        return out
    parts, names = [], set()
    for value in group.data_vars.values():
        dims = [d for d in value.dims if d not in ("chain", "draw")]
        names |= set(dims[:1])
        flat = torch.tensor(value.transpose("chain", "draw", *dims).values).double().flatten(0, 1)
        parts.append(flat.reshape(len(flat), flat.shape[1] if dims else 1, -1).sum(-1))
    if len({part.shape for part in parts}) > 1 or any(not bool(part.isfinite().all()) for part in parts):
        out.reasons["loo"] = (
            "its group log_likelihood has numbers that are not finite, or variables with different numbers of data"
        )
        return out
    stats = getattr(draws, "sample_stats", None)
    log_weights = None
    if stats is not None and "log_weight" in stats:
        log_weights = torch.tensor(stats["log_weight"].transpose("chain", "draw", ...).values).double().flatten()
        if len(log_weights) != len(parts[0]):
            out.reasons["loo"] = "it has weights for each datum, and the data of such a program are independent"
            return out
        log_weights = log_weights.log_softmax(0)
    log_p = torch.stack(parts).sum(0)
    known = GlobalDraws({"log_p": log_p}, draws.posterior.sizes["chain"], log_weights)
    out.loo = leave_one_out(known, log_p, 1.0)
    _remark_khat(out)
    if local := [str(n) for n, v in draws.posterior.data_vars.items() if names & set(v.dims)]:
        given = (
            f"given {_listed(local)}, with values for each datum: if latent, the pair (program, posterior) is better"
        )
        out.remarks["loo"] = "; ".join([given, *([out.remarks["loo"]] if "loo" in out.remarks else [])])
    return out


def _own_evidence(draws: Any) -> LogLikelihood | None:
    notes = getattr(getattr(draws, "posterior", None), "attrs", {})
    if "log_evidence" not in notes:
        return None
    value, error = (
        torch.tensor([float(notes[key])], dtype=torch.float64) for key in ("log_evidence", "log_evidence_error")
    )
    return LogLikelihood(value, error, "stochastic lower bound", "smc", 1.0, unit="nats")


def _tried(out: Compared, column: str, estimate: Callable[[], LogLikelihood]) -> LogLikelihood | None:
    """An estimate; where the verb refuses, its words are the reason."""
    try:
        return estimate()
    except ValueError as error:
        out.reasons[column] = str(error)
        return None


def _remark_khat(out: Compared) -> None:
    if out.loo is not None and (bad := int((out.loo.diagnostics["khat"] > RELIABLE).sum())):
        out.remarks["loo"] = (
            f"Pareto k-hat is above {RELIABLE} for {bad} of {len(out.loo.value)} data, so neither it nor the weights "
            "are to be trusted"
        )


def _parameters_of_model(program: Program, x: Tensor, context: list[Any]) -> list[str]:
    """The names of parameters that the density of the model depends on."""
    named = [(name, p) for name, p in program.named_parameters() if p.requires_grad]
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        sites = sample_sites(trace_side(program, "model", x, *context)).values()
        total = sum((site_log_prob(site).sum() for site in sites), x.new_zeros(()))
    if not named or not isinstance(total, Tensor) or not total.requires_grad:
        return []
    gradients = torch.autograd.grad(total, [p for _, p in named], allow_unused=True)
    return [name for (name, _), g in zip(named, gradients, strict=True) if g is not None]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
