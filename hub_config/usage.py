"""``timeshare usage``: GPU-hours that were held, by person, group, model, kind, reason or day."""

from __future__ import annotations

import argparse
import csv
import html
import io
import json
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from urllib.parse import urlencode

from ..reservations.client import Json, ServiceClient
from .console import columns, with_service

AMOUNTS = ("intervals", "gpu_hours", "weighted_gpu_hours")


def add(command: argparse.ArgumentParser, state: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the options. ``state`` adds the one that names the deployment."""
    state(command)
    command.add_argument(
        "--by", default="owner", metavar="WORDS", help="of owner,group,model,kind,reason,day; default owner"
    )
    command.add_argument(
        "--since", default="", metavar="WHEN", help='such as "2026-11-01 00:00"; default: 30 days ago, 00:00'
    )
    command.add_argument("--until", default="", metavar="WHEN", help="default: now")
    command.add_argument("--user", default="", metavar="NAME", help="of one person only")
    command.add_argument("--format", choices=("table", "csv", "json", "html"), default="table", help="default: table")
    command.set_defaults(run=run)


def run(options: Namespace) -> int:
    """Prints the report. The exit code."""
    asked = {"by": options.by, "since": options.since, "until": options.until, "owner": options.user}

    async def deed(service: ServiceClient) -> None:
        found = await service.call("GET", f"usage?{urlencode({k: v for k, v in asked.items() if v})}")
        print(WRITERS[options.format](found))
        if found["removed_until"]:
            until = found["removed_until"]
            print(
                f"Incomplete: of what ended before {until} some is no longer kept (see `retention` in the limits)",
                file=sys.stderr,
            )

    return with_service(options, "usage", deed)


def _rows(found: Json) -> list[Sequence[str]]:
    heads = [*found["by"], *AMOUNTS]
    return [heads, *([str(row[name]) for name in heads] for row in found["usage"])]


def as_table(found: Json) -> str:
    if not found["usage"]:
        return f"Nothing was held from {found['since']} to {found['until']}."
    rows = _rows(found)
    return columns([[head.upper().replace("_", " ") for head in rows[0]], *rows[1:]])


def as_csv(found: Json) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(_rows(found))
    return text.getvalue().rstrip("\n")


def as_json(found: Json) -> str:
    return json.dumps(found, indent=2)


def as_html(found: Json) -> str:
    """One page with the table and a bar for each row."""
    most = max((row["weighted_gpu_hours"] for row in found["usage"]), default=0) or 1
    heads = "".join(f'<th scope="col">{html.escape(head.replace("_", " "))}</th>' for head in _rows(found)[0])
    lines = []
    for row, cells in zip(found["usage"], _rows(found)[1:], strict=True):
        width = 100 * row["weighted_gpu_hours"] / most
        bar = f'<td aria-hidden="true"><div class="bar" style="width:{width:.1f}%"></div></td>'
        lines.append(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}{bar}</tr>")
    title = f"GPU-hours held, {found['since']} to {found['until']}"
    style = (
        "body{font-family:sans-serif;margin:2rem}table{border-collapse:collapse;width:100%}"
        "td,th{text-align:left;padding:.2rem .6rem;border-bottom:1px solid #ccc}"
        "td:last-child{width:40%}.bar{background:#0072b2;height:.8rem}"
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{style}</style>'
        f"<h1>{title}</h1><table><thead><tr>{heads}<th></th></tr></thead><tbody>{''.join(lines)}</tbody></table></html>"
    )


WRITERS: dict[str, Callable[[Json], str]] = {"table": as_table, "csv": as_csv, "json": as_json, "html": as_html}
