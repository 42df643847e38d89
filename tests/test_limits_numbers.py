"""Every value of the limits file means what it says, or is refused with its line: none is unlimited by accident."""

from __future__ import annotations

import math
import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pools import Lab
from pydantic import BaseModel, ValidationError

from timeshare.reservations.errors import PublicError
from timeshare.reservations.kind import Kind
from timeshare.reservations.limits.effective import BUILT_IN
from timeshare.reservations.limits.load import LimitsError, parse_limits
from timeshare.reservations.limits.schema import Limits, PersonLimits
from timeshare.reservations.service.limits_views import LABELS, explanation
from timeshare.reservations.service.offers import offers_view

Path_ = tuple[str, ...]
ODD = {
    "400 zeros": "1" + "0" * 400,
    "4,400 digits": "9" * 4400,
    "19 digits": "9" * 19,
    "beyond any float": "1e400",
    "beyond any float, below zero": "-1e999",
    "beyond any count": "1e308",
    "beyond the largest": "1000000001",
    "YAML's infinity below zero": "-.inf",
    "YAML's infinity": ".inf",
    "Python's infinity": "inf",
    "JSON's infinity": "Infinity",
    "YAML's NaN": ".nan",
    "NaN": "nan",
    "a negative zero": "-0.0",
    "zero": "0",
    "less than zero": "-1",
    "hardly anything": "1e-320",
    "octal": "0o17",
    "a leading zero": "010",
    "hexadecimal": "0x10",
    "underscores": "1_000",
    "base sixty": "1:30",
    "true": "true",
    "a word for true": "yes",
    "a date": "2026-12-01",
    "an empty value": "~",
    "a quoted number": '"4"',
    "other digits": "٣",
    "half of a pair": '"\\ud800"',
    "a list": "[1, 2]",
    "a mapping": "{a: 1}",
    "a merge": "{<<: {a: 1}}",
    "unlimited": "unlimited",
}
NEEDED: Mapping[str, Mapping[str, Any]] = {
    "budgets": {"gpu_hours": 1},
    "keep_for_sessions": {"gpus": 1},
    "events": {"name": "e", "begins": "2099-01-01 09:00", "ends": "2099-01-01 10:00", "gpus": 1},
    "maintenance": {"name": "m", "begins": "2099-01-01 09:00", "ends": "2099-01-01 10:00"},
}
"""What a section must say beside the value that is tried."""


def sections(annotation: Any) -> Iterator[tuple[str, type[BaseModel] | None]]:
    """What an annotation holds: ``("", Model)`` for a section, ``[]`` for a list, ``NAME`` for a mapping of them."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield "", annotation
    elif origin is typing.Annotated:
        yield from sections(arguments[0])
    elif origin in (typing.Union, types.UnionType):
        yield from (found for inner in arguments if inner is not type(None) for found in sections(inner))
    elif origin is tuple:
        yield from (("[]", model) for _, model in sections(arguments[0]))
    elif origin is dict:
        yield from (("NAME", model) for _, model in sections(arguments[1]))
    else:
        yield "", None


def leaves(model: type[BaseModel] = Limits, above: Path_ = (), seen: set[object] | None = None) -> Iterator[Path_]:
    """Every place of the schema where a value stands; of a kind of section that stands in several places, one."""
    seen = set() if seen is None else seen
    if model in seen:
        return
    seen.add(model)
    for name, field in model.model_fields.items():
        for kind, inner in sections(field.annotation):
            place = (*above, name, kind) if kind else (*above, name)
            if inner is None:
                yield place
            else:
                yield from leaves(inner, place, seen)


def written(place: Path_, value: str) -> tuple[str, int]:
    """A file with ``value`` at ``place`` and nothing else but what its sections need, and the value's line."""
    lines: list[str] = []
    line, indent = 0, ""
    for step in range(len(place)):
        key = place[step]
        if key == "[]":
            continue
        key = "one" if key == "NAME" else key
        last = step == len(place) - 1 or place[step + 1 :] == ("[]",)
        is_list = place[step + 1 : step + 2] == ("[]",)
        if last:
            line = len(lines) + 1
            lines.append(f"{indent}{key}: {f'[{value}]' if is_list else value}")
            break
        lines.append(f"{indent}{key}:")
        indent += "  "
        needed = NEEDED.get(place[step], {})
        if is_list:
            lines.append(f"{indent}-")
            indent += "  "
        inner = place[step + 2] if is_list else place[step + 1]
        lines += [
            f'{indent}{name}: "{said}"' if isinstance(said, str) else f"{indent}{name}: {said}"
            for name, said in needed.items()
            if name != inner
        ]
    return "\n".join(lines) + "\n", line


