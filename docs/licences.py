"""Write docs/licences.md: the licence of every package that a deployment installs, from the two lock files.

Run by ``make lock``. Licences of Python packages are read from the packages themselves, installed without running any
of their code for the oldest and for a current Python; those of npm stand in its lock file.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from email.parser import HeaderParser
from pathlib import Path

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "requirements-hub.lock"
NPM_LOCK = ROOT / "hub_config" / "npm" / "package-lock.json"
PAGE = ROOT / "docs" / "licences.md"
PYTHONS = ("3.10", "3.13")
HEAD = """# Licences

What a deployment installs beside timeshare itself (BSD-3-Clause, see LICENSE), in the versions of the two lock files.
Made by `make lock`; as the packages state it themselves. Several versions: for different versions of Python.
"""


def normal(name: str) -> str:
    """Return a package's name as Python packaging compares them."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(text: str) -> dict[str, list[str]]:
    """Return the versions of each package in a lock file of pip."""
    found: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", text, re.MULTILINE):
        found.setdefault(normal(name), []).append(version)
    return found


def npm_locked(text: str) -> list[tuple[str, str, str]]:
    """Return name, version and licence of each package in a lock file of npm."""
    entries = json.loads(text)["packages"].items()
    rows = [(place.rpartition("node_modules/")[2], e["version"], e.get("license", "")) for place, e in entries if place]
    return sorted(set(rows))


def licence(metadata: str) -> str:
    """Return what a package's METADATA says: its expression, else its classifiers, else its short free text."""
    said = HeaderParser().parsestr(metadata)
    if said["License-Expression"]:
        return str(said["License-Expression"])
    marks = [c.rpartition(" :: ")[2] for c in said.get_all("Classifier", []) if c.startswith("License :: ")]
    named = [mark for mark in marks if mark != "OSI Approved"]
    free = (said["License"] or "").strip()
    if "Permission is hereby granted, free of charge, to any person" in free:
        return "MIT"
    return ", ".join(named) or (free if "\n" not in free and len(free) < 80 else "")


def python_licences() -> dict[str, str]:
    found = {}
    for version in PYTHONS:
        with tempfile.TemporaryDirectory() as folder:
            words = [str(Path(sys.executable).parent / "uv"), "pip", "install", "--quiet", "--no-deps"]
            words += ["--require-hashes", "--only-binary", ":all:", "--python-version", version]
            subprocess.run([*words, "--target", folder, "-r", str(LOCK)], check=True)
            for path in Path(folder).glob("*.dist-info/METADATA"):
                text = path.read_text(errors="replace")
                found[normal(HeaderParser().parsestr(text)["Name"])] = licence(text)
    return found


def table(rows: list[tuple[str, str, str]]) -> str:
    lines = ["| package | version | licence |", "| --- | --- | --- |"]
    return "\n".join([*lines, *(f"| {name} | {version} | {terms} |" for name, version, terms in rows)]) + "\n"


def main() -> None:
    terms = python_licences()
    packages = locked(LOCK.read_text())
    rows = [(name, ", ".join(versions), terms.get(name, "")) for name, versions in sorted(packages.items())]
    npm = npm_locked(NPM_LOCK.read_text())
    if missing := [name for name, _, said in [*rows, *npm] if not said]:
        sys.exit(f"these packages do not say their licence: {', '.join(missing)}")
    PAGE.write_text(f"{HEAD}\n## Python\n\n{table(rows)}\n## The proxy (npm)\n\n{table(npm)}")


if __name__ == "__main__":
    main()
