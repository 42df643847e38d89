"""Pieces that Slurm's answers are made of: host lists, numbers, times, resources. Pure.

What is not understood raises Unreadable; what Slurm does not know is None.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from .errors import Unreadable
from .odd import Odd

NOTHING = frozenset({"", "(null)", "N/A", "n/a", "None", "Unknown", "None assigned", "NONE"})
"""How Slurm says that there is no value."""
MAX_HOSTS = 100_000
LAST_INSTANT = 253402300799
"""The end of the year 9999; nothing here reckons beyond it."""
MOST_MINUTES = 2**32
"""Of a time limit: Slurm keeps it in 32 bits."""
MOST_DIGITS = 20
"""Of a number: Slurm has none of more than 64 bits, and one without an end is not calculated with."""
NO_VALUE = (0xFFFFFFFE, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFE, 0xFFFFFFFFFFFFFFFF)
"""Numbers by which plain JSON says "not set" and "without limit"."""
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50}
_PLACES = re.compile(r"(\d+)(?:-(\d+)(?::([1-9]\d*))?)?")
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)([KMGTP]?)")
_GRES = re.compile(r"([^:,()=\s]+)((?::[^:,()=\s]+)*?)(?::(\d+[KMGTP]?))?(?:\(([^()]*)\))?")
_DURATION = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?(?:\.\d+)?")


def document(text: str, what: str, key: str) -> list[Any]:
    """The list under ``key`` of what ``what --json`` printed, whatever a library prints before or after it. Slurm
    answers with an empty list, and success, when its controller cannot be reached: then the list of errors is not
    empty."""
    try:
        told, _ = json.JSONDecoder(parse_int=_json_number).raw_decode(text, text.index("{"))
    except (ValueError, RecursionError):
        raise Unreadable(what, text, "no JSON") from None
    if not isinstance(told, dict) or not isinstance(told.get(key), list):
        raise Unreadable(what, text, f"no list of {key}")
    if told.get("errors"):
        raise Unreadable(what, json.dumps(told["errors"]), "it reports errors")
    found: list[Any] = told[key]
    return found


def _json_number(digits: str) -> int | float:
    """One beyond sense belongs to one entry, and does not make the others unreadable."""
    return int(digits) if len(digits) <= MOST_DIGITS else math.inf


def entry_of(value: object, what: str) -> dict[str, Any]:
    """One of a ``document``. Raises Unreadable for what is no object."""
    if not isinstance(value, dict):
        raise Unreadable(what, repr(value), "no object")
    return value


def number(value: object) -> int | None:
    """A number as any release writes it: plain, or with whether it is set. None: not set, or without limit."""
    if isinstance(value, dict):
        if value.get("infinite") or not value.get("set", True):
            return None
        value = value.get("number")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**64:
        raise Unreadable("a number", repr(value)[:MOST_DIGITS])
    return None if value in NO_VALUE else int(value)


def instant(value: object) -> int | None:
    """Seconds since the epoch. None: not set, or after the year 9999, as the end of what may run for 8,000 years."""
    told = number(value)
    return told if told and told <= LAST_INSTANT else None


def words(value: object) -> tuple[str, ...]:
    """States and flags: one text in old releases, a list in new ones."""
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(word, str) for word in found):
        raise Unreadable("a list of words", repr(value))
    return tuple(word.upper() for word in found if word)


def text(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Unreadable("a text", repr(value))
    return "" if value in NOTHING else value


def whole(value: str) -> int | None:
    """A plain number in a text, or nothing."""
    if value in NOTHING or value == "UNLIMITED":
        return None
    if not value.isascii() or not value.isdigit():
        raise Unreadable("a number", value)
    return natural(value)


def natural(digits: str) -> int:
    """Raises Unreadable for a number beyond sense."""
    if len(digits) > MOST_DIGITS:
        raise Unreadable("a number", digits, f"more than {MOST_DIGITS} digits")
    return int(digits)


def moment(value: str) -> float | None:
    """Seconds since the epoch; the commands are told to use UTC."""
    if value in NOTHING:
        return None
    try:
        return datetime.strptime(value, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc).timestamp()
    except ValueError:
        raise Unreadable("a time", value) from None


def duration(value: str) -> int | None:
    """Seconds in ``2-00:00:00``, ``30:00`` or ``10`` (minutes); None: without limit, or not set."""
    if value in NOTHING or value in ("UNLIMITED", "INVALID", "Partition_Limit", "NOT_SET"):
        return None
    found = _DURATION.fullmatch(value)
    if not found:
        raise Unreadable("a duration", value)
    days, first, second, third = (None if part is None else natural(part) for part in found.groups())
    if max(days or 0, first or 0, second or 0, third or 0) > MOST_MINUTES:
        raise Unreadable("a duration", value)
    if days is not None:
        return days * 86400 + (first or 0) * 3600 + (second or 0) * 60 + (third or 0)
    if third is not None:
        return (first or 0) * 3600 + (second or 0) * 60 + third
    return (first or 0) * 60 + (second or 0)


def hosts(value: str) -> tuple[str, ...]:
    """``a[1-3,07],b1`` -> a1 a2 a3 a07 b1, in this order."""
    if value in NOTHING:
        return ()
    found: list[str] = []
    for part in _split(value, "[", "]"):
        found += itertools.islice(_expanded(part, value), MAX_HOSTS + 1 - len(found))
    if len(found) > MAX_HOSTS:
        raise Unreadable("a list of hosts", value, f"more than {MAX_HOSTS}")
    return tuple(found)


def _split(value: str, opens: str, closes: str) -> list[str]:
    """At commas that are not inside brackets."""
    parts, depth = [""], 0
    for character in value:
        depth += (character == opens) - (character == closes)
        if depth not in (0, 1):
            raise Unreadable("a list", value, "brackets")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    if depth:
        raise Unreadable("a list", value, "brackets")
    return parts


def _expanded(part: str, whole_text: str) -> Iterator[str]:
    pieces = re.split(r"\[([^\[\]]*)\]", part)
    if not part or any(not re.fullmatch(r"[\w.-]*", piece, re.ASCII) for piece in pieces[::2]):
        raise Unreadable("a list of hosts", whole_text)
    choices: list[list[str]] = [
        [piece] if index % 2 == 0 else list(_places(piece, whole_text)) for index, piece in enumerate(pieces)
    ]
    return ("".join(chosen) for chosen in itertools.product(*choices))


def _places(ranges: str, whole_text: str) -> Iterator[str]:
    for one in ranges.split(","):
        found = _PLACES.fullmatch(one)
        if not found or found[3]:
            raise Unreadable("a list of hosts", whole_text)
        first, last = found[1], found[2] or found[1]
        if not natural(first) <= natural(last) <= natural(first) + MAX_HOSTS:
            raise Unreadable("a list of hosts", whole_text)
        width = len(first) if first.startswith("0") else 0
        yield from (str(place).zfill(width) for place in range(int(first), int(last) + 1))


def indices(value: str) -> tuple[int, ...]:
    """``0-2,7,10-30:10`` -> 0 1 2 7 10 20 30."""
    found: list[int] = []
    for one in value.split(","):
        match = _PLACES.fullmatch(one)
        if not match or not natural(match[1]) <= natural(match[2] or match[1]) <= natural(match[1]) + MAX_HOSTS:
            raise Unreadable("a list of numbers", value)
        found += range(int(match[1]), int(match[2] or match[1]) + 1, natural(match[3] or "1"))
    return tuple(found)


def quantity(value: str) -> int:
    """``62.50G`` -> bytes or pieces."""
    found = _QUANTITY.fullmatch(value)
    if not found:
        raise Unreadable("a quantity", value)
    if len(found[1]) > MOST_DIGITS:
        raise Unreadable("a quantity", value, f"more than {MOST_DIGITS} digits")
    return int(float(found[1]) * _UNITS[found[2]])


def tres(value: str) -> dict[str, int]:
    """``cpu=2,mem=4G,gres/gpu:a100=1`` -> numbers; ``mem`` in MiB, as Slurm means it without a unit."""
    found: dict[str, int] = {}
    for part in value.split(",") if value not in NOTHING else ():
        name, sign, told = part.partition("=")
        if not sign or not name:
            raise Unreadable("resources", value)
        size = quantity(told)
        found[name] = size // 2**20 if name == "mem" and told[-1].isalpha() else size
    return found


@dataclass(frozen=True)
class Gres:
    """``gpu:a100:2(IDX:0-1)``. ``indices``: which of the node's GPUs; None: not told. ``per_gpu``: of shards, how many
    of how many are taken on each GPU, None for one that is taken as a whole; empty: not told."""

    name: str
    kind: str
    count: int
    indices: tuple[int, ...] | None = None
    per_gpu: tuple[tuple[int, int] | None, ...] = ()


def gres(value: str) -> tuple[Gres, ...]:
    """All of a node or of a job on one node."""
    if value in NOTHING:
        return ()
    return tuple(_one_gres(part.removeprefix("gres/").removeprefix("gres:"), value) for part in _split(value, "(", ")"))


def _one_gres(part: str, value: str) -> Gres:
    # A GPU without a type is ``gpu:(null):2``.
    found = _GRES.fullmatch(part.replace(":(null)", ""))
    if not found:
        raise Unreadable("resources", value)
    kinds = [kind for kind in found[2].split(":")[1:] if kind != "no_consume"]
    if len(kinds) > 1:
        raise Unreadable("resources", value)
    count = quantity(found[3]) if found[3] else 1
    kind = kinds[0] if kinds else ""
    detail = found[4] or ""
    if detail.startswith("IDX:"):
        told = detail.removeprefix("IDX:")
        return Gres(found[1], kind, count, () if told in NOTHING else indices(told))
    if "/" in detail:
        return Gres(found[1], kind, count, None, tuple(_taken(one, value) for one in detail.split(",")))
    return Gres(found[1], kind, count)


def _taken(one: str, value: str) -> tuple[int, int] | None:
    taken, _, of = one.partition("/")
    if taken == "-":
        return None
    if not (taken.isdigit() and of.isdigit()):
        raise Unreadable("resources", value)
    return natural(taken), natural(of)


def pairs(line: str, what: str, first: str) -> dict[str, str]:
    """``Key=value`` of a line of ``scontrol show … -o``, which begins with the key ``first``. Values may have spaces,
    and what an administrator wrote may look like a key: the first of a name counts, as it comes before such texts."""
    if not line.startswith(f"{first}="):
        raise Unreadable(what, line, f"no {first}")
    found: dict[str, str] = {}
    for match in re.finditer(r"(?:^| )([A-Z][A-Za-z:/_]*)=(.*?)(?= [A-Z][A-Za-z:/_]*=|$)", line):
        found.setdefault(match[1], match[2].strip())
    return found


def table(value: str, what: str, separator: str, needed: tuple[str, ...], odd: Odd | None) -> list[Mapping[str, str]]:
    """Rows below a line of names, as ``sacct -P`` and ``sacctmgr -P`` print them. A value may have line breaks, but not
    the first and the last of a row; none has the separator. Lines that make no row are added to ``odd``."""
    lines = value.split("\n")
    at = next((at for at, line in enumerate(lines) if set(needed) <= set(line.split(separator))), None)
    if at is None or at + 1 == len(lines):
        raise Unreadable(what, value)
    names = lines[at].split(separator)
    strange = [*lines[:at], lines.pop()]  # the last has no end: it was cut off, or is empty
    pieces: list[str] = []
    rows: list[Mapping[str, str]] = []
    for line in lines[at + 1 :]:
        pieces.append(line)
        while sum(piece.count(separator) for piece in pieces) >= len(names):
            strange.append(pieces.pop(0))  # of a row that was not whole
        if sum(piece.count(separator) for piece in pieces) == len(names) - 1:
            first, *cells = "\n".join(pieces).split(separator)
            *foreign, first = first.split("\n")
            strange, pieces = [*strange, *foreign], []
            rows.append(dict(zip(names, [first, *cells], strict=True)))
    for line in filter(str.strip, [*strange, *pieces]):
        if odd is None and not rows:
            raise Unreadable(what, line, "a row is not whole")
        if odd is not None:
            odd.add(what, Unreadable(what, line, "a row is not whole"))
    return rows
