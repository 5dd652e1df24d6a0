"""Dates: in the notations of files, and as days."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

__all__ = ["Dates", "as_days", "from_days", "read_dates"]

TIME = r"(?P<time>[T ]\d{1,2}:\d\d(?P<seconds>:\d\d(?P<fraction>\.\d{1,6})?)?)?"
SHAPES = {  # of the day, with what it is to strftime; where there are two, which one is for the numbers to say
    r"\d{4}-\d{1,2}-\d{1,2}": ("%Y-%m-%d",),
    r"\d{4}/\d{1,2}/\d{1,2}": ("%Y/%m/%d",),
    r"\d{1,2}\.\d{1,2}\.\d{4}": ("%d.%m.%Y",),
    r"\d{1,2}\.\d{1,2}\.\d\d": ("%d.%m.%y",),
    r"\d{1,2}/\d{1,2}/\d{4}": ("%d/%m/%Y", "%m/%d/%Y"),
    r"\d{1,2}/\d{1,2}/\d\d": ("%d/%m/%y", "%m/%d/%y"),
    r"\d{1,2}-\d{1,2}-\d{4}": ("%d-%m-%Y", "%m-%d-%Y"),
    r"\d{1,2}-[A-Za-z]{3}-\d{4}": ("%d-%b-%Y",),
    r"\d{1,2}-[A-Za-z]{3}-\d\d": ("%d-%b-%y",),
    r"\d{1,2}[A-Za-z]{3}\d{4}": ("%d%b%Y",),
    r"\d{1,2} [A-Za-z]{3} \d{4}": ("%d %b %Y",),
    r"[A-Za-z]{3} \d{1,2}, \d{4}": ("%b %d, %Y",),
}
DAY = 86_400_000_000  # microseconds


class Dates(NamedTuple):
    """Dates that were read.

    Attributes:
        values: The dates, as time stamps.
        format: How they were written, as for strftime.
        bad: A cell that keeps them from being dates, if there is one.
        why: What is wrong with it.
    """

    values: list[Any]
    format: str
    bad: str | None = None
    why: str = ""


def read_dates(texts: Sequence[str]) -> Dates | None:
    """Reads dates that are all written in the same way; None where they are not.

    Example:
        >>> read_dates(["24.12.2024", "6.1.2025"]).values[1]
        Timestamp('2025-01-06 00:00:00')
        >>> read_dates(["03/04/2024"]).why
        'may be the 3rd of month 4, or the other way round: write dates as 2024-04-03'
    """
    for shape, days in SHAPES.items():
        pattern = re.compile(shape + TIME)
        found = [pattern.fullmatch(text) for text in texts]
        matches = [match for match in found if match is not None]
        if len(matches) < len(found):
            continue
        times = {_time_format(match) for match in matches}
        if len(times) > 1:
            return None
        tried = [
            (day, pd.to_datetime(pd.Series(list(texts)), format=day + times.copy().pop(), errors="coerce"))
            for day in days
        ]
        fine = [(day, values) for day, values in tried if values.notna().all()]
        if not fine:
            least = max(tried, key=lambda one: int(one[1].notna().sum()))[1]
            return Dates([], "", texts[int(least.isna().to_numpy().argmax())], "is no date")
        if len(fine) == 2 and not fine[0][1].equals(fine[1][1]):
            i = int((fine[0][1] != fine[1][1]).to_numpy().argmax())
            first, second = re.split(r"\D", texts[i])[:2]
            day = f"{fine[0][1][i]:%Y-%m-%d}"
            other = f"of month {int(second)}, or the other way round: write dates as {day}"
            why = f"may be the {_ordinal(int(first))} {other}"
            return Dates([], "", texts[i], why)
        return Dates(list(fine[0][1]), fine[0][0] + times.pop())
    return None


def _time_format(match: "re.Match[str]") -> str:
    if match["time"] is None:
        return ""
    return match["time"][0] + "%H:%M" + (":%S" if match["seconds"] else "") + (".%f" if match["fraction"] else "")


def _ordinal(number: int) -> str:
    endings = {1: "st", 2: "nd", 3: "rd"}
    return f"{number}{endings.get(number % 10, 'th') if number not in (11, 12, 13) else 'th'}"


def as_days(series: "pd.Series[Any]") -> npt.NDArray[np.float64]:
    """Dates as days since 1970, in universal time where they have a zone; NaN where missing.

    Example:
        >>> as_days(pd.Series(pd.to_datetime(["1970-01-02 12:00", None]))).tolist()
        [1.5, nan]
    """
    if getattr(series.dt, "tz", None) is not None:
        series = series.dt.tz_convert("UTC").dt.tz_localize(None)
    stamps = series.to_numpy(dtype="datetime64[us]")
    days = stamps.astype(np.int64) / DAY
    days[np.isnat(stamps)] = np.nan
    return days


def from_days(days: npt.NDArray[np.float64], dtype: Any) -> "pd.Series[Any]":
    """Days since 1970 as dates of a type, to the second."""
    least, most = (stamp.value / 1000 / DAY for stamp in (pd.Timestamp.min, pd.Timestamp.max))
    seconds = np.rint(days.clip(np.ceil(least) + 1, np.floor(most) - 1) * 86_400).astype("datetime64[s]")
    stamps: Any = pd.Series(seconds)
    tz = getattr(dtype, "tz", None) or getattr(getattr(dtype, "pyarrow_dtype", None), "tz", None)
    if tz is not None:
        stamps = stamps.dt.tz_localize("UTC").dt.tz_convert(tz)
    dated: pd.Series[Any] = stamps.astype(dtype)
    return dated
