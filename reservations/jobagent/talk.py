"""What a job agent and the service say to each other. Plain data, on both sides of the wire.

An agent says how it is (``Report``) and is told what is wanted: ``Wait``, an ``Order`` to run, ``Stop`` or ``Leave``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

WAITING, RUNNING, STOPPING, ENDED = "waiting", "running", "stopping", "ended"
STATES = (WAITING, RUNNING, STOPPING, ENDED)
"""Of an agent: no server runs; one does; it is being ended; all is over, and this was its last report."""
LONGEST_WAIT_S = 20.0
"""A question is held back at most this long until something else is wanted."""
SOCKET_HERE = "{server_socket}"
"""In the words of an order: stands for the path of the socket that the server is to listen on."""
MOST_TOLD = 20
"""Exits and events in one report at most, the newest."""


@dataclass(frozen=True)
class Exit:
    """How the server of one start ended. ``code`` negative: the signal; None: unknown, or it never ran. ``message``:
    why it did not start, or why the watchdog ended it; else empty."""

    generation: int
    code: int | None
    message: str = ""


@dataclass(frozen=True)
class Reading:
    """Over the time since the last one. ``gpu`` in percent of what is held, ``cpu`` in percent of one core,
    ``memory_mib`` of GPU memory; None: unknown."""

    gpu: float | None
    cpu: float | None
    memory_mib: int | None


@dataclass(frozen=True)
class Event:
    """Something a person must know. ``seq`` counts from 1 in the life of one agent. ``kind``: ``over_memory``,
    ``stopped_over_memory``, or ``signal`` (the batch system ends the job, or is about to)."""

    seq: int
    kind: str
    message: str


@dataclass(frozen=True)
class Report:
    """How an agent is.

    ``attempt``: which submission of the reservation its job is, from 1; ``job_id`` and ``restarts``: of the batch
    system, and how often that started the same job anew. ``address`` and ``port``: where the server is reached; the
    port is 0 until it listens. ``devices``: UUIDs of what the job was given, or node and number where no driver tells.
    ``level``: enforcement that this agent can vouch for. ``generation``: the start that runs; 0: none.
    """

    attempt: int
    job_id: str
    restarts: int
    node: str
    address: str
    port: int
    devices: tuple[str, ...]
    level: str
    state: str
    generation: int
    exits: tuple[Exit, ...] = ()
    events: tuple[Event, ...] = ()
    reading: Reading | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Order:
    """Run this, once for each generation. Words and variables hold tokens: they are never shown nor written.

    ``cwd`` None: home. ``log_path`` None: the job's own output. ``SOCKET_HERE`` in ``argv``: the server's
    socket, which the agent chooses. ``ends_at``: RFC 3339 text for the session's environment.
    """

    generation: int
    argv: tuple[str, ...] = field(repr=False)
    env: Mapping[str, str] = field(repr=False)
    cwd: str | None = None
    log_path: str | None = None
    ends_at: str | None = None


@dataclass(frozen=True)
class Stop:
    """End the server and leave. ``interrupt``: its kernels first, then ``save_grace_s`` to save; after that SIGTERM,
    and after ``term_grace_s`` SIGKILL."""

    interrupt: bool
    save_grace_s: float
    term_grace_s: float


@dataclass(frozen=True)
class Leave:
    """This job is not wanted."""

    why: str


@dataclass(frozen=True)
class Wait:
    """Nothing new."""


Wanted = Wait | Order | Stop | Leave
_NAMES: dict[type, str] = {Wait: "wait", Order: "run", Stop: "stop", Leave: "leave"}


def told(wanted: Wanted) -> dict[str, Any]:
    """As it goes over the wire."""
    return {"want": _NAMES[type(wanted)], **asdict(wanted)}


def understood(answer: object) -> Wanted:
    """What an answer says. Raises ValueError for one that makes no sense."""
    if not isinstance(answer, dict):
        raise ValueError("the answer is no object")
    fields = {name: value for name, value in answer.items() if name != "want"}
    try:
        want = answer.get("want")
        if want == "run":
            argv = tuple(map(str, fields.pop("argv")))
            env = {str(name): str(value) for name, value in fields.pop("env").items()}
            return Order(int(fields.pop("generation")), argv, env, **fields)
        if want == "stop":
            return Stop(bool(fields["interrupt"]), float(fields["save_grace_s"]), float(fields["term_grace_s"]))
        if want == "leave":
            return Leave(str(fields["why"]))
        if want == "wait":
            return Wait()
    except (KeyError, TypeError, AttributeError):
        pass  # told without the values: they may hold tokens
    raise ValueError("the answer is none that this version of the job agent knows")
