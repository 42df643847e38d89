"""Holds fractions to their memory: pure judgement of one sample after the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

WARN_OVER = 1.02
STOP_OVER = 1.10
"""Beyond the share by this factor it is stopped at once; between the two at the second sample (a second later)."""

Key = tuple[str, int, str]
"""Reservation, generation, device UUID."""


@dataclass(frozen=True)
class Use:
    """What one session uses of one device. ``by_pid`` in MiB; None where the driver does not say, which never counts
    against anybody. ``names``: programs by pid, for the message."""

    share_mib: int
    by_pid: Mapping[int, int | None]
    names: Mapping[int, str] = field(default_factory=dict)

    @property
    def known_mib(self) -> int:
        return sum(used for used in self.by_pid.values() if used is not None)

    @property
    def largest(self) -> int | None:
        known = {pid: used for pid, used in self.by_pid.items() if used is not None}
        return max(known, key=lambda pid: known[pid], default=None)


@dataclass(frozen=True)
class Verdict:
    """``stop`` is the pid to end, None for a warning."""

    key: Key
    message: str
    stop: int | None = None


def judge(uses: Mapping[Key, Use], warned: frozenset[Key]) -> tuple[list[Verdict], frozenset[Key]]:
    """The verdicts on this sample, and who is warned now (to be given with the next sample).

    Only the largest process of a session is stopped, and the next sample judges again: what fits may go on.
    """
    verdicts, now_warned = [], set()
    for key, use in uses.items():
        used, pid = use.known_mib, use.largest
        if pid is None or used <= use.share_mib * WARN_OVER:
            continue
        now_warned.add(key)
        sizes = f"{used / 1024:.1f} GiB of GPU memory are used; the share is {use.share_mib / 1024:.1f} GiB"
        process = f"process {pid} ({use.names[pid]})" if pid in use.names else f"process {pid}"
        if key in warned or used > use.share_mib * STOP_OVER:
            verdicts.append(Verdict(key, f"{sizes}: {process} was stopped", pid))
        else:
            verdicts.append(Verdict(key, f"{sizes}: free some now, or {process} is stopped"))
    return verdicts, frozenset(now_warned)
