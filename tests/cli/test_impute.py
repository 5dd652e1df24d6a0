"""``pyro-gen impute`` as a user types it: completed tables, the report, JSON, one clear line for each wrong input."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import BaseEstimator, clone

from pyro_gen import cli
from pyro_gen.data.column import Column
from pyro_gen.data.schema import Schema
from pyro_gen.imputation import imputer as imputer_module
from pyro_gen.imputation.completed import Completed

MADE: list["Resampling"] = []


class Resampling(BaseEstimator):  # type: ignore[misc]
    """In place of pg.Imputer, which has tests of its own: fills holes with observed entries of the column."""

    def __init__(
        self,
        method: Any = "auto",
        *,
        draws: int = 20,
        schema: Any = None,
        random_state: int = 0,
        time_limit: float | None = None,
        progress: bool = False,
    ) -> None:
        self.method, self.draws, self.schema = method, draws, schema
        self.random_state, self.time_limit, self.progress = random_state, time_limit, progress

    def fit(self, table: pd.DataFrame) -> "Resampling":
        MADE.append(self)
        self.schema_, self.limit_ = self.schema, self.time_limit
        self.encoded_ = self.schema.encode(table)
        one = isinstance(self.method, str) and self.method != "auto"
        self.weights_ = {self.method: 1.0} if one else {"gaussian": 0.75, "factor_analysis": 0.25}
        self.programs_ = dict.fromkeys(self.weights_)
        return self

    def refit(self, table: pd.DataFrame) -> "Resampling":
        learner: Resampling = clone(self).set_params(schema=self.schema_, method=list(self.weights_))
        learner.fit(table)
        return learner

    def impute(self, table: pd.DataFrame, draws: int | None = None) -> Completed:
        rng = np.random.default_rng(self.random_state)
        m = self.draws if draws is None else draws
        values = self.schema.encode(table).repeat(m, 1, 1)
        for d in range(values.shape[2]):
            seen = self.encoded_[:, d][~self.encoded_[:, d].isnan()].numpy()
            holes = values[:, :, d].isnan()
            values[:, :, d][holes] = torch.from_numpy(rng.choice(seen, int(holes.sum())))
        info = {"method": self.method, "weights": self.weights_, "scores": {"gaussian": -1.5, "factor_analysis": -2.0}}
        return Completed(values, self.schema, table, {**info, "seconds": 1.5, "warnings": ["beware"], "seed": 0})


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a user's files in it, as the current one; programs that need no time."""
    MADE.clear()
    monkeypatch.setattr(imputer_module, "Imputer", Resampling)
    monkeypatch.chdir(tmp_path)
    people().to_csv("people.csv", index=False)
    return tmp_path


def people(rows: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "id": [f"p{i}" for i in range(rows)],
            "height": rng.normal(170, 10, rows).round(3),
            "visits": rng.poisson(1.5, rows).astype(float),
            "smokes": rng.choice(["no", "yes"], rows),
        }
    )
    table.loc[rng.random(rows) < 0.3, "height"] = np.nan
    table.loc[rng.random(rows) < 0.3, "visits"] = np.nan
    table.loc[rng.random(rows) < 0.3, "smokes"] = np.nan
    return table


BASE = ("impute", "people.csv", "--ignore", "id", "--no-progress")


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.main(words)
    out, err = capsys.readouterr()
    return code, out, err


