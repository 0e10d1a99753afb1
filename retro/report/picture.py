"""Success by retry as one picture: an SVG written by hand, for which no package is needed.

A panel for each world, a row for each method: a ring at the first retry and a dot at the last one,
each on its 95 % interval, and the two shares in figures; a dashed line where all began. The file
has a light and a dark face and takes the reader's (`prefers-color-scheme`). `columns=1` is for a
telephone, where a wide picture would shrink beyond reading.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from retro.report.markdown import NAMES, share
from retro.run.files import write_atomically
from retro.run.printable import visible

PANEL, ROW = 400, 23  # width of a panel, height of a row; pixels
MARGIN, GAP = 14, 32  # space around everything, and between two panels
LABEL, FIGURES = 138, 84  # of a panel's width: the method's name, the two shares
HEAD, FOOT = 62, 30  # above the rows: title, what was played, columns; below: the axis
LONGEST = 20  # characters of a method's name; a longer one would run into the plot
CONTROLS = ("last_attempt", "template", "shuffled", "best_of", "oracle")  # no reflector of ours
STYLE = """
svg { --paper: #ffffff; --ink: #1d2329; --soft: #59626b; --grid: #e4e7e9; --main: #0b6fa4; }
@media (prefers-color-scheme: dark) {
  svg { --paper: #0d1117; --ink: #e4e8ea; --soft: #98a3ab; --grid: #2b333b; --main: #58b7e8; }
}
.paper { fill: var(--paper); }
text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif;
  fill: var(--ink); font-variant-numeric: tabular-nums; }
.title { font-size: 15px; font-weight: 600; }
.soft, .control text { fill: var(--soft); }
.small { font-size: 11.5px; fill: var(--soft); }
.grid { stroke: var(--grid); }
.first { stroke: var(--soft); stroke-dasharray: 3 3; }
.row line { stroke: var(--ink); stroke-width: 1.5; }
.row circle { stroke: var(--ink); stroke-width: 1.5; fill: var(--ink); }
.control line, .control circle { stroke: var(--soft); }
.control circle { fill: var(--soft); }
.main text { fill: var(--main); font-weight: 650; }
.main line, .main circle { stroke: var(--main); stroke-width: 2.5; }
.main circle { fill: var(--main); }
.row circle.ring { fill: var(--paper); }
"""

class World(NamedTuple):
    """A panel."""

    title: str
    note: str  # what was played
    report: Mapping
    runs: int = 1  # whose adapters are pooled

def world(report: Mapping, runs: int = 1) -> World:
    """The panel of a report that stands for itself."""
    tasks = next(iter(report["methods"].values()))["n"]
    note = f"{tasks} tasks ({report['split']})" + f", {runs} runs" * (runs > 1)
    return World(report["env"], note, report, runs)

def write_picture(path: str | Path, worlds: Sequence[World], columns: int = 2) -> None:
    write_atomically(path, draw(worlds, columns).encode())

def draw(worlds: Sequence[World], columns: int = 2) -> str:
    """The SVG. Rows of panels are as high as their highest one."""
    columns = min(columns, len(worlds))
    low = lowest([w.report for w in worlds])
    parts, top = list[str](), MARGIN
    for start in range(0, len(worlds), columns):
        beside = worlds[start : start + columns]
        for column, one in enumerate(beside):
            inner = "\n".join(panel(one, low))
            parts.append(f'<g transform="translate({MARGIN + column * (PANEL + GAP)} {top})">'
                         f"\n{inner}\n</g>")  # fmt: skip
        top += max(HEAD + ROW * len(w.report["methods"]) + FOOT for w in beside) + MARGIN
    width, height = 2 * MARGIN + columns * (PANEL + GAP) - GAP, top + 46
    retries = retries_of(worlds[0].report)
    told = [f"ring: after retry {retries[0]}"] * (len(retries) > 1)
    told += [f"dot: after retry {retries[-1]}", "dashed: first trial"]
    over = "over tasks" + " and runs" * any(w.runs > 1 for w in worlds)
    for y, words in ((16, "; ".join(told)), (34, f"bars: 95 % intervals, {over}")):
        parts.append(text(MARGIN, top + y, words, "small"))
    summary = "Success by retry: " + "; ".join(w.title for w in worlds)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img">\n<title>{clean(summary)}</title>\n<style>{STYLE}</style>\n'
        f'<rect class="paper" width="{width}" height="{height}"/>\n' + "\n".join(parts)
        + "\n</svg>\n"
    )  # fmt: skip

def retries_of(report: Mapping) -> list[int]:
    """The retries that are shown: the first and the last one."""
    last = len(next(iter(report["methods"].values()))["success_by_retry"]) - 1
    return sorted({min(1, last), last})

def lowest(reports: Sequence[Mapping]) -> float:
    """Where the axis begins, the same for all panels: a quarter that nothing lies below."""
    ends = [low for report in reports for own in report["methods"].values()
            for low, _ in own["ci95"]]  # fmt: skip
    return min(0.75, math.floor(4 * min(ends)) / 4)

def panel(one: World, low: float) -> list[str]:
    """The lines of a panel whose left upper corner is (0, 0)."""
    methods, retries = one.report["methods"], retries_of(one.report)
    right = PANEL - FIGURES
    x = lambda value: round(LABEL + (value - low) / (1 - low) * (right - LABEL), 1)
    centre = lambda column: PANEL - FIGURES + 34 + 42 * column
    bottom = HEAD + ROW * len(methods)
    lines = [text(0, 14, one.title, "title"), text(0, 32, one.note, "small")]
    first = next(iter(methods.values()))["success_by_retry"][0]
    begins = min(x(first), right - 30)
    lines.append(text(begins, HEAD - 8, f"first {share(first)}", "small", "middle"))
    for column, retry in enumerate(retries, 2 - len(retries)):
        words = f"retry {retry}" if retry == retries[0] else str(retry)
        lines.append(text(centre(column), HEAD - 8, words, "small", "middle"))
    quarters = range(round(4 * low), 5)
    for value in (quarter / 4 for quarter in quarters):
        lines.append(line(x(value), x(value), HEAD, bottom, "grid"))
        lines.append(text(x(value), bottom + 16, f"{100 * value:.0f} %", "small", "middle"))
    lines.append(line(x(first), x(first), HEAD, bottom, "first"))
    for number, (name, own) in enumerate(methods.items()):
        y = HEAD + ROW * number + ROW / 2
        kind = "main" if name.startswith("retroformer") else "control" * (name in CONTROLS)
        lines.append(f'<g class="row {kind}">')
        lines.append(text(0, y + 4.5, label(name, one.report)))
        for column, retry in enumerate(retries, 2 - len(retries)):
            at = y if len(retries) == 1 else y + (3.5 if column else -3.5)
            left, end = map(x, own["ci95"][retry])
            lines.append(line(left, end, at, at))
            done, ring = own["success_by_retry"][retry], ' class="ring"' * (not column)
            lines.append(f'<circle{ring} cx="{x(done)}" cy="{at}" r="3.5"/>')
            lines.append(text(centre(column), y + 4.5, share(done), "", "middle"))
        lines.append("</g>")
    return lines

def label(name: str, report: Mapping) -> str:
    words = NAMES.get(name, name)
    if name == "template" and report["template"]:
        words = f"{words}: {report['template']}"
    return words if len(words) <= LONGEST else f"{words[: LONGEST - 1]}…"

def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    kind = f' class="{kind}"' * bool(kind)
    return f'<text{kind} x="{x}" y="{y}" text-anchor="{anchor}">{clean(words)}</text>'

def line(x1: float, x2: float, y1: float, y2: float, kind: str = "") -> str:
    kind = f' class="{kind}"' * bool(kind)
    return f'<line{kind} x1="{x1}" x2="{x2}" y1="{y1}" y2="{y2}"/>'

def clean(words: str) -> str:
    """Text that can be no markup, whatever a file was called."""
    return escape(" ".join(visible(words).split()))
