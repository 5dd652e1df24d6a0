"""A banana-shaped posterior: how far a mean-field guide and a flow guide are from it, and what HMC makes of it."""

import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure

import pyro_gen as pg
from pyro_gen.density import density
from pyro_gen.inference import ELBO
from pyro_gen.inference.guides import Flow, MeanField, check_guide, guide_of, neutra
from pyro_gen.inference.mcmc import run
from pyro_gen.pictures import write


def model(x):
    """Only a + b^2 is observed."""
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.5, 1.0))
    with pg.plate(x):
        return pg.observe("x", dist.Normal(a + b**2, 0.35), x)


def main() -> dict[str, float]:
    x = torch.tensor([0.2, 0.9, 0.4])
    side = torch.linspace(-9.0, 9.0, 721)
    grid = torch.cartesian_prod(side, side)  # (a, b)
    target = density(model, x)  # for many points at once; these two latent variables are unconstrained
    exact = target.log_density(grid).softmax(0)
    numbers = {"exact_a": float(exact @ grid[:, 0]), "exact_b": float(exact @ grid[:, 1])}

    clouds, learning = {}, {"lr": 0.01, "schedule": "cosine", "objective": ELBO(128), "progress": False}
    for name, guide in (("mean_field", MeanField()), ("flow", Flow("affine", layers=4, hidden=(32, 32)))):
        program = pg.Program.from_functions(model, guide)
        pg.fit(program, x, epochs=1500, **learning)
        report = check_guide(program, x, draws=10_000)
        print(report)
        numbers |= {f"khat_{name}": report.khat.item(), f"gap_{name}": report.gap[0]}
        with torch.no_grad():
            clouds[name] = guide_of(program).distribution().rsample((1000,))
    straightened = neutra(target, guide_of(program))  # in the coordinates of the flow's noise
    samples = run(straightened, "hmc", chains=64, draws=100)
    clouds["hmc"] = straightened.push(samples.z).flatten(0, 1)
    for name, cloud in clouds.items():
        numbers |= {f"{name}_a": cloud[:, 0].mean().item(), f"{name}_b": cloud[:, 1].mean().item()}

    figure = Figure((9, 3.2), layout="constrained")
    for ax, (name, cloud) in zip(figure.subplots(1, 3, sharex=True, sharey=True), clouds.items(), strict=True):
        ax.contour(side, side, exact.reshape(721, 721).mT, levels=6, colors="#9aa1a9", linewidths=0.7)
        ax.scatter(*cloud[:: max(1, len(cloud) // 1000)].mT, s=2, color="#b3421f", linewidths=0)
        ax.set(title=name.replace("_", "-"), xlabel="a", ylabel="b", xlim=(-5, 2), ylim=(-3, 3))
    print("picture:", write(figure, "outputs/flow_guide.png"))
    return numbers


if __name__ == "__main__":
    for key, value in main().items():
        print(f"{key:16}{value:9.3f}")
