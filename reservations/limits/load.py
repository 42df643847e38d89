"""A limits file in, ``Limits`` out. A file is never trusted: what is wrong is told with its line, and a bad one
changes nothing."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from ..files import open_plain
from .schema import Limits
from .values import Misplaced, Where

MOST_BYTES = 1024 * 1024
DEEPEST = 20


class LimitsError(Exception):
    """The limits cannot be used; the text says in each line where, what is written there, and what would be right."""


@dataclass(frozen=True)
class LimitsFile:
    """``version``: the first twelve digits of the text's SHA-256."""

    limits: Limits
    text: str

    @property
    def version(self) -> str:
        return version_of(self.text)


def version_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def load_limits(path: Path | None) -> Limits:
    """The limits in ``path``; the defaults for None. Raises LimitsError naming file, line, value and rule."""
    return read_limits(path).limits


def read_limits(path: Path | None) -> LimitsFile:
    """The same with the text. Raises LimitsError."""
    if path is None:
        return LimitsFile(Limits(), "")
    try:
        with open_plain(path) as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise LimitsError(f"{path}: is longer than {MOST_BYTES // 1024} KiB: that is not a limits file")
        text = content.decode()
    except UnicodeDecodeError as error:
        raise LimitsError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise LimitsError(f"{path}: cannot be read: {error.strerror}") from None
    return LimitsFile(parse_limits(text, str(path)), text)


def limits_in_force(text: str, name: str = "limits") -> LimitsFile:
    """What a service says that it goes by; it has no text where it has no file. Raises LimitsError."""
    return LimitsFile(parse_limits(text, name) if text else Limits(), text)


def parse_limits(text: str, name: str = "limits") -> Limits:
    """The limits in ``text``. Raises LimitsError, every line of which begins with ``name``, and a line number where it
    is about a line."""
    if not text.strip():
        # As a full disk or an editor leaves it; without limits everybody could have everything.
        raise LimitsError(f"{name}: is empty: write `{{}}` where the defaults are to hold")
    if len(text) > MOST_BYTES:
        raise LimitsError(f"{name}: is longer than {MOST_BYTES // 1024} KiB: that is not a limits file")
    try:
        _refuse_hostile(text)
        lines: dict[Where, int] = {}
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = {} if root is None else _plain(root, (), lines)
    except _At as error:
        raise LimitsError(f"{name}, line {error.line}: {error.message}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}" if mark else ""
        raise LimitsError(f"{name}{place}: is not YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise LimitsError(f"{name}: is not YAML: {error}") from None
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise LimitsError(f"{name}, line 1: must be keys and values, such as `timezone: UTC`")
    try:
        return Limits.model_validate(data)
    except ValidationError as error:
        raise LimitsError("\n".join(_complaints(error, name, lines))) from None


class _At(Exception):
    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line, self.message = line, message


def _refuse_hostile(text: str) -> None:
    """Before anything is built: no aliases (a few lines of them can mean gigabytes), no depth without end."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _At(line, "anchors (&) and aliases (*) are not allowed here: write the value out, or quote it")
        if any(0xD800 <= ord(letter) <= 0xDFFF for letter in getattr(event, "value", None) or ""):
            raise _At(line, "holds half of a UTF-16 pair (\\ud800 to \\udfff), which is no character")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEEPEST:
            raise _At(line, f"is nested more than {DEEPEST} deep")


def _plain(node: yaml.Node, where: Where, lines: dict[Where, int]) -> Any:
    line = node.start_mark.line + 1
    lines.setdefault(where, line)
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, where, lines)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*where, number), lines) for number, item in enumerate(node.value)]
    if not node.tag.startswith("tag:yaml.org,2002:"):
        raise _At(line, f"the tag {node.tag[:40]} is not allowed here")
    return _scalar(node)


def _mapping(node: yaml.MappingNode, where: Where, lines: dict[Where, int]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise _At(line, "a key must be text")
        key = key_node.value
        if key in found:
            first = lines[(*where, key)]
            raise _At(line, f"{key!r} stands here twice (first in line {first}): keep one")
        lines[(*where, key)] = line
        found[key] = _plain(value_node, (*where, key), lines)
    return found


def _scalar(node: yaml.Node) -> Any:
    """Numbers, true, false and null; all else is text. (YAML 1.1 would read 10:00 as 600 and no as false.) A number
    that is larger than any float stays text too, which no number's rule lets pass: as a float it would be infinite."""
    value: str = node.value
    if node.style in ("'", '"', "|", ">"):  # type: ignore[attr-defined]
        return value
    if value in ("", "~", "null"):
        return None
    if value in ("true", "false"):
        return value == "true"
    if re.fullmatch(r"[+-]?[0-9]{1,18}", value):
        return int(value)
    if re.fullmatch(r"[+-]?([0-9]*\.[0-9]+|[0-9]+\.?)([eE][+-]?[0-9]{1,3})?", value):
        number = float(value)
        return number if math.isfinite(number) else value
    return value


def _complaints(error: ValidationError, name: str, lines: dict[Where, int]) -> Iterator[str]:
    for found in error.errors():
        cause = found.get("ctx", {}).get("error")
        where = cause.where if isinstance(cause, Misplaced) else tuple(found["loc"])
        known = next((where[:n] for n in range(len(where), -1, -1) if where[:n] in lines), ())
        line = lines.get(known, 1)
        keys = ".".join(map(str, where)) or "file"
        yield f"{name}, line {line}: {keys}: {_rule(dict(found), known)}"


def _rule(found: dict[str, Any], where: Where) -> str:
    if found["type"] == "extra_forbidden":
        return f"no such key; known keys: {', '.join(_keys_beside(where)) or 'none'}"
    message = str(found["msg"]).removeprefix("Value error, ")
    value = found["input"]
    if isinstance(value, dict | BaseModel):
        return message
    shown = repr(value)
    return f"{message} (it is {shown if len(shown) <= 80 else shown[:77] + '...'})"


def _keys_beside(where: Where) -> list[str]:
    """The keys that the schema knows in the section in which ``where`` lies."""
    schema = Limits.model_json_schema()
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
