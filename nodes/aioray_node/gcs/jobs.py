"""Which drivers there are and were. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import field

from aioray.record import Record
from aioray.wire.values import home_of

if TYPE_CHECKING:
    from aioray.wire.control import DriverStarted

_MAX_ENDED = 1000  # that are remembered


class Job(Record):
    driver: DriverStarted
    ended_at: float | None = None  # Unix time (s)


class State(Record):
    jobs: dict[bytes, Job] = field(default_factory=dict)
    ended: dict[bytes, None] = field(default_factory=dict)  # oldest first


def started(state: State, driver: DriverStarted) -> None:
    """A driver is there. Safe to say twice: who was there before is there still, or has ended."""
    state.jobs.setdefault(driver.process_id, Job(driver))


def ended(state: State, job_id: bytes, unix_time: float) -> bool:
    """A driver is gone; whether that is news."""
    job = state.jobs.get(job_id)
    if job is None or job.ended_at is not None:
        return False
    job.ended_at = unix_time
    state.ended[job_id] = None
    if len(state.ended) > _MAX_ENDED:
        oldest = next(iter(state.ended))
        del state.ended[oldest], state.jobs[oldest]
    return True


def is_running(state: State, job_id: bytes) -> bool:
    """Whether its driver is there."""
    job = state.jobs.get(job_id)
    return job is not None and job.ended_at is None


def node_gone(state: State, prefix: bytes, unix_time: float) -> list[bytes]:
    """All drivers of a node are gone; which those were."""
    gone = [job_id for job_id, job in state.jobs.items() if home_of(job_id) == prefix and job.ended_at is None]
    for job_id in gone:
        ended(state, job_id, unix_time)
    return gone


def check(state: State) -> None:
    """Assert what holds between any two calls."""
    assert state.ended.keys() == {job_id for job_id, job in state.jobs.items() if job.ended_at is not None}, state
    assert len(state.ended) <= _MAX_ENDED, state
