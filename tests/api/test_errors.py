"""What goes wrong, and how a program hears of it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import aioray as ray
from aioray.exceptions import (
    GetTimeoutError,
    RaySystemError,
    RayTaskError,
    SerializationError,
    TaskCancelledError,
    UnserializableException,
    WorkerCrashedError,
)
from tests.api.support import Meeting, eventually, started

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def machine() -> Iterator[Any]:
    with started(num_cpus=2):
        yield ray


@ray.remote
def same(value: Any) -> Any:
    return value


class Refused(Exception):
    """A user's exception with a constructor of its own."""

    def __init__(self, code: int, *, hint: str) -> None:
        super().__init__(f"refused with {code}")
        self.code = code
        self.hint = hint


def outermost() -> None:
    innermost()


def innermost() -> None:
    raise Refused(7, hint="ask nicely")


def error_of(ref: Any) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 # which one is for the test to say
        ray.get(ref, timeout=30)
    return caught.value


# user exceptions


def test_a_user_exception_arrives_as_itself_and_as_a_ray_task_error(machine: Any) -> None:
    ref = ray.remote(outermost).remote()
    with pytest.raises(Refused) as caught:
        ray.get(ref)
    assert (caught.value.code, caught.value.hint) == (7, "ask nicely")
    error: Any = caught.value
    assert RayTaskError in type(error).__mro__
    assert isinstance(error.cause, Refused)
    assert error.function_name == "outermost"
    assert error.pid not in (0, os.getpid())


def test_the_remote_traceback_has_the_users_frames_and_none_of_ours(machine: Any) -> None:
    text = str(error_of(ray.remote(outermost).remote()))
    assert "in outermost" in text
    assert "in innermost" in text
    assert "raise Refused" in text
    for ours in ("executor.py", "replies.py", "aioray_node", "aioray/runtime"):
        assert ours not in text


def test_an_error_through_several_tasks_is_the_first_one_and_shows_the_way(machine: Any) -> None:
    @ray.remote
    def middle() -> Any:
        return ray.get(ray.remote(outermost).remote())

    @ray.remote
    def top() -> Any:
        return ray.get(middle.remote())

    error: Any = error_of(top.remote())
    assert {Refused, RayTaskError} <= set(type(error).__mro__)
    assert type(error.cause) is Refused
    for function in ("in innermost", "in middle", "in top"):
        assert function in str(error)
    assert "aioray/runtime" not in str(error)
    assert "api.py" not in str(error)


def test_notes_causes_and_contexts_come_along(machine: Any) -> None:
    @ray.remote
    def chained() -> None:
        try:
            os.environ["NO_SUCH_VARIABLE"]
        except KeyError as exc:
            exc.add_note("looked in the environment")
            error = ValueError("outer")
            error.add_note("a note on the outer one")
            raise error from exc

    error = error_of(chained.remote())
    assert isinstance(error, ValueError)
    assert error.__notes__ == ["a note on the outer one"]
    for text in ("KeyError: 'NO_SUCH_VARIABLE'", "looked in the environment", "direct cause", "ValueError: outer"):
        assert text in str(error)


def test_an_exception_group_can_be_split_where_it_arrives(machine: Any) -> None:
    @ray.remote
    def several() -> None:
        raise ExceptionGroup("several", [ValueError(1), TypeError(2), ExceptionGroup("inner", [ValueError(3)])])

    caught: list[Any] = []
    try:
        ray.get(several.remote())
    except* ValueError as group:
        caught += group.exceptions
    except* TypeError as group:
        caught += group.exceptions
    assert [type(each).__name__ for each in caught] == ["ValueError", "ExceptionGroup", "TypeError"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), GeneratorExit(), StopIteration(3), AssertionError("a")])
def test_exceptions_that_mean_something_to_python_do_not_end_the_worker(machine: Any, error: BaseException) -> None:
    @ray.remote
    def pid_or_raise(raises: bool) -> int:
        if raises:
            raise error
        return os.getpid()

    caught = error_of(pid_or_raise.remote(True))
    assert isinstance(caught, RayTaskError)
    assert type(error).__name__ in str(caught)


def test_an_exception_that_cannot_be_pickled_arrives_as_text(machine: Any) -> None:
    class Locked(Exception):
        def __init__(self) -> None:
            super().__init__("locked away")
            self.lock = threading.Lock()

    @ray.remote
    def fail() -> None:
        raise Locked

    error: Any = error_of(fail.remote())
    assert isinstance(error, RayTaskError)
    assert isinstance(error.cause, UnserializableException)
    assert "Locked" in str(error)
    assert "locked away" in str(error)
    assert "in fail" in str(error)


