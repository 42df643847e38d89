"""What is offered can be asked for, and starts: whatever devices there are."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from conftest import FULL_STRESS
from hypothesis import given, settings
from hypothesis import strategies as st
from nodes import eventually
from pools import Lab, pool
from services import Service, running_service

from timeshare.reservations.devices.model import Device, Inventory, MigInstance
from timeshare.reservations.devices.simulated import parse_spec
from timeshare.reservations.enforcement import COOPERATIVE, HARDWARE, share_enforcement
from timeshare.reservations.errors import PublicError
from timeshare.reservations.mig import parse_profile
from timeshare.reservations.reservation import Reason, State
from timeshare.reservations.service.offers import offers_view
from timeshare.reservations.service.views import devices_view, health_view
from timeshare.reservations.shares import parse_share
from timeshare.spawners.options import options_from_form

NVIDIAS = (
    *("1g.5gb", "1g.5gb+me", "1g.10gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb", "7g.141gb", "1g.18gb+me"),
    *("1c.3g.20gb", "1c.3g.40gb", "2c.7g.80gb", "1c.1g.10gb+me", "1g.24gb+gfx", "1g.24gb+me.all", "1g.24gb-me"),
    *("2g.48gb+gfx", "2g.48gb-me", "4g.96gb+gfx"),
)
"""As NVIDIA's MIG User Guide and ``nvidia-smi mig -lgip`` have them, of A100 to RTX PRO 6000."""


@pytest.mark.parametrize("name", NVIDIAS)
def test_nvidias_names_of_profiles_are_offered_and_understood_as_they_are(name: str) -> None:
    assert parse_profile(name)
    assert parse_share({"mig_profile": name}).as_options() == {"mig_profile": name}
    (device,) = parse_spec(f"big-1000gb[{name}+1g.5gb+me]:1")
    assert [instance.profile for instance in device.instances] == [name, "1g.5gb+me"]


@pytest.mark.parametrize("name", ["", "g.5gb", "0g.5gb", "1g.0gb", "1g.5gb+", "1g", "c.1g.5gb", "1g.5gb me", "1G.5gb"])
def test_what_is_no_name_of_a_profile_is_refused(name: str) -> None:
    assert parse_profile(name) is None
    with pytest.raises(PublicError, match="must be a MIG profile such as"):
        parse_share({"mig_profile": name})


def test_a_compute_instance_shares_memory_so_the_device_does_not_hold_it() -> None:
    whole, part = parse_share({"mig_profile": "3g.20gb"}), parse_share({"mig_profile": "1c.3g.20gb"})
    assert share_enforcement(whole, "cgroup-v1", False) == HARDWARE
    assert share_enforcement(part, "cgroup-v1", False) == COOPERATIVE


NAMES = st.one_of(st.sampled_from(NVIDIAS), st.sampled_from(["", "odd name", "1g", "1g.5gb+ME", "MIG 1g.5gb"]))
WHY = st.sampled_from([None, None, None, "it does not answer"])
INSTANCES = st.builds(MigInstance, st.just(""), NAMES, st.sampled_from([0, 1, 4864, 20_000]), cordoned=WHY)


@st.composite
def inventories(draw: st.DrawFn) -> tuple[Device, ...]:
    devices = []
    for number in range(draw(st.integers(0, 6))):
        layout = draw(st.one_of(st.none(), st.lists(INSTANCES, max_size=4)))
        instances = tuple(
            MigInstance(f"MIG-{number}-{n}", i.profile, i.memory_mib, cordoned=i.cordoned)
            for n, i in enumerate(layout or ())
        )
        devices.append(
            Device(
                uuid=f"GPU-{number}",
                model=draw(st.sampled_from(["a100-40gb", "h200", "unknown", "Odd Name", ""])),
                memory_mib=draw(st.sampled_from([0, 1, 1000, 40_960, 143_771, 3_000_000])),
                order=number,
                instances=instances,
                cordoned=draw(WHY),
                mig=layout is not None,
            )
        )
    return tuple(devices)


@settings(max_examples=1000 if FULL_STRESS else 30)
@given(inventories())
def test_every_offer_is_accepted_as_a_request_and_starts(devices: tuple[Device, ...]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Path(folder), {})
        lab.pool.set_inventory(Inventory(devices))
        offers = offers_view(lab.pool, "ada", fresh=True)["offers"]
        json.dumps(offers)
        assert any(offer["share"] == {"cpu_only": True} and offer["possible"] for offer in offers)
        for number, offer in enumerate(offers):
            share = parse_share(offer["share"])
            assert parse_share(form(offer["share"])) == share
            if not offer["possible"]:
                assert offer["why"]
                assert not offer["free_now"]
                continue
            reservation = lab.ask(f"p{number}", **offer["share"])
            assert lab.state(reservation) == "granted", (offer, reservation)
            in_service = {d.uuid for d in devices if not d.cordoned}
            assert {h.device_uuid for h in lab.pool.get(reservation.id).holdings} <= in_service
            lab.run(reservation)
            lab.pool.end(reservation.id, Reason.COMPLETED, "")
            lab.pool.gone(reservation.id, Reason.COMPLETED, "")
            assert lab.pool.get(reservation.id).state is State.ENDED
        lab.ledger.close()


