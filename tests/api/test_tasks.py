"""Tasks, as a program without an event loop uses them."""

from __future__ import annotations

import functools
import operator
import os
import textwrap
import threading
from typing import TYPE_CHECKING, Any, cast

import pytest

import aioray as ray
from aioray.exceptions import GetTimeoutError
from tests.api.support import Meeting, eventually, run_script, started

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="module")
def machine() -> Iterator[Any]:
    """Two CPUs, two GPUs and some resources of our own, for all tests that only run something."""
    with started(num_cpus=2, num_gpus=2, resources={"license": 1, "slot": 2.5}):
        yield ray


@ray.remote
def square(x: int) -> int:
    return x * x


@ray.remote
def add(a: int, b: int = 10, *rest: int, c: int = 100, **more: int) -> int:
    return a + b + sum(rest) + c + sum(more.values())


@ray.remote
def same(value: Any) -> Any:
    return value


@ray.remote
def fail(text: str) -> int:
    raise ValueError(text)


# what is called


def test_a_function_returns_a_ref_and_get_returns_the_value(machine: Any) -> None:
    ref = square.remote(7)
    assert isinstance(ref, ray.ObjectRef)
    assert ray.get(ref) == 49
    assert ray.get(ref) == 49


def test_positional_named_default_and_variadic_arguments_arrive_where_they_belong(machine: Any) -> None:
    calls = [
        (add.remote(1), 111),
        (add.remote(1, 2), 103),
        (add.remote(1, b=3), 104),
        (add.remote(b=3, a=2), 105),
        (add.remote(1, 2, 3, 4, c=5), 15),
        (add.remote(1, d=7, e=8), 126),
    ]
    assert ray.get([ref for ref, _ in calls]) == [expected for _, expected in calls]


@pytest.mark.parametrize(
    ("args", "kwargs", "word"),
    [((), {}, "a"), ((1,), {"a": 2}, "multiple"), ((), {"b": 1}, "a")],
)
def test_arguments_that_do_not_fit_the_signature_fail_at_the_call(
    machine: Any, args: tuple[int, ...], kwargs: dict[str, int], word: str
) -> None:
    with pytest.raises(TypeError, match=word):
        add.remote(*args, **kwargs)


def test_too_many_arguments_fail_at_the_call(machine: Any) -> None:
    with pytest.raises(TypeError, match="too many"):
        square.remote(1, 2)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="unexpected"):
        square.remote(1, y=2)  # type: ignore[call-overload]


def test_lambdas_closures_partials_methods_builtins_and_callable_objects_are_functions_too(machine: Any) -> None:
    offset = 40

    def plus_offset(x: int) -> int:
        return x + offset

    class Scale:
        def __init__(self, factor: int) -> None:
            self.factor = factor

        def __call__(self, x: int) -> int:
            return self.factor * x

        def shifted(self, x: int) -> int:
            return self.factor + x

    functions: list[tuple[Any, Any]] = [
        (lambda x: x + 1, 3),
        (plus_offset, 42),
        (functools.partial(plus_offset), 42),
        (functools.partial(operator.add, 5), 7),
        (abs, 2),
        (Scale(4), 8),
        (Scale(4).shifted, 6),
    ]
    refs = [ray.remote(fn).remote(2) for fn, _ in functions]
    assert ray.get(refs) == [expected for _, expected in functions]


def test_objects_that_cannot_be_hashed_or_weakly_referenced_are_functions_too(machine: Any) -> None:
    class Slim:
        __slots__ = ("by",)
        __hash__ = None  # type: ignore[assignment]

        def __init__(self, by: int) -> None:
            self.by = by

        def __call__(self, x: int) -> int:
            return x + self.by

    shift = ray.remote(Slim(3))
    assert ray.get([shift.remote(1), shift.remote(2)]) == [4, 5]


def test_a_function_made_in_a_function_sees_each_of_its_closures(machine: Any) -> None:
    def adder(n: int) -> Callable[[int], int]:
        return lambda x: x + n

    assert ray.get([ray.remote(adder(n)).remote(1) for n in range(20)]) == list(range(1, 21))


