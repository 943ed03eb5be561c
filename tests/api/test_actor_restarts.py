"""What becomes of actors that die, and of the calls to them."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import aioray
from aioray.exceptions import (
    ActorConstructorError,
    ActorDiedError,
    ActorUnavailableError,
    InvalidOptionError,
    PendingCallsLimitExceeded,
    RayActorError,
)
from tests.api.classes import after, identity
from tests.api.mortals import AsyncMortal, LateDeath, Lives, Mortal, RaisesLater, SlowBirth
from tests.api.support import Meeting, eventually, started, store, store_returns_to

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator

MIB = 1 << 20


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    with started(num_cpus=2, namespace="tests") as ray:
        yield ray


@pytest.fixture
def lives(tmp_path: pathlib.Path) -> Lives:
    return Lives(tmp_path / "lives")


def kill_process(ray: Any, actor: Any) -> int:
    """End its process from outside; which one that was."""
    pid: int = ray.get(actor.pid.remote())
    os.kill(pid, signal.SIGKILL)
    return pid


def new_pid(ray: Any, actor: Any, old: int) -> int:
    """Where it lives now that it is back. The call may come before the death is known, and fail with it."""
    found = old

    def is_back() -> bool:
        nonlocal found
        try:
            found = int(ray.get(actor.pid.remote()))
        except ActorUnavailableError:
            return False
        return found != old

    eventually(is_back)
    return found


# restarts


def test_an_actor_that_died_is_constructed_again_with_the_same_arguments(ray: Any) -> None:
    """
    1. an actor gets a plain value, a ref, a ref in a list and a large array; its creator forgets all of them
    2. its process is killed: it comes back in another one, with all of these, and without what it was told
    3. it has used up its restart: the next death is for good
    """
    inner = ray.put("inner")
    actor = Mortal.options(max_restarts=1).remote(1, identity.remote("value"), [inner], np.arange(MIB))
    del inner
    assert ray.get(actor.tell.remote("a")) == ["a"]
    old = kill_process(ray, actor)
    new_pid(ray, actor, old)
    number, value, refs, array = ray.get(actor.constructed_with.remote())
    assert (number, value, ray.get(refs[0]), int(array[-1])) == (1, "value", "inner", MIB - 1)
    assert ray.get(actor.tell.remote("b")) == ["b"]
    assert ray.get(actor.restarts.remote()) == 1
    kill_process(ray, actor)
    with pytest.raises(ActorDiedError, match="SIGKILL"):
        ray.get([actor.tell.remote("c"), actor.tell.remote("d")])


def test_what_an_actor_was_made_of_is_freed_when_it_cannot_be_restarted_any_more(ray: Any) -> None:
    baseline = store()
    actor = Mortal.options(max_restarts=1).remote(np.zeros(MIB))
    old = kill_process(ray, actor)
    new_pid(ray, actor, old)
    assert len(ray.get(actor.constructed_with.remote())) == 1  # it was kept for the restart
    ray.kill(actor)
    store_returns_to({**baseline, "known_objects": baseline["known_objects"] + 1})  # the dead actor itself
    del actor
    store_returns_to(baseline)


def test_an_actor_without_restarts_dies_for_good(ray: Any) -> None:
    actor = Mortal.remote()
    with pytest.raises(ActorDiedError, match="SIGKILL"):
        ray.get(actor.die.remote())


def test_kill_is_for_good_and_with_no_restart_false_it_is_not(ray: Any) -> None:
    actor = Mortal.options(max_restarts=-1, name="phoenix").remote()
    old = ray.get(actor.pid.remote())
    ray.kill(actor, no_restart=False)
    assert ray.get(actor.pid.remote()) != old
    assert ray.get_actor("phoenix") == actor
    ray.kill(actor)
    with pytest.raises(ActorDiedError, match=r"killed with aioray.kill\(\)"):
        ray.get(actor.pid.remote())
    with pytest.raises(ValueError, match="phoenix"):
        ray.get_actor("phoenix")
    mortal = Mortal.remote()
    ray.get(mortal.pid.remote())
    ray.kill(mortal, no_restart=False)  # it has none left
    with pytest.raises(ActorDiedError):
        ray.get(mortal.pid.remote())
    with pytest.raises(InvalidOptionError, match="no_restart"):
        ray.kill(mortal, no_restart=1)


def test_a_constructor_that_raises_in_its_second_life_is_not_tried_a_third_time(ray: Any, lives: Lives) -> None:
    actor = RaisesLater.options(max_restarts=-1).remote(lives)
    with pytest.raises(RayActorError):
        ray.get(actor.die.remote())
    with pytest.raises(LookupError, match="not again") as caught:
        ray.get(actor.die.remote())
    assert isinstance(caught.value, ActorConstructorError)
    assert lives.count() == 2


@pytest.mark.parametrize("max_restarts", [2, 3])
def test_a_crash_while_it_is_constructed_again_counts_as_a_restart(ray: Any, lives: Lives, max_restarts: int) -> None:
    actor = LateDeath.options(max_restarts=max_restarts).remote(lives, 2, 3)
    old = ray.get(actor.pid.remote())
    os.kill(old, signal.SIGKILL)
    if max_restarts == 3:
        assert new_pid(ray, actor, old) != old
    else:
        with pytest.raises(ActorDiedError, match="status 3"):
            new_pid(ray, actor, old)
    assert lives.count() == max_restarts + 1


def test_a_crash_loop_does_not_spin(ray: Any, lives: Lives) -> None:
    """An actor that dies at once, without end: its waits add up, so it cannot have had many lives in a second."""
    actor = LateDeath.options(max_restarts=-1).remote(lives, 1, 1 << 30)
    threading.Event().wait(1.0)  # that time passes is what this is about
    assert 2 <= lives.count() <= 6
    ray.kill(actor)
    with pytest.raises(ActorDiedError, match="killed"):
        ray.get(actor.pid.remote())
    count = lives.count()
    assert ray.get(identity.remote(1)) == 1
    assert lives.count() <= count + 1  # one may have begun when it was killed


# calls


def test_calls_under_way_without_retries_fail_saying_so_and_those_not_sent_wait(
    ray: Any, tmp_path: pathlib.Path
) -> None:
    """
    1. a call is under way, another sent behind it, a third waits for its argument
    2. the actor dies: the first two fail, and say that they may have run; the third runs in the next life
    """
    meeting, late = Meeting(tmp_path / "meeting"), Meeting(tmp_path / "late")
    actor = Mortal.options(max_restarts=1).remote()
    ray.get(actor.pid.remote())
    dying = actor.meet_and_die.remote(meeting)
    meeting.wait()
    sent, waits = actor.tell.remote("sent"), actor.tell.remote(after.remote(late, "waits"))
    eventually(lambda: "was sent" in ray.explain(sent))
    meeting.here()
    for ref in (dying, sent):
        with pytest.raises(ActorUnavailableError, match="may have run") as caught:
            ray.get(ref)
        assert not isinstance(caught.value, ActorDiedError)
    assert caught.value.name == "PlainMortal.tell"
    late.here()
    assert ray.get(waits) == ["waits"]


def test_calls_with_retries_are_sent_again_in_their_order_and_before_later_ones(ray: Any, lives: Lives) -> None:
    """
    1. a call that dies the first time, and ninety-nine behind it
    2. all of them run in the second life, in the order in which they were made; later ones after them
    """
    actor = Mortal.options(max_restarts=1, max_task_retries=1).remote()
    ray.get(actor.pid.remote())
    first = actor.die_once.remote(lives)
    numbered = [actor.tell.remote(number) for number in range(99)]
    assert ray.get(first) == 2
    assert ray.get(actor.tell.remote("later")) == [*range(99), "later"]
    assert ray.get(numbered[-1]) == list(range(99))


def test_a_call_that_kills_its_actor_each_time_uses_up_its_retries(ray: Any) -> None:
    actor = Mortal.options(max_restarts=-1).remote()
    with pytest.raises(ActorUnavailableError):
        ray.get(actor.die.options(max_task_retries=2).remote())
    ray.get(actor.pid.options(max_task_retries=-1).remote())
    assert ray.get(actor.restarts.remote()) == 3


def test_results_that_were_done_before_the_crash_are_not_lost(ray: Any) -> None:
    actor = Mortal.options(max_restarts=1).remote()
    done = [actor.tell.remote(number) for number in range(200)]
    dying = actor.die.remote()
    with pytest.raises(ActorUnavailableError):
        ray.get(dying)
    answered = 0
    for ref in done:
        try:
            ray.get(ref)
        except ActorUnavailableError:
            break
        answered += 1
    for ref in done[answered:]:  # replies of short calls are written together: only the end may be missing
        with pytest.raises(ActorUnavailableError):
            ray.get(ref)


def test_a_large_result_of_a_call_that_ran_twice_is_freed_once_each(ray: Any, lives: Lives) -> None:
    baseline = store()
    actor = Mortal.options(max_restarts=-1, max_task_retries=-1).remote()

    def large(self: Any, lives: Lives) -> Any:
        return np.zeros(MIB)

    refs = [actor.__ray_call__.remote(large, lives) for _ in range(5)]
    refs.append(actor.die_once.remote(lives))
    assert ray.get(refs[-1]) == 2
    assert [int(array.sum()) for array in ray.get(refs[:-1])] == [0] * 5
    ray.kill(actor)
    del refs, actor
    store_returns_to(baseline)


def test_a_method_is_called_again_when_it_raises_what_was_named(ray: Any, tmp_path: pathlib.Path) -> None:
    actor = Mortal.remote()

    def retried(name: str, number: int, **options: Any) -> Any:
        return ray.get(actor.raise_until.options(**options).remote(Lives(tmp_path / name), number))

    assert retried("any", 3, max_task_retries=2, retry_exceptions=True) == 3
    assert retried("named", 3, max_task_retries=-1, retry_exceptions=[LookupError, ValueError]) == 3
    assert retried("base", 2, max_task_retries=1, retry_exceptions=[Exception]) == 2
    with pytest.raises(ValueError, match=r"the 3\. time"):
        retried("used up", 9, max_task_retries=2, retry_exceptions=True)
    with pytest.raises(ValueError, match=r"the 1\. time"):
        retried("another", 2, max_task_retries=2, retry_exceptions=[LookupError])
    with pytest.raises(ValueError, match=r"the 1\. time"):
        retried("none", 2, retry_exceptions=True)
    with pytest.raises(InvalidOptionError, match="exception"):
        actor.raise_until.options(retry_exceptions=[int])


def test_options_of_methods_are_in_the_class_too_and_travel_with_the_handle(ray: Any, lives: Lives) -> None:
    class Flaky:
        @aioray.method(max_task_retries=5, retry_exceptions=[ZeroDivisionError])
        def divide(self, lives: Lives) -> int:
            return 1 // (lives.one_more() // 3)  # the third time it is 1

    def divide(flaky: Any, lives: Lives) -> Any:
        try:
            return aioray.get(flaky.divide.remote(lives))
        except ZeroDivisionError:
            return "not retried"

    assert ray.get(ray.remote(divide).remote(ray.remote(Flaky).remote(), lives)) == 1
    assert lives.count() == 3


def test_too_many_pending_calls_are_refused_at_the_call(ray: Any, tmp_path: pathlib.Path) -> None:
    meeting = Meeting(tmp_path / "meeting")
    actor = Mortal.options(max_pending_calls=2).remote()
    waiting = [actor.wait_for.remote(meeting), actor.tell.remote(1)]
    with pytest.raises(PendingCallsLimitExceeded, match="max_pending_calls=2"):
        actor.tell.remote(2)
    meeting.here()
    assert ray.get(waiting) == ["met", [1]]
    assert ray.get(actor.tell.remote(3)) == [1, 3]
    with pytest.raises(InvalidOptionError):
        Mortal.options(max_pending_calls=0)


def test_a_late_argument_holds_up_no_other_call_of_an_async_actor(ray: Any, tmp_path: pathlib.Path) -> None:
    meeting = Meeting(tmp_path / "meeting")
    in_order = AsyncMortal.options(allow_out_of_order_execution=False).remote()
    actor = AsyncMortal.remote()
    late = actor.echo.remote(after.remote(meeting, "late"))
    assert ray.get(actor.echo.remote("early")) == "early"
    cancelled = actor.echo.remote(after.remote(Meeting(tmp_path / "never"), 1))
    ray.cancel(cancelled)
    meeting.here()
    assert ray.get(late) == "late"
    meeting = Meeting(tmp_path / "again")
    late, behind = in_order.echo.remote(after.remote(meeting, "late")), in_order.echo.remote("behind")
    assert ray.wait([behind], timeout=0.05)[0] == []
    meeting.here()
    assert ray.get([late, behind]) == ["late", "behind"]


# exits


def test_exit_actor_is_for_good_runs_what_was_registered_and_says_so(ray: Any, tmp_path: pathlib.Path) -> None:
    note = tmp_path / "note"
    actor = Mortal.options(max_restarts=-1, max_task_retries=-1, name="leaver").remote()
    with pytest.raises(ActorDiedError, match="on purpose"):
        ray.get(actor.leave.remote(str(note)))
    with pytest.raises(ValueError, match="leaver"):
        ray.get_actor("leaver")
    with pytest.raises(ActorDiedError, match="on purpose"):
        ray.get(actor.pid.remote())
    eventually(note.exists)


def test_exit_actor_in_a_thread_of_ones_own_ends_the_actor(ray: Any) -> None:
    actor = Mortal.options(max_restarts=-1, max_task_retries=-1).remote()
    actor.leave_in_a_thread.remote()  # which may be answered before the end
    with pytest.raises(ActorDiedError, match="on purpose"):
        ray.get(actor.tell.remote("behind it"))


def test_exit_actor_in_a_threaded_actor_ends_it(ray: Any) -> None:
    actor = Mortal.options(max_restarts=-1, max_concurrency=2).remote()
    with pytest.raises(ActorDiedError, match="on purpose"):
        ray.get(actor.leave.remote())


@pytest.mark.parametrize("isolation", ["process", "shared"])
@pytest.mark.parametrize("how", ["leave", "leave_in_the_background", "leave_in_a_thread"])
def test_exit_actor_in_an_async_actor_ends_it_from_wherever_it_is_called(ray: Any, how: str, isolation: str) -> None:
    actor = AsyncMortal.options(max_restarts=-1, isolation=isolation).remote()
    other = actor.for_ever.remote()
    with pytest.raises(ActorDiedError, match="on purpose"):
        ray.get(getattr(actor, how).remote())
    with pytest.raises(ActorDiedError, match="on purpose"):
        ray.get(other)


@pytest.mark.parametrize("isolation", ["process", "shared"])
@pytest.mark.parametrize("how", ["leave_and_clean_up", "leave_in_a_group"])
def test_an_async_actor_goes_when_the_method_that_ends_it_has_cleaned_up(
    ray: Any, tmp_path: pathlib.Path, how: str, isolation: str
) -> None:
    """
    1. exit_actor() was called, and the method awaits something in its `finally`: the actor still answers
    2. that comes, and the rest of the method is run before callers hear of the end
    """
    actor = AsyncMortal.options(max_restarts=-1, isolation=isolation).remote()
    meeting, note = Meeting(tmp_path / "pipe"), tmp_path / "note"
    leaving = getattr(actor, how).remote(meeting, note)
    meeting.wait()
    assert ray.get(actor.pid.remote()) > 0
    meeting.here()
    with pytest.raises(ActorDiedError, match="on purpose"):
        ray.get(leaving)
    assert note.exists()
    assert note.with_suffix(".inner").exists() == (how == "leave_in_a_group")
    with pytest.raises(ActorDiedError, match="on purpose"):
        ray.get(actor.pid.remote())


def test_exit_actor_is_refused_outside_of_actors(ray: Any) -> None:
    def leave() -> None:
        aioray.actor.exit_actor()

    with pytest.raises(TypeError, match="actor"):
        aioray.actor.exit_actor()
    with pytest.raises(TypeError, match="actor"):
        ray.get(ray.remote(leave).remote())


@pytest.mark.parametrize("cls", [Mortal, AsyncMortal])
@pytest.mark.parametrize("isolation", ["process", "shared"])
def test_sys_exit_with_a_status_is_a_crash_and_without_one_it_is_not(ray: Any, cls: Any, isolation: str) -> None:
    actor = cls.options(max_restarts=-1, isolation=isolation).remote()
    with pytest.raises(ActorUnavailableError, match=r"sys.exit\(3\)"):
        ray.get(actor.sys_exit.remote(3))
    assert ray.get(actor.pid.remote()) > 0
    with pytest.raises(ActorDiedError, match=r"sys.exit\(\)"):
        ray.get(actor.sys_exit.remote())


@pytest.mark.parametrize("options", [{}, {"max_concurrency": 4}, {"isolation": "shared"}])
def test_ray_terminate_comes_after_what_was_called_before(ray: Any, options: dict[str, Any]) -> None:
    actor = Mortal.options(max_restarts=-1, **options).remote()
    before = [actor.tell.remote(number) for number in range(10)]
    end = actor.__ray_terminate__.remote()
    assert len(ray.get(before)[-1]) >= 1
    with pytest.raises(ActorDiedError, match="on purpose"):
        ray.get(end)


def test_ray_terminate_waits_for_coroutines_under_way(ray: Any, lives: Lives) -> None:
    actor = AsyncMortal.remote()
    slow = actor.after.remote(0.05, lives)
    end = actor.__ray_terminate__.remote()
    assert ray.get(slow) == 1
    with pytest.raises(ActorDiedError, match="on purpose"):
        ray.get(end)


def test_ray_call_runs_a_function_on_the_actor(ray: Any) -> None:
    def told(self: Any, more: int, *, sign: int = 1) -> int:
        return sign * (len(self.told) + more)

    async def cancelled(self: Any) -> Any:
        await asyncio.sleep(0)
        return self.cancelled

    actor = Mortal.remote()
    actor.tell.remote("a")
    assert ray.get(actor.__ray_call__.remote(told, 1, sign=-1)) == -2
    assert ray.get(AsyncMortal.remote().__ray_call__.remote(cancelled)) is False
    assert ray.get(actor.__ray_ready__.remote()) is True
    with pytest.raises(TypeError, match="fn"):
        actor.__ray_call__.remote()


# races


def test_a_kill_while_it_is_constructed_again_is_for_good(ray: Any, lives: Lives, tmp_path: pathlib.Path) -> None:
    meeting = Meeting(tmp_path / "meeting")
    actor = SlowBirth.options(max_restarts=-1).remote(lives, meeting)
    kill_process(ray, actor)
    meeting.wait()  # it is in its constructor
    ray.kill(actor)
    with pytest.raises(ActorDiedError, match="killed"):
        ray.get(actor.pid.remote())
    assert lives.count() == 2


def test_a_kill_with_restart_while_it_is_constructed_begins_anew(
    ray: Any, lives: Lives, tmp_path: pathlib.Path
) -> None:
    meeting = Meeting(tmp_path / "meeting")
    actor = SlowBirth.options(max_restarts=-1).remote(lives, meeting)
    kill_process(ray, actor)
    meeting.wait()
    ray.kill(actor, no_restart=False)
    meeting.wait()  # the third life
    meeting.here()
    assert ray.get(actor.pid.remote()) > 0
    assert lives.count() == 3


def test_an_actor_that_is_let_go_while_it_is_restarted_is_gone(ray: Any, lives: Lives, tmp_path: pathlib.Path) -> None:
    baseline = store()
    meeting = Meeting(tmp_path / "meeting")
    actor = SlowBirth.options(max_restarts=-1).remote(lives, meeting)
    kill_process(ray, actor)
    meeting.wait()
    del actor
    store_returns_to(baseline)
    meeting.here()


def test_calls_under_way_keep_a_dying_actor_for_its_next_life(ray: Any, lives: Lives) -> None:
    ref = Mortal.options(max_restarts=1, max_task_retries=1).remote().die_once.remote(lives)
    assert ray.get(ref) == 2


def test_callers_that_came_before_and_after_the_restart_both_reach_it(ray: Any) -> None:
    def pid_of(actor: Any) -> Any:
        return aioray.get(actor.pid.remote())

    class Friend:
        def __init__(self, actor: Any) -> None:
            self.actor = actor

        def pid(self) -> Any:
            return aioray.get(self.actor.pid.options(max_task_retries=-1).remote())

    actor = Mortal.options(max_restarts=1).remote()
    friend = ray.remote(Friend).remote(actor)
    old = ray.get(actor.pid.remote())
    assert ray.get(friend.pid.remote()) == old
    os.kill(old, signal.SIGKILL)
    new = new_pid(ray, actor, old)
    assert ray.get(friend.pid.remote()) == new
    assert ray.get(ray.remote(pid_of).remote(actor)) == new


def test_a_named_actor_is_found_while_it_is_restarted(ray: Any, lives: Lives, tmp_path: pathlib.Path) -> None:
    meeting = Meeting(tmp_path / "meeting")
    actor = SlowBirth.options(max_restarts=1, name="slow", namespace="else").remote(lives, meeting)
    old = kill_process(ray, actor)
    meeting.wait()
    found = ray.get_actor("slow", namespace="else")
    call = found.pid.remote()
    meeting.here()
    assert ray.get(call) not in (old, None)


def test_a_detached_actor_is_restarted_without_anybody_holding_it(ray: Any) -> None:
    actor = Mortal.options(max_restarts=-1, lifetime="detached", name="detached", namespace="d").remote("given")
    old = ray.get(actor.pid.remote())
    del actor
    os.kill(old, signal.SIGKILL)
    found = ray.get_actor("detached", "d")
    new_pid(ray, found, old)
    again = Mortal.options(name="detached", namespace="d", get_if_exists=True).remote("other")
    assert ray.get(again.constructed_with.remote()) == ("given",)
    ray.kill(found)
    with pytest.raises(ValueError, match="detached"):
        ray.get_actor("detached", "d")


async def test_a_cluster_ends_while_actors_are_being_restarted(
    nothing_left: None, lives: Lives, tmp_path: pathlib.Path
) -> None:
    meeting = Meeting(tmp_path / "meeting")
    async with aioray.connect(num_cpus=2):
        actor = SlowBirth.options(max_restarts=-1).remote(lives, meeting)
        looping = LateDeath.options(max_restarts=-1).remote(Lives(tmp_path / "loop"), 1, 1 << 30)
        os.kill(await actor.pid.remote(), signal.SIGKILL)
        await asyncio.to_thread(meeting.wait)
        calls = [actor.pid.remote(), looping.pid.remote()]
    for call in calls:
        with pytest.raises(RayActorError):
            await call


async def test_calls_wait_for_a_restart_in_an_event_loop_too(cluster: aioray.Cluster) -> None:
    actor = Mortal.options(max_restarts=1, max_task_retries=1).remote()
    old = await actor.pid.remote()
    os.kill(old, signal.SIGKILL)
    assert set(await asyncio.gather(*[actor.pid.options(max_task_retries=1).remote() for _ in range(50)])) != {old}
    aioray.kill(actor, no_restart=False)
    with pytest.raises(ActorDiedError):
        await actor.pid.remote()
