"""Which task goes to which leased worker, how many ahead, and when to ask for leases or give them back. Pure.

How many tasks are in flight to one worker follows from how long they take: as many as fill `target_us`, at least one.
So millisecond tasks hide the round trip, and long ones never queue behind each other while another worker is free.
"""

from __future__ import annotations

import collections
from typing import Any, Protocol

from msgspec import field

from aioray.record import Record

_SHORTEST_US = 5  # estimates below this only make queues longer
_MAX_REQUESTS = 32  # lease requests of one key that wait at the node
_SMOOTHING = 0.2
_ENDLESS = 1 << 62


class Duration(Record, eq=False):
    """How long one function takes: a moving average of microseconds; None until it has run once."""

    mean_us: float | None = None

    def observe(self, exec_us: int) -> None:
        seen = exec_us if exec_us > _SHORTEST_US else _SHORTEST_US  # max() costs more
        self.mean_us = seen if self.mean_us is None else self.mean_us + _SMOOTHING * (seen - self.mean_us)


class Plannable(Protocol):
    """What the pipeline must know of a task."""

    duration: Duration
    estimate_us: float
    lease: Lease | None


class Lease(Record, eq=False):
    """A worker that is ours for a while."""

    lease_id: int
    connection: Any
    worker_id: str = ""
    tasks: dict[int, Any] = field(default_factory=dict)  # in flight, oldest first: seq -> task
    load_us: float = 0.0
    idle_since: float = 0.0  # s
    is_open: bool = False  # is in the queue's `open`
    is_wanted: bool = False  # asked back: gets nothing more
    reserved: bool = False  # said to be busy for long: gets nothing until a result comes


class KeyQueue(Record, eq=False):
    """The tasks of one scheduling key, and the leases that may run them."""

    demand: dict[str, int]
    target_us: float = 5000.0
    max_depth: int = 1000
    environment: str = ""  # what its workers are started with
    strategy: Any = None  # on which nodes, as in a LeaseRequest
    is_spread: bool = False  # each task has a lease of its own: the next one is to go to the next node
    waiting: collections.deque[Any] = field(default_factory=collections.deque)
    leases: dict[int, Lease] = field(default_factory=dict)
    open: collections.deque[Lease] = field(default_factory=collections.deque)
    enough: int = 0  # so many may wait before more leases have to be asked for; 0 whenever a request is over
    requested: set[int] = field(default_factory=set)  # lease ids asked for, not granted yet

    def assign(self, task: Any) -> Lease | None:
        """The lease that takes `task` now, with the books updated; None when it must wait."""
        estimate = task.duration.mean_us
        open_ = self.open
        while open_:
            lease = open_[0]
            tasks = lease.tasks
            if tasks and (
                estimate is None
                or lease.reserved
                or lease.load_us + estimate > self.target_us
                or len(tasks) >= self.max_depth
            ):
                lease.is_open = False
                open_.popleft()
                continue
            task.estimate_us = self.target_us if estimate is None else estimate
            lease.load_us += task.estimate_us
            tasks[task.seq] = task
            task.lease = lease
            if len(open_) > 1:
                open_.rotate(-1)
            return lease
        return None

    def take_back(self, lease: Lease, seq: int, now: float) -> Any:
        """Remove a task from its lease: it has finished, was given back, or was cancelled; None if unknown."""
        task = lease.tasks.pop(seq, None)
        if task is None:
            return None
        task.lease = None
        if lease.tasks:
            lease.load_us -= task.estimate_us
        else:
            lease.load_us = 0.0  # no drift
            lease.idle_since = now
        lease.reserved = False
        if not lease.is_open and not lease.is_wanted and lease.lease_id in self.leases:
            lease.is_open = True
            self.open.append(lease)
        return task

    def granted(self, lease: Lease, now: float) -> None:
        """A worker came."""
        self.requested.discard(lease.lease_id)
        self.enough = 0
        self.leases[lease.lease_id] = lease
        lease.idle_since = now
        lease.is_open = True
        self.open.appendleft(lease)

    def recall(self, lease_id: int) -> Lease | None:
        """A lease is asked back: it gets no more tasks, and is to go when it has none; None if unknown."""
        lease = self.leases.get(lease_id)
        if lease is not None and not lease.is_wanted:
            lease.is_wanted = True
            if lease.is_open:
                lease.is_open = False
                self.open.remove(lease)
        return lease

    def gone(self, lease_id: int) -> Lease | None:
        """A lease ended, or will not come."""
        self.requested.discard(lease_id)
        self.enough = 0
        lease = self.leases.pop(lease_id, None)
        if lease is not None and lease.is_open:
            lease.is_open = False
            self.open.remove(lease)
        return lease

    def missing_leases(self) -> int:
        """How many more leases to ask for: enough that each brings work for `target_us`."""
        if not self.waiting:
            return 0
        first = self.waiting[0].duration.mean_us
        each = 1 if first is None or self.is_spread else max(1, min(self.max_depth, int(self.target_us / first)))
        wanted = min(_MAX_REQUESTS, -(-len(self.waiting) // each))
        asked = max(wanted, len(self.requested))
        self.enough = asked * each if asked < _MAX_REQUESTS else _ENDLESS
        return asked - len(self.requested)

    def is_done_with(self, lease: Lease) -> bool:
        """Whether a lease that has no task goes back at once."""
        return self.is_spread and not lease.tasks

    def surplus(self, now: float, idle_s: float) -> tuple[list[int], list[int]]:
        """Leases to give back: granted ones that were idle for `idle_s`, and requests that nothing waits for."""
        if self.waiting:
            return [], []
        idle = [
            lease.lease_id for lease in self.leases.values() if not lease.tasks and now - lease.idle_since >= idle_s
        ]
        return idle, list(self.requested)

    @property
    def empty(self) -> bool:
        return not (self.waiting or self.leases or self.requested)


def check(queue: KeyQueue) -> None:
    """Assert what holds between any two calls."""
    for lease in queue.leases.values():
        assert lease.is_open == (lease in queue.open), lease
        assert (lease.load_us == 0.0) == (not lease.tasks), lease
        assert len(lease.tasks) <= queue.max_depth, lease
        assert lease.lease_id not in queue.requested, lease
        assert not (lease.is_wanted and lease.is_open), f"what is asked back would get tasks: {lease}"
    assert all(lease.lease_id in queue.leases for lease in queue.open), queue
    assert not queue.enough or queue.requested, f"tasks would wait, and nobody ask: {queue}"
