"""The real culler over a real service and agent: idle sessions are warned, and then give their GPU back."""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from idle_sessions import IDLE, LIMITS, Idle, Session, idle_lab
from nodes import eventually

KERNEL = (sys.executable, "-c", "import time\nwhile True: time.sleep(0.1)", "ipykernel_launcher")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Idle]:
    with idle_lab(tmp_path_factory.mktemp("idle")) as found:
        yield found


@pytest.fixture
def idle(place: Idle) -> Iterator[Idle]:
    place.lab.faults()
    yield place
    for session in place.lab.sessions:
        session.do("end")
    eventually(lambda: all(s.state() == "ended" for s in place.lab.sessions), 30)
    place.lab.sessions.clear()


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def free_mib(idle: Idle) -> list[int]:
    return [device["free_mib"] for device in idle.server.ask("GET", "devices")["devices"]]


def warned(session: Session) -> dict[str, Any]:
    return dict(eventually(lambda: session.activity()["warning"], 40))


def test_an_idle_session_is_warned_gives_its_gpu_back_and_runs_on(idle: Idle) -> None:
    session = idle.lab.start()
    pid = session.pid()
    told = warned(session)
    assert told["action"] == "give_back"
    assert told["text"].startswith("This session is idle for ")
    assert session.get()["idle_warning"] is True
    notices = [notice["text"] for notice in session.get()["notices"]]
    assert any("s its GPU goes back to the pool; the notebook stays." in text for text in notices), notices
    eventually(lambda: session.state() == "parked", 40)
    assert session.what() == ["warn", "give_back"]
    assert lives(pid)
    assert session.get()["placement"] == []
    eventually(lambda: free_mib(idle) == [40 * 1024] * 4)


def test_between_warning_and_action_lies_the_full_time_that_was_told(idle: Idle) -> None:
    session = idle.lab.start()
    asked: list[float] = []

    def is_warned() -> bool:
        asked.append(time.monotonic())
        return session.activity()["warning"] is not None

    eventually(is_warned, 40)
    eventually(lambda: session.state() == "parked", 40)
    assert time.monotonic() - asked[-2] >= 3  # when it was asked last and there was none


def test_the_gpu_comes_back_when_it_is_asked_for_and_is_free(idle: Idle) -> None:
    session = idle.lab.start()
    assert session.do("give_back").json()["handling"] == "returning"
    eventually(lambda: session.state() == "parked")
    again = session.do("ask_again").json()
    assert (again["state"], len(again["placement"])) == ("active", 1)
    eventually(lambda: session.get()["handling"] is None)


def test_who_asks_again_at_once_does_not_lose_it_by_the_same_warning(idle: Idle) -> None:
    session = idle.lab.start()
    eventually(lambda: session.state() == "parked", 40)
    assert session.do("ask_again").json()["state"] == "active"
    began = time.monotonic()
    eventually(lambda: session.state() == "parked", 40)
    assert time.monotonic() - began >= 2.5  # it was warned anew, for the full 3 s of the limits
    assert session.what() == ["warn", "give_back"] * 2


def test_a_gpu_that_is_taken_meanwhile_is_waited_for_in_the_queue(idle: Idle) -> None:
    session = idle.lab.start(gpus=4)
    session.do("give_back")
    eventually(lambda: session.state() == "parked")
    other = idle.lab.start("ben", gpus=1)
    waiting = session.do("ask_again").json()
    assert (waiting["state"], waiting["asked_again"], waiting["position"]) == ("parked", True, 1)
    other.do("end")
    eventually(lambda: session.state() == "active", 30)


def test_who_does_not_want_to_wait_any_more_stays_parked(idle: Idle) -> None:
    session = idle.lab.start(gpus=4)
    session.do("give_back")
    eventually(lambda: session.state() == "parked")
    other = idle.lab.start("ben", gpus=1)
    session.do("ask_again")
    assert session.do("give_back").json()["asked_again"] is False
    other.do("end")
    eventually(lambda: other.state() == "ended")
    time.sleep(1.5)
    assert session.state() == "parked"


NOT_IDLE: dict[str, dict[str, Any] | None] = {
    "a running cell": {**IDLE, "kernel_busy_s": 36000},
    "a program": {**IDLE, "terminal": True},
    "unknown terminals": {**IDLE, "terminal": None},
    "unknown kernels": {**IDLE, "kernel_busy_s": None},
    "unknown input": {**IDLE, "input_ago_s": None},
    "typing": {**IDLE, "input_ago_s": 0},
    "silence": None,
}


def test_sessions_that_work_or_of_which_something_is_unknown_keep_their_gpu(idle: Idle) -> None:
    sessions: dict[str, Session] = {}
    for number, (name, says) in enumerate(NOT_IDLE.items()):
        sessions[name] = idle.lab.start(f"user{number}", memory_gib=2)
        sessions[name].says = says
    other = idle.lab.start("ben", memory_gib=2)
    eventually(lambda: other.state() == "parked", 60)
    assert {name: s.state() for name, s in sessions.items()} == dict.fromkeys(NOT_IDLE, "active")


