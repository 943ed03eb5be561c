"""Waiting for some of many refs: `wait` and `as_completed`, in both faces."""

from __future__ import annotations

import asyncio
import collections.abc
import contextlib
import time
from typing import TYPE_CHECKING, Any, TypeVar

from aioray.exceptions import InvalidOptionError
from aioray.generators import ObjectRefGenerator
from aioray.refs import ObjectRef
from aioray.runtime import blocking
from aioray.runtime.arrivals import Arrivals

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Sequence

    from aioray.runtime.runtime import Runtime

T = TypeVar("T")


def check_timeout(timeout: Any) -> None:
    if timeout is None:
        return
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout >= 0:
        raise InvalidOptionError("timeout", timeout, "None, or seconds, 0 or more")


def refs_of(refs: Any, call: str) -> list[ObjectRef[Any]]:
    if isinstance(refs, ObjectRefGenerator):
        raise TypeError(f"{call} takes a list of refs, not a generator: iterate over it, or write wait([generator])")
    if isinstance(refs, (str, bytes, dict)) or not isinstance(refs, collections.abc.Iterable):
        raise TypeError(f"{call} takes a ref or a list of refs, not {type(refs).__name__}: {refs!r:.100}")
    items = list(refs)
    for at, item in enumerate(items):
        if not isinstance(item, ObjectRef):
            raise TypeError(f"{call} takes refs, but item {at} is {type(item).__name__}: {item!r:.100}")
    return items


def wait(
    refs: Sequence[ObjectRef[T] | ObjectRefGenerator[T]],
    *,
    num_returns: int = 1,
    timeout: float | None = None,
    fetch_local: bool = True,
) -> Any:
    """Wait until `num_returns` of the refs are done, or `timeout` (s) is over; returns (done, others).

    At most `num_returns` are in the first list, both in the order given. In an event loop it returns an awaitable:
    `done, others = await aioray.wait(refs)`; cancelling that cancels no call. fetch_local: with False, a value counts
    that lies on another node, and is not brought here. A generator in the list stands for its next ref; at its end, it
    is done. No refs at all give two empty lists at once. Raises ValueError for duplicates and for more than there are.
    """
    if isinstance(refs, ObjectRef):
        raise TypeError("wait takes a list of refs; write wait([ref])")
    generators: dict[ObjectRef[Any], Any] = {}
    items = refs_of(_next_refs(refs, generators), "wait")
    check_timeout(timeout)
    if not isinstance(fetch_local, bool):
        raise InvalidOptionError("fetch_local", fetch_local, "True or False")
    if len(set(items)) != len(items):
        raise ValueError("wait was given the same ref more than once")
    if isinstance(num_returns, bool) or not isinstance(num_returns, int) or not num_returns > 0:
        raise InvalidOptionError("num_returns", num_returns, "a whole number, 1 or more")
    if items and num_returns > len(items):
        raise InvalidOptionError("num_returns", num_returns, f"at most {len(items)}, the number of refs")
    waiting = _Wait(items, num_returns, timeout, generators, here=fetch_local)
    return waiting if asyncio._get_running_loop() is not None else waiting.block()


def _next_refs(given: Any, generators: dict[ObjectRef[Any], Any]) -> Any:
    """The next refs of generators in their place; `generators` says whose they are."""
    if isinstance(given, (str, bytes, dict, ObjectRefGenerator)) or not isinstance(given, collections.abc.Iterable):
        return given
    items = list(given)
    for at, item in enumerate(items):
        if isinstance(item, ObjectRefGenerator):
            items[at] = ref = item._stream.peek()
            generators[ref] = item
    return items


def _as_given(result: Any, generators: dict[ObjectRef[Any], Any]) -> Any:
    """The opposite of `_next_refs`."""
    if not generators:
        return result
    return tuple([generators.get(ref, ref) for ref in refs] for refs in result)


