"""What does a Pool's work: its worker actors, and a thread with an event loop that hands them their chunks."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import aioray
from aioray import current
from aioray.exceptions import ActorDiedError, RaySystemError
from aioray.util.pool_worker import PoolWorker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aioray.actors import ActorHandle
    from aioray.refs import ObjectRef
    from aioray.runtime.runtime import Runtime


class Chunk(NamedTuple):
    """What a worker does at a time, and the future of its results."""

    fn: ObjectRef[Any]
    kind: str
    items: list[Any]
    future: concurrent.futures.Future[list[Any]]


class Crew:
    """The workers of one Pool. Public methods may be called in any thread; the rest runs on the crew's loop."""

    def __init__(
        self,
        runtime: Runtime,
        size: int,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        chunks_per_worker: int | None,
        options: Mapping[str, Any],
    ) -> None:
        self.runtime = runtime
        self._worker_class = aioray.remote(PoolWorker).options(**options)
        self._worker_args = initializer, initargs
        self._chunks_per_worker = chunks_per_worker
        self._size = size
        self._queue: asyncio.Queue[Chunk | None] = asyncio.Queue()
        self._workers: dict[int, ActorHandle] = {}
        self._unanswered: set[concurrent.futures.Future[list[Any]]] = set()
        self._over = False  # no chunk is taken any more
        self._lock = threading.Lock()  # of the two above it
        # Not the caller's context: there, what is awaited would count as waited for by the task that made the pool.
        self._context = contextvars.Context()
        self._context.run(current.choose, runtime)
        self.ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        self.ended.add_done_callback(lambda _: runtime.reactor.nudge())
        self._main: asyncio.Task[None] | None = None
        first = [self._context.run(self._new_worker) for _ in range(size)]  # here, so that bad options are refused here
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(first,), name="aioray-pool", daemon=True)
        self._thread.start()

    # from any thread

    def submit(self, fn: ObjectRef[Any], kind: str, items: list[Any]) -> concurrent.futures.Future[list[Any]]:
        """Have a worker run a chunk as soon as one is free. Raises RuntimeError when the pool has ended."""
        future: concurrent.futures.Future[list[Any]] = concurrent.futures.Future()
        future.add_done_callback(self._answered)
        with self._lock:
            if self._over:
                raise RuntimeError("the pool was terminated")
            self._unanswered.add(future)
            self._loop.call_soon_threadsafe(self._queue.put_nowait, Chunk(fn, kind, items, future))
        return future

    def _answered(self, future: concurrent.futures.Future[list[Any]]) -> None:
        with self._lock:
            self._unanswered.discard(future)
        self.runtime.reactor.nudge()  # who waits for it may be in the middle of the I/O

    def finish(self) -> None:
        """End when all chunks are done."""
        with self._lock:
            if not self._over:
                self._loop.call_soon_threadsafe(self._queue.put_nowait, None)

    def terminate(self) -> None:
        """End now: workers are killed, results that are missing fail. Returns at once; see `ended`."""
        with self._lock:
            if self._over:
                return
            self._over = True
            self._loop.call_soon_threadsafe(self._cancel)
            missing = list(self._unanswered)
        for future in missing:
            _fail(future, RuntimeError("the pool was terminated"))

    def join(self) -> None:
        """Wait for the thread, which has said that it is at its end."""
        self._thread.join()

    # in the crew's thread

    def _run(self, workers: list[ActorHandle]) -> None:
        try:
            self._context.run(self._loop.run_until_complete, self._serve(workers))
        finally:
            with self._lock:
                self._over = True
            self._loop.close()
            self.ended.set_result(None)

    def _cancel(self) -> None:
        if self._main is not None:
            self._main.cancel()

    async def _serve(self, workers: list[ActorHandle]) -> None:
        self._main = asyncio.current_task()
        try:
            with contextlib.suppress(asyncio.CancelledError):
                if self._over:
                    return
                async with asyncio.TaskGroup() as tasks:
                    for at, worker in enumerate(workers):
                        self._workers[at] = worker
                        tasks.create_task(self._work(at))
        finally:
            if self._over:
                for worker in (*workers, *self._workers.values()):
                    with contextlib.suppress(RaySystemError):  # the cluster may be gone as well
                        aioray.kill(worker)
            workers.clear()
            self._workers.clear()

    async def _work(self, at: int) -> None:
        """The life of one worker, and of those that take its place."""
        done = 0
        while (chunk := await self._queue.get()) is not None:
            if chunk.future.done():  # the pool was terminated
                continue
            worker = self._workers[at]
            try:
                _succeed(chunk.future, await worker.run.remote(chunk.fn, chunk.kind, chunk.items))
            except asyncio.CancelledError:
                raise
            except BaseException as exc:  # whatever it is, it is the outcome
                _fail(chunk.future, exc)
                replace = isinstance(exc, ActorDiedError) and exc.actor_id == worker._actor_id
            else:
                replace = False
            done += 1
            if replace or done == self._chunks_per_worker:
                with contextlib.suppress(RaySystemError):  # the cluster is gone: the next call will say so
                    self._workers[at] = self._new_worker()
                done = 0
            del chunk, worker
        self._queue.put_nowait(None)  # for the others

    def _new_worker(self) -> ActorHandle:
        return self._worker_class.remote(*self._worker_args)


def _succeed(future: concurrent.futures.Future[Any], result: Any) -> None:
    with contextlib.suppress(concurrent.futures.InvalidStateError):  # the pool was terminated meanwhile
        future.set_result(result)


def _fail(future: concurrent.futures.Future[Any], exc: BaseException) -> None:
    with contextlib.suppress(concurrent.futures.InvalidStateError):
        future.set_exception(exc)
