"""Parking over a real agent and real processes. Only the driver is simulated: it shows a process on a device or not."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nodes import Node, eventually, order, part, running_node
from parked_sessions import GPU, SERVER, SPEC, Driver, children, lives

from timeshare.reservations.agent.client import AgentError
from timeshare.reservations.agent.events import Events
from timeshare.reservations.agent.exchange import Exchange, Graces
from timeshare.reservations.agent.handover import Hidden
from timeshare.reservations.agent.park import Parker
from timeshare.reservations.agent.quieting import Quieting
from timeshare.reservations.agent.records import Record, SharePart
from timeshare.reservations.agent.refusals import Refused
from timeshare.reservations.agent.server import parse_order
from timeshare.reservations.agent.sessions import Sessions
from timeshare.reservations.agent.stopping import StopOrder, Stops
from timeshare.reservations.devices.model import DeviceProcess
from timeshare.reservations.devices.simulated import SimulatedSource
from timeshare.reservations.devices.simulated_checkpoint import SimulatedCheckpointer

POOL = 10_000


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with running_node(tmp_path, simulate=SPEC) as found:
        yield found


def ignores_interrupts(pid: int) -> bool:
    (ignored,) = re.findall(r"^SigIgn:\t(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(ignored, 16) & 1 << signal.SIGINT - 1)


class Parkable:
    """A session on a real agent, with two kernels."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.driver = Driver(node.faults)
        self.id = node.launch(*SERVER, share=[part(40960, True)])
        self.server = int(node.session(self.id)["pid"])
        self.kernels = eventually(lambda: found if len(found := children(self.server)) == 2 else None)
        eventually(lambda: all(ignores_interrupts(pid) for pid in self.kernels))  # they have begun
        self.folder = Path(node.deployment.state_dir) / "agent" / "sessions" / f"{self.id}.1"

    def park(self, pool: int = POOL) -> int:
        """MiB that are kept, once it is done."""
        told: dict[str, Any] = eventually(lambda: answer if (answer := self.step(pool))["released"] else None, 30)
        return int(told["kept_mib"])

    def step(self, pool: int = POOL) -> dict[str, Any]:
        told: dict[str, Any] = self.node.ask(
            "release",
            reservation_id=self.id,
            generation=1,
            save_grace_s=0.2,
            term_grace_s=0.2,
            park=True,
            park_memory_mib=pool,
        )
        return told

    def give_back(self) -> bool:
        graces = {"save_grace_s": 0.3, "term_grace_s": 0.3}
        return bool(self.node.ask("release", reservation_id=self.id, generation=1, **graces)["released"])

    def resume(self, device: str = GPU[0]) -> None:
        share = [part(40960, True, device)]
        asked = {"reservation_id": self.id, "generation": 1, "share": share}
        eventually(lambda: self.node.ask("resume", **asked)["resumed"], 30)

    def gate(self) -> Any:
        place = self.folder / "gate.json"
        return json.loads(place.read_text())["share"] if place.exists() else "as it began"

    def refused(self, pool: int = POOL) -> str:
        with pytest.raises(AgentError) as told:
            self.park(pool)
        assert told.value.reason == "failed", told.value
        return str(told.value)

    def untouched(self) -> None:
        """It has its device, and its kernels use it, as if nothing had been tried."""
        assert all(lives(pid) for pid in self.kernels)
        assert set(self.driver.states().values()) <= {"running"}
        assert not (self.folder / "parked.json").exists()
        assert self.gate() != []


@pytest.fixture
def session(node: Node) -> Parkable:
    made = Parkable(node)
    for pid, size in zip(made.kernels, (3000, 500), strict=True):
        made.driver.hold(pid, size)
    return made


