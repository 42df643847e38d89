"""What is valid in a limits file but probably not intended is told with its line; a restriction that is about no device
is not lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pools import Lab, mig_device, pool

from timeshare.reservations.devices.model import Device, Inventory
from timeshare.reservations.errors import PublicError
from timeshare.reservations.kind import Kind
from timeshare.reservations.limits.load import parse_limits
from timeshare.reservations.limits.pools import membership
from timeshare.reservations.limits.schema import Limits
from timeshare.reservations.limits.site import Site
from timeshare.reservations.placement import slots_of
from timeshare.reservations.reservation import Reason
from timeshare.reservations.review import judge
from timeshare.reservations.service.limits_views import explanation
from timeshare.reservations.service.offers import offers_view

HOUR = 3600
MOMENTS = 'begins: "2099-01-01 09:00", ends: "2099-01-01 10:00"'
HERE = Site(slots_of(pool("a100-40gb", "a100-40gb", "t4", node="gpu1")), groups=frozenset({"cms", "atlas"}))

ALONE: dict[str, tuple[str, str]] = {
    "gpus below largest": (
        "defaults:\n  largest: 4\n  gpus: 2",
        "3: defaults.gpus: largest is 4 and gpus is 2: a share",
    ),
    "gpus of a group below everybody's largest": (
        "defaults: {largest: 4}\ngroups:\n  a:\n    each:\n      gpus: 1",
        "5: groups.a.each.gpus: largest is 4 (defaults) and gpus is 1",
    ),
    "a person's largest above the group's gpus": (
        "groups:\n  a: {members: [ada], each: {gpus: 1}}\nusers:\n  ada: {largest: 2}",
        "4: users.ada.largest: largest is 2 and gpus is 1 (groups.a.each)",
    ),
    "a default time above the longest of another scope": (
        "defaults:\n  sessions: {max_time: 2h}\ngroups:\n  a:\n    each:\n      sessions:\n        default_time: 3h",
        "7: groups.a.each.sessions.default_time: sessions.default_time is 3 h and sessions.max_time is 2 h (defaults)",
    ),
    "a default time above what is built in": (
        "defaults:\n  jobs:\n    default_time: 4d",
        "3: defaults.jobs.default_time: jobs.default_time is 96 h and jobs.max_time is 72 h (built in)",
    ),
    "an extension beyond all": ("defaults:\n  extension: {total: 1h, longest: 2h}", "2: defaults.extension.longest"),
    "a quota above the group's gpus": ("groups:\n  a:\n    gpus: 2\n    quota: 4", "4: groups.a.quota: is 4 and gpus"),
    "a member's gpus above the group's": (
        "groups:\n  a:\n    gpus: 2\n    each:\n      gpus: 4",
        "5: groups.a.each.gpus: is 4 and all of the group may hold 2 together",
    ),
    "a pool behind one for all": (
        "groups: {cms: {}}\npools:\n  all: {}\n  cms:\n    models: [a100*]\n    groups: [cms]",
        "4: pools.cms: never has a device: the pool all before it names all that it names",
    ),
    "a pool behind a wider pattern": (
        'pools:\n  a: {models: ["a1*"]}\n  b: {models: [a100-40gb]}',
        "3: pools.b: never",
    ),
    "a pool for nobody": ("pools:\n  a:\n    groups: []", "3: pools.a.groups: is empty"),
    "no models": ("defaults:\n  models: []", "2: defaults.models: is empty"),
    "an event for nobody": (f"events:\n  - {{name: e, {MOMENTS}, gpus: 1}}", "2: events.0: 'e' is for no groups"),
    "preemption on a cluster": (
        "pools:\n  c:\n    engines: [slurm]\n    preempt: {}",
        "4: pools.c.preempt: does not hold in the pool c (slurm): an engine such as Slurm places and orders",
    ),
    "GPUs kept on a cluster": (
        "pools:\n  c:\n    engines: [slurm]\n    keep_for_sessions: {gpus: 1}",
        "4: pools.c.keep_for_sessions: does not hold in the pool c",
    ),
    "GPUs of a person on a cluster": ("pools:\n  c:\n    engines: [slurm]\n    gpus: 1", "4: pools.c.gpus: does not"),
    "maintenance of a cluster": (
        f"pools: {{c: {{engines: [slurm]}}}}\nmaintenance:\n  - {{name: m, {MOMENTS},\n     pool: c}}",
        "4: maintenance.0.pool: does not hold in the pool c: an engine such as Slurm",
    ),
    "giving back on a cluster": (
        "pools:\n  c:\n    engines: [slurm]\n    idle: {then: give_back}",
        "4: pools.c.idle.then: is give_back, and an engine such as Slurm takes back",
    ),
}
WITH_DEVICES: dict[str, tuple[str, str]] = {
    "a model that no device has": (
        "defaults:\n  models: [t4, a100-80gb]",
        "2: defaults.models.1: no device here is of the model 'a100-80gb'; models here: a100-40gb, t4; did you mean",
    ),
    "a weight of no device": ("weights:\n  v100: 0.5", "2: weights.v100: no device here is of the model 'v100'"),
    "a node that there is not": (
        "pools:\n  p:\n    nodes: [gpu2]",
        "3: pools.p.nodes.0: no device here is of the node",
    ),
    "an engine that there is not": ("pools:\n  p:\n    engines: [slrum]", "3: pools.p.engines.0: no device here is of"),
    "a pool without devices": ("pools:\n  p: {models: [v100]}", "2: pools.p: has no device: nothing here is what it"),
    "a pool whose devices others have": (
        'pools:\n  a: {models: [t4, a100-40gb]}\n  b: {models: ["?4"]}',
        "3: pools.b: has no device: all that it names belong to pools before it",
    ),
    "an event of more than its pool": (
        f"pools: {{t: {{models: [t4]}}}}\nevents:\n  - {{name: e, {MOMENTS}, users: [a], pool: t,\n     gpus: 4}}",
        "4: events.0.gpus: 'e' keeps 4 GPUs and the pool t has 1 that match",
    ),
    "an event of more than there are": (
        f"events:\n  - {{name: e, {MOMENTS}, users: [a], gpus: 9}}",
        "2: events.0.gpus: 'e' keeps 9 GPUs and this site has 3",
    ),
    "maintenance of no node": (
        f"maintenance:\n  - {{name: m, {MOMENTS},\n     nodes: [gpu2]}}",
        "3: maintenance.0.nodes.0: no device here is of the node 'gpu2'; nodes here: gpu1; did you mean gpu1?",
    ),
    "quotas of more than there are": (
        "groups:\n  cms: {quota: 2}\n  atlas:\n    quota: 2",
        "4: groups.atlas.quota: is 2, 4 with the groups before it, and this machine has 3 GPUs",
    ),
    "more kept than there are": (
        "pools:\n  p:\n    models: [t4]\n    keep_for_sessions:\n      gpus: 2",
        "5: pools.p.keep_for_sessions.gpus: keeps 2 GPUs for sessions and the pool p has 1",
    ),
    "a misspelt group": (
        "groups:\n  cmms: {}",
        "2: groups.cmms: nobody is in this group, as far as JupyterHub has told",
    ),
}


def warnings(text: str, site: Site | None) -> list[str]:
    judged = judge(text, site, "limits.yaml")
    assert judged.is_valid, judged.errors
    return list(judged.warnings)


@pytest.mark.parametrize("name", ALONE)
def test_what_is_hardly_meant_is_told_by_the_file_alone(name: str) -> None:
    text, said = ALONE[name]
    assert any(one.startswith(f"limits.yaml, line {said}") for one in warnings(text, None)), warnings(text, None)


@pytest.mark.parametrize("name", WITH_DEVICES)
def test_what_fits_no_device_is_told_where_devices_are_known(name: str) -> None:
    text, said = WITH_DEVICES[name]
    assert warnings(text, None) == []
    assert any(one.startswith(f"limits.yaml, line {said}") for one in warnings(text, HERE)), warnings(text, HERE)


def test_what_is_meant_is_not_warned_about() -> None:
    text = """\
