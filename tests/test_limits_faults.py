"""Sixty limits files with a fault each, or several: every one is found, with its line; the shipped files are clean."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from timeshare.reservations.limits.load import LimitsError, parse_limits
from timeshare.reservations.review import judge

CONFIG = Path(__file__).parent.parent / "hub_config"
MOMENTS = 'begins: "2099-01-01 09:00", ends: "2099-01-01 10:00"'

WRONG: dict[str, tuple[str, str]] = {
    "unlimited by digits": (f"\ndefaults: {{gpus: 1{'0' * 400}}}", "2: defaults.gpus: must be a number from 0 to"),
    "a number beyond all floats": ("defaults:\n  largest: 1e400", "2: defaults.largest: must be a number"),
    "a large float": ("defaults:\n  gpus: 1e308", "2: defaults.gpus: must be a number from 0 to 1000000000"),
    "NaN": ("defaults:\n  shares: .nan", "2: defaults.shares: must be a number"),
    "infinity": ("weights:\n  a100: .inf", "2: weights.a100: must be a number"),
    "below zero": ("groups:\n  a:\n    quota: -1", "3: groups.a.quota: must be a number from 0"),
    "a word for a number": ("users:\n  ada:\n    waiting: some", "3: users.ada.waiting: must be a number"),
    "half a count": ("defaults:\n  sessions:\n    at_once: 1.5", "3: defaults.sessions.at_once: must be a whole"),
    "a wrong unit": ("stop:\n  save_grace: 5y", "2: stop.save_grace: must be a duration such as"),
    "a duration beyond ten years": ("retention:\n  charges: 9999d", "2: retention.charges: must be a duration"),
    "a duration below zero": ("notices:\n  - 30m\n  - -5", "3: notices.1: must be a duration"),
    "too short to be a session": (
        "defaults:\n  jobs:\n    max_time: 5s",
        "3: defaults.jobs.max_time: must be at least",
    ),
    "too short to be kept": ("retention:\n  decisions: 1h", "2: retention.decisions: must be at least 1d"),
    "too short to be started": ("\n\nstart_within: 1s", "3: start_within: Input should be greater"),
    "a day of waiting in seconds": ("fair_share:\n  max_age: 5s", "2: fair_share.max_age: Input should be greater"),
    "no place in the queue": ("requests_waiting: 0", "1: requests_waiting: Input should be greater"),
    "a fraction of all": ("fractions: [0.5, 1]", "1: fractions: fractions must lie between 0 and 1"),
    "all of the memory and more": ("host_memory_fraction: 1.5", "1: host_memory_fraction: Input should be less"),
    "yes for true": ("defaults:\n  idle:\n    per_gpu: yes", "3: defaults.idle.per_gpu: must be true or false"),
    "too few cores": ("defaults:\n  sessions:\n    max_cpus: 0.01", "3: defaults.sessions.max_cpus: must be a number"),
    "too little memory": (
        "defaults:\n  jobs:\n    max_host_memory_gib: 0.1",
        "3: defaults.jobs.max_host_memory_gib: must be a number of GiB",
    ),
    "an unknown key": ("defaults:\n  gpu: 4", "2: defaults.gpu: no such key; known keys: shapes"),
    "an unknown key of a pool": ("pools:\n  p:\n    model: [t4]", "3: pools.p.model: no such key; known keys: models"),
    "an unknown key of an event": (
        f"events:\n  - {{name: e, {MOMENTS}, gpus: 1}}\n  - name: f\n    start: now",
        "4: events.1.start: no such key; known keys: name",
    ),
    "a missing key": ("events:\n  - name: class\n    gpus: 1", "2: events.0.begins: is missing"),
    "no hours in a budget": ("defaults:\n  budgets:\n    - every: day", "3: defaults.budgets.0.gpu_hours: is missing"),
    "an unknown window": (
        "defaults:\n  budgets:\n    - gpu_hours: 1\n      every: year",
        "4: defaults.budgets.0.every: Input should be 'day', 'week' or 'month'",
    ),
    "an unknown way out": ("defaults:\n  idle:\n    then: kill", "3: defaults.idle.then: Input should be 'give_back'"),
    "an unknown shape": ("defaults:\n  shapes: [whole, cube]", "2: defaults.shapes.1: Input should be"),
    "an unknown kind": ("pools:\n  p:\n    kinds: [batch, cron]", "3: pools.p.kinds.1: Input should be"),
    "an unknown method": ("fair_share:\n  method: lottery", "2: fair_share.method: Input should be 'fair_tree'"),
    "a pattern with a space": ("pools:\n  p:\n    models: [a 100]", "3: pools.p.models.0: String should match"),
    "a name nobody sees": ('groups:\n  "a\\u202e": {}', "2: groups.a"),
    "an empty name": ('groups:\n  "": {}', "2: groups."),
    "an unknown zone": ("\ntimezone: Mars/Olympus", "2: timezone: must be a time zone"),
    "times of no week": (
        'pools:\n  p:\n    keep_for_sessions:\n      gpus: 1\n      when: "9 to 5"',
        "5: pools.p.keep_for_sessions.when: '9 to 5' are not times of a week",
    ),
    "an empty night": (
        'pools:\n  p:\n    preempt:\n      when: "Mon 08:00-08:00"',
        "4: pools.p.preempt.when: 'Mon 08:00-08:00': 08:00-08:00 is empty",
    ),
    "a list for a section": ("groups:\n  cms: [ada]", "2: groups.cms: Input should be"),
    "a section for a value": ("defaults:\n  gpus: {most: 4}", "2: defaults.gpus: must be a number"),
    "a key twice": ("groups:\n  a: {}\n  b: {}\n  a: {}", "4: 'a' stands here twice (first in line 2)"),
    "an alias": ("defaults: &d {}\ngroups: *d", "2: anchors (&) and aliases (*) are not allowed"),
    "a tag": ("defaults:\n  gpus: !number 4", "2: the tag !number is not allowed"),
    "a key that is a list": ("defaults: {}\n? [a, b]\n: 1", "2: a key must be text"),
    "no mapping": ("- defaults", "1: must be keys and values"),
    "no YAML": ("defaults: {}\ngroups: {a: [}", "2: is not YAML"),
    "an unknown parent": ("groups:\n  a:\n    inherits: z", "3: groups.a.inherits: there is no entry 'z' in groups"),
    "parents in a circle": (
        "groups:\n  a: {inherits: b}\n  b: {inherits: a}",
        "3: groups.b.inherits: groups inherit in",
    ),
    "a pool for an unknown group": (
        "groups:\n  cms: {}\npools:\n  p:\n    groups:\n      - cms\n      - atlas",
        "7: pools.p.groups.1: there is no entry 'atlas' in groups; known: cms",
    ),
    "an event for an unknown group": (
        f"groups:\n  cms: {{}}\nevents:\n  - {{name: e, {MOMENTS}, gpus: 1,\n     groups: [cmss]}}",
        "5: events.0.groups.0: there is no entry 'cmss' in groups; known: cms",
    ),
    "an event in an unknown pool": (
        f"events:\n  - {{name: e, {MOMENTS}, gpus: 1}}\n  - {{name: f, {MOMENTS}, gpus: 1,\n     pool: big}}",
        "4: events.1.pool: there is no entry 'big' in pools; known: none",
    ),
    "maintenance of an unknown pool": (
        f"pools: {{a: {{}}}}\nmaintenance:\n  - {{name: m, {MOMENTS},\n     pool: b}}",
        "4: maintenance.0.pool: there is no entry 'b' in pools; known: a",
    ),
    "a date that is none": (
        "maintenance:\n  - name: m\n    begins: soon\n    ends: later",
        "4: maintenance.0.ends: 'later' is not a moment",
    ),
    "the 31st of February": (
        'maintenance:\n  - name: m\n    begins: "2026-02-31 00:00"\n    ends: "2026-03-01 00:00"',
        "3: maintenance.0.begins: '2026-02-31 00:00' is not a moment",
    ),
    "an end before the beginning": (
        'maintenance:\n  - name: m\n    begins: "2026-12-02 09:00"\n    ends: "2026-12-01 09:00"',
        "4: maintenance.0.ends: 'm': ends (2026-12-01 09:00) is not after begins",
    ),
    "a default beyond the longest": (
        "defaults:\n  sessions:\n    max_time: 2h\n    default_time: 3h",
        "4: defaults.sessions.default_time: default_time (10800 s) is longer than max_time",
    ),
    "cores beyond the most": (
        "groups:\n  a:\n    each:\n      jobs:\n        default_cpus: 8\n        max_cpus: 4",
        "5: groups.a.each.jobs.default_cpus: default_cpus (8 cores) is more than max_cpus (4 cores)",
    ),
    "memory beyond the most": (
        "users:\n  ada:\n    sessions:\n      max_host_memory_gib: 4\n      default_host_memory_gib: 8",
        "5: users.ada.sessions.default_host_memory_gib: default_host_memory_gib (8 GiB) is more than",
    ),
    "parked where nothing can be": (
        "pools:\n  p:\n    idle:\n      then: park",
        "4: pools.p.idle.then: is park, and parking.host_memory_gib is 0",
    ),
    "jobs forgotten before their files": (
        "job_files:\n  keep: 60d\nretention:\n  reservations: 30d",
        "4: retention.reservations: retention.reservations is 2592000 s",
    ),
    "files kept beyond what is known of them": (
        "job_files:\n  keep: 500d",
        "2: job_files.keep: retention.reservations is 34560000 s",
    ),
}


def faults(text: str) -> list[str]:
    with pytest.raises(LimitsError) as caught:
        parse_limits(text, "limits.yaml")
    return str(caught.value).splitlines()


def test_there_are_sixty_of_them() -> None:
    assert len(WRONG) >= 60


@pytest.mark.parametrize("name", WRONG)
def test_a_fault_is_found_with_its_line(name: str) -> None:
    text, said = WRONG[name]
    assert any(fault.startswith(f"limits.yaml, line {said}") for fault in faults(text)), faults(text)


def test_all_faults_of_a_file_are_told_in_its_order_and_nothing_that_only_follows_from_them() -> None:
    text = f"""\
