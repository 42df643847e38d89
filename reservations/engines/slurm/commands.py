"""Runs Slurm's commands as the owner of a job. An answer, a refusal, or silence, of which nothing may be concluded."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import secrets
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .errors import SchedulerRefused, SchedulerSilent

AS_ROOT = ("runuser", "-u", "{user}", "--")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SETTINGS = {
    "LANG": "C.UTF-8",
    "TZ": "UTC",  # in which times are told
    "SLURM_TIME_FORMAT": "standard",
    "SLURM_BITSTR_LEN": "0",  # the tasks of an array as a whole, however many ranges they are
}
ALL_RIGHTS = "has all rights (user id 0): nothing runs on Slurm as root; log in with another account"
MAX_OUTPUT = 64 * 1024 * 1024
KILL_WAIT_S = 5.0
# What commands say when they did not reach the controller or the accounting, or lost it while it was answering.
_SILENT = (
    "unable to contact slurm",
    "unable to establish control",
    "socket timed out",
    "connection refused",
    "connection timed out",
    "connection reset",
    "connect failure",
    "no route to host",
    "zero bytes were transmitted",
    "unexpected message received",
    "insane message length",
    "incompatible versions",
    "temporarily un",
    "backup controller in standby",
    "authentication credential",
    "authentication error",
    "munge",
    "talking to the database",
    "persist_conn",
    "could not establish a configuration",
)
_NOT_BECOME = ("runuser:", "sudo:")


@dataclass(frozen=True)
class Answer:
    """Of a command that did what it was asked to."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Commands:
    """``prefix``: words before each command by which it runs as ``{user}``; empty: jobs belong to the service's own
    user. ``conf``: the path of slurm.conf if it is not where Slurm looks for it. ``path``: folders of commands, as in
    PATH. ``timeout_s``: how long an answer may take."""

    prefix: tuple[str, ...] = AS_ROOT
    conf: str = ""
    path: str = PATH
    timeout_s: float = 30.0

    def without_prefix(self) -> Commands:
        """The same, for questions, which are asked as the service itself."""
        return replace(self, prefix=())

    async def run(self, argv: Sequence[str], user: str = "", stdin: str = "", timeout_s: float = 0.0) -> Answer:
        """``user``: as whom; empty: the service's own. ``timeout_s``: another than the usual one.

        Raises SchedulerRefused with what Slurm said, and for an account with all rights; SchedulerSilent when it did
        not answer: then it may have been done all the same.
        """
        words = [*_prefix(self.prefix, user), *argv]
        wait_s = timeout_s or self.timeout_s
        transport, listener = await _started(words, self._environment())
        try:
            _tell(transport, stdin)
            await asyncio.wait_for(listener.ended, wait_s)
        except asyncio.TimeoutError:
            raise SchedulerSilent(f"{argv[0]} did not answer within {wait_s:g} s") from None
        finally:
            await _end(transport, listener)
        return _answer(argv[0], transport.get_returncode(), listener)

    def _environment(self) -> dict[str, str]:
        """No more than the commands need, so that nothing of the service gets into jobs."""
        conf = {"SLURM_CONF": self.conf} if self.conf else {}
        return {"PATH": self.path, **SETTINGS, **conf}


def _prefix(prefix: Sequence[str], user: str) -> list[str]:
    """Only with names of accounts: sudo takes ``#0`` for root, and others have signs of their own."""
    if not user:
        return []
    try:
        account = pwd.getpwnam(user)
    except (KeyError, ValueError, UnicodeError):
        # A directory of accounts that does not answer looks the same, so this is no refusal.
        raise SchedulerSilent(f"this machine knows no account {user!r}, to run a command of Slurm as") from None
    if account.pw_uid == 0:
        raise SchedulerRefused(f"account {user!r} {ALL_RIGHTS}")
    return [word.replace("{user}", user) for word in prefix]


class _Listener(asyncio.SubprocessProtocol):
    """Keeps what a command puts out. ``over``: it has ended, and nothing is open any more; ``ended`` is that too, or
    that it puts out too much."""

    def __init__(self) -> None:
        self.text: Mapping[int, bytearray] = {1: bytearray(), 2: bytearray()}
        self.over = asyncio.Event()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.text[fd].extend(data)
        if len(self.text[fd]) > MAX_OUTPUT and not self.ended.done():
            self.ended.set_exception(SchedulerSilent(f"it answered with more than {MAX_OUTPUT} bytes"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.over.set()
        if not self.ended.done():
            self.ended.set_result(None)


async def _started(words: list[str], env: dict[str, str]) -> tuple[asyncio.SubprocessTransport, _Listener]:
    loop = asyncio.get_running_loop()
    starting = asyncio.ensure_future(
        loop.subprocess_exec(_Listener, *words, env=env, cwd="/", umask=0o077, start_new_session=True)
    )
    try:
        return await asyncio.shield(starting)
    except OSError as error:
        raise SchedulerSilent(f"{words[0]} cannot be run: {error.strerror}") from None
    except asyncio.CancelledError:
        await _end(*await starting)  # in the middle of a start it would leave what it began
        raise


def _tell(transport: asyncio.SubprocessTransport, stdin: str) -> None:
    pipe = transport.get_pipe_transport(0)
    assert isinstance(pipe, asyncio.WriteTransport)
    pipe.write(stdin.encode())
    pipe.close()  # once all is written


async def _end(transport: asyncio.SubprocessTransport, listener: _Listener) -> None:
    """Kills what still runs, with all that it started."""
    # sudo may not be killed by others than root; it ends by itself, and is not waited for.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if transport.get_returncode() is None:
            os.killpg(transport.get_pid(), signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        transport.close()
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(listener.over.wait(), KILL_WAIT_S)


def _answer(name: str, code: int | None, listener: _Listener) -> Answer:
    out, err = (listener.text[fd].decode(errors="replace") for fd in (1, 2))
    if code == 0:
        return Answer(code, out, err)
    said = err.strip() or out.strip()
    if code is None or code < 0:
        raise SchedulerSilent(f"{name} was killed")
    if is_silence(said):
        raise SchedulerSilent(f"{name}: {said}")
    raise SchedulerRefused(said, code)


def new_separator() -> str:
    """Between the columns of an answer: what no name in them has, for nobody can have known it."""
    return f"<{secrets.token_hex(8)}>"


def is_silence(said: str) -> bool:
    """Whether this text of a command that failed means that Slurm was not reached, rather than that it said no."""
    lower = said.lower()
    return not said or lower.startswith(_NOT_BECOME) or any(words in lower for words in _SILENT)
