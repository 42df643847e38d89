"""What a deployment installs from outside: exactly the locked versions with the locked digests, and nothing else."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib import metadata
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from timeshare.hub_config import npm_tree, proxy

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "requirements-hub.lock"
_spec = spec_from_file_location("licences", ROOT / "docs" / "licences.py")
assert _spec is not None
assert _spec.loader is not None
licences = module_from_spec(_spec)
_spec.loader.exec_module(licences)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with the proxy as ``timeshare up`` installs it, by npm's own registry."""
    state = tmp_path_factory.mktemp("state")
    proxy.install(state)
    return state


def lock_entries() -> dict[str, dict[str, str]]:
    entries: dict[str, dict[str, str]] = json.loads((npm_tree.LOCKED / npm_tree.LOCK_NAME).read_text())["packages"]
    return entries


# --- the proxy's packages


def test_the_installed_proxy_is_the_locked_one_package_by_package(installed: Path) -> None:
    folder = installed / "proxy" / proxy.VERSION
    assert npm_tree.differences(folder) == []
    found = {
        str(path.parent.relative_to(folder)): json.loads(path.read_text())["version"]
        for path in (folder / "node_modules").rglob("package.json")
        if path.parent.parent.name == "node_modules" or path.parent.parent.name.startswith("@")
    }
    # Parts of a package have a package.json without a version; these are not counted by their place.
    locked = {place: entry["version"] for place, entry in lock_entries().items() if place}
    assert {place: found.get(place) for place in locked} == locked
    assert set(found) - set(locked) == set()
    assert not list((folder / "node_modules").glob(".bin/*install*"))


def test_the_lock_of_the_proxy_pins_every_package_and_names_no_address() -> None:
    entries = lock_entries()
    assert entries[""]["dependencies"] == {"configurable-http-proxy": proxy.VERSION}
    assert len(entries) > 30
    for place, entry in entries.items():
        if place:
            assert re.fullmatch(r"sha512-[A-Za-z0-9+/]{86}==", entry["integrity"]), place
            assert "resolved" not in entry, place


def test_an_archive_that_differs_from_the_lock_is_refused_by_name(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same as a registry that gives another archive: what arrives has not the digest that is locked."""
    locked = tmp_path / "npm"
    shutil.copytree(npm_tree.LOCKED, locked)
    text = (locked / npm_tree.LOCK_NAME).read_text()
    good = lock_entries()["node_modules/winston"]["integrity"]
    changed = good.replace(good[10:14], "AAAA" if good[10:14] != "AAAA" else "BBBB")
    (locked / npm_tree.LOCK_NAME).write_text(text.replace(good, changed))
    monkeypatch.setattr(npm_tree, "LOCKED", locked)
    with pytest.raises(proxy.ProxyError, match="not the one that timeshare was released with") as refused:
        proxy.install(tmp_path)
    assert changed in str(refused.value)
    assert not proxy.script_path(tmp_path).exists()


def test_a_lock_that_does_not_fit_the_package_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = tmp_path / "npm"
    shutil.copytree(npm_tree.LOCKED, locked)
    wanted = {"name": "timeshare-proxy", "private": True, "dependencies": {"configurable-http-proxy": "5.2.0"}}
    (locked / "package.json").write_text(json.dumps(wanted))
    monkeypatch.setattr(npm_tree, "LOCKED", locked)
    with pytest.raises(proxy.ProxyError, match="could not be installed"):
        proxy.install(tmp_path)
    assert not proxy.script_path(tmp_path).exists()


def test_a_package_without_a_digest_is_not_accepted(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """npm installs what has no digest without a word."""
    locked = tmp_path / "npm"
    shutil.copytree(npm_tree.LOCKED, locked)
    content = json.loads((locked / npm_tree.LOCK_NAME).read_text())
    del content["packages"]["node_modules/winston"]["integrity"]
    (locked / npm_tree.LOCK_NAME).write_text(json.dumps(content))
    monkeypatch.setattr(npm_tree, "LOCKED", locked)
    with pytest.raises(proxy.ProxyError, match="node_modules/winston has no digest"):
        proxy.install(tmp_path)
    assert not proxy.script_path(tmp_path).exists()


def test_a_proxy_installed_by_another_lock_is_replaced(installed: Path, tmp_path: Path) -> None:
    """One from before there was a lock, with packages that floated, counts as missing."""
    state = tmp_path / "state"
    shutil.copytree(installed, state)
    folder = state / "proxy" / proxy.VERSION
    (folder / npm_tree.LOCK_NAME).write_text("{}")
    stray = folder / "node_modules" / "planted" / "index.js"
    stray.parent.mkdir()
    stray.write_text("")
    proxy.install(state)
    assert npm_tree.is_current(folder)
    assert not stray.exists()


def test_no_program_of_a_package_runs_while_it_is_installed() -> None:
    assert "--ignore-scripts" in npm_tree.WORDS
    assert "ci" in npm_tree.WORDS


def test_node_is_not_told_by_the_environment_to_load_other_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    planted = tmp_path / "planted.js"
    planted.write_text(f"require('fs').writeFileSync({str(tmp_path / 'ran')!r}, '')")
    monkeypatch.setenv("NODE_OPTIONS", f"--require {planted}")
    node = proxy.node_path()
    words = [str(node), "-e", "0"]
    subprocess.run(words, env=npm_tree.environment(node), check=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "npm error code ENOTFOUND\nnpm error network request failed\nnpm error A complete log of x",
            "network request",
        ),
        ("npm error code EINTEGRITY\nnpm error sha512-x integrity checksum failed", "not the one that timeshare"),
        ("", "no reason"),
    ],
)
def test_what_npm_says_is_told_in_one_line(said: str, told: str) -> None:
    assert told in npm_tree.reason(said)
    assert "\n" not in npm_tree.reason(said)


# --- the Python side


def wanted_of_the_hub() -> list[Requirement]:
    """What pyproject.toml asks for on the hub's side."""
    every = [Requirement(line) for line in metadata.requires("timeshare") or ()]
    extras = ("hub", "report", "postgresql", "oidc")
    applies = [r for r in every if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in extras)]
    return [r for r in applies if r.name != "timeshare"]


