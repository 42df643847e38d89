"""What an engine tells and does. Facts in, acts out; what they mean is decided in ``reconcile``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from ..devices.model import Inventory
from ..limits.schema import Stop


class EngineUnknown(Exception):
    """The engine did not answer: nothing is known, so nothing may be freed or ended."""


class EngineSilent(EngineUnknown):
    """It answers nothing at all, whatever it is asked about."""


class NotYet(Exception):
    """The engine cannot do it now, and may later: it is to be asked again. The text is for a person."""


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
    """One start of one reservation as the engine sees it. ``owner`` and ``devices`` (UUIDs): of one that runs."""

    reservation_id: str
    generation: int
    state: SessionState
    exit_code: int | None = None
    message: str = ""
    owner: str = ""
    devices: tuple[str, ...] = ()


@dataclass(frozen=True)
class EngineReading:
    """Of one start. ``gpu`` in percent of what it holds, ``cpu`` in percent of a core, ``memory_mib`` of GPU memory;
    None: unknown. ``kept_mib``: GPU memory of it that is kept in the node's memory."""

    reservation_id: str
    generation: int
    gpu: float | None
    cpu: float | None
    memory_mib: int | None
    kept_mib: int = 0

    @property
    def start(self) -> tuple[str, int]:
        return self.reservation_id, self.generation


@dataclass(frozen=True)
class Exchanged:
    """How far devices are taken from a session, or given to it. ``done``: it is not to be asked again. ``kept_mib``:
    GPU memory of it that is kept in the node's memory."""

    done: bool
    kept_mib: int = 0


@dataclass(frozen=True)
class EngineEvent:
    """Something the engine noticed. ``kind``: ``health``, ``over_memory``, ``stopped_over_memory``, ``parking``."""

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

    async def release(
        self, reservation_id: str, generation: int, rules: Stop, park_memory_mib: int | None = None
    ) -> Exchanged:
        """Takes a session's devices; done once nothing of it uses them any more. ``park_memory_mib``: what its
        processes hold there is kept, in that much memory of the node for all sessions; None: they are ended. Raises
        LaunchRefused."""

    async def resume(self, reservation_id: str, generation: int, share: list[dict[str, Any]]) -> Exchanged:
        """Lets a session that runs use ``share``, and brings back what was kept of it. Raises LaunchRefused, NotYet."""

    async def forget(self, reservation_id: str, generation: int) -> None: ...

    async def events(self, after: int) -> list[EngineEvent]: ...
