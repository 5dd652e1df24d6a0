r"""Kernel density estimation: a Gaussian on each training point.

.. math:: p(x) = \frac{1}{N} \sum_{n=1}^N \prod_{d=1}^D \mathcal{N}(x_d; x_{nd}, h_d^2) ,

a product kernel with a bandwidth :math:`h_d` for each entry, or one for all. It learns nothing but the bandwidth, which
makes it the baseline of every density of real numbers: its samples are training data with noise, and what it has in
likelihood above one Gaussian is what is to be had by memory.

The likelihood of the points themselves is greatest at :math:`h = 0`. So the bandwidth maximises the **leave-one-out**
likelihood,

.. math:: L(h) = \sum_n \log \frac{1}{N - 1} \sum_{m \ne n} \prod_d \mathcal{N}(x_{nd}; x_{md}, h_d^2) ,

in which no point is scored by itself. EM goes up from Scott's rule: with :math:`r_{nm}` the probability that datum n
came from point :math:`m \ne n`,

.. math:: h_d^2 \leftarrow \frac{1}{N} \sum_n \sum_{m \ne n} r_{nm} (x_{nd} - x_{md})^2 .

Missing entries drop out of the product, and are drawn from the points by how well these fit the seen ones.

References:
    | On Estimation of a Probability Density Function and Mode (Parzen, 1962)
    | https://doi.org/10.1214/aoms/1177704472
    | On the Choice of Smoothing Parameters for Parzen Estimators of Probability Density Functions (Duin, 1976)
    | https://doi.org/10.1109/TC.1976.1674577
"""

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from pyro.nn import PyroParam
from torch import Tensor
from torch.distributions import constraints

from pyro_gen._sizes import event_of
from pyro_gen.data.small import normal_rows
from pyro_gen.distributions.gaussian_kernels import ENTRIES, GaussianKernels
from pyro_gen.inference.objectives import LeaveOneOut
from pyro_gen.observation import observe
from pyro_gen.program import Program
from pyro_gen.registry import model

__all__ = ["KernelDensity"]

STEPS, TOLERANCE = 500, 1e-7  # of EM, and the relative change of the bandwidth at which it ends


def _small(bandwidth: str) -> tuple["KernelDensity", Tensor]:
    x = normal_rows(20, 2, 2)
    return KernelDensity((2, 2), bandwidth).initialise(x[:12]), x[12:]


