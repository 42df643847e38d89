"""Cores and main memory of one session or job: what may be asked for, and what it gets. Pure.

These are bounds, not reservations: nothing is set aside, so together sessions may be promised more than the machine
has. Main memory is a cap: beyond it the kernel ends processes of that session, not of others. Cores say how CPU time is
divided while all of them are busy; while some idle, everybody may use them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..devices.model import MIB_PER_GIB
from ..errors import PublicError
from ..host import HostSize
from ..kind import Kind
from ..shares import ShareRequest, cores_text
from .effective import Effective
from .values import UNLIMITED, amount_text


@dataclass(frozen=True)
class HostBounds:
    """``cpus`` in cores, ``memory_mib`` in MiB; infinite: nothing bounds it."""

    cpus: float = UNLIMITED
    memory_mib: float = UNLIMITED

    def within(self, most: HostBounds) -> HostBounds:
        """These, and no more than ``most``."""
        return HostBounds(min(self.cpus, most.cpus), min(self.memory_mib, most.memory_mib))

    @property
    def known_cpus(self) -> float | None:
        """None: nothing bounds it."""
        return None if self.cpus == UNLIMITED else self.cpus

    @property
    def known_memory_mib(self) -> int | None:
        """None: nothing bounds it."""
        return None if self.memory_mib == UNLIMITED else math.floor(self.memory_mib)


@dataclass(frozen=True)
class HostRules:
    """What holds for one person's sessions, or jobs. ``host``: the machine that it would run on; None where another
    engine places it, whose machines are not known here. ``fraction``: the most that one may have of its main memory."""

    limits: Effective
    kind: Kind
    host: HostSize | None
    fraction: float

    @property
    def most(self) -> HostBounds:
        """The most that may be asked for."""
        mine = HostBounds(self.limits.max_cpus(self.kind), self.limits.max_host_memory_gib(self.kind) * MIB_PER_GIB)
        return mine if self.host is None else mine.within(self._of_host(self.host))

    def _of_host(self, host: HostSize) -> HostBounds:
        return HostBounds(host.cpus, math.floor(host.memory_mib * self.fraction))

    @property
    def usual(self) -> HostBounds:
        """What it gets when nothing is asked for. On another engine that is the engine's own affair."""
        if self.host is None:
            return HostBounds()
        memory_mib = self.limits.default_host_memory_gib(self.kind) * MIB_PER_GIB
        return HostBounds(self.limits.default_cpus(self.kind), memory_mib).within(self.most)

    def granted(self, request: ShareRequest) -> HostBounds:
        """What ``request`` gets: what it asks for, where it asks, and never more than these rules allow by now."""
        usual, most = self.usual, self.most
        return HostBounds(
            usual.cpus if request.cpus is None else min(request.cpus, most.cpus),
            usual.memory_mib if request.host_memory_mib is None else min(request.host_memory_mib, most.memory_mib),
        )

    def check(self, request: ShareRequest) -> None:
        """Raises PublicError when ``request`` asks for more cores or main memory than may be had."""
        most = self.most
        if request.cpus is not None and request.cpus > most.cpus:
            raise _cpus(self, request.cpus, most.cpus)
        if request.host_memory_mib is not None and request.host_memory_mib > most.memory_mib:
            raise _memory(self, request.host_memory_mib, most.memory_mib)


def _cpus(rules: HostRules, asked: float, most: float) -> PublicError:
    limit = rules.limits.max_cpus(rules.kind)
    if rules.host is not None and rules.host.cpus < limit:
        why, status = f"this machine has {cores_text(rules.host.cpus)}", 422
    else:
        why, status = f"your limit (max_cpus of your {rules.kind.plural}) is {amount_text(limit)}", 403
    message = f"cpus is {asked:g}: {why}; ask for at most {most:g}"
    return PublicError("share-too-large", message, status, {"cpus": asked, "limit": most})


def _memory(rules: HostRules, asked: int, most: float) -> PublicError:
    limit = rules.limits.max_host_memory_gib(rules.kind)
    if rules.host is not None and rules.host.memory_mib * rules.fraction < limit * MIB_PER_GIB:
        whole = f"{rules.host.memory_mib / MIB_PER_GIB:.4g} GiB"
        of_one = "" if rules.fraction == 1 else f", of which one session or job may use {100 * rules.fraction:g} %"
        why, status = f"this machine has {whole} of main memory{of_one}", 422
    else:
        why, status = f"your limit (max_host_memory_gib of your {rules.kind.plural}) is {amount_text(limit)}", 403
    largest = math.floor(most / MIB_PER_GIB * 1000) / 1000
    message = f"host_memory_gib is {asked / MIB_PER_GIB:g}: {why}; ask for at most {largest:g}"
    return PublicError("share-too-large", message, status, {"host_memory_gib": asked / MIB_PER_GIB, "limit": largest})
