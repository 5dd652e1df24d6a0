"""Whether the gradient of a model is that of its values, or gets lost on the way."""

import math
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["check_gradient"]

DIRECTIONS = 50  # along which differences are taken, the first of the latent variables


def check_gradient(value: Callable[[Tensor], Tensor], single: Tensor, names: Sequence[str]) -> None:
    """Refuses a model whose gradient gets lost, by float(z) say, by a difference quotient.

    Arguments:
        value: The log-density as a function of a point in the precision that it is given.
        single: A point of one chain, with shape :math:`(*batch, D)`, in the precision of the model.
        names: The latent sites, for the message.

    Raises:
        ValueError: The gradient differs from the differences.
    """
    point = single.double()
    try:
        value(point)
    except RuntimeError:  # networks of float32
        point = single
    if not bool(value(point).isfinite()):
        point = torch.zeros_like(point)
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Converting a tensor with requires_grad")  # said better below
        leaf = point.clone().requires_grad_()
        total = value(leaf)
        grad = torch.autograd.grad(total, leaf, allow_unused=True)[0] if total.requires_grad else None
    grad = torch.zeros_like(point) if grad is None else grad
    noise = _rounding(value, point)
    for i in range(min(point.shape[-1], DIRECTIONS)):
        direction = torch.zeros_like(point)
        direction[..., i] = 1
        found, wrong = float((grad * direction).sum()), None
        for step in (1e-5, 1e-4, 1e-3, 1e-2):  # the smallest first at which differences rise above the rounding
            slope = float(value(point + step * direction) - value(point - step * direction)) / (2 * step)
            size, error = max(abs(slope), abs(found)), noise / step
            if not math.isfinite(slope) or error > 0.05 * size + 1e-3:
                continue
            if abs(slope - found) <= 0.05 * size + error + 1e-3:
                break
            wrong = slope if wrong is None else wrong
        else:
            if wrong is None:
                continue
            raise ValueError(
                f"The gradient of the log-density along latent variable {i} (of sites {', '.join(names)}) is "
                f"{wrong:.4g} by differences and {found:.4g} by autograd: the model takes a latent variable out of "
                "the graph, by float(), .item(), torch.tensor([...]) or .detach(). Use torch.stack and tensors."
            )


def _rounding(value: Callable[[Tensor], Tensor], point: Tensor) -> float:
    """By how much rounding may move a function at a point, whatever precision it computes in: points of double
    precision may go into tensors of single precision on the way.

    Arguments:
        value: The function, of which the gradient is to be taken by differences.
        point: The point.
    """
    # Nearby points in general position: what does not lie on a parabola through them is rounding.
    direction = torch.linspace(0.7, 1.3, point.numel(), dtype=point.dtype, device=point.device).view_as(point)
    at = torch.arange(-4.0, 5.0, dtype=torch.float64)
    values = torch.stack([value(point + 1e-6 * float(k) * direction).detach() for k in at]).double().cpu()
    if not bool(values.isfinite().all()):
        return math.inf
    powers = torch.stack([torch.ones_like(at), at, at.square()], 1)
    values = values - values[4]
    residuals = values - powers @ torch.linalg.lstsq(powers, values.unsqueeze(1)).solution[:, 0]
    least = torch.finfo(values.dtype).eps * (1 + float(value(point).detach().abs()))
    return 5 * max(float(residuals.abs().max()), least)
