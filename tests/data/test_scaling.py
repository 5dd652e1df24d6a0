import copy
import math
import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from pyro_gen.data import Column, Scaling, Schema

NAN = float("nan")


def same_tensor(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)


def test_scaling_by_hand() -> None:
    schema = Schema(
        (
            Column("real", "real", integer=True, lower=0),
            Column("positive", "positive"),
            Column("bounded", "bounded", lower=10, upper=20),
            Column("count", "count"),
            Column("binary", "binary", ("n", "y")),
            Column("constant", "real"),
        )
    )
    encoded = torch.tensor(
        [
            [1.0, math.exp(1), 10.0, 0.0, 1.0, 7.0],
            [3.0, math.exp(3), 12.0, 3.0, 0.0, NAN],
            [NAN, NAN, 20.0, NAN, NAN, 7.0],
            [5.0, NAN, NAN, 9.0, 1.0, 7.0],
        ],
        dtype=torch.float64,
    )
    scaling = Scaling.fit(schema, encoded)
    assert scaling.columns == (
        Column("real", "real"),
        Column("positive", "real"),
        Column("bounded", "real"),
        replace(schema.columns[3], upper=15.0),  # programs are told where counts end
        schema.columns[4],
        Column("constant", "real"),
    )
    working = scaling.forward(encoded)
    root = math.sqrt(8 / 3)
    expected = torch.tensor([-2 / root, 0, NAN, 2 / root], dtype=torch.float64)
    torch.testing.assert_close(working[:, 0], expected, equal_nan=True)
    assert working[:2, 1].tolist() == pytest.approx([-1, 1])
    # The smallest distance from an edge is 0.2 of the width, so the edges lie at 0.1 and 0.9.
    logits = np.log([1 / 9, 1 / 4, 9])
    assert scaling.edge[2] == pytest.approx(0.1)
    assert working[:3, 2].tolist() == pytest.approx(((logits - logits.mean()) / logits.std()).tolist())
    assert same_tensor(working[:, 3:5], encoded[:, 3:5])
    assert working[:, 5].nan_to_num(0).tolist() == [0] * 4
    back = scaling.inverse(working)
    assert torch.equal(back.isnan(), encoded.isnan())
    torch.testing.assert_close(back, encoded, rtol=1e-12, atol=1e-12, equal_nan=True)
    assert back[0, 2] == 10 and back[2, 2] == 20  # the edges themselves
    # The inverse never leaves the limits, nor the numbers.
    far = scaling.inverse(torch.tensor([[-1e6] * 6, [1e6] * 6], dtype=torch.float64))
    assert far.isfinite().all() and (far[:, 1] > 0).all() and far[:, 2].tolist() == [10, 20]


def test_scaling_takes_any_leading_shape_and_device_dtype() -> None:
    schema = Schema((Column("a", "real"), Column("b", "positive"), Column("c", "bounded", lower=0, upper=9)))
    encoded = torch.tensor([[1.0, 2.0, 0.0], [NAN, 3.0, 4.0], [-1.0, NAN, 8.0], [5.0, 1.0, NAN]], dtype=torch.float64)
    scaling = Scaling.fit(schema, encoded)
    before = encoded.clone()
    working = scaling.forward(encoded)
    assert same_tensor(scaling.forward(encoded.expand(3, 2, *encoded.shape))[2, 1], working)
    assert same_tensor(scaling.inverse(working.expand(5, *working.shape))[4], scaling.inverse(working))
    assert same_tensor(scaling.forward(encoded[3]), working[3]) and same_tensor(encoded, before)
    assert scaling.forward(encoded.float()).dtype == torch.float32
    for other in (copy.copy(scaling), copy.deepcopy(scaling), pickle.loads(pickle.dumps(scaling))):
        assert other == scaling and same_tensor(other.forward(encoded), working)


