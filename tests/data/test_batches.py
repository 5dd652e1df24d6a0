import itertools
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from pyro_gen.data import Batches, Binarize, DynamicBinarize


class Squares(Dataset[object]):
    """Items i, or (i, i^2), or whatever is asked for."""

    def __init__(self, n: int, item: str = "pair") -> None:
        self.n, self.item = n, item

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> object:
        x = torch.tensor([float(i), 0.0])
        return {
            "x": x,
            "integer": torch.tensor([i, 0]),
            "pair": (x, i * i),
            "array": np.array([i, 0], dtype=np.float32),
            "text": "abc",
            "dict": {"x": x},
            "ragged": torch.zeros(i + 1),
        }[self.item]


def rows(batches: Batches, epoch: int) -> list[list[float]]:
    return [x.flatten().tolist() for x, *_ in batches.epoch(epoch)]


@pytest.mark.parametrize(("n", "size", "steps"), [(10, 3, 4), (9, 3, 3), (2, 5, 1), (1, 1, 1)])
def test_an_epoch_is_a_permutation(n: int, size: int, steps: int) -> None:
    batches = Batches(torch.arange(float(n)), size, seed=0)
    seen = rows(batches, 0)
    assert len(batches) == len(seen) == steps
    assert sorted(itertools.chain(*seen)) == list(range(n))
    assert all(len(batch) == size for batch in seen[:-1])
    assert batches.size == n and batches.event_shape == ()


def test_order_is_a_function_of_seed_and_epoch(untouched_rng: None) -> None:
    x = torch.arange(100.0)
    batches = Batches(x, 8, seed=1)
    seventh = rows(batches, 7)
    assert rows(batches, 3) != seventh
    # A resumed run, whatever happened before.
    torch.manual_seed(0)
    assert rows(Batches(x, 8, seed=1), 7) == seventh
    assert rows(Batches(x, 8, seed=2), 7) != seventh
    # Epoch e of seed s is not epoch e' of seed s' with the same sum.
    orders = {tuple(itertools.chain(*rows(Batches(x, 8, seed=s), e))) for s in range(10) for e in range(10)}
    assert len(orders) == 100


def test_interleaved_epochs_do_not_mix() -> None:
    batches = Batches(torch.full((20, 30), 8.0), 4, seed=0, transform=DynamicBinarize(17))
    alone = [torch.cat([x for (x,) in batches.epoch(e)]) for e in (0, 1)]
    pairs = list(zip(batches.epoch(0), batches.epoch(1), strict=True))
    for e in (0, 1):
        assert torch.equal(torch.cat([pair[e][0] for pair in pairs]), alone[e])


