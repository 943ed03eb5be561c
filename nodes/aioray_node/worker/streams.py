"""Runs generators: each value leaves as soon as it is made, many of them together where they are made fast.

The first value, and each that comes some time after the one before, is written at once. What comes faster is collected
for a moment. A value that the node must hear of before the caller does (a large one, or one with refs inside) is sent
when it knows; the generator waits for that, which keeps the order.
"""

from __future__ import annotations

import asyncio
import collections.abc
import inspect
import itertools
import time
from typing import TYPE_CHECKING, Any

from aioray.runtime.objects import serialize_value
from aioray.wire.calls import Yielded
from aioray.wire.control import Hold, Seal
from aioray.wire.values import object_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from aioray.runtime.connection import Connection
    from aioray.runtime.serialization import Serialized
    from aioray.wire.calls import Call, Proceed
    from aioray_node.worker.lanes import Item
    from aioray_node.worker.runtime import WorkerRuntime

_COLLECT_S = 0.0005  # values that come faster than that are written together,
_COLLECT_NBYTES = 4096  # up to so many bytes
_COLLECT_COUNT = 100  # or values,
_LATE_S = 0.001  # and not later than this, as far as somebody does the I/O
_TURN_S = 0.001  # for so long an asynchronous generator may make values without letting the event loop go on
_INDEX_BITS = 16


class Stopped(Exception):
    """A generator was cancelled, and that was seen between two values."""


class Streams:
    """The generators that run in one worker process."""

    def __init__(self, runtime: WorkerRuntime) -> None:
        self.runtime = runtime
        self.reactor = runtime.reactor
        self.is_between_values = False  # the main thread runs a generator, and is in our code now
        self._running: dict[tuple[int, int], _Producer] = {}

    # what callers say, with the lock held

    def proceed(self, connection: Connection, message: Proceed) -> None:
        """Values were taken, or there are numbers for more."""
        producer = self._running.get((id(connection), message.seq))
        if producer is not None:
            producer.taken = max(producer.taken, message.taken)
            if message.id_seq:
                producer.id_seqs.append(message.id_seq)
            producer.changed()

    def close(self, connection: Connection, seq: int) -> bool:
        """Nobody wants more; False when no generator runs for that call."""
        producer = self._running.get((id(connection), seq))
        if producer is not None:
            producer.close()
        return producer is not None

    def cancel(self, connection: Connection, seq: int) -> None:
        """The call was cancelled. What runs in a thread cannot be interrupted: it stops after the value it is at."""
        producer = self._running.get((id(connection), seq))
        if producer is not None:
            producer.cancelled = True
            producer.changed()

    def silence(self, connection: Connection, call: Call) -> None:
        """Its actor is gone, and its next life may get the same call: nothing more of this one is sent."""
        producer = self._running.pop((id(connection), call.seq), None)
        if producer is not None:
            producer.silent = producer.cancelled = True
            producer.changed()

    def caller_gone(self, connection: Connection) -> None:
        """Nobody is left to make values for."""
        for producer in list(self._running.values()):
            if producer.connection is connection:
                producer.close()

    # running

    def finish(self, item: Item, result: Any, *, in_main: bool = False) -> Any:
        """What a call returned, made into what `num_returns` asks for, in this thread: generators are run."""
        call = item[1]
        if call.streaming is None:
            return _collect(result, call.num_returns)
        if not isinstance(result, collections.abc.Iterator):
            raise _no_generator(item, result)
        with _Producer(self, item) as producer:
            producer.run(result, in_main=in_main)
        return None

    async def finish_async(self, item: Item, result: Any) -> Any:
        """The same for what an asynchronous generator, or a coroutine, gave."""
        call = item[1]
        if not isinstance(result, collections.abc.AsyncIterator):
            if isinstance(result, collections.abc.Iterator):
                raise TypeError(
                    f"{call.name or call.fn}() is a coroutine, and gave a generator that would stop its loop"
                )
            return self.finish(item, result)
        if call.streaming is None:
            return await _collect_async(result, call.num_returns)
        with _Producer(self, item) as producer:
            await producer.run_async(result)
        return None

    @staticmethod
    def is_asked(item: Item, result: Any) -> bool:
        """Whether there is something to `finish`."""
        return item[1].num_returns != 1 and (
            item[1].streaming is not None or inspect.isgenerator(result) or inspect.isasyncgen(result)
        )

    def began(self, producer: _Producer) -> None:
        with self.reactor.lock:
            self._running[producer.key] = producer

    def ended(self, producer: _Producer) -> None:
        with self.reactor.lock:
            if self._running.get(producer.key) is producer:
                del self._running[producer.key]


