"""One person's flood, and what another person notices of it.

    python benchmarks/flood.py [--seconds 120] [--quiet 60] [--streams 2000] [--queued 10000] [--rate 100]

A real hub, with its proxy, on this machine. Ben asks for what is offered and reads what he has, a few times a second,
and submits and ends a request now and then. First it is quiet; then Ada opens event streams and sends sweeps, each
again and again until it is taken, and a hundred further requests a second. The figure is the 95th percentile of Ben's
requests beside the quiet one of the same run, of each kind, together with what the service's process held in memory
and descriptors. Ada's is a process like any other, at the priority that a session's control group gives it, and works
on the same cores; what each process used of them is told too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable
from dataclasses import dataclass, field
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from hubs import Hub, running_hub
from nodes import all_marked
from plain_jobs import job_body

PROMISE = 2.0
SUBMITS_EVERY = 8
AGAIN_S = 0.5
"""Until a sweep that was refused is sent again."""
WINDOW_S = 10
MOST_OPEN = 1000
LIMITS = "{defaults: {sessions: {at_once: 100}, jobs: {at_once: 100000}}, stop: {save_grace: 1s, term_grace: 1s}}"


@dataclass(frozen=True)
class Person:
    """Sends requests through the public address, one connection each."""

    url: str
    token: str

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Status and body of one request."""
        reader, writer = await self.send(method, path, body)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            return int(head.split(b" ", 2)[1]), await reader.read()
        finally:
            writer.close()

    async def send(self, method: str, path: str, body: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        address = urlsplit(self.url)
        data = b"" if body is None else json.dumps(body).encode()
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        head = (
            f"{method} {address.path}services/timeshare/api/v1/{path} HTTP/1.1\r\nHost: {address.netloc}\r\n"
            f"Authorization: Bearer {self.token}\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
        )
        writer.write(head.encode() + data)
        return reader, writer


def p95(seconds: list[float]) -> float:
    """Of few that is the longest."""
    return statistics.quantiles(seconds, n=20)[-1] if len(seconds) >= 20 else max(seconds)


@dataclass
class Times:
    """Seconds of each kind of request, and the answers that were no success."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    windows: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Of all kinds, by the number of the ten seconds in which they began."""
    since: float = field(default_factory=time.monotonic)
    failed: Counter[str] = field(default_factory=Counter)

    async def of(self, what: str, deed: Awaitable[tuple[int, bytes]]) -> bytes:
        began = time.monotonic()
        status, body = await deed
        self.seconds[what].append(time.monotonic() - began)
        self.windows[int((began - self.since) / WINDOW_S)].append(self.seconds[what][-1])
        if status >= 400:
            self.failed[f"{what} {status}"] += 1
        return body

    def p95(self, what: str) -> float:
        return p95(self.seconds[what])


async def calm(ben: Person, times: Times, until: float) -> None:
    """What a person with a few tabs asks."""
    for turn in itertools.count():
        if time.monotonic() >= until:
            return
        await asyncio.sleep(0.2)
        await times.of("offers", ben.ask("GET", "offers"))
        await times.of("list", ben.ask("GET", "reservations?limit=20"))
        if turn % SUBMITS_EVERY:
            continue
        wish = {"share": {"gpus": 1}, "server_name": "calm"}
        made = json.loads(await times.of("submit", ben.ask("POST", "reservations", wish)))
        if "id" in made:
            await times.of("read", ben.ask("GET", f"reservations/{made['id']}"))
            await times.of("end", ben.ask("POST", f"reservations/{made['id']}/end", {}))


class Flood:
    """Ada's; ``answers`` by what was asked and status."""

    def __init__(self, ada: Person, folder: Path, options: argparse.Namespace) -> None:
        self._ada, self._folder, self._options = ada, folder, options
        self.answers: Counter[str] = Counter()

    async def run(self, until: float) -> None:
        _, made = await self._ada.ask("POST", "reservations", {"share": {"gpus": 1}, "server_name": "flood"})
        name = json.loads(made)["id"]
        streams = [asyncio.create_task(self._stream(name)) for _ in range(self._options.streams)]
        sweeps = asyncio.create_task(self._sweeps())
        requests: set[asyncio.Task[int]] = set()
        paths = ("offers", "reservations?limit=500", f"reservations/{name}?unlike=queued&wait_s=60", "limits")
        for path in itertools.cycle(paths):
            if (now := time.monotonic()) >= until:
                break
            if len(requests) < MOST_OPEN:
                task = asyncio.create_task(self._ask("GET", path))
                requests.add(task)
                task.add_done_callback(requests.discard)
            await asyncio.sleep(max(0.0, 1 / self._options.rate - (time.monotonic() - now)))
        for task in (*streams, sweeps, *requests):
            task.cancel()
        await asyncio.gather(*streams, sweeps, *requests, return_exceptions=True)

    async def _ask(self, method: str, path: str, body: Any = None) -> int:
        try:
            status, _ = await self._ada.ask(method, path, body)
        except (OSError, asyncio.IncompleteReadError):
            status = 0
        self.answers[f"{path.partition('?')[0].partition('/')[0]} {status or 'closed'}"] += 1
        return status

    async def _stream(self, name: str) -> None:
        try:
            reader, writer = await self._ada.send("GET", f"reservations/{name}/events", None)
            head = await reader.readuntil(b"\r\n\r\n")
            self.answers[f"streams {int(head.split(b' ', 2)[1])}"] += 1
            while await reader.read(65536):
                pass
            writer.close()
        except (OSError, asyncio.IncompleteReadError):
            self.answers["streams closed"] += 1

    async def _sweeps(self) -> None:
        """Until so many points have been asked for."""
        body = job_body(self._folder, "ada", {"gpus": 1}, tasks=250)
        del body["owner"]
        for _ in range(0, self._options.queued, 250):
            while await self._ask("POST", "jobs", {**body, "max_parallel": 1}) != 201:
                await asyncio.sleep(AGAIN_S)


def process(pid: int) -> tuple[int, int]:
    """MiB of memory, and open descriptors."""
    status = Path(f"/proc/{pid}/status").read_text()
    resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    return resident // 1024, len(os.listdir(f"/proc/{pid}/fd"))


def cpu_s(pid: int) -> float:
    """Seconds of a core that a process has used."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


async def watched(pid: int, until: float) -> tuple[int, int]:
    """The most of each until then."""
    most = process(pid)
    while time.monotonic() < until:
        await asyncio.sleep(0.5)
        now = process(pid)
        most = (max(most[0], now[0]), max(most[1], now[1]))
    return most


class Cores:
    """How many cores each of ``pids`` keeps busy from now until ``end``."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._pids, self._began = pids, time.monotonic()
        self._before = {name: cpu_s(pid) for name, pid in pids.items()}
        self._used: dict[str, float] = {}

    def end(self) -> None:
        seconds = time.monotonic() - self._began
        self._used = {name: (cpu_s(pid) - self._before[name]) / seconds for name, pid in self._pids.items()}

    def __str__(self) -> str:
        return ", ".join(f"{name} {cores:.2f}" for name, cores in self._used.items())


async def measured(ben: Person, seconds: float, pid: int) -> tuple[Times, tuple[int, int]]:
    """Ben's times over ``seconds``, and the service's most memory and descriptors."""
    until, times = time.monotonic() + seconds, Times()
    _, most = await asyncio.gather(calm(ben, times, until), watched(pid, until))
    return times, most


def flooding(ada: Person, folder: Path, chosen: argparse.Namespace, told: Connection) -> None:
    """In a process of its own, as Ada's would be: Ben's clock does not wait for it."""
    flood = Flood(ada, folder, chosen)
    asyncio.run(flood.run(time.monotonic() + chosen.seconds))
    told.send(flood.answers)


def told(quiet: Times, flooded: Times) -> float:
    """Prints both; the worst ratio of all kinds."""
    print(f"{'':8} {'quiet p50':>10} {'p95':>8} {'flood p50':>10} {'p95':>8} {'ratio':>6}")
    for what in quiet.seconds:
        a, b = quiet.seconds[what], flooded.seconds[what]
        ratio = flooded.p95(what) / quiet.p95(what)
        cells = [statistics.median(a), quiet.p95(what), statistics.median(b), flooded.p95(what)]
        print(
            f"{what:8} {cells[0] * 1e3:7.1f} ms {cells[1] * 1e3:5.1f} ms {cells[2] * 1e3:7.1f} ms "
            f"{cells[3] * 1e3:5.1f} ms {ratio:6.2f}"
        )
    of_windows = (f"{p95(flooded.windows[number]) * 1e3:.0f}" for number in sorted(flooded.windows))
    print(f"all      p95 in each {WINDOW_S} s of the flood: {', '.join(of_windows)} ms")
    everything = [[s for of in times.seconds.values() for s in of] for times in (quiet, flooded)]
    a95, b95 = (p95(all_of_them) for all_of_them in everything)
    print(f"all      p95 {a95 * 1e3:.1f} ms quiet, {b95 * 1e3:.1f} ms in the flood: ratio {b95 / a95:.2f}")
    return b95 / a95


def kill_sessions(folder: Path) -> None:
    """Kill the sessions and jobs of the hub below ``folder``, which outlive it."""
    for pids in all_marked().values():
        if any(str(folder) in command_line(pid) for pid in pids):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:  # it has ended
        return ""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("seconds", 120), ("quiet", 60), ("streams", 2000), ("queued", 10_000), ("rate", 100)):
        options.add_argument(f"--{name}", type=int, default=default)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place).resolve()
        (folder / "limits.yaml").write_text(LIMITS)
        try:
            with running_hub(
                folder / "state", "--simulate", "a100-40gb:4", "--limits", str(folder / "limits.yaml")
            ) as hub:
                ratio = compared(hub, folder, chosen)
        finally:
            kill_sessions(folder)
    sys.exit(0 if ratio <= PROMISE else 1)


