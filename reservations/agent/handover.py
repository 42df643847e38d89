"""Starts a session's launcher and hears what became of it."""

from __future__ import annotations

import os
import py_compile
import select
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .records import Order, Record

LAUNCHER = Path(__file__).with_name("launcher.py")
BESIDE = (LAUNCHER.with_name("ending.py"), LAUNCHER.with_name("output.py"))
REPORT_WAIT_S = 30.0


MAX_STDIN = 4096


@dataclass(frozen=True)
class Hidden:
    """What the program is given and no file keeps. ``stdin``: text for its standard input, for secrets that are not
    to stand in its environment; at most MAX_STDIN bytes, empty: it has none."""

    env: Mapping[str, str]
    stdin: str = ""


@dataclass(frozen=True)
class Report:
    """What a launcher told. ``pid``: the server's, 0 when it does not run. Neither ``failed`` (the reason) nor
    ``stopped`` (there was a tombstone): it told nothing."""

    pid: int = 0
    failed: str = ""
    stopped: bool = False


def pack(order: Order, hidden: Hidden) -> bytes:
    """The order as the launcher reads it, behind the paths of its record and tombstone: fields with a NUL between.
    Raises ValueError for text that no process can be given."""
    groups = [order.group, order.filter.get("cgroups", ()), order.filter.get("prefix", ()), order.argv]
    env = hidden.env
    bound = f"{order.memory_mib / 1024:g} GiB" if order.memory_mib else ""
    fields = [order.log_path or "", order.user or "", order.cwd or "", hidden.stdin, bound]
    fields += [str(len(group)) for group in groups]
    fields += [word for group in groups for word in group]
    fields += [f"{name}={value}" for name, value in env.items()]
    if any("\0" in field for field in fields) or any("=" in name or not name for name in env):
        raise ValueError("words and variables must not hold NUL, and names of variables no '='")
    if len(hidden.stdin.encode(errors="replace")) > MAX_STDIN:
        raise ValueError(f"standard input must be at most {MAX_STDIN} bytes")
    try:
        return "\0".join(fields).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ValueError("words and variables must be text that can be written as UTF-8") from None


@dataclass(frozen=True)
class Started:
    """A launcher that was started. ``process`` must be polled some day, so that no zombie stays."""

    process: subprocess.Popen[bytes]
    reader: int

    def report(self) -> Report:
        """What it tells, waiting REPORT_WAIT_S at most. To be called once."""
        with os.fdopen(self.reader, "rb") as pipe:
            ready, _, _ = select.select([pipe], [], [], REPORT_WAIT_S)
            told = pipe.read().decode(errors="replace") if ready else ""
        if told.startswith("!"):
            return Report(failed=told[1:])
        return Report(stopped=True) if told == "stopped" else Report(pid=int(told or 0))


def compiled_launcher(folder: Path) -> Path:
    """The launcher's program, ready to run, in a folder below ``folder``, with what it imports beside it. An upgrade of
    the package while the agent runs does not change it, and no start has to compile it."""
    programs = folder / "launcher"
    programs.mkdir(mode=0o700, exist_ok=True)
    for source in (*BESIDE, LAUNCHER):
        py_compile.compile(str(source), cfile=str(programs / f"{source.stem}.pyc"), doraise=True)
    return programs / f"{LAUNCHER.stem}.pyc"


def start_launcher(program: Path, record: Record, tombstone: Path, packed: bytes, prefix: Sequence[str]) -> Started:
    """The launcher as a process of its own, which outlives this one. Raises OSError when it cannot be started."""
    order_fd = os.memfd_create("order")
    reader, writer = os.pipe()
    try:
        with open(order_fd, "wb", closefd=False) as file:
            file.write(os.fsencode(f"{record.path}\0{tombstone}\0") + packed)
        os.lseek(order_fd, 0, os.SEEK_SET)
        marks = {
            "TIMESHARE_RESERVATION_ID": record.reservation_id,
            "TIMESHARE_GENERATION": str(record.generation),
            "PATH": os.environ.get("PATH", os.defpath),
        }
        process = subprocess.Popen(
            [*prefix, sys.executable, "-I", "-S", str(program), str(order_fd), str(writer)],
            env=marks,
            pass_fds=(order_fd, writer),
            start_new_session=True,
            cwd="/",
            stdin=subprocess.DEVNULL,
        )
    except OSError:
        os.close(reader)
        raise
    finally:
        os.close(order_fd)
        os.close(writer)
    return Started(process, reader)
