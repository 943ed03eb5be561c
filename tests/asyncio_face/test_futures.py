"""A ref wherever asyncio takes a Future."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

import aioray
from aioray.exceptions import BlockingCallError, GetTimeoutError, RayTaskError, TaskCancelledError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from aioray import Cluster, ObjectRef

PATIENCE_S = 20.0
uvloop.new_event_loop().close()  # libuv keeps a pipe for the process; no test must take that for a leak


@aioray.remote
def double(x: int) -> int:
    return 2 * x


@aioray.remote
def fail(text: str) -> None:
    raise ValueError(text)


class GateActor:
    """Calls of `passed` wait until `open` was called."""

    def __init__(self) -> None:
        self._open = asyncio.Event()

    async def passed(self, x: Any = None) -> Any:
        await self._open.wait()
        return x

    async def open(self) -> None:
        self._open.set()


Gate: Any = aioray.remote(num_cpus=0)(GateActor)


class CountsItsCopies:
    """Knows how often it was unpickled in this process."""

    loaded = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return _load, ()


def _load() -> CountsItsCopies:
    CountsItsCopies.loaded += 1
    return CountsItsCopies()


@aioray.remote
def make_counted() -> CountsItsCopies:
    return CountsItsCopies()


def callbacks_of(ref: ObjectRef[Any]) -> int:
    return len(ref._entries())


async def until(condition: Callable[[], object]) -> None:
    """Until the loop, or another thread, has come to where it is wanted."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 # nobody tells: it is the inside of something
            await asyncio.sleep(0)


# await


async def test_a_ref_is_awaited_once_twice_and_by_many(cluster: Cluster) -> None:
    ref = double.remote(21)
    assert await ref == 42
    assert await ref == 42

    async def wait_for_it() -> int:
        return await ref2

    ref2 = double.remote(4)
    assert await asyncio.gather(*(wait_for_it() for _ in range(10))) == [8] * 10
    assert ref.done()
    assert not ref.cancelled()
    assert ref.result() == 42
    assert ref.exception() is None


async def test_what_a_call_raised_is_raised_by_the_await(cluster: Cluster) -> None:
    ref = fail.remote("no")
    for _ in range(2):
        with pytest.raises(ValueError, match="no") as caught:
            await ref
        assert isinstance(caught.value, RayTaskError)
    assert isinstance(ref.exception(), ValueError)
    with pytest.raises(ValueError, match="no"):
        ref.result()


async def test_a_pending_ref_has_no_result(cluster: Cluster) -> None:
    gate = Gate.remote()
    ref = gate.passed.remote()
    assert not ref.done()
    with pytest.raises(asyncio.InvalidStateError):
        ref.result()
    with pytest.raises(asyncio.InvalidStateError):
        ref.exception()
    await gate.open.remote()
    assert await ref is None


async def test_the_value_of_an_awaited_ref_is_unpickled_once(cluster: Cluster) -> None:
    CountsItsCopies.loaded = 0
    await make_counted.remote()
    assert CountsItsCopies.loaded == 1


async def test_put_works_in_the_loop_and_its_ref_is_awaitable(cluster: Cluster) -> None:
    assert await aioray.put("value") == "value"


# asyncio's functions


async def test_gather_gives_the_values_in_order(cluster: Cluster) -> None:
    assert await asyncio.gather(*(double.remote(x) for x in range(300))) == [2 * x for x in range(300)]


async def test_gather_gives_exceptions_where_they_are_asked_for(cluster: Cluster) -> None:
    one, two, three = await asyncio.gather(
        double.remote(1), fail.remote("two"), double.remote(3), return_exceptions=True
    )
    assert (one, three) == (2, 6)
    assert isinstance(two, ValueError)
    with pytest.raises(ValueError, match="at once"):
        await asyncio.gather(Gate.remote().passed.remote(), fail.remote("at once"))


async def test_gather_takes_refs_and_coroutines_side_by_side(cluster: Cluster) -> None:
    number, text = await asyncio.gather(double.remote(1), asyncio.sleep(0, "slept"))
    assert (number, text) == (2, "slept")


