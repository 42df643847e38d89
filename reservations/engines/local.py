"""The engine of one machine: its node agent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..agent.client import AgentClient, AgentError, AgentUnreachable
from ..devices.model import Inventory
from ..limits.schema import Stop
from .agent_json import read_events, read_inventory, read_readings, read_sessions
from .base import (
    EngineEvent,
    EngineReading,
    EngineSession,
    EngineSilent,
    EngineUnknown,
    Exchanged,
    LaunchRefused,
    NotYet,
    SessionState,
)


class LocalEngine:
    """Implements ``engines.base.Engine`` over the agent's socket."""

    def __init__(self, agent_socket: Path) -> None:
        self._agent = AgentClient(agent_socket)

    async def hello(self) -> dict[str, Any]:
        facts: dict[str, Any] = await self._ask("hello")
        return facts

    async def inventory(self) -> Inventory:
        return read_inventory(await self._ask("inventory"))

    async def submit(self, order: dict[str, Any]) -> str:
        return str((await self._do("launch", **order))["enforcement"])

    async def logs(self, folder: str, user: str | None, offset: int) -> dict[str, Any]:
        told: dict[str, Any] = await self._do("spool", folder=folder, user=user, offset=offset)
        return told

    async def sessions(self) -> list[EngineSession]:
        return read_sessions(await self._ask("sessions"))

    async def stop(
        self, reservation_id: str, rules: Stop, interrupt: bool, generation: int | None = None
    ) -> SessionState:
        last = {} if generation is None else {"generation": generation}
        told = await self._ask(
            "stop",
            reservation_id=reservation_id,
            interrupt=interrupt,
            save_grace_s=rules.save_grace if interrupt else 0,
            term_grace_s=rules.term_grace,
            **last,
        )
        return SessionState(told["state"])

    async def activity(self, window_s: float) -> list[EngineReading]:
        return read_readings(await self._ask("activity", window_s=window_s))

    async def release(
        self, reservation_id: str, generation: int, rules: Stop, park_memory_mib: int | None = None
    ) -> Exchanged:
        park = {} if park_memory_mib is None else {"park": True, "park_memory_mib": park_memory_mib}
        told = await self._do(
            "release",
            reservation_id=reservation_id,
            generation=generation,
            save_grace_s=rules.save_grace,
            term_grace_s=rules.term_grace,
            **park,
        )
        return Exchanged(bool(told["released"]), int(told["kept_mib"]))

    async def resume(self, reservation_id: str, generation: int, share: list[dict[str, Any]]) -> Exchanged:
        told = await self._do("resume", reservation_id=reservation_id, generation=generation, share=share)
        return Exchanged(bool(told["resumed"]), int(told["kept_mib"]))

    async def forget(self, reservation_id: str, generation: int) -> None:
        await self._ask("forget", reservation_id=reservation_id, generation=generation)

    async def events(self, after: int) -> list[EngineEvent]:
        return read_events(await self._ask("events", after=after))

    async def _do(self, method: str, **params: Any) -> Any:
        """As ``_ask``, but here a refusal is an answer, unless it says that nobody knows."""
        try:
            return await self._agent.call(method, **params)
        except AgentError as error:
            if error.reason in ("unknown", "stopped", "older-generation"):
                raise EngineUnknown(str(error)) from None
            if error.reason == "not-yet":
                raise NotYet(str(error)) from None
            raise LaunchRefused(str(error)) from None
        except AgentUnreachable as error:
            raise EngineUnknown(str(error)) from None

    async def _ask(self, method: str, **params: Any) -> Any:
        """A refusal is no answer either: what the agent cannot say stays unknown."""
        try:
            return await self._agent.call(method, **params)
        except AgentUnreachable as error:
            raise EngineSilent(str(error)) from None
        except AgentError as error:
            raise EngineUnknown(str(error)) from None
