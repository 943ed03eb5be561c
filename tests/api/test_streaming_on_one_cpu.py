"""Generators where there is a single CPU, on which everything must still be possible."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import aioray as ray
from aioray.exceptions import TaskCancelledError
from tests.api.classes import identity
from tests.api.streams import count, endless, notes, one_then_more
from tests.api.support import Meeting

if TYPE_CHECKING:
    import pathlib


def test_a_task_takes_what_another_one_streams_on_a_single_cpu(one_cpu: Any) -> None:
    @ray.remote
    def add_up(n: int) -> int:
        return sum(ray.get(ref) for ref in count.remote(n))

    assert ray.get(add_up.remote(100)) == 4950


def test_a_generator_that_is_left_before_it_began_never_runs(one_cpu: Any, tmp_path: pathlib.Path) -> None:
    meeting = Meeting(tmp_path / "meeting")
    busy = one_then_more.remote(meeting)
    assert ray.get(next(busy)) == "first"
    waiting = ray.remote(endless).remote(str(tmp_path / "notes"))
    completed = waiting.completed()
    del waiting
    with pytest.raises(TaskCancelledError):
        ray.get(completed)
    meeting.here()
    assert ray.get(next(busy)) == "second"
    assert notes(tmp_path / "notes") == []


def test_a_paused_generator_lends_its_cpu(one_cpu: Any) -> None:
    generator = count.options(_generator_backpressure_num_objects=1).remote(4)
    assert [ray.get(identity.remote(next(generator))) for _ in range(4)] == [0, 1, 2, 3]
