"""What may be parked, where it comes back, and why not: the pure part, and the kernel's files about memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from timeshare.reservations.agent.hostmemory import HostMemory, Limit
from timeshare.reservations.agent.parkplan import (
    Holder,
    Impossible,
    Room,
    Sight,
    gpu_map,
    holders,
    shortage,
    too_little,
)
from timeshare.reservations.devices.model import DeviceProcess


def holder(memory: dict[str, int], visible: str = "") -> Holder:
    """Of devices with names of one letter; ``visible``: beside those on which it holds something."""
    devices = tuple(memory)
    return Holder(1, 1, memory, devices, (*devices, *visible))


def sight(devices: str, beside: str = "") -> Sight:
    return Sight(tuple(devices), (*devices, *beside))


def test_the_memory_of_a_process_is_counted_over_its_devices_and_others_are_left_out() -> None:
    seen = [DeviceProcess(7, "A", 100), DeviceProcess(7, "B", 20), DeviceProcess(8, "A", 5), DeviceProcess(9, "A", 1)]
    found = holders(seen, {7, 8, 10}, lambda pid: pid * 10 if pid == 7 else None)  # 8 has just ended
    assert found == (Holder(7, 70, {"A": 100, "B": 20}),)
    assert found[0].mib == 120


def test_mig_and_unknown_memory_cannot_be_parked() -> None:
    with pytest.raises(Impossible, match="a MIG instance cannot be parked"):
        holders([DeviceProcess(7, "A", 100, "MIG-1")], {7}, lambda _: 1)
    with pytest.raises(Impossible, match="does not say how much GPU memory process 7 holds"):
        holders([DeviceProcess(7, "A", None)], {7}, lambda _: 1)


@pytest.mark.parametrize(
    ("room", "said"),
    [
        (Room(0, 0, 10**6, ()), "set no memory of the node aside"),
        (Room(10240, 8192, 10**6, ()), "4.0 GiB of GPU memory would have to be kept, and of the 10.0 GiB set aside"),
        (Room(10240, 0, 5000, ()), "the node has 4.9 GiB left, of which 2.0 GiB stay free"),
        (Room(10240, 0, None, ()), "nobody knows how much memory the node has left"),
        (Room(10240, 0, 10**6, [(Limit("/g", 8192, 5000), 4096)]), "may use 8.0 GiB of the node's memory and uses 4.9"),
    ],
)
def test_too_little_memory_of_the_node_is_told_with_both_numbers(room: Room, said: str) -> None:
    assert said in shortage(4096, room)


def test_memory_that_is_there_is_taken_up_to_its_last_gib() -> None:
    limits = [(Limit("/g", 8192, 4096), 4096)]
    assert shortage(4096, Room(4096, 0, 4096 + 2048, limits)) == ""
    assert shortage(4097, Room(4096, 0, 10**6, ())) != ""


def test_a_device_is_exchanged_for_another_and_those_in_both_shares_stay() -> None:
    behind_a_filter = holder({"A": 1, "B": 2})
    assert gpu_map(behind_a_filter, sight("CB")) == {"A": "C", "B": "B"}
    assert gpu_map(behind_a_filter, sight("BA")) == {}  # all where they were
    moved = behind_a_filter.at(sight("CB"))
    assert moved.memory == {"C": 1, "B": 2}
    assert gpu_map(moved, sight("AB")) == {"C": "A", "B": "B"}


def test_without_a_filter_the_map_names_every_device_once() -> None:
    found = gpu_map(holder({"A": 1}, "BC"), sight("B", "AC"))
    assert found["A"] == "B"
    assert set(found) == set(found.values()) == {"A", "B", "C"}


def test_a_share_of_another_size_takes_nothing_back() -> None:
    with pytest.raises(Impossible, match="it held 2 GPUs and would get 1"):
        gpu_map(holder({"A": 1, "B": 1}), sight("C"))


def test_a_device_must_have_what_comes_back_and_a_margin() -> None:
    small, large = holder({"A": 1000}), holder({"A": 39000})
    assert too_little([small], sight("B"), {"A": 0, "B": 1512}) == ""
    assert "needs 1.5 GiB on its GPU, and 1.5 GiB are free" in too_little([small], sight("B"), {"B": 1511})
    assert too_little([large], sight("A"), {"A": 40950}) == ""  # 5 % more
    assert too_little([large], sight("A"), {"A": 40949}) != ""
    assert too_little([small, small], sight("A"), {"A": 2511}) != ""  # together
    assert "nobody knows" in too_little([small], sight("B"), {"A": 5000})


def files(root: Path, **texts: str) -> None:
    for name, text in texts.items():
        place = root / name.replace("__", "/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)


MIB = 1024 * 1024


def test_limits_of_every_cgroup_above_a_process_are_read(tmp_path: Path) -> None:
    v2, v1 = tmp_path / "sys/two", tmp_path / "sys/one"
    files(
        tmp_path,
        proc__mounts="a /sys/two cgroup2 rw 0 0\nb /sys/one cgroup rw,memory 0 0\nc /sys/cpu cgroup rw,cpu 0 0\n",
        proc__7__cgroup="4:cpu,cpuacct:/x\n2:memory:/low\n0::/high/inner\n",
        proc__meminfo=f"MemTotal: 1 kB\nMemAvailable: {5 * 1024} kB\n",
    )
    (v2 / "high/inner").mkdir(parents=True)
    (v2 / "high/inner/memory.max").write_text("max\n")
    (v2 / "high/inner/memory.current").write_text("1\n")
    (v2 / "high/memory.max").write_text(f"{100 * MIB}\n")
    (v2 / "high/memory.current").write_text(f"{60 * MIB}\n")
    (v2 / "high/memory.stat").write_text(f"anon 1\ninactive_file {20 * MIB}\n")
    (v1 / "low").mkdir(parents=True)
    (v1 / "low/memory.limit_in_bytes").write_text(f"{50 * MIB}\n")
    (v1 / "low/memory.usage_in_bytes").write_text(f"{10 * MIB}\n")
    (v1 / "memory.limit_in_bytes").write_text("9223372036854771712\n")  # how version 1 says that there is none
    (v1 / "memory.usage_in_bytes").write_text("1\n")
    host = HostMemory(tmp_path)
    assert {(limit.limit_mib, limit.used_mib) for limit in host.limits(7)} == {(100, 40), (50, 10)}
    assert host.available_mib() == 5


def test_this_machine_says_what_it_has() -> None:
    assert (HostMemory().available_mib() or 0) > 0
    assert all(limit.limit_mib > 0 for limit in HostMemory().limits(1))
