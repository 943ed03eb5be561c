"""Tells the node what becomes of tasks: those that this process waits for, and, in a worker, those that it runs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from aioray.runtime.telling import Teller
from aioray.wire.control import TaskEvents
from aioray.wire.events import (
    MAX_NAME,
    NORMAL_TASK,
    OTHERS,
    WAITS_FOR_ARGUMENTS,
    WAITS_FOR_WORKER,
    TaskGroup,
    TaskRecord,
)
from aioray.wire.values import object_id

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aioray.runtime.runtime import Runtime
    from aioray.runtime.task_records import Task
    from aioray.wire.control import TaskPace

_MAX_COUNTED = 10_000  # tasks that wait and are counted by name; of more, only how many
_MAX_TOLD = 100  # and that are told one by one
_TASK_ID_NBYTES = 14


class Calls(Protocol):
    """What a worker adds."""

    def take(self) -> list[TaskGroup]: ...
    def running(self) -> list[TaskGroup]: ...


class TaskReporter(Teller):
    """Called with the reactor's lock held."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime, runtime.config.task_events_reporting_interval_ms / 1000)
        self.room = runtime.config.task_events_report_max
        self.calls: Calls | None = None
        self._told: list[tuple[object, ...]] = []  # what waited then

    def paced(self, pace: TaskPace) -> None:
        """The node says how often, and how much, it wants to hear."""
        if self.is_on:
            self.interval_s, self.room = pace.interval_s, pace.room

    def _tell(self) -> None:
        runtime = self._runtime
        ended = [] if self.calls is None else self.calls.take()
        waiting = _grouped(runtime.job_id, runtime.process_id, runtime.tasks.waiting(_MAX_COUNTED))
        now = waiting if self.calls is None else waiting + self.calls.running()
        told = [(*group.key, group.pending, *(record.task_id for record in group.records)) for group in now]
        if ended or told != self._told:
            self._told = told
            runtime.link.send(TaskEvents(ended, now))
        if waiting:
            self.arm()  # nobody says so when they wait no more


def _grouped(job_id: bytes, process_id: bytes, waiting: Iterable[tuple[Task | None, int]]) -> list[TaskGroup]:
    """Tasks that wait, with 1, and those that cannot be looked at: None, and how many they are."""
    now = time.time()
    counts: dict[str, int] = {}
    records: dict[str, list[TaskRecord]] = {}
    told = 0
    for task, count in waiting:
        if task is None:
            counts[OTHERS] = counts.get(OTHERS, 0) + count
            continue
        if not task.options.enable_task_events:
            continue
        name = task.function.name[:MAX_NAME]
        counts[name] = counts.get(name, 0) + 1
        if told < _MAX_TOLD:
            told += 1
            has_arguments = all(ref._is_made() for _, ref in task.arguments.deps)
            state = WAITS_FOR_WORKER if has_arguments else WAITS_FOR_ARGUMENTS
            task_id = object_id(process_id, task.seq)[:_TASK_ID_NBYTES]
            records.setdefault(name, []).append(TaskRecord(task_id, state, now, labels=task.options._labels))
    return [
        TaskGroup(job_id, name, NORMAL_TASK, pending=count, records=tuple(records.get(name, ())))
        for name, count in counts.items()
    ]
