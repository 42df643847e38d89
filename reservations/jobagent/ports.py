"""A port for the server, and whether it listens there."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from pathlib import Path
from urllib.parse import urlsplit

LISTENING = "0A"
TRIES = 200


def free_port(within: tuple[int, int] | None) -> int:
    """One that nobody uses now. Raises OSError when there is none ``within`` a range."""
    if within is None:
        return _bound(0)
    candidates = random.sample(range(within[0], within[1] + 1), min(TRIES, within[1] - within[0] + 1))
    for port in candidates:
        with contextlib.suppress(OSError):
            return _bound(port)
    raise OSError(f"no port from {within[0]} to {within[1]} is free on this node")


def _bound(port: int) -> int:
    with socket.socket() as tried:
        tried.bind(("", port))
        return int(tried.getsockname()[1])


def with_port(url: str, port: int) -> str:
    """``url`` with another port; unchanged where it is none."""
    parts = urlsplit(url)
    if not parts.scheme or not parts.hostname:
        return url
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return parts._replace(netloc=f"{host}:{port}").geturl()


def listens(port: int, uid: int | None = None) -> bool:
    """Whether a process of this user listens on ``port``. Somebody else's would get what is meant for the server."""
    owner = os.getuid() if uid is None else uid
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
                words = line.split()
                local, state, user = words[1], words[3], words[7]
                if state == LISTENING and int(local.rpartition(":")[2], 16) == port and int(user) == owner:
                    return True
    return False
