"""Many-chain MCMC: ours against Pyro's NUTS and NumPyro's, cold, on posteriors with known moments.

Each repetition is a process of its own. What it imports is not counted, and everything after that is: recording,
compilation, warm-up, draws. Contenders run alone and take turns. The figure is the smallest bulk effective sample size
over the reference's parameters (``az.ess``, the same for all) for each second, the median over repetitions, with the
number of chains at which a contender is best. A run whose moments are not those of the reference draws (|z| >= 5), or
whose chains do not agree (R-hat >= 1.05), counts as nothing.

    a  eight schools, not centred: effective draws a second
    b  the same over the ten posteriors, geometric means of the ratios
    c  eight schools: seconds to 400 effective draws of every parameter
    d  a whole run against its gradients alone, on the same graph and batch
    e  4096 chains of a logistic regression with 100,000 rows: peak memory
    f  pg.posterior at its defaults: effective draws a second, and seconds to 1,000 of them, over the ten posteriors;
       NumPyro's, blackjax's and nutpie's NUTS at the setting that is there first. ``--contenders`` runs some of them,
       and takes the others from what is stored
    g  loops: a gradient of 64 chains of a discrete hidden Markov model (T = 400) against chain by chain, and of
       Lotka-Volterra by RK4 (20 years, 10 steps each) with its loop compiled against the graph as it is recorded

NumPyro, blackjax and nutpie are no dependencies of this package: install them beside (``pip install --target``, on
``PYTHONPATH``), or their figures are left out.

    python benchmarks/mcmc.py [--part a b c d e f g] [--repeats 3] [--contenders blackjax nutpie] [--quick] [--store]
"""

import argparse
import functools
import importlib.util
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from machine import processor, versions

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "mcmc.json"
REFERENCE = HERE.parent / "tests" / "reference"
SCHOOLS = "eight_schools"
POSTERIORS = (SCHOOLS, "arK", "garch", "gp_regr", "hmm", "kidiq", "gauss_mix", "mesquite", "nes1992", "blr")
BARS = {
    "a: ours / Pyro NUTS": 1000.0,
    "a: ours / NumPyro NUTS": 7.0,
    "b: ours / Pyro NUTS": 100.0,
    "b: ours / NumPyro NUTS": 2.0,
    "c: seconds to 400 effective draws": 1.5,
    "d: run / gradients": 1.3,
    "f: default / NumPyro NUTS, eight schools": 5.0,
    "f: seconds to 1,000 effective draws, eight schools": 1.0,
    "f: NumPyro / default, time to 1,000 effective draws": 3.0,
    "f: blackjax / default, time to 1,000 effective draws": 3.0,
    "f: nutpie / default, time to 1,000 effective draws": 3.0,
    "g: chain by chain / DiscreteHMM": 30.0,
    "g: unrolled / Lotka-Volterra": 5.0,
}
AT_MOST = ("c:", "d:", "f: seconds")  # bars that a figure must not exceed
ROWS, COLUMNS, MANY = 100_000, 10, 4096
Job = dict[str, Any]
Times = tuple[float, float]
Run = tuple[dict[str, Any], Times]


def load(name: str) -> ModuleType:
    """A module of tests/reference, or of rivals beside this file."""
    folder = REFERENCE if name == "models" else HERE / "rivals"
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


# ----------------------------------------------------------------------------------------------------------------------
# The contenders. Each imports what it needs, starts its clock, and gives the draws of the reference's parameters by
# name, (chain, draw), with the seconds.


def now() -> Times:
    """Wall time and CPU time, in seconds."""
    return time.perf_counter(), time.process_time()


def since(start: Times) -> Times:
    wall, cpu = now()
    return wall - start[0], cpu - start[1]


def ours(job: Job) -> Run:
    import torch

    from pyro_gen.density import density
    from pyro_gen.inference.mcmc import run

    torch.set_num_threads(job["threads"])
    posterior = load("models").POSTERIORS[job["posterior"]]
    data = posterior.data()
    start = now()
    target = density(posterior.model, *data, compile=job.get("compile", "off"))
    options = {"chains": job["chains"], "warmup": job["warmup"], "draws": job["draws"], "seed": job["seed"]}
    values = run(target, job.get("method", "hmc"), **options).values
    seconds = since(start)
    return {name: x.T.numpy() for name, x in posterior.named(values).items()}, seconds


