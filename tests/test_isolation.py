"""Device filters for real: sessions that try to open stand-in device files under every way that works here.

The stand-ins are memory devices under other names in a folder of the test, since no GPU is needed to be refused one.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from nodes import eventually, marked, order

from timeshare.reservations.agent import exchange as exchange_module
from timeshare.reservations.agent.bpf import device_program
from timeshare.reservations.agent.events import Events
from timeshare.reservations.agent.exchange import Exchange, Graces, can_exchange
from timeshare.reservations.agent.handover import Hidden
from timeshare.reservations.agent.isolation import Rule, Way, gpu_majors, probe, ways
from timeshare.reservations.agent.park import Parker
from timeshare.reservations.agent.records import SharePart
from timeshare.reservations.agent.refusals import Refused
from timeshare.reservations.agent.server import parse_order
from timeshare.reservations.agent.sessions import Sessions
from timeshare.reservations.agent.sight import sight_of
from timeshare.reservations.agent.stopping import StopOrder, Stops
from timeshare.reservations.devices.checkpoint import CudaCheckpointer
from timeshare.reservations.devices.model import (
    Device,
    DeviceError,
    DeviceProcess,
    DeviceUse,
    HealthEvent,
    Inventory,
)
from timeshare.reservations.devices.nodes import Node, gpu_nodes

MEM = 1
FULL, ZERO, RANDOM = (MEM, 7), (MEM, 5), (MEM, 8)
DEVICES = tuple(Device(f"GPU-{minor}", "a100-40gb", 40960, order=minor, minor=minor) for minor in (0, 1))
TRY_ALL = """
import json, sys
seen = {}
for path in sys.argv[2:]:
    try:
        with open(path, "rb") as file:
            seen[path.rpartition("/")[2]] = bool(file.read(1))
    except OSError:
        seen[path.rpartition("/")[2]] = False
json.dump(seen, open(sys.argv[1], "w"))
"""


def working() -> list[Way]:
    names = {found.name for found in probe() if found.works}
    return [way for way in ways() if way.name in names and way.name != "systemd"]


WORKING = working()


@pytest.fixture
def devices(tmp_path: Path) -> Path:
    """nvidia0, nvidia1 and nvidiactl, which give bytes to whoever may open them."""
    root = tmp_path / "dev"
    root.mkdir()
    for name, (major, minor) in (("nvidia0", FULL), ("nvidia1", ZERO), ("nvidiactl", RANDOM)):
        try:
            os.mknod(root / name, 0o666 | stat.S_IFCHR, os.makedev(major, minor))
        except PermissionError:
            pytest.skip("making device files needs root: the filters are not tried here")
        os.chmod(root / name, 0o666)
    return root


@pytest.fixture(params=WORKING, ids=lambda way: way.name)
def sessions(request: pytest.FixtureRequest, tmp_path: Path, devices: Path) -> Iterator[Sessions]:
    made = Sessions(tmp_path / "agent", request.param, False, devices)
    yield made
    stops = Stops(made)
    for record in made.records.all():
        stops.stop(record.reservation_id, StopOrder(False, 0, 0))
        eventually(lambda name=record.reservation_id: (stops.advance(), has_ended(made, name))[1])
        made.forget(record.reservation_id, record.generation)
    made.reap()


def has_ended(sessions: Sessions, name: str) -> bool:
    """Nothing of it runs, and its launcher has let go of its lock too."""
    return marked(name) == [] and all(s.state == "exited" for s in sessions.all() if s.reservation_id == name)


def inventory() -> Inventory:
    return Inventory(DEVICES, driver="1", cuda="1")


def held(*minors: int, whole: bool = True) -> list[dict[str, object]]:
    return [
        {"device_uuid": f"GPU-{minor}", "instance_uuid": "", "memory_mib": 40960, "compute": 1000, "whole": whole}
        for minor in minors
    ]


def launch(sessions: Sessions, *argv: str, **changes: object) -> tuple[str, str]:
    """The session's id and enforcement level."""
    name = str(uuid.uuid4())
    told = sessions.launch(
        parse_order(order(name, list(argv), **changes), False), Hidden({"PATH": os.environ["PATH"]}), inventory
    )
    return name, told["enforcement"]


