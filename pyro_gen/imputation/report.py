"""One page about an imputation, for people: what was missing, what was chosen, and whether to believe the draws."""

import base64
import html
import io
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from pyro_gen._files import write_text
from pyro_gen.data.column import Column
from pyro_gen.data.schema import Schema
from pyro_gen.imputation import plots
from pyro_gen.imputation.amputation import MCAR, ampute
from pyro_gen.imputation.pooling.rubin import pool
from pyro_gen.imputation.scores import pit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pyro_gen.imputation.completed import Completed
    from pyro_gen.imputation.imputer import Imputer
    from pyro_gen.imputation.pooling.rubin import Pooled

__all__ = ["over_impute", "report"]

# What can be taken in: columns in the pictures of holes, patterns of holes, columns with a picture of their own,
# entries of a column.
MAPPED, PATTERNS, PICTURED, KEPT = 30, 12, 40, 4000
SHRUNK = 520  # pixels: wider pictures could not be read if they were shrunk to a phone's width
OVER_IMPUTED = 2000  # rows with hidden cells that are imputed
REPEATABLE = 0.1  # the coefficient of variation of standard errors above which more draws are advised

Array = npt.NDArray[Any]


def report(
    completed: "Completed",
    path: str | os.PathLike[str],
    *,
    title: str = "Imputation report",
    calibration: Mapping[str, Mapping[str, Any]] | None = None,
    progress: Callable[[float], None] | None = None,
) -> Path:
    r"""Writes one HTML file that says what was missing, how it was imputed, and how far to trust it.

    The file needs nothing besides itself, no network and no script, and is read on a phone as on a desk. It shows the
    holes (shares, patterns, where they are, which columns miss together), the programs with their held-out scores and
    weights, observed against imputed entries for each column, how calibrated the draws were for observed cells that
    were hidden (where that was measured), warnings in words, and as an example of pooling the mean of each numeric
    column with holes and the share of the commonest level of each other one.

    Arguments:
        completed: The completed tables.
        path: The file, whose name ends in .html.
        title: The heading.
        calibration: What :func:`over_impute` found; left out, ``completed.info["calibration"]``, if that is there.
        progress: Called with the share that is done.

    Returns:
        The file.

    Raises:
        ValueError: The name of the file does not end in .html.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from pyro_gen.data.schema import Schema
        >>> from pyro_gen.imputation.completed import Completed
        >>> table = np.array([[1.5, 2.0], [2.5, np.nan], [4.0, 1.0]])
        >>> draws = torch.tensor(table).expand(5, 3, 2).clone()
        >>> draws[:, 1, 1] = torch.tensor([1.5, 1.2, 1.9, 1.4, 1.0])
        >>> page = report(Completed(draws, Schema.infer(table), table, {}), Path(tempfile.mkdtemp()) / "report.html")
        >>> "1 of 6 cells" in page.read_text(encoding="utf-8")
        True
    """
    path = Path(path)
    if path.suffix not in (".html", ".htm"):
        raise ValueError(f"{path}: the name of the report's file ends in .html.")
    matter = _gather(completed, progress)
    if calibration is not None:
        matter = replace(matter, info={**matter.info, "calibration": calibration})
    write_text(path, _page(matter, title, progress))
    return path.resolve()


