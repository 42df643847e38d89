"""Every value of the limits file, on every engine: it holds there, or the file says at that rule that it does not, and
who states it where it cannot hold is warned."""

from __future__ import annotations

import itertools
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pools import Lab, pool
from test_external import Engine, lab_with_engine
from test_limits_numbers import LEAVES, Path_, written

from timeshare.hub_config.limits_findings import warnings_at_start
from timeshare.reservations.errors import PublicError
from timeshare.reservations.kind import Kind
from timeshare.reservations.limits.engines import ANY, DIFFERENCES, difference, with_differences
from timeshare.reservations.limits.load import LimitsError, parse_limits, read_plain
from timeshare.reservations.limits.schema import Limits
from timeshare.reservations.limits.site import Site
from timeshare.reservations.limits.values import Where
from timeshare.reservations.placement import slots_of
from timeshare.reservations.review import Review, judge
from timeshare.reservations.service.limits_views import explanation

HUB_CONFIG = Path(__file__).parent.parent / "hub_config"
SHIPPED = ["limits.yaml", "limits_small_lab.yaml", "limits_lab.yaml"]
HERE = slots_of(pool("a100", "t4", node="hub1"))
THERE = slots_of([replace(device, engine="slurm", uuid=f"slurm/{device.uuid}") for device in pool("a100", node="n1")])
ENGINES = {"local": Site(HERE), "slurm": Site(THERE)}
TRIED = (
    *("3", "2h", "2d", "park", "0.5", "true", "[2h]", "classic", "Mon-Fri 08:00-18:00", '"a100"', "day", "later"),
    *("2099-01-01 08:00", "2099-01-01 11:00", "batch", "fraction", "stop", "20d", "Europe/Zurich", "one", "two"),
)
"""Values of which each place takes one that is not the default."""
NAMED = ("", "groups: {one: {}}\n", "pools: {one: {}}\n", "  two: {}\n")
"""What the file must have besides, where a value is the name of something."""
HOLDS = {
    "defaults.budgets.[].beyond",
    "defaults.budgets.[].every",
    "defaults.budgets.[].gpu_hours",
    "defaults.budgets.[].kinds.[]",
    "defaults.gpus",
    *(f"defaults.idle.{key}" for key in ("after", "busy_cap", "cpu_below", "gpu_below", "grace", "keep", "per_gpu")),
    "defaults.idle.warn.[]",
    "defaults.largest",
    "defaults.models.[]",
    *(f"defaults.sessions.{key}" for key in ("at_once", "default_time", "max_cpus", "max_host_memory_gib", "max_time")),
    "defaults.shapes.[]",
    "defaults.waiting",
    "fractions.[]",
    "groups.NAME.gpus",
    "groups.NAME.inherits",
    "groups.NAME.members.[]",
    "job_files.keep",
    "job_files.space_gib",
    "notices.[]",
    *(f"pools.NAME.{key}.[]" for key in ("engines", "groups", "kinds", "models", "nodes")),
    "pools.NAME.max_time",
    "requests_waiting",
    *(f"retention.{key}" for key in ("changes", "charges", "decisions", "reservations")),
    "start_timeout",
    "start_within",
    "stop.save_grace",
    "stop.term_grace",
    "timezone",
    "weights.NAME",
}
"""What holds on Slurm as it does here: docs/slurm.md says by whom."""


def as_where(place: Path_) -> Where:
    return tuple(0 if step == "[]" else "one" if step == "NAME" else step for step in place)


@pytest.mark.parametrize("place", LEAVES, ids=".".join)
def test_every_value_holds_on_slurm_or_is_said_to_differ(place: Path_) -> None:
    name = ".".join(place)
    assert (difference(as_where(place)) is None) == (name in HOLDS), name


def accepted(place: Path_) -> tuple[str, int]:
    """A file that says something at ``place`` that is not the default."""
    for value, named in itertools.product(TRIED, NAMED):
        text, line = written(place, value)
        try:
            found = parse_limits(text + named)
        except LimitsError:
            continue
        if found != Limits():
            return text + named, line
    pytest.fail(f"no value for {place} is tried")


NOT_HELD = [place for place in LEAVES if (found := difference(as_where(place))) is not None and not found.holds]
OF_POOLS = [place for place in NOT_HELD if place[0] == "pools"]


