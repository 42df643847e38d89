"""What a batch reservation is to run: a job folder of its owner, and nothing else.

The service keeps where a job lies and what it must be, never what is in it; the cell, its variables and its outputs
stay in files that belong to her.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from .errors import invalid
from .text import first_unseen

MAX_TASKS = 1000
MAX_PATH = 1024
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class JobSpec:
    """``python``: the interpreter that runs the job, ``folder``: where the job is; absolute paths as its owner sees
    them. ``digest``: of the job's file, so that no other is run. ``key``: signs its results; told to its owner only.

    ``array``: jobs with the same one were submitted together, ``of`` of them; ``index``: which of them it is, from 0.
    ``parallel``: of one array at most so many run at once (0: as many as the limits allow).
    """

    name: str
    python: str
    folder: str
    digest: str
    key: str = ""
    array: str = ""
    index: int = 0
    parallel: int = 0
    of: int = 1

    def as_json(self) -> dict[str, Any]:
        """For the ledger."""
        return asdict(self)


def absolute_path(name: str, value: Any) -> str:
    """Raises PublicError for what is no absolute path."""
    rule = f"must be an absolute path of at most {MAX_PATH} characters, without '..' and characters that cannot be seen"
    if not isinstance(value, str) or not value.startswith("/") or len(value) > MAX_PATH:
        raise invalid(name, value, rule)
    if first_unseen(value) or ".." in value.split("/"):
        raise invalid(name, value, rule)
    return value


def digest(name: str, value: Any) -> str:
    """Raises PublicError for what is no digest."""
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise invalid(name, value, "must be a digest: 64 hexadecimal digits")
    return value
