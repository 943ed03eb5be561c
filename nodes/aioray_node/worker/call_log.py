"""What became of the calls of this process, until its node is told: all are counted, some are told one by one.

A call must not feel that it is noted, so `ended` does little: a tuple for each of the first calls of an interval, and
from then on a number that goes up.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from aioray.wire.events import (
    ACTOR_TASK,
    FAILED,
    FINISHED,
    MAX_NAME,
    NORMAL_TASK,
    OTHERS,
    RUNNING,
    TaskGroup,
    TaskRecord,
)
from aioray.wire.values import object_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aioray.runtime.task_reporter import TaskReporter
    from aioray.wire.calls import Call
    from aioray_node.worker.hosted_actor import HostedActor
    from aioray_node.worker.runtime import Caller, RunningCall

_TASK_ID_NBYTES = 14
_FAILURES_APART = 100  # in an interval, beside the others: they are what one looks for
_MAX_NAMES = 1000  # of functions, for each caller; those of more are counted together
_MAX_RUNNING = 100  # calls that run now and are told one by one

Key = tuple[bytes, str, str]


class CallLog:
    """Called with the reactor's lock held. `running` gives the calls that run now."""

    def __init__(self, reporter: TaskReporter, process_id: bytes, running: Callable[[], Iterable[RunningCall]]) -> None:
        self._reporter = reporter
        self._process_id = process_id
        self._running = running
        self.room = reporter.room  # for calls that are told one by one
        self._failures_room = _FAILURES_APART
        # Not the calls themselves, for they have arguments.
        self._samples: list[tuple[Caller, int, str, str, int, float, HostedActor | None, str, dict[str, str]]] = []
        self._failures: dict[Key, int] = {}  # that are only counted
        self._callers: list[Caller] = []  # that have counts
        reporter.calls = self

    def ended(self, caller: Caller, call: Call, exec_us: int, actor: HostedActor | None, error_type: str = "") -> None:
        """A call is through; with that error, if any."""
        if call.quiet or (actor is not None and actor.spec.quiet):
            return
        if self.room > 0:
            self.room -= 1
        elif error_type:
            if self._failures_room <= 0:
                key = _key(caller, call.name, call.fn, actor)
                self._failures[key] = self._failures.get(key, 0) + 1
                return
            self._failures_room -= 1
        else:
            # The timer runs: there is no room only where there was some, and that set it.
            name = call.name if actor is None else (actor.spec.cls, call.name or call.fn)
            try:
                caller.counts[name] += 1
            except KeyError:
                self.count_first(caller, name, actor)
            return
        now = time.time()
        self._samples.append((caller, call.seq, call.name, call.fn, exec_us, now, actor, error_type, call.labels))
        if not self._reporter.armed:
            self._reporter.arm()

    def count_first(self, caller: Caller, name: str | tuple[str, str], actor: HostedActor | None) -> None:
        """Begin to count calls of that name, for there is no room for more of them."""
        counts = caller.counts
        if not counts:
            self._callers.append(caller)
        if len(counts) >= _MAX_NAMES:
            name = OTHERS if actor is None else (actor.spec.cls, OTHERS)
        counts[name] = counts.get(name, 0) + 1

    def begun(self) -> None:
        """A call may take long: it is told of while it runs."""
        if not self._reporter.armed:
            self._reporter.arm()

    def take(self) -> list[TaskGroup]:
        """What has ended since the last time."""
        records: dict[Key, list[TaskRecord]] = {}
        finished: dict[Key, int] = {}
        failed, self._failures = self._failures, {}
        for caller, seq, name, fn, exec_us, at, actor, error_type, labels in self._samples:
            key = _key(caller, name, fn, actor)
            counts = failed if error_type else finished
            counts[key] = counts.get(key, 0) + 1
            task_id = object_id(caller.process_id, seq)[:_TASK_ID_NBYTES]
            actor_id = b"" if actor is None else actor.spec.actor_id
            state = FAILED if error_type else FINISHED
            begun = at - exec_us / 1e6
            record = TaskRecord(task_id, state, at, begun, self._process_id, error_type, actor_id, labels)
            records.setdefault(key, []).append(record)
        for caller in self._callers:
            for what, count in caller.counts.items():
                cls, name = ("", what) if isinstance(what, str) else what
                shown, kind = (f"{cls}.{name}", ACTOR_TASK) if cls else (name, NORMAL_TASK)
                key = caller.job_id, shown[:MAX_NAME], kind
                finished[key] = finished.get(key, 0) + count
            caller.counts.clear()
        self._callers.clear()
        self._samples.clear()
        self.room, self._failures_room = self._reporter.room, _FAILURES_APART
        return [
            TaskGroup(*key, finished.get(key, 0), failed.get(key, 0), records=tuple(records.get(key, ())))
            for key in {**finished, **failed}
        ]

    def running(self) -> list[TaskGroup]:
        """What runs now."""
        started_to_unix = time.time() - time.perf_counter()
        counts: dict[Key, int] = {}
        records: dict[Key, list[TaskRecord]] = {}
        for number, running in enumerate(self._running()):
            call, caller, actor = running.call, running.caller, running.actor
            if call.quiet or (actor is not None and actor.spec.quiet):
                continue
            key = _key(caller, call.name, call.fn, actor)
            counts[key] = counts.get(key, 0) + 1
            if number < _MAX_RUNNING:
                task_id = object_id(caller.process_id, call.seq)[:_TASK_ID_NBYTES]
                at = started_to_unix + running.started
                actor_id = b"" if actor is None else actor.spec.actor_id
                record = TaskRecord(task_id, RUNNING, at, at, self._process_id, "", actor_id, call.labels)
                records.setdefault(key, []).append(record)
        return [TaskGroup(*key, running=count, records=tuple(records.get(key, ()))) for key, count in counts.items()]


def _key(caller: Caller, name: str, fn: str, actor: HostedActor | None) -> Key:
    if actor is None:
        return caller.job_id, name[:MAX_NAME], NORMAL_TASK
    return caller.job_id, f"{actor.spec.cls}.{name or fn}"[:MAX_NAME], ACTOR_TASK