def test_a_busy_gpu_is_work_and_one_of_which_nobody_knows_is_not_idle(idle: Idle) -> None:
    busy, unknown = idle.lab.start(), idle.lab.start("ben")
    for session in (busy, unknown):
        session.says = {**IDLE, "kernel_busy_s": 3}  # until the driver tells what is meant here
    devices = [session.get()["placement"][0]["device_uuid"] for session in (busy, unknown)]
    idle.lab.faults(use=[{"device": devices[0], "percent": 80}, {"device": devices[1], "percent": None}])
    eventually(lambda: busy.activity()["signals"]["gpu"] == 80, 40)
    eventually(lambda: unknown.activity()["signals"]["gpu"] is None, 40)
    for session in (busy, unknown):
        session.says = dict(IDLE)
    still = idle.lab.start("cleo")
    eventually(lambda: still.state() == "parked", 60)
    assert busy.activity()["signals"]["gpu"] == 80
    assert busy.activity()["working"] == "its GPU was at 80 %"
    assert unknown.activity()["working"] == "nobody knows its GPU use"
    assert [s.what() for s in (busy, unknown)] == [[], []]


def test_work_on_the_cpu_is_measured(idle: Idle) -> None:
    session = idle.lab.start(argv=(sys.executable, "-c", "while True: pass"))
    eventually(lambda: (session.activity()["signals"]["cpu"] or 0) > 20, 40)
    assert session.activity()["working"].endswith("% of a core")


def test_work_after_the_warning_makes_it_void(idle: Idle) -> None:
    session = idle.lab.start()
    warned(session)
    session.says = {**IDLE, "kernel_busy_s": 3}
    session.report()
    eventually(lambda: session.activity()["warning"] is None, 20)
    session.says = dict(IDLE)
    eventually(lambda: session.state() == "parked", 60)
    assert session.what() == ["warn", "warn", "give_back"]


def test_input_that_is_told_late_makes_a_warning_void_too(idle: Idle) -> None:
    session = idle.lab.start()
    warned(session)
    session.says = None
    typed_at = time.monotonic() - 1  # before the warning, and after the idle time that it was about

    def gives_its_gpu_back() -> bool:
        time.sleep(0.25)
        session.report(input_ago_s=time.monotonic() - typed_at)
        return session.state() == "parked"

    eventually(gives_its_gpu_back, 60)
    assert session.what() == ["warn", "warn", "give_back"]


def test_one_input_whose_age_is_told_by_reports_that_come_later_and_later_voids_no_second_warning(idle: Idle) -> None:
    session = idle.lab.start()
    warned(session)
    session.says = None
    typed_at, report = time.monotonic(), itertools.count()

    def gives_its_gpu_back() -> bool:
        # Each report tells the input 10 ms later than the one before. The pause keeps all that fit into the 60 s below
        # together under SAME_INPUT_S, past which it would be an input of its own.
        time.sleep(0.25)
        session.report(input_ago_s=max(0.0, time.monotonic() - typed_at - 0.01 * next(report)))
        return session.state() == "parked"

    eventually(gives_its_gpu_back, 60)
    assert session.what() == ["warn", "warn", "give_back"]


def test_a_kernel_that_holds_gpu_memory_is_ended_and_all_else_stays(idle: Idle) -> None:
    source = "import subprocess, sys, time\nsubprocess.Popen([*{argv!r}])\nwhile True: time.sleep(0.1)"
    session = idle.lab.start(argv=(sys.executable, "-c", source.format(argv=KERNEL)))
    server = session.pid()
    kernel = eventually(lambda: children(server))[0]
    device = session.get()["placement"][0]["device_uuid"]
    idle.lab.faults(processes=[{"pid": kernel, "device": device, "memory_mib": 3000}])
    warned(session)
    assert "Kernels that hold GPU memory are ended then" in session.get()["notices"][0]["text"]
    eventually(lambda: not running(kernel), 40)
    idle.lab.faults()  # what the driver says once the process is gone
    eventually(lambda: session.state() == "parked", 20)
    assert running(server)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_protection_holds_within_its_budget_and_ends_with_its_key(idle: Idle) -> None:
    session, other = idle.lab.start(), idle.lab.start("ben")
    kept = session.do("keep", key="a", seconds=1800, why="it waits for the beam").json()
    assert (kept["kept_why"], kept["keep_left_s"]) == ("it waits for the beam", 1800)
    refused = session.do("keep", key="b", seconds=7200, why="more")
    assert refused.status_code == 409
    assert refused.json()["error"]["message"] == (
        "a session may be protected for 1 h in all, and this would make it 2 h: 30 min are left"
    )
    eventually(lambda: other.state() == "parked", 60)
    assert session.state() == "active"
    assert session.do("keep", key="a", seconds=0).json()["kept_s"] == 0
    eventually(lambda: session.state() == "parked", 60)
    assert session.what() == ["keep", "keep ended", "warn", "give_back"]


