"""Parts of the job agent that need no job: what it vouches for, what its variables say, what it understands."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from job_agents import jobagent_environment
from nodes import deployment

from timeshare.reservations.devices.model import Device, Inventory, MigInstance
from timeshare.reservations.devices.simulated import SimulatedSource
from timeshare.reservations.jobagent.seat import Places, nothing_else_opens, take_seat
from timeshare.reservations.jobagent.setting import KEY, OWN, Setting, SettingError, numbers, read_setting
from timeshare.reservations.jobagent.talk import Leave, Order, Stop, Wait, told, understood
from timeshare.reservations.jobagent.tree import processes_below

ID = "0b7c3f4e-0000-0000-0000-000000000000"


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    return jobagent_environment(deployment(tmp_path), ID)


def setting(variables: dict[str, str], **changes: str) -> Setting:
    return read_setting({**variables, **changes}, "here")


# --- what it vouches for


class Driver(SimulatedSource):
    """What a driver would tell of devices that are not there, for questions about real ones."""

    def __init__(self, *devices: Device) -> None:
        self.devices = devices

    def inventory(self) -> Inventory:
        return Inventory(self.devices)


WHOLE = Device("GPU-1", "a100-40gb", 40960, order=1, minor=1)
PARTED = Device("GPU-1", "a100-40gb", 40960, minor=1, instances=(MigInstance("MIG-1", "1g.5gb", 4864, 1),))


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """Device files of two GPUs, of which anybody may open both."""
    made = Places(tmp_path / "dev", tmp_path / "driver")
    made.devices.mkdir()
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (made.devices / name).touch()
    return made


def real(variables: dict[str, str], **changes: str) -> Setting:
    return setting({**variables, "TIMESHARE_SHARE_SIMULATED": "0", "SLURM_JOB_GPUS": "1"}, **changes)


def test_another_gpu_that_can_be_opened_makes_it_cooperative(variables: dict[str, str], places: Places) -> None:
    assert take_seat(real(variables), Driver(WHOLE), places).level == "cooperative"


def test_a_whole_gpu_is_held_by_hardware_where_no_other_can_be_opened(
    variables: dict[str, str], places: Places
) -> None:
    (places.devices / "nvidia0").unlink()
    assert take_seat(real(variables), Driver(WHOLE), places).level == "hardware"
    assert take_seat(real(variables), None, places).level == "hardware"


def test_a_file_that_anybody_could_make_proves_nothing(places: Places) -> None:
    (places.devices / "nvidia0").unlink()
    facts = places.driver / "gpus" / "0000:01:00.0"
    facts.mkdir(parents=True)
    (facts / "information").write_text("Model: A100\nDevice Minor: \t 0\n")
    assert not nothing_else_opens({"nvidia1"}, places)


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    """Without root's rights, if these are there: file modes do not hold back root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_file_that_is_refused_is_closed() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        for name, mode in (("nvidia0", 0), ("nvidia1", 0o666)):
            (Path(folder) / name).touch()
            (Path(folder) / name).chmod(mode)
        with nobody():
            assert nothing_else_opens({"nvidia1"}, Places(Path(folder), Path(folder)))
            assert not nothing_else_opens({"nvidia0"}, Places(Path(folder), Path(folder)))


def test_an_error_that_is_no_refusal_proves_nothing(places: Places) -> None:
    (places.devices / "nvidia0").unlink()
    (places.devices / "nvidia0").mkdir()  # EISDIR
    assert not nothing_else_opens({"nvidia1"}, places)


def test_a_part_is_watched_only_where_the_driver_can_be_asked(variables: dict[str, str], places: Places) -> None:
    part = real(variables, TIMESHARE_SHARE_SHAPE="fraction", TIMESHARE_SHARE_MEMORY_MIB="10240")
    seat = take_seat(part, Driver(WHOLE), places)
    assert (seat.level, seat.devices, seat.share[0].memory_mib) == ("watchdog", ("GPU-1",), 10240)
    assert (
        take_seat(
            real(variables, TIMESHARE_SHARE_SHAPE="fraction", TIMESHARE_SHARE_MEMORY_MIB="0"), Driver(WHOLE), places
        ).level
        == "cooperative"
    )
    seat = take_seat(part, None, places)
    assert (seat.level, seat.devices, seat.measured) == ("cooperative", ("a1/gpu1",), False)


def test_a_mig_instance_is_held_by_hardware_where_nothing_else_opens(variables: dict[str, str], places: Places) -> None:
    slice_ = real(variables, TIMESHARE_SHARE_SHAPE="mig", CUDA_VISIBLE_DEVICES="MIG-1")
    assert take_seat(slice_, Driver(PARTED), places).level == "cooperative"
    (places.devices / "nvidia0").unlink()
    seat = take_seat(slice_, Driver(PARTED), places)
    assert (seat.level, seat.devices) == ("hardware", ("MIG-1",))
    (places.devices / "nvidia-caps").mkdir()
    for name in ("nvidia-cap1", "nvidia-cap2"):  # for configuring and watching MIG
        (places.devices / "nvidia-caps" / name).touch()
    assert take_seat(slice_, Driver(PARTED), places).level == "hardware"
    (places.devices / "nvidia-caps" / "nvidia-cap30").touch()
    assert take_seat(slice_, Driver(PARTED), places).level == "cooperative"
    assert take_seat(slice_, None, places).level == "cooperative"


