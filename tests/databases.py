"""Real databases for the tests: SQLite files, and a PostgreSQL server of our own on a free port."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from timeshare.hub_config.run import ports

POSTGRES_USERS = ("postgres", "nobody")


def as_account(account: pwd.struct_passwd) -> list[str]:
    """The words before a command that root runs as somebody else."""
    return ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]


def free_port() -> int:
    """One that nobody takes by chance until the server of a test listens there."""
    return ports.free_port("127.0.0.1", set())


def postgres_bin() -> Path | None:
    """The newest PostgreSQL server installed, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else None


def _unprivileged() -> list[str]:
    """PostgreSQL refuses to run as root: a prefix that steps down to another account when we are."""
    if os.geteuid() != 0:
        return []
    return as_account(next(pwd.getpwnam(name) for name in POSTGRES_USERS if _exists(name)))


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


class Postgres:
    """A running server; ``stop`` and ``start`` it at will. ``url``: SQLAlchemy's."""

    def __init__(self, url: str, control: list[str | Path], start: list[str | Path], home: Path) -> None:
        self.url = url
        self._control, self._start, self._home = control, start, home

    def start(self) -> None:
        subprocess.run([*self._control, *self._start], check=True, cwd=self._home, stdout=subprocess.DEVNULL)

    def stop(self) -> None:
        words = [*self._control, "-m", "immediate", "stop"]
        subprocess.run(words, check=True, cwd=self._home, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """A running server; yields its SQLAlchemy URL."""
    with postgres_server() as server:
        yield server.url


@contextlib.contextmanager
def postgres_server() -> Iterator[Postgres]:
    """A running server."""
    binaries = postgres_bin()
    assert binaries is not None
    run = _unprivileged()
    home = Path(tempfile.mkdtemp(prefix="timeshare-pg-"))
    if run:
        account = next(pwd.getpwnam(name) for name in POSTGRES_USERS if _exists(name))
        os.chown(home, account.pw_uid, account.pw_gid)
    data, port = home / "data", free_port()
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={home}"
    try:
        subprocess.run(
            [*run, binaries / "initdb", "-D", data, "-U", "timeshare", "--auth=trust", "-N"],
            check=True,
            capture_output=True,
            cwd=home,
        )
        control = [*run, binaries / "pg_ctl", "-D", data, "-w"]
        url = f"postgresql+psycopg://timeshare@127.0.0.1:{port}/postgres"
        server = Postgres(url, control, ["-o", options, "-l", home / "log", "start"], home)
        server.start()
        try:
            yield server
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):  # the test has stopped it
                server.stop()
    finally:
        shutil.rmtree(home, ignore_errors=True)
