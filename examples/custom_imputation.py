"""A model of your own fills the holes: draws and pooling for 20 lines of Pyro.

Pupils in schools: hours of study and a test score. Hours are missing more often where the score is low, so to leave
those rows out makes the slope too small. The model says how hours and scores come about; the rest is given.
"""

import pandas as pd
import pyro
import pyro.distributions as dist
import torch

import pyro_gen as pg
from pyro_gen.data import Schema
from pyro_gen.imputation import Completed

SCHOOLS, PUPILS, SLOPE = 5, 30, 1.5


def pupils(x, school):
    """Rows (hours, score), with shape (N, 2); missing hours are latent variables, missing scores are not."""
    with pyro.plate("schools", SCHOOLS):
        level = pyro.sample("level", dist.Normal(0.0, 3.0))
    slope = pyro.sample("slope", dist.Normal(0.0, 3.0))
    loc = pyro.sample("hours_loc", dist.Normal(0.0, 3.0))
    scale = pyro.sample("hours_scale", dist.LogNormal(0.0, 1.0))
    noise = pyro.sample("noise", dist.LogNormal(0.0, 1.0))
    with pg.plate(x):
        unseen = loc + scale * pyro.sample("unseen", dist.Normal(0.0, 1.0))
        pg.observe("hours", dist.Normal(loc, scale), x[:, 0])
        hours = torch.where(torch.isnan(x[:, 0]), unseen, x[:, 0])
        score = pg.observe("score", dist.Normal(level[school] + slope * hours, noise), x[:, 1])
    return torch.stack([hours, score], -1)


def simulate():
    pyro.set_rng_seed(0)
    school = torch.arange(SCHOOLS).repeat_interleave(PUPILS)
    hours = torch.randn(len(school)) + 1.0
    score = torch.randn(SCHOOLS)[school] + SLOPE * (hours - 1) + torch.randn(len(school))
    table = pd.DataFrame({"hours": hours, "score": score}, dtype=float)
    table.loc[(torch.rand(len(school)) < torch.sigmoid(-1.5 * score)).numpy(), "hours"] = float("nan")
    table.loc[(torch.rand(len(school)) < 0.1).numpy(), "score"] = float("nan")
    return table, school


def regression(school):
    """Least squares with a level for each school: the slope and its variance."""

    def slope(table):
        hours, score = (torch.tensor(table[name].tolist(), dtype=torch.float64) for name in ("hours", "score"))
        rows = ~torch.isnan(hours + score)
        x, y = torch.cat([hours.unsqueeze(-1), torch.eye(SCHOOLS)[school]], 1)[rows], score[rows]
        w = torch.linalg.lstsq(x, y.unsqueeze(-1)).solution.squeeze(-1)
        noise = (y - x @ w).square().sum() / (len(y) - len(w))
        return float(w[0]), float(noise * torch.linalg.inv(x.T @ x)[0, 0])

    return slope


def draw(table, completed):
    from matplotlib.figure import Figure

    from pyro_gen.pictures import write

    figure = Figure((5, 4), layout="constrained")
    axes = figure.subplots()
    filled = completed[0][table.isna().any(axis=1)]
    axes.plot(table["hours"], table["score"], "o", ms=4, color="#2a6f97")
    axes.plot(filled["hours"], filled["score"], "o", ms=4, color="#b3421f")
    axes.set(xlabel="hours", ylabel="score", title="red: one draw of what is missing")
    return write(figure, "outputs/custom_imputation.png")


def main() -> dict[str, float]:
    table, school = simulate()
    draws = pg.impute(pupils, torch.tensor(table.values), school, options={"chains": 32, "draws": 150, "warmup": 200})
    completed = Completed(draws, Schema.infer(table, {"hours": "real", "score": "real"}), table)
    pooled = completed.fit(regression(school)).pool()
    print(pooled)
    slope, variance = regression(school)(table)
    (low, high), error = pooled.intervals()[0], variance**0.5
    print("picture:", draw(table, completed))
    print(f"rows without holes alone: {slope:.2f} +- {error:.2f}; the truth: {SLOPE}")
    return {
        "missing_hours": table["hours"].isna().mean(),
        "slope": pooled.qbar[0],
        "standard_error": pooled.standard_error[0],
        "slope_of_complete_rows": slope,
        "covers": float(low < SLOPE < high),
    }


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:26}{value:9.3f}")
