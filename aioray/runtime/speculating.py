"""Calls with `speculative=True`: two attempts may be under way, and the first that succeeds gives the results.

Each attempt is an ordinary task with refs of its own, which nobody else sees, so retries, cancels, late results and
what workers tell the node in their name are as for any task. The refs that the caller holds are other ones: of the same
task as the first attempt, so that they have its id, but with numbers that no attempt returns. They take their values
from the attempt that wins (`other_names.py`).
"""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Any

from aioray.refs import CANCELLED, RAISED, ObjectRef
from aioray.runtime import other_names
from aioray.runtime.calls import NO_DEADLINE
from aioray.runtime.pipeline import Duration
from aioray.runtime.stragglers import Durations, Seen, Stragglers
from aioray.runtime.task_records import Task
from aioray.runtime.unseen import looked_at

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aioray.runtime.calls import Arguments, Running
    from aioray.runtime.pipeline import KeyQueue
    from aioray.runtime.runtime import Runtime
    from aioray.runtime.task_records import TaskTarget

_MOST_KINDS = 1000  # of which durations are remembered
PUBLIC = 0x8000  # return indexes from here on are of the refs that callers hold


class LastSeen(Duration, eq=False):
    """Also remembers the last one, for who is told of success right after it."""

    last_us: int = 0

    def observe(self, exec_us: int) -> None:
        Duration.observe(self, exec_us)
        self.last_us = exec_us


class Kind:
    """Calls of one function with the same demands: what is known of one helps to judge another."""

    __slots__ = ("duration", "durations")

    def __init__(self) -> None:
        self.duration = LastSeen()
        self.durations = Durations()


class Race:
    """One call, until it has a result. What can be cancelled, and have a deadline, as a task can."""

    __slots__ = (
        "__weakref__",
        "_speculator",
        "arguments",
        "cancelled",
        "copy",
        "deadline",
        "first",
        "kind",
        "parent",
        "refs",
        "target",
        "timed_out",
    )

    first: Task

    def __init__(
        self,
        speculator: Speculator,
        kind: Kind,
        target: TaskTarget,
        arguments: Arguments,
        refs: tuple[ObjectRef[Any], ...],
        parent: Running | None,
    ) -> None:
        self._speculator = speculator
        self.kind = kind
        self.target = target
        self.arguments = arguments
        self.refs = refs
        self.parent = parent
        self.copy: Task | None = None
        self.deadline = NO_DEADLINE
        self.cancelled = False
        self.timed_out = False

    @property
    def name(self) -> str:
        return self.target.function.name

    def ended(self, last: ObjectRef[Any]) -> None:
        """An attempt has, all of whose refs are made: the last one is `last`."""
        first, copy = self.first, self.copy
        winner, other = (first, copy) if copy is None or last is first.refs[-1] else (copy, first)
        if last._status in (RAISED, CANCELLED):
            if other is not None and not _is_over(other):
                return  # which goes on
            winner, other = first, copy  # what the call itself met with, not what befell its copy
        else:
            self.kind.durations.add(self.kind.duration.last_us / 1e6)
        self._speculator.over(first.seq)
        objects = self._speculator.runtime.objects
        for ref, made in zip(self.refs, winner.refs, strict=True):
            other_names.take_from(objects, ref, made)
        if other is not None:
            self._let_go(other)

    def _let_go(self, loser: Task, *, force: bool = False, recursive: bool = True) -> None:
        """It does not count any more, whatever becomes of it, and keeps nothing of this call alive."""
        last = loser.refs[-1]
        if _is_over(loser):
            looked_at(last)
            return
        last._drop_callback(self.ended)
        last._when_made(looked_at)
        if not loser.cancelled:
            self._speculator.runtime.tasks.cancel(loser, force=force, recursive=recursive)

    def cancel(self, *, force: bool, recursive: bool) -> None:
        """Stop it. What is told is what comes of the attempt that is left, as for a task with only that one."""
        self.cancelled = True
        self._speculator.over(self.first.seq)
        left: Task | None = self.first
        if self.copy is not None:
            if _is_over(self.first):
                left = self.copy
            else:
                self._let_go(self.copy, force=force, recursive=recursive)
                self.copy = None
        if left is not None and not _is_over(left):
            left.timed_out = self.timed_out
            self._speculator.runtime.tasks.cancel(left, force=force, recursive=recursive)

    def state(self) -> tuple[str, int | None]:
        """In words, and the lease request to ask the node about, if an attempt waits for one."""
        state_of = self._speculator.runtime.tasks.state_of
        first, lease_id = ("has failed", None) if _is_over(self.first) else state_of(self.first)
        if self.copy is None or _is_over(self.copy):
            return first, lease_id
        copy, copys_lease_id = state_of(self.copy)
        if lease_id is not None:  # what the node says of it comes after it
            return f"has a copy that {copy}, and itself {first}", lease_id
        return f"{first}, and a copy of it {copy}", copys_lease_id


