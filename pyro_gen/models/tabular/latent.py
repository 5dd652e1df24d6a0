r"""Rows of a table decoded from latent variables: the decoder, and a guide that adds up evidence.

.. math::
    z_n \sim \mathcal{N}(0, I_K), \qquad h_n = b + W z_n + \mathrm{NN}_\theta(z_n), \qquad
    W \sim \mathcal{N}(0, 1), \quad \theta \sim \mathcal{N}(0, \lambda^{-1}) .

The linear part is a factor analysis, which is all that a small table supports; a network is added to it. What
:math:`h` says of the entries of a row is for each program to say.

The guide knows what factor analysis knows, that evidence about :math:`z` adds up over the entries that were seen,

.. math::
    q(z \mid x_o) = \mathcal{N}(P^{-1} v, P^{-1}), \qquad P = I + \sum_{f \in o} e^{\tau_f} a_f a_f^\top, \qquad
    v = \sum_{f \in o} e^{\tau_f} \phi_f a_f ,

with :math:`\phi` the standardised features of :mod:`pyro_gen.models.tabular.features`, and a network of features and
holes moves its mean and stretches its scales. So it is right for any pattern of holes where the model is linear and
normal.

References:
    | Maximum Likelihood Factor Analysis (Rubin & Thayer, 1982): the guide, where all is linear and normal
    | Multimodal Generative Models for Scalable Weakly-Supervised Learning (Wu & Goodman, 2018): a product of experts
    | https://arxiv.org/abs/1802.05335
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_gen._random import seeded
from pyro_gen.data.column import Column
from pyro_gen.models.tabular.ensemble import Ensemble
from pyro_gen.models.tabular.features import Features
from pyro_gen.models.tabular.latent_start import scatter, start
from pyro_gen.models.tabular.latent_training import DECAYS, train
from pyro_gen.models.tabular.table import LearningProgress

__all__ = ["LatentTable"]


class LatentTable(Ensemble):
    r"""What programs share that decode rows of a table from latent variables.

    Arguments:
        columns: The D columns, as the working scale has them.
        latent: The number K of latent dimensions.
        hidden: The widths of the decoder's hidden layers, the guide's has the last one; none for a linear decoder.
        members: The number E of members of the ensemble.
        particles: Latent draws of each member for a row, in imputation.
        steps: Gradient steps of the training, at most.
        shapes: The shapes of the parameters that a program has besides, by name.
        more: How many numbers the decoder's network gives besides those that it adds to the features.

    Attributes:
        features: The F features of the columns.
        decay: The precisions :math:`\lambda` of the prior of the networks' weights, with shape :math:`(E)`.

    Raises:
        ValueError: A size is not positive, or as by :class:`TableProgram`.
    """

    decay: Tensor

    def __init__(
        self,
        columns: Sequence[Column],
        latent: int,
        hidden: Sequence[int],
        members: int,
        particles: int,
        steps: int,
        shapes: Mapping[str, tuple[int, ...]],
        more: int = 0,
    ) -> None:
        super().__init__(columns, latent, members, particles)
        if not isinstance(steps, int) or steps < 1:
            raise ValueError(f"{type(self).__name__}(steps={steps!r}): give a positive whole number.")
        self.features, self.hidden, self.steps = Features(columns), tuple(hidden), steps
        f = len(self.features)
        self.decoder_sizes = (latent, *hidden, f + more) if hidden else ()
        self.encoder_sizes = (2 * f, hidden[-1], 2 * latent) if hidden else ()
        every: dict[str, tuple[int, ...]] = {
            "offset": (f,),  # b
            "loadings": (f, latent),  # W
            **shapes,
            "experts": (f, latent),  # a
            "log_precision": (f,),  # tau
        }
        for net, sizes in (("decoder", self.decoder_sizes), ("encoder", self.encoder_sizes)):
            for i, (before, after) in enumerate(pairwise(sizes)):
                every[f"{net}_weight_{i}"], every[f"{net}_bias_{i}"] = (before, after), (after,)
        self.weights = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(members, *shape)) for name, shape in every.items() if 0 not in shape}
        )
        self.register_buffer("decay", torch.full((members,), DECAYS[1]))
        scatter(self)

    def network(self, name: str, h: Tensor) -> Tensor:
        """The output of ``"decoder"`` or ``"encoder"``, layers of tanh, for inputs (*, I)."""
        w = self.current
        layers = len(self.decoder_sizes if name == "decoder" else self.encoder_sizes) - 1
        for i in range(layers):
            h = h @ w[f"{name}_weight_{i}"] + w[f"{name}_bias_{i}"]
            h = torch.tanh(h) if i < layers - 1 else h
        return h

    def log_prior(self, decay: Tensor) -> Tensor:
        """The log-density of the prior of a member's parameters, up to a constant.

        Arguments:
            decay: The precision of the networks' weights.
        """
        w = self.current
        networks = sum((p.square().sum() for n, p in w.items() if "_weight_" in n), start=torch.zeros_like(decay))
        return -0.5 * decay * networks - 0.5 * w["loadings"].square().sum()

    def prior(self) -> Any:
        """The prior :math:`p(z)`."""
        return dist.Normal(self.current["offset"].new_zeros(self.latent), 1.0).to_event(1)

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The features :math:`h` (*, F) that latent variables (*, K) stand for, and what else the network says."""
        w = self.current
        h = z @ w["loadings"].mT + w["offset"]
        if not self.decoder_sizes:
            return h, h[..., :0]
        out = self.network("decoder", z)
        return h + out[..., : h.shape[-1]], out[..., h.shape[-1] :]

    def guide(self, x: Tensor, *context: Any) -> None:
        r"""The approximate posterior :math:`q(z \mid x_o)` of rows with shape :math:`(N, D)`."""
        with self.plate(x):
            pyro.sample("z", self.posterior(x, *context))  # (N, K)

    def evidence(self, x: Tensor, *context: Tensor) -> tuple[Tensor, Tensor]:
        r"""What entries say of the latent variables: :math:`\phi` and the precisions :math:`e^\tau`, each (N, F)."""
        w = self.current
        phi, seen = self.features(x.to(w["offset"].dtype))
        return phi, seen * w["log_precision"].exp()

    def posterior(self, x: Tensor, *context: Tensor) -> Any:
        w = self.current
        phi, precision = self.evidence(x, *context)  # (N, F) each
        a = w["experts"]  # (F, K)
        outer = (a.unsqueeze(-1) * a.unsqueeze(-2)).flatten(1)  # (F, K K)
        total = torch.eye(self.latent).to(a) + (precision @ outer).unflatten(-1, (self.latent, self.latent))  # P
        tril = dist.MultivariateNormal(a.new_zeros(self.latent), precision_matrix=total, validate_args=False).scale_tril
        shift = (precision * phi) @ a  # v, (N, K)
        loc = (tril @ (tril.mT @ shift.unsqueeze(-1))).squeeze(-1)
        if self.encoder_sizes:
            move, stretch = self.network("encoder", torch.cat([phi, (precision > 0).to(phi)], -1)).chunk(2, -1)
            loc, tril = loc + move, stretch.clamp(-3.0, 3.0).exp().unsqueeze(-1) * tril
        return dist.MultivariateNormal(loc, scale_tril=tril, validate_args=False)

    def numbers_per_row(self) -> int:
        return max(
            self.latent, *self.decoder_sizes, len(self.columns), len(self.features.depths) * self.features.levels
        )

    def start(self, x: Tensor) -> Tensor:
        """Gives parameters the values that training starts from, see :func:`.latent_start.start`."""
        return start(self, x)

    def learn(
        self, x: Tensor, *, seed: int = 0, progress: LearningProgress | None = None, deadline: float | None = None
    ) -> Self:
        """Trains the members, see :mod:`pyro_gen.models.tabular.latent_training` and :meth:`TableProgram.learn`."""
        if x.dim() != 2 or x.shape[1:] != self.event_shape:
            raise ValueError(
                f"{type(self).__name__}.learn: x has shape {tuple(x.shape)}, expected (N, {len(self.columns)})."
            )
        x = x[(~torch.isnan(x)).any(1)]
        if not len(x):
            raise ValueError(f"{type(self).__name__}.learn: no entry of x was seen: give rows with numbers in them.")
        self.to(x.device)
        with seeded(seed):
            train(self, x, seed, progress, deadline)
        if progress is not None:
            progress(1.0, f"{self.members} decoders")
        return self
