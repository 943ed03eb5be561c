"""The workers that tasks run on, as their caller leases them: asked for, granted, lost, given back."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any, Protocol

from aioray.exceptions import NodeDiedError
from aioray.runtime.connection import NO_MORE_FDS
from aioray.runtime.patterns import Patterns
from aioray.runtime.pipeline import KeyQueue, Lease
from aioray.runtime.visits import Visit, Visits
from aioray.wire.control import LeaseGrant, LeaseLost, LeaseRecall, LeaseRequest, LeaseReturn, Spill
from aioray.wire.framing import call_decoder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aioray.runtime.connection import Connection
    from aioray.runtime.runtime import Runtime
    from aioray.runtime.task_records import Task
    from aioray.wire.strategies import Strategy

_LAST_WORDS_S = 1.0  # how long the node may take to say why a worker died
_ASK_AGAIN_S = 0.1  # after a node could not be reached: by then our own may know that it died
_OWN_FAULT_S = 0.1  # after which this process may have a file descriptor again


class Worker:
    """What we know of a worker we have a connection to. Kept between leases: the next one is cheaper."""

    __slots__ = ("connection", "exported", "lease", "patterns")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.exported: set[str] = set()
        self.patterns = Patterns(connection)
        self.lease: Lease | None = None


class Tasks(Protocol):
    """Who has work for leased workers."""

    def pump(self, queue: KeyQueue) -> None:
        """Something has changed: a worker came or went, or is not to be waited for any more."""

    def heard_from_worker(self, connection: Connection, messages: list[Any]) -> None: ...

    def worker_died(
        self, queue: KeyQueue, lease: Lease, reason: str, kind: type[NodeDiedError] | None = None
    ) -> None: ...

    def group_removed(self, queue: KeyQueue, lease: Lease | None, reason: str) -> None: ...

    def cannot_be_set_up(self, queue: KeyQueue, reason: str) -> None: ...

    def turned_away(self, queue: KeyQueue, reason: str) -> None: ...

    def request_failed(self, queue: KeyQueue, reason: str) -> None: ...


class Leases:
    """Those of one caller, and the queues of tasks for which they are. Called with the reactor's lock held."""

    def __init__(self, runtime: Runtime, tasks: Tasks) -> None:
        self._runtime = runtime
        self._tasks = tasks
        self.queues: dict[tuple[frozenset[tuple[str, int]], str, Strategy | None], KeyQueue] = {}
        self.by_id: dict[int, KeyQueue] = {}  # granted, or asked for
        self._workers: dict[str, Worker] = {}  # by address
        self._ids = itertools.count(1)
        self._dying: dict[int, Lease] = {}  # the worker hung up; the node will say what it died of
        self._idle_s = runtime.config.lease_idle_ms / 1000
        self.surplus_due = False  # whether idle leases are about to be looked for
        self._visits = Visits(
            runtime.reactor,
            runtime.dialer,
            runtime.link,
            lambda node_id: node_id == runtime.node_id,
            runtime.visitors_hello,
            self.heard,
            self._node_lost,
        )

    def queue_for(self, demand: dict[str, int], environment: str = "", strategy: Strategy | None = None) -> KeyQueue:
        """The queue of a scheduling key."""
        key = frozenset(demand.items()), environment, strategy
        queue = self.queues.get(key)
        if queue is None:
            config = self._runtime.config
            spreads = strategy is not None and strategy.spread
            queue = KeyQueue(
                demand,
                target_us=config.pipeline_target_ms * 1000,
                max_depth=1 if spreads else config.pipeline_max_depth,  # each is placed for itself
                environment=environment,
                strategy=strategy,
                is_spread=spreads,
            )
            self.queues[key] = queue
        return queue

    def node_of(self, lease_id: int) -> str:
        """At which other node it was asked for; "" for our own."""
        return self._visits.node_of(lease_id)

    def of(self, queue: KeyQueue) -> Iterator[Lease]:
        """Those that may have tasks, the last ones of dying workers included."""
        yield from queue.leases.values()
        yield from (lease for lease_id, lease in self._dying.items() if self.by_id.get(lease_id) is queue)

    # asking, and giving back

    def ask(self, queue: KeyQueue) -> None:
        """For as many as its waiting tasks are worth."""
        for _ in range(queue.missing_leases()):
            lease_id = next(self._ids)
            queue.requested.add(lease_id)
            self.by_id[lease_id] = queue
            self._runtime.link.send(self._request(queue, lease_id))

    def _request(self, queue: KeyQueue, lease_id: int, hops: int = 0) -> LeaseRequest:
        first: Task = queue.waiting[0]
        name = first.function.name
        request = LeaseRequest(lease_id, queue.demand, name, queue.environment, queue.strategy, hops)
        for _, value in first.wired:
            if value.nbytes:
                nbytes = request.argument_nbytes
                nbytes[value.node_id] = nbytes.get(value.node_id, 0) + value.nbytes
        return request

    def want_no_more(self, queue: KeyQueue) -> None:
        """Nothing waits: requests go back at once, idle leases after a moment."""
        self.withdraw(queue)
        if queue.leases and not self.surplus_due:
            self.surplus_due = True
            self._runtime.reactor.call_later(self._idle_s, self._return_idle)

    def withdraw(self, queue: KeyQueue) -> None:
        """Take back what was asked for and is not granted yet."""
        for lease_id in list(queue.requested):
            self.give_back(queue, lease_id)

    def _return_idle(self) -> None:
        self.surplus_due = False
        now = self._runtime.reactor.time()
        busy = False
        for queue in self.queues.values():
            idle, unwanted = queue.surplus(now, self._idle_s)
            for lease_id in idle + unwanted:
                self.give_back(queue, lease_id)
            busy = busy or bool(queue.leases)
        if busy:
            self.surplus_due = True
            self._runtime.reactor.call_later(self._idle_s, self._return_idle)

    def give_back(self, queue: KeyQueue, lease_id: int, *, retire: bool = False) -> None:
        """One that is granted, or asked for. retire: its worker is not to be used again."""
        lease = queue.gone(lease_id)
        self.by_id.pop(lease_id, None)
        if lease is not None:
            lease.connection.lease = None
        self._return(LeaseReturn(lease_id, retire=retire))

    def kill(self, queue: KeyQueue, lease: Lease) -> None:
        """Have the node end its worker; what was sent there is the caller's to see to."""
        self.by_id.pop(lease.lease_id, None)
        self._dying.pop(lease.lease_id, None)
        queue.gone(lease.lease_id)
        self._return(LeaseReturn(lease.lease_id, kill=True))

    def _return(self, message: LeaseReturn) -> None:
        self._visits.send(message.lease_id, message)
        self._visits.over(message.lease_id)

    def close(self) -> None:
        """Idle workers go back, as those that we keep are killed when we go."""
        for queue in self.queues.values():
            for lease in queue.leases.values():
                if not lease.tasks:
                    self._return(LeaseReturn(lease.lease_id))
            queue.leases.clear()
        self._dying.clear()
        self._visits.close()
        for worker in self._workers.values():
            worker.connection.close()
        self._workers.clear()

    # what nodes say

    def heard(self, message: Any) -> None:
        """Our own node, or another one, about leases."""
        match message:
            case LeaseGrant():
                self._granted(message)
            case LeaseLost():
                self._lost(message)
            case Spill():
                self._moved(message)
            case LeaseRecall():
                self._recalled(message.lease_id)
            case _:
                self._runtime.heard_from_afar(message)

    def _recalled(self, lease_id: int) -> None:
        """A lease is to go back when what was sent there is done."""
        queue = self.by_id.get(lease_id)
        lease = None if queue is None else queue.recall(lease_id)
        if queue is not None and lease is not None and not lease.tasks:
            self.give_back(queue, lease_id)
            self._tasks.pump(queue)

    def _moved(self, spill: Spill) -> None:
        """Another node is to be asked."""
        lease_id = spill.lease_id
        queue = self.by_id.get(lease_id)
        if queue is None or lease_id not in queue.requested:
            return  # it is not wanted any more
        if not queue.waiting:
            self.by_id.pop(lease_id)
            queue.gone(lease_id)
            self._visits.over(lease_id)
            return
        try:
            self._visits.move(lease_id, spill.node_id, spill.address)
        except OSError as exc:  # it has died, and our node does not know yet
            self._runtime.log.debug("node %s could not be reached: %s", spill.node_id, exc)
            self._runtime.reactor.call_later(_ASK_AGAIN_S, lambda: self._ask_home(lease_id))
            return
        self._visits.send(lease_id, self._request(queue, lease_id, spill.hops))

    def _ask_home(self, lease_id: int) -> None:
        """Begin anew with a request: the node that was asked is gone."""
        queue = self.by_id.get(lease_id)
        if queue is None or lease_id not in queue.requested:
            return
        if queue.waiting:
            self._runtime.link.send(self._request(queue, lease_id))
        else:
            self.by_id.pop(lease_id)
            queue.gone(lease_id)

    def _node_lost(self, visit: Visit, lease_ids: set[int]) -> None:
        """The line to another node is cut: it has died, or else it ends our leases, as it cannot reach us."""
        for lease_id in sorted(lease_ids):
            queue = self.by_id.get(lease_id)
            if queue is None:
                continue
            if lease_id in queue.requested:
                self._runtime.reactor.call_later(_ASK_AGAIN_S, functools.partial(self._ask_home, lease_id))
                continue
            self._lost(LeaseLost(lease_id, f"node {visit.node_id} died, or cannot be reached any more", node_died=True))

    def _granted(self, grant: LeaseGrant) -> None:
        """A worker is ours."""
        queue = self.by_id.get(grant.lease_id)
        if queue is None:
            self._return(LeaseReturn(grant.lease_id))
            return
        worker = self._workers.get(grant.address)
        if worker is not None:
            worker.connection.drain()
            if worker.connection.closed:  # it died before the node knew: no task of ours is to blame
                self._refuse(queue, grant.lease_id, kill=True)
                self._tasks.pump(queue)
                return
        else:
            try:
                worker = self._connect(grant.address)
            except OSError as exc:
                ours = exc.errno in NO_MORE_FDS
                self._refuse(queue, grant.lease_id, kill=not ours)
                self._runtime.log.warning("a worker could not be reached: %s", exc)
                self._runtime.reactor.call_later(_OWN_FAULT_S if ours else 0.0, lambda: self._tasks.pump(queue))
                return
        lease = Lease(grant.lease_id, worker, grant.worker_id)
        worker.lease = lease
        queue.granted(lease, self._runtime.reactor.time())
        self._tasks.pump(queue)

    def _refuse(self, queue: KeyQueue, lease_id: int, *, kill: bool) -> None:
        """A worker that was granted is of no use."""
        self.by_id.pop(lease_id)
        queue.gone(lease_id)
        self._return(LeaseReturn(lease_id, kill))

    def _lost(self, message: LeaseLost) -> None:
        """The node says that a lease is over, or cannot be had."""
        queue = self.by_id.get(message.lease_id)
        if queue is None:
            return
        lease = queue.gone(message.lease_id) or self._dying.get(message.lease_id)
        if lease is not None:
            lease.connection.connection.drain()  # what it got done is not lost with it
            self._runtime.streams.worker_lost(lease.connection.connection)
        self.by_id.pop(message.lease_id, None)
        self._dying.pop(message.lease_id, None)
        self._visits.over(message.lease_id)
        if message.group_removed:
            self._tasks.group_removed(queue, lease, message.reason)
        elif lease is not None:
            self._tasks.worker_died(queue, lease, message.reason, NodeDiedError if message.node_died else None)
        elif message.setup_failed:
            self._tasks.cannot_be_set_up(queue, message.reason)
        elif message.unschedulable:
            self._tasks.turned_away(queue, message.reason)
        else:
            self._tasks.request_failed(queue, message.reason)
        self._tasks.pump(queue)

    # the lines to workers

    def _connect(self, address: str) -> Worker:
        runtime = self._runtime
        connection = runtime.dialer.connection(
            runtime.reactor, address, call_decoder, self._tasks.heard_from_worker, self._on_close
        )
        worker = Worker(connection)
        connection.tag = (address, worker)
        self._workers[address] = worker
        connection.send(runtime.greeting())
        return worker

    def _on_close(self, connection: Connection, reason: str) -> None:
        address, worker = connection.tag
        self._workers.pop(address, None)
        lease = worker.lease
        queue = None if lease is None else self.by_id.get(lease.lease_id)
        if lease is None or queue is None:
            self._runtime.streams.worker_lost(connection)
            return
        # The node says what it died of, when it has read all that the worker told it: only then is that let go of.
        queue.gone(lease.lease_id)
        self._dying[lease.lease_id] = lease
        self._runtime.reactor.call_later(
            _LAST_WORDS_S, lambda: self._died_untold(lease.lease_id, f"the worker process died ({reason})")
        )

    def _died_untold(self, lease_id: int, reason: str) -> None:
        """The node has not said what a worker died of, or it lives, and only its connection broke."""
        lease = self._dying.pop(lease_id, None)
        if lease is not None:
            queue = self.by_id.pop(lease_id)
            self._return(LeaseReturn(lease_id, kill=True))
            self._runtime.streams.worker_lost(lease.connection.connection)
            self._tasks.worker_died(queue, lease, reason)
            self._tasks.pump(queue)
