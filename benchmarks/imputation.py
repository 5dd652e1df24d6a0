"""Imputation: ours against what fills tables today, by the protocols of the literature, all rerun in the same run.

No choice is made on the entries that are scored: methods see the table with its holes, and nothing else. Each job is a
process of its own, so that a rival that is missing, fails, or is over the limit takes only itself out, and says why.

    a  the protocol of MIWAE (Mattei & Frellsen 2019): half of the cells of five tables gone completely at random;
       squared error of the posterior mean, CRPS (of a single imputation: its absolute error), coverage and width of
       95% intervals from the draws (from 39 draws on), all on the missing cells, in standardised units
    b  the simulation of van Buuren (2018, section 2.5.3): n = 50, half of x missing, the pooled slope of y on x
    c  the protocol of not-MIWAE (Ipsen et al. 2021): what is above the mean is missing in half of the columns; RMSE
    d  mixed tables, 30% of the cells gone: log-loss of categories and CRPS of numbers, for each type of column
    e  breast, 569 x 30: seconds to fit and make 20 completed tables
    f  a million rows and 20 columns, 20% missing: seconds and peak memory to fit and write them (only when named)
    g  1,000 x 10, a fifth of the cells gone: CPU seconds to fit and make 20 completed tables against miceforest's, side
       by side in one run, on one thread each, with the errors of both

The other packages are no dependencies of this one. Where miceforest and HyperImpute are not beside it, name the Python
of an environment that has them (``--rivals-python``), or their figures are left out.

    python benchmarks/imputation.py [--part a b c d e f g] [--tables iris] [--seeds 1234] [--jobs 2] [--quick] [--store]
"""

import argparse
import functools
import importlib.util
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from machine import processor, versions

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "imputation.json"
MSE_BARS = {"breast": 0.195, "wine": 0.615, "diabetes": 0.632, "iris": 0.490, "digits": 0.52}
MIXED = ("anes96", "fair")
SEEDS = (1234, 0, 1, 2, 3)
DRAWS = 200
INSIDE = (0.93, 0.97)
OURS = ("ours: auto", "ours: gaussian", "ours: student_t", "ours: copula", "ours: mixture")
SETTINGS: dict[tuple[str, str], dict[str, Any]] = {  # of rivals, where they are not the same for all tables
    ("ExtraTrees", "breast"): {"depth": 8},
    ("Gaussian EM", "digits"): {"ridge": 1e-2, "iterations": 30},
    ("copula EM", "digits"): {"ridge": 1e-2, "iterations": 30},
}
SIGNS = {"sign known": "high", "sign unknown": "unknown"}  # what our program is told of the mechanism in part c
ROWS, COLUMNS = 1_000_000, 20
PACKAGES = ("torch", "pyro-ppl", "numpy", "scipy", "scikit-learn", "pandas", "statsmodels")
Job = dict[str, Any]


