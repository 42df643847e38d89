"""A cell in a real kernel of this environment, with every message that it publishes."""

from __future__ import annotations

import contextlib
import queue
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager

from .folder import PRIVATE

POLL_S = 0.1
DRAIN_S = 3.0
"""How long, at most, the last words of child processes are waited for."""
SAVE_S = 600.0
START_S = 60.0
PUBLISHED = frozenset({"stream", "display_data", "update_display_data", "execute_result", "error", "clear_output"})


class KernelDied(Exception):
    """The kernel's process ended by itself; the text says how, as far as it can be known. ``killed``: by signal 9."""

    killed = False


@dataclass
class Outcome:
    """``ok``: the cell ran to its end; else the exception's ``name`` and ``value``."""

    ok: bool
    name: str = ""
    value: str = ""


class Kernel:
    """Started when made. ``close`` ends it in any case."""

    def __init__(self, environment: dict[str, str]) -> None:
        words = [sys.executable, "-m", "timeshare.notebooks.runner.launch", "-f", "{connection_file}"]
        # Sockets have names of at most 107 characters, and job folders lie deep: they get a short private folder.
        self._sockets = tempfile.TemporaryDirectory(prefix="timeshare-job-")
        self._manager = KernelManager(transport="ipc", connection_file=f"{self._sockets.name}/kernel.json")
        self._manager._kernel_spec = KernelSpec(argv=words, display_name="job", language="python")
        # Not in the cell's folder: -m would look for Python's own modules there. ``inside.begin`` goes there.
        self._manager.start_kernel(cwd="/", env={**environment, PRIVATE: self._sockets.name})
        self._client: BlockingKernelClient = self._manager.client()
        self._client.start_channels()
        self._until_ready()

    def _until_ready(self) -> None:
        """It answers on both channels. The client's own wait goes on until there is silence; here messages are told
        apart by what they answer. Raises KernelDied."""
        until = time.monotonic() + START_S
        while self._manager.is_alive() and time.monotonic() < until:
            self._client.kernel_info()
            with contextlib.suppress(queue.Empty):
                self._client.get_shell_msg(timeout=1)
                self._client.get_iopub_msg(timeout=0.2)
                return
        self.close()
        raise KernelDied("the kernel did not start: is ipykernel installed in this environment?")

    def run(self, code: str, publish: Callable[[str, dict[str, Any]], None], tick: Callable[[], None]) -> Outcome:
        """Runs ``code``; ``publish`` gets kind and content of each message. Raises KernelDied."""
        sent = self._client.execute(code, allow_stdin=False, store_history=False, stop_on_error=True)
        while True:
            tick()
            try:
                message = self._client.get_iopub_msg(timeout=POLL_S)
            except queue.Empty:
                self._check_alive()
                continue
            if message["parent_header"].get("msg_id") != sent:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                self._drain(sent, publish)
                return self._reply(sent)
            if kind in PUBLISHED:
                publish(kind, content)

    def _reply(self, sent: str) -> Outcome:
        """How it ended. Messages do not tell: a wrong magic shows no error, and a cell may show one and go on."""
        while True:
            try:
                message = self._client.get_shell_msg(timeout=POLL_S)
            except queue.Empty:
                self._check_alive()
                continue
            if message["parent_header"].get("msg_id") == sent:
                content = message["content"]
                if content["status"] == "ok":
                    return Outcome(True)
                return Outcome(False, content.get("ename", content["status"]), content.get("evalue", ""))

    def _drain(self, sent: str, publish: Callable[[str, dict[str, Any]], None]) -> None:
        """What child processes and libraries wrote reaches the kernel through pipes, later than its own words. A mark
        written into the pipes comes out of them when everything before it has."""
        mark = f"\0{secrets.token_hex(8)}\0"
        code = f"for __n in (1, 2): __import__('os').write(__n, {mark.encode()!r})"
        marked = self._client.execute(code, silent=True, store_history=False, allow_stdin=False)
        held = {"stdout": "", "stderr": ""}
        until = time.monotonic() + DRAIN_S
        while held and time.monotonic() < until:
            try:
                message = self._client.get_iopub_msg(timeout=POLL_S)
            except queue.Empty:
                continue
            content = message["content"]
            if message["msg_type"] != "stream" or message["parent_header"].get("msg_id") not in (sent, marked):
                continue
            name = content["name"]
            text = held.pop(name, "") + content["text"]
            if mark not in text:
                held[name] = text
            elif text != mark:
                publish("stream", {"name": name, "text": text.replace(mark, "")})
        for name, text in held.items():
            if text:
                publish("stream", {"name": name, "text": text})

    def quietly(self, code: str) -> Outcome:
        """Runs ``code`` that nobody is to see. Raises KernelDied, and TimeoutError after ten minutes."""
        until = time.monotonic() + SAVE_S

        def check() -> None:
            if time.monotonic() > until:
                raise TimeoutError(f"it took more than {SAVE_S:g} s")

        return self.run(code, lambda kind, content: None, check)

    def interrupt(self) -> None:
        """As Ctrl-C would."""
        self._manager.interrupt_kernel()

    def kill(self) -> None:
        """It hears no interrupt. What runs a cell in it raises KernelDied."""
        self._manager.signal_kernel(signal.SIGKILL)

    def close(self) -> None:
        self._client.stop_channels()
        if self._manager.has_kernel:
            self._manager.shutdown_kernel(now=True)
        self._sockets.cleanup()

    def _check_alive(self) -> None:
        if self._manager.is_alive():
            return
        provisioner = self._manager.provisioner
        process = getattr(provisioner, "process", None)
        code = None if process is None else process.returncode
        died = KernelDied(_how(code))
        died.killed = code == -signal.SIGKILL
        raise died


def _how(code: int | None) -> str:
    if code == -signal.SIGKILL:
        return "its kernel was killed (signal 9): most often that means out of memory"
    if code is not None and code < 0:
        return f"its kernel was ended by {signal.Signals(-code).name}"
    return f"its kernel ended by itself with exit status {code}" if code is not None else "its kernel is gone"
