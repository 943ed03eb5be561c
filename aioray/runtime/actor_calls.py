"""The caller's side of actors: where each lives, its calls in order, and what becomes of them when it dies."""

from __future__ import annotations

import collections
import weakref
from typing import TYPE_CHECKING, Any

from aioray.exceptions import ActorDiedError, TaskCancelledError
from aioray.refs import PENDING, READY, ObjectRef
from aioray.runtime.calls import Arguments, complete, fail, fail_with, first_failed, when_ready, wire_deps
from aioray.runtime.connection import Connection, dial
from aioray.wire.calls import Call, Cancel, Done, Finished, Greeting
from aioray.wire.control import ActorUpdate, Release, WatchActor
from aioray.wire.framing import call_decoder
from aioray.wire.values import Value

if TYPE_CHECKING:
    from aioray.runtime.runtime import Runtime

_LAST_WORDS_S = 1.0  # how long the node may take to say why an actor died


class ActorCallRecord:
    """One method call, until it has a result."""

    __slots__ = ("actor", "arguments", "cancelled", "method", "num_returns", "parent", "refs", "sent", "seq")

    def __init__(
        self,
        actor: RemoteActor,
        seq: int,
        method: str,
        arguments: Arguments,
        refs: tuple[ObjectRef[Any], ...],
        parent: object = None,
    ) -> None:
        self.actor = actor  # keeps the actor alive until the call is through
        self.seq = seq
        self.parent = parent  # the call, in this process, that made it
        self.method = method
        self.arguments = arguments
        self.refs = refs
        self.sent = False
        self.cancelled = False


class RemoteActor:
    """An actor as one process sees it. All its handles here share this; when it goes, the actor may."""

    __slots__ = ("__weakref__", "_line", "actor_id", "cls", "creation_pins", "is_going", "methods", "runtime")

    def __init__(self, runtime: Runtime, actor_id: bytes, cls: str, methods: dict[str, int], line: ActorLine) -> None:
        self.runtime = runtime
        self.actor_id = actor_id
        self.cls = cls
        self.methods = methods
        self._line = line
        self.is_going = False
        self.creation_pins: Any = None  # arguments of the constructor, until it has run

    @property
    def line(self) -> ActorLine:
        return self._line

    def __del__(self) -> None:
        self.is_going = True
        self.runtime.actors.gone(self._line)


class ActorLine:
    """The calls to one actor and the connection they go over. Sends in the order of submission."""

    __slots__ = (
        "actor_id",
        "address",
        "cls",
        "connection",
        "error",
        "flight",
        "queue",
        "reason",
        "remote",
        "remotes",
        "state",
        "watched",
    )

    def __init__(self, actor_id: bytes, cls: str) -> None:
        self.actor_id = actor_id
        self.cls = cls
        self.state = "pending"
        self.address = ""
        self.reason = ""
        self.error: Value | None = None
        self.connection: Connection | None = None
        self.queue: collections.deque[ActorCallRecord] = collections.deque()
        self.flight: dict[int, ActorCallRecord] = {}
        self.remote: weakref.ref[RemoteActor] | None = None
        self.remotes = 0  # one as a rule, two while one is dying as the next handle arrives
        self.watched = False


