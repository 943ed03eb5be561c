"""Pool does what multiprocessing.Pool does."""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import threading
from typing import TYPE_CHECKING, Any

import pytest

from aioray.exceptions import ActorDiedError, InvalidOptionError, SerializationError
from aioray.util.multiprocessing import Pool, TimeoutError
from tests.processes.programs import run
from tests.util.classes import (
    Gate,
    die,
    own_pid,
    pass_the_gate,
    power,
    refuse,
    square,
    tell,
    what_was_told,
)

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator

SHORT_S = 0.01
PATIENCE_S = 10.0


@pytest.fixture(scope="module")
def pool(shared_ray: Any) -> Iterator[Pool]:
    with Pool(2) as pool:
        yield pool


# calls


def test_apply_calls_with_positional_and_named_arguments(pool: Pool) -> None:
    assert pool.apply(power, (3,)) == 9
    assert pool.apply(power, (3,), {"exponent": 3}) == 27
    assert pool.apply(power, kwargs={"base": 2, "exponent": 5}) == 32
    assert pool.apply_async(power, [2, 3]).get(timeout=PATIENCE_S) == 8


def test_map_and_starmap_keep_the_order_whatever_the_size_of_the_chunks(pool: Pool) -> None:
    for chunksize in (None, 1, 3, 100):
        assert pool.map(square, range(10), chunksize) == [n * n for n in range(10)]
        assert pool.starmap(power, [(2, n) for n in range(5)], chunksize) == [1, 2, 4, 8, 16]
    assert pool.map(square, []) == []
    assert pool.map_async(square, (n for n in range(3))).get() == [0, 1, 4]
    assert pool.starmap_async(power, [(3, 1)]).get() == [3]


def test_functions_without_a_name_can_be_called(pool: Pool) -> None:
    offset = 10
    assert pool.map(lambda number: number + offset, [1, 2]) == [11, 12]
    assert pool.map(functools.partial(power, exponent=3), [2]) == [8]


def test_imap_gives_results_one_by_one_in_order(pool: Pool) -> None:
    for chunksize in (1, 4):
        assert list(pool.imap(square, range(10), chunksize)) == [n * n for n in range(10)]
        assert sorted(pool.imap_unordered(square, range(10), chunksize)) == [n * n for n in range(10)]
    results = pool.imap(square, [5])
    assert results.next(timeout=PATIENCE_S) == 25
    with pytest.raises(StopIteration):
        results.next()


def test_imap_reads_endless_input_a_little_ahead(pool: Pool) -> None:
    assert list(itertools.islice(pool.imap(square, itertools.count()), 10)) == [n * n for n in range(10)]


def test_imap_unordered_gives_first_what_is_done_first(pool: Pool, shared_ray: Any) -> None:
    gate = Gate.remote()
    results = pool.imap_unordered(functools.partial(pass_the_gate, gate), "ab")
    for name in "ba":
        shared_ray.get(gate.open.remote(name))
        assert next(results) == name


# errors


def test_an_error_reaches_the_caller_as_what_it_is(pool: Pool) -> None:
    with pytest.raises(ValueError, match="-1 is negative"):
        pool.apply(square, (-1,))
    with pytest.raises(ValueError, match="-2 is negative"):
        pool.map(square, [1, -2, 3])
    failed = pool.apply_async(square, (-3,))
    failed.wait()
    assert failed.ready()
    assert not failed.successful()


def test_imap_goes_on_after_an_error(pool: Pool) -> None:
    results = pool.imap(square, [1, -2, 3])
    assert next(results) == 1
    with pytest.raises(ValueError, match="-2 is negative"):
        next(results)
    assert list(results) == [9]


def test_an_error_of_the_input_comes_in_its_turn(pool: Pool) -> None:
    def broken() -> Iterator[int]:
        yield 2
        raise KeyError("no more")

    results = pool.imap(square, broken())
    assert next(results) == 4
    with pytest.raises(KeyError):
        next(results)
    assert list(results) == []


def test_what_cannot_be_sent_is_refused(pool: Pool) -> None:
    lock = threading.Lock()
    with pytest.raises(SerializationError):
        pool.apply(lambda: lock)
    with pytest.raises(SerializationError):
        pool.map(square, [lock])


def test_a_process_that_dies_fails_its_call_and_is_replaced(pool: Pool) -> None:
    with pytest.raises(ActorDiedError):
        pool.apply(die)
    assert pool.map(square, range(10)) == [n * n for n in range(10)]


def test_time_limits_are_those_of_multiprocessing(pool: Pool, shared_ray: Any) -> None:
    gate = Gate.remote()
    waiting = pool.apply_async(pass_the_gate, (gate, 1))
    with pytest.raises(multiprocessing.TimeoutError):
        waiting.get(timeout=SHORT_S)
    with pytest.raises(TimeoutError):
        waiting.get(0)
    waiting.wait(SHORT_S)
    assert not waiting.ready()
    with pytest.raises(ValueError, match="not there yet"):
        waiting.successful()
    results = pool.imap(functools.partial(pass_the_gate, gate), [1])
    with pytest.raises(multiprocessing.TimeoutError):
        results.next(timeout=SHORT_S)
    shared_ray.get(gate.open.remote(1))
    assert (waiting.get(), waiting.successful(), results.next()) == (1, True, 1)


