"""Modules of the notebook's own: their source travels with the cell, for the files may be edited before the job runs.
What packages installed is named with its version instead."""

from __future__ import annotations

import site
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator
from importlib import metadata, util
from pathlib import Path
from typing import Any

from .attributes import attribute
from .store import Store

MOST_BYTES = 20 * 1024 * 1024
_PLAIN = (str, bytes, int, float, complex, bool, type(None))
DEEPEST = 4


class TooMuch(Exception):
    """Local modules are too large to travel; the text says what to do."""


def local_tops(names: Iterable[str]) -> list[str]:
    """Of modules in use by ``names``, the top-level ones that no package installed; with any of them all others that
    this interpreter has loaded, for they import each other."""
    if not any(_is_local(name.partition(".")[0]) for name in names):
        return []
    return sorted({top for top in {name.partition(".")[0] for name in list(sys.modules)} if _is_local(top)})


def source_files(top: str) -> dict[str, Path]:
    """The Python files of a local module or package, by their path below its import folder."""
    module = sys.modules[top]
    file = Path(str(module.__file__))
    if not hasattr(module, "__path__"):
        return {file.name: file}
    folder = file.parent
    return {str(path.relative_to(folder.parent)): path for path in sorted(folder.rglob("*.py"))}


def pack(tops: Iterable[str], store: Store) -> dict[str, tuple[str, int]]:
    """Keeps the sources in ``store``; digest and size of each. Raises TooMuch."""
    found: dict[str, tuple[str, int]] = {}
    total = 0
    for top in tops:
        for name, path in source_files(top).items():
            total += path.stat().st_size
            if total > MOST_BYTES:
                message = f"the local modules come to more than {MOST_BYTES >> 20} MiB with {top}"
                raise TooMuch(f"{message}: install it as a package, and it is taken from there")
            blob = store.put(path.read_bytes())
            found[name] = (blob.digest, blob.size)
    return found


def unpack(files: dict[str, tuple[str, int]], store: Store, folder: Path) -> None:
    """Writes the sources below ``folder``."""
    root = folder.resolve()
    for name, (digest, size) in files.items():
        path = (root / name).resolve()
        if root not in path.parents:
            raise ValueError(f"{name} would lie outside of the job's folder")
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_bytes(bytes(store.get(digest, size)))


def values(tops: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Plain values in local modules as they are now: one that was set from the notebook is not in the file."""
    found = {}
    for top in tops:
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] == top and isinstance(module, types.ModuleType):
                plain = {k: v for k, v in vars(module).items() if not k.startswith("__") and _is_plain(v, DEEPEST)}
                if plain:
                    found[name] = plain
    return found


def patched(tops: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Functions and classes of the notebook that were set in local modules: they are in no file."""
    found = {}
    for top in tops:
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] == top and isinstance(module, types.ModuleType):
                ours = {k: v for k, v in vars(module).items() if attribute(v, "__module__") == "__main__"}
                if ours:
                    found[name] = ours
    return found


def edited_since(tops: Iterable[str]) -> list[str]:
    """Files of local modules whose code is not what this interpreter has loaded from them."""
    found = []
    for top in tops:
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] == top and str(getattr(module, "__file__", "")).endswith(".py"):
                file = Path(str(module.__file__))
                loaded = [code for code in _codes_of(module) if code.co_filename == str(file)]
                if loaded and not set(loaded) <= _codes_in(file):
                    found.append(str(file))
    return found


def _codes_of(module: types.ModuleType) -> Iterator[types.CodeType]:
    """Of its functions, and of the methods of its classes."""
    for value in vars(module).values():
        members = vars(value).values() if isinstance(value, type) else (value,)
        yield from (member.__code__ for member in members if isinstance(member, types.FunctionType))


def _codes_in(file: Path) -> set[types.CodeType]:
    """Of everything that is defined in it now; nothing if it cannot be compiled."""
    try:
        todo = [compile(file.read_bytes(), str(file), "exec", dont_inherit=True)]
    except (OSError, SyntaxError, ValueError):
        return set()
    found: set[types.CodeType] = set()
    while todo:
        code = todo.pop()
        found.add(code)
        todo += [part for part in code.co_consts if isinstance(part, types.CodeType)]
    return found


def packages(names: Iterable[str]) -> dict[str, str]:
    """The installed version of each top-level module of ``names`` that a package of the same name brought."""
    found = {}
    for top in sorted({name.partition(".")[0] for name in names}):
        if top and top != "__main__" and not _is_local(top) and top not in sys.stdlib_module_names:
            found[top] = _version(top)
    return found


def differences(wanted: dict[str, str]) -> tuple[list[str], list[str]]:
    """What of ``wanted`` is missing here, and what has another version, in words."""
    missing = [top for top in wanted if util.find_spec(top) is None]
    other = []
    for top, version in wanted.items():
        here = "" if top in missing else _version(top)
        if version and here and here != version:
            other.append(f"{top} is {here} here and {version} in the notebook")
    return missing, other


def _version(top: str) -> str:
    try:
        return metadata.version(top)
    except metadata.PackageNotFoundError:
        return ""


def _is_local(top: str) -> bool:
    module = sys.modules.get(top)
    file = getattr(module, "__file__", None)
    if top in ("__main__", "timeshare") or not file or not str(file).endswith(".py"):
        return False
    return not any(Path(str(file)).is_relative_to(root) for root in _INSTALLED)


def _installed_roots() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    found = {Path(paths[name]) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    found |= {Path(folder) for folder in [*site.getsitepackages(), site.getusersitepackages()]}
    return tuple(found)


_INSTALLED = _installed_roots()


def _is_plain(value: Any, deep: int) -> bool:
    if isinstance(value, _PLAIN):
        return True
    if deep and type(value) in (list, tuple, set):
        return len(value) < 1000 and all(_is_plain(part, deep - 1) for part in value)
    if deep and type(value) is dict:
        return len(value) < 1000 and all(_is_plain(k, 1) and _is_plain(v, deep - 1) for k, v in value.items())
    return False
