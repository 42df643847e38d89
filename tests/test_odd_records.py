"""One odd record, row, line or entry never takes the others along: what agents tell, and what lies on disk."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from nodes import Node, eventually, running_node
from pools import Lab, mig_device, pool

from timeshare.notebooks.runner import oom_kills as runner
from timeshare.reservations.agent.client import AgentError
from timeshare.reservations.agent.events import Events
from timeshare.reservations.agent.hostmemory import HostMemory
from timeshare.reservations.clock import read_boot_id
from timeshare.reservations.devices.model import Inventory
from timeshare.reservations.engines.agent_json import read_events, read_inventory, read_readings, read_sessions
from timeshare.reservations.engines.base import EngineUnknown, SessionState
from timeshare.reservations.reservation import Reason

ODD: list[Any] = [None, 7, "x", [], {}, {"uuid": 3}, {"reservation_id": "r"}]
SLEEP = ["sleep", "300"]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with running_node(tmp_path) as node:
        yield node


@given(st.lists(st.sampled_from(ODD), max_size=3), st.integers(0, 2))
def test_devices_that_an_agent_tells_are_read_one_by_one(odd: list[Any], place: int) -> None:
    devices = (*pool("a100", "t4"), mig_device("1g.5gb", "2g.10gb", order=2))
    told = asdict(Inventory(devices, "570", "12.8"))
    told["devices"] = json.loads(json.dumps(told["devices"]))
    told["devices"][place:place] = odd
    assert read_inventory(told).devices == devices


def test_a_device_of_which_not_all_is_understood_is_out_of_service_with_its_name() -> None:
    told = json.loads(json.dumps(asdict(Inventory(pool("a100", "t4")))))
    told["devices"][0]["memory_mib"] = "40 GB"
    told["devices"][1]["later"] = "a field of another release"
    first, second = read_inventory(told).devices
    assert (first.uuid, first.memory_mib) == ("GPU-0", 0)
    assert "what its node tells of it is not understood" in str(first.cordoned)
    assert second == pool("a100", "t4")[1]
    with pytest.raises(EngineUnknown):
        read_inventory({"devices": "none"})


def test_sessions_that_an_agent_tells_are_never_taken_for_gone() -> None:
    well = {"reservation_id": "a", "generation": 1, "state": "running", "exit_code": None, "message": ""}
    odd = {**well, "reservation_id": "b", "state": "dreaming"}
    assert [(s.reservation_id, s.state) for s in read_sessions([well, odd])] == [
        ("a", SessionState.RUNNING),
        ("b", SessionState.UNKNOWN),
    ]
    with pytest.raises(EngineUnknown):
        read_sessions([well, {"state": "running"}])


def test_readings_and_events_are_read_one_by_one() -> None:
    reading = {"reservation_id": "a", "generation": 1, "gpu": None, "cpu": 1.0, "memory_mib": 5}
    assert [one.reservation_id for one in read_readings([{}, reading, None, {**reading, "new": 1}])] == ["a", "a"]
    event = {"seq": 3, "kind": "health", "message": "m", "device_uuid": "GPU-0", "reservation_id": None, "cordon": True}
    assert [one.seq for one in read_events([event, {"seq": "x"}, 5])] == [3]


def test_a_damaged_record_of_one_session_leaves_the_watchdog_and_the_readings_of_others(node: Node) -> None:
    broken, greedy = sorted([str(uuid.uuid4()), str(uuid.uuid4())])
    for name in (broken, greedy):
        node.launch(*SLEEP, reservation_id=name)
    place = Path(node.deployment.state_dir) / "agent" / "sessions" / f"{broken}.1" / "gate.json"
    place.write_text("{")
    pids = {name: node.session(name)["pid"] for name in (greedy,)}
    told = [{"pid": pids[greedy], "device": "GPU-simulated-0000", "memory_mib": 20_480}]
    eventually(lambda: greedy in {row["reservation_id"] for row in node.ask("activity", window_s=10)})
    node.driver_tells(processes=told)
    eventually(lambda: node.state(greedy) == "exited")
    place.unlink()


def test_the_watchdog_goes_on_for_healthy_devices_while_another_is_lost(node: Node) -> None:
    greedy = node.launch(*SLEEP)
    used = [{"pid": node.session(greedy)["pid"], "device": "GPU-simulated-0000", "memory_mib": 20_480}]
    node.driver_tells(processes=used, lost={"GPU-elsewhere": "it is lost"})
    eventually(lambda: node.state(greedy) == "exited")


def test_of_a_session_on_a_lost_device_nothing_is_known_and_it_keeps_the_device(node: Node) -> None:
    name = node.launch(*SLEEP)
    node.driver_tells(lost={"GPU-simulated-0000": "it is lost"})
    eventually(lambda: node.ask("inventory")["devices"][0]["cordoned"] == "it is lost")

    def reading() -> Any:
        rows = (row for row in node.ask("activity", window_s=5) if row["reservation_id"] == name)
        return next(rows, {"gpu": 0})

    eventually(lambda: reading()["gpu"] is None and reading()["memory_mib"] is None)
    with pytest.raises(AgentError, match="does not say who uses GPU-simulated-0000") as refused:
        node.ask("release", reservation_id=name, generation=1, save_grace_s=0, term_grace_s=0)
    assert refused.value.reason == "unknown"
    node.driver_tells()
    eventually(
        lambda: node.ask("release", reservation_id=name, generation=1, save_grace_s=0, term_grace_s=0)["released"]
    )


def test_an_event_on_disk_that_is_none_takes_no_other_along(tmp_path: Path) -> None:
    events = Events(tmp_path / "events.json")
    events.add("health", "bad")
    kept = json.loads((tmp_path / "events.json").read_text())["events"]
    told = {"boot_id": read_boot_id(), "events": [{"seq": "x"}, *kept, 7, {}]}
    (tmp_path / "events.json").write_text(json.dumps(told))
    assert Events(tmp_path / "events.json").after(0) == kept


def test_an_ended_reservation_that_is_not_understood_leaves_the_history_readable(tmp_path: Path) -> None:
    lab = Lab(tmp_path, {}, "a100")
    ids = []
    for owner in ("ada", "bob"):
        reservation = lab.ask(owner)
        ids.append(reservation.id)
        lab.pool.end(reservation.id, Reason.COMPLETED, "")
    with sa.create_engine(f"sqlite:///{tmp_path}/ledger.sqlite").begin() as other:
        other.execute(sa.text('UPDATE reservations SET share = \'{"gpus": "many"}\' WHERE id = :id'), {"id": ids[0]})
    assert [r.id for r in lab.pool.find(None, (), 10)] == [ids[1]]


def test_odd_lines_of_the_kernels_files_are_passed_over(tmp_path: Path) -> None:
    files = {
        "proc/mounts": "odd\ncgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n",
        "proc/7/cgroup": "odd\n0::/a\n",
        "proc/self/cgroup": "odd\n0::/a\n",
        "sys/fs/cgroup/a/memory.max": "1048576\n",
        "sys/fs/cgroup/a/memory.current": "0\n",
        "sys/fs/cgroup/a/memory.events": "oom_kill\noom_kill x\noom_kill 3\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert [limit.limit_mib for limit in HostMemory(tmp_path).limits(7)] == [1]
    assert runner.oom_kills(tmp_path).number == 3


BROKEN = ["", "{", "[]", "7", "null", "{}", '{"x": 1}', "[" * 100_000, '{"pid": ' + "9" * 5000 + "}", "\x00\xff"]
RECORDS = ("order.json", "shim.json", "gate.json", "exit.json")


def test_whatever_stands_in_the_records_of_one_session_others_are_told_and_ended(node: Node) -> None:
    broken, other = node.launch(*SLEEP), node.launch(*SLEEP, share=[])
    folder = Path(node.deployment.state_dir) / "agent" / "sessions" / f"{broken}.1"
    for name in RECORDS:
        before = (folder / name).read_bytes() if (folder / name).exists() else None
        for text in BROKEN:
            (folder / name).write_bytes(text.encode("latin-1"))
            told = {session["reservation_id"]: session["state"] for session in node.ask("sessions")}
            assert told[other] == "running", (name, text[:20])
            assert told[broken] in ("unknown", "running"), (name, text[:20])
        if before is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(before)
    node.kill()
    (folder / "shim.json").write_text("[]")
    node.start()
    assert node.state(other) == "running"
    assert node.state(broken) == "unknown"
    assert node.stop(other) in ("stopping", "exited")
    eventually(lambda: node.state(other) == "exited")


@pytest.mark.parametrize("text", ["{", "null", "{}"])
def test_a_damaged_tombstone_is_written_anew_by_the_next_stop(node: Node, text: str) -> None:
    name = node.launch(*SLEEP)
    (Path(node.deployment.state_dir) / "agent" / "stops" / f"{name}.json").write_bytes(text.encode("latin-1"))
    node.stop(name)
    eventually(lambda: node.state(name) == "exited")