defaults: {{gpus: many}}
groups:
  cms: {{quota: -1}}
  atlas: 5
  theory: {{inherits: nobody}}
  broken: {{each: {{sessions: {{default_time: 3h, max_time: 2h, default_cpus: 9, max_cpus: 4}}}}}}
pools:
  a: {{groups: [cms, atlas, nobody], models: ["bad pattern"]}}
  b: {{idle: {{then: park}}}}
  a: {{}}
events:
  - {{name: e, begins: never, ends: "2099-01-01 00:00", gpus: x, pool: nowhere}}
  - {{name: f, {MOMENTS}, groups: [cmss], gpus: 1}}
  - {{name: g, {MOMENTS}, pool: c}}
maintenance:
  - {{name: m, begins: "2026-12-02 09:00", ends: "2026-12-01 09:00", nodes: [n*]}}
  - 5
colour: blue
"""
    told = faults(text)
    places = [fault.removeprefix("limits.yaml, line ").split(":")[:2] for fault in told]
    assert [(int(line), key.strip()) for line, key in places] == [
        (1, "defaults.gpus"),
        (3, "groups.cms.quota"),
        (4, "groups.atlas"),
        (5, "groups.theory.inherits"),
        (6, "groups.broken.each.sessions.default_time"),
        (6, "groups.broken.each.sessions.default_cpus"),
        (8, "pools.a.models.0"),
        (8, "pools.a.groups.2"),
        (9, "pools.b.idle.then"),
        (10, "'a' stands here twice (first in line 8)"),
        (12, "events.0.gpus"),
        (12, "events.0.pool"),
        (12, "events.0.begins"),
        (13, "events.1.groups.0"),
        (14, "events.2.gpus"),
        (14, "events.2.pool"),
        (16, "maintenance.0.ends"),
        (17, "maintenance.1"),
        (18, "colour"),
    ]


def _only_tops(text: str) -> set[str]:
    return {line.split(":")[0] for line in text.splitlines() if line and line[0].isalpha() and ":" in line}


def test_any_two_faults_are_both_told_wherever_they_are() -> None:
    """Of all pairs whose texts can stand one below the other, without saying a key twice."""
    plain = {name: text for name, (text, _) in WRONG.items() if _can_be_joined(text)}
    tried = 0
    for one, other in itertools.permutations(plain, 2):
        first, second = plain[one], plain[other]
        if _only_tops(first) & _only_tops(second) or not _only_tops(first) or not _only_tops(second):
            continue
        below = len(first.splitlines())
        told = faults(f"{first}\n{second}\n")
        line, _, said = WRONG[other][1].partition("; known:")[0].partition(":")  # by then more is known
        before = WRONG[one][1].partition("; known:")[0]
        assert any(fault.startswith(f"limits.yaml, line {before}") for fault in told), (one, other, told)
        moved = f"limits.yaml, line {int(line) + below}:{said}"
        if "first in line" not in said:  # that line has moved, too
            assert any(fault.startswith(moved) for fault in told), (one, other, told)
        tried += 1
    assert tried > 1000


def _can_be_joined(text: str) -> bool:
    return not any(word in text for word in ("&d", "[}", "- defaults"))


@pytest.mark.parametrize("name", ["limits.yaml", "limits_small_lab.yaml", "limits_lab.yaml"])
def test_the_shipped_files_are_clean(name: str) -> None:
    judged = judge((CONFIG / name).read_text(), None)
    assert judged.errors == ()
    assert judged.warnings == ()
    assert "are not known" in judged.note
