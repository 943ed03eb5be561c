"""Cancelling across processes: what a cancelled call has begun elsewhere, and refs that somebody else made."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import aioray
from aioray.exceptions import TaskCancelledError
from tests.api.support import eventually

if TYPE_CHECKING:
    import pathlib


def touch(path: pathlib.Path) -> None:
    path.touch()


async def sleep(begun: pathlib.Path, cancelled: pathlib.Path) -> None:
    touch(begun)
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        touch(cancelled)
        raise


class Sleeper:
    async def sleep(self, begun: pathlib.Path, cancelled: pathlib.Path) -> None:
        await sleep(begun, cancelled)


def test_cancelling_a_task_cancels_the_actor_calls_that_it_made(ray: Any, tmp_path: pathlib.Path) -> None:
    begun, cancelled = tmp_path / "begun", tmp_path / "cancelled"

    def calls(sleeper: Any) -> None:
        aioray.get(sleeper.sleep.remote(begun, cancelled))

    sleeper = ray.remote(Sleeper).remote()
    ref = ray.remote(calls).remote(sleeper)
    others = sleeper.sleep.remote(tmp_path / "other", tmp_path / "spared")
    eventually(begun.exists)
    ray.cancel(ref)
    with pytest.raises(TaskCancelledError):
        ray.get(ref, timeout=10)
    eventually(cancelled.exists)
    assert ray.wait([others], timeout=0)[0] == []


def test_a_borrowed_ref_is_cancelled_by_its_owner(ray: Any, tmp_path: pathlib.Path) -> None:
    """
    1. the driver begins a task, and gives the ref to another
    2. that one cancels it: the owner does, so all hear of it
    """
    begun, cancelled = tmp_path / "begun", tmp_path / "cancelled"

    def cancel(refs: list[Any]) -> None:
        aioray.cancel(refs[0])
        with contextlib.suppress(TaskCancelledError):
            aioray.get(refs[0], timeout=10)

    ref = ray.remote(sleep).options(num_cpus=0).remote(begun, cancelled)
    eventually(begun.exists)
    ray.get(ray.remote(cancel).remote([ref]), timeout=10)
    with pytest.raises(TaskCancelledError):
        ray.get(ref, timeout=10)
    eventually(cancelled.exists)


def test_borrowed_refs_in_a_gather_end_with_its_timeout(ray: Any, tmp_path: pathlib.Path) -> None:
    begun, cancelled = tmp_path / "begun", tmp_path / "cancelled"

    async def gather(refs: list[Any]) -> tuple[str, bool]:
        try:
            async with asyncio.timeout(0.05):
                await asyncio.gather(*refs)
        except TimeoutError:
            return "in time", refs[0].cancelled()
        return "never", False

    ref = ray.remote(sleep).options(num_cpus=0).remote(begun, cancelled)
    eventually(begun.exists)
    assert ray.get(ray.remote(gather).remote([ref]), timeout=10) == ("in time", True)
    with pytest.raises(TaskCancelledError):
        ray.get(ref, timeout=10)
    eventually(cancelled.exists)


def test_cancelling_a_borrowed_ref_that_is_done_does_nothing(ray: Any) -> None:
    def cancel(refs: list[Any]) -> tuple[bool, int]:
        value: int = aioray.get(refs[0])
        aioray.cancel(refs[0])
        return refs[0].cancel(), value

    ref = ray.put(5)
    assert ray.get(ray.remote(cancel).remote([ref]), timeout=10) == (False, 5)
    assert ray.get(ref) == 5


def test_a_task_that_put_pythons_own_ctrl_c_back_is_cancelled_all_the_same(ray: Any, tmp_path: pathlib.Path) -> None:
    begun = tmp_path / "begun"

    def hang() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        touch(begun)
        threading.Event().wait()

    ref = ray.remote(hang).remote()
    eventually(begun.exists)
    ray.cancel(ref)
    with pytest.raises(TaskCancelledError):
        ray.get(ref, timeout=10)


ONCE = """
import builtins, pathlib, time
if hasattr(builtins, "was_begun"):
    raise ImportError("cannot load module more than once per process")
builtins.was_begun = True
pathlib.Path({begun!r}).touch()
for _ in range(30):
    time.sleep(0.01)
"""


def test_a_call_that_is_cancelled_while_it_imports_leaves_a_worker_that_can_import(
    one_cpu: Any, tmp_path: pathlib.Path
) -> None:
    """Modules with C in them, such as numpy's, cannot be imported again when their first import was torn."""
    begun = tmp_path / "begun"
    (tmp_path / "loads_once.py").write_text(ONCE.format(begun=str(begun)))

    def imports(nap_s: float) -> int:
        if str(tmp_path) not in sys.path:
            sys.path.insert(0, str(tmp_path))
        __import__("loads_once")
        time.sleep(nap_s)
        return os.getpid()

    task = one_cpu.remote(imports)
    pid = one_cpu.get(one_cpu.remote(os.getpid).remote())
    ref = task.remote(30)
    eventually(begun.exists)
    one_cpu.cancel(ref)
    with pytest.raises(TaskCancelledError):
        one_cpu.get(ref, timeout=10)
    assert one_cpu.get(task.remote(0), timeout=10) == pid
