"""The driver's side of a compiled graph: its links to the actors, and the passes that are under way.

A pass goes from here to the actors that take input, on from them by their own links, and back here; the node hears
only of what lies in shared memory, and this process of nothing in between.
"""

from __future__ import annotations

import collections
import os
from typing import TYPE_CHECKING, Any

from aioray.dag.flight import Flight
from aioray.dag.parts import PREPARE, START, Part, Target
from aioray.dag.schedule import DRIVER, TICK, sole_taker
from aioray.exceptions import ActorDiedError, RayChannelError, RayTaskError
from aioray.options import METHOD_DEFAULTS
from aioray.record import Record
from aioray.refs import PENDING, RAISED, READY
from aioray.runtime.actor_lines import CallRules, MethodTarget
from aioray.runtime.calls import check_cluster, when_ready
from aioray.runtime.handing_over import hand_over, is_small
from aioray.runtime.looking import Looking
from aioray.runtime.submitting import submit_actor_call
from aioray.runtime.unseen import looked_at, unseen
from aioray.wire.control import Release
from aioray.wire.framing import call_decoder
from aioray.wire.plans import Link, Passed
from aioray.wire.values import Value, object_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from aioray.dag.parts import BoundCall
    from aioray.dag.schedule import Schedule
    from aioray.refs import ObjectRef
    from aioray.runtime.actor_lines import ActorLine, RemoteActor
    from aioray.runtime.connection import Connection
    from aioray.runtime.passes import Pass
    from aioray.runtime.runtime import Runtime
    from aioray.runtime.serialization import Serialized

_MOST_HOPS = 10  # that are worth looking for an answer as many times longer
_LAST_WORDS_S = 1.0  # how long the node may take to say that an actor died


class PlanOptions(Record, frozen=True):
    max_inflight: int
    buffer_nbytes: int