def test_a_gpu_that_was_asked_for_again_has_an_idle_time_and_a_warning_of_its_own(idle: Idle) -> None:
    session = idle.lab.start()
    eventually(lambda: session.state() == "parked", 60)
    began = time.monotonic()
    assert session.do("ask_again").status_code == 200
    assert session.state() == "active"
    eventually(lambda: session.state() == "parked", 60)
    assert time.monotonic() - began >= 6
    assert session.what() == ["warn", "give_back", "warn", "give_back"]


def test_an_unreadable_warning_is_none(idle: Idle) -> None:
    session = idle.lab.start()
    warned(session)
    idle.front.healthy = False
    time.sleep(6)
    assert session.state() == "active"
    idle.front.healthy = True
    eventually(lambda: session.state() == "parked", 40)
    assert time.monotonic() - idle.front.refused_at >= 3  # since the last look at which the hub was away


def test_a_report_needs_the_key_of_its_session(idle: Idle) -> None:
    mine, other = idle.lab.start(), idle.lab.start("ben")
    body = {"generation": 1, **IDLE}
    for key in (other.key, "nonsense", idle.server.deployment.admin_token):
        answer = idle.server.call("POST", f"reservations/{mine.id}/activity", token=key, json=body)
        assert answer.status_code == 401, answer.text
    for path in (f"reservations/{other.id}", f"reservations/{mine.id}/activity", "activity", "offers"):
        assert idle.server.call("GET", path, token=mine.key).status_code in (401, 503)  # there is no hub to ask


def test_a_wrong_report_is_refused_in_words(idle: Idle) -> None:
    session = idle.lab.start()
    for field, value in (
        ("kernel_busy_s", -1),
        ("kernel_busy_s", "long"),
        ("input_ago_s", 1e300),
        ("terminal", "yes"),
        ("generation", 0),
        ("generation", True),
    ):
        answer = session.report(**{field: value})
        assert answer.status_code == 400, (field, value)
        assert answer.json()["error"]["message"].startswith(f"{field} is {value!r}")
    assert (
        "is missing"
        in session.server.call(
            "POST", f"reservations/{session.id}/activity", token=session.key, json={"generation": 1}
        ).json()["error"]["message"]
    )


def test_the_culler_may_look_and_judge_and_nothing_else(idle: Idle) -> None:
    session = idle.lab.start()
    token = idle.server.deployment.culler_token
    assert idle.server.call("GET", "activity", token=token).ok
    for method, path in (
        ("POST", f"reservations/{session.id}/end"),
        ("POST", f"reservations/{session.id}/extend"),
        ("POST", f"reservations/{session.id}/give_back"),
        ("GET", f"reservations/{session.id}"),
        ("GET", "limits/file"),
    ):
        assert idle.server.call(method, path, token=token, json={}).status_code in (403, 404), path
    assert idle.server.call("GET", "activity").status_code == 403  # not even the deployment, if it is not the culler


def test_a_judgement_that_does_not_hold_any_more_is_refused(idle: Idle) -> None:
    session = idle.lab.start()
    token = idle.server.deployment.culler_token

    def judge(**body: Any) -> tuple[int, str]:
        answer = idle.server.call("POST", f"activity/{session.id}", token=token, json={"why": "idle", **body})
        return answer.status_code, answer.json()["error"]["reason"]

    def since() -> float | None:
        (row,) = idle.server.call("GET", "activity", token=token).json()["sessions"]
        return None if row["watched"] is None else row["watched"]["since"]

    eventually(since, 20)
    assert judge(action="give_back", quiet_since=1.0) == (409, "not-idle")
    assert judge(action="give_back", quiet_since=since()) == (409, "not-warned")
    assert judge(action="stop", quiet_since=since()) == (409, "not-that")
    assert session.state() == "active"


def test_where_the_limits_say_so_the_session_is_stopped(tmp_path: Path) -> None:
    limits = LIMITS.replace("keep: 1h", "keep: 1h, then: stop")
    with idle_lab(tmp_path, limits) as found:
        session = found.lab.start()
        assert warned(session)["action"] == "stop"
        eventually(lambda: session.state() == "ended", 60)
        ended = session.get()
        assert ended["reason"] == "idle"
        assert ended["detail"].startswith("idle for ")
        assert session.what() == ["warn", "stop"]


def test_mail_is_sent_by_the_command_of_the_site(tmp_path: Path) -> None:
    import asyncio

    from timeshare.idle_culler.judging import Judgement
    from timeshare.idle_culler.mail import Mailer

    box = tmp_path / "mail"
    judgement = Judgement("id", "ada", {"action": "warn", "why": "idle for 50 min"})
    asyncio.run(Mailer(("/bin/sh", "-c", f"echo $0 > {box}; cat >> {box}", "{user}@lab")).tell(judgement))
    assert box.read_text().startswith("ada@lab\nTo: ada\nSubject: Your GPU session is idle\n")
    asyncio.run(Mailer(("/nonexistent",)).tell(judgement))  # is logged, and nothing waits for it
