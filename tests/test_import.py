"""What `import pyro_gen` costs, and that every public name is there when it is asked for."""

import json
import subprocess
import sys

import pytest

import pyro_gen as pg


def test_every_public_name_is_there() -> None:
    assert set(pg.__all__) == set(dir(pg))
    assert [name for name in pg.__all__ if getattr(pg, name, None) is None] == []
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        pg.fitt  # noqa: B018


def test_a_name_is_the_object_that_its_module_has() -> None:
    assert pg.fit is pg.inference.fit and pg.check_program is pg.evaluation.conformance.check_program


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("import pyro_gen", {"torch", "pyro", "pandas", "scipy", "sklearn", "matplotlib", "arviz", "lightning"}),
        ("import pyro_gen as pg; pg.Program, pg.observe", {"pandas", "scipy", "sklearn", "matplotlib", "arviz"}),
    ],
)
def test_what_is_not_used_is_not_imported(code: str, heavy: set[str]) -> None:
    command = [sys.executable, "-c", f"{code}\nimport json, sys\nprint(json.dumps(list(sys.modules)))"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert heavy & set(json.loads(done.stdout)) == set()