def test_a_closure_over_a_ref_gets_its_value_inside(machine: Any) -> None:
    hidden = ray.put({"answer": 42})
    pending = square.remote(3)

    @ray.remote
    def look() -> int:
        return int(ray.get(hidden)["answer"]) + ray.get(pending)

    assert ray.get(look.remote()) == 51


def test_a_closure_keeps_its_ref_alive_when_nobody_else_does(machine: Any) -> None:
    def make() -> Any:
        hidden = ray.put(b"x" * 300_000)
        return ray.remote(lambda: len(ray.get(hidden)))

    look = make()
    assert ray.get(look.remote()) == 300_000
    assert ray.get(look.remote()) == 300_000


def test_a_remote_function_is_not_called_directly(machine: Any) -> None:
    with pytest.raises(TypeError, match=r"square\.remote\(\.\.\.\)"):
        square(3)


def test_a_remote_function_keeps_name_and_docstring_of_what_it_wraps() -> None:
    @ray.remote
    def documented() -> None:
        """Says what it does."""

    assert vars(documented)["__name__"] == "documented"
    assert documented.__doc__ == "Says what it does."
    assert "documented" in repr(documented)


def test_an_async_function_is_a_task_too(machine: Any) -> None:
    @ray.remote
    async def twice(x: int) -> int:
        return 2 * await square.remote(x)

    assert ray.get([twice.remote(x) for x in range(5)]) == [0, 2, 8, 18, 32]


# how many values come back


def test_num_returns_gives_a_ref_for_each_value_and_none_for_none(machine: Any) -> None:
    @ray.remote(num_returns=3)
    def three() -> tuple[int, str, list[int]]:
        return 1, "two", [3]

    @ray.remote(num_returns=0)
    def nothing() -> str:
        return "thrown away"

    refs = three.remote()
    assert isinstance(refs, list)
    assert ray.get(refs) == [1, "two", [3]]
    assert ray.get(refs[1]) == "two"
    assert nothing.remote() is None
    assert ray.get(three.options(num_returns=1).remote()) == (1, "two", [3])


def test_a_function_without_returns_runs_all_the_same(machine: Any, tmp_path: pathlib.Path) -> None:
    ran = Meeting(tmp_path / "ran")
    assert ray.remote(ran.here).options(num_returns=0).remote() is None
    ran.wait()


@pytest.mark.parametrize("result", [(1, 2, 3), (), 7])
def test_another_count_of_values_than_announced_is_the_tasks_error(machine: Any, result: Any) -> None:
    refs = same.options(num_returns=2).remote(result)
    for ref in refs:
        with pytest.raises((TypeError, ValueError), match="num_returns=2"):
            ray.get(ref)


def test_an_error_of_a_function_with_several_returns_reaches_every_ref(machine: Any) -> None:
    for ref in fail.options(num_returns=3).remote("all of them"):
        with pytest.raises(ValueError, match="all of them"):
            ray.get(ref)


# arguments that are refs


def test_a_ref_given_directly_arrives_as_its_value_by_position_and_by_name(machine: Any) -> None:
    nine, five = cast("int", square.remote(3)), cast("int", ray.put(5))  # checkers do not take refs by name
    assert ray.get(add.remote(ray.put(1), b=nine, c=five)) == 15


def test_refs_inside_containers_arrive_as_refs(machine: Any) -> None:
    @ray.remote
    def inspect(tree: Any) -> list[Any]:
        refs = [tree["list"][0], tree["dict"]["key"], tree["tuple"][1][0]]
        assert all(isinstance(ref, ray.ObjectRef) for ref in refs)
        return ray.get(refs)

    tree = {"list": [ray.put(1)], "dict": {"key": square.remote(4)}, "tuple": (None, [ray.put("x" * 200_000)])}
    assert ray.get(inspect.remote(tree)) == [1, 16, "x" * 200_000]


