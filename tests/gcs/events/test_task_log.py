"""What a node tells the GCS of tasks, and how it gives way when the GCS is slow."""

from __future__ import annotations

from aioray.wire.control import TaskEvents, TaskPace
from aioray.wire.events import FAILED, FINISHED, NORMAL_TASK, RUNNING, TaskGroup, TaskRecord
from aioray.wire.gcs import GcsPace, TaskReport
from aioray_node.gcs.events.task_log import (
    Command,
    Connected,
    Disconnected,
    Event,
    Pace,
    Paced,
    ProcessGone,
    Send,
    State,
    Tick,
    Told,
    check,
    handle,
)
from aioray_node.gcs.pacing import MAX_STRETCH, WakeAt

W1, W2 = b"worker 1", b"worker 2"


def ended(count: int, told: int | None = None, name: str = "f", failed: int = 0) -> TaskGroup:
    """So many have ended, of which some are told one by one."""
    records = tuple(TaskRecord(b"%d" % n, FINISHED, 1.0 + n) for n in range(count if told is None else told))
    return TaskGroup(b"job", name, NORMAL_TASK, finished=count, failed=failed, records=records)


def runs(*task_ids: bytes) -> TaskGroup:
    records = tuple(TaskRecord(task_id, RUNNING, 1.0, 1.0, W1) for task_id in task_ids)
    return TaskGroup(b"job", "f", NORMAL_TASK, running=len(task_ids), records=records)


class Run:
    """A node's log; each event is followed by `check`."""

    def __init__(self, room: int = 10, *, connected: bool = True) -> None:
        self.state = State(base_interval_s=1.0, max_room=room)
        self.now = 100.0
        if connected:
            self.feed(Connected())

    def feed(self, event: Event) -> list[Command]:
        commands = handle(self.state, event, self.now)
        check(self.state)
        return [command for command in commands if not isinstance(command, Pace)]

    def tell(self, *groups: TaskGroup, now: tuple[TaskGroup, ...] = (), process: bytes = W1) -> list[Command]:
        return self.feed(Told(process, TaskEvents(list(groups), list(now))))

    def report(self) -> TaskReport:
        """Wait until one is sent; tell something first if that is needed."""
        commands: list[Command] = []
        if self.state.wake_at is None:
            commands = self.tell(ended(1))
        if self.state.wake_at is not None:
            self.now = self.state.wake_at
            commands = self.feed(Tick())
        (sent,) = commands
        assert isinstance(sent, Send)
        return sent.report

    def answer(self, seq: int, after_s: float = 0.01, interval_s: float = 1.0, room: int = 1000) -> list[Command]:
        self.now += after_s
        return self.feed(Paced(GcsPace(seq, interval_s, room)))


def test_what_processes_tell_goes_to_the_gcs_in_one_report_an_interval() -> None:
    """
    1. the first word goes at once
    2. what comes before that is answered, and before the interval is over, is gathered
    """
    run = Run()
    assert run.tell(ended(2)) == [Send(TaskReport(1, (ended(2),)))]
    assert run.tell(ended(3, told=0)) == []
    assert run.tell(ended(4, told=0), process=W2) == []
    assert run.answer(1) == [WakeAt(101.0)]
    assert run.report() == TaskReport(2, (ended(7, told=0),))


def test_all_are_counted_and_the_newest_told_one_by_one() -> None:
    run = Run(room=10)
    first = run.report()
    run.tell(ended(25))
    run.answer(first.seq)
    (group,) = run.report().ended
    assert (group.finished, len(group.records)) == (25, 10)
    assert group.records[-1].task_id == b"24"


def test_names_beyond_a_thousand_are_counted_together() -> None:
    run = Run(connected=False)
    run.tell(*(ended(1, name=f"f{n}") for n in range(1500)))
    (sent,) = run.feed(Connected())
    assert isinstance(sent, Send)
    counts = {group.name: group.finished for group in sent.report.ended}
    assert len(counts) == 1001
    assert counts[""] == 500


def test_answers_that_come_late_double_the_interval_and_halve_the_room_and_both_come_back() -> None:
    run = Run(room=1000)
    intervals = []
    for after_s in (0.6, 1.5, 3.0, 0.1, 0.1, 0.1, 0.1):
        run.answer(run.report().seq, after_s)
        intervals.append((run.state.current_interval_s, run.state.current_room))
    assert intervals == [(2.0, 500), (4.0, 250), (8.0, 125), (4.0, 250), (2.0, 500), (1.0, 1000), (1.0, 1000)]
    for _ in range(20):
        run.answer(run.report().seq, 60.0)
    assert run.state.current_interval_s == MAX_STRETCH


def test_the_gcs_says_how_often_and_how_much_it_wants_to_hear_and_processes_are_told() -> None:
    run = Run(room=1000)
    run.answer(run.report().seq, interval_s=5.0, room=100)
    commands = handle(run.state, Told(W2, TaskEvents([], [])), run.now)
    assert Pace(W2, TaskPace(5.0, 100)) in commands, "both share the room from the next time on"
    assert Pace(W1, TaskPace(5.0, 50)) in handle(run.state, Told(W1, TaskEvents([], [])), run.now)
    assert handle(run.state, Told(W1, TaskEvents([], [])), run.now) == [], "what is known already is not told again"


def test_a_report_that_was_not_answered_is_sent_again_over_the_next_connection() -> None:
    """As it was, under its number: so what is counted is counted once."""
    run = Run()
    report = run.report()
    assert run.feed(Disconnected()) == []
    assert run.tell(ended(5)) == []
    assert run.feed(Connected()) == [Send(report)]
    assert run.answer(report.seq - 1) == [], "an answer to something else"
    assert run.answer(report.seq) != []


def test_what_runs_is_told_when_it_changes() -> None:
    run = Run()
    assert run.tell(now=(runs(b"1"),)) == [Send(TaskReport(1, (), (runs(b"1"),)))]
    run.answer(1)
    run.tell(ended(1), now=(runs(b"1"),))
    assert run.report().live == (runs(b"1"),)
    run.answer(2)
    run.tell(ended(1))
    assert run.report().live == ()
    run.answer(3)
    run.tell(ended(1))
    assert run.report().live is None, "as before"


def test_what_a_process_ran_that_is_gone_has_failed() -> None:
    run = Run()
    run.tell(now=(runs(b"1", b"2"),))
    run.answer(1)
    run.feed(ProcessGone(W1, 7.0))
    report = run.report()
    (group,) = report.ended
    assert (group.failed, report.live) == (2, ())
    assert {(each.state, each.at, each.error_type) for each in group.records} == {(FAILED, 7.0, "WorkerCrashedError")}
    run.answer(2)
    assert run.feed(ProcessGone(W2, 8.0)) == [], "it ran nothing that we know of"
