"""What a backup says of itself. Everything in it is checked before anything else is believed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ...reservations.ledger.rowcopy import NAMES as TABLES
from .contents import FILES, HUB, LIMITS_ELSEWHERE

FORMAT = 1
NAME = "manifest.json"
LARGEST = 1 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")
_COLUMN = re.compile(r"[a-z_]{1,40}")
_REVISION = re.compile(r"[0-9]{4}")


class BackupError(Exception):
    """A backup cannot be made or used; the text says why and what to do."""


@dataclass(frozen=True)
class Part:
    """One file in a backup: its bytes, and their SHA-256."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """``made_at``: RFC 3339. ``state_dir``: the folder that it was made of. ``database``: of the ledger, ``sqlite`` or
    ``postgresql``; ``revision``: its migration; ``columns``: of its tables; ``rows``: how many. ``notes``: what is not
    in it, for people."""

    timeshare: str
    made_at: str
    state_dir: str
    database: str
    revision: str
    columns: Mapping[str, tuple[str, ...]]
    rows: Mapping[str, int]
    parts: Mapping[str, Part]
    notes: tuple[str, ...] = ()

    def text(self) -> str:
        """As it stands in the backup."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1)

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(part.size for part in self.parts.values())


def table_part(table: str) -> str:
    """Return the name of the part with the rows of ``table``."""
    return f"ledger/{table}.jsonl"


def file_part(name: str) -> str:
    """Return the name of the part with a file of the state folder."""
    return f"state/{name}"


PARTS = frozenset((*map(table_part, TABLES), *map(file_part, (*FILES, HUB, LIMITS_ELSEWHERE))))


def read_manifest(data: bytes) -> Manifest:
    """Raises BackupError for what this version cannot use."""
    try:
        told = json.loads(data)
        number = told["format"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise BackupError("what it says of itself cannot be read: it is damaged, or no backup of timeshare") from None
    if number != FORMAT:
        raise BackupError(f"its format is {number!r}, and this version reads {FORMAT}: use the timeshare that made it")
    try:
        return _manifest(told)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BackupError(f"what it says of itself is not understood ({error}): it is damaged") from None


def _manifest(told: Mapping[str, Any]) -> Manifest:
    found = Manifest(
        **{name: _text(told[name]) for name in ("timeshare", "made_at", "state_dir", "database", "revision")},
        columns={str(name): tuple(map(_text, names)) for name, names in told["columns"].items()},
        rows={str(name): _count(rows) for name, rows in told["rows"].items()},
        parts={str(name): Part(_count(p["size"]), _text(p["sha256"])) for name, p in told["parts"].items()},
        notes=tuple(map(_text, told["notes"])),
    )
    for name, part in found.parts.items():
        if name not in PARTS or not _DIGEST.fullmatch(part.sha256):
            raise ValueError(f"part {name[:80]!r}")
    for table, names in found.columns.items():
        wrong = [name for name in names if not _COLUMN.fullmatch(name)]
        if table not in TABLES or wrong or not names or table_part(table) not in found.parts or table not in found.rows:
            raise ValueError(f"table {table[:80]!r}")
    if not _REVISION.fullmatch(found.revision):
        raise ValueError(f"revision {found.revision[:80]!r}")
    if found.database not in ("sqlite", "postgresql"):
        raise ValueError(f"database {found.database[:80]!r}")
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:80]!r} is no text")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 50:
        raise ValueError(f"{str(value)[:80]!r} is no count")
    return value
