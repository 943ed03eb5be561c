"""Which drivers there are and were."""

from __future__ import annotations

from aioray.wire.control import DriverStarted
from aioray_node.gcs import jobs


def driver(number: int, node: bytes = b"node") -> DriverStarted:
    return DriverStarted(node + number.to_bytes(4, "big"), "space", 77, "program.py", 5.0)


def test_a_driver_is_there_until_it_or_its_node_is_gone() -> None:
    state = jobs.State()
    here, there, other = driver(1), driver(2), driver(3, b"else")
    for each in (here, there, other, here):
        jobs.started(state, each)
    assert jobs.is_running(state, here.process_id)
    assert jobs.ended(state, here.process_id, 9.0)
    assert not jobs.is_running(state, here.process_id)
    assert not jobs.is_running(state, b"a worker")
    assert not jobs.ended(state, here.process_id, 10.0), "told twice"
    assert not jobs.ended(state, b"a worker", 10.0)
    assert jobs.node_gone(state, b"node", 11.0) == [there.process_id]
    jobs.check(state)
    assert [job.ended_at for job in state.jobs.values()] == [9.0, 11.0, None]


def test_the_oldest_of_those_that_have_ended_are_forgotten() -> None:
    state = jobs.State()
    for number in range(1100):
        jobs.started(state, driver(number))
        if number:
            jobs.ended(state, driver(number).process_id, float(number))
        jobs.check(state)
    assert len(state.jobs) == 1001
    assert driver(0).process_id in state.jobs, "it runs"
    assert driver(1).process_id not in state.jobs
