"""What ``timeshare doctor`` says about the machine's own protection between accounts, and about the state folder."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .findings import FAIL, NOTE, OK, WARN, Finding

RESERVED = 1024
STARTERS = {"cron": ("cron", "crond"), "at": ("atd",), "ssh": ("sshd",)}
SYSTEMD = Path("/run/systemd/system")
"""Programs that start processes of an account outside of its sessions, and the names of their files."""
READ_AS_CODE = (
    *("jupyterhub_site.py", "timeshare_slurm.py", "timeshare_culler.py", "timeshare_service.py"),
    *("limits.yaml", "deployment.json"),
)


@dataclass(frozen=True)
class Machine:
    """What was seen. ``first_open_port``, ``ptrace_scope`` None: this kernel does not say. ``hidepid``: as /proc is
    mounted. ``temporary``: mode of /tmp. ``starters``: of STARTERS, those that are installed."""

    first_open_port: int | None
    hidepid: str
    ptrace_scope: int | None
    temporary: int
    starters: tuple[str, ...]


def look() -> Machine:
    """Return the machine as it is."""
    found = [name for name, programs in STARTERS.items() if any(_installed(program) for program in programs)]
    found += ["systemd --user"] if SYSTEMD.is_dir() else []
    return Machine(
        _number(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")),
        _hidepid(Path("/proc/mounts").read_text()),
        _number(Path("/proc/sys/kernel/yama/ptrace_scope")),
        stat.S_IMODE(os.stat("/tmp").st_mode),
        tuple(found),
    )


def _installed(program: str) -> bool:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/bin") is not None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _hidepid(mounts: str) -> str:
    for line in mounts.splitlines():
        fields = line.split()
        if fields[1:3] == ["/proc", "proc"]:
            return next((o.partition("=")[2] for o in fields[3].split(",") if o.startswith("hidepid=")), "0")
    return "0"


def machine_findings(machine: Machine) -> Iterator[Finding]:
    """Yield what the machine itself holds between accounts. Where people share it, that is."""
    yield _ports(machine.first_open_port)
    yield _processes(machine.hidepid)
    yield _tracing(machine.ptrace_scope)
    if not machine.temporary & stat.S_ISVTX and machine.temporary & stat.S_IWOTH:
        detail = f"/tmp has mode {machine.temporary:o}: every account can rename what is in it"
        yield Finding(FAIL, "/tmp", detail, "chmod 1777 /tmp")
    else:
        yield Finding(OK, "/tmp", "only owners can rename what is in it")
    yield _starters(machine.starters)


def _ports(first: int | None) -> Finding:
    what = "ports below 1024"
    if first is None or first >= RESERVED:
        return Finding(OK, what, "only root can listen there")
    detail = f"every account can listen on ports from {first} (net.ipv4.ip_unprivileged_port_start)"
    advice = "another account can take one while timeshare is stopped: sysctl net.ipv4.ip_unprivileged_port_start=1024"
    return Finding(WARN, what, detail, advice)


def _processes(hidepid: str) -> Finding:
    what = "lists of processes"
    if hidepid in ("1", "2", "noaccess", "invisible", "ptraceable", "4"):
        return Finding(OK, what, f"accounts do not see what others run (hidepid={hidepid})")
    advice = "mount /proc with hidepid=invisible if names of programs and their arguments shall not be seen"
    return Finding(NOTE, what, "every account sees which programs others run, with arguments", advice)


def _tracing(scope: int | None) -> Finding:
    what = "tracing"
    if scope is None or scope == 0:
        detail = "a program can read the memory of every other one of the same account (kernel.yama.ptrace_scope)"
        return Finding(NOTE, what, detail, "sysctl kernel.yama.ptrace_scope=1 narrows it to its own children")
    return Finding(OK, what, f"a program can trace its own children alone (ptrace_scope {scope})")


def _starters(names: tuple[str, ...]) -> Finding:
    what = "programs outside of sessions"
    if not names:
        return Finding(OK, what, "neither cron, at, ssh nor systemd --user is installed")
    detail = (
        f"{', '.join(names)} can start processes of an account outside of its sessions: no share holds them, their "
        "device files are not hidden, and nothing of them is charged"
    )
    advice = (
        "where people may use GPUs through timeshare alone: allow cron, at and ssh to administrators only "
        "(/etc/cron.allow, /etc/at.allow, AllowGroups), and give device files of GPUs to a group that nobody is in"
    )
    return Finding(WARN, what, detail, advice)


def state_findings(folder: Path, user: int) -> Iterator[Finding]:
    """Yield whether the state folder and what is in it are ``user``'s alone. It holds tokens, keys and the ledger."""
    what = "state folder's secrets"
    try:
        status = os.lstat(folder)
    except OSError:
        return
    if status.st_uid != user:
        yield Finding(
            FAIL, what, f"{folder} belongs to the account with number {status.st_uid}", f"chown {user} {folder}"
        )
        return
    if status.st_mode & 0o077:
        detail = f"{folder} has mode {stat.S_IMODE(status.st_mode):o}: others can reach what is in it"
        yield Finding(FAIL, what, detail, f"chmod 700 {folder}")
        return
    wrong = [f"{path.name} {why}" for path in _files(folder) if (why := _odd(path, user))]
    if wrong:
        detail = f"in {folder}: {', '.join(wrong[:5])}" + (f", and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        yield Finding(WARN, what, detail, f"chown {user} and chmod go-rwx these files")
        return
    yield Finding(OK, what, "only the account of timeshare can read them")


def _files(folder: Path) -> Iterator[Path]:
    for pattern in ("*", "logs/*", "run/*"):
        yield from sorted(folder.glob(pattern))


def _odd(path: Path, user: int) -> str:
    try:
        status = os.lstat(path)
    except OSError:
        return ""
    if status.st_uid != user:
        return f"belongs to the account with number {status.st_uid}"
    if path.name in READ_AS_CODE and status.st_mode & 0o022:
        return f"can be written by others (mode {stat.S_IMODE(status.st_mode):o}), and is run or obeyed"
    if stat.S_ISREG(status.st_mode) and status.st_mode & 0o077:
        return f"has mode {stat.S_IMODE(status.st_mode):o}"
    return ""