def test_a_chain_of_pending_refs_runs_in_order(machine: Any) -> None:
    ref = ray.put(0)
    for _ in range(50):
        ref = add.remote(ref, 1, c=0)
    assert ray.get(ref) == 50


def test_a_task_waits_for_a_pending_argument_without_holding_a_cpu(machine: Any, tmp_path: pathlib.Path) -> None:
    go = Meeting(tmp_path / "go")

    @ray.remote
    def held() -> int:
        go.wait()
        return 5

    pending = held.remote()
    waiting = [square.remote(pending) for _ in range(10)]
    # One CPU is taken by `held`; the squares must leave the other one to these.
    assert ray.get([square.remote(x) for x in range(3)]) == [0, 1, 4]
    assert ray.wait(waiting, timeout=0) == ([], waiting)
    assert "argument" in ray.explain(waiting[0])
    go.here()
    assert ray.get(waiting) == [25] * 10


def test_a_failed_argument_fails_the_call_with_its_error_and_without_running_it(machine: Any) -> None:
    bad = fail.remote("root of it")
    for ref in [square.remote(bad), add.remote(1, bad), square.remote(square.remote(bad))]:
        with pytest.raises(ValueError, match="root of it"):
            ray.get(ref)


def test_a_failed_ref_inside_a_container_fails_only_where_it_is_looked_at(machine: Any) -> None:
    @ray.remote
    def careful(refs: list[Any]) -> str:
        try:
            ray.get(refs[0])
        except ValueError:
            return "caught"
        return "nothing to catch"

    bad = fail.remote("inside")
    assert ray.get(careful.remote([bad])) == "caught"


def test_the_same_ref_may_be_given_twice_to_one_call(machine: Any) -> None:
    ref = square.remote(3)
    assert ray.get(add.remote(ref, ref, c=0)) == 18


# nesting


@ray.remote
def depth(n: int) -> int:
    return 0 if n == 0 else 1 + ray.get(depth.remote(n - 1))


@ray.remote
def tree_sum(low: int, high: int) -> int:
    if high - low == 1:
        return low
    middle = (low + high) // 2
    return sum(ray.get([tree_sum.remote(low, middle), tree_sum.remote(middle, high)]))


@ray.remote
def fan_out(n: int) -> int:
    return sum(ray.get([square.remote(x) for x in range(n)]))


def test_nested_tasks_wait_with_wait_as_well(machine: Any) -> None:
    @ray.remote
    def first_of(n: int) -> int:
        done, others = ray.wait([square.remote(x) for x in range(n)], num_returns=n - 1)
        return len(done) * 100 + len(others)

    assert ray.get([first_of.remote(5) for _ in range(4)]) == [401] * 4


def test_a_task_may_return_the_ref_of_a_task_that_it_started(machine: Any) -> None:
    @ray.remote
    def start() -> Any:
        return [square.remote(6), ray.put("y" * 150_000)]

    inner = ray.get(start.remote())
    assert ray.get(inner) == [36, "y" * 150_000]


def test_a_task_may_end_before_the_tasks_that_it_started(machine: Any, tmp_path: pathlib.Path) -> None:
    go, ran = Meeting(tmp_path / "go"), Meeting(tmp_path / "ran")

    @ray.remote
    def child() -> None:
        go.wait()
        ran.here()

    @ray.remote
    def parent() -> str:
        child.remote()
        return "gone ahead"

    assert ray.get(parent.remote()) == "gone ahead"
    go.here()
    ran.wait()


# resources


