"""Executor is a concurrent.futures.Executor."""

from __future__ import annotations

import concurrent.futures
import os
import threading
from typing import Any

import pytest

from aioray.exceptions import InvalidOptionError, SerializationError
from aioray.util import Executor
from tests.util.classes import (
    Gate,
    executor_in_a_task,
    interrupted_at_the_gate,
    own_pid,
    pass_the_gate,
    power,
    square,
)

PATIENCE_S = 10.0


def test_calls_run_in_other_processes(shared_ray: Any) -> None:
    with Executor() as executor:
        assert executor.submit(power, 2, exponent=5).result() == 32
        assert executor.submit(own_pid).result(timeout=PATIENCE_S) != os.getpid()
        assert executor.submit(lambda: 5).result() == 5
        assert executor.submit(power, shared_ray.put(3)).result() == 9  # refs are resolved


def test_map_keeps_the_order(shared_ray: Any) -> None:
    with Executor(num_cpus=0) as executor:
        for chunksize in (1, 3, 100):
            assert list(executor.map(power, range(5), [2] * 5, chunksize=chunksize)) == [0, 1, 4, 9, 16]
        assert list(executor.map(square, [])) == []


def test_the_functions_of_concurrent_futures_take_its_futures(shared_ray: Any) -> None:
    with Executor() as executor:
        futures = [executor.submit(square, number) for number in range(5)]
        assert {future.result() for future in concurrent.futures.as_completed(futures)} == {0, 1, 4, 9, 16}
        assert concurrent.futures.wait(futures).done == set(futures)


def test_an_error_reaches_the_caller_as_what_it_is(shared_ray: Any) -> None:
    with Executor() as executor:
        failed = executor.submit(square, -1)
        with pytest.raises(ValueError, match="-1 is negative"):
            failed.result()
        assert isinstance(failed.exception(), ValueError)
        results = executor.map(square, [1, -2, 3])
        assert next(results) == 1
        with pytest.raises(ValueError, match="-2 is negative"):
            next(results)


def test_a_call_that_runs_can_be_cancelled(shared_ray: Any) -> None:
    gate = Gate.remote()
    with Executor() as executor:
        future = executor.submit(interrupted_at_the_gate, gate)
        shared_ray.get(gate.here.remote(1))
        assert future.cancel()
        assert shared_ray.get(gate.passed.remote("stopped"), timeout=PATIENCE_S) == "stopped"
        assert future.cancelled()
        with pytest.raises(concurrent.futures.CancelledError):
            future.result()
        done = executor.submit(square, 2)
        assert done.result() == 4
        assert not done.cancel()
        both: list[concurrent.futures.Future[Any]] = [future, done]
        assert concurrent.futures.wait(both).not_done == set()


def test_a_callback_may_submit_more(shared_ray: Any) -> None:
    follower: concurrent.futures.Future[Any] = concurrent.futures.Future()
    with Executor() as executor:
        first = executor.submit(square, 2)
        first.add_done_callback(lambda future: follower.set_result(executor.submit(square, future.result())))
        assert follower.result(PATIENCE_S).result() == 16


def test_time_limits_hold(shared_ray: Any) -> None:
    gate = Gate.remote()
    with Executor() as executor:
        future = executor.submit(pass_the_gate, gate, 1)
        with pytest.raises(TimeoutError):
            future.result(timeout=0.01)
        with pytest.raises(TimeoutError):
            next(executor.map(pass_the_gate, [gate], [2], timeout=0.01))
        shared_ray.get(gate.open.remote(1))
        assert future.result() == 1


def test_shutdown_waits_for_what_is_under_way_or_cancels_it(shared_ray: Any) -> None:
    gate = Gate.remote()
    executor = Executor()
    future = executor.submit(pass_the_gate, gate, 1)
    executor.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="shut down"):
        executor.submit(square, 1)
    shared_ray.get(gate.open.remote(1))
    executor.shutdown()
    assert future.done()

    executor = Executor()
    future = executor.submit(pass_the_gate, gate, 2)
    executor.shutdown(cancel_futures=True)
    assert future.cancelled()


def test_bad_input_is_refused_where_it_is_given(shared_ray: Any) -> None:
    with pytest.raises(InvalidOptionError, match="max_workers"):
        Executor(max_workers=2)
    with Executor() as executor:
        with pytest.raises(TypeError, match="not int"):
            executor.submit(5)  # type: ignore[arg-type]
        with pytest.raises(InvalidOptionError, match="chunksize"):
            executor.map(square, [1], chunksize=0)
        with pytest.raises(SerializationError):
            executor.submit(square, threading.Lock())


def test_in_a_task_it_lends_its_cpu(shared_ray: Any) -> None:
    tasks = [executor_in_a_task.remote() for _ in range(2)]  # both CPUs are taken
    assert shared_ray.get(tasks, timeout=30) == [[9, 0, 1, 4]] * 2