def test_callbacks_are_called_before_the_result_is_ready(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    results: list[Any] = []
    errors: list[BaseException] = []
    pool.apply_async(square, (3,), callback=results.append, error_callback=errors.append).get()
    pool.map_async(square, [1, 2], callback=results.append, error_callback=errors.append).get()
    with pytest.raises(ValueError, match="-1"):
        pool.starmap_async(square, [(-1,)], callback=results.append, error_callback=errors.append).get()
    assert results == [9, [1, 4]]
    assert [type(error).__mro__.index(ValueError) > 0 for error in errors] == [True]
    assert pool.apply_async(square, (3,), callback=lambda _: 1 // 0).get() == 9
    assert "ZeroDivisionError" in caplog.text


# processes


def test_an_initializer_runs_in_each_process(shared_ray: Any) -> None:
    with Pool(2, initializer=tell, initargs=("hello",)) as pool:
        assert pool.map(what_was_told, range(4), chunksize=1) == ["hello"] * 4


PROGRAM = """
import functools
import aioray as ray
from aioray.util.multiprocessing import Pool

base = None
unit = 1

def begin(value):
    global base
    base = value

def add(number):
    return base + number * unit

class Add:
    def __call__(self, number):
        return add(number)

ray.init(num_cpus=1)
with Pool(1, initializer=begin, initargs=(10,)) as pool:
    print(pool.map(add, range(3)), base)
    unit = 2
    print(pool.apply(functools.partial(add, 1)), pool.apply(lambda: base), pool.apply(Add(), (1,)))
"""


def test_an_initializer_sets_globals_of_the_main_program(tmp_path: pathlib.Path) -> None:
    """And what the program changes later is seen, too."""
    assert run(tmp_path, PROGRAM)[0] == "[10, 11, 12] None\n12 10 12\n"


def test_an_initializer_that_fails_is_the_error_of_every_call(shared_ray: Any) -> None:
    with Pool(1, refuse, ("not today",)) as pool:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="not today"):
                pool.apply(square, (1,))


def test_processes_are_replaced_after_so_many_calls(shared_ray: Any) -> None:
    with Pool(1, maxtasksperchild=2) as pool:
        pids = [pool.apply(own_pid) for _ in range(5)]
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4]


def test_there_are_as_many_processes_as_cpus(shared_ray: Any) -> None:
    with Pool() as pool:
        assert repr(pool) == "<Pool of 2 processes, running>"
    assert repr(pool) == "<Pool of 2 processes, terminated>"


def test_the_processes_take_options_of_actors(shared_ray: Any) -> None:
    with Pool(1, ray_remote_args={"num_cpus": 2}) as pool:
        pool.apply(square, (1,))
        assert shared_ray.available_resources().get("CPU", 0) == 0
    with pytest.raises(InvalidOptionError, match="num_cups"):
        Pool(1, ray_remote_args={"num_cups": 2})


# the end


def test_close_and_join_wait_for_what_was_given(shared_ray: Any) -> None:
    pool = Pool(1)
    with pytest.raises(ValueError, match="still running"):
        pool.join()
    results = pool.map_async(square, range(20), chunksize=1)
    lazy = pool.imap(square, range(20))
    pool.close()
    pool.join()
    assert results.ready()
    assert results.get() == list(lazy) == [n * n for n in range(20)]
    for call in (lambda: pool.apply(square, (1,)), lambda: pool.imap(square, []), pool.__enter__):
        with pytest.raises(ValueError, match="not running"):
            call()
    pool.close()
    pool.terminate()
    pool.join()


def test_terminate_ends_what_is_under_way(shared_ray: Any) -> None:
    gate = Gate.remote()
    pool = Pool(1)
    waiting = pool.apply_async(pass_the_gate, (gate, 1))
    queued = pool.map_async(square, [1])
    shared_ray.get(gate.here.remote(1))
    pool.terminate()
    pool.join()
    for result in (waiting, queued):
        with pytest.raises(RuntimeError, match="terminated"):
            result.get()


def test_a_pool_that_is_forgotten_ends_and_its_results_keep_it(shared_ray: Any) -> None:
    assert Pool(1).map_async(square, [2]).get() == [4]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"processes": 0}, "processes"),
        ({"processes": 1.5}, "processes"),
        ({"maxtasksperchild": 0}, "maxtasksperchild"),
        ({"context": "spawn"}, "context"),
        ({"ray_remote_args": 5}, "ray_remote_args"),
        ({"initializer": 5}, "initializer"),
    ],
)
def test_bad_options_are_refused(shared_ray: Any, options: dict[str, Any], named: str) -> None:
    with pytest.raises((InvalidOptionError, TypeError), match=named):
        Pool(**options)


def test_bad_calls_are_refused(pool: Pool) -> None:
    with pytest.raises(TypeError, match="calls functions, not int"):
        pool.apply(5)  # type: ignore[arg-type]
    with pytest.raises(InvalidOptionError, match="chunksize"):
        pool.map(square, [1], chunksize=0)
    with pytest.raises(InvalidOptionError, match="chunksize"):
        pool.imap(square, [1], chunksize=0)
    with pytest.raises(TypeError, match="give one of them"):
        pool.apply(power, (1,), {"exponent": 1}, kwargs={"exponent": 1})
    with pytest.raises(InvalidOptionError, match="timeout"):
        pool.apply_async(square, (1,)).get(timeout=-1)
