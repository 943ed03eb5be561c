"""Tables as rows: filtered, the newest first, and cut."""

from __future__ import annotations

from typing import Any

import pytest

from aioray.wire.events import FAILED, FINISHED, NORMAL_TASK, TaskGroup, TaskRecord
from aioray.wire.gcs import TaskReport
from aioray.wire.state import ListTasks, TaskRow
from aioray_node.gcs import rows
from aioray_node.gcs.events import task_table


@pytest.fixture
def state() -> task_table.State:
    state = task_table.State(1.0, 1000, 1000, 10.0)
    records = tuple(
        TaskRecord(
            bytes([n]), FAILED if n % 5 == 0 else FINISHED, float(n % 7), 1.0, b"w", "KeyError" if n == 5 else ""
        )
        for n in range(20)
    )
    group = TaskGroup(b"job", "f", NORMAL_TASK, finished=26, failed=4, records=records)
    task_table.handle(state, task_table.Reported("0a", TaskReport(1, (group,))), 0.0)
    return state


def asked(state: task_table.State, *filters: tuple[str, str, Any], limit: int = 100) -> list[str]:
    return [row["task_id"] for row in rows.tasks(ListTasks(filters, limit), state).rows]


def test_the_newest_come_first_and_the_total_is_said(state: task_table.State) -> None:
    found = rows.tasks(ListTasks(limit=3), state)
    assert [row["end_time_ms"] for row in found.rows] == [6000, 6000, 5000]
    assert (found.total, found.left_out) == (20, 10)
    assert found.rows[0].keys() == set(TaskRow.__struct_fields__)


def test_all_filters_must_hold(state: task_table.State) -> None:
    assert len(asked(state, ("state", "=", "FAILED"))) == 4
    assert asked(state, ("state", "=", "FAILED"), ("error_type", "=", "KeyError")) == ["05"]
    assert len(asked(state, ("task_id", "!=", "05"), ("state", "=", "FAILED"))) == 3
    assert len(asked(state, ("error_type", "=", None))) == 19
    assert len(asked(state, ("end_time_ms", "=", "6000"))) == 2, "as a command line has it"
    assert asked(state, ("name", "=", "g")) == []


def test_one_label_is_asked_for_by_its_key() -> None:
    state = task_table.State(1.0, 1000, 1000, 10.0)
    given: tuple[dict[str, str], ...] = ({}, {"team": "red"}, {"team": "blue", "a.b/c.d": "1"})
    records = tuple(TaskRecord(bytes([n]), FINISHED, 1.0, labels=labels) for n, labels in enumerate(given))
    group = TaskGroup(b"job", "f", NORMAL_TASK, finished=3, records=records)
    task_table.handle(state, task_table.Reported("0a", TaskReport(1, (group,))), 0.0)
    assert asked(state, ("labels.team", "=", "red")) == ["01"]
    assert asked(state, ("labels.team", "!=", "red")) == ["00", "02"]
    assert asked(state, ("labels.team", "=", None)) == ["00"]
    assert asked(state, ("labels.a.b/c.d", "=", "1")) == ["02"]
    assert asked(state, ("labels", "=", {"team": "red"})) == ["01"]


def test_filters_that_say_nothing_about_tasks_are_refused(state: task_table.State) -> None:
    with pytest.raises(rows.BadFilter, match="no filter 'colour': there are task_id, name"):
        asked(state, ("colour", "=", "red"))
    with pytest.raises(rows.BadFilter, match=r"no filter 'name\.first'"):
        asked(state, ("name.first", "=", "red"))
    with pytest.raises(rows.BadFilter, match="only = and !="):
        asked(state, ("name", "<", "g"))
