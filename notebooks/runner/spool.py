"""The spool: every message that the kernel published, one JSON line each, numbered. It is only ever added to, so any
number of readers follow it, and a reader that comes late, or comes back, sees the same in the same order.

Progress bars redraw one line some hundred times a second. What they overwrite is never seen by anybody, so of such
redrawn lines only the newest is written, at most twice a second; the last one always.

On a full disk the job goes on: lines wait in memory, whole, until there is room.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..capture.own import check_own, open_own

REDRAW_S = 0.5
SYNC_S = 1.0
FULL = frozenset((errno.ENOSPC, errno.EDQUOT))
MOST_WAITING = 64 * 1024 * 1024
"""Bytes of lines that wait for room; later ones are lost, which is said in their place."""
LOST = "timeshare: the disk of this job's folder was full, and output was lost here\n"
_BAR = re.compile(r"(?P<what>[^\r\n]*?)\s*(?P<percent>\d+)%\|[^|]*\|\s*(?P<n>[\d.]+\w?)/(?P<total>[\d.]+\w?)")
Line = dict[str, Any]


@dataclass
class Spool:
    """Writes. ``clock``: seconds, monotonic."""

    path: Path
    clock: Callable[[], float] = time.monotonic
    _seq: int = 0
    _synced_at: float = 0.0
    _redrawn: dict[str, tuple[str, Line]] = field(default_factory=dict)
    _drawn_at: dict[str, float] = field(default_factory=dict)
    _waiting: bytearray = field(default_factory=bytearray)
    _lost: bool = False

    def __post_init__(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self._descriptor = os.open(self.path, flags, 0o600)
        check_own(self.path, os.fstat(self._descriptor), stat.S_ISREG)
        self._seq = _repaired(self._descriptor)

    def add(self, kind: str, content: Line) -> None:
        """``kind`` and ``content`` of a message as Jupyter's protocol has them."""
        if kind == "stream":
            content = self._folded(content)
        if kind == "update_display_data":
            self._later(str(content.get("transient", {}).get("display_id")), kind, content)
            return
        if kind != "stream":
            self.flush()
        if kind != "stream" or content["text"]:
            self._write(kind, content)

    def tick(self) -> None:
        """What is due by time: redrawn lines, and the disk."""
        now = self.clock()
        for key in [key for key, at in self._drawn_at.items() if now - at >= REDRAW_S and key in self._redrawn]:
            self._draw(key)
        if now - self._synced_at >= SYNC_S:
            self._push()
            self._sync()
            self._synced_at = now

    def flush(self) -> None:
        """Writes what was held back."""
        for key in list(self._redrawn):
            self._draw(key)

    def close(self) -> None:
        self.flush()
        self._push()
        self._sync()
        os.close(self._descriptor)

    def _folded(self, content: Line) -> Line:
        """Only what a terminal would still show: of a line that was redrawn the newest state, held back for a while."""
        name, text = str(content.get("name")), str(content["text"])
        held = self._redrawn.pop(name, None)
        text = (held[1]["text"] if held else "") + text
        head, newline, tail = text.rpartition("\n")
        first, *others = head.split("\n")
        # What was drawn of the first line before is to be overwritten.
        shown = (
            "\n".join([("\r" if "\r" in first.rstrip("\r") else "") + newest(first), *map(newest, others)]) + newline
        )
        if "\r" in tail:
            self._later(name, "stream", {"name": name, "text": "\r" + newest(tail)})
            return {"name": name, "text": shown}
        return {"name": name, "text": shown + tail}

    def _later(self, key: str, kind: str, content: Line) -> None:
        self._redrawn[key] = (kind, content)
        if self.clock() - self._drawn_at.setdefault(key, float("-inf")) >= REDRAW_S:
            self._draw(key)

    def _draw(self, key: str) -> None:
        kind, content = self._redrawn.pop(key)
        self._drawn_at[key] = self.clock()
        self._write(kind, content)

    def _write(self, kind: str, content: Line) -> None:
        if len(self._waiting) < MOST_WAITING:
            self._append(kind, content)
        elif not self._lost:
            self._lost = True
            self._append("stream", {"name": "stderr", "text": LOST})
        if not self._push():
            return
        self._lost = False
        bars = list(_BAR.finditer(content["text"])) if kind == "stream" and "%|" in content["text"] else []
        if bars:
            self._write("progress", {"what": bars[-1]["what"].strip(" :\r"), "percent": int(bars[-1]["percent"])})

    def _append(self, kind: str, content: Line) -> None:
        self._seq += 1
        line = json.dumps({"seq": self._seq, "at": time.time(), "kind": kind, "content": content}) + "\n"
        self._waiting += line.encode()

    def _push(self) -> bool:
        """Write what waits, whole lines or nothing. False: the disk takes nothing more."""
        if not self._waiting:
            return True
        end = os.fstat(self._descriptor).st_size
        try:
            written = os.write(self._descriptor, self._waiting)
        except OSError as error:
            if error.errno not in FULL:
                raise
            return False
        whole = self._waiting.rfind(b"\n", 0, written) + 1
        if whole < written:  # a full disk takes a part; a half line would spoil the next one
            os.ftruncate(self._descriptor, end + whole)
        del self._waiting[:whole]
        return not self._waiting

    def _sync(self) -> None:
        try:
            os.fsync(self._descriptor)
        except OSError as error:  # some file systems say only now that they are full
            if error.errno not in FULL:
                raise


def newest(line: str) -> str:
    """What a terminal shows of a line that was redrawn."""
    return line.rstrip("\r").rpartition("\r")[2]


def _repaired(descriptor: int) -> int:
    """The last number in the spool. A half line that a crash left is cut off: it was never shown to anybody."""
    whole = seq = 0
    with open(descriptor, "rb", closefd=False) as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            seq = int(json.loads(line)["seq"])
    os.ftruncate(descriptor, whole)
    return seq


def read_lines(path: Path, after: int = 0) -> Iterator[Line]:
    """The whole lines with a number above ``after`` that are there now."""
    with contextlib.suppress(FileNotFoundError), open_own(path) as file:
        for raw in file:
            if not raw.endswith(b"\n"):
                return
            line: Line = json.loads(raw)
            if line["seq"] > after:
                yield line


@dataclass
class SpoolReader:
    """Follows a spool that may not be there yet; reads each line once."""

    path: Path
    _offset: int = 0
    _seq: int = 0

    def new(self) -> list[Line]:
        """The whole lines since the last call."""
        found: list[Line] = []
        with contextlib.suppress(FileNotFoundError), open_own(self.path) as file:
            if os.fstat(file.fileno()).st_size < self._offset:
                self._offset = 0  # a half line was cut off; numbers tell what was read before
            file.seek(self._offset)
            for raw in file:
                if not raw.endswith(b"\n"):
                    break
                self._offset += len(raw)
                line: Line = json.loads(raw)
                if line["seq"] > self._seq:
                    self._seq = line["seq"]
                    found.append(line)
        return found
