"""Executor: a `concurrent.futures.Executor` whose calls run on the cluster."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import itertools
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Self, TypeVar

import aioray
from aioray import current
from aioray.util.waiting import check_count, check_timeout, refuse_in_loop, until_done, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from aioray.functions import RemoteFunction
    from aioray.refs import ObjectRef
    from aioray.runtime.runtime import Runtime

T = TypeVar("T")


def call(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """The task that a call becomes. Not `fn` itself: a process keeps the functions that it has run as tasks."""
    return fn(*args, **kwargs)


def call_each(fn: Callable[..., Any], items: list[tuple[Any, ...]]) -> list[Any]:
    """The task that a chunk of `map` becomes."""
    return [fn(*item) for item in items]


class Future(concurrent.futures.Future[T]):
    """The result of a call of an Executor. In an event loop: `await asyncio.wrap_future(future)`."""

    def __init__(self, runtime: Runtime, ref: ObjectRef[Any]) -> None:
        super().__init__()
        self._runtime = runtime
        self._ref = ref

    def cancel(self) -> bool:
        """Cancel the call, even if it is running already; False when it is done."""
        if not super().cancel():
            return False
        self._ref.cancel()
        return True

    def _wait(self, timeout: float | None) -> None:
        if not self.done():
            refuse_in_loop("future.result()", "await asyncio.wrap_future(future)")
            check_timeout(timeout)
            wait_until(self._runtime, self.done, timeout)

    def result(self, timeout: float | None = None) -> T:
        """The value, blocking. Raises what the call raised, CancelledError, and TimeoutError after `timeout` (s)."""
        self._wait(timeout)
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The exception or None, blocking. Raises CancelledError, and TimeoutError after `timeout` (s)."""
        self._wait(timeout)
        return super().exception(0)


class _Completer:
    """A thread that passes results from refs to futures, and so calls their callbacks with no lock of ours held."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()  # the loop keeps only weak references
        self.pending: dict[Future[Any], None] = {}
        self.ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        self.ended.add_done_callback(lambda _: runtime.reactor.nudge())
        self._thread = threading.Thread(target=self._run, name="aioray-executor", daemon=True)
        self._thread.start()

    def submit(self, fn: RemoteFunction[..., Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[Any]:
        with self._lock:
            if self._closed:
                raise RuntimeError("the executor was shut down: it takes no calls any more")
            with _chosen(self._runtime):
                ref = fn.remote(*args, **kwargs)
            future: Future[Any] = Future(self._runtime, ref)
            self.pending[future] = None
            self._loop.call_soon_threadsafe(self._begin, ref, future)
        return future

    def close(self) -> None:
        """Take no more calls; end when all are done. Safe to call twice."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._loop.call_soon_threadsafe(self._end_if_idle)

    def join(self) -> None:
        """Wait for the thread, which has said that it is at its end."""
        self._thread.join()

    def _run(self) -> None:
        # A context of its own: in the caller's, what is awaited here would count as awaited by the caller's task.
        contextvars.Context().run(self._loop.run_forever)
        self._loop.close()
        self.ended.set_result(None)

    def _begin(self, ref: ObjectRef[Any], future: Future[Any]) -> None:
        task = self._loop.create_task(self._pass_on(ref, future))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, ref: ObjectRef[Any], future: Future[Any]) -> None:
        result, error = None, None
        try:
            result = await ref
        except asyncio.CancelledError:
            concurrent.futures.Future.cancel(future)
        except BaseException as exc:  # whatever it is, it is the outcome
            error = exc
        with self._lock:
            self.pending.pop(future, None)
        if future.set_running_or_notify_cancel():
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
        self._runtime.reactor.nudge()
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        with self._lock:
            if self._closed and not self.pending:
                self._loop.stop()


@contextlib.contextmanager
def _chosen(runtime: Runtime) -> Iterator[None]:
    token = current.choose(runtime)
    try:
        yield
    finally:
        current.unchoose(runtime, token)


class Executor(concurrent.futures.Executor):
    """Calls run as tasks, on the cluster that there is when the executor is made; `options` are those of tasks.

    How many run at once is up to what the cluster has and `num_cpus` (default 1 a call) asks for. Arguments that are
    refs are resolved first. `future.cancel()` cancels calls that run, too. Works with `loop.run_in_executor`; in an
    event loop write `async with`, since leaving `with` blocks until all calls are done.
    """

    def __init__(self, **options: Any) -> None:
        self._call = aioray.remote(call).options(**options)
        self._call_each = aioray.remote(call_each).options(**options)
        self._runtime = current.get()
        self._completer = _Completer(self._runtime)
        weakref.finalize(self, self._completer.close)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Call `fn(*args, **kwargs)` on the cluster. Raises RuntimeError after `shutdown`."""
        if not callable(fn):
            raise TypeError(f"submit takes a function, not {type(fn).__name__}")
        return self._completer.submit(self._call, (fn, *args), kwargs)

    def map(
        self, fn: Callable[..., T], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[T]:
        """The results of `fn` for the items of `iterables`, in order. All are submitted at once.

        timeout: seconds from now, for all; TimeoutError after that. chunksize: how many items a task takes. What a
        call raises is raised where its result would come; calls that have not been read then are cancelled.
        """
        if not callable(fn):
            raise TypeError(f"map takes a function, not {type(fn).__name__}")
        check_timeout(timeout)
        check_count(chunksize, "chunksize")
        deadline = None if timeout is None else time.monotonic() + timeout
        items = iter(zip(*iterables, strict=False))
        futures = []
        while chunk := list(itertools.islice(items, chunksize)):
            futures.append(self._completer.submit(self._call_each, (fn, chunk), {}))
        return self._results(futures, deadline)

    def _results(self, futures: list[Future[list[T]]], deadline: float | None) -> Iterator[T]:
        futures.reverse()
        try:
            while futures:
                refuse_in_loop(
                    "for result in executor.map(fn, values)",
                    "await asyncio.gather(*(loop.run_in_executor(executor, fn, value) for value in values))",
                )
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                results = futures[-1].result(left)
                del futures[-1]
                yield from results
        finally:
            for future in futures:
                future.cancel()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. wait: block until all calls are done. cancel_futures: cancel those that are not."""
        if wait and self._completer.pending:
            refuse_in_loop("Executor.shutdown()", "await executor.shutdown_async()")
        self._close(cancel_futures)
        if wait and current.find_in_this_loop() is None:
            wait_until(self._runtime, self._completer.ended.done, None)
            self._completer.join()

    async def shutdown_async(self, *, cancel_futures: bool = False) -> None:
        """`shutdown`, awaited."""
        self._close(cancel_futures)
        await until_done(self._completer.ended)
        self._completer.join()

    def _close(self, cancel_futures: bool) -> None:
        self._completer.close()
        if cancel_futures:
            for future in list(self._completer.pending):
                future.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.shutdown_async()
