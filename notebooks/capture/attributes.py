"""Attributes of people's objects, whose ``__getattr__`` and properties may raise whatever they like."""

from __future__ import annotations

from typing import Any


def attribute(value: Any, name: str, default: Any = None) -> Any:
    """Return ``value.name``, or ``default`` where asking for it raises, with whatever exception.

    ``getattr`` and ``hasattr`` forgive an AttributeError only; ``__getattr__ = dict.__getitem__`` raises KeyError.
    """
    try:
        return getattr(value, name, default)
    except Exception:
        return default


def own(value: Any) -> dict[str, Any]:
    """Return what an object that is no class holds by name; empty where it holds nothing so."""
    found = None if isinstance(value, type) else attribute(value, "__dict__")
    return found if isinstance(found, dict) else {}
