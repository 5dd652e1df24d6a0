"""Bayesian regression in use: a posterior, predictive bands at new inputs, held-out and leave-one-out densities.

The outcome bends and its noise is not Gaussian: Student-t noise is compared with Gaussian noise by leaving each datum
out once, without a second fit, and then on data that neither posterior saw.
"""

import pyro
import pyro.distributions as dist
import torch

import pyro_gen as pg


def basis(t):
    return torch.stack([torch.ones_like(t), t, t**2, t**3], -1)


def gaussian(y, t):
    w = pyro.sample("w", dist.Normal(torch.zeros(4), 3.0).to_event(1))
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    with pg.plate(y):
        return pg.observe("y", dist.Normal(basis(t) @ w, scale), y)


def student(y, t):
    w = pyro.sample("w", dist.Normal(torch.zeros(4), 3.0).to_event(1))
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    freedom = pyro.sample("freedom", dist.Gamma(2.0, 0.2))
    with pg.plate(y):
        return pg.observe("y", dist.StudentT(freedom, basis(t) @ w, scale), y)


def simulate(n):
    t = 2 * torch.rand(n) - 1
    noise = dist.StudentT(2.5, 0.0, 0.2).sample((n,))
    return basis(t) @ torch.tensor([0.3, -0.6, -0.5, 2.0]) + noise, t


def main() -> dict[str, float]:
    pyro.set_rng_seed(2)
    y, t = simulate(60)
    new_y, new_t = simulate(500)
    grid = torch.linspace(-1.3, 1.3, 60)
    found, bands = {}, {}
    for model in (gaussian, student):
        idata = pg.posterior(model, y, t, predictive=False, progress=False)
        left_out = pg.loo(model, y, t, posterior=idata)
        held_out = pg.log_likelihood(model, new_y, new_t, posterior=idata)
        drawn = pg.predict(model, None, new_t, posterior=idata, draws=400)
        low, high = drawn.quantile(torch.tensor([0.05, 0.95]), 0)
        covered = ((low < new_y) & (new_y < high)).double().mean().item()
        found[model.__name__] = {"left_out": left_out, "held_out": held_out, "coverage": covered}
        print(f"{model.__name__:9} {left_out}\n{'':9} {held_out}\n{'':9} 90% bands hold {covered:.1%} of new data")
        at_grid = pg.predict(model, None, grid, posterior=idata, draws=400)
        bands[model.__name__] = at_grid.quantile(torch.tensor([0.05, 0.5, 0.95]), 0)
    print("picture:", draw(y, t, grid, bands, found))
    gains = {n: found["student"][n].value - found["gaussian"][n].value for n in ("left_out", "held_out")}
    return {
        "gain_left_out": gains["left_out"].mean().item(),
        "gain_held_out": gains["held_out"].mean().item(),
        "coverage_gaussian": found["gaussian"]["coverage"],
        "coverage_student": found["student"]["coverage"],
        "largest_khat": found["student"]["left_out"].diagnostics["khat"].max().item(),
    }


def draw(y, t, grid, bands, found):
    from matplotlib.figure import Figure

    from pyro_gen.pictures import write

    figure = Figure((9, 3.6), layout="constrained")
    for axis, (name, (low, middle, high)) in zip(figure.subplots(1, 2, sharey=True), bands.items(), strict=True):
        axis.fill_between(grid, low, high, color="#dce6ee", lw=0, label="90% of new data")
        axis.plot(grid, middle, color="#2a6f97", label="median")
        axis.plot(t, y, "o", color="#1b1f24", ms=3)
        axis.set(xlabel="t", title=f"{name} noise: {found[name]['left_out'].mean():.3f} nats per datum, left out")
        axis.set_ylim(-5, 5)
    axis.legend(frameon=False, loc="upper left")
    return write(figure, "outputs/predict_regression.png")


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:22}{value:9.3f}")
