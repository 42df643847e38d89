"""Folders that a deployment relies on: they are its own, and so is the way there.

Who can write to a folder on the way can put another one in its place. So each belongs to root or to the deployment's
user, and nobody else can write to it.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from ...reservations.sockets import SESSIONS

MOST_LINKS = 40
"""On one way, as for the kernel (path_resolution(7))."""


class FolderError(Exception):
    """A folder cannot be relied on; the text says why and what to do."""


def default_state_dir(multi_user: bool) -> Path:
    """Return where a deployment keeps what must survive if nobody names a folder."""
    if multi_user:
        return Path("/var/lib/timeshare")
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "timeshare"


def prepare_state_dir(folder: Path, say: Callable[[str], None]) -> None:
    """Make sure that ``folder`` is there and that only its owner, this process's user, can read and write it.

    What an earlier version left open to others is closed, and ``say`` is told. Raises FolderError.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = check_state_dir(folder)
        if status.st_mode & 0o077:
            folder.chmod(0o700)
            say(f"{folder} had mode {status.st_mode & 0o777:o}; it holds secrets, so it is now 700.")
            check_state_dir(folder)  # what came until then
        for path in _open_files(folder):
            path.chmod(path.stat().st_mode & 0o700)
            say(f"{path} could be read by others; now it is its owner's alone.")
    except OSError as error:
        raise FolderError(
            f"{folder} cannot be used to keep state in: {error.strerror}; name another by --state"
        ) from None


def check_state_dir(folder: Path) -> os.stat_result:
    """Raise FolderError when another account has or had a say in what lies in ``folder``; its status otherwise.

    What lies there is run (``jupyterhub_site.py``, ``timeshare_slurm.py``, the proxy), obeyed (limits) or signalled
    (``components/``): what others put there before the folder was closed would be too. Raises OSError.
    """
    status = folder.stat()
    if status.st_uid != os.geteuid():
        raise FolderError(
            f"{folder} belongs to {_name(status.st_uid)}, and this runs as {_name(os.geteuid())}: run it as "
            f"{_name(status.st_uid)}, give the folder to {_name(os.geteuid())} (chown), or name another by --state"
        )
    check_way(folder)
    wrong = list(_of_others(folder, bool(status.st_mode & 0o011)))
    if wrong:
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise FolderError(
            f"{wrong[0]}{more}: others may have written what {_name(os.geteuid())} would run. Look at it, then remove "
            f"it, or `chown {_name(os.geteuid())}` and `chmod go-w` it; or name another folder by --state"
        )
    return status


def _of_others(folder: Path, open_to_others: bool) -> Iterator[str]:
    """Yield what in ``folder``, at any depth, another account owns. ``open_to_others``: or could write to, as it could
    come there."""
    for where, names, files in os.walk(folder):
        for path in (Path(where, name) for name in (*names, *files)):
            try:
                status = path.lstat()
            except FileNotFoundError:  # such as the log of a session, which ended meanwhile
                continue
            if why := _foreign(status) or (open_to_others and _open(status, sticky=False)):
                yield f"{path} {why}"
            elif stat.S_ISLNK(status.st_mode):
                yield from _behind(path)


def _behind(link: Path) -> Iterator[str]:
    """Yield what another account owns or can write on the way on which ``link`` leads, where it leads anywhere."""
    with contextlib.suppress(FileNotFoundError):
        for step in steps(link):
            status = step.lstat()
            if why := _foreign(status) or _open(status, sticky=True):
                yield f"{step}, to which {link} leads, {why}"


def _open_files(folder: Path) -> Iterator[Path]:
    """Yield the files of a deployment that others may read: ledger, hub's database, logs."""
    logs = folder / "logs"  # a link of ours may lead where files are for others too
    for path in [*folder.iterdir(), *([] if logs.is_symlink() else logs.glob("*"))]:
        status = path.lstat()
        if stat.S_ISREG(status.st_mode) and status.st_mode & 0o077 and status.st_uid == os.geteuid():
            yield path