@pytest.mark.parametrize(("n", "size", "world"), [(64, 16, 4), (100, 12, 3), (101, 16, 4), (7, 16, 4)])
def test_ranks_share_out_the_batch_of_one_process(n: int, size: int, world: int) -> None:
    x = torch.randn(n)
    single = Batches(x, size, seed=0)
    ranks = [Batches(x, size, seed=0, rank=r, world_size=world) for r in range(world)]
    assert len({len(batches) for batches in ranks}) == 1
    for epoch in range(3):
        whole = rows(single, epoch)
        slices = list(zip(*(rows(batches, epoch) for batches in ranks), strict=True))
        assert len(slices) == len(ranks[0])
        for full, parts in zip(whole, slices, strict=False):
            joined = list(itertools.chain(*parts))
            assert joined == full[: len(full) // world * world]
            # What DDP computes, the mean of the means, is the mean of the global batch.
            assert np.mean([np.mean(part) for part in parts]) == pytest.approx(np.mean(joined), abs=1e-6)


def test_unequal_slices_would_bias_the_average() -> None:
    """Why the remainder is given up: near-equal slices and a plain mean over ranks."""
    parts = torch.arange(10.0).square().tensor_split(4)
    means = torch.stack([part.mean() for part in parts])
    assert abs(means.mean().item() - torch.cat(parts).mean().item()) > 0.5


def test_every_datum_comes_up_in_spite_of_the_remainder() -> None:
    batches = [Batches(torch.arange(15.0), 4, seed=0, rank=r, world_size=4) for r in range(4)]
    seen = {value for epoch in range(20) for b in batches for batch in rows(b, epoch) for value in batch}
    assert seen == set(range(15))


def test_context_goes_along() -> None:
    x = torch.arange(20.0)[:, None]
    label = torch.arange(20) * 2
    batches = Batches((x, label, np.arange(20.0) + 0.5), 6, seed=0)
    for first, second, third in batches.epoch(0):
        assert torch.equal(second, first.flatten().long() * 2) and second.dtype == torch.int64
        assert torch.equal(third, first.flatten().double() + 0.5)
    assert batches.event_shape == (1,)


def test_all_that_holds_a_table() -> None:
    values = np.arange(12.0).reshape(6, 2)
    sources = [
        values,
        pd.DataFrame(values),
        values.tolist(),
        torch.tensor(values).float(),
        TensorDataset(torch.tensor(values).float()),
        torch.arange(12).reshape(6, 2),
    ]
    epochs = [torch.cat([x for (x,) in Batches(source, 4, seed=0).epoch(2)]) for source in sources]
    for epoch in epochs:
        assert epoch.dtype == torch.float32 and torch.equal(epoch, epochs[0])


@pytest.mark.parametrize("item", ["x", "integer", "pair", "array"])
def test_map_style_data_sets(item: str) -> None:
    batches = Batches(Squares(11, item), 4, seed=0)
    assert batches.size == 11 and batches.event_shape == (2,) and len(batches) == 3
    in_memory = Batches(torch.arange(11.0), 4, seed=0)
    for (x, *context), (index,) in zip(batches.epoch(1), in_memory.epoch(1), strict=True):
        assert torch.equal(x[:, 0], index) and x.dtype == torch.float32
        assert len(context) == (item == "pair")
        if context:
            assert torch.equal(context[0], index.long() ** 2)


def test_transform_sees_x_alone_and_draws_afresh() -> None:
    x = torch.full((12, 40), 8.0)
    batches = Batches((x, torch.arange(12)), 12, seed=0, transform=DynamicBinarize(17))
    (first, context), (second, _) = next(batches.epoch(0)), next(batches.epoch(1))
    assert set(first.unique().tolist()) == {0.0, 1.0} and not torch.equal(first, second)
    assert sorted(context.tolist()) == list(range(12))
    assert torch.equal(first, next(batches.epoch(0))[0])
    # Steps and ranks draw on their own.
    many = [b for (b, _) in Batches((x, torch.arange(12)), 4, seed=0, transform=DynamicBinarize(17)).epoch(0)]
    ranks = [
        next(Batches(x, 8, seed=0, transform=DynamicBinarize(17), rank=r, world_size=2).epoch(0))[0] for r in (0, 1)
    ]
    for draws in (many, ranks):
        assert all(not torch.equal(a, b) for a, b in itertools.combinations(draws, 2))


def test_anyones_transform_draws_reproducibly(untouched_rng: None) -> None:
    def noisy(x: Tensor) -> Tensor:
        return x + torch.randn_like(x)

    batches = Batches(torch.zeros(6, 3), 2, seed=0, transform=noisy)
    first, again = ([x for (x,) in batches.epoch(0)] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])
    plain = Batches(torch.zeros(6, 3), 2, seed=0, transform=Binarize(-1.0))
    assert all((x == 1).all() for (x,) in plain.epoch(0))


def test_missing_values_pass() -> None:
    (x,) = next(Batches(torch.tensor([[1.0, float("nan")]]), 4, seed=0).epoch(0))
    assert x.isnan().tolist() == [[False, True]]


def test_errors() -> None:
    x = torch.zeros(6, 2)
    for bad in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match="batch_size: expected a positive integer"):
            Batches(x, bad, seed=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="multiple of the 4 processes, got 6; 8 would do"):
        Batches(x, 6, seed=0, world_size=4)
    with pytest.raises(ValueError, match="at least one datum for each of 8 processes, got 6"):
        Batches(x, 8, seed=0, world_size=8)
    with pytest.raises(ValueError, match="rank"):
        Batches(x, 8, seed=0, rank=2, world_size=2)
    with pytest.raises(ValueError, match="empty tuple"):
        Batches((), 2, seed=0)
    with pytest.raises(ValueError, match=r"data: .*infinite"):
        Batches(x + float("inf"), 2, seed=0)
    with pytest.raises(ValueError, match="on meta, x on cpu"):
        Batches((x, torch.zeros(6, device="meta")), 2, seed=0)
    with pytest.raises(ValueError, match="empty"):
        Batches(Squares(0), 2, seed=0)
    for item in ("text", "dict"):
        with pytest.raises(TypeError, match="tensors or tuples of tensors"):
            Batches(Squares(5, item), 2, seed=0)
    with pytest.raises(TypeError, match="do not stack"):
        next(Batches(Squares(5, "ragged"), 5, seed=0).epoch(0))

    class Stream(IterableDataset[Tensor]):
        def __iter__(self) -> Iterator[Tensor]:
            yield torch.zeros(2)

    with pytest.raises(TypeError, match="map-style"):
        Batches(Stream(), 2, seed=0)


def test_context_without_rows_is_handed_on_whole():
    x, weights, names = torch.zeros(6, 2), torch.zeros(5), {"a": [torch.zeros(6)]}
    for batch in Batches(
        (x, torch.arange(6), weights, names, "text", None, True, 0.5, [1, 2, 3, 4, 5, 6]), 2, seed=0
    ).epoch(0):
        assert len(batch[0]) == len(batch[1]) == len(batch[8]) == 2
        assert batch[2] is weights and batch[3] is names
        assert batch[4:8] == ("text", None, True, 0.5)
