"""Eight schools: one posterior written in two ways, of which a sampler can believe one.

The effects theta of coaching in eight schools share a mean and a scale (Rubin 1981). Drawn as Normal(mu, tau), they
make a funnel: where tau is small nothing fits into it. Written as mu + tau * eta they do not. The diagnosis tells the
two apart, and the evidence, which is the same for both, comes out the same.
"""

import pyro
import pyro.distributions as dist
import torch

import pyro_gen as pg

EFFECT = torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12])
ERROR = torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18])


def centred(effect, error):
    mu, tau = pyro.sample("mu", dist.Normal(0.0, 5.0)), pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(effect)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("effect", dist.Normal(theta, error), obs=effect)


def non_centred(effect, error):
    mu, tau = pyro.sample("mu", dist.Normal(0.0, 5.0)), pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(effect)):
        theta = pyro.deterministic("theta", mu + tau * pyro.sample("eta", dist.Normal(0.0, 1.0)))
        pyro.sample("effect", dist.Normal(theta, error), obs=effect)


def main(chains: int = 64) -> dict[str, float]:
    numbers, runs = {}, {}
    for model in (centred, non_centred):
        name = model.__name__
        idata = pg.posterior(model, EFFECT, ERROR, chains=chains, draws=500)
        diagnosis = pg.diagnose(idata)
        evidence = pg.log_evidence(model, EFFECT, ERROR)
        print(f"{name}\n{diagnosis}\nmu {mean_of(idata, 'mu')}, tau {mean_of(idata, 'tau')}\n{evidence}\n")
        runs[name] = idata
        numbers[f"{name}_problems"] = len(diagnosis.problems)
        numbers[f"{name}_bfmi"] = diagnosis.figures["bfmi"]
        numbers[f"{name}_log_evidence"] = evidence.mean()
        numbers[f"{name}_error"] = evidence.mean_standard_error()
    table = diagnosis.table  # of the non-centred form
    numbers |= {"mu": table.loc["mu", "mean"], "tau": table.loc["tau", "mean"]}
    gap = numbers["centred_log_evidence"] - numbers["non_centred_log_evidence"]
    numbers["evidence_z"] = gap / (numbers["centred_error"] ** 2 + numbers["non_centred_error"] ** 2) ** 0.5
    print("picture:", draw(runs))
    return numbers


def mean_of(idata, site):
    return f"{idata.posterior[site].mean().item():.2f}"


def draw(runs):
    from matplotlib.figure import Figure

    from pyro_gen.pictures import write

    figure = Figure((9, 4), layout="constrained")
    for axes, (name, idata) in zip(figure.subplots(1, 2, sharex=True, sharey=True), runs.items(), strict=True):
        theta, tau = idata.posterior["theta"].isel(school=0), idata.posterior["tau"]
        axes.scatter(theta, tau, s=1, color="#1b1f24", alpha=0.15, rasterized=True)
        lost = idata.sample_stats["diverging"].values
        axes.scatter(theta.values[lost], tau.values[lost], s=14, color="#b3421f", label=f"{lost.sum()} divergent")
        axes.set(title=name.replace("_", "-"), xlabel="effect in the first school", yscale="log", xlim=(-20, 40))
        axes.legend(frameon=False, loc="lower right")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set(ylabel="tau", ylim=(0.02, 50))
    return write(figure, "outputs/eight_schools.png")


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:28}{value:9.3f}")
