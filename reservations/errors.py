"""The one public error: what every refusal says, on every path (form, API, command)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class PublicError(Exception):
    """An error that is safe and useful to show to a person.

    ``reason`` is a stable, low-cardinality code (metric label); ``message`` says which rule, the numbers on both
    sides and what would work; ``details`` holds the same as data; ``status`` is the HTTP status.
    """

    reason: str
    message: str
    status: int = 400
    details: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message

    def body(self) -> dict[str, Any]:
        return {"error": {"reason": self.reason, "message": self.message, "details": self.details}}


def invalid(field_name: str, value: object, rule: str) -> PublicError:
    """A request that can never be right, naming the field, the value that was given, and the rule."""
    shown = _shown(value)
    field_name = field_name if field_name.isprintable() else repr(field_name)
    return PublicError(
        "invalid",
        f"{field_name} is {shown}: {rule}",
        400,
        {"field": field_name, "value": shown, "rule": rule},
    )


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= 80 else text[:77] + "..."