class _Wait:
    """What `wait` returns in an event loop: to be awaited.

    Unpacked like the result that it is elsewhere, it blocks: right in a program written for Ray that happens to run in
    a loop, and a BlockingCallError in the loop that does the cluster's I/O.
    """

    def __init__(
        self,
        refs: list[ObjectRef[Any]],
        num_returns: int,
        timeout_s: float | None,
        generators: dict[ObjectRef[Any], Any],
        *,
        here: bool,
    ) -> None:
        self._here = here
        self._runtime: Runtime | None = refs[0]._runtime if refs else None  # None: there is nothing to wait for
        self._generators = generators
        self._args = refs, num_returns, timeout_s
        self._result: Any = None

    def __await__(self) -> Generator[Any, None, Any]:
        if self._runtime is None:
            return [], []
        return _as_given(
            (yield from blocking.wait_async(self._runtime, *self._args, here=self._here).__await__()), self._generators
        )

    def block(self) -> Any:
        """The result, as soon as it is there."""
        if self._runtime is None:
            return [], []
        if self._result is None:
            self._result = _as_given(blocking.wait(self._runtime, *self._args, here=self._here), self._generators)
        return self._result

    def __iter__(self) -> Iterator[list[ObjectRef[Any]]]:
        return iter(self.block())

    def __getitem__(self, index: int) -> list[ObjectRef[Any]]:
        found: list[ObjectRef[Any]] = self.block()[index]
        return found

    def __len__(self) -> int:
        return 2


class as_completed:  # reads as the function that it is in asyncio
    """Refs in the order in which they get done: `async for ref in as_completed(refs)`, or a plain `for`.

    timeout: seconds for all of them; TimeoutError after that. A ref that is given twice comes once.
    Leaving the loop early cancels no call.
    """

    def __init__(self, refs: Iterable[ObjectRef[Any]], *, timeout: float | None = None) -> None:
        self._refs = list(dict.fromkeys(refs_of(refs, "as_completed")))
        check_timeout(timeout)
        self._timeout_s = timeout

    def __iter__(self) -> Iterator[ObjectRef[Any]]:
        if not self._refs:
            return
        runtime = self._refs[0]._runtime
        with contextlib.closing(Arrivals(self._refs)) as arrivals:
            deadline = None if self._timeout_s is None else time.monotonic() + self._timeout_s
            for at in range(len(self._refs)):
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                if not blocking.wait_for_any(runtime, arrivals, left):
                    raise self._too_late(at)
                yield arrivals.done.popleft()

    def __aiter__(self) -> AsyncIterator[ObjectRef[Any]]:
        return _AsyncArrivals(self._refs, self._timeout_s, self._too_late)

    def _too_late(self, done: int) -> TimeoutError:
        return TimeoutError(f"{len(self._refs) - done} of {len(self._refs)} refs were not done in time")


class _AsyncArrivals:
    """An iterator, not an async generator: left early, that would be closed some time later, by the loop."""

    def __init__(
        self, refs: list[ObjectRef[Any]], timeout_s: float | None, too_late: Callable[[int], TimeoutError]
    ) -> None:
        loop = asyncio.get_running_loop()
        some = self._some = asyncio.Event()
        self._count, self._taken = len(refs), 0
        self._too_late = too_late
        self._deadline = None if timeout_s is None else loop.time() + timeout_s
        self._arrivals = Arrivals(refs, lambda: loop.call_soon_threadsafe(some.set))

    def __aiter__(self) -> _AsyncArrivals:
        return self

    async def __anext__(self) -> ObjectRef[Any]:
        if self._taken == self._count:
            raise StopAsyncIteration
        done, some = self._arrivals.done, self._some
        if not done:
            try:
                async with asyncio.timeout_at(self._deadline):
                    while not done:
                        some.clear()
                        if done:
                            break
                        await some.wait()
            except TimeoutError:
                taken = self._taken
                self._close()
                raise self._too_late(taken) from None
            except BaseException:
                self._close()
                raise
        self._taken += 1
        return done.popleft()

    def _close(self) -> None:
        self._taken = self._count
        self._arrivals.close()

    def __del__(self) -> None:
        self._close()
