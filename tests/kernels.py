"""A real notebook kernel, and what it shows in the cell that asked for it."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jupyter_client.manager import start_new_kernel

from timeshare.notebooks.runner.document import outputs


class NotebookKernel:
    """``run`` executes a cell; whatever is published later for it arrives in ``shown`` too."""

    def __init__(self, env: dict[str, str], cwd: Path) -> None:
        clean = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
        self.manager, self.client = start_new_kernel(env={**clean, **env}, cwd=str(cwd))
        self.messages: list[dict[str, Any]] = []

    def run(self, code: str, seconds: float = 60) -> str:
        """Until the kernel is idle; the id of the cell's execution."""
        sent = str(self.client.execute(code, allow_stdin=False))
        self.until(
            lambda: any(
                m["parent_header"].get("msg_id") == sent
                and m["msg_type"] == "status"
                and m["content"]["execution_state"] == "idle"
                for m in self.messages
            ),
            seconds,
        )
        return sent

    def until(self, question: Callable[[], bool], seconds: float = 60) -> None:
        """Takes messages until ``question`` is answered yes."""
        end = time.monotonic() + seconds
        while not question():
            assert time.monotonic() < end, f"not in {seconds:g} s; shown: {[self.text(i) for i in self.ids()]}"
            with contextlib.suppress(queue.Empty):
                self.messages.append(self.client.get_iopub_msg(timeout=0.2))

    def ids(self) -> list[str]:
        return list(dict.fromkeys(m["parent_header"].get("msg_id") for m in self.messages))

    def shown(self, sent: str) -> list[dict[str, Any]]:
        """The outputs of a cell as a notebook would keep them."""
        lines = [
            {"kind": m["msg_type"], "content": m["content"]}
            for m in self.messages
            if m["parent_header"].get("msg_id") == sent
            and m["msg_type"]
            in ("stream", "display_data", "update_display_data", "execute_result", "error", "clear_output")
        ]
        return outputs(lines)

    def text(self, sent: str) -> str:
        parts = []
        for output in self.shown(sent):
            if output["output_type"] == "stream":
                parts.append(output["text"])
            elif output["output_type"] == "error":
                parts.append(f"{output['ename']}: {output['evalue']}")
            else:
                parts.append(str(output["data"].get("text/plain", "")))
        return "\n".join(parts)

    def value(self, expression: str) -> str:
        """``repr`` of it in the kernel."""
        return self.text(self.run(expression)).strip()

    def kill(self) -> None:
        """kill -9, and nothing else."""
        provisioner = self.manager.provisioner
        os.kill(provisioner.process.pid, signal.SIGKILL)  # type: ignore[union-attr]

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@contextlib.contextmanager
def running_kernel(env: dict[str, str], cwd: Path) -> Iterator[NotebookKernel]:
    kernel = NotebookKernel(env, cwd)
    try:
        yield kernel
    finally:
        kernel.close()
