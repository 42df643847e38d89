"""The listening sockets of a deployment, held by ``timeshare up`` for as long as it runs.

Components get them by inheritance: while one is restarted its connections wait, and nobody else can listen there.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable
from pathlib import Path

from ...reservations.listening import BACKLOG
from ...reservations.sockets import AGENT, HUB, LONGEST_PATH, PROXY_API, SERVICE, socket_file

FILES = {HUB: 0o666, SERVICE: 0o666, PROXY_API: 0o600, AGENT: 0o600}
"""The unix sockets and their modes where several accounts use the deployment: sessions of all of them connect to hub
and service."""


class SocketError(Exception):
    """It cannot be listened on; the text says why and what to do."""


class HeldSockets:
    """Listening sockets by name. ``close`` gives them up, and removes what they left in the run folder."""

    def __init__(self) -> None:
        self._sockets: dict[str, socket.socket] = {}
        self._paths: list[Path] = []

    def hold(self, name: str, listening: socket.socket) -> None:
        self._sockets[name] = listening

    def listen(self, run_dir: Path, shared: bool, names: Iterable[str] = tuple(FILES)) -> None:
        """Listen on the unix sockets of a deployment called ``names``, in place of what an earlier start left.

        ``shared``: sessions of other accounts connect to them. Raises SocketError.
        """
        for name in names:
            self._listen(run_dir, name, FILES[name] if shared else 0o600)

    def _listen(self, run_dir: Path, name: str, mode: int) -> None:
        path = socket_file(run_dir, name)
        check_length(path)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        made = socket.socket(socket.AF_UNIX)
        try:
            made.bind(str(path))
            path.chmod(mode)
            made.listen(BACKLOG)
        except OSError as error:
            made.close()
            raise SocketError(f"{path} cannot be listened on: {error.strerror}") from None
        self._paths.append(path)
        self.hold(name, made)

    def descriptors(self, names: Iterable[str]) -> dict[str, int]:
        return {name: self._sockets[name].fileno() for name in names if name in self._sockets}

    def close(self) -> None:
        for held in self._sockets.values():
            held.close()
        for path in self._paths:
            with contextlib.suppress(OSError):
                path.unlink()
        self._sockets, self._paths = {}, []


def check_length(path: Path) -> None:
    """Raises SocketError for a path that no unix socket can have."""
    length = len(os.fsencode(path))
    if length > LONGEST_PATH:
        raise SocketError(
            f"the path {path} of a socket has {length} bytes, and Linux allows {LONGEST_PATH}: "
            "name a shorter folder by --state"
        )
