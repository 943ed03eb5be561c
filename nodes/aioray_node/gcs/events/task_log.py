"""What a node tells the GCS of tasks: a core.

What its processes say is gathered for an interval and told in one report (`pacing.py` says when). Of tasks that have
ended as many are told one by one as there is room for, the newest; all are counted. Where answers come late the room
halves as the interval doubles. Processes are told how often, and how much, the node wants to hear, so what would be
thrown away is not sent.
"""

from __future__ import annotations

import collections
from dataclasses import dataclass, field

import msgspec

from aioray.wire.control import TaskEvents, TaskPace
from aioray.wire.events import ENDED_STATES, FAILED, OTHERS, RUNNING, TaskGroup, TaskRecord
from aioray.wire.gcs import GcsPace, TaskReport
from aioray_node.gcs import pacing
from aioray_node.gcs.pacing import WakeAt

_LEAST_ROOM = 10
_MAX_NAMES = 1000  # of functions in a report; those of more are counted together
_MAX_LIVE = 200  # that a node tells of one by one, of those that run or wait

Key = tuple[bytes, str, str]


class Told(msgspec.Struct, frozen=True):
    """A process of this node says what became of tasks."""

    process: bytes
    events: TaskEvents


class ProcessGone(msgspec.Struct, frozen=True):
    """What it ran has failed."""

    process: bytes
    unix_time: float  # s


class Connected(msgspec.Struct, frozen=True):
    """There is a way to the GCS, perhaps a new one."""


class Disconnected(msgspec.Struct, frozen=True):
    """There is none."""


class Paced(msgspec.Struct, frozen=True):
    """The GCS has taken a report in."""

    pace: GcsPace


class Tick(msgspec.Struct, frozen=True):
    """The time of a WakeAt has come."""


class Send(msgspec.Struct, frozen=True):
    """To the GCS. It may have it already."""

    report: TaskReport


class Pace(msgspec.Struct, frozen=True):
    """Tell the process."""

    process: bytes
    pace: TaskPace


Event = Told | ProcessGone | Connected | Disconnected | Paced | Tick
Command = Send | Pace | WakeAt


@dataclass(slots=True, kw_only=True)
class State(pacing.Reporting[TaskReport]):
    max_room: int
    room: int = 0  # as the GCS wants it; 0: it has said nothing yet
    finished: dict[Key, int] = field(default_factory=dict)  # that the GCS was not told of
    failed: dict[Key, int] = field(default_factory=dict)
    records: collections.deque[tuple[Key, TaskRecord]] = field(default_factory=collections.deque)
    live: dict[bytes, list[TaskGroup]] = field(default_factory=dict)  # process -> what it runs, or waits for
    is_live_new: bool = False
    paced: dict[bytes, TaskPace] = field(default_factory=dict)  # process -> what it was told last

    @property
    def current_room(self) -> int:
        return max(_LEAST_ROOM, int(min(self.max_room, self.room or self.max_room) / self.stretch))


def handle(state: State, event: Event, now: float) -> list[Command]:
    """Apply `event` at loop time `now` (s); return what the shell must do, in that order."""
    commands: list[Command] = []
    match event:
        case Told(process, events):
            commands += _told(state, process, events)
        case ProcessGone(process, unix_time):
            _process_gone(state, process, unix_time)
        case Connected():
            if (again := pacing.connected(state, now)) is not None:
                commands.append(Send(again))
        case Disconnected():
            pacing.disconnected(state)
        case Paced(pace):
            if pacing.answered(state, pace.seq, pace.interval_s, now):
                state.room = pace.room
        case Tick():
            state.wake_at = None
    return commands + plan(state, now)


def plan(state: State, now: float) -> list[Command]:
    """Report if that is due, and the report before is answered."""
    if not (state.may_report and _has_news(state)):
        return []
    due = state.told_at + state.current_interval_s
    if now < due:
        return list(pacing.wake(state, due))
    state.unanswered = _report(state, pacing.number(state, now))
    return [Send(state.unanswered)]


def _has_news(state: State) -> bool:
    return bool(state.is_live_new or state.finished or state.failed)


def check(state: State) -> None:
    """Assert what holds between any two events."""
    told: collections.Counter[tuple[Key, str]] = collections.Counter(
        (key, record.state) for key, record in state.records
    )
    for (key, what), count in told.items():
        assert what in ENDED_STATES, state
        counted = (state.failed if what == FAILED else state.finished).get(key, 0)
        assert count <= counted, f"more are told of than there were: {state}"
    assert len(state.records) <= state.max_room, f"the memory has no bound: {state}"
    assert all(state.live.values()), f"a process without tasks is kept: {state}"
    pacing.check(state, has_news=_has_news(state))


def _told(state: State, process: bytes, events: TaskEvents) -> list[Command]:
    for group in events.ended:
        _count(state, group)
    if events.now:
        state.live[process] = events.now
        state.is_live_new = True
    elif state.live.pop(process, None) is not None:
        state.is_live_new = True
    each = max(_LEAST_ROOM, state.current_room // max(1, len(state.paced)))
    pace = TaskPace(state.current_interval_s, each)
    if state.paced.get(process) == pace:
        return []
    state.paced[process] = pace
    return [Pace(process, pace)]


def _count(state: State, group: TaskGroup) -> None:
    key = group.key
    if len(state.finished) + len(state.failed) >= _MAX_NAMES and not (key in state.finished or key in state.failed):
        key = group.job_id, OTHERS, group.kind
    if group.finished:
        state.finished[key] = state.finished.get(key, 0) + group.finished
    if group.failed:
        state.failed[key] = state.failed.get(key, 0) + group.failed
    if key != group.key:
        return
    records = state.records
    records.extend((key, record) for record in group.records)
    while len(records) > state.max_room:
        records.popleft()


def _process_gone(state: State, process: bytes, unix_time: float) -> None:
    state.paced.pop(process, None)
    groups = state.live.pop(process, None)
    if groups is None:
        return
    state.is_live_new = True
    for group in groups:
        if group.running:
            records = tuple(_failed(each, unix_time) for each in group.records if each.state == RUNNING)
            ended = TaskGroup(*group.key, failed=group.running, records=records)
            _count(state, ended)


def _failed(record: TaskRecord, unix_time: float) -> TaskRecord:
    return msgspec.structs.replace(record, state=FAILED, at=unix_time, error_type="WorkerCrashedError")


def _report(state: State, seq: int) -> TaskReport:
    records: dict[Key, list[TaskRecord]] = {}
    for key, record in list(state.records)[-state.current_room :]:
        records.setdefault(key, []).append(record)
    ended = tuple(
        TaskGroup(*key, state.finished.get(key, 0), state.failed.get(key, 0), records=tuple(records.get(key, ())))
        for key in {**state.finished, **state.failed}
    )
    state.finished, state.failed = {}, {}
    state.records.clear()
    live = None
    if state.is_live_new:
        state.is_live_new = False
        live = _together(state)
    return TaskReport(seq, ended, live)


def _together(state: State) -> tuple[TaskGroup, ...]:
    """What all processes run or wait for, by name."""
    pending: dict[Key, int] = {}
    running: dict[Key, int] = {}
    records: dict[Key, list[TaskRecord]] = {}
    left = _MAX_LIVE
    for groups in state.live.values():
        for group in groups:
            key = group.key
            pending[key] = pending.get(key, 0) + group.pending
            running[key] = running.get(key, 0) + group.running
            told = group.records[:left]
            left -= len(told)
            records.setdefault(key, []).extend(told)
    return tuple(
        TaskGroup(*key, pending=pending[key], running=running[key], records=tuple(records[key])) for key in pending
    )
