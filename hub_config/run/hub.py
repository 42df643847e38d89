"""JupyterHub as a component: on the socket that it inherits, within bounds, with the tokens of this start alone, and
connecting to nothing that somebody put in place of a server's socket."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import tornado.httpserver
import tornado.netutil
from aiohttp.client_exceptions import UnixClientConnectorError
from jupyterhub import httpclient, orm
from jupyterhub.app import JupyterHub
from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream

from ...reservations.deployment import DeploymentError, current_deployment
from ...reservations.listening import inherited
from ...reservations.service.bounds import BoundsError, ServiceBounds, raise_file_limit, read_bounds
from ...reservations.service.listening import BoundedServer, Measured
from ...reservations.sockets import HUB, SCHEME, account_of_peer, is_foreign, way_to

MOST_BODY = 1024 * 1024
"""Bytes of a body; JupyterHub itself reads a hundred times as many, before it knows who sends them."""


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


MOST_OF_ONE = 100
"""Connections of one account that come past the proxy. A session of it has a few."""


class FairServer(HTTPServer):
    """Every account can connect to the hub's socket, as its sessions do; none can have all connections that there can
    be."""

    def __init__(self, *words: Any, **options: Any) -> None:
        super().__init__(*words, **options)
        self._accounts: dict[IOStream, int] = {}

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        account = account_of_peer(stream.socket)
        if account is not None and is_foreign(account):
            if sum(known == account for known in self._accounts.values()) >= MOST_OF_ONE:
                return stream.close()
            self._accounts[stream] = account
        return super().handle_stream(stream, address)

    def start_request(self, server_conn: Any, request_conn: Any) -> Any:
        """What other accounts write of an address is not believed: they come past the proxy."""
        if server_conn.stream not in self._accounts:
            return super().start_request(server_conn, request_conn)
        told, self.xheaders = self.xheaders, False
        try:
            return super().start_request(server_conn, request_conn)
        finally:
            self.xheaders = told

    def on_close(self, server_conn: Any) -> None:
        self._accounts.pop(server_conn.stream, None)
        super().on_close(server_conn)


class SafeConnector(httpclient._HTTPUnixConnector):  # type: ignore[misc]  # jupyterhub has no types
    """JupyterHub's own follows links: the hub asks a server whether it is up, as root, by a path in the folder of the
    server's account."""

    async def _create_connection(self, req: Any, traces: Any, timeout: Any) -> Any:
        if req.url.scheme != SCHEME:
            return await super()._create_connection(req, traces, timeout)
        path = unquote(req.url.host)
        try:
            with way_to(path) as way:
                connecting = asyncio.get_running_loop().create_unix_connection(self._factory, way)
                _, protocol = await asyncio.wait_for(connecting, timeout.sock_connect)
        except OSError as error:
            raise UnixClientConnectorError(path, req.connection_key, error) from error
        return protocol


class HubServer(FairServer, BoundedServer):
    """Bounded in all, and for each account."""


def keep_within(bounds: ServiceBounds) -> None:
    """Have JupyterHub serve within ``bounds``: any account of the machine may connect to its socket.

    It has no option for that, and names the class at the moment when it listens (6.1, ``JupyterHub.start``).
    """
    most = raise_file_limit(bounds.connections)

    def make(app: Any, **settings: Any) -> HubServer:
        times = {"idle_connection_timeout": bounds.idle_s, "body_timeout": bounds.body_s}
        server = HubServer(Measured(app, MOST_BODY), max_body_size=MOST_BODY, **times, **settings)
        server.most = most
        return server

    tornado.httpserver.HTTPServer = make  # type: ignore[assignment, misc]


def connect_safely() -> None:
    """Have JupyterHub ask servers on unix sockets whether they are up without following links."""
    httpclient._HTTPUnixConnector = SafeConnector


def main() -> None:
    connect_safely()
    try:
        keep_within(read_bounds(Path(current_deployment().state_dir)))
    except (DeploymentError, BoundsError) as error:
        sys.exit(f"timeshare hub: {error}")
    held = inherited(HUB)
    if held is not None:
        listen_on(held)
    SupervisedHub.launch_instance()
