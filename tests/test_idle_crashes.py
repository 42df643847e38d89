"""Service, agent and culler killed at random while sessions idle: nobody loses a GPU without a full warning, nothing is
done twice, nobody is forgotten."""

from __future__ import annotations

import itertools
import os
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from idle_sessions import IDLE, Idle, Session, idle_lab
from nodes import eventually

FULL = os.environ.get("STRESS") == "full"
KILLS = 60 if FULL else 8
LEAD_S = 3.0


@dataclass
class Outages:
    """Times in which nobody could read a warning, for the service was away."""

    spans: list[tuple[float, float]] = field(default_factory=list)

    def between(self, begin: float, end: float) -> bool:
        return any(down < end and up > begin for down, up in self.spans)


def kill(what: str, idle: Idle, outages: Outages) -> None:
    if what == "service":
        down = time.time()
        idle.server.kill()
        time.sleep(random.random())
        idle.server.start(wait_for_agent=False)
        outages.spans.append((down, time.time()))
    elif what == "agent":
        idle.server.node.kill()
        time.sleep(random.random())
        idle.server.node.start()
    else:
        idle.culler.kill()
        time.sleep(random.random())
        idle.culler.start()


@pytest.mark.stress
@pytest.mark.timeout(3600)
def test_idle_sessions_give_their_gpu_back_once_and_with_full_warning_whoever_is_killed(tmp_path: Path) -> None:
    seed = int(os.environ.get("SEED", random.randrange(2**32)))
    print(f"SEED={seed}")
    random.seed(seed)
    with idle_lab(tmp_path, simulate="a100-40gb:4") as idle:
        outages = Outages()
        busy = idle.lab.start("busy", memory_gib=2)
        busy.says = {**IDLE, "kernel_busy_s": 5}
        idlers: list[Session] = []
        for number in range(KILLS):
            if number % 2 == 0:
                idlers.append(idle.lab.start(f"user{number}", memory_gib=2))
            time.sleep(random.uniform(0.5, 6))
            kill(random.choice(["service", "agent", "culler"]), idle, outages)
            eventually(lambda: idle.server.health() == "ok", 30)
        for session in idlers:
            eventually(lambda session=session: session.state() == "parked", 60)
        assert (busy.state(), busy.what()) == ("active", [])
        for session in idlers:
            check(session, outages)


def check(session: Session, outages: Outages) -> None:
    """Of all that was decided about it."""
    told = session.decided()
    assert told[-1][0] == "give_back"
    given_back = [at for what, at in told if what == "give_back"]
    for (before, at), (what, later) in itertools.pairwise(told):
        if what == "give_back" and before == "warn":
            assert later - at >= LEAD_S
    # The service wrote its decision, and was killed before it was carried out: then it decides again, fully warned.
    for at in given_back:
        assert not outages.between(at - LEAD_S + 1, at), (told, outages)
    parked = [event for event in session.events() if event["state"] == "parked"]
    assert len(parked) == 1, session.events()
