"""Small pools for the tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from timeshare.reservations.devices.model import Device, Inventory, MigInstance
from timeshare.reservations.host import HostSize
from timeshare.reservations.job import JobSpec
from timeshare.reservations.kind import Kind
from timeshare.reservations.ledger import Ledger
from timeshare.reservations.limits.load import LimitsFile
from timeshare.reservations.limits.schema import Limits
from timeshare.reservations.opening import open_pool, standing_of
from timeshare.reservations.reservation import Reservation
from timeshare.reservations.shares import parse_share
from timeshare.reservations.submission import Submission


def pool(*models: str, memory_mib: int = 40_000, node: str = "local") -> tuple[Device, ...]:
    """One device a model name, in order."""
    return tuple(
        Device(uuid=f"GPU-{i}", model=model, memory_mib=memory_mib, node=node, order=i)
        for i, model in enumerate(models)
    )


def mig_device(*profiles: str, order: int = 0, model: str = "a100-40gb") -> Device:
    """A partitioned device with one instance a profile; ``2g.10gb`` has 10 GiB."""
    instances = tuple(
        MigInstance(f"MIG-{order}-{i}", profile, int(profile.split(".")[1].removesuffix("gb")) * 1024)
        for i, profile in enumerate(profiles)
    )
    return Device(uuid=f"GPU-{order}", model=model, memory_mib=40_000, order=order, instances=instances)


class Lab:
    """A pool of its own ledger, with limits as in a file and a clock that stands until it is moved."""

    def __init__(
        self,
        folder: Path,
        limits: dict[str, Any],
        *models: str,
        start: float = 1_795_000_000.0,
        host: HostSize | None = None,
        url: str = "",
    ) -> None:
        self.now = start
        self.limits = Limits.model_validate(limits)
        self.ledger = Ledger.open(url or f"sqlite:///{folder}/ledger.sqlite")
        self.pool = open_pool(self.ledger, LimitsFile(self.limits, json.dumps(limits)), lambda: self.now, host)
        self.pool.set_inventory(Inventory(pool(*models)))
        self._number = 0

    def edit(self, limits: dict[str, Any]) -> None:
        """Other limits from now on."""
        self.limits = Limits.model_validate(limits)
        file = LimitsFile(self.limits, json.dumps(limits))
        self.pool.set_standing(standing_of(self.ledger, file, self.now))

    def ask(self, owner: str, kind: Kind = Kind.SESSION, seconds: int | None = 3600, **share: Any) -> Reservation:
        """Raises PublicError when the limits refuse it."""
        self._number += 1
        job = JobSpec("work", "/python", "/job", "0" * 64) if kind is Kind.BATCH else None
        server = f"s{self._number}" if job is None else ""
        wish = Submission(owner, parse_share(share or {"gpus": 1}), seconds, kind, server, job=job)
        return self.pool.submit(wish)[0]

    def batch(self, owner: str, seconds: int | None = 36000, **share: Any) -> Reservation:
        return self.ask(owner, Kind.BATCH, seconds, **share)

    def run(self, *reservations: Reservation) -> None:
        """Starts what was granted."""
        for reservation in reservations:
            self.pool.starting(reservation.id)
            self.pool.active(reservation.id, 1 + reservation.generation, "simulated")

    def later(self, seconds: float) -> list[Reservation]:
        """Time passes; what begins to end."""
        self.now += seconds
        return self.pool.tick()

    def state(self, reservation: Reservation) -> str:
        return self.pool.get(reservation.id).state.value

    def why(self, reservation: Reservation) -> str:
        """Why it waits."""
        return self.pool.forecast()[reservation.id].why
