"""Remote classes and functions for tests, apart from these: every worker that gets one imports this, and not pytest."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING, Any

import aioray

if TYPE_CHECKING:
    from tests.api.support import Meeting


class PlainCounter:
    """Counts, and remembers what it was given."""

    def __init__(self, start: int = 0) -> None:
        self.value = start
        self.seen: list[Any] = []

    def add(self, amount: int = 1) -> int:
        self.value += amount
        return self.value

    def note(self, thing: Any) -> None:
        self.seen.append(thing)

    def notes(self) -> list[Any]:
        return self.seen

    def pid(self) -> int:
        return os.getpid()

    def fail(self, text: str) -> None:
        raise LookupError(text)

    @aioray.method(num_returns=2)
    def pair(self) -> tuple[int, int]:
        return self.value, -self.value

    @staticmethod
    def double(number: int) -> int:
        return 2 * number

    @classmethod
    def class_name(cls) -> str:
        return cls.__name__


class PlainExtended(PlainCounter):
    def add(self, amount: int = 1) -> int:
        return super().add(10 * amount)


Counter = aioray.remote(PlainCounter)
Extended = aioray.remote(PlainExtended)


@aioray.remote
def add_to(counter: Any, amount: int) -> Any:
    return aioray.get(counter.add.remote(amount))


@aioray.remote
def make_counter(start: int) -> Any:
    return Counter.remote(start)


@aioray.remote
def identity(value: Any) -> Any:
    return value


@aioray.remote
def after(meeting: Meeting, value: Any) -> Any:
    meeting.wait()
    return value


class PlainRendezvous:
    """Its calls come back only when `count` of them are there at the same time."""

    def __init__(self, count: int) -> None:
        self.barrier = threading.Barrier(count)
        self.lock = threading.Lock()
        self.now = self.most = 0

    def meet(self) -> int:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            return self.barrier.wait(10)
        finally:
            with self.lock:
                self.now -= 1

    def at_once(self) -> int:
        return self.most


Rendezvous = aioray.remote(PlainRendezvous)


class PlainAsync:
    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.now = self.most = 0
        self.loop_thread = threading.get_ident()

    async def wait(self) -> str:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.event.wait()
        finally:
            self.now -= 1
        return "released"

    async def release(self) -> int:
        self.event.set()
        return self.now

    async def running(self) -> tuple[int, int]:
        return self.now, self.most

    def in_a_thread(self) -> bool:
        return threading.get_ident() != self.loop_thread

    async def on_the_loop(self) -> bool:
        return threading.get_ident() == self.loop_thread

    async def total(self, counter: Any) -> list[Any]:
        return await asyncio.gather(identity.remote(1), counter.add.remote(), *[identity.remote(n) for n in range(3)])

    async def block(self) -> None:
        aioray.get(identity.remote(1))

    def get_in_a_thread(self) -> Any:
        return aioray.get(identity.remote("fine"))


Async = aioray.remote(PlainAsync)
