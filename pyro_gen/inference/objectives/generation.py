"""Data that a program generates inside of a loss, as functions of its parameters."""

from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_gen._random import seeded
from pyro_gen.inference.returned import returns_data
from pyro_gen.observation import completions
from pyro_gen.program import Program
from pyro_gen.traces import is_subsample

__all__ = ["ancestral", "features", "generate", "rehearse"]


def generate(program: Program, x: Tensor, *context: Any) -> Tensor:
    r"""Draws a datum for each row as :func:`ancestral` does, for losses whose gradients go through the draws.

    They go through :math:`x = G(z)`, not through densities.

    Arguments:
        program: The program.
        x: Data with shape :math:`(N, *)`, of which the shape alone is used.
        context: What the program conditions on.

    Returns:
        The data, with shape :math:`(N, *)`.

    Raises:
        ValueError: A site cannot be reparameterised and moves with the parameters, or the model does not return data.
    """
    with _Pathwise():
        return ancestral(program, x, *context)


def ancestral(program: Program, x: Tensor, *context: Any) -> Tensor:
    r"""Draws a datum for each row, by the global generator: of which nothing was seen, the model completes.

    Arguments:
        program: The program.
        x: Data with shape :math:`(N, *)`, of which the shape alone is used.
        context: What the program conditions on.

    Returns:
        The data, with shape :math:`(N, *)`.

    Raises:
        ValueError: The model does not return data.
    """
    nothing, seen = torch.full_like(x, torch.nan, memory_format=torch.contiguous_format), completions()
    with seen:
        out = program.model(nothing, *context)
    whole = seen.of(nothing)
    returned = isinstance(out, Tensor) and out.shape == x.shape
    if whole is not None and not (returned and returns_data(program, whole.detach(), context)):
        return whole
    if not returned:
        raise ValueError(
            f"The model of {type(program).__name__} must return the completed data, of shape {tuple(x.shape)} here: "
            "return what observe(...) returns."
        )
    return out  # type: ignore[no-any-return]


def rehearse(program: Program, x: Tensor, *context: Any) -> None:
    """Draws once, before a step is recorded: what a model returns is looked at then, and known after.

    Arguments:
        program: The program.
        x: Data with shape :math:`(N, *)`, of which the shape alone is used.
        context: What the program conditions on.
    """
    with seeded(0), torch.no_grad():
        ancestral(program, x, *context)


def features(x: Tensor, *context: Any) -> Tensor:
    """Data and context side by side, with shape (N, D): what is compared are pairs of them."""
    parts = [x, *(c for c in context if isinstance(c, Tensor) and c.dim() > 0 and len(c) == len(x))]
    return torch.cat([p.reshape(len(x), -1).to(x.dtype) for p in parts], 1)


class _Pathwise(Messenger):
    """Effect handler: refuses draws through which a gradient is to go and does not."""

    def _pyro_post_sample(self, msg: Any) -> None:
        if is_subsample(msg) or msg["infer"].get("_deterministic") or msg["fn"].has_rsample:
            return
        # A draw that no parameter moves, a class of a fixed prior say, is noise like any other.
        if msg["is_observed"] or msg["fn"].log_prob(msg["value"]).requires_grad:
            raise ValueError(
                f"Site '{msg['name']}' ({type(msg['fn']).__name__}) cannot be reparameterised, so no gradient goes "
                "through its draws: use an objective that scores them, the ELBO say."
            )
