"""One odd GPU never takes the others along: any error of NVML, for any device, at any call."""

from __future__ import annotations

import re
import threading
from typing import Any

import pynvml
import pytest
from conftest import FULL_STRESS
from fake_nvml import CALLS, CODES, FakeGpu, FakeNvml
from hypothesis import given, settings
from hypothesis import strategies as st

from timeshare.reservations.agent.looks import gpu_of
from timeshare.reservations.agent.records import SharePart
from timeshare.reservations.agent.watchdog import Use, judge
from timeshare.reservations.devices import nvml as nvml_source
from timeshare.reservations.devices.model import DeviceError, Inventory, unseen_devices
from timeshare.reservations.devices.nvml import NvmlSource
from timeshare.reservations.placement import Holding, Slot, slots_of
from timeshare.reservations.policy import Policy
from timeshare.reservations.queue import Facts, Waiting
from timeshare.reservations.schedule import schedule
from timeshare.reservations.shares import Shape, ShareRequest

LOST = pynvml.NVML_ERROR_GPU_IS_LOST
MIXES = 2000 if FULL_STRESS else 150


def gpus(count: int = 4, **more: Any) -> list[FakeGpu]:
    return [
        FakeGpu(f"GPU-{number}", busy=10 * number, processes={100 + number: 2000}, **more) for number in range(count)
    ]


def lost(gpu: FakeGpu) -> None:
    """As one is that has fallen off the bus."""
    gpu.errors = dict.fromkeys(CALLS, LOST)


@pytest.mark.parametrize("known", [True, False], ids=["seen-before", "at-start"])
def test_one_lost_gpu_is_cordoned_with_its_reason_and_the_others_stay(known: bool) -> None:
    nvml = FakeNvml(*gpus())
    source = NvmlSource(nvml)
    before = NvmlSource(nvml).inventory()
    if known:
        source.inventory()
    lost(nvml.gpus[2])
    found = source.inventory()
    assert [d for d in found.devices if not d.cordoned] == [d for d in before.devices if d.order != 2]
    (odd,) = (d for d in found.devices if d.cordoned)
    assert "GPU is lost" in str(odd.cordoned)
    assert (odd.uuid, odd.memory_mib) == (("GPU-2", before.devices[2].memory_mib) if known else ("GPU-unknown-2", 0))
    assert found.driver


def test_memory_that_is_not_reported_cordons_that_device_alone() -> None:
    nvml = FakeNvml(*gpus(2))
    nvml.gpus[0].errors["nvmlDeviceGetMemoryInfo"] = pynvml.NVML_ERROR_NOT_SUPPORTED
    first, second = NvmlSource(nvml).inventory().devices
    assert "does not tell how much memory it has: Not Supported" in str(first.cordoned)
    assert (first.memory_mib, second.cordoned, second.memory_mib) == (0, None, 40_660)
    assert [slot.device_uuid for slot in slots_of([first, second], include_cordoned=True)] == ["GPU-1"]


def test_a_driver_before_r510_tells_its_memory_in_the_old_way() -> None:
    class Older(FakeNvml):
        def nvmlDeviceGetMemoryInfo(self, handle: Any, version: int | None = None) -> Any:
            if version is not None:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
            return super().nvmlDeviceGetMemoryInfo(handle)

    (device,) = NvmlSource(Older(*gpus(1))).inventory().devices
    assert (device.memory_mib, device.cordoned) == (40_960, None)


def test_the_library_itself_not_answering_is_unknown_not_empty() -> None:
    nvml = FakeNvml(*gpus())
    source = NvmlSource(nvml)
    nvml.errors["nvmlDeviceGetCount"] = pynvml.NVML_ERROR_UNKNOWN
    for ask in (source.inventory, source.processes, source.use, source.free_mib, source.health_events):
        with pytest.raises(DeviceError, match="does not answer: Unknown Error"):
            ask()
    nvml.errors = dict.fromkeys(("nvmlSystemGetDriverVersion", "nvmlSystemGetCudaDriverVersion_v2"), LOST)
    found = source.inventory()
    assert (len(found.devices), found.driver, found.cuda) == (4, "", "")


def test_a_call_that_never_returns_holds_up_nobody_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml_source, "SILENT_S", 0.05)
    within, go = threading.Event(), threading.Event()

    class Stuck(FakeNvml):
        def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any:
            within.set()
            go.wait()
            return super().nvmlDeviceGetUtilizationRates(handle)

    source = NvmlSource(Stuck(*gpus()))
    caller = threading.Thread(target=source.use)
    caller.start()
    try:
        assert within.wait(30)
        with pytest.raises(DeviceError, match="has not returned"):
            source.inventory()
    finally:
        go.set()
        caller.join()
    assert len(source.inventory().devices) == 4


