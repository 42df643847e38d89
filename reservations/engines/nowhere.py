"""The hub's own machine where nothing is to run on it: no agent, no devices, nothing to end."""

from __future__ import annotations

from typing import Any

from ..devices.model import Inventory
from ..limits.schema import Stop
from .base import EngineEvent, EngineReading, EngineSession, Exchanged, LaunchRefused, SessionState

WHY = "nothing runs on the hub's own machine here: name one of the engines"


class NoEngine:
    """Implements ``engines.base.Engine``. Nothing was ever started on it: whoever uses it makes sure of that."""

    async def hello(self) -> dict[str, Any]:
        return {}

    async def inventory(self) -> Inventory:
        return Inventory()

    async def submit(self, order: dict[str, Any]) -> str:
        raise LaunchRefused(WHY)

    async def logs(self, folder: str, user: str | None, offset: int) -> dict[str, Any]:
        raise LaunchRefused("what this job put out lies in its own folder alone")

    async def sessions(self) -> list[EngineSession]:
        return []

    async def stop(
        self, reservation_id: str, rules: Stop, interrupt: bool, generation: int | None = None
    ) -> SessionState:
        return SessionState.EXITED

    async def activity(self, window_s: float) -> list[EngineReading]:
        return []

    async def release(
        self, reservation_id: str, generation: int, rules: Stop, park_memory_mib: int | None = None
    ) -> Exchanged:
        raise LaunchRefused(WHY)

    async def resume(self, reservation_id: str, generation: int, share: list[dict[str, Any]]) -> Exchanged:
        raise LaunchRefused(WHY)

    async def forget(self, reservation_id: str, generation: int) -> None:
        return None

    async def events(self, after: int) -> list[EngineEvent]:
        return []