def test_what_kernels_hold_is_kept_and_comes_back_on_another_device_while_others_use_the_first(
    session: Parkable,
) -> None:
    assert session.park() == 3500
    assert session.driver.on_gpus() == {}
    assert set(session.driver.states().values()) == {"checkpointed"}
    assert all(lives(pid) for pid in session.kernels)
    assert session.gate() == []
    assert session.park() == 3500  # asked again: nothing changes
    other = session.node.launch("sleep", "300", share=[part(40960, True)])
    neighbour = int(session.node.session(other)["pid"])
    session.driver.hold(neighbour, 39000)
    session.resume(GPU[1])
    assert session.driver.on_gpus() == {neighbour: GPU[0], **dict.fromkeys(session.kernels, GPU[1])}
    assert set(session.driver.states().values()) == {"running"}
    assert not (session.folder / "parked.json").exists()


def test_it_may_be_parked_and_moved_over_and_over(session: Parkable) -> None:
    for device in (GPU[1], GPU[2], GPU[0], GPU[0]):
        assert session.park() == 3500
        session.resume(device)
        assert set(session.driver.on_gpus().values()) == {device}


def test_activity_tells_how_much_is_kept_and_less_once_a_kernel_has_ended(session: Parkable) -> None:
    session.park()

    def kept() -> int:
        (row,) = session.node.ask("activity", window_s=10) or [{"kept_mib": -1}]
        return int(row["kept_mib"])

    eventually(lambda: kept() == 3500)
    os.kill(session.kernels[0], signal.SIGKILL)
    eventually(lambda: kept() == 500)
    session.resume(GPU[1])  # of the other one
    assert session.driver.on_gpus()[session.kernels[1]] == GPU[1]


def test_without_gpu_memory_there_is_nothing_to_keep(node: Node) -> None:
    session = Parkable(node)
    assert session.park() == 0
    assert session.gate() == []
    assert session.driver.states() == {}


def test_it_comes_back_only_where_there_is_room_and_is_not_tried_before(session: Parkable) -> None:
    session.park()
    session.driver.hold(1, 39000, GPU[1])  # somebody uses more than she holds
    for _ in range(2):
        with pytest.raises(AgentError) as told:
            session.resume(GPU[1])
        assert told.value.reason == "not-yet"
        assert "what was kept needs 3.9 GiB on its GPU, and 1.9 GiB are free there" in str(told.value)
        assert set(session.driver.states().values()) == {"checkpointed"}
    session.driver.drop(1)
    session.resume(GPU[1])
    assert set(session.driver.on_gpus().values()) == {GPU[1]}


def test_each_reason_not_to_park_is_told_before_anything_is_touched(session: Parkable) -> None:
    kernel = session.kernels[0]
    assert "parking.host_memory_gib" in session.refused(0)
    assert "3.4 GiB of GPU memory would have to be kept, and of the 2.9 GiB set aside" in session.refused(3000)
    session.driver.tell(unavailable="the package cuda-core is not installed")
    assert session.refused() == "the package cuda-core is not installed"
    session.driver.tell(failed=[kernel])
    assert f"the driver has lost the GPU state of process {kernel} (python" in session.refused()
    session.driver.tell()
    session.driver.hold(kernel, None, GPU[1])
    assert f"does not say how much GPU memory process {kernel} holds" in session.refused()
    session.driver.drop(kernel)
    session.driver.hold(kernel, 10, GPU[1], instance="MIG-simulated-0001-0")
    assert "a MIG instance cannot be parked" in session.refused()
    session.driver.drop(kernel)
    session.driver.hold(kernel, 10**8)
    assert "and the node has" in session.refused(10**9)
    session.untouched()
    assert session.driver.states() == {}


def test_what_is_parked_of_all_sessions_shares_the_memory_set_aside(session: Parkable) -> None:
    session.park(6000)
    other = Parkable(session.node)
    other.driver = session.driver
    other.driver.hold(other.kernels[0], 3000)
    assert "of the 5.9 GiB set aside for it 2.4 GiB are left" in other.refused(6000)
    assert other.driver.on_gpus()[other.kernels[0]] == GPU[0]


