"""How compiled graphs end in the middle of things: nothing is left, and who executes them hears why."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import aioray
from aioray import current
from aioray.dag import InputNode, MultiOutputNode
from aioray.exceptions import ActorDiedError
from tests.api.support import eventually, store, store_returns_to
from tests.dag.test_compiled import chain, remote_adder
from tests.objects.test_lost_results import die_before_the_answer

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable


@pytest.fixture
def hold_back(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Callable[[], None]]:
    """What the node says of actors is late from here on; until it is let through."""

    def begin() -> Callable[[], None]:
        runtime = current.get()
        updates: list[Any] = []
        updated = runtime.actors.updated
        monkeypatch.setattr(runtime.actors, "updated", updates.append)

        def let_through() -> None:
            with runtime.reactor.lock:
                monkeypatch.setattr(runtime.actors, "updated", updated)
                for update in updates:
                    updated(update)

        return let_through

    return begin


def test_a_pass_that_begins_when_a_link_is_broken_and_nobody_has_said_why_fails_as_those_before(
    ray: Any, hold_back: Any
) -> None:
    compiled = chain(remote_adder.remote().die).experimental_compile()
    let_through = hold_back()
    before = compiled.execute(-1)
    (connection,) = compiled._plan._connections.values()
    eventually(lambda: connection.closed)
    after = compiled.execute(1)
    let_through()
    for ref in (before, after):
        with pytest.raises(ActorDiedError):
            ray.get(ref, timeout=20)
    with pytest.raises(ActorDiedError):
        compiled.execute(1)
    eventually(lambda: is_over(compiled))


class Maker:
    """Makes what is large, and can have the node's words come late."""

    def make_when(self, path: pathlib.Path) -> Any:
        while not path.exists():
            time.sleep(0.005)
        return np.ones(1 << 20, np.uint8)

    def make_and_die(self, x: Any) -> Any:
        die_before_the_answer()
        return np.ones(1 << 20, np.uint8), [aioray.put(x)]

    def take(self, x: Any) -> int:
        return len(x)


class AsyncMaker:
    def __init__(self) -> None:
        self.late: list[Any] = []

    async def hold_back(self) -> None:
        link: Any = current.get().link
        self.settle = link._settle
        link._settle = lambda *words: self.late.append(words)

    async def is_waiting(self) -> bool:
        return bool(self.late)

    async def let_through(self) -> None:
        link: Any = current.get().link
        link._settle = self.settle
        with current.get().reactor.lock:
            for words in self.late:
                self.settle(*words)

    async def make(self, x: Any) -> Any:
        return np.ones(1 << 20, np.uint8)


def is_over(compiled: Any) -> bool:
    return compiled._plan not in current.get().plans


@pytest.mark.parametrize("takers", ["actor", "driver", "both"])
def test_a_value_that_its_maker_does_not_live_to_send_is_freed(ray: Any, takers: str) -> None:
    """The graph ends while its maker, on an event loop, waits for the node to know the value."""
    maker, taker = ray.remote(AsyncMaker).remote(), ray.remote(Maker).remote()
    with InputNode() as x:
        made = maker.make.bind(x)
        taken = taker.take.bind(made)
        graph = {"actor": taken, "driver": made, "both": MultiOutputNode([made, taken])}[takers]
    compiled = graph.experimental_compile()
    ray.get([maker.is_waiting.remote(), taker.take.remote([])])
    before = store()
    ray.get(maker.hold_back.remote())
    refs = compiled.execute(1)
    eventually(lambda: ray.get(maker.is_waiting.remote()))
    compiled.teardown()
    eventually(lambda: is_over(compiled))
    del refs
    ray.get(maker.let_through.remote())
    store_returns_to(before)


@pytest.mark.parametrize("dead", [0, 1])
@pytest.mark.parametrize("with_driver", [False, True])
def test_a_value_of_which_one_taker_has_died_is_freed_by_the_others(
    ray: Any, tmp_path: pathlib.Path, dead: int, with_driver: bool
) -> None:
    maker, *takers = (ray.remote(Maker).remote() for _ in range(3))
    with InputNode() as x:
        made = maker.make_when.bind(x)
        outputs = [taker.take.bind(made) for taker in takers]
        graph = MultiOutputNode([*outputs, made] if with_driver else outputs)
    compiled = graph.experimental_compile()
    before = store()
    refs = compiled.execute(tmp_path / "go")
    ray.kill(takers[dead])
    with pytest.raises(ActorDiedError):
        ray.get(refs[dead], timeout=20)
    (tmp_path / "go").touch()
    eventually(lambda: is_over(compiled))
    del refs
    store_returns_to(before)
    assert ray.get(takers[1 - dead].take.remote([1])) == 1


def test_a_value_whose_maker_died_before_it_sent_it_is_freed_by_its_owner(ray: Any) -> None:
    maker = ray.remote(Maker).remote()
    compiled = chain(maker.make_and_die).experimental_compile()
    before = store()
    ref = compiled.execute(1)
    with pytest.raises(ActorDiedError):
        ray.get(ref, timeout=20)
    store_returns_to(before)
