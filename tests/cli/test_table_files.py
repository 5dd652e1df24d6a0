"""``pyro-gen impute`` and ``fit`` on files as Excel, R, pandas and databases write them."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import pyro_gen as pg
from pyro_gen import cli
from tests.cli.shell import run

QUICK = ("--method", "gaussian", "--draws", "2", "--no-progress")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def impute(capsys: pytest.CaptureFixture[str], text: str, *words: str) -> tuple[dict[str, Any], str]:
    """What is said of a table in JSON, and on standard error."""
    Path("t.csv").write_text(text, encoding="utf-8", newline="")
    code = cli.main(["impute", "t.csv", *QUICK, *words, "--overwrite", "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out), err


def complaint(capsys: pytest.CaptureFixture[str], text: str, *words: str, verb: tuple[str, ...] = ("impute",)) -> str:
    Path("t.csv").write_text(text, encoding="utf-8", newline="")
    before = {path.name for path in Path().iterdir()}
    code = cli.main([*verb, "t.csv", *words, "--no-progress"])
    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1) and err.startswith("error: t.csv: "), (code, out, err)
    assert {path.name for path in Path().iterdir()} == before
    return err


def customers(rows: int = 40) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    days = pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 300, rows), unit="D")
    return pd.DataFrame(
        {
            "id": [f"C-{i:04}" for i in range(rows)],
            "spent": [f"{v:,.2f}" for v in np.exp(rng.normal(7, 1, rows))],
            "visits": [str(v) if v else "-" for v in rng.poisson(1.5, rows)],
            "since": pd.Series(days).dt.strftime("%d.%m.%Y").where(rng.random(rows) < 0.8, ""),
            "fax": [""] * rows,
        }
    )


def test_thousands_and_dashes_of_a_comma_file(capsys: pytest.CaptureFixture[str]) -> None:
    table = customers().drop(columns=["id", "fax"])
    told, err = impute(capsys, table.to_csv(index=False), "--out", "o.csv")
    assert told["missing"] == int((table == "-").to_numpy().sum() + (table == "").to_numpy().sum())
    assert (
        told["schema"]["columns"][1]["kind"] in ("real", "positive", "count") and told["schema"]["columns"][2]["dates"]
    )
    for words in (
        "'spent': read without thousands separators (",
        "'visits': taken for missing: '-' (",
        "read as dates",
    ):
        (note,) = [note for note in told["notes"] if words in note]
        assert f"note: {note}\n" in err
    long = pd.read_csv("o.csv", dtype=str)
    for k in ("1", "2"):
        part = long[long[".imp"] == k].reset_index(drop=True)
        assert part["spent"].astype(float).tolist() == [float(v.replace(",", "")) for v in table["spent"]]
        for name, hole in (("visits", "-"), ("since", "")):
            seen = table[name] != hole
            assert part[name][seen].tolist() == table[name][seen].tolist()
            assert part[name].notna().all() and not part[name].isin(["-", ""]).any()
        assert part["since"].str.fullmatch(r"\d\d\.\d\d\.\d{4}").all() and part["visits"].str.isdigit().all()
    impute(capsys, table.to_csv(index=False), "--out", "o.parquet")
    dates = pd.read_parquet("o.parquet")["since"]
    assert dates.dtype.kind == "M" and dates.notna().all()


def test_all_problems_are_said_at_once_each_with_its_option(capsys: pytest.CaptureFixture[str]) -> None:
    table = customers().assign(joined=["03/04/2024"] * 39 + ["04/05/2023"], score=["7.5", "unknown", *["8.25"] * 38])
    said = complaint(capsys, table.to_csv(index=False))
    assert said.startswith("error: t.csv: 4 problems: (1) ") and all(f"({i}) column" in said for i in range(1, 5))
    for option in (
        "leave the column out (--ignore id), or give it a kind (--type id=nominal)",
        "column 'fax' has no observed value: nothing can be learnt of it; --drop-empty leaves it out",
        "correct it, or leave the column out (--ignore joined)",
        "(--missing unknown), or make all of it levels (--type score=nominal)",
    ):
        assert option in said
    words = ["--ignore", "id", "--ignore", "joined", "--drop-empty", "--missing", "unknown"]
    told, _ = impute(capsys, table.to_csv(index=False), *words, "--out", "o.csv")
    assert (told["columns"], told["dropped"], told["ignored"]) == (4, ["fax"], ["id", "joined"])
    assert pd.read_csv("o.csv")["joined"].tolist() == table["joined"].tolist() * 2
    # The way out of each column, where several have nothing observed in a folder.
    Path("parts").mkdir()
    pd.DataFrame({"x": [1.0, None, 2.5], "e f": [None] * 3, "g": [None] * 3}).to_parquet("parts/0.parquet")
    code, _, err = run(capsys, "impute", "parts", "--no-progress")
    assert code == 2 and "no observed value in column 'e f', 'g'; leave it out (--ignore 'e f' --ignore g)," in err
    # Python says the same of a data frame, and of a table of numbers.
    frame = pd.DataFrame({"id": list("abcdefgh"), "e": [None] * 8, "x": range(8)})
    with pytest.raises(ValueError, match=r"2 problems: \(1\) no observed value in column 'e'.*\(2\) column 'id'"):
        pg.Imputer("gaussian").fit(frame)
    frame.to_csv("u.csv", index=False)
    with pytest.raises(ValueError, match=r"2 problems: \(1\) column 'id' holds text.*\(2\) column 'e' has no"):
        pg.data.read_table("u.csv")


def test_dates_are_left_alone_by_choice(capsys: pytest.CaptureFixture[str]) -> None:
    table = customers()[["spent", "visits", "since"]]
    told, _ = impute(capsys, table.to_csv(index=False), "--ignore", "since", "--out", "o.csv")
    assert told["columns"] == 2
    assert pd.read_csv("o.csv", dtype=str)["since"].fillna("").tolist() == table["since"].tolist() * 2


@pytest.mark.parametrize("labels", [range(30), range(100, 130), [f"r{i}" for i in range(30)]])
def test_the_index_column_that_pandas_and_r_write(capsys: pytest.CaptureFixture[str], labels: Any) -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"a": rng.normal(size=30).round(3), "b": rng.normal(size=30).round(3)}, index=list(labels))
    table.loc[table["b"] > 0.5, "b"] = np.nan
    told, err = impute(capsys, table.to_csv(), "--single", "mean", "--out", "o.csv")
    assert told["columns"] == 2 and err.startswith("note: the first column has no name: it is taken for labels")
    found = pd.read_csv("o.csv", index_col=0)
    assert found.index.tolist() == table.index.tolist() and list(found.columns) == ["a", "b"]
    assert found["a"].tolist() == table["a"].tolist() and found["b"].notna().all()
    impute(capsys, table.to_csv(), "--out", "long.csv")
    assert pd.read_csv("long.csv")[".id"].tolist() == list(labels) * 2
    # A program is trained on such a file, too.
    table.dropna().to_csv("t.csv")
    words = ["fit", "Gaussian", "--data", "t.csv", "--epochs", "1", "--transform", "standardize", "--no-progress"]
    assert cli.main(words) == 0 and "note: the first column has no name" in capsys.readouterr().err
    # An index that was saved twice has a name.
    text = table.reset_index(drop=True).to_csv(index_label="Unnamed: 0")
    told, err = impute(capsys, text, "--single", "mean", "--out", "o.csv")
    assert told["columns"] == 2 and "the first column is called 'Unnamed: 0'" in err


def test_columns_in_another_order_are_matched_by_name() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"a": rng.normal(size=60), "b": rng.normal(50, 5, size=60), "c": rng.choice(["x", "y"], 60)})
    table = table.mask(rng.random(table.shape) < 0.2)
    imputer = pg.Imputer("copula", draws=2, random_state=0, time_limit=1).fit(table)
    turned = table[["c", "a", "b"]]
    pd.testing.assert_frame_equal(imputer.transform(turned)[["a", "b", "c"]], imputer.transform(table))
    pd.testing.assert_frame_equal(imputer.impute(turned)[1][["a", "b", "c"]], imputer.impute(table)[1])
    assert list(imputer.impute(turned)[0].columns) == ["c", "a", "b"]
    np.testing.assert_array_equal(imputer.log_prob(turned, turned), imputer.log_prob(table, turned))
    with pytest.raises(ValueError, match="feature names"):
        imputer.transform(turned.drop(columns="c"))
    with pytest.raises(ValueError, match="feature names"):
        imputer.transform(turned.rename(columns={"c": "d"}))


@pytest.mark.parametrize("rows", [2, 3, 4, 6, 10])
def test_a_tiny_table_has_a_report(capsys: pytest.CaptureFixture[str], rows: int) -> None:
    text = "a,b,c\n" + "".join(f"{i * i % 7}.5,{i if i != 1 else ''},{'xy'[i % 2]}\n" for i in range(rows))
    told, err = impute(capsys, text, "--report", "r.html", "--type", "b=real", "--ignore", "c")
    page = Path(told["report"]).read_text(encoding="utf-8")
    measured = bool(told["coverage95"])
    assert ("95% intervals held" in page) == measured == ("Not measured" not in page)
    assert measured or "the report does not say how far to trust the draws" in err


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        (
            "a,b\n1,2\n3,\n",
            ["--separator", ";"],
            "the separator ';' is not in the header, which ',' cuts into 2 columns",
        ),
        ("a;b\n1.250;2\n3.500;\n", [], "is '1.250' in row 1 1.25 or 1250? .* (--decimal . or --decimal ,)"),
        ("a,b\n1.5,2\n2.5,\nn.b.,1\n", [], "numbers, and 'n.b.' in row 3; .* (--missing n.b.), .* (--type a=nominal)"),
        ("a,b\n1.5,2\n2.5,\nn.b.,1\n", ["--type", "a=real"], "numbers, and 'n.b.' in row 3"),
        ("a,b\n1.5,2\n2,5,\n", ["--decimal", "x"], "the decimal mark is . or a comma, got 'x'"),
        ("a,b\n1,2\n3,4\nlots,5\n1.5,5\n", [], "numbers, and 'lots' in row 3"),  # though nothing is missing
    ],
)
def test_what_is_asked(capsys: pytest.CaptureFixture[str], text: str, words: list[str], message: str) -> None:
    said = complaint(capsys, text, *words)
    place = 0
    for part in message.split(" .* "):
        place = said.index(part, place)


def test_levels_with_numbers_among_them_are_taken_by_choice(capsys: pytest.CaptureFixture[str]) -> None:
    text = "a,b\n1.5,2\n2.5,\nn.b.,1\n1.5,3\n"
    told, _ = impute(capsys, text, "--type", "a=nominal", "--method", "copula")
    assert told["schema"]["columns"][0]["levels"] == ["1.5", "2.5", "n.b."]


def test_old_macs_and_long_headers(capsys: pytest.CaptureFixture[str]) -> None:
    told, _ = impute(capsys, "a,b\r1.5,2\r3,\r4,5\r", "--out", "o.csv", "--single", "mean")
    assert told["rows"] == 3 and pd.read_csv("o.csv")["a"].tolist() == [1.5, 3.0, 4.0]
    names = [f"{'n' * 70_000}{i}" for i in range(3)]
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(9, 3)), columns=names)
    table.iloc[0, 0] = np.nan
    told, _ = impute(capsys, table.to_csv(index=False), "--out", "o.parquet")
    assert told["columns"] == 3
    one = pd.DataFrame({"m" * 200_000: [1.5, 2.5, np.nan, 3.5]})  # which no separator cuts
    told, _ = impute(capsys, one.to_csv(index=False), "--out", "o.parquet")
    assert told["missing"] == 1


def test_many_columns_are_read_in_seconds() -> None:
    """5,000 columns in less than 10 s of this process, of which they take one: each column costs a fifth of a ms."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(5, 5_000)).round(3)
    pd.DataFrame(values, columns=[f"c{i}" for i in range(5_000)]).to_csv("t.csv", index=False)
    began = time.process_time()
    table = pg.data.read_table("t.csv")
    assert time.process_time() - began < 10
    assert np.array_equal(table.values.numpy(), values)


def test_a_wide_table_keeps_to_its_time() -> None:
    """1,200 columns: the programs that take the cube of it are left out, and 3 seconds are not made minutes of."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(12, 1_200))).rename(columns=str).assign(word=rng.choice(["x", "y"], 12))
    table = table.mask(rng.random(table.shape) < 0.1)
    began = time.process_time()
    imputer = pg.Imputer(draws=2, random_state=0, time_limit=3).fit(table)
    assert imputer.impute(table)[1].notna().all().all()
    assert time.process_time() - began < 40 and "copula" not in imputer.weights_