def test_a_limit_on_the_memory_of_its_cgroup_is_kept(session: Parkable) -> None:
    group = Path("/sys/fs/cgroup/memory") / f"timeshare-test-{uuid.uuid4().hex[:8]}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(1000 * 1024 * 1024))
        (group / "cgroup.procs").write_text(str(session.kernels[0]))
    except OSError as error:
        pytest.skip(f"no memory cgroup of version 1 can be made here ({error.strerror}): its files are read elsewhere")
    try:
        assert "the session may use 1.0 GiB of the node's memory" in session.refused()
        session.untouched()
    finally:
        (group.parent / "cgroup.procs").write_text(str(session.kernels[0]))
        group.rmdir()


@pytest.mark.parametrize("step", ["lock", "checkpoint"])
def test_a_failure_in_the_middle_is_undone(session: Parkable, step: str) -> None:
    last = max(session.kernels)
    session.driver.tell(**{step: [last]})
    assert f"process {last}: {step}: refused" in session.refused()
    session.untouched()
    assert set(session.driver.on_gpus().values()) == {GPU[0]}
    session.driver.tell()
    assert session.park() == 3500


def test_what_an_undo_cannot_bring_back_is_told_to_its_owner(session: Parkable) -> None:
    first, last = sorted(session.kernels)
    session.driver.tell(checkpoint=[last], restore=[first])
    assert f"could not bring back the GPU state of process {first}" in session.refused()
    told = [event for event in session.node.ask("events", after=0) if event["kind"] == "parking"]
    assert [event["reservation_id"] for event in told] == [session.id]
    assert "restart its kernel" in told[0]["message"]
    assert session.driver.states() == {first: "checkpointed", last: "running"}


def test_a_restore_that_fails_leaves_all_of_it_parked_and_is_not_repeated_by_itself(session: Parkable) -> None:
    session.park()
    first, last = sorted(session.kernels)
    session.driver.tell(restore=[last])
    session.resume(GPU[1])  # it has its device, and new kernels can use it
    assert session.driver.states() == {first: "checkpointed", last: "checkpointed"}
    (told,) = [event for event in session.node.ask("events", after=0) if event["kind"] == "parking"]
    assert f"process {last}: restore: refused" in told["message"]
    session.driver.tell()
    assert session.park() == 3500
    session.resume(GPU[2])
    assert set(session.driver.on_gpus().values()) == {GPU[2]}


def test_an_agent_that_is_killed_while_it_parks_goes_on(session: Parkable) -> None:
    session.driver.tell(delay_s=0.5)
    for wait in (0.2, 0.7, 1.2, 1.7):
        _begin(session)
        time.sleep(wait)
        session.node.kill()
        session.node.start()
    assert session.park() == 3500
    session.driver.tell()
    session.resume()
    assert session.driver.on_gpus() == dict.fromkeys(session.kernels, GPU[0])


def _begin(session: Parkable) -> None:
    """Asks, without waiting for the answer."""
    if os.fork() == 0:
        with contextlib.suppress(BaseException):
            session.step()
        os._exit(0)


def test_a_parked_session_is_stopped_like_any_other(session: Parkable) -> None:
    session.park()
    session.node.stop(session.id)
    eventually(lambda: session.node.state(session.id) == "exited", 30)
    assert not any(lives(pid) for pid in session.kernels)
    assert set(session.driver.states().values()) == {"checkpointed"}  # they were killed as they were


def test_what_was_restored_is_taken_off_its_device_before_it_is_killed(session: Parkable) -> None:
    session.park()
    session.resume(GPU[1])
    session.node.stop(session.id)
    eventually(lambda: session.node.state(session.id) == "exited", 30)
    assert set(session.driver.states().values()) == {"checkpointed"}


def test_a_stop_comes_even_if_the_driver_refuses(session: Parkable) -> None:
    session.park()
    session.resume(GPU[1])
    session.driver.tell(lock=session.kernels)
    session.node.stop(session.id)
    eventually(lambda: session.node.state(session.id) == "exited", 30)
    assert not any(lives(pid) for pid in session.kernels)


