"""ActorPool: a fixed set of actors that share a stream of calls."""

from __future__ import annotations

import collections
import time
from typing import TYPE_CHECKING, Any, TypeVar

import aioray
from aioray.actors import ActorHandle
from aioray.exceptions import ActorDiedError
from aioray.refs import ObjectRef
from aioray.util.waiting import check_flag, check_timeout, refuse_in_loop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from aioray.actors import AnyHandle

V = TypeVar("V")


class ActorPool:
    """Gives each value to an actor that is free: `pool.map(lambda actor, value: actor.method.remote(value), values)`.

    Results are read with `for`, or in an event loop with `async for`. A call that fails raises where its result is
    read, and leaves the pool usable; an actor that has died is left out from then on. Calls that wait for an actor are
    begun while somebody waits for a result. Not for several threads; for several asyncio tasks it is.
    """

    def __init__(self, actors: Iterable[AnyHandle]) -> None:
        self._idle: collections.deque[ActorHandle] = collections.deque()
        self._busy: dict[int, tuple[ObjectRef[Any], ActorHandle]] = {}  # by the number of the call
        self._waiting: collections.deque[tuple[int, Callable[[Any, Any], ObjectRef[Any]], Any]]
        self._waiting = collections.deque()
        self._untaken: dict[int, None] = {}  # submitted, and its result is not taken; in this order
        self._done: dict[int, ObjectRef[Any] | BaseException] = {}  # untaken, in the order in which they got done
        self._next = 0
        for actor in actors:
            self.push(actor)

    def __repr__(self) -> str:
        return f"<ActorPool: {len(self._idle)} idle, {len(self._busy)} busy, {len(self._waiting)} calls wait>"

    # submitting

    def submit(self, fn: Callable[[Any, V], ObjectRef[Any]], value: V) -> None:
        """Call `fn(actor, value)`, which must return a ref, with an actor that is free: now, or as soon as one is.

        What `fn` raises comes out here if an actor is free, else where the result is read.
        """
        if not callable(fn):
            raise TypeError(f"submit takes a function of an actor and a value, not {type(fn).__name__}")
        number = self._next
        self._next += 1
        self._collect()
        self._untaken[number] = None
        self._waiting.append((number, fn, value))
        self._start()
        failed = self._done.get(number)
        if isinstance(failed, BaseException):
            self._forget(number)
            raise failed

    def map(self, fn: Callable[[Any, V], ObjectRef[Any]], values: Iterable[V]) -> Results:
        """Submit all values; the results in their order, each when it is asked for. Earlier results are dropped."""
        return self._map(fn, values, ordered=True)

    def map_unordered(self, fn: Callable[[Any, V], ObjectRef[Any]], values: Iterable[V]) -> Results:
        """Submit all values; the results in the order in which they come. Earlier results are dropped."""
        return self._map(fn, values, ordered=False)

    def _map(self, fn: Callable[[Any, V], ObjectRef[Any]], values: Iterable[V], *, ordered: bool) -> Results:
        self._waiting.clear()
        for number in list(self._untaken):
            self._forget(number)
        for value in values:
            self.submit(fn, value)
        return Results(self, ordered=ordered)

    # what is there

    def has_next(self) -> bool:
        """Whether there are results to come that nobody has taken."""
        return bool(self._untaken)

    def has_free(self) -> bool:
        """Whether an actor is idle and no call waits for one."""
        self._collect()
        return bool(self._idle) and not self._waiting

    def pop_idle(self) -> ActorHandle | None:
        """Take an idle actor out of the pool; None if there is none."""
        return self._idle.popleft() if self.has_free() else None

    def push(self, actor: AnyHandle) -> None:
        """Add an actor. Raises ValueError if it is in the pool already."""
        if not isinstance(actor, ActorHandle):
            raise TypeError(f"an ActorPool is made of actor handles, not of {type(actor).__name__}")
        if actor in self._idle or any(actor == busy for _, busy in self._busy.values()):
            raise ValueError(f"{actor!r} is in this pool already")
        self._idle.append(actor)
        self._start()

    # results

    def get_next(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """The next result in the order of submission, blocking.

        timeout: seconds; TimeoutError after that. ignore_if_timedout: the result that was late is dropped then, and
        its actor is free at once for the next call, which it begins when it is through. Raises what the call raised,
        and StopIteration when nothing was submitted that is not taken. In an event loop: `get_next_async`.
        """
        refuse_in_loop("ActorPool.get_next()", "await pool.get_next_async()")
        return self._get_blocking(timeout, ignore_if_timedout, ordered=True)

    def get_next_unordered(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """Whichever result comes next, blocking; else as `get_next`. With ignore_if_timedout the oldest is dropped."""
        refuse_in_loop("ActorPool.get_next_unordered()", "await pool.get_next_unordered_async()")
        return self._get_blocking(timeout, ignore_if_timedout, ordered=False)

    async def get_next_async(self) -> Any:
        """`get_next`, awaited; StopAsyncIteration at the end. Put `asyncio.timeout` around it to limit the wait.

        Cancelling it cancels no call and drops no result.
        """
        return await self._get_awaited(ordered=True)

    async def get_next_unordered_async(self) -> Any:
        """`get_next_unordered`, awaited; else as `get_next_async`."""
        return await self._get_awaited(ordered=False)

    def _get_blocking(self, timeout: float | None, ignore: bool, *, ordered: bool) -> Any:
        check_timeout(timeout)
        check_flag(ignore, "ignore_if_timedout")
        if not self._untaken:
            raise StopIteration("no more results")
        deadline = None if timeout is None else time.monotonic() + timeout
        while (number := self._ready(ordered)) is None:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise self._late(timeout, ignore)
            aioray.wait(self._awaited(ordered), timeout=left)
        outcome = self._take(number)
        if isinstance(outcome, BaseException):
            raise outcome
        return aioray.get(outcome)

    async def _get_awaited(self, *, ordered: bool) -> Any:
        while (number := self._ready(ordered)) is None:
            if not self._untaken:  # from the start, or another task took the last one
                raise StopAsyncIteration("no more results")
            await aioray.wait(self._awaited(ordered))
        outcome = self._take(number)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome.result()

    # the bookkeeping

    def _ready(self, ordered: bool) -> int | None:
        """The number of a call whose result can be taken now."""
        self._collect()
        if not ordered:
            return next(iter(self._done), None)
        first = next(iter(self._untaken), None)
        return first if first in self._done else None

    def _awaited(self, ordered: bool) -> list[ObjectRef[Any]]:
        """What to wait for: any call that ends may free an actor for one that waits."""
        first = next(iter(self._untaken))
        if ordered and first in self._busy and not self._waiting:
            return [self._busy[first][0]]
        refs = list(dict.fromkeys(ref for ref, _ in self._busy.values()))
        if not refs:
            raise RuntimeError("calls wait, but the pool has no actor left; add one with push()")
        return refs

    def _collect(self) -> None:
        """Take in what is done, and begin what waits."""
        for number, (ref, actor) in list(self._busy.items()):
            if ref.done():
                self._busy.pop(number)
                if number in self._untaken:
                    self._done[number] = ref
                self._free(ref, actor)
        self._start()

    def _free(self, ref: ObjectRef[Any], actor: ActorHandle) -> None:
        died = None if ref.cancelled() else ref.exception()
        if not isinstance(died, ActorDiedError) or died.actor_id != actor._actor_id:
            self._idle.append(actor)
        elif not self._idle and not self._busy:
            # The last of them: what waits can never run, unless somebody pushes another; do not let it wait for that.
            while self._waiting:
                self._done[self._waiting.popleft()[0]] = died

    def _start(self) -> None:
        while self._waiting and self._idle:
            number, fn, value = self._waiting.popleft()
            actor = self._idle.popleft()
            try:
                ref = fn(actor, value)
                if not isinstance(ref, ObjectRef):
                    raise TypeError(f"the function given to an ActorPool must return a ref, not {type(ref).__name__}")
            except Exception as exc:
                self._idle.appendleft(actor)
                self._done[number] = exc
            else:
                self._busy[number] = ref, actor

    def _take(self, number: int) -> ObjectRef[Any] | BaseException:
        del self._untaken[number]
        return self._done.pop(number)

    def _forget(self, number: int) -> None:
        """Drop a result; its actor stays busy until it is through."""
        self._untaken.pop(number, None)
        self._done.pop(number, None)

    def _late(self, timeout: float | None, ignore: bool) -> TimeoutError:
        text = f"the result was not there after {timeout} s"
        if not ignore:
            return TimeoutError(text)
        number = next(iter(self._untaken))
        self._forget(number)
        if number in self._busy:
            self._idle.append(self._busy.pop(number)[1])
            self._start()
        else:
            self._waiting = collections.deque(entry for entry in self._waiting if entry[0] != number)
        return TimeoutError(f"{text}; it was dropped")


class Results:
    """What `map` returns: to be read with `for` or, in an event loop, with `async for`."""

    def __init__(self, pool: ActorPool, *, ordered: bool) -> None:
        self._pool = pool
        self._ordered = ordered

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        name = "map" if self._ordered else "map_unordered"
        refuse_in_loop(f"for result in pool.{name}(...)", f"async for result in pool.{name}(...)")
        return self._pool._get_blocking(None, False, ordered=self._ordered)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        return await self._pool._get_awaited(ordered=self._ordered)