def over_impute(
    imputer: "Imputer", table: Any, *, share: float = 0.1, draws: int = 99, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Hides observed cells, has them imputed by an imputer that never saw them, and looks where they fall.

    It needs no truth besides the table itself. It measures the draws for cells that could have been observed; those
    that are really missing may be different. What was chosen, the programs and their weights, is not chosen again: each
    program that was kept learns once, from the table without the hidden cells.

    Arguments:
        imputer: One that is fitted, and stays as it is.
        table: The table that it was fitted to.
        share: Of the observed cells, to hide.
        draws: The number of draws that hidden cells are compared with.
        seed: Seeds what is hidden.

    Returns:
        By column, of numbers or of ordered levels, ``pit``, where each hidden cell lies among its draws, from 0 to 1,
        see :func:`pyro_gen.imputation.scores.pit`, and ``coverage95``, the share of them that lie in the central 95%:
        what :func:`report` takes as ``calibration``. Among draws that are the same as it a cell lies anywhere, at
        random. So 95% is right for levels and counts too, whose intervals, ends included, hold more than they promise.
        Empty where the table is too small to hide a cell and learn from the others.

    Example:
        >>> import numpy as np
        >>> from pyro_gen.imputation.imputer import Imputer
        >>> x = np.random.default_rng(0).normal(size=(300, 2))
        >>> x[:30, 0] = np.nan
        >>> found = over_impute(Imputer("gaussian", random_state=0).fit(x), x)
        >>> 0.85 < found["x1"]["coverage95"] <= 1.0
        True
    """
    schema = imputer.schema_
    hollow = ampute(table, MCAR(share), seed=seed)
    truth, seen = schema.encode(table), ~schema.encode(hollow).isnan()
    rows = _some((~seen & ~truth.isnan()).any(1).nonzero()[:, 0].numpy(), OVER_IMPUTED)
    if len(rows) == 0 or bool((seen.sum(0) == 0).any()):
        return {}
    learner = imputer.learnt_anew(hollow)
    part = hollow.iloc[rows] if hasattr(hollow, "iloc") else hollow[rows]
    completed = learner.impute(part, draws=draws)
    holes = torch.as_tensor(completed.missing)
    values = truth[rows][holes]  # NaN where nothing was hidden, as it was missing before
    drawn = torch.stack([completed.cells(k) for k in range(draws)])
    places = pit(drawn, values, seed=seed)
    owner = holes.nonzero()[:, 1]
    found: dict[str, dict[str, Any]] = {}
    for d, column in enumerate(schema.columns):
        mine = (owner == d) & ~values.isnan()
        if column.kind not in ("binary", "nominal") and bool(mine.any()):
            inside = (places[mine] - 0.5).abs() <= 0.475
            found[column.name] = {"coverage95": float(inside.double().mean()), "pit": places[mine].tolist()}
    return found


# ----------------------------------------------------------------------------------------------------------------------
# What the page is about


@dataclass(frozen=True)
class _Filled:
    """A column with holes.

    Attributes:
        index: Its place in the table.
        column: What it holds.
        count: The number of missing entries.
        observed: The observed entries, or some of them, with shape (n).
        imputed: The draws of the missing entries, or of some of them, with shape (m, k).
        observed_mean: The mean of all observed entries.
        commonest: The code that is observed most often, where there are levels.
        observed_share: Its share of all observed entries.
    """

    index: int
    column: Column
    count: int
    observed: Array
    imputed: Array
    observed_mean: float
    commonest: int
    observed_share: float


@dataclass(frozen=True)
class _Matter:
    """What the page is made of.

    Attributes:
        schema: The columns.
        missing: Where nothing was observed, with shape (N, D).
        filled: The columns with holes, from the one with most on.
        means: The mean of each column over the rows, in each draw, on the encoded scale, with shape (m, D).
        variances: The squared standard errors of these means, with shape (m, D).
        counts: Of each column with holes that has levels, in the order of ``filled``: how many rows have the level that
            is observed most often, in each draw, with shape (m, columns).
        info: What the imputer said.
    """

    schema: Schema
    missing: Array
    filled: tuple[_Filled, ...]
    means: Array
    variances: Array
    counts: Array
    info: Mapping[str, Any]

    @property
    def draws(self) -> int:
        return len(self.means)

    @property
    def rows(self) -> int:
        return len(self.missing)


def _gather(completed: "Completed", progress: Callable[[float], None] | None) -> _Matter:
    """One pass over the draws, one at a time: the memory it takes does not grow with their number."""
    schema, missing = completed.schema, np.asarray(completed.missing)
    table = completed[0]
    if hasattr(table, "columns"):  # derived columns are no part of the schema
        table = table.loc[:, [str(name) in schema.names for name in table.columns]]
    values = schema.encode(table).numpy()
    counts = missing.sum(0)
    order = [int(d) for d in np.argsort(-counts, kind="stable") if counts[d]]
    shown = {d: _some(np.flatnonzero(missing[:, d])) for d in order}
    imputed: dict[int, list[Array]] = {d: [] for d in order}
    seen = {d: values[~missing[:, d], d] for d in order}
    commonest = {d: int(np.bincount(seen[d].astype(int)).argmax()) for d in order if schema.columns[d].discrete}
    means, variances, having = [], [], []
    for k in range(len(completed)):
        values[missing] = completed.cells(k).numpy()
        means.append(values.mean(0))
        variances.append(values.var(0, ddof=1) / len(values))
        having.append([int((values[:, d] == level).sum()) for d, level in commonest.items()])
        for d in order:
            imputed[d].append(values[shown[d], d])
        if progress is not None:
            progress(0.5 * (k + 1) / len(completed))
    filled = []
    for d in order:
        level, drawn = commonest.get(d, 0), np.stack(imputed[d])
        average, share = float(seen[d].mean()), float((seen[d] == level).mean())
        filled.append(_Filled(d, schema.columns[d], int(counts[d]), _some(seen[d]), drawn, average, level, share))
    each = np.stack(means), np.stack(variances), np.array(having)
    return _Matter(schema, missing, tuple(filled), *each, completed.info)


def _some(rows: Array, most: int = KEPT) -> Array:
    """No more than can be shown, evenly spread."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(int)]


# ----------------------------------------------------------------------------------------------------------------------
# The page


def _page(matter: _Matter, title: str, progress: Callable[[float], None] | None) -> str:
    makers = (
        _warnings,
        _what_is_missing,
        _what_was_chosen,
        _observed_and_imputed,
        _calibration,
        _pooled,
        _provenance,
    )
    sections = []
    for i, make in enumerate(makers):
        sections.append(make(matter))
        if progress is not None:
            progress(0.5 + 0.5 * (i + 1) / len(makers))
    cells, holes = matter.missing.size, int(matter.missing.sum())
    complete = int((~matter.missing.any(1)).sum())
    tiles = (
        (f"{matter.rows:,} × {len(matter.schema.columns):,}", "rows × columns"),
        (f"{_percent(holes / cells)}", f"missing: {holes:,} of {cells:,} cells"),
        (f"{complete:,}", f"rows without a hole ({_percent(complete / matter.rows)})"),
        (f"{matter.draws}", "completed tables"),
    )
    head = "".join(f"<li><b>{value}</b> {label}</li>" for value, label in tiles)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # Without an icon of its own a browser asks for one.
        f'<link rel="icon" href="data:,">\n<title>{_escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n'
        f'<header><h1>{_escape(title)}</h1>\n<ul class="tiles">{head}</ul></header>\n'
        f"<main>\n{''.join(sections)}</main>\n</body>\n</html>\n"
    )