@functools.cache
def rivals() -> ModuleType:
    """The module beside this file."""
    spec = importlib.util.spec_from_file_location("imputers", HERE / "rivals" / "imputers.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RIVALS = tuple(rivals().IMPUTERS)
FOREIGN = rivals().FOREIGN


# ----------------------------------------------------------------------------------------------------------------------
# Tables and holes


def standard(name: str) -> np.ndarray:
    """A table of scikit-learn's, standardised with the moments of the complete table; without constant columns."""
    from sklearn import datasets

    x = getattr(datasets, {"breast": "load_breast_cancer"}.get(name, f"load_{name}"))().data.astype(float)
    x = x[:, x.std(0) > 0]
    return (x - x.mean(0)) / x.std(0)


def miwae_holes(x: np.ndarray, seed: int) -> np.ndarray:
    """Half of the cells gone, the very cells of the notebooks of MIWAE."""
    random = np.random.RandomState(seed)  # what np.random.seed and np.random.choice draw from
    holed = x.copy()
    holed.flat[random.choice(x.size, math.floor(0.5 * x.size), replace=False)] = np.nan
    return holed


def self_masked(x: np.ndarray) -> np.ndarray:
    """The first half of the columns without what is above their means."""
    holed, half = x.copy(), x.shape[1] // 2
    holed[:, :half][x[:, :half] > x[:, :half].mean(0)] = np.nan
    return holed


def mixed(name: str) -> tuple[Any, dict[str, list[str]]]:
    """A table of statsmodels' as a data frame, categories as such, and its columns by type."""
    import pandas as pd
    from statsmodels import datasets

    types = {
        "anes96": {
            "real": ["age", "logpopul"],
            "count": ["popul", "TVnews"],
            "binary": ["vote"],
            "ordinal": ["selfLR", "ClinLR", "DoleLR", "PID", "educ", "income"],
        },
        "fair": {
            "real": ["age", "yrs_married", "children", "affairs"],
            "nominal": ["occupation", "occupation_husb"],
            "ordinal": ["rate_marriage", "religious", "educ"],
        },
    }[name]
    importlib.import_module(f"statsmodels.datasets.{name}")
    frame = getattr(datasets, name).load_pandas().data[[column for columns in types.values() for column in columns]]
    for kind in ("binary", "nominal", "ordinal"):
        for column in types.get(kind, ()):
            frame[column] = pd.Categorical(frame[column], ordered=kind == "ordinal")
    return frame, types


def codes(frame: Any, like: Any) -> np.ndarray:
    """A data frame as numbers, categories as their places among those of ``like``; NaN is missing."""
    import pandas as pd

    columns = []
    for name, column in like.items():
        if isinstance(column.dtype, pd.CategoricalDtype):
            places = pd.Categorical(frame[name], categories=column.cat.categories).codes.astype(float)
            columns.append(np.where(places < 0, np.nan, places))
        else:
            columns.append(frame[name].to_numpy(dtype=float))
    return np.stack(columns, 1)


# ----------------------------------------------------------------------------------------------------------------------
# Scores


def crps(truth: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """The fair continuous ranked probability score of draws (S, cell), for each cell."""
    count = len(draws)
    weights = (2 * np.arange(1, count + 1) - count - 1) / (count * (count - 1))
    return abs(draws - truth).mean(0) - weights @ np.sort(draws, 0)


def score(truth: np.ndarray, point: np.ndarray, draws: np.ndarray | None) -> dict[str, float]:
    found = {"mse": float(((point - truth) ** 2).mean())}
    found["crps"] = float((abs(point - truth) if draws is None else crps(truth, draws)).mean())
    if draws is not None and len(draws) >= 39:
        # Weibull's positions: the interval of draws from the truth covers 95% whatever their number.
        low, high = np.quantile(draws, (0.025, 0.975), axis=0, method="weibull")
        found["coverage"] = float(((low <= truth) & (truth <= high)).mean())
        found["width"] = float((high - low).mean())
    return found


def log_loss(truth: np.ndarray, point: np.ndarray, draws: np.ndarray | None, frequencies: np.ndarray) -> float:
    """Nats a cell. Draws are counted, half a draw added to each level (Jeffreys). A point prediction is mixed with the
    frequencies of the levels in what is seen; how much of it is chosen in hindsight, the best for it.
    """
    if draws is not None:
        right = ((draws == truth).sum(0) + 0.5) / (len(draws) + 0.5 * len(frequencies))
        return float(-np.log(right).mean())
    base = frequencies[truth.astype(int)]
    return float(min(-np.log(a * (point == truth) + (1 - a) * base).mean() for a in np.linspace(0, 0.99, 100)))


def slopes(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The slope of y on x (..., n) and its variance."""
    count = weights.sum(-1)
    x = np.where(weights > 0, x - ((np.where(weights > 0, x, 0.0)).sum(-1) / count)[..., None], 0.0)
    y = np.where(weights > 0, y - ((y * weights).sum(-1) / count)[..., None], 0.0)
    slope = (x * y).sum(-1) / (x * x).sum(-1)
    squares = ((y - slope[..., None] * x) ** 2).sum(-1)
    return slope, squares / (count - 2) / (x * x).sum(-1)


def rubin(estimates: np.ndarray, variances: np.ndarray, df: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pools (m, run): estimate, standard error, degrees of freedom (Barnard & Rubin 1999)."""
    m = len(estimates)
    within, between = variances.mean(0), estimates.var(0, ddof=1)
    total = within + (1 + 1 / m) * between
    share = (1 + 1 / m) * between / total
    seen = (1 - share) * (1 + df) * df
    return estimates.mean(0), np.sqrt(total), (m - 1) * seen / ((df + 3) * (m - 1) + share**2 * seen)


def simulated(runs: int, n: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Tables of x, half of it missing, and y = x + noise: (run, n) each."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((runs, n))
    y = x + rng.standard_normal((runs, n))
    return np.where(rng.random((runs, n)) < 0.5, np.nan, x), y


# ----------------------------------------------------------------------------------------------------------------------
# The jobs


def ours(x: Any, seed: int, **options: Any) -> tuple[Any, Any, Job]:
    """A fitted imputer's table of means, its draws, and what it says of itself."""
    from pyro_gen.imputation import Imputer

    imputer = Imputer(draws=DRAWS, random_state=seed, **options).fit(x)
    completed = imputer.impute(x)
    return imputer.transform(x), completed, {"weights": completed.info.get("weights")}


def selection(x: np.ndarray, seed: int, sign: str) -> tuple[np.ndarray, np.ndarray]:
    """The means and the draws of the missing cells by a normal whose columns mask themselves."""
    import torch

    from pyro_gen.data.scaling import Scaling
    from pyro_gen.data.schema import Schema
    from pyro_gen.models.tabular import TableSelection

    schema = Schema.infer(x)
    encoded = schema.encode(x)
    scaling = Scaling.fit(schema, encoded)
    working, missing = scaling.forward(encoded), torch.isnan(encoded)
    program = TableSelection(scaling.columns, sign=sign).fit_posterior(working, seed=seed)
    draws = scaling.inverse(program.complete(working, DRAWS, seeds=torch.arange(len(x))))
    return scaling.inverse(program.cell_mean(working))[missing].numpy(), draws[:, missing].numpy()


def cells(job: Job) -> Job:
    """One contender on one table with holes."""
    contender, table, seed = job["contender"], job["table"], job["seed"]
    x = standard(table)
    holed = self_masked(x) if job["part"] == "c" else miwae_holes(x, seed)
    missing, info = np.isnan(holed), {}
    start = time.perf_counter()
    if "sign" in job["options"]:
        point, draws = selection(holed, seed, **job["options"])
    elif contender.startswith("ours"):
        filled, completed, info = ours(holed, seed, **job["options"])
        point, draws = filled[missing], np.stack([completed[k][missing] for k in range(DRAWS)])
    else:
        point, draws = rivals().IMPUTERS[contender](holed, seed, **SETTINGS.get((contender, table), {}))
    seconds = time.perf_counter() - start
    return {**score(x[missing], point, draws), "seconds": seconds, **info}


def columns(job: Job) -> Job:
    """One contender on one mixed table: its mean score for each type of column."""
    contender, seed = job["contender"], job["seed"]
    frame, types = mixed(job["table"])
    truth = codes(frame, frame)
    missing = np.random.default_rng(seed).random(truth.shape) < 0.3
    holed = np.where(missing, np.nan, truth)
    kinds = {frame.columns.get_loc(column): kind for kind, names in types.items() for column in names}
    discrete = [d for d, kind in kinds.items() if kind in ("binary", "nominal", "ordinal")]
    draws = None
    start = time.perf_counter()
    if contender.startswith("ours"):
        filled, completed, info = ours(frame.mask(missing), seed, **job["options"])
        point, draws = codes(filled, frame), np.stack([codes(completed[k], frame) for k in range(DRAWS)])
    else:
        info, point = {}, holed.copy()
        point[missing], cells = rivals().IMPUTERS[contender.removesuffix(" + rounding")](holed, seed)
        if cells is not None:
            draws = np.broadcast_to(holed, (len(cells), *holed.shape)).copy()
            draws[:, missing] = cells
    seconds = time.perf_counter() - start
    scores: dict[str, float] = {}
    for d, name in enumerate(frame.columns):
        gone, seen = missing[:, d], truth[~missing[:, d], d]
        its_draws = None if draws is None else draws[:, gone, d]
        if d not in discrete:
            scores[name] = score(truth[gone, d], point[gone, d], its_draws)["crps"] / truth[:, d].std()
            continue
        levels = len(frame[name].cat.categories)
        frequencies = (np.bincount(seen.astype(int), minlength=levels) + 0.5) / (len(seen) + 0.5 * levels)
        guess = np.full(gone.sum(), frequencies.argmax()) if contender == "mean" else point[gone, d]
        rounded = None if its_draws is None else its_draws.round().clip(0, levels - 1)
        scores[name] = log_loss(truth[gone, d], guess.round().clip(0, levels - 1), rounded, frequencies)
    means = {kind: float(np.mean([scores[name] for name in names])) for kind, names in types.items()}
    return {"kinds": means, "columns": scores, "seconds": seconds, **info}


def simulation(job: Job) -> Job:
    """Our pooled slopes for some of the runs."""
    from pyro_gen.imputation import Imputer
    from pyro_gen.imputation.pooling import pool

    x, y = simulated(job["runs"])
    start, found = time.perf_counter(), []
    for run in range(*job["range"]):
        table = np.stack([x[run], y[run]], 1)
        completed = Imputer(method="gaussian", draws=5, random_state=run).fit(table).impute(table)
        tables = np.stack([completed[k] for k in range(5)])
        pooled = pool(*slopes(tables[..., 0], tables[..., 1], np.ones(tables.shape[:2])), df_complete=len(table) - 2)
        found.append([float(part[0]) for part in (pooled.qbar, pooled.standard_error, pooled.df)])
    return {"pooled": found, "seconds": time.perf_counter() - start}


def clock(job: Job) -> Job:
    """Seconds from a table with holes to completed ones, and the peak memory of the process."""
    import pandas as pd

    from pyro_gen.imputation import Imputer

    if job["part"] == "e":
        table: Any = miwae_holes(standard("breast"), SEEDS[0])
    else:
        rng = np.random.default_rng(0)
        x = rng.standard_normal((job["rows"], 5)) @ rng.standard_normal((5, COLUMNS))
        x += 0.5 * rng.standard_normal(x.shape)
        np.exp(0.5 * x[:, :5], out=x[:, :5])  # a few that are skewed
        x[rng.random(x.shape) < 0.2] = np.nan
        table = pd.DataFrame(x, columns=[f"x{d}" for d in range(COLUMNS)])
        del x
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, time.perf_counter()
    imputer = Imputer(draws=20, random_state=0).fit(table)
    middle = time.perf_counter()
    completed = imputer.impute(table)
    if job["part"] == "e":
        assert all(np.isfinite(completed[k]).all() for k in range(20))
    else:
        with tempfile.TemporaryDirectory() as folder:
            completed.to_parquet(Path(folder) / "completed.parquet")
    end, peak = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": end - start, "fit_seconds": middle - start, "before_bytes": before, "peak_bytes": peak}


def race(job: Job) -> Job:
    """CPU seconds of one contender from a table with holes to completed ones, and how good they are."""
    rng = np.random.default_rng(job["seed"])
    x = rng.standard_normal((1000, 4)) @ rng.standard_normal((4, 10)) + rng.standard_normal((1000, 10))
    x[:, :5] = np.exp(0.4 * x[:, :5])  # half of them skewed
    x = (x - x.mean(0)) / x.std(0)
    holed = np.where(rng.random(x.shape) < 0.2, np.nan, x)
    missing = np.isnan(holed)
    if job["contender"].startswith("ours"):
        from pyro_gen.imputation import Imputer

        start, wall = time.process_time(), time.perf_counter()
        completed = Imputer(draws=job["draws"], random_state=job["seed"]).fit(holed).impute(holed)
        draws = np.stack([completed[k][missing] for k in range(job["draws"])])
        point = draws.mean(0)
    else:
        importlib.import_module(job["contender"])
        start, wall = time.process_time(), time.perf_counter()
        point, draws = rivals().IMPUTERS[job["contender"]](holed, job["seed"], tables=job["draws"])
    cpu, seconds = time.process_time() - start, time.perf_counter() - wall
    return {**score(x[missing], point, draws), "cpu_seconds": cpu, "seconds": seconds}


WORKERS = {"cells": cells, "columns": columns, "simulation": simulation, "clock": clock, "race": race}


# ----------------------------------------------------------------------------------------------------------------------
# Running them


def spawn(kind: str, job: Job, arguments: argparse.Namespace, threads: int = 1) -> Job:
    """Runs a job in a process of its own; what fails, or takes too long, gives its reason as ``error``."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    python = arguments.rivals_python if job.get("contender") in FOREIGN else sys.executable
    limit = 4 * arguments.limit if job.get("contender", "ours").startswith("ours") else arguments.limit
    command = [python, "-W", "ignore", __file__, "--worker", kind, json.dumps(job)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"over the limit of {limit:g} s"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1][:300]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def line(found: Job) -> str:
    if "error" in found:
        return f"left out: {found['error']}"
    parts = [f"{key} {found[key]:.3f}" for key in ("mse", "rmse", "crps", "coverage", "width") if key in found]
    parts += [f"{kind} {value:.4f}" for kind, value in found.get("kinds", {}).items()]
    return "  ".join([*parts, f"{found['seconds']:.1f} s"])


def compare(kind: str, jobs: list[Job], arguments: argparse.Namespace) -> dict[str, dict[str, Job]]:
    """Runs jobs, those of a contender one after the other, up to the first that fails: contender -> seed -> found."""

    def run(contender: str) -> dict[str, Job]:
        found: dict[str, Job] = {}
        for job in (job for job in jobs if job["contender"] == contender):
            found[str(job["seed"])] = spawn(kind, job, arguments)
            said = line(found[str(job["seed"])])
            print(f"    {job['table']:9s} {contender:16s} seed {job['seed']:<5d} {said}", flush=True)
            if "error" in found[str(job["seed"])]:
                break
        return found

    contenders = dict.fromkeys(job["contender"] for job in jobs)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        return dict(zip(contenders, pool.map(run, contenders), strict=True))


def average(found: dict[str, Job], key: str) -> float:
    """Over seeds; NaN, which meets no bar, where one is missing."""
    return float(np.mean([run.get(key, math.nan) for run in found.values()])) if found else math.nan


def against(found: dict[str, dict[str, Job]], key: str, mine: str = "ours: auto") -> float:
    """Ours over the best rival's, on the seeds that the rival has finished."""
    ratios = []
    for contender, theirs in found.items():
        shared = [seed for seed, run in theirs.items() if key in run]
        if not contender.startswith("ours") and shared:
            own = [found[mine].get(seed, {}).get(key, math.nan) for seed in shared]
            ratios.append(np.mean(own) / np.mean([theirs[seed][key] for seed in shared]))
    return float(np.max(ratios)) if ratios else math.nan


def stored(arguments: argparse.Namespace, part: str, table: str) -> dict[str, dict[str, Job]]:
    """What contenders that are left out of a run that is to be stored gave in the last one."""
    if not arguments.store or not RESULT.exists():
        return {}
    found: dict[str, dict[str, Job]] = json.loads(RESULT.read_text())["raw"].get(part, {}).get(table, {})
    return found


def jobs_for(part: str, table: str, contenders: dict[str, Job], seeds: list[int]) -> list[Job]:
    """Jobs of all contenders, with the options of ours."""
    return [
        {"part": part, "table": table, "contender": contender, "options": options, "seed": seed}
        for contender, options in contenders.items()
        for seed in seeds
    ]


# ----------------------------------------------------------------------------------------------------------------------
# The parts. Each gives its raw figures, and those with a bar by name.


def part_a(arguments: argparse.Namespace) -> tuple[Job, dict[str, float]]:
    raw, figures = {}, {}
    contenders = {name: {"method": name.removeprefix("ours: ")} for name in OURS} | {name: {} for name in RIVALS}
    contenders = {name: options for name, options in contenders.items() if name in arguments.contenders}
    for table in [name for name in arguments.tables if name in MSE_BARS]:
        found = compare("cells", jobs_for("a", table, contenders, arguments.seeds), arguments)
        found = raw[table] = {**stored(arguments, "a", table), **found}
        for contender, runs in found.items():
            spread = np.std([run.get("mse", math.nan) for run in runs.values()])
            means = "  ".join(f"{key} {average(runs, key):.3f}" for key in ("mse", "crps", "coverage", "width"))
            print(f"  {table:9s} {contender:16s} {means}  sd of mse {spread:.3f}")
        if "ours: auto" in found:
            figures |= {
                f"a: {table}: MSE": average(found["ours: auto"], "mse"),
                f"a: {table}: coverage": average(found["ours: auto"], "coverage"),
                f"a: {table}: MSE / best rival": against(found, "mse"),
                f"a: {table}: CRPS / best rival": against(found, "crps"),
            }
    return raw, figures


def part_b(arguments: argparse.Namespace) -> tuple[Job, dict[str, float]]:
    from scipy.stats import t

    runs = arguments.runs
    x, y = simulated(runs)
    pooled: dict[str, Any] = {}
    seen = (~np.isnan(x)).astype(float)
    slope, variance = slopes(x, y, seen)
    pooled["listwise"] = slope, np.sqrt(variance), seen.sum(-1) - 2
    for method in ("norm.predict", "norm.nob", "norm"):
        completed = rivals().regressions(x, y, method, draws=5, seed=1)
        pooled[method] = rubin(*slopes(completed, y[None], np.ones_like(completed)), df=x.shape[1] - 2)
    size = math.ceil(runs / (5 * arguments.jobs))
    ranges = [(first, min(first + size, runs)) for first in range(0, runs, size)]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        found = list(pool.map(lambda r: spawn("simulation", {"runs": runs, "range": r}, arguments), ranges))
    errors = [f["error"] for f in found if "error" in f]
    raw: Job = {"seconds": sum(f.get("seconds", 0.0) for f in found)}
    if errors:
        print(f"    ours: gaussian left out: {errors[0]}")
        raw["error"] = errors[0]
    else:
        pooled["ours: gaussian"] = np.array([run for f in found for run in f["pooled"]]).T
    for method, (estimate, error, df) in pooled.items():
        half = t.ppf(0.975, df) * error
        raw[method] = {
            "bias": float(estimate.mean() - 1),
            "coverage": float((abs(estimate - 1) <= half).mean()),
            "width": float(2 * half.mean()),
            "rmse": float(np.sqrt(((estimate - 1) ** 2).mean())),
        }
        print(f"    {method:16s} " + "  ".join(f"{key} {value:+.3f}" for key, value in raw[method].items()))
    mine = raw.get("ours: gaussian", {"bias": math.nan, "coverage": math.nan})
    return raw, {"b: bias": abs(mine["bias"]), "b: coverage": mine["coverage"]}


def part_c(arguments: argparse.Namespace) -> tuple[Job, dict[str, float]]:
    contenders: dict[str, Job] = {f"ours: {name}": {"sign": sign} for name, sign in SIGNS.items()} | {"ours: auto": {}}
    contenders |= {name: {} for name in ("mean", "KNN", "ridge", "ExtraTrees", "Gaussian EM", "copula EM")}
    # The mask is the same for all seeds; those of ours are for what is random in it.
    seeds = arguments.seeds[:3]
    found = compare("cells", jobs_for("c", "breast", contenders, seeds), arguments)
    rmse = {contender: math.sqrt(average(runs, "mse")) for contender, runs in found.items()}
    for contender, value in rmse.items():
        print(f"    {contender:24s} RMSE {value:.3f}")
    return {"found": found, "rmse": rmse}, {f"c: RMSE, {name}": rmse[f"ours: {name}"] for name in SIGNS}


def part_d(arguments: argparse.Namespace) -> tuple[Job, dict[str, float]]:
    raw, figures = {}, {}
    names = ("ours: auto", "mean", "marginal", "ridge + rounding", "ridge, draws + rounding")
    contenders: dict[str, Job] = {name: {} for name in names}
    for table in [name for name in arguments.tables if name in MIXED]:
        found = compare("columns", jobs_for("d", table, contenders, arguments.seeds[:3]), arguments)
        raw[table] = found
        flat = {name: {seed: run.get("kinds", {}) for seed, run in runs.items()} for name, runs in found.items()}
        kinds = dict.fromkeys(kind for runs in flat.values() for run in runs.values() for kind in run)
        figures |= {f"d: {table}: {kind} / best rival": against(flat, kind) for kind in kinds}
    return raw, figures


def part_e(arguments: argparse.Namespace) -> tuple[Job, dict[str, float]]:
    found = spawn("clock", {"part": "e"}, arguments, threads=os.cpu_count() or 1)
    print(f"    {found}")
    return found, {"e: seconds": found.get("seconds", math.nan)}


def part_f(arguments: argparse.Namespace) -> tuple[Job, dict[str, float]]:
    job = {"part": "f", "rows": 10_000 if arguments.quick else ROWS}
    found = spawn("clock", job, arguments, threads=os.cpu_count() or 1)
    print(f"    {found}")
    memory = found.get("peak_bytes", math.nan) / 2**30
    return found, {"f: seconds": found.get("seconds", math.nan), "f: peak memory, GiB": memory}


def part_g(arguments: argparse.Namespace) -> tuple[Job, dict[str, float]]:
    found: dict[str, list[Job]] = {"ours: auto": [], "miceforest": []}
    for seed in range(1 if arguments.quick else 3):  # in turns, one after the other
        for contender, runs in found.items():
            job = {"part": "g", "contender": contender, "draws": 2 if arguments.quick else 20, "seed": seed}
            runs.append(spawn("race", job, arguments))
            print(f"    {contender:12s} seed {seed}  {runs[-1]}", flush=True)
    cpu = {name: float(np.median([run.get("cpu_seconds", math.nan) for run in runs])) for name, runs in found.items()}
    return {**found, "cpu_seconds": cpu}, {"g: CPU time / miceforest": cpu["ours: auto"] / cpu["miceforest"]}


PARTS = {"a": part_a, "b": part_b, "c": part_c, "d": part_d, "e": part_e, "f": part_f, "g": part_g}


def bar(figure: str) -> tuple[float, float]:
    """What a figure must lie between."""
    if figure.endswith("coverage"):
        return INSIDE
    if figure.endswith("/ best rival"):
        return 0.0, 1.0
    if figure.endswith(": MSE"):
        return 0.0, MSE_BARS[figure.split(": ")[1]]
    return 0.0, {
        "b: bias": 0.03,
        "c: RMSE, sign known": 0.74,
        "c: RMSE, sign unknown": 0.80,
        "e: seconds": 60.0,
        "g: CPU time / miceforest": 3.0,
        "f: seconds": 600.0,
        "f: peak memory, GiB": 4.0,
    }[figure]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", nargs="+", choices=PARTS, default=[part for part in PARTS if part != "f"])
    tables = [*MSE_BARS, *MIXED]
    parser.add_argument("--tables", nargs="+", choices=tables, default=tables, help="of parts a and d")
    parser.add_argument("--contenders", nargs="+", choices=(*OURS, *RIVALS), default=[*OURS, *RIVALS], help="of part a")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), help="parts c and d take the first three")
    parser.add_argument("--runs", type=int, default=1000, help="of part b")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time, in all parts but e to g")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds for a job of a rival; ours have four times")
    parser.add_argument("--rivals-python", default=sys.executable, help=f"has {' and '.join(FOREIGN)}")
    parser.add_argument("--quick", action="store_true", help="little of everything: whether it runs, not how well")
    parser.add_argument("--store", action="store_true", help=f"write {RESULT}")
    parser.add_argument("--worker", nargs=2, metavar=("KIND", "JOB"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        kind, job = arguments.worker
        print(json.dumps(WORKERS[kind](json.loads(job))))
        return 0
    if arguments.quick:
        arguments.tables, arguments.seeds, arguments.runs = ["iris", "anes96"], [SEEDS[0]], 20
    if arguments.store and (arguments.seeds != list(SEEDS) or arguments.runs < 1000):
        parser.error("--store keeps whole runs: leave out --quick, --seeds and --runs")

    raw, figures = {}, {}
    for part in arguments.part:
        print(f"Part {part}", flush=True)
        raw[part], found = PARTS[part](arguments)
        figures |= found
    missed = []
    for name, figure in figures.items():
        low, high = bar(name)
        met = low <= figure <= high
        missed += [] if met else [name]
        print(f"{name:36s} {figure:10.3f}  (bar {low:g} to {high:g})  {'ok' if met else 'MISSED'}")
    if arguments.store:
        # The file keeps the last run of each part, in part a of each table and contender.
        known = json.loads(RESULT.read_text()) if RESULT.exists() else {"figures": {}, "raw": {}}
        figures = {**known["figures"], **figures}
        result = {
            "unit": "standardised units on missing cells; means over seeds; ratios to the best rival's; nats",
            "figures": figures,
            "bars": {name: bar(name) for name in figures},
            "seeds": arguments.seeds,
            "machine": processor(),
            "cores": os.cpu_count(),
            "versions": versions(*PACKAGES),
            "raw": {**known["raw"], **{part: {**known["raw"].get(part, {}), **found} for part, found in raw.items()}},
        }
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
