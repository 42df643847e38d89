"""Unix sockets of a deployment: where they lie, and how their addresses are written.

A port can be taken by any account of the machine while its owner restarts; a path in a folder that only its owner may
write to cannot. So everything that runs on one machine speaks over sockets below ``Deployment.run_dir``. Their
addresses are written as JupyterHub and its proxy write them: ``http+unix://`` with the path quoted as the host.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import socket
import stat
import string
import struct
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

SCHEME = "http+unix"
PUBLIC, PROXY_API, HUB, SERVICE, AGENT = "public", "proxy-api", "hub", "service", "agent"
"""Names of a deployment's listening sockets: what ``listening`` hands on, and all but the public one are files."""
LONGEST_PATH = 107
"""Bytes of a path that fit into ``sun_path`` (unix(7): 108 with the final zero)."""
SESSIONS = "s"
"""In the run folder: where the folders of sessions are."""
SERVER_SOCKET = "server.sock"
"""In the folder of a session: where its server listens."""
_PLAIN = frozenset(f"{string.ascii_lowercase}{string.digits}-._~".encode())


def unix_url(path: Path | str, prefix: str = "") -> str:
    """Return the address of the socket ``path``; ``prefix``: a path below it, such as ``/services/timeshare``.

    Capitals are quoted too: JupyterHub keeps the host of an address in lower case (``urlsplit(...).hostname``).
    """
    host = "".join(chr(byte) if byte in _PLAIN else f"%{byte:02x}" for byte in os.fsencode(path))
    return f"{SCHEME}://{host}{prefix}"


def socket_path(url: str) -> str | None:
    """Return the path of the socket that ``url`` names; None for an address of another kind."""
    parts = urlsplit(url)
    # Not .hostname, which is in lower case.
    return unquote(parts.netloc) if parts.scheme == SCHEME else None


def account_of_peer(connection: socket.socket) -> int | None:
    """Return the user id of who connected to a unix socket, by the kernel's word; None on a socket of another kind."""
    if connection.family != socket.AF_UNIX:
        return None
    return int(struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1])


def is_foreign(account: int | None) -> bool:
    """Whether who connected is another account of this machine than root's and our own, past the proxy."""
    return account is not None and account not in (0, os.geteuid())


@contextlib.contextmanager
def way_to(path: Path | str) -> Iterator[str]:
    """Yield a path by which to connect to the socket ``path``, if that is its folder's owner's own.

    The folder of a session is its account's: it could put a link there to a socket that only root may connect to, and
    what connects as root must not follow. The path leads to what was looked at, whatever the account does meanwhile.
    Raises OSError. ``proxy.mjs`` does the same.
    """
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISSOCK(status.st_mode) or status.st_uid != os.stat(os.path.dirname(path)).st_uid:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "it is no socket of the owner of its folder", str(path))
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def run_dir_of(state_dir: Path) -> Path:
    """Return the folder for the sockets of the deployment that keeps its state in ``state_dir``.

    Root's is below /run, where only root can make folders and where paths are short; everybody else's in the state
    folder.
    """
    if os.geteuid() == 0:
        return Path("/run/timeshare") / hashlib.sha256(os.fsencode(state_dir)).hexdigest()[:10]
    return state_dir / "run"


def socket_file(run_dir: Path, name: str) -> Path:
    """Return where the unix socket called ``name`` lies."""
    return run_dir / f"{name}.sock"


def session_folder(run_dir: Path, reservation_id: str, generation: int) -> Path:
    """Return the folder of one start of a session: its account's own, with the sockets of its server and kernels.

    Short, because a kernel adds 50 bytes of its own, and without the id, which /proc/net/unix would show to everybody.
    """
    digest = hashlib.sha256(f"{reservation_id}.{generation}".encode()).hexdigest()[:10]
    return run_dir / SESSIONS / digest