def test_without_a_gpu_none_is_needed_only_if_none_is_seen(variables: dict[str, str], places: Places) -> None:
    nothing = real(variables, TIMESHARE_SHARE_SHAPE="cpu", SLURM_JOB_GPUS="")
    assert take_seat(nothing, None, places).level == "cooperative"
    for name in ("nvidia0", "nvidia1"):
        (places.devices / name).unlink()
    assert take_seat(nothing, None, places).level == "none needed"


def test_a_gpu_that_the_batch_system_did_not_name_is_not_vouched_for(variables: dict[str, str], places: Places) -> None:
    unnamed = setting(variables, TIMESHARE_SHARE_SIMULATED="0", SLURM_JOB_GPUS="")
    assert take_seat(unnamed, Driver(WHOLE), places).level == "cooperative"


# --- what its variables say


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (KEY, "", "is not set"),
        ("SLURM_JOB_ID", "", "is not set"),
        ("TIMESHARE_ATTEMPT", "0", "whole number from 1 on"),
        ("TIMESHARE_SERVICE_URL", "hub.example.org", "must be such as https://"),
        ("TIMESHARE_SHARE_SHAPE", "half", "must be one of whole, fraction, mig, cpu"),
        ("TIMESHARE_PORTS", "80-90", "must be such as 20000-29999"),
        ("TIMESHARE_PORTS", "30000-20000", "must be such as 20000-29999"),
        ("TIMESHARE_PATIENCE_S", "long", "must be a number of seconds"),
        ("TIMESHARE_SAVE_GRACE_S", "-1", "must be a number of seconds from 0 on"),
        ("TIMESHARE_TERM_GRACE_S", "nan", "must be a number of seconds from 0 on"),
    ],
)
def test_a_wrong_variable_is_named_with_its_rule(
    variables: dict[str, str], name: str, value: str, message: str
) -> None:
    with pytest.raises(SettingError, match=f"{name} is") as refused:
        setting(variables, **{name: value})
    assert message in str(refused.value)


def test_the_key_is_never_shown(variables: dict[str, str]) -> None:
    assert variables[KEY] not in repr(setting(variables))


def test_every_variable_that_is_for_the_agent_alone_is_documented() -> None:
    page = (Path(__file__).parents[1] / "docs" / "environment.md").read_text()
    batch = page.partition("## On a batch system")[2].partition("\n## ")[0]
    told = {name for row in re.findall(r"^\| (`[^|]+) \|", batch, re.MULTILINE) for name in re.findall(r"[A-Z_]+", row)}
    assert told - {"TIMESHARE_SERVICE_URL", "TIMESHARE_RESERVATION_ID", "TIMESHARE_SHARE_TEXT"} == set(OWN)


def test_numbers_of_gpus_are_read_as_slurm_writes_them() -> None:
    assert numbers("1,3-5") == (1, 3, 4, 5)
    assert numbers("") == numbers("(null)") == ()


# --- processes


def test_processes_below_are_those_of_children_too() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 60 & echo; wait"], stdout=subprocess.PIPE) as shell:
        assert shell.stdout is not None
        shell.stdout.readline()
        below = processes_below(os.getpid())
        children = [pid for pid, process in below.items() if process.parent == shell.pid]
        assert shell.pid in below
        assert len(children) == 1
        for pid in (*children, shell.pid):
            os.kill(pid, 9)


# --- the wire


@pytest.mark.parametrize(
    "wanted",
    [
        Wait(),
        Leave("why"),
        Stop(True, 30.0, 10.0),
        Order(1, ("a", "b"), {"A": "\udcff\n"}, "/tmp", None, "2030-01-01T00:00:00Z"),
    ],
)
def test_what_is_told_is_understood(wanted: Wait | Leave | Stop | Order) -> None:
    assert understood({**told(wanted)}) == wanted


@pytest.mark.parametrize(
    "answer",
    [
        None,
        {},
        {"want": "dance"},
        {"want": "run", "argv": ["token"], "env": {}},
        {"want": "stop"},
        {"want": "run", "generation": 1, "argv": [], "env": "token"},
    ],
)
def test_an_answer_without_sense_is_refused_without_its_values(answer: object) -> None:
    with pytest.raises(ValueError, match="answer") as refused:
        understood(answer)
    assert "token" not in str(refused.value)


def test_the_base_package_is_enough_for_a_job_agent() -> None:
    """It runs on compute nodes, in whatever environment is there."""
    program = (
        "import sys; before = set(sys.modules); import timeshare.reservations.jobagent.__main__\n"
        "top = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(top - set(sys.stdlib_module_names) - {'timeshare'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
