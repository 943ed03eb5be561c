"""Remote generators for tests, apart from these: every worker that gets one imports this, and not pytest."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np

import aioray

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    from tests.api.support import Meeting

MIB = 1 << 20


@aioray.remote
def count(n: int) -> Iterator[int]:
    yield from range(n)


@aioray.remote
async def count_async(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield i


@aioray.remote
def one_then_more(meeting: Meeting) -> Iterator[str]:
    yield "first"
    meeting.wait()
    yield "second"


@aioray.remote
def fail_after(n: int) -> Iterator[int]:
    yield from range(n)
    raise LookupError("no more")


@aioray.remote
async def fail_after_async(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield i
    raise LookupError("no more")


@aioray.remote
def arrays(n: int, nbytes: int = MIB) -> Iterator[Any]:
    for i in range(n):
        yield np.full(nbytes, i, dtype=np.uint8)


@aioray.remote
async def arrays_async(n: int) -> AsyncIterator[Any]:
    for i in range(n):
        yield np.full(MIB, i, dtype=np.uint8)


@aioray.remote
def die_in_the_middle(first_time: str) -> Iterator[Any]:
    """The first time, SIGKILL after three values, once they have left; then all five."""
    path = pathlib.Path(first_time)
    again = path.exists()
    path.touch()
    for i in range(5):
        if i == 3 and not again:
            time.sleep(0.05)  # not for a state: what is collected here is written within that time
            os.kill(os.getpid(), signal.SIGKILL)
        yield np.full(MIB, i, dtype=np.uint8) if i % 2 else i


def note(path: str, text: str) -> None:
    """One line at the end of a file: what a generator did is read by its test."""
    with open(path, "a") as file:
        file.write(f"{text}\n")


def notes(path: pathlib.Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def endless(path: str) -> Iterator[int]:
    at = 0
    try:
        while True:
            note(path, f"{at}")
            yield at
            at += 1
    except GeneratorExit:
        note(path, "GeneratorExit")
        raise
    except KeyboardInterrupt:
        note(path, "KeyboardInterrupt")
        raise
    finally:
        note(path, "finally")


async def endless_async(path: str) -> AsyncGenerator[int, None]:
    at = 0
    try:
        while True:
            note(path, f"{at}")
            yield at
            at += 1
    except GeneratorExit:
        note(path, "GeneratorExit")
        raise
    except asyncio.CancelledError:
        note(path, "CancelledError")
        raise
    finally:
        note(path, "finally")


async def hang_async(path: str) -> AsyncGenerator[int, None]:
    try:
        yield 0
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        note(path, "CancelledError")
        raise
    finally:
        note(path, "finally")


class PlainGenerating:
    """Its generators are plain: an actor of one thread, or of several."""

    def count(self, n: int) -> Iterator[int]:
        yield from range(n)

    def endless(self, path: str) -> Iterator[int]:
        yield from endless(path)

    def arrays(self, n: int) -> Iterator[Any]:
        for i in range(n):
            yield np.full(MIB, i, dtype=np.uint8)

    def fail_after(self, n: int) -> Iterator[int]:
        yield from range(n)
        raise LookupError("no more")

    def one_then_more(self, meeting: Meeting) -> Iterator[str]:
        yield "first"
        meeting.wait()
        yield "second"

    @aioray.method(num_returns="dynamic")
    def all_at_once(self, n: int) -> Iterator[int]:
        yield from range(n)

    @aioray.method(_generator_backpressure_num_objects=2)
    def slowly(self, path: str) -> Iterator[int]:
        yield from endless(path)

    def thread(self) -> int:
        return threading.get_ident()

    def die(self) -> Iterator[int]:
        yield 1
        time.sleep(0.05)  # not for a state: what is collected here is written within that time
        os.kill(os.getpid(), signal.SIGKILL)
        yield 2


class PlainAsyncGenerating:
    """Its generators are asynchronous, and one is not, in an actor that serves calls on an event loop."""

    async def count(self, n: int) -> AsyncIterator[int]:
        for i in range(n):
            yield i

    async def endless(self, path: str) -> AsyncIterator[int]:
        async with contextlib.aclosing(endless_async(path)) as values:  # else it is closed some time later, by the loop
            async for i in values:
                yield i

    async def hang(self, path: str) -> AsyncIterator[int]:
        async with contextlib.aclosing(hang_async(path)) as values:
            async for i in values:
                yield i

    async def arrays(self, n: int) -> AsyncIterator[Any]:
        for i in range(n):
            yield np.full(MIB, i, dtype=np.uint8)

    async def fail_after(self, n: int) -> AsyncIterator[int]:
        for i in range(n):
            yield i
        raise LookupError("no more")

    def plain_one_then_more(self, meeting: Meeting) -> Iterator[str]:
        yield "first"
        meeting.wait()
        yield "second"

    def plain_endless(self, path: str) -> Iterator[int]:
        yield from endless(path)

    async def answer(self) -> str:
        return "here"

    @aioray.method(_generator_backpressure_num_objects=2)
    async def slowly(self, path: str) -> AsyncIterator[int]:
        async with contextlib.aclosing(endless_async(path)) as values:
            async for i in values:
                yield i


Generating = aioray.remote(PlainGenerating)
AsyncGenerating = aioray.remote(PlainAsyncGenerating)


def actors() -> dict[str, Any]:
    """How actors can run their methods."""
    return {
        "sync": Generating,
        "threaded": Generating.options(max_concurrency=2),
        "async": AsyncGenerating,
        "light": AsyncGenerating.options(isolation="shared"),
        "light, plain": Generating.options(isolation="shared"),
    }
