"""Durable truth: every reservation, on SQLite or PostgreSQL, written by one service process."""

from .outage import LedgerSilent
from .store import Change, Ledger, LedgerLost

__all__ = ["Change", "Ledger", "LedgerLost", "LedgerSilent"]