def form(share: dict[str, Any]) -> dict[str, Any]:
    """The share that the form sends for an offer."""
    if share.get("cpu_only"):
        sent = options_from_form({"offer": ["cpu_only"]})
    else:
        name = next(name for name in ("gpus", "memory_gib", "mig_profile") if name in share)
        sent = options_from_form({"offer": [f"{name}:{share[name]}:{share.get('model', '')}"]})
    return sent


# --- the GPUs unknown, the node not


def test_sessions_without_a_gpu_start_while_nothing_is_known_of_the_gpus(tmp_path: Path) -> None:
    lab = Lab(tmp_path, {}, "a100", "a100")
    first, waiting = lab.ask("ada", gpus=2), lab.ask("bob", gpus=1)
    promised = lab.pool.forecast()[waiting.id].latest_start
    lab.pool.lose_sight("the NVIDIA driver does not answer: Unknown Error")
    assert lab.state(lab.ask("eve", cpu_only=True)) == "granted"
    lab.pool.end(first.id, Reason.COMPLETED, "")
    lab.later(5)
    assert lab.state(waiting) == "queued"
    assert lab.pool.forecast()[waiting.id].latest_start == promised
    by_share = {str(o["share"]): o for o in offers_view(lab.pool, "ada", fresh=True)["offers"]}
    assert by_share[str({"cpu_only": True})]["possible"]
    assert {o["possible"] for o in by_share.values() if "gpus" in o["share"]} == {False}
    assert all("does not answer" in d["cordoned"] for d in devices_view(lab.pool, None)["devices"])
    assert "sessions without a GPU work" in health_view(lab.pool, True)["warnings"][0]
    lab.pool.set_inventory(Inventory(pool("a100", "a100")))
    lab.later(5)
    assert lab.state(waiting) == "granted"
    assert health_view(lab.pool, True) == {"status": "ok", "agent": True, "ledger": True, "live": 2, "warnings": []}


def offer_of(service: Service, **share: Any) -> Any:
    found = (o for o in service.ask("GET", "offers")["offers"] if o["share"] == share)
    return next(found, {"free_now": None})


def test_at_a_fresh_start_with_a_broken_driver_sessions_without_a_gpu_are_offered_and_start(tmp_path: Path) -> None:
    (tmp_path / "faults.json").write_text(json.dumps({"unknown": True}))
    with running_service(tmp_path, simulate="a100-40gb:2", wait_for_agent=False) as service:
        eventually(lambda: service.ask("GET", "devices")["note"].startswith("nothing is known about the GPUs"), 60)
        (offer,) = service.ask("GET", "offers")["offers"]
        assert (offer["share"], offer["possible"], offer["when"]) == ({"cpu_only": True}, True, "Starts now")
        held = service.create(share={"cpu_only": True}, server_name="cpu")
        assert held["state"] == "granted"
        begun = service.ask("POST", f"reservations/{held['id']}/starting", json={})
        service.node.launch("sleep", "300", reservation_id=held["id"], generation=begun["generation"], share=[])
        assert service.node.state(held["id"]) == "running"
        assert service.health() == "degraded"
        service.node.driver_tells()
        eventually(lambda: offer_of(service, gpus=1, model="a100-40gb")["free_now"] == 2, 60)
        assert service.health() == "ok"


def test_one_lost_gpu_of_two_leaves_the_other_offered(tmp_path: Path) -> None:
    lost = {"GPU-simulated-0001": "the driver does not tell its UUID: GPU is lost"}
    (tmp_path / "faults.json").write_text(json.dumps({"lost": lost}))
    with running_service(tmp_path, simulate="a100-40gb:2") as service:
        assert offer_of(service, gpus=1, model="a100-40gb")["free_now"] == 1
        held = service.create(share={"gpus": 1})
        assert [h["device_uuid"] for h in held["placement"]] == ["GPU-simulated-0000"]
        cordoned = {d["uuid"]: d["cordoned"] for d in service.ask("GET", "devices")["devices"]}
        assert cordoned == {"GPU-simulated-0000": None, **lost}
        assert service.ask("GET", "health")["warnings"] == [
            "1 of 2 GPUs are out of service, or a part of them: see the devices"
        ]
