"""Remote classes and functions for the tests of util, apart from these: workers import this, and not pytest."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

import aioray
from aioray.util.iter import ParallelIteratorWorker


class PlainDoubler:
    """Doubles; fails for negative numbers; waits at its gate when it is told to."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.calls = 0

    def double(self, number: int) -> int:
        self.calls += 1
        if number < 0:
            raise ValueError(f"{number} is negative")
        return 2 * number

    def double_later(self, gate: Any, number: int) -> int:
        aioray.get(gate.passed.remote(number))
        return self.double(number)

    def count(self) -> int:
        return self.calls

    def pid(self) -> int:
        return os.getpid()

    def die(self, _: Any = None) -> None:
        os._exit(1)


Doubler: Any = aioray.remote(num_cpus=0)(PlainDoubler)


class PlainGate:
    """Lets through whom it was told to; knows who stands before it."""

    def __init__(self) -> None:
        self._open: set[Any] = set()
        self._here: list[Any] = []
        self._news = asyncio.Condition()

    async def passed(self, name: Any = None) -> Any:
        async with self._news:
            self._here.append(name)
            self._news.notify_all()
            await self._news.wait_for(lambda: name in self._open)
        return name

    async def open(self, *names: Any) -> None:
        async with self._news:
            self._open.update(names or (None,))
            self._news.notify_all()

    async def here(self, count: int) -> list[Any]:
        """Who came, as soon as `count` have."""
        async with self._news:
            await self._news.wait_for(lambda: len(self._here) >= count)
        return self._here


Gate: Any = aioray.remote(num_cpus=0)(PlainGate)


@aioray.remote(num_cpus=0)
def take(queue: Any, count: int) -> list[Any]:
    return [queue.get() for _ in range(count)]


@aioray.remote(num_cpus=0)
def fill(queue: Any, items: list[Any]) -> None:
    for item in items:
        queue.put(item)


@aioray.remote(num_cpus=0)
async def take_async(queue: Any, count: int) -> list[Any]:
    return [await queue.get_async() for _ in range(count)]


@aioray.remote(num_cpus=0)
def double_task(number: int) -> int:
    if number < 0:
        raise ValueError(f"{number} is negative")
    return 2 * number


@aioray.remote(num_cpus=0)
def pass_gate(gate: Any, name: Any) -> Any:
    return aioray.get(gate.passed.remote(name))


# for pools


def square(number: int) -> int:
    if number < 0:
        raise ValueError(f"{number} is negative")
    return number * number


def power(base: int, exponent: int = 2) -> int:
    return int(base**exponent)


def own_pid(_: Any = None) -> int:
    return os.getpid()


def die(_: Any = None) -> None:
    os._exit(1)


def pass_the_gate(gate: Any, name: Any) -> Any:
    return aioray.get(gate.passed.remote(name))


def tell(thing: str) -> None:
    """As an initializer: what it was given, `what_was_told` returns."""
    os.environ["TOLD"] = os.environ.get("TOLD", "") + thing


def what_was_told(_: Any = None) -> str:
    return os.environ["TOLD"]


def refuse(text: str) -> None:
    raise RuntimeError(text)


@aioray.remote(num_cpus=1)
def pool_in_a_task() -> list[int]:
    from aioray.util.multiprocessing import Pool

    with Pool(2) as pool:
        return pool.map(square, range(5)) + list(pool.imap(square, range(3)))


def interrupted_at_the_gate(gate: Any) -> None:
    """Tells the gate when it is stopped before the gate lets it through."""
    try:
        aioray.get(gate.passed.remote("before"))
    finally:
        aioray.get(gate.open.remote("stopped"))


@aioray.remote(num_cpus=1)
def executor_in_a_task() -> list[int]:
    from aioray.util import Executor

    with Executor() as executor:
        return [executor.submit(square, 3).result(), *executor.map(square, range(3))]


@aioray.remote(num_cpus=1)
def joblib_in_a_task() -> list[int]:
    import joblib

    from aioray.util.joblib import register_ray

    register_ray()
    with joblib.parallel_backend("ray"):
        return list(joblib.Parallel(n_jobs=2)(joblib.delayed(square)(n) for n in range(4)))


# for serializers


class Locked:
    """Pickle cannot take it."""

    def __init__(self, value: int) -> None:
        self.value = value
        self.lock = threading.Lock()


class Custom(Locked):
    """For the tests that register a serializer."""


def to_number(obj: Locked) -> int:
    return obj.value


def to_custom(value: int) -> Custom:
    return Custom(value)


@aioray.remote(num_cpus=0)
def value_of(obj: Locked) -> int:
    return obj.value


@aioray.remote(num_cpus=0)
def one_more(obj: Locked) -> Locked:
    return type(obj)(obj.value + 1)


@aioray.remote(num_cpus=0)
def make_custom(value: int) -> Custom:
    from aioray.util import register_serializer

    register_serializer(Custom, serializer=to_number, deserializer=to_custom)
    return Custom(value)


@aioray.remote(num_cpus=0)
def count_with_tqdm(count: int) -> None:
    from aioray.util import tqdm

    for _ in tqdm(range(count), desc="counting", position=3, flush_interval_s=1000):
        pass


class PlainTaker:
    def take(self, queue: Any) -> Any:
        return queue.get()


Taker: Any = aioray.remote(num_cpus=0)(PlainTaker)


class PlainCounting(ParallelIteratorWorker):
    """Iterates over a range, and knows how many passes over it are under way."""

    def __init__(self, n: int) -> None:
        super().__init__(range(n))

    def passes(self) -> int:
        return len(self._passes)


Counting: Any = aioray.remote(num_cpus=0)(PlainCounting)