def found_at(limits: Limits, place: Path_) -> Any:
    node: Any = limits
    for step in place:
        if node is None:
            return None
        node = node["one"] if step == "NAME" else node[0] if step == "[]" else getattr(node, step)
    return node


LEAVES = sorted(set(leaves()))


def test_the_walk_finds_the_whole_schema() -> None:
    assert ("defaults", "sessions", "max_cpus") in LEAVES
    assert ("pools", "NAME", "keep_for_sessions", "gpus") in LEAVES
    assert ("defaults", "budgets", "[]", "gpu_hours") in LEAVES
    assert ("weights", "NAME") in LEAVES
    # Each kind of section is walked where it is found first: `users` has the limits that `defaults` has.
    assert set(Limits.model_fields) - {place[0] for place in LEAVES} == {"users"}


def text_of(value: Any) -> set[str]:
    """How ``value`` may have been written."""
    return {str(value)} | ({str(value).lower()} if isinstance(value, bool) else set())


@pytest.mark.parametrize("name", ODD)
def test_an_odd_value_is_refused_with_its_line_or_means_what_it_says(name: str) -> None:
    value = ODD[name]
    for place in LEAVES:
        text, line = written(place, value)
        try:
            limits = parse_limits(text, "limits.yaml")
        except LimitsError as error:
            assert f"limits.yaml, line {line}: " in str(error), (place, str(error))
            str(error).encode()
            assert len(str(error)) < 2000, place
            continue
        kept = found_at(limits, place)
        if isinstance(kept, tuple | dict):
            kept = next(iter(kept.values() if isinstance(kept, dict) else kept), None)
        _means(place, value, kept)


def _means(place: Path_, value: str, kept: Any) -> None:
    """What is kept is what was written."""
    if isinstance(kept, float) and math.isinf(kept):
        assert value == "unlimited", (place, "is unlimited by accident")
    elif isinstance(kept, bool):
        assert value == "true", place
    elif isinstance(kept, int | float):
        assert math.isfinite(kept), place
        assert float(value) == kept, place
    elif isinstance(kept, str):
        assert kept == value.strip('"'), place
    else:
        assert kept is None or value in ("[1, 2]", "{a: 1}", "~") or not isinstance(kept, int | float), place


def test_what_may_be_written_can_be_used_and_shown(tmp_path: Path) -> None:
    """Whatever the loader lets pass at any place: the service decides by it, and shows it, without an error."""
    tried = 0
    for number, (place, value) in enumerate((place, value) for place in LEAVES for value in sorted(set(ODD.values()))):
        text, _ = written(place, value)
        text = text.replace("one:", "ada:" if place[0] == "users" else "one:", 1)
        try:
            data = parse_limits(text).model_dump(mode="json", exclude_unset=True)
        except LimitsError:
            continue
        if number % 5:
            continue
        folder = tmp_path / str(number)
        folder.mkdir()
        lab = Lab(folder, data, "a100", "t4")
        try:
            lab.ask("ada")
            lab.ask("ada", Kind.BATCH, None, memory_gib=1)
        except PublicError:
            pass
        lab.later(60)
        explanation(lab.pool, "ada")
        offers_view(lab.pool, "ada", True)
        lab.ledger.close()
        tried += 1
    assert tried > 40


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 10**400, 1e300, -1, True, "inf", "1e400", None, []])
def test_an_exception_takes_no_odd_amount_either(value: Any) -> None:
    """Those come as JSON, in which 1e400 is infinite."""
    for section in ({"gpus": value}, {"largest": value}, {"sessions": {"max_cpus": value}}, {"shares": value}):
        (key,) = section
        if value is None:
            assert getattr(PersonLimits.model_validate({key: None} if key != "sessions" else {}), key) is not math.inf
            continue
        with pytest.raises(ValidationError):
            PersonLimits.model_validate(section)


def test_every_limit_of_a_person_has_a_label() -> None:
    assert set(BUILT_IN) - set(LABELS) == {"budgets"}, "shown as GPU-hours of their own"


@pytest.mark.parametrize("place", LEAVES, ids=".".join)
def test_every_key_is_in_the_admin_guide(place: Path_) -> None:
    guide = (Path(__file__).parent.parent / "docs" / "admin_guide.md").read_text()
    key = [step for step in place if step not in ("[]", "NAME")][-1]
    assert re.search(rf"\b{key}\b", guide), f"docs/admin_guide.md does not say what {'.'.join(place)} is"
