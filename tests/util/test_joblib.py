"""joblib's Parallel on the cluster."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import pytest

from aioray.exceptions import BlockingCallError
from aioray.util.joblib import register_aioray, register_ray
from tests.util.classes import joblib_in_a_task, own_pid, square

if TYPE_CHECKING:
    from aioray import Cluster

joblib = pytest.importorskip("joblib")


@pytest.fixture(autouse=True)
def registered() -> None:
    register_ray()
    register_aioray()


def calls(count: int) -> Any:
    return (joblib.delayed(square)(number) for number in range(count))


@pytest.mark.parametrize("name", ["ray", "aioray"])
@pytest.mark.parametrize("n_jobs", [1, 2, -1])
def test_parallel_calls_run_on_the_cluster(registered: None, ray: Any, name: str, n_jobs: int) -> None:
    with joblib.parallel_backend(name, n_jobs=n_jobs):
        assert joblib.Parallel()(calls(100)) == [number * number for number in range(100)]
        pids = joblib.Parallel()(joblib.delayed(own_pid)() for _ in range(4))
        assert os.getpid() not in pids or n_jobs == 1


def test_an_error_reaches_the_caller_and_the_next_run_works(ray: Any) -> None:
    with joblib.parallel_backend("ray", n_jobs=2):
        with pytest.raises(ValueError, match="-1 is negative"):
            joblib.Parallel()(joblib.delayed(square)(number) for number in (1, -1, 2))
        assert joblib.Parallel()(calls(3)) == [0, 1, 4]


def test_one_parallel_object_may_be_used_again_and_read_as_a_generator(ray: Any) -> None:
    with joblib.parallel_backend("ray", n_jobs=2), joblib.Parallel(return_as="generator") as parallel:
        assert list(parallel(calls(5))) == [0, 1, 4, 9, 16]
        assert list(parallel(calls(3))) == [0, 1, 4]


def test_it_takes_options_of_actors(ray: Any) -> None:
    with joblib.parallel_backend("ray", n_jobs=2, ray_remote_args={"num_cpus": 1}):
        assert joblib.Parallel()(calls(3)) == [0, 1, 4]


def test_in_a_task_it_lends_its_cpu(one_cpu: Any) -> None:
    assert one_cpu.get(joblib_in_a_task.remote(), timeout=60) == [0, 1, 4, 9]


async def test_in_an_event_loop_it_runs_in_a_thread(cluster: Cluster) -> None:
    with joblib.parallel_backend("ray", n_jobs=2):
        parallel = joblib.Parallel()
        with pytest.raises(BlockingCallError, match=r"await asyncio\.to_thread\("):
            parallel(calls(3))
        assert await asyncio.to_thread(joblib.Parallel(), calls(3)) == [0, 1, 4]
