"""The caller's side of actors: where each lives, its calls in order, and what becomes of them when it dies.

An actor that is restarted goes on where its calls stood: what was answered is answered, what was not sent waits, what
was under way is sent again, in its old place, if it may be, and fails if not.
"""

from __future__ import annotations

import functools
import weakref
from typing import TYPE_CHECKING, Any

from aioray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    PendingCallsLimitExceeded,
    RayTaskError,
)
from aioray.options import type_name
from aioray.refs import READY
from aioray.runtime.actor_lines import ActorCallRecord, ActorLine, ActorProcess, RemoteActor, rules_of
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
from aioray.runtime.unseen import unseen
from aioray.wire.calls import Call, Cancel, Done, Finished, Repeat, Yielded
from aioray.wire.control import ActorUpdate, Release, WatchActor
from aioray.wire.framing import call_decoder
from aioray.wire.values import Value, owner_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioray.runtime.connection import Connection
    from aioray.runtime.runtime import Runtime

_LAST_WORDS_S = 1.0  # how long the node may take to say why an actor died


class ActorCaller:
    """All actors that a process calls. Called with the reactor's lock held, but for `gone`."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._lines: dict[bytes, ActorLine] = {}
        self._processes: dict[str, ActorProcess] = {}  # by address

    def adopt(self, actor_id: bytes, cls: str, methods: dict[str, str], *, held: bool) -> RemoteActor:
        """The one RemoteActor of this process for an actor; `held`: the node counts us as a holder already."""
        line = self._lines.get(actor_id)
        if line is None:
            line = self._lines[actor_id] = ActorLine(actor_id, cls, rules_of(methods.get("", "")))
        remote = line.remote() if line.remote is not None else None
        if remote is None or remote.is_going:  # the second: its finalizer is running in another thread
            line.remotes += 1
            remote = RemoteActor(self._runtime, actor_id, cls, methods, line)
            line.remote = weakref.ref(remote)
            if not held:
                self._runtime.objects.holds_actor(actor_id)
            if not line.watched:
                line.watched = True
                self._runtime.link.send(WatchActor(actor_id))
        return remote

    def gone(self, line: ActorLine) -> None:
        """From RemoteActor.__del__, in any thread: no handle here, and no call under way."""
        if not self._runtime.reactor.closed:
            self._runtime.reactor.call_soon(lambda: self._release(line))

    def _release(self, line: ActorLine) -> None:
        line.remotes -= 1
        if line.remotes or self._lines.get(line.actor_id) is not line:
            return
        self._runtime.link.send(Release(self._runtime.process_id, [line.actor_id]))
        self._forget(line)  # the node tells us no more about it: should a handle come back, all begins anew

    def _forget(self, line: ActorLine) -> None:
        self._lines.pop(line.actor_id, None)
        self._leave(line)

    def _leave(self, line: ActorLine) -> None:
        """Nothing goes to its process any more, on its behalf."""
        process, line.process = line.process, None
        if process is None:
            return
        process.lines.pop(line, None)
        if not process.lines:
            process.connection.close()
            if self._processes.get(line.address) is process:
                del self._processes[line.address]

    # calls

    def require_room(self, line: ActorLine, name: str) -> None:
        """Raises PendingCallsLimitExceeded when as many calls are unanswered as may be."""
        limit = line.rules.max_pending_calls
        if limit < 0:
            return
        with self._runtime.reactor.lock:
            waiting = len(line.queue) + len(line.late)
            process = line.process
            if process is not None and waiting + len(process.flight) >= limit:  # that counts its neighbours', too
                waiting += len(process.flight_of(line))
        if waiting >= limit:
            raise PendingCallsLimitExceeded(
                f"{name}(): {waiting} calls to actor {line.actor_id.hex()} are pending here, max_pending_calls={limit}"
            )

    def submit(self, line: ActorLine, record: ActorCallRecord) -> None:
        """Send a call when all before it are sent and its arguments are there."""
        if line.state == "dead":
            self._fail(record, line)
            return
        deps = record.arguments.deps
        if deps and not all(ref._is_made() for _, ref in deps):
            if line.rules.any_order:
                line.late[record.seq] = record
                when_ready(deps, lambda: self._no_longer_late(line, record))
            else:
                line.queue.append(record)
                when_ready(deps, lambda: self._pump(line))
        else:
            line.queue.append(record)
            self._pump(line)

    def _no_longer_late(self, line: ActorLine, record: ActorCallRecord) -> None:
        if line.late.pop(record.seq, None) is not None:  # else cancelled meanwhile, or the actor has died
            line.queue.append(record)
            self._pump(line)

    def _pump(self, line: ActorLine) -> None:
        process = line.process
        if process is None or process.connection.closed or line.on_hold:
            return
        connection, flight = process.connection, process.flight
        queue = line.queue
        while queue:
            record = queue[0]
            deps = record.arguments.deps
            wired: Sequence[tuple[int, Value]] = ()
            if deps:
                if not all(ref._is_made() for _, ref in deps):
                    return  # in order: what comes later waits, too
                failed = first_failed(deps)
                if failed is not None:
                    queue.popleft()
                    fail_with(self._runtime, record, failed)
                    self._void(record)
                    continue
                wired = wire_deps(self._runtime, deps)
            queue.popleft()
            record.sent = True
            flight[record.seq] = record
            message = self._message(process, line, record, wired)
            if len(flight) == 1:
                connection.send_now(message)
            elif type(message) is Repeat:
                connection.send_small(message, len(message.args))
            else:
                connection.send(message)

    def _message(
        self, process: ActorProcess, line: ActorLine, record: ActorCallRecord, wired: Sequence[tuple[int, Value]]
    ) -> Call | Repeat:
        target, arguments = record.target, record.arguments
        # Light actors are too many for each to have numbers of its own.
        if not (wired or line.slot or arguments.kwnames) and target.num_returns >= 0 and record.deadline == NO_DEADLINE:
            pattern = process.patterns.numbers.get(target)
            if pattern is None:
                pattern = process.patterns.agree(target, _call, line, record, wired)
            if pattern is not None:
                return Repeat(record.seq, pattern, arguments.data)
        call = _call(line, record, wired)
        if record.deadline != NO_DEADLINE:
            call.time_left_us = time_left_us(record, self._runtime.reactor.time())
        if target.num_returns < 0:
            call.streaming = self._runtime.streams.start(record.seq, process.connection, line.slot)
        return call

    def _fail(self, record: ActorCallRecord, line: ActorLine) -> None:
        if record.cancelled:
            fail(self._runtime, record, cancelled(record))
        elif line.error is not None:
            if line.unseen is not None:
                line.unseen.seen = True  # this call's caller is told
            complete(self._runtime, record, [line.error])
        else:
            error = ActorDiedError(line.actor_id.hex(), line.reason, record.name)
            wanted = any(ref.binary() == line.ended_by for ref in record.refs)
            fail(self._runtime, record, error, expected=line.killed_here or wanted)
        self._void(record)

    def _void(self, record: ActorCallRecord) -> None:
        """A call is over: what was made for it before, and did not become its result, is nobody's."""
        if record.lost_worker and not self._runtime.closed:
            self._runtime.objects.void_results(record.refs)

    def cancel(self, record: ActorCallRecord, *, recursive: bool = True) -> None:
        """Stop one call; `recursive`: and all that it began."""
        record.cancelled = True
        line = record.actor.line
        if line.late.pop(record.seq, None) is not None:
            fail(self._runtime, record, cancelled(record))
        elif record in line.queue:
            line.queue.remove(record)
            fail(self._runtime, record, cancelled(record))
            self._void(record)
            self._pump(line)
        elif line.process is not None:
            line.process.connection.send(Cancel(record.seq, line.slot, recursive))

    def cancel_children(self, parent: Running, before: float) -> None:
        """Cancel all calls that `parent` made, of those with numbers lower than `before`."""
        sent = [record for process in self._processes.values() for record in process.flight.values()]
        lines = list(self._lines.values())
        unsent = [record for line in lines for record in (*line.queue, *line.late.values())]
        for record in [*sent, *unsent]:
            if record.parent is parent and record.seq < before and not record.cancelled:
                record.timed_out = record.deadline <= self._runtime.reactor.time()
                self.cancel(record)

    def kill(self, actor_id: bytes, reason: str, *, no_restart: bool = True) -> None:
        """End an actor now; calls under way fail. Asked, not told: when this returns, its name is free."""
        line = self._lines.get(actor_id)
        if line is None:
            self._runtime.ask("kill_actor", actor_id=actor_id, reason=reason, no_restart=no_restart)
            return
        line.killed_here = True
        heard = line.updates
        self._runtime.ask("kill_actor", actor_id=actor_id, reason=reason, no_restart=no_restart)
        with self._runtime.reactor.lock:
            if line.updates == heard:  # what became of it is on its way here: what is called now is for its next life
                line.on_hold = True

    # what the node says

    def updated(self, update: ActorUpdate) -> None:
        """An actor is up, or gone, or will be back."""
        line = self._lines.get(update.actor_id)
        if line is None:
            return
        line.updates += 1
        line.on_hold = False
        if update.state == "alive":
            if line.state == "alive" and line.process is not None and not line.process.connection.closed:
                return  # told twice
            if line.state == "alive":  # it lives on, and only the connection to it broke
                self._interrupt(line, f"the connection to it broke ({line.reason or 'it could not be reached'})")
            line.state, line.address, line.slot = "alive", update.address, update.slot
            self._connect(line)
        elif update.state == "restarting":
            if line.process is not None:
                line.process.connection.drain()  # what it got done is not lost with it
            line.state, line.reason = "restarting", update.reason
            self._tell_plans(line)
            self._interrupt(line, f"{update.reason}; it is being restarted")
            line.killed_here = False
        elif update.state == "dead":
            if line.process is not None:
                line.process.connection.drain()  # what it got done is not lost with it
            was_up = line.state == "alive"
            line.state, line.reason, line.error = "dead", update.reason, update.error
            line.ended_by = update.ended_by
            if line.error is not None and not was_up and owner_of(line.actor_id) == self._runtime.process_id:
                line.unseen = unseen(self._runtime, f"the constructor of {line.cls}", line.error)
            self._fail_all(line)

    @staticmethod
    def _tell_plans(line: ActorLine) -> None:
        for plan in list(line.plans):
            plan.lost_actor(line)

    def _connect(self, line: ActorLine) -> None:
        runtime = self._runtime
        remote = line.remote() if line.remote is not None else None
        if remote is not None:
            remote.creation_pins = None
        process = self._processes.get(line.address)
        if process is None:
            try:
                connection = runtime.dialer.connection(
                    runtime.reactor, line.address, call_decoder, self._on_messages, self._on_close
                )
            except OSError as exc:
                # Dying already, as a rule, and the node will say so.
                line.reason = f"{exc.strerror}"
                runtime.reactor.call_later(_LAST_WORDS_S, lambda: self._ask_about(line, line.address))
                return
            process = connection.tag = self._processes[line.address] = ActorProcess(connection)
            connection.send(runtime.greeting())
        else:
            process.connection.drain()  # what it said of an earlier life of the actor has nothing to do with this one
        line.process = process
        process.lines[line] = None
        self._pump(line)

    def _recall(self, line: ActorLine) -> list[ActorCallRecord]:
        """What was sent to it and not answered, oldest first. Nothing goes there any more, or comes from there."""
        process = line.process
        sent = [] if process is None else process.flight_of(line)
        for record in sent:
            assert process is not None
            del process.flight[record.seq]
            record.lost_worker = True
        self._leave(line)
        return sent

    def _interrupt(self, line: ActorLine, why: str) -> None:
        """It cannot be reached for now: what was sent is sent again when it is back, or fails if it may not be."""
        again = []
        sent = self._recall(line)
        for record in sent:
            if record.take_retry():
                record.sent = False
                again.append(record)
                continue
            if record.cancelled:
                fail(self._runtime, record, cancelled(record))
            else:
                reason = f"{why}; the call had been sent, and may have run, wholly or in part"
                error = ActorUnavailableError(line.actor_id.hex(), reason, record.name)
                fail(self._runtime, record, error, expected=line.killed_here)
            self._void(record)
        line.queue.extendleft(reversed(again))

    def _fail_all(self, line: ActorLine) -> None:
        sent = self._recall(line)
        records = [*sent, *line.queue, *line.late.values()]
        line.queue.clear()
        line.late.clear()
        self._tell_plans(line)
        for record in records:
            self._fail(record, line)
        if not line.remotes:
            self._forget(line)

    # what actors say

    def _on_messages(self, connection: Connection, messages: list[Any]) -> None:
        flight = connection.tag.flight
        for message in messages:
            if type(message) is Yielded:
                self._runtime.streams.received(message)
                continue
            record = flight.pop(message.seq, None)
            if record is None:
                continue
            if type(message) is Done:
                record.refs[0]._complete(READY, Value(message.data), record.name)
                self._void(record)
            elif type(message) is Finished:
                if record.target.retry_on and self._retries(record, message.values):
                    if message.values[0].refs:  # let go of when it is over: see TaskSubmitter._try_again
                        record.lost_worker = True
                    self._again(record)
                else:
                    complete(self._runtime, record, message.values)
                    self._void(record)

    def _retries(self, record: ActorCallRecord, values: list[Value]) -> bool:
        """Whether a call is to be sent again because of what it raised; uses up a retry."""
        if len(values) != 1 or not values[0].is_error or not values[0].summary or not record.retries_left:
            return False
        types = record.target.retry_on
        if types is not True:
            assert isinstance(types, tuple)
            try:
                error = self._runtime.objects.load(values[0])
            except Exception:  # it cannot be had here, and so is none of those that were named
                return False
            cause = error.cause if isinstance(error, RayTaskError) and error.cause is not None else error
            if not any(type_name(cls) in types for cls in type(cause).__mro__):
                return False
        return record.take_retry()

    def _again(self, record: ActorCallRecord) -> None:
        line = record.actor.line
        record.sent = False
        line.queue.appendleft(record)
        self._pump(line)

    def _on_close(self, connection: Connection, reason: str) -> None:
        # The node hears of the death as well, and knows the reason: its update fails the calls.
        process: ActorProcess = connection.tag
        for line in process.lines:
            if self._processes.get(line.address) is process:
                del self._processes[line.address]  # should one live on there, the way to it is a new one
            if line.state == "alive":
                line.reason = reason
            self._runtime.reactor.call_later(_LAST_WORDS_S, functools.partial(self._ask_about, line, line.address))

    def _ask_about(self, line: ActorLine, address: str) -> None:
        """The node has not said that it died: have it say what it knows."""
        if self._lines.get(line.actor_id) is not line or line.state != "alive" or line.address != address:
            return
        if line.process is None or line.process.connection.closed:
            self._runtime.link.send(WatchActor(line.actor_id))

    def state_of(self, record: ActorCallRecord) -> str:
        """Where a call is, in words."""
        line = record.actor.line
        if record.sent:
            ahead = 0 if line.process is None else line.process.flight_of(line).index(record)
            state = f"was sent to actor {line.cls}, {ahead} calls of this process before it"
            return state + (STILL_RUNS if record.cancelled else "")
        if not all(ref._is_made() for _, ref in record.arguments.deps):
            return "waits for its arguments"
        return f"waits for actor {line.cls} ({line.state})"

    def after_its_cancel(self, seq: int) -> str:
        """Where the code of a call that was cancelled still runs, in words; "" when it does not."""
        for process in self._processes.values():
            record = process.flight.get(seq)
            if record is not None and record.cancelled:
                return self.state_of(record)
        return ""

    def close(self, reason: str) -> None:
        """Everything that is still pending fails."""
        for line in list(self._lines.values()):
            line.state, line.reason = "dead", reason
            self._fail_all(line)
        self._lines.clear()


def _call(line: ActorLine, record: ActorCallRecord, wired: Sequence[tuple[int, Value]]) -> Call:
    """A Call, but for what goes with a deadline or a stream."""
    target, arguments = record.target, record.arguments
    call = Call(record.seq, target.method, arguments.data, arguments.kwnames, list(wired), target.num_returns)
    call.slot, call.group, call.name, call.quiet = line.slot, target.group, target.given_name, target.quiet
    return call
