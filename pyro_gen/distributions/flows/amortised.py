"""A flow given the output of an encoder: a posterior of local latent variables, or any conditional density."""

from collections.abc import Sequence

from torch import Tensor, nn

from pyro_gen.distributions.flows.autoregressive import Transport
from pyro_gen.distributions.flows.bijection import FlowDistribution

__all__ = ["AmortisedFlow"]


class AmortisedFlow(nn.Module):
    r"""A conditional density :math:`q(z \mid h)` on :math:`\mathbb{R}^D`, for local latent variables in a guide.

    Arguments:
        features: The size F of the context, an encoder's output. With 2 D or more the first D entries are the means
            and the next D the log-scales of the normal distribution that the layers begin from, before training.
        dim: The number D of latent dimensions.
        kind: ``"affine"``, ``"spline"``, ``"affine-coupling"`` or ``"coupling"``, see :class:`Transport`. A bound of
            several particles, or a likelihood by importance sampling, needs the density of given values: coupling
            layers are fastest there.
        layers: The number of layers.
        hidden: Units in each hidden layer of the networks.
        bins: Bins of the splines.

    Example:
        >>> import pyro, torch
        >>> import pyro.distributions as dist
        >>> import pyro_gen as pg
        >>> from pyro_gen.distributions.flows import AmortisedFlow
        >>> class Model(pg.Program):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.encoder = torch.nn.Linear(3, 8)
        ...         self.flow = AmortisedFlow(8, 2, "coupling")
        ...     def model(self, x):
        ...         with self.plate(x):
        ...             z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        ...             loc = torch.stack([z[..., 0], z[..., 0] ** 2, z[..., 1]], -1)
        ...             return pg.observe("x", dist.Normal(loc, 0.5).to_event(1), x)
        ...     def guide(self, x):
        ...         with self.plate(x):
        ...             pyro.sample("z", self.flow(self.encoder(x)))
        >>> Model().flow(torch.zeros(5, 8))().shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        features: int,
        dim: int,
        kind: str = "spline",
        layers: int = 3,
        hidden: Sequence[int] = (64, 64),
        bins: int = 8,
    ) -> None:
        super().__init__()
        if features < 1 or dim < 1:
            raise ValueError(f"AmortisedFlow(features={features}, dim={dim}): both are positive.")
        self.features = features
        self.transport = Transport(dim, features, kind, layers, hidden, bins)
        if self.transport.head is not None and features >= 2 * dim:
            nn.init.eye_(self.transport.head.weight)

    def forward(self, h: Tensor) -> FlowDistribution:
        """Creates the distribution given a context.

        Arguments:
            h: The context, with shape :math:`(*, F)`.

        Returns:
            The distribution, with batch shape :math:`(*)` and event shape :math:`(D)`.

        Raises:
            ValueError: The context has another size.
        """
        if h.shape[-1:] != (self.transport.features,):
            raise ValueError(
                f"The flow was made for a context of {self.transport.features} features and was given shape "
                f"{tuple(h.shape)}."
            )
        return FlowDistribution(self.transport, h, h.shape[:-1])
