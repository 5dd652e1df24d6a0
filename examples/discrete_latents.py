"""Binary digits from thirty bits: a VAE of discrete latent variables, by wake-sleep and by score-function gradients.

No gradient goes through a draw of bits. The ELBO then follows the score function, whose noise a baseline must tame; in
reweighted wake-sleep two players need none: the model learns from weighted draws of the guide, and the guide from the
same, and from dreams of the model.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pyro_gen as pg
from pyro_gen.inference import ReweightedWakeSleep, ScoreFunctionELBO
from pyro_gen.pictures import Row, image_rows, write

BITS = 30


class BitVAE(pg.Program):
    """p(z) = Bernoulli(pi), p(x | z) and q(z | x) = Bernoulli of networks."""

    def __init__(self) -> None:
        super().__init__()
        self.event_shape = torch.Size((8, 8))
        self.prior = nn.Parameter(torch.zeros(BITS))
        self.decoder = nn.Sequential(nn.Linear(BITS, 100), nn.Tanh(), nn.Linear(100, 64), nn.Unflatten(1, (8, 8)))
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 100), nn.Tanh(), nn.Linear(100, BITS))

    def model(self, x):
        with self.plate(x):
            z = pyro.sample("z", dist.Bernoulli(logits=self.prior.expand(len(x), -1)).to_event(1))
            return pg.observe("x", dist.Bernoulli(logits=self.decoder(z)).to_event(2), x)

    def guide(self, x):
        with self.plate(x):
            seen = torch.nan_to_num(x - 0.5)
            pyro.sample("z", dist.Bernoulli(logits=self.encoder(seen)).to_event(1))


def main(epochs: int = 60) -> dict[str, float]:
    digits = pg.data.load("digits", transform=pg.data.Binarize(8))
    objectives = {
        "score_function": ScoreFunctionELBO(num_particles=5),
        "awake": ReweightedWakeSleep(10),
        "awake_and_asleep": ReweightedWakeSleep(10, sleep=0.5),
    }
    numbers, rows = {}, [Row("test images", digits.test[:12])]
    for name, objective in objectives.items():
        pyro.set_rng_seed(0)
        program = BitVAE()
        options = dict(epochs=epochs, batch_size=64, lr=8e-3, schedule="cosine")
        result = pg.fit(program, digits.train, objective=objective, **options)
        found = pg.log_likelihood(program, digits.test, method="iwae", num_particles=1000)
        numbers[name], numbers[f"{name}_seconds"] = found.mean(), result.seconds
        print(f"{name:18}{found}  {result.seconds:.0f} s, {result.mode}")
        rows += [Row(name.replace("_", " "), pg.reconstruct(program, digits.test[:12]))]
        rows += [Row("samples", pg.sample(program, 12), gap=0.0)]
    print("picture:", write(image_rows(rows, "Binary digits from thirty bits"), "outputs/discrete_latents.png"))
    return numbers


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:26}{value:9.3f}")
