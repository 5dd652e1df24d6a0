"""The report: what it says against what is so, and that it needs nothing but itself."""

import base64
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_gen.data.column import Column
from pyro_gen.data.schema import Schema
from pyro_gen.imputation.completed import Completed
from pyro_gen.imputation.pooling import pool
from pyro_gen.imputation.report import report

LEVELS = ("low", "middle", "high")


def mixed_table(rows: int = 120, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "height": rng.normal(170, 10, rows),
            "visits": rng.poisson(2, rows).astype(float),
            "income": rng.lognormal(3, 2, rows),
            "grade": pd.Categorical(rng.choice(LEVELS, rows), categories=LEVELS, ordered=True),
            "smokes": rng.choice(["no", "yes"], rows),
            "whole": np.arange(rows) % 7,
        }
    )
    for name, share in {"height": 0.3, "visits": 0.1, "income": 0.2, "grade": 0.25, "smokes": 0.6}.items():
        table.loc[rng.random(rows) < share, name] = np.nan
    return table


KINDS = {"height": "real", "visits": "count", "income": "positive", "whole": "real"}


def completed_by(table: pd.DataFrame, m: int = 20, info: dict[str, Any] | None = None, seed: int = 0) -> Completed:
    """Holes filled by observed entries of the column, drawn with replacement."""
    schema = Schema.infer(table, {name: kind for name, kind in KINDS.items() if name in table})
    rng = np.random.default_rng(seed)
    values = schema.encode(table)
    draws = values.repeat(m, 1, 1)
    for d in range(values.shape[1]):
        holes = values[:, d].isnan()
        seen = values[~holes, d].numpy()
        draws[:, holes, d] = torch.from_numpy(rng.choice(seen, (m, int(holes.sum()))))
    return Completed(draws, schema, table, info)


