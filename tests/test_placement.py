"""Where shares go."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from pools import mig_device, pool

from timeshare.reservations.devices.model import Device
from timeshare.reservations.placement import Holding, never_fits, place, rooms_of, slots_of
from timeshare.reservations.shares import FULL_COMPUTE, Shape, ShareRequest, parse_share

GIB = 1024


def give(devices, held: list[Holding], **fields):  # type: ignore[no-untyped-def]
    got = place(rooms_of(slots_of(devices), held), parse_share(fields))
    held.extend(got or ())
    return got


def test_four_quarters_fill_one_device_and_leave_the_other_whole() -> None:
    devices, held = pool("a100", "a100"), []
    for _ in range(4):
        (holding,) = give(devices, held, memory_gib=40_000 / 4 / GIB)
        assert holding.device_uuid == "GPU-0"
    (holding,) = give(devices, held, gpus=1)
    assert (holding.device_uuid, holding.whole) == ("GPU-1", True)
    assert give(devices, held, memory_gib=0.1) is None


def test_a_fraction_prefers_the_shared_device_with_least_left_over() -> None:
    devices = pool("a100", "a100", "a100")
    held = [Holding("GPU-1", "", 30_000, 750, False), Holding("GPU-2", "", 20_000, 500, False)]
    (holding,) = give(devices, held, memory_gib=9)
    assert holding.device_uuid == "GPU-1"


def test_a_wish_for_any_model_leaves_the_large_devices_alone() -> None:
    devices = (*pool("a100"), replace(pool("t4", memory_mib=15_000)[0], uuid="GPU-t", order=1))
    (holding,) = give(devices, [], gpus=1)
    assert holding.device_uuid == "GPU-t"


def test_several_whole_devices_come_from_one_node_and_one_model() -> None:
    devices = (*pool("a100", "t4"), *(replace(d, uuid=d.uuid + "b", node="b") for d in pool("a100", "a100")))
    got = give(devices, [], gpus=2)
    assert [holding.device_uuid for holding in got] == ["GPU-0b", "GPU-1b"]


def test_several_nodes_are_of_one_model_where_enough_have_it() -> None:
    def node(name: str, *models: str) -> list[Device]:
        return [replace(d, uuid=f"{name}-{d.order}", node=name, engine="slurm") for d in pool(*models)]

    devices = (*node("a", "a100", "a100"), *node("b", "t4", "t4"), *node("c", "a100", "a100"), *node("d", "t4"))
    got = give(devices, [], gpus=2, engine="slurm", nodes=2)
    assert [holding.device_uuid for holding in got] == ["a-0", "a-1", "c-0", "c-1"]
    got = give(devices, [], gpus=2, engine="slurm", nodes=3)
    assert {holding.device_uuid[0] for holding in got} == {"a", "b", "c"}
    refusal = never_fits(slots_of(devices), parse_share({"gpus": 2, "engine": "slurm", "nodes": 4}))
    assert refusal is not None
    assert refusal.message == ("nodes is 4: 3 here have 2 whole GPUs of one model; ask for no more nodes than that")


def test_a_cordoned_device_gets_nothing_new() -> None:
    device = replace(pool("a100")[0], cordoned="XID 79")
    assert give((device,), [], gpus=1) is None


def test_memory_on_a_partitioned_device_gets_the_smallest_instance_that_suffices() -> None:
    devices, held = (mig_device("3g.20gb", "1g.5gb", "2g.10gb"),), []
    assert give(devices, held, memory_gib=6)[0].instance_uuid == "MIG-0-2"
    assert give(devices, held, memory_gib=6)[0].instance_uuid == "MIG-0-0"
    assert give(devices, held, memory_gib=6) is None
    assert give(devices, held, gpus=1) is None


def test_memory_lost_inside_an_instance_counts_twice_memory_left_over() -> None:
    devices = (*pool("a100"), mig_device("2g.10gb", order=1))
    for free_gib, chosen in ((13.9, "GPU-0"), (14.1, "GPU-1")):  # 6 of a 10 GiB instance lose 4, which count as 8
        held = [Holding("GPU-0", "", 40_000 - round(free_gib * GIB), 100, False)]
        (holding,) = give(devices, held, memory_gib=6)
        assert holding.device_uuid == chosen


def test_among_equal_devices_the_first_in_their_fixed_order_is_taken_whatever_the_order_of_the_rooms() -> None:
    rooms = rooms_of(slots_of(pool("a100", "a100", "a100")), [])
    for seen in (rooms, rooms[::-1]):
        for wish in ({"gpus": 1}, {"memory_gib": 5}):
            got = place(seen, parse_share(wish))
            assert got is not None
            assert got[0].device_uuid == "GPU-0"


@given(st.integers(1, 8), st.lists(st.integers(1, 40_000), max_size=40))
def test_on_equal_devices_fractions_are_packed_as_best_fit_packs_them(count: int, sizes: list[int]) -> None:
    slots, held = slots_of(pool(*["a100"] * count)), []
    for mib in sizes:
        rooms = rooms_of(slots, held)
        fitting = [(room.memory_mib, room.slot.order) for room in rooms if room.memory_mib >= mib]
        got = place(rooms, ShareRequest(Shape.FRACTION, memory_mib=mib))
        assert (got is None) == (not fitting)
        if got:
            assert got[0].device_uuid == f"GPU-{min(fitting)[1]}"
        held.extend(got or ())


def test_an_explicit_compute_weight_is_a_limit_of_its_own() -> None:
    devices, held = pool("a100"), []
    assert give(devices, held, memory_gib=1, compute_percent=60)
    assert give(devices, held, memory_gib=1, compute_percent=60) is None
    assert give(devices, held, memory_gib=1, compute_percent=40)


def test_what_can_never_fit_is_refused_with_what_would() -> None:
    slots = slots_of(pool("a100", "t4"))
    message = str(never_fits(slots, parse_share({"gpus": 3, "model": "t4"})))
    assert "gpus is 3" in message
    assert "is 1" in message
    message = str(never_fits(slots, parse_share({"gpus": 1, "model": "h100"})))
    assert "h100" in message
    assert "a100, t4" in message
    message = str(never_fits(slots, parse_share({"memory_gib": 100})))
    assert "39.0625 GiB" in message
    assert never_fits(slots, parse_share({"memory_gib": 30})) is None


requests = st.one_of(
    st.builds(lambda n: ShareRequest(Shape.WHOLE, count=n), st.integers(1, 3)),
    st.builds(
        lambda m, c: ShareRequest(Shape.FRACTION, memory_mib=m, compute=c),
        st.integers(1, 41_000),
        st.just(0) | st.integers(1, FULL_COMPUTE),
    ),
    st.builds(lambda p: ShareRequest(Shape.MIG, profile=p), st.sampled_from(["1g.5gb", "3g.20gb"])),
)


@given(st.integers(0, 4), st.integers(0, 2), st.lists(requests, max_size=30))
def test_no_slot_is_ever_given_out_beyond_its_size(plain: int, partitioned: int, wishes: list[ShareRequest]) -> None:
    devices = pool(*["a100"] * plain) + tuple(
        mig_device("1g.5gb", "3g.20gb", "1g.5gb", order=plain + i) for i in range(partitioned)
    )
    slots, held = slots_of(devices), []
    for wish in wishes:
        got = place(rooms_of(slots, held), wish)
        held.extend(got or ())
    for room in rooms_of(slots, held):
        assert room.memory_mib >= 0
        assert room.compute >= 0
        here = [holding for holding in held if holding.key == room.slot.key]
        if any(holding.whole for holding in here) or room.slot.profile:
            assert len(here) <= 1
