"""The table as text: a Markdown table that is aligned, so that a terminal and a README can both show it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.rows import PEERS, Row, Side
from bench.runner import last_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.runner import Line, Outcome

TITLES: dict[Side, str] = {"limit": "limit", "ours": "aioray", "ray": "Ray", "dask": "Dask", "xoscar": "xoscar"}
MOST_REASON = 40  # characters of a failure that a cell shows; the notes below the table have all of it
MOST_NOTE = 200
STEADY = 1.5  # rounds further apart than this factor are told: where processes run, and next to what, matters that much
NONE = "-"


def number(value: float) -> str:
    """Three digits or so: 96,512; 96.5; 0.965."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def times(value: float | None) -> str:
    return NONE if value is None else f"{value:,.0f}x" if value >= 10 else f"{value:.1f}x"


def goal(row: Row) -> str:
    bound = f"{row.goal.bound:.1f} limit" if row.goal.against == "ratio" else f"{row.goal.bound:,g}"
    return f"{'<=' if row.lower_is_better else '>='} {bound}"


def verdict(line: Line) -> str:
    return {True: "met", False: "MISSED", None: NONE}[line.met]


def figure(line: Line, side: Side) -> str:
    """A median, with a * when some round failed; `failed: reason` when all did."""
    cell = line.cells.get(side)
    if cell is None:
        return NONE
    if cell.median is None:
        reason = cell.failures[-1]
        return f"failed: {reason if len(reason) <= MOST_REASON else reason[: MOST_REASON - 3] + '...'}"
    return number(cell.median) + ("*" if cell.failures else "")


def render(lines: Sequence[Line], peers: Sequence[Side] = PEERS) -> str:
    head = ["", "unit", "limit", "aioray", "aioray/limit", "goal", "", *(TITLES[side] for side in peers)]
    body = [
        [
            line.row.name,
            line.row.unit,
            figure(line, "limit"),
            figure(line, "ours"),
            NONE if line.ratio is None else f"{line.ratio:.2f}",
            goal(line.row),
            verdict(line),
            *(figure(line, side) for side in peers),
        ]
        for line in lines
    ]
    if "ray" in peers:
        head.append("vs Ray")
        for cells, line in zip(body, lines, strict=True):
            cells.append(times(line.times_ray))
    return align([head, *[[text.replace("|", "/") for text in cells] for cells in body]], left={0, 1, 5, 6})


def align(cells: Sequence[Sequence[str]], left: set[int]) -> str:
    """Rows of cells, the first being the head, as a Markdown table; the columns not in `left` are set to the right."""
    widths = [max(2, *(len(row[i]) for row in cells)) for i in range(len(cells[0]))]
    texts = [
        " | ".join(
            text.ljust(w) if i in left else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    rule = " | ".join("-" * w if i in left else "-" * (w - 1) + ":" for i, w in enumerate(widths))
    return "\n".join(f"| {text} |" for text in [texts[0], rule, *texts[1:]])


def notes(lines: Sequence[Line], outcomes: Sequence[Outcome]) -> list[str]:
    """What the table has no room for: failed rounds, and processes that a measurement left behind."""
    said = []
    for outcome in outcomes:
        where = f"{outcome.job.row.key} ({TITLES[outcome.job.side]}, round {outcome.job.round})"
        if outcome.failure is not None:
            said.append(f"{where}: failed: {outcome.failure[:MOST_NOTE]}")
        elif outcome.stderr_tail and outcome.job.side == "ours":  # what goes wrong unseen is a finding too
            said.append(f"{where}: wrote to stderr: {last_line(outcome.stderr_tail)[:MOST_NOTE]}")
        if outcome.left_behind:
            said.append(f"{where}: left {len(outcome.left_behind)} processes behind: {outcome.left_behind[0]}")
    for line in lines:
        for side, cell in line.cells.items():
            if line.row.unit != "MB" and cell.values and max(cell.values) > STEADY * min(cell.values):
                low, high = number(min(cell.values)), number(max(cell.values))
                said.append(f"{line.row.key} ({TITLES[side]}): its rounds lie between {low} and {high} {line.row.unit}")
    return said
