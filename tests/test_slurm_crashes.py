"""Hub and service are killed at random moments while sessions and jobs of a real Slurm are in every state: nothing that
lives is lost, nothing runs twice at once, nothing is left behind."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from conftest import FULL_STRESS
from nodes import eventually
from slurm_cluster import Cluster
from slurm_hubs import SlurmHub, slurm_hub
from test_slurm_batch import python

from timeshare.reservations.engines.external import job_prefix
from timeshare.reservations.service.settings import engine_tag

pytestmark = [pytest.mark.hub, pytest.mark.slurm, pytest.mark.stress, pytest.mark.timeout(7200)]
KILLS = 100 if FULL_STRESS else 6
VICTIMS = ("service", "service", "hub", "starter")
SHARES: list[dict[str, Any]] = [{"gpus": 1, "model": "p100"}, {"gpus": 2, "model": "a100"}, {"memory_gib": 4}]
JOB = "submit('import time; time.sleep({s}); x = 1', options='--engine slurm --memory 4 --time 10m')"


class Crowd:
    """What people do meanwhile. A request that meets a kill is made by nobody."""

    def __init__(self, hub: SlurmHub, rng: random.Random) -> None:
        self.hub, self.rng = hub, rng
        self.people = [hub.account(user) for user in ("tsalice", "tsbob")]
        self.ended_by_owner: set[str] = set()

    def act(self) -> None:
        user = self.rng.choice(self.people)
        with contextlib.suppress(requests.ConnectionError, AssertionError, requests.Timeout):
            live = [r for r in user.live() if r["job"] is None]
            what = self.rng.random()
            if what < 0.45 and len(live) < 2:
                user.ask(**self.rng.choice(SHARES))
            elif what < 0.75:
                python(user, JOB.format(s=self.rng.choice((0, 2, 6))))
            elif live:
                chosen = self.rng.choice(live)
                self.ended_by_owner.add(chosen["id"])
                user.end(chosen)


def overlapping(hub: SlurmHub) -> list[str]:
    """Names of this hub's jobs, but for the attempt, of which two ran at the same time. Those of other tests have been
    in this Slurm too, and points of a sweep share a name."""
    mine = job_prefix(engine_tag(hub.deployment.signing_key, "slurm"))
    fields = "--format=JobName,Start,End,State"
    rows = str(hub.cluster.run("sacct", "-X", "-D", "-n", "-P", fields, "-S", "now-1days", "-a").stdout).splitlines()
    spans: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        name, start, end, _ = row.split("|")
        if name.startswith(mine) and start not in ("Unknown", "None"):
            until = time.time() if end in ("Unknown", "None") else _seconds(end)
            spans.setdefault(name.rpartition(".")[0], []).append((_seconds(start), until))
    assert spans, "none of its jobs is in the accounting"
    return [name for name, found in spans.items() if _meet(sorted(found))]


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _meet(spans: list[tuple[float, float]]) -> bool:
    return any(after[0] < before[1] for before, after in itertools.pairwise(spans))


def names(hub: SlurmHub) -> list[str]:
    return str(hub.cluster.run("squeue", "-h", "-o", "%j").stdout).split()


def test_no_kill_loses_a_job_starts_one_twice_or_leaves_one(slurm: Cluster, tmp_path_factory: Any) -> None:
    rng = random.Random(20261126)
    state: Path = tmp_path_factory.mktemp("slurm")
    with slurm_hub(state, slurm) as hub:
        crowd = Crowd(hub, rng)
        killed: Counter[str] = Counter()
        met: Counter[str] = Counter()
        while sum(killed.values()) < KILLS:
            for _ in range(rng.randint(1, 2)):
                crowd.act()
            time.sleep(rng.uniform(0, 2.5))
            victim = rng.choice(VICTIMS)
            pid = hub.components().get(victim)
            if pid is None:
                continue
            with contextlib.suppress(requests.ConnectionError):
                met.update(r["state"] for r in hub.everybodys() if r["state"] != "ended")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed[victim] += 1
            eventually(hub.is_healthy, 120)
        eventually(lambda: all(r["state"] in ("active", "ended") for r in hub.everybodys()), 240)
        _all_is_well(hub, crowd)
        everything = hub.everybodys()
        for reservation in everything:
            if reservation["state"] != "ended":
                crowd.ended_by_owner.add(reservation["id"])
                hub.service("POST", f"reservations/{reservation['id']}/end", json={})
        eventually(lambda: all(r["state"] == "ended" for r in hub.everybodys()), 240)
        eventually(lambda: names(hub) == [], 60)
        assert overlapping(hub) == []
        reasons = Counter(str(r["reason"]) for r in hub.everybodys())
        print(f"\n{dict(killed)} killed over {len(everything)} reservations, met {dict(met)}; ends: {dict(reasons)}")


def _all_is_well(hub: SlurmHub, crowd: Crowd) -> None:
    for reservation in hub.everybodys():
        if reservation["state"] == "ended" and reservation["id"] not in crowd.ended_by_owner:
            told = (reservation["id"], reservation["reason"], reservation["detail"])
            assert reservation["reason"] == "completed", told
