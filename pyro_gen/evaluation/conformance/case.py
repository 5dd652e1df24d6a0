"""What a check works with: a copy of the program, some rows, and latent variables held fixed."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyro
import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_gen._random import seeded
from pyro_gen.evaluation.conformance.copy_program import copy_program
from pyro_gen.evaluation.conformance.scores import density_sites, same, score
from pyro_gen.inference.returned import completed_by
from pyro_gen.observation import completions
from pyro_gen.program import Program, data_size, fixed
from pyro_gen.traces import DATA_PLATE, structure

__all__ = ["SIDES", "Case", "Latents", "latent_values", "trace_of"]


SIDES = ("guide", "model")


Latents = dict[str, Tensor]


@dataclass
class Case:
    """A copy of the program in evaluation mode, a few rows of data, and latent variables to hold fixed.

    Attributes:
        program: The copy, which a check may do with as it likes.
        x: The data, with shape :math:`(N, *)`.
        context: What the program conditions on.
        seed: Seeds every draw.
    """

    program: Program
    x: Tensor
    context: tuple[Any, ...]
    seed: int

    def run(
        self,
        side: str,
        x: Tensor | None = None,
        context: tuple[Any, ...] | None = None,
        latents: Latents | None = None,
        size: int | None = None,
        seed: int | None = None,
        program: Program | None = None,
    ) -> Trace:
        """Traces ``"model"`` or ``"guide"`` without gradients, by default with :attr:`latents` held fixed."""
        values = self.latents[side] if latents is None else latents
        with torch.no_grad(), seeded(self.seed if seed is None else seed), ExitStack() as stack:
            stack.enter_context(fixed(values))
            if size is not None:
                stack.enter_context(data_size(size))
            return trace_of(
                program or self.program,
                side,
                self.x if x is None else x,
                self.context if context is None else context,
            )

    def draw(self, seed: int) -> dict[str, Latents]:
        """Draws latent variables: the guide's for the guide, and for the model those of the guide that fit it.

        Where the guide misses a site or draws one of another shape, the model's own draw stands in, so that the
        defects of one side do not show as defects of the other.
        """
        guide = latent_values(self.run("guide", latents={}, seed=seed))
        model = latent_values(self.run("model", latents={}, seed=seed))
        fits = {n: v for n, v in guide.items() if n in model and v.shape == model[n].shape}
        return {"guide": guide, "model": {**model, **fits}}

    def in_double(self) -> "Case":
        """The same case in double precision, at the same latent variables."""

        def double(value: Any) -> Any:
            return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value

        latents = {side: {n: double(v) for n, v in values.items()} for side, values in self.latents.items()}
        case = Case(copy_program(self.program).double(), self.x.double(), tuple(map(double, self.context)), self.seed)
        case.latents = latents
        return case

    def train(self) -> "Case":
        """Puts the program into training mode."""
        self.program.train()
        return self

    @cached_property
    def latents(self) -> dict[str, Latents]:
        return self.draw(self.seed)

    @cached_property
    def kind(self) -> str:
        return structure(self.program, self.x, *self.context, seed=self.seed).kind

    def scores(self, side: str, **options: Any) -> dict[str, Tensor]:
        """The log-densities by site, (N,) for local sites and scalars for global ones."""
        sites = density_sites(self.run(side, **options))
        with seeded(options.get("seed", self.seed)):  # densities may draw in training mode, as those of flows do
            return {n: score(s) for n, s in sites.items()}

    def rows(self, index: Tensor) -> tuple[Tensor, tuple[Any, ...]]:
        """Some rows of data and context."""
        return self.x[index], tuple(c[index] if self._has_rows(c) else c for c in self.context)

    def _has_rows(self, c: Any) -> bool:
        return isinstance(c, Tensor) and c.dim() > 0 and len(c) == len(self.x)

    def latent_rows(self, side: str, index: Tensor) -> Latents:
        """The fixed latent variables, the local ones restricted to some rows."""
        values = dict(self.latents[side])
        for name, site in density_sites(self.run(side)).items():
            frame = self.row_frame(site)
            if name in values and frame is not None:
                dim = frame.dim - site["fn"].event_dim
                values[name] = values[name].index_select(dim, index)
        return values

    def row_frame(self, site: Any) -> Any:
        """The data plate of a site, or another plate that has a row per datum."""
        frames = [f for f in site["cond_indep_stack"] if f.dim is not None]
        named = [f for f in frames if f.name == DATA_PLATE]
        return next(iter(named + [f for f in frames if f.size == len(self.x)]), None)

    @cached_property
    def data_sites(self) -> list[str]:
        """The observed sites whose log-density or value follows ``x``."""
        here, there = self.run("model"), self.run("model", x=self.x.roll(1, 0))
        found = []
        for name, site in density_sites(here).items():
            other = there.nodes.get(name)
            if site["is_observed"] and other is not None:
                alike = same(site["value"], other["value"]) and same(score(site), score(other))
                if not alike or same(self.x, self.x.roll(1, 0)):
                    found.append(name)
        return found

    def completed(self) -> Tensor:
        """The data with missing entries as the model draws them; as they are where it does not."""
        x, observed = self.x.contiguous(), completions()
        with observed:
            value: Any = self.run("model", x=x).nodes["_RETURN"]["value"]
        try:
            return completed_by(self.program, x, self.context, observed, value)
        except ValueError:
            return self.x

    def with_holes(self) -> Iterator[tuple[Tensor, Tensor, str]]:
        """Data with missing entries, the rows left alone, and a remark: some entries of row 0 and all of row 1.

        When the likelihood says that it cannot be marginalised over a part of an event, only all of row 1.
        """
        x = self.x.clone()
        whole = min(1, len(x) - 1)
        x[whole] = torch.nan
        untouched = torch.arange(len(x)) != whole
        if whole == 1 and x[0].numel() > 1:
            partly = x.clone()
            with seeded(self.seed):
                holes = torch.randperm(x[0].numel())[: x[0].numel() // 2]
            partly[0].view(-1)[holes.to(x.device)] = torch.nan
            try:
                self.run("model", x=partly)
            except ValueError as error:
                if "cannot be marginalised" not in str(error):
                    raise
                yield x, untouched, "whole events only: the likelihood cannot be marginalised over part of an event"
            else:
                yield partly, untouched & (torch.arange(len(x)) != 0), ""
        else:
            yield x, untouched, ""


def trace_of(program: Program, side: str, x: Tensor, context: tuple[Any, ...]) -> Trace:
    """Traces ``"model"`` or ``"guide"``."""
    trace: Trace = pyro.poutine.trace(getattr(program, side)).get_trace(x, *context)
    return trace


def latent_values(trace: Trace) -> Latents:
    """The values of the latent sites by name."""
    return {n: s["value"] for n, s in density_sites(trace).items() if not s["is_observed"]}
