"""Which worker processes there are, how they are reused, and how many threads their libraries may have."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

import aioray
from aioray import current
from tests.api.support import eventually, started

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    with started(num_cpus=2) as ray:
        yield ray


def pids() -> tuple[int, set[int]]:
    """The zygote, and the workers."""
    zygote, *workers = current.get().ask("pids")
    return zygote, set(workers)


def own_pid() -> int:
    return os.getpid()


def test_prestarted_workers_run_one_task_after_the_other(ray: Any) -> None:
    eventually(lambda: len(pids()[1]) == 2)
    before = pids()
    task = ray.remote(own_pid)
    used = {ray.get(task.remote()) for _ in range(50)} | set(ray.get([task.remote() for _ in range(200)]))
    assert used <= before[1]
    assert pids() == before


def test_workers_are_children_of_the_zygote_which_is_one_of_the_head(ray: Any) -> None:
    zygote, workers = pids()
    assert {child.pid for child in psutil.Process(zygote).children()} == workers
    assert psutil.Process(zygote).parent() in psutil.Process().children()


def test_an_actor_takes_a_worker_and_another_is_started_in_its_place(ray: Any) -> None:
    class Plain:
        def pid(self) -> int:
            return os.getpid()

    _, before = pids()
    actor = ray.remote(Plain).remote()
    assert ray.get(actor.pid.remote()) in before
    eventually(lambda: len(pids()[1]) == 3)
    del actor
    eventually(lambda: len(pids()[1]) == 2)


def test_workers_draw_different_random_numbers(ray: Any) -> None:
    class Plain:
        def draw(self) -> tuple[float, float]:
            return random.random(), float(np.random.random())

    actors = [ray.remote(Plain).remote() for _ in range(4)]
    drawn = ray.get([actor.draw.remote() for actor in actors])
    assert len({first for first, _ in drawn}) == len({second for _, second in drawn}) == 4


def threads_allowed() -> tuple[str, set[int]]:
    """As the environment has it, and as the libraries that are loaded have it."""
    import threadpoolctl

    assert np.ones(2).sum() == 2
    return os.environ["OMP_NUM_THREADS"], {library["num_threads"] for library in threadpoolctl.threadpool_info()}


def test_numeric_libraries_get_as_many_threads_as_the_task_has_cpus(ray: Any) -> None:
    task = ray.remote(threads_allowed)
    for num_cpus in (1, 2, 0.5, 2, 1):
        threads = max(1, int(num_cpus))
        assert ray.get(task.options(num_cpus=num_cpus).remote()) == (str(threads), {threads})


def test_numeric_libraries_get_as_many_threads_as_the_actor_has_cpus(ray: Any) -> None:
    class Plain:
        def threads(self) -> tuple[str, set[int]]:
            return threads_allowed()

    cls = ray.remote(Plain)
    assert ray.get(cls.options(num_cpus=2).remote().threads.remote()) == ("2", {2})
    assert ray.get(cls.remote().threads.remote()) == ("1", {1})


def test_a_worker_that_is_killed_is_replaced(ray: Any) -> None:
    eventually(lambda: len(pids()[1]) == 2)  # those of the tests before have left
    zygote, before = pids()
    for pid in before:
        psutil.Process(pid).kill()
    eventually(lambda: len(pids()[1] - before) == 2)
    assert ray.get(ray.remote(own_pid).remote()) in pids()[1]
    assert pids()[0] == zygote


def test_a_task_is_not_blamed_for_a_worker_that_died_before_it(ray: Any) -> None:
    """
    1. a worker has run something for us; now it is granted to us again
    2. it dies before we hear of either: the task has not begun, and runs elsewhere
    """
    task = ray.remote(own_pid).options(max_retries=0)
    ray.get([task.remote() for _ in range(50)])
    eventually(lambda: ray.available_resources()["CPU"] == 2)
    workers = pids()[1]
    reactor = current.get().reactor
    with reactor.lock:  # nobody here reads meanwhile
        ref = task.remote()
        reactor.flush()
        eventually(lambda: ray.available_resources()["CPU"] == 1)
        for pid in workers:
            psutil.Process(pid).kill()
        eventually(lambda: not any(map(psutil.pid_exists, workers)))
    assert ray.get(ref, timeout=10) not in workers


def test_the_cluster_recovers_when_its_zygote_is_killed(ray: Any) -> None:
    """
    1. with the zygote go all workers: the actor is dead, and says why
    2. a new zygote is started, tasks and actors run again
    """

    class Plain:
        def pid(self) -> int:
            return os.getpid()

    cls = ray.remote(Plain)
    actor = cls.remote()
    old = ray.get(actor.pid.remote())
    zygote, workers = pids()
    psutil.Process(zygote).kill()
    eventually(lambda: not psutil.pid_exists(old))
    with pytest.raises(aioray.exceptions.ActorDiedError):
        ray.get(actor.pid.remote(), timeout=10)
    assert ray.get(ray.remote(own_pid).remote(), timeout=10) not in workers
    assert ray.get(cls.remote().pid.remote(), timeout=10) != old
    assert pids()[0] != zygote
    eventually(lambda: not any(psutil.pid_exists(pid) for pid in (zygote, *workers)))
