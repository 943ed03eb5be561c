"""Compiled graphs: actors that pass values to each other, pass after pass."""

from __future__ import annotations

import asyncio
import gc
import os
import pathlib
import signal
import threading
import time
from typing import Any

import numpy as np
import pytest

import aioray
from aioray.dag import CompiledDAG, CompiledDAGRef, DAGContext, InputNode, MultiOutputNode
from aioray.exceptions import (
    ActorDiedError,
    GetTimeoutError,
    InvalidOptionError,
    RayCgraphCapacityExceeded,
    RayChannelError,
    RayChannelTimeoutError,
    RayTaskError,
    SerializationError,
    TaskCancelledError,
)
from tests.api.support import eventually


class Adder:
    def __init__(self, n: int = 0) -> None:
        self.n = n
        self.kept: list[Any] = []

    def add(self, x: Any) -> Any:
        return x + self.n

    def both(self, a: Any, b: Any = 0, *, c: Any = 0) -> Any:
        return a, b, c

    def keep(self, x: Any) -> int:
        self.kept.append(x)
        return len(self.kept)

    def kept_sums(self) -> list[int]:
        return [int(each.sum()) for each in self.kept]

    def fail(self, x: Any) -> Any:
        if x < 0:
            raise ValueError(f"bad {x}")
        return x

    def die(self, x: Any) -> Any:
        if x < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    def double(self, x: Any) -> Any:
        return x * 2

    def wait_for(self, path: Any) -> int:
        while not path.exists():
            time.sleep(0.005)
        return 1

    def local(self, x: Any) -> Any:
        return lambda: x if x else (yield)

    def ref(self, x: Any) -> Any:
        return [aioray.put(x)]

    def deref(self, refs: Any) -> Any:
        return aioray.get(refs[0])

    def who(self, x: Any) -> Any:
        return aioray.get_runtime_context().get_actor_id()

    def pid(self) -> int:
        return os.getpid()

    def count(self) -> int:
        self.n += 1
        return self.n

    def numbers(self, x: int) -> Any:
        yield from range(x)

    def exit(self, x: Any) -> Any:
        aioray.actor.exit_actor()


class AsyncAdder:
    def __init__(self, n: int = 0) -> None:
        self.n = n
        self.event = asyncio.Event()

    async def add(self, x: Any) -> Any:
        await asyncio.sleep(0)
        return x + self.n

    def sync_add(self, x: Any) -> Any:
        return x + self.n

    async def fail(self, x: Any) -> Any:
        raise KeyError(x)

    async def until_open(self, x: Any) -> Any:
        await self.event.wait()
        return x

    async def open(self) -> None:
        self.event.set()


remote_adder = aioray.remote(Adder)
remote_async = aioray.remote(AsyncAdder)


def chain(*nodes: Any) -> Any:
    """A graph in which each bound method takes what the one before made."""
    with InputNode() as x:
        graph: Any = x
        for method in nodes:
            graph = method.bind(graph)
    return graph


