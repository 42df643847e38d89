"""What all tests share."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from databases import free_port, postgres, postgres_bin
from hypothesis import settings
from nodes import kept_from_others, running_node
from slurm_cluster import Cluster, folder_for_tests, obstacle

from timeshare.notebooks.server.singleuser import import_jsonschema
from timeshare.reservations.deployment import Deployment

import_jsonschema()  # which each worker imports: two seconds
settings.register_profile("default", deadline=None)
settings.load_profile("default")

SLOW = ("stress", "slurm", "hub", "browser")
FULL_STRESS = os.environ.get("STRESS") == "full"
"""True for `make stress`: the counts that an issue asks for instead of a short run."""


LONGEST = (
    "test_slurm_sessions",
    "test_api_contract",
    "test_lab_browser",
    "test_slurm_browser",
    "test_hub",
    "test_multi_user",
    "test_idle_culler",
)
"""Files of minutes each."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first, then those that wait for real servers: none is left alone at the end."""
    slow = {item.path for item in items if any(item.get_closest_marker(name) for name in SLOW)}
    items.sort(key=lambda item: (item.path.stem not in LONGEST, item.path not in slow))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Beside a failure: what the hub and the Slurm of the test say of themselves. Nobody can ask them any more."""
    report = yield
    if report.failed:
        told = {name: found.logs() for name, found in getattr(item, "funcargs", {}).items() if hasattr(found, "logs")}
        report.sections.extend(told.items())
    return report


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """Commands of timeshare set their own, in this process too."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    if postgres_bin() is None:
        pytest.skip("no PostgreSQL server is installed: run `make system`, or install the package postgresql")
    with postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh ledger's URL, on each database that timeshare supports."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.sqlite"
    return fresh_schema(request.getfixturevalue("postgres_url"))


def fresh_schema(url: str) -> str:
    """An empty schema of its own in the test server."""
    import uuid

    import sqlalchemy as sa

    name = f"t{uuid.uuid4().hex[:12]}"
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text(f"CREATE SCHEMA {name}"))
    engine.dispose()
    return f"{url}?options=-csearch_path%3D{name}"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Deployment]:
    """A deployment with a node, and no service yet."""
    url = f"http://127.0.0.1:{free_port()}/services/timeshare"
    with running_node(tmp_path, service_url=url) as node:
        yield node.deployment


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """A real Slurm for the whole run. Tests leave nothing of theirs running in it."""
    if reason := obstacle() or kept_from_others():
        pytest.skip(reason)
    with folder_for_tests() as folder:
        try:
            yield Cluster.start(folder)
        finally:
            if cluster := Cluster.load(folder):
                cluster.stop()
