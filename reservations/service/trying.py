"""What-if for the administrators' page: the replay takes seconds of a core, so it is a process of its own."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from typing import Any

from ..errors import PublicError

LONGEST_S = 120.0
COMMAND = "use `timeshare limits try NEW.yaml --history` on the hub's machine"


class Trials:
    """One at a time: they are for comparing, not for load."""

    def __init__(self) -> None:
        self._busy = False

    async def run(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The answer of ``whatif.__main__`` to ``asked``. Raises PublicError 409."""
        if self._busy:
            raise PublicError("busy", "limits are being tried already: wait until that is done", 409)
        self._busy = True
        try:
            return await self._ask(json.dumps(asked).encode())
        finally:
            self._busy = False

    async def _ask(self, asked: bytes) -> dict[str, Any]:
        words = (sys.executable, "-I", "-m", "timeshare.reservations.whatif")
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(*words, stdin=pipe, stdout=pipe, cwd="/")
        try:
            output, _ = await asyncio.wait_for(child.communicate(asked), LONGEST_S)
        except asyncio.TimeoutError:
            message = f"it takes longer than {LONGEST_S:.0f} s: choose fewer days, or {COMMAND}"
            raise PublicError("too-long", message, 409) from None
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        if child.returncode != 0:
            raise PublicError("not-tried", f"it could not be tried; the service's log says why, or {COMMAND}", 409)
        answer: dict[str, Any] = json.loads(output)
        if "error" in answer:
            raise PublicError("nothing-to-try", str(answer["error"]), 409)
        return answer
