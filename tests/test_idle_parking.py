"""Idle sessions are parked, over a real culler, service and agent: GPU state goes into the node's memory and comes
back. Only the driver is simulated."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from idle_sessions import IDLE, LIMITS, Idle, Session, idle_lab
from nodes import eventually
from parked_sessions import GPU, SERVER, Driver, children, lives

from timeshare.notebooks.batch.service import Service
from timeshare.notebooks.gpu import GpuHook, uses_cuda
from timeshare.notebooks.server.devices import Devices

PARK = LIMITS.replace("keep: 1h", "keep: 1h, then: park") + "parking: {host_memory_gib: 8}\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Idle]:
    with idle_lab(tmp_path_factory.mktemp("idle"), PARK, "a100-40gb:2,t4[1g.5gb]:1") as found:
        yield found


@pytest.fixture
def idle(place: Idle) -> Iterator[Idle]:
    place.lab.faults()
    yield place
    place.lab.faults()
    for session in place.lab.sessions:
        session.do("end")
    eventually(lambda: all(s.state() == "ended" for s in place.lab.sessions), 30)
    place.lab.sessions.clear()


def driver(idle: Idle) -> Driver:
    return Driver(idle.server.node.faults)


def started(idle: Idle, gpu: Driver, memory_mib: int = 3000, owner: str = "ada") -> tuple[Session, int]:
    """A session, and the one of its kernels that holds GPU memory."""
    session = idle.lab.start(owner, argv=SERVER, gpus=1, model="a100-40gb")
    kernel = eventually(lambda: children(session.pid()))[0]
    gpu.hold(kernel, memory_mib, session.get()["placement"][0]["device_uuid"])
    return session, kernel


def parked(session: Session) -> dict[str, Any]:
    eventually(lambda: session.state() == "parked", 60)
    return session.get()


def test_an_idle_session_is_parked_with_its_state_and_goes_on_when_it_asks_again(idle: Idle) -> None:
    gpu = driver(idle)
    session, kernel = started(idle, gpu)
    first = session.get()["placement"][0]["device_uuid"]
    told = eventually(lambda: session.activity()["warning"], 40)
    assert told["action"] == "park"
    text = session.get()["notices"][0]["text"]
    assert "is kept in the node's memory" in text
    assert "experimental" in text
    seen = parked(session)
    assert (seen["kept_mib"], seen["placement"]) == (3000, [])
    assert session.what() == ["warn", "park"]
    assert gpu.on_gpus() == {}
    assert lives(kernel)
    other, second = started(idle, gpu, 39000, "ben")  # of the same model, on the first that is free
    assert other.get()["placement"][0]["device_uuid"] == first
    other.says = {**IDLE, "input_ago_s": 0}
    assert session.do("ask_again").json()["state"] == "active"
    eventually(lambda: session.get()["handling"] is None, 20)
    now = session.get()
    assert now["kept_mib"] == 0
    assert gpu.on_gpus() == {kernel: now["placement"][0]["device_uuid"], second: first}
    assert gpu.on_gpus()[kernel] != first


def test_what_was_kept_waits_for_a_device_of_the_same_model(idle: Idle) -> None:
    gpu = driver(idle)
    session = idle.lab.start(argv=SERVER, gpus=1)  # of any model; the two a100 are taken first
    kernel = eventually(lambda: children(session.pid()))[0]
    model = session.get()["placement"][0]["model"]
    assert model == "a100-40gb"
    gpu.hold(kernel, 100, session.get()["placement"][0]["device_uuid"])
    assert session.do("give_back", park=True).json()["handling"] == "parking"
    parked(session)
    others = [idle.lab.start("ben", gpus=1, model=model) for _ in range(2)]
    for other in others:
        other.says = {**IDLE, "input_ago_s": 0}
    waiting = session.do("ask_again").json()
    assert (waiting["state"], waiting["position"]) == ("parked", 1)
    others[0].do("end")
    eventually(lambda: session.state() == "active" and session.get()["handling"] is None, 30)
    assert gpu.on_gpus()[kernel] == session.get()["placement"][0]["device_uuid"]


def test_a_session_that_cannot_be_parked_keeps_its_gpu_and_is_warned_anew_before_the_next_try(idle: Idle) -> None:
    gpu = driver(idle)
    session, kernel = started(idle, gpu, 9000)  # more than the limits set aside
    eventually(lambda: "not parked" in session.what(), 60)
    seen = session.get()
    assert (seen["state"], seen["handling"], seen["kept_mib"]) == ("active", None, 0)
    assert seen["detail"].startswith("it was not parked, and keeps its GPU: 8.8 GiB of GPU memory would have to")
    assert session.what() == ["warn", "park", "not parked"]
    assert session.activity()["warning"] is None
    assert gpu.on_gpus() == {kernel: seen["placement"][0]["device_uuid"]}
    eventually(lambda: session.what()[3:] == ["warn"], 30)
    gpu.drop(kernel)
    gpu.hold(kernel, 1000, seen["placement"][0]["device_uuid"])
    assert parked(session)["kept_mib"] == 1000
    assert session.what() == ["warn", "park", "not parked", "warn", "park"]
    refused_at, again_at = (at for _, at in session.decided()[-3::2])
    assert again_at - refused_at >= 6  # the time of the limits counts from the refusal


def test_too_little_memory_where_it_comes_back_is_waited_for_and_told(idle: Idle) -> None:
    gpu = driver(idle)
    session, kernel = started(idle, gpu)
    session.do("give_back", park=True)
    parked(session)
    for device in GPU[:2]:
        gpu.hold(os.getpid(), 39000, device)  # somebody beside all reservations
    session.do("ask_again")
    eventually(lambda: "it waits on its GPU: what was kept needs" in session.get()["detail"], 20)
    assert session.get()["handling"] == "resuming"
    assert gpu.states()[kernel] == "checkpointed"
    gpu.drop(os.getpid())
    eventually(lambda: session.get()["handling"] is None, 20)
    assert gpu.states()[kernel] == "running"
    assert session.get()["detail"] == "it has a GPU again"


def test_by_hand_it_is_refused_in_words_where_it_can_never_be(idle: Idle) -> None:
    session = idle.lab.start(mig_profile="1g.5gb")
    answer = session.do("give_back", park=True)
    assert answer.status_code == 409
    assert "a MIG instance cannot be parked" in answer.json()["error"]["message"]
    assert "MIG" in session.activity()["cannot_park"]
    assert session.activity()["rules"]["after_s"] == 0  # nobody is warned of what cannot follow
    assert session.do("give_back", park="yes").json()["error"]["message"].startswith("park is 'yes'")
    assert session.do("give_back").json()["handling"] == "returning"


def test_without_memory_set_aside_nothing_is_parked(tmp_path: Path) -> None:
    with idle_lab(tmp_path, LIMITS) as found:
        session = found.lab.start()
        answer = session.do("give_back", park=True)
        assert answer.status_code == 409
        assert "parking.host_memory_gib" in answer.json()["error"]["message"]
        assert "parking.host_memory_gib" in session.activity()["cannot_park"]


def test_a_service_and_an_agent_that_are_killed_meanwhile_go_on(idle: Idle) -> None:
    gpu = driver(idle)
    session, kernel = started(idle, gpu)
    gpu.tell(delay_s=0.7)
    session.do("give_back", park=True)
    eventually(lambda: kernel in gpu.states(), 20)
    idle.server.node.kill()
    idle.server.kill()
    idle.server.node.start()
    idle.server.start()
    assert parked(session)["kept_mib"] == 3000
    gpu.tell(delay_s=2)
    session.do("ask_again")
    eventually(lambda: gpu.states()[kernel] == "locked", 20)
    idle.server.node.kill()
    idle.server.node.start()
    eventually(lambda: session.get()["handling"] is None, 30)
    assert gpu.states()[kernel] == "running"
    assert session.get()["kept_mib"] == 0


def test_the_end_of_a_kernel_and_of_the_session_clear_what_is_kept(idle: Idle) -> None:
    gpu = driver(idle)
    session, kernel = started(idle, gpu)
    busy = idle.lab.start("ben")  # while somebody holds a GPU, the service looks as often as the limits want it
    busy.says = {**IDLE, "input_ago_s": 0}
    session.do("give_back", park=True)
    assert parked(session)["kept_mib"] == 3000
    os.kill(kernel, 9)
    eventually(lambda: session.get()["kept_mib"] == 0, 70)
    assert session.state() == "parked"
    session.do("end")
    eventually(lambda: session.state() == "ended", 30)


# --- in the kernel


class Cells:
    """A kernel of the session, as far as the hook before its cells goes."""

    def __init__(self, session: Session, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.session = session
        monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(folder))
        for name, value in {
            "TIMESHARE_SERVICE_URL": session.server.deployment.service_url,
            "TIMESHARE_TOKEN": session.server.deployment.admin_token,
            "TIMESHARE_RESERVATION_ID": session.id,
            "TIMESHARE_SIMULATED": "1",
        }.items():
            monkeypatch.setenv(name, value)
        for name in ("TIMESHARE_DEVICES", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"):
            monkeypatch.setenv(name, "")
        self.devices = Devices(session.id)
        monkeypatch.setenv("TIMESHARE_DEVICES_FILE", str(self.devices.path))
        self.hook = GpuHook()

    def look(self) -> None:
        """What the session's own server does every minute."""
        self.devices.take(Service.of_session().get(self.session.id))

    def run(self, cell: str) -> str:
        said = io.StringIO()
        with redirect_stdout(said):
            self.hook.before_cell(SimpleNamespace(raw_cell=cell))
        return said.getvalue()


