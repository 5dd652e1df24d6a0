"""Values that are missing because they are high: what a model of the holes can mend, and how far to trust it.

Six measurements of tumours go missing above their means, so that what was seen says nothing of what was not. Imputation
at random fills in too low values, a selection model (not-MIWAE, told that high values are missing) better ones. Neither
can be tested by the data: how far off imputations at random must be before a conclusion changes is the last word.
"""

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer

import pyro_gen as pg

MEASURED = ("radius", "texture", "perimeter", "area", "smoothness", "compactness")
MASKED = [f"mean {name}" for name in MEASURED]
COLUMN = "mean smoothness"


def mean(table):
    return table[[COLUMN]].mean(), table[[COLUMN]].var() / len(table)


def main() -> dict[str, float]:
    complete = load_breast_cancer(as_frame=True).data[[*MASKED, *(f"worst {name}" for name in MEASURED)]]
    complete = (complete - complete.mean()) / complete.std(ddof=0)  # so that the true means are 0
    holes = pg.imputation.ampute(complete, pg.imputation.HardSelfMasking(columns=MASKED))
    options = {"sign": "high", "members": 2, "particles": 100, "steps": 1000}  # less than by default, to be quick
    random = pg.Imputer("gaussian", schema=dict.fromkeys(complete, "real"), random_state=0).fit(holes)
    selection = pg.Imputer("not_miwae", schema=random.schema_, options=options, random_state=0).fit(holes)

    guesses = {"mean": holes.fillna(holes.mean()), "random": random.transform(holes)}
    guesses["selection"] = selection.transform(holes)
    missing = holes.isna().to_numpy()
    off = {name: (guess - complete).to_numpy()[missing] for name, guess in guesses.items()}
    drawn = {"random": random.impute(holes), "selection": selection.impute(holes)}
    pooled = {name: completed.fit(mean).pool() for name, completed in drawn.items()}

    tip = drawn["random"].tipping_point(mean, COLUMN, COLUMN, bracket=(0.0, 2.0))
    print("where the conclusion tips:", tip)
    # What is missing is higher than it seems, and nobody knows by how much.
    doubtful = drawn["random"].delta_prior({COLUMN: torch.distributions.HalfNormal(1.0)}).fit(mean).pool().intervals()
    rows = holes[COLUMN].isna()
    values = {"truth": complete[COLUMN][rows]}
    values |= {f"a draw, {name}": completed[0][COLUMN][rows] for name, completed in drawn.items()}
    print("picture:", draw(values, tip))
    return {f"rmse_{name}": np.square(error).mean() ** 0.5 for name, error in off.items()} | {
        "mean_random": pooled["random"].qbar[0],
        "mean_selection": pooled["selection"].qbar[0],
        "tipping_shift": tip.delta,
        "true_shift": (complete - guesses["random"])[COLUMN][rows].mean(),
        "doubtful_low": doubtful[0, 0],
        "doubtful_high": doubtful[0, 1],
    }


def draw(values, tip):
    from matplotlib.figure import Figure

    from pyro_gen.pictures import write

    figure = Figure((9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (name, some), colour in zip(values.items(), ("#c9ced4", "#2a6f97", "#b3421f"), strict=True):
        kind = "stepfilled" if name == "truth" else "step"
        left.hist(some, np.linspace(-3, 5, 33), color=colour, histtype=kind, lw=1.6, label=name)
    left.set(xlabel=f"{COLUMN} where it is missing", ylabel="tumours")
    left.legend(frameon=False)
    path = tip.path.sort_values("delta")
    right.fill_between(path["delta"], path["conf.low"], path["conf.high"], color="#cfdfe8")
    right.plot(path["delta"], path["estimate"], color="#2a6f97")
    right.axhline(0.0, color="#1b1f24", lw=0.8)
    right.axvline(tip.delta, color="#b3421f", lw=0.8)
    right.set(xlabel="shift of what was imputed at random", ylabel=f"mean of {COLUMN}, 95% interval")
    return write(figure, "outputs/mnar.png")


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:20}{value:9.3f}")
