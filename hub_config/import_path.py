"""Whether anybody but root can change the code that root runs: the folders of the Python that runs, and the way there.

Who can write to a folder on the way to a module, or owns it, can put another module in its place, and is root at the
next start: a checkout or a virtual environment in a home folder, a group-writable /opt.
"""

from __future__ import annotations

import os
import pwd
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from .findings import FAIL, OK, Finding
from .run.folders import steps

WHAT = "code that root runs"
SHOWN = 3
PACKAGE = Path(__file__).parent.parent


def places_of_python() -> list[Path]:
    """Return what this process is made of: the interpreter, its import path, timeshare itself."""
    return [Path(sys.executable), Path(sys.prefix), *(Path(path) for path in sys.path if path), PACKAGE]


def import_path_findings(places: Iterable[Path], trusted: frozenset[int], *, deep: bool = False) -> list[Finding]:
    """Return what is wrong with the way to each of ``places``, or that nothing is.

    ``trusted``: uids that may own them. ``deep``: also what lies in them, which takes a second with all packages;
    without, only the folders on the way, as ``timeshare up`` asks at each start.
    """
    known: dict[str, str] = {}
    places = list(dict.fromkeys(places))
    for place in places:
        for path in steps(place):
            if str(path) not in known:
                known[str(path)] = trouble(path, trusted)
    for place in outermost(places) if deep else ():
        known |= {str(path): why for path in inside(place) if (why := trouble(path, trusted))}
    wrong = [f"{path} {why}" for path, why in known.items() if why]
    if not wrong:
        return [Finding(OK, WHAT, f"only root can change it ({sys.prefix}, {PACKAGE})")]
    more = f", and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
    advice = (
        "whoever can write there becomes root at the next start: install timeshare in /opt/timeshare as root "
        "(docs/admin_guide.md), or `chown -R root:root` and `chmod -R go-w` the folders"
    )
    return [Finding(FAIL, WHAT, "; ".join(wrong[:SHOWN]) + more, advice)]


def outermost(places: Iterable[Path]) -> list[Path]:
    """Return the folders among ``places`` that lie in none of the others, so that each file is looked at once."""
    folders = {Path(os.path.realpath(place)) for place in places if place.is_dir()} - {Path("/")}
    return [folder for folder in sorted(folders) if not folders & set(folder.parents)]


def inside(place: Path) -> Iterator[Path]:
    """Yield what lies below ``place``, but for what was compiled: Python writes that where it may."""
    for folder, names, files in os.walk(place):
        names[:] = [name for name in names if name not in ("__pycache__", ".git")]
        yield from (Path(folder) / name for name in (*names, *files))


def trouble(path: Path, trusted: frozenset[int]) -> str:
    """Return what is wrong with one file or folder; empty when nothing is, or when it is not there.

    In a sticky folder such as /tmp only the owner of an entry can replace it (inode(7)), and that entry is looked at
    too. The mode of a link says nothing.
    """
    try:
        status = os.lstat(path)
    except OSError:
        return ""
    if status.st_uid not in trusted:
        return f"belongs to {_name(status.st_uid)}"
    writable = status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and status.st_gid != 0)
    if writable and not stat.S_ISLNK(status.st_mode) and not status.st_mode & stat.S_ISVTX:
        return f"can be written by others (mode {stat.S_IMODE(status.st_mode):o})"
    return ""


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"the account with number {uid}"
