"""The folder of each session that holds the sockets of its server and kernels: its account's own before it starts.

A port belongs to whoever binds it first, and every account can connect to it. A socket in a folder that only the
session's account and root can enter belongs to the session from the beginning, and nobody else reaches it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
import secrets
import stat
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..sockets import LONGEST_PATH, SERVER_SOCKET, session_folder
from .refusals import Refused

log = logging.getLogger("timeshare.agent")
Key = tuple[str, int]
"""Reservation and generation of one start."""
_OVER = "over-"
"""How the names of folders begin that are on their way out."""
_PATIENCE_S = 5.0
"""For the removal of one folder, before the next one has its turn."""
_PAUSE_S = 1.0


class SessionFolders:
    """All of them, below ``run_dir``; None: this agent makes none."""

    def __init__(self, run_dir: Path | None) -> None:
        self._run_dir = run_dir
        self._emptying = threading.Lock()
        self._asked = threading.Semaphore(2)  # one that empties, and one that will look again after it

    def make(self, key: Key, user: str | None) -> None:
        """Make the folder of a start, empty and private to ``user`` (None: the agent's own account).

        Raises Refused when it cannot be made where nobody else has a say.
        """
        path = self._path(key)
        if len(os.fsencode(path / SERVER_SOCKET)) > LONGEST_PATH:
            limit = f"a socket's path has at most {LONGEST_PATH} bytes"
            raise Refused("failed", f"{path / SERVER_SOCKET} is too long ({limit}): use a shorter --state folder")
        account = _account(user)
        try:
            with _parent(path.parent, passable=user is not None) as parent:
                _set_aside(path.name, parent)  # of an agent that died before this start began
                os.mkdir(path.name, 0o700, dir_fd=parent)
                if account is not None:
                    os.chown(path.name, account.pw_uid, account.pw_gid, dir_fd=parent, follow_symlinks=False)
        except OSError as error:
            raise Refused("failed", f"the session's folder {path} cannot be made: {error.strerror}") from None

    def remove(self, key: Key) -> None:
        """Remove what an ended start left there; nothing where it had no folder."""
        if self._run_dir is None:
            return
        self._remove_all([self._path(key).name])

    def sweep(self, known: Iterable[Key]) -> None:
        """Remove the folders of all starts but the ``known`` ones: an agent died between folder and record."""
        if self._run_dir is None:
            return
        kept = {self._path(key).name for key in known}
        with contextlib.suppress(FileNotFoundError):
            self._remove_all(set(os.listdir(self._path(("", 0)).parent)) - kept)

    def _remove_all(self, names: Iterable[str]) -> None:
        """What cannot be removed now is left to the next ``sweep``: the end of a session does not depend on it."""
        try:
            with _parent(self._path(("", 0)).parent, create=False) as parent:
                for name in names:
                    try:
                        _set_aside(name, parent)
                    except OSError as error:  # such as one on which its account has mounted something
                        log.warning("the folder of a session that has ended stays: %s: %s", name, error.strerror)
        except FileNotFoundError:
            return
        except (OSError, Refused) as error:
            log.warning("folders of sessions that have ended cannot be removed: %s", error)
        threading.Thread(target=self._empty, name="folders", daemon=True).start()

    def _empty(self) -> None:
        """Remove what was set aside. An account may have put millions of files there, and may still be at it: nobody
        waits for that, and the folders take turns."""
        if not self._asked.acquire(blocking=False):
            return
        with contextlib.ExitStack() as after, contextlib.suppress(OSError, Refused):
            after.callback(self._asked.release)
            after.enter_context(self._emptying)
            while self._pass():
                time.sleep(_PAUSE_S)

    def _pass(self) -> bool:
        """Whether something is left that was to be removed."""
        with _parent(self._path(("", 0)).parent, create=False) as parent:
            for name in _set_aside_in(parent):
                _remove(name, parent)
            return bool(_set_aside_in(parent))

    def _path(self, key: Key) -> Path:
        if self._run_dir is None:
            raise Refused("invalid", "server_socket is true, and this agent has no folder for sockets (run_dir)")
        return session_folder(self._run_dir, *key)


def _account(user: str | None) -> pwd.struct_passwd | None:
    if user is None:
        return None
    try:
        return pwd.getpwnam(user)
    except KeyError:
        raise Refused(
            "failed", f"this machine has no account {user!r}: create it, or log in with another one"
        ) from None


@contextlib.contextmanager
def _parent(folder: Path, *, create: bool = True, passable: bool = False) -> Iterator[int]:
    """A descriptor of the folder of all sessions, which nobody else may write to, nor to the one above it.

    ``passable``: other accounts get through it to their own. Raises OSError, Refused.
    """
    for each in (folder.parent, folder):
        if create:
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check(each, passable)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _check(folder: Path, passable: bool) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            has = f"owner {status.st_uid} and mode {stat.S_IMODE(status.st_mode):o}"
            raise Refused("failed", f"{folder} has {has}: only the agent's account may own and change it")
        if passable and not status.st_mode & stat.S_IXOTH:
            os.fchmod(descriptor, stat.S_IMODE(status.st_mode) | stat.S_IXGRP | stat.S_IXOTH)
    finally:
        os.close(descriptor)


def _set_aside(name: str, parent: int) -> None:
    """Take away the name of a folder, if there is one; what is in it is for ``_empty``."""
    if not name.startswith(_OVER):
        with contextlib.suppress(FileNotFoundError):
            os.rename(name, f"{_OVER}{secrets.token_hex(8)}", src_dir_fd=parent, dst_dir_fd=parent)


def _set_aside_in(parent: int) -> list[str]:
    return [name for name in os.listdir(parent) if name.startswith(_OVER)]


def _remove(name: str, parent: int) -> None:
    """Remove it with all that its account put there, as far as that can be done for now; no link is followed."""
    words = ["rm", "-rf", "--one-file-system", "--", f"/proc/self/fd/{parent}/{name}"]
    quiet = subprocess.DEVNULL
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(words, pass_fds=(parent,), check=False, stdin=quiet, stderr=quiet, timeout=_PATIENCE_S)
