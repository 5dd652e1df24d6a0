r"""The transfer matrix: a sum over all values on a rectangle, row by row.

With :math:`V_h(s)` the sum over all rows above row h that has the values s, its own weights included,

.. math:: V_{h+1}(s') = w_{h+1}(s') \sum_s \prod_j \psi_j(s_j, s'_j) \, V_h(s) ,

where :math:`w_h` has what stands within row h. The sum is taken variable by variable, a :math:`K \times K` matrix each,
which makes :math:`H W K^{W+1}` products of H rows. On a torus V has a second index, the values of the first row, and
the trace of the whole is taken.

References:
    | Statistics of the two-dimensional ferromagnet (Kramers & Wannier, 1941)
    | https://doi.org/10.1103/PhysRev.60.252
"""

import torch
from torch import Tensor

from pyro_gen.models.undirected.parts.graph import Lattice

__all__ = ["MAX_ENTRIES", "log_sum_of_rows"]

MAX_ENTRIES = 2**24  # of the vector, or on a torus the matrix


def log_sum_of_rows(log_base: Tensor, log_pairs: Tensor, lattice: Lattice) -> Tensor:
    """The logarithm of the sum over all values on a rectangle.

    Arguments:
        log_base: Log-weights of the values of each node, float64 with shape :math:`(n, K)`.
        log_pairs: Of those of both ends of each edge, with shape :math:`(E, K, K)`, in the order of the lattice.
        lattice: The rectangle.

    Returns:
        A scalar, in nats.
    """
    height, width, wraps = lattice
    levels = log_base.shape[1]
    right, down = _by_place(log_pairs, lattice)
    own = log_base.reshape(height, width, levels)
    if width > height:  # rows are to be short
        height, width = width, height
        right, down = down.transpose(0, 1), right.transpose(0, 1)
        own = own.transpose(0, 1)
    start = torch.eye(levels**width, dtype=own.dtype, device=own.device) if wraps else own.new_ones(levels**width, 1)
    weight = _row(own[0], right[0], wraps)
    scale = weight.max()
    v = start * (weight - scale).exp().unsqueeze(1)
    log_z = scale
    for h in range(1, height + wraps):
        for j in range(width):
            pair = down[h - 1, j]
            top = pair.max()
            log_z = log_z + top
            v = ((pair - top).exp().T @ v.reshape(levels**j, levels, -1)).reshape(v.shape)
        if h < height:
            weight = _row(own[h], right[h], wraps)
            top, most = weight.max(), v.max()
            v = v * ((weight - top).exp() / most).unsqueeze(1)
            log_z = log_z + top + most.log()
    return log_z + (v.diagonal().sum() if wraps else v.sum()).log()


def _by_place(log_pairs: Tensor, lattice: Lattice) -> tuple[Tensor, Tensor]:
    """The tables to the right of, and below, each node, (H, W, K, K) each; zeros where there is none."""
    there = torch.ones(*lattice[:2], 2, dtype=torch.bool, device=log_pairs.device)
    there[:, -1, 0] = there[-1, :, 1] = lattice.wraps
    tables = log_pairs.new_zeros(*there.shape, *log_pairs.shape[1:])
    tables[there] = log_pairs
    return tables[:, :, 0], tables[:, :, 1]


def _row(own: Tensor, right: Tensor, wraps: bool) -> Tensor:
    """Log-weights within a row, of all values of its W variables, with shape (K^W,)."""
    width, levels = own.shape
    total = own.new_zeros([levels] * width)
    for j in range(width):
        total = total + own[j].reshape([levels if d == j else 1 for d in range(width)])
        if j + 1 < width or wraps:
            nxt = (j + 1) % width
            table = right[j] if nxt > j else right[j].T
            total = total + table.reshape([levels if d in (j, nxt) else 1 for d in range(width)])
    return total.flatten()
