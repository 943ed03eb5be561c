"""A caller: the real core of its pipeline, in a shell that does what `aioray.runtime.tasks` does about leases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from aioray.runtime.pipeline import Duration, KeyQueue, Lease
from aioray.wire.control import LeaseGrant, LeaseRequest, LeaseReturn
from aioray_node.scheduling.resources import UNIT
from bench.simulation.nodes import LOCAL_DELAY_S, REMOTE_DELAY_S, Node, World, to_caller

if TYPE_CHECKING:
    from collections.abc import Callable

TASK_S = 0.01


class Task:
    """One call; `times`: how often it has run."""

    __slots__ = ("duration", "estimate_us", "lease", "seq", "submitted_at", "times")

    def __init__(self, seq: int, duration: Duration, submitted_at: float) -> None:
        self.seq = seq
        self.duration = duration
        self.estimate_us = 0.0
        self.lease: Lease | None = None
        self.submitted_at = submitted_at
        self.times = 0


class Worker:
    """Does one task after the other, each in TASK_S."""

    __slots__ = ("delay_s", "free_at", "node")

    def __init__(self, node: Node, delay_s: float) -> None:
        self.node = node
        self.delay_s = delay_s
        self.free_at = 0.0


class Caller:
    """At home on one node; whose leases are where is in `where`."""

    def __init__(self, world: World, home: Node) -> None:
        self.home = home
        self.latencies_s: list[float] = []
        self.done = 0
        self.requests = self.hops = 0
        self.queue = KeyQueue(
            {"CPU": UNIT},
            target_us=world.config.pipeline_target_ms * 1000,
            max_depth=world.config.pipeline_max_depth,
        )
        self._world = world
        self._idle_s = world.config.lease_idle_ms / 1000
        self._duration = Duration()
        self._where: dict[int, Node] = {}
        self._next_seq = self._next_lease_id = 0
        self._surplus_due = False

    @property
    def submitted(self) -> int:
        return self._next_seq

    def submit(self, count: int) -> None:
        """So many calls at once."""
        self._world.meter.run("caller", self._submit, count)

    def _submit(self, count: int) -> None:
        now = self._world.timeline.now
        queue = self.queue
        for _ in range(count):
            self._next_seq += 1
            task = Task(self._next_seq, self._duration, now)
            lease = None if queue.waiting else queue.assign(task)
            if lease is not None:
                self._send(lease, task)
                continue
            queue.waiting.append(task)
            if len(queue.waiting) > queue.enough:
                self._ask()

    def _send(self, lease: Lease, task: Task) -> None:
        worker: Worker = lease.connection
        timeline = self._world.timeline
        worker.free_at = max(worker.free_at, timeline.now + worker.delay_s) + TASK_S
        timeline.after(worker.free_at + worker.delay_s - timeline.now, self._finished, lease, task)

    def _finished(self, lease: Lease, task: Task) -> None:
        task.times += 1
        assert task.times == 1, "a task ran twice"
        self.done += 1
        self.latencies_s.append(self._world.timeline.now - task.submitted_at)
        self._world.meter.run("caller", self._take_back, lease, task)

    def _take_back(self, lease: Lease, task: Task) -> None:
        found = self.queue.take_back(lease, task.seq, self._world.timeline.now)
        assert found is task, "a task ran that was not there"
        task.duration.observe(int(TASK_S * 1e6))
        self._pump()

    def _pump(self) -> None:
        queue = self.queue
        waiting = queue.waiting
        while waiting:
            lease = queue.assign(waiting[0])
            if lease is None:
                break
            self._send(lease, waiting.popleft())
        if waiting:
            self._ask()
        elif queue.requested or not self._surplus_due:
            self._plan_surplus()

    def _ask(self) -> None:
        for _ in range(self.queue.missing_leases()):
            self._next_lease_id += 1
            self.queue.requested.add(self._next_lease_id)
            self._where[self._next_lease_id] = self.home
            self.requests += 1
            self._say(self._next_lease_id, LeaseRequest(self._next_lease_id, self.queue.demand, "work"))

    def _say(self, lease_id: int, message: LeaseRequest | LeaseReturn) -> None:
        node = self._where[lease_id]
        data = msgspec.msgpack.encode(message)
        self._world.count("leases", len(data))
        delay_s = LOCAL_DELAY_S if node is self.home else REMOTE_DELAY_S
        self._world.timeline.in_order(self, node, delay_s, node.heard, self, data)

    def _plan_surplus(self) -> None:
        for lease_id in list(self.queue.requested):
            self._give_up(lease_id)
        if self.queue.leases and not self._surplus_due:
            self._look_later()

    def _look_later(self) -> None:
        self._surplus_due = True
        self._world.timeline.after(self._idle_s, self._metered, self._return_idle)

    def _return_idle(self) -> None:
        self._surplus_due = False
        idle, unwanted = self.queue.surplus(self._world.timeline.now, self._idle_s)
        for lease_id in idle + unwanted:
            self._give_up(lease_id)
        if self.queue.leases:
            self._look_later()

    def _give_up(self, lease_id: int) -> None:
        self.queue.gone(lease_id)
        self._say(lease_id, LeaseReturn(lease_id))
        del self._where[lease_id]

    # what nodes say

    def hear(self, node: Node, data: bytes) -> None:
        self._metered(self._hear, node, data)

    def _hear(self, node: Node, data: bytes) -> None:
        message = to_caller.decode(data)
        lease_id = message.lease_id
        if isinstance(message, LeaseGrant):
            if lease_id not in self.queue.requested:
                return  # it was given back on the way, which the node has heard by now, or will
            delay_s = LOCAL_DELAY_S if node is self.home else REMOTE_DELAY_S
            self.queue.granted(Lease(lease_id, Worker(node, delay_s)), self._world.timeline.now)
            self._pump()
        elif lease_id in self.queue.requested:
            if not self.queue.waiting:
                self.queue.gone(lease_id)
                del self._where[lease_id]
                return
            self.hops += 1
            self._where[lease_id] = self._world.node_at[message.address]
            self._say(lease_id, LeaseRequest(lease_id, self.queue.demand, "work", hops=message.hops))

    def _metered(self, what: Callable[..., Any], *args: Any) -> None:
        self._world.meter.run("caller", what, *args)
