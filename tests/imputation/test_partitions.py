"""Folders of Parquet files: whoever imputes them, and however often, the same; workers that die lose nothing."""

import os
import pickle
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pyro_gen._files import atomic, open_claimed
from pyro_gen.imputation.imputer import Imputer
from pyro_gen.imputation.partitions import folder, impute_partitions, imputer_of, sample

DRAWS = 3


def table(rows: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    a = rng.normal(size=rows)
    frame = pd.DataFrame(
        {
            "name": [f"p{seed}-{i}" for i in range(rows)],
            "a": a,
            "b": a + 0.5 * rng.normal(size=rows),
            "sex": pd.Categorical(np.where(a + rng.normal(size=rows) > 0, "f", "m")),
            "born": rng.integers(1900, 2000, rows).astype(float),
        }
    )
    for name in ("a", "b", "sex", "born"):
        frame.loc[rng.random(rows) < 0.2, name] = None if name == "sex" else np.nan
    return frame


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    (folder / "more").mkdir(parents=True)
    for i in range(4):
        path = folder / ("more" if i > 2 else ".") / f"{i}.parquet"
        table(60 + i, i).to_parquet(path, row_group_size=25)
    return folder


def imputer() -> Imputer:
    return Imputer("copula", draws=DRAWS, random_state=0, time_limit=0.2)


def digest(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.parquet"))}


def frames(written: list[Path]) -> list[pd.DataFrame]:
    return [pd.read_parquet(path) for path in written]


def test_every_file_is_completed_and_what_was_seen_stays(source: Path, tmp_path: Path):
    shares: list[float] = []
    written = impute_partitions(source, tmp_path / "out", imputer(), ignore=["name"], progress=shares.append)
    assert [path.relative_to(tmp_path / "out").as_posix() for path in written] == [
        *(f"{i}.parquet" for i in range(3)),
        "more/3.parquet",
    ]
    assert shares == [0.25, 0.5, 0.75, 1]
    first = 0
    for i, found in enumerate(frames(written)):
        before = table(60 + i, i)
        assert list(found.columns) == [".imp", ".id", "a", "b", "sex", "born", "name"]
        for k in range(DRAWS):
            own = found[found[".imp"] == k + 1].reset_index(drop=True)
            assert own[".id"].tolist() == list(range(first, first + len(before)))
            assert own.notna().all().all()
            for name in before:
                seen = before[name].notna()
                assert own[name][seen].tolist() == before[name][seen].tolist()
        assert (found["born"] == found["born"].round()).all()
        first += len(before)
    assert len({str(pq.read_schema(path).remove_metadata()) for path in written}) == 1
    assert pd.read_parquet(tmp_path / "out").shape == (DRAWS * first, 7)
    assert not list((tmp_path / "out").rglob("*.partial"))


def test_finished_files_stay_and_those_that_are_lost_come_back_the_same(source: Path, tmp_path: Path):
    out = tmp_path / "out"
    impute_partitions(source, out, imputer(), ignore=["name"])
    before = digest(out)
    (out / "1.parquet").unlink()
    (out / "0.parquet").write_bytes(b"kept as it is")
    (out / ".1.parquet.dead.partial").write_bytes(b"half of it")
    shares: list[float] = []
    impute_partitions(source, out, imputer(), ignore=["name"], progress=shares.append)
    assert shares == [1]  # the only one that was lacking
    after = digest(out)
    assert after.pop("0.parquet") == b"kept as it is"
    assert after == {name: content for name, content in before.items() if name != "0.parquet"}
    assert not list(out.rglob("*.partial"))


def test_rows_that_are_alike_get_draws_of_their_own_in_each_file(tmp_path: Path):
    fitted = Imputer("gaussian", random_state=0).fit(table(100, 0)[["a", "b"]])
    (tmp_path / "in").mkdir()
    for i in range(2):
        pd.DataFrame({"a": [1.0] * 50, "b": [np.nan] * 50}).to_parquet(tmp_path / "in" / f"{i}.parquet")
    one, two = frames(impute_partitions(tmp_path / "in", tmp_path / "out", fitted, draws=1))
    assert pd.concat([one, two])["b"].nunique() == 100
    # Without the name of the part they would be the same.
    same = [fitted.impute(pd.DataFrame({"a": [1.0] * 50, "b": [np.nan] * 50}), 1)[0]["b"] for _ in range(2)]
    assert same[0].tolist() == same[1].tolist()


def test_levels_that_the_sample_lacks_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sample, "SAMPLED_ROWS", 1)
    monkeypatch.setattr(sample, "SAMPLED_GROUPS", 1)
    (tmp_path / "in").mkdir()
    for i, level in enumerate(("blue", "green", "red")):
        frame = pd.DataFrame({"a": np.arange(30.0) % 7, "colour": ([level] * 2 + ["grey"]) * 10})
        frame.loc[::5, "a"] = np.nan
        frame.loc[1::6, "colour"] = None
        frame.to_parquet(tmp_path / "in" / f"{i}.parquet")
    monkeypatch.setattr(sample, "SAMPLED_ROWS", 100)
    found = frames(impute_partitions(tmp_path / "in", tmp_path / "out", imputer()))
    assert set(pd.concat(found)["colour"]) == {"blue", "green", "grey", "red"}


def test_numbers_that_are_whole_in_one_file_only(tmp_path: Path):
    (tmp_path / "in").mkdir()
    whole = pd.DataFrame({"a": np.arange(40), "b": np.arange(40) * 2.0})
    whole.loc[::4, "b"] = np.nan
    whole.to_parquet(tmp_path / "in" / "0.parquet")
    whole.astype(float).mask(np.eye(40, 2, dtype=bool)).to_parquet(tmp_path / "in" / "1.parquet")
    written = impute_partitions(tmp_path / "in", tmp_path / "out", Imputer("gaussian", draws=2, random_state=0))
    assert all(pq.read_schema(path).field("a").type == pa.float64() for path in written)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: None, "no such folder"),
        (lambda folder: folder.write_text("a"), "is a file, expected a folder"),
        (lambda folder: folder.mkdir(), "no Parquet file"),
        (lambda folder: (folder.mkdir(), (folder / "0.parquet").write_text("a,b")), "0.parquet: not a Parquet file"),
        (
            lambda folder: (
                folder.mkdir(),
                pd.DataFrame({"a": [1.0], "b": [1.0]}).to_parquet(folder / "0.parquet"),
                pd.DataFrame({"a": [1.0], "c": [1.0]}).to_parquet(folder / "1.parquet"),
            ),
            "1.parquet: lacks b and has also c",
        ),
        (
            lambda folder: (
                folder.mkdir(),
                pd.DataFrame({"a": [1.0], "b": [1.0]}).to_parquet(folder / "0.parquet"),
                pd.DataFrame({"a": [1.0], "b": ["x"]}).to_parquet(folder / "1.parquet"),
            ),
            "1.parquet: columns are of another type",
        ),
        (
            lambda folder: (folder.mkdir(), pd.DataFrame({"a": [1.0]})[:0].to_parquet(folder / "0.parquet")),
            "the files have no rows",
        ),
    ],
)
def test_what_is_no_data_set_is_named(tmp_path: Path, make, words: str):
    make(tmp_path / "in")
    with pytest.raises(ValueError, match=words):
        impute_partitions(tmp_path / "in", tmp_path / "out", imputer())
    assert not (tmp_path / "out").exists()


