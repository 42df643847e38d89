"""One start of the server below the agent: how it begins, and how it is brought to its end."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGPIPE, SIGTERM, SIGUSR1

from ..agent.ending import below, kill_all
from ..agent.processes import kernels, send
from .tree import processes_below

BEGIN = Path(__file__).with_name("begin.py")
STRAGGLERS_GRACE_S = 5.0
"""When the server has exited, how long what it left behind may take to follow."""
SIGNALS = (SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGUSR1)


class CannotStart(Exception):
    """The server does not run; the text is for a person."""


@dataclass(frozen=True)
class Command:
    """What to run, ready for the kernel. ``cwd`` empty: home. ``log_path`` None: the agent's own output."""

    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    log_path: str | None


@dataclass
class Ending:
    """When SIGTERM and SIGKILL are due, in seconds of the monotonic clock."""

    term_at: float
    kill_at: float
    asked: bool = False

    def sooner(self, term_at: float, kill_at: float) -> None:
        """A later and stricter request makes the end come sooner, never later."""
        self.term_at, self.kill_at = min(self.term_at, term_at), min(self.kill_at, kill_at)


class Server:
    """``code``: how its main process ended, None while it runs. ``gone``: nothing that it started is left."""

    def __init__(self, generation: int, command: Command) -> None:
        """Starts it. Raises CannotStart."""
        self.generation = generation
        self.listens = False
        self.code: int | None = None
        self.gone = False
        self.note = ""
        """Why the watchdog ended it."""
        self.ending: Ending | None = None
        self._complaint = ""
        self.pid, self._complaints = _spawn(command)

    @property
    def message(self) -> str:
        """Why it never ran, or why the watchdog ended it; else empty."""
        return self.note or self._complaint

    def end(self, now: float, interrupt: bool, save_s: float, term_s: float) -> None:
        """Begins its end, or makes it come sooner."""
        if self.ending is None:
            if interrupt:
                table = processes_below(os.getpid())
                send(table, kernels(table), SIGINT)
            self.ending = Ending(now + save_s, now + save_s + term_s)
        self.ending.sooner(now + save_s, now + save_s + term_s)

    def exited(self, now: float, code: int) -> None:
        """Its main process has ended: what it left behind follows."""
        self.code = code
        self._complaint = _read_complaint(self._complaints)
        end = Ending(now, now + STRAGGLERS_GRACE_S) if self.ending is None else self.ending
        end.sooner(now, now + STRAGGLERS_GRACE_S)
        self.ending = end

    def advance(self, now: float) -> None:
        """Carries its end further; call it several times a second."""
        if self.ending is None or now < self.ending.term_at:
            return
        if now >= self.ending.kill_at:
            kill_all(lambda: below(os.getpid()))
        elif not self.ending.asked:
            # Every process once: a server that is shutting down kernels in order takes a second request badly.
            self.ending.asked = True
            table = processes_below(os.getpid())
            send(table, table, SIGTERM)


def _spawn(command: Command) -> tuple[int, int]:
    """Its pid, and where it complains if its program cannot be run."""
    if any("\0" in text for text in (*command.argv, command.cwd, *command.env, *command.env.values())):
        raise CannotStart("words and variables must not hold NUL")
    log = _open_log(command.log_path)
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    words = [sys.executable, "-I", "-S", str(BEGIN), str(os.getpid()), str(writer), command.cwd, *command.argv]
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    ]
    if log is not None:
        actions += [(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
    try:
        env = {_encoded(name): _encoded(value) for name, value in command.env.items()}
        pid = os.posix_spawn(
            sys.executable, [_encoded(word) for word in words], env, file_actions=actions, setsigdef=SIGNALS
        )
    except (OSError, ValueError) as error:
        os.close(reader)
        raise CannotStart(f"it cannot be run: {error}") from None
    finally:
        os.close(writer)
        if log is not None:
            os.close(log)
    return pid, reader


def _encoded(text: str) -> bytes:
    # Not by the locale, which may know less than what a person wrote.
    return text.encode("utf-8", "surrogateescape")


def _open_log(path: str | None) -> int | None:
    if path is None:
        return None
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    except (OSError, ValueError) as error:
        raise CannotStart(f"its log {path} cannot be written: {error}") from None


def _read_complaint(reader: int) -> str:
    with os.fdopen(reader, "rb") as pipe:
        os.set_blocking(reader, False)
        return (pipe.read(500) or b"").decode(errors="replace")


def reap() -> tuple[dict[int, int], bool]:
    """Exit codes of what has ended below this process, by pid (negative: the signal), and whether nothing is left."""
    codes: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return codes, True
        if pid == 0:
            return codes, False
        codes[pid] = os.waitstatus_to_exitcode(status)
