"""What is done to the items of an iterator, one after the other. No I/O: the same at an actor, and at the reader."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol


class Step(Protocol):
    """One pass over the items: each is fed, and gives any number of items; there may be more at the end."""

    def feed(self, item: Any) -> Iterable[Any]: ...

    def end(self) -> Iterable[Any]: ...


MakeStep = Callable[[], Step]  # for each pass anew
Stage = tuple[MakeStep, ...] | Callable[[Iterable[Any]], Iterable[Any]]  # steps, or a function of all items


class ForEach:
    def __init__(self, fn: Callable[[Any], Any]) -> None:
        self._fn = fn

    def feed(self, item: Any) -> Iterable[Any]:
        return (self._fn(item),)

    def end(self) -> Iterable[Any]:
        return ()


class Filter:
    def __init__(self, fn: Callable[[Any], Any]) -> None:
        self._fn = fn

    def feed(self, item: Any) -> Iterable[Any]:
        return (item,) if self._fn(item) else ()

    def end(self) -> Iterable[Any]:
        return ()


class Flatten:
    def feed(self, item: Any) -> Iterable[Any]:
        yield from item

    def end(self) -> Iterable[Any]:
        return ()


class Batch:
    """Lists of `size` items; the last one may be shorter."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: list[Any] = []

    def feed(self, item: Any) -> Iterable[Any]:
        self._items.append(item)
        return self.end() if len(self._items) == self._size else ()

    def end(self) -> Iterable[Any]:
        items, self._items = self._items, []
        return (items,) if items else ()


class Shuffle:
    """Any of `size` items that are kept back makes room for the next one."""

    def __init__(self, size: int, seed: int | None) -> None:
        self._size = size
        self._random = random.Random(seed)
        self._items: list[Any] = []

    def feed(self, item: Any) -> Iterable[Any]:
        self._items.append(item)
        return (self._take(),) if len(self._items) > self._size else ()

    def end(self) -> Iterable[Any]:
        while self._items:
            yield self._take()

    def _take(self) -> Any:
        at = self._random.randrange(len(self._items))
        self._items[at], self._items[-1] = self._items[-1], self._items[at]
        return self._items.pop()


class Pipeline:
    """Steps one behind the other."""

    def __init__(self, makers: Iterable[MakeStep]) -> None:
        self._steps = [make() for make in makers]

    def feed(self, item: Any) -> Iterator[Any]:
        """What becomes of one more item."""
        return self._through(item, 0)

    def end(self) -> Iterator[Any]:
        """What was kept back."""
        for at, step in enumerate(self._steps):
            for item in step.end():
                yield from self._through(item, at + 1)

    def _through(self, item: Any, at: int) -> Iterator[Any]:
        if at == len(self._steps):
            yield item
            return
        for each in self._steps[at].feed(item):
            yield from self._through(each, at + 1)