def _section(heading: str, *parts: str) -> str:
    return f"<section>\n<h2>{heading}</h2>\n{''.join(parts)}</section>\n"


def _warnings(matter: _Matter) -> str:
    said = [*map(str, matter.info.get("warnings", ())), *_remarks(matter)]
    if not said:
        return _section("Warnings", "<p>None.</p>\n")
    items = "".join(f"<li>{_escape(text)}</li>\n" for text in said)
    return _section("Warnings", f'<ul class="warnings">\n{items}</ul>\n')


def _remarks(matter: _Matter) -> list[str]:
    """What a careful reader of the figures would say."""
    said = []
    sparse = [f for f in matter.filled if f.count > 0.5 * matter.rows]
    if sparse:
        names = _listed([f"{str(f.column.name)!r} ({_percent(f.count / matter.rows)})" for f in sparse])
        said.append(
            f"Missing in more than half of the rows: {names}. What is said of {_it(len(sparse))} rests on the model "
            "more than on the data."
        )
    if hollow := int(matter.missing.all(1).sum()):
        said.append(
            f"{_number(hollow, 'row')} without any observed value: the draws for {_it(hollow)} know nothing but the "
            "distribution of the table."
        )
    pooled = [p for p in (_pooled_means(matter), _pooled_shares(matter)) if p is not None]
    if not all(p.enough(REPEATABLE) for p in pooled):
        needed = max(p.draws_needed(REPEATABLE) for p in pooled)
        said.append(
            f"With {matter.draws} draws the standard errors of what is pooled below differ by more than "
            f"{REPEATABLE:.0%} from one seed to the next; {needed} draws make them repeatable."
        )
    for name, found in _calibrated(matter).items():
        size, coverage = len(found.get("pit", ())), float(found["coverage95"])
        # Four standard errors: one false alarm in ten thousand columns.
        slack = 4 * math.sqrt(0.95 * 0.05 / size) if size else math.inf
        if abs(coverage - 0.95) > slack:
            said.append(
                f"The 95% intervals of {name!r} held {_percent(coverage)} of {size:,} hidden observed cells: its draws "
                f"are {'too much alike' if coverage < 0.95 else 'further apart than they need be'}."
            )
    return said


