"""A comparison for people: a table of plain text, and one HTML file with the same table and plots."""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..clock import duration_text
from ..kind import Kind
from .compare import ALL, Comparison, Figures, Waits

NOW, NEW = "#0072b2", "#d55e00"  # blue and vermilion of Okabe and Ito: told apart by everybody
NAMES = ("now", "new")


Row = tuple[str, str, str]
_ROWS: Sequence[tuple[str, Callable[[Figures], str]]] = (
    ("asked for", lambda f: f"{f.asked}"),
    ("refused", lambda f: f"{sum(f.refused.values())}"),
    ("wait of sessions, median", lambda f: _wait(f.waits[Kind.SESSION].median)),
    ("wait of sessions, 95 % below", lambda f: _wait(f.waits[Kind.SESSION].p95)),
    ("wait of batch, median", lambda f: _wait(f.waits[Kind.BATCH].median)),
    ("wait of batch, 95 % below", lambda f: _wait(f.waits[Kind.BATCH].p95)),
    ("GPU-hours held", lambda f: f"{f.held:.1f}"),
    ("  of them idle", lambda f: f"{f.idle:.1f}"),
    ("  of them run in vain before a preemption", lambda f: f"{f.lost:.1f}"),
    ("preemptions", lambda f: f"{f.preemptions}"),
    ("ended by the idle limit", lambda f: f"{f.ended.get('idle', 0)}"),
    ("ended by the time limit", lambda f: f"{f.ended.get('time_limit', 0)}"),
    ("ended by an empty budget", lambda f: f"{f.ended.get('budget', 0)}"),
    ("unfinished", lambda f: f"{f.unfinished}"),
    ("received / entitled", lambda f: f"{f.received / f.entitled:.3f}" if f.entitled else "-"),
    ("fairness (Jain, received / entitled)", lambda f: f"{f.jain:.3f}"),
)


def rows(now: Figures, new: Figures) -> list[Row]:
    """What is compared of one group: the name of a figure, and it under both."""
    found = [(name, figure(now), figure(new)) for name, figure in _ROWS]
    codes = sorted({*now.refused, *new.refused})
    refusals = [(f"  refused: {code}", f"{now.refused.get(code, 0)}", f"{new.refused.get(code, 0)}") for code in codes]
    return [*found[:2], *refusals, *found[2:]]


def _wait(seconds: float | None) -> str:
    return "-" if seconds is None else duration_text(seconds)


_NOTHING = Figures(0, dict.fromkeys(Kind, Waits()), 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, {}, {}, 0, 0)


def _tables(comparison: Comparison) -> list[tuple[str, list[Row]]]:
    now, new = comparison.now, comparison.new
    return [(name, rows(now.get(name, _NOTHING), new.get(name, _NOTHING))) for name in comparison.groups]


def as_text(comparison: Comparison) -> str:
    """For the terminal."""
    tables = _tables(comparison)
    cells = [row for _, table in tables for row in table]
    wide = max(len(name) for name, _, _ in cells)
    narrow = max(len(text) for row in cells for text in row[1:])
    lines = list(comparison.about)
    for group, table in tables:
        title = "everybody" if group == ALL else f"group {group}"
        lines += ["", f"{title:{wide}}  {NAMES[0]:>{narrow}}  {NAMES[1]:>{narrow}}"]
        lines += [f"{name:{wide}}  {now:>{narrow}}  {new:>{narrow}}" for name, now, new in table]
    return "\n".join(lines)


STYLE = (
    "body{font:1rem/1.45 sans-serif;margin:2rem auto;max-width:62rem;padding:0 1rem;color:#111}"
    "table{border-collapse:collapse;margin:.5rem 0 1.5rem}td,th{padding:.15rem .8rem;border-bottom:1px solid #ccc}"
    "td,thead th{text-align:right}tbody th,thead th:first-child{text-align:left;font-weight:normal;white-space:pre}"
    "tr.changed td{font-weight:bold}figure{margin:1rem 0}svg{max-width:100%;height:auto}"
)


def as_html(comparison: Comparison) -> str:
    """One page that needs nothing else."""
    parts = [f"<p>{html.escape(line)}</p>" for line in comparison.about]
    for title, draw in PLOTS:
        parts.append(f"<figure>{_svg(comparison, draw, title)}<figcaption>{html.escape(title)}</figcaption></figure>")
    parts += [_html_table(group, table) for group, table in _tables(comparison)]
    title = "Limits, tried"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        f"</head><body><h1>{title}</h1>{''.join(parts)}</body></html>\n"
    )


