"""The caller's side of generators: values that come one after the other, while the call goes on.

A stream is a call with one ref, its *completion*, which gets its value when the generator has ended and its error when
that failed: so whatever can happen to a call (a retry, a crash, a cancel) happens to a stream by the same code, and all
that is here is what becomes of the values. Value n, counted from 1, has index n of the call. An index has 16 bits, so a
long stream gets further numbers for its ids as it goes on.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
from typing import TYPE_CHECKING, Any

from aioray.exceptions import ObjectRefStreamEndOfStreamError
from aioray.refs import PENDING, RAISED, READY, ObjectRef
from aioray.runtime.blocking import check_may_block
from aioray.runtime.serialization import serialize
from aioray.runtime.task_records import Task
from aioray.runtime.unseen import Unseen, unseen
from aioray.wire.calls import CloseStream, Proceed, Streaming, Yielded
from aioray.wire.control import Release
from aioray.wire.values import Value, object_id

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioray.runtime.actor_lines import ActorCallRecord
    from aioray.runtime.connection import Connection
    from aioray.runtime.runtime import Runtime

_INDEX_BITS = 16
_IDS_AHEAD = 1 << 15  # numbers for ids are sent so many values before they are needed


class Stream:
    """The values of one call that have come, and not been taken. Small ones stay bytes until they are."""

    def __init__(self, runtime: Runtime, ahead: int) -> None:
        self.runtime = runtime
        self.completion: ObjectRef[Any]
        self.is_over = False  # no more values will come
        self.closed = False  # no more are wanted
        self._ready: collections.deque[bytes | ObjectRef[Any]] = collections.deque()
        self._received = 0
        self._unsent: set[int] = set()  # values that workers may have stored, and did not live to send
        self._taken = 0
        self._told = 0  # how many were taken, as the worker knows
        self._ahead = ahead
        self._id_seqs: list[int] = []
        self._name = ""
        self.connection: Connection | None = None
        self._slot = 0
        self._next: ObjectRef[Any] | None = None  # to a value that has not come: see `peek`
        self._waiting: list[asyncio.Future[None]] = []

    # the call, with the lock held

    def numbered(self, seq: int) -> ObjectRef[Any]:
        """The completion, now that the call has a number."""
        self._id_seqs.append(seq)
        self.completion = ObjectRef(self.runtime, seq)
        return self.completion

    @property
    def seq(self) -> int:
        return self._id_seqs[0]

    def begin(self, name: str) -> None:
        """The call is about to be submitted."""
        self._name = name
        self.completion._when_done(self._completed)

    def start(self, connection: Connection, slot: int) -> Streaming:
        """The call is about to be sent, for the first time or again."""
        if self.connection is not None:
            # Not let go of now: the next worker may store the same value before the node has read that we do.
            self._unsent.add(self._received + 1)
        self.connection, self._slot = connection, slot
        self._told = self._taken
        return Streaming(self._ahead, self._received, self._taken, self._id_seqs[1:])

    def forget_unsent(self) -> None:
        """No more will come. A worker that died may have stored one value in our name that it never sent."""
        for at in {*self._unsent, self._received + 1}:
            self._forget(at)
        self._unsent.clear()

    def _forget(self, at: int, instead: Value | None = None) -> None:
        """Let go of a value that was not sent. `instead`: what has come in its place, and is held as it says."""
        runtime = self.runtime
        oid = object_id(runtime.process_id, *self._place(at))
        tracked = runtime.objects.tracked(oid)
        if not (instead is not None and instead.nbytes) and not (tracked is not None and tracked.held_at_node):
            runtime.link.send(Release(runtime.process_id, [oid]))
        if instead is None or not (instead.nbytes or instead.refs):
            runtime.link.send(Release(oid, []))  # what it holds, if it was to come inline

    def _replaced(self, last: Value | None) -> None:
        """Values came that were not sent before, all of them small but the `last`."""
        for at in [at for at in self._unsent if at <= self._received]:
            self._unsent.discard(at)
            self._forget(at, last if at == self._received else None)

    def receive(self, message: Yielded) -> None:
        """The next values."""
        items, value = message.items, message.value
        self._received += len(items) + (value is not None)
        if self._unsent:
            self._replaced(value)
        if self.closed or self.is_over:
            if value is not None:
                let_go(self.runtime, value)
            if not self.is_over:
                self._stop()  # once more: it may have come before the call had begun
            return
        if items:
            if self._next is not None:
                self._arrived(Value(items[0]))
                del items[0]
            self._ready.extend(items)
        if value is not None:
            if self._next is None:
                self._next = self._ref(self._received)
            self.runtime.objects.adopt(self._next, value)
            self._arrived(value)
        while self._received + _IDS_AHEAD >= len(self._id_seqs) << _INDEX_BITS:
            self._id_seqs.append(self.runtime.next_seq())
            self._send(Proceed(self.seq, self._told, self._id_seqs[-1]))
        self._wake()

    def _arrived(self, value: Value) -> None:
        ref, self._next = self._next, None
        assert ref is not None
        self.runtime.objects.arrived(ref, value, self._name)
        self._ready.append(ref)

    def _place(self, at: int) -> tuple[int, int]:
        """Sequence number and index of value `at`."""
        return self._id_seqs[at >> _INDEX_BITS], at & 0xFFFF

    def _ref(self, at: int) -> ObjectRef[Any]:
        return ObjectRef(self.runtime, *self._place(at))

    def _completed(self, completion: ObjectRef[Any]) -> None:
        """The call has ended, however that was."""
        runtime = self.runtime
        runtime.streams.ended(self)
        self.is_over = True
        if (completion._status != READY or self._unsent) and self.connection is not None and not runtime.closed:
            self.forget_unsent()
        if self.closed:
            return
        if completion._status != READY:
            ref, self._next = self._next or self._ref(self._received + 1), None
            ref._complete(completion._status, completion._value, self._left_behind())
            self._ready.append(ref)
        self._end_next()
        self._wake()

    def _left_behind(self) -> str | Unseen | None:
        """For a ref that gets the error of the completion: looking at one is looking at both."""
        completion = self.completion
        left: str | Unseen | None = completion._task
        if getattr(completion._value, "refs", None):  # held by the completion, which must live as long
            if isinstance(left, Unseen):
                left.seen = True
            left = unseen(self.runtime, self._name, completion._value) or Unseen(self.runtime.log, "", "", seen=True)
            left.keeps = completion
        return left

    def _end_next(self) -> None:
        ref, self._next = self._next, None
        if ref is not None:
            ref._complete(RAISED, ObjectRefStreamEndOfStreamError(f"{self._name}() has no more values"), self._name)

    # whoever takes the values

    @property
    def has_some(self) -> bool:
        """Whether there is a value to take."""
        return bool(self._ready)

    def is_settled(self) -> bool:
        """Whether there is a value to take, or will never be one."""
        return bool(self._ready) or self.is_over or self.closed

    def take(self) -> ObjectRef[Any] | None:
        """The next value that is there; None if none is. In any thread."""
        with self.runtime.reactor.lock:
            if not self._ready:
                return None
            ref = self._as_ref()
            self._ready.popleft()
            self._taken += 1
            ahead = self._ahead
            if ahead > 0 and not self.is_over and self._taken - self._told >= max(1, ahead // 8):
                self._told = self._taken
                if self.connection is not None:
                    self.connection.send_now(Proceed(self.seq, self._taken))
            return ref

    def _as_ref(self) -> ObjectRef[Any]:
        first = self._ready[0]
        if isinstance(first, ObjectRef):
            return first
        ref = self._ref(self._taken + 1)
        ref._complete(READY, Value(first), self._name)
        return ref

    def is_time_to_breathe(self, every: int) -> bool:
        """Once in so many values."""
        return self._taken % every == every - 1

    def peek(self) -> ObjectRef[Any]:
        """The ref that `take` gives next. It fails with ObjectRefStreamEndOfStreamError if there never is a value."""
        with self.runtime.reactor.lock:
            if self._ready:
                self._ready[0] = ref = self._as_ref()
                return ref
            if self._next is None:
                self._next = self._ref(self._received + 1)
                self._next._task = self.completion._task
            ref = self._next
            if self.is_over or self.closed:
                self._end_next()
            return ref

    def wait(self, timeout_s: float | None = None) -> bool:
        """Block until `is_settled`; False when time is up first. Raises BlockingCallError in the cluster's loop."""
        if self.is_settled():
            return True
        runtime = self.runtime
        check_may_block(runtime, "next(generator)", "async for ref in generator")
        runtime.on_block(True)
        try:
            settled = runtime.reactor.run_until(self.is_settled, timeout_s)
        finally:
            runtime.on_block(False)
        if not settled:
            runtime.require_open()
        return settled

    async def wait_async(self) -> None:
        """The same, awaited. Cancelling it changes nothing."""
        runtime = self.runtime
        loop = asyncio.get_running_loop()
        runtime.on_block(True)
        try:
            while not self.is_settled():
                future = loop.create_future()
                with runtime.reactor.lock:
                    if self.is_settled():
                        break
                    self._waiting.append(future)
                try:
                    await future
                finally:
                    if future in self._waiting:
                        self._waiting.remove(future)
        finally:
            runtime.on_block(False)

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            loop = future.get_loop()
            if self.runtime.reactor.runs_in(loop):
                _settle(future)
            else:
                with contextlib.suppress(RuntimeError):  # the loop that waited is closed
                    loop.call_soon_threadsafe(_settle, future)

    # the end

    def drop(self) -> None:
        """From a finalizer, in any thread: nobody takes values any more."""
        reactor = self.runtime.reactor
        if not reactor.closed and not (self.is_over and not self._ready):
            reactor.call_soon(self.close)

    def close(self) -> None:
        """Forget what was not taken, and stop the generator. With the lock held. Safe to call twice."""
        if self.closed:
            return
        self.closed = True
        self._ready.clear()
        self._end_next()
        if not self.is_over:
            self._stop()
        self._wake()

    def _stop(self) -> None:
        call: Any = self.completion._task
        if call.lease is None if isinstance(call, Task) else not call.sent:
            self.runtime.canceller.cancel_call(call, self.completion)
        else:
            call.cancelled = True  # it is not run again
            self._send(CloseStream(self.seq, self._slot))

    def _send(self, message: CloseStream | Proceed) -> None:
        if self.connection is not None:
            self.connection.send(message)


