"""Calls with a deadline: cancelled in time in every state, and with them what they called."""

from __future__ import annotations

import asyncio
import datetime
import logging
import time
from typing import TYPE_CHECKING, Any

import pytest

import aioray
from aioray.exceptions import InvalidOptionError, TaskCancelledError, TaskTimeoutError
from tests.api.support import eventually

if TYPE_CHECKING:
    import pathlib

PATIENCE_S = 10.0


def sleep(duration_s: float) -> str:
    time.sleep(duration_s)
    return "slept"


def sleep_until(end: pathlib.Path) -> str:
    while not end.exists():
        time.sleep(0.005)
    return "slept"


def time_left() -> float | None:
    deadline = aioray.get_runtime_context().get_deadline()
    return None if deadline is None else deadline - time.time()


async def time_left_async() -> float | None:
    return time_left()


def nested_time_left(**options: Any) -> tuple[float | None, float | None]:
    return time_left(), aioray.get(aioray.remote(time_left).options(**options).remote())


class Actor:
    def sleep(self, duration_s: float) -> str:
        return sleep(duration_s)

    def time_left(self) -> float | None:
        return time_left()

    @aioray.method(timeout=0.05)
    def marked(self, duration_s: float) -> str:
        return sleep(duration_s)


class AsyncActor:
    async def sleep(self, duration_s: float) -> str:
        await asyncio.sleep(duration_s)
        return "slept"

    async def time_left(self) -> float | None:
        return time_left()


def times_out(ray: Any, ref: Any, within_s: float = 5.0) -> TaskTimeoutError:
    started = time.monotonic()
    with pytest.raises(TaskTimeoutError) as caught:
        ray.get(ref, timeout=PATIENCE_S)
    assert time.monotonic() - started < within_s
    assert isinstance(caught.value, TimeoutError)
    assert isinstance(caught.value, TaskCancelledError)
    return caught.value


def test_a_running_call_is_stopped_when_its_time_is_up(ray: Any) -> None:
    error = times_out(ray, ray.remote(sleep).options(timeout=0.05).remote(60))
    assert error.name == "sleep"
    assert "time was up" in str(error)
    for cls in (Actor, AsyncActor):
        actor = ray.remote(cls).remote()
        assert times_out(ray, actor.sleep.options(timeout=0.05).remote(60)).name == f"{cls.__name__}.sleep"
        assert ray.get(actor.sleep.remote(0), timeout=PATIENCE_S) == "slept"
    assert ray.get(ray.remote(sleep).remote(0), timeout=PATIENCE_S) == "slept"


def test_a_method_may_say_so_itself(ray: Any) -> None:
    actor = ray.remote(Actor).remote()
    times_out(ray, actor.marked.remote(60))
    assert ray.get(actor.marked.options(timeout=None).remote(0.1), timeout=PATIENCE_S) == "slept"


def test_what_waits_for_a_worker_or_for_arguments_hears_in_time(one_cpu: Any, tmp_path: pathlib.Path) -> None:
    ray = one_cpu
    first = ray.remote(sleep_until).remote(tmp_path / "end")
    second = ray.remote(sleep).options(timeout=0.05).remote(0)
    third = ray.remote(lambda _: 1).options(timeout=0.05).remote(first)
    nowhere = ray.remote(sleep).options(timeout=0.05, resources={"nobody has it": 1}).remote(0)
    for ref in (second, third, nowhere):
        times_out(ray, ref)
    assert not first.done()
    (tmp_path / "end").touch()
    assert ray.get(first, timeout=PATIENCE_S) == "slept"


def test_a_call_that_is_in_time_returns(ray: Any) -> None:
    refs = [ray.remote(sleep).options(timeout=PATIENCE_S).remote(0) for _ in range(200)]
    assert ray.get(refs, timeout=PATIENCE_S) == ["slept"] * 200


def test_what_depends_on_a_call_that_timed_out_fails_with_it(ray: Any) -> None:
    ref = ray.remote(sleep).options(timeout=0.05).remote(60)
    times_out(ray, ray.remote(lambda x: x).remote(ref))


def test_who_waits_hears_in_time_even_of_code_that_cannot_be_stopped(ray: Any, tmp_path: pathlib.Path) -> None:
    class Threaded:
        def sleep_until(self, end: pathlib.Path) -> None:
            sleep_until(end)

    actor = ray.remote(Threaded).options(max_concurrency=2).remote()
    times_out(ray, actor.sleep_until.options(timeout=0.05).remote(tmp_path / "end"))
    (tmp_path / "end").touch()


@pytest.mark.parametrize("kind", ["timestamp", "datetime"])
def test_a_deadline_is_a_moment(ray: Any, kind: str) -> None:
    now = datetime.datetime.now(datetime.UTC)
    soon = now + datetime.timedelta(seconds=30)
    deadline = soon if kind == "datetime" else soon.timestamp()
    left = ray.get(ray.remote(time_left).options(deadline=deadline).remote(), timeout=PATIENCE_S)
    assert 20 < left <= 30
    left = ray.get(ray.remote(time_left).options(deadline=deadline, timeout=9).remote(), timeout=PATIENCE_S)
    assert left <= 9


