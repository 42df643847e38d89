"""The inventory: real where there is a driver, simulated behind the same interface, and faults through it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timeshare.reservations.devices.health import APPLICATION_XIDS, XID, event_of
from timeshare.reservations.devices.model import DeviceError
from timeshare.reservations.devices.nodes import gpu_nodes, wanted_paths
from timeshare.reservations.devices.nvml import NvmlSource, mig_profile, model_name
from timeshare.reservations.devices.simulated import SimulatedSource, parse_spec
from timeshare.reservations.devices.sources import open_source
from timeshare.reservations.errors import PublicError
from timeshare.reservations.mig import PROFILE_PATTERN
from timeshare.reservations.shares import MODEL_PATTERN

PRODUCTS = [
    ("NVIDIA A100-SXM4-40GB", 40_960, "a100-40gb"),
    ("NVIDIA A100 80GB PCIe", 81_920, "a100-80gb"),
    ("Tesla V100-PCIE-32GB", 32_768, "v100-32gb"),
    ("Tesla V100-SXM2-16GB", 16_384, "v100-16gb"),
    ("Tesla T4", 15_360, "t4"),
    ("Tesla P100-PCIE-16GB", 16_384, "p100-16gb"),
    ("NVIDIA H200", 143_771, "h200"),
    ("NVIDIA H100 80GB HBM3", 81_559, "h100-80gb"),
    ("NVIDIA L40S", 46_068, "l40s"),
    ("NVIDIA GeForce RTX 4090", 24_564, "rtx-4090"),
    ("Quadro RTX 6000", 24_576, "rtx-6000"),
]


@pytest.mark.parametrize(("product", "memory_mib", "name"), PRODUCTS, ids=[name for *_, name in PRODUCTS])
def test_a_product_gets_a_short_name_that_can_be_asked_for(product: str, memory_mib: int, name: str) -> None:
    assert model_name(product, memory_mib) == name


@given(st.text(max_size=80), st.integers(1, 200_000))
def test_any_product_gets_a_name_that_can_be_asked_for(product: str, memory_mib: int) -> None:
    assert MODEL_PATTERN.fullmatch(model_name(product, memory_mib))


@pytest.mark.parametrize(
    ("name", "profile"),
    [
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", "1g.10gb"),
        ("NVIDIA H200 MIG 1g.18gb+me", "1g.18gb+me"),
        ("NVIDIA A100 MIG 1c.3g.20gb", "1c.3g.20gb"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition MIG 1g.24gb+me.all", "1g.24gb+me.all"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition MIG 2g.48gb-me", "2g.48gb-me"),
        ("NVIDIA H200 MIG 7g.141gb", "7g.141gb"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition MIG 4g.96gb+gfx", "4g.96gb+gfx"),
        ("Graphics Device", "2g.20gb"),
    ],
)
def test_a_mig_instance_tells_its_profile(name: str, profile: str) -> None:
    assert mig_profile(name, 2, 20_096) == profile
    assert PROFILE_PATTERN.fullmatch(profile)


@pytest.mark.parametrize("code", sorted(APPLICATION_XIDS))
def test_an_error_of_a_program_does_not_cordon(code: int) -> None:
    assert event_of("GPU-0", XID, code).cordon is False


@pytest.mark.parametrize("code", [48, 62, 64, 74, 79, 95, 119, 9999])
def test_an_error_of_the_device_cordons_and_says_which(code: int) -> None:
    event = event_of("GPU-0", XID, code)
    assert event.cordon is True
    assert f"XID {code}" in event.detail


def test_an_uncorrectable_memory_error_cordons() -> None:
    assert event_of("GPU-0", "ecc", 2).cordon is True


def test_importing_asks_the_driver_nothing() -> None:
    code = (
        "import sys, timeshare.reservations.devices.sources, timeshare.reservations.agent.server; "
        "sys.exit('pynvml' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(Path("/proc/driver/nvidia/version").exists(), reason="this machine has an NVIDIA driver")
def test_a_machine_without_a_driver_has_no_devices_and_says_why() -> None:
    source = NvmlSource()
    inventory = source.inventory()
    assert inventory.devices == ()
    assert "no NVIDIA driver is installed" in inventory.note
    assert (source.processes(), source.health_events()) == ((), ())
    source.close()
    source.close()


def test_a_simulated_inventory_is_what_was_asked_for_and_says_that_it_is_simulated() -> None:
    inventory = open_source("a100-40gb:2,t4,a100-40gb[3g.20gb+1g.5gb]:1").inventory()
    assert [d.model for d in inventory.devices] == ["a100-40gb", "a100-40gb", "t4", "a100-40gb"]
    assert [d.memory_mib for d in inventory.devices] == [40_960, 40_960, 16_384, 40_960]
    assert [i.profile for i in inventory.devices[3].instances] == ["3g.20gb", "1g.5gb"]
    assert inventory.simulated
    assert all(device.simulated for device in inventory.devices)
    assert "simulated" in inventory.note
    assert len({device.uuid for device in inventory.devices}) == 4


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("", "''"),
        ("a100-40gb:0", "from 1 to 1024"),
        ("a100-40gb:99999", "from 1 to 1024"),
        ("mystery:1", "its memory is not known"),
        ("a100-40gb[9g]:1", "no MIG profile"),
        ("a100-40gb[3g.20gb+3g.20gb+1g.5gb]", "need more than the 40 GiB"),
        ("A100:1", "'A100:1'"),
        ("t4:1,,t4:1", "''"),
    ],
)
def test_a_wrong_specification_is_named_with_the_rule(spec: str, said: str) -> None:
    with pytest.raises(PublicError, match="simulate") as refused:
        parse_spec(spec)
    assert said in refused.value.message


@given(st.text(max_size=60))
def test_any_specification_gives_devices_or_a_clear_refusal(spec: str) -> None:
    try:
        assert parse_spec(spec)
    except PublicError as error:
        assert error.status == 400


def test_faults_come_through_the_same_interface(tmp_path: Path) -> None:
    faults = tmp_path / "faults.json"
    source = SimulatedSource("t4:2", faults)
    assert len(source.inventory().devices) == 2
    gone = source.inventory().devices[1].uuid
    faults.write_text(json.dumps({"missing": [gone], "health": [{"device": gone, "code": 79, "detail": "bus"}]}))
    assert [d.uuid for d in source.inventory().devices] != [gone]
    assert [event.code for event in source.health_events()] == [79]
    assert source.health_events() == ()
    faults.write_text(json.dumps({"unknown": True}))
    with pytest.raises(DeviceError):
        source.inventory()
    faults.write_text("{")
    with pytest.raises(DeviceError):
        source.processes()


def test_device_files_are_found_by_name_and_kind(tmp_path: Path) -> None:
    (tmp_path / "nvidia0").write_text("not a device")
    (tmp_path / "nvidia1").symlink_to("/dev/null")
    assert [Path(node.path).name for node in gpu_nodes(tmp_path)] == ["nvidia1"]


def test_a_session_needs_its_own_device_files_and_the_shared_ones() -> None:
    first, second = parse_spec("t4:2")
    assert wanted_paths([first], []) == set()  # simulated: there is no file
    from dataclasses import replace

    held = replace(second, minor=3)
    assert {"/dev/nvidia3", "/dev/nvidiactl", "/dev/nvidia-uvm"} <= wanted_paths([held], [])