class ActorCaller:
    """All actors that a process calls. Called with the reactor's lock held, but for `gone`."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._lines: dict[bytes, ActorLine] = {}

    def adopt(self, actor_id: bytes, cls: str, methods: dict[str, int], *, held: bool) -> RemoteActor:
        """The one RemoteActor of this process for an actor; `held`: the node counts us as a holder already."""
        line = self._lines.get(actor_id)
        if line is None:
            line = self._lines[actor_id] = ActorLine(actor_id, cls)
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
        if line.connection is not None:
            line.connection.close()

    # calls

    def submit(self, line: ActorLine, record: ActorCallRecord) -> None:
        """Send a call when all before it are sent and its arguments are there."""
        if line.state == "dead":
            self._fail(record, line)
            return
        line.queue.append(record)
        deps = record.arguments.deps
        if deps and any(ref._status == PENDING for _, ref in deps):
            when_ready(deps, lambda: self._pump(line))
        else:
            self._pump(line)

    def _pump(self, line: ActorLine) -> None:
        connection = line.connection
        if connection is None:
            return
        queue = line.queue
        while queue:
            record = queue[0]
            deps = record.arguments.deps
            wired: list[tuple[int, Value]] = []
            if deps:
                if any(ref._status == PENDING for _, ref in deps):
                    return  # in order: what comes later waits, too
                failed = first_failed(deps)
                if failed is not None:
                    queue.popleft()
                    fail_with(record.refs, failed)
                    continue
                wired = wire_deps(self._runtime, deps)
            queue.popleft()
            record.sent = True
            line.flight[record.seq] = record
            arguments = record.arguments
            send = connection.send if len(line.flight) > 1 else connection.send_now
            send(Call(record.seq, record.method, arguments.data, arguments.kwnames, wired, len(record.refs)))

    def _fail(self, record: ActorCallRecord, line: ActorLine) -> None:
        if record.cancelled:
            fail(record.refs, TaskCancelledError(record.refs[0].task_id() if record.refs else ""))
        elif line.error is not None:
            complete(self._runtime, record.refs, [line.error])
        else:
            fail(record.refs, ActorDiedError(line.actor_id.hex(), line.reason))

    def cancel(self, record: ActorCallRecord) -> None:
        """Stop one call."""
        record.cancelled = True
        line = record.actor.line
        if record in line.queue:
            line.queue.remove(record)
            fail(record.refs, TaskCancelledError(record.refs[0].task_id() if record.refs else ""))
            self._pump(line)
        elif line.connection is not None:
            line.connection.send(Cancel(record.seq))

    def cancel_children(self, parent: object) -> None:
        """Cancel all calls that `parent` made."""
        for line in list(self._lines.values()):
            for record in [*line.flight.values(), *line.queue]:
                if record.parent is parent:
                    self.cancel(record)

    def kill(self, actor_id: bytes, reason: str) -> None:
        """End an actor now; calls under way fail. Asked, not told: when this returns, its name is free."""
        self._runtime.ask("kill_actor", actor_id=actor_id, reason=reason)

    # what the node says

    def updated(self, update: ActorUpdate) -> None:
        """An actor is up, or gone."""
        line = self._lines.get(update.actor_id)
        if line is None:
            return
        if update.state == "alive" and line.state != "alive":
            line.state, line.address = "alive", update.address
            self._connect(line)
        elif update.state == "dead":
            if line.connection is not None:
                line.connection.drain()  # what it got done is not lost with it
            line.state, line.reason, line.error = "dead", update.reason, update.error
            self._fail_all(line)

    def _connect(self, line: ActorLine) -> None:
        runtime = self._runtime
        remote = line.remote() if line.remote is not None else None
        if remote is not None:
            remote.creation_pins = None
        try:
            sock = dial(line.address)
        except OSError as exc:
            # Dying already, as a rule, and the node will say so.
            reason = f"{exc.strerror}"
            runtime.reactor.call_later(_LAST_WORDS_S, lambda: self._died_untold(line, reason))
            return
        line.connection = Connection(runtime.reactor, sock, call_decoder, self._on_messages, self._on_close)
        line.connection.tag = line
        line.connection.send(Greeting(runtime.process_id, runtime.sys_path))
        self._pump(line)

    def _fail_all(self, line: ActorLine) -> None:
        if line.connection is not None:
            line.connection.close()
            line.connection = None
        records = [*line.flight.values(), *line.queue]
        line.flight.clear()
        line.queue.clear()
        for record in records:
            self._fail(record, line)
            if record.sent and not self._runtime.closed:
                self._runtime.objects.void_results(record.refs)
        if not line.remotes:
            self._forget(line)

    # what actors say

    def _on_messages(self, connection: Connection, messages: list[Any]) -> None:
        flight = connection.tag.flight
        for message in messages:
            record = flight.pop(message.seq, None)
            if record is None:
                continue
            if type(message) is Done:
                record.refs[0]._complete(READY, Value(message.data))
            elif type(message) is Finished:
                complete(self._runtime, record.refs, message.values)

    def _on_close(self, connection: Connection, reason: str) -> None:
        # The node hears of the death as well, and knows the reason: its update fails the calls.
        line: ActorLine = connection.tag
        line.connection = None
        self._runtime.reactor.call_later(_LAST_WORDS_S, lambda: self._died_untold(line, reason))

    def _died_untold(self, line: ActorLine, reason: str) -> None:
        """The node has not said that it died: it lives, and only its connection broke, with all that was under way."""
        if line.state != "dead":
            line.state, line.reason = "dead", f"the connection to it broke ({reason})"
            self._fail_all(line)

    def state_of(self, record: ActorCallRecord) -> str:
        """Where a call is, in words."""
        line = record.actor.line
        if record.sent:
            ahead = list(line.flight).index(record.seq)
            return f"was sent to actor {line.cls}, {ahead} calls of this process before it"
        if any(ref._status == PENDING for _, ref in record.arguments.deps):
            return "waits for its arguments"
        return f"waits for actor {line.cls} ({line.state})"

    def close(self, reason: str) -> None:
        """Everything that is still pending fails."""
        for line in list(self._lines.values()):
            line.state, line.reason = "dead", reason
            self._fail_all(line)
        self._lines.clear()
