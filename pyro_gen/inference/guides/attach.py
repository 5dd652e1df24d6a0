"""Attaching a guide to a program."""

from typing import Any

import pyro
import torch
from pyro.infer.autoguide import AutoGuide
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_gen.inference.guides.base import Guide
from pyro_gen.program import ModelGuide, Program
from pyro_gen.traces import is_local, sample_sites, trace_side

__all__ = ["guide_of", "with_guide"]


def with_guide(program: Program, guide: Guide) -> Program:
    """Gives a program another guide for its latent variables.

    Local latent variables that the program's own guide samples stay with it, and see the new values of the others;
    everything else is drawn by the new guide. A program whose guide samples nothing inside the data plate, or is
    automatic, has all of its latent variables drawn by the new one.

    Arguments:
        program: The program. The new one shares its parameters.
        guide: A guide that has not been used yet.

    Returns:
        A program with the same model and the new guide.

    Raises:
        TypeError: What is given is no program, or no guide of this module.
        ValueError: The guide belongs to another program.

    Example:
        >>> import pyro, torch
        >>> import pyro.distributions as dist
        >>> import pyro_gen as pg
        >>> from pyro_gen.inference.guides import Flow, guide_of, with_guide
        >>> def model(x):
        ...     scale = pyro.sample("scale", dist.HalfNormal(1.0))
        ...     loc = pyro.sample("loc", dist.Uniform(-scale, scale))  # a support that depends on another variable
        ...     with pg.plate(x):
        ...         return pg.observe("x", dist.Normal(loc, 0.1), x)
        >>> program = with_guide(pg.Program.from_functions(model), Flow("affine")).initialise(torch.zeros(5))
        >>> guide_of(program).names, guide_of(program).dim
        (('scale', 'loc'), 2)
    """
    if not isinstance(program, Program):
        raise TypeError(
            f"A guide is given to a Program, and this is a {type(program).__name__}: of a model function make one by "
            "Program.from_functions(model)."
        )
    if not isinstance(guide, Guide):
        what = "a class: create an instance" if isinstance(guide, type) else type(guide).__name__
        raise TypeError(f"with_guide takes a guide such as Flow() or MeanField(), and was given {what}.")
    if guide.names:
        raise ValueError(f"The {type(guide).__name__} was made for another program: give a new one.")
    return _Guided(program.unguided if isinstance(program, _Guided) else program, guide)


def guide_of(program: Program) -> Guide:
    """The guide that a program got from :func:`with_guide` or ``Program.from_functions``.

    Raises:
        ValueError: It has none, or one that has not met its model yet.
    """
    guide = program.given_guide
    if not isinstance(guide, Guide):
        raise ValueError(
            "The program has no guide of pyro_gen.inference.guides: give it one by with_guide(program, Flow())."
        )
    if not guide.names:
        raise ValueError("The guide has not met its model: call program.initialise(x) or pg.fit first.")
    return guide


class _Given(Messenger):
    """Effect handler: sites take these values, and the handlers outside do not see them."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values:
            msg["value"] = self.values[msg["name"]]
            msg["done"] = msg["stop"] = True


class _Guided(Program):
    def __init__(self, program: Program, guide: Guide) -> None:
        super().__init__()
        self._adopt("_program", program)
        self._guide = guide
        self.event_shape = program.event_shape
        if (objective := getattr(program, "objective", None)) is not None:
            self.objective = objective
        self._own: frozenset[str] | None = None  # local sites that stay with the program's own guide

    @property
    def given_guide(self) -> Guide:
        return self._guide

    @property
    def unguided(self) -> Program:
        """The program under the guide."""
        program = self._modules["_program"]
        assert isinstance(program, Program)
        return program

    def check_inputs(self, x: Any, *context: Any) -> None:
        self.unguided.check_inputs(x, *context)

    def model(self, x: Tensor, *context: Any) -> Any:
        return self.unguided.model(x, *context)

    def guide(self, x: Tensor, *context: Any) -> Any:
        program, guide = self.unguided, self._guide
        if self._own is None:
            self._own = _own_local_sites(program, x, *context)
            guide.prepare(program.model, x, *context, leave=self._own)
        values = guide(program.model, x, *context)
        if self._own:
            with _Given(values):
                program.guide(x, *context)


def _own_local_sites(program: Program, x: Tensor, *context: Any) -> frozenset[str]:
    if isinstance(program.given_guide, AutoGuide | ModelGuide):
        return frozenset()
    with torch.no_grad(), pyro.poutine.block():
        sites = sample_sites(trace_side(program, "guide", x, *context))
    return frozenset(n for n, s in sites.items() if not s["is_observed"] and is_local(s))