def test_an_exception_may_carry_a_ref(machine: Any) -> None:
    class WithRef(Exception):
        def __init__(self, ref: Any) -> None:
            super().__init__("see ref")
            self.ref = ref

    @ray.remote
    def fail() -> None:
        raise WithRef(ray.put(b"large" * 100_000))

    error: Any = error_of(fail.remote())
    assert ray.get(error.ref, timeout=10) == b"large" * 100_000


def test_the_ref_in_an_exception_lives_on_in_the_calls_that_failed_with_it(machine: Any) -> None:
    class WithRef(Exception):
        def __init__(self, ref: Any) -> None:
            super().__init__("see ref")
            self.ref = ref

    @ray.remote
    def fail() -> None:
        raise WithRef(ray.put(b"large" * 100_000))

    first = fail.remote()
    second = same.remote(first)
    ray.wait([second])
    del first
    ray.get(same.remote(None))
    error: Any = error_of(second)
    assert ray.get(error.ref, timeout=10) == b"large" * 100_000


# what cannot be pickled


class Model:
    def __init__(self) -> None:
        self.lock = threading.Lock()


def test_an_argument_that_cannot_be_pickled_fails_at_the_call_and_is_named(machine: Any) -> None:
    with pytest.raises(SerializationError) as caught:
        same.remote([1, {"model": Model()}])
    assert caught.value.path == "args[0][1]['model'].lock"
    assert isinstance(caught.value, TypeError)
    with pytest.raises(SerializationError, match=r"kwargs\['value'\]\.lock"):
        same.remote(value=Model())


def test_a_result_that_cannot_be_pickled_is_the_tasks_error_and_is_named(machine: Any) -> None:
    @ray.remote
    def make() -> Any:
        return {"model": Model()}

    error = error_of(make.remote())
    assert isinstance(error, SerializationError)
    assert "value['model'].lock" in str(error)
    refs = make.options(num_returns=1).remote()
    assert isinstance(error_of(refs), TypeError)


def test_a_function_that_cannot_be_pickled_is_named_with_what_it_captured(machine: Any) -> None:
    lock = threading.Lock()

    @ray.remote
    def locked() -> None:
        with lock:
            pass

    with pytest.raises(SerializationError, match=r"locked\.<closure>\.lock"):
        locked.remote()


def test_an_argument_that_cannot_be_unpickled_is_the_tasks_error(machine: Any) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return int, ("no number",)

    assert isinstance(error_of(same.remote(Trap())), ValueError)
    with pytest.raises(ValueError, match="no number"):
        ray.get(ray.put(Trap()))


# the death of a worker


@pytest.mark.parametrize("how", ["os._exit", "SIGKILL", "sys.exit"])
def test_the_death_of_its_worker_is_the_tasks_error_and_nobody_elses(machine: Any, how: str) -> None:
    @ray.remote(max_retries=0)
    def die() -> None:
        if how == "os._exit":
            os._exit(3)
        elif how == "sys.exit":
            sys.exit(3)
        os.kill(os.getpid(), signal.SIGKILL)

    refs = [same.remote(n) for n in range(20)]
    dying = die.remote()
    refs += [same.remote(n) for n in range(20, 40)]
    error = error_of(dying)
    assert isinstance(error, WorkerCrashedError)
    assert ("SIGKILL" if how == "SIGKILL" else "3") in str(error)
    assert ray.get(refs) == list(range(40))


def test_a_task_whose_worker_died_is_tried_again_as_often_as_it_may(machine: Any, tmp_path: pathlib.Path) -> None:
    tries = tmp_path / "tries"

    @ray.remote
    def third_time_lucky() -> int:
        with tries.open("a") as file:
            file.write("x")
        if len(tries.read_text()) < 3:
            os._exit(1)
        return len(tries.read_text())

    assert ray.get(third_time_lucky.options(max_retries=2).remote()) == 3
    tries.unlink()
    assert isinstance(error_of(third_time_lucky.options(max_retries=1).remote()), WorkerCrashedError)
    assert tries.read_text() == "xx"
    tries.unlink()
    assert ray.get(third_time_lucky.options(max_retries=-1).remote()) == 3


def test_a_task_that_always_dies_does_not_take_its_neighbours_along(machine: Any, tmp_path: pathlib.Path) -> None:
    """Quick tasks are sent ahead; those that had finished, or not begun, are not to blame for a crash."""

    @ray.remote
    def quick(crash: bool, marker: str) -> str:
        if crash:
            os._exit(1)
        return marker

    ray.get([quick.remote(False, "") for _ in range(300)])
    refs = [quick.remote(n % 50 == 25, str(n)) for n in range(200)]
    for n, ref in enumerate(refs):
        if n % 50 == 25:
            assert isinstance(error_of(ref), WorkerCrashedError), n
        else:
            assert ray.get(ref) == str(n)


