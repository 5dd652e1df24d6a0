"""A restricted Boltzmann machine on binary digits: what its hidden units look for, and what it dreams.

It is trained by contrastive divergence with chains that persist. With 16 hidden units its constant log Z is a sum over
65,536 states, so that likelihoods are exact and annealed importance sampling, which larger machines need, can be
checked. Images of which the lower half is missing are completed by exact draws.
"""

import torch

import pyro_gen as pg
from pyro_gen.models import RestrictedBoltzmann
from pyro_gen.pictures import write


def main(epochs: int = 60) -> dict[str, float]:
    data = pg.data.load("digits")
    train, test = (data.train >= 8).float(), (data.test >= 8).float()
    machine = RestrictedBoltzmann([8, 8], hidden=16)
    pg.fit(machine, train, epochs=epochs, batch_size=100, lr=0.02, schedule="cosine", ema=0.998, progress=False)
    numbers = {"log_likelihood": pg.log_likelihood(machine, test).mean()}
    print(pg.log_likelihood(machine, test))

    independent = RestrictedBoltzmann([8, 8], hidden=16).initialise(train)
    torch.nn.init.zeros_(independent.weights)  # the base alone
    numbers["independent_pixels"] = pg.log_likelihood(independent, test).mean()

    exact, annealed = pg.log_partition(machine), pg.log_partition(machine, method="ais", chains=256)
    print(exact, annealed, sep="\n")
    numbers["log_z_off"] = annealed.mean() - exact.mean()
    numbers["gap"] = float(annealed.diagnostics["gap"])

    holed = test[:8].clone()
    holed[:, 4:] = torch.nan
    filled = pg.impute(machine, holed, draws=20)  # (20, 8, 8, 8)
    numbers["pixels_right"] = (filled == test[:8])[:, :, 4:].double().mean().item()
    means = train.mean(0)
    numbers["pixels_right_by_chance"] = (means**2 + (1 - means) ** 2)[4:].mean().item()
    dreams = pg.sample(machine, 16)
    print(
        "picture:",
        write(draw(machine.weights.detach().T.reshape(16, 8, 8), dreams, holed, filled[:2]), "outputs/rbm_digits.png"),
    )
    return numbers


def draw(fields, dreams, holed, filled):
    from matplotlib.figure import Figure

    figure = Figure((10, 4.5), layout="constrained")
    axes = figure.subplots(4, 16)
    rows = {
        "receptive fields": fields,
        "dreams": dreams,
        "lower half missing": torch.cat([holed, holed]).nan_to_num(nan=0.5),
        "completed, two draws": filled.flatten(0, 1),
    }
    for row, (name, images) in zip(axes, rows.items(), strict=True):
        for place, image in zip(row, images, strict=True):
            limit = float(image.abs().max())
            style = {"cmap": "RdBu", "vmin": -limit, "vmax": limit} if images is fields else {"cmap": "Greys"}
            place.imshow(image.numpy(), **style)
            place.set(xticks=[], yticks=[])
        row[0].text(-0.5, -1.0, name, fontsize=9).set_in_layout(False)
    return figure


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:24}{value:9.3f}")
