"""The agent's unix socket: one line of JSON each way. See docs/how_it_works.md."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..clock import read_boot_id
from ..devices.checkpoint import Checkpointer
from ..devices.model import DeviceError, DeviceSource
from ..listening import BACKLOG, inherited
from ..sockets import AGENT, account_of_peer, is_foreign
from ..storage import full_disk
from .events import Events
from .exchange import Exchange, Graces, can_exchange, fixed
from .grouptrial import bounds_of
from .guard import Guard
from .handover import Hidden
from .oomwatch import OomWatch
from .park import Parker
from .quieting import Quieting
from .records import ID_PATTERN, MAX_GENERATION, Order, Record, SharePart
from .refusals import Refused
from .sampler import KEPT_S, Sampler
from .sessions import Sessions
from .spools import read_spool
from .stopping import StopOrder, Stops

log = logging.getLogger("timeshare.agent")
MAX_REQUEST = 1024 * 1024
REQUEST_WAIT_S = 10.0
THREADS = 64
"""Requests that are answered at the same time; a launch or the end of an older start may take seconds."""
STARTS_OF_ONE = 16
"""Of these, launches for one owner."""
LONGEST_PATH = 107
MOST_CPUS, MOST_MIB = 100_000, 1 << 40
"""Of a session: more is a mistake, and not what a kernel can be told."""


class Agent:
    """Answers requests; every one runs in a thread, so that none waits for another."""

    def __init__(self, sessions: Sessions, source: DeviceSource, checkpointer: Checkpointer, multi_user: bool) -> None:
        self._sessions = sessions
        self._source = source
        self._multi_user = multi_user
        self._counting, self._starts = threading.Lock(), Counter[str]()
        self.events = Events(sessions.records.root / "events.json")
        self.parker = Parker(sessions, source, checkpointer, self.events)
        self.stops = Stops(sessions, Quieting(sessions, self.parker).ready)
        self.guard = Guard(sessions, source, self.events, self.parker.quiet)
        self.exchange = Exchange(sessions, source, self.parker)
        self.sampler = Sampler(sessions, source, self.guard)
        self.oom_watch = OomWatch(sessions.members, self.events)
        self._methods: dict[str, Callable[[dict[str, Any]], Any]] = {
            "hello": self._hello,
            "inventory": self._list_devices,
            "launch": self._launch,
            "sessions": self._list_sessions,
            "stop": self._stop,
            "forget": self._forget,
            "spool": self._spool,
            "activity": self._activity,
            "release": self._release,
            "resume": self._resume,
            "events": lambda params: self.events.after(_integer(params, "after")),
        }

    def answer(self, line: bytes) -> dict[str, Any]:
        """The reply to one request; what goes wrong is told, never raised."""
        try:
            request = json.loads(line)
            method, params = request["method"], request.get("params", {})
            if method not in self._methods or not isinstance(params, dict):
                raise Refused("invalid", f"method is {str(method)[:40]!r}: there are {', '.join(self._methods)}")
            return {"result": self._methods[method](params)}
        except Refused as error:
            return _error(error.reason, str(error))
        except DeviceError as error:
            return _error("unknown", str(error))
        except OSError as error:
            if (why := full_disk(error, self._sessions.records.root)) is None:
                log.exception("a request failed")
                return _error("failed", f"the agent failed: {error!r:.200}")
            log.error("%s: %s", request["method"], why)
            return _error("failed", f"the node cannot write down what runs there: {why}")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            return _error("invalid", f"the request cannot be understood: {error!r:.200}")
        except Exception as error:
            log.exception("a request failed")
            return _error("failed", f"the agent failed: {error!r:.200}")

    def _hello(self, params: dict[str, Any]) -> dict[str, Any]:
        way = self._sessions.way
        return {
            "node": socket.gethostname(),
            "boot_id": read_boot_id(),
            "simulated": self._sessions.simulated,
            "multi_user": self._multi_user,
            "device_filter": way.name if way is not None else None,
            "can_exchange": can_exchange(way, self._sessions.simulated),
            "cannot_park": self._cannot_park(),
            "session_bounds": bounds_of(self._sessions.groups),
        }

    def _cannot_park(self) -> str:
        way = self._sessions.way
        if not can_exchange(way, self._sessions.simulated):
            return fixed(way)
        return self.parker.available()

    def _list_devices(self, params: dict[str, Any]) -> dict[str, Any]:
        return asdict(self._source.inventory())

    def _launch(self, params: dict[str, Any]) -> dict[str, Any]:
        env, stdin = params["env"], params.get("stdin", "")
        if not isinstance(env, dict) or not all(isinstance(v, str) and "\0" not in v for v in env.values()):
            raise Refused("invalid", "env must hold text only")
        if not isinstance(stdin, str):
            raise Refused("invalid", "stdin must be text")
        # The devices as they are now: one may have vanished since it was given out.
        order = parse_order(params, self._multi_user)
        with self.starting(order.owner):
            return self._sessions.launch(order, Hidden(env, stdin), self._source.inventory)

    @contextlib.contextmanager
    def starting(self, owner: str) -> Iterator[None]:
        """While a start of ``owner`` is under way. Raises Refused: whoever stops its own half way would have all
        threads wait for them."""
        with self._counting:
            if self._starts[owner] >= STARTS_OF_ONE:
                raise Refused("unknown", f"{STARTS_OF_ONE} starts of {owner} are under way: try again in a moment")
            self._starts[owner] += 1
        try:
            yield
        finally:
            with self._counting:
                self._starts[owner] -= 1
                if not self._starts[owner]:
                    del self._starts[owner]

    def _list_sessions(self, params: dict[str, Any]) -> list[dict[str, Any]]:
        memory = self.guard.memory_mib
        return [
            {**asdict(session), "memory_mib": memory.get((session.reservation_id, session.generation))}
            for session in self._sessions.all()
        ]

    def _stop(self, params: dict[str, Any]) -> dict[str, Any]:
        graces = [float(params[name]) for name in ("save_grace_s", "term_grace_s")]
        if not all(0 <= grace <= 86400 for grace in graces):
            raise Refused("invalid", f"graces are {graces}: they must be from 0 to 86400 seconds")
        last = _integer(params, "generation") if "generation" in params else MAX_GENERATION
        order = StopOrder(bool(params["interrupt"]), graces[0], graces[1], last)
        return {"state": self.stops.stop(_id(params), order)}

    def _activity(self, params: dict[str, Any]) -> list[dict[str, object]]:
        window = float(params["window_s"])
        if not 1 <= window <= KEPT_S:
            raise Refused("invalid", f"window_s is {window}: it must be from 1 to {KEPT_S:g} seconds")
        kept: dict[Any, int] = {**self.parker.kept_by_session()}
        rows = self.sampler.readings(window)
        return [{**row, "kept_mib": kept.get((row["reservation_id"], row["generation"]), 0)} for row in rows]

    def _release(self, params: dict[str, Any]) -> dict[str, Any]:
        record = self._running(params)
        if params.get("park", False):
            kept = self.exchange.park(record, _integer(params, "park_memory_mib"))
            return {"released": kept is not None, "kept_mib": kept or 0}
        graces = Graces(float(params["save_grace_s"]), float(params["term_grace_s"]))
        return {"released": self.exchange.release(record, graces), "kept_mib": self.parker.kept_mib(record)}

    def _resume(self, params: dict[str, Any]) -> dict[str, Any]:
        record = self._running(params)
        done = self.exchange.resume(record, tuple(SharePart(**part) for part in params["share"]))
        return {"resumed": done, "kept_mib": self.parker.kept_mib(record)}

    def _running(self, params: dict[str, Any]) -> Record:
        record = self._sessions.records.find(_id(params), _integer(params, "generation"))
        if record is None:
            raise Refused("unknown", "this start of it is not known here")
        return record

    def _forget(self, params: dict[str, Any]) -> None:
        self._sessions.forget(_id(params), _integer(params, "generation"))

    def _spool(self, params: dict[str, Any]) -> dict[str, object]:
        user = params.get("user")
        if (user is not None) != self._multi_user or not isinstance(user, str | None):
            raise Refused("invalid", "user must be given in a multi-user deployment, and only there")
        return read_spool(_absolute(params, "folder"), user, _integer(params, "offset"))


def _absolute(params: dict[str, Any], name: str) -> str:
    value = params[name]
    if not isinstance(value, str) or not Path(value).is_absolute() or "\0" in value:
        raise Refused("invalid", f"{name} is {str(value)[:200]!r}: it must be an absolute path")
    return value


def parse_order(params: dict[str, Any], multi_user: bool) -> Order:
    """Raises Refused for what can never be started."""
    user, argv, log_path = params["user"], params["argv"], params.get("log_path")
    if (user is not None) != multi_user:
        raise Refused("invalid", "user must be given in a multi-user deployment, and only there")
    if user is not None and os.geteuid() == 0 and user == "root":
        raise Refused("invalid", "user is 'root': sessions do not run as root; log in with another account")
    if not isinstance(argv, list) or not argv or not all(isinstance(a, str) and "\0" not in a for a in argv):
        raise Refused("invalid", "argv must be a list of words")
    if log_path is not None and not (isinstance(log_path, str) and Path(log_path).is_absolute()):
        raise Refused("invalid", f"log_path is {str(log_path)[:200]!r}: it must be an absolute path or null")
    generation = _integer(params, "generation")
    if not 1 <= generation <= MAX_GENERATION:
        raise Refused("invalid", f"generation is {generation}: it must be from 1 to {MAX_GENERATION}")
    cwd = params.get("cwd")
    if cwd is not None and not isinstance(cwd, str):
        raise Refused("invalid", f"cwd is {str(cwd)[:40]!r}: it must be a path or null")
    return Order(
        reservation_id=_id(params),
        generation=generation,
        owner=str(params["owner"]),
        user=user,
        argv=tuple(argv),
        cwd=cwd,
        log_path=log_path,
        share=tuple(SharePart(**part) for part in params["share"]),
        share_text=str(params.get("share_text", "")),
        ends_at=params.get("ends_at"),
        cpus=_amount(params, "cpus", MOST_CPUS),
        memory_mib=_mib(params, "memory_mib"),
        server_socket=params.get("server_socket", False) is True,
    )


def _id(params: dict[str, Any]) -> str:
    value = params["reservation_id"]
    if not isinstance(value, str) or not ID_PATTERN.fullmatch(value):
        raise Refused("invalid", f"reservation_id is {str(value)[:40]!r}: it must be letters, digits and dashes")
    return value


def _amount(params: dict[str, Any], name: str, most: float) -> float | None:
    value = params.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise Refused("invalid", f"{name} is {str(value)[:40]!r}: it must be above 0 and at most {most:g}, or null")
    return float(value)


def _mib(params: dict[str, Any], name: str) -> int | None:
    value = params.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_MIB):
        raise Refused("invalid", f"{name} is {str(value)[:40]!r}: it must be from 1 to {MOST_MIB} MiB, or null")
    return value


def _integer(params: dict[str, Any], name: str) -> int:
    value = params[name]
    if isinstance(value, bool) or not isinstance(value, int):
        raise Refused("invalid", f"{name} is {str(value)[:40]!r}: it must be a whole number")
    return value


def _error(reason: str, message: str) -> dict[str, Any]:
    return {"error": {"reason": reason, "message": message}}


class Unsafe(Exception):
    """The socket cannot be made where nobody else reaches it; the text is for a person."""


def make_room(path: Path) -> None:
    """The socket's folder, private, without what an earlier agent left. The umask makes the socket private too.
    Raises Unsafe."""
    folder = path.parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        mode, owner = status.st_mode & 0o777, status.st_uid
        rule = "it must belong to the agent's user alone: `chmod 700` it, or use another --state folder"
        raise Unsafe(f"the folder {folder} has mode {mode:o} and owner {owner}: {rule}")
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise Unsafe(f"the socket path {path} is longer than {LONGEST_PATH} bytes: use a shorter --state folder")
    path.unlink(missing_ok=True)


async def serve(agent: Agent, path: Path, stop: asyncio.Event) -> None:
    """Serves on the socket that this process inherits, else on ``path``, until ``stop`` is set. Raises Unsafe."""
    threads = ThreadPoolExecutor(THREADS, "request")

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.TimeoutError, asyncio.LimitOverrunError, ValueError):
            await _one_request(agent, threads, reader, writer)
        writer.close()

    held = inherited(AGENT)
    if held is not None:
        # Not start_unix_server, which from Python 3.13 on removes the file of a socket that is not its own either.
        server = await asyncio.start_server(connected, sock=held, limit=MAX_REQUEST, backlog=BACKLOG)
    else:
        make_room(path)
        server = await asyncio.start_unix_server(connected, str(path), limit=MAX_REQUEST)
    async with server:
        await stop.wait()
    threads.shutdown(wait=False, cancel_futures=True)


async def _one_request(
    agent: Agent, threads: Executor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    if is_foreign(account_of_peer(writer.get_extra_info("socket"))):
        answer = _error("forbidden", "only root and the agent's own user may speak to it")
    else:
        try:
            line = await asyncio.wait_for(reader.readline(), REQUEST_WAIT_S)
        except ValueError:
            line = b""
        if line.endswith(b"\n"):
            answer = await asyncio.get_running_loop().run_in_executor(threads, agent.answer, line)
        else:
            answer = _error("invalid", f"a request is one line of JSON of at most {MAX_REQUEST} bytes")
    writer.write(json.dumps(answer).encode() + b"\n")
    await asyncio.wait_for(writer.drain(), REQUEST_WAIT_S)  # a peer that does not read is let go
