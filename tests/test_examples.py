"""The example notebooks, from the first cell to the last, in a real session of a real hub."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from hubs import Hub, running_hub
from nbclient import NotebookClient
from nodes import eventually, marked

pytestmark = [pytest.mark.hub, pytest.mark.timeout(300)]
EXAMPLES = Path(__file__).parent.parent / "notebooks" / "examples"


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What a program in a session finds in its environment."""
    with running_hub(tmp_path_factory.mktemp("examples"), "--simulate", "a100-40gb:2") as hub:
        yield environment_of_a_session(hub)


def environment_of_a_session(hub: Hub) -> dict[str, str]:
    ada = hub.login("ada")
    ada.start(memory_gib=10)
    eventually(lambda: [r["state"] for r in ada.reservations()] == ["active"], 60)
    (mine,) = ada.reservations()
    for pid in marked(mine["id"]):
        with contextlib.suppress(OSError):  # it may have ended since
            text = Path(f"/proc/{pid}/environ").read_bytes().decode()
            found = dict(variable.split("=", 1) for variable in text.split("\0") if "=" in variable)
            if "TIMESHARE_SHARE_TEXT" in found:
                return found
    raise AssertionError("no process of the session knows its share")


def executed(name: str, session: dict[str, str], folder: Path) -> str:
    """Everything that its cells put out."""
    document = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in document.cells), "examples are kept without outputs"
    environment = {name: value for name, value in session.items() if name != "PYTEST_CURRENT_TEST"}
    client = NotebookClient(document, timeout=120, resources={"metadata": {"path": str(folder)}})
    client.execute(env=environment)
    texts = []
    for output in (output for cell in document.cells if cell.cell_type == "code" for output in cell.outputs):
        texts.append(output.get("text", "") or output.get("data", {}).get("text/plain", ""))
    return "\n".join(texts)


@pytest.fixture(autouse=True)
def kernels_leave_descriptors_alone_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTEST_CURRENT_TEST")


def test_every_example_is_executed_here() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.ipynb")} == {"first_gpu_session", "train_in_batch", "sweep"}


def test_first_gpu_session(session: dict[str, str], tmp_path: Path) -> None:
    shown = executed("first_gpu_session", session, tmp_path)
    assert "10 GiB of one GPU" in shown
    assert "(not set)" not in shown
    assert " h left" in shown
    assert "on the CPU: " in shown or "on the GPU: " in shown


def test_train_in_batch(session: dict[str, str], tmp_path: Path) -> None:
    shown = executed("train_in_batch", session, tmp_path)
    assert "Nothing was submitted" in shown
    assert "back: " in shown
    assert "after 30 epochs" in shown


def test_sweep(session: dict[str, str], tmp_path: Path) -> None:
    shown = executed("sweep", session, tmp_path)
    assert "4 completed" in shown
    assert "error" in shown
    assert "{'degree': " in shown