async def test_wait_returns_what_it_was_told_to_wait_for(cluster: Cluster) -> None:
    gate = Gate.remote()
    fast, failing, slow = double.remote(1), fail.remote("x"), gate.passed.remote()
    refs = {fast, failing, slow}
    done, pending = await asyncio.wait(refs, return_when=asyncio.FIRST_COMPLETED)
    assert done
    assert slow in pending
    done, pending = await asyncio.wait(refs, return_when=asyncio.FIRST_EXCEPTION)
    assert failing in done
    assert slow in pending
    done, pending = await asyncio.wait(refs, timeout=0.01)
    assert slow in pending
    await gate.open.remote()
    done, pending = await asyncio.wait(refs, return_when=asyncio.ALL_COMPLETED)
    assert (done, pending) == (refs, set())
    assert not any(callbacks_of(ref) for ref in refs)


async def test_asyncio_as_completed_yields_each(cluster: Cluster) -> None:
    refs = [double.remote(x) for x in range(20)]
    assert sorted([await each for each in asyncio.as_completed(refs)]) == [2 * x for x in range(20)]


async def test_wait_for_gives_the_value_in_time(cluster: Cluster) -> None:
    assert await asyncio.wait_for(double.remote(1), PATIENCE_S) == 2
    async with asyncio.timeout(PATIENCE_S):
        assert await double.remote(2) == 4


async def test_a_task_group_runs_calls_side_by_side(cluster: Cluster) -> None:
    async def call(x: int) -> int:
        return await double.remote(x)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(call(x)) for x in range(20)]
    assert [task.result() for task in tasks] == [2 * x for x in range(20)]


async def test_done_callbacks_are_called_once_and_can_be_taken_out(cluster: Cluster) -> None:
    gate = Gate.remote()
    ref = gate.passed.remote(5)
    called: list[Any] = []
    unwanted: list[Any] = []
    all_called = asyncio.Event()
    ref.add_done_callback(called.append)
    ref.add_done_callback(unwanted.append)
    ref.add_done_callback(unwanted.append)
    ref.add_done_callback(lambda _: all_called.set())
    assert ref.remove_done_callback(unwanted.append) == 2
    assert ref.remove_done_callback(print) == 0
    await gate.open.remote()
    await all_called.wait()
    assert called == [ref]
    assert unwanted == []
    ref.add_done_callback(called.append)  # it is done: soon, but not at once
    assert called == [ref]
    await asyncio.sleep(0)
    assert called == [ref, ref]


async def test_a_ref_says_which_loop_and_whether_it_is_a_future(cluster: Cluster) -> None:
    ref = double.remote(1)
    assert asyncio.isfuture(ref)
    assert asyncio.ensure_future(ref) is ref
    assert ref.get_loop() is asyncio.get_running_loop()
    await ref


async def test_a_concurrent_future_has_the_same_outcome(cluster: Cluster) -> None:
    good, bad, cancelled = double.remote(1), fail.remote("bad"), Gate.remote().passed.remote()
    futures = [ref.future() for ref in (good, bad, cancelled)]
    assert all(isinstance(future, concurrent.futures.Future) for future in futures)
    cancelled.cancel()
    assert await asyncio.wrap_future(futures[0]) == 2
    with pytest.raises(ValueError, match="bad"):
        await asyncio.wrap_future(futures[1])
    with pytest.raises(TaskCancelledError):
        futures[2].result(PATIENCE_S)
    assert good.future().result(0) == 2


# aioray.wait


async def test_wait_is_awaited_in_a_loop(cluster: Cluster) -> None:
    gate = Gate.remote()
    slow, fast = gate.passed.remote(), double.remote(1)
    assert await aioray.wait([slow, fast]) == ([fast], [slow])
    assert await aioray.wait([slow, fast], num_returns=2, timeout=0.01) == ([fast], [slow])
    assert await aioray.wait([slow], timeout=0) == ([], [slow])
    assert callbacks_of(slow) == 0
    await gate.open.remote()
    assert await aioray.wait([slow, fast], num_returns=2) == ([slow, fast], [])


async def test_a_cancelled_wait_cancels_no_call(cluster: Cluster) -> None:
    gate = Gate.remote()
    ref = gate.passed.remote("alive")
    waiting = asyncio.ensure_future(aioray.wait([ref]))
    await until(lambda: callbacks_of(ref))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert callbacks_of(ref) == 0
    await gate.open.remote()
    assert await ref == "alive"


async def test_blocking_calls_in_the_loop_say_what_to_write_instead(cluster: Cluster) -> None:
    ref = Gate.remote().passed.remote()
    with pytest.raises(BlockingCallError, match="await ref"):
        aioray.get(ref)
    with pytest.raises(BlockingCallError, match=r"await aioray\.wait"):
        _, _ = aioray.wait([ref])
    with pytest.raises(BlockingCallError, match="async for"):
        for _ in aioray.as_completed([ref]):
            pass
    with pytest.raises(BlockingCallError, match="connect"):
        aioray.init()
    assert callbacks_of(ref) == 0
    done = double.remote(1)
    await done
    assert aioray.get(done) == 2  # there is nothing to wait for


