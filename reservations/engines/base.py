"""What an engine tells and does. Facts in, acts out; what they mean is decided in ``reconcile``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from ..devices.model import Inventory
from ..limits.schema import Stop


class EngineUnknown(Exception):
    """The engine did not answer: nothing is known, so nothing may be freed or ended."""


class LaunchRefused(Exception):
    """The engine will not start it, however often it is asked; the text is for a person."""


class SessionState(str, Enum):
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    EXITED = "exited"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class EngineSession:
    """One start of one reservation as the engine sees it."""

    reservation_id: str
    generation: int
    state: SessionState
    exit_code: int | None = None
    message: str = ""


@dataclass(frozen=True)
class EngineReading:
    """Of one start. ``gpu`` in percent of what it holds, ``cpu`` in percent of a core, ``memory_mib`` of GPU memory;
    None: unknown."""

    reservation_id: str
    generation: int
    gpu: float | None
    cpu: float | None
    memory_mib: int | None


@dataclass(frozen=True)
class EngineEvent:
    """Something the engine noticed. ``kind``: ``health``, ``over_memory``, ``stopped_over_memory``."""

    seq: int
    kind: str
    message: str
    device_uuid: str | None = None
    reservation_id: str | None = None
    cordon: bool = False


class Engine(Protocol):
    """Where reservations run. Every method raises EngineUnknown when the engine does not answer."""

    async def hello(self) -> dict[str, Any]:
        """Facts about the node: name, device filter, simulated or not."""

    async def inventory(self) -> Inventory: ...

    async def submit(self, order: dict[str, Any]) -> str:
        """Starts a job as the agent's ``launch`` has it, once for each generation; the enforcement level. Raises
        LaunchRefused."""

    async def logs(self, folder: str, user: str | None, offset: int) -> dict[str, Any]:
        """``text`` that a job put out, from byte ``offset``, and ``next``. Raises LaunchRefused."""

    async def sessions(self) -> list[EngineSession]:
        """All starts the engine knows of, exited ones too until they are forgotten."""

    async def stop(
        self, reservation_id: str, rules: Stop, interrupt: bool, generation: int | None = None
    ) -> SessionState:
        """Begins or continues the end of its starts up to ``generation`` (None: of all), and forbids these. EXITED:
        nothing is left."""

    async def activity(self, window_s: float) -> list[EngineReading]:
        """What each session used over the last ``window_s`` seconds, as far as that is known."""

    async def release(self, reservation_id: str, generation: int, rules: Stop) -> bool:
        """Begins or continues to take a session's devices; True once nothing of it uses them. Raises LaunchRefused."""

    async def resume(self, reservation_id: str, generation: int, share: list[dict[str, Any]]) -> None:
        """Lets a session that runs use ``share``. Raises LaunchRefused."""

    async def forget(self, reservation_id: str, generation: int) -> None: ...

    async def events(self, after: int) -> list[EngineEvent]: ...
