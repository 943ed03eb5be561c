"""What the GCS knows of tasks: a core.

Of each job it keeps the newest tasks, and for each name how many there were; what runs or waits now it keeps by node.
It says to each node how often it wants to hear, so that all of them together are no burden, however many they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec import field

from aioray.record import Record
from aioray.wire.events import FAILED, OTHERS, RUNNING, TaskGroup, TaskRecord
from aioray.wire.gcs import GcsPace, TaskReport
from aioray_node.gcs import pacing
from aioray_node.gcs.pacing import WakeAt

if TYPE_CHECKING:
    from collections.abc import Iterator

RECORDS_PER_S = 10_000.0  # from all nodes together: each takes some 5 us
_LEAST_ROOM = 10
_MAX_NAMES = 1000  # of a job; of more, tasks are counted together
_MAX_JOBS = 100  # that have ended
_MAX_TASKS = 100_000  # of all jobs together, which share that

Key = tuple[str, str]  # name, kind


class Reported(msgspec.Struct, frozen=True):
    """A node tells of its tasks. Of the head itself, too."""

    node_id: str
    report: TaskReport


class NodeDied(msgspec.Struct, frozen=True):
    """What ran there has failed."""

    node_id: str
    unix_time: float  # s


class JobEnded(msgspec.Struct, frozen=True):
    """It is among the first to be forgotten."""

    job_id: bytes


class Tick(msgspec.Struct, frozen=True):
    """The time of a WakeAt has come."""


class Answer(msgspec.Struct, frozen=True):
    """Tell the node."""

    node_id: str
    pace: GcsPace


Event = Reported | NodeDied | JobEnded | Tick
Command = Answer | WakeAt


class Known(msgspec.Struct, frozen=True, gc=False):
    """A task that is kept."""

    name: str
    kind: str
    node_id: str
    record: TaskRecord


class Tally(Record):
    """How many tasks of a name have ended, and how many of those the GCS was told of one by one."""

    finished: int = 0
    failed: int = 0
    told: int = 0


class Job(Record):
    tallies: dict[Key, Tally] = field(default_factory=dict)
    tasks: dict[bytes, Known] = field(default_factory=dict)  # those that have ended, oldest first
    forgotten: int = 0  # tasks that were told one by one, and are not kept any more


class NodePart(Record):
    seq: int = 0
    live: tuple[TaskGroup, ...] = ()


class State(Record):
    base_interval_s: float
    max_room: int
    max_per_job: int
    cleaning_interval_s: float
    jobs: dict[bytes, Job] = field(default_factory=dict)
    ended: dict[bytes, None] = field(default_factory=dict)  # those of them that have ended, oldest first
    over: dict[bytes, None] = field(
        default_factory=dict
    )  # jobs that have ended: the last words of their tasks are late
    nodes: dict[str, NodePart] = field(default_factory=dict)
    dead: dict[str, None] = field(default_factory=dict)  # nodes whose late words mean nothing
    load: pacing.Load = field(default_factory=lambda: pacing.Load(RECORDS_PER_S))
    wake_at: float | None = None


def handle(state: State, event: Event, now: float) -> list[Command]:
    """Apply `event` at loop time `now` (s); return what the shell must do, in that order."""
    commands: list[Command] = []
    match event:
        case Reported(node_id, report):
            commands += _reported(state, node_id, report, now)
        case NodeDied(node_id, unix_time):
            _node_died(state, node_id, unix_time)
        case JobEnded(job_id):
            pacing.remember(state.over, job_id)
            if job_id in state.jobs:
                state.ended[job_id] = None
        case Tick():
            state.wake_at = None
            _clean(state)
    if state.wake_at is None and _is_untidy(state):
        state.wake_at = now + state.cleaning_interval_s
        commands.append(WakeAt(state.wake_at))
    return commands


def check(state: State) -> None:
    """Assert what holds between any two events."""
    for job in state.jobs.values():
        assert len(job.tasks) <= 2 * state.max_per_job, f"the memory has no bound: {state}"
        assert len(job.tallies) <= _MAX_NAMES + 3, state
        ended = sum(tally.finished + tally.failed for tally in job.tallies.values())
        told = sum(tally.told for tally in job.tallies.values())
        assert told <= ended, f"more were told of than there were: {job}"
        assert len(job.tasks) + job.forgotten <= told, job
    assert not _is_untidy(state) or state.wake_at is not None, f"nobody will clean: {state}"
    assert state.ended.keys() == state.jobs.keys() & state.over.keys(), state
    assert not (state.nodes.keys() & state.dead.keys()), state


def _reported(state: State, node_id: str, report: TaskReport, now: float) -> list[Command]:
    if node_id in state.dead:
        return []
    part = state.nodes.setdefault(node_id, NodePart())
    if report.seq > part.seq:
        part.seq = report.seq
        for group in report.ended:
            _count(state, node_id, group)
        if report.live is not None:
            part.live = report.live
        pacing.note(state.load, sum(len(group.records) for group in report.ended), now)
    return [Answer(node_id, _pace(state, report.seq))]


def _count(state: State, node_id: str, group: TaskGroup) -> None:
    job = state.jobs.get(group.job_id)
    if job is None:
        job = state.jobs[group.job_id] = Job()
        if group.job_id in state.over:
            state.ended[group.job_id] = None
    key = group.name, group.kind
    if key not in job.tallies and len(job.tallies) >= _MAX_NAMES:
        key = OTHERS, group.kind
    tally = job.tallies.setdefault(key, Tally())
    tally.finished += group.finished
    tally.failed += group.failed
    tally.told += len(group.records)
    tasks = job.tasks
    for record in group.records:
        before = tasks.pop(record.task_id, None)
        if before is not None:  # it was tried again
            job.forgotten += 1
            if before.record.at > record.at:
                tasks[record.task_id] = before
                continue
        tasks[record.task_id] = Known(group.name, group.kind, node_id, record)
    if len(tasks) > 2 * state.max_per_job:  # sooner than planned
        _shorten(state, job)


def _pace(state: State, seq: int) -> GcsPace:
    """A share of what the GCS has time for; where more has come than that, later and less."""
    nodes = len(state.nodes)
    behind = pacing.behind(state.load)
    interval_s = pacing.share_s(state.base_interval_s, nodes)
    room = int(min(state.max_room, RECORDS_PER_S * interval_s / nodes) / behind)
    return GcsPace(seq, interval_s * behind, max(_LEAST_ROOM, room))


def _node_died(state: State, node_id: str, unix_time: float) -> None:
    part = state.nodes.pop(node_id, None)
    pacing.remember(state.dead, node_id)
    if part is None:
        return
    for group in part.live:
        if group.running:
            records = tuple(
                msgspec.structs.replace(record, state=FAILED, at=unix_time, error_type="NodeDiedError")
                for record in group.records
                if record.state == RUNNING
            )
            _count(state, node_id, TaskGroup(*group.key, failed=group.running, records=records))


def _is_untidy(state: State) -> bool:
    return len(state.ended) > _MAX_JOBS or any(_is_too_much(state, job) for job in state.jobs.values())


def _limit(state: State) -> int:
    """How many tasks are kept of each job."""
    return min(state.max_per_job, max(1, _MAX_TASKS // max(1, len(state.jobs))))


def _is_too_much(state: State, job: Job) -> bool:
    return len(job.tasks) > _limit(state)


def _clean(state: State) -> None:
    """Keep the newest tasks of each job, and the newest of jobs that have ended."""
    while len(state.ended) > _MAX_JOBS:
        job_id = next(iter(state.ended))
        del state.ended[job_id], state.jobs[job_id]
    for job in state.jobs.values():
        _shorten(state, job)


def _shorten(state: State, job: Job) -> None:
    surplus = len(job.tasks) - _limit(state)
    if surplus > 0:
        job.forgotten += surplus
        for task_id in [task_id for task_id, _ in zip(job.tasks, range(surplus), strict=False)]:
            del job.tasks[task_id]


# questions


def known(state: State) -> Iterator[tuple[bytes, Known]]:
    """All tasks that are known one by one, with their jobs; of one task only what is newest."""
    live: dict[bytes, tuple[bytes, Known]] = {}
    for node_id, part in state.nodes.items():
        for group in part.live:
            for record in group.records:
                before = live.get(record.task_id)
                if before is None or before[1].record.at < record.at:
                    live[record.task_id] = group.job_id, Known(group.name, group.kind, node_id, record)
    for job_id, job in state.jobs.items():
        for task_id, each in job.tasks.items():
            now = live.get(task_id)
            if now is not None and now[1].record.at > each.record.at:
                continue
            live.pop(task_id, None)
            yield job_id, each
    yield from live.values()


class Line(Record):
    """Of a summary: all tasks of one name."""

    job_id: bytes
    name: str
    kind: str
    pending: int = 0
    running: int = 0
    finished: int = 0
    failed: int = 0
    left_out: int = 0  # of those that have ended: how many were only counted


def summary(state: State) -> list[Line]:
    """How many tasks there are and were, by job and name; counts are exact as of the last reports."""
    lines: dict[tuple[bytes, str, str], Line] = {}
    for job_id, job in state.jobs.items():
        for (name, kind), tally in job.tallies.items():
            left_out = tally.finished + tally.failed - tally.told
            line = Line(job_id, name, kind, finished=tally.finished, failed=tally.failed, left_out=left_out)
            lines[job_id, name, kind] = line
    for part in state.nodes.values():
        for group in part.live:
            line = lines.setdefault(group.key, Line(*group.key))
            line.pending += group.pending
            line.running += group.running
    return list(lines.values())


def counts(state: State) -> dict[str, int]:
    """How many tasks there are, or were, in each state."""
    lines = summary(state)
    return {
        "FAILED": sum(line.failed for line in lines),
        "FINISHED": sum(line.finished for line in lines),
        "PENDING": sum(line.pending for line in lines),
        "RUNNING": sum(line.running for line in lines),
    }


def left_out(state: State) -> int:
    """How many tasks were only counted, of all jobs that are known."""
    return sum(line.left_out for line in summary(state))