def _what_is_missing(matter: _Matter) -> str:
    shown = sorted(matter.filled[:MAPPED], key=lambda f: f.index)
    names = [f.column.name for f in shown]
    holes = matter.missing[:, [f.index for f in shown]]
    cut = ""
    if len(matter.filled) > MAPPED:
        cut = f" The {MAPPED} columns with most missing values of {len(matter.filled)}."
    pictures = []
    patterns = plots.pattern_counts(holes)
    if patterns[0][1] > 1:
        rest = f" The {PATTERNS} most frequent of {len(patterns):,} patterns." if len(patterns) > PATTERNS else ""
        text = (
            "Each row of the picture is a pattern: red where it has a hole, with the rows of the table that have "
            f"it.{rest}{cut}"
        )
        figure = plots.missing_patterns(holes, names, most=PATTERNS)
        pictures.append(_picture(figure, "Which columns are missing together", text))
    text = (
        f"The table from its first row to its last: red where values are missing.{cut} Blocks are a sign that "
        "something happened at once: a device that failed, a question that came later, people who left."
    )
    pictures.append(_picture(plots.missing_map(holes, names), "Where the holes are", text))
    if len(shown) > 1:
        text = (
            "Per cent of the rows where the column above is missing in which the column on the left is missing "
            f"too.{cut} Under chance each row of the picture would have one colour, the share of its column."
        )
        figure = plots.co_missingness(holes, names)
        pictures.append(_picture(figure, "How often one is missing where another is", text))
    alone = "" if patterns[0][1] > 1 else "<p>No two rows have the same holes.</p>\n"
    return _section(
        "What is missing, and where", _shares(matter), alone, f'<div class="row">\n{"".join(pictures)}</div>\n'
    )


def _shares(matter: _Matter) -> str:
    rows = []
    for filled in matter.filled:
        share = filled.count / matter.rows
        bar = f'<span class="bar"><i style="width:{100 * share:.1f}%"></i></span>'
        rows.append(
            (_escape(filled.column.name), _kind(filled.column), f"{bar} {_percent(share)}", f"{filled.count:,}")
        )
    heads = ("column", "kind", "missing", "cells")
    table = _table(heads, rows[:MAPPED], numeric=(3,))
    if len(rows) > MAPPED:
        more = _table(heads, rows[MAPPED:], numeric=(3,))
        table += f"<details><summary>{len(rows) - MAPPED} more columns</summary>\n{more}</details>\n"
    with_holes = {f.index for f in matter.filled}
    complete = [str(c.name) for d, c in enumerate(matter.schema.columns) if d not in with_holes]
    if complete:
        table += f"<p>Complete: {_escape(_listed(complete, 30))}.</p>\n"
    return table


def _kind(column: Column) -> str:
    if column.discrete:
        return f"{column.kind}, {len(column.levels)} levels" if column.kind != "binary" else "binary"
    return f"{column.kind}, whole numbers" if column.integer and column.kind != "count" else column.kind


def _pulled(info: Mapping[str, Any]) -> str:
    spread = float(info.get("spread") or 1.0)
    if spread == 1:
        return ""
    return (
        f" Draws of numbers are pulled towards their mean, to {spread:.2f} of the distance: a mixture of programs that "
        "are right about their errors spreads too far."
    )