def test_who_uses_a_lost_gpu_is_unknown_and_what_it_does_is_never_idle() -> None:
    nvml = FakeNvml(*gpus())
    source = NvmlSource(nvml)
    source.inventory()
    lost(nvml.gpus[3])
    assert unseen_devices(source.processes()) == {"GPU-3"}
    uses = {(use.device_uuid, use.instance_uuid): use for use in source.use()}
    assert gpu_of([SharePart("GPU-3", "", 40_000, 1000, True)], uses, [103]) is None
    assert gpu_of([SharePart("GPU-1", "", 40_000, 1000, True)], uses, [101]) == 10


def test_a_gpu_that_is_well_again_is_in_service_again() -> None:
    nvml = FakeNvml(*gpus())
    source = NvmlSource(nvml)
    before = source.inventory()
    lost(nvml.gpus[0])
    assert source.inventory().devices[0].cordoned
    nvml.gpus[0].errors = {}
    assert source.inventory() == before


def test_mig_mode_without_instances_is_out_of_service_and_says_why() -> None:
    nvml = FakeNvml(*gpus(2))
    nvml.gpus[0].migs = ()
    first, second = NvmlSource(nvml).inventory().devices
    assert first.partitioned
    assert "has no MIG instances" in str(first.cordoned)
    assert (second.partitioned, second.cordoned) == (False, None)
    assert [slot.device_uuid for slot in slots_of([first, second], include_cordoned=True)] == ["GPU-1"]


def test_one_odd_mig_instance_leaves_the_others_of_its_device_in_service() -> None:
    class OneOdd(FakeNvml):
        def nvmlDeviceGetMemoryInfo(self, handle: Any, version: int | None = None) -> Any:
            if handle.mig == 1:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_UNKNOWN)
            return super().nvmlDeviceGetMemoryInfo(handle, version)

    (gpu,) = gpus(1, migs=(("3g.20gb", 20_000), ("2g.10gb", 10_000), ("1g.5gb+me", 5_000)))
    (device,) = NvmlSource(OneOdd(gpu)).inventory().devices
    assert device.cordoned is None
    assert [(i.profile, i.cordoned is None) for i in device.instances] == [
        ("3g.20gb", True),
        ("2g.10gb", False),
        ("1g.5gb+me", True),
    ]
    assert "MIG-GPU-0-1: the driver does not tell how much memory it has: Unknown Error" in device.note
    assert [slot.profile for slot in Facts((device,), (), (), 0.0).slots] == ["3g.20gb", "1g.5gb+me"]


def test_a_gpu_that_does_not_answer_is_looked_for_anew_and_no_report_of_others_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nvml_source, "REOPEN_S", 0.0)
    nvml = FakeNvml(*gpus(2))
    source = NvmlSource(nvml)
    source.health_events()
    lost(nvml.gpus[0])
    nvml.gpus[1].events.append(48)
    source.inventory()
    source.inventory()
    source.inventory()
    assert nvml.opened == 2
    assert [event.code for event in source.health_events()] == [48]


# --- any mix


def a_gpu(number: int) -> st.SearchStrategy[FakeGpu]:
    layouts = st.sampled_from([None, None, (("1g.5gb", 4864), ("1g.5gb+me", 4864)), (("1c.3g.20gb", 19_968),), ()])
    used = st.dictionaries(st.just(1000 + number), st.sampled_from([None, 1, 2000, 50_000]), max_size=1)
    return st.builds(FakeGpu, st.just(f"GPU-{number}"), migs=layouts, busy=st.integers(0, 100), processes=used)


ERRORS = st.one_of(
    st.dictionaries(st.sampled_from(CALLS), st.sampled_from(CODES), min_size=1, max_size=len(CALLS)),
    st.sampled_from(CODES).map(lambda code: dict.fromkeys(CALLS, code)),
)
"""What an odd device answers: several errors at several calls, or one at all of them."""


@st.composite
def mixes(draw: st.DrawFn) -> tuple[list[FakeGpu], dict[int, dict[str, int]]]:
    """GPUs that are well, and what some of them, but not all, answer later."""
    count = draw(st.integers(2, 5))
    odd = draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=count - 1, unique=True))
    return [draw(a_gpu(number)) for number in range(count)], {number: draw(ERRORS) for number in odd}


