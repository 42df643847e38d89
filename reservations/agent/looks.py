"""What a session uses, from looks at it. Pure: the agent of a node and the job agent of a single session share it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..devices.model import DeviceUse
from .records import SharePart

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Look:
    """At one session. ``at`` in seconds of a clock that does not step; ``cpu_s``: used so far by what runs now, None
    where that cannot be read; ``gpu`` in percent, None: unknown."""

    at: float
    cpu_s: float | None
    gpu: float | None


@dataclass(frozen=True)
class Reading:
    """Over a window. ``gpu`` in percent of what it holds, ``cpu`` in percent of one core, None: unknown."""

    gpu: float | None
    cpu: float | None


def gpu_of(share: Sequence[SharePart], uses: Mapping[tuple[str, str], DeviceUse], pids: Iterable[int]) -> float | None:
    """How busy a session's share is in percent, the busiest part of it; 0 of no share. None: nobody can say.

    A whole device and a MIG instance are its own. Of a device that it shares only its own processes count; where they
    cannot be told apart, nobody can say, unless nothing runs there at all.
    """
    found = []
    for part in share:
        use = uses.get((part.device_uuid, part.instance_uuid))
        if use is None or use.percent is None:
            return None
        if part.whole or part.instance_uuid or not use.percent:
            found.append(use.percent)
        elif use.by_pid is None:
            return None
        else:
            found.append(sum(use.by_pid.get(pid, 0.0) for pid in pids))
    return max(found, default=0.0)


def mean(looks: Sequence[Look]) -> Reading:
    """Over all of them. One look in two may miss what the GPU does; with fewer nobody can say."""
    known = [look.gpu for look in looks if look.gpu is not None]
    gpu = sum(known) / len(known) if known and 2 * len(known) >= len(looks) else None
    counted = [look for look in looks if look.cpu_s is not None]
    if len(counted) < 2 or counted[-1].at <= counted[0].at:
        return Reading(gpu, None)
    used = 0.0
    for before, after in itertools.pairwise(counted):
        assert before.cpu_s is not None
        assert after.cpu_s is not None
        used += max(0.0, after.cpu_s - before.cpu_s)  # less: a process with a long past has ended
    return Reading(gpu, 100.0 * used / (counted[-1].at - counted[0].at))
