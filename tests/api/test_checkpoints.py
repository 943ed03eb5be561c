"""Actors that resume from a checkpoint when they are restarted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import aioray
from aioray.exceptions import ActorConstructorError, ActorUnavailableError, InvalidOptionError, RayActorError
from tests.api.classes import Counter
from tests.api.savers import AsyncSaver, BadRestore, LateSaver, RareSaver, Saver, TimedSaver
from tests.api.support import eventually, started, store, store_returns_to

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
KINDS = [{}, {"max_concurrency": 4}, {"isolation": "shared"}]


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    with started(num_cpus=2) as ray:
        yield ray


def crash(ray: Any, actor: Any) -> None:
    with pytest.raises(ActorUnavailableError):
        ray.get(actor.die.remote())


@pytest.mark.parametrize("options", KINDS)
def test_what_was_answered_is_saved(ray: Any, options: dict[str, Any]) -> None:
    """
    1. an actor saves after every call; it dies right after one was answered
    2. it is constructed with its old arguments, restored, and goes on
    3. once more, from the second checkpoint
    """
    actor = Saver.options(max_restarts=2, **options).remote(start=100)
    assert ray.get(actor.add.remote(5)) == 105
    crash(ray, actor)
    assert ray.get(actor.started_at.remote()) == 100
    assert ray.get(actor.add.remote(1)) == 106
    crash(ray, actor)
    assert ray.get(actor.add.remote(1)) == 107
    with pytest.raises(RayActorError):
        ray.get(actor.die.remote())


def test_a_call_that_raised_is_saved_too(ray: Any) -> None:
    actor = Saver.options(max_restarts=1).remote()
    with pytest.raises(LookupError):
        ray.get(actor.fail_after_adding.remote(7))
    crash(ray, actor)
    assert ray.get(actor.add.remote(0)) == 7


def test_an_actor_that_cannot_be_restarted_saves_nothing(ray: Any) -> None:
    actor = Saver.remote()
    ray.get([actor.add.remote(1) for _ in range(3)])
    assert ray.get(actor.times_saved.remote()) == 0


def test_every_third_call_is_saved_and_those_since_are_lost(ray: Any) -> None:
    actor = RareSaver.options(max_restarts=-1).remote()
    ray.get([actor.add.remote(1) for _ in range(5)])
    crash(ray, actor)
    assert ray.get(actor.add.remote(0)) == 3


@pytest.mark.parametrize("options", KINDS)
def test_a_checkpoint_comes_when_time_is_up_though_nobody_calls(ray: Any, options: dict[str, Any]) -> None:
    """It is of use only when it comes without another call: so look at what the node holds, and then let it die."""
    actor = TimedSaver.options(max_restarts=-1, **options).remote()
    ray.get(actor.add.remote(3))
    known = store()["known_objects"]
    eventually(lambda: store()["known_objects"] > known)
    crash(ray, actor)
    assert ray.get(actor.add.remote(0)) == 3


@pytest.mark.parametrize("options", KINDS)
def test_an_actor_that_leaves_with_sys_exit_saves_before(ray: Any, options: dict[str, Any]) -> None:
    actor = LateSaver.options(max_restarts=-1, **options).remote()
    assert ray.get(actor.add.remote(3)) == 3
    with pytest.raises(ActorUnavailableError, match=r"sys\.exit"):
        ray.get(actor.sys_exit.remote(10))
    assert ray.get(actor.add.remote(1)) == 14


@pytest.mark.parametrize("isolation", ["process", "shared"])
@pytest.mark.parametrize("end", ["die", "sys_exit"])
def test_the_hooks_may_be_coroutine_functions(ray: Any, isolation: str, end: str) -> None:
    actor = AsyncSaver.options(max_restarts=1, isolation=isolation).remote()
    ray.get([actor.add.remote(1) for _ in range(20)])
    with pytest.raises(ActorUnavailableError):
        ray.get(getattr(actor, end).remote())
    assert ray.get(actor.add.remote(1)) == 21


def test_a_checkpoint_that_fails_is_logged_and_leaves_the_one_before(
    ray: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    actor = Saver.options(max_restarts=1).remote()
    ray.get(actor.add.remote(1))
    ray.get([actor.make_trouble.remote(), actor.add.remote(1)])
    assert ray.get(actor.add.remote(1)) == 3
    crash(ray, actor)
    assert ray.get(actor.add.remote(0)) == 1
    told: list[str] = []

    def is_told() -> bool:
        told.append(capfd.readouterr().err)
        text = "".join(told)
        return "a checkpoint of actor PlainSaver failed" in text and "the disk is round" in text

    eventually(is_told)


def test_a_restore_that_raises_is_the_end_of_the_actor(ray: Any) -> None:
    actor = BadRestore.options(max_restarts=-1).remote()
    ray.get(actor.add.remote(1))
    crash(ray, actor)
    with pytest.raises(ValueError, match="what is this") as caught:
        ray.get(actor.add.remote(1))
    assert isinstance(caught.value, ActorConstructorError)
    assert "__aioray_restore__" in str(caught.value)


def test_large_arrays_refs_and_handles_in_a_checkpoint_live_and_are_freed(ray: Any) -> None:
    """
    1. the state has a large array, a ref and a handle that nobody else holds
    2. the actor dies twice: all of them are still there
    3. it is killed: nothing of it stays
    """
    baseline = store()
    actor = Saver.options(max_restarts=-1).remote()
    ray.get(actor.keep.remote({"array": np.arange(MIB), "ref": [ray.put([1, 2])], "counter": Counter.remote(5)}))
    for number in range(2):
        crash(ray, actor)
        kept = ray.get(actor.keeps.remote())
        assert int(kept["array"][-1]) == MIB - 1
        assert ray.get(kept["ref"][0]) == [1, 2]
        assert ray.get(kept["counter"].add.remote(1)) == 6 + number
    del kept
    ray.kill(actor)
    del actor
    store_returns_to(baseline)


def test_only_the_newest_checkpoint_is_kept(ray: Any) -> None:
    baseline = store()
    actor = Saver.options(max_restarts=-1).remote()
    for number in range(20):
        ray.get(actor.keep.remote(np.full(MIB // 8, number)))
    eventually(lambda: store()["used_nbytes"] - baseline["used_nbytes"] < 16 * MIB)
    crash(ray, actor)
    assert ray.get(actor.keeps.remote())[0] == 19
    del actor
    store_returns_to(baseline)


@pytest.mark.parametrize(
    "given", [{}, {"every_calls": 0}, {"every_calls": True}, {"every_s": 0}, {"every_s": "1"}, {"every_calls": 1.5}]
)
def test_a_period_that_makes_no_sense_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidOptionError, match="every_"):
        aioray.checkpoint(**given)


@pytest.mark.parametrize("hook", ["__aioray_checkpoint__", "__aioray_restore__"])
def test_a_class_with_one_of_the_hooks_alone_is_refused(ray: Any, hook: str) -> None:
    half = type("Half", (), {hook: lambda self, *state: None})
    with pytest.raises(TypeError, match=f"Half has {hook}.* and no __aioray_"):
        ray.remote(half).remote()


async def test_checkpoints_work_in_an_embedded_cluster(cluster: aioray.Cluster) -> None:
    actors = [AsyncSaver.options(max_restarts=1, isolation="shared").remote() for _ in range(10)]
    await asyncio.gather(*[actor.add.remote(number) for number, actor in enumerate(actors)])
    with pytest.raises(ActorUnavailableError):  # it takes them all along
        await actors[0].die.remote()
    assert await asyncio.gather(*[actor.add.remote(0) for actor in actors]) == list(range(10))
