"""A classifier that knows what it does not know: a joint energy-based model (JEM) of eight digits, shown all ten.

Its outputs f say which digit, p(y | x) = softmax f(x), and how likely the image is, by the energy that a softmax throws
away. Fours and nines are left out of training: their energies are high. Images are drawn given a digit by chains.
"""

import torch

import pyro_gen as pg
from pyro_gen.pictures import write
from pyro_gen.tasks import classify

UNSEEN = (4, 9)


def main(epochs: int = 60, unseen: tuple[int, ...] = UNSEEN) -> dict[str, float]:
    seen = [k for k in range(10) if k not in unseen]
    data = pg.data.load("digits", transform=pg.data.Dequantize(17))
    train, test = (torch.isin(target, torch.tensor(seen)) for target in (data.train_target, data.test_target))
    label = torch.full((10,), -1).index_put((torch.tensor(seen),), torch.arange(len(seen)))  # 0, ..., 7

    program = pg.models.JointEnergy((8, 8), classes=len(seen), hidden=(256,), activation="softplus")
    known = {"x": data.train[train], "y": label[data.train_target[train]].float()}
    settings = {"lr": 0.005, "schedule": "cosine", "ema": 0.998, "weight_decay": 0.01}
    pg.fit(program, known, epochs=epochs, batch_size=100, **settings, progress=False)

    found = classify(program, {"x": data.test[test]}, label="y")
    others = classify(program, {"x": data.test[~test]}, label="y")
    print(found)
    with torch.no_grad():
        energy = -program.log_density(data.test)
    inside, outside = energy[test], energy[~test]
    above = outside.unsqueeze(1) > inside
    nothing = {"x": torch.full((len(seen), 8, 8), torch.nan), "y": torch.arange(len(seen)).float()}
    drawn = pg.impute(program, nothing, draws=2, options={"chains": 32, "temperatures": 200}, progress=False)["x"]
    again = classify(program, {"x": drawn.flatten(0, 1)}, label="y").accuracy(nothing["y"].repeat(2))
    print("picture:", write(draw(inside, outside, drawn, seen), "outputs/joint_energy.png"))
    return {
        "accuracy": found.accuracy(label[data.test_target[test]]),
        "auroc_of_unseen_digits": above.double().mean().item(),
        "drawn_digits_recognised": again,
        "sure_of_seen": found.probabilities.max(1).values.mean().item(),
        "sure_of_unseen": others.probabilities.max(1).values.mean().item(),
    }


def draw(inside, outside, drawn, seen):
    from matplotlib.figure import Figure

    figure = Figure((10, 4), layout="constrained")
    left, right = figure.subfigures(1, 2)
    axes = left.subplots()
    low, high = torch.cat([inside, outside]).quantile(torch.tensor([0.0, 0.98])).tolist()
    sets = ((inside, "digits seen in training", "#1b1f24"), (outside, "other digits", "#b3421f"))
    for energies, name, colour in sets:
        axes.hist(energies.numpy(), 40, range=(low, high), density=True, alpha=0.6, label=name, color=colour)
    axes.set(xlabel="energy: -log p(x) up to a constant, nats", yticks=[])
    axes.legend(frameon=False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    for row, images in zip(right.subplots(2, len(seen)), drawn, strict=True):
        for place, image, digit in zip(row, images, seen, strict=True):
            place.imshow(image.numpy(), cmap="Greys", vmin=0, vmax=1)
            place.set(xticks=[], yticks=[], title=str(digit))
    right.suptitle("drawn given the digit")
    return figure


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:26}{value:9.3f}")
