"""The loop that removes what is over, beside everything else and slower than anything else."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..clock import rfc3339
from ..ledger import LedgerSilent
from ..ledger.reader import Kept
from ..sweeping import PIECE_S, Sweeper, charges_kept_s
from .session_logs import GIB, read_logs, remove_logs, to_remove

if TYPE_CHECKING:
    from .runtime import Runtime

log = logging.getLogger("timeshare.service")
PERIOD_S = 3600.0
"""Between two sweeps; other limits begin one at once."""
LOOK_S = 1.0
"""Between two looks at what there is to do. Each carries over SQLite's log."""
TIDY_AFTER = 5
"""Pieces of a sweep. The more stands in SQLite's log by then, the longer a commit waits for the disk meanwhile: 25 to
45 ms after 20 pieces, no longer than otherwise after 5."""
SHARE = 4
"""A sweep takes at most one part in so many of the time of the pool's thread."""


@dataclass
class Swept:
    """The last sweep. ``removed``: rows and files by what they were; ``ended_at`` None: it goes on."""

    began_at: float
    ended_at: float | None = None
    removed: Counter[str] = field(default_factory=Counter)


class Retention:
    """``run`` until it is cancelled."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime, self._sweeper = runtime, Sweeper(runtime.pool, runtime.ledger)
        self.last: Swept | None = None
        self.kept: Kept | None = None
        self._version = ""
        self._next = 0.0

    async def run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self._runtime.call(self._sweeper.keep_books)
                await self._runtime.read(self._runtime.reader.tidy)
                version = self._runtime.pool.standing.version
                if time.monotonic() >= self._next or version != self._version:
                    self._version, self._next = version, time.monotonic() + PERIOD_S
                    await self.sweep()
            except LedgerSilent:
                pass  # it is tried again
            except Exception:
                log.exception("what is over could not be removed; it is tried again")

    async def sweep(self) -> None:
        """Remove all that is too old now."""
        swept = self.last = Swept(self._runtime.pool.clock())
        swept.removed["session logs"] = await self._sweep_logs()
        pieces = 0
        while True:
            began = time.monotonic()
            removed = await self._runtime.call(self._sweeper.piece)
            swept.removed.update(removed)
            if not removed:
                break
            pieces += 1
            if pieces % TIDY_AFTER == 0:
                await self._runtime.read(self._runtime.reader.tidy)
            await asyncio.sleep(max(PIECE_S, (SHARE - 1) * (time.monotonic() - began)))
        self.kept = await self._runtime.read(self._runtime.reader.kept)
        swept.ended_at = self._runtime.pool.clock()
        if +swept.removed:
            what = ", ".join(f"{count} {name}" for name, count in (+swept.removed).items())
            log.info("removed what is over, as the limits say: rows of %s", what)

    async def _sweep_logs(self) -> int:
        folder, kept = self._runtime.settings.log_dir, self._runtime.pool.limits.retention
        if folder is None or not folder.is_dir():
            return 0
        found = await asyncio.to_thread(read_logs, folder)
        # Only now: what has a log by then and runs is among them.
        live = await self._runtime.call(self._live)
        before = time.time() - kept.session_logs if kept.session_logs else 0.0
        gone = to_remove(found, live, before, kept.session_logs_gib * GIB)
        await asyncio.to_thread(remove_logs, folder, gone)
        return len(gone)

    def _live(self) -> frozenset[str]:
        return frozenset(reservation.id for reservation in self._runtime.pool.live())

    def view(self) -> dict[str, Any]:
        """For administrators: how long what is kept, how much there is, and when the next sweep begins."""
        limits, last, kept = self._runtime.pool.limits, self.last, self.kept
        return {
            "policy": {**limits.retention.model_dump(mode="json"), "charges": int(charges_kept_s(limits))},
            "kept": []
            if kept is None
            else [{"of": r.of, "rows": r.count, "oldest": rfc3339(r.oldest)} for r in kept.rows],
            "ledger_bytes": None if kept is None else kept.size,
            "free_bytes": None if kept is None else kept.free,
            "sweeping": last is not None and last.ended_at is None,
            "removed": {} if last is None else dict(last.removed),
            "last_sweep": rfc3339(last.ended_at) if last else None,
            "next_sweep_in_s": max(0, round(self._next - time.monotonic())),
            "longest_piece_ms": round(1000 * self._sweeper.longest_s, 1),
        }