class _Producer:
    """One generator, and what of it has not left yet."""

    def __init__(self, streams: Streams, item: Item) -> None:
        self.connection, call = item
        start = call.streaming
        assert start is not None
        self.key = id(self.connection), call.seq
        self.taken = start.taken
        self.id_seqs = [call.seq, *start.id_seqs]
        self.cancelled = False
        self.silent = False
        self._closed = False
        self._streams = streams
        self._runtime = streams.runtime
        self._lock = streams.reactor.lock
        self._seq = call.seq
        self._ahead = start.ahead
        self._skip = start.skip
        self._made = 0
        self._small: list[bytes] = []
        self._small_nbytes = 0
        self._written_at = 0.0  # time.perf_counter
        self._late_planned = False
        self._unknown = 0  # what the node has yet to confirm
        self._on_change: asyncio.Future[None] | None = None
        self._task: asyncio.Task[Any] | None = None  # is in the generator, which may be asked to stop where it awaits

    def __enter__(self) -> _Producer:
        self._streams.began(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._streams.ended(self)
        self._write()  # what it made before it failed comes before the error

    # the lock is held

    def close(self) -> None:
        """Nobody wants more."""
        if self._closed:
            return
        self._closed = True
        self.changed()
        if self._task is not None:  # in its loop, which need not be in this thread
            self._task.get_loop().call_soon_threadsafe(self._interrupt)

    def _interrupt(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def changed(self) -> None:
        """Something came that it may wait for; threads that wait look by themselves."""
        waiting, self._on_change = self._on_change, None
        if waiting is not None:
            waiting.get_loop().call_soon_threadsafe(_settle, waiting)

    # when to go on

    @property
    def _is_stopped(self) -> bool:
        return self._closed or self.cancelled or self.connection.closed

    def _may_go_on(self) -> bool:
        return self._made - self.taken < self._ahead or self._is_stopped

    def _has_ids(self) -> bool:
        return self._made < len(self.id_seqs) << _INDEX_BITS or self._is_stopped

    def _is_known(self) -> bool:
        return not self._unknown

    # in a thread

    def run(self, generator: Iterator[Any], *, in_main: bool) -> None:
        """Make all values. Raises what the generator raises, and Stopped when it was cancelled."""
        streams, ahead = self._streams, self._ahead
        try:
            while True:
                if ahead > 0 and not self._may_go_on():
                    self._write()
                    self._pause(self._may_go_on)
                if self._is_stopped:
                    break
                try:
                    value = next(generator)
                except StopIteration:
                    return
                streams.is_between_values = in_main
                try:
                    serialized = self._put_small(value)
                    if serialized is not None:
                        if not self._has_ids():
                            self._write()
                            self._pause(self._has_ids)
                        self._put_large(serialized)
                        self._wait_until_known()
                    del value, serialized
                finally:
                    streams.is_between_values = False
        finally:
            close = getattr(generator, "close", None)  # iterators of other kinds need none
            if close is not None:
                close()
        if self.cancelled:
            raise Stopped

    def _pause(self, until: Callable[[], bool]) -> None:
        """Its CPU is somebody else's meanwhile, as in `get`: what takes the values may need it."""
        runtime = self._runtime
        runtime.on_block(True)
        try:
            runtime.reactor.run_until(until)
        finally:
            runtime.on_block(False)

    def _wait_until_known(self) -> None:
        """Not to be interrupted: a value that the node knows of and the caller does not would stay for ever."""
        reactor = self._runtime.reactor
        interrupt: BaseException | None = None
        while self._unknown and not reactor.closed:
            try:
                reactor.run_until(self._is_known)
            except KeyboardInterrupt as exc:
                interrupt = exc
        try:
            if interrupt is not None:
                raise interrupt
        finally:
            del interrupt  # its traceback leads to this frame, and to all that the generator holds

    # on an event loop

    async def run_async(self, generator: AsyncIterator[Any]) -> None:
        """The same for an asynchronous generator."""
        task = asyncio.current_task()
        turn_until = 0.0
        try:
            while True:
                if self._ahead > 0 and not self._may_go_on():
                    self._write()
                    await self._pause_async(self._may_go_on)
                if self._is_stopped:
                    break
                self._task = task
                try:
                    value = await anext(generator)
                except StopAsyncIteration:
                    return
                except asyncio.CancelledError:
                    if not self._closed or task is None:
                        raise
                    task.uncancel()  # it was we who stopped it
                    return
                finally:
                    self._task = None
                serialized = self._put_small(value)
                if serialized is not None:
                    if not self._has_ids():
                        self._write()
                        await self._pause_async(self._has_ids)
                    self._put_large(serialized)
                    await self._wait_until_known_async()
                del value, serialized
                now = time.perf_counter()
                if now > turn_until:
                    if turn_until:
                        await asyncio.sleep(0)
                    turn_until = time.perf_counter() + _TURN_S
        finally:
            close = getattr(generator, "aclose", None)
            if close is not None:
                await close()
        if self.cancelled:
            raise Stopped

    async def _pause_async(self, until: Callable[[], bool]) -> None:
        runtime = self._runtime
        runtime.on_block(True)
        try:
            await self._until(until)
        finally:
            runtime.on_block(False)

    async def _until(self, condition: Callable[[], bool]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with self._lock:
                if condition():
                    return
                self._on_change = future = loop.create_future()
            await future

    async def _wait_until_known_async(self) -> None:
        cancelled: asyncio.CancelledError | None = None
        while self._unknown:
            try:
                await self._until(self._is_known)
            except asyncio.CancelledError as exc:
                cancelled = exc
        try:
            if cancelled is not None:
                raise cancelled
        finally:
            del cancelled  # as above

    # values

    def _put_small(self, value: Any) -> Serialized | None:
        """Send a value if that is all there is to do; else what it is pickled."""
        self._made += 1
        if self._made <= self._skip:
            return None
        serialized = serialize_value(value)
        data = serialized.data
        if serialized.refs or serialized.buffers or len(data) > self._runtime.config.inline_max_nbytes:
            return serialized
        now = time.perf_counter()
        with self._lock:
            self._small.append(data)
            self._small_nbytes += len(data)
            if (
                now - self._written_at > _COLLECT_S
                or self._small_nbytes > _COLLECT_NBYTES
                or len(self._small) >= _COLLECT_COUNT
            ):
                self._write()
            elif not self._late_planned:
                self._late_planned = True
                self._runtime.reactor.call_later(_LATE_S, self._write_late)
        return None

    def _write_late(self) -> None:
        self._late_planned = False
        self._write()

    def _write(self) -> None:
        if self._small:
            with self._lock:
                small, self._small, self._small_nbytes = self._small, [], 0
                if small and not self.silent:
                    self.connection.send_now(Yielded(self._seq, small))
                    self._written_at = time.perf_counter()

    def _put_large(self, serialized: Serialized) -> None:
        """Store a value, and send it when the node knows what it must; until then `_unknown` counts."""
        if self._is_stopped:
            return
        runtime, at = self._runtime, self._made
        oid = object_id(self.connection.tag.process_id, self.id_seqs[at >> _INDEX_BITS], at & 0xFFFF)
        value = runtime.objects.store(serialized, oid=oid)
        value.oid = oid

        def confirmed(_: object = None) -> None:
            self._unknown -= 1
            if not self._unknown:
                small, self._small, self._small_nbytes = self._small, [], 0
                if not self.silent:
                    self.connection.send_now(Yielded(self._seq, small, value))
                self._written_at = time.perf_counter()
                serialized.refs.clear()  # they were kept alive until now
                self.changed()

        with self._lock:
            self._unknown = 1
            link = runtime.link
            for is_needed, message in ((serialized.refs, Hold(oid, value.refs)), (value.nbytes, Seal(value, 0))):
                if is_needed:
                    self._unknown += 1
                    req, ack = link.expect()
                    ack.then = confirmed
                    message.req = req
                    link.send(message)
            confirmed()


def _no_generator(item: Item, result: Any) -> TypeError:
    call = item[1]
    return TypeError(
        f"{call.name or call.fn}() was called with num_returns='streaming' or 'dynamic', but returned an object of type"
        f" {type(result).__name__}, which is no generator"
    )


def _collect(result: Any, count: int) -> Any:
    """The values of a generator: as many as announced, and one more to see that there are too many."""
    if not inspect.isgenerator(result) or count == 1:
        return result
    try:
        return list(itertools.islice(result, count + 1)) if count else collections.deque(result, 0)
    finally:
        result.close()


async def _collect_async(result: AsyncIterator[Any], count: int) -> Any:
    values: list[Any] = []
    try:
        async for value in result:
            if count:
                values.append(value)
                if len(values) > count:
                    break
        return values
    finally:
        close = getattr(result, "aclose", None)
        if close is not None:
            await close()


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
