"""What a cell reaches: the variables that it reads, those that its functions and classes read, and so on; each with the
way that led there, because people ask why something travels."""

from __future__ import annotations

import builtins
import functools
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .attributes import attribute, own
from .names import names_of_code

MOST_ITEMS = 10_000
"""Of one container, so many items are looked into for functions and objects of the notebook."""


@dataclass(frozen=True)
class Reached:
    """``by``: the names over which the cell came to it, the cell's own read first; empty when it reads it itself."""

    name: str
    value: Any
    by: tuple[str, ...] = ()

    @property
    def why(self) -> str:
        """For people."""
        return "the cell reads it" if not self.by else f"{' → '.join(self.by)} uses it"


@dataclass(frozen=True)
class Reach:
    """``found`` by name, in the order of discovery. ``unknown``: names that nobody defined, with who reads them."""

    found: dict[str, Reached] = field(default_factory=dict)
    unknown: dict[str, tuple[str, ...]] = field(default_factory=dict)


def reach(
    reads: Iterable[str],
    namespace: Mapping[str, Any],
    *,
    more: Mapping[str, Any] | None = None,
    without: frozenset[str] = frozenset(),
) -> Reach:
    """Everything of ``namespace`` (the notebook's globals) that a cell which reads ``reads`` may come to use. ``more``:
    variables that the notebook does not have. ``without``: names that the job has by itself."""
    more = more or {}
    result = Reach()
    todo: list[tuple[str, tuple[str, ...]]] = [(name, ()) for name in sorted(reads)]
    while todo:
        name, by = todo.pop(0)
        if name in result.found or name in result.unknown or name in without:
            continue
        if name not in namespace and name not in more:
            if not hasattr(builtins, name):
                result.unknown[name] = by
            continue
        value = more[name] if name in more else namespace[name]
        result.found[name] = Reached(name, value, by)
        todo += [(further, (*by, name)) for further in sorted(_globals_read(value, namespace))]
    return result


def _globals_read(value: Any, namespace: Mapping[str, Any]) -> set[str]:
    """Names of ``namespace`` that the code of ``value``, and of what it is made of, reads."""
    found: set[str] = set()
    seen: set[int] = set()
    todo = [value]
    while todo:
        item = todo.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, types.CodeType):
            found |= names_of_code(item).reads
        else:
            todo += _parts(item, namespace)
    return found


def _parts(item: Any, namespace: Mapping[str, Any]) -> Iterator[Any]:
    """What to look into. Things that packages define bring their own; only the notebook's are followed."""
    for kinds, parts in _LOOKS:
        if isinstance(item, kinds):
            yield from parts(item, namespace)
            return
    kind = type(item)
    if _is_notebooks(kind):
        yield kind
        yield from own(item).values()


def _function(item: types.FunctionType, namespace: Mapping[str, Any]) -> Iterator[Any]:
    if item.__globals__ is namespace:
        yield item.__code__
    yield from (cell.cell_contents for cell in item.__closure__ or () if not _empty(cell))
    yield from item.__defaults__ or ()
    yield from (item.__kwdefaults__ or {}).values()
    wrapped = attribute(item, "__wrapped__")
    if wrapped is not None:
        yield wrapped


def _class(item: type, _: Mapping[str, Any]) -> Iterator[Any]:
    if _is_notebooks(item):
        yield from item.__bases__
        yield from vars(item).values()


def _method(item: types.MethodType, _: Mapping[str, Any]) -> Iterator[Any]:
    yield item.__func__
    yield item.__self__


def _partial(item: functools.partial[Any], _: Mapping[str, Any]) -> Iterator[Any]:
    yield item.func
    yield from item.args
    yield from item.keywords.values()


def _property(item: property, _: Mapping[str, Any]) -> Iterator[Any]:
    yield from (part for part in (item.fget, item.fset, item.fdel) if part is not None)


def _wrapper(item: Any, _: Mapping[str, Any]) -> Iterator[Any]:
    yield item.__func__


def _mapping(item: dict[Any, Any], _: Mapping[str, Any]) -> Iterator[Any]:
    for number, (key, value) in enumerate(item.items()):
        if number >= MOST_ITEMS:
            return
        yield from (part for part in (key, value) if not isinstance(part, _PLAIN))


def _items(item: Iterable[Any], _: Mapping[str, Any]) -> Iterator[Any]:
    for number, part in enumerate(item):
        if number >= MOST_ITEMS:
            return
        if not isinstance(part, _PLAIN):
            yield part


_PLAIN = (str, bytes, int, float, complex, type(None))
_LOOKS: tuple[tuple[Any, Callable[..., Iterator[Any]]], ...] = (
    (types.FunctionType, _function),
    (type, _class),
    (types.MethodType, _method),
    (functools.partial, _partial),
    (property, _property),
    ((staticmethod, classmethod), _wrapper),
    (dict, _mapping),
    ((list, tuple, set, frozenset), _items),
)


def _is_notebooks(kind: type) -> bool:
    return bool(attribute(kind, "__module__") == "__main__")


def _empty(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return True
    return False
