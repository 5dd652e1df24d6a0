"""The check of the objective that a program brings along."""

import itertools

from pyro_gen._random import seeded
from pyro_gen.evaluation.conformance.case import Case
from pyro_gen.evaluation.conformance.check import Failed, Skipped, check
from pyro_gen.evaluation.conformance.gradients import gradients_of
from pyro_gen.evaluation.conformance.scores import density_sites, quoted
from pyro_gen.inference.objectives import ELBO, resolve_objective, suitable
from pyro_gen.program import data_size
from pyro_gen.traces import is_factor

__all__ = ["objective"]


@check
def objective(case: Case) -> str | None:
    """The program's own objective gives each player a finite loss and finite gradients, with missing entries too."""
    own = getattr(case.program, "objective", None)
    if own is None:
        by = "the ELBO" if case.kind in ELBO.kinds else f"one that pg.fit is given: {', '.join(suitable(case.kind))}"
        raise Skipped(f"The program has no objective of its own: its density is {case.kind}, and trains by {by}.")
    objective = resolve_objective(case.program, own).train()
    name = type(objective).__name__
    if case.kind not in objective.kinds:
        raise Failed(
            f"The density of the data is {case.kind}, and {name} is for {' or '.join(objective.kinds)} ones.",
            f"Give the program one of {', '.join(suitable(case.kind))}, or say in the `kinds` of yours that it is "
            "right for such densities.",
        )
    case.program.train()
    observed = [s for s in density_sites(case.run("model")).values() if s["is_observed"]]
    draws_missing = case.kind != "implicit" and not all(map(is_factor, observed))  # an energy without a base does not
    served = objective.serves_missing and draws_missing
    holes = [(x, " with NaN in x") for x, _, _ in case.with_holes()] if served else []
    with seeded(case.seed):
        objective.prepare(case.program, case.x, *case.context)
    players = objective.players(case.program)
    for (x, when), player in itertools.product([(case.x, ""), *holes], players):
        who = f"{name}, player '{player.name}'," if len(players) > 1 else name
        with seeded(case.seed), data_size(len(x)):
            loss = player.loss(case.program, x, *case.context)
        if loss.dim() or not loss.isfinite():
            raise Failed(
                f"{who} gives the loss {loss.tolist()}{when}.", "Its loss is to be one finite number for any data."
            )
        bad = [n for n, g in gradients_of(case.program, loss).items() if g is not None and not g.isfinite().all()]
        if bad:
            raise Failed(f"The gradient of {who} for {quoted(bad)} is not finite{when}.", "Fill NaN before a function.")
    return name
