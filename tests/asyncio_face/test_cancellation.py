"""A cancelled await cancels the remote call: what runs stops, what waits never runs, what is shielded goes on."""

from __future__ import annotations

import asyncio
import pathlib
import time
from typing import TYPE_CHECKING, Any

import pytest

import aioray
from aioray.exceptions import TaskCancelledError

if TYPE_CHECKING:
    from aioray import Cluster

PATIENCE_S = 10.0


class DiaryActor:
    """What happened, in order; `until` waits for an entry."""

    def __init__(self) -> None:
        self._entries: list[str] = []
        self._news = asyncio.Condition()

    async def note(self, entry: str) -> None:
        async with self._news:
            self._entries.append(entry)
            self._news.notify_all()

    async def until(self, entry: str) -> list[str]:
        async with self._news:
            await self._news.wait_for(lambda: entry in self._entries)
        return list(self._entries)


Diary: Any = aioray.remote(num_cpus=0)(DiaryActor)


@aioray.remote
def sleep_and_tell(diary: Any) -> str:
    try:
        aioray.get(diary.note.remote("started"))  # in here: whoever hears of it may cancel before this returns
        time.sleep(60)
    except KeyboardInterrupt:
        aioray.get(diary.note.remote("interrupted"))
        raise
    return "slept through"


@aioray.remote
def compute_and_remove(path: str, diary: Any) -> None:
    """Python code, as opposed to a system call that a signal ends."""
    pathlib.Path(path).touch()
    try:
        aioray.get(diary.note.remote("started"))  # in here: whoever hears of it may cancel before this returns
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            sum(range(1000))
    finally:
        pathlib.Path(path).unlink()
        aioray.get(diary.note.remote("removed"))


@aioray.remote
def wait_for_ever(diary: Any) -> None:
    try:
        aioray.get(diary.note.remote("started"))  # in here: whoever hears of it may cancel before this returns
        aioray.get(diary.until.remote("what never comes"))
    except KeyboardInterrupt:
        aioray.get(diary.note.remote("interrupted"))
        raise


@aioray.remote
def put_for_ever(diary: Any) -> None:
    """Most of the time inside of aioray's own code, where nothing may be torn."""
    try:
        aioray.get(diary.note.remote("started"))  # in here: whoever hears of it may cancel before this returns
        while True:
            aioray.get(aioray.put([1, 2, 3]))
            aioray.get(diary.note.remote("again"))
    finally:
        aioray.get(diary.note.remote("left"))


@aioray.remote
async def sleep_async(diary: Any) -> None:
    try:
        await diary.note.remote("started")  # in here: whoever hears of it may cancel before this returns
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        await diary.note.remote("cancelled")
        raise


@aioray.remote
def tell(diary: Any, entry: str) -> None:
    aioray.get(diary.note.remote(entry))


@aioray.remote
def one() -> int:
    return 1


async def started(diary: Any) -> None:
    async with asyncio.timeout(PATIENCE_S):
        await diary.until.remote("started")


async def cancel_await(ref: Any, diary: Any) -> None:
    """Await `ref` in a task, and cancel that when the call has begun."""

    async def wait_for_it() -> Any:
        return await ref

    waiting = asyncio.create_task(wait_for_it())
    await started(diary)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ref.cancelled()
    with pytest.raises(asyncio.CancelledError):
        await ref


@pytest.mark.parametrize(
    ("function", "last"),
    [
        (sleep_and_tell, "interrupted"),
        (wait_for_ever, "interrupted"),
        (put_for_ever, "left"),
        (sleep_async, "cancelled"),
    ],
    ids=["sleeping", "waiting for the cluster", "calling it all the time", "async"],
)
async def test_a_running_task_stops_when_its_await_is_cancelled(cluster: Cluster, function: Any, last: str) -> None:
    diary = Diary.remote()
    await cancel_await(function.remote(diary), diary)
    async with asyncio.timeout(PATIENCE_S):
        await diary.until.remote(last)
        assert await asyncio.gather(*(one.remote() for _ in range(20))) == [1] * 20  # its worker is as good as new


async def test_a_computing_task_stops_and_cleans_up(cluster: Cluster, tmp_path: pathlib.Path) -> None:
    diary, path = Diary.remote(), tmp_path / "busy"
    await cancel_await(compute_and_remove.remote(str(path), diary), diary)
    async with asyncio.timeout(PATIENCE_S):
        await diary.until.remote("removed")
    assert not path.exists()


async def test_a_call_that_takes_too_long_is_stopped_by_whatever_limits_it(cluster: Cluster) -> None:
    for limit in ("timeout", "wait_for", "gather", "task group"):
        diary = Diary.remote()
        ref = sleep_and_tell.remote(diary)
        await started(diary)
        with pytest.raises((TimeoutError, ExceptionGroup)):
            await _await_limited(ref, limit)
        assert ref.cancelled()
        async with asyncio.timeout(PATIENCE_S):
            assert await diary.until.remote("interrupted") == ["started", "interrupted"]


async def _await_limited(ref: Any, limit: str) -> None:
    match limit:
        case "timeout":
            async with asyncio.timeout(0.01):
                await ref
        case "wait_for":
            await asyncio.wait_for(ref, 0.01)
        case "gather":
            await asyncio.wait_for(asyncio.gather(ref, one.remote()), 0.01)
        case _:
            async with asyncio.TaskGroup() as group:
                group.create_task(_await(ref))
                group.create_task(_raise())


async def _await(ref: Any) -> Any:
    return await ref


async def _raise() -> None:
    await asyncio.sleep(0)
    raise RuntimeError("a sibling fails")


