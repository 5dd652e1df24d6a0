"""A program of your own: logistic PCA, checked, trained, measured.

Everything that follows the class works on any model/guide pair.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pyro_gen as pg
from pyro_gen.pictures import Row, image_rows, write


class LogisticPCA(pg.Program):
    """Black and white pixels from a few continuous factors."""

    def __init__(self, event_shape=(8, 8), factors=8):
        super().__init__()
        self.event_shape = torch.Size(event_shape)
        self.factors = factors
        self.loading = nn.Linear(factors, self.event_shape.numel())
        self.encoder = nn.Sequential(nn.Linear(self.event_shape.numel(), 100), nn.Tanh(), nn.Linear(100, 2 * factors))

    def model(self, x):
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.factors), 1.0).to_event(1))
            logits = self.loading(z).unflatten(-1, self.event_shape)
            return pg.observe("x", dist.Bernoulli(logits=logits).to_event(len(self.event_shape)), x)

    def guide(self, x):
        with self.plate(x):
            seen = torch.nan_to_num(x - 0.5).flatten(1)  # a missing pixel says nothing
            loc, log_scale = self.encoder(seen).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def main(epochs: int = 100) -> dict[str, float]:
    pyro.set_rng_seed(0)
    digits = pg.data.load("digits", transform=pg.data.Binarize(8))
    program = LogisticPCA()
    report = pg.check_program(program, digits.train)
    report.raise_for_failures()
    print(report)

    before = pg.log_likelihood(program, digits.test).mean()
    pg.fit(program, digits.train, epochs=epochs, batch_size=64, lr=5e-3, schedule="cosine")
    after = pg.log_likelihood(program, digits.test)  # by annealed importance sampling
    print(after)

    shown = digits.test[:12]
    rows = [Row("test images", shown, gap=0.0), Row("reconstructions", pg.reconstruct(program, shown), gap=0.0)]
    rows += [Row(f"factor {k + 1}", _sweep(program, k), gap=0.22 * (k == 0)) for k in range(4)]
    print("picture:", write(image_rows(rows, "Logistic PCA of binary digits"), "outputs/custom_program.png"))
    return {"untrained": before, "trained": after.mean(), "checks": len(report), "failures": len(report.failures)}


def _sweep(program: LogisticPCA, factor: int) -> torch.Tensor:
    z = torch.zeros(12, program.factors)
    z[:, factor] = torch.linspace(-3, 3, 12)
    return program.loading(z).sigmoid().unflatten(-1, program.event_shape)


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:12}{value:9.3f}")
