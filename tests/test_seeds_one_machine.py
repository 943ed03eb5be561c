"""The programs of the documents that aioray set out from, those that need one machine, in our own words."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import aioray as ray
from tests.api.support import Meeting, started

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def laptop() -> Iterator[Any]:
    """As the documents have it: `init(num_cpus=2)`, yield, `shutdown()`; with two made-up resources besides."""
    with started(num_cpus=4, num_gpus=1, resources={"shelf0": 2, "shelf1": 2, "nvme": 1}):
        yield ray


# tasks


@ray.remote
def square(x: int) -> int:
    return x * x


def test_the_square_of_four(laptop: Any) -> None:
    ref = square.remote(4)
    assert ray.get(ref) == 16


def test_a_thousand_squares(laptop: Any) -> None:
    refs = [square.remote(n) for n in range(1000)]
    assert ray.get(refs) == [n * n for n in range(1000)]


def test_results_are_taken_as_they_arrive_ten_at_a_time(laptop: Any) -> None:
    pending = [square.remote(n) for n in range(95)]
    seen: list[int] = []
    while pending:
        ready, pending = ray.wait(pending, num_returns=min(10, len(pending)), timeout=5.0)
        assert 0 < len(ready) <= 10
        seen += [ray.get(ref) for ref in ready]
    assert sorted(seen) == [n * n for n in range(95)]


def test_a_first_call_doubles_ten_without_any_option(laptop: Any) -> None:
    @ray.remote
    def process_data(x: int) -> int:
        return x * 2

    assert ray.get(process_data.remote(10)) == 20


def test_a_task_that_trains_gets_its_cpus_and_its_gpu(laptop: Any) -> None:
    @ray.remote(num_cpus=4, num_gpus=1)
    def train(data: list[float]) -> tuple[float, dict[str, float]]:
        return sum(data), ray.available_resources()

    fitted, left = ray.get(train.remote([1.0, 2.0]))
    assert fitted == 3.0
    assert (left.get("CPU", 0.0), left.get("GPU", 0.0)) == (0.0, 0.0)


def test_one_call_asks_for_more_than_the_function_does(laptop: Any) -> None:
    @ray.remote(num_cpus=1)
    def free_cpus() -> float:
        return ray.available_resources()["CPU"]

    # At most: a worker that was just used may be kept for a moment.
    assert ray.get(free_cpus.remote()) <= 3
    assert ray.get(free_cpus.options(num_cpus=3).remote()) <= 1


def test_tasks_that_are_to_be_spread_run_on_one_machine_as_well(laptop: Any) -> None:
    @ray.remote(scheduling_strategy="SPREAD")
    def spread(n: int) -> int:
        return n

    assert ray.get([spread.remote(n) for n in range(100)]) == list(range(100))


def test_a_million_tiny_things_are_done_in_batches(laptop: Any) -> None:
    def tiny(x: int) -> int:
        return x + 1

    @ray.remote
    def batch(items: range) -> list[int]:
        return [tiny(x) for x in items]

    items = range(100_000)
    batches = [items[at : at + 1000] for at in range(0, len(items), 1000)]
    results = ray.get([batch.remote(each) for each in batches])
    assert [x for part in results for x in part] == list(range(1, 100_001))


# actors


def test_a_counter_counts_to_two(laptop: Any) -> None:
    class Counter:
        def __init__(self) -> None:
            self.value = 0

        def increment(self) -> int:
            self.value += 1
            return self.value

        def get(self) -> int:
            return self.value

    counter = ray.remote(Counter).remote()
    counter.increment.remote()
    counter.increment.remote()
    assert ray.get(counter.get.remote()) == 2


def test_a_model_server_answers_ten_at_a_time(laptop: Any, tmp_path: pathlib.Path) -> None:
    """The first nine calls wait for the tenth: with fewer at a time none would ever end."""

    class ModelServer:
        def __init__(self, factor: int) -> None:
            import threading

            self.factor = factor
            self.all_here = threading.Barrier(10)

        def predict(self, x: int) -> int:
            self.all_here.wait(20)
            return self.factor * x

    server = ray.remote(max_concurrency=10)(ModelServer).remote(3)
    assert ray.get([server.predict.remote(n) for n in range(10)]) == [3 * n for n in range(10)]


# objects


def test_a_large_array_is_put_once_and_passed_as_a_ref(laptop: Any) -> None:
    """Passed directly it is pickled for each call; both ways the tasks see the same numbers."""

    @ray.remote
    def process(data: Any, at: int) -> tuple[float, bool]:
        return float(data[at]), data.flags.owndata

    array = np.random.default_rng(1).standard_normal(1_000_000)
    ref = ray.put(array)
    once = ray.get([process.remote(ref, n) for n in range(100)])
    directly = ray.get([process.remote(array, n) for n in range(5)])
    assert [value for value, _ in once] == list(array[:100])
    assert [value for value, _ in directly] == list(array[:5])
    assert not any(copied for _, copied in once)


def test_the_sum_of_what_was_put_where_it_lies(laptop: Any) -> None:
    @ray.remote
    def process(data: Any) -> float:
        return float(data.sum())

    ref = ray.put(np.ones((100, 100, 100)))
    assert ray.get(process.remote(ref)) == 1e6


# custom resources


def test_the_early_form_of_a_call_with_a_resource_for_each(laptop: Any) -> None:
    @ray.remote
    def f(i: int) -> int:
        return i

    refs = [f._remote(args=[i], kwargs={}, resources={f"shelf{i}": 1}) for i in range(2)]
    assert ray.get(refs) == [0, 1]


def test_a_round_robin_over_resources(laptop: Any) -> None:
    @ray.remote
    def f(i: int) -> int:
        return i

    refs = [f._remote(args=[n], kwargs={}, resources={f"shelf{n % 2}": 1}) for n in range(1000)]
    assert ray.get(refs) == list(range(1000))


def test_what_the_cluster_has_and_what_of_it_is_free(laptop: Any) -> None:
    total, free = ray.cluster_resources(), ray.available_resources()
    for name, amount in {"CPU": 4.0, "GPU": 1.0, "shelf0": 2.0, "shelf1": 2.0}.items():
        assert total[name] == amount
        assert free[name] <= amount
    (node,) = ray.nodes()
    assert node["Resources"]["shelf1"] == 2.0


def test_a_task_for_fast_storage_goes_where_that_is(laptop: Any) -> None:
    @ray.remote(resources={"nvme": 1})
    def crunch(data: list[int]) -> int:
        return sum(data)

    assert ray.get([crunch.remote([n, n]) for n in range(10)]) == [2 * n for n in range(10)]


def test_a_writer_and_a_reader_meet_on_the_same_machine(laptop: Any, tmp_path: pathlib.Path) -> None:
    path, written = tmp_path / "message", Meeting(tmp_path / "written")

    def write() -> None:
        path.write_text("foo")
        written.here()

    def read() -> str:
        written.wait()
        return path.read_text()

    writer, reader = ray.remote(write), ray.remote(read)
    writer._remote(args=[], kwargs={}, resources={"shelf1": 1})
    ref = reader._remote(args=[], kwargs={}, resources={"shelf1": 1})
    assert ray.get(ref) == "foo"


def test_a_task_calls_the_actor_whose_handle_it_is_given(laptop: Any) -> None:
    class Echo:
        def method(self, i: int) -> int:
            return i

    @ray.remote
    def ask(i: int, echo: Any) -> int:
        return ray.get(echo.method.remote(i))  # type: ignore[no-any-return]

    echo = ray.remote(Echo)._remote(args=[], kwargs={}, resources={"shelf1": 1})
    assert ray.get(ask._remote(args=[1, echo], kwargs={}, resources={"shelf1": 1})) == 1


# last, for they need clusters of their own


def test_a_size_for_the_object_store() -> None:
    ray.shutdown()
    with started(num_cpus=1, object_store_memory=48 * 1024**2):
        assert ray.cluster_resources()["object_store_memory"] == 48 * 1024**2


def test_a_head_without_cpus_only_coordinates(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), started(num_cpus=0, num_gpus=0):
        ref = square.remote(3)
        assert ray.wait([ref], timeout=0.1) == ([], [ref])
        assert "CPU" in ray.explain(ref)


def test_a_tuned_cluster_takes_its_system_config() -> None:
    with started(num_cpus=1, _system_config={"lease_idle_ms": 30.0}):
        assert ray.get(square.remote(5)) == 25


def test_a_fixture_that_starts_and_ends_leaves_no_process() -> None:
    before = {int(pid) for pid in os.listdir("/proc") if pid.isdigit()}

    def context() -> Iterator[None]:
        ray.init(num_cpus=2)
        yield
        ray.shutdown()

    for _ in context():
        assert ray.get(square.remote(2)) == 4
        pids = set(ray.current.get().ask("pids"))
        assert pids - before
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
