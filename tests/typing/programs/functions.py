"""Checked by mypy and pyright, never run. `# E` marks the lines that both must refuse, and no others."""

from collections.abc import AsyncIterator, Iterator
from typing import assert_type

import aioray
from aioray import ObjectRef, ObjectRefGenerator


@aioray.remote
def square(x: int, scale: float = 1) -> float:
    return x * x * scale


@aioray.remote(num_cpus=2, max_retries=0)
async def fetch(name: str, *, tries: int = 3) -> bytes:
    return name.encode() * tries


@aioray.remote
def count(to: int) -> Iterator[int]:
    yield from range(to)


@aioray.remote
async def count_async(to: int) -> AsyncIterator[int]:
    yield to


@aioray.remote(num_returns=2)
def halves(text: str) -> tuple[str, str]:
    return text[::2], text[1::2]


@aioray.remote
def total(*numbers: int) -> int:
    return sum(numbers)


def seven(a: int, b: int, c: int, d: int, e: int, f: int, g: int) -> None:
    print(a, b, c, d, e, f, g)


async def call(number: ObjectRef[int], text: ObjectRef[str]) -> None:
    assert_type(square.remote(2), ObjectRef[float])
    assert_type(await square.remote(x=2), float)
    assert_type(aioray.get([square.remote(2), square.remote(3)]), list[float])
    assert_type(await fetch.remote("a", tries=2), bytes)
    assert_type(count.remote(3), ObjectRefGenerator[int])
    assert_type(count_async.remote(3), ObjectRefGenerator[int])
    square.remote("2")  # E
    square.remote()  # E
    square.remote(1, 2, 3)  # E
    square.remote(1, scal=2)  # E
    fetch.remote(1)  # E
    fetch.remote("a", 2)  # E
    square.remote(number)
    square.remote(number, scale=2)
    square.remote(1, square.remote(2))
    fetch.remote(text, tries=2)
    total.remote(*[number] * 20)
    total.remote(1, number)
    square.remote(text)  # E
    square.remote(x=number)  # E
    total.remote(text)  # E
    one, other = halves.remote("ab")
    halves.remote(1)  # E
    print(one, other)
    assert_type(square.options(num_cpus=1).remote(2), ObjectRef[float])
    square.options(num_cpus=1).remote("2")  # E
    square(2).hex()
    seven_remote = aioray.remote(seven)
    seven_remote.remote(1, 2, 3, 4, 5, number, 7)
    seven_remote.remote(1, 2, 3, 4, 5, 6)  # E
    seven_remote.remote(1, 2, 3, 4, 5, 6, "7")  # E
