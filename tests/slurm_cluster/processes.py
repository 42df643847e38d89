"""Daemons with pid files: which run, and their end. Never by name: others run the same programs."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def until(question: Callable[[], T], what: str, seconds: float = 60.0) -> T:
    """The first true answer. Raises TimeoutError with ``what`` was awaited."""
    end = time.monotonic() + seconds
    while not (answer := question()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.05)
    return answer


def running(pid_file: Path, mark: str) -> int | None:
    """The pid in the file if that process lives and is ours: ``mark`` stands in its arguments or environment.

    The number alone would not do: after a crash it may belong to something else.
    """
    try:
        pid = int(pid_file.read_text())
        about = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
    except (OSError, ValueError):
        return None
    return pid if mark.encode() in about and alive(pid) else None


def alive(pid: int) -> bool:
    """False for a zombie too: nothing of it runs, and its parent may never look."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def kill(pid_file: Path, mark: str, with_signal: int = signal.SIGKILL) -> None:
    """Ends the process of the file, if it is ours, and waits for its end."""
    pid = running(pid_file, mark)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, with_signal)
        until(lambda: not alive(pid), f"the end of process {pid} of {pid_file}")
    pid_file.unlink(missing_ok=True)
