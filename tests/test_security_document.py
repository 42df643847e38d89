"""docs/security.md: every sentence names a test that exists, and every gap its reason."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from nodes import deployment

from timeshare.hub_config import hub_parts
from timeshare.reservations.deployment import Deployment

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "security.md").read_text()
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def part(title: str) -> str:
    """Of the page, from a heading of the second level to the next."""
    found = re.search(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def bullets(title: str) -> list[str]:
    return re.findall(r"^- (.+)$", part(title), re.MULTILINE)


HOLDS = [*bullets("What holds"), *bullets("What holds on which machine")]
FAILS = bullets("What does not hold")
TESTS = sorted(set(NAMED.findall(PAGE)))


def test_the_page_has_what_it_is_for() -> None:
    assert len(HOLDS) > 40
    assert len(FAILS) > 10
    assert len(TESTS) > 50


@pytest.mark.parametrize("line", HOLDS, ids=[line[:60] for line in HOLDS])
def test_what_holds_ends_with_a_test(line: str) -> None:
    assert re.search(r"\. (`tests/\S+::test_\w+` ?)+$", line), line
    assert line.count(". ") == 1, "one sentence for each line, so that each has its own test"


def test_nothing_but_headings_lists_and_an_introduction_stands_where_things_hold() -> None:
    """A sentence outside of the list would name no test."""
    lines = [line for line in part("What holds").splitlines() if line and not line.startswith(("- ", "### "))]
    assert lines == []


@pytest.mark.parametrize("line", FAILS, ids=[line[:60] for line in FAILS])
def test_what_does_not_hold_has_a_reason_and_no_test(line: str) -> None:
    assert re.search(r": \*reason\*: \w+", line), line
    assert not NAMED.search(line), "what a test shows belongs to what holds"


@pytest.mark.parametrize(("file", "name"), TESTS, ids=[f"{file}::{name}" for file, name in TESTS])
def test_a_test_that_is_named_exists(file: str, name: str) -> None:
    path = ROOT / file
    assert path.exists(), file
    defined = [node.name for node in ast.walk(ast.parse(path.read_text())) if hasattr(node, "name")]
    assert name in defined


def test_no_sentence_waits_for_a_test() -> None:
    waiting = re.findall(r"`(PENDING: (?!what`)[^`]+)`", PAGE)
    assert waiting == []


def roles(where: Deployment) -> dict[str, set[str]]:
    """As the hub's configuration loads them."""
    return {role["name"]: set(role["scopes"]) for role in hub_parts.roles(where)}


def test_the_table_of_scopes_is_what_the_hub_loads(tmp_path: Path) -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| [^|]+ \| ([^|]+) \| [^|]+ \|$", part("Least privilege"), re.MULTILINE)
    assert {name: set(re.findall(r"`([^`]+)`", scopes)) for name, scopes in rows} == roles(deployment(tmp_path))