# aioray.as_completed


async def test_as_completed_yields_refs_as_they_get_done(cluster: Cluster) -> None:
    gate = Gate.remote()
    slow, fast = gate.passed.remote("slow"), double.remote(1)
    seen = []
    async for ref in aioray.as_completed([slow, fast, slow]):
        seen.append(await ref)
        if len(seen) == 1:
            await gate.open.remote()
    assert seen == [2, "slow"]  # one that is given twice comes once
    assert [ref async for ref in aioray.as_completed([])] == []
    assert {ref async for ref in aioray.as_completed([slow, fast])} == {slow, fast}


async def test_as_completed_left_early_leaves_no_callbacks(cluster: Cluster) -> None:
    gate = Gate.remote()
    slow, fast = [gate.passed.remote() for _ in range(5)], double.remote(1)
    async for ref in aioray.as_completed([*slow, fast]):
        assert ref is fast
        assert callbacks_of(slow[0]) == 1
        break
    gc.collect()
    assert [callbacks_of(ref) for ref in slow] == [0] * 5
    await gate.open.remote()


async def test_as_completed_is_over_when_its_time_is(cluster: Cluster) -> None:
    """The time is that of all refs together; and it runs out in the waiting, never in the body of the loop."""
    gate = Gate.remote()
    slow, fast = gate.passed.remote(), double.remote(1)
    await fast
    seen = []

    async def take_it_slowly() -> None:
        async for ref in aioray.as_completed([slow, fast], timeout=0.05):
            seen.append(ref)
            await asyncio.sleep(0.06)

    with pytest.raises(TimeoutError, match="1 of 2"):
        await take_it_slowly()
    assert seen == [fast]
    assert callbacks_of(slow) == 0


def test_as_completed_without_a_loop(ray: Any) -> None:
    gate = Gate.remote()
    slow, fast = gate.passed.remote("slow"), double.remote(1)
    seen = []
    for ref in ray.as_completed([slow, fast, slow], timeout=PATIENCE_S):
        seen.append(ray.get(ref))
        if len(seen) == 1:
            ray.get(gate.open.remote())
    assert seen == [2, "slow"]


def test_as_completed_without_a_loop_keeps_to_its_time_and_cleans_up(ray: Any) -> None:
    gate = Gate.remote()
    slow, fast = gate.passed.remote(), double.remote(1)
    ray.get(fast)
    seen = []
    started = time.monotonic()
    with pytest.raises(TimeoutError, match="1 of 2"):
        seen.extend(ray.as_completed([slow, fast], timeout=0.1))
    assert time.monotonic() - started < PATIENCE_S / 2
    assert seen == [fast]
    assert callbacks_of(slow) == 0
    for _ in ray.as_completed([slow, fast]):
        break
    assert callbacks_of(slow) == 0


# a cluster of init() in a loop


def test_refs_of_a_cluster_of_init_are_awaited_in_any_loop(ray: Any) -> None:
    """Whichever loop, and one after the other: asyncio, uvloop, in a thread of its own."""

    async def main() -> list[int]:
        assert await double.remote(1) == 2
        with pytest.raises(ValueError, match="no"):
            await fail.remote("no")
        done, rest = await aioray.wait([double.remote(x) for x in range(3)], num_returns=3)
        assert (len(done), rest) == (3, [])
        assert len([ref async for ref in aioray.as_completed([double.remote(x) for x in range(3)])]) == 3
        return await asyncio.gather(*(double.remote(x) for x in range(100)))

    for run in (asyncio.run, uvloop.run):
        assert run(main()) == [2 * x for x in range(100)]
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(asyncio.run(main())))
    thread.start()
    assert ray.get([double.remote(x) for x in range(100)]) == [2 * x for x in range(100)]
    thread.join()
    assert results == [[2 * x for x in range(100)]]


def test_a_program_for_ray_may_block_in_a_loop_that_is_not_ours(ray: Any) -> None:
    async def main() -> None:
        assert ray.get(double.remote(1)) == 2
        ref = double.remote(2)
        ready, rest = ray.wait([ref])
        assert (ready, rest) == ([ref], [])
        assert ray.wait([ref])[0] == [ref]

    asyncio.run(main())


