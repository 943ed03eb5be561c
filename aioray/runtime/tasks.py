"""The caller's side of tasks: from `f.remote(x)` to a result, over leased workers."""

from __future__ import annotations

import functools
import itertools
import math
from typing import TYPE_CHECKING, Any

from aioray.exceptions import (
    NodeDiedError,
    RuntimeEnvSetupError,
    TaskPlacementGroupRemoved,
    TaskUnschedulableError,
    WorkerCrashedError,
)
from aioray.refs import READY
from aioray.runtime.calls import (
    NO_DEADLINE,
    STILL_RUNS,
    Running,
    cancelled,
    complete,
    fail,
    fail_with,
    first_failed,
    time_left_us,
    when_ready,
    wire_deps,
)
from aioray.runtime.connection import NO_MORE_FDS
from aioray.runtime.patterns import Patterns
from aioray.runtime.pipeline import KeyQueue, Lease
from aioray.runtime.visits import Visit, Visits
from aioray.wire.calls import (
    Call,
    Cancel,
    Done,
    Export,
    Finished,
    GiveBack,
    Repeat,
    Yielded,
)
from aioray.wire.control import LeaseGrant, LeaseLost, LeaseRecall, LeaseRequest, LeaseReturn, Spill
from aioray.wire.framing import call_decoder
from aioray.wire.values import Value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aioray.runtime.connection import Connection
    from aioray.runtime.runtime import Runtime
    from aioray.runtime.task_records import Task
    from aioray.wire.strategies import Strategy


_LAST_WORDS_S = 1.0  # how long the node may take to say why a worker died
_ASK_AGAIN_S = 0.1  # after a node could not be reached: by then our own may know that it died
_OWN_FAULT_S = 0.1  # after which this process may have a file descriptor again
_FORCE_GRACE_S = 0.1  # how long a worker has to cancel what its call began, before the node kills it


class _Worker:
    """What we know of a worker we have a connection to. Kept between leases: the next one is cheaper."""

    __slots__ = ("connection", "exported", "lease", "patterns")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.exported: set[str] = set()
        self.patterns = Patterns(connection)
        self.lease: Lease | None = None