def prepare_run_dir(folder: Path, shared: bool) -> None:
    """Make the folder of the deployment's sockets. ``shared``: all accounts may go through it. Raises FolderError."""
    mode = 0o755 if shared else 0o700
    try:
        folder.parent.mkdir(exist_ok=True)  # /run/timeshare, which all deployments of root share
        if shared and not folder.parent.stat().st_mode & stat.S_IXOTH:  # made under a umask
            folder.parent.chmod(0o755)
        for made in (folder, folder / SESSIONS):
            made.mkdir(mode=0o700, exist_ok=True)
            check_way(made, sticky=not shared)
            if made.is_symlink() or made.stat().st_uid != os.geteuid():
                raise FolderError(f"{made} is not a folder of {_name(os.geteuid())}: remove it, and start again")
            made.chmod(mode)
    except OSError as error:
        raise FolderError(f"{folder} cannot be used for sockets: {error.strerror}") from None


def check_way(folder: Path, sticky: bool = True, option: str = "--state") -> None:
    """Raise FolderError when another account could put something else in the place of ``folder``.

    ``sticky``: a folder such as /tmp on the way is good enough where what follows is ours already: there only the
    owner of an entry can rename or remove it (inode(7)). It is not for what must live long, as cleaners of /tmp do
    not ask. ``option``: the one that names another folder.
    """
    way = steps(folder)
    for above in way:
        status = above.lstat()
        if why := _foreign(status):
            raise FolderError(
                f"{above}, on the way to {folder}, {why}, who can put something else in its place: name another by "
                f"{option}, below folders of root or of your own"
            )
        if above != way[-1] and (why := _open(status, sticky)):
            raise FolderError(
                f"{above}, on the way to {folder}, {why}, who can put something else in its place: "
                f"`chmod go-w {above}`, or name another by {option}"
            )


def steps(path: Path) -> list[Path]:
    """Return what the kernel passes on its way to ``path``, which comes last: every folder and every link, those too
    that links lead through."""
    found, names = [Path("/")], [*reversed(path.absolute().parts[1:])]
    current, links = Path("/"), 0
    while names:
        name = names.pop()
        step = current / name if name != ".." else current.parent
        found.append(step)
        if step.is_symlink() and links < MOST_LINKS:
            links += 1
            target = step.readlink()
            current = Path("/") if target.is_absolute() else current
            names += reversed(target.parts[1:] if target.is_absolute() else target.parts)
        else:
            current = step
    return [*dict.fromkeys(found[:-1]), found[-1]]


def _foreign(status: os.stat_result) -> str:
    """Whose it is, if neither root's nor ours; empty otherwise."""
    return "" if status.st_uid in (0, os.geteuid()) else f"belongs to {_name(status.st_uid)}"


def _open(status: os.stat_result, sticky: bool) -> str:
    """That other accounts can write there; empty otherwise. ``sticky``: a sticky folder does not count. The mode of a
    link says nothing."""
    mode = status.st_mode
    others = mode & stat.S_IWOTH or (mode & stat.S_IWGRP and not _private(status))
    spared = stat.S_ISLNK(mode) or (sticky and stat.S_ISDIR(mode) and mode & stat.S_ISVTX)
    return f"can be written by others (mode {stat.S_IMODE(mode):o})" if others and not spared else ""


def _private(status: os.stat_result) -> bool:
    """Whether the group of a folder is its owner's alone: root's, or one of the same name, as useradd(8) makes them."""
    if status.st_gid == 0 and status.st_uid == 0:
        return True
    try:
        group, owner = grp.getgrgid(status.st_gid), pwd.getpwuid(status.st_uid)
    except KeyError:
        return False
    return group.gr_name == owner.pw_name and not set(group.gr_mem) - {owner.pw_name}


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