def seen(
    sessions: Sessions, devices: Path, tmp_path: Path, share: list[dict[str, object]]
) -> tuple[dict[str, bool], str]:
    out = tmp_path / "seen.json"
    paths = [str(devices / name) for name in ("nvidia0", "nvidia1", "nvidiactl")]
    name, level = launch(sessions, sys.executable, "-c", TRY_ALL, str(out), *paths, "/dev/null", share=share)
    eventually(lambda: marked(name) == [])
    return json.loads(out.read_text()), level


def test_this_machine_can_filter_devices_or_says_why_not() -> None:
    for found in probe():
        print(found)
        assert found.works != bool(found.advice)
        assert found.detail


def test_a_session_opens_its_own_device_and_no_other(sessions: Sessions, devices: Path, tmp_path: Path) -> None:
    can_open, level = seen(sessions, devices, tmp_path, held(1))
    assert can_open == {"nvidia0": False, "nvidia1": True, "nvidiactl": True, "null": False}
    assert level == "hardware"


def test_a_session_without_a_gpu_opens_none(sessions: Sessions, devices: Path, tmp_path: Path) -> None:
    can_open, level = seen(sessions, devices, tmp_path, [])
    assert not any(can_open.values())
    assert level == "none needed"


def test_a_session_with_all_devices_opens_all(sessions: Sessions, devices: Path, tmp_path: Path) -> None:
    can_open, _ = seen(sessions, devices, tmp_path, held(0, 1))
    assert can_open == {"nvidia0": True, "nvidia1": True, "nvidiactl": True, "null": False}


def test_a_filter_leaves_nothing_behind(sessions: Sessions) -> None:
    name, _ = launch(sessions, "sleep", "300", share=held(0))
    (record,) = sessions.records.of(name)
    folders = [Path(folder) for folder in record.order().filter.get("cgroups", ())]
    assert all(folder.is_dir() for folder in folders)
    stops = Stops(sessions)
    stops.stop(name, StopOrder(False, 0, 0))
    eventually(lambda: (stops.advance(), has_ended(sessions, name))[1])
    sessions.forget(name, 1)
    assert not any(folder.exists() for folder in folders)


def test_the_end_leaves_the_server_its_grace_under_every_filter(sessions: Sessions, tmp_path: Path) -> None:
    """A wrapper that dies of the first SIGTERM must not take the server with it."""
    ready, saved = tmp_path / "ready", tmp_path / "saved"
    program = f"""
import pathlib, signal, sys, time
def end(*_):
    time.sleep(1)
    pathlib.Path({str(saved)!r}).touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
pathlib.Path({str(ready)!r}).touch()
time.sleep(300)
"""
    name, _ = launch(sessions, sys.executable, "-c", program, share=held(0))
    eventually(ready.exists)
    stops = Stops(sessions)
    stops.stop(name, StopOrder(False, 0, 30))
    eventually(lambda: (stops.advance(), has_ended(sessions, name))[1])
    assert saved.exists()
    assert [session.exit_code for session in sessions.all()] == [0]


@pytest.mark.parametrize("way", [way for way in WORKING if way.name.startswith("cgroup")], ids=lambda way: way.name)
def test_a_device_file_that_is_made_later_stays_closed(way: Way, tmp_path: Path, devices: Path) -> None:
    """Denied is the kind, not only the files that exist: anybody may have nvidia-modprobe make more."""
    null, zero = Node("/dev/null", MEM, 3), Node("/dev/zero", *ZERO)
    key = f"test-{uuid.uuid4().hex[:8]}"
    filter_ = way.prepare(key, Rule([], [null, zero], frozenset({MEM})))
    late = devices / "late"
    os.mknod(late, 0o666 | stat.S_IFCHR, os.makedev(*FULL))
    answers = tmp_path / "answers"
    pid = os.fork()
    if pid == 0:
        try:
            for folder in filter_["cgroups"]:
                Path(folder, "cgroup.procs").write_text(str(os.getpid()))
            told = [os.access("/dev/zero", os.R_OK) and _opens("/dev/zero"), _opens(str(late))]
            answers.write_text(json.dumps(told))
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    way.clean(key)
    assert json.loads(answers.read_text()) == [True, False]


