"""The data of a run: what a program is trained on and measured on, and what it went through."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_gen.data.transforms import Transform

__all__ = ["FORMS", "Prepared", "few_labels", "rows_of", "with_context"]

#: What of a data set is modelled: its rows; rows and labels, ``x`` and ``y``; the outcome given the rows; the rows as
#: series given their steps; the rows given their label; or given themselves, which are to be translated; images given
#: their lower left quarter, which they lack.
FORMS = ("rows", "labelled", "outcome", "steps", "given_label", "given_rows", "quarter")


class Prepared(NamedTuple):
    """The data of an entry of the zoo.

    Attributes:
        train: Training data, before ``fit_transform``, with shape :math:`(N, *)`, or a mapping of such tensors.
        validation: Held-out training data, before ``fit_transform``, with their context behind if there is one, or
            ``None``.
        test: Test data, as the program sees it.
        fit_transform: What training applies to each minibatch, or ``None``.
        transform: What the program's data went through, or ``None``.
        log_abs_det_jacobian: That of the test data, per datum in nats; ``None`` where the transform is no bijection.
        columns: Names of the columns of a table.
        context: What training data are conditioned on, each with shape :math:`(N, *)`.
        test_context: The same of the test data.
    """

    train: Any
    validation: Any
    test: Any
    fit_transform: Transform | None
    transform: Transform | None
    log_abs_det_jacobian: Tensor | None
    columns: tuple[str, ...] | None
    context: tuple[Tensor, ...] = ()
    test_context: tuple[Tensor, ...] = ()

    @property
    def event_shape(self) -> Any:
        """The shape of one datum, or of each of its variables by name."""
        if isinstance(self.test, Mapping):
            return {name: value.shape[1:] for name, value in self.test.items()}
        return self.test.shape[1:]

    @property
    def rows(self) -> int:
        """The number of test data."""
        return len(next(iter(self.test.values())) if isinstance(self.test, Mapping) else self.test)


def with_context(x: Any, context: tuple[Tensor, ...]) -> Any:
    """Data with their context behind, as :func:`pyro_gen.fit` takes them."""
    return (x, *context) if context else x


def few_labels(labels: Tensor, per_class: int, seed: int = 0) -> Tensor:
    """As many labels of each class, chosen at random; the others are NaN: not known.

    Arguments:
        labels: Whole numbers, with shape (N,).
        per_class: How many of each are kept.
        seed: Chooses them.

    Example:
        >>> few_labels(torch.tensor([0, 0, 1, 1, 1]), 2).isnan().sum().item()
        1
    """
    generator = torch.Generator().manual_seed(seed)
    kept = torch.full(labels.shape, torch.nan)
    for k in labels.unique().tolist():
        rows = (labels == k).nonzero()[:, 0]
        kept[rows[torch.randperm(len(rows), generator=generator)[:per_class]]] = float(k)
    return kept


def rows_of(x: Any, rows: Tensor) -> Any:
    """Some rows of data, of each variable of a mapping, and of each part of a tuple."""
    if isinstance(x, Mapping):
        return {name: value[rows] for name, value in x.items()}
    if isinstance(x, tuple):
        return tuple(rows_of(part, rows) for part in x)
    return x[rows]
