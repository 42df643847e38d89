"""What every engine's spawner has in common: options, reservation, reports to the service, state and adoption.

Where a server runs is the reservation's: on this machine, which is a subclass's (``launch``), or where another engine
began it; there the service hands the server's words to whoever waits for them. Whether it still runs, and its end, are
the service's.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote

from jupyterhub.objects import Server
from jupyterhub.spawner import LocalProcessSpawner, Spawner, SpawnException
from jupyterhub.traitlets import EntryPointType
from jupyterhub.utils import fmt_ip_url
from traitlets import Bool, Integer, Unicode

from ..reservations.client import ORDER_WAIT_S, Json, ServiceClient, ServiceUnreachable
from ..reservations.errors import PublicError
from ..reservations.jobagent.talk import SOCKET_HERE
from ..reservations.sockets import SCHEME, unix_url
from .asking import ASK_EVERY_S, LaunchError, started
from .environment import search_path
from .options import SessionOptions, options_from_form, parse_options
from .reach import reached

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
JUPYTER = NOTEBOOKS / "jupyter"
STARTUP = NOTEBOOKS / "startup.py"
"""Gives every notebook of a session its magic; by path, for nothing here may import the notebooks' room."""
UNREACHABLE = "the reservations service does not answer, so no GPU can be given out now: try again in a minute"

EARLIER = (
    "this server was started before this hub had timeshare: it holds no reservation, and goes on until it is stopped; "
    "the next start is a session"
)
NO_PORT = 8888
"""Jupyter's default, which it takes for none: with any other port it refuses to listen on a socket."""


