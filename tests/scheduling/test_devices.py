import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioray_node.scheduling.devices import Devices
from aioray_node.scheduling.resources import UNIT

amounts = st.sampled_from([1, 2_500, 5_000, 9_999, UNIT, 2 * UNIT, UNIT + 5_000])


def test_a_part_goes_where_the_least_is_free_that_is_enough() -> None:
    devices = Devices(3)
    assert devices.acquire(3_000) == {0: 3_000}
    assert devices.acquire(8_000) == {1: 8_000}
    assert devices.acquire(2_000) == {1: 2_000}
    assert devices.acquire(7_000) == {0: 7_000}
    assert devices.acquire(UNIT) == {2: UNIT}
    assert not devices.fits(1)
    assert devices.fits(0)


def test_what_does_not_fit_takes_nothing_and_what_was_not_taken_does_not_come_back() -> None:
    devices = Devices(1)
    with pytest.raises(ValueError, match="2 GPU asked for"):
        devices.acquire(2 * UNIT)
    with pytest.raises(ValueError, match="more of GPU 0"):
        devices.release({0: 1})
    assert devices.free == [UNIT]


@given(st.lists(st.tuples(amounts, st.integers(0, 5), st.booleans()), max_size=30))
def test_no_device_is_booked_twice_and_all_comes_back(steps: list[tuple[int, int, bool]]) -> None:
    devices = Devices(3)
    held: list[dict[int, int]] = []
    for amount, which, shrink in steps:
        if devices.fits(amount):
            taken = devices.acquire(amount)
            assert sum(taken.values()) == amount
            assert sum(part < UNIT for part in taken.values()) <= 1
            held.append(taken)
        if which < len(held):
            taken = held.pop(which)
            if shrink:
                taken = devices.shrink(taken, amount)
                assert sum(taken.values()) <= amount
            devices.release(taken)
        for device, free in enumerate(devices.free):
            assert 0 <= free == UNIT - sum(taken.get(device, 0) for taken in held)
    for taken in held:
        devices.release(taken)
    assert devices.free == [UNIT] * 3