def _with_atoms(info: Mapping[str, Any]) -> str:
    atoms = dict(info.get("atoms") or {})
    if not atoms:
        return ""
    named = ", ".join(f"{_escape(name)} ({_escape(f'{float(a):g}')})" for name, a in atoms.items())
    return (
        f"<p>One number is there far more often than any other: {named}. It has a probability of its own, and what is "
        "imputed is exactly that number, or another.</p>\n"
    )


def _what_was_chosen(matter: _Matter) -> str:
    info = matter.info
    method, weights, scores = (info.get(key) for key in ("method", "weights", "scores"))
    weights, scores = dict(weights or {}), dict(scores or {})
    if not (method or weights or scores):
        return ""
    names = sorted({**weights, **scores}, key=lambda n: (-float(weights.get(n, 0.0)), -_score(scores.get(n))))
    parts = []
    if len(names) > 1:
        used = [n for n in names if weights.get(n, 0.0) >= 0.005]
        parted = [f"{_escape(n)} ({_percent(float(weights[n]))})" for n in used]
        mixture = " and ".join([", ".join(parted[:-1]), parted[-1]] if len(parted) > 1 else parted)
        parts.append(
            f"<p>{len(names)} programs were learnt with some of the observed cells hidden, and scored by how well they "
            "predicted these: the mean log predictive density of a hidden cell, in nats, higher is better. The draws "
            f"come from {'the program' if len(used) == 1 else 'a mixture of the programs'} with the weights that "
            f"predict the hidden cells best: {mixture}.{_pulled(info)}</p>\n"
        )
    elif names:
        parts.append(
            f"<p>All draws come from one program, <b>{_escape(names[0])}</b>"
            f"{' (method ' + _escape(method) + ')' if method and method != names[0] else ''}.</p>\n"
        )
    else:
        parts.append(f"<p>Method: <b>{_escape(method)}</b>.</p>\n")
    parts.append(_with_atoms(info))
    if len(names) > 1 or scores:
        best = max((_score(s) for s in scores.values()), default=-math.inf)
        rows = []
        for name in names:
            weight, score = float(weights.get(name, 0.0)), _score(scores.get(name))
            bar = f'<span class="bar ink"><i style="width:{100 * weight:.1f}%"></i></span>'
            known = math.isfinite(score)
            behind = "best" if score == best else f"{score - best:.3f}"
            rows.append(
                (
                    _escape(name),
                    f"{bar} {_percent(weight)}",
                    f"{score:.3f}" if known else "–",
                    behind if known else "–",
                )
            )
        parts.append(_table(("program", "weight", "held-out score", "to the best"), rows, numeric=(2, 3)))
    return _section("What was chosen, and why", *parts)


def _score(value: object) -> float:
    number = math.nan if value is None else float(value)  # type: ignore[arg-type]
    return -math.inf if math.isnan(number) else number


def _observed_and_imputed(matter: _Matter) -> str:
    figures = []
    for filled in matter.filled[:PICTURED]:
        column, observed, imputed = filled.column, filled.observed, filled.imputed
        if column.discrete:
            figure = plots.level_shares(observed, imputed, column.levels)
            note = ""
            if len(column.levels) > 12:
                note = f"; the 12 most frequent of {len(column.levels)} levels"
        else:
            whole = column.integer or column.kind == "count"
            figure = plots.density(observed, imputed, integer=whole, positive=column.kind == "positive")
            note = f"; mean {_figure(observed.mean())} observed, {_figure(imputed.mean())} imputed"
        text = f"{_kind(column)}; {_number(filled.count, 'missing value')}{note}"
        figures.append(_picture(figure, str(column.name), text))
    more = len(matter.filled) - PICTURED
    rest = f"<p>The {PICTURED} columns with most missing values; {more} more are not shown.</p>\n" if more > 0 else ""
    return _section(
        "Observed against imputed",
        '<p><span class="key observed"></span> observed <span class="key imputed"></span> imputed: the mean over the '
        "draws, with whiskers that hold 95% of them. The two may differ where the rows with holes differ "
        "from the others in what was observed of them. A difference that nothing of the kind explains is a reason to "
        "doubt the imputation.</p>\n",
        rest,
        f'<div class="grid">\n{"".join(figures)}</div>\n',
    )


