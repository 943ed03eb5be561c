"""Parallel iterators: items that lie with actors, are worked on there, and are read here.

`from_items`, `from_range`, `from_iterators` and `from_actors` give a ParallelIterator. What its methods do to items
happens at the actors, when they are read: `gather_sync`, `gather_async`, `batch_across_shards`, `get_shard` and
`shards` give LocalIterators, for `for` loops, or in an event loop for `async for`.
"""

from __future__ import annotations

import functools
import itertools
import os
from typing import TYPE_CHECKING, Any, Self

import aioray
from aioray.actors import ActorHandle
from aioray.exceptions import InvalidOptionError
from aioray.options import task_options
from aioray.util import iter_steps
from aioray.util.completion import map_unordered
from aioray.util.iter_reading import Item, PassKey, Shard, Until, as_they_come, in_turn, read, through
from aioray.util.iter_worker import ParallelIteratorWorker
from aioray.util.waiting import check_count, check_flag, refuse_in_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from aioray.actors import AnyHandle
    from aioray.util.iter_reading import Flow, MakeFlow
    from aioray.util.iter_steps import MakeStep, Stage

__all__ = [
    "LocalIterator",
    "ParallelIterator",
    "ParallelIteratorWorker",
    "from_actors",
    "from_items",
    "from_iterators",
    "from_range",
]


def from_items(items: Iterable[Any], num_shards: int = 2, repeat: bool = False) -> ParallelIterator:
    """The items, dealt out in turn to `num_shards` actors. repeat: again and again."""
    check_count(num_shards, "num_shards")
    dealt = list(items)
    return from_iterators([dealt[at::num_shards] for at in range(num_shards)], repeat, "from_items")


def from_range(n: int, num_shards: int = 2, repeat: bool = False) -> ParallelIterator:
    """0 to n - 1, each of `num_shards` actors having a stretch of it. repeat: again and again."""
    check_count(n, "n", 0)
    check_count(num_shards, "num_shards")
    size = n // num_shards
    starts = [at * size for at in range(num_shards)]
    return from_iterators(list(map(range, starts, [*starts[1:], n])), repeat, "from_range")


def from_iterators(
    generators: Iterable[Iterable[Any] | Callable[[], Iterable[Any]]], repeat: bool = False, name: str | None = None
) -> ParallelIterator:
    """An actor for each of `generators`: iterables, or functions that give one, since generators cannot be pickled."""
    check_flag(repeat, "repeat")
    worker = aioray.remote(ParallelIteratorWorker)
    return from_actors([worker.remote(each, repeat) for each in generators], name or "from_iterators")


def from_actors(actors: Iterable[AnyHandle], name: str | None = None) -> ParallelIterator:
    """Of actors whose class inherits from ParallelIteratorWorker."""
    shards = []
    for actor in actors:
        if not isinstance(actor, ActorHandle):
            raise TypeError(f"from_actors takes actor handles, not {type(actor).__name__}")
        if "par_iter_next" not in actor._actor.methods:
            raise TypeError(f"{actor!r} is no ParallelIteratorWorker: let its class inherit from that")
        shards.append(Shard(actor))
    return ParallelIterator(shards, name or "from_actors")


