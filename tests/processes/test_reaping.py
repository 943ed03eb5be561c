"""Workers that nobody needs end, in their own time."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import psutil

import aioray
from aioray import current
from tests.api.support import Meeting, eventually, started

if TYPE_CHECKING:
    import pathlib


def workers() -> list[int]:
    pids: list[int] = current.get().ask("pids")
    return pids[1:]


def own_pid() -> int:
    return os.getpid()


def test_workers_beyond_those_kept_ready_end_when_they_were_idle_for_a_while(tmp_path: pathlib.Path) -> None:
    door = Meeting(tmp_path / "door")

    def wait() -> int:
        (tmp_path / f"{os.getpid()}.stands").touch()
        door.wait()
        return os.getpid()

    with started(num_cpus=4, _system_config={"worker_idle_reap_s": 0.2, "prestart_workers": 1}) as ray:
        tasks = [ray.remote(wait).remote() for _ in range(4)]
        eventually(lambda: len(list(tmp_path.glob("*.stands"))) == 4)
        assert len(workers()) == 4
        eventually(lambda: not open_door(door, tasks))
        assert len(set(ray.get(tasks))) == 4
        eventually(lambda: len(workers()) == 1)
        assert ray.get(ray.remote(own_pid).remote()) in workers()


def open_door(door: Meeting, waiting: list[Any]) -> list[Any]:
    """Let in who stands there; returns who still waits."""
    left: list[Any] = aioray.wait(waiting, num_returns=len(waiting), timeout=0)[1]
    if left:
        door.here()
    return left


def test_an_idle_worker_stays_as_long_as_others_wait_for_what_its_task_began(tmp_path: pathlib.Path) -> None:
    """
    1. a task begins another and returns the ref to it: its worker is idle, but owns what is to come
    2. it is idle for longer than the node keeps it; the result arrives all the same
    3. now it goes
    """
    door = Meeting(tmp_path / "door")

    def inner() -> str:
        door.wait()
        return "done"

    def outer() -> tuple[list[Any], int]:
        return [aioray.remote(inner).options(num_cpus=0.5).remote()], os.getpid()

    with started(num_cpus=2, _system_config={"worker_idle_reap_s": 0.05, "prestart_workers": 0}) as ray:
        (ref,), owner = ray.get(ray.remote(outer).remote())
        assert ray.wait([ref], timeout=0.5)[0] == []
        assert psutil.pid_exists(owner)
        door.here()
        assert ray.get(ref, timeout=10) == "done"
        eventually(lambda: not psutil.pid_exists(owner))


def test_a_thread_of_a_task_that_never_ends_does_not_keep_its_worker(tmp_path: pathlib.Path) -> None:
    def leave_a_thread() -> int:
        threading.Thread(target=threading.Event().wait).start()
        return os.getpid()

    with started(num_cpus=1, _system_config={"worker_idle_reap_s": 0.05, "prestart_workers": 0}) as ray:
        pid = ray.get(ray.remote(leave_a_thread).remote())
        eventually(lambda: not psutil.pid_exists(pid))
