"""Which task goes to which worker."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aioray.runtime.pipeline import Duration, KeyQueue, Lease, check


@dataclass(eq=False)
class Job:
    seq: int
    duration: Duration = field(default_factory=Duration)
    estimate_us: float = 0.0
    lease: Lease | None = None


def queue_with(*lease_ids: int) -> KeyQueue:
    queue = KeyQueue({"CPU": 10_000}, target_us=5000.0)
    for lease_id in lease_ids:
        queue.granted(Lease(lease_id, connection=None), now=0.0)
    return queue


def test_a_function_that_was_never_seen_goes_one_at_a_time() -> None:
    queue, unknown = queue_with(1, 2), Duration()
    assert queue.assign(Job(1, unknown)) is not None
    assert queue.assign(Job(2, unknown)) is not None
    assert queue.assign(Job(3, unknown)) is None
    check(queue)


def test_short_tasks_fill_the_pipe_and_long_ones_do_not() -> None:
    queue = queue_with(1)
    short, long = Duration(mean_us=1000.0), Duration(mean_us=60_000.0)
    assert sum(queue.assign(Job(seq, short)) is not None for seq in range(100)) == 5
    other = queue_with(1)
    assert sum(other.assign(Job(seq, long)) is not None for seq in range(100)) == 1


def test_tasks_are_dealt_in_turn_to_all_workers() -> None:
    queue, short = queue_with(1, 2), Duration(mean_us=100.0)
    took = [queue.assign(Job(seq, short)) for seq in range(6)]
    assert [lease.lease_id for lease in took if lease] in ([1, 2, 1, 2, 1, 2], [2, 1, 2, 1, 2, 1])


def test_a_worker_that_said_it_is_busy_gets_nothing_until_it_has_answered() -> None:
    queue, short = queue_with(1), Duration(mean_us=100.0)
    lease = queue.assign(Job(1, short))
    assert lease is not None
    lease.reserved = True
    assert queue.assign(Job(2, short)) is None
    queue.take_back(lease, 1, now=1.0)
    assert queue.assign(Job(3, short)) is lease


def test_leases_are_asked_for_as_work_needs_them() -> None:
    queue = queue_with()
    queue.waiting.extend(Job(seq, Duration()) for seq in range(3))
    assert queue.missing_leases() == 3
    assert queue.enough == 3
    queue.requested |= {1, 2, 3}
    assert queue.missing_leases() == 0
    quick = queue_with()
    quick.waiting.extend(Job(seq, Duration(mean_us=50.0)) for seq in range(150))
    assert quick.missing_leases() == 2
    assert quick.enough == 200


def test_a_lease_without_work_goes_back_after_a_moment_and_a_request_at_once() -> None:
    queue = queue_with(1)
    queue.requested.add(2)
    assert queue.surplus(now=0.001, idle_s=0.01) == ([], [2])
    assert queue.surplus(now=0.02, idle_s=0.01) == ([1], [2])
    queue.waiting.append(Job(1))
    assert queue.surplus(now=0.02, idle_s=0.01) == ([], [])


def test_each_task_that_is_to_be_spread_has_a_lease_of_its_own() -> None:
    """
    1. one is asked for each, however quick they are
    2. a second one waits for the next lease, and the first lease goes back though somebody waits
    """
    queue = KeyQueue({}, max_depth=1, is_spread=True)
    first, second = Job(1), Job(2)
    first.duration.observe(10)
    queue.waiting.extend((first, second))
    assert queue.missing_leases() == 2
    lease = Lease(1, None)
    queue.granted(lease, now=0.0)
    assert queue.assign(queue.waiting.popleft()) is lease
    assert queue.assign(second) is None
    assert not queue.is_done_with(lease)
    queue.take_back(lease, 1, now=0.0)
    assert queue.is_done_with(lease)


class Pipeline(RuleBasedStateMachine):
    """Leases come and go, tasks of two functions run, answers come in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = KeyQueue({}, target_us=1000.0, max_depth=8)
        self.functions = [Duration(), Duration()]
        self.seq = 0
        self.lease_id = 0
        self.flying: dict[int, Job] = {}
        self.done: set[int] = set()
        self.submitted: set[int] = set()

    def pump(self) -> None:
        while self.queue.waiting:
            if self.queue.assign(self.queue.waiting[0]) is None:
                break
            job = self.queue.waiting.popleft()
            self.flying[job.seq] = job

    @rule(which=st.integers(0, 1))
    def submit(self, which: int) -> None:
        self.seq += 1
        self.submitted.add(self.seq)
        self.queue.waiting.append(Job(self.seq, self.functions[which]))
        self.pump()

    @rule()
    def grant(self) -> None:
        self.lease_id += 1
        self.queue.granted(Lease(self.lease_id, None), now=0.0)
        self.pump()

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), exec_us=st.integers(0, 3000))
    def answer(self, data: st.DataObject, exec_us: int) -> None:
        job = self.flying.pop(data.draw(st.sampled_from(sorted(self.flying))))
        assert job.lease is not None
        assert self.queue.take_back(job.lease, job.seq, now=1.0) is job
        job.duration.observe(exec_us)
        assert job.seq not in self.done
        self.done.add(job.seq)
        self.pump()

    @precondition(lambda self: self.queue.leases)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        lease = self.queue.gone(data.draw(st.sampled_from(sorted(self.queue.leases))))
        assert lease is not None
        for job in reversed(lease.tasks.values()):
            del self.flying[job.seq]
            job.lease = None
            self.queue.waiting.appendleft(job)
        lease.tasks = {}
        self.pump()

    @invariant()
    def nothing_is_lost_and_nobody_waits_beside_an_idle_worker(self) -> None:
        check(self.queue)
        waiting = {job.seq for job in self.queue.waiting}
        assert waiting | self.flying.keys() | self.done == self.submitted
        assert not (waiting & self.flying.keys())
        if waiting:
            assert all(lease.tasks for lease in self.queue.leases.values())


TestPipeline = Pipeline.TestCase
TestPipeline.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