KINDS = [
    pytest.param(remote_adder, id="sync"),
    pytest.param(remote_adder.options(max_concurrency=4), id="threaded"),
    pytest.param(remote_async, id="async"),
    pytest.param(remote_async.options(isolation="shared"), id="light"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_chain_of_actors_gives_what_it_gives_uncompiled(ray: Any, kind: Any) -> None:
    actors = [kind.remote(10**at) for at in range(3)]
    graph = chain(*(actor.add for actor in actors))
    compiled = graph.experimental_compile()
    assert isinstance(compiled, CompiledDAG)
    refs = [compiled.execute(at) for at in range(5)]
    assert all(isinstance(ref, CompiledDAGRef) for ref in refs)
    assert ray.get(list(reversed(refs))) == [115, 114, 113, 112, 111]  # and in any order
    assert ray.get(refs[0]) == 111
    assert ray.get(actors[0].add.remote(1)) == 2  # plain calls go on
    compiled.teardown()
    compiled.teardown()
    assert ray.get(graph.execute(0)) == 111


def test_sync_methods_of_an_async_actor_run_in_its_threads(ray: Any) -> None:
    actors = [remote_async.remote(1) for _ in range(2)]
    compiled = chain(*(actor.sync_add for actor in actors)).experimental_compile()
    assert ray.get([compiled.execute(at) for at in range(20)]) == list(range(2, 22))


async def test_passes_are_awaited(cluster: aioray.Cluster) -> None:
    actors = [remote_adder.remote(1), remote_async.remote(1), remote_adder.remote(1)]
    compiled = chain(*(actor.add for actor in actors)).experimental_compile(enable_asyncio=True)
    assert await compiled.execute(0) == 3
    assert await asyncio.gather(*[compiled.execute(at) for at in range(5)]) == [3, 4, 5, 6, 7]
    refs = [await compiled.execute_async(at) for at in range(50)]
    assert await asyncio.gather(*refs) == list(range(3, 53))
    done, others = await aioray.wait([compiled.execute(1)])
    assert (len(done), others) == (1, [])
    with pytest.raises(aioray.exceptions.BlockingCallError):
        aioray.get(compiled.execute(1))


def test_fan_out_and_fan_in_constants_names_and_parts_of_the_input(ray: Any) -> None:
    one, two, three = (remote_adder.remote(at) for at in (1, 2, 3))
    constant = ray.put([5])
    with InputNode() as x:
        left, right = one.add.bind(x[0]), two.add.bind(x.key)
        joined = three.both.bind(left, right, c=constant)
        graph = MultiOutputNode([joined, left, three.both.bind(right, 7), joined])
    compiled = graph.experimental_compile()
    for at in range(3):
        outputs = ray.get(compiled.execute(at, key=at * 10))
        left_value, right_value = at + 1, at * 10 + 2
        joined_value = (left_value, right_value, [5])
        assert outputs == [joined_value, left_value, (right_value, 7, 0), joined_value]
    with pytest.raises(TypeError, match="was not given 'key'"):
        compiled.execute(1, 2)
    assert "both" in compiled.visualize()


def test_a_call_takes_its_one_value_more_than_once_and_beside_constants(ray: Any) -> None:
    one, two = remote_adder.remote(), remote_adder.remote()
    with InputNode() as x:
        graph = two.both.bind(7, one.both.bind(x, x, c=5))
    compiled = graph.experimental_compile()
    for value in (1, "text", None, b"bytes", [1], "long" * 50_000):
        assert ray.get(compiled.execute(value)) == (7, (value, value, 5), 0)


def test_an_actor_may_have_several_calls_of_a_graph_in_a_circle_with_another(ray: Any) -> None:
    one, two = remote_adder.remote(1), remote_adder.remote(10)
    compiled = chain(one.add, two.add, one.add, one.add, two.add).experimental_compile()
    assert ray.get([compiled.execute(at) for at in range(10)]) == list(range(23, 33))


def test_a_graph_without_input_runs_when_it_is_executed_and_not_before(ray: Any) -> None:
    counter, adder = remote_adder.remote(0), remote_adder.remote(100)
    compiled = adder.add.bind(counter.count.bind()).experimental_compile()
    assert ray.get(counter.count.remote()) == 1
    assert ray.get(compiled.execute()) == 102
    assert ray.get(counter.count.remote()) == 3
    with pytest.raises(TypeError, match="no InputNode"):
        compiled.execute(1)


def test_actors_that_a_graph_creates(ray: Any) -> None:
    node = remote_adder.bind(5)
    compiled = chain(node.add, node.double).experimental_compile()
    assert ray.get(compiled.execute(1)) == 12
    assert ray.get(chain(node.who).experimental_compile().execute(1)) == node.execute()._actor_id


@pytest.mark.parametrize("kind", KINDS)
def test_large_arrays_are_passed_and_views_of_them_stay_as_they_are(ray: Any, kind: Any) -> None:
    actors = [kind.remote(1) for _ in range(3)]
    compiled = chain(*(actor.add for actor in actors)).experimental_compile()
    arrays = [ray.get(compiled.execute(np.full(1_000_000, at))) for at in range(20)]
    assert [int(array[0]) for array in arrays] == list(range(3, 23))
    assert all((array == array[0]).all() for array in arrays)
    compiled.teardown()
    del compiled
    assert all((array == at + 3).all() for at, array in enumerate(arrays))


def test_an_actor_may_keep_the_arrays_it_gets(ray: Any) -> None:
    one, two = remote_adder.remote(1), remote_adder.remote(0)
    with InputNode() as x:
        made = one.add.bind(x)
        graph = MultiOutputNode([two.keep.bind(made), one.keep.bind(made), made])
    compiled = graph.experimental_compile()
    for at in range(10):
        count_two, count_one, array = ray.get(compiled.execute(np.full(100_000, at)))
        assert (count_two, count_one, int(array[5])) == (at + 1, at + 1, at + 1)
        del array
    compiled.teardown()
    expected = [(at + 1) * 100_000 for at in range(10)]
    assert ray.get([two.kept_sums.remote(), one.kept_sums.remote()]) == [expected, expected]


def test_memory_is_free_again_after_each_pass(nothing_left: None) -> None:
    with aioray.init(num_cpus=2, object_store_memory=200 * 2**20):
        actors = [remote_adder.remote(1) for _ in range(2)]
        compiled = chain(*(actor.add for actor in actors)).experimental_compile()
        array = np.zeros(20 * 2**20, np.uint8)
        for _ in range(30):  # 60 MiB each
            assert aioray.get(compiled.execute(array))[-1] == 2


def test_memory_of_passes_that_are_cut_short_is_free_again(nothing_left: None) -> None:
    with aioray.init(num_cpus=2, object_store_memory=200 * 2**20):
        actors = [remote_adder.remote(1) for _ in range(3)]
        array = np.zeros(5 * 2**20, np.uint8)
        graph = chain(*(actor.add for actor in actors))
        for at in range(8):
            compiled = graph.experimental_compile()
            refs = [compiled.execute(array) for _ in range(5)]
            if at % 2:
                aioray.cancel(refs[3])
                assert aioray.get(refs[at % 3])[-1] == 3
            compiled.teardown()
            del refs
        aioray.get([actor.add.remote(0) for actor in actors])  # they are out of the last pass
        large = aioray.put(np.zeros(110 * 2**20, np.uint8))  # in one piece; it waits for room
        assert aioray.get(large)[-1] == 0


def test_values_with_refs_inside_are_passed(ray: Any) -> None:
    one, two = remote_adder.remote(), remote_adder.remote()
    compiled = chain(one.ref, two.deref).experimental_compile()
    assert ray.get([compiled.execute(at) for at in range(5)]) == [0, 1, 2, 3, 4]
    out = chain(one.ref, one.double).experimental_compile()
    refs = ray.get(out.execute("text"))
    gc.collect()
    assert ray.get(refs) == ["text", "text"]
    into = chain(two.deref).experimental_compile()
    assert ray.get(into.execute([ray.put(3)])) == 3


def test_an_error_goes_through_the_graph_and_the_graph_goes_on(ray: Any) -> None:
    one, two = remote_adder.remote(), remote_adder.remote()
    with InputNode() as x:
        graph = MultiOutputNode([two.add.bind(one.fail.bind(x)), two.double.bind(x)])
    compiled = graph.experimental_compile()
    good, bad, again = compiled.execute(1), compiled.execute(-1), compiled.execute(2)
    assert ray.get(good) == [1, 2]
    with pytest.raises(ValueError, match="bad -1") as caught:
        ray.get(bad[0])
    assert isinstance(caught.value, RayTaskError)
    # Its frames are the user's: those of the thread it ran in are not.
    assert [line for line in caught.value.traceback_str.splitlines() if "File" in line] == [
        line for line in caught.value.traceback_str.splitlines() if __file__ in line
    ]
    assert ray.get(bad[1]) == -2
    assert ray.get(again) == [2, 4]


async def test_an_error_of_an_async_actor_is_raised_by_the_await(cluster: aioray.Cluster) -> None:
    one, two = remote_async.remote(), remote_adder.remote()
    compiled = chain(one.fail, two.add).experimental_compile()
    for at in range(3):
        with pytest.raises(KeyError, match=str(at)):
            await compiled.execute(at)


def test_what_cannot_be_sent_is_the_pass_s_failure(ray: Any) -> None:
    one, two = remote_adder.remote(), remote_adder.remote()
    compiled = chain(one.local, two.add).experimental_compile()
    with pytest.raises(SerializationError):
        compiled.execute(threading.Lock())
    with pytest.raises(TypeError):
        ray.get(compiled.execute(1))
    assert ray.get(chain(one.add).experimental_compile().execute(3)) == 3


def test_passes_wait_for_room_and_say_so_when_there_is_none(ray: Any, tmp_path: pathlib.Path) -> None:
    one = remote_adder.remote()
    compiled = chain(one.wait_for).experimental_compile(_max_inflight_executions=2, _submit_timeout=0.05)
    refs = [compiled.execute(tmp_path / "go") for _ in range(2)]
    with pytest.raises(RayCgraphCapacityExceeded, match=r"2 passes .* under way after 0.05 s, _max_inflight_exec"):
        compiled.execute(tmp_path / "go")
    with pytest.raises(RayChannelTimeoutError) as caught:
        ray.get(refs[0], timeout=0.01)
    assert isinstance(caught.value, GetTimeoutError)
    (tmp_path / "go").touch()
    assert ray.get(refs) == [1, 1]
    assert ray.get([compiled.execute(tmp_path / "go") for _ in range(20)]) == [1] * 20


async def test_a_loop_is_not_stopped_by_a_lack_of_room(cluster: aioray.Cluster) -> None:
    one = remote_async.remote()
    compiled = chain(one.until_open).experimental_compile(_max_inflight_executions=1, _submit_timeout=0.05)
    ref = compiled.execute(1)
    with pytest.raises(RayCgraphCapacityExceeded, match="1 passes"):
        compiled.execute(2)
    with pytest.raises(RayCgraphCapacityExceeded, match=r"after 0\.05 s"):
        await compiled.execute_async(2)
    patient = chain(one.until_open).experimental_compile(_max_inflight_executions=1)
    first = patient.execute(3)
    waiting = asyncio.create_task(patient.execute_async(4))
    await one.open.remote()
    assert await (await waiting) == 4
    assert (await ref, await first) == (1, 3)


async def test_a_pass_that_is_cancelled_goes_through_and_its_result_is_dropped(cluster: aioray.Cluster) -> None:
    one = remote_async.remote()
    compiled = chain(one.until_open).experimental_compile()
    first, second = compiled.execute(np.ones(100_000)), compiled.execute(2)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(first, 0.05)
    aioray.cancel(second)
    with pytest.raises(TaskCancelledError):
        await second
    await one.open.remote()
    assert await compiled.execute(3) == 3


async def test_an_await_that_is_cancelled_while_it_looks_for_its_value_cancels_the_pass(
    cluster: aioray.Cluster,
) -> None:
    one = remote_async.remote()
    compiled = chain(one.until_open).experimental_compile()
    ref = compiled.execute(1)

    async def wait() -> Any:
        return await ref

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ref.cancelled()
    await one.open.remote()
    assert await compiled.execute(3) == 3


def is_stopped(thread: pathlib.Path) -> bool:
    return (thread / "stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.mark.parametrize("at", [0, 1, 2])
def test_who_waits_hears_when_an_actor_dies(ray: Any, at: int) -> None:
    actors = [remote_adder.remote() for _ in range(3)]
    compiled = chain(*(actor.add for actor in actors)).experimental_compile()
    assert ray.get(compiled.execute(1)) == 1
    pid = ray.get(actors[at].pid.remote())
    os.kill(pid, signal.SIGSTOP)  # so that both passes are under way when it dies
    eventually(lambda: all(is_stopped(thread) for thread in pathlib.Path(f"/proc/{pid}/task").iterdir()))
    refs = [compiled.execute(1), compiled.execute(1)]
    os.kill(pid, signal.SIGKILL)
    for ref in refs:
        with pytest.raises(ActorDiedError):
            ray.get(ref, timeout=20)
    with pytest.raises(ActorDiedError):
        compiled.execute(1)
    compiled.teardown()
    others = [actor for index, actor in enumerate(actors) if index != at]
    assert ray.get([actor.add.remote(1) for actor in others]) == [1, 1]
    again = chain(*(actor.add for actor in others)).experimental_compile()
    assert ray.get(again.execute(4)) == 4
    assert pid not in ray.get([actor.pid.remote() for actor in others])


def test_an_actor_that_exits_or_is_killed_ends_its_graphs(ray: Any) -> None:
    one, two, three = (remote_adder.remote() for _ in range(3))
    exiting = chain(one.add, two.exit).experimental_compile()
    with pytest.raises(ActorDiedError, match="on purpose"):
        ray.get(exiting.execute(1), timeout=20)
    compiled = chain(one.add, three.add).experimental_compile()
    ray.kill(three)
    with pytest.raises(ActorDiedError, match="killed"):
        ray.get(compiled.execute(1), timeout=20)
    with pytest.raises(ActorDiedError):
        chain(one.add, three.add).experimental_compile()


class Stillborn:
    def __init__(self) -> None:
        raise LookupError("no such thing")

    def add(self, x: Any) -> Any:
        return x


def test_compiling_fails_with_what_keeps_an_actor_from_taking_part(ray: Any, tmp_path: pathlib.Path) -> None:
    adder = remote_adder.options(max_pending_calls=1).remote()
    pending = adder.wait_for.remote(tmp_path / "go")
    with pytest.raises(aioray.exceptions.PendingCallsLimitExceeded):
        chain(adder.add).experimental_compile()
    (tmp_path / "go").touch()
    assert ray.get(pending) == 1
    assert ray.get(chain(adder.add).experimental_compile().execute(1)) == 1
    with pytest.raises(LookupError, match="no such thing"):
        chain(ray.remote(Stillborn).remote().add).experimental_compile()
    one = remote_adder.remote()
    with InputNode() as x:
        graph = one.both.bind(x, threading.Lock())
    with pytest.raises(SerializationError):
        graph.experimental_compile()
    assert ray.get(chain(one.add).experimental_compile().execute(1)) == 1


async def test_in_a_loop_what_keeps_an_actor_from_taking_part_is_raised_by_passes(cluster: aioray.Cluster) -> None:
    compiled = chain(aioray.remote(Stillborn).remote().add).experimental_compile()
    ref = compiled.execute(1)
    with pytest.raises(LookupError, match="no such thing"):
        await ref
    with pytest.raises(LookupError, match="no such thing"):
        compiled.execute(1)


def test_an_actor_that_is_restarted_has_to_be_compiled_again(ray: Any) -> None:
    one = remote_adder.options(max_restarts=1).remote()
    compiled = chain(one.die).experimental_compile()
    with pytest.raises(ActorDiedError, match="compiled again"):
        ray.get(compiled.execute(-1), timeout=20)
    assert ray.get(chain(one.add).experimental_compile().execute(2)) == 2


class Saved:
    def __init__(self) -> None:
        self.total = 0

    def add(self, x: int) -> int:
        self.total += x
        return self.total

    @aioray.checkpoint(every_calls=1)
    def __aioray_checkpoint__(self) -> int:
        return self.total

    def __aioray_restore__(self, total: int) -> None:
        self.total = total


class SavedAsync(Saved):
    async def add(self, x: int) -> int:  # type: ignore[override]
        return super().add(x)


@pytest.mark.parametrize("cls", [Saved, SavedAsync])
def test_calls_of_a_graph_count_for_checkpoints(ray: Any, cls: type) -> None:
    actor = ray.remote(cls).options(max_restarts=1).remote()
    compiled = chain(actor.add).experimental_compile()
    assert ray.get([compiled.execute(at) for at in range(5)]) == [0, 1, 3, 6, 10]
    ray.kill(actor, no_restart=False)
    assert ray.get(actor.add.remote(5)) == 15


def test_a_graph_that_is_torn_down_or_dropped_lets_its_actors_go(ray: Any, tmp_path: pathlib.Path) -> None:
    one, two = remote_adder.remote(), remote_adder.remote()
    compiled = chain(one.wait_for, two.add).experimental_compile()
    ref = compiled.execute(tmp_path / "go")
    compiled.teardown()
    with pytest.raises(RayChannelError, match="torn down"):
        ray.get(ref)
    with pytest.raises(RayChannelError, match="torn down"):
        compiled.execute(1)
    (tmp_path / "go").touch()
    assert ray.get([one.add.remote(1), two.add.remote(2)]) == [1, 2]
    ref = chain(one.add, two.add).experimental_compile().execute(5)  # dropped, with a pass under way
    assert ray.get(ref) == 5
    killing = chain(one.add).experimental_compile()
    killing.teardown(kill_actors=True)
    with pytest.raises(ActorDiedError):
        ray.get(one.add.remote(1))


def test_a_result_is_an_argument_of_other_calls(ray: Any) -> None:
    one, two = remote_adder.remote(1), remote_adder.remote(10)
    compiled = chain(one.add).experimental_compile()
    assert ray.get(two.add.remote(compiled.execute(1))) == 12
    assert int(ray.get(two.add.remote(compiled.execute(np.zeros(100_000))))[7]) == 11


def test_a_graph_can_be_compiled_inside_of_a_call(ray: Any) -> None:
    def inside(actors: list[Any]) -> int:
        compiled = chain(*(actor.add for actor in actors)).experimental_compile()
        found: int = sum(aioray.get([compiled.execute(at) for at in range(3)]))
        return found

    actors = [remote_adder.remote(1) for _ in range(2)]
    assert ray.get(ray.remote(inside).remote(actors)) == 9


def test_one_call_of_an_actor_runs_at_a_time_whoever_made_it(ray: Any) -> None:
    class Alone:
        def __init__(self) -> None:
            self.inside = 0

        def enter(self, x: Any) -> int:
            self.inside += 1
            time.sleep(0.0005)
            seen, self.inside = self.inside, self.inside - 1
            return seen

    alone = ray.remote(Alone).remote()
    compiled = chain(alone.enter).experimental_compile()
    refs = [each for at in range(50) for each in (alone.enter.remote(at), compiled.execute(at))]
    assert set(ray.get(refs)) == {1}


def test_a_cluster_that_ends_under_a_graph(nothing_left: None) -> None:
    with aioray.init(num_cpus=1):
        compiled = chain(remote_adder.remote().add).experimental_compile()
        assert aioray.get(compiled.execute(1)) == 1
    with pytest.raises(aioray.exceptions.RaySystemError):
        compiled.execute(1)
    compiled.teardown()


def test_what_cannot_be_compiled_is_refused(ray: Any) -> None:
    adder = remote_adder.remote()
    with InputNode() as x:
        task = ray.remote(Adder.double).bind(None, x)
        with pytest.raises(ValueError, match="only methods of actors"):
            adder.add.bind(task).experimental_compile()
        with pytest.raises(ValueError, match="ends with methods of actors"):
            x.experimental_compile()
        with pytest.raises(ValueError, match="has a node in it"):
            adder.add.bind([x]).experimental_compile()
        with pytest.raises(ValueError, match=r"numbers\(\) returns several values"):
            adder.numbers.bind(x).experimental_compile()
        with pytest.raises(InvalidOptionError, match=r"timeout=1\.0"):
            adder.add.options(timeout=1).bind(x).experimental_compile()
        graph = adder.add.bind(x)
    for name, value in (
        ("_max_inflight_executions", 0),
        ("_submit_timeout", -1),
        ("_buffer_size_bytes", "many"),
        ("enable_asyncio", 1),
        ("_overlap_gpu_communication", True),
        ("_max_buffered_results", 10),
        ("unknown", 1),
    ):
        with pytest.raises(InvalidOptionError, match=name):
            graph.experimental_compile(**{name: value})


def test_defaults_are_those_of_the_context(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    context = DAGContext.get_current()
    assert (context.submit_timeout, context.max_inflight_executions) == (10, 10)
    monkeypatch.setattr(context, "max_inflight_executions", 1)
    monkeypatch.setattr(context, "submit_timeout", 0)
    compiled = chain(remote_adder.remote().wait_for).experimental_compile()
    monkeypatch.setattr(context, "max_inflight_executions", "x")
    graph = chain(remote_adder.remote().add)
    with pytest.raises(InvalidOptionError, match="_max_inflight_executions"):
        graph.experimental_compile()
    assert "open" in repr(compiled)
