"""Functions of one chain, mapped over many."""

import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from pyro_gen._random import vmap_draws

__all__ = ["looped", "mapped", "vmap_or_loop"]


def mapped(function: Callable[..., Any], *args: Any) -> Any:
    """Maps a function by vmap, without torch's notice that it has no rule for some operation and runs that by turns.

    As an error, which Python makes of warnings if asked to, the notice would end in a loop over the whole function.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")
        return torch.vmap(function)(*args)


def looped(function: Callable[..., Any], *args: Any) -> Any:
    """What vmap does, one after another."""
    rows = [function(*tree_map(lambda t, i=i: t[i], args)) for i in range(len(tree_leaves(args)[0]))]
    return tree_map(lambda *leaves: torch.stack(leaves), *rows)


def vmap_or_loop(function: Callable[..., Any], *args: Any, draws: bool = False) -> Any:
    """Maps a function over the first dimension of tensors: by vmap, or one after another where torch refuses that.

    Torch has no rule for some operations, and for draws from some distributions, and says so by any kind of error. An
    error of the function itself comes again.

    Arguments:
        function: The function.
        args: Tensors, and dictionaries of them.
        draws: Whether the function draws, each time anew.
    """
    with suppress(Exception):
        return vmap_draws(function, len(tree_leaves(args)[0]), *args) if draws else mapped(function, *args)
    return looped(function, *args)
