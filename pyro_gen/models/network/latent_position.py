r"""The latent position model: nodes have places in a space, and those that are near have edges.

.. math::
    \alpha \sim \mathcal{N}(0, 2^2), \qquad
    z_i \sim \mathcal{N}(0, s^2 I_D), \qquad
    \operatorname{logit} p(x_{ij} = 1 \mid z) = \alpha - \lVert z_i - z_j \rVert .

Two nodes near a third are near each other, which makes triangles, as friends of friends have it. Only distances count:
turned, mirrored or moved as a whole the places say the same, so draws are to be laid upon each other before they are
averaged, :func:`procrustes`. Places and :math:`\alpha` are global latent variables: :func:`pyro_gen.posterior` samples
them by Hamiltonian Monte Carlo, the guide is a normal of independent entries.

References:
    | Latent space approaches to social network analysis (Hoff, Raftery & Handcock, 2002)
    | https://doi.org/10.1198/016214502388618906
"""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_gen.data.small import network_rows
from pyro_gen.distributions.adjacency import Adjacency
from pyro_gen.inference.guides import Guide, MeanField
from pyro_gen.observation import observe
from pyro_gen.program import Program
from pyro_gen.registry import model

__all__ = ["LatentPosition", "procrustes"]


@model(
    "latent position model",
    paper="Hoff, Raftery & Handcock (2002)",
    small={"": lambda: (LatentPosition(5), network_rows(4, 5))},
)
class LatentPosition(Program):
    r"""Creates a latent position model of networks without directions, with shape :math:`(G, N, N)`.

    Arguments:
        nodes: The number of nodes :math:`N`.
        dims: The number of dimensions :math:`D` of the space.
        scale: The standard deviation :math:`s` of the places.

    Raises:
        ValueError: There are fewer than two nodes, or no dimension.

    Example:
        >>> program = LatentPosition(4)
        >>> program.model(torch.full((1, 4, 4), torch.nan)).shape
        torch.Size([1, 4, 4])
    """

    def __init__(self, nodes: int, dims: int = 2, scale: float = 2.0) -> None:
        super().__init__()
        if nodes < 2 or dims < 1:
            raise ValueError(f"LatentPosition({nodes}, {dims}): give 2 nodes and 1 dimension or more.")
        self.nodes, self.dims, self.scale = nodes, dims, scale
        self.event_shape = torch.Size((nodes, nodes))
        self._guide: Guide = MeanField()

    @property
    def given_guide(self) -> Guide:
        return self._guide

    def model(self, x: Tensor) -> Tensor:
        r"""The joint density of places and networks with shape :math:`(G, N, N)`; returns them completed."""
        alpha = pyro.sample("alpha", dist.Normal(x.new_zeros(()), 2.0))
        z = pyro.sample("z", dist.Normal(x.new_zeros(self.nodes, self.dims), self.scale).to_event(2))
        logits = alpha[..., None, None] - distances(z)
        with self.plate(x):
            return observe("x", Adjacency(dist.Bernoulli(logits=logits.unsqueeze(-3))), x)

    def guide(self, x: Tensor) -> Any:
        """A draw of places from a normal of independent entries."""
        return self._guide(self.model, x)


def distances(z: Tensor) -> Tensor:
    """Of all pairs of places (*, N, D), with shape (*, N, N); 1 on the diagonal, where the root has no gradient."""
    squared = (z.unsqueeze(-2) - z.unsqueeze(-3)).square().sum(-1)
    return (squared + torch.eye(z.shape[-2]).to(z) + torch.finfo(z.dtype).tiny).sqrt()


def procrustes(z: Tensor, reference: Tensor) -> Tensor:
    r"""Places (\*, N, D), moved, turned and mirrored to lie nearest to a reference (N, D).

    Example:
        >>> z = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 2.0]])
        >>> turned = torch.stack([3 - z[:, 1], z[:, 0]], 1)
        >>> torch.allclose(procrustes(turned, z), z, atol=1e-5)
        True
    """
    centre = reference.mean(-2, keepdim=True)
    z, target = z - z.mean(-2, keepdim=True), reference - centre
    u, _, vh = torch.linalg.svd(z.mT @ target)
    laid: Tensor = z @ (u @ vh) + centre
    return laid
