"""The rows and the programs that measure them agree with each other."""

from __future__ import annotations

from importlib import import_module

import pytest

from bench.rows import BY_KEY, ROWS, SIDES, Side, choose
from bench.runner import MODULES


@pytest.mark.parametrize("side", SIDES)
def test_each_side_has_a_program_for_just_the_rows_it_is_beside(side: Side) -> None:
    measurements = import_module(MODULES[side]).MEASUREMENTS
    assert set(measurements) == {row.key for row in ROWS if side in row.sides}


def test_a_goal_in_ratio_to_the_limit_needs_a_limit() -> None:
    assert [row.key for row in ROWS if row.goal.against == "ratio" and "limit" not in row.sides] == []


def test_quick_leaves_slow_rows_out_unless_they_are_named() -> None:
    assert len(choose(None, quick=False)) == len(ROWS)
    assert BY_KEY["flat_tasks"] not in choose(None, quick=True)
    assert choose("flat_tasks, task_sync", quick=True) == [BY_KEY["task_sync"], BY_KEY["flat_tasks"]]


@pytest.mark.parametrize("keys", ["task_snyc", "task_sync,nothing", ",", ""])
def test_wrong_row_names_are_told_with_what_there_is(keys: str) -> None:
    with pytest.raises(ValueError, match="there are task_sync, "):
        choose(keys, quick=False)
