"""What comes at the wrong moment: a cancel, a drop, a kill, while an actor is not there yet or on its way back."""

from __future__ import annotations

import gc
import os
import pathlib
import signal
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from aioray import current
from aioray.exceptions import ActorDiedError, TaskCancelledError
from tests.api.mortals import Lives
from tests.api.support import Meeting, eventually, started
from tests.calls.racers import Racer, after

if TYPE_CHECKING:
    from collections.abc import Iterator

both = pytest.mark.parametrize("isolation", ["process", "shared"])


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    with started(num_cpus=2) as ray:
        yield ray


@pytest.fixture
def lives(tmp_path: pathlib.Path) -> Lives:
    return Lives(tmp_path / "lives")


@pytest.fixture
def runs(tmp_path: pathlib.Path) -> Lives:
    """How often a call began."""
    return Lives(tmp_path / "runs")


@pytest.fixture
def door(tmp_path: pathlib.Path) -> Meeting:
    return Meeting(tmp_path / "door")


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def crash(ray: Any, actor: Any) -> None:
    kill(ray.get(actor.pid.remote()), actor)


def kill(pid: int, actor: Any) -> None:
    """Until this process knows that the actor is being restarted, which takes until its door is opened."""
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: actor._actor.line.state == "restarting")


def test_a_call_that_is_cancelled_before_its_actor_has_room_never_runs(ray: Any, runs: Lives) -> None:
    first, second = Racer.options(num_cpus=2).remote(), Racer.options(num_cpus=2).remote()
    ray.get(first.pid.remote())
    call, next_call = second.note.remote(runs), second.note.remote(runs)
    ray.cancel(call)
    with pytest.raises(TaskCancelledError):
        ray.get(call)
    ray.kill(first)
    assert ray.get(next_call) == 1


@pytest.mark.usefixtures("no_garbage_collection")
def test_an_error_that_was_caught_keeps_no_actor_alive(ray: Any, runs: Lives) -> None:
    """Its traceback has the frame in which the handle is, and the ref has the error."""

    def use_one() -> int:
        actor = Racer.remote()
        pid: int = ray.get(actor.pid.remote())
        call = actor.note.remote(runs, after.remote(never))
        ray.cancel(call)
        with pytest.raises(TaskCancelledError):
            ray.get(call)
        return pid

    never = Meeting(pathlib.Path(runs.path + "-never"))
    pid = use_one()
    eventually(lambda: not psutil.pid_exists(pid))


@both
def test_a_call_that_is_cancelled_while_its_actor_is_restarted_never_runs(
    ray: Any, isolation: str, lives: Lives, runs: Lives, door: Meeting
) -> None:
    actor = Racer.options(max_restarts=1, isolation=isolation).remote(lives, door)
    crash(ray, actor)
    door.wait()  # it is in its constructor again
    call, next_call = actor.note.remote(runs), actor.note.remote(runs)
    ray.cancel(call)
    with pytest.raises(TaskCancelledError):
        ray.get(call)
    door.here()
    assert ray.get(next_call) == 1


@both
def test_a_call_that_is_cancelled_after_its_actor_crashed_in_it_is_not_run_again(
    ray: Any, isolation: str, lives: Lives, runs: Lives, door: Meeting, tmp_path: pathlib.Path
) -> None:
    inside = Meeting(tmp_path / "inside")
    options = {"max_restarts": 1, "max_task_retries": -1, "isolation": isolation}
    actor = Racer.options(**options).remote(lives, door)
    pid = ray.get(actor.pid.remote())
    call = actor.note_and_wait.remote(runs, inside)
    inside.wait()
    os.kill(pid, signal.SIGKILL)
    door.wait()
    ray.cancel(call)
    with pytest.raises(TaskCancelledError):
        ray.get(call)
    door.here()
    assert ray.get(actor.note.remote(runs)) == 2  # the first one was the call's only run


@both
def test_a_kill_while_an_actor_is_restarted_fails_what_waits_for_it(
    ray: Any, isolation: str, lives: Lives, runs: Lives, door: Meeting
) -> None:
    actor = Racer.options(max_restarts=-1, max_task_retries=-1, isolation=isolation).remote(lives, door)
    crash(ray, actor)
    door.wait()
    call = actor.note.remote(runs)
    ray.kill(actor)
    with pytest.raises(ActorDiedError, match="killed"):
        ray.get(call)
    if isolation == "shared":
        door.here()  # a constructor in a thread goes on
    assert (lives.count(), runs.count()) == (2, 0)


@both
def test_a_call_whose_argument_is_late_outlives_the_last_handle(
    ray: Any, isolation: str, runs: Lives, door: Meeting
) -> None:
    actor = Racer.options(isolation=isolation).remote()
    pid = ray.get(actor.pid.remote())
    call = actor.note.remote(runs, after.remote(door))
    del actor
    door.here()
    assert ray.get(call) == 1
    eventually(lambda: not psutil.pid_exists(pid))


@both
def test_a_call_that_waits_for_a_restart_outlives_the_last_handle(
    ray: Any, isolation: str, lives: Lives, runs: Lives, door: Meeting
) -> None:
    actor = Racer.options(max_restarts=1, isolation=isolation).remote(lives, door)
    crash(ray, actor)
    door.wait()
    call = actor.note.remote(runs)
    del actor
    door.here()
    assert ray.get(call) == 1


@both
def test_a_generator_outlives_the_last_handle_and_dropping_it_ends_the_actor(
    ray: Any, isolation: str, runs: Lives
) -> None:
    actor = Racer.options(isolation=isolation).remote()
    pid = ray.get(actor.pid.remote())
    few = actor.numbers.options(_generator_backpressure_num_objects=1).remote(runs, 3)
    many = actor.numbers.options(_generator_backpressure_num_objects=1).remote(runs, 1_000_000)
    del actor
    assert ray.get(list(few)) == [0, 1, 2]
    assert ray.get(next(many)) == 0
    del few, many
    eventually(lambda: not psutil.pid_exists(pid))


@both
def test_a_generator_that_is_dropped_while_its_actor_is_restarted_is_not_run_again(
    ray: Any, isolation: str, lives: Lives, runs: Lives, door: Meeting
) -> None:
    options = {"max_restarts": 1, "max_task_retries": -1, "isolation": isolation}
    actor = Racer.options(**options).remote(lives, door)
    pid = ray.get(actor.pid.remote())
    generator = actor.numbers.options(_generator_backpressure_num_objects=1).remote(runs, 1_000_000)
    assert ray.get(next(generator)) == 0
    streams = current.get().streams
    assert streams._by_seq
    kill(pid, actor)
    door.wait()
    del generator
    eventually(lambda: not streams._by_seq)  # a finalizer only has that done soon
    door.here()
    assert ray.get(actor.note.remote(runs)) == 2  # the generator began once


def test_a_generator_that_is_dropped_before_its_argument_is_there_never_runs(
    ray: Any, runs: Lives, door: Meeting
) -> None:
    actor = Racer.remote()
    opened = after.remote(door)
    generator = actor.numbers.remote(runs, 3, opened)
    behind = actor.note.remote(runs)
    del generator
    door.here()
    assert ray.get(behind) == 1
