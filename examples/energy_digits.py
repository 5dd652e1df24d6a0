"""An energy-based model of binary digits: discrete Langevin chains train it, draw from it and complete images.

The likelihood takes log Z, which annealed importance sampling puts between two bounds: chains from the base, which has
independent pixels, to the model, and chains back. The energy is a network, and knows nothing of how it is sampled.
"""

import torch

import pyro_gen as pg
from pyro_gen.density.energy import unnormalised_log_prob
from pyro_gen.pictures import Row, image_rows, write


def main(epochs: int = 30) -> dict[str, float]:
    data = pg.data.load("digits", transform=pg.data.Binarize(8.0))
    model = pg.models.EnergyBased((8, 8), hidden=(64,), activation="softplus", base="bernoulli")
    model.initialise(data.train)
    independent = model.base.law().log_prob(data.test).mean().item()
    settings = {"lr": 0.01, "schedule": "cosine", "ema": 0.998, "weight_decay": 0.01}
    pg.fit(model, data.train, epochs=epochs, batch_size=100, **settings, progress=False)

    log_z = pg.log_partition(model, method="ais", chains=128, temperatures=150)
    print(log_z)
    with torch.no_grad():
        score = unnormalised_log_prob(model, data.test).double().mean().item()

    holed = data.test[:8].clone()
    holed[:, 4:] = torch.nan
    options = {"chains": 32, "temperatures": 80}
    filled = pg.impute(model, holed, draws=4, options=options, progress=False)  # (4, 8, 8, 8)
    drawn = pg.sample(model, 16, options={"chains": 64, "temperatures": 150})
    means = data.train.mean(0)
    rows = [
        Row("test images", data.test[:8]),
        Row("draws of the model", drawn[:8]),
        Row("", drawn[8:], gap=0.0),
        Row("upper half seen", holed),
        *(Row(name, filled[k], holed.isnan(), gap=0.0) for k, name in enumerate(("completed", "completed again"))),
    ]
    title = "An energy-based model of binary digits"
    print("picture:", write(image_rows(rows, title, "Red: drawn given the upper half."), "outputs/energy_digits.png"))
    return {
        "log_likelihood": score - log_z.mean(),
        "gap": float(log_z.diagnostics["gap"]),
        "independent_pixels": independent,
        "pixels_right": (filled == data.test[:8])[:, :, 4:].double().mean().item(),
        "pixels_right_by_chance": (means**2 + (1 - means) ** 2)[4:].mean().item(),
    }


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:24}{value:9.3f}")
