"""What the agent noticed, numbered so that a reader misses nothing and hears nothing twice."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

KEPT = 1000


class Events:
    """Sequence numbers are nanoseconds since boot: they go on rising when the agent is restarted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._last = 0

    def add(self, kind: str, message: str, **about: Any) -> None:
        """``about``: ``device_uuid``, ``reservation_id``, ``cordon``."""
        with self._lock:
            self._last = max(self._last + 1, time.clock_gettime_ns(time.CLOCK_BOOTTIME))
            event = {"device_uuid": None, "reservation_id": None, "cordon": False, **about}
            self._kept.append({"seq": self._last, "at": time.time(), "kind": kind, "message": message, **event})

    def after(self, seq: int) -> list[dict[str, Any]]:
        with self._lock:
            return [event for event in self._kept if event["seq"] > seq]
