"""Sessions on this machine, started by its node agent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from traitlets import Unicode

from ..reservations.agent.client import AgentClient
from ..reservations.client import Json
from ..reservations.sockets import LONGEST_PATH, SERVER_SOCKET, session_folder, unix_url
from .base import GpuSpawner

AGENT_WAIT_S = 20.0
"""For an agent that does not answer; until then its supervisor has started another."""
SILENT = "the node that holds the GPUs does not answer; try again later"
LONGEST_KERNEL = len("/kernel-00000000-0000-0000-0000-000000000000-ipc-5")
"""What jupyter_client adds to its folder for each channel of a kernel (``KernelManager.transport``)."""


class LocalGpuSpawner(GpuSpawner):
    """Entry point ``timeshare-local``. Two modes: everybody's server runs as the agent's own user (one person), or as
    the person's own account (``multi_user``; the agent is root)."""

    agent_socket = Unicode(help="Path of the node agent's socket, such as /var/lib/timeshare/agent.sock.").tag(
        config=True
    )
    log_dir = Unicode(
        help="Folder for the servers' logs, one file a reservation. Default: none, they are dropped. "
        "Example: /var/lib/timeshare/logs/sessions."
    ).tag(config=True)

    run_dir = Unicode(
        help="Folder of the deployment's sockets; each session gets one of its own below it, where its server listens. "
        "It must belong to the agent's account alone. Example: /run/timeshare/0123456789."
    ).tag(config=True)

    account_prefix = Unicode(
        help="What stands before a person's name in that of their account, where sessions run as accounts. Default: "
        "nothing. Example: jupyter-, as The Littlest JupyterHub has it."
    ).tag(config=True)

    async def launch(self, reservation: Json) -> str:
        folder = session_folder(Path(self.run_dir), reservation["id"], reservation["generation"])
        agent, order = AgentClient(Path(self.agent_socket)), self._order(reservation, folder)
        launched = await self.ordered(lambda _: agent.call("launch", **order), AGENT_WAIT_S, SILENT)
        self.enforcement = launched["enforcement"]
        return unix_url(folder / SERVER_SOCKET)

    def _order(self, reservation: Json, folder: Path) -> dict[str, Any]:
        env = self.get_env()
        kernels = _kernel_folder(folder, env.get("HOME", ""))
        if kernels is None:
            self.log.warning("%s: its kernels listen on ports, as %s is too deep for sockets", self._log_name, folder)
        return {
            "reservation_id": reservation["id"],
            "generation": reservation["generation"],
            "owner": self.user.name,
            "user": f"{self.account_prefix}{self.user.name}" if self.multi_user else None,
            "argv": self.words(str(folder / SERVER_SOCKET), "ipc" if kernels is not None else "tcp"),
            "env": {**env, "JUPYTER_RUNTIME_DIR": str(kernels or folder)},
            "cwd": self.notebook_dir or None,
            "log_path": str(Path(self.log_dir) / f"{reservation['id']}.log") if self.log_dir else None,
            "share": [
                {name: holding[name] for name in ("device_uuid", "instance_uuid", "memory_mib", "compute", "whole")}
                for holding in reservation["placement"]
            ],
            "share_text": reservation["share_text"],
            "ends_at": reservation["ends_at"],
            "server_socket": True,
            "cpus": reservation["cpus"],
            "memory_mib": reservation["host_memory_mib"],
        }


def _kernel_folder(folder: Path, home: str) -> Path | None:
    """Where kernels listen: in the session's folder, on a local disk and gone with it; else, where that lies too deep
    for them, in the home folder, as Jupyter has it. None: both do."""
    for found in (folder, Path(home, ".local/share/jupyter/runtime")):
        if len(os.fsencode(found)) + LONGEST_KERNEL <= LONGEST_PATH:
            return found
    return None