def test_a_task_without_retries_runs_once_whoever_crashes_beside_it(machine: Any, tmp_path: pathlib.Path) -> None:
    @ray.remote(max_retries=0)
    def once(n: int, crash: bool) -> int:
        os.mkdir(tmp_path / str(n))  # fails the second time
        if crash:
            os._exit(1)
        return n

    @ray.remote
    def warm_up() -> None:
        pass

    ray.get([warm_up.remote() for _ in range(100)])
    refs = [once.remote(n, n % 20 == 10) for n in range(100)]
    for n, ref in enumerate(refs):
        if n % 20 == 10:
            assert isinstance(error_of(ref), WorkerCrashedError)
        else:
            assert ray.get(ref) == n


def test_a_dead_worker_gives_its_cpus_back(machine: Any) -> None:
    @ray.remote(num_cpus=2, max_retries=0)
    def die() -> None:
        os._exit(1)

    for _ in range(3):
        error_of(die.remote())
    eventually(lambda: ray.available_resources()["CPU"] == 2)


def test_nested_tasks_see_the_death_of_a_child(machine: Any) -> None:
    @ray.remote(max_retries=0)
    def die() -> None:
        os._exit(1)

    @ray.remote
    def parent() -> str:
        try:
            ray.get(die.remote())
        except WorkerCrashedError:
            return "survived"
        return "nothing happened"

    assert ray.get(parent.remote()) == "survived"


# cancelling


def test_a_queued_task_that_is_cancelled_never_runs(machine: Any, tmp_path: pathlib.Path) -> None:
    go, begun = ([Meeting(tmp_path / f"{name}{n}") for n in range(2)] for name in ("go", "begun"))
    ran = tmp_path / "ran"

    @ray.remote
    def hold(begun: Meeting, go: Meeting) -> None:
        begun.here()
        go.wait()

    @ray.remote
    def mark() -> None:
        ran.touch()

    holding = [hold.remote(*meetings) for meetings in zip(begun, go, strict=True)]
    for meeting in begun:
        meeting.wait()
    queued = [mark.remote() for _ in range(3)]
    waiting = same.remote(queued[0])
    for ref in queued:
        ray.cancel(ref)
        assert isinstance(error_of(ref), TaskCancelledError)
    assert isinstance(error_of(waiting), TaskCancelledError)
    for meeting in go:
        meeting.here()
    ray.get(holding)
    ray.get([same.remote(n) for n in range(10)])
    assert not ran.exists()


def test_a_running_task_that_is_cancelled_gets_an_interrupt(machine: Any, tmp_path: pathlib.Path) -> None:
    begun, cleaned = Meeting(tmp_path / "begun"), Meeting(tmp_path / "cleaned")

    @ray.remote
    def sleep() -> None:
        try:
            begun.here()
            time.sleep(60)
        finally:
            cleaned.here()

    ref = sleep.remote()
    begun.wait()
    ray.cancel(ref)
    cleaned.wait()
    error: Any = error_of(ref)
    assert isinstance(error, TaskCancelledError)
    assert error.task_id == ref.task_id().hex()
    assert ray.get(same.remote(1)) == 1


def test_a_task_that_computes_can_be_cancelled(machine: Any, tmp_path: pathlib.Path) -> None:
    begun = Meeting(tmp_path / "begun")

    @ray.remote
    def spin() -> int:
        begun.here()
        n = 0
        while True:
            n += 1

    ref = spin.remote()
    begun.wait()
    ray.cancel(ref)
    assert isinstance(error_of(ref), TaskCancelledError)


def test_a_task_that_waits_for_others_can_be_cancelled_and_takes_them_along(
    machine: Any, tmp_path: pathlib.Path
) -> None:
    begun, cleaned = Meeting(tmp_path / "begun"), Meeting(tmp_path / "cleaned")

    @ray.remote
    def child() -> None:
        try:
            begun.here()
            time.sleep(60)
        finally:
            cleaned.here()

    @ray.remote
    def parent() -> None:
        ray.get(child.remote())

    ref = parent.remote()
    begun.wait()
    ray.cancel(ref)
    assert isinstance(error_of(ref), TaskCancelledError)
    cleaned.wait()


def test_a_cancelled_task_that_will_not_stop_keeps_its_own_result(machine: Any, tmp_path: pathlib.Path) -> None:
    begun = Meeting(tmp_path / "begun")

    @ray.remote
    def stubborn() -> str:
        try:
            begun.here()
            time.sleep(60)
        except KeyboardInterrupt:
            return "not today"
        return "slept well"

    ref = stubborn.remote()
    begun.wait()
    ray.cancel(ref)
    assert ray.get(ref) == "not today"