class Speculator:
    """Has copies made of calls of this process that run for too long. Called with the reactor's lock held."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._kinds: dict[tuple[str, KeyQueue], Kind] = {}
        self._without_copy: dict[int, Race] = {}  # by the number of the first attempt
        self._queues: collections.Counter[KeyQueue] = collections.Counter()  # of how many of these
        self._stragglers = Stragglers()
        self._looks = False

    def race(
        self,
        target: TaskTarget,
        arguments: Arguments,
        refs: tuple[ObjectRef[Any], ...],
        parent: Running | None,
    ) -> Race:
        """A call to come."""
        key = target.function.fn_id, target.queue
        kind = self._kinds.get(key)
        if kind is None:
            if len(self._kinds) == _MOST_KINDS:
                del self._kinds[next(iter(self._kinds))]
            kind = self._kinds[key] = Kind()
        return Race(self, kind, target, arguments, refs, parent)

    def begin(self, race: Race, seq: int) -> None:
        """The first attempt."""
        race.first = self._attempt(race, seq, race.target.options.max_retries)
        self._without_copy[seq] = race
        self._queues[race.target.queue] += 1
        self.runtime.tasks.submit(race.first)
        if not self._looks and self._without_copy:
            self._stragglers.begin(self.runtime.reactor.time())
            self._look()

    def _attempt(self, race: Race, seq: int, retries: int) -> Task:
        target = race.target
        refs: tuple[ObjectRef[Any], ...] = tuple(
            ObjectRef(self.runtime, seq, index) for index in range(target.num_returns)
        )
        task = Task(
            seq,
            target,
            race.arguments,
            refs,
            target.queue,
            race.kind.duration,
            retries,
            race.parent,
            race.deadline,
        )
        for ref in refs:
            ref._task = task
        refs[-1]._when_made(race.ended)
        return task

    def over(self, seq: int) -> None:
        """Of this call no copy is to be made any more."""
        race = self._without_copy.pop(seq, None)
        if race is not None:
            queue = race.target.queue
            self._queues[queue] -= 1
            if not self._queues[queue]:
                del self._queues[queue]

    def _look(self) -> None:
        """The timer is set as long as there are calls of which copies may be made."""
        runtime = self.runtime
        self._looks = bool(self._without_copy) and not runtime.closed
        if not self._looks:
            return
        now = runtime.reactor.time()
        copy, again_at = self._stragglers.look(self._running(), now)
        for seq in copy:
            race = self._without_copy[seq]
            self.over(seq)
            self._make_copy(race)
        runtime.reactor.call_later(again_at - now, self._look)

    def _running(self) -> Iterator[Seen]:
        """What is first in line on a worker: looked for there, since many more may wait."""
        for queue in self._queues:
            for lease in queue.leases.values():
                if not lease.tasks:
                    continue
                first: Task = next(iter(lease.tasks.values()))
                race = self._without_copy.get(first.seq)
                if race is not None and not first.cancelled:
                    yield Seen(first.seq, lease.lease_id, race.kind.durations)

    def _make_copy(self, race: Race) -> None:
        """A bonus: when its worker dies it is not tried again, as the first attempt goes on in any case."""
        lease = race.first.lease
        if lease is not None:
            lease.reserved = True  # busy for long, as we know now: the copy is not to wait behind it
        race.copy = self._attempt(race, next(self.runtime.seqs), 0)
        self.runtime.tasks.submit(race.copy)


def _is_over(task: Task) -> bool:
    return task.refs[-1]._is_made()
