"""Actors whose calls type checkers follow (tests/typing) run as all others do."""

from __future__ import annotations

from typing import Any, get_args

import pytest

import aioray


@aioray.remote
class Counter(aioray.Actor):
    def __init__(self, start: int = 0) -> None:
        self.total = start

    @aioray.method
    def add(self, n: int) -> int:
        self.total += n
        return self.total

    @aioray.method
    def add_twice(self, n: int) -> int:
        self.add(n)
        return self.add(n)

    @aioray.method(num_returns=2)
    def pair(self) -> tuple[int, int]:
        return self.total, -self.total

    def unmarked(self) -> str:
        return "called all the same"


@aioray.remote
class AsyncCounter(aioray.Actor):
    @aioray.method
    async def add(self, n: int, to: int) -> int:
        return n + to


def test_a_typed_actor_is_called_as_any_other(ray: Any) -> None:
    counter = Counter.remote(ray.put(1))
    assert ray.get(counter.add.remote(ray.put(2))) == 3
    assert ray.get(counter.add_twice.remote(1)) == 5
    assert ray.get(list(counter.pair.remote())) == [5, -5]
    handle: Any = counter
    assert ray.get(handle.unmarked.remote()) == "called all the same"
    assert isinstance(counter, aioray.ActorHandle)
    with pytest.raises(AttributeError, match="it has: add, add_twice, pair, unmarked"):
        _ = handle.remote


async def test_a_typed_async_actor_is_awaited(cluster: aioray.Cluster) -> None:
    counter = AsyncCounter.options(num_cpus=0).remote()
    assert await counter.add.remote(1, counter.add.remote(2, 3)) == 6
    assert await counter.__ray_ready__.remote()


def test_an_actor_class_can_stand_in_annotations_that_are_evaluated() -> None:
    actor_class: Any = Counter
    assert get_args(actor_class | None) == (Counter, type(None))
    assert get_args(None | actor_class) == (type(None), Counter)


@pytest.mark.parametrize("args", [(3,), (len, len)])
def test_method_takes_a_method_or_options(args: tuple[Any, ...]) -> None:
    decorator: Any = aioray.method
    with pytest.raises(TypeError, match="write @method"):
        decorator(*args)
    with pytest.raises(TypeError, match="write @method"):
        decorator(len, num_returns=2)
