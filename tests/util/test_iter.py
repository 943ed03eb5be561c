"""util.iter: items that lie with actors, read by who blocks."""

from __future__ import annotations

import itertools
import os
from typing import Any

import pytest

import aioray
from aioray.exceptions import InvalidOptionError
from aioray.util import accelerators
from aioray.util import iter as parallel
from tests.api.support import eventually
from tests.util.classes import Counting

pytestmark = pytest.mark.usefixtures("shared_ray")


def double(x: int) -> int:
    return 2 * x


def task_of(x: int) -> tuple[int, str | None]:
    return x, aioray.get_runtime_context().get_task_id()


def test_items_are_dealt_out_in_turn_and_ranges_in_stretches() -> None:
    items = parallel.from_items("abcde", num_shards=2)
    assert items.num_shards() == 2
    assert [list(shard) for shard in items.shards()] == [["a", "c", "e"], ["b", "d"]]
    assert [list(shard) for shard in parallel.from_range(10, num_shards=3).shards()] == [
        [0, 1, 2],
        [3, 4, 5],
        [6, 7, 8, 9],
    ]
    assert list(items.gather_sync()) == ["a", "b", "c", "d", "e"]
    assert list(items.batch_across_shards()) == [["a", "b"], ["c", "d"], ["e"]]
    assert sorted(items.gather_async()) == ["a", "b", "c", "d", "e"]


def test_what_is_done_to_items_is_done_at_the_actors() -> None:
    numbers = parallel.from_range(8)
    assert numbers.for_each(double).filter(lambda x: x % 3).take(9) == [2, 8, 4, 10, 14]
    assert numbers.batch(3).take(9) == [[0, 1, 2], [4, 5, 6], [3], [7]]
    assert numbers.batch(3).flatten().take(3) == [0, 4, 1]
    assert numbers.combine(lambda x: [x] * (x % 2)).take(9) == [1, 5, 3, 7]
    assert numbers.transform(lambda items: itertools.accumulate(items)).take(9) == [0, 4, 1, 9, 3, 15, 6, 22]
    assert sorted(numbers.local_shuffle(3, seed=1).take(9)) == list(range(8))
    pids = parallel.from_range(4).for_each(lambda _: os.getpid()).take(4)
    assert len(set(pids)) == 2
    assert os.getpid() not in pids


def test_for_each_may_have_tasks_do_it() -> None:
    pids = parallel.from_range(6, 1).for_each(
        lambda x: (x, os.getpid()), max_concurrency=2, resources={"num_cpus": 0.5}
    )
    found = pids.take(9)
    assert sorted(x for x, _ in found) == list(range(6))
    with pytest.raises(InvalidOptionError, match="max_concurrency is 1"):
        parallel.from_range(6).for_each(double, resources={"num_cpus": 1})


def test_shards_are_chosen_united_and_dealt_out_anew() -> None:
    numbers = parallel.from_range(8)
    assert numbers.select_shards([1]).take(9) == [4, 5, 6, 7]
    assert numbers.union(parallel.from_items([10, 11], 1)).batch_across_shards().take(2) == [[0, 4, 10], [1, 5, 11]]
    doubled = numbers.for_each(double).repartition(3)
    assert doubled.num_shards() == 3
    for _ in range(2):  # and again
        assert [list(shard) for shard in doubled.shards()] == [[0, 8, 6, 14], [2, 10], [4, 12]]


def test_iterables_and_functions_that_give_one_may_repeat() -> None:
    endless = parallel.from_iterators([range(2), lambda: (x for x in "ab")], repeat=True)
    assert endless.take(7) == [0, "a", 1, "b", 0, "a", 1]
    assert parallel.from_iterators([[]], repeat=True).take(1) == []


