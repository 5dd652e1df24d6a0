r"""The covariance that a graph allows: entries at its edges as given, and zeros in the inverse elsewhere.

Of all covariances W with :math:`W_{ij} = \Sigma_{ij}` at :math:`i = j` and at edges, one has an inverse that is zero at
all other pairs; it has the largest determinant of them. With the covariance of data for :math:`\Sigma` it maximises
the likelihood of a Gaussian graphical model. A sweep sets the rows and columns in turn to the regression of one
variable on its neighbours,

.. math::
    W_{\mathrm{ne}(j), \mathrm{ne}(j)} \, \beta = \Sigma_{\mathrm{ne}(j), j}, \qquad W_{ij} = \sum_k W_{ik} \beta_k ,

until nothing changes. Of the inverse of a Wishart matrix it gives a draw from the Wishart law of precisions with the
zeros of the graph (G-Wishart).

References:
    | Covariance selection (Dempster, 1972)
    | https://doi.org/10.2307/2528966
    | The Elements of Statistical Learning (Hastie, Tibshirani & Friedman, 2009), algorithm 17.1
    | A direct sampler for G-Wishart variates (Lenkoski, 2013)
    | https://doi.org/10.1002/sta4.23
"""

import torch
from torch import Tensor

__all__ = ["select_covariance"]

MOST_SWEEPS = 1000


def select_covariance(covariance: Tensor, adjacency: Tensor, tolerance: float = 1e-10) -> Tensor:
    r"""The covariance with the entries of another at edges, whose inverse is zero at all other pairs.

    Arguments:
        covariance: The matrix :math:`\Sigma`, with shape :math:`(*, D, D)`.
        adjacency: Which pairs have an edge, symmetric booleans with shape :math:`(*, D, D)`.
        tolerance: By how much entries change in the last sweep at most, in units of the standard deviations.

    Raises:
        ValueError: A thousand sweeps do not suffice: the covariance is nearly singular.

    Example:
        >>> a = torch.tensor([[0, 1, 0], [1, 0, 1], [0, 1, 0]]).bool()
        >>> sigma = torch.tensor([[1.0, 0.6, 0.9], [0.6, 1.0, 0.5], [0.9, 0.5, 1.0]])
        >>> round(select_covariance(sigma, a)[0, 2].item(), 4)
        0.3
    """
    dtype, covariance = covariance.dtype, covariance.double()  # by single precision sweeps never settle
    shape = torch.broadcast_shapes(covariance.shape, adjacency.shape)
    scale = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    outer = scale.unsqueeze(-1) * scale.unsqueeze(-2)
    given = (covariance / outer).expand(shape)
    size = shape[-1]
    beside = (adjacency.bool() & ~torch.eye(size, dtype=torch.bool, device=covariance.device)).to(given.dtype)
    beside = beside.expand(shape)
    blocks = beside.unsqueeze(-1) * beside.unsqueeze(-2)  # (*, D, D, D): neighbours of each node
    apart = torch.diag_embed(1 - beside)
    w = given.clone()
    for _ in range(MOST_SWEEPS):
        before = w.clone()
        for j in range(size):
            beta = torch.linalg.solve(w * blocks[..., j, :, :] + apart[..., j, :, :], given[..., j] * beside[..., j, :])
            column = (w @ beta.unsqueeze(-1)).squeeze(-1)
            column[..., j] = given[..., j, j]
            w[..., j] = column
            w[..., j, :] = column
        if float((w - before).abs().max()) <= tolerance:
            return (w * outer).to(dtype)
    raise ValueError("select_covariance: a thousand sweeps do not suffice: the covariance is nearly singular.")
