"""The exception that ended a cell, as it can be raised again elsewhere with its own traceback and source lines."""

from __future__ import annotations

import linecache
import types
from pathlib import Path
from typing import Any

from tblib import Traceback

NAME = "__timeshare_error__"
"""Among the results of a job, the exception that ended it."""
_MACHINERY = ("IPython/core/", "ipykernel/", "timeshare/notebooks/runner/")


def packed(error: BaseException) -> dict[str, Any]:
    """``error`` beside what a pickle of it leaves out: the traceback, and the text of the cells in it."""
    frames = _own_frames(error.__traceback__)
    names = {frame.f_code.co_filename for frame, _ in _walk(frames)}
    return {
        "error": error,
        "traceback": None if frames is None else Traceback(frames).to_dict(),
        "sources": {name: "".join(linecache.getlines(name)) for name in names if not Path(name).exists()},
    }


def unpacked(told: dict[str, Any]) -> BaseException:
    """The exception; its traceback shows the lines of the cells that it passed."""
    remember(told["sources"])
    error: BaseException = told["error"]
    if told["traceback"] is None:
        return error
    return error.with_traceback(Traceback.from_dict(told["traceback"]).as_traceback())


def remember(sources: dict[str, str]) -> None:
    """Tracebacks show lines of these texts from now on."""
    for name, text in sources.items():
        if text:
            linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)


def _walk(traceback: types.TracebackType | None) -> list[tuple[types.FrameType, int]]:
    found = []
    while traceback is not None:
        found.append((traceback.tb_frame, traceback.tb_lineno))
        traceback = traceback.tb_next
    return found


def _own_frames(traceback: types.TracebackType | None) -> types.TracebackType | None:
    """From the cell on: what ran the cell is of no interest to who wrote it."""
    while traceback is not None and any(part in traceback.tb_frame.f_code.co_filename for part in _MACHINERY):
        traceback = traceback.tb_next
    return traceback
