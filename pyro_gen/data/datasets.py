"""Data sets with a fixed split into training and test data, loaded by name.

The small ones come with scikit-learn or Python, so nothing is downloaded; every fifth datum (index % 5 == 0) is test
data. MNIST and Fashion-MNIST are read through torchvision from a folder that the user names, with their own split.
Mixtures in the plane (:mod:`pyro_gen.data.mixtures`), rows of published Bayesian networks and pupils in schools are
drawn from a fixed seed. A single series or network is one datum, training and test data.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyro_gen._errors import AdviceError
from pyro_gen._random import seeded
from pyro_gen.data.beacon import beacon
from pyro_gen.data.bif import PUBLISHED, draw_rows, network_file, read_bif
from pyro_gen.data.docstrings import docstrings
from pyro_gen.data.mixtures import MIXTURES
from pyro_gen.data.series import CO2, NILE, SUNSPOTS
from pyro_gen.data.shapes import draw_shapes
from pyro_gen.data.tables import as_tensor
from pyro_gen.data.transforms import Transform
from pyro_gen.data.transforms.base import require_function
from pyro_gen.registry import DATA_SETS, Source

__all__ = ["DataSet", "load"]

# How scikit-learn is asked for each set. Its own scaling of diabetes uses the moments of all data, test data included.
_SCIKIT_LEARN: dict[str, dict[str, Any]] = {
    "breast_cancer": {},
    "diabetes": {"scaled": False},
    "digits": {},
    "iris": {},
    "linnerud": {},
    "wine": {},
}
_NETWORKX = {
    "davis": "davis_southern_women_graph",
    "karate": "karate_club_graph",
    "les_miserables": "les_miserables_graph",
}
_PAIRS = "_pairs"  # of a network with a tenth of the pairs hidden in training, which alone are test data
_TORCHVISION = {"fashion_mnist": "FashionMNIST", "mnist": "MNIST"}


@dataclass(frozen=True, eq=False, repr=False)
class DataSet:
    r"""Training and test data.

    Attributes:
        name: The name it was loaded by.
        train: Training data, with shape (N, \*event).
        test: Test data, with shape (N_test, \*event). For the final figure, not for choices.
        train_target: What a classifier or a regression would predict, never part of ``train``: class labels as int64,
            numbers as floats, with shape (N,) ((N, 3) for linnerud, (N, 4) for shapes); None where there is none.
        test_target: The same of the test data.
        columns: The D column names of a table, None for images.
        levels: Number of levels L where the data has the values 0, 1, ..., L - 1, else None.
    """

    name: str
    train: Tensor
    test: Tensor
    train_target: Tensor | None = None
    test_target: Tensor | None = None
    columns: tuple[str, ...] | None = None
    levels: int | None = None

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one datum."""
        return self.train.shape[1:]

    def __repr__(self) -> str:
        levels = "" if self.levels is None else f", {self.levels} levels"
        return (
            f"DataSet({self.name!r}, {len(self.train)} train, {len(self.test)} test, "
            f"event shape {tuple(self.event_shape)}{levels})"
        )

    def split(self, validation: float = 0.1, seed: int = 0) -> tuple[Tensor, Tensor]:
        r"""Sets a random part of the training data aside, to make choices on.

        Arguments:
            validation: Fraction to set aside, in (0, 1). It is rounded to a number of data.
            seed: Same seed, same split. The caller's random state is left alone.

        Returns:
            Training data (N - n, \*event) and validation data (n, \*event), each in the original order.

        Raises:
            ValueError: If either part would be empty.

        Example:
            >>> train, validation = load("iris").split(0.25)
            >>> len(train), len(validation)
            (90, 30)
        """
        held_out = round(len(self.train) * validation) if 0 < validation < 1 else 0
        if not 0 < held_out < len(self.train):
            raise AdviceError(
                f"{{validation}}: expected a fraction in (0, 1) that leaves data on both sides of {len(self.train)}.",
                validation=validation,
            )
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(seed))
        return self.train[order[held_out:].sort().values], self.train[order[:held_out].sort().values]


