import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioray_node.scheduling.resources import (
    UNIT,
    NodeResources,
    Resources,
    from_floats,
    in_words,
    to_floats,
    without_zeros,
)

demands = st.dictionaries(st.sampled_from(["CPU", "GPU", "memory"]), st.integers(0, 3 * UNIT))


def test_tenths_of_a_gpu_add_up_exactly() -> None:
    node = NodeResources(from_floats({"GPU": 0.3}))
    node.acquire(from_floats({"GPU": 0.1}))
    node.acquire(from_floats({"GPU": 0.2}))
    assert node.available == {"GPU": 0}
    node.release(from_floats({"GPU": 0.3}))
    assert node.as_floats() == {"GPU": 0.3}


def test_a_demand_that_does_not_fit_takes_nothing_at_all() -> None:
    node = NodeResources({"CPU": 4 * UNIT, "GPU": UNIT})
    with pytest.raises(ValueError, match="needs 1 CPU, 2 GPU, free are 4 CPU, 1 GPU"):
        node.acquire({"CPU": UNIT, "GPU": 2 * UNIT})
    assert node.available == node.total


def test_what_is_busy_now_may_fit_later_but_what_is_too_big_never_will() -> None:
    node = NodeResources({"CPU": 2 * UNIT})
    node.acquire({"CPU": 2 * UNIT})
    assert not node.fits({"CPU": UNIT})
    assert node.could_ever_fit({"CPU": 2 * UNIT})
    assert not node.could_ever_fit({"CPU": 2 * UNIT + 1})
    assert not node.could_ever_fit({"GPU": 1})


def test_a_worker_that_resumes_takes_more_than_there_is_and_zero_cpu_still_fits() -> None:
    node = NodeResources({"CPU": UNIT, "GPU": UNIT})
    node.acquire({"CPU": UNIT})
    node.acquire_forced({"CPU": UNIT})
    assert node.as_floats() == {"CPU": -1.0, "GPU": 1.0}
    assert node.fits({"CPU": 0, "GPU": UNIT})
    assert not node.fits({"CPU": 1})
    node.release({"CPU": 2 * UNIT})
    assert node.available == node.total


def test_giving_back_more_than_was_taken_is_refused_and_changes_nothing() -> None:
    node = NodeResources({"CPU": 2 * UNIT, "GPU": UNIT})
    node.acquire({"CPU": UNIT})
    with pytest.raises(ValueError, match="1 GPU came back that nobody had taken"):
        node.release({"CPU": UNIT, "GPU": UNIT})
    assert node.available == {"CPU": UNIT, "GPU": UNIT}


def test_missing_names_what_was_asked_and_what_the_node_has() -> None:
    node = NodeResources({"CPU": 2 * UNIT, "memory": 8 * UNIT})
    assert node.missing({"CPU": 8 * UNIT}) == "needs 8 CPU, this node has 2"
    assert (
        node.missing({"CPU": 25_000, "GPU": 1}) == "needs 2.5 CPU, this node has 2; needs 0.0001 GPU, this node has 0"
    )
    assert node.missing({"CPU": 2 * UNIT}) == ""


def test_words_for_memory_have_units_and_amounts_may_be_below_zero() -> None:
    assert in_words({"memory": 8 * 2**30 * UNIT, "CPU": -15_000}) == "8 GiB memory, -1.5 CPU"
    assert in_words({"memory": 3 * 2**20 // 2 * UNIT, "disk": 2048 * UNIT}) == "1.5 MiB memory, 2048 disk"
    assert in_words({"memory": 1023 * UNIT}) == "1023 memory"
    assert in_words({"memory": 5000 * 2**40 * UNIT}) == "5000 TiB memory"


def test_a_node_that_lacks_memory_says_so_in_units_and_exactly_where_it_is_close() -> None:
    node = NodeResources({"memory": 8 * 2**30 * UNIT})
    assert node.missing({"memory": 12 * 2**30 * UNIT}) == "needs 12 GiB memory, this node has 8 GiB"
    close = node.missing({"memory": (8 * 2**30 + 1) * UNIT})
    assert close == "needs 8589934593 memory, this node has 8589934592"
    assert in_words({}) == "nothing"


@pytest.mark.parametrize("amount", [-1, math.inf, math.nan, 0.00001])
def test_amounts_that_cannot_be_counted_are_refused(amount: float) -> None:
    with pytest.raises(ValueError, match="GPU="):
        from_floats({"CPU": 1, "GPU": amount})


def test_zeros_are_left_out_and_negative_demands_refused() -> None:
    assert from_floats({"CPU": 0, "GPU": 0.5}) == without_zeros({"CPU": 0, "GPU": 5_000}) == {"GPU": 5_000}
    with pytest.raises(ValueError, match="cannot be negative: CPU=-1"):
        NodeResources({"CPU": 1}).acquire({"CPU": -1})


@given(demands)
def test_floats_and_back_is_the_same_demand(demand: Resources) -> None:
    assert from_floats(to_floats(demand)) == without_zeros(demand)


@given(demands, st.lists(demands))
def test_available_and_taken_are_the_total_and_all_comes_back(total: Resources, wanted: list[Resources]) -> None:
    node = NodeResources(total)
    taken = []
    for demand in wanted:
        if node.fits(demand):
            assert node.could_ever_fit(demand)
            assert not node.missing(demand)
            node.acquire(demand)
            taken.append(demand)
        for name, amount in node.total.items():
            assert 0 <= node.available[name] == amount - sum(demand.get(name, 0) for demand in taken)
    for demand in taken:
        node.release(demand)
    assert node.available == node.total
