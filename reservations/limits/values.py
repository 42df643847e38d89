"""The values that a limits file is written in: durations, amounts, names."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

from ..text import first_unseen

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
UNLIMITED = math.inf


def parse_duration(value: Any) -> int:
    """Whole seconds of ``90s``, ``30m``, ``12h``, ``7d`` or a number. Raises ValueError with the rule."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = re.fullmatch(r"(\d{1,9})\s*([smhd])", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be a duration such as 90s, 30m, 12h or 7d")
    return int(match[1]) * UNITS[match[2]]


def parse_amount(value: Any) -> float:
    """A number, or ``unlimited``. Raises ValueError with the rule."""
    if value == "unlimited" or value == UNLIMITED:
        return UNLIMITED
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e9:
        raise ValueError("must be a number from 0 to 1000000000, or unlimited")
    return float(value)


def parse_count(value: Any) -> float:
    """A whole number, or ``unlimited``. Raises ValueError with the rule."""
    amount = value if isinstance(value, bool) else parse_amount(value)
    if isinstance(amount, bool) or (amount != UNLIMITED and amount != int(amount)):
        raise ValueError("must be a whole number, or unlimited")
    return amount


def amount_text(value: float) -> str:
    """``4.0`` -> ``4``; infinite -> ``unlimited``."""
    return "unlimited" if value == UNLIMITED else f"{value:.4g}" if value != int(value) else str(int(value))


def gpus_text(value: float) -> str:
    """``1.0`` -> ``1 GPU``, ``0.25`` -> ``0.25 GPUs``."""
    return f"{amount_text(value)} GPU{'' if value == 1 else 's'}"


def _written(value: float) -> float | int | str:
    """As it stands in a file: JSON has no infinity."""
    return "unlimited" if value == UNLIMITED else int(value) if value == int(value) else value


def _seen(name: str) -> str:
    found = first_unseen(name)
    if found:
        raise ValueError(f"must be a name without control characters and others that cannot be seen ({found})")
    return name


_Written = PlainSerializer(_written, return_type=float | int | str)
Duration = Annotated[int, BeforeValidator(parse_duration, json_schema_input_type=int | str), Field(ge=0)]
Amount = Annotated[float, BeforeValidator(parse_amount, json_schema_input_type=float | str), _Written]
Count = Annotated[float, BeforeValidator(parse_count, json_schema_input_type=int | str), _Written]
Name = Annotated[str, AfterValidator(_seen), Field(min_length=1, max_length=255)]
Pattern = Annotated[str, Field(pattern=r"^[A-Za-z0-9*?._+\[\]-]{1,128}$")]