def test_cancelling_by_force_ends_the_worker_and_does_not_retry(machine: Any, tmp_path: pathlib.Path) -> None:
    begun, tries = Meeting(tmp_path / "begun"), tmp_path / "tries"

    @ray.remote
    def stubborn() -> None:
        with tries.open("a") as file:
            file.write("x")
        begun.here()
        while True:
            with contextlib.suppress(KeyboardInterrupt):
                time.sleep(60)

    ref = stubborn.remote()
    begun.wait()
    ray.cancel(ref, force=True)
    assert isinstance(error_of(ref), TaskCancelledError)
    assert ray.get([same.remote(n) for n in range(50)]) == list(range(50))
    assert tries.read_text() == "x"


def test_cancelling_what_is_done_does_nothing(machine: Any) -> None:
    ref, put = same.remote(5), ray.put(6)
    assert ray.get(ref) == 5
    for each in (ref, put):
        ray.cancel(each)
        ray.cancel(each, force=True)
    assert ray.get([ref, put]) == [5, 6]


def test_cancelling_many_of_which_some_run_some_wait_and_some_are_done(machine: Any) -> None:
    @ray.remote
    def short(n: int) -> int:
        return n

    refs = [short.remote(n) for n in range(2000)]
    for ref in refs[::2]:
        ray.cancel(ref)
    outcomes = []
    for n, ref in enumerate(refs):
        try:
            assert ray.get(ref, timeout=30) == n
            outcomes.append("done")
        except TaskCancelledError:
            outcomes.append("cancelled")
    assert outcomes[1::2] == ["done"] * 1000
    assert ray.get([short.remote(n) for n in range(100)]) == list(range(100))


def test_a_thread_that_cancels_wakes_the_one_that_waits(machine: Any) -> None:
    ref = same.options(num_cpus=64).remote(1)
    dependent = same.remote(ref)
    threading.Timer(0.05, ray.cancel, args=(ref,)).start()
    assert isinstance(error_of(dependent), TaskCancelledError)
    ref = same.options(num_cpus=64).remote(1)
    timer = threading.Timer(0.05, ray.cancel, args=(ref,))
    timer.start()
    assert ray.wait([ref], timeout=20) == ([ref], [])
    timer.join()


def test_cancel_takes_a_ref(machine: Any) -> None:
    with pytest.raises(TypeError, match="ref"):
        ray.cancel("ref")  # type: ignore[arg-type]


def test_a_get_timeout_leaves_the_cluster_as_it_was(machine: Any, tmp_path: pathlib.Path) -> None:
    @ray.remote
    def give_up(ref: list[Any]) -> str:
        try:
            ray.get(ref[0], timeout=0.01)
        except GetTimeoutError:
            return "gave up"
        return "got it"

    go = Meeting(tmp_path / "go")
    slow = ray.remote(go.wait).remote()
    assert ray.get([give_up.remote([slow]) for _ in range(5)]) == ["gave up"] * 5
    go.here()
    ray.get(slow)
    eventually(lambda: ray.available_resources()["CPU"] == 2)


# before and after


def test_a_pending_get_hears_of_the_shutdown(tmp_path: pathlib.Path) -> None:
    ray.shutdown()
    with started(num_cpus=1):
        begun = Meeting(tmp_path / "begun")

        @ray.remote
        def sleep() -> None:
            begun.here()
            time.sleep(60)

        ref, put, large = sleep.remote(), ray.put("small"), ray.put(b"l" * 300_000)
        begun.wait()
        heard: list[BaseException] = []
        thread = threading.Thread(target=lambda: heard.append(error_of(ref)))
        thread.start()
        ray.shutdown()
        thread.join(10)
        assert isinstance(heard[0], (RaySystemError, WorkerCrashedError))
        assert "shut down" in str(heard[0])
        for late in (error_of(ref), error_of(large)):
            assert "shut down" in str(late)
        assert ray.get(put) == "small"
        assert ray.wait([ref, put], num_returns=2, timeout=0) == ([ref, put], [])
        ray.cancel(ref)
        assert "failed" in ray.explain(ref)


def test_refs_of_a_cluster_that_is_gone_are_refused_by_the_next_one() -> None:
    with started(num_cpus=1):
        refs = [ray.put("small"), ray.put(b"l" * 300_000), same.remote(1)]
        ray.shutdown()
        ray.init(num_cpus=1)
        for ref in refs:
            with pytest.raises(RaySystemError, match="shut down"):
                same.remote(ref)
            with pytest.raises((RaySystemError, SerializationError), match="shut down"):
                same.remote([ref])
            with pytest.raises((RaySystemError, SerializationError), match="shut down"):
                ray.put({"inside": ref})
        assert ray.get(same.remote(1)) == 1
