"""The caller's side of tasks: from `f.remote(x)` to a result, over leased workers."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from aioray.exceptions import WorkerCrashedError
from aioray.refs import PENDING, READY, ObjectRef
from aioray.runtime.calls import (
    STILL_RUNS,
    Arguments,
    cancelled,
    complete,
    fail,
    fail_with,
    first_failed,
    when_ready,
    wire_deps,
)
from aioray.runtime.connection import Connection, dial
from aioray.runtime.pipeline import Duration, KeyQueue, Lease
from aioray.wire.calls import Call, Cancel, Done, Export, Finished, GiveBack, Greeting, Yielded
from aioray.wire.control import LeaseGrant, LeaseLost, LeaseRequest, LeaseReturn
from aioray.wire.framing import call_decoder
from aioray.wire.values import Value

if TYPE_CHECKING:
    from aioray.options import TaskOptions
    from aioray.runtime.runtime import Runtime


_LAST_WORDS_S = 1.0  # how long the node may take to say why a worker died


class Function:
    """A function as the cluster knows it: exported once to each worker that runs it."""

    __slots__ = ("data", "duration", "fn_id", "name", "pins")

    def __init__(self, fn_id: str, name: str, data: bytes, pins: list[Any]) -> None:
        self.fn_id = fn_id
        self.name = name
        self.data = data
        self.pins = pins  # refs that the function captured
        self.duration = Duration()

    def renamed(self, name: str) -> Function:
        """The same code under another name."""
        other = Function(self.fn_id, name, self.data, self.pins)
        other.duration = self.duration
        return other


class TaskTarget:
    """A function with its options, as one runtime runs it."""

    __slots__ = ("ahead", "function", "num_returns", "options", "queue", "runtime")

    def __init__(
        self, runtime: Runtime, function: Function, options: TaskOptions, queue: KeyQueue, num_returns: int
    ) -> None:
        self.runtime = runtime
        self.function = function
        self.options = options
        self.queue = queue
        self.num_returns = num_returns  # as in the Call
        self.ahead = options._generator_backpressure_num_objects


class Task:
    """One call of a function, until it has a result."""

    __slots__ = (
        "arguments", "cancelled", "duration", "estimate_us", "function", "lease", "num_returns", "options", "parent",
        "queue", "refs", "retries", "seq", "wired",
    )  # fmt: skip

    def __init__(
        self,
        seq: int,
        target: TaskTarget,
        arguments: Arguments,
        refs: tuple[ObjectRef[Any], ...],
        parent: object = None,
    ) -> None:
        self.seq = seq
        self.parent = parent  # the call, in this process, that submitted it
        self.function = target.function
        self.duration = target.function.duration
        self.options = target.options
        self.num_returns = target.num_returns
        self.arguments = arguments
        self.queue = target.queue
        self.refs = refs
        self.retries = target.options.max_retries
        self.lease: Lease | None = None
        self.estimate_us = 0.0
        self.cancelled = False
        self.wired: list[tuple[int, Value]] = []

    @property
    def name(self) -> str:
        return self.function.name

    def crashed(self, reason: str) -> WorkerCrashedError:
        """The error when nobody will try it again."""
        return WorkerCrashedError(reason, self.function.name, self.options.max_retries - self.retries)


class _Worker:
    """What we know of a worker we have a connection to. Kept between leases: the next one is cheaper."""

    __slots__ = ("connection", "exported", "lease")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.exported: set[str] = set()
        self.lease: Lease | None = None


class TaskSubmitter:
    """Queues tasks, leases workers for them, takes their results. Called with the reactor's lock held."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._queues: dict[frozenset[tuple[str, int]], KeyQueue] = {}
        self._by_lease: dict[int, KeyQueue] = {}
        self._workers: dict[str, _Worker] = {}  # by address
        self._lease_ids = itertools.count(1)
        self._dying: dict[int, Lease] = {}  # the worker hung up; the node will say what it died of
        self._surplus_due = False
        self._idle_s = runtime.config.lease_idle_ms / 1000

    def queue_for(self, demand: dict[str, int]) -> KeyQueue:
        """The queue of a scheduling key."""
        key = frozenset(demand.items())
        queue = self._queues.get(key)
        if queue is None:
            config = self._runtime.config
            queue = KeyQueue(demand, target_us=config.pipeline_target_ms * 1000, max_depth=config.pipeline_max_depth)
            self._queues[key] = queue
        return queue

    def submit(self, task: Task) -> None:
        """Run `task` when its arguments are there and a worker is."""
        deps = task.arguments.deps
        if deps:
            when_ready(deps, lambda: self._enqueue(task))
        else:
            self._start(task)

    def _enqueue(self, task: Task) -> None:
        if task.cancelled:
            return
        failed = first_failed(task.arguments.deps)
        if failed is not None:
            fail_with(self._runtime, task, failed)
            return
        task.wired = wire_deps(self._runtime, task.arguments.deps)
        self._start(task)

    def _start(self, task: Task) -> None:
        queue = task.queue
        if not queue.waiting:
            lease = queue.assign(task)
            if lease is not None:
                self._send(lease, task)
                return
        queue.waiting.append(task)
        if len(queue.waiting) > queue.enough:
            self._ask(queue)

    def _send(self, lease: Lease, task: Task) -> None:
        worker: _Worker = lease.connection
        function = task.function
        if function.fn_id not in worker.exported:
            worker.exported.add(function.fn_id)
            worker.connection.send(Export(function.fn_id, function.data))
        options = task.options
        arguments = task.arguments
        call = Call(
            task.seq,
            function.fn_id,
            arguments.data,
            arguments.kwnames,
            task.wired,
            task.num_returns,
            function.name,
            options.num_cpus,
            task.retries == 0,
        )
        if task.num_returns < 0:
            call.streaming = self._runtime.streams.start(task.seq, worker.connection)
        send = worker.connection.send_now if len(lease.tasks) == 1 else worker.connection.send
        send(call)

    def _pump(self, queue: KeyQueue) -> None:
        waiting = queue.waiting
        while waiting:
            lease = queue.assign(waiting[0])
            if lease is None:
                break
            self._send(lease, waiting.popleft())
        if waiting:
            self._ask(queue)
        elif queue.requested or not self._surplus_due:
            self._plan_surplus(queue)

    def _ask(self, queue: KeyQueue) -> None:
        for _ in range(queue.missing_leases()):
            lease_id = next(self._lease_ids)
            queue.requested.add(lease_id)
            self._by_lease[lease_id] = queue
            self._runtime.link.send(LeaseRequest(lease_id, queue.demand, queue.waiting[0].function.name))

    def _plan_surplus(self, queue: KeyQueue) -> None:
        """Requests that nothing waits for go back at once, idle leases after a moment."""
        for lease_id in list(queue.requested):
            self._give_up(queue, lease_id)
        if queue.leases and not self._surplus_due:
            self._surplus_due = True
            self._runtime.reactor.call_later(self._idle_s, self._return_idle)

    def _return_idle(self) -> None:
        self._surplus_due = False
        now = self._runtime.reactor.time()
        busy = False
        for queue in self._queues.values():
            idle, unwanted = queue.surplus(now, self._idle_s)
            for lease_id in idle + unwanted:
                self._give_up(queue, lease_id)
            busy = busy or bool(queue.leases)
        if busy:
            self._surplus_due = True
            self._runtime.reactor.call_later(self._idle_s, self._return_idle)

    def _give_up(self, queue: KeyQueue, lease_id: int, *, kill: bool = False) -> None:
        lease = queue.gone(lease_id)
        self._by_lease.pop(lease_id, None)
        if lease is not None:
            lease.connection.lease = None
        self._runtime.link.send(LeaseReturn(lease_id, kill))

    # what the node says

    def granted(self, grant: LeaseGrant) -> None:
        """A worker is ours."""
        queue = self._by_lease.get(grant.lease_id)
        if queue is None:
            self._runtime.link.send(LeaseReturn(grant.lease_id))
            return
        worker = self._workers.get(grant.address)
        if worker is None:
            try:
                worker = self._connect(grant.address)
            except OSError as exc:
                self._by_lease.pop(grant.lease_id)
                queue.gone(grant.lease_id)
                self._runtime.link.send(LeaseReturn(grant.lease_id, kill=True))
                self._runtime.log.warning("a worker could not be reached: %s", exc)
                self._pump(queue)
                return
        lease = Lease(grant.lease_id, worker, grant.worker_id)
        worker.lease = lease
        queue.granted(lease, self._runtime.reactor.time())
        self._pump(queue)

    def _connect(self, address: str) -> _Worker:
        runtime = self._runtime
        connection = Connection(runtime.reactor, dial(address), call_decoder, self._on_messages, self._on_close)
        worker = _Worker(connection)
        connection.tag = (address, worker)
        self._workers[address] = worker
        connection.send(Greeting(runtime.process_id, runtime.sys_path))
        return worker

    def lost(self, message: LeaseLost) -> None:
        """The node says that a lease is over, or cannot be had."""
        queue = self._by_lease.get(message.lease_id)
        if queue is None:
            return
        lease = queue.gone(message.lease_id) or self._dying.get(message.lease_id)
        if lease is not None:
            lease.connection.connection.drain()  # what it got done is not lost with it
        self._by_lease.pop(message.lease_id, None)
        self._dying.pop(message.lease_id, None)
        if lease is not None:
            self._fail_lease(queue, lease, message.reason)
        elif queue.waiting:
            task = queue.waiting.popleft()
            fail(self._runtime, task, task.crashed(message.reason))
        self._pump(queue)

    # what workers say

    def _on_messages(self, connection: Connection, messages: list[Any]) -> None:
        lease: Lease | None = connection.tag[1].lease
        if lease is None:
            self._runtime.streams.came_late(connection, messages)
            return
        queue = self._by_lease[lease.lease_id]
        now = self._runtime.reactor.time()
        for message in messages:
            if type(message) is Done:
                task = queue.take_back(lease, message.seq, now)
                if task is not None:
                    task.duration.observe(message.exec_us)
                    task.refs[0]._complete(READY, Value(message.data), task.function.name)
            elif type(message) is Finished:
                task = queue.take_back(lease, message.seq, now)
                if task is not None:
                    task.duration.observe(message.exec_us)
                    complete(self._runtime, task, message.values)
            elif type(message) is Yielded:
                self._runtime.streams.received(message)
            elif type(message) is GiveBack:
                self._given_back(queue, lease, message.seqs, now)
        self._pump(queue)

    def _given_back(self, queue: KeyQueue, lease: Lease, seqs: list[int], now: float) -> None:
        for seq in reversed(seqs):
            task = queue.take_back(lease, seq, now)
            if task is None:
                continue
            if task.cancelled:
                fail(self._runtime, task, cancelled(task))
            else:
                queue.waiting.appendleft(task)
        lease.reserved = bool(lease.tasks)

    def _on_close(self, connection: Connection, reason: str) -> None:
        address, worker = connection.tag
        self._workers.pop(address, None)
        self._runtime.streams.hung_up(connection)
        lease = worker.lease
        if lease is None:
            return
        queue = self._by_lease.get(lease.lease_id)
        if queue is None:
            return
        queue.gone(lease.lease_id)
        self._dying[lease.lease_id] = lease
        self._runtime.reactor.call_later(
            _LAST_WORDS_S, lambda: self._died_untold(lease.lease_id, f"the worker process died ({reason})")
        )

    def _died_untold(self, lease_id: int, reason: str) -> None:
        """The node has not said what a worker died of, or it lives, and only its connection broke."""
        lease = self._dying.pop(lease_id, None)
        if lease is not None:
            queue = self._by_lease.pop(lease_id)
            self._runtime.link.send(LeaseReturn(lease_id, kill=True))
            self._fail_lease(queue, lease, reason)
            self._pump(queue)

    def _fail_lease(self, queue: KeyQueue, lease: Lease, reason: str) -> None:
        """The worker is dead: the oldest task was running, the others had not begun."""
        lease.connection.lease = None
        tasks, lease.tasks = list(lease.tasks.values()), {}
        for at, task in enumerate(tasks):
            task.lease = None
            if at == 0 and not task.cancelled and task.retries == 0:
                fail(self._runtime, task, task.crashed(reason))
                tasks[0] = None
            elif task.cancelled:
                fail(self._runtime, task, cancelled(task))
                tasks[at] = None
            elif at == 0 and task.retries > 0:
                task.retries -= 1
        queue.waiting.extendleft(task for task in reversed(tasks) if task is not None)

    # cancelling

    def cancel(self, task: Task, *, force: bool = False) -> None:
        """Stop `task` in whatever state it is. Its refs are completed here, or by what the worker answers."""
        task.cancelled = True
        lease = task.lease
        if lease is None:
            if task in task.queue.waiting:
                task.queue.waiting.remove(task)
            fail(self._runtime, task, cancelled(task))
            self._pump(task.queue)
        elif force and next(iter(lease.tasks)) == task.seq:
            self._by_lease.pop(lease.lease_id, None)
            self._dying.pop(lease.lease_id, None)
            task.queue.gone(lease.lease_id)
            self._runtime.streams.is_killed(task.seq)
            self._runtime.link.send(LeaseReturn(lease.lease_id, kill=True))
            self._fail_lease(task.queue, lease, "cancelled by force")
            self._pump(task.queue)
        else:
            lease.connection.connection.send(Cancel(task.seq))

    def state_of(self, task: Task) -> tuple[str, int | None]:
        """Where a task is, in words, and the lease request to ask the node about, if it waits for one."""
        if any(ref._status == PENDING for _, ref in task.arguments.deps):
            waiting = sum(ref._status == PENDING for _, ref in task.arguments.deps)
            return f"waits for {waiting} of its arguments", None
        if task.lease is not None:
            first = next(iter(task.lease.tasks)) == task.seq
            where = f"worker {task.lease.worker_id}"
            state = f"runs on {where}" if first else f"is next in line on {where}"
            return state + (STILL_RUNS if task.cancelled else ""), None
        return "waits for a worker", next(iter(task.queue.requested), None)

    def after_its_cancel(self, seq: int) -> str:
        """Where the code of a call that was cancelled still runs, in words; "" when it does not."""
        for queue in self._queues.values():
            for task in self._tasks_of(queue):
                if task.seq == seq and task.cancelled:
                    return self.state_of(task)[0]
        return ""

    def _tasks_of(self, queue: KeyQueue) -> list[Task]:
        """All that wait for a worker or have one; not those that wait for arguments."""
        dying = [lease for lease_id, lease in self._dying.items() if self._by_lease.get(lease_id) is queue]
        leases = [*queue.leases.values(), *dying]
        return [*(task for lease in leases for task in lease.tasks.values()), *queue.waiting]

    def cancel_children(self, parent: object) -> None:
        """Cancel all that `parent` submitted. What waits for an argument of theirs fails with them."""
        for queue in list(self._queues.values()):
            for task in self._tasks_of(queue):
                if task.parent is parent:
                    self.cancel(task)

    def close(self, reason: str) -> None:
        """Everything that is still pending fails."""
        for queue in self._queues.values():
            for task in self._tasks_of(queue):
                fail(self._runtime, task, WorkerCrashedError(reason, task.name))
            queue.waiting.clear()
            queue.leases.clear()
        self._dying.clear()
        for worker in self._workers.values():
            worker.connection.close()
        self._workers.clear()
