"""The guide of regressions: a normal of everything that is not seen, as one vector without constraints."""

from typing import Any

import torch
from torch import Tensor

from pyro_gen.inference.guides import FullRank, Guide
from pyro_gen.program import Program

__all__ = ["GuidedRegression", "check_covariates", "check_positive"]


class GuidedRegression(Program):
    """A regression with a normal of full covariance as its guide; :func:`pyro_gen.with_guide` gives another.

    The data are the outcome, with shape (N,) and NaN where it is not known; the context is what it is regressed on.
    """

    def __init__(self, guide: Guide | None = None) -> None:
        super().__init__()
        self.event_shape = torch.Size()
        self._guide = FullRank() if guide is None else guide

    @property
    def given_guide(self) -> Guide:
        return self._guide

    def guide(self, y: Tensor, *context: Any) -> Any:
        """A draw of all latent variables."""
        return self._guide(self.model, y, *context)


def check_positive(program: Program, **given: float) -> None:
    """Refuses the first argument that is no positive number."""
    for name, value in given.items():
        if not value > 0:
            raise ValueError(f"{type(program).__name__}({name}={value!r}): give a positive number.")


def check_covariates(program: Program, u: Tensor, covariates: int) -> None:
    """Refuses covariates that are not (N, P)."""
    if u.dim() != 2 or u.shape[-1] != covariates:
        raise ValueError(
            f"{type(program).__name__}: covariates have the shape (N, {covariates}), and were given with "
            f"{tuple(u.shape)}."
        )
