"""A regression of a table with holes: multiple imputation against leaving out the rows that have one.

944 voters of 1996, of whom three answers go missing the more often the more they side with the Republicans: at random
given the party, which all have said, so that imputation can be right and the rows without holes are a wrong sample.
"""

import numpy as np
import pandas as pd

import pyro_gen as pg

FORMULA = "PID ~ selfLR + income + age"  # party, 0 to 6, by political leaning, 1 (left) to 7, household income and age
ANSWERS = ("educ", "income", "selfLR", "PID")  # numbers that stand for ordered answers


def load() -> pd.DataFrame:
    try:
        from statsmodels.datasets import anes96
    except ImportError as error:
        raise SystemExit("This example needs the tables of statsmodels: pip install statsmodels") from error
    table = anes96.load_pandas().data[["age", "vote", *ANSWERS]]
    vote = pd.Categorical.from_codes(table["vote"].astype(int), ["Clinton", "Dole"])
    return table.assign(vote=vote)


def main() -> dict[str, float]:
    complete = load()
    from statsmodels.formula.api import ols

    by_party = pg.imputation.MAR(0.3, columns=["selfLR", "income", "vote"], given=["PID"], strength=2.0)
    holes = pg.imputation.ampute(complete, by_party, seed=0)
    imputer = pg.Imputer(draws=50, schema=dict.fromkeys(ANSWERS, "ordinal"), random_state=0).fit(holes)
    print("stacked, by weight:", {name: round(weight, 2) for name, weight in imputer.weights_.items()})
    completed = imputer.impute(holes)
    pooled = completed.fit(lambda table: ols(FORMULA, table).fit()).pool()
    print(pooled)
    print("report:", pg.imputation.report(completed, "outputs/impute_table.html", title="Voters of 1996"))

    truth, rows = ols(FORMULA, complete).fit(), ols(FORMULA, holes).fit()  # statsmodels leaves rows with holes out
    print("picture:", draw(pooled, truth, rows))
    terms = pooled.summary().set_index("term")
    numbers = {"rows": len(complete), "rows_without_holes": rows.nobs, "draws": completed.m}
    for term in ("selfLR", "income"):
        numbers |= {
            f"{term}_truth": truth.params[term],
            f"{term}_pooled": terms.loc[term, "estimate"],
            f"{term}_pooled_error": terms.loc[term, "std.error"],
            f"{term}_rows_without_holes": rows.params[term],
            f"{term}_rows_error": rows.bse[term],
            f"{term}_missing_information": terms.loc[term, "fmi"],
        }
    return numbers


def draw(pooled, truth, rows):
    from matplotlib.figure import Figure

    from pyro_gen.pictures import write

    figure = Figure((7, 3.2), layout="constrained")
    low, high = pooled.intervals().T
    fits = (
        ("no holes: the truth here", truth.params, truth.conf_int().T.to_numpy(), "#1b1f24"),
        ("imputed and pooled", pooled.qbar, np.stack([low, high]), "#b3421f"),
        ("rows without holes", rows.params, rows.conf_int().T.to_numpy(), "#8a929b"),
    )
    for axes, (i, name) in zip(figure.subplots(1, 2), ((1, "leaning"), (2, "income")), strict=True):
        for y, (_, estimate, interval, colour) in enumerate(fits):
            axes.plot(interval[:, i], [y, y], color=colour)
            axes.plot(np.asarray(estimate)[i], y, "o", color=colour)
        axes.axvline(np.asarray(truth.params)[i], color="#d5d9de", lw=0.8, zorder=0)
        axes.set_yticks(range(3), [fit[0] for fit in fits] if i == 1 else [""] * 3)
        axes.tick_params(left=False)
        axes.set_ylim(2.6, -0.6)
        axes.set(xlabel=f"slope by {name}, 95% interval")
        axes.spines[["top", "right", "left"]].set_visible(False)
    return write(figure, "outputs/impute_table.png")


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:30}{value:9.3f}")
