"""A Pool and the beginning and end of its cluster."""

from __future__ import annotations

from typing import Any

import pytest

import aioray
from aioray.exceptions import InvalidOptionError, RayError
from aioray.util.multiprocessing import Pool
from tests.util.classes import Gate, pass_the_gate, pool_in_a_task, square

PATIENCE_S = 10.0


def test_a_pool_in_a_task_lends_it_its_cpu(one_cpu: Any) -> None:
    assert one_cpu.get(pool_in_a_task.remote(), timeout=30) == [0, 1, 4, 9, 16, 0, 1, 4]


def test_a_pool_starts_a_cluster_where_there_is_none(nothing_left: None) -> None:
    try:
        with Pool(1, ray_address="local") as pool:
            assert pool.apply(square, (3,)) == 9
        with pytest.raises(InvalidOptionError, match="ray_address"):
            Pool(1, ray_address="somewhere:6379")
    finally:
        aioray.shutdown()


def test_a_pool_whose_cluster_is_gone_says_so(nothing_left: None) -> None:
    aioray.init(num_cpus=1)
    pool = Pool(1)
    waiting = pool.apply_async(pass_the_gate, (Gate.remote(), 1))
    aioray.shutdown()
    with pytest.raises(RayError):
        waiting.get(timeout=PATIENCE_S)
    pool.terminate()