def test_fractions_of_every_resource_are_taken_and_come_back(machine: Any) -> None:
    eventually(lambda: ray.available_resources()["CPU"] == 2)  # workers just used are kept for a moment
    before = ray.available_resources()

    @ray.remote(num_cpus=0.25, num_gpus=0.1, memory=1024, object_store_memory=4096, resources={"slot": 0.0001})
    def taken() -> dict[str, float]:
        return ray.available_resources()

    during = ray.get(taken.remote())
    assert during["CPU"] == pytest.approx(before["CPU"] - 0.25)
    assert during["GPU"] == pytest.approx(before["GPU"] - 0.1)
    assert during["slot"] == pytest.approx(before["slot"] - 0.0001)
    assert before["memory"] - during["memory"] == 1024
    assert ray.cluster_resources()["object_store_memory"] - during["object_store_memory"] >= 4096

    too_much = taken.options(object_store_memory=1 << 49).remote()
    assert "object_store_memory" in ray.explain(too_much)


def test_a_task_that_asks_for_no_cpu_runs_while_all_are_taken(machine: Any, tmp_path: pathlib.Path) -> None:
    go = Meeting(tmp_path / "go")
    started_ = Meeting(tmp_path / "started")

    @ray.remote(num_cpus=2)
    def hog() -> None:
        started_.here()
        go.wait()

    held = hog.remote()
    started_.wait()
    assert ray.get(square.options(num_cpus=0).remote(9)) == 81
    queued = square.remote(2)
    with pytest.raises(GetTimeoutError):
        ray.get(queued, timeout=0.05)
    assert "waits" in ray.explain(queued)
    go.here()
    assert ray.get([held, queued]) == [None, 4]


def test_a_custom_resource_of_one_lets_one_task_at_a_time_pass(machine: Any, tmp_path: pathlib.Path) -> None:
    marker = tmp_path / "inside"

    @ray.remote(num_cpus=0, resources={"license": 1})
    def alone() -> bool:
        marker.mkdir()  # fails if somebody else is in here
        marker.rmdir()
        return True

    assert ray.get([alone.remote() for _ in range(100)]) == [True] * 100


def test_what_no_node_has_is_said_at_once_and_can_be_asked_about(
    machine: Any, caplog: pytest.LogCaptureFixture
) -> None:
    @ray.remote(num_cpus=64)
    def greedy(n: int) -> int:
        return n

    refs = [greedy.remote(n) for n in range(5)]
    ready, waiting = ray.wait(refs, timeout=0.2)
    assert (ready, waiting) == ([], refs)
    warnings = [record.getMessage() for record in caplog.records if record.name == "aioray"]
    assert len(warnings) == 1, "one request, five calls: one warning"
    assert "greedy" in warnings[0]
    assert "64 CPU" in warnings[0]
    assert "2 CPU" in warnings[0]
    for ref in refs:
        assert "64 CPU" in ray.explain(ref)
        ray.cancel(ref)
    for name in ("slot", "no-such-thing"):
        ref = square.options(resources={name: 3}).remote(1)
        ray.wait([ref], timeout=0.05)
        assert name in ray.explain(ref)
        ray.cancel(ref)


# many, and from many threads


def test_thousands_of_tasks_come_back_in_order(machine: Any) -> None:
    assert ray.get([square.remote(x) for x in range(5000)]) == [x * x for x in range(5000)]


