"""Pupils in schools, few in most of them: is a school what its own pupils say, or what all schools say?

One level for all schools (pooled) forgets that they differ, one for each (apart) believes the two pupils of a small
one, and partial pooling draws each school to the others as far as the data ask for. Pupils that were not seen judge
them. The data are made up, by the figures of a study of schools in London (Goldstein et al., 1993).
"""

import pyro
import pyro.distributions as dist
import torch

import pyro_gen as pg
from pyro_gen.models import Hierarchical, Regression

SCHOOLS = 150


def apart(score, intake, school):
    level = pyro.sample("theta", dist.Normal(torch.zeros(SCHOOLS), 2.5).to_event(1))
    slope, noise = pyro.sample("beta", dist.Normal(0.0, 2.5)), pyro.sample("sigma", dist.HalfNormal(2.5))
    with pg.plate(score):
        return pg.observe("score", dist.Normal(level[school] + slope * intake[:, 0], noise), score)


def pupils(x, score):
    return score, x[:, :1], x[:, 1].long()


def main() -> dict[str, float]:
    data = pg.data.load("schools")
    score, intake, school = pupils(data.train, data.train_target)
    new_score, new_intake, new_school = pupils(data.test, data.test_target)
    counts = torch.bincount(school, minlength=SCHOOLS)
    models = {
        "pooled": (Regression(1), ()),
        "apart": (apart, (school,)),
        "partial": (Hierarchical(SCHOOLS, covariates=1), (school,)),
    }
    held_out, levels = {}, {}
    for name, (model, groups) in models.items():
        idata = pg.posterior(model, score, intake, *groups, chains=16, draws=100, predictive=False, progress=False)
        new = (new_school,) if groups else ()
        held_out[name] = pg.log_likelihood(model, new_score, new_intake, *new, posterior=idata)
        print(f"{name:8} {held_out[name]}")
        levels[name] = idata.posterior["theta" if groups else "alpha"]
    small = counts[new_school] <= 5
    print("picture:", draw(levels, counts))
    gain = {n: held_out["partial"].value - held_out[n].value for n in ("pooled", "apart")}
    return {name: found.mean() for name, found in held_out.items()} | {
        **{f"gain_on_{n}": g.mean().item() for n, g in gain.items()},
        **{f"error_on_{n}": g.std().item() / len(g) ** 0.5 for n, g in gain.items()},
        "gain_on_apart_small": gain["apart"][small].mean().item(),
        "tau": float(idata.posterior["tau"].mean()),  # of the last: 0.3 made the data
    }


def draw(levels, counts):
    from matplotlib.figure import Figure

    from pyro_gen.pictures import write

    figure = Figure((9, 3.8), layout="constrained")
    axes = figure.subplots()
    order = counts.argsort()
    for name, colour, shift in (("apart", "#9aa1a9", -0.15), ("partial", "#2a6f97", 0.15)):
        drawn = torch.from_numpy(levels[name].values).flatten(0, 1).reshape(-1, SCHOOLS)[:, order]
        low, middle, high = drawn.quantile(torch.tensor([0.05, 0.5, 0.95]).to(drawn), 0)
        at = torch.arange(SCHOOLS) + shift
        axes.vlines(at, low, high, color=colour, lw=1.2)
        axes.plot(at, middle, "o", color=colour, ms=2, label=f"{name}, 90%")
    axes.axhline(float(levels["pooled"].mean()), color="#b3421f", lw=1, label="pooled")
    axes.set(xlabel="schools, from one pupil to many", ylabel="level of the school", xticks=[], ylim=(-2, 2))
    axes.legend(frameon=False, loc="upper right", ncols=3)
    axes.spines[["top", "right"]].set_visible(False)
    return write(figure, "outputs/hierarchical_schools.png")


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:22}{value:9.3f}")
