"""A limits file in, ``Limits`` out. A file is never trusted: what is wrong is told with its line, and a bad one
changes nothing."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..files import open_plain
from ..text import escaped
from .faults import KEY, faults_of
from .schema import Limits
from .values import Fault, Where

MOST_BYTES = 1024 * 1024
DEEPEST = 20
MOST_TOLD = 100
"""Errors of one file that are told."""


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
    text = text_in(path)
    return LimitsFile(parse_limits(text, str(path)), text)


def text_in(path: Path) -> str:
    """What is written in ``path``. Raises LimitsError where that cannot be read, or is no text."""
    try:
        with open_plain(path) as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise LimitsError(f"{path}: is longer than {MOST_BYTES // 1024} KiB: that is not a limits file")
        return content.decode()
    except UnicodeDecodeError as error:
        raise LimitsError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise LimitsError(f"{path}: cannot be read: {error.strerror}") from None


def limits_in_force(text: str, name: str = "limits") -> LimitsFile:
    """What a service says that it goes by; it has no text where it has no file. Raises LimitsError."""
    return LimitsFile(parse_limits(text, name) if text else Limits(), text)


def parse_limits(text: str, name: str = "limits") -> Limits:
    """The limits in ``text``. Raises LimitsError with everything that is wrong, a line each, in the order of the file;
    every line begins with ``name``, and a line number where it is about a line."""
    found = read_text(text)
    if found.limits is None:
        raise LimitsError("\n".join(error.text(name) for error in found.errors[:MOST_TOLD]) + _more(found.errors))
    return found.limits


def _more(errors: Sequence[Placed]) -> str:
    beyond = len(errors) - MOST_TOLD
    return f" (and {beyond} more)" if beyond > 0 else ""


@dataclass(frozen=True)
class Placed:
    """What is told of one place. ``line`` from 1; 0: about the file as a whole."""

    line: int
    message: str

    def text(self, name: str) -> str:
        return f"{name}, line {self.line}: {self.message}" if self.line else f"{name}: {self.message}"


@dataclass(frozen=True)
class Text:
    """A limits file as it was read. ``limits`` None: it has ``errors``. ``lines``: where each value stands."""

    limits: Limits | None
    errors: tuple[Placed, ...]
    lines: Mapping[Where, int]

    def placed(self, faults: Iterable[Fault]) -> list[Placed]:
        """``faults`` with their lines, in the order of the file."""
        return sorted((place(fault, self.lines) for fault in faults), key=lambda one: one.line)


@dataclass(frozen=True)
class Plain:
    """Text as plain keys and values. ``errors``: why it is none. ``lines``: where each value stands."""

    data: dict[str, Any]
    errors: tuple[Placed, ...]
    lines: Mapping[Where, int]


def read_text(text: str) -> Text:
    """What ``text`` says, with everything that is wrong."""
    plain = read_plain(text)
    if plain.errors and not plain.lines:
        return Text(None, plain.errors, {})
    errors = [*plain.errors, *(place(fault, plain.lines) for fault in faults_of(plain.data))]
    if errors:
        return Text(None, tuple(sorted(dict.fromkeys(errors), key=lambda one: one.line)), plain.lines)
    return Text(Limits.model_validate(plain.data), (), plain.lines)


def read_plain(text: str) -> Plain:
    """Return the keys and values of ``text``, which is YAML without its traps. Without ``lines`` nothing was read."""
    if not text.strip():
        # As a full disk or an editor leaves it; without limits everybody could have everything.
        return _nothing(Placed(0, "is empty: write `{}` where the defaults are to hold"))
    if len(text) > MOST_BYTES:
        return _nothing(Placed(0, f"is longer than {MOST_BYTES // 1024} KiB: that is not a limits file"))
    unseen = tuple(_unprintable(text))
    if unseen:
        return _nothing(*unseen)
    reading = _Reading()
    try:
        reading.refuse_hostile(text)
        if reading.errors:
            return _nothing(*reading.errors)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = {} if root is None else reading.plain(root, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = f"is not YAML: {error.problem or error.context}"
        return _nothing(*reading.errors, Placed(mark.line + 1 if mark else 0, said))
    except yaml.YAMLError as error:
        return _nothing(*reading.errors, Placed(0, f"is not YAML: {error}"))
    data = {} if data is None else data
    if not isinstance(data, dict):
        return _nothing(Placed(1, "must be keys and values, such as `timezone: UTC`"))
    return Plain(data, tuple(reading.errors), {(): 1, **reading.lines})


def _unprintable(text: str) -> Iterator[Placed]:
    """Yield the lines with characters that YAML does not have, such as NUL."""
    for number, line in enumerate(text.split("\n"), 1):
        found = yaml.reader.Reader.NON_PRINTABLE.search(line)
        if found:
            code = f"\\x{ord(found[0]):02x}" if ord(found[0]) < 256 else f"\\u{ord(found[0]):04x}"
            yield Placed(number, f"holds the control character {code} in column {found.start() + 1}: take it out")


def _nothing(*errors: Placed) -> Plain:
    return Plain({}, errors, {})


def place(fault: Fault, lines: Mapping[Where, int]) -> Placed:
    """Return ``fault`` with its line: that of the nearest value that there is."""
    where = fault.where
    known = next((where[:n] for n in range(len(where), -1, -1) if where[:n] in lines), ())
    keys = escaped(".".join(str(step) for step in where if step != KEY)) or "file"
    return Placed(lines.get(known, 1), f"{keys}: {fault.message}")


class _Reading:
    """YAML to plain data. ``errors``: what is wrong before anybody looks at what it means."""

    def __init__(self) -> None:
        self.lines: dict[Where, int] = {}
        self.errors: list[Placed] = []

    def refuse_hostile(self, text: str) -> None:
        """Before anything is built: no aliases (a few lines of them can mean gigabytes), no depth without end."""
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            line = event.start_mark.line + 1 if event.start_mark else 1
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                self._wrong(line, "anchors (&) and aliases (*) are not allowed here: write the value out, or quote it")
            if any(0xD800 <= ord(letter) <= 0xDFFF for letter in getattr(event, "value", None) or ""):
                self._wrong(line, "holds half of a UTF-16 pair (\\ud800 to \\udfff), which is no character")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                self._wrong(line, f"is nested more than {DEEPEST} deep")
                return

    def plain(self, node: yaml.Node, where: Where) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(where, line)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, where)
        if isinstance(node, yaml.SequenceNode):
            return [self.plain(item, (*where, number)) for number, item in enumerate(node.value)]
        if not node.tag.startswith("tag:yaml.org,2002:"):
            self._wrong(line, f"the tag {node.tag[:40]} is not allowed here")
        return _scalar(node)

    def _mapping(self, node: yaml.MappingNode, where: Where) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._wrong(line, "a key must be text")
                continue
            key = key_node.value
            if key in found:
                first = self.lines[(*where, key)]
                self._wrong(line, f"{key!r} stands here twice (first in line {first}): keep one")
                continue
            self.lines[(*where, key)] = line
            found[key] = self.plain(value_node, (*where, key))
        return found

    def _wrong(self, line: int, message: str) -> None:
        self.errors.append(Placed(line, message))


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
