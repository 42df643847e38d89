"""JupyterHub as a component: on the socket that it inherits, and with the tokens of this start alone."""

from __future__ import annotations

import socket
from typing import Any

import tornado.netutil
from jupyterhub import orm
from jupyterhub.app import JupyterHub

from ...reservations.listening import inherited
from ...reservations.sockets import HUB


class SupervisedHub(JupyterHub):  # type: ignore[misc]  # jupyterhub has no types
    async def init_api_tokens(self) -> None:
        """Forget the tokens of services from earlier starts, which JupyterHub keeps valid for ever (6.1,
        ``_add_tokens`` only adds)."""
        for name in set(self.service_tokens.values()):
            service = orm.Service.find(self.db, name)
            for known in list(service.api_tokens) if service is not None else ():
                if not any(known.match(token) for token, owner in self.service_tokens.items() if owner == name):
                    self.db.delete(known)
        self.db.commit()
        await super().init_api_tokens()


def listen_on(held: socket.socket) -> None:
    """Have JupyterHub listen on a socket that is there already.

    It has no option for that. ``JupyterHub.start`` (6.1) imports ``bind_unix_socket`` from tornado at the moment when
    it listens; a socket that it would make itself would lose connections at each restart.
    """

    def bind_unix_socket(*_: Any, **__: Any) -> socket.socket:
        return held

    tornado.netutil.bind_unix_socket = bind_unix_socket


def main() -> None:
    held = inherited(HUB)
    if held is not None:
        listen_on(held)
    SupervisedHub.launch_instance()


if __name__ == "__main__":
    main()