def _calibrated(matter: _Matter) -> dict[str, Mapping[str, Any]]:
    return {str(name): found for name, found in dict(matter.info.get("calibration") or {}).items()}


def _calibration(matter: _Matter) -> str:
    found = _calibrated(matter)
    if not found:
        why = "Not measured in this run: no observed cells were hidden to see where they fall."
        if "calibration" in matter.info:
            why = (
                "Not measured: it takes columns of numbers or of ordered levels, and a table from which some cells can "
                "be hidden."
            )
        return _section("Calibration", f"<p>{why}</p>\n")
    sizes = np.array([len(f.get("pit", ())) for f in found.values()])
    coverage = np.array([float(f["coverage95"]) for f in found.values()])
    total = f" of {sizes.sum():,}" if sizes.sum() else ""
    overall = float(np.average(coverage, weights=sizes if sizes.sum() else None))
    rows = [
        (_escape(name), _percent(c, 1), f"{size:,}" if size else "–")
        for (name, _), c, size in zip(found.items(), coverage, sizes, strict=True)
    ]
    places = [(name, np.asarray(f.get("pit", ()), dtype=float)) for name, f in found.items()]
    told = [(name, p) for name, p in places if len(p) >= 100]  # with fewer the bins say next to nothing
    together = np.concatenate([p for _, p in places])
    if len(together) >= 20 and (len(found) > 1 or not told):
        told.insert(0, ("All columns", together))
    figures = [_picture(plots.pit_histogram(p), name, f"{len(p):,} hidden cells") for name, p in told[:PICTURED]]
    parts = [
        f"<p>Observed cells were hidden and imputed: their 95% intervals held <b>{_percent(overall, 1)}</b>{total} "
        "hidden cells; 93% to 97% is good. A level or a whole number that is an end of its interval counts as held "
        "only in part, at random, so that 95% is right for those too.</p>\n",
        _table(("column", "95% intervals held", "hidden cells"), rows, numeric=(1, 2)),
    ]
    if figures:
        parts.append(
            "<p>Where the hidden values fell within their draws, from below all (0) to above all (1). Flat, within the "
            "grey band that chance allows, is calibrated; heaps at both ends say that the draws are too much alike, a "
            "heap in the middle that they are too far apart, a slope that they are too high or too low.</p>\n"
            f'<div class="grid">\n{"".join(figures)}</div>\n'
        )
    return _section("Calibration", *parts)


def _pooled_means(matter: _Matter) -> "Pooled | None":
    """The pooled means of the numeric columns with holes, where there are such columns, and draws to compare."""
    chosen = [f for f in sorted(matter.filled, key=lambda f: f.index) if not f.column.discrete]
    if not chosen or matter.draws < 2:
        return None
    at = [f.index for f in chosen]
    names = [f.column.name for f in chosen]
    return pool(matter.means[:, at], matter.variances[:, at], df_complete=matter.rows - 1, names=names)


def _pooled_shares(matter: _Matter) -> "Pooled | None":
    """The pooled log-odds of the commonest levels of columns with holes, where there are such columns, and draws.

    With half a row more on either side, so that they are finite where all rows of a draw have the level.
    """
    chosen = [f for f in matter.filled if f.column.discrete]
    if not chosen or matter.draws < 2:
        return None
    order = np.argsort([f.index for f in chosen])
    having = matter.counts[:, order] + 0.5
    others = matter.rows + 1 - having
    names = [chosen[i].column.name for i in order]
    return pool(np.log(having / others), 1 / having + 1 / others, df_complete=matter.rows - 1, names=names)


