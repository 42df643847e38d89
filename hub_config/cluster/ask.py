"""Asking hosts what they have, by ssh: all at once, each for a bounded time, none believed, and none voids another."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ...reservations.files import open_plain
from ...reservations.text import escaped
from .hosts import Host, Hosts
from .survey import MOST_BYTES, Survey, SurveyError, parse_survey

AT_ONCE = 16
MOST_TOLD = 300
CHUNK = 65536
SSH = ("ssh", "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15", "-o", "ControlMaster=no")
"""It never waits for a password, takes no host whose key is not known, and leaves no process behind."""


@dataclass(frozen=True)
class Answers:
    """By the name of the host: what it has, or why that is not known."""

    surveys: Mapping[str, Survey]
    silent: Mapping[str, str]


def argv_of(host: Host, timeshare: str, ssh: Sequence[str] = SSH) -> list[str]:
    """Return the words that ask a host. The last ones go through a shell there, and are only those of the list."""
    return [*ssh, "--", host.reached, f"{timeshare}/bin/timeshare", "cluster", "survey"]


def ask_all(hosts: Hosts, timeout_s: float, ssh: Sequence[str] = SSH) -> Answers:
    """Ask every host of the list."""

    def one(host: Host) -> Survey | SurveyError:
        try:
            return parse_survey(answer(argv_of(host, hosts.timeshare, ssh), timeout_s))
        except SurveyError as error:
            return error

    with ThreadPoolExecutor(AT_ONCE) as places:
        return _sorted(zip(hosts.hosts, places.map(one, hosts.hosts), strict=True))


def read_all(hosts: Hosts, folder: Path) -> Answers:
    """Return what ``HOST.json`` in ``folder`` says of each host."""
    found: list[tuple[Host, Survey | SurveyError]] = []
    for host in hosts.hosts:
        try:
            with open_plain(folder / f"{host.name}.json") as file:
                found.append((host, parse_survey(file.read(MOST_BYTES + 1).decode(errors="replace"))))
        except OSError as error:
            found.append((host, SurveyError(f"{folder / host.name}.json: {error.strerror}")))
        except SurveyError as error:
            found.append((host, error))
    return _sorted(found)


def _sorted(found: Iterable[tuple[Host, Survey | SurveyError]]) -> Answers:
    told = list(found)
    return Answers(
        {host.name: one for host, one in told if isinstance(one, Survey)},
        {host.name: escaped(str(one)) for host, one in told if isinstance(one, SurveyError)},
    )


def answer(argv: Sequence[str], timeout_s: float) -> str:
    """Return what a command prints. Raises SurveyError when it fails, takes too long, or prints without end."""
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
    except OSError as error:
        raise SurveyError(f"{argv[0]} cannot be run: {error.strerror}") from None
    with process:
        try:
            out, told = _read(process, time.monotonic() + timeout_s)
        except TimeoutError:
            raise SurveyError(f"it did not answer within {timeout_s:g} s") from None
        finally:
            _end(process)
    if process.returncode:
        words = told.strip().splitlines()
        raise SurveyError(f"exit status {process.returncode}: {words[-1][:MOST_TOLD] if words else 'it says nothing'}")
    return out


def _read(process: subprocess.Popen[bytes], until: float) -> tuple[str, str]:
    """Return all that it prints, to its end. Raises TimeoutError, and SurveyError beyond what an answer may take."""
    assert process.stdout is not None
    assert process.stderr is not None
    found = {process.stdout: bytearray(), process.stderr: bytearray()}
    with selectors.DefaultSelector() as ready:
        for stream in found:
            ready.register(stream, selectors.EVENT_READ, found[stream])
        while ready.get_map():
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            for key, _ in ready.select(left):
                chunk = os.read(key.fd, CHUNK)
                key.data.extend(chunk)
                if not chunk:
                    ready.unregister(key.fileobj)
                if len(key.data) > MOST_BYTES:
                    raise SurveyError(f"it answered more than {MOST_BYTES // 1024} KiB: that is no survey")
    try:
        process.wait(max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise TimeoutError from None
    out, told = (text.decode(errors="replace") for text in found.values())
    return out, told


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it and what it started."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
