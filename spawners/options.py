"""What a person asks for when a server starts, from the form or the API, as one typed request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..reservations.errors import PublicError, invalid
from ..reservations.shares import SHARE_FIELDS, ShareRequest, parse_share

OPTION_FIELDS = (*SHARE_FIELDS, "time_limit_s", "reservation_id", "client_key")


FORM_FIELDS = ("offer", "memory_gib", "compute_percent", "model", "hours", "cpus", "host_memory_gib")
"""Of the spawn form. A link may fill them in, and nothing else."""


@dataclass(frozen=True)
class SessionOptions:
    """``share`` None: the reservation exists already. ``time_limit_s`` None: the default of the limits, in seconds."""

    share: ShareRequest | None
    time_limit_s: int | None = None
    reservation_id: str | None = None
    client_key: str | None = None

    def as_options(self) -> dict[str, Any]:
        """The same as JupyterHub's ``user_options``."""
        fields: dict[str, Any] = self.share.as_options() if self.share is not None else {}
        for name in ("time_limit_s", "reservation_id", "client_key"):
            value = getattr(self, name)
            if value is not None:
                fields[name] = value
        return fields


def parse_options(options: Mapping[str, Any]) -> SessionOptions:
    """The request in ``user_options``. Raises PublicError naming field, value and rule.

    Nothing at all is refused too: who gets a GPU by not asking for one holds it for nothing.
    """
    unknown = sorted(str(name) for name in set(options) - set(OPTION_FIELDS))
    if unknown:
        raise invalid(unknown[0][:40], options[unknown[0]], f"no such option; known ones: {', '.join(OPTION_FIELDS)}")
    share_fields = {name: options[name] for name in SHARE_FIELDS if name in options}
    reservation_id = _text("reservation_id", options.get("reservation_id"))
    return SessionOptions(
        share=parse_share(share_fields) if share_fields or reservation_id is None else None,
        time_limit_s=_seconds(options.get("time_limit_s")),
        reservation_id=reservation_id,
        client_key=_text("client_key", options.get("client_key")),
    )


def options_from_form(form: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """``user_options`` for the fields of the spawn form.

    ``offer`` is ``gpus:N:model``, ``memory_gib:X:model``, ``mig_profile:P:model``, ``cpu_only`` or ``other``; the last
    reads ``memory_gib``, ``compute_percent`` and ``model``. ``@ENGINE`` may follow; without, it is this machine.
    ``hours`` is the time limit. ``cpus`` and ``host_memory_gib`` go with every offer.
    """
    given = {name: values[-1].strip() for name, values in form.items() if values and values[-1].strip()}
    given.pop("_xsrf", None)
    fields = _offer(given.pop("offer", ""), given)
    if "hours" in given:
        fields["time_limit_s"] = round(_number("hours", given.pop("hours")) * 3600)
    fields.update(given)
    return parse_options(_typed(fields)).as_options()


def filled_in(query: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return what a link says of the form's fields, by their own names or the API's; what it cannot be is left out.

    ``hours`` is a number as the form writes it. The form shows it, and the person decides: nothing here is a request.
    """
    given = {name.removeprefix("opt-"): values[-1].strip() for name, values in query.items() if values}
    engine = f"@{given['engine']}" if given.get("engine") else ""
    for name in ("gpus", "mig_profile"):
        if given.get(name):
            given.setdefault("offer", f"{name}:{given[name]}:{given.get('model', '')}{engine}")
    if given.get("cpu_only"):
        given.setdefault("offer", f"cpu_only{engine}")
    if given.get("memory_gib"):
        given.setdefault("offer", f"memory_gib:{given['memory_gib']}:{given.get('model', '')}{engine}")
    hours = _hours(given)
    found = {name: given[name][:80] for name in FORM_FIELDS if given.get(name) and given[name].isprintable()}
    return {**found, "hours": hours} if hours else {name: text for name, text in found.items() if name != "hours"}


def _hours(given: Mapping[str, str]) -> str:
    """As an option of the form has it; empty where none is asked for."""
    try:
        if given.get("hours"):
            return str(_number("hours", given["hours"]))
        return str(_number("time_limit_s", given["time_limit_s"]) / 3600) if given.get("time_limit_s") else ""
    except PublicError:
        return ""


def _offer(offer: str, given: dict[str, str]) -> dict[str, Any]:
    """The share's fields of a picked offer; the fields of another size count only when that was picked."""
    offer, _, engine = offer.partition("@")
    where = {"engine": engine} if engine else {}
    name, _, rest = offer.partition(":")
    other: dict[str, Any] = {key: given.pop(key) for key in ("memory_gib", "compute_percent", "model") if key in given}
    if name == "other":
        return {"memory_gib": None, **other}
    if name == "":
        return dict(other)
    amount, _, model = rest.partition(":")
    if name == "cpu_only" and not rest:
        return {"cpu_only": True, **where}
    if name not in ("gpus", "memory_gib", "mig_profile") or not amount:
        raise invalid("offer", offer, "must be one of the offers of the form")
    return {name: amount, **({"model": model} if model else {}), **where}


def _typed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Form fields are text; the numbers among them become numbers."""
    typed = dict(fields)
    if isinstance(typed.get("gpus"), str):
        number = _number("gpus", typed["gpus"])
        typed["gpus"] = int(number) if number == number // 1 else number
    for name in ("memory_gib", "compute_percent", "time_limit_s", "cpus", "host_memory_gib"):
        if isinstance(typed.get(name), str):
            typed[name] = _number(name, typed[name])
    if "memory_gib" in typed and typed["memory_gib"] is None:
        raise PublicError("invalid", "memory_gib is missing: say how much GPU memory you need, in GiB", 400)
    if typed.get("cpu_only") in ("true", "on"):
        typed["cpu_only"] = True
    if isinstance(typed.get("time_limit_s"), float) and typed["time_limit_s"].is_integer():
        typed["time_limit_s"] = int(typed["time_limit_s"])
    return typed


def _number(name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        raise invalid(name, value, "must be a number") from None
    if not -1e15 < number < 1e15:  # NaN and infinity too
        raise invalid(name, value, "must be a number that is finite and not too large, such as 2")
    return number


def _text(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not 1 <= len(value) <= 255 or not value.isprintable():
        raise invalid(name, value, "must be text of 1 to 255 characters")
    return value


def _seconds(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid("time_limit_s", value, "must be a whole number of seconds")
    return value
