"""A spool as a notebook of one cell. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from .spool import newest

Output = dict[str, Any]


def outputs(lines: Iterable[dict[str, Any]]) -> list[Output]:
    """What the cell shows when all ``lines`` of its spool have arrived: texts joined, displays updated, cleared."""
    shown: list[Output] = []
    by_display: dict[str, list[Output]] = {}
    clear_next = False
    for line in lines:
        kind, content = line["kind"], line["content"]
        if kind == "clear_output":
            clear_next = True
            if not content.get("wait"):
                shown.clear()
                clear_next = False
            continue
        if kind == "update_display_data":
            for output in by_display.get(str(content.get("transient", {}).get("display_id")), ()):
                output.update(data=content["data"], metadata=content["metadata"])
            continue
        if clear_next:
            shown.clear()
            clear_next = False
        _show(shown, by_display, kind, content)
    return shown


def _show(shown: list[Output], by_display: dict[str, list[Output]], kind: str, content: dict[str, Any]) -> None:
    if kind == "stream":
        _stream(shown, content)
    elif kind == "error":
        fields = {name: content[name] for name in ("ename", "evalue", "traceback")}
        shown.append({"output_type": "error", **fields})
    elif kind in ("display_data", "execute_result"):
        output: Output = {"output_type": kind, "data": content["data"], "metadata": content.get("metadata", {})}
        if kind == "execute_result":
            output["execution_count"] = 1
        shown.append(output)
        display = content.get("transient", {}).get("display_id")
        if display is not None:
            by_display.setdefault(str(display), []).append(output)


def _stream(shown: list[Output], content: dict[str, Any]) -> None:
    """Joined with the text before it, lines redrawn as on a terminal."""
    last = shown[-1] if shown else None
    if last is None or last["output_type"] != "stream" or last["name"] != content["name"]:
        last = {"output_type": "stream", "name": content["name"], "text": ""}
        shown.append(last)
    text = last["text"] + content["text"]
    last["text"] = "\n".join(newest(line) for line in text.split("\n"))


def as_notebook(cell: str, lines: Iterable[dict[str, Any]]) -> str:
    """The document, format 4.5."""
    code = {
        "cell_type": "code",
        "id": "job",
        "metadata": {},
        "execution_count": 1,
        "source": cell,
        "outputs": outputs(lines),
    }
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return json.dumps({"cells": [code], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}, indent=1)
