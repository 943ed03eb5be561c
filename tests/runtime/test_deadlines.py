"""Deadlines: what they follow from, and which comes next."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioray.options import method_options, task_options
from aioray.runtime.calls import NO_DEADLINE
from aioray.runtime.deadlines import Deadlines, Limits, deadline_of, limits_of


@dataclasses.dataclass
class Parent:
    deadline: float
    is_canceled: bool = False


class Call:
    def __init__(self, deadline: float) -> None:
        self.deadline = deadline


def test_no_options_mean_no_limits() -> None:
    assert limits_of(task_options({})) is None
    assert limits_of(method_options({"timeout": 2})) == Limits(2.0, None)
    assert deadline_of(None, None, 10.0, 1e9) == NO_DEADLINE


@pytest.mark.parametrize(
    ("limits", "parent", "deadline"),
    [
        (Limits(2.0, None), None, 12.0),
        (Limits(None, 1e9 + 3), None, 13.0),
        (Limits(2.0, 1e9 + 3), None, 12.0),
        (Limits(2.0, 1e9 - 3), None, 7.0),
        (None, Parent(11.0), 11.0),
        (Limits(2.0, None), Parent(11.0), 11.0),
        (Limits(0.5, None), Parent(11.0), 10.5),
        (None, Parent(9.0, is_canceled=True), NO_DEADLINE),
        (Limits(2.0, None), Parent(9.0, is_canceled=True), 12.0),
    ],
)
def test_the_earliest_of_what_limits_a_call_counts(limits: Limits | None, parent: Any, deadline: float) -> None:
    assert deadline_of(limits, parent, 10.0, 1e9) == deadline


def test_a_call_that_is_over_is_not_due_and_not_waited_for() -> None:
    deadlines = Deadlines()
    first, second = Call(1.0), Call(2.0)
    assert deadlines.add(second, second.deadline)  # type: ignore[arg-type]
    assert deadlines.add(first, first.deadline)  # type: ignore[arg-type]
    assert deadlines.next() == 1.0
    del first
    assert deadlines.next() == 2.0
    assert deadlines.due(1.5) == []
    due: list[Any] = list(deadlines.due(2.0))
    assert due == [second]
    assert deadlines.next() is None


def test_many_calls_with_a_late_deadline_pile_nothing_up() -> None:
    deadlines = Deadlines()
    kept = [Call(1e6) for _ in range(10)]
    for call in kept:
        deadlines.add(call, call.deadline)  # type: ignore[arg-type]
    for _ in range(10_000):
        deadlines.add(Call(1e5), 1e5)  # type: ignore[arg-type]
    assert len(deadlines) <= 200
    due: list[Any] = list(deadlines.due(1e6))
    assert due == kept


@given(st.lists(st.floats(0, 100)), st.floats(0, 100))
def test_exactly_those_are_due_whose_time_has_come(times: list[float], now: float) -> None:
    deadlines = Deadlines()
    calls = [Call(when) for when in times]
    for call in calls:
        before = deadlines.next()
        assert deadlines.add(call, call.deadline) == (before is None or call.deadline < before)  # type: ignore[arg-type]
    due = deadlines.due(now)
    assert sorted(call.deadline for call in due) == sorted(when for when in times if when <= now)
    assert deadlines.next() == min((when for when in times if when > now), default=None)
