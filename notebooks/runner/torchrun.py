"""A cell as several processes at once: how they are numbered, and the environment that each sees, which is the one that
torchrun gives. ``torch.distributed.init_process_group()`` needs nothing else, and nothing here needs PyTorch."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass

TORCHRUN = "torchrun"
LAUNCHES = ("", TORCHRUN)
"""How a cell is launched; empty: as the one process that it is."""


@dataclass(frozen=True)
class Layout:
    """``processes`` on each of ``nodes``; ranks are numbered node by node."""

    nodes: int = 1
    processes: int = 1

    @property
    def size(self) -> int:
        return self.nodes * self.processes

    def rank(self, node: int, local: int) -> int:
        """Of process ``local`` on ``node``, both from 0."""
        return node * self.processes + local


@dataclass(frozen=True)
class Meeting:
    """Where the ranks find each other: on the node of rank 0. ``run_id``: the same for all of one start."""

    address: str
    port: int
    run_id: str

    def environment(self) -> dict[str, str]:
        return {"MASTER_ADDR": self.address, "MASTER_PORT": str(self.port), "TORCHELASTIC_RUN_ID": self.run_id}

    @staticmethod
    def told(variables: Mapping[str, str]) -> Meeting:
        """As ``environment`` gave it."""
        return Meeting(variables["MASTER_ADDR"], int(variables["MASTER_PORT"]), variables["TORCHELASTIC_RUN_ID"])


def environment(layout: Layout, rank: int, meeting: Meeting) -> dict[str, str]:
    """What ``rank`` sees."""
    node, local = divmod(rank, layout.processes)
    numbers = {
        "RANK": rank,
        "WORLD_SIZE": layout.size,
        "LOCAL_RANK": local,
        "LOCAL_WORLD_SIZE": layout.processes,
        "GROUP_RANK": node,
        "GROUP_WORLD_SIZE": layout.nodes,
    }
    return {**{name: str(number) for name, number in numbers.items()}, **meeting.environment()}


class HeldPort:
    """A free port of this machine that nobody else is given until it is let go, right before it is used."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("", 0))
        self.number: int = self._socket.getsockname()[1]

    def let_go(self) -> None:
        self._socket.close()
