"""The caller's side of tasks: from `f.remote(x)` to a result, over leased workers (`leases.py`)."""

from __future__ import annotations

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
from aioray.runtime.leases import Leases
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
from aioray.wire.values import Value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aioray.runtime.connection import Connection
    from aioray.runtime.leases import Worker
    from aioray.runtime.pipeline import KeyQueue, Lease
    from aioray.runtime.runtime import Runtime
    from aioray.runtime.task_records import Task


_FORCE_GRACE_S = 0.1  # how long a worker has to cancel what its call began, before the node kills it


class TaskSubmitter:
    """Queues tasks, sends them to leased workers, takes their results. Called with the reactor's lock held."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.leases = Leases(runtime, self)
        self._waiting_for_arguments: dict[int, Task] = {}
        self._reporter = runtime.reporter

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
        worker: Worker = lease.connection
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
        elif type(message) is Repeat:
            worker.connection.send_small(message, len(message.args))
        else:
            worker.connection.send(message)

    def _call(self, worker: Worker, task: Task) -> Call:
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
            labels=options._labels,
        )
        if target.num_returns < 0:
            call.streaming = self._runtime.streams.start(task.seq, worker.connection)
        strategy = task.queue.strategy
        if strategy is not None:
            call.placement = strategy.group
        if task.deadline != NO_DEADLINE:
            call.time_left_us = time_left_us(task, self._runtime.reactor.time())
        return call

    def pump(self, queue: KeyQueue) -> None:
        """Send what can be sent, and ask for workers for the rest."""
        waiting = queue.waiting
        while waiting:
            lease = queue.assign(waiting[0])
            if lease is None:
                break
            self._send(lease, waiting.popleft())
        if waiting:
            self._ask(queue)
        elif queue.requested or not self.leases.surplus_due:
            self.leases.want_no_more(queue)

    def _ask(self, queue: KeyQueue) -> None:
        if not self._reporter.armed:
            self._reporter.arm()
        self.leases.ask(queue)

    # what becomes of leases

    def request_failed(self, queue: KeyQueue, reason: str) -> None:
        """The worker that was to come died first."""
        if queue.waiting:
            task = queue.waiting.popleft()
            self._fail(task, task.crashed(reason))

    def cannot_be_set_up(self, queue: KeyQueue, reason: str) -> None:
        """All that waits now fails; what is submitted from here on has it tried again."""
        self.leases.withdraw(queue)
        waiting = list(queue.waiting)
        queue.waiting.clear()
        for task in waiting:
            fail(self._runtime, task, RuntimeEnvSetupError(f"{task.name}(): {reason}"))

    def turned_away(self, queue: KeyQueue, reason: str) -> None:
        """What waits for a node that does not exist fails; of what is not to wait, that which has no worker now."""
        affinity = queue.strategy.affinity
        count = 1 if affinity is not None and affinity.fail_on_unavailable else len(queue.waiting)
        for _ in range(min(count, len(queue.waiting))):
            task = queue.waiting.popleft()
            self._fail(task, TaskUnschedulableError(f"{task.name}() {reason}"))

    def group_removed(self, queue: KeyQueue, lease: Lease | None, reason: str) -> None:
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

    def heard_from_worker(self, connection: Connection, messages: list[Any]) -> None:
        """Results, above all."""
        lease: Lease | None = connection.tag[1].lease
        if lease is None:
            self._runtime.streams.came_late(connection, messages)
            return
        queue = self.leases.by_id[lease.lease_id]
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
                    self.leases.give_back(queue, lease.lease_id, retire=True)
                    break
                self._given_back(queue, lease, message.seqs, now)
        if lease.tasks:
            first: Task = next(iter(lease.tasks.values()))
            if first.force:  # it was next in line when it was cancelled
                self._force(lease, first)
        elif (lease.is_wanted or queue.is_done_with(lease)) and lease.lease_id in queue.leases:
            self.leases.give_back(queue, lease.lease_id)
        self.pump(queue)

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

    def worker_died(self, queue: KeyQueue, lease: Lease, reason: str, kind: type[NodeDiedError] | None = None) -> None:
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
            self.pump(task.queue)
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
        self.leases.kill(task.queue, lease)
        self.worker_died(task.queue, lease, "cancelled by force")
        self.pump(task.queue)

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
        if lease_id is not None and (node_id := self.leases.node_of(lease_id)):
            return f"waits for a worker of node {node_id}", None
        return "waits for a worker", lease_id

    def after_its_cancel(self, seq: int) -> str:
        """Where the code of a call that was cancelled still runs, in words; "" when it does not."""
        for queue in self.leases.queues.values():
            for task in self._tasks_of(queue):
                if task.seq == seq and task.cancelled:
                    return self.state_of(task)[0]
        return ""

    def waiting(self, limit: int) -> Iterator[tuple[Task | None, int]]:
        """Tasks that wait for arguments or for a worker, each with 1; those beyond `limit` as None, and how many."""
        for tasks in (self._waiting_for_arguments.values(), *(queue.waiting for queue in self.leases.queues.values())):
            yield from ((task, 1) for task in itertools.islice(tasks, limit))
            if len(tasks) > limit:
                yield None, len(tasks) - limit
            limit = max(0, limit - len(tasks))

    def _tasks_of(self, queue: KeyQueue) -> list[Task]:
        """All that wait for a worker or for arguments, or have a worker."""
        without = [task for task in self._waiting_for_arguments.values() if task.queue is queue]
        sent = (task for lease in self.leases.of(queue) for task in lease.tasks.values())
        return [*sent, *queue.waiting, *without]

    def cancel_children(self, parent: Running, before: float = math.inf) -> None:
        """Cancel all that `parent` submitted, here and to actors. What waits for an argument of theirs fails, too.

        before: only calls with lower numbers.
        """
        self._runtime.actors.cancel_children(parent, before)
        for queue in list(self.leases.queues.values()):
            for task in self._tasks_of(queue):
                if task.parent is parent and task.seq < before and not task.cancelled:
                    task.timed_out = task.deadline <= self._runtime.reactor.time()
                    self.cancel(task)

    def close(self, reason: str) -> None:
        """Everything that is still pending fails."""
        for queue in self.leases.queues.values():
            for task in self._tasks_of(queue):
                fail(self._runtime, task, WorkerCrashedError(reason, task.name))
            queue.waiting.clear()
        self._waiting_for_arguments.clear()
        self.leases.close()
