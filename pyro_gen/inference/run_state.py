"""Where a posterior on disk stands: what must be the same for its run to go on."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_gen._archives import read_archive
from pyro_gen._errors import AdviceError
from pyro_gen._files import atomic
from pyro_gen._identity import digest, settings_of
from pyro_gen.density import ProgramDensity
from pyro_gen.density.inputs import constants_of
from pyro_gen.inference.export import Exporter

__all__ = ["RunState", "fingerprint"]


def fingerprint(
    target: ProgramDensity,
    exporter: Exporter,
    method: str,
    settings: Mapping[str, Any],
    start: Mapping[str, Any],
    options: Mapping[str, Any],
) -> dict[str, str]:
    """What must be the same for a run to go on, as texts."""
    parts: dict[str, Any] = {
        # The observed values besides the arguments: a function may enclose its data.
        "the data": digest([list(target.data), dict(sorted(target.observed.items()))]),
        "the state of the program": digest(constants_of(target.program)),
        "the code of the program": digest(settings_of(target.program)),
        "the latent variables": [*target.names, target.dim, list(target.batch_shape)],
        "method": method,
        **settings,
        "log_likelihood": exporter.log_likelihood,
        "predictive": exporter.predictive,
    }
    decisive = {"warmup": start["warmup"], "init": start["init"], **options}
    for name, value in sorted(decisive.items()):
        plain = value is None or isinstance(value, bool | int | float | str)
        parts[name if plain else f"the {name}"] = value if plain else digest(settings_of(value))
    return {name: str(value) for name, value in parts.items()}


class RunState:
    """Where a run on disk stands; kept beside the draws.

    Attributes:
        mark: What must be the same for it to go on.
        done: The draws that are on disk.
        sampler: The state of the sampler; ``None`` before the warm-up.
        goal: The draws at which to look next, where the run ends when a target is met.
        watched: What was seen for that.
        tail: The draws of the last block, where it is not full.
        attrs: What is noted with the posterior.
    """

    def __init__(self, mark: dict[str, str]) -> None:
        self.mark, self.done, self.goal = mark, 0, 0
        self.watched: dict[str, Tensor] = {}
        self.sampler: dict[str, Any] | None = None
        self.tail: dict[str, Tensor] = {}
        self.attrs: dict[str, Any] = {}

    @staticmethod
    def file(path: Path) -> Path:
        return path.with_name(path.name + ".state")

    @classmethod
    def of(cls, path: Path | None, resume: bool) -> "RunState | None":
        """Reads the state beside draws on disk, where there is one to go on with."""
        if path is None or not resume or not path.exists():
            return None
        file = cls.file(path)
        if not file.is_file():
            raise AdviceError(
                f"{path} has no {file.name} beside it, so it cannot be gone on with: give another name, or "
                "overwrite it ({overwrite}).",
                overwrite=True,
            )
        try:
            saved = read_archive(file)
            state = cls(json.loads(saved["mark"]))
            state.done, state.sampler, state.tail = saved["done"], saved["sampler"], saved["tail"]
            state.goal, state.watched = saved["goal"], saved["watched"]
            state.attrs = json.loads(saved["attrs"])
        except (ValueError, TypeError, KeyError) as error:
            reason = error if type(error) is ValueError else "it was not written by pyro_gen.posterior"
            raise AdviceError(
                f"{file} does not say where the run stands ({reason}), so it cannot be gone on with: give another "
                "name, or overwrite it ({overwrite}).",
                overwrite=True,
            ) from error
        return state

    def save(self, path: Path) -> None:
        texts = {"mark": json.dumps(self.mark), "attrs": json.dumps(self.attrs)}
        with atomic(self.file(path)) as partial, partial.open("wb") as file:
            plain = {"done": self.done, "goal": self.goal}
            tensors = {"sampler": self.sampler, "tail": self.tail, "watched": self.watched}
            torch.save(plain | tensors | texts, file)

    def groups(self, log_likelihood: bool | None, predictive: bool | None) -> tuple[bool, bool]:
        """Which groups the run has, where the user does not say."""
        kept = (self.mark["log_likelihood"] == "True", self.mark["predictive"] == "True")
        return (
            kept[0] if log_likelihood is None else log_likelihood,
            kept[1] if predictive is None else predictive,
        )

    def check(self, mark: Mapping[str, str], draws: int | None) -> None:
        for name in {**self.mark, **mark}:
            old, new = self.mark.get(name, "left out"), mark.get(name, "left out")
            if old != new:
                what = "differs" if name.startswith("the ") else f"was {old} and is {new} now"
                raise AdviceError(
                    f"posterior(resume=True): what is to be gone on with is another run: {name} {what}. Give the same, "
                    "another name to save under, or overwrite it without resume ({overwrite}).",
                    overwrite=True,
                )
        if draws is not None and draws < self.done:
            raise ValueError(
                f"posterior(draws={draws}, resume=True): there are {self.done} draws of each chain already; draws "
                "is how many there are to be in all."
            )
