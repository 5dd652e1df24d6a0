"""Every model of the zoo passes the conformance suite; a model that is not registered fails a test."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator

import pytest
from torch import Tensor

import pyro_gen as pg
from pyro_gen.data.small import binary_rows, level_rows, normal_rows
from pyro_gen.evaluation.conformance import check_program
from pyro_gen.registry import MODELS, Small
from pyro_gen.variables import Variables

HEADS = {
    "bernoulli": ({}, binary_rows),
    "normal": ({}, normal_rows),
    "student_t": ({}, normal_rows),
    "categorical": ({"levels": 5}, lambda *shape: level_rows(5, *shape)),
    "discretized_logistic": ({"levels": 5}, lambda *shape: level_rows(5, *shape)),
    "discretized_logistic_mixture": ({"levels": 5, "components": 2}, lambda *shape: level_rows(5, *shape)),
    "censored": ({"low": -1.0, "high": 1.0}, lambda *shape: normal_rows(*shape).clamp(-1.0, 1.0)),
}
OF_OWN_NETWORKS = {"GAN, own generator", "EnergyBased, binary, convolutional"}  # which know what they take
REGISTERED = {f"{name}, {label}": small for name, card in MODELS.items() for label, small in card.small.items()}


def vae(head: str, architecture: str, **options) -> Small:
    shape, hidden = ((6,), (10,)) if architecture == "dense" else ((8, 8), (4, 6))
    settings, rows = HEADS[head]
    return lambda: (
        pg.models.VAE(shape, 3, hidden, head, architecture, **settings, **options),
        rows(9, *shape),
    )


PROGRAMS = REGISTERED | {
    **{f"VAE, {a}, {head}": vae(head, a) for a in ("dense", "conv") for head in HEADS},
    "VAE, normal head, fixed scale": vae("normal", "dense", scale=0.5),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_conformance(name: str) -> None:
    program, x, *context = PROGRAMS[name]()
    assert program.event_shape == (x.shape[1:] if isinstance(x, Tensor) else Variables.of(x).event_shape)
    check_program(program, x, *context).raise_for_failures()
    if isinstance(x, Tensor):
        with pytest.raises(ValueError, match=r"takes data of shape \(N, .*and was given"):
            program.check_inputs(x.reshape(*x.shape, 1), *context)
    if name not in OF_OWN_NETWORKS:
        with pytest.raises(ValueError, match=r"context|to condition on"):
            program.check_inputs(x, *context, *3 * [normal_rows(9)])


def public(cls) -> bool:
    return cls.__name__[0] != "_" and ".parts." not in cls.__module__


def unregistered(package) -> Iterator[str]:
    """The public leaves of the tree of programs below a package, parts of models aside, that are not registered."""
    known = {card.cls for card in MODELS.values()}  # before the walk, which imports what nothing else does
    classes = set()
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        found = importlib.import_module(module.name)
        members = inspect.getmembers(found, inspect.isclass)
        classes |= {c for _, c in members if issubclass(c, pg.Program) and c.__module__ == module.name}
    bases = {base for c in classes for base in c.__mro__[1:]}
    yield from sorted(f"{c.__module__}.{c.__name__}" for c in classes - bases - known if public(c))


def test_every_model_is_registered_and_exported() -> None:
    assert list(unregistered(pg.models)) == []
    assert all(getattr(pg.models, name) is card.cls for name, card in MODELS.items())
    assert all(card.title and card.small for card in MODELS.values())


def test_a_model_that_nothing_imports_is_found(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "family"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "lost.py").write_text("import pyro_gen as pg\n\n\nclass Lost(pg.Program):\n    pass\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert list(unregistered(importlib.import_module("family"))) == ["family.lost.Lost"]


def test_every_head_is_listed() -> None:
    assert set(HEADS) == set(pg.heads.HEADS)
