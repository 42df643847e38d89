"""Durable truth: every reservation, on SQLite or PostgreSQL, written by one service process."""

from .outage import LedgerSilent
from .store import Apart, Change, Ledger, LedgerLost

__all__ = ["Apart", "Change", "Ledger", "LedgerLost", "LedgerSilent"]