weights: {t4: 0.2, "a100*": 1}
defaults: {largest: 2, gpus: 2, models: [t4, "a100*"], sessions: {max_time: 1h}}
groups:
  cms: {quota: 2, gpus: 3}
  atlas: {quota: 1}
  nobody_yet: {}
pools:
  big: {models: ["a100*"], groups: [cms], keep_for_sessions: {gpus: 1}}
  others: {}
"""
    assert warnings(text, HERE) == []


def test_rules_about_devices_that_nobody_has_seen_yet_are_not_judged() -> None:
    text = (
        "defaults: {models: [h100]}\npools: {far: {engines: [slurm], models: [h100], groups: []}}\nweights: {h100: 2}"
    )
    unseen = Site(HERE.slots, ("slurm",))
    found = judge(text, unseen)
    assert [one for one in found.warnings if "no device" in one] == []
    assert "the devices of slurm are not known now" in found.note


def test_a_part_of_a_pool_that_is_a_clusters_is_told_what_does_not_hold_there() -> None:
    far = Device(uuid="S-1", model="h100", memory_mib=80_000, node="n1", order=9, engine="slurm")
    site = Site((*HERE.slots, *slots_of([far])))
    (found,) = warnings("pools:\n  all:\n    preempt: {}", site)
    assert "line 3: pools.all.preempt: does not hold in that part of the pool all which is slurm" in found


def test_where_nothing_runs_on_this_machine_order_is_the_engines() -> None:
    far = Device(uuid="S-1", model="h100", memory_mib=80_000, node="n1", order=9, engine="slurm")
    told = warnings("fair_share: {}\ngroups:\n  cms:\n    members: [a]\n    quota: 1", Site(slots_of([far])))
    assert [one.partition(": does not hold")[0] for one in told] == [
        "limits.yaml, line 1: fair_share",
        "limits.yaml, line 5: groups.cms.quota",
    ]


# --- fail closed


def refused(lab: Lab, owner: str, kind: Kind = Kind.SESSION, seconds: int = HOUR, **share: Any) -> str:
    with pytest.raises(PublicError) as caught:
        lab.ask(owner, kind, seconds, **share)
    return caught.value.message


CMS = {"cms": {"members": ["ada"]}}
UNMATCHED = {
    "a model that is not here": {"cmsonly": {"models": ["a100-80gb"], "groups": ["cms"]}},
    "a node that is not here": {"cmsonly": {"nodes": ["gpu7"], "groups": ["cms"]}},
    "behind one for all": {"all": {}, "cmsonly": {"models": ["a100-40gb"], "groups": ["cms"]}},
}


@pytest.mark.parametrize("name", UNMATCHED)
def test_a_restriction_that_is_about_no_device_lets_nobody_else_in(tmp_path: Path, name: str) -> None:
    lab = Lab(tmp_path, {"groups": CMS, "pools": UNMATCHED[name]}, "a100-40gb", "a100-40gb")
    said = refused(lab, "ben")
    assert "the pool cmsonly is for cms (it names no device of its own here" in said
    assert lab.ask("ada").holds
    assert not any(
        offer["possible"] for offer in offers_view(lab.pool, "ben", True)["offers"] if "a100" in offer["text"]
    )
    row = next(row for row in explanation(lab.pool, "ben")["pools"] if row["name"] == "cmsonly")
    assert (row["gpus"], row["open"]) == (0, False)


def test_kinds_and_times_of_a_pool_without_devices_hold_too(tmp_path: Path) -> None:
    lab = Lab(tmp_path, {"pools": {"p": {"models": ["v100"], "kinds": ["session"], "max_time": "1h"}}}, "t4")
    assert "the pool p takes no batch" in refused(lab, "ada", Kind.BATCH)
    assert "the longest time limit in the pool p is 1 h" in refused(lab, "ada", seconds=2 * HOUR)
    assert lab.ask("ada").holds


def test_a_last_pool_for_all_leaves_the_rest_open(tmp_path: Path) -> None:
    pools = {"cmsonly": {"models": ["a100-80gb"], "groups": ["cms"]}, "others": {}}
    lab = Lab(tmp_path, {"groups": CMS, "pools": pools}, "a100-40gb")
    assert lab.ask("ben").holds


def test_devices_in_no_pool_are_open_while_every_pool_has_some(tmp_path: Path) -> None:
    lab = Lab(tmp_path, {"groups": CMS, "pools": {"p": {"models": ["a100*"], "groups": ["cms"]}}}, "a100-40gb", "t4")
    assert lab.ask("ben").terms.model == "t4"


def test_pools_that_share_devices_in_other_words_restrict_nothing_more(tmp_path: Path) -> None:
    pools = {"teaching": {"models": ["t4"], "groups": ["cms"]}, "research": {"models": ["*"], "groups": ["atlas"]}}
    lab = Lab(tmp_path, {"groups": {**CMS, "atlas": {}}, "pools": pools}, "t4")
    assert lab.ask("ada").holds


def test_a_restriction_holds_again_for_its_own_devices_once_they_are_seen(tmp_path: Path) -> None:
    lab = Lab(tmp_path, {"groups": CMS, "pools": {"big": {"models": ["a100-80gb"], "groups": ["cms"]}}}, "t4")
    refused(lab, "ben")
    lab.pool.set_inventory(Inventory(pool("t4", "a100-80gb")))
    assert lab.ask("ben").terms.model == "t4"
    assert lab.state(lab.ask("ben")) == "queued"


def test_a_device_out_of_service_is_still_one_of_its_pool(tmp_path: Path) -> None:
    lab = Lab(tmp_path, {"groups": CMS, "pools": {"big": {"models": ["a100*"], "groups": ["cms"]}}}, "a100-40gb", "t4")
    lab.pool.cordon("GPU-0", "it fell off the bus")
    assert lab.ask("ben").terms.model == "t4"


def test_every_device_is_in_one_pool_and_restrictions_concern_what_there_is() -> None:
    slots = slots_of([mig_device("1g.5gb", "2g.10gb"), *pool("t4", "v100")])
    limits = Limits.model_validate(json.loads('{"pools": {"a": {"models": ["t4"]}, "b": {"kinds": []}, "c": {}}}'))
    shared = membership(limits.pools, slots)
    together = [slot for mine in shared.of.values() for slot in mine]
    assert sorted(slot.key for slot in together) == sorted(slot.key for slot in slots)
    assert shared.unmatched == {}
    assert parse_limits("{}") == Limits()


# --- what people read


def test_idle_rules_are_told_as_they_are_in_force(tmp_path: Path) -> None:
    limits = {
        "defaults": {"idle": {"after": "1h", "per_gpu": True, "then": "stop", "warn": ["5m"]}},
        "pools": {"fast": {"models": ["t4"], "idle": {"after": "20m", "then": "give_back"}}},
    }
    lab = Lab(tmp_path, limits, *["a100"] * 4, "t4")
    lab.pool.can_give_back = True
    lab.run(lab.ask("ada", gpus=4, model="a100"))
    told = explanation(lab.pool, "ada")["idle"]
    assert "A session: after 1 h without work and input the session ends, after a warning 5 min before" in told
    assert any(text.startswith("A session of 4 GPUs") and "after 15 min without" in text for text in told)
    assert any(
        text.startswith("In the pool fast: after 20 min without work and input the GPU goes back") for text in told
    )
    (now,) = [text for text in told if text.startswith("Your 4 whole a100 now")]
    assert "after 15 min without work and input the session ends" in now
    lab.pool.can_give_back = False
    assert any(text.startswith("In the pool fast") and "the session ends" in text for text in idle_of(lab))


def idle_of(lab: Lab) -> list[str]:
    return list(explanation(lab.pool, "ada")["idle"])


def test_maintenance_of_some_nodes_is_announced_for_these(tmp_path: Path) -> None:
    begins, ends = "2026-11-20 09:00", "2026-11-20 10:00"
    when = {"begins": begins, "ends": ends}
    limits = {
        "groups": {"cms": {}},
        "pools": {"p": {}},
        "maintenance": [
            {"name": "a", "nodes": ["gpu1", "gpu2"], **when},
            {"name": "b", "nodes": ["gpu3"], "pool": "p", **when},
            {"name": "c", **when},
        ],
        "events": [{"name": "d", "gpus": 2, "pool": "p", "groups": ["cms"], **when}],
    }
    lab = Lab(tmp_path, limits, "t4")
    told = [text.partition("): ")[2] for text in offers_view(lab.pool, "ada", True)["announced"]]
    assert told == [
        "the nodes gpu1, gpu2, maintenance (a)",
        "the node gpu3 of the pool p, maintenance (b)",
        "all devices, maintenance (c)",
        "2 GPUs of the pool p, kept for d",
    ]


def test_a_budget_says_when_it_refills_by_the_clock_of_the_file(tmp_path: Path) -> None:
    limits = {"timezone": "Asia/Tokyo", "defaults": {"budgets": [{"gpu_hours": 1, "every": "day"}]}}
    lab = Lab(tmp_path, limits, "t4")
    said = refused(lab, "ada", seconds=2 * HOUR)
    assert "00:00 (Asia/Tokyo)" in said
    assert "Z" not in said.partition("refills at ")[2]
    (budget,) = explanation(lab.pool, "ada")["budgets"]
    assert budget["refills"].endswith("00:00 (Asia/Tokyo)")


def test_every_reason_of_an_end_is_in_the_documents() -> None:
    told = (Path(__file__).parent.parent / "docs" / "how_it_works.md").read_text()
    (line,) = [line for line in told.splitlines() if line.startswith("Reasons: ")]
    assert set(line.removeprefix("Reasons: ").strip("`.").split()) == {reason.value for reason in Reason}