def looked(source: NvmlSource, healthy: set[str]) -> dict[str, Any]:
    """All that is told of the healthy devices."""
    source.use()  # counters of MIG instances are read twice
    found = source.inventory()
    return {
        "devices": [device for device in found.devices if device.uuid in healthy],
        "processes": {process for process in source.processes() if process.device_uuid in healthy},
        "use": [use for use in source.use() if use.device_uuid in healthy],
        "free": {uuid: mib for uuid, mib in source.free_mib().items() if uuid in healthy},
        "granted": {key for key in granted(found) if key[0] in healthy},
    }


def granted(inventory: Inventory) -> set[tuple[str, str]]:
    """The slots that an empty pool gives out when everybody asks for all that there is."""
    slots = slots_of(inventory.devices, include_cordoned=True)
    waiting = tuple(Waiting(f"r{n}", f"p{n}", wish(slot), 600, 0.0) for n, slot in enumerate(slots))
    grants = schedule(Facts(inventory.devices, (), waiting, 0.0), Policy()).grants
    return {holding.key for grant in grants for holding in grant.holdings}


def wish(slot: Slot) -> ShareRequest:
    if slot.profile:
        return ShareRequest(Shape.MIG, profile=slot.profile, model=slot.model)
    return ShareRequest(Shape.WHOLE, count=1, model=slot.model)


@settings(max_examples=MIXES)
@given(mixes(), st.booleans())
def test_healthy_devices_are_as_before_in_any_mix_of_errors(
    mix: tuple[list[FakeGpu], dict[int, dict[str, int]]], seen_before: bool
) -> None:
    devices, errors = mix
    nvml = FakeNvml(*devices)
    healthy = {gpu.uuid for number, gpu in enumerate(devices) if number not in errors}
    well = looked(NvmlSource(nvml), healthy)
    source = NvmlSource(nvml)
    if seen_before:
        assert looked(source, healthy) == well
        source.health_events()
    for number, told in errors.items():
        devices[number].errors = told
    odd = looked(source, healthy)
    assert odd == well
    every = source.inventory()
    assert len(every.devices) == len(devices)
    out = {device.uuid for device in every.devices if device.cordoned}
    assert all(device.cordoned for device in every.devices if not device.memory_mib)
    assert out.isdisjoint(uuid for uuid, _ in granted(every))
    for gpu in devices:
        gpu.events.append(79)
    source.health_events()  # one that was not registered yet
    for gpu in devices:
        gpu.events.append(79)
    heard = {event.device_uuid for event in source.health_events()}
    assert healthy <= heard
    assert all(verdict_on(gpu, source) for gpu in devices if gpu.uuid in healthy)
    for gpu in devices:
        gpu.errors, gpu.events = {}, []
    names = {gpu.uuid for gpu in devices}
    assert looked(source, names) == looked(NvmlSource(nvml), names)


def verdict_on(gpu: FakeGpu, source: NvmlSource) -> bool:
    """Whether the watchdog judges what is used of a healthy device by what it really is."""
    key = ("session", 1, gpu.uuid)
    used = {p.pid: p.memory_mib for p in source.processes() if p.device_uuid == gpu.uuid}
    visible = gpu.processes if gpu.migs != () else {}
    verdicts, _ = judge({key: Use(10_000, used)}, frozenset())
    too_much = [pid for pid, mib in visible.items() if mib is not None and mib > 11_000]
    return used == visible and [verdict.stop for verdict in verdicts] == too_much


def test_a_device_that_holds_a_share_keeps_its_name_while_it_does_not_answer() -> None:
    nvml = FakeNvml(*gpus(2))
    source = NvmlSource(nvml)
    known = {slot.key for slot in slots_of(source.inventory().devices, include_cordoned=True)}
    lost(nvml.gpus[1])
    found = slots_of(source.inventory().devices, include_cordoned=True)
    assert {slot.key for slot in found} == known
    assert Holding("GPU-1", "", found[1].memory_mib, 1000, True).key in known


def test_why_a_device_is_out_of_service_is_said_in_words() -> None:
    nvml = FakeNvml(*gpus(len(CALLS)))
    for gpu, call in zip(nvml.gpus, CALLS, strict=True):
        gpu.errors[call] = LOST
        gpu.migs = (("1g.5gb", 4864),)
    for device in NvmlSource(nvml).inventory().devices:
        for text in filter(None, (device.cordoned, device.note)):
            assert re.search(r"the driver does not tell [a-zA-Z ]+: GPU is lost", text), text