def test_scaling_uses_what_was_observed_and_nothing_else() -> None:
    schema = Schema((Column("a", "real"), Column("b", "positive")))
    generator = torch.Generator().manual_seed(0)
    encoded = (torch.randn(100, 2, generator=generator, dtype=torch.float64) + 5).abs()
    holed = encoded.clone()
    holed[::3] = NAN
    kept = encoded[[i for i in range(100) if i % 3]]
    assert Scaling.fit(schema, holed) == Scaling.fit(schema, kept) != Scaling.fit(schema, encoded)
    working = Scaling.fit(schema, kept).forward(kept)
    torch.testing.assert_close(working.mean(0), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(working.std(0, correction=0), torch.ones(2, dtype=torch.float64))


def test_slope_is_that_of_autograd() -> None:
    columns = (Column("a", "real"), Column("b", "positive"), Column("c", "bounded", lower=-2, upper=3))
    schema = Schema((*columns, Column("d", "count"), Column("e", "ordinal", levels=(1, 2, 3))))
    encoded = torch.tensor([[1.0, 0.3, 1.5, 4.0, 2.0], [7.0, 90.0, -1.9, 0.0, 1.0]], dtype=torch.float64)
    scaling = Scaling.fit(schema, encoded)
    encoded.requires_grad_()
    (slope,) = torch.autograd.grad(scaling.forward(encoded).sum(), encoded)
    torch.testing.assert_close(scaling.log_abs_det(encoded.detach()), slope.log())
    # What lies on an edge is taken for where `forward` puts it; nothing is said of what is missing.
    edges = torch.tensor([[NAN, 0.0, -2.0, NAN, 1.0]], dtype=torch.float64)
    inside = edges.clone()
    inside[0, 1], inside[0, 2] = scaling.edge[1], -2 + 5 * scaling.edge[2]
    torch.testing.assert_close(scaling.log_abs_det(edges), scaling.log_abs_det(inside), equal_nan=True)
    assert scaling.log_abs_det(edges).isnan().tolist() == [[True, False, False, True, False]]


def test_scaling_of_extreme_numbers() -> None:
    for values in ([1e308, -1e308], [1e-320, 3e-320], [1e16, 1e16 + 2], [0.1 + 1e-17] * 7):
        encoded = torch.tensor(values, dtype=torch.float64)[:, None]
        scaling = Scaling.fit(Schema((Column("a", "real"),)), encoded)
        working = scaling.forward(encoded)
        assert working.isfinite().all() and working.abs().max() < 2, values
        if len(set(values)) == 1:
            assert (working == 0).all() and scaling.scale == (1.0,)
    # A bounded column all of which lies on its edges; one so near to them that the distance is nothing.
    column = Schema((Column("a", "bounded", lower=0, upper=1),))
    for values, expected in (([0.0, 1.0, 1.0], [0, 1, 1]), ([0.0, 1e-12, 0.5, 1.0], [0, 0, 0.5, 1])):
        encoded = torch.tensor(values, dtype=torch.float64)[:, None]
        scaling = Scaling.fit(column, encoded)
        assert scaling.inverse(scaling.forward(encoded))[:, 0].tolist() == pytest.approx(expected)


def test_scaling_of_zeros_in_positive_columns() -> None:
    schema = Schema((Column("a", "positive"),))
    train = torch.tensor([[2.0], [8.0], [NAN]], dtype=torch.float64)
    scaling = Scaling.fit(schema, train)
    # As 1, half of the smallest, which is as far below 4, the centre, as 16 is above; what is smaller stays smaller.
    new = torch.tensor([[0.0], [1.0], [16.0], [0.125], [NAN]], dtype=torch.float64)
    assert scaling.forward(new)[:, 0].nan_to_num(9).tolist() == pytest.approx([-2, -2, 2, -5, 9])
    table = pd.DataFrame({"a": [0.0, 1.0, NAN]})
    assert schema.encode(table)[:2, 0].tolist() == [0, 1]
    assert schema.decode(torch.full((3, 1), 5.0), table)["a"].tolist() == [0, 1, 5]
    zeros = torch.zeros(3, 1, dtype=torch.float64)
    assert Scaling.fit(schema, zeros).forward(zeros).tolist() == [[0.0]] * 3


def test_scaling_of_what_it_cannot_scale() -> None:
    schema = Schema((Column("a", "real"), Column("b", "real")))
    with pytest.raises(ValueError, match="no observed value in column 'b'"):
        Scaling.fit(schema, torch.tensor([[1.0, NAN]]))
    with pytest.raises(ValueError, match=r"encoded has shape \(3, 1\), expected \(N, 2\)"):
        Scaling.fit(schema, torch.zeros(3, 1))


def test_draws_of_exponentials_end_beyond_what_was_observed():
    schema = Schema((Column("income", "positive"), Column("visits", "count")))
    income = torch.tensor([1.0, 10.0, 100.0]).double()
    scaling = Scaling.fit(schema, torch.stack([income, torch.tensor([0.0, 1.0, 7.0]).double()], 1))
    far = torch.tensor([[50.0, 1e6], [-50.0, 0.0]], dtype=torch.float64)
    # Half the distance in logarithms from the median to the extreme, beyond it; of counts plus one.
    expected = torch.tensor([[100 * 10**0.5, 15.0], [10**-0.5, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(scaling.inverse(far), expected)


def few(rows: int = 30) -> tuple[Schema, Tensor]:
    """Columns of three, of many and of two numbers, and one that is positive; the first with a hole."""
    index = torch.arange(rows, dtype=torch.float64)
    encoded = torch.stack([index % 3 - 0.5, index, (index % 2) * 4 - 1, 2 ** (index % 4)], 1)
    encoded[0, 0] = NAN
    kinds = ("real", "real", "real", "positive")
    return Schema(tuple(Column(f"x{i}", kind) for i, kind in enumerate(kinds))), encoded


def test_columns_of_a_few_numbers_become_levels_where_asked_for():
    schema, encoded = few()
    scaling = Scaling.fit(schema, encoded, levels=True)
    assert scaling.levels == ((-0.5, 0.5, 1.5), (), (-1.0, 3.0), (1.0, 2.0, 4.0, 8.0))
    assert [column.kind for column in scaling.columns] == ["ordinal", "real", "ordinal", "ordinal"]
    assert scaling.columns[0].levels == (-0.5, 0.5, 1.5) and scaling.curved == []
    working = scaling.forward(encoded)
    assert working[:6, 0].nan_to_num(-1).tolist() == [-1, 1, 2, 0, 1, 2] and working[:4, 2].tolist() == [0, 1, 0, 1]
    torch.testing.assert_close(scaling.inverse(working), encoded, equal_nan=True)
    assert torch.equal(scaling.log_abs_det(encoded)[1:, [0, 2, 3]], torch.zeros(29, 3, dtype=torch.float64))
    new = torch.tensor([[0.9, 100.0, -7.0, 2.9], [9.0, NAN, 1.5, 3.1]], dtype=torch.float64)
    assert scaling.forward(new)[:, [0, 2, 3]].tolist() == [[1, 0, 1], [2, 1, 2]]  # the nearest
    assert Scaling.fit(schema, encoded).levels == ((),) * 4
    assert not any(column.discrete for column in Scaling.fit(schema, encoded).columns)


def test_numbers_that_few_rows_share_are_no_levels():
    schema, encoded = few(rows=14)  # 13 seen of three numbers, 14 of two, 14 of four
    assert [len(levels) for levels in Scaling.fit(schema, encoded, levels=True).levels] == [0, 0, 2, 0]
    constant = torch.full((20, 4), 3.0)
    assert Scaling.fit(schema, constant, levels=True).levels == ((),) * 4
    many = torch.arange(260.0).remainder(13).reshape(-1, 1).expand(-1, 4) + 1
    assert Scaling.fit(schema, many, levels=True).levels == ((),) * 4
    assert len(Scaling.fit(schema, many.clamp(max=12), levels=True).levels[0]) == 12


def test_a_number_that_most_rows_have_is_an_atom_where_asked_for():
    apart = [0.5, 1.0, 2.5, 7.0, -3.0]
    columns = [[0.3] * 25 + apart, [0.0] * 25 + [abs(v) for v in apart], [*apart, 9.0] * 5]
    table = torch.tensor(columns, dtype=torch.float64).T
    schema = Schema(tuple(Column(name, "real") for name in "abc"))
    assert all(column.atom is None for column in Scaling.fit(schema, table).columns)
    scaling = Scaling.fit(schema, table, atoms=True)
    x = scaling.forward(table)
    assert scaling.columns[2].atom is None  # none of its numbers is there five times as often as the others
    assert scaling.atoms[:2] == (0.3, 0.0) and scaling.sides == (0, 1, 0)
    assert [column.atom for column in scaling.columns[:2]] == x[0, :2].tolist()
    assert torch.equal(scaling.inverse(x)[:25, :2], table[:25, :2])  # to the last digit
    below = x[:1, :2] - torch.tensor([[1.0, 1.0]])
    assert scaling.inverse(torch.cat([below, x[:1, 2:]], 1))[0, 1] == 0.0  # no number was below
    assert scaling.inverse(torch.cat([below, x[:1, 2:]], 1))[0, 0] < 0.3
    slope = scaling.log_abs_det(table)
    assert bool((slope[:25, :2] == 0).all()) and bool((slope[25:] != 0).all())  # a probability has no slope


@pytest.mark.parametrize(
    ("values", "atom"),
    [
        ([0.0] * 9 + [0.1 * k for k in range(1, 20)], None),  # too few rows
        ([0.0] * 12 + [0.1 * k for k in range(1, 200)], None),  # less than a tenth of them
        ([0.0] * 14 + [1.0] * 3 + [0.1 * k for k in range(1, 20)], None),  # not five times as many as another
        ([0.0] * 15 + [1.0] * 3 + [0.1 * k + 0.01 for k in range(1, 20)], 0.0),
        ([2.0] * 40, None),  # a constant
    ],
)
def test_what_an_atom_is(values, atom):
    scaling = Scaling.fit(Schema((Column("a", "real"),)), torch.tensor(values).double().unsqueeze(1), atoms=True)
    assert scaling.atoms == (atom,)


def test_an_atom_that_is_named_need_not_be_found():
    values = torch.tensor([0.0] * 3 + [0.1 * k for k in range(1, 20)]).double().unsqueeze(1)
    schema = Schema((Column("a", "real", atom=0.0),))
    assert Scaling.fit(schema, values, atoms=True).atoms == (0.0,)
    assert Scaling.fit(schema, values).atoms == (None,)
    with pytest.raises(ValueError, match="an atom is for real columns, not for count"):
        Column("a", "count", atom=0.0)
    with pytest.raises(ValueError, match="atom=inf is not finite"):
        Column("a", "real", atom=math.inf)


def test_the_edge_of_a_bounded_column_can_be_an_atom():
    table = torch.tensor([0.0] * 40 + [3.0, 10.0, 20.0, 55.0, 90.0]).double().unsqueeze(1)
    scaling = Scaling.fit(Schema((Column("share", "bounded", lower=0, upper=100),)), table, atoms=True)
    x = scaling.forward(table)
    assert scaling.columns[0].atom == x[0, 0].item()
    torch.testing.assert_close(scaling.inverse(x), table)
    assert scaling.inverse(x)[0].item() == 0.0


def test_a_limit_is_never_passed_and_nothing_that_was_observed_is_moved():
    columns = (Column("low", "real", lower=0), Column("both", "real", lower=-1, upper=3), Column("at", "real", lower=0))
    encoded = torch.tensor([[2.0, -0.5, 0.0], [5.0, 1.0, 1.0], [9.0, 2.0, 4.0]], dtype=torch.float64)
    scaling = Scaling.fit(Schema(columns), encoded)
    free = Scaling.fit(Schema(tuple(Column(c.name, "real") for c in columns)), encoded)
    assert torch.equal(scaling.forward(encoded), free.forward(encoded))
    torch.testing.assert_close(scaling.inverse(free.forward(encoded)), encoded)
    line = torch.linspace(-40, 40, 401, dtype=torch.float64)[:, None].expand(-1, 3)
    back = scaling.inverse(free.forward(line))
    assert (back >= torch.tensor([0.0, -1.0, 0.0])).all() and (back[:, 1] <= 3).all()
    assert (back.diff(dim=0) >= 0).all() and (free.inverse(free.forward(line)) < 0).any()  # the twin: without limits
    near = (line > 1.5) & (line < 2) & torch.tensor([True, False, False])
    assert (back[:, 0].unique() < 2).sum() > 50 and (back[near] > 1.5).all()  # squeezed there, not piled up
    assert (back[line[:, 2] < 0, 2] == 0).all()  # where numbers at the limit were observed they do
    # Forward undoes it, with the slope of autograd.
    inside = torch.tensor([[0.7, -0.9, 0.5], [1.9, 2.7, 3.0]], dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(scaling.inverse(scaling.forward(inside)), inside)
    (slope,) = torch.autograd.grad(scaling.forward(inside).sum(), inside)
    torch.testing.assert_close(scaling.log_abs_det(inside.detach()), slope.log())
    beyond = torch.tensor([[-4.0, 7.0, -1.0]], dtype=torch.float64)  # as if at the limit, on the line
    assert scaling.line(scaling.forward(beyond))[0].tolist() == pytest.approx([0.0, 3.0, -1.0])