class Page(HTMLParser):
    """The words of a page, its tables, and what it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.words.append(data)
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] = (self.rows[-1][-1] + data).strip()

    def row(self, first: str) -> list[str]:
        found = [row for row in self.rows if row[0] == first]
        assert found, f"no row {first!r}"
        return found[-1]


def page_of(completed: Completed, folder: Path, **options: Any) -> tuple[Page, str]:
    path = report(completed, folder / "report.html", **options)
    text = path.read_text(encoding="utf-8")
    return Page(text), text


INFO = {
    "method": "auto",
    "weights": {"gaussian": 0.625, "copula": 0.375},
    "scores": {"gaussian": -1.25, "copula": -1.5, "factor_analysis": -2.0},
    "seconds": 12.34,
    "warnings": ["factor_analysis stopped at the time limit."],
    "seed": 7,
    "versions": {"torch": "2.9.0"},
}


def test_the_page_says_what_is_so(tmp_path: Path) -> None:
    table = mixed_table()
    completed = completed_by(table, info=INFO)
    page, _ = page_of(completed, tmp_path, title="Imputation of people.csv")
    holes = table.isna()
    assert "Imputation of people.csv" in page.text
    assert f"missing: {holes.to_numpy().sum()} of {table.size} cells" in page.text
    assert f"{(~holes.any(axis=1)).sum()} rows without a hole" in page.text
    for name in ("height", "visits", "income", "grade", "smokes"):
        count = int(holes[name].sum())
        rows = [row for row in page.rows if row[0] == name and len(row) == 4]
        assert len(rows) == 1 and rows[0][3] == str(count)
        assert float(rows[0][2].rstrip("%")) == pytest.approx(100 * count / len(table), abs=0.5)
    assert "Complete: whole." in page.text
    # Programs, best first, with what a program that was not used scored.
    assert page.row("gaussian") == ["gaussian", "62%", "-1.250", "best"]
    assert page.row("copula") == ["copula", "38%", "-1.500", "-0.250"]
    assert page.row("factor_analysis") == ["factor_analysis", "0%", "-2.000", "-0.750"]
    assert "3 programs were learnt" in page.text and "gaussian (62%) and copula (38%)" in page.text
    assert "factor_analysis stopped at the time limit." in page.text
    three = INFO | {"weights": {"gaussian": 0.5, "copula": 0.3, "factor_analysis": 0.2}}
    other, _ = page_of(completed_by(table, m=2, info=three), tmp_path)
    assert "gaussian (50%), copula (30%) and factor_analysis (20%)." in other.text
    assert page.row("seed")[1] == "7" and page.row("torch")[1] == "2.9.0" and page.row("time")[1] == "12.3 s"
    assert "Missing in more than half of the rows: 'smokes'" in page.text
    assert "Not measured in this run" in page.text


def test_pooled_means_are_those_of_the_completed_tables(tmp_path: Path) -> None:
    completed = completed_by(mixed_table(), m=7)
    page, _ = page_of(completed, tmp_path)
    for name in ("height", "visits", "income"):
        columns = [table[name].astype(float) for table in completed]
        means, errors = [c.mean() for c in columns], [c.var() / len(c) for c in columns]
        # The report takes variances with N - 1, as pandas does.
        pooled = pool(means, errors, df_complete=len(columns[0]) - 1)
        row = next(row for row in page.rows if row[0] == name and len(row) == 6)
        assert row[2] == f"{pooled.qbar[0]:.4g}" and row[3] == f"{pooled.standard_error[0]:.4g}"
        low, high = pooled.intervals()[0]
        assert row[4] == f"{low:.4g} to {high:.4g}"
        assert row[1] == f"{mixed_table()[name].mean():.4g}"
    # The mean of one table, as a twin, has another standard error.
    assert row[3] != f"{math.sqrt(errors[0]):.4g}"


def test_pooled_shares_are_those_of_the_completed_tables(tmp_path: Path) -> None:
    table = mixed_table()[["grade", "smokes", "whole"]]  # no column of numbers has a hole
    completed = completed_by(table, m=7)
    page, _ = page_of(completed, tmp_path)
    assert "pooled as log-odds" in page.text and "The mean of each numeric column" not in page.text
    for name in ("grade", "smokes"):
        seen = table[name].dropna()
        row = next(row for row in page.rows if row[0] == name and len(row) == 6)
        level = row[1]
        assert (seen == level).sum() == seen.value_counts().max()
        having = np.array([(one[name].astype(str) == level).sum() for one in completed]) + 0.5
        others = len(table) + 1 - having
        pooled = pool(np.log(having / others), 1 / having + 1 / others, df_complete=len(table) - 1)
        share, low, high = (1 / (1 + math.exp(-x)) for x in (pooled.qbar[0], *pooled.intervals()[0]))
        assert row[1:5] == [level, f"{(seen == level).mean():.1%}", f"{share:.1%}", f"{low:.1%} to {high:.1%}"]
        # The interval of one table, as a twin, is shorter; the share is that of the rows, nearly.
        alone = 1.96 * math.sqrt(share * (1 - share) / len(table))
        assert high - low > 2.1 * alone and share == pytest.approx(having.mean() / len(table), abs=0.01)
    # Where all rows of all draws have one level, there is an interval still.
    table = pd.DataFrame({"b": ["yes"] * 30 + [None] * 10, "a": ["no", "yes"] * 20})
    schema = Schema((Column("b", "binary", ("no", "yes")), Column("a", "binary", ("no", "yes"))))
    cells = torch.ones(3, 10)
    page, _ = page_of(Completed.from_cells(cells, table.isna().to_numpy(), schema=schema, like=table), tmp_path)
    # By hand: log(40.5 / 0.5) and 2.026 times the root of 1 / 40.5 + 1 / 0.5 on both sides, t with 37 degrees.
    assert page.row("b")[1:5] == ["yes", "100.0%", "98.8%", "81.9% to 99.9%"]


def test_the_page_needs_nothing_but_itself_and_fits_a_phone(tmp_path: Path) -> None:
    info = INFO | {"calibration": {"height": {"coverage95": 0.95, "pit": np.linspace(0.01, 0.99, 100).tolist()}}}
    page, text = page_of(completed_by(mixed_table(), info=info), tmp_path)
    assert page.open == []
    fetched = [v for _, attrs in page.tags for k, v in attrs.items() if k in ("src", "href", "data", "srcset")]
    assert len(fetched) > 10 and all(v is not None and v.startswith("data:") for v in fetched)
    assert not {"script", "iframe", "object", "embed"} & {tag for tag, _ in page.tags}
    assert "@import" not in text and "url(" not in text
    for picture in re.findall(r"base64,([^\"]+)", text):
        svg = base64.b64decode(picture).decode("utf-8")
        links = re.findall(r'href="([^"]*)"', svg)
        assert all(link.startswith(("#", "data:")) for link in links), links
        assert "<script" not in svg
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    assert all(attrs.get("alt") for attrs in images)
    # Pictures of few columns shrink to a phone's width, others are moved sideways.
    figures = [attrs for tag, attrs in page.tags if tag == "figure"]
    widths = [int(attrs["width"] or 0) for attrs in images]
    assert [attrs.get("class") == "fits" for attrs in figures] == [width <= 520 for width in widths]


def test_the_same_draws_give_the_same_file(tmp_path: Path, untouched_rng: None) -> None:
    table = mixed_table()[["height", "grade"]]
    one, two = (page_of(completed_by(table, info=INFO), tmp_path)[1] for _ in range(2))
    assert one == two
    other = page_of(completed_by(table, info=INFO, seed=1), tmp_path)[1]
    assert one != other


def test_names_and_levels_of_users_are_text_and_nothing_else(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "<script>alert(1)</script>": [1.5, np.nan, 2.5, 4.0, 3.25],
            "cost in $ or $\\frac$": [1.0, 2.5, np.nan, 4.25, 3.0],
            'quoted "&" name': ["<b>", "x & y", None, "$a_1$", "<b>"],
        }
    )
    completed = completed_by(table, m=3, info={"warnings": ["<i>beware</i>"]})
    page, text = page_of(completed, tmp_path, title="<title> & co")
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "b2", "i2"})
    assert "<script>" not in text and "<i>beware" not in text
    assert "<script>alert(1)</script>" in page.text and "<i>beware</i>" in page.text
    kinds = [row[1] for row in page.rows if row[0] == 'quoted "&" name']
    assert kinds[0] == "nominal, 3 levels" and kinds[-1] == "<b>"  # its commonest level
    pictures = "".join(base64.b64decode(p).decode() for p in re.findall(r"base64,([^\"]+)", text))
    assert "$a_1$" in pictures  # not set as a formula


def test_what_is_not_there_is_left_out(tmp_path: Path) -> None:
    table = np.array([[1.5, 2.0], [2.5, np.nan], [4.0, 1.0], [np.nan, np.nan]])
    schema = Schema((Column("x0", "real"), Column("x1", "real")))
    cells = torch.tensor([[1.75, 3.0, 1.25]])
    page, _ = page_of(Completed.from_cells(cells, np.isnan(table), schema=schema, like=table), tmp_path)
    assert "What was chosen" not in page.text  # nothing is known about it
    assert "An example of pooling" not in page.text  # one draw
    assert "1 row without any observed value" in page.text
    page, _ = page_of(
        Completed.from_cells(cells, np.isnan(table), schema=schema, like=table, info={"weights": {"gaussian": 1.0}}),
        tmp_path,
    )
    assert "All draws come from one program, gaussian" in page.text
    words = pd.DataFrame({"a": ["x", None, "y", "x"], "b": ["u", "v", "u", None]})
    page, _ = page_of(completed_by(words, m=3, info={"calibration": {}}), tmp_path)
    assert "it takes columns of numbers or of ordered levels" in page.text
    with pytest.raises(ValueError, match=r"out\.txt: the name of the report's file ends in \.html\."):
        report(completed_by(mixed_table(), m=2), tmp_path / "out.txt")


def test_a_table_without_holes_has_a_page_without_pictures(tmp_path: Path) -> None:
    page, _ = page_of(completed_by(mixed_table()[["whole"]], m=3), tmp_path)
    assert "missing: 0 of 120 cells" in page.text and "120 rows without a hole (100%)" in page.text
    assert "Observed against imputed" not in page.text and "img" not in {tag for tag, _ in page.tags}


def test_derived_columns_do_not_stand_in_the_way(tmp_path: Path) -> None:
    completed = completed_by(mixed_table(), m=3)
    derived = completed.derive(metres=lambda t: t.height / 100, height=lambda t: 100 + 10 * t.whole)
    page, _ = page_of(derived, tmp_path)
    columns = [table["height"] for table in derived]
    row = next(row for row in page.rows if row[0] == "height" and len(row) == 6)
    assert row[2] == f"{np.mean([c.mean() for c in columns]):.4g}"


def test_wide_tables_are_cut_to_what_can_be_taken_in(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(30, 45)), columns=[f"c{i}" for i in range(45)])
    table = table.mask(rng.random(table.shape) < 0.2)
    shares = [0.0]
    page, text = page_of(completed_by(table, m=2), tmp_path, progress=shares.append)
    assert "15 more columns" in page.text and "5 more are not shown" in page.text
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert len(text) < 3_000_000


def test_a_number_with_a_probability_of_its_own_is_named(tmp_path: Path) -> None:
    table = mixed_table()[["height", "whole"]]
    told, _ = page_of(completed_by(table, m=2, info=INFO | {"atoms": {"rain <mm>": 0.0}}), tmp_path)
    assert "far more often than any other: rain <mm> (0)." in told.text
    assert "far more often" not in page_of(completed_by(table, m=2, info=INFO), tmp_path)[0].text


@pytest.mark.parametrize(
    ("m", "spread", "said"),
    [(3, 5.0, True), (400, 5.0, False), (20, 0.01, False)],
)
def test_too_few_draws_are_called_so(tmp_path: Path, m: int, spread: float, said: bool) -> None:
    rng = np.random.default_rng(0)
    table = np.where(np.arange(100)[:, None] % 2 == 0, rng.normal(size=(100, 1)), np.nan)
    # Shifts common to all rows of a draw: as if the mean of the missing entries were all but unknown.
    cells = torch.from_numpy(spread * rng.normal(size=(m, 1)) + 0.1 * rng.normal(size=(m, 50)))
    schema = Schema((Column("x0", "real"),))
    page, _ = page_of(Completed.from_cells(cells, np.isnan(table), schema=schema, like=table), tmp_path)
    assert ("make them repeatable" in page.text) == said


@pytest.mark.parametrize(
    ("name", "coverage", "size", "words"),
    [
        ("height", 0.94, 400, None),
        ("height", 0.85, 400, "its draws are too much alike"),
        ("height", 0.995, 4000, "its draws are further apart than they need be"),
        ("visits", 0.995, 4000, "its draws are further apart than they need be"),
        ("height", 0.85, 20, None),  # chance does that
    ],
)
def test_draws_that_are_not_calibrated_are_called_so(
    tmp_path: Path, name: str, coverage: float, size: int, words: str | None
) -> None:
    info = {"calibration": {name: {"coverage95": coverage, "pit": np.linspace(0, 1, size).tolist()}}}
    page, _ = page_of(completed_by(mixed_table()[[name, "whole"]], info=info), tmp_path)
    assert (words in page.text) if words else (f"{name!r} held" not in page.text)
    assert next(row for row in page.rows if row[0] == name and len(row) == 3)[1] == f"{coverage:.1%}"


@pytest.mark.parametrize(
    ("sizes", "pictures"),
    [
        ((150, 30), [("All columns", 180), ("height", 150)]),
        ((50, 30), [("All columns", 80)]),
        ((150,), [("height", 150)]),
        ((30,), [("All columns", 30)]),
        ((10,), []),
    ],
)
def test_hidden_cells_are_shown_where_they_are_many(
    tmp_path: Path, sizes: tuple[int, ...], pictures: list[tuple[str, int]]
) -> None:
    found = {
        n: {"coverage95": 0.95, "pit": np.linspace(0, 1, k)} for n, k in zip(["height", "grade"], sizes, strict=False)
    }
    page, _ = page_of(completed_by(mixed_table()[["height", "grade"]], info={"calibration": found}), tmp_path)
    alts = [attrs["alt"] for tag, attrs in page.tags if tag == "img"]
    assert [alt for alt in alts if alt and "hidden" in alt] == [f"{n}: {k} hidden cells" for n, k in pictures]


def test_the_page_takes_what_over_imputation_found(tmp_path: Path) -> None:
    given = {"height": {"coverage95": 0.9, "pit": np.linspace(0, 1, 50)}}
    held = {"height": {"coverage95": 0.8, "pit": np.linspace(0, 1, 50)}}
    completed = completed_by(mixed_table()[["height", "whole"]], m=2, info={"calibration": held})
    page, _ = page_of(completed, tmp_path, calibration=given)
    assert "their 95% intervals held 90.0% of 50 hidden cells" in page.text
    assert completed.info["calibration"] is held
    assert "held 80.0% of 50 hidden" in page_of(completed, tmp_path)[0].text
