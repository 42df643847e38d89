"""What the commands share: the running deployment, its service, and columns of text."""

from __future__ import annotations

import asyncio
import contextlib
import io
import sys
from argparse import Namespace
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from ..reservations.client import ServiceClient, ServiceUnreachable
from ..reservations.deployment import FILE_NAME, DeploymentError, load_deployment
from ..reservations.errors import PublicError
from ..reservations.text import escaped
from .run.folders import default_state_dir


def state_folder(options: Namespace) -> Path:
    """The folder of the deployment that is meant: the one named, else the one that there is."""
    folders = [Path(options.state)] if options.state else [default_state_dir(False), default_state_dir(True)]
    return next((folder for folder in folders if _has_deployment(folder)), folders[0])


def _has_deployment(folder: Path) -> bool:
    try:
        return (folder / FILE_NAME).exists()
    except PermissionError:  # of another account: reading it says so
        return True


def with_service(options: Namespace, what: str, deed: Callable[[ServiceClient], Awaitable[None]]) -> int:
    """Does ``deed`` with the service of the running deployment. The exit code; a refusal is told in words."""
    folder = state_folder(options)
    try:
        deployment = load_deployment(folder / FILE_NAME)
        asyncio.run(_done(deed(ServiceClient(deployment.service_url, deployment.admin_token))))
    except (DeploymentError, PublicError) as error:
        print(f"timeshare {what}: {error}", file=sys.stderr)
        return 1
    except ServiceUnreachable:
        print(f"timeshare {what}: timeshare is not running on {folder}: start it with `timeshare up`", file=sys.stderr)
        return 1
    return 0


def asked(folder: Path, deed: Callable[[ServiceClient], Awaitable[None]]) -> bool:
    """Do ``deed`` with the service of the deployment in ``folder``, if there is one that answers us. Whether it did."""
    try:
        deployment = load_deployment(folder / FILE_NAME)
        asyncio.run(_done(deed(ServiceClient(deployment.service_url, deployment.admin_token))))
    except (DeploymentError, PublicError, ServiceUnreachable):
        return False
    return True


async def _done(deed: Awaitable[None]) -> None:
    await deed


class _Seen(io.TextIOBase):
    """Writes to ``stream`` what can be seen, and the rest by its code: a name must not move the terminal's cursor."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(escaped(text, keep="\n\t"))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()


@contextlib.contextmanager
def seen_output() -> Iterator[None]:
    """Have everything that is printed meanwhile written as text that can be seen."""
    with contextlib.redirect_stdout(_Seen(sys.stdout)), contextlib.redirect_stderr(_Seen(sys.stderr)):
        yield


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text, the first one the heads, as columns."""
    rows = [[escaped(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