def test_folders_that_hold_something_else_are_left_alone(source: Path, tmp_path: Path):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="cannot be the data set, or lie in it"):
        impute_partitions(source, source / "out", imputer(), ignore=["name"])
    with pytest.raises(ValueError, match="ignore: the data set has no column 'nme'"):
        impute_partitions(source, out, imputer(), ignore=["nme"])
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        impute_partitions(source, out, imputer(), ignore=["name"])
    (out / "notes.txt").unlink()
    impute_partitions(source, out, imputer(), ignore=["name"])
    with pytest.raises(ValueError, match="holds imputations of something else"):
        impute_partitions(source, out, imputer(), ignore=["name"], draws=DRAWS + 1)


def test_a_folder_goes_on_with_what_was_learnt_and_nothing_else(source: Path, tmp_path: Path):
    fitted = imputer().fit(
        pd.concat(pd.read_parquet(path) for path in sorted(source.rglob("*.parquet"))).drop(columns="name")
    )
    impute_partitions(source, tmp_path / "out", fitted, ignore=["name"])
    impute_partitions(source, tmp_path / "out", fitted, ignore=["name"])
    fitted.spread_ = 0.9  # draws would be pulled together
    with pytest.raises(ValueError, match="holds imputations of something else"):
        impute_partitions(source, tmp_path / "out", fitted, ignore=["name"])


