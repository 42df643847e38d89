"""Sessions on this machine, started by its node agent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jupyterhub.utils import random_port
from traitlets import Unicode

from ..reservations.agent.client import AgentClient, AgentError, AgentUnreachable
from ..reservations.client import Json
from .base import GpuSpawner, LaunchError


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

    async def launch(self, reservation: Json) -> str:
        # What the hub tells the server to listen on; all sessions are on this machine, behind the proxy.
        self.ip, self.port = "127.0.0.1", random_port()
        agent = AgentClient(Path(self.agent_socket))
        try:
            launched = await agent.call("launch", **self._order(reservation))
        except AgentError as error:
            raise LaunchError(f"the server could not be started: {error}") from None
        except AgentUnreachable as error:
            self.log.error("%s: %s", self._log_name, error)
            message = "the server could not be started: the node that holds the GPUs does not answer; try again later"
            raise LaunchError(message) from None
        self.enforcement = launched["enforcement"]
        return f"http://127.0.0.1:{self.port}"

    def _order(self, reservation: Json) -> dict[str, Any]:
        return {
            "reservation_id": reservation["id"],
            "generation": reservation["generation"],
            "owner": self.user.name,
            "user": self.user.name if self.multi_user else None,
            "argv": [*self.cmd, *self.get_args()],
            "env": self.get_env(),
            "cwd": self.notebook_dir or None,
            "log_path": str(Path(self.log_dir) / f"{reservation['id']}.log") if self.log_dir else None,
            "share": [
                {name: holding[name] for name in ("device_uuid", "instance_uuid", "memory_mib", "compute", "whole")}
                for holding in reservation["placement"]
            ],
            "share_text": reservation["share_text"],
            "ends_at": reservation["ends_at"],
            "cpus": reservation["cpus"],
            "memory_mib": reservation["host_memory_mib"],
        }
