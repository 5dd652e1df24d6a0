"""A hundred labels: a generative model of digits learns what they look like from those without labels.

Ten labels a class are kept, the others are NaN: not observed, and so summed out. The classifier is Bayes' rule,
p(y | x), beside logistic regression on the same labels. Binary pixels are drawn anew in each epoch.
"""

import pyro
import torch
from sklearn.linear_model import LogisticRegression

import pyro_gen as pg
from pyro_gen.pictures import Row, image_rows, write


def some_labels(labels: torch.Tensor, per_class: int, seed: int) -> torch.Tensor:
    """As many labels of each class, chosen at random; the others are NaN."""
    generator = torch.Generator().manual_seed(seed)
    kept = torch.full((len(labels),), torch.nan)
    for k in labels.unique().tolist():
        rows = (labels == k).nonzero()[:, 0]
        kept[rows[torch.randperm(len(rows), generator=generator)[:per_class]]] = k
    return kept


def main(draws: int = 1, epochs: int = 70) -> dict[str, float]:
    digits = pg.data.load("digits")
    binary = pg.data.Binarize(8.0)
    accuracies = []
    for draw in range(draws):
        pyro.set_rng_seed(draw)
        y = some_labels(digits.train_target, per_class=10, seed=draw)
        vae = pg.models.SemiSupervisedVAE(digits.event_shape, classes=10, latent=16, alpha=60.0)
        fresh = {"x": pg.data.DynamicBinarize(17)}
        options = {"epochs": epochs, "batch_size": 128, "lr": 2e-3, "schedule": "cosine", "transform": fresh}
        pg.fit(vae, {"x": digits.train, "y": y}, seed=draw, **options, progress=False)
        found = pg.tasks.classify(vae, {"x": binary(digits.test)}, label="y", num_particles=50)
        known = ~y.isnan()
        regression = LogisticRegression(max_iter=2000).fit(binary(digits.train)[known].flatten(1), y[known])
        score = regression.score(binary(digits.test).flatten(1), digits.test_target)
        accuracies.append((found.accuracy(digits.test_target), score))
        print(f"draw {draw}: {found}\n  accuracy {accuracies[-1][0]:.3f}, of logistic regression {score:.3f}")

    sampled = pg.sample(vae, 400)  # image and label
    drawn = torch.stack([sampled["x"][sampled["y"] == k][:6] for k in range(10)], 1)  # (6, 10, 8, 8)
    rows = [Row("draws of each class" if i == 0 else "", images) for i, images in enumerate(drawn)]
    print("picture:", write(image_rows(rows, "A VAE of digits with 100 labels"), "outputs/semi_supervised.png"))
    mine, theirs = (sum(a) / draws for a in zip(*accuracies, strict=True))
    return {"accuracy": mine, "logistic_regression": theirs, "gain": mine - theirs}


if __name__ == "__main__":
    for name, value in main(draws=5).items():
        print(f"{name:24}{value:9.3f}")
