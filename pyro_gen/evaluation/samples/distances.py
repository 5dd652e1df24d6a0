r"""How far samples are from real data, by features of either: the Frechet distance and the kernel distance.

The Frechet distance takes both sets of features for Gaussian,

.. math:: d^2 = \|\mu_s - \mu_r\|^2 + \operatorname{tr}(\Sigma_s + \Sigma_r - 2 (\Sigma_s \Sigma_r)^{1/2}),

and is biased: two samples of one law are not at distance 0 but at about :math:`D^2 / 4 n` or more, which is why what
other real data have stands beside. The kernel distance is the unbiased estimate of the squared maximum mean discrepancy
by the kernel :math:`k(x, y) = (x^\top y / D + 1)^3`,

.. math:: \frac{1}{n (n - 1)} \sum_{i \ne j} k(s_i, s_j) + \frac{1}{m (m - 1)} \sum_{i \ne j} k(r_i, r_j)
          - \frac{2}{n m} \sum_{i, j} k(s_i, r_j);

of equal laws its expectation is 0, so it may be below. Both are as good as the features: they see nothing else.

References:
    | GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium (Heusel et al., 2017)
    | https://arxiv.org/abs/1706.08500
    | Demystifying MMD GANs (Binkowski et al., 2018)
    | https://arxiv.org/abs/1801.01401
"""

import math

import torch
from torch import Tensor

from pyro_gen.evaluation.samples.result import SampleFigure, errors, figures, rows

__all__ = ["frechet", "frechet_distance", "kernel_distance", "polynomial_mmd", "relative_frechet_distance"]


def frechet_distance(samples: Tensor, real: Tensor, other: Tensor | None = None) -> SampleFigure:
    """The Frechet distance of samples to real data; lower is better.

    Arguments:
        samples: Features of the samples, with shape :math:`(N, D)`.
        real: Features of real data, with shape :math:`(N_r, D)`.
        other: Features of other real data, for what real data are at; as many as samples.

    Raises:
        ValueError: There are too few rows, or values are missing.

    Example:
        >>> x = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0))
        >>> found = frechet_distance(x[:2000] + 1.0, x[2000:], x[:2000])
        >>> abs(found.value - 3.0) < 4 * found.standard_error, found.real.value < 0.02
        (True, True)
    """
    return figures(lambda s, r: frechet(s, r)[None], samples, real, other)[0]


def relative_frechet_distance(samples: Tensor, real: Tensor, other: Tensor) -> SampleFigure:
    """The Frechet distance of samples to real data over that of other real data: 1 of a perfect model.

    The real data are the same in both, so its errors are those of the ratio. ``data_error`` is from both sets of real
    data, ``real`` the distance that it is divided by.

    Arguments:
        samples: Features of the samples, with shape :math:`(N, D)`.
        real: Features of real data, with shape :math:`(N_r, D)`.
        other: Features of other real data, as many as samples.

    Raises:
        ValueError: There are too few rows, or values are missing.
    """

    def ratio(s: Tensor, r: Tensor, o: Tensor) -> Tensor:
        beside = frechet(o, r)
        return torch.stack([frechet(s, r) / beside, beside])

    sets = rows(samples, "samples"), rows(real, "real data"), rows(other, "other real data")
    (value, beside), (of_draws, of_real, of_other) = ratio(*sets).tolist(), torch.stack(errors(ratio, *sets)).tolist()
    distance = SampleFigure(beside, of_other[1], of_real[1])
    return SampleFigure(value, of_draws[0], math.hypot(of_real[0], of_other[0]), distance)


def frechet(s: Tensor, r: Tensor) -> Tensor:
    """The squared Frechet distance of two sets of features, with shapes (N, D) and (M, D)."""
    means = (s.mean(0) - r.mean(0)).square().sum()
    s, r = _centred(s), _centred(r)
    # tr (S R)^(1/2) with S = s' s and R = r' r is the sum of the singular values of s r', which are those of the
    # product of the triangles of their QR decompositions: no square root of a matrix that rounding made indefinite.
    root = torch.linalg.svdvals(torch.linalg.qr(s, mode="r").R @ torch.linalg.qr(r, mode="r").R.T).sum()
    distance: Tensor = means + s.square().sum() + r.square().sum() - 2 * root
    return distance


def _centred(x: Tensor) -> Tensor:
    """Rows whose sum of outer products is the covariance of ``x``."""
    rows: Tensor = (x - x.mean(0)) / (len(x) - 1) ** 0.5
    return rows


def kernel_distance(samples: Tensor, real: Tensor, other: Tensor | None = None) -> SampleFigure:
    """The kernel distance of samples to real data, unbiased; lower is better, 0 the expectation of equal laws.

    Arguments:
        samples: Features of the samples, with shape :math:`(N, D)`.
        real: Features of real data, with shape :math:`(N_r, D)`.
        other: Features of other real data, for what real data are at.

    Raises:
        ValueError: There are too few rows, or values are missing.

    Example:
        >>> x = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))
        >>> found = kernel_distance(x[:1000] + 1.0, x[1000:], x[:1000])
        >>> found.value > 4 * found.standard_error, abs(found.real.value) < 4 * found.real.standard_error
        (True, True)
    """
    return figures(lambda s, r: polynomial_mmd(s, r)[None], samples, real, other)[0]


def polynomial_mmd(s: Tensor, r: Tensor) -> Tensor:
    """The squared maximum mean discrepancy of two sets, unbiased, with shapes (N, D) and (M, D)."""
    return _mean_of_pairs(s) + _mean_of_pairs(r) - 2 * _kernel_sum(s, r) / (len(s) * len(r))


def _kernel_sum(x: Tensor, y: Tensor) -> Tensor:
    """The sum of the kernel over all pairs."""
    return torch.stack([((part @ y.T / x.shape[1] + 1) ** 3).sum() for part in x.split(1024)]).sum()


def _mean_of_pairs(x: Tensor) -> Tensor:
    """The mean of the kernel of two different rows."""
    themselves: Tensor = (x.square().sum(1) / x.shape[1] + 1) ** 3
    return (_kernel_sum(x, x) - themselves.sum()) / (len(x) * (len(x) - 1))
