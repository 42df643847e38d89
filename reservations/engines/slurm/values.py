"""How Slurm writes numbers, lists of nodes and devices. Pure; what cannot be read raises ValueError."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Any

_PART = re.compile(r"[^,\[\]]*(?:\[[^\]]*\][^,\[\]]*)*")
_RANGE = re.compile(r"([0-9]+)(?:-([0-9]+))?")
_INDICES = re.compile(r"\(IDX:([^)]*)\)")


def number(value: Any) -> int | None:
    """Plain as until 22.05, or an object with ``set``, ``infinite`` and ``number`` as since; None: not set, no end."""
    if isinstance(value, Mapping):
        value = value["number"] if value.get("set") and not value.get("infinite") else None
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is no number")
    return int(value)


def state(value: Any) -> str:
    """One word, or a list of them of which the first is the state and the others are flags."""
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise ValueError(f"{value!r} is no state")
    # What goes on with it says more than what it was.
    told = next((word for word in words if word in ("COMPLETING", "REQUEUED", "REQUEUE_HOLD", "CONFIGURING")), words[0])
    return str(told).split()[0].upper()


def hosts(text: str) -> tuple[str, ...]:
    """``a[1-3,07],b1`` as a1, a2, a3, a07, b1."""
    found: list[str] = []
    for part in _PART.findall(text.strip()):
        if part and part not in ("(null)", "None assigned"):
            pieces = re.split(r"\[([^\]]*)\]", part)
            choices = [[piece] if at % 2 == 0 else _numbers(piece) for at, piece in enumerate(pieces)]
            found += ["".join(words) for words in itertools.product(*choices)]
    return tuple(found)


def _numbers(text: str) -> list[str]:
    found: list[str] = []
    for piece in text.split(","):
        match = _RANGE.fullmatch(piece.strip())
        if match is None:
            raise ValueError(f"{text!r} is no list of numbers")
        first, last = match[1], match[2] or match[1]
        found += [str(at).zfill(len(first)) for at in range(int(first), int(last) + 1)]
    return found


def indices(gres: str) -> tuple[int, ...]:
    """Which GPUs of its node ``gpu:a100:2(IDX:0-1)`` is; none where that is not told."""
    match = _INDICES.search(gres)
    return tuple(int(at) for at in _numbers(match[1])) if match and match[1] and "N/A" not in match[1] else ()


def counts(gres: str) -> dict[tuple[str, str], int]:
    """``gpu:a100:4(S:0-1),shard:8`` as {(gpu, a100): 4, (shard, ''): 8}."""
    found: dict[tuple[str, str], int] = {}
    for part in re.sub(r"\([^)]*\)", "", gres).split(","):
        words = part.strip().split(":")
        if len(words) > 1 and words[-1].isdecimal():
            key = (words[0], words[1] if len(words) > 2 else "")
            found[key] = found.get(key, 0) + int(words[-1])
    return found


def tres(text: str) -> dict[str, int]:
    """GPUs and shards of ``cpu=2,gres/gpu:a100=3``, by ``gpu:a100`` and so on."""
    pairs = (part.partition("=") for part in text.split(",") if part.startswith("gres/"))
    return {name.removeprefix("gres/"): int(value) for name, _, value in pairs if value.isdecimal()}