def _pooled(matter: _Matter) -> str:
    means, shares = _pooled_means(matter), _pooled_shares(matter)
    if means is None and shares is None:
        return ""
    parts = [
        "<p>An analysis of each completed table, its results pooled by Rubin's rules: intervals hold what the "
        "rows leave open and what the holes add to it. Analyse the tables in the same way: each by itself, then "
        "<code>completed.fit(analysis).pool()</code>. Never analyse their average, whose intervals are too short.</p>\n"
    ]
    filled = {f.column.name: f for f in matter.filled}
    traces: list[tuple[float, str, Array]] = []
    if means is not None:
        parts.append("<p>The mean of each numeric column with holes:</p>\n")
        rows = []
        for row in means.summary().to_dict("records"):
            interval = _interval(_figure(row["conf.low"]), _figure(row["conf.high"]))
            cells = (_figure(row["estimate"]), _figure(row["std.error"]), interval, _percent(row["fmi"]))
            rows.append((_escape(row["term"]), _figure(filled[row["term"]].observed_mean), *cells))
        heads = (
            "column",
            "mean of observed",
            "pooled mean",
            "standard error",
            "95% interval",
            "inform&shy;ation missing",
        )
        parts.append(_table(heads, rows, numeric=(1, 2, 3, 4, 5)))
        traces += [(-means.fmi[i], means.names[i], means.estimates[:, i]) for i in np.flatnonzero(means.b > 0)]
    if shares is not None:
        parts.append(
            "<p>The share of the rows that have the level observed most often, for each column of levels with holes; "
            "pooled as log-odds, shown as shares:</p>\n"
        )
        rows = []
        for row in shares.summary().to_dict("records"):
            of = filled[row["term"]]
            low, share, high = (_percent(_inverse_logit(row[k]), 1) for k in ("conf.low", "estimate", "conf.high"))
            level = _escape(plots.level_name(of.column.levels[of.commonest]))
            cells = (_percent(of.observed_share, 1), share, _interval(low, high), _percent(row["fmi"]))
            rows.append((_escape(row["term"]), level, *cells))
        heads = ("column", "level", "share of observed", "pooled share", "95% interval", "inform&shy;ation missing")
        parts.append(_table(heads, rows, numeric=(2, 3, 4, 5)))
        for i in np.flatnonzero(shares.b > 0):
            level = plots.level_name(filled[shares.names[i]].column.levels[filled[shares.names[i]].commonest])
            traces.append((-shares.fmi[i], f"{shares.names[i]}: {level}", _inverse_logit(shares.estimates[:, i])))
    if traces:
        text = "mean over the first draws, ± 2 errors"
        figures = [
            _picture(plots.running_means(trace), name, text)
            for _, name, trace in sorted(traces, key=lambda t: t[0])[:3]
        ]
        parts.append("<p>How they settle as draws are added, where most information is missing:</p>\n")
        parts.append(f'<div class="grid">\n{"".join(figures)}</div>\n')
    return _section("An example of pooling", *parts)


def _interval(low: str, high: str) -> str:
    """Two numbers in a line, or on a phone in two."""
    return f'<span class="low">{low} to</span> {high}'


def _inverse_logit(log_odds: Any) -> Any:
    return 1 / (1 + np.exp(-log_odds))


def _provenance(matter: _Matter) -> str:
    info = matter.info
    rows = [("method", _escape(info["method"]))] if "method" in info else []
    rows.append(("draws", str(matter.draws)))
    if "seed" in info:
        rows.append(("seed", _escape(info["seed"])))
    if isinstance(info.get("seconds"), int | float):
        rows.append(("time", f"{info['seconds']:.1f} s"))
    rows += [(_escape(name), _escape(version)) for name, version in dict(info.get("versions") or {}).items()]
    return _section("How to repeat it", _table(("", ""), rows))


# ----------------------------------------------------------------------------------------------------------------------
# Parts of a page


def _escape(value: object) -> str:
    return html.escape(str(value))


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[int] = ()) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        marks = (' class="n"' if i in numeric else "" for i in range(len(cells)))
        return "<tr>" + "".join(f"<{tag}{m}>{c}</{tag}>" for c, m in zip(cells, marks, strict=True)) + "</tr>\n"

    head = f"<thead>{row(heads, 'th')}</thead>\n" if any(heads) else ""
    body = "".join(row(cells, "td") for cells in rows)
    return f'<div class="wide"><table>\n{head}<tbody>\n{body}</tbody></table></div>\n'


