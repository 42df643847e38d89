"""Arrivals: who asked for what and when, and how long it would have held its devices if left alone.

The columns of a trace (CSV with a heading line, UTF-8, any order; those in brackets may be left out or empty):

| column | what |
| --- | --- |
| `submitted_at` | RFC 3339, such as `2026-03-02T09:30:00+01:00`, or seconds |
| `owner` | who asked |
| `[groups]` | her groups, separated by `;` |
| `[kind]` | `session` (default) or `batch` |
| `gpus`, `memory_gib`, `mig_profile` or `cpu_only` (`true`) | the share: one of them |
| `[compute_percent]`, `[model]` | with `memory_gib`; with any share |
| `[time_limit_s]` | as asked for; empty: the default of the limits |
| `run_s` | how long it would hold its devices if nobody ended it |
| `[idle_s]` | of a session: how much of `run_s`, at its end, it is idle |
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..errors import PublicError
from ..files import open_plain
from ..kind import Kind
from ..shares import ShareRequest, parse_share

SHARE_COLUMNS = ("gpus", "memory_gib", "mig_profile", "cpu_only", "compute_percent", "model")
NEEDED = ("submitted_at", "owner", "run_s")
COLUMNS = (*NEEDED, "groups", "kind", *SHARE_COLUMNS, "time_limit_s", "idle_s")
LONGEST_RUN_S = 10 * 366 * 86400.0
MOST_ARRIVALS = 5_000_000
MOST_BYTES = 2 * 1024**3


class TraceError(Exception):
    """A trace cannot be read: the text names the file, the line, the column, the value and the rule."""


@dataclass(frozen=True)
class Arrival:
    """One request as it came. Times in seconds; ``at`` since the epoch.

    ``time_limit_s`` None: the default of the limits. ``run_s``: how long it holds devices if left alone, of which a
    session is idle for the last ``idle_tail_s``. ``extended``: its time limit was not asked for at once but reached by
    extensions, so a shorter longest time would not have refused it.
    """

    at: float
    owner: str
    groups: tuple[str, ...]
    kind: Kind
    request: ShareRequest
    time_limit_s: int | None
    run_s: float
    idle_tail_s: float = 0.0
    extended: bool = False


def read_trace(path: Path) -> list[Arrival]:
    """The arrivals in ``path``, by time. Raises TraceError."""
    try:
        with open_plain(path) as raw:
            if (size := os.fstat(raw.fileno()).st_size) > MOST_BYTES:
                raise TraceError(f"{path}: has {size} bytes, and a trace at most {MOST_BYTES}: cut it in pieces")
            with io.TextIOWrapper(raw, newline="", encoding="utf-8-sig") as file:
                return _read(csv.DictReader(file, strict=True), str(path))
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    except csv.Error as error:
        raise TraceError(f"{path}: is not CSV: {error}") from None


def _read(rows: csv.DictReader[str], name: str) -> list[Arrival]:
    heads = rows.fieldnames or []
    missing = [column for column in NEEDED if column not in heads]
    unknown = [column for column in heads if column not in COLUMNS]
    twice = sorted({column for column in heads if heads.count(column) > 1})
    for wrong, what in ((missing, "is missing"), (unknown, "is not known"), (twice, "stands there twice")):
        if wrong:
            raise TraceError(f"{name}, line 1: the column {wrong[0]!r} {what}; columns: {', '.join(COLUMNS)}")
    shares: dict[tuple[str, ...], ShareRequest] = {}
    arrivals = []
    for row in rows:
        if None in row or None in row.values():
            raise TraceError(f"{name}, line {rows.line_num}: has not the {len(heads)} fields of the heading line")
        arrivals.append(_arrival(_Line(name, rows.line_num, row), shares))
        if len(arrivals) > MOST_ARRIVALS:
            raise TraceError(f"{name}: has more than {MOST_ARRIVALS} arrivals: cut it into parts")
    if not arrivals:
        raise TraceError(f"{name}: has no arrivals: write one line for each below the heading line")
    return sorted(arrivals, key=lambda arrival: arrival.at)


@dataclass(frozen=True)
class _Line:
    """One line of a trace. ``get`` gives a column's text, empty when it is left out."""

    file: str
    number: int
    row: Mapping[str, str]

    def get(self, column: str) -> str:
        return self.row.get(column, "").strip()

    def wrong(self, column: str, rule: str) -> TraceError:
        value = self.get(column)
        shown = value if len(value) <= 80 else value[:77] + "..."
        return TraceError(f"{self.file}, line {self.number}: {column} is {shown!r}: {rule}")

    def number_of(self, column: str, low: float, high: float) -> float:
        """A finite number from ``low`` to ``high``."""
        try:
            value = float(self.get(column))
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise self.wrong(column, f"must be a number of seconds from {low:g} to {high:g}")
        return value


def _arrival(line: _Line, shares: dict[tuple[str, ...], ShareRequest]) -> Arrival:
    owner = line.get("owner")
    if not owner or len(owner) > 255 or not owner.isprintable():
        raise line.wrong("owner", "must be a name of 1 to 255 characters")
    kind = line.get("kind") or Kind.SESSION.value
    if kind not in [known.value for known in Kind]:
        raise line.wrong("kind", "must be session or batch")
    run_s = line.number_of("run_s", 0, LONGEST_RUN_S)
    limit = int(line.number_of("time_limit_s", 60, LONGEST_RUN_S)) if line.get("time_limit_s") else None
    idle_s = line.number_of("idle_s", 0, LONGEST_RUN_S) if line.get("idle_s") else 0.0
    if idle_s > run_s:
        raise line.wrong("idle_s", f"is part of run_s, so it must be at most {run_s:g}")
    groups = tuple(name for part in line.get("groups").split(";") if (name := part.strip()))
    return Arrival(_moment(line), owner, groups, Kind(kind), _share(line, shares), limit, run_s, idle_s)


def _share(line: _Line, known: dict[tuple[str, ...], ShareRequest]) -> ShareRequest:
    texts = tuple(line.get(column) for column in SHARE_COLUMNS)
    if texts not in known:
        fields: dict[str, Any] = {}
        for column, text in zip(SHARE_COLUMNS, texts, strict=True):
            if text:
                fields[column] = _value(column, text)
        try:
            known[texts] = parse_share(fields)
        except PublicError as error:
            raise TraceError(f"{line.file}, line {line.number}: {error}") from None
    return known[texts]


def _value(column: str, text: str) -> float | str | bool:
    """As the API has it; what is wrong with it is told as the API tells it."""
    if column == "cpu_only" and text.lower() == "true":
        return True
    if column in ("mig_profile", "model", "cpu_only"):
        return text
    try:
        return float(text)
    except ValueError:
        return text


def _moment(line: _Line) -> float:
    text = line.get("submitted_at")
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text.replace("Z", "+00:00").replace("z", "+00:00"))
        except ValueError:
            moment = None
        if moment is None:
            raise line.wrong("submitted_at", "must be RFC 3339 such as 2026-03-02T09:30:00Z, or seconds") from None
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
    if not 0 <= seconds < 32503680000:  # the year 3000; the calendar ends somewhere
        raise line.wrong("submitted_at", "must lie between 1970 and 3000")
    return seconds