def load(
    name: str,
    *,
    root: str | os.PathLike[str] | None = None,
    transform: Callable[[Tensor], Tensor] | None = None,
) -> DataSet:
    r"""Loads a data set.

    ================= ============= ======== ======= =========================================================
    name              train / test  event    levels  values
    ================= ============= ======== ======= =========================================================
    asia              4000 / 1000   (8,)             drawn from the network, values 0, 1
    beacon            1000 / 250    (25, 6)          made up: a light that wanders round six sensors
    breast_cancer     455 / 114     (30,)            numbers
    co2               1 / 1         (526,)           CO2 at Mauna Loa, March 1958 to December 2001, monthly; five NaN
    davis             1 / 1         (18, 14) 2       one network: who of 18 women was at which of 14 events
    diabetes          353 / 89      (10,)            numbers, in their own units
    digits            1437 / 360    (8, 8)   17      grey levels 0..16
    digits_negatives  718 / 360     (2, 8, 8)        in [0, 1]: a digit and, in training another's, its turned negative
    docstrings        about 260/65  (V,)             counts of about 1,900 words, see below
    fashion_mnist     60000 / 10000 (28, 28) 256     grey levels 0..255
    grid_of_gaussians 20000 / 5000  (2,)             numbers, 25 narrow modes
    insurance         4000 / 1000   (27,)            drawn from the network, values 0, 1, ...
    iris              120 / 30      (4,)             numbers
    karate            1 / 1         (34, 34) 2       one network: friends in a karate club, target: the two clubs
    les_miserables    1 / 1         (77, 77) 2       one network: characters of the novel that meet
    linnerud          16 / 4        (3,)             numbers
    mnist             60000 / 10000 (28, 28) 256     grey levels 0..255
    moons             2000 / 500    (2,)             numbers, made up: two half circles with noise
    nile              1 / 1         (100,)           annual flow, 1871 to 1970: one series
    ring_of_gaussians 20000 / 5000  (2,)             numbers, 8 narrow modes
    sachs             4000 / 1000   (11,)            drawn from the network, values 0, 1, 2
    schools           1600 / 400    (2,)             made up: pupils by intake score and school; the target is a score
    shapes            460 / 116     (16, 16) 2       drawn: square, disc or cross; target: its four factors
    sunspots          1 / 1         (309,)           yearly sunspot number, 1700 to 2008: one series
    wine              142 / 36      (13,)            numbers
    ================= ============= ======== ======= =========================================================

    The networks davis, karate and les_miserables are there as davis_pairs, ... too: training data lack a tenth of the
    pairs, NaN, and test data have these only.

    Of ``digits_negatives`` each row has a digit of the first domain and one of the second, a negative turned by a right
    angle to the left. No training digit is in both: there are no pairs. Test rows are pairs, to judge translations by.

    Documents of ``docstrings`` are the modules of the standard library (:mod:`pyro_gen.data.docstrings`), its columns
    the words of three letters or more that 4 or more of the training documents have, English stop words left out.

    Arguments:
        name: One of the above.
        root: The folder that torchvision keeps its data sets in (``root/MNIST/raw/train-images-idx3-ubyte``, ...), for
            mnist and fashion_mnist only. Nothing is ever downloaded.
        transform: Applied to training and to test data, once: what it draws is drawn here from a fixed seed, and the
            caller's random state is left alone. (For fresh draws in every epoch give it to ``pg.fit`` instead.)

    Returns:
        The data as float tensors in torch's default dtype. ``levels`` describes the result of ``transform``; after a
        callable that is no :class:`~pyro_gen.data.Transform` it is None.

    Raises:
        ValueError: If the name is unknown, or ``root`` is missing or does not hold the files.

    Example:
        >>> from pyro_gen.data import Binarize
        >>> load("digits")
        DataSet('digits', 1437 train, 360 test, event shape (8, 8), 17 levels)
        >>> binary = load("digits", transform=Binarize(8.0))
        >>> binary
        DataSet('digits', 1437 train, 360 test, event shape (8, 8), 2 levels)
        >>> round(binary.train.mean().item(), 3)
        0.323
    """
    require_function(transform)
    data = DATA_SETS.find(name).load(root)
    if transform is None:
        return data
    with seeded(0):
        train, test = transform(data.train), transform(data.test)
    return DataSet(
        name,
        train,
        test,
        data.train_target,
        data.test_target,
        data.columns,
        transform.levels_out if isinstance(transform, Transform) else None,
    )