def _picture(figure: "Figure", heading: str, text: str) -> str:
    """A figure as an image within the page; on a phone small ones shrink, and large ones are moved sideways."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    # Text stays text, so that the page is small; no date, so that the same draws give the same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "pyro-gen"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    width = round(96 * figure.get_figwidth())
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    heading, text = _escape(heading), _escape(text)
    fits = ' class="fits"' if width <= SHRUNK else ""
    image = f'<img width="{width}" alt="{heading}: {text}" src="data:image/svg+xml;base64,{data}">'
    return (
        f'<figure{fits} style="width:min(100%,{max(width, 336)}px)"><h3>{heading}</h3><div class="wide">{image}</div>'
        f"<figcaption>{text}</figcaption></figure>\n"
    )


def _percent(share: float, digits: int | None = None) -> str:
    """A share for people: more digits where it is small, and 0% or 100% only where it is exactly that."""
    if digits is None:
        digits = 0 if 0.1 <= share <= 0.99 or share in (0, 1) else 1
    text = f"{share:.{digits}%}"
    if share < 1 and text.startswith("100"):
        return "over 99.9%"
    if share > 0 and float(text[:-1]) == 0:
        return "under 0.1%"
    return text


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def _number(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _it(n: int) -> str:
    return "it" if n == 1 else "them"


def _listed(words: Sequence[str], most: int = 8) -> str:
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")


STYLE = """
:root { color-scheme: light; --ink: #1b1f24; --text: #3a4048; --line: #d5d9de; --blue: #2166ac; --red: #b2182b; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; background: #fff; color: var(--ink);
       font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.2; margin: .5rem 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; padding-top: .6rem; border-top: 2px solid var(--ink); }
h3 { font-size: .95rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
p { max-width: 46rem; margin: .5rem 0 .8rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .6rem; margin: 0;
         padding: 0; list-style: none; }
.tiles li { border: 1px solid var(--line); border-radius: 6px; padding: .5rem .7rem; color: var(--text);
            font-size: .85rem; line-height: 1.35; }
.tiles b { display: block; color: var(--ink); font-size: 1.3rem; }
.warnings { margin: 0; padding: .6rem .8rem .6rem 1.8rem; max-width: 52rem; background: #fff6e0;
            border-left: 4px solid #b97a00; border-radius: 4px; overflow-wrap: anywhere; }
.warnings li + li { margin-top: .4rem; }
.wide { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .9rem; margin: .4rem 0 .8rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--line);
         white-space: nowrap; }
th { color: var(--text); font-weight: 600; font-size: .8rem; line-height: 1.2; white-space: normal;
     vertical-align: bottom; }
td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 6rem; max-width: 16rem; }
.n { text-align: right; }
.bar { display: inline-block; width: 5rem; height: .7rem; background: #e9edf2; border-radius: 2px; }
.bar i { display: block; height: 100%; background: var(--red); border-radius: 2px; }
.bar.ink i { background: var(--text); }
figure { margin: 1.2rem 0; min-width: 0; }
figure img { display: block; max-width: none; height: auto; }
figcaption { max-width: 46rem; color: var(--text); font-size: .85rem; line-height: 1.4; margin-top: .2rem; }
.low { white-space: nowrap; }
.fits img { max-width: 100%; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: .4rem 1.4rem; }
.row { display: flex; flex-wrap: wrap; gap: 0 2.5rem; align-items: flex-start; }
.grid figure { margin: .6rem 0; }
.grid img { width: 100%; max-width: 26rem; }
.key { display: inline-block; width: .9rem; height: .9rem; vertical-align: -.1rem; border-radius: 2px; }
.key.observed { background: #c6dbef; border: 1.5px solid var(--blue); }
.key.imputed { background: #f4c3bd; border: 1.5px solid var(--red); margin-left: .8rem; }
summary { cursor: pointer; color: var(--blue); }
@media (max-width: 30rem) { table { font-size: .78rem; } th { font-size: .7rem; } .bar { width: 3rem; }
  th, td { padding-right: .4rem; } td:first-child { min-width: 4.2rem; } td.n { white-space: normal; } }
@media print { body { max-width: none; } figure, tr { break-inside: avoid; } }
"""
