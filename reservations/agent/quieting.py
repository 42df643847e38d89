"""Before a session is ended: what was ever restored is taken off its devices again. A driver may hang, and the machine
with it, when such a process is killed while it is on a GPU."""

from __future__ import annotations

import logging
import threading
import time

from .park import Parker
from .parkplan import PARKED
from .records import Record
from .sessions import Sessions

log = logging.getLogger("timeshare.agent")
LONGEST_S = 60.0
"""After that it is ended all the same."""


class Quieting:
    """``ready`` is asked over and over, and never waits."""

    def __init__(self, sessions: Sessions, parker: Parker) -> None:
        self._sessions = sessions
        self._parker = parker
        self._begun: dict[tuple[str, int], tuple[threading.Thread, float]] = {}

    def ready(self, record: Record) -> bool:
        """Whether this start of it may be signalled."""
        if record.key not in self._begun:
            parked = self._parker.parked(record)
            under_way = parked is not None and parked.phase != PARKED
            if not under_way and not self._parker.restored(record):
                return True
            thread = threading.Thread(target=self._quiet, args=(record,), daemon=True)
            self._begun[record.key] = (thread, time.monotonic())
            thread.start()
        thread, began = self._begun[record.key]
        return not thread.is_alive() or time.monotonic() > began + LONGEST_S

    def _quiet(self, record: Record) -> None:
        try:
            with self._sessions.lock(record.reservation_id):  # after what is just being done with it
                self._parker.quiet(record)
        except Exception:
            log.exception("%s: it is ended while it may be on a GPU", record.reservation_id)
