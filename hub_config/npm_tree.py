"""The proxy's packages from npm: exactly those of ``npm/package-lock.json``, each with the digest of its archive.

``make lock`` writes the lock file. It holds no addresses: npm takes them from whichever registry the site has
configured, and refuses an archive whose digest differs.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

LOCKED = Path(__file__).parent / "npm"
LOCK_NAME = "package-lock.json"
UNWANTED = ("NODE_OPTIONS", "NODE_PATH")
WORDS = ("ci", "--no-audit", "--no-fund", "--ignore-scripts", "--logs-max=0", "--loglevel=error")
"""For npm. ``ci`` installs the lock file or nothing; no package's own script is run."""


def is_current(folder: Path) -> bool:
    """Return whether ``folder`` was made from the lock file as it is now."""
    try:
        return (folder / LOCK_NAME).read_bytes() == (LOCKED / LOCK_NAME).read_bytes()
    except OSError:
        return False


def lay_out(folder: Path) -> None:
    """Put what ``npm ci`` reads into ``folder``."""
    for name in ("package.json", LOCK_NAME):
        shutil.copyfile(LOCKED / name, folder / name)


def environment(node: Path) -> dict[str, str]:
    """Return the variables for npm: ours, ``node`` first on the path, without what makes node load other code."""
    kept = {name: value for name, value in os.environ.items() if name not in UNWANTED}
    return {**kept, "PATH": f"{node.parent}{os.pathsep}{kept.get('PATH', os.defpath)}"}


def packages(lock_file: Path) -> dict[str, tuple[str, str]]:
    """Return version and digest of each package in a lock file of npm, by its place (``node_modules/NAME``)."""
    entries: dict[str, dict[str, Any]] = json.loads(lock_file.read_text())["packages"]
    return {place: (str(e.get("version", "")), str(e.get("integrity", ""))) for place, e in entries.items() if place}


def differences(folder: Path) -> list[str]:
    """Return what is wrong with the tree in ``folder``: a line for each package that is not as the lock file has it."""
    wanted = packages(LOCKED / LOCK_NAME)
    found = packages(folder / "node_modules" / f".{LOCK_NAME}")
    wrong = [f"{place} has no digest" for place, (_, digest) in wanted.items() if not digest.startswith("sha512-")]
    for place in sorted(wanted.keys() | found.keys()):
        if wanted.get(place) != found.get(place):
            old, new = (one.get(place, ("missing", ""))[0] for one in (wanted, found))
            wrong.append(f"{place}: locked {old}, installed {new}")
    return wrong


def reason(said: str) -> str:
    """Return the line in which npm says why it failed, of all that it printed."""
    lines = [line.removeprefix("npm error").strip() for line in said.splitlines()]
    telling = [line for line in lines if line and not line.startswith(("code ", "A complete log"))]
    if any("EINTEGRITY" in line or "Integrity checksum" in line for line in lines):
        return f"a package is not the one that timeshare was released with, and was not installed ({telling[0]})"
    return telling[0] if telling else "npm gave no reason"
