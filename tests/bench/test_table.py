"""How figures, failures and whole tables read."""

from __future__ import annotations

import pytest

from bench.rows import BY_KEY, Side
from bench.runner import Cell, Job, Line, Outcome
from bench.table import align, figure, goal, notes, number, render, times

TASK, START, PUT = BY_KEY["task_sync"], BY_KEY["start_sync"], BY_KEY["put_100b"]


def line_of(**cells: Cell) -> Line:
    sides: dict[Side, Cell] = {side: cells[side] for side in TASK.sides if side in cells}
    return Line(TASK, sides)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (96_512.4, "96,512"),
        (100.0, "100"),
        (42.25, "42.2"),
        (1.4, "1.40"),
        (0.0571, "0.057"),
        (0.0, "0.000"),
        (-3.25, "-3.25"),
    ],
)
def test_numbers_have_three_digits_or_so(value: float, text: str) -> None:
    assert number(value) == text


def test_how_many_times_better() -> None:
    assert [times(value) for value in (None, 0.44, 9.87, 28.6)] == ["-", "0.4x", "9.9x", "29x"]


def test_goals_say_what_they_are_held_against() -> None:
    assert [goal(row) for row in (TASK, START, PUT)] == [">= 0.6 limit", "<= 2.0 limit", ">= 150,000"]


def test_a_cell_is_a_median_a_failure_or_nothing() -> None:
    line = line_of(
        limit=Cell((4.0, 1.0, 3.0), ()),
        ours=Cell((2.0,), ("died",)),
        ray=Cell((), ("RuntimeError: something that went wrong at length",)),
    )
    assert figure(line, "limit") == "3.00"
    assert figure(line, "ours") == "2.00*"
    assert figure(line, "ray") == "failed: RuntimeError: something that went wro..."
    assert figure(line, "xoscar") == "-"


def test_a_table_is_aligned_markdown() -> None:
    assert align([["row", "n"], ["task", "1"], ["put", "1,000"]], left={0}).splitlines() == [
        "| row  |     n |",
        "| ---- | ----: |",
        "| task |     1 |",
        "| put  | 1,000 |",
    ]


def test_a_whole_line_with_and_without_peers() -> None:
    line = line_of(limit=Cell((5_000.0,), ()), ours=Cell((3_500.0,), ()), ray=Cell((350.0,), ()))
    cells = [cell.strip() for cell in render([line]).splitlines()[2].strip("|").split("|")]
    assert cells == [TASK.name, "/s", "5,000", "3,500", "0.70", ">= 0.6 limit", "met", "350", "-", "-", "10x"]
    cells = [cell.strip() for cell in render([line], peers=[]).splitlines()[2].strip("|").split("|")]
    assert cells == [TASK.name, "/s", "5,000", "3,500", "0.70", ">= 0.6 limit", "met"]


def test_a_bar_in_a_failure_does_not_break_the_table() -> None:
    line = line_of(ours=Cell((), ("int | None",)))
    assert "failed: int / None" in render([line])


def test_notes_tell_what_the_table_has_no_room_for() -> None:
    job = Job(2, TASK, "ours")
    outcomes = [
        Outcome(job, 1.0),
        Outcome(job, failure="ValueError: long story"),
        Outcome(job, 1.0, left_behind=("python -m aioray_node", "another")),
        Outcome(job, 1.0, stderr_tail="Traceback:\n  ...\nValueError: free already\n"),
    ]
    assert notes([], outcomes) == [
        "task_sync (aioray, round 2): failed: ValueError: long story",
        "task_sync (aioray, round 2): left 2 processes behind: python -m aioray_node",
        "task_sync (aioray, round 2): wrote to stderr: ValueError: free already",
    ]


def test_notes_tell_of_figures_that_differ_much_from_round_to_round() -> None:
    line = line_of(limit=Cell((5_000.0, 16_000.0, 5_100.0), ()), ours=Cell((3_000.0, 4_400.0), ()))
    assert notes([line], []) == ["task_sync (limit): its rounds lie between 5,000 and 16,000 /s"]