def test_a_cell_of_a_notebook_may_start_a_cluster_block_and_await(nothing_left: None) -> None:
    """Its event loop runs all the while."""

    async def cell() -> list[int]:
        with aioray.init(num_cpus=1):
            return [aioray.get(double.remote(1)), await double.remote(2)]

    assert asyncio.run(cell()) == [2, 4]


def test_a_ref_that_is_pending_when_its_loop_ends_can_be_had_in_the_next(ray: Any) -> None:
    gate = Gate.remote()
    ref = gate.passed.remote("late")

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(ref), 0.01)

    async def open_and_wait() -> Any:
        await gate.open.remote()
        return await ref

    asyncio.run(give_up())
    assert asyncio.run(open_and_wait()) == "late"


# threads beside the loop


async def test_threads_may_block_while_the_loop_does_the_io(cluster: Cluster) -> None:
    def in_a_thread(x: int) -> int:
        value = aioray.get(double.remote(x))
        ready, _ = aioray.wait([double.remote(x) for _ in range(3)], num_returns=3)
        with pytest.raises(GetTimeoutError):
            aioray.get(gate.passed.remote(), timeout=0.01)
        return value + len(ready)

    gate = Gate.remote()
    assert await asyncio.gather(*(asyncio.to_thread(in_a_thread, x) for x in range(8))) == [2 * x + 3 for x in range(8)]
    await asyncio.get_running_loop().shutdown_default_executor()


async def test_a_thread_hears_that_the_loop_cancelled_what_it_waits_for(cluster: Cluster) -> None:
    ref = Gate.remote().passed.remote()
    getting = asyncio.get_running_loop().run_in_executor(None, aioray.get, ref)
    await until(lambda: cluster.runtime.reactor._followers)
    ref.cancel()
    with pytest.raises(TaskCancelledError):
        await getting
    await asyncio.get_running_loop().shutdown_default_executor()


def test_a_thread_hears_that_another_cancelled_what_it_waits_for(ray: Any) -> None:
    """Both what was sent, and what waits for an argument, of which nothing is heard over any socket."""
    gate = Gate.remote()
    held = gate.passed.remote(1)
    for ref in (gate.passed.remote(), double.remote(held)):
        outcome: list[BaseException] = []

        def wait(ref: Any = ref, outcome: list[BaseException] = outcome) -> None:
            try:
                ray.get(ref)
            except TaskCancelledError as exc:
                outcome.append(exc)

        thread = threading.Thread(target=wait)
        thread.start()
        reactor = ref._runtime.reactor
        while reactor._leader != thread.ident:
            time.sleep(0.001)
        ray.cancel(ref)
        thread.join(PATIENCE_S)
        assert outcome
    ray.get(gate.open.remote())


async def test_a_ref_is_awaited_in_the_loop_of_another_thread(cluster: Cluster) -> None:
    ref = double.remote(5)

    async def there() -> int:
        return await ref

    assert await asyncio.to_thread(asyncio.run, there()) == 10
    await asyncio.get_running_loop().shutdown_default_executor()


# the loop stays free


async def test_the_loop_is_never_held_up_while_thousands_of_tasks_run(cluster: Cluster) -> None:
    gaps: list[float] = []
    stop = False

    async def heartbeat() -> None:
        last = time.perf_counter()
        while not stop:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    beating = asyncio.create_task(heartbeat())

    async def some(count: int) -> None:
        for _ in range(count // 50):
            await asyncio.gather(*(double.remote(x) for x in range(50)))

    await asyncio.gather(some(1000), some(1000))
    stop = True
    await beating
    gaps.sort()
    assert gaps[len(gaps) * 9 // 10] < 0.05
    assert gaps[-1] < 0.5


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_debug_mode_has_nothing_to_complain_about(
    nothing_left: None, run: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with aioray.connect(num_cpus=2):
            gate = Gate.remote()
            assert await asyncio.gather(*(double.remote(x) for x in range(50)))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(gate.passed.remote(), 0.01)
            await asyncio.wait([gate.passed.remote()], timeout=0.01)
            async for _ in aioray.as_completed([double.remote(1)]):
                pass
            await asyncio.to_thread(aioray.get, double.remote(1))

    def main_again() -> Coroutine[Any, Any, None]:
        return main()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(main_again(), debug=True)
        gc.collect()
    complaints = [record.getMessage() for record in caplog.records if record.levelname != "DEBUG"]
    # The first start imports things, and starts a process: that may take a tenth of a second.
    assert [each for each in complaints if "took" not in each] == []