def _html_table(group: str, table: Sequence[Row]) -> str:
    title = "Everybody" if group == ALL else f"Group {html.escape(group)}"
    lines = "".join(
        f'<tr{"" if now == new else " class=changed"}><th scope="row">{html.escape(name)}</th>'
        f"<td>{html.escape(now)}</td><td>{html.escape(new)}</td></tr>"
        for name, now, new in table
    )
    heads = "".join(f'<th scope="col">{name}</th>' for name in NAMES)
    head = f'<thead><tr><th scope="col">figure</th>{heads}</tr></thead>'
    return f"<h2>{title}</h2><table>{head}<tbody>{lines}</tbody></table>"


def _svg(comparison: Comparison, draw: Callable[[Comparison, Axes], None], title: str) -> str:
    # Text stays text, and the same comparison gives the same page.
    settings: dict[Any, Any] = {"svg.hashsalt": title, "svg.fonttype": "none", "font.size": 9}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(8, 3.2), layout="constrained")
        axes = figure.subplots()
        draw(comparison, axes)
        axes.spines[["top", "right"]].set_visible(False)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    start = svg.index("<svg")
    return f'<svg role="img" aria-label="{html.escape(title)}"{svg[start + 4 :]}'


def _waits_plot(kind: Kind) -> Callable[[Comparison, Axes], None]:
    def draw(comparison: Comparison, axes: Axes) -> None:
        for name, by, colour, line in (("now", comparison.now, NOW, "-"), ("new", comparison.new, NEW, "--")):
            waited = by[ALL].waits[kind].seconds
            parts = [100.0 * (number + 1) / len(waited) for number in range(len(waited))]
            points = _thinned([(max(1.0, s / 60.0), p) for s, p in zip(waited, parts, strict=True)])
            axes.step([x for x, _ in points], [y for _, y in points], line, where="post", color=colour, label=name)
        axes.set_xscale("log")
        axes.set(xlabel="wait (minutes; 1 and less at the left)", ylabel=f"{kind.plural} that started (%)")
        axes.set_ylim(0, 102)
        axes.legend(loc="lower right")

    return draw


def _thinned(points: list[tuple[float, float]], most: int = 400) -> list[tuple[float, float]]:
    """The last point of each wait, and of those ``most`` at equal distances: a year has more than an eye."""
    steps = list(dict(points).items())
    every = max(1, len(steps) // most)
    return steps[::every] + steps[-1:]


def _hours_plot(comparison: Comparison, axes: Axes) -> None:
    names = [name for name in comparison.groups if name != ALL]
    for shift, label, by, colour in ((-0.2, "now", comparison.now, NOW), (0.2, "new", comparison.new, NEW)):
        found = [by.get(name, _NOTHING) for name in names]
        places = [place + shift for place in range(len(names))]
        used = [figures.held - figures.idle for figures in found]
        axes.bar(places, used, 0.38, color=colour, label=f"{label}: in use")
        idle = [figures.idle for figures in found]
        axes.bar(places, idle, 0.38, bottom=used, color="white", edgecolor=colour, hatch="///", label=f"{label}: idle")
    axes.set_xticks(range(len(names)), names)
    axes.set(xlabel="group", ylabel="GPU-hours held")
    axes.legend()


def _share_plot(comparison: Comparison, axes: Axes) -> None:
    names = [name for name in comparison.groups if name != ALL]
    for shift, label, by, colour in ((-0.2, "now", comparison.now, NOW), (0.2, "new", comparison.new, NEW)):
        found = [by.get(name, _NOTHING) for name in names]
        ratios = [figures.received / figures.entitled if figures.entitled else 0.0 for figures in found]
        axes.bar([place + shift for place in range(len(names))], ratios, 0.38, color=colour, label=label)
    axes.axhline(1.0, color="#111", linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(names)), names)
    axes.set(xlabel="group", ylabel="received / entitled (GPU-hours)")
    axes.legend()


PLOTS: Sequence[tuple[str, Callable[[Comparison, Axes], None]]] = (
    ("How long sessions waited: part that had started after so many minutes", _waits_plot(Kind.SESSION)),
    ("How long batch jobs waited: part that had started after so many minutes", _waits_plot(Kind.BATCH)),
    ("GPU-hours held by group, and how many of them sessions were idle", _hours_plot),
    ("What each group received of what its shares entitled it to (dotted: exactly that)", _share_plot),
)
