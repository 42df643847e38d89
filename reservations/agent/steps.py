"""Work that may take longer than anybody waits for an answer."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")
ANSWER_S = 2.0
"""How long an answer waits for the work."""
KEPT_S = 10.0
"""How long a result is there for who asks again; after that it is worked out anew."""


@dataclass
class Work:
    """``ended``: when it did, in seconds of a clock that does not step."""

    what: str
    future: Future[Any]
    ended: float = math.inf


class Steps:
    """``run`` answers None while the work goes on; whoever asks again gets its result."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(8, "exchange")
        self._known: dict[Hashable, Work] = {}
        self._lock = threading.Lock()

    def run(self, key: Hashable, what: str, act: Callable[[], T]) -> T | None:
        """The result of ``act`` (and what it raises), which is done once at a time for one ``key`` and ``what``."""
        with self._lock:
            work = self._known.get(key)
            if work is None or work.what != what or time.monotonic() > work.ended + KEPT_S:
                work = self._known[key] = self._begin(what, act)
        if not wait([work.future], ANSWER_S).done:
            return None
        with self._lock:
            if self._known.get(key) is work:
                del self._known[key]
        result: T = work.future.result()
        return result

    def _begin(self, what: str, act: Callable[[], T]) -> Work:
        work = Work(what, self._pool.submit(act))

        def note(_: Future[T]) -> None:
            work.ended = time.monotonic()

        work.future.add_done_callback(note)
        return work