def _opens(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError:
        return False
    return True


def test_processes_that_shed_mark_and_launcher_are_found_by_their_cgroup(sessions: Sessions) -> None:
    if sessions.way is None or not sessions.way.name.startswith("cgroup"):
        pytest.skip("only cgroups know processes that have no mark and no launcher")
    name, _ = launch(sessions, "env", "-i", "/bin/sleep", "300", share=held(0))
    eventually(lambda: len(marked(name)) == 1)  # env has shed it
    os.kill(marked(name)[0], signal.SIGKILL)
    eventually(lambda: marked(name) == [])
    assert [session.state for session in sessions.all()] == ["running"]
    stops = Stops(sessions)
    assert stops.stop(name, StopOrder(False, 0, 0)) == "stopping"
    eventually(lambda: (stops.advance(), sessions.all()[0].state == "exited")[1])


LOOK_ON = """
import json, os, sys, time
subprocess_pid = os.fork()
while True:
    seen = {}
    for path in sys.argv[2:]:
        try:
            with open(path, "rb") as file:
                seen[path.rpartition("/")[2]] = bool(file.read(1))
        except OSError:
            seen[path.rpartition("/")[2]] = False
    name = f"{sys.argv[1]}.{0 if subprocess_pid else 1}"
    with open(name + ".new", "w") as file:
        json.dump(seen, file)
    os.replace(name + ".new", name)
    time.sleep(0.05)
"""


CHAIN = """
import os, pathlib, sys
if os.fork() == 0:
    while True:
        if os.fork():
            os._exit(0)
pathlib.Path(sys.argv[1]).touch()
while True:
    os.wait()
"""


class Holders:
    """What the driver tells: the inventory, and who holds GPU memory."""

    def __init__(self) -> None:
        self.pids: list[int] = []

    def inventory(self) -> Inventory:
        return inventory()

    def processes(self) -> tuple[DeviceProcess, ...]:
        return tuple(DeviceProcess(pid, "GPU-1", 100) for pid in self.pids)

    def free_mib(self) -> Mapping[str, int]:
        return {}

    def use(self) -> tuple[DeviceUse, ...]:
        return ()

    def health_events(self) -> tuple[HealthEvent, ...]:
        return ()

    def close(self) -> None:
        """Nothing is held."""


def exchange_of(sessions: Sessions, driver: Holders) -> Exchange:
    events = Events(sessions.records.root / "events.json")
    return Exchange(sessions, driver, Parker(sessions, driver, CudaCheckpointer(), events))


def test_devices_are_taken_from_a_running_session_and_others_given_to_it(
    sessions: Sessions, devices: Path, tmp_path: Path
) -> None:
    out = tmp_path / "seen"
    paths = [str(devices / name) for name in ("nvidia0", "nvidia1")]
    name, _ = launch(sessions, sys.executable, "-c", LOOK_ON, str(out), *paths, share=held(1))

    def sees(zero: bool, one: bool) -> bool:
        """Parent and child alike."""
        told = [Path(f"{out}.{n}") for n in (0, 1)]
        return all(p.exists() and json.loads(p.read_text()) == {"nvidia0": zero, "nvidia1": one} for p in told)

    eventually(lambda: sees(False, True))
    driver = Holders()
    exchange = exchange_of(sessions, driver)
    (record,) = sessions.records.of(name)
    if not can_exchange(sessions.way, False):
        with pytest.raises(Refused, match="cannot be changed while it runs"):
            exchange.release(record, Graces(1, 1))
        return
    assert exchange.release(record, Graces(1, 1)) is True
    eventually(lambda: sees(False, False))
    assert len(sessions.members.of(record)) == 2  # they are still known, in their new cgroup too
    exchange.resume(record, (SharePart("GPU-0", "", 40960, 1000, True),))
    eventually(lambda: sees(True, False))
    exchange.resume(record, (SharePart("GPU-0", "", 40960, 1000, True),))  # asked twice, done once
    assert len(record.gate().filter["cgroups"]) == 1
    assert all(not folder.exists() for folder in record.older_cgroups())


@pytest.mark.parametrize("listed", ["", "0\n"])
def test_a_list_of_pids_is_no_proof_that_nothing_is_left_behind_an_old_filter(tmp_path: Path, listed: str) -> None:
    """The kernel lists 0 for what ends meanwhile, and takes 0 for whoever writes it: the agent."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cgroup.procs").write_text(listed)  # the folder stays, as that of a group does
    (tmp_path / "new" / "cgroup.procs").write_text("")
    with pytest.raises(Refused, match="born faster than they can be moved"):
        exchange_module._move(tmp_path / "old", tmp_path / "new")
    assert (tmp_path / "new" / "cgroup.procs").read_text() == ""


def test_a_chain_of_forks_gets_behind_the_new_filter(sessions: Sessions, tmp_path: Path) -> None:
    if not can_exchange(sessions.way, False):
        pytest.skip("this filter is fixed when a session starts: it is stopped instead")
    name, _ = launch(sessions, sys.executable, "-c", CHAIN, str(tmp_path / "begun"), share=held(1))
    eventually((tmp_path / "begun").exists)
    (record,) = sessions.records.of(name)
    assert exchange_of(sessions, Holders()).release(record, Graces(1, 1)) is True
    assert all(not folder.exists() for folder in record.older_cgroups())


def test_what_still_uses_a_device_is_ended_before_it_counts_as_free(
    sessions: Sessions, devices: Path, tmp_path: Path
) -> None:
    if not can_exchange(sessions.way, False):
        pytest.skip("this filter is fixed when a session starts: it is stopped instead")
    name, _ = launch(sessions, sys.executable, "-c", "import os, time\nos.fork()\ntime.sleep(600)", share=held(1))
    (record,) = sessions.records.of(name)

    def own() -> set[int]:
        return sessions.members.of(record)

    eventually(lambda: len(own()) == 2)
    user = max(own())
    driver = Holders()
    driver.pids = [user]
    exchange = exchange_of(sessions, driver)
    assert exchange.release(record, Graces(0.2, 0.2)) is False

    def ended() -> bool:
        exchange.release(record, Graces(0.2, 0.2))
        return user not in own()

    eventually(ended)
    driver.pids = []
    assert exchange.release(record, Graces(0.2, 0.2)) is True
    assert len(own()) == 1


def test_a_device_that_is_gone_is_not_launched_on(tmp_path: Path, devices: Path) -> None:
    order_ = parse_order(order(str(uuid.uuid4()), ["true"], share=held(7)), False)
    with pytest.raises(Refused, match="GPU-7 is not on this machine any more"):
        sight_of(order_, inventory(), devices, False)


def test_a_session_without_a_gpu_starts_while_the_driver_does_not_answer(tmp_path: Path, devices: Path) -> None:
    def broken() -> Inventory:
        raise DeviceError("no answer")

    made = Sessions(tmp_path / "agent", None, False, devices)
    name = str(uuid.uuid4())
    told = made.launch(
        parse_order(order(name, ["true"], share=[]), False), Hidden({"PATH": os.environ["PATH"]}), broken
    )
    assert told["enforcement"] == "cooperative"  # without a filter it sees GPUs that it does not hold
    eventually(lambda: made.all()[0].state == "exited" and marked(name) == [])
    made.reap()


def test_fractions_and_unfiltered_devices_are_not_called_hardware(devices: Path) -> None:
    fraction = parse_order(order("a", ["true"], share=held(0, whole=False)), False)
    assert sight_of(fraction, inventory(), devices, False).enforcement(None, {}) == "watchdog"
    whole = parse_order(order("a", ["true"], share=held(0)), False)
    assert sight_of(whole, inventory(), devices, False).enforcement(None, {}) == "cooperative"


def test_kinds_of_gpu_files_are_read_from_the_kernels_list() -> None:
    listing = (
        "Character devices:\n  1 mem\n195 nvidia\n195 nvidiactl\n236 nvidia-caps\n511 nvidia-uvm\n\nBlock devices:\n"
    )
    assert gpu_majors(listing) == {195, 236}


def test_the_filter_program_has_whole_instructions() -> None:
    assert len(device_program([(195, 0)], [(195, 1)], [195])) % 8 == 0


def test_stand_ins_are_seen_as_gpu_files(devices: Path) -> None:
    assert [Path(node.path).name for node in gpu_nodes(devices)] == ["nvidia0", "nvidia1", "nvidiactl"]