def _load_scikit_learn(name: str, root: str | os.PathLike[str] | None) -> DataSet:
    import sklearn.datasets

    bunch = getattr(sklearn.datasets, f"load_{name}")(**_SCIKIT_LEARN[name])
    images = name == "digits"
    values = as_tensor(bunch.images if images else bunch.data, name)
    target = torch.as_tensor(bunch.target)
    if target.is_floating_point():
        target = target.to(values.dtype)
    test = torch.arange(len(values)) % 5 == 0
    return DataSet(
        name,
        values[~test],
        values[test],
        target[~test],
        target[test],
        columns=None if images else tuple(map(str, bunch.feature_names)),
        levels=17 if images else None,
    )


def _load_digits_negatives(name: str, root: str | os.PathLike[str] | None) -> DataSet:
    digits = load("digits")
    train, test = digits.train / 16, digits.test / 16

    def translated(x: Tensor) -> Tensor:
        return torch.rot90(1 - x, 1, (1, 2))

    half = len(train) // 2
    unpaired = torch.stack([train[:half], translated(train[half : 2 * half])], 1)
    return DataSet(name, unpaired, torch.stack([test, translated(test)], 1), test_target=digits.test_target)


def _load_torchvision(name: str, root: str | os.PathLike[str] | None) -> DataSet:
    import torchvision.datasets

    kind = _TORCHVISION[name]
    raw = f"{kind}/raw/train-images-idx3-ubyte"
    if root is None:
        raise ValueError(f"{name}: give the folder it lies in as root (with {raw} and the rest below it).")
    try:
        train, test = (getattr(torchvision.datasets, kind)(root, train=part, download=False) for part in (True, False))
    except RuntimeError:
        raise ValueError(
            f"{name}: {os.fspath(root)!r} does not hold it in torchvision's layout ({raw} and the rest); "
            f"torchvision.datasets.{kind}({os.fspath(root)!r}, download=True) fetches it."
        ) from None
    dtype = torch.get_default_dtype()
    return DataSet(name, train.data.to(dtype), test.data.to(dtype), train.targets, test.targets, levels=256)


def _load_moons(root: str | os.PathLike[str] | None) -> DataSet:
    import sklearn.datasets

    points, moon = sklearn.datasets.make_moons(2500, noise=0.1, random_state=0)
    values, target = as_tensor(points, "moons"), torch.as_tensor(moon)
    test = torch.arange(len(values)) % 5 == 0
    return DataSet("moons", values[~test], values[test], target[~test], target[test], columns=("x1", "x2"))


def _load_nile(root: str | os.PathLike[str] | None) -> DataSet:
    values = torch.tensor([NILE], dtype=torch.get_default_dtype())
    return DataSet("nile", values, values.clone(), columns=tuple(map(str, range(1871, 1971))))


def _load_sunspots(root: str | os.PathLike[str] | None) -> DataSet:
    values = torch.tensor([SUNSPOTS], dtype=torch.get_default_dtype())
    return DataSet("sunspots", values, values.clone(), columns=tuple(map(str, range(1700, 2009))))


def _load_docstrings(root: str | os.PathLike[str] | None) -> DataSet:
    from sklearn.feature_extraction.text import CountVectorizer

    texts = list(docstrings().values())
    counter = CountVectorizer(token_pattern=r"[A-Za-z]{3,}", stop_words="english", min_df=4)
    counter.fit([text for i, text in enumerate(texts) if i % 5])
    values = as_tensor(counter.transform(texts).toarray(), "docstrings").to(torch.get_default_dtype())
    test = torch.arange(len(values)) % 5 == 0
    return DataSet("docstrings", values[~test], values[test], columns=tuple(counter.get_feature_names_out()))


def _draw_network(name: str, root: str | os.PathLike[str] | None) -> DataSet:
    network = read_bif(network_file(name))
    values = draw_rows(network, 5000, seed=0).to(torch.get_default_dtype())
    test = torch.arange(len(values)) % 5 == 0
    return DataSet(name, values[~test], values[test], columns=tuple(network.parents))


def _draw_schools(root: str | os.PathLike[str] | None) -> DataSet:
    """2,000 pupils in 150 schools, few in most: the effects of the study of London schools (Goldstein et al., 1993)."""
    g = torch.Generator().manual_seed(0)
    weights = torch.rand(150, generator=g).pow(3) + 0.03
    school = torch.cat([torch.arange(150), torch.multinomial(weights, 2000 - 150, True, generator=g)])
    school = school[torch.randperm(len(school), generator=g)]
    intake = torch.randn(2000, generator=g)
    effect = 0.3 * torch.randn(150, generator=g)
    score = 0.56 * intake + effect[school] + 0.75 * torch.randn(2000, generator=g)
    x, test = torch.stack([intake, school.float()], 1).to(torch.get_default_dtype()), torch.arange(2000) % 5 == 0
    return DataSet("schools", x[~test], x[test], score[~test].to(x), score[test].to(x), columns=("intake", "school"))