async def test_a_shielded_call_survives(cluster: Cluster) -> None:
    diary = Diary.remote()
    entry = diary.until.remote("the end")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await asyncio.shield(entry)
    assert not entry.done()
    await diary.note.remote("the end")
    assert await entry == ["the end"]


async def test_a_queued_task_never_runs(nothing_left: None) -> None:
    """
    1. the only CPU is taken; one task waits for it, another waits for the result of the first
    2. both awaits are cancelled, then the CPU is free again
    3. a later task runs, and the two never did
    """
    async with aioray.connect(num_cpus=1):
        diary = Diary.remote()
        running = sleep_and_tell.remote(diary)
        await started(diary)
        queued = tell.remote(diary, "queued")
        dependent = tell.remote(running, "dependent")
        for ref in (dependent, queued, running):
            assert ref.cancel()
            assert not ref.cancel()  # once is enough
        async with asyncio.timeout(PATIENCE_S):
            await tell.remote(diary, "later")
            entries = await diary.until.remote("interrupted")
        assert not {"queued", "dependent"} & set(entries)


async def test_all_of_many_are_cancelled_and_the_cluster_goes_on(cluster: Cluster) -> None:
    diary = Diary.remote()
    everything = asyncio.gather(*(sleep_and_tell.remote(diary) for _ in range(40)))
    await started(diary)
    everything.cancel()
    with pytest.raises(asyncio.CancelledError):
        await everything
    async with asyncio.timeout(PATIENCE_S):
        assert await asyncio.gather(*(one.remote() for _ in range(100))) == [1] * 100


async def test_cancelling_again_and_again_at_any_moment_loses_nothing(cluster: Cluster) -> None:
    """Not started, just started, just done: the workers take every cancel, and compute on."""
    for at in range(100):
        refs = [one.remote() for _ in range(10)]
        for _ in range(at % 10):
            await asyncio.sleep(0)
        for ref in refs[::2]:
            ref.cancel()
        async with asyncio.timeout(PATIENCE_S):
            assert await asyncio.gather(*refs[1::2]) == [1] * 5
            outcomes = await asyncio.gather(*refs[::2], return_exceptions=True)
        assert all(each == 1 or isinstance(each, asyncio.CancelledError) for each in outcomes)


async def test_cancelling_what_is_done_changes_nothing(cluster: Cluster) -> None:
    ref = one.remote()
    assert await ref == 1
    assert not ref.cancel()
    aioray.cancel(ref)
    assert await ref == 1
    assert not ref.cancelled()


async def test_aioray_cancel_is_an_error_of_the_call_not_of_the_await(cluster: Cluster) -> None:
    """`aioray.cancel` is Ray's: who awaits gets TaskCancelledError, and is not cancelled itself."""
    diary = Diary.remote()
    ref = sleep_and_tell.remote(diary)
    await started(diary)
    aioray.cancel(ref)
    with pytest.raises(TaskCancelledError):
        async with asyncio.timeout(PATIENCE_S):
            await ref
    assert not ref.cancelled()


async def test_awaits_of_one_ref_share_its_cancellation_as_those_of_a_future_do(cluster: Cluster) -> None:
    diary = Diary.remote()
    ref = sleep_and_tell.remote(diary)
    waiting = [asyncio.create_task(_await(ref)) for _ in range(3)]
    await started(diary)
    waiting[1].cancel()
    assert all(
        isinstance(each, asyncio.CancelledError) for each in await asyncio.gather(*waiting, return_exceptions=True)
    )


# actors


async def test_a_call_of_an_async_actor_gets_cancelled_error_and_the_others_go_on(cluster: Cluster) -> None:
    class ServerActor:
        async def serve(self, diary: Any) -> None:
            serve: Any = sleep_async._function
            await serve(diary)

        async def ping(self) -> str:
            return "pong"

    Server: Any = aioray.remote(ServerActor)

    server, diary = Server.remote(), Diary.remote()
    await cancel_await(server.serve.remote(diary), diary)
    async with asyncio.timeout(PATIENCE_S):
        await diary.until.remote("cancelled")
        assert await server.ping.remote() == "pong"


async def test_a_call_of_a_sync_actor_is_interrupted_and_queued_ones_never_run(cluster: Cluster) -> None:
    class WorkerActor:
        def work(self, diary: Any) -> None:
            sleep_and_tell._function(diary)

        def tell(self, diary: Any, entry: str) -> str:
            aioray.get(diary.note.remote(entry))
            return entry

    Worker: Any = aioray.remote(WorkerActor)

    worker, diary = Worker.remote(), Diary.remote()
    running = worker.work.remote(diary)
    queued = worker.tell.remote(diary, "queued")
    await started(diary)
    queued.cancel()
    await cancel_await(running, diary)
    async with asyncio.timeout(PATIENCE_S):
        assert await worker.tell.remote(diary, "later") == "later"
        assert "queued" not in await diary.until.remote("interrupted")


async def test_who_only_borrows_a_ref_ends_its_await_and_nothing_else(cluster: Cluster) -> None:
    """A worker that is handed a ref cannot cancel the call behind it; it may give up waiting, and come back."""

    class BorrowerActor:
        async def give_up_then_wait(self, refs: list[Any], diary: Any) -> Any:
            (ref,) = refs
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await ref
            assert not ref.cancelled()
            await diary.note.remote("gave up")
            return await ref

    Borrower: Any = aioray.remote(BorrowerActor)

    diary = Diary.remote()
    ref = diary.until.remote("gave up")
    async with asyncio.timeout(PATIENCE_S):
        assert await Borrower.remote().give_up_then_wait.remote([ref], diary) == ["gave up"]
        assert await ref == ["gave up"]
