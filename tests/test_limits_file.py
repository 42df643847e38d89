"""A limits file: what is wrong is told with its line, and nothing hostile gets far."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timeshare.reservations.limits.load import LimitsError, load_limits, parse_limits
from timeshare.reservations.limits.schema import Limits

WRONG = {
    "an unknown key": ("defaults:\n  gpu: 4\n", "line 2: defaults.gpu: no such key; known keys: shapes, models"),
    "an unknown key at the top": ("max_time: 3h\n", "line 1: max_time: no such key; known keys: timezone"),
    "an unknown key in a list": ("events:\n  - {name: x, start: now}\n", "no such key; known keys: name, begins"),
    "a wrong duration": (
        "defaults:\n  sessions:\n    max_time: soon\n",
        "line 3: defaults.sessions.max_time: must",
    ),
    "its value": ("defaults:\n  sessions:\n    max_time: soon\n", "'soon'"),
    "a negative amount": ("defaults: {gpus: -1}\n", "line 1: defaults.gpus: must be a number from 0 to"),
    "text for a number": ("defaults: {gpus: many}\n", "or unlimited (it is 'many')"),
    "true for a number": ("defaults: {gpus: true}\n", "must be a number"),
    "half a session": ("defaults: {sessions: {at_once: 1.5}}\n", "must be a whole number, or unlimited"),
    "a list for a section": ("defaults: [1, 2]\n", "line 1: defaults"),
    "a default beyond the longest": (
        "defaults:\n  sessions: {default_time: 3h, max_time: 2h}\n",
        "line 2: defaults.sessions.default_time: default_time (10800 s) is longer than max_time (7200 s)",
    ),
    "a key twice": (
        "timezone: UTC\ndefaults: {}\ntimezone: UTC\n",
        "line 3: 'timezone' stands here twice (first in line 1)",
    ),
    "groups in a circle": (
        "groups:\n  a: {inherits: b}\n  b: {inherits: c}\n  c: {inherits: a}\n",
        "groups inherit in a circle: a -> b -> c -> a",
    ),
    "a group of itself": ("groups: {a: {inherits: a}}\n", "in a circle: a -> a"),
    "an unknown parent": ("groups: {a: {inherits: z}}\n", "there is no entry 'z' in groups; known: a"),
    "a pool for nobody known": ("pools: {p: {groups: [x]}}\n", "pools.p.groups.0: there is no entry 'x' in groups"),
    "an unknown time zone": ("timezone: Mars/Olympus\n", "line 1: timezone: must be a time zone"),
    "wrong office hours": ('pools: {p: {keep_for_sessions: {gpus: 1, when: "8 to 6"}}}\n', "8 to 6"),
    "a wrong date": (
        "maintenance:\n  - {name: m, begins: soon, ends: later}\n",
        "soon",
    ),
    "an end before the beginning": (
        'maintenance: [{name: m, begins: "2026-12-02 09:00", ends: "2026-12-01 09:00"}]\n',
        "ends (2026-12-01 09:00) is not after begins",
    ),
    "an unknown shape": ("defaults: {shapes: [cube]}\n", "line 1: defaults.shapes.0"),
    "a bomb of aliases": ("a: &a [1,1]\nb: &b [*a,*a]\nc: [*b,*b]\n", "line 1: anchors (&) and aliases (*) are not"),
    "a python tag": ("defaults: !!python/object/apply:os.system [ls]\n", "line 1"),
    "a list": ("- 1\n", "line 1: must be keys and values"),
    "half a file": ("defaults: {gpus: 4\n", "is not YAML"),
    "depth without end": ("a: " + "[" * 100 + "]" * 100, "is nested more than 20 deep"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_told_with_its_line_and_rule(name: str) -> None:
    text, said = WRONG[name]
    with pytest.raises(LimitsError) as caught:
        parse_limits(text, "limits.yaml")
    assert said in str(caught.value)
    assert all(line.startswith("limits.yaml") for line in str(caught.value).splitlines())


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(LimitsError) as caught:
        parse_limits("defaults: {gpus: x}\nfoo: 1\nstop: {save_grace: never}\n")
    assert len(str(caught.value).splitlines()) == 3


def test_times_and_words_are_what_people_read() -> None:
    limits = parse_limits(
        "groups: {no: {members: [on, yes]}}\npools: {p: {keep_for_sessions: {gpus: 1, when: Mon 10:00-12:00}}}"
    )
    assert limits.groups["no"].members == ("on", "yes")
    kept = limits.pools["p"].keep_for_sessions
    assert kept is not None
    assert kept.when == "Mon 10:00-12:00"


@pytest.mark.parametrize("text", ["# nothing\n", "{}", "null\n"])
def test_a_file_that_says_nothing_means_the_defaults(text: str) -> None:
    assert parse_limits(text) == Limits()


def test_a_file_that_is_none_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "huge").write_text("# " + "x" * 2_000_000)
    (tmp_path / "empty").write_text("\n \n")
    for name, said in (
        ("binary", "not UTF-8"),
        ("huge", "longer than 1024 KiB"),
        ("empty", "is empty: write `{}` where the defaults are to hold"),
        ("none", "No such file"),
        (".", "it is a folder: name a plain file"),
    ):
        with pytest.raises(LimitsError, match=said):
            load_limits(tmp_path / name)


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda b: b.decode("latin-1")))
def test_any_text_is_limits_or_a_clear_error(text: str) -> None:
    try:
        parse_limits(text, "limits.yaml")
    except LimitsError as error:
        assert str(error).startswith("limits.yaml")


def test_what_was_written_comes_back_from_its_json() -> None:
    limits = parse_limits("defaults: {gpus: unlimited, largest: 1.5, budgets: [{gpu_hours: 10}]}\nfair_share: {}\n")
    assert Limits.model_validate(limits.model_dump(mode="json")) == limits
