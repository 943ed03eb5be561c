"""Concurrency groups: so many calls at once in each, whatever the others do."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

import aioray
from aioray.exceptions import InvalidOptionError
from tests.api.support import started

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    with started(num_cpus=2) as ray:
        yield ray


class PlainGroups:
    """Calls that come back only when `parties` of them are there; and how many there were at once at most."""

    def __init__(self) -> None:
        self.barriers = {parties: threading.Barrier(parties) for parties in (2, 3)}
        self.lock = threading.Lock()
        self.now = self.most = 0

    @aioray.method(concurrency_group="io")
    def meet(self, parties: int) -> str:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        self.barriers[parties].wait(10)
        with self.lock:
            self.now -= 1
        return threading.current_thread().name

    @aioray.method(concurrency_group="one")
    def in_main_thread(self) -> bool:
        return threading.current_thread() is threading.main_thread()

    def plain(self) -> bool:
        return threading.current_thread() is threading.main_thread()

    def at_once(self) -> int:
        return self.most


class PlainAsyncGroups:
    def __init__(self) -> None:
        self.events = {"io": asyncio.Event(), "": asyncio.Event()}
        self.now = {"io": 0, "one": 0, "": 0}

    @aioray.method(concurrency_group="io")
    async def wait_in_io(self) -> str:
        self.now["io"] += 1
        await self.events["io"].wait()
        self.now["io"] -= 1
        return "io"

    async def wait(self) -> str:
        self.now[""] += 1
        await self.events[""].wait()
        self.now[""] -= 1
        return "default"

    @aioray.method(concurrency_group="one")
    async def counts(self) -> dict[str, int]:
        return dict(self.now)

    @aioray.method(concurrency_group="one")
    async def release(self, group: str) -> None:
        self.events[group].set()


GROUPS = {"io": 2, "one": 1}
Groups = aioray.remote(concurrency_groups=GROUPS)(PlainGroups)
AsyncGroups = aioray.remote(concurrency_groups=GROUPS)(PlainAsyncGroups)


def test_calls_of_a_group_run_at_once_up_to_its_limit(ray: Any) -> None:
    actor = Groups.remote()
    ray.get([actor.meet.remote(2) for _ in range(6)])
    assert ray.get(actor.at_once.remote()) == 2


def test_methods_without_a_group_run_in_the_main_thread_beside_the_groups(ray: Any) -> None:
    actor = Groups.remote()
    first = actor.meet.remote(2)
    assert ray.get(actor.plain.remote()) is True
    assert ray.get(actor.in_main_thread.remote()) is False
    actor.meet.remote(2)
    assert ray.get(first)


def test_a_call_may_name_another_group(ray: Any) -> None:
    actor = Groups.options(concurrency_groups={"io": 2, "one": 1, "three": 3}).remote()
    ray.get([actor.meet.options(concurrency_group="three").remote(3) for _ in range(3)])
    assert ray.get(actor.at_once.remote()) == 3
    assert ray.get(actor.plain.options(concurrency_group="one").remote()) is False


@pytest.mark.parametrize("cls", [Groups, AsyncGroups])
def test_an_unknown_group_is_refused_at_the_call_with_those_there_are(ray: Any, cls: Any) -> None:
    """In every process that has a handle, and for what the class says as for what the call does."""

    @aioray.remote
    def call(actor: Any, group: str) -> None:
        (actor.plain if cls is Groups else actor.wait).options(concurrency_group=group).remote()

    actor = cls.remote()
    with pytest.raises(InvalidOptionError, match=r"'none'.*io, one"):
        (actor.plain if cls is Groups else actor.wait).options(concurrency_group="none")
    with pytest.raises(InvalidOptionError, match=r"'none'.*io, one"):
        ray.get(call.remote(actor, "none"))
    without = cls.options(concurrency_groups={"other": 1}).remote()
    with pytest.raises(InvalidOptionError, match=r"'one'.*other"):
        (without.in_main_thread if cls is Groups else without.counts).remote()


@pytest.mark.parametrize("isolation", ["process", "shared"])
def test_groups_of_an_async_actor_do_not_wait_for_each_other(ray: Any, isolation: str) -> None:
    """
    1. one call at a time outside of groups, two in "io": six are made of each
    2. the third group tells that three run; when "io" is released, its calls are done and the other still waits
    """
    actor = AsyncGroups.options(max_concurrency=1, isolation=isolation).remote()
    waiting = [actor.wait.remote() for _ in range(6)]
    in_io = [actor.wait_in_io.remote() for _ in range(6)]
    assert ray.get(actor.counts.remote()) == {"io": 2, "one": 0, "": 1}
    ray.get(actor.release.remote("io"))
    assert ray.get(in_io) == ["io"] * 6
    assert ray.wait(waiting, timeout=0)[0] == []
    ray.get(actor.release.remote(""))
    assert ray.get(waiting) == ["default"] * 6


def test_bad_groups_are_refused_by_name() -> None:
    for groups in ({"io": 0}, {"": 1}, ["io"], {"io": "2"}):
        with pytest.raises(InvalidOptionError, match="concurrency_groups"):
            Groups.options(concurrency_groups=groups)
