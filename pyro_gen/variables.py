r"""Data of several variables: an image and its label, two views of one thing, a table and its outcome.

Data may be a mapping or a tuple of tensors, one for each modelled variable, each with NaN where nothing was observed.
:class:`Variables` knows their names and shapes, and packs them into one tensor of all entries of a datum,

.. math:: x_n = (a_n, b_n, \dots) \in \mathbb{R}^D, \qquad D = D_a + D_b + \dots,

which is what everything below the public functions works with; :mod:`pyro_gen.packing` has the program for it.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_gen.data import as_tensor

__all__ = ["TupleViews", "Variables", "Views", "has_several", "items", "known_shapes"]


class Views(dict[str, Tensor]):
    """The variables of data by name, as parts of one tensor.

    Attributes:
        packed: That tensor.
    """

    packed: Tensor

    def __missing__(self, name: str) -> Tensor:
        raise KeyError(f"the data have no variable {name!r}, but {_quoted(self)}")


class TupleViews(tuple[Tensor, ...]):
    """The variables of data in order, as parts of one tensor.

    Attributes:
        packed: That tensor.
    """

    packed: Tensor


def has_several(x: Any) -> bool:
    """Whether data are several variables: a mapping, or a tuple of tensors, arrays or data frames."""
    if isinstance(x, Mapping):
        return True
    return isinstance(x, tuple) and len(x) > 0 and all(_is_array(part) for part in x)


def known_shapes(program: Any) -> "Variables | None":
    """The variables of a program, where its ``event_shape`` is a mapping or a tuple of shapes."""
    shapes = program.event_shape
    if isinstance(shapes, Mapping):
        hidden = tuple(program.hidden_variables)
        return Variables(tuple(shapes), tuple(map(torch.Size, shapes.values())), named=True, hidden=hidden)
    if isinstance(shapes, tuple) and any(not isinstance(size, int) for size in shapes):
        return Variables(tuple(range(len(shapes))), tuple(map(torch.Size, shapes)), named=False)
    return None


@dataclass(frozen=True)
class Variables:
    """Which variables a datum has, and of which shape.

    Attributes:
        names: Their names, or their numbers in a tuple.
        shapes: The shape of one datum of each.
        named: Whether data are a mapping.
        hidden: The names of those that data may lack, as they are never seen: they are NaN then. What is left may be a
            plain tensor, where it is one variable.

    Example:
        >>> data = {"image": torch.zeros(5, 2, 2), "label": torch.tensor([0, 1, 0, 1, 1])}
        >>> variables = Variables.of(data)
        >>> x = variables.pack(data)
        >>> x.shape, variables.unpack(x)["label"]
        (torch.Size([5, 5]), tensor([0., 1., 0., 1., 1.]))
    """

    names: tuple[Hashable, ...]
    shapes: tuple[torch.Size, ...]
    named: bool
    hidden: tuple[str, ...] = ()

    @property
    def seen(self) -> str | None:
        """The name of the variable that a plain tensor is, where all others are hidden."""
        left = [str(name) for name in self.names if name not in self.hidden]
        return left[0] if self.hidden and len(left) == 1 else None

    def with_hidden(self, data: Any) -> Any:
        """Data as a mapping or tuple of all variables, with NaN for hidden ones that they lack."""
        if not has_several(data) and self.seen is not None:
            data = {self.seen: as_tensor(data, f"variable {self.seen!r}")}
        lacking = [name for name in self.hidden if name not in data]
        if not lacking:
            return data
        like = next(_as_tensor(name, part) for name, part in items(data))
        shapes = dict(zip(self.names, self.shapes, strict=True))
        return {**data, **{name: like.new_full((len(like), *shapes[name]), torch.nan) for name in lacking}}

    @staticmethod
    def of(data: Any) -> "Variables":
        """The variables of some data.

        Raises:
            ValueError: There are none, or a name is no text.
        """
        named = isinstance(data, Mapping)
        if not data:
            raise ValueError("The data are an empty mapping: give a tensor for each variable.")
        names = tuple(data) if named else tuple(range(len(data)))
        if named and (wrong := [n for n in names if not isinstance(n, str)]):
            raise ValueError(f"The name of a variable is text, and {wrong[0]!r} is none.")
        shapes = tuple(_as_tensor(name, part).shape[1:] for name, part in items(data))
        return Variables(names, shapes, named)

    @property
    def event_shape(self) -> Any:
        """The shapes as ``program.event_shape`` has them, a mapping or a tuple."""
        return dict(zip(self.names, self.shapes, strict=True)) if self.named else self.shapes

    @property
    def numel(self) -> int:
        """The number D of entries of a datum."""
        return sum(shape.numel() for shape in self.shapes)

    def check(self, data: Any, who: str, dtype: torch.dtype | None = None) -> None:
        """Checks that data have these variables, of these shapes.

        Arguments:
            data: A mapping or a tuple.
            who: The program that has the variables, for errors.
            dtype: What it computes in, where that is known.

        Raises:
            ValueError: A variable lacks, is not known, or has another shape; they differ in their number of data; or
                whole numbers are too large for the precision.
        """
        data = self.with_hidden(data)
        if isinstance(data, Mapping) != self.named:
            what = "a mapping" if self.named else "a tuple"
            raise ValueError(f"{who} has several variables, {_quoted(self.names)}: give {what} of tensors of them.")
        found = tuple(data) if self.named else tuple(range(len(data)))
        if lacking := [name for name in self.names if name not in found]:
            raise ValueError(
                f"{who} has the variables {_quoted(self.names)}, and the data lack {_quoted(lacking)}: where nothing "
                "was observed of a variable, give NaN."
            )
        if unknown := [name for name in found if name not in self.names]:
            raise ValueError(
                f"{who} has the variables {_quoted(self.names)}, and not {_quoted(unknown)}: what is conditioned on, "
                "and not modelled, is given as context, after the data."
            )
        rows: dict[Hashable, int] = {}
        for name, shape in zip(self.names, self.shapes, strict=True):
            part = _as_tensor(name, data[name], dtype)
            rows[name] = len(part)
            if part.shape[1:] != shape:
                raise ValueError(
                    f"Variable {name!r} of {who} has shape {tuple(shape)} per datum, and was given data of shape "
                    f"{tuple(part.shape)}."
                )
        if len(set(rows.values())) > 1:
            counts = ", ".join(f"{n} of {name!r}" for name, n in rows.items())
            raise ValueError(f"The variables of {who} differ in their number of data: {counts}. Give as many of each.")

    def pack(self, data: Any) -> Tensor:
        """All entries in one tensor.

        Arguments:
            data: A mapping or a tuple of data, each with shape :math:`(N, *)`; whole numbers become floating.

        Returns:
            The entries with shape :math:`(N, D)`, in the widest precision of the parts.

        Raises:
            ValueError: A whole number is too large for double precision.
        """
        data = self.with_hidden(data)
        parts = [_as_tensor(name, data[name]) for name in self.names]
        dtype = parts[0].dtype
        for part in parts[1:]:
            dtype = torch.promote_types(dtype, part.dtype)
        return torch.cat([part.reshape(len(part), -1).to(dtype) for part in parts], 1)

    def join(self, parts: Mapping[Hashable, Tensor], lead: Sequence[int]) -> Tensor:
        """Tensors by variable, each with shape :math:`(*lead, *shape)`, as one, :math:`(*lead, D)`."""
        return torch.cat([parts[name].reshape(*lead, -1) for name in self.names], -1)

    def unpack(self, x: Tensor) -> Any:
        """The variables of packed data.

        Arguments:
            x: Data with shape :math:`(*, D)`, with any leading dimensions.

        Returns:
            A mapping or a tuple, each with shape :math:`(*, *shape)`.
        """
        parts = []
        for part, shape in zip(x.split([s.numel() for s in self.shapes], -1), self.shapes, strict=True):
            parts.append(part.reshape(*x.shape[:-1], *shape))
        views: Any = Views(zip(self.names, parts, strict=True)) if self.named else TupleViews(parts)  # type: ignore[arg-type]
        views.packed = x
        return views


def items(data: Any) -> list[tuple[Hashable, Any]]:
    """The variables of a mapping or a tuple with their names or numbers."""
    return list(data.items()) if isinstance(data, Mapping) else list(enumerate(data))


def _is_array(part: Any) -> bool:
    return isinstance(part, Tensor) or hasattr(part, "__array__") or hasattr(part, "columns")


def _as_tensor(name: Hashable, part: Any, dtype: torch.dtype | None = None) -> Tensor:
    """One variable as a floating tensor, with all of its digits; refused where a precision cannot tell labels apart."""
    known = str(getattr(part, "dtype", "")).removeprefix("torch.")
    largest = 0
    if known in ("int32", "uint32", "int64", "uint64") and len(part):
        largest = int(abs(part).max())
    limit = int(2 / torch.finfo(dtype or torch.float64).eps)
    if largest > limit:
        raise ValueError(
            f"Variable {name!r} has whole numbers beyond {limit}, which {'single' if limit < 2**25 else 'double'} "
            "precision cannot tell apart: number its values from 0 on."
        )
    wide = known == "float64" or largest > 2**24 or hasattr(part, "columns")
    return as_tensor(part, f"variable {name!r}", torch.float64 if wide else None)


def _quoted(names: Any) -> str:
    return ", ".join(repr(name) for name in names)
