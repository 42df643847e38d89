"""All that is wrong with the data of a limits file, not only the first: what is wrong is set aside, and the rest is
looked at again. Pure."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError

from .schema import Limits
from .values import Fault, Faulty, Where, near

ROUNDS = 8
"""Faults in one place hide those that are looked for only where it is right: in a section, then in the whole file."""
STAND_INS: dict[str, Any] = {
    "gpus": 0,
    "gpu_hours": 0,
    "name": "-",
    "begins": "1971-01-01 00:00",
    "ends": "2999-01-01 00:00",
}
"""What takes the place of a value that its section must have."""
KEY = "[key]"
"""How pydantic ends the place of a key that is wrong."""


def faults_of(data: dict[str, Any]) -> list[Fault]:
    """Return everything that is wrong with ``data``, the whole file; none: ``Limits`` takes it."""
    found: list[Fault] = []
    aside: list[Where] = []
    for _ in range(ROUNDS):
        try:
            Limits.model_validate(data)
            break
        except ValidationError as error:
            told = [fault for fault in _told(error) if not _within(fault.where, aside)]
            places = [fault.where for fault in told] or [fault.where for fault in _told(error)]
        found += told
        data = copy.deepcopy(data)
        for place in places:
            _set_aside(data, place)
        aside += places
    return found


def _told(error: ValidationError) -> Iterator[Fault]:
    for one in error.errors():
        cause, where = one.get("ctx", {}).get("error"), tuple(one["loc"])
        if isinstance(cause, Faulty):
            yield from (Fault((*where, *fault.where), fault.message) for fault in cause.faults)
        else:
            yield Fault(where, _rule(dict(one), where))


def _within(where: Where, places: list[Where]) -> bool:
    return any(where[: len(place)] == place for place in places)


def _set_aside(data: dict[str, Any], place: Where) -> None:
    """Take away what stands at ``place``, so that what follows from it is not told as well. Names of groups and pools
    stay known."""
    is_key = place[-1:] == (KEY,)
    place = place[:-1] if is_key else place
    above, key = _above(data, place)
    if above is None:
        return
    if isinstance(above, list):
        _set_aside_item(data, place, above)
    elif not is_key and len(place) == 2 and place[0] in ("groups", "pools"):
        above[key] = {}
    elif key in STAND_INS and len(place) > 2 and above.get(key) != STAND_INS[key]:
        above[key] = STAND_INS[key]
    else:
        above.pop(key, None)


def _set_aside_item(data: dict[str, Any], place: Where, items: list[Any]) -> None:
    """Sections keep their number in the list; of plain values the whole list goes."""
    number = place[-1]
    if isinstance(number, int) and place[-2] in ("events", "maintenance", "budgets"):
        items[number] = {}
        return
    above, key = _above(data, place[:-1])
    if isinstance(above, dict):
        above.pop(key, None)


def _above(data: Any, place: Where) -> tuple[Any, Any]:
    """Return what holds the value at ``place``, and its key there; None where nothing does."""
    for step in place[:-1]:
        try:
            data = data[step]
        except (KeyError, IndexError, TypeError):
            return None, None
    return (data, place[-1]) if place and isinstance(data, dict | list) else (None, None)


def _rule(found: dict[str, Any], where: Where) -> str:
    if found["type"] == "extra_forbidden":
        known = keys_beside(where)
        return f"no such key; known keys: {', '.join(known) or 'none'}{near(str(where[-1]), known)}"
    if found["type"] == "missing":
        return "is missing, and must be said"
    message = str(found["msg"]).removeprefix("Value error, ")
    value = found["input"]
    if isinstance(value, dict | BaseModel):
        return message
    shown = repr(value)
    return f"{message} (it is {shown if len(shown) <= 80 else shown[:77] + '...'})"


@cache
def _schema() -> dict[str, Any]:
    return Limits.model_json_schema()


def keys_beside(where: Where) -> list[str]:
    """The keys that the schema knows in the section in which ``where`` lies."""
    schema = _schema()
    node: dict[str, Any] = schema
    for step in where[:-1]:
        node = _section(node, schema)
        if isinstance(step, int):
            node = node.get("items", node)
        else:
            node = node.get("properties", {}).get(step) or node.get("additionalProperties") or {}
    return list(_section(node, schema).get("properties", {}))


def _section(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    for option in node.get("anyOf", []):
        if "$ref" in option or option.get("type") == "array":
            node = option
            break
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]]
    return node
