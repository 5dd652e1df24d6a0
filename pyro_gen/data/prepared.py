"""The data of a run: what a program is trained on and measured on, and what it went through."""

from typing import NamedTuple

from torch import Tensor

from pyro_gen.data.transforms import Transform

__all__ = ["Prepared"]


class Prepared(NamedTuple):
    """The data of an entry of the zoo.

    Attributes:
        train: Training data, before ``fit_transform``, with shape :math:`(N, *)`.
        validation: Held-out training data, before ``fit_transform``, or ``None``.
        test: Test data, as the program sees it.
        fit_transform: What training applies to each minibatch, or ``None``.
        transform: What the program's data went through, or ``None``.
        log_abs_det_jacobian: That of the test data, per datum in nats; ``None`` where the transform is no bijection.
        columns: Names of the columns of a table.
    """

    train: Tensor
    validation: Tensor | None
    test: Tensor
    fit_transform: Transform | None
    transform: Transform | None
    log_abs_det_jacobian: Tensor | None
    columns: tuple[str, ...] | None