@pytest.fixture
def library(tmp_path: Path) -> Iterator[None]:
    """This process has a library loaded that is called like the driver's."""
    import mmap

    place = tmp_path / "libcuda.so.1"
    place.write_bytes(b"\0" * mmap.PAGESIZE)
    with open(place, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
        yield


def test_any_cell_of_a_kernel_whose_state_is_kept_asks_for_the_gpu(
    idle: Idle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: None
) -> None:
    gpu = driver(idle)
    session, _ = started(idle, gpu)
    cells = Cells(session, tmp_path, monkeypatch)
    session.do("give_back", park=True)
    parked(session)
    cells.look()
    assert uses_cuda()
    said = cells.run("x = 1")
    assert "Asking for it again" in said
    assert "with 2.9 GiB of GPU state" in said
    assert session.state() == "active"
    assert os.environ["TIMESHARE_DEVICES"] == session.get()["placement"][0]["device_uuid"]


def test_a_kernel_that_never_used_cuda_runs_on_without_a_gpu(
    idle: Idle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = driver(idle)
    session, _ = started(idle, gpu)
    cells = Cells(session, tmp_path, monkeypatch)
    session.do("give_back", park=True)
    parked(session)
    cells.look()
    assert not uses_cuda()
    assert cells.run("x = 1") == ""
    assert session.state() == "parked"
    assert "Asking for it again" in cells.run("model.cuda()")


def test_after_a_pause_a_kernel_that_uses_cuda_asks_even_if_its_server_has_not_looked(
    idle: Idle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: None
) -> None:
    gpu = driver(idle)
    session, _ = started(idle, gpu)
    cells = Cells(session, tmp_path, monkeypatch)
    session.do("give_back", park=True)
    monkeypatch.setattr("timeshare.notebooks.gpu.PAUSE_S", 0.0)
    assert "with 2.9 GiB of GPU state" in cells.run("x = 1")  # it was just being parked, and was waited for
    assert session.get()["handling"] is None
