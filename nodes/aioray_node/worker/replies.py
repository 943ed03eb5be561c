"""Results on their way back: small ones inline, large ones through shared memory, refs inside only when they are safe.

A reply that makes somebody else responsible for memory, or for refs, is sent only after the node knows about it
(`aioray/runtime/objects.py` has the rules). Waiting for that holds up nothing but the reply itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aioray.exceptions import RayError, TaskCancelledError
from aioray.runtime.errors import error_value, serialized_error, task_error
from aioray.runtime.objects import serialize_value
from aioray.runtime.serialization import Serialized, serialize_plain
from aioray.wire.calls import Call, Done, Finished
from aioray.wire.control import Hold, Seal
from aioray.wire.values import object_id

if TYPE_CHECKING:
    from aioray.runtime.connection import Connection
    from aioray.runtime.link import Reply
    from aioray.runtime.runtime import Runtime
    from aioray.wire.values import Value
    from aioray_node.worker.call_log import CallLog
    from aioray_node.worker.hosted_actor import HostedActor
    from aioray_node.worker.lanes import Item


class Replier:
    """Sends the outcome of calls. Thread-safe."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.unsent = 0  # answers that wait until the node knows what they need
        self.log: CallLog | None = None

    def result(
        self,
        connection: Connection,
        caller: bytes,
        call: Call,
        result: Any,
        exec_us: int,
        actor: HostedActor | None = None,
    ) -> None:
        """The call returned. `actor`: whose it was; its checkpoints must be in the journal before it is answered."""
        try:
            plain = serialize_plain(result) if call.num_returns == 1 else None
            parts = self._pickled(call, result) if plain is None else []
        except Exception as exc:  # a result that cannot be sent is the call's failure
            self.error(connection, call, exc, exec_us, actor=actor)
            return
        if plain is not None:
            if self._is_answered_at_once(plain, actor):  # as nearly all calls are
                self._send_done(connection, call, plain, exec_us, actor)
                return
            parts = [Serialized(plain, [], [])]
        if len(parts) == 1:
            part = parts[0]
            if not part.buffers and not part.refs and self._is_answered_at_once(part.data, actor):
                self._send_done(connection, call, part.data, exec_us, actor)
                return
        values: list[Value] = []
        try:
            for index, part in enumerate(parts):
                values.append(self._runtime.objects.store(part, oid=object_id(caller, call.seq, index)))
        except RayError as exc:
            for value in values:  # all of them, or none
                self._runtime.objects.unstore(value)
            self.error(connection, call, exc, exec_us, actor=actor)
            return
        oids = [object_id(caller, call.seq, index) for index in range(len(parts))]
        self._note(connection, call, exec_us, actor)
        self._send_when_safe(connection, Finished(call.seq, values, exec_us), oids, parts, actor)

    def _is_answered_at_once(self, data: bytes, actor: HostedActor | None) -> bool:
        """Whether a result travels in its answer, and neither the node nor the journal has to know something first."""
        return (
            len(data) <= self._runtime.config.inline_max_nbytes
            and not self._runtime.objects.must_settle
            and (actor is None or actor.saver is None or actor.saver.unacknowledged is None)
        )

    def _send_done(
        self, connection: Connection, call: Call, data: bytes, exec_us: int, actor: HostedActor | None
    ) -> None:
        lock = self._runtime.reactor.lock
        lock.acquire()  # `with` takes twice as long. A cancel spares who has the lock: it raises nothing before `try`
        try:
            connection.send_small(Done(call.seq, data, exec_us), len(data))
            log = self.log
            if log is None:
                return
            if actor is not None or call.quiet or log.room:
                log.ended(connection.tag, call, exec_us, actor)
                return
            try:  # what `ended` would do, here: a call of it is felt where there are 100,000 a second
                connection.tag.counts[call.name] += 1
            except KeyError:
                log.count_first(connection.tag, call.name, None)
        finally:
            lock.release()

    def error(
        self,
        connection: Connection,
        call: Call,
        exc: BaseException,
        exec_us: int,
        *,
        retry: bool = False,
        actor: HostedActor | None = None,
    ) -> None:
        """The call raised; `retry`: what its options call worth another try."""
        self._note(connection, call, exec_us, actor, type(exc).__name__)
        name = call.name or (call.fn if actor is None else f"{actor.spec.cls}.{call.fn}")
        value, serialized = serialized_error(exc if _is_ours(exc) else task_error(exc, name))
        exc.__traceback__ = None  # its frames hold the arguments
        held = bool(value.refs and call.num_returns)
        oids = [object_id(connection.tag.process_id, call.seq)] if held else []
        self._send_when_safe(
            connection, Finished(call.seq, [value], exec_us, retry), oids, [serialized] if held else [], actor
        )

    def _note(
        self, connection: Connection, call: Call, exec_us: int, actor: HostedActor | None, error_type: str = ""
    ) -> None:
        if self.log is not None:
            with self._runtime.reactor.lock:
                self.log.ended(connection.tag, call, exec_us, actor, error_type)

    def cancelled(self, item: Item, actor: HostedActor | None = None) -> None:
        """The call was cancelled, before it began or while it ran. `actor`: whose it was."""
        connection, call = item
        self._note(connection, call, 0, actor, TaskCancelledError.__name__)
        task_id = object_id(connection.tag.process_id, call.seq)[:14].hex()
        value = error_value(TaskCancelledError(task_id))
        with self._runtime.reactor.lock:
            connection.send(Finished(call.seq, [value], 0))

    @staticmethod
    def _pickled(call: Call, result: Any) -> list[Serialized]:
        if call.num_returns == 1 or call.num_returns < 0:
            return [serialize_value(result)]
        if call.num_returns == 0:
            return []
        announced = f"{call.name or call.fn}() announced num_returns={call.num_returns}, but returned"
        try:
            results = list(result)
        except TypeError:
            raise TypeError(f"{announced} an object of type {type(result).__name__}, which has no parts") from None
        if len(results) != call.num_returns:
            raise ValueError(f"{announced} {len(results)} values")
        return [serialize_value(each) for each in results]

    def _send_when_safe(
        self,
        connection: Connection,
        reply: Finished,
        oids: list[bytes],
        parts: list[Serialized],
        actor: HostedActor | None = None,
    ) -> None:
        runtime = self._runtime
        left = 0

        def acknowledged(_: Reply | None = None) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                self.unsent -= 1
                if actor is None or actor.is_up:  # else its next life may have the same call, under the same number
                    connection.send(reply)
                parts.clear()  # the refs inside were kept alive until now

        with runtime.reactor.lock:
            link = runtime.link
            messages: list[Any] = []
            for oid, part, value in zip(oids, parts, reply.values, strict=False):
                if part.refs:
                    messages.append(lambda req, oid=oid, value=value: Hold(oid, value.refs, req))
                if value.nbytes:
                    messages.append(lambda req, value=value: Seal(value, req))
            for message in messages:
                left += 1
                req, ack = link.expect()
                ack.then = acknowledged
                link.send(message(req))
            if runtime.objects.must_settle and runtime.objects.settle(acknowledged):
                left += 1
            saved = None if actor is None or actor.saver is None else actor.saver.unacknowledged
            if saved is not None:
                left += 1
                saved.when_done(acknowledged)
            if left == 0:
                connection.send(reply)
            else:
                self.unsent += 1


def _is_ours(exc: BaseException) -> bool:
    """Whether an error says by itself all there is to say: it was not raised by user code."""
    return isinstance(exc, RayError) and exc.__traceback__ is None
