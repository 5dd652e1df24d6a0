"""Which polynomial made the data? Evidences by sequential Monte Carlo and annealing, beside the exact ones.

The likelihood of the best fit rises with every degree. The evidence integrates over the coefficients, so it falls again
where a degree buys less than its prior costs: no data are held out. Differences are logarithms of Bayes factors.
"""

import pyro
import pyro.distributions as dist
import torch

import pyro_gen as pg
from pyro_gen.inference.likelihood.evidence import log_evidence
from pyro_gen.inference.likelihood.smc import smc

NOISE, DEGREES = 0.3, (0, 1, 2, 3, 4, 5)


def basis(t, degree):
    return torch.stack([torch.special.legendre_polynomial_p(t, torch.tensor(k)) for k in range(degree + 1)], -1)


def polynomial(degree):
    def model(y, t):
        w = pyro.sample("w", dist.Normal(torch.zeros(degree + 1), 1.0).to_event(1))
        with pg.plate(y):
            return pg.observe("y", dist.Normal(basis(t, degree) @ w, NOISE), y)

    return pg.Program.from_functions(model)


def main() -> dict[str, float]:
    pyro.set_rng_seed(1)
    t = torch.linspace(-1, 1, 30)
    y = basis(t, 3) @ torch.tensor([0.3, -0.6, 0.4, 0.7]) + NOISE * torch.randn(30)
    found, exact, best_fit = {}, {}, {}
    for degree in DEGREES:
        found[degree] = {m: log_evidence(polynomial(degree), y, t, method=m) for m in ("smc", "ais")}
        x = basis(t, degree).double()
        marginal = dist.MultivariateNormal(torch.zeros(30).double(), NOISE**2 * torch.eye(30) + x @ x.T)
        exact[degree] = marginal.log_prob(y.double()).item()
        fit = x @ torch.linalg.lstsq(x, y.double().unsqueeze(-1)).solution.squeeze(-1)
        best_fit[degree] = dist.Normal(fit, NOISE).log_prob(y).sum().item()
    best = max(found, key=lambda degree: found[degree]["smc"].mean())
    for degree, by in found.items():
        factor = by["smc"].mean() - found[best]["smc"].mean()
        print(f"degree {degree}  {by['smc']}  exact {exact[degree]:.3f}  log Bayes factor to the best {factor:7.2f}")
    curves = basis(t, best) @ smc(polynomial(best), y, t).posterior(200)["w"].T
    print("picture:", draw(t, y, curves, found, exact, best_fit))
    estimates = [(r, exact[d]) for d, by in found.items() for r in by.values()]
    return {
        "degree": best,
        "log_bayes_factor_3_to_2": found[3]["smc"].mean() - found[2]["smc"].mean(),
        "log_bayes_factor_3_to_5": found[3]["smc"].mean() - found[5]["smc"].mean(),
        "largest_z": max(abs(r.mean() - e) / r.mean_standard_error() for r, e in estimates),
    }


def draw(t, y, curves, found, exact, best_fit):
    from matplotlib.figure import Figure

    from pyro_gen.pictures import write

    figure = Figure((9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(t, curves, color="#dcb3a6", lw=0.4)
    left.plot(t, y, "o", color="#1b1f24", ms=4)
    left.set(xlabel="t", ylabel="y", title="draws of the posterior at the best degree")
    right.plot(list(best_fit), list(best_fit.values()), ":", color="#8a9099", label="likelihood of the best fit")
    right.plot(list(exact), list(exact.values()), "-", color="#1b1f24", label="exact evidence")
    for method, color in (("smc", "#b3421f"), ("ais", "#2a6f97")):
        value = [by[method].mean() for by in found.values()]
        error = [by[method].mean_standard_error() for by in found.values()]
        right.errorbar(list(found), value, error, fmt="o", ms=5, color=color, label=method.upper(), alpha=0.7)
    right.set(xlabel="degree", ylabel="nats", xticks=list(exact), title="log-evidence")
    right.legend(frameon=False, loc="lower right")
    return write(figure, "outputs/evidence_model_choice.png")


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:26}{value:9.3f}")
