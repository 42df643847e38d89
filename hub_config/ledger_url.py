"""The address of the ledger's database, with a password that stands in no command line."""

from __future__ import annotations

import os
from pathlib import Path

import sqlalchemy as sa

from ..reservations.files import open_plain
from .run.environment import LEDGER_PASSWORD


class LedgerUrlError(Exception):
    """The address cannot be used; the text says why and what to do."""


def ledger_url(state_dir: Path, given: str, password_file: str) -> str:
    """Return the whole address. ``given``: without password, empty for SQLite in the state folder.

    Raises LedgerUrlError.
    """
    if not given:
        if password_file:
            raise LedgerUrlError("--ledger-password-file is given without --ledger: name the database, or leave it out")
        return f"sqlite:///{state_dir}/ledger.sqlite"
    try:
        url = sa.make_url(given)
    except (sa.exc.ArgumentError, ValueError):
        example = "postgresql+psycopg://timeshare@db.lab.example/timeshare"
        raise LedgerUrlError(f"--ledger is not the address of a database: it must be such as {example}") from None
    if url.password is not None or {"password", "sslpassword"} & set(url.query):
        raise LedgerUrlError(
            "--ledger has a password in it, which every account of this machine can read in the list of processes: "
            "leave it out, and give it by --ledger-password-file FILE"
        )
    password = _read(Path(password_file)) if password_file else os.environ.get(LEDGER_PASSWORD)
    return (url.set(password=password) if password else url).render_as_string(hide_password=False)


def _read(path: Path) -> str:
    try:
        with open_plain(path) as file:
            status = os.fstat(file.fileno())
            if status.st_uid not in (0, os.geteuid()):
                raise LedgerUrlError(f"{path} belongs to another account (number {status.st_uid}): `chown` it")
            if status.st_mode & 0o077:
                raise LedgerUrlError(f"{path} can be read by others: `chmod 600 {path}`")
            password = file.readline().decode().rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise LedgerUrlError(f"the password of the ledger cannot be read from {path}: {error}") from None
    if not password:
        raise LedgerUrlError(f"{path} is empty: its first line must be the password of the ledger")
    return password
