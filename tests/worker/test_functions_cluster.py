"""A worker that keeps few functions runs many."""

from __future__ import annotations

import pytest

import aioray


@pytest.mark.usefixtures("nothing_left")
def test_more_functions_than_a_worker_keeps_are_called_in_turn() -> None:
    with aioray.init(num_cpus=1, _system_config={"worker_functions_kept": 2}):
        functions = [aioray.remote(lambda at=at: at) for at in range(5)]
        for _ in range(3):
            assert aioray.get([fn.remote() for fn in functions]) == [0, 1, 2, 3, 4]