def test_a_stop_meanwhile_waits_for_what_the_driver_is_doing(session: Parkable) -> None:
    session.driver.tell(delay_s=0.7)
    _begin(session)
    eventually(lambda: {"locked", "checkpointed"} & set(session.driver.states().values()))
    session.node.stop(session.id)
    eventually(lambda: session.node.state(session.id) == "exited", 30)
    assert set(session.driver.states().values()) == {"checkpointed"}


def test_giving_back_ends_what_was_restored_only_when_it_is_off_its_device(session: Parkable) -> None:
    session.park()
    session.resume(GPU[1])

    def given_back() -> bool:
        for pid in [pid for pid in session.driver.on_gpus() if not lives(pid)]:
            session.driver.drop(pid)
        return session.give_back()

    eventually(given_back, 30)
    assert not any(lives(pid) for pid in session.kernels)
    assert lives(session.server)
    assert set(session.driver.states().values()) == {"checkpointed"}


# --- in this process: an agent that is killed between any two steps


class Place:
    """What an agent is made of, over the same records; a new one is an agent that was started again."""

    def __init__(self, root: Path, spec: str = SPEC) -> None:
        self.root = root
        self.driver = Driver(root / "faults.json")
        self.sessions = Sessions(root / "agent", None, True)
        self.source = SimulatedSource(spec, self.driver.place)

    def exchange(self, checkpointer: SimulatedCheckpointer | None = None) -> Exchange:
        used = checkpointer or SimulatedCheckpointer(self.source)
        events = Events(self.sessions.records.root / "events.json")
        self.parker = Parker(self.sessions, self.source, used, events)
        return Exchange(self.sessions, self.source, self.parker)

    def launch(self) -> Record:
        name = str(uuid.uuid4())
        asked = parse_order(order(name, list(SERVER), share=[part(40960, True)]), False)
        hidden = Hidden({"PATH": os.environ["PATH"]})
        self.server = int(self.sessions.launch(asked, hidden, self.source.inventory)["pid"])
        self.kernels = eventually(lambda: found if len(found := children(self.server)) == 2 else None)
        (record,) = self.sessions.records.of(name)
        return record

    def close(self) -> None:
        self.exchange()
        stops = Stops(self.sessions, Quieting(self.sessions, self.parker).ready)
        for record in self.sessions.records.all():
            stops.stop(record.reservation_id, StopOrder(False, 0, 0))
        eventually(lambda: (stops.advance(), {s.state for s in self.sessions.all()} == {"exited"})[1], 30)
        self.sessions.reap()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


class Fatal(SimulatedCheckpointer):
    """Kills its own process before or after the step with the number ``at``."""

    def __init__(self, source: SimulatedSource, at: int) -> None:
        super().__init__(source)
        self._left = at

    def _count(self) -> None:
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1

    def _around(self, act: Callable[[], None]) -> None:
        self._count()
        act()
        self._count()

    def lock(self, pid: int, timeout_s: float) -> None:
        self._around(lambda: super(Fatal, self).lock(pid, timeout_s))

    def checkpoint(self, pid: int) -> None:
        self._around(lambda: super(Fatal, self).checkpoint(pid))

    def restore(self, pid: int, gpus: Any) -> None:
        self._around(lambda: super(Fatal, self).restore(pid, gpus))

    def unlock(self, pid: int) -> None:
        self._around(lambda: super(Fatal, self).unlock(pid))


def share(device: str) -> tuple[SharePart, ...]:
    return (SharePart(device, "", 40960, 1000, True),)