def test_an_actor_of_ones_own_can_be_asked_other_things_meanwhile() -> None:
    """And what a reader leaves is forgotten when the reader is dropped."""
    actor = Counting.remote(5)
    reader = parallel.from_actors([actor]).gather_async(num_async=2)
    assert next(reader) == 0
    assert aioray.get(actor.passes.remote()) == 1
    assert next(reader) == 1
    del reader
    eventually(lambda: aioray.get(actor.passes.remote()) == 0)
    assert list(parallel.from_actors([actor]).get_shard(0, batch_ms=50)) == [0, 1, 2, 3, 4]
    assert aioray.get(actor.passes.remote()) == 0
    with pytest.raises(TypeError, match="no ParallelIteratorWorker"):
        parallel.from_actors([aioray.remote(Plain).remote()])


class Plain:
    pass


@aioray.remote
def read_there(shard: Any) -> list[int]:
    return list(shard)


def test_iterators_are_passed_to_tasks() -> None:
    numbers = parallel.from_range(6)
    shards = [shard.for_each(double) for shard in numbers.shards()]
    assert isinstance(numbers, parallel.ParallelIterator)
    assert isinstance(shards[0], parallel.LocalIterator)
    assert aioray.get([read_there.remote(shard) for shard in shards]) == [[0, 2, 4], [6, 8, 10]]
    assert aioray.get(read_there.remote(numbers.gather_sync())) == [0, 3, 1, 4, 2, 5]


def test_an_error_comes_where_its_item_would_and_ends_the_reading() -> None:
    inverse = parallel.from_items([1, 0, 2], 1).for_each(lambda x: 1 / x)
    for reader in (inverse.gather_sync(), inverse.gather_async(batch_ms=50, num_async=2)):
        assert next(reader) == 1.0
        with pytest.raises(ZeroDivisionError):
            next(reader)
        assert list(reader) == []
    assert inverse.take(1) == [1.0]


def test_items_of_an_actor_that_is_restarted_do_not_just_end() -> None:
    actor = Counting.options(max_restarts=1).remote(5)
    reader = parallel.from_actors([actor]).gather_sync()
    assert next(reader) == 0
    aioray.kill(actor, no_restart=False)
    with pytest.raises(RuntimeError, match="restarted"):
        next(reader)


def test_local_iterators_work_on_what_they_read(capsys: pytest.CaptureFixture[str]) -> None:
    reader = parallel.from_range(8).gather_sync().for_each(double).filter(lambda x: x != 8)
    assert reader.take(2) == [0, 2]
    assert next(reader) == 10  # it goes on
    assert reader.batch(3).take(2) == [[0, 2, 10], [4, 12, 6]]  # that begins anew
    assert reader.combine(lambda x: [x, x]).take(3) == [0, 0, 2]
    assert sorted(reader.shuffle(3, seed=1)) == [0, 2, 4, 6, 10, 12, 14]
    low, high = parallel.from_range(4).shards()
    assert list(low.union(high, deterministic=True)) == [0, 2, 1, 3]
    assert sorted(low.union(high)) == [0, 1, 2, 3]
    parallel.from_range(4).show(2)
    assert capsys.readouterr().out == "0\n2\n"


def test_what_cannot_be_is_refused_at_the_call() -> None:
    numbers = parallel.from_range(4)
    bad: list[tuple[Any, tuple[Any, ...]]] = [
        (parallel.from_items, ([1], 0)),
        (parallel.from_range, (-1,)),
        (numbers.batch, (0,)),
        (numbers.repartition, (0,)),
        (numbers.gather_async, (-1,)),
        (numbers.for_each, (3,)),
        (numbers.union, ([],)),
        (numbers.take, (-1,)),
        (iter, (numbers,)),
        (parallel.from_actors, ([3],)),
    ]
    for call, args in bad:
        with pytest.raises(TypeError):
            call(*args)


def test_accelerators_have_rays_names() -> None:
    assert (accelerators.NVIDIA_TESLA_V100, accelerators.NVIDIA_A100, accelerators.AWS_NEURON_CORE) == (
        "V100",
        "A100",
        "aws-neuron-core",
    )
