"""What the GCS knows of tasks: exact counts, the newest one by one, and no more than it has time for."""

from __future__ import annotations

import collections
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from aioray.wire.control import TaskEvents
from aioray.wire.events import FAILED, FINISHED, NORMAL_TASK, RUNNING, WAITS_FOR_WORKER, TaskGroup, TaskRecord
from aioray.wire.gcs import GcsPace, TaskReport
from aioray_node.gcs.events import task_log
from aioray_node.gcs.events.task_table import (
    RECORDS_PER_S,
    Answer,
    Command,
    Event,
    JobEnded,
    NodeDied,
    Reported,
    State,
    Tick,
    check,
    handle,
    known,
    left_out,
    summary,
)
from aioray_node.gcs.pacing import REPORTS_PER_S, WakeAt

JOB = b"job"


def record(task_id: int, at: float = 1.0, state: str = FINISHED) -> TaskRecord:
    return TaskRecord(b"%d" % task_id, state, at)


def group(*records: TaskRecord, finished: int = 0, failed: int = 0, job: bytes = JOB, name: str = "f") -> TaskGroup:
    return TaskGroup(job, name, NORMAL_TASK, finished, failed, records=records)


class Run:
    """The table; each event is followed by `check`."""

    def __init__(self, max_per_job: int = 100) -> None:
        self.state = State(1.0, 1000, max_per_job, cleaning_interval_s=10.0)
        self.now = 50.0
        self.seqs: collections.Counter[str] = collections.Counter()

    def feed(self, event: Event) -> list[Command]:
        commands = handle(self.state, event, self.now)
        check(self.state)
        return commands

    def report(self, *ended: TaskGroup, live: tuple[TaskGroup, ...] | None = None, node_id: str = "a") -> list[Command]:
        self.seqs[node_id] += 1
        return self.feed(Reported(node_id, TaskReport(self.seqs[node_id], ended, live)))

    def states(self) -> dict[bytes, str]:
        return {each.record.task_id: each.record.state for _, each in known(self.state)}


def test_counts_are_exact_and_what_was_left_out_is_shown() -> None:
    run = Run()
    run.report(group(record(1), record(2), finished=5))
    run.report(group(record(3, state=FAILED), finished=1, failed=2), node_id="b")
    (line,) = summary(run.state)
    assert (line.finished, line.failed, line.left_out) == (6, 2, 5)
    assert left_out(run.state) == 5


def test_a_report_that_comes_twice_is_answered_twice_and_counted_once() -> None:
    run = Run()
    report = Reported("a", TaskReport(1, (group(record(1), finished=1),)))
    assert run.feed(report) == run.feed(report) == [Answer("a", GcsPace(1, 1.0, 1000))]
    assert summary(run.state)[0].finished == 1


def test_of_a_task_that_was_tried_again_the_newest_word_counts() -> None:
    """It waits, runs and fails on one node, and is through on another, whose word comes first."""
    run = Run()
    run.report(live=(group(record(1, 1.0, WAITS_FOR_WORKER)),))
    assert run.states() == {b"1": WAITS_FOR_WORKER}
    run.report(live=(group(record(1, 2.0, RUNNING)),), node_id="b")
    assert run.states() == {b"1": RUNNING}
    run.report(group(record(1, 5.0), finished=1), live=(), node_id="c")
    assert run.states() == {b"1": FINISHED}
    run.report(group(record(1, 3.0, FAILED), failed=1), live=(), node_id="b")
    assert run.states() == {b"1": FINISHED}
    (line,) = summary(run.state)
    assert (line.finished, line.failed) == (1, 1), "both tries are counted"


def test_what_ran_on_a_node_that_died_has_failed() -> None:
    run = Run()
    running = TaskGroup(JOB, "f", NORMAL_TASK, pending=1, running=1, records=(record(1, state=RUNNING),))
    run.report(live=(running,))
    run.feed(NodeDied("a", 9.0))
    assert [(each.record.state, each.record.error_type) for _, each in known(run.state)] == [(FAILED, "NodeDiedError")]
    assert run.report(group(finished=5)) == [], "late words of a dead node"
    (line,) = summary(run.state)
    assert (line.pending, line.running, line.finished, line.failed) == (0, 0, 0, 1)


def test_the_oldest_tasks_are_forgotten_now_and_then() -> None:
    """
    1. there are more than are kept: cleaning is due, once
    2. it comes: the newest are kept, the counts stay
    3. twice as many come at once: that does not wait for its time
    """
    run = Run(max_per_job=10)
    assert WakeAt(60.0) in run.report(group(*(record(n, at=n) for n in range(15)), finished=15))
    assert len(run.states()) == 15
    run.now = 60.0
    run.feed(Tick())
    assert set(run.states()) == {b"%d" % n for n in range(5, 15)}
    assert (summary(run.state)[0].finished, left_out(run.state)) == (15, 0)
    run.report(group(*(record(n) for n in range(100, 130)), finished=30))
    assert len(run.states()) == 10


def test_jobs_that_have_ended_are_forgotten_when_there_are_too_many() -> None:
    run = Run()
    for number in range(150):
        run.report(group(record(1), finished=1, job=b"job %d" % number))
        run.feed(JobEnded(b"job %d" % number))
    run.feed(Tick())
    assert list(run.state.jobs) == [b"job %d" % number for number in range(50, 150)]


