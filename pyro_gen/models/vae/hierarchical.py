r"""The hierarchical variational autoencoder: several stochastic layers, and two ways to infer them.

.. math::
    z_L \sim p(z_L), \qquad
    z_l \mid z_{l+1} \sim \mathcal{N}\big(\mu_l(z_{l+1}), \operatorname{diag} \sigma_l(z_{l+1})^2\big), \qquad
    x \mid z_1 \sim p\big(x \mid f(z_1)\big) .

The law of the highest layer is the standard normal one or learned (:mod:`pyro_gen.models.vae.parts.priors`).

*Bottom up* (Burda et al., 2016), the posterior is a chain from the data, each layer seeing the one below:

.. math:: q(z_{1:L} \mid x) = q(z_1 \mid x) \prod_{l > 1} q(z_l \mid z_{l-1}) .

The means :math:`\mu_l` then start with a spread of about one over draws of the layer above. Networks as they start have
a tenth of it, by which the upper layers end unused; inferred top down, it is the lower ones that end so with more.

*Top down* (the ladder of Sønderby et al., 2016), a deterministic pass upwards, :math:`d_0 = x` and
:math:`d_l = \mathrm{NN}_l(d_{l-1})`, the last layer of each network with its activation too, says what the data tell of
each layer, :math:`\mathcal{N}(\hat\mu_l, \hat\sigma_l^2)`, linear in :math:`d_l` (before the scale is made positive).
The layers are then drawn in the order of the model, each from the product of that and its prior,

.. math::
    q(z_l \mid z_{l+1}, x) \propto \mathcal{N}(z_l; \hat\mu_l, \hat\sigma_l^2) \, p(z_l \mid z_{l+1}), \qquad
    \frac{1}{\sigma_{q,l}^2} = \frac{1}{\hat\sigma_l^2} + \frac{1}{\sigma_l^2}, \quad
    \mu_{q,l} = \sigma_{q,l}^2 \Big( \frac{\hat\mu_l}{\hat\sigma_l^2} + \frac{\mu_l}{\sigma_l^2} \Big) ;

under a learned law the highest is drawn from what the data tell alone.

All scales have a floor of 0.05: a prior and the product made of it otherwise narrow each other without end where a
dimension is not used. It costs little, since the networks that read :math:`z_l` choose its unit.

Where the data say nothing, :math:`\hat\sigma_l \to \infty`, the layer is drawn from its prior. Layers tend to end
there, unused, the upper ones first; ``ELBO(free_bits=...)`` keeps them in use (``examples/hierarchical_vae.py``).

References:
    | Importance Weighted Autoencoders (Burda, Grosse & Salakhutdinov, 2016)
    | https://arxiv.org/abs/1509.00519
    | Ladder Variational Autoencoders (Sønderby et al., 2016)
    | https://arxiv.org/abs/1602.02282
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_gen._sizes import check_sizes, check_widths
from pyro_gen.data.small import binary_rows
from pyro_gen.heads import Head
from pyro_gen.models.vae.parts.encoded import EncodedProgram
from pyro_gen.models.vae.parts.posteriors import normal
from pyro_gen.models.vae.parts.priors import StandardPrior, VampPrior, make_prior
from pyro_gen.nets import ACTIVATIONS, MLP
from pyro_gen.observation import observe
from pyro_gen.registry import model

__all__ = ["HierarchicalVAE"]

INFERENCE = ("bottom up", "top down")
SCALE_FLOOR = 0.05  # of a layer given the one above, and of what the data say of it
MEAN_GAIN = 8.0  # of the last weights towards a layer's mean given the one above, so that its spread starts at about 1


def small_hierarchy(inference: str, latent: Sequence[int] = (3, 2), prior: str = "standard") -> tuple[Any, Tensor]:
    """A small instance, and data to try it on."""
    hidden = (8, 6, 5)[: len(latent)]
    return HierarchicalVAE(6, latent, hidden, inference=inference, prior=prior), binary_rows(9, 6)


@model(
    "hierarchical variational autoencoder",
    paper="Burda et al. (2016), Sønderby et al. (2016)",
    small={
        "bottom up": partial(small_hierarchy, "bottom up"),
        "top down": partial(small_hierarchy, "top down"),
        "three layers": partial(small_hierarchy, "top down", (3, 2, 1)),
        "prior mixture": partial(small_hierarchy, "top down", (3, 2), "mixture"),
    },
)
class HierarchicalVAE(EncodedProgram):
    r"""Creates a hierarchical variational autoencoder.

    Arguments:
        event_shape: The shape of one datum, or the number of its entries.
        latent: The numbers of latent dimensions of :math:`z_1, \dots, z_L`, from the data up.
        hidden: The widths of the layers of the networks, one for each stochastic layer: each network between
            :math:`z_{l-1}` and :math:`z_l` has ``depth`` hidden layers of the l-th width.
        likelihood: The name of a likelihood head in :data:`pyro_gen.heads.HEADS`, or a head.
        inference: ``"top down"`` or ``"bottom up"``.
        activation: The name of the activation in :data:`pyro_gen.nets.ACTIVATIONS`.
        depth: The number of hidden layers of each network.
        dropout: The share of hidden units dropped in training.
        prior: The law of the highest layer, as for :class:`~pyro_gen.models.vae.vae.VAE`, but no ``"vamp"``, which
            needs its posterior given the data alone; a module of one's own is called with ``None``.
        head_options: Passed to the likelihood head, ``levels=17`` say.

    Raises:
        ValueError: There is no likelihood, activation, inference or prior of that name, or the numbers do not fit.

    Example:
        >>> import torch
        >>> vae = HierarchicalVAE((8, 8), latent=(10, 5), hidden=(64, 32))
        >>> vae.model(torch.full((5, 8, 8), torch.nan)).shape  # five generated images
        torch.Size([5, 8, 8])
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        latent: Sequence[int] = (16, 8),
        hidden: Sequence[int] = (200, 100),
        likelihood: str | Head = "bernoulli",
        inference: str = "top down",
        activation: str = "relu",
        depth: int = 2,
        dropout: float = 0.0,
        prior: str | nn.Module = "standard",
        **head_options: Any,
    ) -> None:
        super().__init__(event_shape, likelihood, **head_options)
        if inference not in INFERENCE:
            raise ValueError(f'HierarchicalVAE(inference={inference!r}): give "bottom up" or "top down".')
        check_widths(self, latent=latent, hidden=hidden)
        check_sizes(self, 0, depth=depth)
        if len(latent) == 0 or len(latent) != len(hidden):
            raise ValueError(
                f"HierarchicalVAE(latent={tuple(latent)}, hidden={tuple(hidden)}): give one number of dimensions and "
                "one width for each stochastic layer."
            )
        self.latent, widths = tuple(latent), list(hidden)
        self.inference, self.layers = inference, len(self.latent)
        self.highest = make_prior(prior, self.latent[-1], self.event_shape)
        if isinstance(self.highest, VampPrior):
            raise ValueError('HierarchicalVAE(prior="vamp"): the highest layer is inferred from draws of those below.')

        def network(before: int, width: int, after: int, missing: bool = False) -> MLP:
            return MLP((before, *[width] * depth, after), activation, dropout, missing=missing)

        features = self.likelihood.features
        self.decoder = nn.Sequential(network(latent[0], widths[0], features.numel()), nn.Unflatten(-1, features))
        # priors[l] has the mean and raw scale of z_l given z_{l+1}
        self.priors = nn.ModuleList(
            network(above, width, 2 * below) for (below, above), width in zip(pairwise(latent), widths[1:], strict=True)
        )
        # upwards[l] leads from layer l - 1 to what is said of z_l (bottom up), or to d_l (top down)
        up = inference == "bottom up"
        sizes = [self.event_shape.numel(), *(latent if up else widths)]
        ends = [2 * k for k in latent] if up else widths
        networks = [
            network(before, width, after, missing=i == 0)
            for i, (before, width, after) in enumerate(zip(sizes, widths, ends, strict=False))
        ]
        if up:
            with torch.no_grad():
                for between, below in zip(self.priors, latent, strict=False):
                    last: Any = list(between.children())[-1]
                    last.weight[:below] *= MEAN_GAIN
        else:
            for one in networks:
                one.append(ACTIVATIONS[activation]())
        self.upwards = nn.ModuleList(networks)
        self.readings = nn.ModuleList(nn.Linear(w, 2 * k) for w, k in zip(widths, () if up else latent, strict=False))

    def prior(self, l: int, above: Tensor | None) -> Any:  # noqa: E741  # the layer's index in the formulas
        """The law of layer ``l``, counted from 0, given the layer above, with shape (N, K)."""
        return self.highest(None) if above is None else normal(self.priors[l](above), SCALE_FLOOR)

    def model(self, x: Tensor) -> Tensor:
        r"""The joint density of data, with shape :math:`(N, *event)`, and all layers; returns the data completed."""
        with self.plate(x):
            z = None
            for l in reversed(range(self.layers)):  # noqa: E741
                z = pyro.sample(f"z{l + 1}", self.prior(l, z))  # (N, K)
            assert z is not None
            return observe("x", self.decode(z), x)

    def guide(self, x: Tensor) -> None:
        r"""The approximate posterior :math:`q(z_{1:L} \mid x_o)`."""
        with self.plate(x):
            d = self.centre(x).flatten(-len(self.event_shape))
            if self.inference == "bottom up":
                for l, network in enumerate(self.upwards):  # noqa: E741
                    d = pyro.sample(f"z{l + 1}", normal(network(d), SCALE_FLOOR))
                return
            said = []  # of each layer by the data
            for network, reading in zip(self.upwards, self.readings, strict=True):
                d = network(d)  # (N, width)
                said.append(normal(reading(d), SCALE_FLOOR).base_dist)
            z = None
            for l in reversed(range(self.layers)):  # noqa: E741
                learned = z is None and not isinstance(self.highest, StandardPrior)
                law = said[l].to_event(1) if learned else product(said[l], self.prior(l, z).base_dist)
                z = pyro.sample(f"z{l + 1}", law)


def product(a: Any, b: Any) -> Any:
    """The normal distribution whose density is proportional to the product of two of the same entries."""
    precision = a.scale**-2 + b.scale**-2
    loc = (a.loc * a.scale**-2 + b.loc * b.scale**-2) / precision
    return dist.Normal(loc, precision**-0.5).to_event(1)
