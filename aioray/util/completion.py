"""Values in the order in which they get done: as_completed, and map_unordered, which submits as well."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import aioray
from aioray.functions import RemoteFunction
from aioray.util.waiting import check_count, check_flag, refuse_in_loop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

    from aioray.refs import ObjectRef


class as_completed:  # reads as the function that it is in Ray
    """The values of `refs` in the order in which they get done: `for value in ...`, or `async for` in an event loop.

    chunk_size: how many must be done before the first of them is handed out, 1 or more. yield_obj_refs: the refs
    instead of their values. Raises what a call raised where its value would come; the other values are lost to this
    iterator then, so take refs where calls may fail. Leaving the loop early cancels no call.
    """

    def __init__(self, refs: Iterable[ObjectRef[Any]], *, chunk_size: int = 10, yield_obj_refs: bool = False) -> None:
        check_count(chunk_size, "chunk_size")
        check_flag(yield_obj_refs, "yield_obj_refs")
        self._done = aioray.as_completed(refs)
        self._chunk_size = chunk_size
        self._as_refs = yield_obj_refs

    def __iter__(self) -> Iterator[Any]:
        refuse_in_loop("for value in util.as_completed(refs)", "async for value in util.as_completed(refs)")
        done = iter(self._done)
        while chunk := list(itertools.islice(done, self._chunk_size)):
            for ref in chunk:
                yield ref if self._as_refs else aioray.get(ref)

    async def __aiter__(self) -> AsyncIterator[Any]:
        chunk: list[ObjectRef[Any]] = []
        async for ref in self._done:
            chunk.append(ref)
            if len(chunk) == self._chunk_size:
                for each in chunk:
                    yield each if self._as_refs else each.result()
                chunk.clear()
        for each in chunk:
            yield each if self._as_refs else each.result()


class map_unordered:  # reads as the function that it is in Ray
    """Call the remote function `fn` with each of `items`; the values in the order in which they get done.

    To be read with `for`, or with `async for` in an event loop. backpressure_size: how many calls may be under way or
    not yet read, 1 or more; None: all at once. `items` is read as far as that allows, so it may be endless.
    chunk_size, yield_obj_refs, errors: as for `as_completed`. Leaving the loop early cancels no call that was begun.
    """

    def __init__(
        self,
        fn: RemoteFunction[..., Any, Any],
        items: Iterable[Any],
        *,
        backpressure_size: int | None = 100,
        chunk_size: int = 10,
        yield_obj_refs: bool = False,
    ) -> None:
        if not isinstance(fn, RemoteFunction):
            raise TypeError(f"map_unordered takes a remote function, not {type(fn).__name__}: decorate it with @remote")
        if backpressure_size is not None:
            check_count(backpressure_size, "backpressure_size")
        check_count(chunk_size, "chunk_size")
        check_flag(yield_obj_refs, "yield_obj_refs")
        self._fn = fn
        self._items = iter(items)
        self._limit = backpressure_size
        self._chunk_size = chunk_size
        self._as_refs = yield_obj_refs
        self._under_way: list[ObjectRef[Any]] = []

    def _submit(self) -> int:
        """Begin as many calls as may be; how many of them to wait for, 0 when all is done."""
        room = None if self._limit is None else self._limit - len(self._under_way)
        self._under_way += [self._fn.remote(item) for item in itertools.islice(self._items, room)]
        return min(self._chunk_size, len(self._under_way))

    def __iter__(self) -> Iterator[Any]:
        refuse_in_loop("for value in util.map_unordered(fn, items)", "async for value in util.map_unordered(fn, items)")
        while count := self._submit():
            done, self._under_way = aioray.wait(self._under_way, num_returns=count)
            for ref in done:
                yield ref if self._as_refs else aioray.get(ref)

    async def __aiter__(self) -> AsyncIterator[Any]:
        while count := self._submit():
            done, self._under_way = await aioray.wait(self._under_way, num_returns=count)
            for ref in done:
                yield ref if self._as_refs else ref.result()