class Gathering(Stream):
    """A stream whose values become one: `ref` is to `gather(refs of all values)`, when the last has come."""

    def __init__(self, runtime: Runtime, gather: Callable[[Sequence[ObjectRef[Any]]], object]) -> None:
        super().__init__(runtime, -1)
        self._gather = gather
        self.ref: ObjectRef[Any] = ObjectRef(runtime, runtime.next_seq())

    def begin(self, name: str) -> None:
        self.ref._task = self.completion._task
        super().begin(name)

    def _completed(self, completion: ObjectRef[Any]) -> None:
        super()._completed(completion)
        ref, runtime = self.ref, self.runtime
        if ref._status != PENDING:
            return  # it was cancelled as a Future is
        if completion._status != READY:
            ref._complete(completion._status, completion._value, self._left_behind())
            return
        refs = []
        while (each := self.take()) is not None:
            refs.append(each)
        # Inline however many there are: this runs where the I/O is done, which must not wait for room.
        serialized = serialize(self._gather(refs), "value")
        runtime.objects.contain(ref, serialized.refs)
        oids = [each._counted_id() for each in serialized.refs]
        ref._complete(READY, Value(serialized.data, refs=oids), self._name)


class Streams:
    """The streams of one runtime whose calls have not ended. Called with the reactor's lock held."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._by_seq: dict[int, Stream] = {}
        self._killed: dict[Connection, Stream] = {}  # their workers may go on for a moment

    def begin(self, stream: Stream, call: Task | ActorCallRecord) -> None:
        """A call that streams is about to be submitted."""
        self._by_seq[stream.seq] = stream
        stream.begin(call.name)

    def start(self, seq: int, connection: Connection, slot: int = 0) -> Streaming | None:
        """What a worker must know that is about to get the call."""
        stream = self._by_seq.get(seq)
        return None if stream is None else stream.start(connection, slot)

    def received(self, message: Yielded) -> None:
        """A worker has made values."""
        stream = self._by_seq.get(message.seq)
        if stream is None and self._killed:  # it has ended for us, and must still know how far its worker came
            stream = next((each for each in self._killed.values() if each.seq == message.seq), None)
        if stream is not None:
            stream.receive(message)
        elif message.value is not None:
            let_go(self._runtime, message.value)

    def is_killed(self, seq: int) -> None:
        """Its worker is about to be killed, and what it says from now on comes too late."""
        stream = self._by_seq.get(seq)
        if stream is not None and stream.connection is not None:
            self._killed[stream.connection] = stream

    def came_late(self, connection: Connection, messages: list[Any]) -> None:
        """From a worker that was given up."""
        stream = self._killed.get(connection)
        for message in messages:
            if type(message) is Yielded and stream is not None and message.seq == stream.seq:
                stream.receive(message)
            elif type(message) is Yielded and message.value is not None:
                let_go(self._runtime, message.value)

    def worker_lost(self, connection: Connection) -> None:
        """A worker is gone, and the node has read all that it said, or will read no more."""
        stream = self._killed.pop(connection, None)
        if stream is not None:
            stream.forget_unsent()

    def ended(self, stream: Stream) -> None:
        """Its call has ended."""
        self._by_seq.pop(stream.seq, None)


def let_go(runtime: Runtime, value: Value) -> None:
    """Nobody wants a value that was made in our name."""
    if value.nbytes:
        runtime.link.send(Release(runtime.process_id, [value.oid]))
    elif value.refs:
        runtime.link.send(Release(value.oid, []))


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
