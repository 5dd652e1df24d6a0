"""Change the label, keep the style: latent variables that belong to the label, learned from a hundred labels.

The characteristics of a class are a cloud in latent space; the rest of the latent variables, the style, know nothing of
the label. So a 3 becomes an 8 in the same hand, and the classifier looks at the characteristics alone. A cloud of many
dimensions would hold the hand, too: here it has four, and free bits keep the style in use.
"""

import pyro
import torch

import pyro_gen as pg
from pyro_gen.data.prepared import few_labels
from pyro_gen.pictures import Row, image_rows, write


def main(epochs: int = 60) -> dict[str, float]:
    pyro.set_rng_seed(0)
    digits, binary = pg.data.load("digits"), pg.data.Binarize(8.0)
    y = few_labels(digits.train_target, per_class=10)
    ccvae = pg.models.CCVAE(digits.event_shape, classes=10, characteristics=4, style=8)
    fresh = {"x": pg.data.JitteredBinarize(8.0, 1.2)}
    options = {"epochs": epochs, "batch_size": 128, "lr": 3e-3, "schedule": "cosine", "transform": fresh}
    pg.fit(ccvae, {"x": digits.train, "y": y}, objective=pg.inference.ELBO(free_bits=0.3), **options, progress=False)

    test = binary(digits.test)
    found = pg.tasks.classify(ccvae, {"x": test}, label="y", num_particles=10)
    accuracy = found.accuracy(digits.test_target)
    # A label that is changed should be told from the new image; ten images of each, in all classes.
    some = test[:40]
    told = [ccvae.relabel(some, torch.full((40,), float(k))) for k in range(10)]
    seen = pg.tasks.classify(ccvae, {"x": torch.cat(told).round()}, label="y", num_particles=10)
    relabelled = seen.accuracy(torch.arange(10).repeat_interleave(40))
    spread = float(torch.stack(told).std(1).mean())  # of a pixel among images of one label: what the style decides
    print(f"accuracy {accuracy:.3f}; of images whose label was changed {relabelled:.3f}; spread by style {spread:.3f}")

    rows = [Row("test images", test[:12])]
    rows += [Row(f"as {k}", images[:12], gap=0.22 if k == 0 else 0.0) for k, images in enumerate(told)]
    print("picture:", write(image_rows(rows, "Change the label, keep the style"), "outputs/label_latents.png"))
    return {"accuracy": accuracy, "relabelled": relabelled, "spread": spread}


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:24}{value:9.3f}")
