"""Numbers as people and programs write them, checked once.

Python's integers have no end and its floats do: ``float`` and ``math.isfinite`` raise for an integer of 309 digits.
"""

from __future__ import annotations

import math
from typing import Any

LARGEST = 2**53 - 1
"""Beyond it JSON's numbers are not exact (RFC 8259, section 6); nothing here counts so far."""


def finite(value: Any) -> float | None:
    """Return ``value`` as a float; None when it is no number, infinite or beyond every float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def whole(value: Any) -> int | None:
    """Return ``value`` as an integer of at most ``LARGEST``; None when it is none. JSON's ``2.0`` is 2."""
    number = finite(value)
    if number is None or not number.is_integer() or abs(number) > LARGEST:
        return None
    return int(value)
