"""Light actors: many in one process, each as alone as it would be in a process of its own, but for a crash."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from aioray.exceptions import (
    ActorConstructorError,
    ActorDiedError,
    ActorUnavailableError,
    InvalidOptionError,
    TaskCancelledError,
)
from tests.api.classes import add_to, identity
from tests.api.light_classes import AsyncLight, Blocks, Crashes, Light, Raises, Stubborn
from tests.api.support import Meeting, eventually, started, store, store_returns_to

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator

    import aioray


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    with started(num_cpus=2, namespace="tests") as ray:
        yield ray


def test_they_share_a_process_and_keep_their_state_apart(ray: Any) -> None:
    actors = [Light.remote(number) for number in range(50)]
    assert ray.get([actor.add.remote(10) for actor in actors]) == [number + 10 for number in range(50)]
    assert len(set(ray.get([actor.pid.remote() for actor in actors]))) == 1


def test_calls_of_one_caller_run_in_order_and_one_at_a_time_though_in_threads(ray: Any) -> None:
    actor = Light.remote()
    threads = ray.get([actor.note.remote(number) for number in range(300)])
    assert ray.get(actor.notes.remote()) == list(range(300))
    assert threads
    assert ray.get(actor.in_main_thread.remote()) is False


def test_threads_that_they_start_work_for_the_same_program(ray: Any) -> None:
    named = AsyncLight.options(name="in the namespace of the program").remote(3)
    found = ray.get(AsyncLight.remote().find_in_thread.remote("in the namespace of the program"))
    assert found == (ray.get(named.get.remote()), ray.get_runtime_context().get_job_id())


def test_a_call_of_one_holds_up_no_other(ray: Any, tmp_path: pathlib.Path) -> None:
    meeting = Meeting(tmp_path / "meeting")
    blocked, free = Blocks.remote(), Light.remote()
    waiting = blocked.wait.remote(meeting)
    meeting.wait()
    assert ray.get(free.pid.remote()) > 0
    meeting.here()
    assert ray.get(waiting) == "met"


def test_they_take_arguments_of_all_kinds_and_ask_each_other(ray: Any) -> None:
    first = Light.remote(identity.remote(3))
    second = first.make.remote(4)
    assert ray.get(first.ask.remote(ray.get(second))) == 4
    assert ray.get(add_to.remote(first, 1)) == 4
    assert ray.get(ray.put([first])) == [first]


def test_a_constructor_may_be_a_coroutine(ray: Any) -> None:
    actors = [AsyncLight.remote(number) for number in range(10)]
    assert ray.get(AsyncLight.remote().sum_of.remote(actors)) == 45
    with pytest.raises(KeyError, match="bad start"):
        ray.get(AsyncLight.remote("raise").get.remote())


def test_the_same_constructor_works_in_a_process_of_its_own(ray: Any) -> None:
    assert ray.get(AsyncLight.options(isolation="process").remote(5).get.remote()) == 5


@pytest.mark.parametrize("how", ["raise", "exit"])
def test_an_exception_in_a_constructor_hurts_only_its_actor(ray: Any, how: str) -> None:
    neighbour = Light.remote()
    pid = ray.get(neighbour.pid.remote())
    with pytest.raises(ActorConstructorError, match="constructor raised"):
        ray.get(Raises.remote(how).nothing.remote())
    assert ray.get(neighbour.pid.remote()) == pid


def test_one_killed_in_a_constructor_that_goes_on_is_gone_all_the_same(ray: Any, tmp_path: pathlib.Path) -> None:
    neighbour, meeting, freed = Light.remote(), Meeting(tmp_path / "meeting"), tmp_path / "freed"
    actor = Stubborn.remote(meeting, str(freed))
    meeting.wait()
    ray.kill(actor)
    eventually(freed.exists)
    assert ray.get(neighbour.add.remote(0)) == 0


def test_an_exception_in_a_method_hurts_only_its_caller(ray: Any) -> None:
    actor = Light.remote(1)
    with pytest.raises(LookupError, match="mine alone"):
        ray.get(actor.fail.remote())
    assert ray.get(actor.add.remote()) == 2


@pytest.mark.parametrize("status", [None, 1])
def test_sys_exit_ends_only_the_one_that_calls_it(ray: Any, status: Any) -> None:
    actor, neighbour = Light.remote(), Light.remote()
    pid = ray.get(neighbour.pid.remote())
    with pytest.raises(ActorDiedError, match=r"sys\.exit"):
        ray.get(actor.sys_exit.remote(status))
    assert ray.get(neighbour.pid.remote()) == pid


def test_kill_ends_only_one_and_fails_what_was_under_way(ray: Any) -> None:
    actor, neighbour = AsyncLight.remote(), Light.remote()
    pid = ray.get(neighbour.pid.remote())
    waiting = actor.wait.remote()
    ray.get(actor.get.remote())
    ray.kill(actor)
    with pytest.raises(ActorDiedError, match="killed"):
        ray.get(waiting)
    assert ray.get(neighbour.pid.remote()) == pid


def test_a_call_is_cancelled_and_its_actor_goes_on(ray: Any) -> None:
    actor = AsyncLight.remote(1)
    waiting = actor.wait.remote()
    ray.get(actor.get.remote())
    ray.cancel(waiting)
    with pytest.raises(TaskCancelledError):
        ray.get(waiting)
    assert ray.get(actor.get.remote()) == 1


def test_one_that_nobody_holds_finishes_its_calls_and_the_process_goes_with_the_last(ray: Any) -> None:
    gc.collect()  # the frames of other tests hold actors until then, where an exception was caught
    baseline = store()
    actor = AsyncLight.remote()
    waiting = actor.wait.remote()
    neighbour = Light.remote()
    pid = ray.get(neighbour.pid.remote())
    actor.release.remote()
    del actor
    assert ray.get(waiting) == "released"
    del neighbour, waiting
    eventually(lambda: not psutil.pid_exists(pid))
    store_returns_to(baseline)


def test_a_named_one_is_found_and_its_name_is_free_when_it_is_dead(ray: Any) -> None:
    actor = Light.options(name="light").remote(7)
    assert ray.get(ray.get_actor("light").add.remote()) == 8
    assert Light.options(name="light", get_if_exists=True).remote() == actor
    ray.kill(actor)
    with pytest.raises(ValueError, match="light"):
        ray.get_actor("light")


def test_a_crash_takes_all_along_and_each_comes_back_if_it_may(ray: Any) -> None:
    """
    1. one may be restarted, one may not, one causes the crash
    2. all are gone at once; the first is back, as it was made
    """
    lasting, mortal = Light.options(max_restarts=1).remote(5), Light.remote()
    culprit = Light.options(max_restarts=1, max_task_retries=0).remote()
    assert ray.get([lasting.add.remote(1), mortal.add.remote(1)]) == [6, 1]
    old = ray.get(lasting.pid.remote())
    with pytest.raises(ActorUnavailableError, match="status 9"):
        ray.get(culprit.die.remote())
    with pytest.raises(ActorDiedError, match="status 9"):
        ray.get(mortal.add.remote(1))
    assert ray.get(lasting.add.options(max_task_retries=1).remote(0)) == 5
    assert len({old, *ray.get([lasting.pid.remote(), culprit.pid.remote()])}) == 3


def test_one_that_crashes_again_and_again_costs_its_neighbours_one_restart(ray: Any) -> None:
    """
    1. one crashes in a call, and takes a neighbour along; twice more it crashes in a process of its own
    2. the same of one that crashes in its constructor
    """
    neighbour = Light.options(max_restarts=2).remote(5)
    culprit = Light.options(max_restarts=-1, max_task_retries=0).remote()
    ray.get([neighbour.pid.remote(), culprit.pid.remote()])
    for _ in range(3):
        with pytest.raises(ActorUnavailableError, match="status 9"):
            ray.get(culprit.die.remote())
        ray.get(culprit.pid.remote())
    crashing = Crashes.options(max_restarts=2).remote()
    with pytest.raises(ActorDiedError, match="status 9"):
        ray.get(crashing.__ray_ready__.remote())
    assert ray.get(neighbour.add.options(max_task_retries=1).remote(0)) == 5


def test_a_restart_of_one_leaves_the_others_and_answers_nothing_of_its_earlier_life(ray: Any) -> None:
    """A call under way is sent again, to the same process and under the same number: only the new life answers."""
    actor = AsyncLight.options(max_restarts=-1, max_task_retries=-1).remote()
    neighbour = Light.remote()
    pid = ray.get(neighbour.pid.remote())
    for _ in range(10):
        waiting = actor.wait.remote()
        ray.get(actor.get.remote())
        ray.kill(actor, no_restart=False)
        actor.release.remote()
        assert ray.get(waiting) == "released"
    assert ray.get(neighbour.pid.remote()) == pid


def test_resources_of_a_light_actor_are_held_while_it_lives(ray: Any) -> None:
    actor = Light.options(num_cpus=1, max_restarts=1).remote()
    ray.get(actor.pid.remote())
    assert ray.available_resources()["CPU"] == 1.0
    ray.kill(actor, no_restart=False)
    ray.get(actor.pid.remote())
    assert ray.available_resources()["CPU"] == 1.0
    ray.kill(actor)
    eventually(lambda: ray.available_resources()["CPU"] == 2.0)
    with pytest.raises(InvalidOptionError, match="num_gpus"):
        Light.options(num_gpus=1)


def test_two_thousand_of_them_live_at_once_and_nothing_of_them_stays(ray: Any) -> None:
    baseline = store()
    actors = [Light.remote(number) for number in range(2000)]
    assert ray.get([actor.add.remote() for actor in actors]) == list(range(1, 2001))
    assert len(set(ray.get([actor.pid.remote() for actor in actors]))) == 2
    del actors
    store_returns_to(baseline)


async def test_they_work_in_an_embedded_cluster(cluster: aioray.Cluster) -> None:
    actors = [AsyncLight.remote(number) for number in range(100)]
    assert await AsyncLight.remote().sum_of.remote(actors) == sum(range(100))
    waiting = [actor.wait.remote() for actor in actors]
    await asyncio.gather(*[actor.release.remote() for actor in actors])
    assert set(await asyncio.gather(*waiting)) == {"released"}
