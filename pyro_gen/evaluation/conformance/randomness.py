"""Checks that every draw is a sample site, and follows the seed."""

import random
from typing import Any

import numpy as np
import torch

from pyro_gen._random import seeded
from pyro_gen.evaluation.conformance.case import SIDES, Case
from pyro_gen.evaluation.conformance.check import Failed, check
from pyro_gen.evaluation.conformance.scores import differing, gap, same
from pyro_gen.observation import no_completion
from pyro_gen.traces import trace_pair

__all__ = ["hidden_randomness", "same_seed"]


@check
def hidden_randomness(case: Case) -> str | None:
    """With the latent variables fixed nothing is random: every draw is a sample site."""
    remark = None
    for mode in (False, True):
        case.program.train(mode)
        for side in SIDES:
            # Completed data are random and may be computed with: what follows from that is not a density.
            with no_completion():
                first, second = (case.scores(side, seed=case.seed + k) for k in range(2))
            name = differing(first, second, same)
            if name is None:
                continue
            if not mode:
                raise Failed(
                    f"Site '{name}' of the {side}: with all latent variables fixed, its log-density differs by "
                    f"{gap(first[name], second[name])} between two seeds.",
                    "Something is drawn outside of a sample site (torch.rand, rsample(), F.dropout that ignores "
                    "self.training): make it a pyro.sample site, or switch it off in evaluation mode.",
                )
            remark = f"random in training mode at '{name}', as by Dropout"
    return remark


def _foreign_states() -> tuple[Any, str]:
    return random.getstate(), str([np.asarray(s).tolist() for s in np.random.get_state()])  # noqa: NPY002


@check
def same_seed(case: Case) -> None:
    """Same seed, same draws; no generator is reseeded and no other one is used."""
    before = _foreign_states()
    first, second = case.draw(case.seed), case.draw(case.seed)
    after = _foreign_states()
    for side in SIDES:
        if (name := differing(first[side], second[side], same)) is not None:
            raise Failed(
                f"Site '{name}' of the {side} draws different values with the same seed.",
                "Draw with torch and pyro only: NumPy, random and time do not follow the seed.",
            )
    if before != after:
        raise Failed(
            "The program uses or reseeds the global generator of NumPy or random.",
            "Draw with torch and pyro only, and seed nothing inside model and guide.",
        )
    states = []
    for seed in (case.seed, case.seed + 1):
        with seeded(seed), torch.no_grad():
            trace_pair(case.program, case.x, *case.context)
            states.append(torch.get_rng_state())
    if torch.equal(*states):
        raise Failed(
            "Two seeds leave torch's generator in the same state: the program reseeds it.",
            "Remove torch.manual_seed and pyro.set_rng_seed from model and guide.",
        )
