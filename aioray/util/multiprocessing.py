"""Pool: `multiprocessing.Pool` on the cluster."""

from __future__ import annotations

import builtins
import collections
import concurrent.futures
import itertools
import logging
import multiprocessing
import threading
import time
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import aioray
from aioray import current
from aioray.exceptions import InvalidOptionError
from aioray.util.pool_crew import Crew
from aioray.util.waiting import check_count, check_timeout, refuse_in_loop, until_done, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator

    from aioray.refs import ObjectRef
    from aioray.runtime.runtime import Runtime

_log = logging.getLogger("aioray")
_Future = concurrent.futures.Future


class TimeoutError(multiprocessing.TimeoutError, builtins.TimeoutError):
    """The result was not there in time. `multiprocessing.TimeoutError`, and the builtin one as well."""


class Pool:
    """Worker processes on the cluster that take calls, with the methods of `multiprocessing.Pool`.

    processes: how many, default as many as the cluster has CPUs. initializer, initargs: called in each process before
    its first call; what it raises is the error of every call. maxtasksperchild: a process is replaced after so many
    calls (of `apply`) or chunks (of the others). ray_remote_args: options of the actors that the processes are, as for
    `.options(...)`. ray_address: as for `init`, where no cluster is there yet.

    A process that dies fails the call or chunk that it was busy with (ActorDiedError), and is replaced.
    Callbacks run one at a time in a thread of the pool. Leaving `with` terminates, as in multiprocessing.
    In an event loop: `async with`, `await pool.apply_async(f, args)`, `await pool.map_async(f, values)`,
    `async for result in pool.imap(f, values)`, `await pool.join_async()`; what blocks raises BlockingCallError there.
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: None = None,
        ray_address: str | None = None,
        ray_remote_args: Mapping[str, Any] | None = None,
    ) -> None:
        if processes is not None:
            check_count(processes, "processes")
        if maxtasksperchild is not None:
            check_count(maxtasksperchild, "maxtasksperchild")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be callable")
        if context is not None:
            raise InvalidOptionError("context", context, "None", "processes are always started by the cluster")
        if ray_remote_args is not None and not isinstance(ray_remote_args, Mapping):
            raise InvalidOptionError("ray_remote_args", ray_remote_args, "None, or a dict of options of an actor")
        _find_cluster(ray_address)
        runtime = current.get()
        self._size = int(max(1, aioray.cluster_resources()["CPU"])) if processes is None else int(processes)
        args = tuple(initargs) if initargs is not None else ()
        self._crew = Crew(runtime, self._size, initializer, args, maxtasksperchild, ray_remote_args or {})
        self._state = "running"
        self._iterators: weakref.WeakSet[IMapIterator] = weakref.WeakSet()  # that have not read all of their input
        weakref.finalize(self, self._crew.terminate)

    def __repr__(self) -> str:
        return f"<Pool of {self._size} processes, {self._state}>"

    # one call

    def apply(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] | None = None,
        kwds: Mapping[str, Any] | None = None,
        *,
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call `func(*args, **kwds)` in a process and wait for the result. `kwargs` is Ray's name for `kwds`."""
        refuse_in_loop("Pool.apply(func, args)", "await pool.apply_async(func, args)")
        return self.apply_async(func, args, kwds, kwargs=kwargs).get()

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] | None = None,
        kwds: Mapping[str, Any] | None = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        kwargs: Mapping[str, Any] | None = None,
    ) -> AsyncResult:
        """Call `func(*args, **kwds)` in a process; its result to come. `kwargs` is Ray's name for `kwds`.

        callback is called with the result, error_callback with the error, before the result counts as ready.
        """
        fn = self._function(func)
        if kwds is not None and kwargs is not None:
            raise TypeError("kwds and kwargs are two names of one thing: give one of them")
        call = tuple(args or ()), dict(kwds or kwargs or {})
        chunk = self._crew.submit(fn, "call", [call])
        return AsyncResult(self, [chunk], callback, error_callback, single=True)

    # many calls

    def map(self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None = None) -> list[Any]:
        """The results of `func` for each item, in order. chunksize: how many items go to a process at a time."""
        refuse_in_loop("Pool.map(func, values)", "await pool.map_async(func, values)")
        return self.map_async(func, iterable, chunksize).get()  # type: ignore[no-any-return]

    def map_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[list[Any]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult:
        """`map`, to come. It is ready when all chunks are through; if several fail, with the first error."""
        return self._map_async("value", func, iterable, chunksize, callback, error_callback)

    def starmap(
        self, func: Callable[..., Any], iterable: Iterable[Iterable[Any]], chunksize: int | None = None
    ) -> list[Any]:
        """`map`, where each item is the arguments of a call."""
        refuse_in_loop("Pool.starmap(func, values)", "await pool.starmap_async(func, values)")
        return self.starmap_async(func, iterable, chunksize).get()  # type: ignore[no-any-return]

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[Any]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult:
        """`starmap`, to come."""
        return self._map_async("args", func, iterable, chunksize, callback, error_callback)

    def _map_async(
        self,
        kind: str,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None,
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> AsyncResult:
        if chunksize is not None:
            check_count(chunksize, "chunksize")
        fn = self._function(func)
        items = list(iterable)
        if chunksize is None:  # four chunks a process, as in multiprocessing
            chunksize = max(1, -(-len(items) // (4 * self._size)))
        chunks = [self._crew.submit(fn, kind, items[at : at + chunksize]) for at in range(0, len(items), chunksize)]
        return AsyncResult(self, chunks, callback, error_callback)

    def imap(self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int = 1) -> IMapIterator:
        """The results in order, as an iterator, also an async one. `iterable` is read a little ahead of it.

        What an item raises is raised where its result would come, and the next results follow; with a chunksize above
        1 it stands for all of its chunk.
        """
        return self._imap(func, iterable, chunksize, ordered=True)

    def imap_unordered(self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int = 1) -> IMapIterator:
        """`imap`, with the results in the order in which they come."""
        return self._imap(func, iterable, chunksize, ordered=False)

    def _imap(
        self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int, *, ordered: bool
    ) -> IMapIterator:
        check_count(chunksize, "chunksize")
        iterator = IMapIterator(self, self._function(func), iterable, chunksize, ahead=2 * self._size, ordered=ordered)
        self._iterators.add(iterator)
        return iterator

    def _function(self, func: Callable[..., Any]) -> ObjectRef[Any]:
        if self._state != "running":
            raise ValueError("the pool is not running: it was closed")
        if not callable(func):
            raise TypeError(f"a pool calls functions, not {type(func).__name__}")
        return self._crew.runtime.put(func)

    # the end

    def close(self) -> None:
        """Take no more calls. Processes end when all that was given to the pool is done."""
        if self._state == "running":
            self._state = "closed"
            for iterator in list(self._iterators):
                iterator._read(None)
            self._crew.finish()

    def terminate(self) -> None:
        """End the processes now. Results that are not there yet fail with RuntimeError."""
        self._state = "terminated"
        self._crew.terminate()
        if current.find_in_this_loop() is None:
            self._wait_for_end()

    def join(self) -> None:
        """Wait until the processes have ended. Raises ValueError unless the pool was closed or terminated."""
        refuse_in_loop("Pool.join()", "await pool.join_async()")
        self._check_ending()
        self._wait_for_end()

    async def join_async(self) -> None:
        """`join`, awaited."""
        self._check_ending()
        await until_done(self._crew.ended)
        self._crew.join()

    def _check_ending(self) -> None:
        if self._state == "running":
            raise ValueError("the pool is still running: close or terminate it first")

    def _wait_for_end(self) -> None:
        wait_until(self._crew.runtime, self._crew.ended.done, None)
        self._crew.join()

    def __enter__(self) -> Self:
        self._check_running()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.terminate()

    async def __aenter__(self) -> Self:
        self._check_running()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.terminate()
        await self.join_async()

    def _check_running(self) -> None:
        if self._state != "running":
            raise ValueError("the pool is not running: it was closed")


def _find_cluster(address: str | None) -> None:
    if address is None:
        return
    if not aioray.is_initialized():
        aioray.init(address=address)
    elif address not in ("local", "auto"):
        raise InvalidOptionError(
            "ray_address", address, 'None, "local" or "auto"', "this program has a cluster already"
        )


class AsyncResult:
    """A result to come: `get()`, or `await`. Giving up an await does not stop the calls."""

    def __init__(
        self,
        pool: Pool,
        chunks: list[_Future[list[Any]]],
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
        *,
        single: bool = False,
    ) -> None:
        self._pool = pool  # which must not end before
        self._runtime = pool._crew.runtime
        self._chunks = chunks
        self._callback = callback
        self._error_callback = error_callback
        self._single = single
        self._left = len(chunks)
        self._lock = threading.Lock()
        self._error: BaseException | None = None  # the first
        self._future: _Future[Any] = _Future()
        self._future.add_done_callback(lambda _: self._runtime.reactor.nudge())
        for chunk in chunks:
            chunk.add_done_callback(self._one_done)
        if not chunks:
            self._complete()

    def _one_done(self, chunk: _Future[list[Any]]) -> None:
        with self._lock:
            self._left -= 1
            if self._error is None:
                self._error = chunk.exception()
            if self._left:
                return
        self._complete()

    def _complete(self) -> None:
        error = self._error
        value: Any = None
        if error is None:
            value = list(itertools.chain.from_iterable(chunk.result() for chunk in self._chunks))
            if self._single:
                value = value[0]
        self._chunks = []
        callback: Callable[[Any], object] | None = self._callback if error is None else self._error_callback
        if callback is not None:
            try:
                callback(value if error is None else error)
            except Exception:
                _log.exception("a callback of a Pool failed")
        if error is None:
            self._future.set_result(value)
        else:
            self._future.set_exception(error)

    def get(self, timeout: float | None = None) -> Any:
        """The result. Raises what the call raised, and TimeoutError after `timeout` seconds."""
        refuse_in_loop("AsyncResult.get()", "await result")
        self.wait(timeout)
        if not self._future.done():
            raise TimeoutError(f"the result was not there after {timeout} s")
        return self._future.result()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the result is there, or `timeout` seconds are over."""
        refuse_in_loop("AsyncResult.wait()", "await result")
        check_timeout(timeout)
        wait_until(self._runtime, self._future.done, timeout)

    def ready(self) -> bool:
        """Whether the result, or an error, is there."""
        return self._future.done()

    def successful(self) -> bool:
        """Whether it is there and no error. Raises ValueError when it is not there yet."""
        if not self._future.done():
            raise ValueError("the result is not there yet")
        return self._future.exception() is None

    def __await__(self) -> Generator[Any, None, Any]:
        yield from until_done(self._future).__await__()
        return self._future.result()


class IMapIterator:
    """What `imap` returns: results one by one, with `for`, `next(timeout)`, or `async for`."""

    def __init__(
        self, pool: Pool, fn: ObjectRef[Any], iterable: Iterable[Any], chunksize: int, *, ahead: int, ordered: bool
    ) -> None:
        self._pool = pool
        self._runtime: Runtime = pool._crew.runtime
        self._fn = fn
        self._items: Iterator[Any] | None = iter(iterable)
        self._chunksize = chunksize
        self._ahead = ahead
        self._ordered = ordered
        self._chunks: dict[_Future[list[Any]], None] = {}  # submitted and not taken
        self._done: collections.deque[_Future[list[Any]]] = collections.deque()  # of them, where order does not count
        self._results: collections.deque[Any] = collections.deque()  # of the chunk that was taken last
        self._read(ahead)

    def _read(self, ahead: int | None) -> None:
        """Submit chunks until `ahead` of them are under way; None: all that are left."""
        while self._items is not None and (ahead is None or len(self._chunks) < ahead):
            try:
                items = list(itertools.islice(self._items, self._chunksize))
                chunk = self._pool._crew.submit(self._fn, "value", items) if items else None
            except Exception as exc:  # of the input, or the pool has ended: raised in its turn
                chunk = _Future()
                chunk.set_exception(exc)
                items = []
            if not items:
                self._items = None
                self._pool._iterators.discard(self)
            if chunk is not None:
                self._chunks[chunk] = None
                if not self._ordered:
                    chunk.add_done_callback(self._arrived)

    def _arrived(self, chunk: _Future[list[Any]]) -> None:
        self._done.append(chunk)
        self._runtime.reactor.nudge()

    def _next_chunk(self) -> _Future[list[Any]] | None:
        """The chunk to take now, if it is there. Raises IndexError when there is none left at all."""
        if not self._chunks:
            raise IndexError
        if not self._ordered:
            return self._done[0] if self._done else None
        first = next(iter(self._chunks))
        return first if first.done() else None

    def _take(self, chunk: _Future[list[Any]]) -> None:
        del self._chunks[chunk]
        if not self._ordered:
            self._done.popleft()
        self._read(self._ahead)
        self._results.extend(chunk.result())

    def next(self, timeout: float | None = None) -> Any:
        """The next result. Raises StopIteration at the end, TimeoutError after `timeout` seconds."""
        refuse_in_loop("for result in pool.imap(...)", "async for result in pool.imap(...)")
        check_timeout(timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._results:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                if not wait_until(self._runtime, lambda: self._next_chunk() is not None, left):
                    raise TimeoutError(f"the next result was not there after {timeout} s")
                chunk = self._next_chunk()
            except IndexError:
                raise StopIteration from None
            if chunk is not None:
                self._take(chunk)
        return self._results.popleft()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self.next()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        while not self._results:
            try:
                chunk = self._next_chunk()
            except IndexError:
                raise StopAsyncIteration from None
            if chunk is not None:
                self._take(chunk)
            elif self._ordered:
                await until_done(next(iter(self._chunks)))
            else:
                await until_done(*self._chunks)
        return self._results.popleft()
