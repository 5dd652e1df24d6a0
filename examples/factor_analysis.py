"""Factor analysis of a table with holes: the number of factors by held-out likelihood, and the holes filled.

30 % of the entries of the wine measurements are taken away at random. They are integrated out exactly in training and
in the likelihoods, and drawn from p(missing | seen) afterwards, so that the error of a filled-in value is known too.
"""

import pyro
import torch

import pyro_gen as pg


def main(epochs: int = 200) -> dict[str, float]:
    pyro.set_rng_seed(0)
    wine = pg.data.load("wine")
    standardize = pg.data.Standardize.fit(wine.train)
    complete = standardize(wine.train)
    hidden = torch.rand(complete.shape) < 0.3
    holes = complete.masked_fill(hidden, torch.nan)
    rows = torch.randperm(len(holes))
    train, validation = holes[rows[28:]], holes[rows[:28]]

    def fit(data: torch.Tensor, rank: int) -> pg.models.FactorAnalysis:
        pyro.set_rng_seed(rank)
        model = pg.models.FactorAnalysis(complete.shape[1], rank)
        pg.fit(model, data, epochs=epochs, batch_size=len(data), lr=0.03, schedule="cosine", weight_decay=1.0)
        return model

    scores = {rank: pg.log_likelihood(fit(train, rank), validation).mean() for rank in (1, 2, 4, 6)}
    best = max(scores, key=scores.__getitem__)
    print("held-out log-likelihood by number of factors:", {rank: round(s, 2) for rank, s in scores.items()})

    model = fit(holes, best)
    test = pg.log_likelihood(model, standardize(wine.test))
    print(test)
    draws = pg.impute(model.marginal(), holes, draws=200)[:, hidden]
    truth, mean = complete[hidden], draws.mean(0)
    low, high = draws.quantile(torch.tensor([0.05, 0.95]), dim=0)
    numbers = {
        "factors": best,
        "validation": scores[best],
        "test": test.mean(),
        "rmse": (mean - truth).square().mean().sqrt().item(),
        "rmse_of_the_mean": truth.square().mean().sqrt().item(),  # standardised: the mean of a column is about 0
        "coverage_90": ((low <= truth) & (truth <= high)).float().mean().item(),
    }
    print("picture:", draw(truth, mean, low, high, scores))
    return numbers


def draw(truth, mean, low, high, scores):
    from matplotlib.figure import Figure

    from pyro_gen.pictures import write

    figure = Figure((9, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.4))
    left.plot(list(scores), list(scores.values()), "o-", color="#1b1f24")
    left.set(xlabel="factors", ylabel="held-out log-likelihood (nats per row)", xticks=list(scores))
    some = torch.linspace(0, len(truth) - 1, 120).long()
    spread = torch.stack([mean - low, high - mean])[:, some].clamp(min=0)
    right.errorbar(truth[some], mean[some], spread, fmt="o", ms=3, lw=0.7, color="#b3421f", ecolor="#dcb3a6")
    right.axline((0, 0), slope=1, color="#1b1f24", lw=0.8)
    right.set(xlabel="true value (standard deviations)", ylabel="imputed: mean and 90 % interval")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return write(figure, "outputs/factor_analysis.png")


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:18}{value:9.3f}")