def killed_in(act: Callable[[], object]) -> bool:
    """Whether a process that did it was killed by it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            act()
            code = 0
        except Refused:
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def hold(place: Place) -> Record:
    record = place.launch()
    for pid in place.kernels:
        place.driver.hold(pid, 1000)
    return record


def test_a_kill_at_any_step_of_parking_and_coming_back_loses_nothing(place: Place) -> None:
    record = hold(place)
    device = 0
    for at in range(20):
        died = killed_in(lambda at=at: place.exchange(Fatal(place.source, at))._park(record, POOL))
        assert place.exchange()._park(record, POOL) == 2000
        assert place.driver.on_gpus() == {}
        device = (device + 1) % 3
        going = share(GPU[device])
        came = killed_in(lambda at=at, going=going: place.exchange(Fatal(place.source, at))._resume(record, going))
        assert place.exchange()._resume(record, going)
        assert place.driver.on_gpus() == dict.fromkeys(place.kernels, GPU[device])
        assert set(place.driver.states().values()) == {"running"}
        if not (died or came):
            assert at == 8  # before and after each of two locks and two checkpoints
            break
    else:
        pytest.fail("every run was killed")


def test_a_kill_at_any_step_of_an_undo_goes_on_to_undo_it(place: Place) -> None:
    record = hold(place)
    last = max(place.kernels)
    for at in range(30):
        place.driver.tell(checkpoint=[last])
        died = killed_in(lambda at=at: place.exchange(Fatal(place.source, at))._park(record, POOL))
        with pytest.raises(Refused, match="refused by the simulated driver"):
            place.exchange()._park(record, POOL)
        assert place.driver.on_gpus() == dict.fromkeys(place.kernels, GPU[0])
        assert set(place.driver.states().values()) == {"running"}
        assert record.gate().share == share(GPU[0]) or record.gate().turn == 0
        if not died:
            assert at > 8
            break
    else:
        pytest.fail("every run was killed")


class Looking(SimulatedCheckpointer):
    """Notes which devices the session may use while the driver works."""

    def __init__(self, source: SimulatedSource, record: Record) -> None:
        super().__init__(source)
        self._record = record
        self.seen: list[tuple[str, list[str]]] = []

    def _look(self, step: str) -> None:
        self.seen.append((step, [part.device_uuid for part in self._record.gate().share]))

    def checkpoint(self, pid: int) -> None:
        self._look("checkpoint")
        super().checkpoint(pid)

    def restore(self, pid: int, gpus: Any) -> None:
        self._look("restore")
        super().restore(pid, gpus)


def test_the_filter_is_open_as_long_as_the_driver_needs_the_device(place: Place) -> None:
    record = hold(place)
    looking = Looking(place.source, record)
    exchange = place.exchange(looking)
    exchange._park(record, POOL)
    assert record.gate().share == ()
    exchange._resume(record, share(GPU[2]))
    assert looking.seen == [("checkpoint", [GPU[0]])] * 2 + [("restore", [GPU[2]])] * 2


class Late(SimulatedSource):
    """Shows one more process once the others are gone, as if it had begun to use its device in between."""

    late = 0
    shown = 0

    def processes(self) -> tuple[DeviceProcess, ...]:
        found = super().processes()
        if self.late and not found and self.shown < 1:
            self.shown += 1
            Driver(self._faults, json.loads(self._faults.read_text())["processes"]).hold(self.late, 700)  # type: ignore[arg-type]
            return ()
        return found


def test_a_process_that_begins_to_use_its_device_meanwhile_is_parked_too(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.source = Late(SPEC, place.driver.place)
    record = place.launch()
    place.driver.hold(place.kernels[0], 1000)
    place.source.late = place.kernels[1]
    try:
        assert place.exchange()._park(record, POOL) == 1700
        assert set(place.driver.states()) == set(place.kernels)
        assert record.gate().share == ()
    finally:
        place.close()


def test_an_agent_of_an_earlier_boot_left_nothing_to_bring_back(place: Place) -> None:
    record = hold(place)
    place.exchange()._park(record, POOL)
    written = json.loads((record.path / "parked.json").read_text())
    (record.path / "parked.json").write_text(json.dumps({**written, "boot_id": "another"}))
    place.exchange()
    assert place.parker.kept_mib(record) == 0
    (record.path / "parked.json").write_text(json.dumps(written))
    assert place.parker.kept_mib(record) == 2000


def test_a_plain_give_back_leaves_what_is_parked_alone(place: Place) -> None:
    record = hold(place)
    exchange = place.exchange()
    exchange._park(record, POOL)
    assert exchange.release(record, Graces(0, 0)) is True
    assert place.parker.kept_mib(record) == 2000
    assert all(lives(pid) for pid in place.kernels)