def test_a_deadline_that_has_passed_fails_the_call_at_once(ray: Any, tmp_path: pathlib.Path) -> None:
    ref = ray.remote(tmp_path.rmdir).options(deadline=time.time() - 1).remote()
    assert ref.done()
    times_out(ray, ref)
    assert tmp_path.exists()


def test_nested_calls_inherit_the_smaller_of_both(ray: Any) -> None:
    nested = ray.remote(nested_time_left)
    assert ray.get(nested.remote(), timeout=PATIENCE_S) == (None, None)
    outer, inner = ray.get(nested.options(timeout=20).remote(), timeout=PATIENCE_S)
    assert inner <= outer <= 20
    outer, inner = ray.get(nested.options(timeout=20).remote(timeout=5), timeout=PATIENCE_S)
    assert inner <= 5 < outer
    outer, inner = ray.get(nested.options(timeout=20).remote(timeout=50), timeout=PATIENCE_S)
    assert inner <= outer <= 20


def test_calls_of_actors_inherit_it_too_and_know_it(ray: Any) -> None:
    def ask(actor: Any) -> Any:
        return aioray.get(actor.time_left.remote())

    for cls, options in (
        (Actor, {}),
        (Actor, {"max_concurrency": 2}),
        (AsyncActor, {}),
        (AsyncActor, {"isolation": "shared"}),
    ):
        actor = ray.remote(cls).options(**options).remote()
        assert ray.get(actor.time_left.remote(), timeout=PATIENCE_S) is None
        assert 0 < ray.get(actor.time_left.options(timeout=20).remote(), timeout=PATIENCE_S) <= 20
        assert 0 < ray.get(ray.remote(ask).options(timeout=20).remote(actor), timeout=PATIENCE_S) <= 20
    assert 0 < ray.get(ray.remote(time_left_async).options(timeout=20).remote(), timeout=PATIENCE_S) <= 20


def test_what_a_call_began_ends_with_its_time(ray: Any, tmp_path: pathlib.Path) -> None:
    """The outer one swallows its interrupt; the inner one has the same deadline, and its error comes through."""

    def outer(begun: pathlib.Path, path: pathlib.Path) -> None:
        try:
            ref = aioray.remote(sleep).remote(60)
            begun.touch()
            aioray.get(ref)
        except (KeyboardInterrupt, TaskTimeoutError):
            try:
                aioray.get(ref, timeout=PATIENCE_S)
            except TaskCancelledError:
                path.write_text(aioray.get(aioray.remote(sleep).remote(0)))  # cleaning up is free

    ray.get(ray.remote(sleep).remote(0), timeout=PATIENCE_S)  # there is a worker now
    begun, end = tmp_path / "begun", tmp_path / "end"
    times_out(ray, ray.remote(outer).options(timeout=0.5).remote(begun, end))
    if begun.exists():  # else the machine was too busy
        eventually(lambda: end.exists() and end.read_text() == "slept")


def test_a_call_without_results_is_stopped_too(ray: Any, tmp_path: pathlib.Path) -> None:
    def run(begun: pathlib.Path, path: pathlib.Path) -> None:
        try:
            begun.touch()
            time.sleep(60)
        finally:
            path.touch()

    ray.get(ray.remote(sleep).remote(0), timeout=PATIENCE_S)  # there is a worker now
    begun, ended = tmp_path / "begun", tmp_path / "ended"
    ray.remote(run).options(num_returns=0, timeout=0.5).remote(begun, ended)
    ray.get(ray.remote(sleep).remote(0.6), timeout=PATIENCE_S)
    if begun.exists():  # else the machine was too busy
        eventually(ended.exists)


def test_a_timeout_that_nobody_looks_at_is_told_once(ray: Any, caplog: pytest.LogCaptureFixture) -> None:
    def outer() -> None:
        aioray.get(aioray.remote(sleep).remote(60))

    with caplog.at_level(logging.ERROR, "aioray"):
        ref = ray.remote(outer).options(timeout=0.1).remote()
        ray.wait([ref], timeout=PATIENCE_S)
        del ref
        told = "nobody looked at the error of outer: TaskTimeoutError"
        eventually(lambda: any(told in message for message in caplog.messages))
    assert sum("outer" in message for message in caplog.messages) == 1


async def test_an_await_raises_it_and_is_not_cancelled(cluster: aioray.Cluster) -> None:
    fn: Any = aioray.remote(timeout=0.05)(sleep)
    ref = fn.remote(60)
    with pytest.raises(TaskTimeoutError):
        await ref
    assert not ref.cancelled()
    with pytest.raises(TimeoutError):
        await asyncio.gather(*(fn.remote(60) for _ in range(10)))


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("timeout", 0, "not above 0"),
        ("timeout", -1, "negative"),
        ("timeout", "1", "not a number"),
        ("timeout", float("inf"), "not finite"),
        ("deadline", datetime.datetime(2030, 1, 1), "without a time zone"),  # that is what it is about
        ("deadline", "tomorrow", "not a number"),
    ],
)
def test_a_time_that_makes_no_sense_is_refused(name: str, value: Any, reason: str) -> None:
    with pytest.raises(InvalidOptionError, match=reason):
        aioray.remote(**{name: value})(sleep)
    with pytest.raises(InvalidOptionError, match=reason):
        aioray.method(**{name: value})
    with pytest.raises(InvalidOptionError, match="only tasks and methods do"):
        aioray.remote(**{name: value})(Actor)
