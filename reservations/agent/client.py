"""Speaks to the agent: one line of JSON each way on its unix socket. See docs/how_it_works.md."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_ANSWER = 8 * 1024 * 1024


class AgentUnreachable(Exception):
    """The agent did not answer: nothing is known about its sessions."""


class AgentError(Exception):
    """The agent refused. ``reason`` is its code, the text is for a person."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class AgentClient:
    """``socket_path``: the agent's socket. ``timeout_s``: longest wait for an answer."""

    socket_path: Path
    timeout_s: float = 20.0

    async def call(self, method: str, **params: Any) -> Any:
        """The result. Raises AgentError when refused, AgentUnreachable when there is no answer."""
        try:
            answer = await asyncio.wait_for(self._exchange({"method": method, "params": params}), self.timeout_s)
        except (OSError, ValueError, EOFError, asyncio.TimeoutError) as error:
            raise AgentUnreachable(f"the agent does not answer ({error or type(error).__name__})") from None
        if "error" in answer:
            raise AgentError(answer["error"].get("reason", "failed"), answer["error"].get("message", "refused"))
        return answer["result"]

    async def _exchange(self, request: dict[str, Any]) -> dict[str, Any]:
        reader, writer = await asyncio.open_unix_connection(str(self.socket_path), limit=MAX_ANSWER)
        try:
            writer.write(json.dumps(request).encode() + b"\n")
            await writer.drain()
            line = await reader.readline()
        finally:
            writer.close()
        if not line.endswith(b"\n"):
            raise EOFError("the connection broke")
        answer: dict[str, Any] = json.loads(line)
        return answer
