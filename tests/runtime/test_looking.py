"""A task that looks for its answer between the turns of its loop."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import pytest

from aioray.runtime.looking import Looking
from aioray.runtime.reactor import Reactor
from tests.runtime.test_reactor import PATIENCE_S, Bell

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) == 1, reason="on a single core nobody looks")


class Answer:
    """Awaited as an answer that is looked for, and given up where that is in vain."""

    def __init__(self, looking: Looking, done: Callable[[], bool]) -> None:
        self._looking = looking
        self._done = done
        self.turns = 0

    def __await__(self) -> Generator[Any, None, bool]:
        for turn in self._looking.until(self._done):
            self.turns += 1
            yield turn
        return self._done()


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    reactor = Reactor("test", spin_us=PATIENCE_S * 1e6)
    yield reactor
    reactor.close()


@pytest.fixture
def bell(reactor: Reactor) -> Iterator[Bell]:
    bell = Bell(reactor)
    yield bell
    os.close(bell.fd)


def test_what_comes_is_found_and_others_have_their_turns_meanwhile(reactor: Reactor, bell: Bell) -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        reactor.attach(loop)
        answer = Answer(Looking(reactor), bell.heard(1))
        turns = 0

        def turn() -> None:
            nonlocal turns
            turns += 1
            if turns == 10:
                bell.ring()
            elif turns < 10:
                loop.call_soon(turn)

        loop.call_soon(turn)
        assert await answer
        assert turns == 10
        assert answer.turns >= 9

    asyncio.run(story())


def test_what_something_else_completes_is_noticed(reactor: Reactor) -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        reactor.attach(loop)
        done: list[int] = []
        loop.call_soon(done.append, 1)
        assert await Answer(Looking(reactor), lambda: bool(done))

    asyncio.run(story())


def test_looking_in_vain_ends_and_is_rarer_then(bell: Bell) -> None:
    async def story(reactor: Reactor) -> None:
        reactor.attach(asyncio.get_running_loop())
        looking = Looking(reactor)
        first, second = Answer(looking, lambda: False), Answer(looking, lambda: False)
        assert not await first
        assert not await second
        assert first.turns
        assert not second.turns

    reactor = Reactor("test", spin_us=500)
    try:
        asyncio.run(story(reactor))
    finally:
        reactor.close()


def test_nobody_looks_where_the_loop_does_not_do_the_io(reactor: Reactor, bell: Bell) -> None:
    async def story() -> None:
        answer = Answer(Looking(reactor), bell.heard(1))
        bell.ring()
        assert not await answer
        assert not answer.turns

    asyncio.run(story())
