import math
import pickle
from pathlib import Path

import pytest
import sklearn.datasets
import torch
from statsmodels.datasets import sunspots
from torch import Tensor

from pyro_gen.data import Binarize, DataSet, Dequantize, DynamicBinarize, StochasticBinarize, load
from pyro_gen.data.bif import network_file, read_bif
from pyro_gen.data.docstrings import docstrings
from pyro_gen.registry import DATA_SETS

SHAPES = {
    "breast_cancer": (569, (30,)),
    "diabetes": (442, (10,)),
    "digits": (1797, (8, 8)),
    "iris": (150, (4,)),
    "linnerud": (20, (3,)),
    "wine": (178, (13,)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_fifth_datum_is_test(name: str) -> None:
    data = load(name)
    total, event = SHAPES[name]
    assert data.name == name and data.event_shape == event
    assert len(data.test) == (total + 4) // 5 and len(data.train) == total - len(data.test)
    assert data.train.dtype == data.test.dtype == torch.get_default_dtype()
    original = getattr(sklearn.datasets, f"load_{name}")(**({"scaled": False} if name == "diabetes" else {}))
    flat = torch.tensor(original.data, dtype=torch.get_default_dtype())
    assert torch.equal(data.test.flatten(1), flat[::5])
    assert torch.equal(data.train.flatten(1), flat[torch.arange(total) % 5 != 0])
    assert torch.equal(data.test_target, torch.as_tensor(original.target[::5]).to(data.test_target.dtype))
    assert len(data.train_target) == len(data.train)
    if name == "digits":
        assert data.levels == 17 and data.columns is None
        assert data.train_target.dtype == torch.int64
    else:
        assert data.levels is None and data.columns == tuple(original.feature_names)


def test_moons_are_two_half_circles() -> None:
    data = load("moons")
    assert data.train.shape == (2000, 2) and data.test.shape == (500, 2)
    x, moon = data.train.double(), data.train_target
    centres = torch.tensor([[0.0, 0.0], [1.0, 0.5]]).double()[moon]
    off = (x - centres).norm(dim=-1) - 1  # of the circle: noise of standard deviation 0.1
    assert abs(off.std().item() - 0.1) < 0.01 and abs(off.mean().item()) < 0.02
    assert torch.equal(load("moons").test, data.test)


def test_networks_are_one_datum_each() -> None:
    karate, davis, novel = load("karate"), load("davis"), load("les_miserables")
    assert karate.train.shape == (1, 34, 34) and karate.train.sum() == 2 * 78
    assert karate.train_target is not None and karate.train_target.sum() == 17
    assert davis.train.shape == (1, 18, 14) and davis.train.sum() == 89 and davis.columns is not None
    assert davis.columns[0] == "E1" and davis.train[0, 0].sum() == 8  # Evelyn Jefferson was at eight events
    assert novel.train.sum() == 2 * 254 and torch.equal(novel.train[0], novel.train[0].T)
    assert novel.columns is not None and novel.columns[0] == "Napoleon"
    pairs = load("les_miserables_pairs")
    assert torch.equal(pairs.train.isnan(), ~pairs.test.isnan())
    both = torch.where(pairs.train.isnan(), pairs.test, pairs.train)
    assert torch.equal(both, novel.train) and torch.equal(pairs.train.isnan(), pairs.train.mT.isnan())
    assert 250 < int((~pairs.test.isnan()).triu(1).sum()) < 340


def test_sunspots_are_those_of_statsmodels() -> None:
    known = sunspots.load_pandas().data
    data = load("sunspots")
    assert data.train[0].tolist() == pytest.approx(known["SUNACTIVITY"].tolist())
    assert data.columns == tuple(f"{year:.0f}" for year in known["YEAR"])


def test_the_nile_is_one_series() -> None:
    data = load("nile")
    assert data.train.shape == (1, 100) and torch.equal(data.train, data.test)
    year = dict(zip(data.columns, data.train[0].tolist(), strict=True))
    assert year["1871"] == 1120 and year["1913"] == 456 and year["1970"] == 740
    assert data.train.mean().item() == pytest.approx(919.35)


@pytest.mark.parametrize("name", ["asia", "sachs", "insurance"])
def test_rows_of_a_network_follow_its_tables(name: str) -> None:
    data, network = load(name), read_bif(network_file(name))
    assert data.columns == tuple(network.parents) and (len(data.train), len(data.test)) == (4000, 1000)
    x = dict(zip(network.parents, torch.cat([data.train, data.test]).long().T, strict=True))
    for node, above in network.parents.items():
        table = network.tables[node]
        counts = torch.zeros_like(table).index_put_(
            tuple(x[n] for n in (*above, node)), torch.ones(5000).double(), accumulate=True
        )
        n = counts.sum(-1, keepdim=True)
        assert (counts[table == 0] == 0).all()
        z = (counts - n * table) / (n * table * (1 - table)).sqrt().clamp(min=1.0)
        assert z.abs().max() < 6  # 1,500 cells in all: by chance 1e-5, cells with few rows being the reason for 6
    # The twin: the last node's table with its values swapped.
    swapped = (counts - n * table.flip(-1)) / (n * table.flip(-1) * (1 - table.flip(-1))).sqrt().clamp(min=1.0)
    assert swapped.abs().max() > 6


def test_pupils_in_schools() -> None:
    data = load("schools")
    assert data.columns == ("intake", "school") and data.train.shape == (1600, 2)
    counts = torch.bincount(data.train[:, 1].long(), minlength=150)
    assert len(counts) == 150 and counts.median() < 10 < counts.max()


def test_co2_is_one_series_with_gaps() -> None:
    data = load("co2")
    assert data.train.shape == (1, 526) and int(data.train.isnan().sum()) == 5
    month = dict(zip(data.columns, data.train[0].tolist(), strict=True))
    assert month["1958-03"] == pytest.approx(316.1) and math.isnan(month["1958-06"]) and math.isnan(month["1964-04"])
    assert month["2001-12"] == pytest.approx(371.02) and data.columns[-1] == "2001-12"
    assert data.train.nanmean().item() == pytest.approx(339.82, abs=0.01)


def test_the_digits_on_rate() -> None:
    data = load("digits", transform=Binarize(8.0))
    assert data.levels == 2
    assert torch.cat([data.train, data.test]).mean().item() == pytest.approx(0.323, abs=5e-4)


def test_mnist(mnist_root: Path) -> None:
    data = load("mnist", root=mnist_root)
    assert repr(data) == "DataSet('mnist', 60000 train, 10000 test, event shape (28, 28), 256 levels)"
    assert (data.train.min(), data.train.max()) == (0, 255)
    assert data.train_target[:5].tolist() == [5, 0, 4, 1, 9] and data.test_target[:5].tolist() == [7, 2, 1, 0, 4]
    # The well-known mean of the training pixels.
    assert data.train.double().mean().item() / 255 == pytest.approx(0.1307, abs=1e-4)


@pytest.mark.parametrize(("name", "kind"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_images_that_are_not_there(name: str, kind: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{name}: give the folder .* as root .*{kind}/raw"):
        load(name)
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=f"{kind}/raw/train-images-idx3-ubyte .*download=True"):
            load(name, root=root)
    assert not any(tmp_path.iterdir())


def test_docstrings_are_counts_of_words() -> None:
    data = load("docstrings")
    assert len(data.train) > 200 and len(data.test) > 50 and data.columns is not None
    assert len(data.columns) == data.train.shape[1] == data.test.shape[1] > 1500
    assert bool(((data.train > 0).sum(0) >= 4).all()) and not {"the", "of"} & set(data.columns)
    assert "Insert item x in list a" in docstrings()["bisect"] and "test.support" not in docstrings()


def test_unknown_name_lists_the_names() -> None:
    with pytest.raises(
        ValueError, match=r"no data set 'cifar'.*breast_cancer, co2, davis, davis_pairs, diabetes, digits.*wine"
    ):
        load("cifar")
    assert set(DATA_SETS) == {
        *SHAPES,
        "co2",
        "davis",
        "davis_pairs",
        "digits_negatives",
        "docstrings",
        "asia",
        "beacon",
        "fashion_mnist",
        "grid_of_gaussians",
        "insurance",
        "karate",
        "karate_pairs",
        "les_miserables",
        "les_miserables_pairs",
        "mnist",
        "moons",
        "nile",
        "ring_of_gaussians",
        "sachs",
        "schools",
        "shapes",
        "sunspots",
    }


def test_transform_is_drawn_once(untouched_rng: None) -> None:
    for transform in (StochasticBinarize(17, seed=1), DynamicBinarize(17), Dequantize(17)):
        first, second = load("digits", transform=transform), load("digits", transform=transform)
        assert torch.equal(first.train, second.train) and torch.equal(first.test, second.test)
        assert first.levels == transform.levels_out


def test_any_callable_transforms() -> None:
    def halve(x: Tensor) -> Tensor:
        return x[:, ::2]

    data = load("digits", transform=halve)
    assert data.event_shape == (4, 8) and data.levels is None and len(data.test) == len(data.test_target) == 360


def test_split_is_a_partition_and_reproducible(untouched_rng: None) -> None:
    data = DataSet("count", torch.arange(103.0)[:, None], torch.zeros(1, 1))
    train, validation = data.split(0.1, seed=4)
    assert (len(train), len(validation)) == (93, 10)
    assert torch.equal(torch.cat([train, validation]).sort(0).values, data.train)
    for part in (train, validation):
        assert (part.diff(dim=0) > 0).all()
    again, other = data.split(0.1, seed=4)[1], data.split(0.1, seed=5)[1]
    assert torch.equal(validation, again) and not torch.equal(validation, other)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, 20, 0.01])
def test_split_that_leaves_one_side_empty(fraction: float) -> None:
    data = DataSet("small", torch.zeros(10, 1), torch.zeros(1, 1))
    with pytest.raises(ValueError, match="fraction"):
        data.split(fraction)


def test_it_pickles_for_worker_processes() -> None:
    data = load("iris")
    assert torch.equal(pickle.loads(pickle.dumps(data)).train, data.train)


@pytest.mark.parametrize(
    ("name", "components", "radius"), [("grid_of_gaussians", 25, 16.0), ("ring_of_gaussians", 8, 4.0)]
)
def test_mixtures_in_the_plane(name: str, components: int, radius: float) -> None:
    data = load(name)
    assert data.train.shape == (20_000, 2) and data.test.shape == (5_000, 2)
    assert torch.equal(load(name).train, data.train)
    assert data.train_target.bincount().shape == (components,)
    # Their radii are known; a fixed seed, so it either holds or does not.
    assert data.train.square().sum(1).mean().item() == pytest.approx(radius + 2 * 0.05**2, rel=0.01)
    of_one = data.train[data.train_target == 3]
    assert of_one.std(0).tolist() == pytest.approx([0.05, 0.05], rel=0.1)