def test_cells_that_cannot_be_are_named_with_their_file(source: Path, tmp_path: Path):
    frame = table(60, 0)
    frame.loc[3, "a"] = np.inf
    frame.to_parquet(source / "0.parquet")
    fitted = Imputer("copula", random_state=0, time_limit=0.2).fit(table(60, 1).drop(columns="name"))
    with pytest.raises(ValueError, match=r"0\.parquet, from row 0 on: .*'a'"):
        impute_partitions(source, tmp_path / "out", fitted, ignore=["name"])


# Dask


def test_a_worker_that_is_killed_loses_nothing(source: Path, tmp_path: Path):
    distributed = pytest.importorskip("dask.distributed", reason="Dask is not installed: pip install 'pyro-gen[dask]'")
    fitted = imputer().fit(table(200, 9).drop(columns="name"))
    for i in range(4, 10):
        table(60, i).to_parquet(source / f"{i}.parquet")
    alone = impute_partitions(source, tmp_path / "alone", fitted, ignore=["name"])
    killed: list[int] = []
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):

        def kill(share: float) -> None:
            if not killed:
                killed.append(next(iter(client.run(os.getpid).values())))
                os.kill(killed[0], signal.SIGKILL)

        together = impute_partitions(
            source, tmp_path / "together", fitted, ignore=["name"], client=client, progress=kill
        )
    assert killed
    assert [path.name for path in together] == [path.name for path in alone]
    assert digest(tmp_path / "together") == digest(tmp_path / "alone")
    assert not list((tmp_path / "together").rglob("*.partial"))


def gaussian(seed: int | None = 0) -> Imputer:
    return Imputer("gaussian", draws=DRAWS, random_state=seed)


def test_two_runs_on_one_folder_leave_each_other_alone(source: Path, tmp_path: Path):
    """One is in the middle of a file while the other runs to its end, which takes nothing away from it."""
    out = tmp_path / "out"
    with atomic(out / "2.parquet") as partial, open_claimed(partial) as file:
        file.write(b"half of it")
        partial_of_the_dead = out / ".1.parquet.dead.partial"
        with pytest.raises(ValueError, match="not empty"):  # a stranger's folder is left alone
            impute_partitions(source, out, gaussian(), ignore=["name", "sex"])
        partial.rename(tmp_path / "aside")
        impute_partitions(source, tmp_path / "first", gaussian(), ignore=["name", "sex"])
        for path in (tmp_path / "first").iterdir():
            path.rename(out / path.name)
        (tmp_path / "aside").rename(partial)
        partial_of_the_dead.write_bytes(b"half of it")
        (out / "1.parquet").unlink()
        impute_partitions(source, out, gaussian(), ignore=["name", "sex"])
        assert partial.exists()
        assert not partial_of_the_dead.exists()
        whole = (out / "2.parquet").read_bytes()
        file.seek(0)
        file.truncate()
        file.write(whole)
    assert (out / "2.parquet").read_bytes() == whole and not list(out.rglob("*partial*"))


def test_the_first_imputer_of_two_runs_is_that_of_both(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Both find the folder empty and fit, each by other seeds: the files are all of one."""
    out = tmp_path / "out"

    def slower(*arguments: Any) -> Imputer:
        with monkeypatch.context() as patch:
            patch.setattr(folder, "fit_on_sample", fit)
            impute_partitions(source, out, gaussian(None), ignore=["name", "sex"])
        return fit(*arguments)

    fit = folder.fit_on_sample
    monkeypatch.setattr(folder, "fit_on_sample", slower)
    first = impute_partitions(source, out, gaussian(None), ignore=["name", "sex"])
    kept = imputer_of(out)
    assert len(first) == 4 and isinstance(kept.seed_, int)
    (out / "0.parquet").rename(tmp_path / "0.parquet")
    impute_partitions(source, out, gaussian(None), ignore=["name", "sex"])
    assert (out / "0.parquet").read_bytes() == (tmp_path / "0.parquet").read_bytes()


def test_a_folder_holds_no_code(source: Path, tmp_path: Path):
    class Runs:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    out = tmp_path / "out"
    impute_partitions(source, out, gaussian(), ignore=["name", "sex"])
    assert not [path for path in out.rglob("*") if path.suffix in (".pkl", ".pickle")]
    (out / folder.IMPUTER_FILE).write_bytes(pickle.dumps({"asked": Runs(), "imputer": Runs()}))
    for run in (lambda: impute_partitions(source, out, gaussian(), ignore=["name", "sex"]), lambda: imputer_of(out)):
        with pytest.raises(ValueError, match="not an imputer that pyro-gen wrote"):
            run()
    assert not (tmp_path / "ran").exists()
