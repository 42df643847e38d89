"""Bodies: JSON in UTF-8. Those of requests are objects, within bounds; every handler reads its body here.

What JSON leaves open is closed here (RFC 8259, sections 4, 6 and 8.2; RFC 7493): a name stands once in an object,
numbers are finite and exact, text has no halves of surrogate pairs, nothing is nested without end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ..errors import PublicError
from ..numeric import LARGEST

MAX_BODY = 64 * 1024
"""Bytes of a body."""
MAX_DEPTH = 12
"""Of objects and lists in one another; none of the API's own is deeper than 6."""
_DIGITS = len(str(LARGEST)) + 1
_ESCAPED_BYTES = frozenset(map(chr, range(0xDC80, 0xDD00)))
_KINDS = {list: "array", str: "string", bool: "boolean", int: "number", float: "number", type(None): "null"}


def to_json(body: object) -> str:
    """Return ``body`` as JSON. Raises ValueError where it holds a number that JSON does not have: no browser reads
    what ``json`` would write for one."""
    return json.dumps(body, allow_nan=False)


def parse_json(body: bytes, *, escaped_bytes: bool = False) -> dict[str, Any]:
    """Return the JSON object in ``body``. Raises PublicError 400 for anything else.

    ``escaped_bytes``: text may hold bytes that are no UTF-8, as Python has them (PEP 383): the environment of a process
    is bytes.
    """
    allowed = _ESCAPED_BYTES if escaped_bytes else frozenset()
    try:
        data = json.loads(
            body.decode("utf-8"),
            parse_constant=_no_number,
            parse_int=_integer,
            parse_float=_float,
            object_pairs_hook=_object,
        )
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        where = f" at line {error.lineno}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise _malformed(f"the body is not JSON{where}: send an object such as {{}}") from None
    if not isinstance(data, dict):
        raise _malformed(f"the body is a JSON {_KINDS.get(type(data), 'value')}: send an object such as {{}}")
    for text in _texts(data):
        if any("\ud800" <= c <= "\udfff" and c not in allowed for c in text):
            raise _malformed(f"the body holds half of a surrogate pair in {ascii(text)[:60]}: send whole characters")
    return data


def _malformed(message: str) -> PublicError:
    return PublicError("malformed", message, 400)


def _no_number(text: str) -> None:
    raise _malformed(f"the body holds {text}, which is not a JSON number")


def _integer(text: str) -> int:
    number = int(text) if len(text) <= _DIGITS else None
    if number is None or abs(number) > LARGEST:
        raise _malformed(f"the body holds the number {_cut(text)}: integers go from -{LARGEST} to {LARGEST}")
    return number


def _float(text: str) -> float:
    number = float(text)
    if abs(number) == float("inf"):
        raise _malformed(f"the body holds the number {_cut(text)}, which is beyond 1.8e308, the largest there is")
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _malformed(f"the body holds the name {ascii(twice)[:60]} twice in one object: give it once")
    return found


def _texts(data: Any) -> Iterator[str]:
    """Every name and text in ``data``. Raises PublicError for one that is too deep."""
    level = [data]
    for _ in range(MAX_DEPTH):
        inside: list[Any] = []
        for value in level:
            if isinstance(value, str):
                yield value
            elif isinstance(value, list):
                inside += value
            elif isinstance(value, dict):
                inside += [*value, *value.values()]
        if not inside:
            return
        level = inside
    raise _malformed(f"the body is nested more than {MAX_DEPTH} deep")


def _cut(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:20]}... of {len(text)} digits"
