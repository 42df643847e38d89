"""Who asks how much: each caller is counted by itself, so that a flood of one is refused and the others are not.

Used by the event loop alone. A refusal is 429 with Retry-After, and says the bound and what works.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..errors import PublicError
from .bounds import ServiceBounds
from .forgetting import make_room

REFUSES_ALL = "Timeshare-Refuses-All"
"""Header of a ``RefusesAll``, with the limit: until ``Retry-After`` the proxy answers this sender itself
(``proxy.mjs``)."""
FROM_ALL = 5
"""Unknown tokens of all addresses, as a multiple of those of one."""
ACCOUNT = "account "
"""How the address of another account of the machine begins: it is the kernel's word, and there are not many."""
POLLS_OF_A_JOB = 2
"""Requests of one job agent that are held: it has one, and another one where a connection broke."""


@dataclass
class Bucket:
    """A token bucket. ``rate``: what comes back in a second, up to ``size``."""

    rate: float
    size: float
    left: float
    at: float

    def take(self, now: float) -> float:
        """Take one; return 0, or the seconds until there is one again."""
        self.left = min(self.size, self.left + (now - self.at) * self.rate)
        self.at = now
        if self.left >= 1:
            self.left -= 1
            return 0.0
        return (1 - self.left) / self.rate

    def is_full(self, now: float) -> bool:
        """Whether nothing would be different if it were forgotten."""
        return self.left + (now - self.at) * self.rate >= self.size


class RefusesAll(PublicError):
    """A refusal that holds for whatever else the same person sends until it is over."""


def too_many(what: str, limit: float, instead: str, retry_after_s: float) -> PublicError:
    """The refusal of what goes beyond a bound."""
    seconds = max(1, math.ceil(retry_after_s))
    details = {"limit": limit, "retry_after_s": seconds}
    return PublicError("too-many-requests", f"{what} and the limit is {limit:g}: {instead}", 429, details)


class Crowd:
    """See the module. ``clock``: seconds that never step."""

    def __init__(self, bounds: ServiceBounds, clock: Callable[[], float] = time.monotonic) -> None:
        self.bounds = bounds
        self._clock = clock
        self._buckets: dict[str, Bucket] = {}
        self._held: dict[str, Counter[str]] = {"polls": Counter(), "streams": Counter(), "requests": Counter()}

    def admit(self, caller: str) -> None:
        """Count a request of a person. Raises RefusesAll (429)."""
        bounds = self.bounds
        wait = self._take(f"requests:{caller}", bounds.requests_per_s, bounds.requests_burst)
        if wait:
            instead = "wait for a moment; wait_s and events tell of changes without asking again and again"
            error = too_many("you sent too many requests a second", bounds.requests_per_s, instead, wait)
            raise RefusesAll(error.reason, error.message, error.status, error.details)

    def admit_submission(self, caller: str) -> None:
        """Count a request of a person for a share or a sweep: each is kept for good. Raises PublicError 429."""
        bounds = self.bounds
        wait = self._take(f"submissions:{caller}", bounds.submissions_per_minute / 60, bounds.submissions_burst)
        if wait:
            instead = "wait for a moment, and submit many points as one sweep"
            raise too_many("you asked for too many shares a minute", bounds.submissions_per_minute, instead, wait)

    def admit_report(self, key: str) -> None:
        """Count a report with the key of one session or job. Raises PublicError 429."""
        rate = self.bounds.reports_per_s
        wait = self._take(f"reports:{key}", rate, max(20.0, 20 * rate))
        if wait:
            instead = "report as often as the answer says (next_s)"
            raise too_many("this session sent too many reports a second", rate, instead, wait)

    def admit_unknown(self, address: str) -> None:
        """Count a token that was never good before. Raises PublicError 429."""
        rate = self.bounds.unknown_tokens_per_s
        wait = self._take(f"tokens:{address}", rate, 5 * rate)
        if not wait and not address.startswith(ACCOUNT):  # else strangers keep new sessions from being known
            wait = self._take("tokens", FROM_ALL * rate, 25 * rate)
        if wait:
            instead = "wait for a moment; a token that has been good here is not counted"
            raise too_many("too many unknown tokens a second came from this address", rate, instead, wait)

    @contextlib.contextmanager
    def working(self, caller: str) -> Iterator[None]:
        """While a request of a person is worked on. Raises PublicError 429."""
        with self._holding("requests", caller, self.bounds.requests_at_once, 0, "requests that are not answered yet"):
            yield

    @contextlib.contextmanager
    def polling(self, caller: str) -> Iterator[None]:
        """While a request is held for a change. Raises PublicError 429."""
        bounds = self.bounds
        with self._holding("polls", caller, bounds.polls_each, bounds.polls, "requests that wait for a change"):
            yield

    @contextlib.contextmanager
    def waiting(self, job: str) -> Iterator[None]:
        """While a job agent waits for what is wanted of it. Raises PublicError 429."""
        with self._holding("polls", job, POLLS_OF_A_JOB, self.bounds.polls, "requests that wait for a change"):
            yield

    @contextlib.contextmanager
    def streaming(self, caller: str) -> Iterator[None]:
        """While an event stream is open. Raises PublicError 429."""
        bounds = self.bounds
        with self._holding("streams", caller, bounds.streams_each, bounds.streams, "event streams"):
            yield

    def held(self, kind: str) -> int:
        """How many of ``polls``, ``streams`` or ``requests`` there are now."""
        return self._held[kind].total()

    @contextlib.contextmanager
    def _holding(self, kind: str, caller: str, each: int, most: int, what: str) -> Iterator[None]:
        """``each``: of one, where ``caller`` is one; ``most``: of all, 0: no end."""
        counts = self._held[kind]
        if caller and counts[caller] >= each:
            raise too_many(f"you have {counts[caller]} {what}", each, "close one first", 5)
        if most and counts.total() >= most:
            raise too_many(f"all together have {counts.total()} {what}", most, "ask without waiting, or later", 5)
        counts[caller] += 1
        try:
            yield
        finally:
            counts[caller] -= 1
            if not counts[caller]:
                del counts[caller]

    def _take(self, name: str, rate: float, size: float) -> float:
        now = self._clock()
        bucket = self._buckets.get(name)
        if bucket is None:
            make_room(self._buckets, lambda one: one.is_full(now))
            bucket = self._buckets[name] = Bucket(rate, size, size, now)
        return bucket.take(now)
