"""The extension of a session's own Jupyter server: it reports what the session does, and answers the Lab extension.
Outside of a session of timeshare it does nothing."""

from __future__ import annotations

from typing import Any


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "timeshare.notebooks.server"}]


def _load_jupyter_server_extension(server: Any) -> None:
    from .extension import load

    load(server)
