"""A hierarchical VAE of binary digits: what its layers hold, and what free bits are for.

How much a layer holds is the divergence of its posterior from its prior. Trained by the ELBO from the start, both
layers end unused: the divergence falls before the decoder has learned what to do with them. Free bits stop that pull
below a few nats, so both are used. Importance weights (DReG) have the best likelihood, by the lower layer alone.
"""

import torch
from torch.distributions import kl_divergence

import pyro_gen as pg
from pyro_gen.inference import ELBO, DReG
from pyro_gen.pictures import Row, image_rows, write
from pyro_gen.traces import trace_pair


def divergences(vae: pg.models.HierarchicalVAE, x: torch.Tensor) -> list[float]:
    """KL(q(z_l | z_{l+1}, x) || p(z_l | z_{l+1})) of each layer, in nats, from the data up."""
    with torch.no_grad():
        model, guide = trace_pair(vae, x)
        sites = [f"z{i + 1}" for i in range(vae.layers)]
        return [float(kl_divergence(guide.nodes[s]["fn"], model.nodes[s]["fn"]).mean()) for s in sites]


def main(epochs: int = 30) -> dict[str, float]:
    digits = pg.data.load("digits", transform=pg.data.Binarize(8))
    objectives = {"ELBO": ELBO(), "free bits": ELBO(free_bits=0.2), "DReG": DReG(5)}
    numbers: dict[str, float] = {}
    rows = []
    for name, objective in objectives.items():
        torch.manual_seed(0)
        vae = pg.models.HierarchicalVAE(digits.event_shape, latent=(16, 8), hidden=(200, 100))
        pg.fit(vae, digits.train, objective=objective, epochs=epochs, batch_size=64, lr=2e-3, schedule="cosine")
        vae.eval()
        found = pg.log_likelihood(vae, digits.test, method="iwae", num_particles=500)
        lower, upper = divergences(vae, digits.test)
        print(f"{name:10}{found}; the lower layer holds {lower:.1f} nats, the upper {upper:.1f}")
        numbers |= {f"{name}: log p": found.mean(), f"{name}: upper": upper}
        rows.append(Row(f"drawn, {name}", pg.sample(vae, 12, seed=0)))
    path = pg.interpolate(vae, digits.test[:1], digits.test[3:4], steps=12)[:, 0]
    rows += [Row("test images", digits.test[:12]), Row("from first to fourth", path, gap=0.0)]
    print("picture:", write(image_rows(rows, "Hierarchical VAE of binary digits"), "outputs/hierarchical_vae.png"))
    return numbers


if __name__ == "__main__":
    for key, value in main().items():
        print(f"{key:24}{value:9.3f}")
