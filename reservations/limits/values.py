"""The values that a limits file is written in: durations, amounts, names."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

from ..shares import MAX_CPUS, MAX_HOST_MEMORY_GIB, MIN_CPUS, MIN_HOST_MEMORY_GIB
from ..text import first_unseen

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
UNLIMITED = math.inf
LARGEST = 1e9
LONGEST_DAYS = 3650
"""Ten years: a moment so far ahead can still be written as a date."""
Where = tuple[str | int, ...]
"""A place in the file, by keys and positions in lists."""


@dataclass(frozen=True)
class Fault:
    """Something that is wrong, or probably not intended, with the value at ``where``; ``message`` in words."""

    where: Where
    message: str


class Faulty(ValueError):
    """Values that are wrong beside others. Their places are relative to the section that raises it."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(fault.message for fault in faults))
        self.faults = tuple(faults)


def near(word: str, known: Iterable[str]) -> str:
    """``; did you mean …?`` where one of ``known`` is much like ``word``, else nothing."""
    names = {name.casefold(): name for name in known}
    found = difflib.get_close_matches(word.casefold(), names, 1)
    return f"; did you mean {names[found[0]]}?" if found else ""


def parse_duration(value: Any) -> int:
    """Whole seconds of ``90s``, ``30m``, ``12h``, ``7d`` or a number. Raises ValueError with the rule."""
    match = re.fullmatch(r"([0-9]{1,9})\s*([smhd])", value) if isinstance(value, str) else None
    seconds = int(match[1]) * UNITS[match[2]] if match else value
    if isinstance(seconds, bool) or not isinstance(seconds, int) or not 0 <= seconds <= LONGEST_DAYS * UNITS["d"]:
        raise ValueError(f"must be a duration such as 90s, 30m, 12h or 7d, at most {LONGEST_DAYS}d")
    return seconds


def _at_least_a_minute(seconds: int) -> int:
    if seconds < 60:
        raise ValueError("must be at least 60 s")
    return seconds


def parse_amount(value: Any) -> float:
    """A number, or ``unlimited``. Raises ValueError with the rule.

    An infinite number is refused: it is how a number that is too large arrives, and nobody meant ``unlimited`` by it.
    """
    return UNLIMITED if value == "unlimited" else _finite(value, ", or unlimited")


def parse_number(value: Any) -> float:
    """A number that cannot be ``unlimited``, such as a weight. Raises ValueError with the rule."""
    return _finite(value)


def _finite(value: Any, otherwise: str = "") -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LARGEST:
        raise ValueError(f"must be a number from 0 to {LARGEST:.0f}{otherwise}")
    return float(value) + 0.0  # -0.0 is 0


def parse_count(value: Any) -> float:
    """A whole number, or ``unlimited``. Raises ValueError with the rule."""
    amount = parse_amount(value)
    if amount != UNLIMITED and amount != int(amount):
        raise ValueError("must be a whole number, or unlimited")
    return amount


def parse_whole(value: Any) -> int:
    """A whole number that cannot be ``unlimited``. Raises ValueError with the rule."""
    number = parse_number(value)
    if number != int(number):
        raise ValueError("must be a whole number")
    return int(number)


def parse_flag(value: Any) -> bool:
    """``true`` or ``false``, and no number or word that stands for one. Raises ValueError with the rule."""
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def parse_cpus(value: Any) -> float:
    """Cores. Raises ValueError with the rule."""
    return _between(value, MIN_CPUS, MAX_CPUS, "cores")


def parse_most_cpus(value: Any) -> float:
    """Cores, or ``unlimited``: all that a machine has. Raises ValueError with the rule."""
    return UNLIMITED if value == "unlimited" else _between(value, MIN_CPUS, MAX_CPUS, "cores", ", or unlimited")


def parse_host_memory(value: Any) -> float:
    """GiB of main memory, or ``unlimited``. Raises ValueError with the rule."""
    if value == "unlimited":
        return UNLIMITED
    return _between(value, MIN_HOST_MEMORY_GIB, MAX_HOST_MEMORY_GIB, "GiB", ", or unlimited")


def _between(value: Any, low: float, high: float, unit: str, otherwise: str = "") -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"must be a number of {unit} from {low:g} to {high:g}{otherwise}")
    return float(value)


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
        raise ValueError(f"must be text without control characters and others that cannot be seen ({found})")
    return name


_Written = PlainSerializer(_written, return_type=float | int | str)
Duration = Annotated[int, BeforeValidator(parse_duration, json_schema_input_type=int | str), Field(ge=0)]
TimeLimit = Annotated[Duration, AfterValidator(_at_least_a_minute)]
Number = Annotated[float, BeforeValidator(parse_number, json_schema_input_type=float), _Written]
Whole = Annotated[int, BeforeValidator(parse_whole, json_schema_input_type=int)]
Flag = Annotated[bool, BeforeValidator(parse_flag, json_schema_input_type=bool)]
Cpus = Annotated[float, BeforeValidator(parse_cpus, json_schema_input_type=float), _Written]
MostCpus = Annotated[float, BeforeValidator(parse_most_cpus, json_schema_input_type=float | str), _Written]
HostMemory = Annotated[float, BeforeValidator(parse_host_memory, json_schema_input_type=float | str), _Written]
Amount = Annotated[float, BeforeValidator(parse_amount, json_schema_input_type=float | str), _Written]
Count = Annotated[float, BeforeValidator(parse_count, json_schema_input_type=int | str), _Written]
Seen = Annotated[str, AfterValidator(_seen)]
Name = Annotated[Seen, Field(min_length=1, max_length=255)]
Pattern = Annotated[str, Field(pattern=r"^[A-Za-z0-9*?._+\[\]-]{1,128}$")]
