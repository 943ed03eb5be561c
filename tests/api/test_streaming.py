"""Generators, as a program without an event loop uses them: of tasks, and of each kind of actor."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import textwrap
from typing import TYPE_CHECKING, Any, assert_type

import numpy as np
import pytest

import aioray as ray
from aioray.exceptions import (
    ActorDiedError,
    InvalidOptionError,
    ObjectRefStreamEndOfStreamError,
    RayTaskError,
    SerializationError,
    TaskCancelledError,
    WorkerCrashedError,
)
from tests.api.classes import after
from tests.api.streams import (
    MIB,
    AsyncGenerating,
    Generating,
    actors,
    arrays,
    arrays_async,
    count,
    count_async,
    die_in_the_middle,
    endless,
    endless_async,
    fail_after,
    fail_after_async,
    hang_async,
    notes,
    one_then_more,
)
from tests.api.support import Meeting, eventually, run_script, started, store, store_returns_to

if TYPE_CHECKING:
    import pathlib
    from collections.abc import AsyncIterator, Iterator

    from aioray import ObjectRefGenerator


@pytest.fixture(scope="module")
def machine() -> Iterator[Any]:
    with started(num_cpus=2) as machine:
        yield machine


@pytest.fixture(params=list(actors()))
def actor(machine: Any, request: pytest.FixtureRequest) -> Any:
    return actors()[request.param].remote()


@ray.remote
def total(refs: Any) -> int:
    return sum(ray.get(list(refs)))


@ray.remote
def same(value: Any) -> Any:
    return value


@ray.remote
def put_inside(n: int) -> Iterator[dict[str, Any]]:
    for i in range(n):
        yield {"inside": ray.put(np.full(MIB, i, dtype=np.uint8))}


def each(*functions: Any) -> tuple[Any, ...]:
    """What they have in common mypy cannot say."""
    return functions


# values, one after the other


def test_a_generator_function_gives_a_generator_of_refs(machine: Any) -> None:
    for function in each(count, count_async):
        generator = function.remote(5)
        assert isinstance(generator, ray.ObjectRefGenerator)
        refs = list(generator)
        assert all(isinstance(ref, ray.ObjectRef) for ref in refs)
        assert len({ref.hex() for ref in refs}) == 5
        assert ray.get(refs) == [0, 1, 2, 3, 4]
        assert list(generator) == []


def test_the_methods_of_every_kind_of_actor_stream(actor: Any) -> None:
    assert [ray.get(ref) for ref in actor.count.remote(1000)] == list(range(1000))
    assert [array[-1] for array in map(ray.get, actor.arrays.remote(3))] == [0, 1, 2]


def test_a_value_is_there_while_the_generator_goes_on(machine: Any, tmp_path: pathlib.Path) -> None:
    meeting = Meeting(tmp_path / "meeting")
    generator = one_then_more.remote(meeting)
    assert ray.get(next(generator)) == "first"
    assert not generator.next_ready()
    assert not generator.is_finished()
    meeting.here()
    assert ray.get(next(generator)) == "second"
    with pytest.raises(StopIteration):
        next(generator)


@pytest.mark.parametrize("kind", ["sync", "threaded", "light, plain"])
def test_a_value_of_an_actor_is_there_while_its_generator_goes_on(
    machine: Any, tmp_path: pathlib.Path, kind: str
) -> None:
    meeting = Meeting(tmp_path / "meeting")
    generator: Any = actors()[kind].remote().one_then_more.remote(meeting)
    assert ray.get(next(generator)) == "first"
    meeting.here()
    assert [ray.get(ref) for ref in generator] == ["second"]


def test_a_plain_generator_of_an_async_actor_does_not_stop_its_loop(machine: Any, tmp_path: pathlib.Path) -> None:
    meeting = Meeting(tmp_path / "meeting")
    actor = AsyncGenerating.remote()
    generator: Any = actor.plain_one_then_more.remote(meeting)
    assert ray.get(next(generator)) == "first"
    assert ray.get(actor.answer.remote()) == "here"
    meeting.here()
    assert [ray.get(ref) for ref in generator] == ["second"]


def test_a_generator_that_yields_nothing_ends(machine: Any) -> None:
    generator = count.remote(0)
    assert list(generator) == []
    assert generator.is_finished()
    assert ray.get(generator.completed()) is None


def test_completed_is_done_when_the_call_is(machine: Any, tmp_path: pathlib.Path) -> None:
    meeting = Meeting(tmp_path / "meeting")
    generator = one_then_more.remote(meeting)
    assert ray.wait([generator.completed()], timeout=0) == ([], [generator.completed()])
    meeting.here()
    assert ray.get(generator.completed()) is None
    assert generator.next_ready()
    assert [ray.get(ref) for ref in generator] == ["first", "second"]
    assert generator.is_finished()
    assert not generator.next_ready()


def test_more_values_than_one_number_has_ids_for_keep_ids_of_their_own(machine: Any) -> None:
    """An id has 16 bits for the place of a value; large values must have theirs before they are sent."""

    @ray.remote
    def many(n: int) -> Iterator[Any]:
        yield from range(n)
        for i in range(3):
            yield np.full(MIB, i, dtype=np.uint8)

    n = 150_000
    generator = many.remote(n)
    refs = list(generator)
    assert len({ref.hex() for ref in refs}) == n + 3
    assert ray.get(refs[:n]) == list(range(n))
    assert [array[0] for array in ray.get(refs[n:])] == [0, 1, 2]


def test_refs_of_a_stream_are_arguments_like_others(machine: Any) -> None:
    assert ray.get([same.remote(ref) for ref in count.remote(3)]) == [0, 1, 2]
    assert ray.get(total.remote(list(count.remote(4)))) == 6


# other numbers of returns


def test_a_number_of_returns_gives_so_many_refs(machine: Any) -> None:
    for function in each(count, count_async):
        refs: Any = function.options(num_returns=3).remote(3)
        assert ray.get(refs) == [0, 1, 2]
    ran = Generating.remote()
    assert ray.get(ran.count.options(num_returns=2).remote(2)) == [0, 1]


@pytest.mark.parametrize("length", [2, 4])
def test_another_number_of_values_than_announced_is_an_error(machine: Any, length: int) -> None:
    for function in each(count, count_async):
        refs: Any = function.options(num_returns=3).remote(length)
        for ref in refs:
            with pytest.raises(ValueError, match="num_returns=3"):
                ray.get(ref)


def test_with_no_returns_the_generator_runs_to_its_end(machine: Any, tmp_path: pathlib.Path) -> None:
    @ray.remote(num_returns=0)
    def run(path: pathlib.Path) -> Iterator[int]:
        yield 1
        path.touch()

    result: Any = run.remote(tmp_path / "end")
    assert result is None
    eventually((tmp_path / "end").exists)


def test_with_one_return_the_generator_itself_cannot_be_sent(machine: Any) -> None:
    ref: Any = count.options(num_returns=1).remote(3)
    with pytest.raises(SerializationError, match="generator"):
        ray.get(ref)


def test_dynamic_returns_are_one_value_that_has_all_refs(machine: Any) -> None:
    for ref in each(  # of what .options() says mypy knows nothing
        count.options(num_returns="dynamic").remote(4),
        count_async.options(num_returns="dynamic").remote(4),
        Generating.remote().all_at_once.remote(4),
    ):
        refs: Any = ray.get(ref)
        assert isinstance(refs, ray.DynamicObjectRefGenerator)
        assert len(refs) == 4
        assert [ray.get(each) for each in refs] == [0, 1, 2, 3]
        assert ray.get(list(refs)) == [0, 1, 2, 3]
        assert ray.get(total.remote(ref)) == 6


def test_a_dynamic_call_that_fails_is_one_error(machine: Any) -> None:
    ref: Any = fail_after.options(num_returns="dynamic").remote(2)
    with pytest.raises(LookupError, match="no more"):
        ray.get(ref)


def test_what_a_dynamic_value_holds_is_freed_with_it(machine: Any) -> None:
    before = store()
    ref: Any = arrays.options(num_returns="dynamic").remote(3)
    assert [ray.get(each)[0] for each in ray.get(ref)] == [0, 1, 2]
    assert store()["used_nbytes"] >= 3 * MIB
    del ref
    store_returns_to(before)


def test_a_function_that_returns_a_generator_streams_when_told_to(machine: Any) -> None:
    @ray.remote(num_returns="streaming")
    def make(n: int) -> Any:
        return (i for i in range(n))

    @ray.remote(num_returns="streaming")
    def not_one() -> Any:
        return [1, 2]

    assert [ray.get(ref) for ref in make.remote(3)] == [0, 1, 2]
    (ref,) = not_one.remote()
    with pytest.raises(TypeError, match=r"not_one\(\).*list"):
        ray.get(ref)


def test_back_pressure_on_what_does_not_stream_is_refused() -> None:
    ahead: Any = {"_generator_backpressure_num_objects": 2}
    for refused in (
        lambda: same.options(**ahead),
        lambda: count.options(num_returns="dynamic", **ahead),
        lambda: count.options(num_returns=2, **ahead),
        lambda: ray.method(**ahead)(lambda self: 1),
    ):
        with pytest.raises(InvalidOptionError, match="streaming"):
            refused()
    count.options(**ahead)
    same.options(num_returns="streaming", **ahead)


# errors


def test_an_error_comes_after_what_was_made_before_and_then_nothing(machine: Any) -> None:
    for function in each(fail_after, fail_after_async):
        generator = function.remote(2)
        assert ray.get([next(generator), next(generator)]) == [0, 1]
        failed = next(generator)
        with pytest.raises(LookupError, match="no more") as caught:
            ray.get(failed)
        assert isinstance(caught.value, RayTaskError)
        with pytest.raises(StopIteration):
            next(generator)
        with pytest.raises(LookupError):
            ray.get(generator.completed())


def test_an_error_of_an_actors_generator_comes_in_its_place(actor: Any) -> None:
    first, failed = actor.fail_after.remote(1)
    assert ray.get(first) == 0
    with pytest.raises(LookupError, match="no more"):
        ray.get(failed)


def test_mypy_knows_what_a_generator_yields(machine: Any) -> None:
    """What it checks, it checks without running this."""
    assert_type(count.remote(1), ray.ObjectRefGenerator[int])
    assert_type(count_async.remote(1), ray.ObjectRefGenerator[int])
    assert_type(ray.get(next(count.remote(1))), int)
    assert_type(total.remote([]), ray.ObjectRef[int])
    assert_type(same.remote(1), Any)  # a function that returns Any: mypy cannot choose, pyright says ObjectRef[Any]


def test_a_value_that_cannot_be_sent_is_the_error_of_the_generator(machine: Any) -> None:
    @ray.remote
    def locks() -> Iterator[Any]:
        import threading

        yield 1
        yield threading.Lock()

    first, failed = locks.remote()
    assert ray.get(first) == 1
    with pytest.raises(SerializationError, match="lock"):
        ray.get(failed)


def test_an_argument_that_failed_is_the_only_thing_that_comes(machine: Any) -> None:
    _, failed = fail_after.remote(1)
    (ref,) = count.remote(failed)
    with pytest.raises(LookupError):
        ray.get(ref)


def test_a_generator_that_is_run_again_delivers_nothing_twice(machine: Any, tmp_path: pathlib.Path) -> None:
    before = store()
    values = [ray.get(ref) for ref in die_in_the_middle.remote(str(tmp_path / "first"))]
    assert [int(np.max(value)) for value in values] == [0, 1, 2, 3, 4]
    del values
    store_returns_to(before)


def test_without_retries_the_death_of_the_worker_is_the_next_value(machine: Any, tmp_path: pathlib.Path) -> None:
    generator = die_in_the_middle.options(max_retries=0).remote(str(tmp_path / "first"))
    refs = list(generator)
    assert [int(np.max(ray.get(ref))) for ref in refs[:3]] == [0, 1, 2]
    with pytest.raises(WorkerCrashedError, match="die_in_the_middle"):
        ray.get(refs[3])
    assert len(refs) == 4


def test_the_death_of_an_actor_is_the_next_value(machine: Any) -> None:
    first, died = Generating.remote().die.remote()
    assert ray.get(first) == 1
    with pytest.raises(ActorDiedError):
        ray.get(died)


# the end


def test_pickling_a_generator_of_refs_says_what_to_do(machine: Any) -> None:
    generator = count.remote(1)
    with pytest.raises(TypeError, match="dynamic"):
        pickle.dumps(generator)
    with pytest.raises(SerializationError, match="dynamic"):
        same.remote(generator)
    with pytest.raises(SerializationError, match="dynamic"):
        ray.put([generator])
    assert ray.get(next(generator)) == 0


@pytest.mark.parametrize("how", ["close", "drop"])
@pytest.mark.parametrize("function", [endless, endless_async])
def test_a_generator_that_is_left_is_stopped_and_cleans_up(
    machine: Any, tmp_path: pathlib.Path, function: Any, how: str
) -> None:
    path = tmp_path / "notes"
    generator: ObjectRefGenerator[int] | None = ray.remote(function).remote(str(path))
    assert generator is not None
    completed = generator.completed()
    assert ray.get([next(generator), next(generator)]) == [0, 1]
    if how == "close":
        generator.close()
        with pytest.raises(StopIteration):
            next(generator)
        generator.close()
    generator = None
    assert ray.get(completed) is None
    assert notes(path)[-2:] == ["GeneratorExit", "finally"]


def test_a_generator_of_an_actor_that_is_left_is_stopped(actor: Any, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "notes"
    generator = actor.endless.remote(str(path))
    assert ray.get(next(generator)) == 0
    completed = generator.completed()
    del generator
    assert ray.get(completed) is None
    assert "GeneratorExit" in notes(path)
    assert notes(path)[-1] == "finally"
    assert [ray.get(ref) for ref in actor.count.remote(2)] == [0, 1]


def test_an_actor_streams_no_more_to_a_caller_that_died(actor: Any, tmp_path: pathlib.Path) -> None:
    @ray.remote(max_retries=0)
    def take_one_and_die(actor: Any, path: str) -> None:
        generator = actor.slowly.remote(path)
        ray.get(next(generator))
        os.kill(os.getpid(), signal.SIGKILL)

    path = tmp_path / "notes"
    with pytest.raises(WorkerCrashedError):
        ray.get(take_one_and_die.remote(actor, str(path)))
    eventually(lambda: notes(path)[-2:] == ["GeneratorExit", "finally"], lambda: str(notes(path)))
    assert [ray.get(ref) for ref in actor.count.remote(2)] == [0, 1]


def test_an_asynchronous_generator_that_awaits_is_stopped_where_it_is(machine: Any, tmp_path: pathlib.Path) -> None:
    for name, method in each(("task", ray.remote(hang_async)), ("actor", AsyncGenerating.remote().hang)):
        generator = method.remote(str(tmp_path / name))
        assert ray.get(next(generator)) == 0
        completed = generator.completed()
        generator.close()
        assert ray.get(completed) is None
        assert notes(tmp_path / name) == ["CancelledError", "finally"]


def test_leaving_a_generator_cancels_nothing_that_it_submitted(machine: Any, tmp_path: pathlib.Path) -> None:
    @ray.remote
    def submit(path: str, meeting: Meeting) -> Iterator[Any]:
        yield [after.remote(meeting, "done")]
        yield from endless(path)

    meeting = Meeting(tmp_path / "meeting")
    generator = submit.options(_generator_backpressure_num_objects=2).remote(str(tmp_path / "notes"), meeting)
    (inside,) = ray.get(next(generator))
    completed = generator.completed()
    del generator
    assert ray.get(completed) is None
    meeting.here()
    assert ray.get(inside) == "done"


def test_what_was_not_taken_is_freed(machine: Any) -> None:
    before = store()
    for function in each(arrays, arrays_async):
        generator = function.remote(20)
        ray.get(generator.completed())
        kept = ray.get(next(generator))
        assert kept[0] == 0
        assert store()["used_nbytes"] >= before["used_nbytes"] + 20 * MIB
        del generator
        eventually(lambda: store()["used_nbytes"] <= before["used_nbytes"] + 2 * MIB, lambda: str(store()))
        assert kept[-1] == 0
        del kept
        store_returns_to(before)


def test_what_is_taken_and_let_go_is_freed(machine: Any) -> None:
    before = store()
    for i, ref in enumerate(arrays.remote(30)):
        assert ray.get(ref)[-1] == i
    del ref
    store_returns_to(before)


def test_refs_inside_values_keep_what_they_refer_to(machine: Any) -> None:
    before = store()
    generator = put_inside.remote(4)
    ray.get(generator.completed())
    first = ray.get(next(generator))
    assert ray.get(first["inside"])[0] == 0
    second = next(generator)
    del generator
    assert ray.get(ray.get(second)["inside"])[-1] == 1
    del first, second
    store_returns_to(before)


@ray.remote
def endless_arrays() -> Iterator[Any]:
    while True:
        yield np.zeros(MIB, dtype=np.uint8)


@ray.remote
async def endless_arrays_async() -> AsyncIterator[Any]:
    while True:
        yield np.zeros(MIB, dtype=np.uint8)


@pytest.mark.parametrize("how", ["close", "cancel", "force"])
@pytest.mark.parametrize("kind", ["arrays", "arrays, async", "refs inside"])
def test_however_a_stream_is_ended_nothing_of_it_stays(machine: Any, kind: str, how: str) -> None:
    """Ended at many moments: while a value is made, is stored, is known to the node only, or is on its way."""
    functions: dict[str, Any] = {
        "arrays": endless_arrays,
        "arrays, async": endless_arrays_async,
        "refs inside": put_inside,
    }
    function = functions[kind].options(_generator_backpressure_num_objects=4)
    before = store()
    for round_ in range(12):
        generator = function.remote(1_000_000) if kind == "refs inside" else function.remote()
        taken = [next(generator) for _ in range(round_ % 4)]
        if how == "close":
            generator.close()
        else:
            ray.cancel(generator, force=how == "force")
        with contextlib.suppress(TaskCancelledError):
            ray.get(generator.completed())
        del generator, taken
    store_returns_to(before)


def test_a_cancelled_generator_raises_that_in_the_next_ref(machine: Any, tmp_path: pathlib.Path) -> None:
    for function, exit_note in each((endless, "KeyboardInterrupt"), (endless_async, "CancelledError")):
        path = tmp_path / function.__name__
        generator = ray.remote(function).options(_generator_backpressure_num_objects=1).remote(str(path))
        assert ray.get(next(generator)) == 0
        ray.cancel(generator)
        refs = list(generator)
        with pytest.raises(TaskCancelledError):
            ray.get(refs[-1])
        assert ray.get(refs[:-1]) == list(range(1, len(refs)))
        assert notes(path)[-1] == "finally"
        assert notes(path)[-2] in (exit_note, "GeneratorExit")  # the second: it was stopped at a yield


def test_a_cancelled_generator_in_a_thread_stops_after_a_value(machine: Any, tmp_path: pathlib.Path) -> None:
    threaded = Generating.options(max_concurrency=2).remote().endless
    for name, method in each(("threaded", threaded), ("async", AsyncGenerating.remote().plain_endless)):
        path = tmp_path / name
        generator = method.remote(str(path))
        assert ray.get(next(generator)) == 0
        ray.cancel(generator)
        with pytest.raises(TaskCancelledError):
            ray.get(list(generator))
        eventually(lambda path=path: notes(path)[-2:] == ["GeneratorExit", "finally"])  # type: ignore[misc]


def test_a_generator_cancelled_by_force_loses_its_worker(machine: Any, tmp_path: pathlib.Path) -> None:
    generator = one_then_more.remote(Meeting(tmp_path / "meeting"))
    assert ray.get(next(generator)) == "first"
    ray.cancel(generator, force=True)
    (ref,) = generator
    with pytest.raises(TaskCancelledError):
        ray.get(ref)


# back-pressure


def produced(path: pathlib.Path) -> int:
    return len(notes(path))


def pauses_at(path: pathlib.Path, number: int) -> None:
    """It has begun to make so many values; that there are no more is seen by what comes later, in order."""
    eventually(lambda: produced(path) >= number, lambda: str(notes(path)))
    assert produced(path) == number


def test_a_generator_pauses_when_so_many_values_are_not_taken(machine: Any, tmp_path: pathlib.Path) -> None:
    for function in each(endless, endless_async):
        path = tmp_path / function.__name__
        generator = ray.remote(function).options(_generator_backpressure_num_objects=3).remote(str(path))
        pauses_at(path, 3)
        for taken in range(1, 20):
            assert ray.get(next(generator)) == taken - 1
            pauses_at(path, 3 + taken)
        completed = generator.completed()
        generator.close()
        assert ray.get(completed) is None
        assert notes(path)[-2:] == ["GeneratorExit", "finally"]


@pytest.mark.parametrize("kind", list(actors()))
def test_a_generator_of_an_actor_pauses_as_its_method_says(machine: Any, tmp_path: pathlib.Path, kind: str) -> None:
    path = tmp_path / "notes"
    actor = actors()[kind].remote()
    generator = actor.slowly.remote(str(path))
    pauses_at(path, 2)
    assert [ray.get(next(generator)) for _ in range(5)] == [0, 1, 2, 3, 4]
    pauses_at(path, 7)
    completed = generator.completed()
    del generator
    assert ray.get(completed) is None


# among others


def test_wait_takes_generators_for_their_next_refs(machine: Any, tmp_path: pathlib.Path) -> None:
    meeting = Meeting(tmp_path / "meeting")
    slow: Any = one_then_more.remote(meeting)
    fast: Any = count.remote(1)
    assert ray.wait([fast], timeout=10) == ([fast], [])
    assert ray.get(next(slow)) == "first"
    assert ray.wait([slow, fast], num_returns=2, timeout=0.01) == ([fast], [slow])
    ref = same.remote(1)
    assert ray.wait([slow, ref], timeout=10) == ([ref], [slow])
    meeting.here()
    assert ray.wait([slow], timeout=10) == ([slow], [])
    assert ray.get(next(slow)) == "second"
    assert ray.wait([slow], timeout=10) == ([slow], [])  # at its end: next() would raise at once
    assert list(slow) == []
    with pytest.raises(ValueError, match="more than once"):
        ray.wait([fast, fast])


def test_what_takes_refs_says_what_to_do_with_a_generator(machine: Any) -> None:
    generator: Any = count.remote(2)
    with pytest.raises(TypeError, match=r"wait\(\[generator\]\)"):
        ray.wait(generator)
    with pytest.raises(TypeError, match="iterate"):
        ray.as_completed(generator)
    assert ray.get(generator) is generator
    assert ray.get(list(generator)) == [0, 1]


def test_the_next_ref_of_a_generator_that_ends_before_says_so(machine: Any, tmp_path: pathlib.Path) -> None:
    meeting = Meeting(tmp_path / "meeting")
    generator = one_then_more.remote(meeting)
    first = generator._get_next_ref()
    assert ray.get(first) == "first"
    assert next(generator) is first
    second = generator._get_next_ref()
    meeting.here()
    assert ray.get(second) == "second"
    assert next(generator) is second
    if not generator.is_finished():
        with pytest.raises(ObjectRefStreamEndOfStreamError):
            ray.get(generator._get_next_ref())
    with pytest.raises(ObjectRefStreamEndOfStreamError):
        generator._get_next_ref()


def test_an_error_that_nobody_takes_is_logged_once(tmp_path: pathlib.Path) -> None:
    program = """
        import aioray as ray

        @ray.remote
        def fail():
            yield 1
            raise LookupError("lost")

        ray.init(num_cpus=1)
        generator = fail.remote()
        ray.wait([generator.completed()])
        del generator
        seen = fail.remote()
        ray.wait(list(seen), num_returns=2)
        refs = list(fail.remote())
        try:
            ray.get(refs)
        except LookupError:
            pass
        del refs, seen
        ray.shutdown()
    """
    done = run_script(tmp_path, textwrap.dedent(program))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("LookupError: lost") == 2, done.stderr
