"""The log-density of a model at many values of its latent variables at once."""

from collections.abc import Collection
from contextlib import nullcontext
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_gen._errors import warn
from pyro_gen.density import first_line, local_site
from pyro_gen.density.completed import completed_data, reads_missing, reread
from pyro_gen.density.missing import active
from pyro_gen.observation import assume_missing, completions, no_completion
from pyro_gen.program import Program, fixed
from pyro_gen.traces import per_datum_log_prob, sample_sites

__all__ = ["ModelLogProb"]


class ModelLogProb:
    """log p(z_n) and log p(x_n | z_n) of K draws, (K, 2, n): vectorised over them where the model allows it.

    Arguments:
        program: The program.
        missing: Whether the data may have missing entries.
        joint: Whether it is summed over all sites and data, (K, 2).
        without: Latent sites that are not counted.
    """

    def __init__(self, program: Program, missing: bool, joint: bool = False, without: Collection[str] = ()) -> None:
        handler = active(program)  # what is latent is so in all rows, also where nothing is missing
        self.missing = missing or (handler is not None and bool(handler.names))
        self.every = handler is not None and handler.every
        self.program, self.joint, self.without = program, joint, without
        self.vectorised = True
        self.rereads: bool | None = None if self.every else False

    def __call__(self, data: tuple[Any, ...], values: dict[str, Tensor]) -> Tensor:
        def one(values: dict[str, Tensor]) -> Tensor:
            undrawn = nullcontext() if self.every else no_completion()
            known = (undrawn, assume_missing(self.missing), fixed(values))
            with pyro.poutine.trace() as tape, completions() as seen, known[0], known[1], known[2]:
                returned = self.program.model(*data)
            if self.rereads is None:
                self.rereads = reads_missing(self.program, tape.trace)
            if self.rereads:
                reread(self.program.model, tape.trace, completed_data(data[0], returned, seen), data[1:])
            tape.trace.compute_log_prob()
            terms: list[list[Tensor]] = [[], []]
            for site in sample_sites(tape.trace).values():
                if not site["infer"].get("_deterministic") and site["name"] not in self.without:
                    log_prob = site["log_prob"].sum() if self.joint else per_datum_log_prob(local_site(site))
                    terms[bool(site["is_observed"])].append(log_prob)
            zero = torch.zeros_like((terms[0] + terms[1])[0])  # all latent sites may be given
            return torch.stack([torch.stack([zero, *t]).sum(0) for t in terms])

        with pyro.validation_enabled(False):
            if self.rereads is None:
                one({n: v[0] for n, v in values.items()})
            if self.vectorised:
                try:
                    return torch.vmap(one)(values)
                except Exception as error:
                    one({n: v[0] for n, v in values.items()})  # an error of the model itself comes out here
                    self.vectorised = False
                    warn(
                        "The model cannot be vectorised by torch.vmap, so particles are evaluated one after another. "
                        f"{first_line(error)}"
                    )
            size = len(next(iter(values.values())))
            return torch.stack([one({n: v[k] for n, v in values.items()}) for k in range(size)])
