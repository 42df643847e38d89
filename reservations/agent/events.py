"""What the agent noticed, numbered so that a reader misses nothing and hears nothing twice."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from ..clock import read_boot_id
from .records import UNREADABLE, durable_write, read_json

log = logging.getLogger("timeshare.agent")
KEPT = 200


class Events:
    """Sequence numbers are nanoseconds since boot: they go on rising when the agent is restarted. The events are kept
    in ``path``: the driver tells of a broken device only once, and an agent may be killed before anybody asked."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._path = path
        self._boot_id = read_boot_id()
        self._kept: deque[dict[str, Any]] = deque(self._saved(), maxlen=KEPT)
        self._last = max((int(event["seq"]) for event in self._kept), default=0)

    def _saved(self) -> list[dict[str, Any]]:
        """Those of this boot; numbers of another one mean nothing now."""
        try:
            saved = read_json(self._path) or {}
            told = list(saved["events"]) if saved.get("boot_id") == self._boot_id else []
            return [event for event in told if isinstance(event, dict) and _is_number(event.get("seq"))]
        except UNREADABLE as error:
            log.warning("earlier events cannot be read: %s", error)
            return []

    def add(self, kind: str, message: str, **about: Any) -> None:
        """``about``: ``device_uuid``, ``reservation_id``, ``cordon``."""
        with self._lock:
            self._last = max(self._last + 1, time.clock_gettime_ns(time.CLOCK_BOOTTIME))
            event = {"device_uuid": None, "reservation_id": None, "cordon": False, **about}
            self._kept.append({"seq": self._last, "at": time.time(), "kind": kind, "message": message, **event})
            try:
                durable_write(self._path, {"boot_id": self._boot_id, "events": list(self._kept)})
            except OSError as error:  # a full disk; those who ask in time hear of it all the same
                log.warning("an event cannot be kept: %s", error)

    def after(self, seq: int) -> list[dict[str, Any]]:
        with self._lock:
            return [event for event in self._kept if event["seq"] > seq]


def _is_number(seq: Any) -> bool:
    return type(seq) is int and 0 <= seq < 1 << 63