@model(
    "kernel density estimate",
    paper="Parzen (1962)",
    small={"a bandwidth of each entry": lambda: _small("entry"), "one bandwidth": lambda: _small("shared")},
)
class KernelDensity(Program):
    r"""Creates a kernel density estimate; :func:`pyro_gen.fit` takes its points from the first 4,096 training data.

    Arguments:
        event_shape: The shape of one datum, or the number :math:`D` of its entries.
        bandwidth: ``"entry"``, one bandwidth :math:`h_d` for each entry, or ``"shared"``, one for all.
        min_bandwidth: The least bandwidth: of tied data the best one is 0.

    Attributes:
        points: The points :math:`x_n`, with shape :math:`(N, D)`; at first there are none.
        bandwidth: The bandwidths :math:`h`, with shape :math:`(D,)` or :math:`()`.

    Raises:
        ValueError: The shape is none, there is no bandwidth of that name, or the least one is not positive.

    Example:
        >>> x = normal_rows(200, 2)
        >>> density = KernelDensity(2).initialise(x)
        >>> bool((density.bandwidth > 0.2).all()), density.points.shape
        (True, torch.Size([200, 2]))
    """

    points: Tensor

    def __init__(self, event_shape: int | Sequence[int], bandwidth: str = "entry", min_bandwidth: float = 1e-3) -> None:
        super().__init__()
        if bandwidth not in ("entry", "shared"):
            raise ValueError(f'KernelDensity(bandwidth={bandwidth!r}): give "entry" or "shared".')
        if not 0 < min_bandwidth < math.inf:
            raise ValueError(f"KernelDensity(min_bandwidth={min_bandwidth!r}): give a positive number.")
        self.event_shape = event_of(self, event_shape)
        self.min_bandwidth = min_bandwidth
        shape = (self.event_shape.numel(),) if bandwidth == "entry" else ()
        self.bandwidth: Any = PyroParam(torch.ones(shape), constraint=constraints.positive)
        self.register_buffer("points", torch.empty(0, self.event_shape.numel()))
        self.objective = LeaveOneOut()

    def kernels(self) -> GaussianKernels:
        """The law of a datum as a row.

        Raises:
            ValueError: There are no points yet.
        """
        if len(self.points) == 0:
            raise ValueError("the KernelDensity has no points yet: pg.fit(program, x) or program.initialise(x).")
        return GaussianKernels(self.points, self.bandwidth.expand(self.points.shape[1]))

    def model(self, x: Tensor) -> Tensor:
        r"""The density :math:`p(x)` of data with shape :math:`(N, *event)`; returns it completed."""
        with self.plate(x):
            return observe("x", self.kernels(), x.flatten(1)).reshape(x.shape)

    def leave_one_out(self, x: Tensor) -> Tensor:
        """The log-density of training data by the points other than their own, the nearest; with shape (N,), nats.

        The nearest point is the datum itself, but where a transform draws noise anew at each epoch.
        """
        scored, filled, _ = self.kernels().marginalise(x.flatten(1))
        log_kernels = scored.log_kernels(filled)
        own = log_kernels.argmax(1, keepdim=True)
        others = log_kernels.scatter(1, own, -torch.inf)
        return others.logsumexp(1) - math.log(len(self.points) - 1)

    def initialise(self, x: Tensor, *context: Any, seed: int = 0) -> Self:
        """Takes the points and the bandwidth of best leave-one-out likelihood; the first time only.

        Arguments:
            x: Data, with shape :math:`(N, *event)`.
            context: Not used.
            seed: Not used: nothing is drawn.

        Raises:
            ValueError: There are fewer than two data, or entries are missing.
        """
        if len(self.points) == 0:
            if len(x) < 2 or x.isnan().any():
                raise ValueError(
                    f"KernelDensity: points are two complete data at least, got {len(x)} with {int(x.isnan().sum())} "
                    "missing entries: leave rows with holes out, or complete them first."
                )
            self.points = x.flatten(1).to(self.points)
            with torch.no_grad():
                self._ascend()
        return super().initialise(x, *context, seed=seed)

    def _ascend(self) -> None:
        """EM from Scott's rule, in double precision."""
        x = self.points.double()
        n, d = x.shape
        h = (x.std(0) * n ** (-1 / (d + 4))).clamp(min=self.min_bandwidth)
        for _ in range(STEPS):
            squares = self._moved(x, h) / n
            new = (squares if self.bandwidth.dim() else squares.mean().expand(d)).sqrt().clamp(min=self.min_bandwidth)
            change, h = ((new - h).abs() / h).max(), new
            if change < TOLERANCE:
                break
        self.bandwidth = (h if self.bandwidth.dim() else h[0]).to(self.points)

    @staticmethod
    def _moved(x: Tensor, h: Tensor) -> Tensor:
        """The sum over data of the expected squared distance to the point that they came from, with shape (D,)."""
        kernels, total = GaussianKernels(x, h), torch.zeros_like(h)
        size = max(1, ENTRIES // len(x))
        for start in range(0, len(x), size):
            rows = x[start : start + size]
            log_kernels = kernels.log_kernels(rows)
            log_kernels[torch.arange(len(rows)), start + torch.arange(len(rows))] = -torch.inf
            r = log_kernels.softmax(1)
            total += (rows.square() - 2 * rows * (r @ x) + r @ x.square()).sum(0)
        return total.clamp(min=0.0)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        if (points := state_dict.get(f"{prefix}points")) is not None:
            self.points = self.points.new_empty(points.shape)  # as many as there are
        super()._load_from_state_dict(state_dict, prefix, *args)