def test_all_nodes_together_are_no_burden_however_many_they_are() -> None:
    run = Run()
    for number in range(1000):
        (answer, *_) = run.report(group(record(number), finished=1), node_id=f"n{number}")
    assert isinstance(answer, Answer)
    pace = answer.pace
    assert 1000 / pace.interval_s <= REPORTS_PER_S
    assert 1000 / pace.interval_s * pace.room <= RECORDS_PER_S


def test_a_gcs_that_gets_more_than_it_has_time_for_says_so() -> None:
    run = Run()
    for _ in range(30):
        (answer, *_) = run.report(group(*(record(n) for n in range(1000)), finished=1000))
    assert isinstance(answer, Answer)
    assert (answer.pace.interval_s, answer.pace.room) == (3.0, 333)
    run.now += 1.0
    (answer, *_) = run.report(group(finished=1))
    assert isinstance(answer, Answer)
    assert (answer.pace.interval_s, answer.pace.room) == (1.0, 1000), "it comes back by itself"


def test_a_job_whose_last_words_come_after_its_end_is_forgotten_as_well() -> None:
    run = Run()
    for number in range(150):
        run.feed(JobEnded(b"job %d" % number))
        run.report(group(record(1), finished=1, job=b"job %d" % number))
    assert run.state.wake_at is not None
    run.feed(Tick())
    assert len(run.state.jobs) == 100


def test_jobs_share_the_room_for_tasks() -> None:
    run = Run(max_per_job=10_000)
    for number in range(200):
        run.report(group(*(record(n) for n in range(1000)), finished=1000, job=b"job %d" % number))
    run.feed(Tick())
    assert {len(job.tasks) for job in run.state.jobs.values()} == {500}


# a GCS and its nodes


@dataclass
class World:
    """Nodes with a log each, and a line to the table that loses, repeats and delays."""

    run: Run = field(default_factory=lambda: Run(max_per_job=20))
    logs: dict[str, task_log.State] = field(default_factory=dict)
    inbox: list[tuple[str, TaskReport]] = field(default_factory=list)
    answers: list[tuple[str, GcsPace]] = field(default_factory=list)
    finished: collections.Counter[str] = field(default_factory=collections.Counter)
    failed: collections.Counter[str] = field(default_factory=collections.Counter)
    tasks: int = 0

    def feed(self, node_id: str, event: task_log.Event) -> None:
        log = self.logs.get(node_id)
        if log is None:
            log = self.logs[node_id] = task_log.State(base_interval_s=1.0, max_room=8)
            self.feed(node_id, task_log.Connected())
        for command in task_log.handle(log, event, self.run.now):
            if isinstance(command, task_log.Send) and log.connected:
                self.inbox.append((node_id, command.report))
        task_log.check(log)

    def tell(self, node_id: str, name: str, finished: int, failed: int, told: int) -> None:
        states = [FINISHED] * finished + [FAILED] * failed
        records = []
        for state in states[:told]:
            self.tasks += 1
            records.append(record(self.tasks, self.run.now, state))
        ended = group(*records, finished=finished, failed=failed, name=name)
        self.finished[name] += finished
        self.failed[name] += failed
        self.feed(node_id, task_log.Told(b"worker", TaskEvents([ended] if states else [], [])))

    def cut(self, node_id: str) -> None:
        """What is on its way is lost, one way or the other."""
        self.inbox = [each for each in self.inbox if each[0] != node_id]
        self.answers = [each for each in self.answers if each[0] != node_id]
        self.feed(node_id, task_log.Disconnected())

    def mend(self, node_id: str) -> None:
        self.feed(node_id, task_log.Connected())

    def deliver(self, repeat: bool) -> None:
        if self.inbox:
            node_id, report = self.inbox.pop(0)
            for _ in range(1 + repeat):
                for command in self.run.feed(Reported(node_id, report)):
                    if isinstance(command, Answer):
                        self.answers.append((node_id, command.pace))

    def answer(self) -> None:
        if self.answers:
            node_id, pace = self.answers.pop(0)
            self.feed(node_id, task_log.Paced(pace))

    def advance(self, seconds: float) -> None:
        self.run.now += seconds
        for node_id in self.logs:
            self.feed(node_id, task_log.Tick())
        self.run.feed(Tick())

    def settle(self) -> None:
        for node_id in self.logs:
            self.mend(node_id)
        for _ in range(3):
            self.advance(100.0)
            while self.inbox or self.answers:
                self.deliver(repeat=False)
                self.answer()


names = st.sampled_from(["a", "b", "c"])
steps = st.one_of(
    st.tuples(
        st.just("tell"), names, st.sampled_from(["f", "g"]), st.integers(0, 9), st.integers(0, 3), st.integers(0, 12)
    ),
    st.tuples(st.just("cut"), names),
    st.tuples(st.just("mend"), names),
    st.tuples(st.just("deliver"), st.booleans()),
    st.tuples(st.just("answer")),
    st.tuples(st.just("advance"), st.sampled_from([0.1, 0.7, 2.0, 20.0])),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(steps, max_size=60))
def test_every_task_is_counted_once_whatever_is_lost_or_sent_twice(story: list[tuple[str, object]]) -> None:
    world = World()
    for what, *args in story:
        getattr(world, what)(*args)
    world.settle()
    lines = {line.name: line for line in summary(world.run.state)}
    for name in ("f", "g"):
        line = lines.get(name)
        counted = (0, 0) if line is None else (line.finished, line.failed)
        assert counted == (world.finished[name], world.failed[name])
