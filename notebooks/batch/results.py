"""Results of a job: checked for owner, signature and versions before anything of them is loaded, then brought into the
notebook's variables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..capture import snapshot
from ..capture.attributes import attribute, own
from ..capture.modules import differences
from ..capture.snapshot import Header, VersionMismatch
from ..capture.store import Store
from ..runner import failure
from ..runner.folder import Folder
from ..runner.inside import STREAMS
from ..runner.signing import verified


@dataclass(frozen=True)
class Results:
    """``values``: by name what the cell wrote or changed. ``left``: what could not travel, and why. ``error``: the
    exception that ended the cell. ``trial``: of Optuna, a summary. ``streams``: where its random streams have come to,
    if they were the notebook's."""

    values: dict[str, Any]
    left: dict[str, dict[str, str]] = field(default_factory=dict)
    error: BaseException | None = None
    trial: dict[str, Any] = field(default_factory=dict)
    streams: dict[str, Any] = field(default_factory=dict)


def read_results(path: Path, job_id: str, key: str, store: Store, main: dict[str, Any]) -> Results | None:
    """Of the job in ``path``; None when it left none. Functions among them get ``main`` as their globals. Raises
    Untrusted and VersionMismatch, before anything is unpickled."""
    text = Folder(path).read_if_there("results.json")
    if text is None:
        return None
    told = verified(text, job_id, key)
    header = Header.from_json(json.dumps(told["snapshot"]))
    snapshot.check_versions(header)
    missing, _ = differences(told["packages"])
    if missing:
        raise VersionMismatch(f"the results need {', '.join(missing)}, which this Python does not have: install it")
    values = snapshot.read(header, store, main)
    error = values.pop(failure.NAME, None)
    streams = values.pop(STREAMS, {})
    left = told["left"]
    left.pop(failure.NAME, None)
    return Results(values, left, None if error is None else failure.unpacked(error), told.get("trial", {}), streams)


def bring(values: Mapping[str, Any], main: dict[str, Any], *, in_place: bool) -> list[str]:
    """Sets ``values`` in the notebook. ``in_place``: what is there already takes the new state, so that whoever else
    refers to it sees it too. What people should know, in words."""
    notes = []
    for name, value in values.items():
        old = main.get(name)
        if in_place and old is not None and updated(old, value):
            continue
        if in_place and old is not None and not isinstance(value, _VALUES):
            notes.append(f"{name} ({type(old).__name__}) could not be updated in place: it is a new object")
        main[name] = value
        if old is not None and not isinstance(old, _VALUES):
            aliases = _who_holds(old, name, values, main)
            notes += [f"{', '.join(aliases)} still refers to the {name} of before"] if aliases else []
    return notes


_VALUES = (int, float, complex, str, bytes, bool, tuple, frozenset, type(None), type)


def updated(old: Any, new: Any, _under_way: frozenset[int] = frozenset()) -> bool:
    """Whether ``old`` took the state of ``new``. What it holds takes it too, as far as it can."""
    if type(old) is not type(new):
        return False
    if id(old) in _under_way:  # it holds itself, by and by
        return True
    under_way = _under_way | {id(old)}
    if isinstance(old, dict):
        _update_items(old, new, under_way)
    elif isinstance(old, list):
        old[:] = new
    elif isinstance(old, set):
        old.clear()
        old |= new
    elif attribute(old, "load_state_dict") is not None and attribute(new, "state_dict") is not None:
        old.load_state_dict(new.state_dict())
    elif type(old).__module__ == "torch" and hasattr(old, "copy_") and old.shape == new.shape:
        old.data.copy_(new.data)
    elif type(old).__module__ == "numpy" and getattr(old, "shape", None) == getattr(new, "shape", ()):
        if old.dtype != new.dtype or not old.flags.writeable:
            return False
        old[...] = new
    elif type(old).__module__ == "__main__" and attribute(old, "__dict__") is not None:
        _update_items(vars(old), vars(new), under_way)
    else:
        return False
    return True


def _update_items(old: dict[Any, Any], new: Mapping[Any, Any], under_way: frozenset[int]) -> None:
    def kept(key: Any, value: Any) -> Any:
        return old[key] if key in old and updated(old[key], value, under_way) else value

    items = {key: kept(key, value) for key, value in new.items()}
    old.clear()
    old.update(items)


def _who_holds(old: Any, name: str, values: Mapping[str, Any], main: Mapping[str, Any]) -> list[str]:
    """Variables that did not return and are, or directly hold, ``old``."""
    found = []
    for other, value in main.items():
        if other == name or other in values or other.startswith("_") or other in ("In", "Out"):
            continue
        if value is old or any(part is old for part in _direct_parts(value)):
            found.append(other)
    return found


def _direct_parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, list | tuple | set):
        return list(value)
    return list(own(value).values())