class GpuSpawner(Spawner):  # type: ignore[misc]  # jupyterhub has no types
    """Starts a single-user server on the share of a reservation."""

    service_url = Unicode(
        help="Address of the reservations service with its prefix, such as http://127.0.0.1:8085/services/timeshare."
    ).tag(config=True)
    service_token = Unicode(help="The deployment's own token at the reservations service.").tag(config=True)
    multi_user = Bool(
        False, help="True: a session runs as the account of its owner. False (default): as the agent's own user."
    ).tag(config=True)
    stop_wait = Integer(
        120,
        help="Longest wait in seconds for a session to end when it is stopped. Default 120. After it the hub gives up "
        "waiting; the service goes on. Example: 300.",
    ).tag(config=True)

    begin_wait = Integer(
        60,
        min=0,
        help="Longest wait in seconds for an engine with a queue of its own (Slurm) to begin a session that was asked "
        "for by the hub's API; who starts by the form waits on a page of its own, however long. Default 60. 0: only "
        "what begins at once. Example: 300.",
    ).tag(config=True)

    reach_wait = Integer(
        30,
        min=1,
        help="Longest wait in seconds for the hub to reach a server that listens on a node of another engine (Slurm). "
        "Default 30; then the start fails, and says which node is not reached. Example: 60.",
    ).tag(config=True)

    earlier_class = EntryPointType(
        klass=Spawner,
        default_value=LocalProcessSpawner,
        entry_point_group="jupyterhub.spawners",
        help="The spawner of servers from before this hub had timeshare, which says whether they run, and stops them. "
        "Default: JupyterHub's own default. Example: systemd.",
    ).tag(config=True)

    _earlier: Mapping[str, Any] = MappingProxyType({})
    """The state that another spawner left of a server, from before this hub had timeshare."""
    reservation_id = ""
    generation = 0
    enforcement = ""
    activity_key = ""
    """Lets the session report what it does; told with each start, so it is no part of the stored state."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        # The page draws the offers itself (templates/spawn.html); a text that is not empty makes the hub show it.
        self.options_form = "offers"
        self.apply_user_options = _check_options
        self._report: asyncio.Task[None] | None = None

    def _located(self) -> Server | None:
        """The hub's record of the server. It keeps the host of an address alone, and would add a port to a socket."""
        server = Spawner.server.fget(self)
        if server is not None and server.proto == SCHEME:
            server.connect_url = unix_url(unquote(server.ip))
        return server

    server = Spawner.server.getter(_located)

    @property
    def service(self) -> ServiceClient:
        return ServiceClient(self.service_url, self.service_token)

    # --- options

    def options_from_form(self, form_data: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        options: dict[str, Any] = _refusing(options_from_form, form_data)
        return options

    def options_from_query(self, query_data: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """Refuse: JupyterHub would start what a link says, whoever wrote it. ``relay.FormPage`` fills in the form."""
        raise SpawnException("a link starts nothing: pick an offer of the form", reason="link", status_code=400)

    # --- life

    async def start(self) -> str:
        """Reserves, records the start, launches. Returns the server's address."""
        options = _refusing(parse_options, self.user_options or {})
        try:
            reservation = await self._begun(await self._reservation(options))
            begun = await self.service.starting(reservation["id"])
        except PublicError as error:
            raise SpawnException(error.message, reason=error.reason, status_code=_status(error)) from None
        except ServiceUnreachable as error:
            raise SpawnException(
                UNREACHABLE, reason="service-unreachable", log_message=str(error), status_code=503
            ) from None
        self.reservation_id, self.generation = begun["id"], begun["generation"]
        self.activity_key = begun["activity_key"]
        self.ip, self.port = "127.0.0.1", NO_PORT
        self.log.info("%s: reservation %s, start %d", self._log_name, self.reservation_id, self.generation)
        try:
            url = await (self.launch(begun) if begun["engine"] == "local" else self._launch_elsewhere(begun))
        except LaunchError as error:
            await self._give_up(str(error))
            raise SpawnException(str(error), reason="launch-failed", status_code=500) from None
        await self._until_it_listens(url)
        self._report = asyncio.create_task(self._report_active())
        return url

    async def launch(self, reservation: Json) -> str:
        """Starts the server on exactly the reservation's placement; sets ``enforcement`` and returns the address.

        Raises LaunchError.
        """
        raise NotImplementedError

    async def _begun(self, reservation: Json) -> Json:
        """Once its engine has begun it, where that has a queue of its own. Raises PublicError when it does not in
        time."""
        until = asyncio.get_running_loop().time() + self.begin_wait
        while reservation["engine"] != "local" and reservation["state"] == "queued":
            left = until - asyncio.get_running_loop().time()
            if left <= 0:
                told = f"{reservation['engine_title']} did not begin it within {self.begin_wait} s"
                await self.service.end(reservation["id"], "cancelled", told)
                why = f": {reservation['why_waiting']}" if reservation["why_waiting"] else ""
                message = f"{told}{why}. Start it by the hub's form to wait in line"
                raise PublicError("no-capacity", message, 409)
            reservation = await self.service.wait(reservation["id"], "queued", max(1, min(10, round(left))))
        if reservation["state"] in ("ending", "ended"):
            raise PublicError("ended", f"the session did not begin: {reservation['detail']}", 409)
        return reservation

    async def _launch_elsewhere(self, reservation: Json) -> str:
        """Hands the server's words to the job that has begun. Raises LaunchError."""
        order = {
            "generation": reservation["generation"],
            "argv": self.words(SOCKET_HERE),
            "env": self.get_env(),
            "cwd": self.notebook_dir or None,
            "ends_at": reservation["ends_at"],
        }
        told = await self.ordered(
            lambda left: self.service.order(self.reservation_id, order, left), ORDER_WAIT_S, UNREACHABLE
        )
        if told["state"] != "running":
            why = told["exit"]["message"] if told["exit"] else f"it does not answer on {told['node']}"
            raise LaunchError(f"the server did not start: {why or 'it ended at once; the log of its job says why'}")
        self.enforcement = told["enforcement"]
        address, port = told["address"], told["port"]
        url = f"http://{fmt_ip_url(address)}:{port}"
        if not await reached(url, self.reach_wait):
            raise LaunchError(
                f"the hub does not reach the server on {told['node']}, at {address} port {port}: tell an "
                "administrator to look at the node's firewall and address"
            )
        return url

    async def ordered(self, order: Callable[[float], Awaitable[Json]], within_s: float, silence: str) -> Json:
        """See ``asking.started``. Raises LaunchError."""
        return await started(order, within_s, silence, lambda why: self.log.warning("%s: %s", self._log_name, why))

    def words(self, socket: str, transport: str = "ipc") -> list[str]:
        """What starts the server, listening on ``socket``. ``transport``: its kernels' way to it; over TCP every
        account of the machine could connect to them."""
        sockets = [f"--ServerApp.sock={socket}", f"--KernelManager.transport={transport}"]
        return [*self.cmd, *sockets, *self.get_args()]

    async def poll(self) -> int | None:
        """None while it runs, and while nobody can say: only the service's word ends a session."""
        if not self.reservation_id:
            return await self._earlier_spawner.poll() if self._earlier else 0
        try:
            reservation = await self.service.get(self.reservation_id)
        except PublicError as error:
            return 0 if error.status == 404 else None
        except ServiceUnreachable:
            return None
        if reservation["generation"] > self.generation:
            return 0
        if reservation["state"] != "ended":
            if reservation["state"] == "starting" and self.ready:
                await self._tell_active()
            return None
        return 0 if reservation["reason"] in ("completed", "cancelled", "time_limit", "idle") else 1

    async def stop(self, now: bool = False) -> None:
        """Ends the reservation and waits until the engine saw every process gone."""
        if not self.reservation_id:
            if self._earlier:
                await self._earlier_spawner.stop(now)
            return
        # The hub calls this too when it gives up waiting for the server's first answer.
        given_up = self._start_pending or self._spawn_pending
        reason = "failed" if given_up else "cancelled"
        detail = "stopped before it answered for the first time; see its log" if given_up else "stopped by its owner"
        try:
            reservation = await self.service.end(self.reservation_id, reason, detail)
            until = asyncio.get_running_loop().time() + self.stop_wait
            while reservation["state"] != "ended" and asyncio.get_running_loop().time() < until:
                reservation = await self.service.wait(self.reservation_id, reservation["state"], 10)
        except PublicError as error:
            if error.status >= 500:  # such as a full disk: it runs on
                raise SpawnException(error.message, reason=error.reason, status_code=error.status) from None
            self.log.warning("%s: ending its reservation was refused: %s", self._log_name, error)
        except ServiceUnreachable as error:
            raise SpawnException(
                "the session could not be stopped: the reservations service does not answer. Try again in a minute",
                reason="service-unreachable",
                log_message=str(error),
                status_code=503,
            ) from None

    # --- state over hub restarts

    def get_state(self) -> dict[str, Any]:
        state: dict[str, Any] = {**super().get_state(), **self._earlier}
        if self.reservation_id:
            kept = ("reservation_id", "generation", "enforcement")
            state.update({name: getattr(self, name) for name in kept})
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.reservation_id = str(state.get("reservation_id", ""))
        self.generation = int(state.get("generation", 0))
        self.enforcement = str(state.get("enforcement", ""))
        self._earlier = {} if self.reservation_id else dict(state)
        if self._earlier and self.server is not None:
            self.log.warning("%s: %s", self._log_name, EARLIER)

    @property
    def _earlier_spawner(self) -> Spawner:
        """The spawner that started the server which runs, as it would be had this hub not got timeshare since."""
        about = ("user", "orm_spawner", "hub", "authenticator", "name", "db", "config", "oauth_client_id")
        spawner = self.earlier_class(**{what: getattr(self, what) for what in about})
        spawner.load_state(dict(self._earlier))
        return spawner

    def clear_state(self) -> None:
        super().clear_state()
        self._earlier = {}
        self.reservation_id, self.generation, self.enforcement = "", 0, ""

    # --- what the person who waits sees

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        yield {"progress": 10, "message": "Reserving your share"}
        while not self.reservation_id:
            await asyncio.sleep(0.1)
        try:
            reservation = await self.service.get(self.reservation_id)
        except (PublicError, ServiceUnreachable):
            return
        devices = sorted({holding["model"] for holding in reservation["placement"]})
        where = f" on {', '.join(devices)}" if devices else ""
        where += f", {reservation['external_node']}" if reservation["external_node"] else ""
        label = " (simulated)" if reservation["simulated"] else ""
        yield {"progress": 40, "message": f"Reserved: {reservation['share_text']}{where}{label}"}
        while not self.enforcement:
            await asyncio.sleep(0.1)
        yield {"progress": 70, "message": "The server is starting; waiting for its first answer"}

    def get_env(self) -> dict[str, str]:
        env: dict[str, str] = super().get_env()
        if self.service_url:
            env["TIMESHARE_SERVICE_URL"] = self.service_url
            env["TIMESHARE_ACTIVITY_KEY"] = self.activity_key
            env.setdefault("PYTHONSTARTUP", str(STARTUP))
            # The extensions of server and Lab, found as Jupyter finds those of any package.
            for name in ("JUPYTER_PATH", "JUPYTER_CONFIG_PATH"):
                env[name] = os.pathsep.join(filter(None, (str(JUPYTER), env.get(name))))
        env.setdefault("PATH", search_path(self.cmd[0], self.multi_user, os.environ))
        if not self.multi_user and "HOME" in os.environ:
            env.setdefault("HOME", os.environ["HOME"])
        return env

    # --- inside

    async def _until_it_listens(self, url: str) -> None:
        """Returns when the server takes connections. The hub's own wait asks less and less often, up to seconds apart;
        so that nobody waits for that, it is asked only once there is something to ask.

        Raises SpawnException with the reason when the session ends instead.
        """
        while not await reached(url, ASK_EVERY_S):
            try:
                reservation = await self.service.get(self.reservation_id)
            except (PublicError, ServiceUnreachable):
                continue  # unknown is not ended
            if reservation["state"] in ("ending", "ended"):
                message = f"the session ended before its server answered: {reservation['detail']}"
                raise SpawnException(message, reason="start-failed", status_code=500)

    async def _reservation(self, options: SessionOptions) -> Json:
        """The granted one that the options name; else a new one, now or not at all."""
        if options.reservation_id is not None:
            found = await self.service.get(options.reservation_id)
            if found["state"] != "ended" or options.share is None:
                return self._of_this_server(found)
            # Options of an earlier start, given again: its reservation is over, its wish is not.
        assert options.share is not None
        key = options.client_key if options.reservation_id is None else None
        share = options.share.as_options()
        made = await self.service.create(
            self.user.name,
            share,
            time_limit_s=options.time_limit_s,
            server_name=self.name or "",
            queue=False,
            client_key=key,
        )
        return self._of_this_server(made)

    def _of_this_server(self, reservation: Json) -> Json:
        """``reservation``, if this server may run on it: its owner's, its own, and no job. Raises PublicError."""
        if (reservation["owner"], reservation["server_name"]) != (self.user.name, self.name or ""):
            raise PublicError("not-found", "there is no such reservation for this server of yours", 404)
        if reservation["kind"] != "session":
            message = "a batch reservation runs its job and no server: pick a share for a session instead"
            raise PublicError("not-a-session", message, 409, {"id": reservation["id"]})
        return reservation

    async def _give_up(self, detail: str) -> None:
        try:
            await self.service.end(self.reservation_id, "failed", detail)
        except (PublicError, ServiceUnreachable) as error:
            self.log.warning("%s: its reservation ends by itself: %s", self._log_name, error)

    async def _report_active(self) -> None:
        """Tells the service as soon as the hub has seen the server answer."""
        while self._start_pending or self._spawn_pending or self._proxy_pending:
            await asyncio.sleep(0.05)
        if self.ready:
            await self._tell_active()

    async def _tell_active(self) -> None:
        try:
            await self.service.active(self.reservation_id, self.generation, self.enforcement)
        except (PublicError, ServiceUnreachable) as error:
            self.log.info("%s: not reported as active yet: %s", self._log_name, error)


def _status(error: PublicError) -> int:
    return error.status if 400 <= error.status < 500 else 400


def _refusing(function: Any, argument: Any) -> Any:
    """Runs a parser; what it refuses becomes the hub's own refusal."""
    try:
        return function(argument)
    except PublicError as error:
        raise SpawnException(error.message, reason=error.reason, status_code=_status(error)) from None


def _check_options(spawner: GpuSpawner, options: dict[str, Any]) -> None:
    """Every path into a start passes here: form, API, link and the starter."""
    _refusing(parse_options, options)