class TaskSubmitter:
    """Queues tasks, leases workers for them, takes their results. Called with the reactor's lock held."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._queues: dict[tuple[frozenset[tuple[str, int]], str, Strategy | None], KeyQueue] = {}
        self._by_lease: dict[int, KeyQueue] = {}
        self._workers: dict[str, _Worker] = {}  # by address
        self._lease_ids = itertools.count(1)
        self._dying: dict[int, Lease] = {}  # the worker hung up; the node will say what it died of
        self._surplus_due = False
        self._waiting_for_arguments: dict[int, Task] = {}
        self._reporter = runtime.reporter
        self._idle_s = runtime.config.lease_idle_ms / 1000
        self._visits = Visits(
            runtime.reactor, runtime.dialer, runtime.link, runtime.visitors_hello, self.heard, self._node_lost
        )

    def queue_for(self, demand: dict[str, int], environment: str = "", strategy: Strategy | None = None) -> KeyQueue:
        """The queue of a scheduling key."""
        key = frozenset(demand.items()), environment, strategy
        queue = self._queues.get(key)
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
            self._queues[key] = queue
        return queue

    def submit(self, task: Task) -> None:
        """Run `task` when its arguments are there and a worker is."""
        deps = task.arguments.deps
        if deps:
            self._waiting_for_arguments[task.seq] = task
            if not self._reporter.armed:
                self._reporter.arm()
            when_ready(deps, lambda: self._enqueue(task))
        else:
            self._start(task)

    def _enqueue(self, task: Task) -> None:
        if self._waiting_for_arguments.pop(task.seq, None) is None:
            return  # it was cancelled
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
        target, arguments = task.target, task.arguments
        message: Call | Repeat | None = None
        if (
            target.num_returns >= 0
            and task.retries == target.options.max_retries
            and task.deadline == NO_DEADLINE
            and not (task.wired or arguments.kwnames)
        ):  # nothing but `seq` and `args` sets it apart from others of its kind
            pattern = worker.patterns.numbers.get(target)
            if pattern is None:
                pattern = worker.patterns.agree(target, self._call, worker, task)
            if pattern is not None:
                message = Repeat(task.seq, pattern, arguments.data)
        if message is None:
            message = self._call(worker, task)
        if target.options.max_calls:
            lease.reserved = True  # what is behind it would come back, as a rule
        if len(lease.tasks) == 1:
            worker.connection.send_now(message)
        else:
            worker.connection.send(message)

    def _call(self, worker: _Worker, task: Task) -> Call:
        """The whole Call; what it needs at the worker is sent ahead."""
        target = task.target
        for code in (target.function, target.retry_types):
            if code is not None and code.fn_id not in worker.exported:
                worker.exported.add(code.fn_id)
                worker.connection.send(Export(code.fn_id, code.data))
        arguments, options = task.arguments, target.options
        call = Call(
            task.seq,
            target.function.fn_id,
            arguments.data,
            arguments.kwnames,
            list(task.wired),
            target.num_returns,
            target.function.name,
            options.num_cpus,
            task.retries == 0,
            retry=target.retry,
            max_calls=options.max_calls,
            quiet=not options.enable_task_events,
        )
        if target.num_returns < 0:
            call.streaming = self._runtime.streams.start(task.seq, worker.connection)
        strategy = task.queue.strategy
        if strategy is not None:
            call.placement = strategy.group
        if task.deadline != NO_DEADLINE:
            call.time_left_us = time_left_us(task, self._runtime.reactor.time())
        return call

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
        if not self._reporter.armed:
            self._reporter.arm()
        for _ in range(queue.missing_leases()):
            lease_id = next(self._lease_ids)
            queue.requested.add(lease_id)
            self._by_lease[lease_id] = queue
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

    def _give_up(self, queue: KeyQueue, lease_id: int, *, kill: bool = False, retire: bool = False) -> None:
        lease = queue.gone(lease_id)
        self._by_lease.pop(lease_id, None)
        if lease is not None:
            lease.connection.lease = None
        self._return(LeaseReturn(lease_id, kill, retire))

    def _return(self, message: LeaseReturn) -> None:
        self._visits.send(message.lease_id, message)
        self._visits.over(message.lease_id)

    # what nodes say

    def heard(self, message: Any) -> None:
        """Our own node, or another one, about leases."""
        match message:
            case LeaseGrant():
                self.granted(message)
            case LeaseLost():
                self.lost(message)
            case Spill():
                self._moved(message)
            case LeaseRecall():
                self._recalled(message.lease_id)
            case _:
                self._runtime.heard_from_afar(message)

    def _recalled(self, lease_id: int) -> None:
        """A lease is to go back when what was sent there is done."""
        queue = self._by_lease.get(lease_id)
        lease = None if queue is None else queue.recall(lease_id)
        if queue is not None and lease is not None and not lease.tasks:
            self._give_up(queue, lease_id)
            self._pump(queue)

    def _moved(self, spill: Spill) -> None:
        """Another node is to be asked."""
        lease_id = spill.lease_id
        queue = self._by_lease.get(lease_id)
        if queue is None or lease_id not in queue.requested:
            return  # it is not wanted any more
        if not queue.waiting:
            self._by_lease.pop(lease_id)
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
        queue = self._by_lease.get(lease_id)
        if queue is None or lease_id not in queue.requested:
            return
        if queue.waiting:
            self._runtime.link.send(self._request(queue, lease_id))
        else:
            self._by_lease.pop(lease_id)
            queue.gone(lease_id)

    def _node_lost(self, visit: Visit, lease_ids: set[int]) -> None:
        """The line to another node is cut: it has died, or else it ends our leases, as it cannot reach us."""
        for lease_id in sorted(lease_ids):
            queue = self._by_lease.get(lease_id)
            if queue is None:
                continue
            if lease_id in queue.requested:
                self._runtime.reactor.call_later(_ASK_AGAIN_S, functools.partial(self._ask_home, lease_id))
                continue
            self.lost(LeaseLost(lease_id, f"node {visit.node_id} died, or cannot be reached any more", node_died=True))

    def granted(self, grant: LeaseGrant) -> None:
        """A worker is ours."""
        queue = self._by_lease.get(grant.lease_id)
        if queue is None:
            self._return(LeaseReturn(grant.lease_id))
            return
        worker = self._workers.get(grant.address)
        if worker is not None:
            worker.connection.drain()
            if worker.connection.closed:  # it died before the node knew: no task of ours is to blame
                self._refuse(queue, grant.lease_id, kill=True)
                self._pump(queue)
                return
        else:
            try:
                worker = self._connect(grant.address)
            except OSError as exc:
                ours = exc.errno in NO_MORE_FDS
                self._refuse(queue, grant.lease_id, kill=not ours)
                self._runtime.log.warning("a worker could not be reached: %s", exc)
                self._runtime.reactor.call_later(_OWN_FAULT_S if ours else 0.0, lambda: self._pump(queue))
                return
        lease = Lease(grant.lease_id, worker, grant.worker_id)
        worker.lease = lease
        queue.granted(lease, self._runtime.reactor.time())
        self._pump(queue)

    def _refuse(self, queue: KeyQueue, lease_id: int, *, kill: bool) -> None:
        """A worker that was granted is of no use."""
        self._by_lease.pop(lease_id)
        queue.gone(lease_id)
        self._return(LeaseReturn(lease_id, kill))

    def _connect(self, address: str) -> _Worker:
        runtime = self._runtime
        connection = runtime.dialer.connection(
            runtime.reactor, address, call_decoder, self._on_messages, self._on_close
        )
        worker = _Worker(connection)
        connection.tag = (address, worker)
        self._workers[address] = worker
        connection.send(runtime.greeting())
        return worker

    def lost(self, message: LeaseLost) -> None:
        """The node says that a lease is over, or cannot be had."""
        queue = self._by_lease.get(message.lease_id)
        if queue is None:
            return
        lease = queue.gone(message.lease_id) or self._dying.get(message.lease_id)
        if lease is not None:
            lease.connection.connection.drain()  # what it got done is not lost with it
            self._runtime.streams.worker_lost(lease.connection.connection)
        self._by_lease.pop(message.lease_id, None)
        self._dying.pop(message.lease_id, None)
        self._visits.over(message.lease_id)
        if message.group_removed:
            self._group_removed(queue, lease, message.reason)
        elif lease is not None:
            self._fail_lease(queue, lease, message.reason, NodeDiedError if message.node_died else None)
        elif message.setup_failed:
            self._cannot_be_set_up(queue, message.reason)
        elif message.unschedulable:
            self._turned_away(queue, message.reason)
        elif queue.waiting:
            task = queue.waiting.popleft()
            self._fail(task, task.crashed(message.reason))
        self._pump(queue)

    def _cannot_be_set_up(self, queue: KeyQueue, reason: str) -> None:
        """All that waits now fails; what is submitted from here on has it tried again."""
        for lease_id in list(queue.requested):
            self._give_up(queue, lease_id)
        waiting = list(queue.waiting)
        queue.waiting.clear()
        for task in waiting:
            fail(self._runtime, task, RuntimeEnvSetupError(f"{task.name}(): {reason}"))

    def _turned_away(self, queue: KeyQueue, reason: str) -> None:
        """What waits for a node that does not exist fails; of what is not to wait, that which has no worker now."""
        affinity = queue.strategy.affinity
        count = 1 if affinity is not None and affinity.fail_on_unavailable else len(queue.waiting)
        for _ in range(min(count, len(queue.waiting))):
            task = queue.waiting.popleft()
            self._fail(task, TaskUnschedulableError(f"{task.name}() {reason}"))

    def _group_removed(self, queue: KeyQueue, lease: Lease | None, reason: str) -> None:
        """The placement group is gone: what runs in it was killed, and what waits for it waits in vain."""
        tasks = [*queue.waiting]
        queue.waiting.clear()
        if lease is not None:
            lease.connection.lease = None
            running, lease.tasks = list(lease.tasks.values()), {}
            for task in running:
                task.lease, task.lost_worker = None, True
            tasks = running + tasks
        for task in tasks:
            self._fail(task, cancelled(task) if task.cancelled else TaskPlacementGroupRemoved(reason, task.name))

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
                    if task.lost_worker:
                        self._runtime.objects.void_results(task.refs)
            elif type(message) is Finished:
                task = queue.take_back(lease, message.seq, now)
                if task is not None:
                    task.duration.observe(message.exec_us)
                    if message.retry and task.retries and not task.cancelled:
                        self._try_again(queue, task, message.values[0])
                    else:
                        complete(self._runtime, task, message.values)
                        if task.lost_worker:
                            self._runtime.objects.void_results(task.refs)
            elif type(message) is Yielded:
                self._runtime.streams.received(message)
            elif type(message) is GiveBack:
                if message.leaving:
                    self._given_back(queue, lease, list(lease.tasks), now)
                    self._give_up(queue, lease.lease_id, retire=True)
                    break
                self._given_back(queue, lease, message.seqs, now)
        if lease.tasks:
            first: Task = next(iter(lease.tasks.values()))
            if first.force:  # it was next in line when it was cancelled
                self._force(lease, first)
        elif (lease.is_wanted or queue.is_done_with(lease)) and lease.lease_id in queue.leases:
            self._give_up(queue, lease.lease_id)
        self._pump(queue)

    def _try_again(self, queue: KeyQueue, task: Task, error: Value) -> None:
        """It raised what its options say is worth another try."""
        if task.retries > 0:
            task.retries -= 1
        if error.refs:
            # Not let go of now: the next worker may tell of its result before the node has read that we do.
            task.lost_worker = True
        queue.waiting.append(task)

    def _given_back(self, queue: KeyQueue, lease: Lease, seqs: list[int], now: float) -> None:
        for seq in reversed(seqs):
            task = queue.take_back(lease, seq, now)
            if task is None:
                continue
            if task.cancelled:
                self._fail(task, cancelled(task))
            else:
                queue.waiting.appendleft(task)
        lease.reserved = bool(lease.tasks)

    def _on_close(self, connection: Connection, reason: str) -> None:
        address, worker = connection.tag
        self._workers.pop(address, None)
        lease = worker.lease
        queue = None if lease is None else self._by_lease.get(lease.lease_id)
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
            queue = self._by_lease.pop(lease_id)
            self._return(LeaseReturn(lease_id, kill=True))
            self._runtime.streams.worker_lost(lease.connection.connection)
            self._fail_lease(queue, lease, reason)
            self._pump(queue)

    def _fail_lease(self, queue: KeyQueue, lease: Lease, reason: str, kind: type[NodeDiedError] | None = None) -> None:
        """The worker is dead: the oldest task was running, the others had not begun. `kind`: of the error, if not a
        WorkerCrashedError."""
        lease.connection.lease = None
        self._runtime.streams.worker_lost(lease.connection.connection)
        tasks, lease.tasks = list(lease.tasks.values()), {}
        for at, task in enumerate(tasks):
            task.lease = None
            task.lost_worker = True
            if at == 0 and not task.cancelled and task.retries == 0:
                self._fail(task, task.crashed(reason) if kind is None else kind(f"{task.name}(): {reason}"))
                tasks[0] = None
            elif task.cancelled:
                self._fail(task, cancelled(task))
                tasks[at] = None
            elif at == 0 and task.retries > 0:
                task.retries -= 1
        queue.waiting.extendleft(task for task in reversed(tasks) if task is not None)

    def _fail(self, task: Task, error: Exception) -> None:
        fail(self._runtime, task, error)
        if task.lost_worker:
            self._runtime.objects.void_results(task.refs)

    # cancelling

    def cancel(self, task: Task, *, force: bool = False, recursive: bool = True) -> None:
        """Stop `task` in whatever state it is. Its refs are completed here, or by what the worker answers.

        force: end its worker, if it runs. recursive: cancel what it began, too.
        """
        task.cancelled = True
        task.recursive = recursive
        lease = task.lease
        if lease is None:
            self._waiting_for_arguments.pop(task.seq, None)
            if task in task.queue.waiting:
                task.queue.waiting.remove(task)
            self._fail(task, cancelled(task))
            self._pump(task.queue)
        elif not force:
            lease.connection.connection.send(Cancel(task.seq, recursive=recursive))
        elif not task.force:
            task.force = True
            if next(iter(lease.tasks)) == task.seq:
                self._force(lease, task)
            else:
                lease.connection.connection.send(Cancel(task.seq, recursive=recursive))

    def _force(self, lease: Lease, task: Task) -> None:
        """End the worker of a task that runs: it does so itself, after its last words to others, or the node does."""
        task.force = False  # once is enough
        self._runtime.streams.is_killed(task.seq)
        self._fail(task, cancelled(task))
        lease.connection.connection.send(Cancel(task.seq, recursive=task.recursive, force=True))
        self._runtime.reactor.call_later(_FORCE_GRACE_S, lambda: self._kill_under(lease, task))

    def _kill_under(self, lease: Lease, task: Task) -> None:
        if task.lease is not lease or next(iter(lease.tasks)) != task.seq:
            return  # it is through
        self._by_lease.pop(lease.lease_id, None)
        self._dying.pop(lease.lease_id, None)
        task.queue.gone(lease.lease_id)
        self._return(LeaseReturn(lease.lease_id, kill=True))
        self._fail_lease(task.queue, lease, "cancelled by force")
        self._pump(task.queue)

    def state_of(self, task: Task) -> tuple[str, int | None]:
        """Where a task is, in words, and the lease request to ask the node about, if it waits for one."""
        if not all(ref._is_made() for _, ref in task.arguments.deps):
            waiting = sum(not ref._is_made() for _, ref in task.arguments.deps)
            return f"waits for {waiting} of its arguments", None
        if task.lease is not None:
            first = next(iter(task.lease.tasks)) == task.seq
            where = f"worker {task.lease.worker_id}"
            state = f"runs on {where}" if first else f"is next in line on {where}"
            return state + (STILL_RUNS if task.cancelled else ""), None
        lease_id = next(iter(task.queue.requested), None)
        if lease_id is not None and (node_id := self._visits.node_of(lease_id)):
            return f"waits for a worker of node {node_id}", None
        return "waits for a worker", lease_id

    def after_its_cancel(self, seq: int) -> str:
        """Where the code of a call that was cancelled still runs, in words; "" when it does not."""
        for queue in self._queues.values():
            for task in self._tasks_of(queue):
                if task.seq == seq and task.cancelled:
                    return self.state_of(task)[0]
        return ""

    def waiting(self, limit: int) -> Iterator[tuple[Task | None, int]]:
        """Tasks that wait for arguments or for a worker, each with 1; those beyond `limit` as None, and how many."""
        for tasks in (self._waiting_for_arguments.values(), *(queue.waiting for queue in self._queues.values())):
            yield from ((task, 1) for task in itertools.islice(tasks, limit))
            if len(tasks) > limit:
                yield None, len(tasks) - limit
            limit = max(0, limit - len(tasks))

    def _tasks_of(self, queue: KeyQueue) -> list[Task]:
        """All that wait for a worker or for arguments, or have a worker."""
        without = [task for task in self._waiting_for_arguments.values() if task.queue is queue]
        dying = [lease for lease_id, lease in self._dying.items() if self._by_lease.get(lease_id) is queue]
        leases = [*queue.leases.values(), *dying]
        return [*(task for lease in leases for task in lease.tasks.values()), *queue.waiting, *without]

    def cancel_children(self, parent: Running, before: float = math.inf) -> None:
        """Cancel all that `parent` submitted, here and to actors. What waits for an argument of theirs fails, too.

        before: only calls with lower numbers.
        """
        self._runtime.actors.cancel_children(parent, before)
        for queue in list(self._queues.values()):
            for task in self._tasks_of(queue):
                if task.parent is parent and task.seq < before and not task.cancelled:
                    task.timed_out = task.deadline <= self._runtime.reactor.time()
                    self.cancel(task)

    def close(self, reason: str) -> None:
        """Everything that is still pending fails; idle workers go back, as those we keep are killed when we go."""
        for queue in self._queues.values():
            for lease in queue.leases.values():
                if not lease.tasks:
                    self._return(LeaseReturn(lease.lease_id))
            for task in self._tasks_of(queue):
                fail(self._runtime, task, WorkerCrashedError(reason, task.name))
            queue.waiting.clear()
            queue.leases.clear()
        self._dying.clear()
        self._visits.close()
        self._waiting_for_arguments.clear()
        for worker in self._workers.values():
            worker.connection.close()
        self._workers.clear()
