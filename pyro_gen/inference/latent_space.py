r"""The latent space of a program: coordinates in which the latent variables of a datum move, and what they decode to.

A variable with a Gaussian prior has the coordinates :math:`\epsilon = (z - \mu) / \sigma`, whitened where it is
correlated; any other continuous one those of unconstrained space; a discrete one is its own coordinate. They are taken
where the model draws the variable, so a variable that depends on others moves with them.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, biject_to

from pyro_gen._random import seeded
from pyro_gen.density import sampling
from pyro_gen.distributions.innermost import innermost
from pyro_gen.inference.likelihood_means import mean_of
from pyro_gen.inference.proposals import require_encoder
from pyro_gen.observation import assume_missing
from pyro_gen.program import Program, fixed
from pyro_gen.traces import data_dim, is_local, is_subsample, latent_sites, structure, trace_side

__all__ = ["LatentSpace", "latent_space", "nothing_of"]


class LatentSpace:
    """The local latent variables of a program, see :func:`latent_space`.

    Attributes:
        dims: By name, where the data dimension lies in a value, counted from the left.
        ways: By name, how a variable moves: on a ``"circle"`` (Gaussian), on a ``"line"``, or by a ``"step"``.
    """

    def __init__(self, program: Program, x: Tensor, context: tuple[Any, ...], seed: int, verb: str) -> None:
        self.program, self.x, self.context, self.seed = program, x, context, seed
        kinds = structure(program, x, *context)
        if kinds.kind == "unnormalised" or not kinds.local:
            what = "has a factor" if kinds.kind == "unnormalised" else "has no local latent variable"
            raise ValueError(f"{verb} moves the latent variables of each datum, and {type(program).__name__} {what}.")
        self._local = kinds.local
        guide = latent_sites(trace_side(program, "guide", x, *context)) if kinds.global_ else {}
        self._shared = {name: site["value"] for name, site in guide.items() if name in kinds.global_}
        self.dims: dict[str, int] = {}
        self.ways: dict[str, str] = {}

    def coordinates(self, end: Tensor | int, *context: Any) -> dict[str, Tensor]:
        """The coordinates of data, by the means of the guide, or of draws of the prior.

        Arguments:
            end: Data with shape :math:`(n, *)`, or the seed of a draw for each row of the space.
            context: Of the data, where it is not that of the space.
        """
        context = context or self.context
        x = end if isinstance(end, Tensor) else self.x
        values = {}
        if isinstance(end, Tensor):
            with _Means():
                sites = latent_sites(trace_side(self.program, "guide", x, *context))
            require_encoder(self.program, sites, self._local)
            values = {name: sites[name]["value"] for name in self._local}
        with seeded(end if isinstance(end, int) else self.seed), fixed({**values, **self._shared}):
            sites = latent_sites(trace_side(self.program, "model", torch.full_like(x, math.nan), *context))
        self.dims = {name: data_dim(sites[name]) for name in self._local}
        charts = {n: _chart(s["fn"]) for n, s in sites.items() if is_local(s)}
        self.ways = {name: way for name, (_, _, way) in charts.items()}
        return {name: into(sites[name]["value"]) for name, (into, _, _) in charts.items()}

    def decode(self, coordinates: Mapping[str, Tensor]) -> Tensor:
        """The means of the likelihood at coordinates, with the shape of the data of the space.

        Raises:
            ValueError: The latent variables alone do not decode.
        """
        handler = _At(coordinates)
        with pyro.poutine.trace() as tape, fixed(self._shared), handler, assume_missing(False):
            self.program.model(self.x, *self.context)
        out = mean_of(self.program, tape.trace, self.x)
        if bool(out.isnan().any()):
            raise ValueError(
                f"The mean of a datum of {type(self.program).__name__} given its latent variables depends on entries "
                "of the datum itself, so latent variables alone do not decode: use pg.sample or pg.impute."
            )
        return out


@contextmanager
def latent_space(program: Program, x: Tensor, context: tuple[Any, ...], seed: int, verb: str) -> Iterator[LatentSpace]:
    """Opens the latent space of a program: in evaluation mode, without gradients, its draws seeded.

    Arguments:
        program: A program with local latent variables.
        x: Data with shape :math:`(n, *)`, of which the shape alone is used: NaN.
        context: What the model conditions on, each with shape :math:`(n, *)`.
        seed: Seeds what is drawn: global latent variables, once.
        verb: What asks, for its errors.
    """
    with sampling(program, seed):
        yield LatentSpace(program, x, context, seed, verb)


def nothing_of(program: Program, n: int) -> Tensor:
    """Data of which nothing was seen."""
    if program.event_shape is None:
        raise ValueError(
            f"{type(program).__name__} does not know the shape of one datum: set program.event_shape (pyro_gen.fit "
            "does)."
        )
    like = next((p for p in program.parameters() if p.is_floating_point()), torch.empty(0))
    return torch.full((n, *program.event_shape), math.nan, dtype=like.dtype, device=like.device)


class _Means(Messenger):
    """Effect handler: latent variables that are not discrete take their means, where these are known."""

    def _pyro_sample(self, msg: Any) -> None:
        if is_subsample(msg) or msg["is_observed"] or msg["fn"].support.is_discrete:
            return
        try:
            mean = msg["fn"].mean
        except NotImplementedError:
            return
        if bool(mean.isfinite().all()):
            msg["value"] = mean.expand(msg["fn"].shape())


class _At(Messenger):
    """Effect handler: local latent variables have the given coordinates."""

    def __init__(self, coordinates: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.given = coordinates

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and msg["name"] in self.given:
            msg["value"] = _chart(msg["fn"])[1](self.given[msg["name"]])


Map = Callable[[Tensor], Tensor]


def _chart(distribution: Any) -> tuple[Map, Map, str]:
    """From values to the coordinates that they move in, back, and how they move there."""
    law = innermost(distribution)
    if isinstance(law, Normal):
        return lambda z: (z - law.loc) / law.scale, lambda e: law.loc + law.scale * e, "circle"
    if isinstance(law, MultivariateNormal):
        loc, factor = law.loc, law.scale_tril
        return (
            lambda z: torch.linalg.solve_triangular(factor, (z - loc).unsqueeze(-1), upper=False).squeeze(-1),
            lambda e: loc + (factor @ e.unsqueeze(-1)).squeeze(-1),
            "circle",
        )
    if distribution.support.is_discrete:
        return lambda z: z, lambda e: e, "step"
    transform = biject_to(distribution.support)
    return transform.inv, transform, "line"
