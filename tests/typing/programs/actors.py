"""Checked by mypy and pyright, never run. `# E` marks the lines that both must refuse, and no others."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, assert_type, cast

import aioray
from aioray import ObjectRef, ObjectRefGenerator
from aioray.util import ActorPool


@aioray.remote
class Counter(aioray.Actor):
    def __init__(self, start: int = 0, name: str = "") -> None:
        self.total = start
        self.name = name

    @aioray.method
    def add(self, n: int, times: int = 1) -> int:
        self.total += n * times
        return self.total

    @aioray.method
    async def slowly(self, n: int) -> str:
        assert_type(self.add(n), int)  # inside, a method is a method
        self.add("1")  # E
        return await self.named(str(n))

    @aioray.method(concurrency_group="io")
    async def named(self, text: str) -> str:
        return text

    @aioray.method
    def count(self, to: int) -> Iterator[int]:
        yield from range(to)

    @aioray.method
    async def count_async(self, to: int) -> AsyncIterator[int]:
        yield to

    @aioray.method(num_returns=2)
    def pair(self, n: int) -> tuple[int, str]:
        return n, str(n)

    @aioray.method
    def reset(self) -> None:
        self.total = 0

    @aioray.method
    def anything(self, n: int) -> Any:
        return n

    @aioray.method
    def sum(self, *numbers: int) -> int:
        return sum(numbers)

    def bare(self, n: int) -> int:
        return n


@aioray.remote(num_cpus=0, max_restarts=-1)
class Tally(aioray.Actor):
    @aioray.method
    def add(self, n: int) -> float:
        return float(n)


def construct(start: ObjectRef[int]) -> None:
    assert_type(Counter.remote(), Counter)
    assert_type(Counter.remote(1, name="a"), Counter)
    assert_type(Counter.remote(start, "a"), Counter)
    assert_type(Counter.options(num_cpus=2).remote(1), Counter)
    Counter.remote("1")  # E
    Counter.remote(begin=1)  # E
    Counter.remote(1, "a", 2)  # E
    Counter.options(num_cpus=2).remote("1")  # E
    Tally.remote(1)  # E
    Tally.remote().add.remote("1")  # E


async def call(counter: Counter) -> None:
    ref = counter.add.remote(2)
    assert_type(ref, ObjectRef[int])
    assert_type(await ref, int)
    assert_type(aioray.get(ref), int)
    assert_type(await counter.add.remote(n=2, times=3), int)
    counter.add.remote("2")  # E
    counter.add.remote()  # E
    counter.add.remote(1, 2, 3)  # E
    counter.add.remote(m=2)  # E
    counter.add.remote(n="2")  # E
    counter.ad.remote(2)  # E
    counter.bare.remote(2)  # E
    assert_type(await counter.reset.remote(), None)
    text: str = await counter.add.remote(2)  # E
    print(text)


async def call_what_is_asynchronous(counter: Counter) -> None:
    assert_type(counter.slowly.remote(1), ObjectRef[str])
    assert_type(await counter.slowly.remote(1), str)
    assert_type(await counter.named.remote("a"), str)
    assert_type(await asyncio.gather(counter.add.remote(1), counter.slowly.remote(1)), tuple[int, str])
    counter.slowly.remote("a")  # E
    counter.named.remote(1)  # E


async def give_refs(counter: Counter, number: ObjectRef[int], text: ObjectRef[str]) -> None:
    assert_type(counter.add.remote(number), ObjectRef[int])
    counter.add.remote(number, times=2)
    counter.add.remote(1, number)
    counter.add.remote(counter.add.remote(1), counter.add.remote(2))
    counter.add.remote(cast("int", number), times=cast("int", number))
    counter.sum.remote(*[number] * 3)
    counter.sum.remote(number, 1, number, 2)
    counter.add.remote(text)  # E
    counter.add.remote(1, text)  # E
    counter.add.remote(number, times="a")  # E
    counter.add.remote(n=number)  # E
    counter.sum.remote(text)  # E
    counter.slowly.remote(counter.named.remote("a"))  # E


async def take_what_is_yielded(counter: Counter) -> None:
    assert_type(counter.count.remote(3), ObjectRefGenerator[int])
    async for ref in counter.count_async.remote(3):
        assert_type(await ref, int)
    for ref in counter.count.remote(3):
        assert_type(aioray.get(ref), int)
    counter.count.remote("3")  # E


async def use_options(counter: Counter) -> None:
    assert_type(await counter.add.options(timeout=1).remote(2), int)
    counter.add.options(timeout=1).remote("2")  # E
    one, other = counter.pair.remote(1)
    first, second = counter.add.options(num_returns=2).remote(1)
    counter.pair.remote("1")  # E
    print(one, other, first, second)


def pass_handles_on(counter: Counter) -> None:
    assert_type(aioray.get(counter.__ray_ready__.remote()), bool)
    ActorPool([counter])
    aioray.kill(counter)
    aioray.kill(1)  # E
    asyncio.run(call(counter))
    asyncio.run(call(Tally.remote()))  # E


@aioray.remote
class Untyped:
    def add(self, n: int) -> int:
        return n


def handles_without_types(handle: aioray.ActorHandle) -> None:
    """As they were: what is not told is not checked."""
    handle.add.remote("x").hex()
    aioray.kill(handle)
    made = aioray.remote(list).remote()
    made.anything.remote(1)