def test_threads_submit_and_get_at_the_same_time(machine: Any) -> None:
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            refs = [square.remote(seed + x) for x in range(500)]
            for at in (0, 499, 250):
                assert ray.get(refs[at]) == (seed + at) ** 2
            done, _ = ray.wait(refs, num_returns=500, timeout=30)
            assert len(done) == 500
            assert ray.get(refs) == [(seed + x) ** 2 for x in range(500)]
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=work, args=(1000 * n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_threads_inside_a_task_submit_and_get_as_well(machine: Any) -> None:
    @ray.remote
    def threaded() -> list[int]:
        results = [0] * 4

        def one(at: int) -> None:
            results[at] = ray.get(square.remote(at))

        threads = [threading.Thread(target=one, args=(at,)) for at in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results

    assert ray.get([threaded.remote() for _ in range(4)]) == [[0, 1, 4, 9]] * 4


def test_long_tasks_do_not_queue_behind_each_other_while_a_worker_is_free(machine: Any, tmp_path: pathlib.Path) -> None:
    """Two that wait for each other can only end when they run at the same time."""
    ray.get([square.remote(x) for x in range(100)])  # the pipeline knows `square` as quick
    here, there = Meeting(tmp_path / "here"), Meeting(tmp_path / "there")

    @ray.remote
    def meet(first: bool) -> bool:
        (here.here if first else here.wait)()
        (there.wait if first else there.here)()
        return first

    for _ in range(10):
        assert ray.get([meet.remote(True), meet.remote(False)]) == [True, False]


def test_a_task_that_was_always_quick_may_wait_for_one_queued_behind_it(machine: Any, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "meeting"

    @ray.remote
    def quick(meeting: Meeting | None, first: bool) -> bool:
        if meeting is not None:
            (meeting.here if first else meeting.wait)()
        return first

    ray.get([quick.remote(None, True) for _ in range(200)])
    meeting = Meeting(path)
    refs = [quick.remote(meeting, True)] + [quick.remote(None, True) for _ in range(50)]
    refs.append(quick.remote(meeting, False))
    assert ray.get(refs) == [True] * 51 + [False]


# a single CPU: below here `machine` is not used any more


@pytest.fixture
def single(request: pytest.FixtureRequest) -> Iterator[Any]:
    ray.shutdown()
    with started(num_cpus=1):
        yield ray


def test_nested_tasks_of_any_depth_run_on_a_single_cpu(single: Any) -> None:
    assert ray.get(depth.remote(12)) == 12
    assert ray.get(tree_sum.remote(0, 16)) == 120
    assert ray.get([fan_out.remote(n) for n in range(0, 60, 10)]) == [
        sum(x * x for x in range(n)) for n in range(0, 60, 10)
    ]
    assert ray.get(square.remote(2)) == 4


# programs


def test_functions_and_classes_of_main_work_in_a_program(tmp_path: pathlib.Path) -> None:
    done = run_script(
        tmp_path,
        textwrap.dedent("""
            import dataclasses
            import aioray as ray

            FACTOR = 3

            @dataclasses.dataclass
            class Point:
                x: int

                def scaled(self):
                    return Point(self.x * FACTOR)

            class Refused(Exception):
                def __init__(self, code):
                    super().__init__(f"refused with {code}")
                    self.code = code

            def helper(point):
                return point.scaled()

            @ray.remote
            def scale(point):
                return helper(point)

            @ray.remote
            def refuse():
                raise Refused(7)

            @ray.remote
            def countdown(n):
                return [n] + (ray.get(countdown.remote(n - 1)) if n else [])

            @ray.remote
            class Adder:
                def __init__(self, start):
                    self.total = start

                def add(self, point):
                    self.total = Point(self.total.x + point.x)
                    return self.total

            if __name__ == "__main__":
                with ray.init(num_cpus=2):
                    print(ray.get(scale.remote(Point(2))) == Point(6))
                    print(ray.get(countdown.remote(3)))
                    adder = Adder.remote(Point(1))
                    adder.add.remote(Point(2))
                    print(ray.get(adder.add.remote(Point(3))))
                    try:
                        ray.get(refuse.remote())
                    except Refused as exc:
                        print(exc.code)
        """),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["True", "[3, 2, 1, 0]", "Point(x=6)", "7"]


def test_a_program_that_forgets_shutdown_or_raises_still_ends_everything(tmp_path: pathlib.Path) -> None:
    program = textwrap.dedent("""
        import aioray as ray
        context = ray.init(num_cpus=1)
        print(context.address_info["session_dir"])
        print(ray.get(ray.remote(lambda: 1).remote()))
        {}
    """)
    for last_line, status in [("", 0), ("raise SystemExit(3)", 3), ("1 / 0", 1)]:
        done = run_script(tmp_path, program.format(last_line))
        assert done.returncode == status, done.stderr
        session_dir, result = done.stdout.splitlines()
        assert result == "1"
        assert not os.path.exists(session_dir)