def default(job: Job) -> Run:
    import arviz  # noqa: F401 -- which the function imports when it is called, and xarray the other, where it is there
    import torch

    if _have("dask"):
        importlib.import_module("dask.array")

    import pyro_gen as pg

    torch.set_num_threads(job["threads"])
    draw, posterior = pg.posterior, load("models").POSTERIORS[job["posterior"]]
    data = posterior.data()
    start = now()
    options = {"log_likelihood": False, "predictive": False, "progress": False}  # the draws, as from the others
    idata = draw(posterior.model, *data, seed=job["seed"], **options)
    seconds = since(start)
    values = {str(name): torch.from_numpy(x.to_numpy()).movedim(1, 0) for name, x in idata.posterior.items()}
    return {name: x.T.numpy() for name, x in posterior.named(values).items()}, seconds


def pyro_nuts(job: Job) -> Run:
    import pyro
    import torch
    from pyro.infer import MCMC, NUTS
    from pyro.infer.autoguide.initialization import init_to_value

    torch.set_num_threads(job["threads"])
    pyro.set_rng_seed(job["seed"])
    pyro.enable_validation(False)  # the faster Pyro
    models = load("models")
    posterior = models.POSTERIORS[job["posterior"]]
    data = posterior.data()
    model = models.FIXED_SUPPORT.get(job["posterior"], posterior.model)
    # Pyro cannot draw from a flat prior: a point of its support, at which NUTS then starts.
    values = models.some_values(model, data)
    start = now()
    kernel = NUTS(
        model,
        jit_compile=True,
        ignore_jit_warnings=True,
        init_strategy=init_to_value(values=values),
        max_plate_nesting=1,  # to guess it, Pyro would draw from the prior
    )
    mcmc = MCMC(
        kernel,
        num_samples=job["draws"],
        warmup_steps=job["warmup"],
        num_chains=job["chains"],
        disable_progbar=True,
    )
    mcmc.run(*data)
    draws = mcmc.get_samples(group_by_chain=True)
    seconds = since(start)
    flat = {name: x.flatten(0, 1) for name, x in draws.items()}
    with torch.no_grad():
        flat = models.with_deterministic(model, data, flat)
    shape = (job["chains"], job["draws"])
    return {name: x.unflatten(0, shape).numpy() for name, x in posterior.named(flat).items()}, seconds


def numpyro_nuts(job: Job) -> Run:
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={job.get('devices', 1)}"
    import jax
    import numpy as np
    import torch
    from numpyro.infer import MCMC, NUTS

    posterior = load("models").POSTERIORS[job["posterior"]]
    models = load("numpyro_models")
    model = getattr(models, posterior.model.__name__)
    data = [part.numpy() for part in posterior.data()]
    start = now()
    mcmc = MCMC(
        NUTS(model),
        num_warmup=job["warmup"],
        num_samples=job["draws"],
        num_chains=job["chains"],
        chain_method=job["chain_method"],
        progress_bar=False,
    )
    mcmc.run(jax.random.PRNGKey(job["seed"]), *data)
    draws = jax.block_until_ready(mcmc.get_samples(group_by_chain=True))
    seconds = since(start)
    values = {name: torch.from_numpy(np.array(x)) for name, x in draws.items()}
    return {name: x.numpy() for name, x in posterior.named(values).items()}, seconds


def on_jax(job: Job) -> Run:
    """blackjax or nutpie."""
    import torch

    posterior = load("models").POSTERIORS[job["posterior"]]
    model = getattr(load("numpyro_models"), posterior.model.__name__)
    sampler = getattr(load("jax_samplers"), job["contender"])
    importlib.import_module(job["contender"])
    data = [part.numpy() for part in posterior.data()]
    start = now()
    draws = sampler(model, data, job)
    seconds = since(start)
    values = {name: torch.from_numpy(x) for name, x in draws.items()}
    return {name: x.numpy() for name, x in posterior.named(values).items()}, seconds


RIVALS = {"numpyro": "NumPyro", "blackjax": "blackjax", "nutpie": "nutpie"}  # on JAX, by their names in figures
CONTENDERS = {"ours": ours, "default": default, "pyro": pyro_nuts, "numpyro": numpyro_nuts}
CONTENDERS |= {"blackjax": on_jax, "nutpie": on_jax}


