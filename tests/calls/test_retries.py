"""Trying again: after errors that the options name, and after deaths; and workers that go after so many calls."""

from __future__ import annotations

import gc
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

import aioray
from aioray import current
from aioray.exceptions import TaskCancelledError, WorkerCrashedError
from aioray.wire.control import Release
from tests.api.support import eventually, run_script, store, store_returns_to

if TYPE_CHECKING:
    import pathlib


class Flaky(Exception):
    pass


class Flakier(Flaky):
    pass


def fail_until(path: pathlib.Path, count: int, error: type[Exception] = Flaky) -> int:
    """Raise until it was called `count` times; which call it was."""
    with open(path, "a") as log:
        log.write("x")
    calls = path.stat().st_size
    if calls < count:
        raise error(f"call {calls}")
    return calls


def crash_until(path: pathlib.Path, count: int) -> int:
    with open(path, "a") as log:
        log.write("x")
    calls = path.stat().st_size
    if calls < count:
        os.kill(os.getpid(), signal.SIGKILL)
    return calls


def test_an_error_is_not_retried_by_default(ray: Any, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "calls"
    with pytest.raises(Flaky):
        ray.get(ray.remote(fail_until).remote(path, 2))
    assert path.stat().st_size == 1


@pytest.mark.parametrize("retry", [True, [Flaky], [ValueError, Flaky], (Flaky,)])
def test_an_error_that_the_options_name_is_retried(ray: Any, tmp_path: pathlib.Path, retry: Any) -> None:
    fn = ray.remote(fail_until).options(retry_exceptions=retry)
    assert ray.get(fn.remote(tmp_path / "calls", 3, Flakier), timeout=10) == 3


def test_other_errors_are_not_retried(ray: Any, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "calls"
    with pytest.raises(Flaky):
        ray.get(ray.remote(fail_until).options(retry_exceptions=[OSError]).remote(path, 2), timeout=10)
    assert path.stat().st_size == 1


def test_retries_count_against_max_retries_and_the_last_error_is_raised(ray: Any, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "calls"
    fn = ray.remote(fail_until).options(retry_exceptions=True, max_retries=2)
    with pytest.raises(Flaky, match="call 3"):
        ray.get(fn.remote(path, 10), timeout=10)
    assert path.stat().st_size == 3
    with pytest.raises(Flaky, match="call 4"):
        ray.get(fn.options(max_retries=0).remote(path, 10), timeout=10)


def test_max_retries_minus_one_tries_without_end(ray: Any, tmp_path: pathlib.Path) -> None:
    fn = ray.remote(fail_until).options(retry_exceptions=True, max_retries=-1)
    assert ray.get(fn.remote(tmp_path / "errors", 30), timeout=20) == 30
    assert ray.get(ray.remote(crash_until).options(max_retries=-1).remote(tmp_path / "crashes", 7), timeout=20) == 7


def test_crashes_and_errors_share_one_count(ray: Any, tmp_path: pathlib.Path) -> None:
    def fail_then_crash(path: pathlib.Path) -> None:
        with open(path, "a") as log:
            log.write("x")
        if path.stat().st_size % 2:
            raise Flaky
        os.kill(os.getpid(), signal.SIGKILL)

    path = tmp_path / "calls"
    with pytest.raises(WorkerCrashedError, match="retried 3 times"):
        ray.get(ray.remote(fail_then_crash).options(retry_exceptions=True).remote(path), timeout=20)
    assert path.stat().st_size == 4


def test_a_task_that_is_tried_without_end_can_be_cancelled(ray: Any, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "calls"
    ref = ray.remote(fail_until).options(retry_exceptions=True, max_retries=-1).remote(path, 1_000_000)
    eventually(lambda: path.exists() and path.stat().st_size > 5)
    ray.cancel(ref)
    with pytest.raises((TaskCancelledError, Flaky)):  # the second: it was through right then
        ray.get(ref, timeout=10)
    count = path.stat().st_size
    assert ray.get(ray.remote(lambda: 1).remote(), timeout=10) == 1
    assert path.stat().st_size <= count + 1


class Failing:
    def __init__(self) -> None:
        self.calls = 0

    def fail_first(self, result: str) -> Any:
        """Errors and results with refs inside, to what is large."""
        self.calls += 1
        inner = aioray.put(bytes(1 << 20))
        if self.calls < 4:
            raise Flaky(inner)
        return [inner] if result == "refs" else self.calls


def fail_first(path: pathlib.Path, result: str) -> Any:
    failing = Failing()
    failing.calls = path.stat().st_size if path.exists() else 0
    with open(path, "a") as log:
        log.write("x")
    return failing.fail_first(result)


@pytest.mark.parametrize("kind", ["task", "actor"])
def test_an_error_with_refs_inside_lets_go_of_them_when_it_is_retried(
    ray: Any, tmp_path: pathlib.Path, kind: str
) -> None:
    before = store()
    if kind == "task":
        ref = ray.remote(fail_first).options(retry_exceptions=True).remote(tmp_path / "calls", "plain")
    else:
        actor = ray.remote(Failing).options(max_task_retries=3).remote()
        ref = actor.fail_first.options(retry_exceptions=True).remote("plain")
        before["known_objects"] += 1
    assert ray.get(ref, timeout=10) == 4
    store_returns_to(before)


@pytest.mark.parametrize("kind", ["task", "actor"])
def test_what_is_said_of_a_retried_error_takes_nothing_from_the_result(
    one_cpu: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The node hears of it from this process over one connection, and of the result from the worker over another."""
    ray = one_cpu
    link: Any = current.get().link
    send, late = link.send, []

    def send_late(message: Any) -> None:
        if isinstance(message, Release) and len(message.holder) == 16:
            late.append(message)
        else:
            send(message)

    monkeypatch.setattr(link, "send", send_late)
    if kind == "task":
        ref = ray.remote(fail_first).options(retry_exceptions=True).remote(tmp_path / "calls", "refs")
    else:
        actor = ray.remote(Failing).options(max_task_retries=3).remote()
        ref = actor.fail_first.options(retry_exceptions=True).remote("refs")
    ray.wait([ref], timeout=10)
    for _ in range(3):  # its maker has let go of what it made
        ray.get(
            ray.remote(gc.collect).remote() if kind == "task" else actor.__ray_call__.remote(lambda _: gc.collect())
        )
    for message in late:
        send(message)
    store()  # it has heard
    (inner,) = ray.get(ref, timeout=10)
    assert len(ray.get(inner, timeout=10)) == 1 << 20


def test_exceptions_of_the_main_program_are_named_and_retried(tmp_path: pathlib.Path) -> None:
    result = run_script(
        tmp_path,
        """
import aioray, pathlib, sys

class Mine(Exception): pass
class Other(Exception): pass

@aioray.remote(retry_exceptions=[Mine], max_retries=5)
def f(path, error):
    with open(path, "a") as log:
        log.write("x")
    calls = pathlib.Path(path).stat().st_size
    if calls < 3:
        raise error(calls)
    return calls

with aioray.init(num_cpus=1):
    print(aioray.get(f.remote("a", Mine)))
    try:
        aioray.get(f.remote("b", Other))
    except Other as exc:
        print("Other", exc.cause.args)
""",
    )
    assert result.stdout.split("\n")[:2] == ["3", "Other (1,)"], result


# max_calls


def test_a_worker_goes_after_max_calls(ray: Any) -> None:
    fn = ray.remote(max_calls=2)(os.getpid)
    pids = [ray.get(fn.remote(), timeout=10) for _ in range(8)]
    assert all(pids.count(pid) <= 2 for pid in pids)


def test_no_result_is_lost_with_the_worker(ray: Any) -> None:
    """Many in flight, small and large, with refs inside, and others between that do not wear workers out."""
    worn = ray.remote(max_calls=1)(lambda x: (x, os.getpid()))
    large = ray.remote(max_calls=3, max_retries=0)(lambda x: bytes(300_000) + bytes([x]))
    plain = ray.remote(max_retries=0)(lambda x: x)
    inner = ray.remote(max_calls=1)(lambda x: [aioray.put(bytes(200_000) + bytes([x]))])
    refs = [fn.remote(x) for x in range(20) for fn in (worn, plain, large, inner)]
    results = ray.get(refs, timeout=30)
    assert [each[0] for each in results[::4]] == list(range(20))
    assert len({each[1] for each in results[::4]}) == 20
    assert results[1::4] == list(range(20))
    assert [each[-1] for each in results[2::4]] == list(range(20))
    assert [each[-1] for each in ray.get([each[0] for each in results[3::4]], timeout=10)] == list(range(20))


async def test_coroutines_wear_workers_out_too(cluster: aioray.Cluster) -> None:
    @aioray.remote(max_calls=1)
    async def pid() -> int:
        return os.getpid()

    pids = [await pid.remote() for _ in range(4)]
    assert len(set(pids)) == 4


def test_a_call_that_fails_counts(ray: Any) -> None:
    def fail() -> None:
        raise Flaky(os.getpid())

    pids = []
    for _ in range(3):
        with pytest.raises(Flaky) as caught:
            ray.get(ray.remote(max_calls=1)(fail).remote(), timeout=10)
        pids.append(caught.value.pid)  # type: ignore[attr-defined]
    assert len(set(pids)) == 3
