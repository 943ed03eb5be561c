"""Restarted actors and what else there is: streams, deadlines, environments, the runtime context, unseen errors."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

import aioray
from aioray import current
from aioray.exceptions import ActorDiedError, RuntimeEnvSetupError, TaskTimeoutError
from tests.api.mortals import AsyncMortal, Lives, Mortal, SlowBirth
from tests.api.support import Meeting, eventually, started, store, store_returns_to

if TYPE_CHECKING:
    import pathlib
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    with started(num_cpus=2) as ray:
        yield ray


@pytest.fixture
def lives(tmp_path: pathlib.Path) -> Lives:
    return Lives(tmp_path / "lives")


class PlainSource:
    """Dies in the middle of its values, the first time; the values come from its first life and from its second."""

    def small(self, lives: Lives, dies_at: int) -> Iterator[int]:
        life = lives.one_more()
        for number in range(6):
            if life == 1 and number == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
            yield number

    def large(self, lives: Lives, dies_at: int) -> Iterator[bytes]:
        for number in self.small(lives, dies_at):
            yield bytes([number]) * 1_000_000

    async def small_async(self, lives: Lives, dies_at: int) -> AsyncIterator[int]:
        for number in self.small(lives, dies_at):
            yield number


class PlainLightSource:
    """Waits in the middle of its values, until it is ended from outside in its first life."""

    async def values(self, lives: Lives, meeting: Meeting) -> AsyncIterator[int]:
        life = lives.one_more()
        for number in range(6):
            if life == 1 and number == 3:
                meeting.here()
                await aioray.remote(for_ever).remote(meeting)
            yield number


class PlainLate:
    """The node's word that it knows a large result is late, for all in this process, until it is let through."""

    late: ClassVar[list[Any]] = []
    is_open: ClassVar[asyncio.Event] = asyncio.Event()

    async def hold_back(self) -> None:
        link: Any = current.get().link
        self.settle = link._settle
        link._settle = lambda *words: self.settle(*words) if self.late else self.late.append(words)

    async def is_held_back(self) -> bool:
        return bool(self.late)

    async def let_through(self) -> None:
        with current.get().reactor.lock:
            self.settle(*self.late[0])
        self.is_open.set()

    async def make(self, lives: Lives) -> bytes:
        life = lives.one_more()
        if life > 1:
            await self.is_open.wait()
        return bytes([life]) * 1_000_000


def for_ever(meeting: Meeting) -> None:
    meeting.wait()


class PlainSurroundings:
    """Tells what is around it."""

    def tell(self) -> tuple[str | None, bool]:
        context = aioray.get_runtime_context()
        return os.environ.get("AIORAY_TEST_COLOUR"), context.was_current_actor_reconstructed


@pytest.mark.parametrize("method", ["small", "small_async"])
@pytest.mark.parametrize("dies_at", [0, 3])
def test_a_stream_whose_actor_dies_goes_on_where_it_was(ray: Any, lives: Lives, method: str, dies_at: int) -> None:
    cls = type("PlainSync", (), {"small": PlainSource.small}) if method == "small" else PlainSource
    source = ray.remote(cls).options(max_restarts=1, max_task_retries=1).remote()
    stream = getattr(source, method).remote(lives, dies_at)
    assert [ray.get(ref) for ref in stream] == list(range(6))
    assert lives.count() == 2


def test_large_values_of_a_stream_that_is_made_again_are_there_once_and_freed(ray: Any, lives: Lives) -> None:
    baseline = store()
    cls = type("PlainSync", (), {"small": PlainSource.small, "large": PlainSource.large})
    source = ray.remote(cls).options(max_restarts=1, max_task_retries=1).remote()
    refs = list(source.large.remote(lives, 3))
    assert [ray.get(ref)[0] for ref in refs] == list(range(6))
    del refs, source
    store_returns_to(baseline)


def test_a_stream_without_retries_keeps_what_came_and_fails_then(ray: Any, lives: Lives) -> None:
    cls = type("PlainSync", (), {"small": PlainSource.small})
    source = ray.remote(cls).remote()
    refs = list(source.small.remote(lives, 3))
    with pytest.raises(ActorDiedError):
        ray.get(refs[-1])
    assert [ray.get(ref) for ref in refs[:-1]] == list(range(len(refs) - 1))


