"""The one rule for text that one person writes and another one reads: on a page, in a terminal, in a log.

Characters that nobody sees can turn a line around (U+202E), end it, move a terminal's cursor, or make two names look
alike. They are refused where text comes in (``check_line``) and written out where text from elsewhere, such as an
engine's words, is shown (``escaped``).
"""

from __future__ import annotations

import logging
import re
import sys
import unicodedata
from functools import cache
from typing import Any

from .errors import invalid

MAX_DETAIL = 2000
"""Longest reason of an end, in characters."""
UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
"""Categories of Unicode (UAX #44): controls, format characters (bidirectional ones too), surrogates, private use, ends
of lines and paragraphs."""


def first_unseen(text: str) -> str:
    """Return the first character of ``text`` that nobody sees, written as U+202E; empty when all are seen."""
    if text.isascii() and text.isprintable():
        return ""
    return next((f"U+{ord(c):04X}" for c in text if unicodedata.category(c) in UNSEEN), "")


def check_line(name: str, value: Any, *, empty: bool = False, longest: int = 255) -> str:
    """Return ``value`` if it is one line of text that can be seen. Raises PublicError naming ``name`` and the rule."""
    rule = f"must be text of {0 if empty else 1} to {longest} characters on one line"
    if not isinstance(value, str) or not (empty or value) or len(value) > longest:
        raise invalid(name, value, rule)
    if (found := first_unseen(value)) != "":
        raise invalid(name, value, f"{rule}, without control characters and others that cannot be seen ({found})")
    return value


def escaped(text: str, keep: str = "") -> str:
    r"""Return ``text`` with what nobody sees written out, such as ``\u202e``; characters of ``keep`` stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_written(c) if c not in keep and unicodedata.category(c) in UNSEEN else c for c in text)


def _written(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


class LineFormatter(logging.Formatter):
    """Writes each message on one line, whatever stands in it: nobody can write entries that were never made."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = escaped(record.message)
        return super().formatMessage(record)


def log_lines(level: int = logging.INFO) -> None:
    """Log to standard error, one line for each message."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


@cache
def seen_pattern(begins: str = "") -> str:
    """Return a regular expression (Python's, ECMA's) for text that begins so and holds nothing that nobody sees.

    Surrogates are left out: JSON in UTF-8 cannot hold them. Characters beyond U+FFFF, most of them private use, are
    refused ahead of the class: tools that make up text from a pattern write out the whole class, again and again.
    """
    codes = [c for c in range(sys.maxunicode + 1) if unicodedata.category(chr(c)) in UNSEEN - {"Cs"}]
    ranges: list[list[int]] = []
    for code in codes:
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    low, high = (
        "".join(f"{_in_class(first)}-{_in_class(last)}" for first, last in ranges if (last <= 0xFFFF) is is_low)
        for is_low in (True, False)
    )
    return f"^(?![\\s\\S]*[{high}]){begins}[^{low}]*$"


def _in_class(code: int) -> str:
    # Neither dialect reads the other's escapes beyond four digits, so those characters stand as they are.
    return f"\\u{code:04x}" if code <= 0xFFFF else re.escape(chr(code))
