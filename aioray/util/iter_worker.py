"""The actor behind a shard of a ParallelIterator."""

from __future__ import annotations

import collections
import itertools
import threading
import time
from typing import TYPE_CHECKING, Any

from aioray.util.iter_steps import Pipeline
from aioray.util.waiting import check_flag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from aioray.util.iter_steps import Stage


def run_stage(stage: Stage, items: Iterable[Any]) -> Iterator[Any]:
    """What becomes of `items`."""
    if callable(stage):
        yield from stage(items)
        return
    pipeline = Pipeline(stage)
    for item in items:
        yield from pipeline.feed(item)
    yield from pipeline.end()


class _Pass:
    """One pass over the items of an actor. Several may share it: item i is for who asks for slice i % slices."""

    def __init__(self, items: Iterator[Any], slices: int) -> None:
        self._items = items
        self._lock = threading.Lock()  # an actor may run calls in several threads
        self._untaken: dict[int, collections.deque[Any]] = {at: collections.deque() for at in range(slices)}
        self._next_slice = itertools.cycle(range(slices))
        self._is_over = False
        self._error: Exception | None = None

    def take(self, at: int, batch_s: float) -> tuple[list[Any], bool] | None:
        """The items that come within `batch_s`, one at least, and whether that were all; None after the end.

        Raises what came instead of an item.
        """
        until = time.monotonic() + batch_s
        taken: list[Any] = []
        with self._lock:
            untaken = self._untaken.get(at)
            if untaken is None:
                return None
            while not taken or time.monotonic() < until:
                while not untaken and not self._is_over:
                    self._pull()
                if not untaken:
                    break
                taken.append(untaken.popleft())
            if self._error is not None and not taken:
                raise self._error
            return taken, self._is_over and not untaken and self._error is None

    def _pull(self) -> None:
        try:
            item = next(self._items)
        except StopIteration:
            self._is_over = True
        except Exception as exc:  # for who reads on, after what came before
            self._is_over, self._error = True, exc
        else:
            for_slice = self._untaken.get(next(self._next_slice))
            if for_slice is not None:  # else its reader has gone
                for_slice.append(item)

    def close(self, at: int) -> bool:
        """A reader needs no more; True when that was the last one."""
        with self._lock:
            self._untaken.pop(at, None)
            return not self._untaken


class ParallelIteratorWorker:
    """Base class of actors for `from_actors`: `super().__init__(items, repeat)` says what they iterate over.

    item_generator: an iterable, or a function that gives one, called at the beginning of each pass. repeat: begin again
    and again at its end.
    """

    def __init__(self, item_generator: Iterable[Any] | Callable[[], Iterable[Any]], repeat: bool = False) -> None:
        check_flag(repeat, "repeat")
        if not callable(item_generator):
            iter(item_generator)  # raises TypeError here, not at the first item
        self._item_generator = item_generator
        self._repeat = repeat
        self._passes: dict[bytes, _Pass] = {}

    def _items(self) -> Iterator[Any]:
        again = True
        while again:
            items = self._item_generator() if callable(self._item_generator) else self._item_generator
            again = False
            for item in items:
                yield item
                again = self._repeat  # of nothing there is no end, and no repetition

    def par_iter_next(
        self, key: bytes, at: int, batch_s: float, begin: tuple[tuple[Stage, ...], int] | None
    ) -> tuple[list[Any], bool] | None:
        """The next items of a pass, and whether that were all; None where there is no such pass, or not any more.

        `begin`: the pass may be new, and what it does.
        """
        found = self._passes.get(key)
        if found is None:
            if begin is None:
                return None
            stages, slices = begin
            items = self._items()
            for stage in stages:
                items = run_stage(stage, items)
            found = self._passes[key] = _Pass(items, slices)
        try:
            answer = found.take(at, batch_s)
        except BaseException:
            self.par_iter_close(key, at)
            raise
        if answer is not None and answer[1]:
            self.par_iter_close(key, at)
        return answer

    def par_iter_close(self, key: bytes, at: int) -> None:
        """A reader needs no more of a pass."""
        found = self._passes.get(key)
        if found is not None and found.close(at):
            self._passes.pop(key, None)
