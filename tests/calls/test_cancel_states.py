"""Cancelling a call in each state it can be in, with and without what it began; and at random moments."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import random
import threading
import time
from typing import Any

import pytest

import aioray
from aioray.exceptions import TaskCancelledError
from tests.api.support import eventually

PATIENCE_S = 10.0


def touch(path: pathlib.Path) -> None:
    path.touch()


def wait_for(path: pathlib.Path) -> str:
    while not path.exists():
        time.sleep(0.001)
    return "waited"


def note(path: pathlib.Path, text: str) -> None:
    path.write_text(text)


async def there(path: pathlib.Path) -> None:
    """Wait for a file that another process makes, which tells nobody."""
    exists = path.exists
    while not exists():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


def begin_and_wait(begun: pathlib.Path, path: pathlib.Path) -> str:
    touch(begun)
    return wait_for(path)


def stubborn(begun: pathlib.Path, path: pathlib.Path) -> str:
    try:
        touch(begun)  # whoever sees it may be quick
        return wait_for(path)
    except KeyboardInterrupt:
        return f"went on, {aioray.get_runtime_context().is_canceled()}"


async def stubborn_async(begun: pathlib.Path, path: pathlib.Path) -> str:
    touch(begun)
    try:
        await there(path)
    except asyncio.CancelledError:
        return f"went on, {aioray.get_runtime_context().is_canceled()}"
    return "waited"


def until_told(begun: pathlib.Path, path: pathlib.Path) -> str:
    touch(begun)
    while not path.exists():
        if aioray.get_runtime_context().is_canceled():
            return "told"
        time.sleep(0.001)
    return "waited"


class Sync:
    def call(self, fn: Any, *args: Any) -> Any:
        return fn(*args)


class Async:
    async def call(self, fn: Any, *args: Any) -> Any:
        return await fn(*args)

    def sync(self, fn: Any, *args: Any) -> Any:
        return fn(*args)


def is_cancelled(ray: Any, ref: Any) -> None:
    with pytest.raises(TaskCancelledError):
        ray.get(ref, timeout=PATIENCE_S)


def test_a_task_that_waits_for_its_arguments_never_runs(ray: Any, tmp_path: pathlib.Path) -> None:
    first = ray.remote(wait_for).remote(tmp_path / "go")
    second = ray.remote(lambda _, path: touch(path)).remote(first, tmp_path / "ran")
    ray.cancel(second)
    is_cancelled(ray, second)
    touch(tmp_path / "go")
    assert ray.get(first, timeout=PATIENCE_S) == "waited"
    assert ray.get(ray.remote(lambda: 1).remote(), timeout=PATIENCE_S) == 1
    assert not (tmp_path / "ran").exists()


def test_a_task_that_waits_for_a_lease_never_runs(one_cpu: Any, tmp_path: pathlib.Path) -> None:
    ray = one_cpu
    first = ray.remote(begin_and_wait).remote(tmp_path / "begun", tmp_path / "go")
    second = ray.remote(touch).options(resources={"nobody has it": 1}).remote(tmp_path / "ran")
    third = ray.remote(touch).remote(tmp_path / "ran")
    eventually((tmp_path / "begun").exists)
    for ref in (second, third):
        ray.cancel(ref)
        is_cancelled(ray, ref)
    touch(tmp_path / "go")
    ray.get(first, timeout=PATIENCE_S)
    assert not (tmp_path / "ran").exists()


def test_a_call_that_is_in_line_at_its_actor_never_runs(ray: Any, tmp_path: pathlib.Path) -> None:
    for number, options in enumerate(({}, {"max_concurrency": 2})):
        actor = ray.remote(Sync).options(**options).remote()
        go = tmp_path / f"go{number}"
        begun = [tmp_path / f"begun{number}{at}" for at in range(2)]
        first = [actor.call.remote(begin_and_wait, each, go) for each in begun[: options.get("max_concurrency", 1)]]
        for each in begun[: len(first)]:
            eventually(each.exists)
        second = actor.call.remote(touch, tmp_path / "ran")
        waiting = actor.call.remote(touch, second)
        ray.cancel(waiting)
        ray.cancel(second)
        is_cancelled(ray, second)
        is_cancelled(ray, waiting)
        touch(go)
        assert ray.get(first, timeout=PATIENCE_S) == ["waited"] * len(first)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("fn", [stubborn, stubborn_async])
def test_a_task_that_returns_all_the_same_has_returned(ray: Any, tmp_path: pathlib.Path, fn: Any) -> None:
    ref = ray.remote(fn).remote(tmp_path / "begun", tmp_path / "never")
    eventually((tmp_path / "begun").exists)
    ray.cancel(ref)
    assert ray.get(ref, timeout=PATIENCE_S) == "went on, True"


def test_what_runs_in_a_thread_is_told_and_what_it_returns_counts(ray: Any, tmp_path: pathlib.Path) -> None:
    threaded = ray.remote(Sync).options(max_concurrency=2).remote()
    mixed = ray.remote(Async).remote()
    light = ray.remote(Async).options(isolation="shared").remote()
    for number, method in enumerate((threaded.call, mixed.sync, light.sync)):
        begun = tmp_path / f"begun{number}"
        ref = method.remote(until_told, begun, tmp_path / "never")
        eventually(begun.exists)
        ray.cancel(ref)
        assert ray.get(ref, timeout=PATIENCE_S) == "told"


def test_a_sync_actor_is_interrupted_and_an_async_one_cancelled(ray: Any, tmp_path: pathlib.Path) -> None:
    for number, (cls, fn) in enumerate(((Sync, stubborn), (Async, stubborn_async))):
        actor = ray.remote(cls).remote()
        begun = tmp_path / f"begun{number}"
        ref = actor.call.remote(fn, begun, tmp_path / "never")
        eventually(begun.exists)
        ray.cancel(ref)
        assert ray.get(ref, timeout=PATIENCE_S) == "went on, True"


def test_what_is_done_cannot_be_cancelled(ray: Any) -> None:
    actor = ray.remote(Sync).remote()
    for ref in (ray.remote(lambda: 1).remote(), actor.call.remote(int, "1")):
        assert ray.get(ref, timeout=PATIENCE_S) == 1
        ray.cancel(ref)
        ray.cancel(ref, recursive=False)
        assert ray.get(ref) == 1
    ray.cancel(ray.put(1), force=True)


# force


def test_force_ends_the_worker_and_gives_what_was_behind_to_others(one_cpu: Any, tmp_path: pathlib.Path) -> None:
    ray = one_cpu

    def deaf(begun: pathlib.Path) -> None:
        begun.write_text(str(os.getpid()))
        while True:
            with contextlib.suppress(KeyboardInterrupt):
                time.sleep(60)

    ref = ray.remote(deaf).remote(tmp_path / "begun")
    behind = [ray.remote(max_retries=0)(lambda x=x: x).remote() for x in range(5)]
    eventually(lambda: (tmp_path / "begun").exists() and (tmp_path / "begun").read_text())
    ray.cancel(ref, force=True)
    is_cancelled(ray, ref)
    assert ray.get(behind, timeout=PATIENCE_S) == list(range(5))
    pid = int((tmp_path / "begun").read_text())
    eventually(lambda: not pathlib.Path(f"/proc/{pid}").exists())


def test_force_ends_a_worker_that_cannot_listen(ray: Any, tmp_path: pathlib.Path) -> None:
    def hold_the_gil(begun: pathlib.Path) -> None:
        import ctypes

        touch(begun)
        ctypes.PyDLL(None).sleep(60)

    ref = ray.remote(hold_the_gil).remote(tmp_path / "begun")
    eventually((tmp_path / "begun").exists)
    ray.cancel(ref, force=True)
    is_cancelled(ray, ref)
    assert ray.get(ray.remote(lambda: 1).remote(), timeout=PATIENCE_S) == 1


def test_force_reaches_what_waits_and_what_is_next_in_line(one_cpu: Any, tmp_path: pathlib.Path) -> None:
    ray = one_cpu
    first = ray.remote(begin_and_wait).remote(tmp_path / "begun", tmp_path / "go")
    second = ray.remote(touch).remote(tmp_path / "ran")
    third = ray.remote(touch).remote(second)
    eventually((tmp_path / "begun").exists)
    for ref in (third, second):
        ray.cancel(ref, force=True)
        is_cancelled(ray, ref)
    touch(tmp_path / "go")
    assert ray.get(first, timeout=PATIENCE_S) == "waited"
    assert not (tmp_path / "ran").exists()


def test_force_is_not_for_calls_of_actors(ray: Any, tmp_path: pathlib.Path) -> None:
    actor = ray.remote(Sync).remote()
    ref = actor.call.remote(wait_for, tmp_path / "go")
    with pytest.raises(ValueError, match="kill"):
        ray.cancel(ref, force=True)
    touch(tmp_path / "go")
    assert ray.get(ref, timeout=PATIENCE_S) == "waited"


# what it began


def nest(depth: int, actor: Any, begun: pathlib.Path, path: pathlib.Path, ended: pathlib.Path) -> str:
    """A task that begins a task that begins ... that calls an actor; each leaves what it began alone."""
    if depth:
        ref = aioray.remote(nest).options(num_cpus=0).remote(depth - 1, actor, begun, path, ended)
    else:
        ref = actor.wait.remote(begun, path, ended)
    aioray.get(ref)
    return "through"


class Leaf:
    async def wait(self, begun: pathlib.Path, path: pathlib.Path, ended: pathlib.Path) -> None:
        touch(begun)
        try:
            await there(path)
        except asyncio.CancelledError:
            note(ended, "cancelled")
            raise
        note(ended, "went on")


@pytest.mark.parametrize("force", [False, True])
def test_what_a_cancelled_task_began_is_cancelled_in_any_depth(ray: Any, tmp_path: pathlib.Path, force: bool) -> None:
    leaf = ray.remote(Leaf).remote()
    begun, path, ended = (tmp_path / name for name in ("begun", "go", "ended"))
    ref = ray.remote(nest).remote(2, leaf, begun, path, ended)
    eventually(begun.exists)
    if force:  # the first dies with its word to the second on the way
        ray.cancel(ref, force=True)
    else:
        ray.cancel(ref)
    is_cancelled(ray, ref)
    if force:
        touch(path)  # what dies with its process cannot tell others in any depth
    eventually(lambda: ended.exists() and ended.read_text() in (("cancelled", "went on") if force else ("cancelled",)))


def test_force_tells_what_the_call_itself_began(ray: Any, tmp_path: pathlib.Path) -> None:
    leaf = ray.remote(Leaf).remote()
    begun, path, ended = (tmp_path / name for name in ("begun", "go", "ended"))
    ref = ray.remote(nest).remote(0, leaf, begun, path, ended)
    eventually(begun.exists)
    ray.cancel(ref, force=True)
    is_cancelled(ray, ref)
    eventually(lambda: ended.exists() and ended.read_text() == "cancelled")


@pytest.mark.parametrize("through", ["task", "sync actor", "threaded actor", "async actor"])
@pytest.mark.parametrize("recursive", [True, False])
def test_children_are_cancelled_or_spared(ray: Any, tmp_path: pathlib.Path, through: str, recursive: bool) -> None:
    """
    1. a call waits for a call of an actor, and has begun another that it does not wait for
    2. the call is cancelled: both end with it, or both go on
    """
    leaf = ray.remote(Leaf).remote()
    names = [[tmp_path / f"{name}{at}" for name in ("begun", "go", "ended")] for at in range(2)]

    def parent() -> None:
        refs = [leaf.wait.remote(*each) for each in names]
        aioray.get(refs[0])

    async def parent_async() -> None:
        refs = [leaf.wait.remote(*each) for each in names]
        await asyncio.gather(refs[0])

    if through == "task":
        ref = ray.remote(parent).remote()
    elif through == "async actor":
        actor = ray.remote(Async).remote()
        ref = actor.call.remote(parent_async)
    else:
        actor = ray.remote(Sync).options(max_concurrency=2 if through == "threaded actor" else 1).remote()
        ref = actor.call.remote(parent)
    eventually(lambda: all(each[0].exists() for each in names))
    ray.cancel(ref, recursive=recursive)
    if recursive:
        is_cancelled(ray, ref)
        eventually(lambda: all(each[2].exists() and each[2].read_text() == "cancelled" for each in names))
        return
    if through != "threaded actor":
        is_cancelled(ray, ref)
    for each in names:
        touch(each[1])
    eventually(lambda: all(each[2].exists() and each[2].read_text() == "went on" for each in names))
    if through == "threaded actor":
        assert ray.get(ref, timeout=PATIENCE_S) is None


def test_children_that_wait_for_arguments_are_cancelled_too(ray: Any, tmp_path: pathlib.Path) -> None:
    """The argument is somebody else's, and comes; the child does not run all the same."""
    other = ray.remote(wait_for).options(num_cpus=0).remote(tmp_path / "other")

    def parent(refs: list[Any], begun: pathlib.Path, ran: pathlib.Path) -> None:
        child = aioray.remote(lambda _, path: touch(path)).remote(refs[0], ran)
        touch(begun)
        aioray.get(child)

    ref = ray.remote(parent).remote([other], tmp_path / "begun", tmp_path / "ran")
    eventually((tmp_path / "begun").exists)
    ray.cancel(ref)
    is_cancelled(ray, ref)
    touch(tmp_path / "other")
    assert ray.get(other, timeout=PATIENCE_S) == "waited"
    assert ray.get([ray.remote(lambda: 1).remote() for _ in range(4)], timeout=PATIENCE_S) == [1] * 4
    assert not (tmp_path / "ran").exists()


