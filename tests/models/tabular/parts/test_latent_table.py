"""Features of mixed columns."""

import torch

from pyro_gen.data.column import Column
from pyro_gen.models.tabular.parts.latent_table import Features

NAN = torch.nan
COLUMNS = [
    Column("town", "nominal", ("a", "b", "c")),
    Column("visits", "count"),
    Column("mood", "ordinal", ("low", "mid", "high")),
    Column("height", "real"),
    Column("smokes", "binary", ("no", "yes")),
    Column("kind", "nominal", ("u", "v")),
]
ROWS = torch.tensor([[2.0, 3.0, 1.0, 0.5, 0.0, 1.0], [0.0, NAN, 2.0, -1.0, 1.0, NAN], [NAN, 0.0, NAN, NAN, NAN, 0.0]])


def test_features_of_rows():
    features = Features(COLUMNS)
    assert len(features) == 9 and features.parts == [1, 1, 2, 5]
    expected = torch.tensor(
        [
            [0.5, 4.0, 0.0, 1.0, 0, 0, 1, 0, 1],  # height, log (1 + visits), smokes, mood, towns, kinds
            [-1.0, NAN, 1.0, 2.0, 1, 0, 0, NAN, NAN],
            [NAN, 1.0, NAN, NAN, NAN, NAN, NAN, 1, 0],
        ]
    )
    expected[:, 1] = expected[:, 1].log()
    assert torch.allclose(features.raw(ROWS), expected, equal_nan=True)


def test_levels_are_found_among_the_features():
    features = Features(COLUMNS)
    levels = torch.arange(5).index_select(0, features.nominal_at.flatten()).reshape(features.nominal_at.shape)
    assert levels[0].tolist() == [0, 1, 2] and levels[1, :2].tolist() == [3, 4]
    assert features.depths == [2, 3, 3, 2] and features.levels == 3  # smokes, mood, town, kind
    assert features.order.tolist() == [3, 1, 4, 2, 0, 5]


def test_standardised_features():
    features = Features(COLUMNS)
    features.standardise(features.raw(ROWS))
    phi, seen = features(ROWS)
    assert torch.equal(seen, ~features.raw(ROWS).isnan()) and (phi[~seen] == 0).all()
    for f in range(9):
        own = phi[seen[:, f], f]
        assert own.mean().abs() < 1e-6
        assert len(own.unique()) == 1 or (own.square().mean() - 1).abs() < 1e-5
