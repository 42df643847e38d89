"""A job's outputs in the cell that asked for them, while it runs and from its beginning: a thread reads the spool and
publishes each message again, as a child of that cell's own."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..runner.spool import SpoolReader
from .job import Job
from .states import Status, duration

POLL_S = 0.2
STATUS_S = 1.0


class Screen(Protocol):
    """Where messages and the status of a job are shown."""

    def show(self, kind: str, content: dict[str, Any]) -> None:
        """A message of the job's kernel."""

    def status(self, text: str, *, ended: bool) -> None:
        """What the job is doing, in one line; the newest takes the place of the one before."""


class CellScreen:
    """A cell of this kernel: the one that runs when this is made, also after it has ended."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self._parent = kernel.get_parent("shell")
        self._display_id = f"timeshare-{uuid.uuid4()}"
        self._status: dict[str, Any] | None = None
        self._clear_next = False

    def show(self, kind: str, content: dict[str, Any]) -> None:
        if kind == "clear_output":
            self._clear_next = True
            if not content.get("wait"):
                self._clear()
            return
        if kind not in ("stream", "display_data", "update_display_data", "execute_result", "error"):
            return
        if self._clear_next and kind != "update_display_data":
            self._clear()
        if kind == "execute_result":  # its number would be the job's
            kind = "display_data"
            content = {"data": content["data"], "metadata": content["metadata"], "transient": {}}
        self._send(kind, content)

    def status(self, text: str, *, ended: bool) -> None:
        mark = "■" if ended else "▶"
        first = self._status is None
        self._status = {
            "data": {"text/plain": f"{mark} {text}"},
            "metadata": {},
            "transient": {"display_id": self._display_id},
        }
        self._send("display_data" if first else "update_display_data", self._status)

    def _clear(self) -> None:
        """The job's outputs; its status comes back at once, without a flicker."""
        self._clear_next = False
        self._send("clear_output", {"wait": True})
        if self._status is not None:
            self._send("display_data", self._status)

    def _send(self, kind: str, content: dict[str, Any]) -> None:
        self._kernel.session.send(
            self._kernel.iopub_socket, kind, content, parent=self._parent, ident=kind.encode(), metadata={}
        )


class TerminalScreen:
    """Standard output; the status goes to standard error."""

    def __init__(self) -> None:
        self._last = ""

    def show(self, kind: str, content: dict[str, Any]) -> None:
        if kind == "stream":
            (sys.stderr if content["name"] == "stderr" else sys.stdout).write(content["text"])
        elif kind == "error":
            print("\n".join(content["traceback"]))
        elif kind in ("display_data", "execute_result"):
            print("".join(content["data"].get("text/plain", "")))
        sys.stdout.flush()

    def status(self, text: str, *, ended: bool) -> None:
        head = text.partition("·")[2].strip() if not ended else text
        if head.split(",")[0] != self._last:
            self._last = head.split(",")[0]
            print(f"[{text}]", file=sys.stderr, flush=True)


@dataclass
class Following:
    """Of ``job`` on ``screen``. ``number``: which of a sweep's points; None: only how all of them are. ``at_end`` is
    called once, with what it returns added to the last status."""

    job: Job
    screen: Screen
    number: int | None = None
    at_end: Callable[[], str] | None = None
    _reader: SpoolReader | None = None
    _progress: str = ""
    _asked_at: float = float("-inf")
    _shown: str = ""
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Until the job has ended and everything that it put out was shown."""
        if self.number is not None:
            self._reader = SpoolReader(self._path())
        self.screen.status(self.job.id, ended=False)  # first, and above the outputs
        while not self._stop.is_set():
            self._lines()
            if time.monotonic() - self._asked_at >= STATUS_S and self._tell():
                return
            self._stop.wait(POLL_S)

    def start(self) -> None:
        """In a thread of its own, that nobody has to wait for."""
        threading.Thread(target=self._quietly, name=f"timeshare {self.job.id}", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def _quietly(self) -> None:
        try:
            self.run()
        except Exception as error:  # a thread has nobody to raise it to; the job goes on
            text = f"{self.job.id} · cannot be followed any more ({error}); %gpu_batch attach {self.job.id}"
            with contextlib.suppress(Exception):
                self.screen.status(text, ended=False)

    def _path(self) -> Path:
        assert self.number is not None
        return self.job.tasks[self.number].path / "spool.jsonl"

    def _lines(self) -> None:
        if self._reader is None:
            return
        for line in self._reader.new():
            if line["kind"] == "progress":
                self._progress = f"{line['content']['what']} {line['content']['percent']} %".strip()
            else:
                self.screen.show(line["kind"], line["content"])

    def _tell(self) -> bool:
        """Whether the job has ended."""
        self._asked_at = time.monotonic()
        status = self.job.status() if self.number is None else self.job.statuses()[self.number]
        if status.ended:
            self._lines()
        more = self.at_end() if status.ended and self.at_end is not None else ""
        text = status_text(self.job, status, "" if status.ended else self._progress) + (f"; {more}" if more else "")
        if text != self._shown:
            self._shown = text
            self.screen.status(text, ended=status.ended)
        return status.ended


def status_text(job: Job, status: Status, progress: str = "") -> str:
    """``1124-3f9a · running on t4, 7 h 32 min left · The cluster, a1, job 4711 · epoch 12 %``."""
    state = status.state
    if status.placement:
        state += f" on {status.placement}"
    left = f", {duration(status.left_s)} left" if status.left_s is not None else ""
    why = f": {status.why}" if status.why and status.state != "completed" else ""
    return " · ".join(part for part in (job.id, f"{state}{left}{why}", status.where, progress) if part)