def not_held(text: str, site: Site) -> list[str]:
    judged = judge(text, site, "limits.yaml")
    assert judged.is_valid, judged.errors
    return [warning for warning in judged.warnings if "does not hold in" in warning]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("place", LEAVES, ids=".".join)
def test_who_states_a_rule_where_it_cannot_hold_is_warned_at_that_rule(place: Path_, engine: str) -> None:
    text, line = accepted(place)
    if place in OF_POOLS:
        text = text.replace("  one:\n", f"  one:\n    engines: [{engine}]\n")
        line += 1
    told = not_held(text, ENGINES[engine])
    if engine == "local" or place not in NOT_HELD:
        assert told == []
    else:
        (warning,) = told
        first = min(line, next(n for n, said in enumerate(text.splitlines(), 1) if place[0] in said))
        assert first <= int(warning.removeprefix("limits.yaml, line ").partition(":")[0]) <= line
        assert "see docs/slurm.md" in warning


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("place", DIFFERENCES, ids=lambda place: ".".join(map(str, place)))
def test_shipped_files_say_so_at_the_rule(name: str, place: Where) -> None:
    """A rule that is written in a file that is shipped has the word in its line, or in that of a section it is in."""
    text = (HUB_CONFIG / name).read_text()
    lines = text.splitlines()
    for line in lines_of(text, place):
        above = [at for at in range(line + 1) if _contains(lines, at, line)]
        assert any("Slurm" in lines[at] for at in above), f"{name}, line {line + 1}: {lines[line]}"


def lines_of(text: str, place: Where) -> list[int]:
    found = read_plain(text).lines
    same = [at for at in found if len(at) == len(place) and all(a in (ANY, b) for a, b in zip(place, at, strict=True))]
    return [found[at] - 1 for at in same]


def _contains(lines: list[str], at: int, line: int) -> bool:
    """Whether line ``at`` is ``line``, or the head of a section around it, or a comment right above."""

    def indent(number: int) -> int:
        return len(lines[number]) - len(lines[number].lstrip())

    if at == line:
        return True
    between = [indent(n) for n in range(at + 1, line + 1) if lines[n].strip() and not lines[n].lstrip().startswith("#")]
    is_head = lines[at].split("#")[0].rstrip().endswith(":") and all(indent(at) < depth for depth in between)
    return is_head or (lines[at].lstrip().startswith("#") and at == line - 1)


def test_the_schema_says_so_at_the_rule() -> None:
    schema = with_differences(Limits.model_json_schema(mode="validation"))
    told = str(schema)
    for place, found in DIFFERENCES.items():
        assert found.text in told, place
    assert "Not on Slurm" in schema["properties"]["fair_share"]["description"]
    assert "Not on Slurm" not in schema["properties"]["timezone"]["description"]


def test_the_shipped_default_file_warns_of_nothing_on_a_hub_without_gpus_of_its_own() -> None:
    assert judge((HUB_CONFIG / "limits.yaml").read_text(), ENGINES["slurm"]).warnings == ()


def test_a_start_without_local_sessions_says_it(tmp_path: Path) -> None:
    file = tmp_path / "limits.yaml"
    file.write_text("fair_share: {}\n")
    (tmp_path / "timeshare_slurm.py").write_text("c.Slurm.pools = {'batch': {}}\n")
    (warning,) = warnings_at_start(file, tmp_path, "", local=False)
    assert warning.startswith(f"Warning: {file}, line 1: fair_share: does not hold in this deployment")
    assert list(warnings_at_start(file, tmp_path, "t4:2", local=True)) == []


def test_the_service_says_it_at_its_start_and_again_only_when_it_changes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lab = Lab(tmp_path, {}, "t4")
    lab.pool.engines["slurm"] = Engine()
    assert lab.pool.unseen == ("slurm",), "it has not answered yet"
    review = Review(lab.pool)
    text = "pools:\n  cluster:\n    engines: [slurm]\n    preempt: {}\n"
    with caplog.at_level(logging.WARNING):
        review.tell(text)
        review.tell(text)
    assert len([one for one in caplog.messages if "pools.cluster.preempt: does not hold" in one]) == 1


