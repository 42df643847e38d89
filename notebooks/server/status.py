"""What the Lab extension shows: the reservation, its activity, and the person's jobs. Asked for by any number of tabs,
asked of the service at most every few seconds."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..batch.job import Task
from ..batch.places import Places
from ..batch.service import Refused, Service, Unreachable
from ..batch.states import status_of, summary
from ..capture.own import Untrusted, open_own
from ..runner.folder import Folder
from .devices import Devices

Json = dict[str, Any]
FRESH_S = 4.0
MOST_JOBS = 20
LOOK_BACK = 64 * 1024
MOST_TEXT = 50_000
LONG_CELL_S = 600
NOWHERE: Json = {"here": False, "silent": "", "reservation": None, "activity": None, "jobs": [], "long_cell_s": 0}


class Status:
    """``service``: None outside of a session."""

    def __init__(self, service: Service | None, reservation_id: str) -> None:
        self._devices = Devices(reservation_id) if service is not None else None
        self._service = service
        self._id = reservation_id
        self._known: Json = NOWHERE
        self._at = float("-inf")
        self._asking = asyncio.Lock()

    @property
    def at_work(self) -> bool:
        """Whether the node measured work, as far as it was asked lately."""
        return bool((self._known["activity"] or {}).get("working")) and time.monotonic() - self._at < 120

    async def get(self, *, anew: bool = False) -> Json:
        if self._service is None:
            return NOWHERE
        async with self._asking:
            if anew or time.monotonic() - self._at > FRESH_S:
                self._known = await asyncio.get_running_loop().run_in_executor(None, self._ask, self._service)
                self._at = time.monotonic()
        return self._known

    async def do(self, what: str, body: Json) -> Json:
        """Asks the service to do it: ``extend``, ``keep``, ``give_back`` or ``ask_again``. Raises Refused,
        Unreachable."""
        assert self._service is not None
        await asyncio.get_running_loop().run_in_executor(None, self._service.do, self._id, what, body)
        return await self.get(anew=True)

    async def cancel(self, job_id: str) -> Json:
        """Ends what of the job has not ended. Raises Refused, Unreachable."""
        service = self._service
        assert service is not None
        live: list[str] = next((job["live"] for job in (await self.get(anew=True))["jobs"] if job["id"] == job_id), [])
        for reservation_id in live:
            await asyncio.get_running_loop().run_in_executor(None, service.end, reservation_id)
        return await self.get(anew=True)

    async def log(self, job_id: str) -> Json:
        """The end of what the job put out, as text. Raises Refused."""
        return {"text": await asyncio.get_running_loop().run_in_executor(None, log_text, job_id)}

    def _ask(self, service: Service) -> Json:
        known = {**NOWHERE, "here": True, "long_cell_s": LONG_CELL_S}
        try:
            reservation = service.get(self._id)
            activity = service.activity(self._id)
            jobs = service.jobs(5 * MOST_JOBS)
            if self._devices is not None:
                self._devices.take(reservation)
        except (Unreachable, Refused) as error:
            # What was last known stays in view, and is said to be old.
            return {**known, **{k: self._known[k] for k in ("reservation", "activity", "jobs")}, "silent": str(error)}
        return {**known, "reservation": reservation, "activity": activity, "jobs": job_rows(jobs, Places.own())}


def job_rows(reservations: list[Json], places: Places) -> list[Json]:
    """The newest jobs; the points of a sweep are one."""
    by_job: dict[str, list[Json]] = {}
    for reservation in reservations:
        job = reservation["job"]
        if job is not None:
            by_job.setdefault(_job_id(Path(job["folder"]), places) or reservation["id"], []).append(reservation)
    return [_row(job_id, mine) for job_id, mine in list(by_job.items())[:MOST_JOBS]]


def _job_id(folder: Path, places: Places) -> str:
    try:
        return folder.relative_to(places.jobs).parts[0]
    except (ValueError, IndexError):
        return ""


def _row(job_id: str, reservations: list[Json]) -> Json:
    first = min(reservations, key=lambda r: int(r["job"]["index"]))
    statuses = [status_of(r, _told(Path(r["job"]["folder"]))) for r in reservations]
    single = statuses[0] if len(statuses) == 1 else None
    live = [r for r, status in zip(reservations, statuses, strict=True) if not status.ended]
    fraction, text = progress(Path(first["job"]["folder"])) if single and not single.ended else (None, "")
    if single is None:
        fraction = 1 - len(live) / len(reservations)
    return {
        "id": job_id,
        "live": [reservation["id"] for reservation in live],
        "name": first["job"]["name"],
        "state": single.state if single else summary(status.state for status in statuses),
        "ended": not live,
        "detail": single.why if single else "",
        "where": single.where if single else _engines(reservations),
        **{name: first[name] for name in ("submitted_at", "started_at", "ended_at")},
        "progress": fraction,
        "progress_text": text,
    }


def _engines(reservations: Iterable[Json]) -> str:
    """Where the points of a sweep run, but for this machine."""
    return ", ".join(sorted({r["engine_title"] for r in reservations if r["engine"] != "local"}))


def _told(folder: Path) -> Mapping[str, Any] | None:
    try:
        return Folder(folder).status()
    except (OSError, ValueError, Untrusted):  # a folder that was removed is one too
        return None


def progress(folder: Path) -> tuple[float | None, str]:
    """Of a job that runs: how much of it is done (0 to 1, None: it does not say), and its newest bar."""
    try:
        with open_own(folder / "spool.jsonl") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - LOOK_BACK))
            lines = file.read().split(b"\n")
        for line in reversed(lines):
            if b'"kind": "progress"' in line:
                told = json.loads(line)["content"]
                return float(told["percent"]) / 100, str(told["what"])
    except (OSError, ValueError, KeyError, Untrusted):
        pass  # it has not begun, or its first line in view is not whole
    return None, ""


def log_text(job_id: str) -> str:
    """The end of what a job put out; of a sweep of every point. Raises Refused."""
    places = Places.own()
    if job_id not in places.ids():
        raise Refused(f"there is no job {job_id[:40]!r} of yours here")
    folders = places.folders(job_id)
    texts = []
    for number, folder in enumerate(folders):
        text = Task("", number, folder).text()[-MOST_TEXT // len(folders) :]
        texts.append(f"--- point {number}\n{text}" if len(folders) > 1 else text)
    return "\n".join(texts)


def session_of_environment() -> tuple[Service | None, str]:
    """The service, and this session's reservation; None and nothing outside of one."""
    reservation_id = os.environ.get("TIMESHARE_RESERVATION_ID", "")
    if not reservation_id:
        return None, ""
    try:
        return Service.of_session(), reservation_id
    except Refused:
        return None, ""