def compared(hub: Hub, folder: Path, chosen: argparse.Namespace) -> float:
    """The ratio of the run, told with everything else."""
    ben, ada = (Person(hub.url, hub.login(name).token) for name in ("ben", "ada"))
    pid, (told_here, told_there) = hub.components()["service"], Pipe()
    asyncio.run(measured(ben, 5, pid))  # everything is there and warm
    quiet_cores = Cores({**hub.components(), "Ben": os.getpid()})
    quiet, before = asyncio.run(measured(ben, chosen.quiet, pid))
    quiet_cores.end()
    flood = Process(target=flooding, args=(ada, folder, chosen, told_there))
    flood.start()
    flood_cores = Cores({**hub.components(), "Ben": os.getpid(), "Ada": flood.pid or 0})
    flooded, during = asyncio.run(measured(ben, chosen.seconds, pid))
    flood_cores.end()
    answers: Counter[str] = told_here.recv()
    flood.join()
    ratio = told(quiet, flooded)
    print(f"cores of {os.cpu_count()}: {quiet_cores} quiet; {flood_cores} in the flood")
    print(f"service  {before[0]} MiB, {before[1]} descriptors quiet; at most {during[0]} MiB, {during[1]} in the flood")
    print(f"refused to Ben: {dict(quiet.failed)} quiet, {dict(flooded.failed)} in the flood")
    print("answers to Ada: " + ", ".join(f"{what}: {count}" for what, count in sorted(answers.items())))
    return ratio


if __name__ == "__main__":
    main()
