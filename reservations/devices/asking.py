"""Questions to NVML about one device: each by itself, and no answer to one says anything about another."""

from __future__ import annotations

from typing import Any

NOT_THERE = ("NVML_ERROR_NOT_SUPPORTED", "NVML_ERROR_FUNCTION_NOT_FOUND")
"""The device, or this driver, has no such thing: an answer, where it need not have it."""
CLOSED = (*NOT_THERE, "NVML_ERROR_NO_PERMISSION")


def is_one_of(nvml: Any, error: Exception, names: tuple[str, ...]) -> bool:
    """Return whether ``error`` is one of NVML's errors of these names."""
    return getattr(error, "value", None) in {getattr(nvml, name, name) for name in names}


def said(error: Exception) -> str:
    """Return ``error`` in words, in one line."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # NVML is asked for the words of an error that it does not know, and may fail at that too
        text = ""
    return text[:120] or type(error).__name__


class Asking:
    """``faults``: what was not answered, in words, in the order in which it was asked."""

    def __init__(self, nvml: Any) -> None:
        self.nvml = nvml
        self.faults: list[str] = []

    def must(self, what: str, name: str, *arguments: Any, **options: Any) -> Any:
        """Return the answer to what every healthy device answers; None, and a fault, for any error."""
        return self.may(what, name, *arguments, unless=(), **options)

    def may(self, what: str, name: str, *arguments: Any, unless: tuple[str, ...] = NOT_THERE, **options: Any) -> Any:
        """Return the answer; None for any error. It is no fault where it is one of ``unless``."""
        try:
            return getattr(self.nvml, name)(*arguments, **options)
        except Exception as error:  # also what the bindings make of an answer that they do not understand
            if not is_one_of(self.nvml, error, unless):
                self.faults.append(f"the driver does not tell {what}: {said(error)}")
            return None

    def number(self, what: str, name: str, *arguments: Any) -> int | None:
        """Return what ``must`` gives as a whole number; None, and a fault, where it is none."""
        found = self.must(what, name, *arguments)
        try:
            return None if found is None else int(found)
        except (TypeError, ValueError):
            self.faults.append(f"the driver does not tell {what}: {found!r:.40}")
            return None

    @property
    def fault(self) -> str | None:
        """The first one: the others follow from it, or are of the same kind."""
        return self.faults[0] if self.faults else None