def test_a_light_actor_that_is_restarted_says_nothing_more_of_its_first_stream(
    ray: Any, lives: Lives, tmp_path: pathlib.Path
) -> None:
    meeting = Meeting(tmp_path / "meeting")
    cls = ray.remote(PlainLightSource).options(isolation="shared", max_restarts=1, max_task_retries=1)
    source = cls.remote()
    stream = source.values.remote(lives, meeting)
    meeting.wait()
    ray.kill(source, no_restart=False)
    assert [ray.get(ref) for ref in stream] == list(range(6))
    assert lives.count() == 2


def test_a_light_actor_that_is_restarted_answers_no_call_of_its_first_life(ray: Any, lives: Lives) -> None:
    """Its second life has the same call, under the same number, over the same connection."""
    cls = ray.remote(PlainLate).options(isolation="shared", max_restarts=1, max_task_retries=1)
    neighbour, actor = cls.remote(), cls.remote()
    ray.get([neighbour.hold_back.remote(), actor.is_held_back.remote()])
    baseline = store()
    ref = actor.make.remote(lives)
    eventually(lambda: ray.get(neighbour.is_held_back.remote()))
    ray.kill(actor, no_restart=False)
    eventually(lambda: lives.count() == 2)
    ray.get(neighbour.let_through.remote())
    assert ray.get(ref, timeout=10)[0] == 2
    del ref
    store_returns_to(baseline)


def test_a_deadline_goes_on_while_the_actor_is_restarted(ray: Any, lives: Lives, tmp_path: pathlib.Path) -> None:
    """
    1. an actor dies, and hangs as it is constructed again
    2. a call with a deadline waits for that: its time is up, and it never runs
    3. the actor is up: calls without a deadline are answered
    """
    meeting = Meeting(tmp_path / "meeting")
    actor = SlowBirth.options(max_restarts=-1).remote(lives, meeting)
    os.kill(ray.get(actor.pid.remote()), signal.SIGKILL)
    meeting.wait()
    patient = actor.pid.options(max_task_retries=-1).remote()
    with pytest.raises(TaskTimeoutError):
        ray.get(actor.pid.options(timeout=0.05, max_task_retries=-1).remote())
    meeting.here()
    assert ray.get(patient) > 0


@pytest.mark.parametrize("isolation", ["process", "shared"])
def test_a_restarted_actor_has_its_environment_and_knows_that_it_was_restarted(ray: Any, isolation: str) -> None:
    env = {"env_vars": {"AIORAY_TEST_COLOUR": "red"}}
    cls = ray.remote(PlainSurroundings).options(max_restarts=1, runtime_env=env, isolation=isolation)
    actor = cls.remote()
    assert ray.get(actor.tell.remote()) == ("red", False)
    ray.kill(actor, no_restart=False)
    assert ray.get(actor.tell.remote()) == ("red", True)


def test_an_environment_that_cannot_be_set_up_is_no_reason_for_a_restart(ray: Any) -> None:
    actor = Mortal.options(max_restarts=-1, runtime_env={"pip": ["aioray-test-no-such-package"]}).remote()
    with pytest.raises(RuntimeEnvSetupError, match="Mortal: pip install failed"):
        ray.get(actor.pid.remote())


@pytest.mark.parametrize("end", ["leave", "__ray_terminate__"])
@pytest.mark.parametrize(
    ("cls", "options"),
    [(Mortal, {}), (Mortal, {"max_concurrency": 2}), (AsyncMortal, {}), (AsyncMortal, {"isolation": "shared"})],
    ids=["sync", "threaded", "async", "light"],
)
def test_nobody_is_told_of_the_error_of_the_call_that_ended_its_actor(
    ray: Any, cls: Any, options: dict[str, Any], end: str, caplog: pytest.LogCaptureFixture
) -> None:
    """
    1. a call ends its actor on purpose, and its ref is dropped: nothing is said of that
    2. a call after it is another matter
    """
    gc.collect()
    caplog.set_level(logging.WARNING, "aioray")
    actor = cls.options(**options).remote()
    ref = getattr(actor, end).remote()
    ray.wait([ref])
    after = actor.pid.remote()
    ray.wait([after])
    del ref
    gc.collect()
    assert [record.getMessage() for record in caplog.records if record.name == "aioray"] == []
    with pytest.raises(ActorDiedError, match="on purpose"):
        ray.get(after)