def test_the_lock_holds_what_the_hub_needs_in_versions_that_are_allowed() -> None:
    locked = licences.locked(LOCK.read_text())
    wanted = wanted_of_the_hub()
    assert len(wanted) > 15
    for requirement in wanted:
        versions = locked.get(licences.normal(requirement.name), [])
        assert versions, requirement
        assert [v for v in versions if not requirement.specifier.contains(v)] == [], requirement
    assert "setuptools" in locked  # timeshare itself is built without fetching anything more


def test_every_line_of_the_lock_has_digests_and_none_an_address() -> None:
    text = LOCK.read_text()
    entries = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(entries) > 100
    assert [entry for entry in entries if not re.search(r"--hash=sha256:[0-9a-f]{64}", entry)] == []
    assert not re.search(r"https?:|--index|--extra-index|--find-links|@ file", text)


def test_pip_takes_the_locked_files_and_refuses_others(tmp_path: Path) -> None:
    entry = next(e for e in re.split(r"^(?=[a-z0-9])", LOCK.read_text(), flags=re.MULTILINE) if e.startswith("six=="))
    good, bad = tmp_path / "good.txt", tmp_path / "bad.txt"
    good.write_text(entry)
    bad.write_text(re.sub(r"sha256:[0-9a-f]{64}", "sha256:" + "0" * 64, entry))
    words = [sys.executable, "-m", "pip", "install", "--require-hashes", "--only-binary", ":all:", "--no-deps", "-q"]
    done = subprocess.run([*words, "--target", str(tmp_path / "a"), "-r", str(good)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    refused = subprocess.run(
        [*words, "--target", str(tmp_path / "b"), "-r", str(bad)], capture_output=True, text=True, check=False
    )
    assert refused.returncode != 0
    assert "DO NOT MATCH THE HASHES" in refused.stderr
    assert not (tmp_path / "b").exists()


def test_a_python_without_these_versions_is_told_what_would_work(tmp_path: Path) -> None:
    bad = tmp_path / "bad.lock"
    bad.write_text("six==1.17.0 --hash=sha256:" + "0" * 64 + "\n")
    words = ["make", "--no-print-directory", f"VENV={tmp_path / 'venv'}", f"LOCK={bad}", f"{tmp_path / 'venv'}/.user"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "cannot be installed for Python 3." in done.stderr
    assert "make up LOCK=" in done.stderr
    assert not (tmp_path / "venv" / ".user").exists()


# --- licences


def test_the_page_of_licences_lists_the_locked_versions() -> None:
    page = licences.PAGE.read_text()
    python, npm = page.partition("## The proxy")[::2]
    rows = {m[0]: m[1:] for m in re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", python, re.MULTILINE)[2:]}
    locked = licences.locked(LOCK.read_text())
    assert {name: row[0].split(", ") for name, row in rows.items()} == locked
    assert all(row[1].strip() for row in rows.values())
    text = (npm_tree.LOCKED / npm_tree.LOCK_NAME).read_text()
    assert licences.table(licences.npm_locked(text)) in npm
