"""Actors as a synchronous program sees them; those of asyncio programs at the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

import aioray
from aioray.exceptions import (
    ActorAlreadyExistsError,
    ActorDiedError,
    BlockingCallError,
    InvalidOptionError,
    RayActorError,
    RayTaskError,
    SerializationError,
    TaskCancelledError,
)
from tests.api.classes import (
    Async,
    Counter,
    Extended,
    PlainCounter,
    PlainRendezvous,
    Rendezvous,
    add_to,
    after,
    identity,
    make_counter,
)
from tests.api.support import Meeting, eventually, started, store, store_returns_to

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator

MIB = 1 << 20


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    with started(num_cpus=2, namespace="tests") as ray:
        yield ray


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid)


# what a class may have


def test_an_actor_keeps_its_state_between_calls(ray: Any) -> None:
    counter = Counter.remote(5)
    assert ray.get([counter.add.remote(), counter.add.remote(amount=10)]) == [6, 16]


def test_inherited_static_and_class_methods_can_be_called(ray: Any) -> None:
    extended = Extended.remote(1)
    assert ray.get(extended.add.remote(2)) == 21
    assert ray.get(extended.double.remote(4)) == 8
    assert ray.get(extended.class_name.remote()) == "PlainExtended"


def test_a_method_with_two_returns_gives_two_refs(ray: Any) -> None:
    counter = Counter.remote(3)
    first, second = counter.pair.remote()
    assert ray.get([second, first]) == [-3, 3]
    assert ray.get(counter.pair.options(num_returns=1).remote()) == (3, -3)
    assert counter.add.options(num_returns=0).remote() is None
    assert ray.get(counter.add.remote(0)) == 4


def test_a_class_defined_in_a_function_with_what_it_captured_works(ray: Any) -> None:
    factor = 7

    class Scaler:
        def scale(self, number: int) -> int:
            return factor * number

    assert ray.get(ray.remote(Scaler).remote().scale.remote(6)) == 42


def test_an_actor_creates_actors_and_tasks_of_its_own(ray: Any) -> None:
    class Boss:
        def __init__(self) -> None:
            self.workers = [Counter.remote(n) for n in range(3)]

        def total(self) -> int:
            counted = aioray.get([worker.add.remote() for worker in self.workers])
            return int(aioray.get(identity.remote(sum(counted))))

    boss = ray.remote(Boss).remote()
    assert ray.get(boss.total.remote()) == 6
    assert ray.get(boss.total.remote()) == 9


def test_an_actor_blocks_in_get_of_another_actors_method(ray: Any) -> None:
    class Front:
        def ask(self, back: Any, amount: int) -> Any:
            return aioray.get(back.add.remote(amount))

    back = Counter.remote()
    fronts = [ray.remote(Front).remote() for _ in range(4)]
    assert sorted(ray.get([front.ask.remote(back, 1) for front in fronts])) == [1, 2, 3, 4]


def test_twenty_actors_run_on_two_cpus_since_they_take_none_to_run(ray: Any) -> None:
    counters = [Counter.remote(n) for n in range(20)]
    assert ray.get([counter.add.remote() for counter in counters]) == list(range(1, 21))
    assert len(set(ray.get([counter.pid.remote() for counter in counters]))) == 20
    assert ray.get(identity.remote("there is room for tasks")) == "there is room for tasks"


def test_an_actor_with_cpus_waits_for_room_and_keeps_it_while_it_lives(ray: Any) -> None:
    """
    1. two actors take a CPU each, for as long as they live: a third waits
    2. one is killed: the third comes up
    """
    greedy = Counter.options(num_cpus=1)
    first, second = greedy.remote(), greedy.remote()
    ray.get([first.add.remote(), second.add.remote()])
    assert ray.available_resources()["CPU"] == 0
    third = greedy.remote(30)
    waiting = third.add.remote()
    assert ray.wait([waiting], timeout=0.1) == ([], [waiting])
    assert "pending" in ray.explain(waiting)
    ray.kill(first)
    assert ray.get(waiting) == 31
    for actor in (second, third):
        ray.kill(actor)
    eventually(lambda: ray.available_resources()["CPU"] == 2)


# order


def test_calls_of_one_caller_run_in_the_order_in_which_they_were_made(ray: Any) -> None:
    counter = Counter.remote()
    for n in range(2000):
        counter.note.remote(n)
    assert ray.get(counter.notes.remote()) == list(range(2000))


def test_a_call_whose_argument_is_late_holds_up_those_behind_it(ray: Any, tmp_path: pathlib.Path) -> None:
    door = Meeting(tmp_path / "door")
    counter = Counter.remote()
    counter.note.remote(0)
    late = after.remote(door, 1)
    counter.note.remote(late)
    counter.note.remote(2)
    last = counter.notes.remote()
    assert ray.wait([last], timeout=0.05)[0] == []
    door.here()
    assert ray.get(last) == [0, 1, 2]


def test_a_call_whose_argument_fails_fails_and_those_behind_it_go_on(ray: Any) -> None:
    counter = Counter.remote()
    failed = counter.fail.remote("no")
    refs = [counter.note.remote(1), counter.note.remote(failed), counter.note.remote(2)]
    with pytest.raises(LookupError):
        ray.get(refs[1])
    assert ray.get(counter.notes.remote()) == [1, 2]


# handles


def test_handles_go_to_tasks_directly_in_containers_and_in_stored_values(ray: Any) -> None:
    counter = Counter.remote()

    @aioray.remote
    def use(box: dict[str, list[Any]]) -> int:
        return int(aioray.get(box["counters"][0].add.remote(100)))

    assert ray.get(add_to.remote(counter, 1)) == 1
    assert ray.get(use.remote({"counters": [counter]})) == 101
    assert ray.get(use.remote(ray.put({"counters": [counter]}))) == 201
    assert ray.get(ray.get(ray.put([counter]))[0].add.remote()) == 202


def test_a_task_returns_the_handle_of_an_actor_that_it_made(ray: Any) -> None:
    counter = ray.get(make_counter.remote(7))
    assert ray.get(counter.add.remote()) == 8
    assert ray.get(add_to.remote(counter, 2)) == 10


def test_handles_of_one_actor_are_equal_and_hash_alike(ray: Any) -> None:
    counter, other = Counter.remote(), Counter.remote()
    again = ray.get(ray.put(counter))
    assert again == counter
    assert hash(again) == hash(counter)
    assert {counter: 1}[again] == 1
    assert counter != other
    assert counter != "counter"
    assert "PlainCounter" in repr(counter)


def test_a_handle_that_comes_back_after_it_was_let_go_hears_of_its_actors_death(ray: Any) -> None:
    """
    1. another actor keeps the only handle; the driver lets go of its own
    2. the handle comes back: calls work
    3. the actor is killed: a call under way hears of it
    """
    keeper = Counter.remote()
    counter = Counter.remote()
    ray.get(counter.add.remote())
    ray.get(keeper.note.remote([counter]))
    del counter
    assert ray.get(identity.remote(1)) == 1  # by now the node knows that it was let go
    (back,) = ray.get(keeper.notes.remote())[0]
    pid = ray.get(back.pid.remote())
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ActorDiedError, match="SIGKILL"):
        ray.get(back.add.remote(), timeout=10)


def test_a_handle_out_of_a_stored_object_hears_that_its_actor_is_long_dead(ray: Any) -> None:
    counter = Counter.remote()
    box = ray.put([counter])
    ray.kill(counter)
    del counter
    assert ray.get(identity.remote(1)) == 1
    with pytest.raises(ActorDiedError, match="killed"):
        ray.get(ray.get(box)[0].add.remote(), timeout=10)


# names


def test_a_named_actor_is_found_at_once_and_anywhere_in_its_namespace(ray: Any) -> None:
    counter = Counter.options(name="found").remote(1)
    assert ray.get_actor("found") == counter  # even before it is up

    @aioray.remote
    def find() -> int:
        return int(aioray.get(aioray.get_actor("found", "tests").add.remote()))

    assert ray.get(find.remote()) == 2
    with pytest.raises(ValueError, match=r"'found'.*'elsewhere'"):
        ray.get_actor("found", namespace="elsewhere")


def test_a_name_is_taken_in_its_own_namespace_only(ray: Any) -> None:
    first = Counter.options(name="taken").remote(1)
    with pytest.raises(ValueError, match="taken") as caught:
        Counter.options(name="taken").remote()
    assert isinstance(caught.value, ActorAlreadyExistsError)
    second = Counter.options(name="taken", namespace="elsewhere").remote(2)
    assert ray.get([first.add.remote(), second.add.remote()]) == [2, 3]
    assert ray.get_actor("taken", "elsewhere") == second


def test_get_if_exists_finds_the_one_or_makes_it(ray: Any) -> None:
    only = Counter.options(name="only", get_if_exists=True)
    first = only.remote(10)
    again = only.remote(99)
    assert first == again
    assert ray.get(again.add.remote()) == 11
    with pytest.raises(InvalidOptionError, match="name"):
        Counter.options(get_if_exists=True).remote()


def test_a_name_is_free_as_soon_as_its_actor_was_killed(ray: Any) -> None:
    named = Counter.options(name="again")
    for n in range(5):
        counter = named.remote(n)
        if n % 2:  # with and without waiting for it to be up
            assert ray.get(counter.add.remote()) == n + 1
        ray.kill(counter)
        with pytest.raises(ValueError, match="again"):
            ray.get_actor("again")


def test_a_name_is_free_when_a_constructor_or_its_argument_has_failed(ray: Any) -> None:
    class Broken:
        def __init__(self, number: int) -> None:
            raise OSError("no")

        def ping(self) -> None: ...

    broken = ray.remote(Broken).options(name="broken")
    for argument in (1, Counter.remote().fail.remote("late")):
        actor = broken.remote(argument)
        with pytest.raises((OSError, LookupError)):
            ray.get(actor.ping.remote())
    assert ray.get(Counter.options(name="broken").remote().add.remote()) == 1


def test_a_detached_actor_lives_without_handles_until_it_is_killed(ray: Any) -> None:
    pid = ray.get(Counter.options(name="detached", lifetime="detached").remote().pid.remote())
    assert ray.get(identity.remote(1)) == 1
    assert psutil.pid_exists(pid)
    again = ray.get_actor("detached")
    assert ray.get(again.pid.remote()) == pid
    ray.kill(again)
    eventually(lambda: is_gone(pid))


# the end


def test_an_actor_ends_with_its_last_handle_and_its_process_with_it(ray: Any) -> None:
    counter = Counter.remote()
    copy = ray.get(ray.put(counter))
    pid = ray.get(counter.pid.remote())
    del counter
    assert ray.get(copy.add.remote()) == 1
    del copy
    eventually(lambda: is_gone(pid))


def test_calls_that_were_made_are_finished_before_the_actor_ends(ray: Any, tmp_path: pathlib.Path) -> None:
    door, log = Meeting(tmp_path / "door"), tmp_path / "log"

    class Writer:
        def wait(self) -> None:
            door.wait()

        def write(self, text: str) -> None:
            with log.open("a") as file:
                file.write(text)

    writer = ray.remote(Writer).remote()
    writer.wait.remote()
    refs = [writer.write.remote(text) for text in "abc"]
    del writer
    door.here()
    ray.get(refs)
    assert log.read_text() == "abc"


def test_an_actor_without_handles_runs_what_it_registered_for_the_end(ray: Any, tmp_path: pathlib.Path) -> None:
    class Tidy:
        def __init__(self, where: pathlib.Path) -> None:
            import atexit

            atexit.register(where.write_text, "tidy")

        def pid(self) -> int:
            return os.getpid()

    tidy = ray.remote(Tidy).remote(tmp_path / "left")
    killed = ray.remote(Tidy).remote(tmp_path / "killed")
    pids = ray.get([tidy.pid.remote(), killed.pid.remote()])
    ray.kill(killed)
    del tidy
    eventually(lambda: all(map(is_gone, pids)))
    assert (tmp_path / "left").read_text() == "tidy"
    assert not (tmp_path / "killed").exists()


def test_an_actor_that_only_another_actor_holds_lives_as_long_as_that_one(ray: Any) -> None:
    keeper, counter = Counter.remote(), Counter.remote()
    pid = ray.get(counter.pid.remote())
    ray.get(keeper.note.remote([counter]))
    del counter
    (held,) = ray.get(keeper.notes.remote())[0]
    assert ray.get(held.pid.remote()) == pid
    del held
    assert ray.get(keeper.add.remote()) == 1
    assert psutil.pid_exists(pid)
    del keeper
    eventually(lambda: is_gone(pid))


def test_an_actor_outlives_the_worker_that_created_it(ray: Any) -> None:
    @aioray.remote
    def make_and_tell() -> Any:
        return Counter.remote(1), os.getpid()

    counter, maker = ray.get(make_and_tell.remote())
    ray.get(counter.add.remote())
    os.kill(maker, signal.SIGKILL)
    eventually(lambda: is_gone(maker))
    assert ray.get(identity.remote(1)) == 1
    assert ray.get(counter.add.remote()) == 3


def test_the_exception_of_a_constructor_reaches_every_caller_as_itself(ray: Any) -> None:
    class Broken:
        def __init__(self) -> None:
            raise KeyError("missing")

        def ping(self) -> None: ...

    broken = ray.remote(Broken).remote()
    for _ in range(2):
        with pytest.raises(KeyError) as caught:
            ray.get(broken.ping.remote())
        assert isinstance(caught.value, RayTaskError)
        assert "__init__" in str(caught.value)
    assert ray.get(identity.remote(1)) == 1


def test_the_exception_of_a_method_reaches_its_caller_and_the_actor_goes_on(ray: Any) -> None:
    counter = Counter.remote()
    with pytest.raises(LookupError, match="lost it"):
        ray.get(counter.fail.remote("lost it"))
    assert ray.get(counter.add.remote()) == 1


def test_kill_fails_calls_under_way_queued_and_later_with_the_reason(ray: Any, tmp_path: pathlib.Path) -> None:
    begun = Meeting(tmp_path / "begun")

    class Stuck:
        def hang(self) -> None:
            begun.here()
            threading.Event().wait()

        def pid(self) -> int:
            return os.getpid()

    stuck = ray.remote(Stuck).remote()
    pid = ray.get(stuck.pid.remote())
    running, queued = stuck.hang.remote(), stuck.pid.remote()
    begun.wait()
    ray.kill(stuck)
    for ref in (running, queued, stuck.pid.remote()):
        with pytest.raises(ActorDiedError, match=r"killed with aioray\.kill") as caught:
            ray.get(ref)
        assert isinstance(caught.value, RayActorError)
        assert caught.value.actor_id == stuck._actor_id
    eventually(lambda: is_gone(pid))
    ray.kill(stuck)  # once more does no harm


def test_an_actor_that_was_killed_before_it_was_up_never_is(ray: Any) -> None:
    actors = [Counter.remote() for _ in range(10)]
    for actor in actors:
        ray.kill(actor)
    for actor in actors:
        with pytest.raises(ActorDiedError, match="killed"):
            ray.get(actor.add.remote(), timeout=10)


@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "SIGKILL"),
        (lambda: os._exit(7), "status 7"),
        (lambda: sys.exit(3), r"sys\.exit\(3\)"),
        (lambda: sys.exit(), r"sys\.exit\(\)"),
    ],
    ids=["SIGKILL", "os._exit", "sys.exit(3)", "sys.exit()"],
)
@pytest.mark.parametrize("kind", ["sync", "threaded", "async", "async, in a sync method"])
def test_an_actor_whose_process_ends_says_how(ray: Any, kind: str, ending: Any, reason: str) -> None:
    class Sync:
        def end(self) -> None:
            ending()

        def ping(self) -> int:
            return os.getpid()

    class Async(Sync):
        async def end_async(self) -> None:
            ending()

    cls = ray.remote(Async if kind.startswith("async") else Sync)
    actor = cls.options(max_concurrency=4).remote() if kind == "threaded" else cls.remote()
    pid = ray.get(actor.ping.remote())
    end = actor.end_async if kind == "async" else actor.end
    with pytest.raises(ActorDiedError, match=reason):
        ray.get(end.remote(), timeout=10)
    with pytest.raises(ActorDiedError, match=reason):
        ray.get(actor.ping.remote(), timeout=10)
    eventually(lambda: is_gone(pid))


# what is refused, and how it is said


def test_an_argument_that_cannot_be_sent_is_named_by_the_path_to_it(ray: Any) -> None:
    counter = Counter.remote()
    with pytest.raises(SerializationError, match=re.escape("args[0]['locks'][1]")):
        counter.note.remote({"locks": [1, threading.Lock()]})
    model = PlainCounter()
    model.seen = [threading.Lock()]
    with pytest.raises(SerializationError, match=re.escape("kwargs['start'].seen[0]")):
        Counter.remote(start=model)
    assert ray.get(counter.add.remote()) == 1


def test_every_name_without_an_underscore_is_free_for_the_methods_of_the_user() -> None:
    assert [name for name in dir(aioray.actor.ActorHandle) if not name.startswith("_")] == []


def test_an_unknown_method_is_an_attribute_error_that_lists_the_methods(ray: Any) -> None:
    counter = Counter.remote()
    with pytest.raises(AttributeError, match=r"PlainCounter has no method 'subtract'.*add.*fail"):
        _ = counter.subtract
    assert not hasattr(counter, "__len__")


def test_what_is_remote_is_not_called_directly(ray: Any) -> None:
    assert isinstance(Counter, aioray.ActorClass)
    with pytest.raises(TypeError, match=r"PlainCounter\.remote\("):
        Counter()
    with pytest.raises(TypeError, match=r"add\.remote\("):
        Counter.remote().add()
    with pytest.raises(TypeError, match="inherit from the plain class"):

        class Derived(Counter):  # type: ignore[valid-type, misc]
            pass


def test_wrong_arguments_of_a_constructor_fail_at_the_call(ray: Any) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'begin'"):
        Counter.remote(begin=3)
    with pytest.raises(TypeError, match="too many"):
        Counter.remote(1, 2)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"num_cpus": -1}, "num_cpus"),
        ({"max_concurrency": 0}, "max_concurrency"),
        ({"lifetime": "for ever"}, "lifetime"),
        ({"name": 5}, "name"),
        ({"num_returns": 2}, "num_returns"),
        ({"color": "red"}, "color"),
    ],
)
def test_bad_options_are_refused_by_name(ray: Any, options: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidOptionError, match=named):
        Counter.options(**options)
    with pytest.raises(InvalidOptionError, match=named):
        ray.remote(**options)(PlainCounter)


def test_bad_options_of_methods_are_refused_by_name(ray: Any) -> None:
    counter = Counter.remote()
    with pytest.raises(InvalidOptionError, match="num_returns"):
        counter.add.options(num_returns="x")
    with pytest.raises(InvalidOptionError, match="num_cpus"):
        counter.add.options(num_cpus=1)
    with pytest.raises(TypeError, match="actor handle"):
        ray.kill(counter.add.remote())


# threaded actors


def test_calls_of_a_threaded_actor_overlap_up_to_max_concurrency_and_no_further(ray: Any) -> None:
    actor = Rendezvous.options(max_concurrency=4).remote(4)
    assert sorted(ray.get([actor.meet.remote() for _ in range(16)])) == sorted([0, 1, 2, 3] * 4)
    assert ray.get(actor.at_once.remote()) == 4


def test_threads_of_an_actor_wait_for_tasks_and_actors_at_the_same_time(ray: Any) -> None:
    counter = Counter.remote()

    class Asker:
        def ask(self, number: int) -> int:
            return int(aioray.get(identity.remote(number))) + 0 * int(aioray.get(counter.add.remote()))

    asker = ray.remote(Asker).options(max_concurrency=8).remote()
    assert ray.get([asker.ask.remote(n) for n in range(40)]) == list(range(40))
    assert ray.get(counter.add.remote(0)) == 40


def test_a_threaded_actor_finishes_its_calls_when_its_last_handle_goes(ray: Any) -> None:
    actor = Rendezvous.options(max_concurrency=2).remote(2)
    refs = [actor.meet.remote() for _ in range(2)]
    del actor
    assert sorted(ray.get(refs)) == [0, 1]


# async actors


def test_calls_of_an_async_actor_overlap(ray: Any) -> None:
    actor = Async.remote()
    waiting = [actor.wait.remote() for _ in range(50)]
    assert ray.get(actor.release.remote()) == 50
    assert ray.get(waiting) == ["released"] * 50


def test_an_async_actor_runs_as_many_calls_at_once_as_max_concurrency_says(ray: Any) -> None:
    actor = Async.options(max_concurrency=3).remote()
    waiting = [actor.wait.remote() for _ in range(2)]
    assert ray.get(actor.running.remote()) == (2, 2)
    waiting += [actor.wait.remote(), actor.release.remote()]  # the second has no room, until a wait is cancelled
    assert ray.wait([waiting[-1]], timeout=0.05)[0] == []
    ray.cancel(waiting[0])
    with pytest.raises(TaskCancelledError):
        ray.get(waiting[0])
    assert ray.get(waiting[1:]) == ["released", "released", 2]
    assert ray.get(actor.running.remote()) == (0, 3)


def test_a_sync_method_of_an_async_actor_runs_in_a_thread(ray: Any) -> None:
    actor = Async.remote()
    assert ray.get([actor.in_a_thread.remote(), actor.on_the_loop.remote()]) == [True, True]


def test_sync_methods_of_an_async_actor_overlap_as_much_as_its_coroutines_may(ray: Any) -> None:
    class Mixed(PlainRendezvous):
        async def nothing(self) -> None: ...

    actor = ray.remote(Mixed).remote(40)
    assert sorted(ray.get([actor.meet.remote() for _ in range(40)])) == list(range(40))


def test_an_async_actor_awaits_tasks_and_other_actors(ray: Any) -> None:
    assert ray.get(Async.remote().total.remote(Counter.remote(9))) == [1, 10, 0, 1, 2]


def test_a_blocking_get_inside_an_async_method_says_what_to_write_instead(ray: Any) -> None:
    actor = Async.remote()
    with pytest.raises(BlockingCallError, match="await ref"):
        ray.get(actor.block.remote())
    assert ray.get(actor.get_in_a_thread.remote()) == "fine"


def test_the_constructor_of_an_async_actor_may_block_and_start_asyncio_tasks(ray: Any) -> None:
    class Eager:
        def __init__(self) -> None:
            self.got = aioray.get(identity.remote(5))
            self.later = asyncio.get_running_loop().create_task(self._later())

        async def _later(self) -> int:
            return int(await identity.remote(6))

        async def both(self) -> tuple[int, int]:
            return self.got, await self.later

    assert ray.get(ray.remote(Eager).remote().both.remote()) == (5, 6)


def test_an_async_actor_without_handles_lets_its_asyncio_tasks_clean_up(ray: Any, tmp_path: pathlib.Path) -> None:
    class Background:
        def __init__(self, log: pathlib.Path) -> None:
            self.log = log

        async def start(self) -> int:
            self.task = asyncio.create_task(self.work())
            await asyncio.sleep(0)
            return os.getpid()

        async def work(self) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                self.log.write_text("clean")

    actor = ray.remote(Background).remote(tmp_path / "log")
    pid = ray.get(actor.start.remote())
    del actor
    eventually(lambda: is_gone(pid))
    assert (tmp_path / "log").read_text() == "clean"


# large values


def test_large_arrays_go_to_actors_and_come_back(ray: Any) -> None:
    baseline = store()

    class Mirror:
        def flip(self, array: Any, sign: int = -1) -> Any:
            return sign * array

    mirror = ray.remote(Mirror).remote()
    array = np.arange(MIB)
    for argument in (array, ray.put(array)):
        assert (ray.get(mirror.flip.remote(argument)) == -array).all()
    assert (ray.get(mirror.flip.remote(array=array, sign=1)) == array).all()
    assert (ray.get([mirror.flip.remote(mirror.flip.remote(array)) for _ in range(3)])[2] == array).all()
    del argument, array, mirror
    store_returns_to(baseline)


def test_an_actor_keeps_the_array_that_it_was_given_after_its_caller_dropped_it(ray: Any) -> None:
    class Keeper:
        array = np.zeros(1)

        def keep(self, array: Any) -> None:
            self.array = array

        def state(self) -> tuple[int, bool]:
            return int(self.array.sum()), bool(self.array.flags.writeable)

        def drop(self) -> None:
            del self.array

    keeper = ray.remote(Keeper).remote()
    ray.get(keeper.state.remote())
    baseline = store()
    ray.get(keeper.keep.remote(np.full(MIB, 3, np.uint8)))
    for n in range(40):  # what would overwrite it, if its memory were free
        ray.put(np.full(MIB, n, np.uint8))
    assert ray.get(keeper.state.remote()) == (3 * MIB, False)
    ray.get(keeper.drop.remote())
    store_returns_to(baseline)


def test_the_constructor_takes_large_arrays_and_refs(ray: Any) -> None:
    class Holder:
        def __init__(self, array: Any, number: int, *, more: Any) -> None:
            self.total = int(array.sum()) + number + int(more.sum())

        def get(self) -> int:
            return self.total

    ones = np.ones(MIB, np.uint8)
    holder = ray.remote(Holder).remote(ray.put(ones), identity.remote(5), more=ones)
    assert ray.get(holder.get.remote()) == 2 * MIB + 5


def test_a_thousand_actors_come_and_go_and_nothing_of_them_stays(ray: Any) -> None:
    """Not a thousand, for the sake of time."""
    from aioray import current

    known, baseline = len(current.get().actors._lines), store()
    for _ in range(3):
        counters = [Counter.remote() for _ in range(20)]
        ray.get([counter.add.remote() for counter in counters])
        del counters
    eventually(lambda: len(current.get().actors._lines) <= known)
    store_returns_to(baseline)


# in an event loop


def test_a_name_is_free_as_soon_as_the_last_handle_is_gone(ray: Any) -> None:
    """What a process let go of, and what it asks next, go over two lines: they may not overtake one another."""
    counter = Counter.options(num_cpus=0)
    for _ in range(100):
        actor = counter.options(name="again", get_if_exists=True).remote()
        assert ray.get(actor.add.remote(1), timeout=10) == 1
        del actor
        with pytest.raises(ValueError, match="no actor called 'again'"):
            ray.get_actor("again")


async def test_actor_calls_are_awaited_and_gathered(cluster: aioray.Cluster) -> None:
    counter = Counter.remote()
    assert await counter.add.remote() == 1
    assert await asyncio.gather(*[counter.add.remote() for _ in range(100)]) == list(range(2, 102))
    with pytest.raises(LookupError, match="oh"):
        await counter.fail.remote("oh")


async def test_names_and_kill_work_in_an_event_loop(cluster: aioray.Cluster) -> None:
    for n in range(3):
        counter = Counter.options(name="looped").remote(n)
        assert aioray.get_actor("looped") == counter
        with pytest.raises(ActorAlreadyExistsError):
            Counter.options(name="looped").remote()
        if n:
            assert await counter.add.remote() == n + 1
        aioray.kill(counter)
        with pytest.raises(ActorDiedError, match="killed"):
            await counter.add.remote()


async def test_an_actor_of_an_embedded_cluster_ends_with_its_last_handle(cluster: aioray.Cluster) -> None:
    counter = Counter.remote()
    pid = await counter.pid.remote()
    fd = os.pidfd_open(pid)
    with contextlib.closing(os.fdopen(fd)):
        gone = asyncio.Event()
        asyncio.get_running_loop().add_reader(fd, gone.set)
        del counter
        async with asyncio.timeout(10):
            await gone.wait()
        asyncio.get_running_loop().remove_reader(fd)