class ParallelIterator:
    """Items in shards, one with each actor; methods give new ones, and nothing happens before items are read.

    Each reading is a pass of its own over all items. A pass ends with the first error, of whichever shard. It can be
    passed to tasks and actors. Its actors end with the last iterator that uses them.
    """

    def __init__(self, shards: Sequence[Shard], name: str) -> None:
        self._shards = list(shards)
        self._name = name

    def __repr__(self) -> str:
        return f"ParallelIterator[{self._name}]"

    def __iter__(self) -> Iterator[Any]:
        raise TypeError("a ParallelIterator is read by way of gather_sync(), gather_async() or batch_across_shards()")

    # what is done at the actors

    def _then(self, name: str, stage: Stage) -> ParallelIterator:
        shards = []
        for actor, stages in self._shards:
            if isinstance(stage, tuple) and stages and isinstance(stages[-1], tuple):
                shards.append(Shard(actor, (*stages[:-1], stages[-1] + stage)))
            else:
                shards.append(Shard(actor, (*stages, stage)))
        return ParallelIterator(shards, f"{self._name}.{name}")

    def for_each(
        self, fn: Callable[[Any], Any], max_concurrency: int = 1, resources: Mapping[str, Any] | None = None
    ) -> ParallelIterator:
        """`fn(item)` instead of each item.

        max_concurrency: other than 1, `fn` runs in tasks, as many of each shard as it says, 0 for any number; items
        then come in the order in which they get done. resources: options of these tasks, such as {"num_cpus": 0.5}.
        """
        _check_function(fn, "for_each")
        check_count(max_concurrency, "max_concurrency", 0)
        if max_concurrency == 1:
            if resources:
                raise InvalidOptionError("resources", dict(resources), "None where max_concurrency is 1: no tasks run")
            return self._then("for_each()", (functools.partial(iter_steps.ForEach, fn),))
        task_options(resources or {})
        return self._then("for_each()", functools.partial(_in_tasks, fn, max_concurrency, dict(resources or {})))

    def filter(self, fn: Callable[[Any], Any]) -> ParallelIterator:
        """Only the items for which `fn(item)` is true."""
        _check_function(fn, "filter")
        return self._then("filter()", (functools.partial(iter_steps.Filter, fn),))

    def batch(self, n: int) -> ParallelIterator:
        """Lists of `n` items of one shard; the last one may be shorter."""
        check_count(n, "n")
        return self._then(f"batch({n})", (functools.partial(iter_steps.Batch, n),))

    def flatten(self) -> ParallelIterator:
        """The items of the items."""
        return self._then("flatten()", (iter_steps.Flatten,))

    def combine(self, fn: Callable[[Any], Iterable[Any]]) -> ParallelIterator:
        """`for_each(fn).flatten()`."""
        return self.for_each(fn).flatten()

    def local_shuffle(self, shuffle_buffer_size: int, seed: int | None = None) -> ParallelIterator:
        """The items of each shard in another order: any of the last `shuffle_buffer_size` may come next."""
        check_count(shuffle_buffer_size, "shuffle_buffer_size")
        step = functools.partial(iter_steps.Shuffle, shuffle_buffer_size, seed)
        return self._then(f"local_shuffle({shuffle_buffer_size})", (step,))

    def transform(self, fn: Callable[[Iterable[Any]], Iterable[Any]]) -> ParallelIterator:
        """What `fn` makes of all items of a shard: it takes an iterator and gives one, as a generator function does."""
        _check_function(fn, "transform")
        return self._then("transform()", fn)

    # which shards

    def num_shards(self) -> int:
        """How many actors have items."""
        return len(self._shards)

    def select_shards(self, shards_to_keep: Sequence[int]) -> ParallelIterator:
        """Only the shards with these numbers. Raises IndexError."""
        return ParallelIterator([self._shards[at] for at in shards_to_keep], f"{self._name}.select_shards()")

    def union(self, other: ParallelIterator) -> ParallelIterator:
        """The shards of both."""
        if not isinstance(other, ParallelIterator):
            raise TypeError(f"union takes another ParallelIterator, not {type(other).__name__}")
        return ParallelIterator(self._shards + other._shards, f"{self._name}.union({other._name})")

    def repartition(self, num_partitions: int, batch_ms: int = 0) -> ParallelIterator:
        """The same items with `num_partitions` new actors, which each shard's items are dealt out to in turn.

        What was done to items before happens once, at the actors where they were; what no partition has read yet is
        kept there. batch_ms: see `gather_async`.
        """
        check_count(num_partitions, "num_partitions")
        check_count(batch_ms, "batch_ms", 0)
        key = os.urandom(8)
        parts = [_Part(self._shards, batch_ms / 1000, PassKey(key, at, num_partitions)) for at in range(num_partitions)]
        return from_iterators(parts, name=f"{self._name}.repartition({num_partitions})")

    # reading

    def batch_across_shards(self) -> LocalIterator:
        """Lists with one item of each shard that has more: asked of all at the same time, when a list is asked for."""
        return LocalIterator(functools.partial(in_turn, _flows(self._shards)))

    def gather_sync(self) -> LocalIterator:
        """`batch_across_shards().flatten()`: items of all shards in turn."""
        return self.batch_across_shards().flatten()

    def gather_async(self, batch_ms: int = 0, num_async: int = 1) -> LocalIterator:
        """Items of all shards in the order in which they come; the next ones are made meanwhile.

        batch_ms: milliseconds for which a shard collects items before it answers. num_async: questions under way to
        each shard.
        """
        _check_ahead(batch_ms, num_async)
        return LocalIterator(functools.partial(as_they_come, _flows(self._shards, batch_ms / 1000, num_async)))

    def get_shard(self, shard_index: int, batch_ms: int = 0, num_async: int = 1) -> LocalIterator:
        """The items of one shard, in order where its actor runs one call at a time. Raises IndexError."""
        _check_ahead(batch_ms, num_async)
        (flow,) = _flows([self._shards[shard_index]], batch_ms / 1000, num_async)
        return LocalIterator(flow)

    def shards(self) -> list[LocalIterator]:
        """All shards."""
        return [self.get_shard(at) for at in range(self.num_shards())]

    def take(self, n: int) -> list[Any]:
        """The first `n` items of `gather_sync()`, or all if there are fewer. In an event loop: `take_async`."""
        return self.gather_sync().take(n)

    async def take_async(self, n: int) -> list[Any]:
        """`take`, awaited."""
        return await self.gather_sync().take_async(n)

    def show(self, n: int = 20) -> None:
        """Print the first `n` items. In an event loop: `show_async`."""
        self.gather_sync().show(n)

    async def show_async(self, n: int = 20) -> None:
        """`show`, awaited."""
        await self.gather_sync().show_async(n)


