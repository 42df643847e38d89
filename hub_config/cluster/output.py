"""The folder that is written: whole at first, and later only what somebody has seen the difference of."""

from __future__ import annotations

import difflib
import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...reservations.files import open_plain, write_anew
from ..run.folders import steps
from . import slurm_files, timeshare_files
from .plan import Plan
from .survey import Survey

SECRET = ("slurmdbd.conf", "database.sql")
"""Files with the password of the database: for their owner alone."""
KEPT = ("limits.yaml",)
"""Files to begin with, which are the administrator's once they are there."""
SURVEYS = "surveys"
MOST_BYTES = 4 * 1024 * 1024
_PASSWORD = re.compile(r"^StoragePass=([A-Za-z0-9_-]{16,200})$", re.MULTILINE)


@dataclass(frozen=True)
class Difference:
    """``text``: as diff(1) shows it, without the password."""

    name: str
    text: str


def files_of(plan: Plan, password: str) -> dict[str, str]:
    """Return the text of every file by its name in the folder."""
    return {
        "NEXT_STEPS.md": timeshare_files.next_steps(plan),
        "hosts.txt": "".join(f"{node.host.reached}\n" for node in plan.nodes),
        "slurm.conf": slurm_files.slurm_conf(plan),
        "gres.conf": slurm_files.gres_conf(plan),
        "cgroup.conf": slurm_files.cgroup_conf(plan),
        "slurmdbd.conf": slurm_files.slurmdbd_conf(plan, password),
        "database.sql": slurm_files.database_sql(password),
        "timeshare_slurm.py": timeshare_files.timeshare_slurm(plan),
        "limits.yaml": timeshare_files.limits(plan),
        **{f"{SURVEYS}/{node.host.name}.json": _survey_text(node.survey) for node in plan.nodes},
    }


def _survey_text(survey: Survey) -> str:
    return survey.model_dump_json(indent=1) + "\n"


def password_in(folder: Path) -> str:
    """Return the password of before; a new one where there is none."""
    found = _PASSWORD.search(_text(folder / "slurmdbd.conf"))
    return found[1] if found else secrets.token_urlsafe(24)


def differences(folder: Path, files: Mapping[str, str], password: str) -> Iterator[Difference]:
    """Yield what ``files`` would change in the folder."""
    for name, new in files.items():
        old = _text(folder / name)
        if old != new and not (old and name in KEPT):
            lines = [_masked(text, password).splitlines(keepends=True) for text in (old, new)]
            text = "".join(difflib.unified_diff(lines[0], lines[1], f"{folder / name}", "new"))
            yield Difference(name, text or f"{folder / name}: another password\n")


def _masked(text: str, password: str) -> str:
    return re.sub(r"(StoragePass=|IDENTIFIED BY ').*", r"\1...", text.replace(password, "..."))


def is_new(folder: Path) -> bool:
    """Whether nothing is there yet. Raises OSError for a folder that somebody else could change: what is written there
    holds a password, and root copies it."""
    for place in (*steps(folder), folder / SURVEYS):
        try:
            status = place.lstat()
        except FileNotFoundError:
            continue
        is_ours = place in (folder, folder / SURVEYS)
        if is_ours and not stat.S_ISDIR(status.st_mode):
            raise OSError(errno.ENOTDIR, "it is no folder: name another", str(place))
        if _others_may_change(status, sticky=not is_ours):
            raise OSError(errno.EPERM, "other accounts can change this folder: name another", str(place))
    return not folder.exists() or not any(folder.iterdir())


def _others_may_change(status: os.stat_result, *, sticky: bool) -> bool:
    """``sticky``: whether it does to be as /tmp is, where nobody renames what is another's."""
    if stat.S_ISLNK(status.st_mode):
        return status.st_uid not in (0, os.geteuid())
    is_open = status.st_mode & 0o022 and not (sticky and status.st_mode & stat.S_ISVTX)
    return bool(is_open) or status.st_uid not in (0, os.geteuid())


def write_new(folder: Path, files: Mapping[str, str]) -> None:
    """Write a folder that is not there yet, or is empty, at once or not at all. Raises OSError."""
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    draft.mkdir(mode=0o700)
    try:
        write_into(draft, files)
        os.rename(draft, folder)  # rename(2) takes the place of an empty folder, and of no other
    except OSError:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def write_into(folder: Path, files: Mapping[str, str]) -> None:
    """Write each file in the place of an older one, whole. Raises OSError."""
    (folder / SURVEYS).mkdir(mode=0o700, exist_ok=True)
    for name, text in files.items():
        write_anew(folder / name, text, 0o600 if name in SECRET else 0o644)


def close_secrets(folder: Path) -> None:
    """Close to others what holds a password, whoever opened it. Raises OSError."""
    for name in SECRET:
        with suppress(FileNotFoundError):
            descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                os.fchmod(descriptor, 0o600)
            finally:
                os.close(descriptor)


def _text(path: Path) -> str:
    """What is in a plain file; empty where there is none."""
    try:
        with open_plain(path) as file:
            return file.read(MOST_BYTES).decode(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return ""
