"""The latent variables of a model as one vector, and the guide that draws it."""

from collections.abc import Callable, Collection
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_gen._errors import AdviceError
from pyro_gen._internals import without_parts
from pyro_gen.density.sites import Slot, bijection
from pyro_gen.observation import no_completion
from pyro_gen.program import ModelGuide
from pyro_gen.traces import is_subsample

__all__ = ["Guide"]

AUXILIARY = "_guide"
PRIOR_DRAWS = 25  # from whose median a guide starts


class _Survey(Messenger):
    """Effect handler: finds the continuous latent sites and a starting point, the median of each prior."""

    def __init__(self, leave: Collection[str]) -> None:
        super().__init__()
        self.leave = leave
        self.start: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        fn, name = msg["fn"], msg["name"]
        if msg["is_observed"] or is_subsample(msg) or name in self.leave or fn.support.is_discrete:
            return
        transform = bijection(fn.support)
        try:
            draws = fn.sample((PRIOR_DRAWS,))
        except NotImplementedError:  # an improper prior cannot be drawn from: zero it is
            u = torch.zeros(transform.inverse_shape(fn.shape()), **_like(fn))
        else:
            u = transform.inv(draws).median(0).values
        self.start[name] = u
        msg["value"] = transform(u)
        msg["done"] = True


def _like(fn: Any) -> dict[str, Any]:
    """Dtype and device of a distribution that cannot be drawn from."""
    for name in fn.arg_constraints:
        if isinstance(value := getattr(fn, name, None), Tensor) and value.is_floating_point():
            return {"dtype": value.dtype, "device": value.device}
    return {}


class _AllPlaced(Exception):
    """No error: the rest of the model is of no interest."""


class _Place(Messenger):
    """Effect handler: gives the latent sites their parts of the vector, as Delta sites that carry log|det dv/dT|.

    It hides all other sites from the handlers outside, and ends the run of the model after the last latent site.
    """

    def __init__(self, layout: dict[str, Slot], vector: Tensor) -> None:
        super().__init__()
        self.layout, self.vector = layout, vector
        self.values: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        name, fn = msg["name"], msg["fn"]
        slot = self.layout.get(name)
        if slot is None or msg["is_observed"]:
            msg["stop"] = True
            return
        for frame in msg["cond_indep_stack"]:
            if frame.full_size not in (None, frame.size):
                raise AdviceError(
                    f"The guide has parameters for each value of '{name}', which the plate '{frame.name}' subsamples "
                    f"({frame.size} of {frame.full_size}): give {{batch_size}} the size of the data, or a program "
                    "whose own guide computes these from the data (AmortisedFlow, say).",
                    batch_size=...,
                )
        transform = bijection(fn.support)
        shape = transform.inverse_shape(fn.shape())
        if shape != slot.shape:
            raise ValueError(
                f"The guide was made for '{name}' of unconstrained shape {tuple(slot.shape)}, and now meets "
                f"{tuple(shape)}: use it with data of the size that it was made for."
            )
        u = slot.read(self.vector)
        value = transform(u)
        log_det = transform.log_abs_det_jacobian(u, value)
        batch_dims = value.dim() - fn.event_dim
        log_det = log_det.sum(list(range(batch_dims, log_det.dim()))) if log_det.dim() > batch_dims else log_det
        msg["fn"] = dist.Delta(value, log_density=-log_det, event_dim=fn.event_dim)
        msg["value"] = self.values[name] = value
        # The density of the guide is that of the guide, whatever the model does to its own.
        msg["scale"], msg["mask"] = 1.0, None

    def _pyro_post_sample(self, msg: Any) -> None:
        if len(self.values) == len(self.layout) and msg["name"] in self.values:
            raise _AllPlaced


class Guide(ModelGuide):
    """A distribution of all latent variables of a model as one vector, in unconstrained space.

    Arguments:
        init_scale: The first standard deviation of each variable.

    Attributes:
        dim: The number D of unconstrained latent variables, 0 before the guide has met its model.
        layout: Where each latent site lies in the vector.
    """

    def __init__(self, init_scale: float = 0.1) -> None:
        super().__init__()
        if not init_scale > 0:
            raise ValueError(f"init_scale={init_scale}: the first standard deviation is positive.")
        self.init_scale = init_scale
        self.dim = 0
        self.layout: dict[str, Slot] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The latent sites that the guide draws, in the order of the model."""
        return tuple(self.layout)

    def untrained(self) -> "Guide":
        """A guide of the same kind and options that has not met a model."""
        fresh = without_parts(self)
        fresh.layout, fresh.dim = {}, 0
        return fresh

    def forward(self, model: Callable[..., Any], x: Tensor, *context: Any) -> dict[str, Tensor]:
        """Draws the latent variables of a model, as sites of the same names.

        Arguments:
            model: The model.
            x: The data, with shape :math:`(N, *)`.
            context: What the model conditions on.

        Returns:
            The values by site.
        """
        if not self.layout:
            self.prepare(model, x, *context)
        vector = pyro.sample(AUXILIARY, self.distribution(), infer={"is_auxiliary": True})
        place = _Place(self.layout, vector)
        try:
            with place, no_completion():
                model(x, *context)
        except _AllPlaced:
            pass
        return place.values

    def prepare(self, model: Callable[..., Any], x: Tensor, *context: Any, leave: Collection[str] = ()) -> None:
        """Makes the parameters for the continuous latent variables of a model.

        Arguments:
            model: The model.
            x: The data, with shape :math:`(N, *)`.
            context: What the model conditions on.
            leave: Names of latent sites that are not this guide's.

        Raises:
            ValueError: There is no latent variable left for the guide.
        """
        survey = _Survey(leave)
        with torch.no_grad(), pyro.poutine.block(), survey, no_completion():
            model(x, *context)
        if not survey.start:
            raise ValueError(
                f"{type(self).__name__} finds no continuous latent variable that the program's own guide leaves to "
                "it: a guide for local ones is made with AmortisedFlow."
            )
        offset = 0
        for name, u in survey.start.items():
            self.layout[name] = Slot(offset, u.numel(), u.shape, None)
            offset += u.numel()
        self.dim = offset
        self.build(torch.cat([u.reshape(-1) for u in survey.start.values()]))

    def build(self, start: Tensor) -> None:
        """Makes the parameters.

        Arguments:
            start: The first location, with shape :math:`(D)`.
        """
        raise NotImplementedError

    def distribution(self) -> Any:
        """The distribution of the vector v, with event shape :math:`(D)`."""
        raise NotImplementedError

    def transport(self, u: Tensor) -> tuple[Tensor, Tensor]:
        r"""The map from standard normal noise to v.

        Arguments:
            u: Noise, with shape :math:`(*, D)`.

        Returns:
            v with shape :math:`(*, D)`, and :math:`\log |\det \partial v / \partial u|` with shape :math:`(*)`.
        """
        raise NotImplementedError

    def inverse(self, v: Tensor) -> Tensor:
        """The inverse of :meth:`transport`, with shape :math:`(*, D)`."""
        raise NotImplementedError
