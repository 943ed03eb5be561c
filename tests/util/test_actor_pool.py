"""ActorPool: values in, results out, whatever becomes of single calls and actors."""

from __future__ import annotations

from typing import Any

import pytest

import aioray
from aioray.exceptions import ActorDiedError, InvalidOptionError
from aioray.util import ActorPool
from tests.util.classes import Doubler, Gate

PATIENCE_S = 10.0


def double(actor: Any, number: int) -> Any:
    return actor.double.remote(number)


@pytest.fixture
def pool(shared_ray: Any) -> ActorPool:
    return ActorPool([Doubler.remote(), Doubler.remote()])


def test_map_gives_the_results_in_the_order_of_the_values(pool: ActorPool) -> None:
    assert list(pool.map(double, range(10))) == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]
    assert not pool.has_next()


def test_the_first_result_can_be_taken_with_next(pool: ActorPool) -> None:
    assert next(pool.map(double, [4, 5])) == 8


def test_map_unordered_gives_first_what_is_done_first(pool: ActorPool, shared_ray: Any) -> None:
    """
    1. two calls wait at the gate, 5 and 6
    2. 6 may pass: it comes first, and its actor takes 7
    3. 7 may pass: it comes next, and then 5
    """
    gate = Gate.remote()
    results = pool.map_unordered(lambda actor, number: actor.double_later.remote(gate, number), [5, 6, 7])
    shared_ray.get(gate.open.remote(6))
    assert next(results) == 12
    shared_ray.get(gate.open.remote(7))
    assert next(results) == 14
    shared_ray.get(gate.open.remote(5))
    assert list(results) == [10]


def test_a_call_that_waits_begins_while_somebody_waits_for_an_earlier_one(pool: ActorPool, shared_ray: Any) -> None:
    gate = Gate.remote()
    results = pool.map(lambda actor, number: actor.double_later.remote(gate, number), [1, 2, 3])
    shared_ray.get(gate.open.remote(2))
    opener = open_when_here.remote(gate, 3, 1, 3)  # 3 comes to the gate though nobody has taken the result of 1
    assert list(results) == [2, 4, 6]
    shared_ray.get(opener)


@aioray.remote(num_cpus=0)
def open_when_here(gate: Any, count: int, *names: int) -> None:
    aioray.get(gate.here.remote(count))
    aioray.get(gate.open.remote(*names))


def test_a_failing_call_raises_where_its_result_is_read_and_the_pool_goes_on(pool: ActorPool) -> None:
    pool.submit(double, 1)
    pool.submit(double, -1)
    pool.submit(double, 3)
    assert pool.get_next() == 2
    with pytest.raises(ValueError, match="-1 is negative"):
        pool.get_next()
    assert pool.get_next() == 6
    with pytest.raises(StopIteration):
        pool.get_next()
    assert pool.has_free()


def test_ordered_and_unordered_results_can_be_mixed(pool: ActorPool) -> None:
    for number in range(4):
        pool.submit(double, number)
    taken = [pool.get_next_unordered(), pool.get_next(), pool.get_next_unordered(), pool.get_next()]
    assert sorted(taken) == [0, 2, 4, 6]


def test_a_late_result_may_be_waited_for_again_or_dropped(pool: ActorPool, shared_ray: Any) -> None:
    gate = Gate.remote()
    pool.submit(lambda actor, number: actor.double_later.remote(gate, number), 1)
    with pytest.raises(TimeoutError, match=r"not there after 0\.01 s"):
        pool.get_next(timeout=0.01)
    assert pool.has_next()
    with pytest.raises(TimeoutError, match="dropped"):
        pool.get_next(timeout=0.01, ignore_if_timedout=True)
    assert not pool.has_next()
    shared_ray.get(gate.open.remote(1))
    pool.submit(double, 4)
    assert pool.get_next(timeout=PATIENCE_S) == 8


def test_an_actor_can_be_taken_out_and_put_back(pool: ActorPool) -> None:
    first = pool.pop_idle()
    second = pool.pop_idle()
    assert first is not None
    assert second is not None
    assert pool.pop_idle() is None
    pool.submit(double, 2)
    assert not pool.has_free()
    pool.push(first)
    assert pool.get_next() == 4
    with pytest.raises(ValueError, match="in this pool already"):
        pool.push(first)


def test_a_new_map_drops_what_an_earlier_one_left(pool: ActorPool) -> None:
    pool.map(double, [1, 2, 3, 4])
    assert list(pool.map(double, [10, 20])) == [20, 40]


def test_what_the_function_raises_leaves_the_actor_free(pool: ActorPool) -> None:
    def wrong(actor: Any, number: int) -> Any:
        raise KeyError(number)

    with pytest.raises(KeyError):
        pool.submit(wrong, 1)
    with pytest.raises(TypeError, match="must return a ref, not int"):
        pool.submit(lambda actor, number: number, 1)  # type: ignore[arg-type,return-value]
    for number in (1, 2):
        pool.submit(double, number)
    pool.submit(wrong, 3)  # no actor is free for it now
    pool.submit(double, 4)
    assert [pool.get_next(), pool.get_next()] == [2, 4]
    with pytest.raises(KeyError):
        pool.get_next()
    assert pool.get_next() == 8


def test_an_actor_that_died_is_left_out_and_the_others_do_its_share(pool: ActorPool) -> None:
    pool.submit(lambda actor, _: actor.die.remote(), None)
    for number in range(5):
        pool.submit(double, number)
    with pytest.raises(ActorDiedError):
        pool.get_next()
    assert [pool.get_next() for _ in range(5)] == [0, 2, 4, 6, 8]


def test_when_the_last_actor_died_what_waits_fails_instead_of_waiting_for_ever(shared_ray: Any) -> None:
    pool = ActorPool([Doubler.remote()])
    pool.submit(lambda actor, _: actor.die.remote(), None)
    pool.submit(double, 1)
    for _ in range(2):
        with pytest.raises(ActorDiedError):
            pool.get_next()
    pool.submit(double, 2)
    with pytest.raises(RuntimeError, match="no actor left"):
        pool.get_next()
    pool.push(Doubler.remote())
    assert pool.get_next() == 4


def test_bad_input_is_refused_where_it_is_given(pool: ActorPool) -> None:
    with pytest.raises(TypeError, match="actor handles, not of int"):
        ActorPool([1])  # type: ignore[list-item]
    pool.submit(double, 1)
    for timeout in (-1, float("nan"), "1", True):
        with pytest.raises(InvalidOptionError, match="timeout"):
            pool.get_next(timeout=timeout)  # type: ignore[arg-type]
    with pytest.raises(InvalidOptionError, match="ignore_if_timedout"):
        pool.get_next(ignore_if_timedout=1)  # type: ignore[arg-type]