def test_an_explanation_says_which_rules_of_a_pool_do_not_hold(tmp_path: Path) -> None:
    lab, _ = lab_with_engine(tmp_path)
    rules: dict[str, Any] = {"gpus": 1, "preempt": {}, "keep_for_sessions": {"gpus": 1}}
    lab.edit({"pools": {"there": {"engines": ["slurm"], **rules}, "here": {"engines": ["local"], **rules}}})
    there, here = (
        next(row["notes"] for row in explanation(lab.pool, "ada")["pools"] if row["name"] == name)
        for name in ("there", "here")
    )
    assert all(note.endswith("(does not hold: slurm decides)") for note in there)
    assert len(there) == len(here) == 3
    assert not any("hold" in note for note in here)
    lab.edit({"pools": {"both": rules}})
    (both,) = (row["notes"] for row in explanation(lab.pool, "ada")["pools"])
    assert all(note.endswith("(on this machine only: slurm decides itself)") for note in both)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_node_that_is_no_part_of_the_hub_is_told_with_the_way_to_several_hosts(engine: str) -> None:
    told = judge("pools:\n  eaf:\n    nodes: [eaf1]\n", ENGINES[engine], "limits.yaml").warnings[-1]
    assert told.startswith("limits.yaml, line 3: pools.eaf.nodes.0: no device here is of the node 'eaf1'; nodes here:")
    assert ("without Slurm a hub is one machine, see docs/several_hosts.md" in told) == (engine == "local")


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], Kind]] = {
    "largest": ({"defaults": {"largest": 1}}, {"gpus": 2}, Kind.SESSION),
    "shapes": ({"defaults": {"shapes": ["cpu"]}}, {"gpus": 1}, Kind.SESSION),
    "models": ({"defaults": {"models": ["t4"]}}, {"gpus": 1, "model": "a100"}, Kind.SESSION),
    "max_time": ({"defaults": {"sessions": {"max_time": "30m", "default_time": "30m"}}}, {"gpus": 1}, Kind.SESSION),
    "max_cpus": ({"defaults": {"sessions": {"max_cpus": 0.5}}}, {"gpus": 1, "cpus": 1}, Kind.SESSION),
    "max memory": (
        {"defaults": {"sessions": {"max_host_memory_gib": 1}}},
        {"gpus": 1, "host_memory_gib": 2},
        Kind.SESSION,
    ),
    "budgets": ({"defaults": {"budgets": [{"gpu_hours": 0}]}}, {"gpus": 1}, Kind.SESSION),
    "at_once": ({"defaults": {"sessions": {"at_once": 0}}}, {"gpus": 1}, Kind.SESSION),
    "a pool's kinds": ({"pools": {"p": {"engines": ["slurm"], "kinds": ["session"]}}}, {"gpus": 1}, Kind.BATCH),
    "a pool's max_time": ({"pools": {"p": {"engines": ["slurm"], "max_time": "30m"}}}, {"gpus": 1}, Kind.SESSION),
    "a pool's groups": (
        {"groups": {"cms": {}}, "pools": {"p": {"engines": ["slurm"], "groups": ["cms"]}}},
        {"gpus": 1},
        Kind.SESSION,
    ),
    "a group's gpus": ({"groups": {"cms": {"members": ["ada"], "gpus": 1}}}, {"gpus": 2}, Kind.SESSION),
}


@pytest.mark.parametrize("engine", ["", "slurm"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_said_to_hold_refuses_on_either_engine(tmp_path: Path, name: str, engine: str) -> None:
    limits, share, kind = REFUSED[name]
    lab = lab_with_engine(tmp_path)[0] if engine else Lab(tmp_path, {}, "t4", "t4")
    where = {"engine": engine} if engine else {}
    if not engine:
        limits = {key: value for key, value in limits.items() if key != "pools"} | {
            "pools": {pool_: {**rules, "engines": ["local"]} for pool_, rules in limits.get("pools", {}).items()}
        }
        share = {**share, **({"model": "t4"} if "model" in share else {})}
        limits = {**limits, "defaults": {"models": ["a100"]}} if name == "models" else limits
    assert lab.ask("ada", kind, **share, **where)
    lab.edit(limits)
    with pytest.raises(PublicError):
        lab.ask("ada", kind, **share, **where)