class LocalIterator:
    """Items as they are read, with `for` or `next`, in an event loop with `async for` or `anext`.

    It reads its items once, and goes on where it stopped; methods give new ones, which begin at the beginning.
    Cancelling an await loses no item. The first error ends it. It can be passed to tasks and actors, and begins there.
    """

    def __init__(self, flow: MakeFlow) -> None:
        self._make = flow
        self._flow: Flow | None = None
        self._until: Until | None = None  # what it waits for

    def __reduce__(self) -> tuple[Any, ...]:
        return LocalIterator, (self._make,)

    def __repr__(self) -> str:
        return "LocalIterator" if self._flow is None else "LocalIterator, begun"

    # reading

    def _advance(self, done: Any = None) -> Until | Item:
        if self._flow is None:
            self._flow = self._make()
        self._until = None
        now = self._flow.send(done)
        if isinstance(now, Until):
            self._until = now
        return now

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        refuse_in_loop("for item in iterator", "async for item in iterator")
        now = self._until or self._advance()
        while isinstance(now, Until):
            ((done,), _) = aioray.wait(now.refs)
            now = self._advance(done)
        return now.value

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            now = self._until or self._advance()
            while isinstance(now, Until):
                ((done,), _) = await aioray.wait(now.refs)
                now = self._advance(done)
        except StopIteration:
            raise StopAsyncIteration from None
        return now.value

    def take(self, n: int) -> list[Any]:
        """The next `n` items, or all if there are fewer. In an event loop: `take_async`."""
        refuse_in_loop("take(n)", "await take_async(n)")
        check_count(n, "n", 0)
        return list(itertools.islice(self, n))

    async def take_async(self, n: int) -> list[Any]:
        """`take`, awaited."""
        check_count(n, "n", 0)
        items: list[Any] = []
        while len(items) < n:
            try:
                items.append(await anext(self))
            except StopAsyncIteration:
                break
        return items

    def show(self, n: int = 20) -> None:
        """Print the next `n` items. In an event loop: `show_async`."""
        for item in self.take(n):
            print(item)

    async def show_async(self, n: int = 20) -> None:
        """`show`, awaited."""
        for item in await self.take_async(n):
            print(item)

    # what is done here

    def _then(self, step: MakeStep) -> LocalIterator:
        return LocalIterator(functools.partial(through, self._make, step))

    def for_each(self, fn: Callable[[Any], Any]) -> LocalIterator:
        """`fn(item)` instead of each item. To have it run in tasks: `for_each` of the ParallelIterator."""
        _check_function(fn, "for_each")
        return self._then(functools.partial(iter_steps.ForEach, fn))

    def filter(self, fn: Callable[[Any], Any]) -> LocalIterator:
        """Only the items for which `fn(item)` is true."""
        _check_function(fn, "filter")
        return self._then(functools.partial(iter_steps.Filter, fn))

    def batch(self, n: int) -> LocalIterator:
        """Lists of `n` items; the last one may be shorter."""
        check_count(n, "n")
        return self._then(functools.partial(iter_steps.Batch, n))

    def flatten(self) -> LocalIterator:
        """The items of the items."""
        return self._then(iter_steps.Flatten)

    def combine(self, fn: Callable[[Any], Iterable[Any]]) -> LocalIterator:
        """`for_each(fn).flatten()`."""
        return self.for_each(fn).flatten()

    def shuffle(self, shuffle_buffer_size: int, seed: int | None = None) -> LocalIterator:
        """The items in another order: any of the last `shuffle_buffer_size` may come next."""
        check_count(shuffle_buffer_size, "shuffle_buffer_size")
        return self._then(functools.partial(iter_steps.Shuffle, shuffle_buffer_size, seed))

    def union(self, *others: LocalIterator, deterministic: bool = False) -> LocalIterator:
        """The items of all, as they come; deterministic: one of each in turn."""
        for other in others:
            if not isinstance(other, LocalIterator):
                raise TypeError(f"union takes other LocalIterators, not {type(other).__name__}")
        check_flag(deterministic, "deterministic")
        flows = [self._make, *(other._make for other in others)]
        if deterministic:
            return LocalIterator(functools.partial(in_turn, flows)).flatten()
        return LocalIterator(functools.partial(as_they_come, flows))