def run_json(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    code, out, err = run(capsys, *words, "--json")
    assert code == 0, err
    return json.loads(out)


def complaint(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a command fails with."""
    code, out, err = run(capsys, *words, "--no-progress")
    assert (code, out, err.count("\n")) == (2, "", 1), (code, out, err)
    assert err.startswith("error: ") and "Traceback" not in err
    return err


# ----------------------------------------------------------------------------------------------------------------------
# What works


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_all_draws_stand_below_each_other(here: Path, capsys: pytest.CaptureFixture[str], suffix: str) -> None:
    table, out = people(), f"folder/imputed{suffix}"
    found = run_json(capsys, *BASE, "--draws", "5", "--out", out)
    assert Path(found["imputed"]) == here / out
    assert (found["rows"], found["columns"], found["draws"]) == (60, 3, 5)
    assert found["missing"] == int(table.drop(columns="id").isna().to_numpy().sum())
    assert found["ignored"] == ["id"] and found["dropped"] == [] and found["report"] is None
    assert (
        found["weights"] == {"gaussian": 0.75, "factor_analysis": 0.25} and found["scores"]["factor_analysis"] == -2.0
    )
    assert found["warnings"] == ["beware"]
    long = pd.read_parquet(out) if suffix == ".parquet" else pd.read_csv(out)
    assert list(long.columns) == [".imp", ".id", "height", "visits", "smokes", "id"]
    assert long[".imp"].tolist() == [k for k in range(1, 6) for _ in range(60)]
    assert not long.isna().to_numpy().any()
    for k in range(1, 6):
        part = long[long[".imp"] == k].reset_index(drop=True)
        assert part["id"].tolist() == table["id"].tolist()
        for name in ("height", "visits", "smokes"):
            seen = table[name].notna()
            assert part[name][seen].tolist() == table[name][seen].tolist()
    draws = [long["height"][long[".imp"] == k].to_numpy() for k in range(1, 6)]
    assert not np.array_equal(draws[0], draws[1])


def test_what_is_asked_for_reaches_the_imputer(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("kinds.json").write_text(
        json.dumps({"visits": "real", "height": {"kind": "bounded", "lower": 100, "upper": 250}})
    )
    words = ["--method", "gaussian, factor_analysis", "--seed", "7", "--time-limit", "60", "--draws", "3"]
    found = run_json(capsys, *BASE, *words, "--schema", "kinds.json", "--type", "visits=count")
    made = MADE[0]
    assert (made.method, made.draws, made.random_state) == (["gaussian", "factor_analysis"], 3, 7)
    assert (made.time_limit, made.progress) == (60.0, False)
    assert made.schema.columns[0] == Column("height", "bounded", lower=100, upper=250)
    assert made.schema.columns[1].kind == "count"  # the option goes before the file
    # What is printed is what --schema takes.
    assert Schema.from_dict(found["schema"]) == made.schema
    Path("again.json").write_text(json.dumps(found["schema"]))
    run_json(capsys, *BASE, "--schema", "again.json", "--method", "auto")
    assert MADE[1].schema == made.schema and MADE[1].method == "auto"


@pytest.mark.parametrize("single", ["mean", "median", "mode"])
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_one_completed_table(here: Path, capsys: pytest.CaptureFixture[str], single: str, suffix: str) -> None:
    found = run_json(capsys, *BASE, "--single", single, "--out", f"one{suffix}", "--draws", "9")
    assert found["single"] == single
    table = pd.read_parquet("one.parquet") if suffix == ".parquet" else pd.read_csv("one.csv")
    assert sorted(table.columns) == sorted(people().columns) and len(table) == 60
    assert not table.isna().to_numpy().any()
    made = MADE[0].impute(people().drop(columns="id"))
    expected = getattr(made, single)()
    pd.testing.assert_frame_equal(table[expected.columns], expected, check_dtype=False)


def test_words_for_people(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *BASE, "--out", "i.csv", "--report", "r.html", "--draws", "4")
    assert code == 0
    missing = int(people().drop(columns="id").isna().to_numpy().sum())
    assert f"{missing} of 180 cells" in out and "4 times" in out
    lines = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert lines["gaussian"] == ["gaussian", "0.75", "-1.500"] and lines["factor_analysis"] == [
        "factor_analysis",
        "0.25",
        "-2.000",
    ]
    assert f"Saved: {here / 'i.csv'}" in out and f"Report: {here / 'r.html'}" in out
    assert err == "warning: beware\n"


def test_the_report_says_how_calibrated_the_draws_are(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run_json(capsys, *BASE, "--report", "folder/r.html", "--time-limit", "100")
    page = Path(found["report"]).read_text(encoding="utf-8")
    assert "Imputation of people.csv" in page and "95% intervals held" in page
    assert set(found["coverage95"]) == {"height", "visits"}
    # Those that were kept learnt again in the time left, without the hidden cells.
    assert [made.method for made in MADE] == ["auto", ["gaussian", "factor_analysis"]]
    assert all(int(made.encoded_.isnan().sum()) > int(MADE[0].encoded_.isnan().sum()) for made in MADE[1:])
    assert [made.limit_ for made in MADE] == [60.0, 40.0]


def test_a_table_without_holes_is_left_as_it_is(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = people().dropna().reset_index(drop=True)
    table.to_csv("whole.csv", index=False)
    words = ["impute", "whole.csv", "--out", "out.csv", "--report", "r.html", "--no-progress"]
    code, out, err = run(capsys, *words)
    assert (code, err) == (0, "") and "nothing to do" in out and str(here / "out.csv") in out
    assert Path("out.csv").read_text() == Path("whole.csv").read_text()
    found = run_json(capsys, "impute", "whole.csv", "--no-progress")
    assert found["missing"] == 0 and found["draws"] == 0 and found["report"] is None
    pd.testing.assert_frame_equal(pd.read_parquet("whole_imputed.parquet"), table, check_dtype=False)
    assert not Path("r.html").exists() and not MADE


def test_columns_without_a_value_are_left_out_on_demand(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    people().assign(void=np.nan, empty=None).to_csv("people.csv", index=False)
    error = complaint(capsys, *BASE[:-1])
    assert "people.csv: columns 'void', 'empty' have no observed value" in error and "--drop-empty leaves them" in error
    found = run_json(capsys, *BASE, "--drop-empty", "--out", "i.csv", "--type", "void=count")
    assert found["dropped"] == ["void", "empty"]
    assert list(pd.read_csv("i.csv").columns) == [".imp", ".id", "height", "visits", "smokes", "id"]
    _, _, err = run(capsys, *BASE, "--drop-empty", "--out", "i.csv")
    assert err.startswith("note: left out, without any observed value: 'void', 'empty'.\n")


def test_a_file_of_another_kind(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    people().to_csv("odd.txt", sep="~", encoding="utf-16-le", index=False)
    words = ["impute", "odd.txt", "--ignore", "id", "--separator", "~", "--encoding", "utf-16-le", "--no-progress"]
    assert run_json(capsys, *words)["columns"] == 3
    assert len(pd.read_parquet("odd_imputed.parquet")) == 20 * 60
    people().to_csv("tabs.tsv", sep="\t", index=False)
    assert (
        run_json(capsys, "impute", "tabs.tsv", "--ignore", "id", "--separator", "\\t", "--no-progress")["columns"] == 3
    )


def test_a_folder_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("people").mkdir()
    for i in range(2):
        people().iloc[30 * i : 30 * (i + 1)].to_parquet(f"people/{i}.parquet")
    words = ("impute", "people", "--ignore", "id", "--draws", "2", "--method", "copula", "--time-limit", "0.1")
    code, out, err = run(capsys, *words, "--no-progress")
    assert code == 0, err
    assert out == f"2 files imputed, 2 times each.\nSaved: {tmp_path / 'people_imputed'}\n"
    assert err.startswith("warning: copula stopped learning early")
    table = people()
    found = pd.read_parquet("people_imputed")
    assert list(found.columns) == [".imp", ".id", *table.columns.drop("id"), "id"]
    assert found.drop(columns="id").notna().all().all() and len(found) == 2 * len(table)
    again = run_json(capsys, *words, "--no-progress")  # nothing is left to do
    assert again["imputed"] == [str(tmp_path / "people_imputed" / f"{i}.parquet") for i in range(2)]
    assert again["weights"] == {"copula": 1.0}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere: no such file or folder."),
        (["empty"], "empty: no Parquet file (*.parquet) in this folder."),
        (
            ["people", "--out", "people"],
            "people: the folder to write cannot be the data set, or lie in it; give another.",
        ),
        (["people", "--report", "r.html"], "--report: is for a file, and people is a folder; leave it out."),
        (["people", "--single", "mean"], "--single: is for a file, and people is a folder; leave it out."),
        (["people/0.parquet", "--workers", "2"], "--workers 2: is for a folder of files, and people/0.parquet is none"),
        (["people", "--ignore", "nobody"], "ignore: the data set has no column 'nobody', but height, visits, "),
        (["people", "--type", "nobody=real"], "overrides for 'nobody': the table has no such column"),
    ],
)
def test_folders_that_do_not_make_sense(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("people", "empty"):
        Path(folder).mkdir()
    people().drop(columns="id").to_parquet("people/0.parquet")
    code, _, err = run(capsys, "impute", *words, "--no-progress")
    assert code == 2 and err.startswith(f"error: {message}") and err.count("\n") == 1


# ----------------------------------------------------------------------------------------------------------------------
# Wrong input: one line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "x.xlsx"], "--out x.xlsx: the name of this file ends in .parquet or .csv."),
        (["--report", "x.pdf"], "--report x.pdf: the name of this file ends in .html."),
        (["--out", "people.csv/x.csv"], "is a file, not a folder"),
        (["--method", "magic"], "--method magic: give auto, or some of gaussian, "),
        (["--method", "auto,gaussian"], "--method auto: give auto, or some of"),
        (["--type", "visits=lots"], "--type visits=lots: the kinds are real, positive, bounded, count, binary,"),
        (["--type", "visits"], "--type visits: give a column and its kind as column=kind."),
        (["--type", "nobody=real"], "--type nobody: the table has no such column; its columns are 'id', 'height',"),
        (["--ignore", "nobody"], "--ignore nobody: the table has no such column"),
        (
            ["--type", "height=bounded"],
            'by what? Say it in a file for --schema: {"height": {"kind": "bounded", "lower": 0, "upper": 1}}.',
        ),
        (
            ["--type", "smokes=ordinal"],
            'which order have \'no\', \'yes\'? Say it in a file for --schema: {"smokes": {"kind": "ordinal",',
        ),
        (["--type", "smokes=real"], "people.csv: column 'smokes' is real and holds text"),
        (["--schema", "nowhere.json"], "--schema nowhere.json: no such file."),
        (["--schema", "people.csv"], "--schema people.csv: not a schema"),
        (["--schema", "levels.json"], "people.csv: column 'smokes': 'yes' in row "),
        (["--schema", "kind.json"], "--schema kind.json: column 'smokes': kind 'maybe' is not one of real,"),
        (["--schema", "word.json"], "--schema word.json: not a schema"),
        (["--schema", "extra.json"], "--schema extra.json: not a schema"),
        (["--time-limit", "0"], "--time-limit 0: give a positive number of seconds."),
        (["--encoding", "klingon"], "people.csv: there is no encoding 'klingon'."),
    ],
)
def test_wrong_options(here: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    files = {
        "levels.json": {"smokes": {"kind": "binary", "levels": ["no", "often"]}},
        "kind.json": {"smokes": {"kind": "maybe"}},
        "word.json": "count",
        "extra.json": {"smokes": {"kind": "binary", "levels": ["no", "yes"], "colour": "red"}},
    }
    for name, content in files.items():
        Path(name).write_text(json.dumps(content))
    assert message in complaint(capsys, *BASE[:-1], *words)
    assert not MADE and not Path("people_imputed.parquet").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t.csv: the file is empty."),
        ("a,b\n", "t.csv: the table has column names but no rows."),
        ("a,a\n1,2\n", "t.csv: duplicate column name 'a'."),
        ("a,b\n1,\n2,\n", "t.csv: column 'b' has no observed value: nothing can be learnt of it; --drop-empty leaves"),
        ("a,b\n,\n,\n", "t.csv: no value is observed in the whole table."),
        (
            "my name,b\n" + "".join(f"w{i},{i}\n" for i in range(9)) + "w9,\n",
            "leave the column out (--ignore 'my name'), or give it a kind (--type 'my name=nominal').",
        ),
        ("a,b\n" + "".join(f"x{i},y{i}\n" for i in range(9)) + ",\n", "column 'a': 9 different texts in 9 rows"),
        ("a,b\n1,inf\n2,\n", "column 'b'"),
    ],
)
def test_wrong_tables(here: Path, capsys: pytest.CaptureFixture[str], text: str, message: str) -> None:
    Path("t.csv").write_text(text)
    assert message in complaint(capsys, "impute", "t.csv")
    assert not MADE


def test_no_such_file_and_names_that_are_taken(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere.csv: no such file or folder." in complaint(capsys, "impute", "nowhere.csv")
    pd.DataFrame({".imp": [1.0, np.nan, 2.5], "b": [1.5, 2.0, 3.5]}).to_csv("t.csv", index=False)
    assert "The table has a column '.imp', a name that this output needs" in complaint(capsys, "impute", "t.csv")


# ----------------------------------------------------------------------------------------------------------------------
# With programs


def test_with_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    a = rng.normal(size=80)
    table = pd.DataFrame({"a": a, "b": 10 + 2 * a + 0.1 * rng.normal(size=80)})
    table.loc[::4, "b"] = np.nan
    table.to_csv("t.csv", index=False)
    words = ["impute", "t.csv", "--method", "gaussian", "--no-progress", "--report", "r.html", "--out"]
    found = run_json(capsys, *words, "i.parquet")
    long = pd.read_parquet("i.parquet")
    holes = long["b"][table["b"].isna().to_numpy()[long[".id"]]].to_numpy().reshape(20, -1)
    # A regression with noise 0.1: draws lie within 6 standard deviations of it, and are not all the same.
    expected = (10 + 2 * a)[table["b"].isna()]
    assert np.abs(holes - expected).max() < 0.8 and holes.std(0).min() > 0.03
    assert found["weights"] == {"gaussian": 1.0} and 0.7 < found["coverage95"]["b"] <= 1.0
    assert "All draws come from one program" in Path("r.html").read_text(encoding="utf-8")
    run_json(capsys, *words, "again.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet("again.parquet"), long)
    run_json(capsys, *words, "other.parquet", "--seed", "1")
    assert not pd.read_parquet("other.parquet").equals(long)


def test_all_columns_that_a_program_cannot_have_are_named_with_a_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "mixed.csv"
    rows = [f"{1.5 * i},{'xyz'[i % 3]},{'ab'[i % 2]}" if i != 3 else ",x,a" for i in range(30)]
    table.write_text("\n".join(["height,ward,group", *rows]))
    assert cli.main(["impute", str(table), "--method", "gaussian", "--no-progress"]) == 2
    said = capsys.readouterr().err
    assert "'ward' is nominal, 'group' is binary" in said
    assert "copula" in said