def _draw_beacon(root: str | os.PathLike[str] | None) -> DataSet:
    x, test = beacon(1250), torch.arange(1250) % 5 == 0
    return DataSet("beacon", x[~test], x[test])


def _draw_shapes(root: str | os.PathLike[str] | None) -> DataSet:
    images, factors = draw_shapes()
    test = torch.arange(len(images)) % 5 == 0
    return DataSet("shapes", images[~test], images[test], factors[~test], factors[test], levels=2)


def _load_co2(root: str | os.PathLike[str] | None) -> DataSet:
    values = torch.tensor([CO2], dtype=torch.get_default_dtype())
    months = tuple(f"{1958 + month // 12}-{month % 12 + 1:02d}" for month in range(2, 2 + len(CO2)))
    return DataSet("co2", values, values.clone(), columns=months)


def _load_network(name: str, root: str | os.PathLike[str] | None) -> DataSet:
    import networkx as nx

    whole = name.removesuffix(_PAIRS)
    graph = getattr(nx, _NETWORKX[whole])()
    names = list(graph)
    if whole == "davis":
        women, events = ([v for v in names if graph.nodes[v]["bipartite"] == kind] for kind in (0, 1))
        matrix, names = nx.bipartite.biadjacency_matrix(graph, women, events, weight=None).toarray(), events
    else:
        matrix = nx.to_numpy_array(graph, weight=None)
    values = torch.tensor(matrix, dtype=torch.get_default_dtype()).unsqueeze(0)
    clubs = None
    if whole == "karate":
        clubs = torch.tensor([[int(graph.nodes[v]["club"] == "Officer") for v in names]])
    train, test = values, values.clone()
    if name != whole:
        hidden = torch.rand(values.shape, generator=torch.Generator().manual_seed(0)) < 0.1
        if whole != "davis":
            hidden = hidden.triu(1) | hidden.triu(1).mT
        train, test = values.masked_fill(hidden, torch.nan), values.masked_fill(~hidden, torch.nan)
    return DataSet(name, train, test, clubs, clubs, columns=tuple(map(str, names)), levels=2)


def _draw_mixture(name: str, root: str | os.PathLike[str] | None) -> DataSet:
    x, component = MIXTURES[name].draw(25_000, seed=0)
    return DataSet(name, x[:20_000], x[20_000:], component[:20_000], component[20_000:])


DATA_SETS.add("beacon", Source(_draw_beacon, from_folder=False))
DATA_SETS.add("co2", Source(_load_co2, from_folder=False))
DATA_SETS.add("digits_negatives", Source(partial(_load_digits_negatives, "digits_negatives"), from_folder=False))
DATA_SETS.add("docstrings", Source(_load_docstrings, from_folder=False))
DATA_SETS.add("nile", Source(_load_nile, from_folder=False))
DATA_SETS.add("sunspots", Source(_load_sunspots, from_folder=False))
DATA_SETS.add("shapes", Source(_draw_shapes, from_folder=False))
DATA_SETS.add("schools", Source(_draw_schools, from_folder=False))
for _path in sorted(PUBLISHED.glob("*.bif")):
    DATA_SETS.add(_path.stem, Source(partial(_draw_network, _path.stem), from_folder=False))
DATA_SETS.add("moons", Source(_load_moons, from_folder=False))
for _name in _NETWORKX:
    DATA_SETS.add(_name, Source(partial(_load_network, _name), from_folder=False))
    DATA_SETS.add(_name + _PAIRS, Source(partial(_load_network, _name + _PAIRS), from_folder=False))
for _name in MIXTURES:
    DATA_SETS.add(_name, Source(partial(_draw_mixture, _name), from_folder=False))
for _name in _SCIKIT_LEARN:
    DATA_SETS.add(_name, Source(partial(_load_scikit_learn, _name), from_folder=False))
for _name in _TORCHVISION:
    DATA_SETS.add(_name, Source(partial(_load_torchvision, _name), from_folder=True))