def test_cancelling_an_await_does_what_cancel_does(ray: Any, tmp_path: pathlib.Path) -> None:
    leaf = ray.remote(Leaf).remote()
    begun, path, ended = (tmp_path / name for name in ("begun", "go", "ended"))
    ref = ray.remote(nest).remote(1, leaf, begun, path, ended)
    eventually(begun.exists)
    assert ref.cancel()
    eventually(lambda: ended.exists() and ended.read_text() == "cancelled")


# refs of others


def test_a_borrowed_ref_is_cancelled_by_its_owner(ray: Any, tmp_path: pathlib.Path) -> None:
    def cancel(refs: list[Any]) -> str:
        aioray.cancel(refs[0])
        try:
            aioray.get(refs[0], timeout=PATIENCE_S)
        except TaskCancelledError:
            return "cancelled"
        return "not cancelled"

    ref = ray.remote(begin_and_wait).remote(tmp_path / "begun", tmp_path / "never")
    eventually((tmp_path / "begun").exists)
    assert ray.get(ray.remote(cancel).remote([ref]), timeout=PATIENCE_S) == "cancelled"
    is_cancelled(ray, ref)


# races


def test_cancels_at_random_moments_leave_nothing_behind(ray: Any, tmp_path: pathlib.Path) -> None:
    """Tasks, coroutines, calls of all kinds of actors: each cancelled somewhere between the call and its end."""
    seed = random.randrange(1 << 30)
    dice = random.Random(seed)

    def work(ms: int) -> int:
        end = time.monotonic() + ms / 1000
        while time.monotonic() < end:
            sum(range(100))
        return ms

    async def work_async(ms: int) -> int:
        await asyncio.sleep(ms / 1000)
        return ms

    def nested(ms: int) -> int:
        result: int = aioray.get(aioray.remote(work).remote(ms))
        return result

    sync, threaded = ray.remote(Sync).remote(), ray.remote(Sync).options(max_concurrency=3).remote()
    looped, light = ray.remote(Async).remote(), ray.remote(Async).options(isolation="shared").remote()
    calls: list[Any] = [
        lambda ms: ray.remote(work).remote(ms),
        lambda ms: ray.remote(work_async).remote(ms),
        lambda ms: ray.remote(nested).remote(ms),
        lambda ms: sync.call.remote(work, ms),
        lambda ms: threaded.call.remote(work, ms),
        lambda ms: looped.call.remote(work_async, ms),
        lambda ms: looped.sync.remote(work, ms),
        lambda ms: light.call.remote(work_async, ms),
    ]
    for _ in range(200):
        ms = dice.randrange(8)
        ref = dice.choice(calls)(ms)
        time.sleep(dice.random() * 0.01)  # the moment is the test
        ray.cancel(ref, recursive=dice.random() < 0.8)
        with contextlib.suppress(TaskCancelledError):
            assert ray.get(ref, timeout=PATIENCE_S) == ms, f"seed {seed}"
    for call in calls:
        assert ray.get(call(1), timeout=PATIENCE_S) == 1, f"seed {seed}"
    eventually(lambda: ray.available_resources()["CPU"] == 2.0, lambda: f"seed {seed}: {ray.available_resources()}")
    assert threading.active_count() < 10


async def test_a_cancel_right_behind_a_call_stops_its_coroutine(cluster: aioray.Cluster) -> None:
    """Before it is registered, or when it has just begun: it never sleeps through."""

    @aioray.remote
    async def sleep() -> None:
        await asyncio.sleep(60)

    actor: Any = aioray.remote(Async).remote()
    await actor.call.remote(asyncio.sleep, 0)
    dice = random.Random(4)
    for at in range(100):
        ref = actor.call.remote(asyncio.sleep, 60) if at % 2 else sleep.remote()
        for _ in range(dice.randrange(6)):
            await asyncio.sleep(0)
        aioray.cancel(ref)
        with pytest.raises(TaskCancelledError):
            async with asyncio.timeout(PATIENCE_S):
                await ref
