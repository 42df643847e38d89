"""Puts the parts of the extension together when the server starts."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

from .handlers import routes
from .reporter import Reporter, Target
from .status import Status, session_of_environment
from .watcher import Watcher

COOKIE_OPTIONS = "JUPYTERHUB_COOKIE_OPTIONS"


def load(server: Any) -> None:
    service, reservation_id = session_of_environment()
    status = Status(service, reservation_id)
    reporter = None
    target = _target(reservation_id)
    if service is not None and target is not None:
        reporter = Reporter(server, target, Watcher(server, reservation_id), lambda: status.at_work)
    app = server.web_app
    keep_xsrf_encrypted(app.settings, os.environ.get(COOKIE_OPTIONS, ""))
    base = f"{app.settings['base_url'].rstrip('/')}/timeshare"
    app.add_handlers(".*$", routes(base, status, reporter))
    if reporter is not None:
        # The reference keeps the task alive as long as the server.
        app.settings["timeshare_reporting"] = asyncio.ensure_future(_report(server, reporter, status))
        server.log.info("timeshare: reporting what this session does")


def keep_xsrf_encrypted(settings: dict[str, Any], options: str) -> None:
    """Have browsers send the server's ``_xsrf`` by https only where the hub says so of cookies (``options``, JSON).

    JupyterHub (6.1) sets that for the cookies of its own.
    """
    if options and json.loads(options).get("secure"):
        settings["xsrf_cookie_kwargs"] = {**settings.get("xsrf_cookie_kwargs", {}), "secure": True}


async def _report(server: Any, reporter: Reporter, status: Status) -> None:
    try:
        await asyncio.gather(reporter.run(), _look_at_node(status))
    except asyncio.CancelledError:
        raise
    except Exception:
        server.log.exception("timeshare: reporting has stopped; the session counts as unknown, which is never idle")


async def _look_at_node(status: Status) -> None:
    """Work that only the node sees counts for JupyterHub too."""
    while True:
        await asyncio.sleep(60)
        await status.get()


def _target(reservation_id: str) -> Target | None:
    names = ("TIMESHARE_SERVICE_URL", "TIMESHARE_ACTIVITY_KEY", "TIMESHARE_GENERATION")
    url, key, generation = (os.environ.get(name, "") for name in names)
    if not (url and key and generation.isdecimal()):
        return None
    return Target(url, reservation_id, int(generation), key)