class _Part:
    """One partition's items, at its actor. Its n-th pass takes its share of the n-th pass of all partitions."""

    def __init__(self, shards: Sequence[Shard], batch_s: float, which: PassKey) -> None:
        self._shards = shards
        self._batch_s = batch_s
        self._which = which
        self._passes = itertools.count()

    def __call__(self) -> Iterator[Any]:
        key = self._which.key + next(self._passes).to_bytes(8, "big")
        return LocalIterator(
            functools.partial(in_turn, _flows(self._shards, self._batch_s, 1, self._which._replace(key=key)))
        ).flatten()


def _flows(
    shards: Sequence[Shard], batch_s: float = 0.0, ahead: int = 0, which: PassKey | None = None
) -> list[MakeFlow]:
    return [functools.partial(read, shard, batch_s, ahead, which) for shard in shards]


def _in_tasks(
    fn: Callable[[Any], Any], max_concurrency: int, options: Mapping[str, Any], items: Iterable[Any]
) -> Iterator[Any]:
    """A stage at an actor: what tasks make of its items."""
    remote: Any = aioray.remote(fn)
    called = remote.options(**options) if options else remote
    return iter(map_unordered(called, items, backpressure_size=max_concurrency or None, chunk_size=1))


def _check_function(fn: object, of: str) -> None:
    if not callable(fn):
        raise TypeError(f"{of} takes a function, not {type(fn).__name__}")


def _check_ahead(batch_ms: int, num_async: int) -> None:
    check_count(batch_ms, "batch_ms", 0)
    check_count(num_async, "num_async")