class Plan:
    """A compiled graph. Called with the reactor's lock held, but where it says otherwise."""

    def __init__(
        self,
        runtime: Runtime,
        actors: Sequence[RemoteActor],
        schedule: Schedule,
        calls: Sequence[tuple[BoundCall, ...]],
        constants: Sequence[Sequence[Any]],
        options: PlanOptions,
    ) -> None:
        self.runtime = runtime
        self.plan_id = os.urandom(8)
        self.state = "opening"  # or open, closed
        self.error: BaseException | None = None  # why it is closed
        self.flight = Flight(options.max_inflight)
        self.looking = Looking(runtime.reactor)
        self._actors = list(actors)
        self._schedule = schedule
        self._options = options
        self._hops = min(_MOST_HOPS, 2 * (len(actors) + 1))
        fed = sole_taker(schedule)
        self._parts = [
            Part(
                self.plan_id,
                index,
                bound,
                part.sources,
                runtime.process_id,
                options.buffer_nbytes,
                # One of them at most: where there are more than cores they would keep each other from running.
                self._hops // 2 if index == fed else 0,
            )
            for index, (part, bound) in enumerate(zip(schedule.parts, calls, strict=True))
        ]
        self._indexes = {output: index for index, output in enumerate(schedule.takes)}  # in ids of results
        self._process_ids: list[bytes] = []
        self._connections: dict[int, Connection] = {}  # by actor
        self._passes: dict[int, Pass] = {}
        self._unsent: collections.deque[Pass] = collections.deque()
        self._waiters: list[Callable[[], None]] = []
        self._open(constants)

    # opening

    def _call(self, index: int, method: str, *args: Any) -> ObjectRef[Any]:
        actor = self._actors[index]
        target = MethodTarget(method, f"{actor.cls}.{method}", METHOD_DEFAULTS, CallRules())
        return submit_actor_call(self.runtime, actor, target, args, {})[0]

    def _open(self, constants: Sequence[Sequence[Any]]) -> None:
        """Prepare all parts; without the lock."""
        self.runtime.plans.add(self)
        with self.runtime.reactor.lock:
            for actor in self._actors:
                actor.line.plans.append(self)
        try:
            refs = [
                self._call(index, PREPARE, part, *some)
                for index, (part, some) in enumerate(zip(self._parts, constants, strict=True))
            ]
        except BaseException as exc:  # a constant that cannot be sent, for example
            with self.runtime.reactor.lock:
                self.close(exc)
            raise
        self._after(refs, self._prepared)

    def _after(self, refs: list[ObjectRef[Any]], then: Callable[[list[Any]], None]) -> None:
        """Go on when calls of ours are answered, or end with the first error."""

        def answered() -> None:
            failed = next((ref for ref in refs if ref._status != READY), None)
            for ref in refs:
                looked_at(ref)
            if self.state == "closed":
                return
            if failed is not None:
                self.close(_as_error(lambda: self.runtime.outcome_error(failed)))
                return
            try:
                then([self.runtime.load(ref) for ref in refs])
            except Exception as exc:  # no room for one more call of an actor, for example
                self.close(exc)

        with self.runtime.reactor.lock:
            when_ready([(0, ref) for ref in refs], answered)

    def _prepared(self, process_ids: list[bytes]) -> None:
        self._process_ids = process_ids
        try:
            for index, part in enumerate(self._schedule.parts):
                if DRIVER in part.sources or DRIVER in part.targets:
                    self._dial(index)
        except OSError as exc:
            self._broken(f"an actor cannot be reached: {exc}")
            return
        refs = []
        for index, part in enumerate(self._schedule.parts):
            targets = [self._target(taker) for taker in part.targets if taker != DRIVER]
            refs.append(self._call(index, START, self.plan_id, targets))
        self._after(refs, lambda _: self._opened())

    def _target(self, index: int) -> Target:
        line = self._actors[index].line
        return Target(index, line.address, line.slot, self._process_ids[index])

    def _dial(self, index: int) -> None:
        line = self._actors[index].line
        connection = self.runtime.dialer.connection(
            self.runtime.reactor, line.address, call_decoder, self._on_messages, self._on_close
        )
        connection.limit_buffer(self._options.buffer_nbytes)
        self._connections[index] = connection
        connection.send(Link(self.plan_id, DRIVER, line.slot))

    def _opened(self) -> None:
        self.state = "open"
        self.runtime.reactor.expect_hops(self._hops)
        for run in list(self._unsent):
            try:
                self._pack(run)
            except Exception as exc:  # the store is full, for example: the pass's own failure
                run.fail(exc)
            else:
                self._pump_when_known(run)
        self._tell_waiters()

    # passes

    def begin(self, run: Pass) -> None:
        """A pass begins; there is room. Without the lock. Raises ObjectStoreFullError, and what has ended the plan."""
        if self.state == "open":
            self._pack(run)
        with self.runtime.reactor.lock:
            if self.error is not None:
                self._leave_inputs(run)
                raise self.error
            if self.state == "open" and not run.packed:
                self._pack(run)  # it was opened just now
            self.flight.begin(run.seq, run.refs)
            self._passes[run.seq] = run
            if self._unsent or run.handed or self.state != "open":
                self._unsent.append(run)
                self._pump_when_known(run)
            else:
                self._send(run)

    def _pack(self, run: Pass) -> None:
        """What a pass sends first: its values, to the actors that take them. Raises ObjectStoreFullError."""
        try:
            for number, takers in self._schedule.gives.items():
                value = run.values.get(number)
                if isinstance(value, bytes):
                    message = Passed(run.seq, number, value)
                    for taker in takers:
                        run.messages.append((taker, message))
                else:
                    run.messages += zip(takers, self._packed(run, number, takers, value), strict=True)
        except BaseException:  # all of them, or none
            self._leave_inputs(run)
            raise
        run.packed = True
        run.values = {}

    def _packed(self, run: Pass, number: int, takers: Sequence[int], serialized: Serialized | None) -> list[Passed]:
        """One value, for each who takes it; none where they are only told that a pass begins."""
        if serialized is None:
            return [Passed(run.seq, TICK)] * len(takers)
        if is_small(self.runtime, serialized):
            data, buffers = serialized.data, [bytes(buffer) for buffer in serialized.buffers]
            return [Passed(run.seq, number, data, buffers)] * len(takers)
        check_cluster(self.runtime, serialized.refs)
        given = hand_over(self.runtime, serialized, [self._process_ids[taker] for taker in takers])
        run.handed.append(given)
        return [Passed(run.seq, number, value=given.value, token=token) for token in given.tokens]

    def _pump_when_known(self, run: Pass) -> None:
        for handed in run.handed:
            handed.when_known(self._pump)
        self._pump()

    def _pump(self) -> None:
        """Send what can be, in order: a channel carries one pass after the other."""
        while self.state == "open" and self._unsent and self._unsent[0].can_be_sent():
            self._send(self._unsent.popleft())

    def _send(self, run: Pass) -> None:
        run.sent = True
        connections, messages = self._connections, run.messages
        if len(messages) == 1:
            taker, message = messages[0]
            connections[taker].send_now(message)
        else:
            for taker, message in messages:
                connections[taker].send(message)
        run.messages, run.handed = [], []

    def withdrawn(self, run: Pass) -> None:
        """A pass was cancelled."""
        if not run.sent and run in self._unsent:
            self._unsent.remove(run)
            self._leave_inputs(run)
            del self._passes[run.seq]
            self.flight.withdraw(run.seq)
            self._tell_waiters()

    def _leave_inputs(self, run: Pass) -> None:
        for _, message in run.messages:
            if message.token and not self.runtime.closed:
                self.runtime.link.send(Release(message.token, []))

    def when_changed(self, then: Callable[[], None]) -> None:
        """Call `then`, once, when a pass is through or the state is another one."""
        self._waiters.append(then)

    def _tell_waiters(self) -> None:
        waiters, self._waiters = self._waiters, []
        for then in waiters:
            then()

    # outputs

    def _on_messages(self, _: Connection, messages: list[Any]) -> None:
        for message in messages:
            if type(message) is Passed:
                self._came(message)

    def _came(self, message: Passed) -> None:
        run = self._passes.get(message.seq)
        if run is None or message.channel not in run.refs:
            return
        ref = run.refs[message.channel]
        value = message.value
        if value is None:
            ref._complete(READY, Value(message.data, message.buffers), run.name)
        elif value.is_error:
            ref._complete(RAISED, value, unseen(self.runtime, run.name, value) if ref._status == PENDING else None)
        else:
            self.runtime.objects.adopt(ref, value)
            self.runtime.objects.arrived(ref, value, run.name)
        if self.flight.arrived(message.seq, message.channel):
            del self._passes[message.seq]
            if self._waiters:
                self._tell_waiters()

    # ends

    def lost_actor(self, line: ActorLine) -> None:
        """An actor has died, or is constructed again and knows nothing of this any more."""
        if self.state == "closed":
            return
        for connection in list(self._connections.values()):
            connection.drain()  # what got done is not lost with it
        reason = line.reason or "it has died"
        if line.state == "restarting":
            reason = f"{reason}; it is being restarted: the graph has to be compiled again"
        if line.error is None:
            self.close(ActorDiedError(line.actor_id.hex(), reason, line.cls))
            return
        value = line.error
        if line.unseen is not None:
            line.unseen.seen = True
        error = _as_error(lambda: self.runtime.objects.load(value))
        self.close(error.as_instanceof_cause() if isinstance(error, RayTaskError) else error)

    def _on_close(self, connection: Connection, reason: str) -> None:
        if self.state != "closed":
            # As a rule an actor has died, or is about to be told of by the node. A pass that begins until then is sent
            # nowhere, and fails with the others.
            self.runtime.reactor.call_later(_LAST_WORDS_S, lambda: self._broken(f"a link broke: {reason}"))
        else:
            self._forget_closed()

    def _forget_closed(self) -> None:
        self._connections = {at: each for at, each in self._connections.items() if not each.closed}
        if not self._connections:
            self.runtime.plans.discard(self)

    def _broken(self, reason: str) -> None:
        self.close(RayChannelError(f"the compiled graph has ended: {reason}"))

    def close(self, error: BaseException, *, expected: bool = False) -> None:
        """End it: what is under way fails with `error`, and the actors let go as soon as they are out of user code.

        Links stay until the actors hang up: what they still send has to be let go of.
        """
        if self.state == "closed":
            return
        if self.state == "open":
            self.runtime.reactor.expect_hops_no_more(self._hops)
        self.state, self.error = "closed", error
        for actor in self._actors:
            if self in actor.line.plans:
                actor.line.plans.remove(self)
        passes, self._passes = self._passes, {}
        self._unsent.clear()
        for run in passes.values():
            self._leave_inputs(run)
            for ref in run.refs.values():
                if ref._status == PENDING:
                    ref._complete(RAISED, error, None if expected else unseen(self.runtime, run.name, error))
            if run.sent:  # an actor that died may have made some of it known, and not lived to send it
                self._void(run.refs[output].binary() for output in self.flight.missing[run.seq])
            self.flight.withdraw(run.seq)
        for connection in list(self._connections.values()):
            connection.on_messages = self._came_late
            connection.hang_up()
        self._forget_closed()
        self._actors = []
        self._tell_waiters()
        self.runtime.reactor.nudge()

    def _came_late(self, _: Connection, messages: list[Any]) -> None:
        """Large outputs were made known in our name, and those with refs inside in their own: let go of both."""
        for message in messages:
            if type(message) is Passed and message.value is not None:
                self._void([object_id(self.runtime.process_id, message.seq, self._indexes[message.channel])])

    def _void(self, oids: Iterable[bytes]) -> None:
        if not self.runtime.closed:
            self.runtime.objects.void(oids)

    def cut(self) -> None:
        """The cluster is over: close what is still open."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()
        self.runtime.plans.discard(self)


def _as_error(load: Callable[[], Any]) -> BaseException:
    """An error that comes pickled; or why it cannot be had here: this must not disturb whoever tells of it."""
    try:
        error = load()
    except Exception as exc:
        return exc
    assert isinstance(error, BaseException)
    return error
