"""What is done to items: the same as lists would do it, whatever is put together."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioray.util.iter_steps import Batch, Filter, Flatten, ForEach, Pipeline, Shuffle

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aioray.util.iter_steps import MakeStep


def run(makers: list[MakeStep], items: Iterable[Any]) -> list[Any]:
    pipeline = Pipeline(makers)
    found = [out for item in items for out in pipeline.feed(item)]
    return found + list(pipeline.end())


@given(st.lists(st.integers()), st.integers(1, 5))
def test_batches_have_all_items_in_their_order_and_flatten_undoes_them(items: list[int], size: int) -> None:
    batches = run([functools.partial(Batch, size)], items)
    assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    assert run([functools.partial(Batch, size), Flatten], items) == items


@given(st.lists(st.integers()), st.integers(1, 5), st.integers(0, 3))
def test_a_shuffle_loses_nothing_and_is_the_same_for_the_same_seed(items: list[int], size: int, seed: int) -> None:
    step = functools.partial(Shuffle, size, seed)
    shuffled = run([step], items)
    assert sorted(shuffled) == sorted(items)
    assert run([step], items) == shuffled


def test_a_shuffle_keeps_back_no_more_than_its_size() -> None:
    step = Shuffle(3, seed=1)
    assert [len(list(step.feed(item))) for item in range(6)] == [0, 0, 0, 1, 1, 1]


@given(st.lists(st.integers(-9, 9)))
def test_steps_follow_each_other(items: list[int]) -> None:
    makers: list[MakeStep] = [
        functools.partial(Filter, lambda x: x > 0),
        functools.partial(ForEach, lambda x: [x] * x),
        Flatten,
        functools.partial(Batch, 2),
    ]
    flat = [x for x in items if x > 0 for _ in range(x)]
    assert run(makers, items) == [flat[at : at + 2] for at in range(0, len(flat), 2)]


def test_flatten_takes_no_more_of_an_endless_item_than_is_asked_for() -> None:
    assert list(itertools.islice(Pipeline([Flatten]).feed(itertools.count()), 3)) == [0, 1, 2]


def test_what_a_step_raises_comes_out() -> None:
    with pytest.raises(ZeroDivisionError):
        list(Pipeline([functools.partial(ForEach, lambda x: 1 / x)]).feed(0))