def sample(job: Job) -> Job:
    """One run of a contender: its time and the quality of its draws."""
    draws, (seconds, cpu) = CONTENDERS[job["contender"]](job)
    import arviz as az
    import numpy as np

    known = load("models").POSTERIORS[job["posterior"]].reference()
    ess = {name: float(az.ess(x)) for name, x in draws.items()}
    z = {
        name: abs(x.astype(np.float64).mean() - known[name]["mean"])
        / math.hypot(float(az.mcse(x)), known[name]["mcse_mean"])
        for name, x in draws.items()
    }
    worst = min(ess, key=lambda name: ess[name])
    r_hat = max(float(az.rhat(x)) for x in draws.values()) if job.get("chains") != 1 else 1.0
    good = max(z.values()) < 5 and r_hat < 1.05
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "ess": ess[worst],
        "parameter": worst,
        "r_hat": r_hat,
        "z": max(z.values()),
        "ess_per_second": ess[worst] / seconds if good else 0.0,
    }


def overhead(job: Job) -> Job:
    """The time of a warm run over that of as many evaluations of the gradient for the same batch of points."""
    import torch

    from pyro_gen.density import density
    from pyro_gen.inference.mcmc import run

    torch.set_num_threads(job["threads"])
    posterior = load("models").POSTERIORS[job["posterior"]]
    target = density(posterior.model, *posterior.data(), compile=job.get("compile", "off"))
    options = {"chains": job["chains"]}  # else as a user gets it
    samples = run(target, seed=job["seed"], **options)  # the graphs are there after this
    count = 0
    evaluate = target.log_density_and_grad

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        return evaluate(*args, **kwargs)

    target.log_density_and_grad = counted
    run(target, seed=job["seed"], **options)
    target.log_density_and_grad = evaluate
    z = samples.z[-1]
    whole, alone = [], []
    for _ in range(15):  # a machine shared with others is noisy
        start = time.perf_counter()
        run(target, seed=job["seed"], **options)
        middle = time.perf_counter()
        for _ in range(count):
            evaluate(z)
        whole.append(middle - start)
        alone.append(time.perf_counter() - middle)
    ratio = statistics.median(a / b for a, b in zip(whole, alone, strict=True))
    return {"gradients": count, "seconds": statistics.median(whole), "alone": statistics.median(alone), "ratio": ratio}


def memory(job: Job) -> Job:
    """Peak memory of a few transitions of many chains on many rows."""
    import pyro
    import pyro.distributions as dist
    import torch

    from pyro_gen.density import density
    from pyro_gen.inference.mcmc import run

    torch.set_num_threads(job["threads"])
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(job["rows"], COLUMNS, generator=generator)
    truth = torch.linspace(-1, 1, COLUMNS)
    y = (torch.rand(job["rows"], generator=generator) < (x @ truth).sigmoid()).float()

    def logistic(x: torch.Tensor, y: torch.Tensor) -> None:
        beta = pyro.sample("beta", dist.Normal(x.new_zeros(COLUMNS), 2.0).to_event(1))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Bernoulli(logits=x @ beta), obs=y)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    target = density(logistic, x, y)
    near = truth + 0.01 * torch.randn(job["chains"], COLUMNS, generator=generator)
    start = time.perf_counter()
    samples = run(target, chains=job["chains"], warmup=0, draws=3, init=near, seed=0, step_size=0.003, num_steps=3)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "seconds_per_gradient": seconds / 10,
        "before_bytes": before,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "all_at_once_bytes": 4 * job["rows"] * job["chains"],  # of one tensor of chains x rows
        "acceptance": float(samples.stats["acceptance_rate"].mean()),
    }


