"""Asking a Bayesian network: what is seen, what is most probable, what is done, and tables learnt from rows with holes.

The network "asia" of Lauritzen and Spiegelhalter (1988): a visit to Asia and smoking, three diseases, an X-ray and
short breath. Seeing a value tells something of its causes; setting it (do) does not.
"""

import torch

import pyro_gen as pg
from pyro_gen.models import DiscreteBayesianNetwork

EVIDENCE = {
    "nothing": {},
    "short breath": {"dysp": "yes"},
    "and a smoker": {"dysp": "yes", "smoke": "yes"},
    "and a dark X-ray": {"dysp": "yes", "smoke": "yes", "xray": "yes"},
    "and back from Asia": {"dysp": "yes", "smoke": "yes", "xray": "yes", "asia": "yes"},
}
DISEASES = ("tub", "lung", "bronc")


def main() -> dict[str, float]:
    asia = DiscreteBayesianNetwork.from_bif("asia")
    found = {
        words: {d: asia.query(d, given={n: v for n, v in given.items() if n != d})[0].item() for d in DISEASES}
        for words, given in EVIDENCE.items()
    }
    for words, chances in found.items():
        print(f"{words:20}" + "".join(f"{name} {p:.3f}   " for name, p in chances.items()))
    best = asia.most_probable(given=EVIDENCE["and a dark X-ray"])
    print("most probable:", ", ".join(f"{name} {value}" for name, value in best.items()))
    seen = asia.query("smoke", given={"lung": "yes"})[0].item()
    done = asia.query("smoke", do={"lung": "yes"})[0].item()
    print(
        f"smoker, where lung cancer is seen {seen:.3f}, where it is set {done:.3f}, of all {asia.query('smoke')[0]:.3f}"
    )

    rows = pg.sample(asia, 5000, seed=0).float()
    holes = torch.rand(rows.shape, generator=torch.Generator().manual_seed(1)) < 0.3
    learnt = DiscreteBayesianNetwork(asia.parents, asia.levels)
    pg.fit(learnt, rows.masked_fill(holes, torch.nan), epochs=60, batch_size=1000, lr=0.05, seed=0)
    whole = (~holes).all(1)
    complete = DiscreteBayesianNetwork.from_data(rows[whole], asia.parents, asia.levels)
    test = pg.sample(asia, 5000, seed=2)
    scores = {
        name: pg.log_likelihood(network.double(), test).mean()
        for name, network in (("asia", asia), ("holes", learnt), ("complete", complete))
    }
    print(f"{int(whole.sum())} of {len(rows)} rows have no hole; log-likelihood of new rows in nats:")
    print(", ".join(f"{name} {score:.3f}" for name, score in scores.items()))
    print("picture:", draw(found, asia, learnt))
    return {
        "lung_given_breath": found["short breath"]["lung"],
        "lung_given_all": found["and back from Asia"]["lung"],
        "tub_given_all": found["and back from Asia"]["tub"],
        "smoker_seen": seen,
        "smoker_done": done,
        "lost_by_holes": scores["asia"] - scores["holes"],
        "lost_by_complete_rows": scores["asia"] - scores["complete"],
    }


def draw(found, asia, learnt):
    from matplotlib.figure import Figure

    from pyro_gen.pictures import write

    figure = Figure((9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for name, color in zip(DISEASES, ("#2a6f97", "#b3421f", "#8a9099"), strict=True):
        left.plot([f[name] for f in found.values()], list(found), "o-", color=color, label=name)
    left.invert_yaxis()
    left.set(xlabel="probability", xlim=(0, 1), title="what each piece of evidence says")
    left.legend(frameon=False)
    for name, table in asia.tables.items():
        right.plot(table.detach().flatten(), learnt.tables[name].detach().flatten(), "o", color="#1b1f24", ms=3)
    right.plot([0, 1], [0, 1], ":", color="#8a9099")
    right.set(xlabel="table", ylabel="learnt", title="learnt, 30% missing")
    return write(figure, "outputs/bayesian_network_query.png")


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:24}{value:9.3f}")
