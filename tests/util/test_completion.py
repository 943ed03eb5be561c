"""as_completed and map_unordered without an event loop."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from aioray.exceptions import InvalidOptionError
from aioray.util import as_completed, map_unordered
from tests.util.classes import Gate, double_task, pass_gate


def test_values_come_in_the_order_in_which_they_are_done(shared_ray: Any) -> None:
    gate = Gate.remote()
    refs = [pass_gate.remote(gate, name) for name in "abc"]
    values = iter(as_completed(refs, chunk_size=1))
    for name in "bca":
        shared_ray.get(gate.open.remote(name))
        assert next(values) == name
    assert list(values) == []


def test_a_chunk_is_handed_out_when_all_of_it_is_done(shared_ray: Any) -> None:
    gate = Gate.remote()
    refs = [pass_gate.remote(gate, name) for name in "abcde"]
    shared_ray.get(gate.open.remote("b", "e"))
    values = iter(as_completed(refs, chunk_size=2))
    assert {next(values), next(values)} == {"b", "e"}
    shared_ray.get(gate.open.remote(*"acd"))
    assert sorted(values) == ["a", "c", "d"]


def test_refs_can_be_had_instead_of_values(shared_ray: Any) -> None:
    refs = [double_task.remote(number) for number in (1, -1, 3)]
    done = list(as_completed(refs, yield_obj_refs=True))
    assert set(done) == set(refs)
    assert set(map_unordered(double_task, [1], yield_obj_refs=True)) != set(refs)


def test_an_error_is_raised_where_the_value_would_come(shared_ray: Any) -> None:
    with pytest.raises(ValueError, match="-1 is negative"):
        list(as_completed([double_task.remote(-1)]))
    with pytest.raises(ValueError, match="-1 is negative"):
        list(map_unordered(double_task, [-1]))


def test_map_unordered_calls_the_function_for_each_item(shared_ray: Any) -> None:
    assert sorted(map_unordered(double_task, range(50), backpressure_size=7)) == [2 * n for n in range(50)]
    assert sorted(map_unordered(double_task, range(50), backpressure_size=None)) == [2 * n for n in range(50)]
    assert list(map_unordered(double_task, [])) == []


def test_items_may_be_endless_because_only_so_many_calls_are_under_way(shared_ray: Any) -> None:
    read: list[int] = []

    def endless() -> Any:
        for number in itertools.count():
            read.append(number)
            yield number

    values = iter(map_unordered(double_task, endless(), backpressure_size=4, chunk_size=2))
    taken = [next(values) for _ in range(6)]
    assert len(set(taken)) == 6
    assert len(read) <= 4 + 6


def test_bad_input_is_refused_where_it_is_given(shared_ray: Any) -> None:
    with pytest.raises(TypeError, match="item 0 is int"):
        as_completed([1])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="decorate it with @remote"):
        map_unordered(abs, [1])  # type: ignore[arg-type]
    with pytest.raises(InvalidOptionError, match="chunk_size"):
        as_completed([], chunk_size=0)
    with pytest.raises(InvalidOptionError, match="backpressure_size"):
        map_unordered(double_task, [], backpressure_size=0)
    with pytest.raises(InvalidOptionError, match="yield_obj_refs"):
        as_completed([], yield_obj_refs=1)  # type: ignore[arg-type]
