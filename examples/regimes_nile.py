"""When did the Nile change? Three models of its flow, 1871 to 1970: change points, hidden states, a moving level.

The dam at Aswan was begun in 1898. All three likelihoods are exact, so nothing here is drawn.
"""

import torch

import pyro_gen as pg
from pyro_gen.models import HiddenMarkov, StateSpace
from pyro_gen.pictures import write
from pyro_gen.structure import find_regimes


def main() -> dict[str, float]:
    nile = pg.data.load("nile").train
    found = find_regimes(nile[0], "change points", probability=1 / 50)
    year = 1871 + int(found.change_probabilities_.argmax())
    holed = torch.where(torch.rand(nile.shape, generator=torch.Generator().manual_seed(0)) < 0.3, torch.nan, nile)
    with_holes = find_regimes(holed[0], "change points", probability=1 / 50)

    states = HiddenMarkov(100, 2)
    pg.fit(states, nile, epochs=300, lr=0.05, schedule="cosine", progress=False)
    path = states.viterbi(nile)[0]

    level = StateSpace(100, loc=0.0, scale=100.0).with_scales(noise=122.88, level=38.33)
    ahead = torch.cat([nile, torch.full((1, 10), torch.nan)], 1)
    forecast = level.smooth(ahead)["level"]
    print("picture:", write(found.plot(), "outputs/regimes_nile.png"))
    return {
        "year": year,
        "probability": float(found.change_probabilities_.max()),
        "one_change": found.number_probabilities_[1],
        "year_with_holes": 1871 + int(with_holes.change_probabilities_.argmax()),
        "one_change_with_holes": with_holes.number_probabilities_[1],
        "year_of_states": 1871 + int((path != path[0]).double().argmax()),
        "level_in_1980": forecast.mean[0, -1].item(),
        "its_deviation": forecast.sd[0, -1].item(),
    }


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:24}{value:9.3f}")
