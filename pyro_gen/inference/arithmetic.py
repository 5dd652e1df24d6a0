r"""Arithmetic in latent space: what some data have and others have not, added to a datum.

With the coordinates :math:`\epsilon(x)` that the guide gives a datum (:mod:`pyro_gen.inference.latent_space`), the
attribute vector of two sets of data and its sum with a datum's code are

.. math::
    a = \frac{1}{|P|} \sum_{x \in P} \epsilon(x) - \frac{1}{|M|} \sum_{x \in M} \epsilon(x) , \qquad
    \epsilon_t = \epsilon(x) + t \, a .

References:
    | Unsupervised Representation Learning with Deep Convolutional GANs (Radford, Metz & Chintala, 2016)
    | https://arxiv.org/abs/1511.06434
    | Sampling Generative Networks (White, 2016), attribute vectors
    | https://arxiv.org/abs/1609.04468
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_gen.density import as_inputs
from pyro_gen.inference.latent_space import LatentSpace, latent_space
from pyro_gen.program import Program

__all__ = ["arithmetic"]


def arithmetic(
    program: Program,
    x: Any,
    plus: Any,
    minus: Any,
    *context: Any,
    amounts: Sequence[float] = (0.0, 0.5, 1.0),
    seed: int = 0,
) -> Tensor:
    r"""Decodes data with an attribute added in latent space, which other data show: those with it, and those without.

    Arguments:
        program: A program with continuous local latent variables and a guide that encodes data.
        x: The data to change, with shape :math:`(n, *)`.
        plus: Data that have the attribute, with shape :math:`(P, *)`; a tuple ``(data, *context)`` where there is
            context.
        minus: Data that have not, as ``plus``.
        context: What the model conditions on, of ``x``, each with shape :math:`(n, *)`.
        amounts: How much of the attribute is added, S numbers; a negative one takes it away.
        seed: Seeds what else is drawn: global latent variables, once.

    Returns:
        The means of the likelihood, with shape :math:`(S, n, *)`.

    Raises:
        ValueError: The program has no local latent variable, a discrete one, or the guide does not sample it; the
            likelihood has no mean; or ``plus`` or ``minus`` come without their context.

    Example:
        >>> import pyro_gen as pg
        >>> program = pg.models.ProbabilisticPCA(3, 2)
        >>> x = torch.eye(3)
        >>> out = arithmetic(program, x, plus=x[:1], minus=x[1:2], amounts=(0.0, 1.0))
        >>> out.shape, torch.allclose(out[0], pg.interpolate(program, x, x, steps=2)[0], atol=1e-6)
        (torch.Size([2, 3, 3]), True)
    """
    data, *rest = as_inputs(program, x, *context)
    with latent_space(program, torch.full_like(data, math.nan), tuple(rest), seed, "arithmetic") as space:
        code = space.coordinates(data)
        if discrete := [name for name, way in space.ways.items() if way == "step"]:
            raise ValueError(
                f"arithmetic adds latent variables, and '{discrete[0]}' of {type(program).__name__} is discrete: "
                "pg.interpolate changes it half-way."
            )
        has, lacks = (_mean_code(space, program, side) for side in (plus, minus))
        attribute = {name: has[name] - lacks[name] for name in code}
        return torch.stack([space.decode({n: code[n] + t * attribute[n] for n in code}) for t in amounts])


def _mean_code(space: LatentSpace, program: Program, side: Any) -> dict[str, Tensor]:
    """The mean of the coordinates of data, with size 1 at the data dimension."""
    data, *context = as_inputs(program, *(side if isinstance(side, tuple) else (side,)))
    if len(context) != len(space.context):
        raise ValueError(
            f"arithmetic: {type(program).__name__} has {len(space.context)} tensors of context with x, and plus or "
            f"minus came with {len(context)}: give each as a tuple (data, *context)."
        )
    found = space.coordinates(data, *context)
    return {name: value.mean(space.dims[name], keepdim=True) for name, value in found.items()}