def loop(job: Job) -> Job:
    """Seconds of a gradient of 64 chains of a model with a loop over time, as it was evaluated and as it is now."""
    import pyro
    import pyro.distributions as dist
    import torch

    from pyro_gen.density import density

    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)

    def hidden_markov(y: torch.Tensor) -> None:
        with pyro.plate("states", 3):
            rows = pyro.sample("rows", dist.Dirichlet(torch.ones(3)))
            place = pyro.sample("place", dist.Normal(0.0, 3.0))
        pyro.sample("y", dist.DiscreteHMM(torch.zeros(3), rows.log(), dist.Normal(place, 1.0)), obs=y)

    def lotka_volterra(y: torch.Tensor) -> None:
        a, c = (pyro.sample(name, dist.LogNormal(-0.5, 0.3)) for name in "ac")
        b, d = (pyro.sample(name, dist.LogNormal(-3.0, 0.3)) for name in "bd")
        u, v = pyro.sample("u", dist.LogNormal(3.0, 0.5)), pyro.sample("v", dist.LogNormal(2.0, 0.5))

        def slope(u: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return (a - b * v) * u, (d * u - c) * v

        h, years = 0.1, []
        for _ in range(len(y)):
            for _ in range(10):
                k1 = slope(u, v)
                k2 = slope(u + h / 2 * k1[0], v + h / 2 * k1[1])
                k3 = slope(u + h / 2 * k2[0], v + h / 2 * k2[1])
                k4 = slope(u + h * k3[0], v + h * k3[1])
                u = u + h / 6 * (k1[0] + 2 * k2[0] + 2 * k3[0] + k4[0])
                v = v + h / 6 * (k1[1] + 2 * k2[1] + 2 * k3[1] + k4[1])
            years.append(torch.stack([u, v]))
        with pyro.plate("species", 2), pyro.plate("years", len(y)):
            pyro.sample("y", dist.LogNormal(torch.stack(years).clamp(min=1e-6).log(), 0.3), obs=y)

    if job["case"] == "hmm":
        y = torch.randn(400)
        before, now = density(hidden_markov, y), density(hidden_markov, y, compile="on")
        before.mode = "loop"
    else:
        y = torch.exp(2.5 + 0.3 * torch.randn(20, 2))
        before, now = density(lotka_volterra, y), density(lotka_volterra, y, compile="on")
    z = now.sample_prior(64)
    times: dict[str, list[float]] = {"before": [], "now": []}
    for repetition in range(6):
        for name, target in (("before", before), ("now", now)):
            start = time.perf_counter()
            value, _ = target.log_density_and_grad(z)
            if repetition:  # the first one records and compiles
                times[name].append(time.perf_counter() - start)
    error = float((now.log_density(z) - before.log_density(z)).abs().max() / value.abs().max())
    seconds = {name: statistics.median(t) for name, t in times.items()}
    return {**seconds, "mode": now.mode, "ratio": seconds["before"] / seconds["now"], "error": error}


WORKERS = {"sample": sample, "overhead": overhead, "memory": memory, "loop": loop}


# ----------------------------------------------------------------------------------------------------------------------
# Running them


@functools.cache
def _have(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def spawn(kind: str, job: Job, limit: float) -> Job | None:
    """Runs a job in a process of its own; ``None`` where it takes longer than ``limit`` seconds in all."""
    threads = str(job.get("threads", 1))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    if job.get("contender") in RIVALS:
        environment = dict(os.environ)  # XLA takes what cores it finds
    command = [sys.executable, "-W", "ignore", __file__, "--worker", kind, json.dumps(job)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        raise RuntimeError(f"{job}: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def describe(job: Job) -> str:
    keys = ("chains", "warmup", "draws", "threads", "compile", "chain_method", "devices")
    return " ".join(f"{key}={job[key]}" for key in keys if key in job)


def best_of(contender: str, posterior: str, settings: list[Job], repeats: int, limit: float) -> Job | None:
    """Tries each setting once, the best (of eight schools: two) ``repeats`` times; ``None`` where none is good."""

    def run(setting: Job, seed: int) -> Job | None:
        job = {"contender": contender, "posterior": posterior, "threads": 1, **setting, "seed": seed}
        found = spawn("sample", job, limit)
        line = (
            "over the limit"
            if found is None
            else ", ".join(
                (
                    f"{found['ess_per_second']:9,.0f} a second",
                    f"{found['seconds']:6.2f} s ({found['cpu_seconds']:.2f} of CPU)",
                    f"R-hat {found['r_hat']:.3f}",
                    f"z {found['z']:.1f}",
                )
            )
        )
        print(f"    {contender:8s} {posterior:14s} {describe(job):58s} {line}", flush=True)
        return found

    tried = [(setting, [found]) for setting in settings if (found := run(setting, 0)) is not None]
    tried.sort(key=lambda entry: -entry[1][0]["ess_per_second"])
    finalists = [entry for entry in tried[: 2 if posterior == SCHOOLS else 1] if entry[1][0]["ess_per_second"]]
    for seed in range(1, repeats):
        for setting, runs in finalists:
            again = run(setting, seed)
            runs.append(again or {"ess_per_second": 0.0, "seconds": limit, "ess": 0.0})
    medians = [
        {"setting": setting, "median": statistics.median(r["ess_per_second"] for r in runs), "runs": runs}
        for setting, runs in finalists
    ]
    best = max(medians, key=lambda m: m["median"], default=None)
    return best and {**best, "all": [{"setting": s, "runs": r} for s, r in tried]}


def our_settings(posterior: str, quick: bool) -> list[Job]:
    if quick:
        return [{"chains": 1024, "warmup": 100, "draws": 50}]
    if posterior == SCHOOLS:
        counts = [(256, 200, 200), (512, 120, 200), (1024, 120, 200), (2048, 100, 200), (4096, 100, 200)]
        settings = [{"chains": c, "warmup": w, "draws": d, "threads": t} for c, w, d in counts for t in (1, 2)]
        return [*settings, {"chains": 8192, "warmup": 100, "draws": 200, "threads": 2}]
    counts = [(256, 200, 200, 1), (1024, 120, 100, 2)]
    return [{"chains": c, "warmup": w, "draws": d, "threads": t} for c, w, d, t in counts]


def numpyro_settings(posterior: str, quick: bool) -> list[Job]:
    if quick:
        return [{"chains": 64, "warmup": 200, "draws": 100, "chain_method": "vectorized"}]
    counts = [(256, 200, 300)]
    if posterior == SCHOOLS:
        counts = [(64, 300, 1000), (256, 200, 500), (1024, 150, 250), (4096, 150, 100)]
    settings = [{"chains": c, "warmup": w, "draws": d, "chain_method": "vectorized"} for c, w, d in counts]
    return [*settings, {"chains": 2, "warmup": 500, "draws": 5000, "chain_method": "parallel", "devices": 2}]


def pyro_settings(posterior: str, quick: bool) -> list[Job]:
    if quick:
        return [{"chains": 1, "warmup": 100, "draws": 100}]
    counts = (1, 2) if posterior == SCHOOLS else (2,)
    return [{"chains": c, "warmup": 300, "draws": 600} for c in counts]


def compare(posterior: str, arguments: argparse.Namespace) -> dict[str, Job | None]:
    """All contenders on one posterior."""
    repeats, quick = arguments.repeats, arguments.quick
    found = {"ours": best_of("ours", posterior, our_settings(posterior, quick), repeats, 600)}
    if _have("numpyro"):
        found["numpyro"] = best_of("numpyro", posterior, numpyro_settings(posterior, quick), repeats, arguments.limit)
    found["pyro"] = best_of("pyro", posterior, pyro_settings(posterior, quick), repeats, arguments.limit)
    return found


def ratio(found: dict[str, Job | None], rival: str) -> float | None:
    mine, theirs = found["ours"], found.get(rival)
    if mine is None:
        return 0.0
    return mine["median"] / theirs["median"] if theirs and theirs["median"] else None


def geometric_mean(ratios: list[float]) -> float:
    return math.exp(statistics.fmean(math.log(max(r, 1e-9)) for r in ratios))


# ----------------------------------------------------------------------------------------------------------------------
# The parts. Each gives its raw figures, and those with a bar by name.


def part_a(arguments: argparse.Namespace) -> tuple[Any, dict[str, float]]:
    found = compare(SCHOOLS, arguments)
    names = {"pyro": "a: ours / Pyro NUTS", "numpyro": "a: ours / NumPyro NUTS"}
    return found, {label: r for rival, label in names.items() if (r := ratio(found, rival)) is not None}


def part_b(arguments: argparse.Namespace) -> tuple[Any, dict[str, float]]:
    stored = json.loads(RESULT.read_text())["raw"] if RESULT.exists() else {}
    # Part a has eight schools, with more settings.
    found = {SCHOOLS: stored["a"]} if "a" in stored and SCHOOLS in arguments.posteriors else {}
    found |= {posterior: compare(posterior, arguments) for posterior in arguments.posteriors if posterior not in found}
    figures = {}
    for rival, label in (("pyro", "b: ours / Pyro NUTS"), ("numpyro", "b: ours / NumPyro NUTS")):
        ratios = {posterior: r for posterior, of in found.items() if (r := ratio(of, rival)) is not None}
        for posterior, r in ratios.items():
            print(f"  {label} {posterior:14s} {r:9.1f}x")
        if ratios:
            figures[label] = geometric_mean(list(ratios.values()))
    return found, figures


def part_c(arguments: argparse.Namespace) -> tuple[Any, dict[str, float]]:
    runs = []
    for setting in ({"chains": 128, "warmup": 150, "draws": 50}, {"chains": 512, "warmup": 120, "draws": 40}):
        jobs = [
            {"contender": "ours", "posterior": SCHOOLS, "threads": 1, **setting, "seed": seed}
            for seed in range(max(3, arguments.repeats))
        ]
        runs.append((setting, [spawn("sample", job, 600) for job in jobs]))
    enough = [(s, r) for s, r in runs if all(x is not None and x["ess"] >= 400 and x["ess_per_second"] for x in r)]
    for setting, run in runs:
        print(f"    {describe(setting):32s} " + "  ".join(f"{x['seconds']:.2f} s, {x['ess']:.0f}" for x in run if x))
    best = min((statistics.median(x["seconds"] for x in r if x) for _, r in enough), default=math.inf)
    return [{"setting": s, "runs": r} for s, r in runs], {"c: seconds to 400 effective draws": best}


def part_d(arguments: argparse.Namespace) -> tuple[Any, dict[str, float]]:
    found = []
    for chains in (256,) if arguments.quick else (256, 1024, 4096):
        job = {"posterior": SCHOOLS, "chains": chains, "threads": 1, "seed": 0}
        found.append({"chains": chains, **(spawn("overhead", job, 900) or {"ratio": math.inf})})
        print(f"    {chains} chains: {found[-1]}")
    return found, {"d: run / gradients": max(f["ratio"] for f in found)}


def part_e(arguments: argparse.Namespace) -> tuple[Any, dict[str, float]]:
    job = {"chains": 256 if arguments.quick else MANY, "rows": ROWS, "threads": 1}
    found = spawn("memory", job, 3600)
    if found is None:
        return None, {"e: peak memory, GB": math.inf}
    print(
        f"    {job['chains']} chains x {ROWS} rows: {found['seconds_per_gradient']:.2f} s a gradient, peak "
        f"{found['peak_bytes'] / 1e9:.2f} GB, {found['before_bytes'] / 1e9:.2f} GB of it before the run; one tensor of "
        f"all chains and rows would take {found['all_at_once_bytes'] / 1e9:.2f} GB"
    )
    return found, {"e: peak memory, GB": found["peak_bytes"] / 1e9}


def rival_settings(rival: str, posterior: str, quick: bool) -> list[Job]:
    """What a rival is tried at in part f: many chains, and few that are there soon."""
    if rival == "numpyro":
        few = {"chains": 4, "warmup": 300, "draws": 500, "chain_method": "vectorized"}
        return [*numpyro_settings(posterior, quick), few]
    if quick:
        return [{"chains": 4, "warmup": 200, "draws": 300}]
    counts = {"blackjax": [(4, 300, 500), (64, 300, 200)], "nutpie": [(4, 300, 500), (4, 400, 1000)]}
    return [{"chains": c, "warmup": w, "draws": d} for c, w, d in counts[rival]]


def part_f(arguments: argparse.Namespace) -> tuple[Any, dict[str, float]]:
    stored = json.loads(RESULT.read_text())["raw"].get("f", {}) if RESULT.exists() else {}
    whole = set(arguments.contenders) >= {"default", *RIVALS} and set(arguments.posteriors) >= set(POSTERIORS)
    found: dict[str, Any] = {} if whole else stored
    for posterior in arguments.posteriors:
        of = found.setdefault(posterior, {})
        if "default" in arguments.contenders:
            of["ours"] = best_of("default", posterior, [{}], arguments.repeats, 600)
        for rival in (r for r in RIVALS if r in arguments.contenders and _have(r)):
            settings = rival_settings(rival, posterior, arguments.quick)
            of[rival] = best_of(rival, posterior, settings, arguments.repeats, arguments.limit)
    figures: dict[str, float] = {}
    soonest: dict[str, dict[str, float]] = {
        posterior: {name: _soonest(of) for name, of in both.items()} for posterior, both in found.items()
    }
    for posterior, times in soonest.items():
        print(f"  seconds to 1,000 effective draws, {posterior:14s} {times}")
    if "ours" in found.get(SCHOOLS, {}):
        figures["f: seconds to 1,000 effective draws, eight schools"] = soonest[SCHOOLS]["ours"]
        if (r := ratio(found[SCHOOLS], "numpyro")) is not None:
            figures["f: default / NumPyro NUTS, eight schools"] = r
    for rival, name in RIVALS.items():
        ratios = [
            t[rival] / t["ours"] for t in soonest.values() if math.isfinite(t.get(rival, math.inf)) and "ours" in t
        ]
        if ratios:
            figures[f"f: {name} / default, time to 1,000 effective draws"] = geometric_mean(ratios)
    return found, figures


def _soonest(best: Job | None) -> float:
    """The median time of the setting that has 1,000 good effective draws first, of all that were tried."""
    times = [
        statistics.median(run["seconds"] for run in tried["runs"])
        for tried in (best["all"] if best else [])
        if all(run["ess"] >= 1000 and run["ess_per_second"] for run in tried["runs"])
    ]
    return min(times, default=math.inf)


def part_g(arguments: argparse.Namespace) -> tuple[Any, dict[str, float]]:
    names = {"hmm": "g: chain by chain / DiscreteHMM", "lotka": "g: unrolled / Lotka-Volterra"}
    found = {case: spawn("loop", {"case": case, "threads": 1}, 900) for case in names}
    for case, of in found.items():
        print(f"    {case}: {of}")
    return found, {name: of["ratio"] if (of := found[case]) else 0.0 for case, name in names.items()}


PARTS = {"a": part_a, "b": part_b, "c": part_c, "d": part_d, "e": part_e, "f": part_f, "g": part_g}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--posteriors", nargs="+", choices=POSTERIORS, default=list(POSTERIORS), help="of parts b and f"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for a run of a rival, else it is left out")
    everyone = ["default", *RIVALS]
    parser.add_argument("--contenders", nargs="+", choices=everyone, default=everyone, help="of part f")
    parser.add_argument("--quick", action="store_true", help="one small setting each: whether it runs, not how fast")
    parser.add_argument("--store", action="store_true", help=f"write {RESULT}")
    parser.add_argument("--worker", nargs=2, metavar=("KIND", "JOB"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        kind, job = arguments.worker
        print(json.dumps(WORKERS[kind](json.loads(job))))
        return 0
    if arguments.quick:
        arguments.repeats = 1
    if absent := [name for rival, name in RIVALS.items() if not _have(rival)]:
        print(f"Not installed, so their figures are left out: {', '.join(absent)}.")

    raw, figures = {}, {}
    for part in arguments.part:
        print(f"Part {part}", flush=True)
        raw[part], found = PARTS[part](arguments)
        figures |= found
    bars = {**BARS, "e: peak memory, GB": 4.0}
    missed = []
    for name, figure in figures.items():
        met = figure <= bars[name] if name.startswith((*AT_MOST, "e:")) else figure >= bars[name]
        missed += [] if met else [name]
        print(f"{name:36s} {figure:10.2f}  (bar {bars[name]:g})  {'ok' if met else 'MISSED'}")
    if arguments.store:
        # A part is measured side by side; the file keeps the last run of each.
        known = json.loads(RESULT.read_text()) if RESULT.exists() else {"figures": {}, "raw": {}}
        figures = {**known["figures"], **figures}
        result = {
            "unit": "smallest bulk effective sample size a second, cold; medians over repetitions",
            "figures": figures,
            "bars": {name: bars[name] for name in figures},
            "repeats": arguments.repeats,
            "machine": processor(),
            "cores": os.cpu_count(),
            "load": [*os.getloadavg()],
            "versions": versions("torch", "pyro-ppl", "arviz", "numpyro", "jax", "blackjax", "nutpie"),
            "raw": {**known["raw"], **raw},
        }
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
