"""How often a node reports to the GCS, of tasks and of metrics. Pure.

The next report waits until the GCS has answered the one before, which is sent again, under its number, over the next
connection: what is counted is counted once, and a GCS that is slow hears less often by itself. Where answers come late
the interval doubles, again and again; where they come in time, it comes back. The GCS says with each answer when the
next report is to come, so that all nodes together are no burden, however many they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from aioray.record import Record

MAX_STRETCH = 32.0  # how much longer than configured an interval may become
_LATE_INTERVALS = 0.5  # an answer that takes longer than this part of an interval is late
REPORTS_PER_S = 100.0  # from all nodes together, of each sort: each takes some 100 us
_MAX_REMEMBERED = 10_000


class WakeAt(msgspec.Struct, frozen=True):
    """Feed Tick at loop time `when` (s)."""

    when: float


R = TypeVar("R", bound=msgspec.Struct)
Id = TypeVar("Id", bytes, str)


@dataclass(slots=True, kw_only=True)
class Reporting(Generic[R]):
    """A node's side."""

    base_interval_s: float
    interval_s: float = 0.0  # as the GCS wants it; 0: it has said nothing yet
    stretch: float = 1.0  # what answers that come late make of it
    connected: bool = False
    seq: int = 0
    unanswered: R | None = None
    sent_at: float = 0.0
    told_at: float = -math.inf
    wake_at: float | None = None

    @property
    def current_interval_s(self) -> float:
        return max(self.base_interval_s, self.interval_s) * self.stretch

    @property
    def may_report(self) -> bool:
        return self.connected and self.unanswered is None


def connected(state: Reporting[R], now: float) -> R | None:
    """There is a way to the GCS; what must be sent over it again."""
    state.connected = True
    if state.unanswered is not None:
        state.sent_at = now
    return state.unanswered


def disconnected(state: Reporting[R]) -> None:
    """There is none any more."""
    state.connected = False


def answered(state: Reporting[R], seq: int, interval_s: float, now: float) -> bool:
    """The GCS has taken a report in; False when that is an answer to what was sent twice."""
    if state.unanswered is None or seq != state.seq:
        return False
    state.unanswered = None
    state.interval_s = interval_s
    if now - state.sent_at > _LATE_INTERVALS * max(state.base_interval_s, interval_s):
        state.stretch = min(MAX_STRETCH, 2 * state.stretch)
    else:
        state.stretch = max(1.0, state.stretch / 2)
    return True


def wake(state: Reporting[R], due: float) -> list[WakeAt]:
    """Be woken at that time, unless that will be so anyway."""
    if state.wake_at is not None and due >= state.wake_at:
        return []
    state.wake_at = due
    return [WakeAt(due)]


def number(state: Reporting[R], now: float) -> int:
    """That of a report which is sent now; `unanswered` must be set to it."""
    state.told_at = state.sent_at = now
    state.seq += 1
    return state.seq


def check(state: Reporting[R], *, has_news: bool) -> None:
    """Assert what holds between any two events."""
    assert 1.0 <= state.stretch <= MAX_STRETCH, state
    assert not (state.may_report and has_news) or state.wake_at is not None, f"nobody will report: {state}"


class Load(Record):
    """The GCS's side: what has come in this second, and what it has time for."""

    per_s: float
    second_began: float = 0.0
    in_second: int = 0


def note(load: Load, count: int, now: float) -> None:
    """So much has come."""
    if now >= load.second_began + 1.0:
        load.second_began, load.in_second = now, 0
    load.in_second += count


def behind(load: Load) -> float:
    """How many times more than there is time for, 1 at least."""
    return max(1.0, load.in_second / load.per_s)


def share_s(base_interval_s: float, nodes: int) -> float:
    """How often each of so many nodes may report."""
    return max(base_interval_s, nodes / REPORTS_PER_S)


def remember(ids: dict[Id, None], some_id: Id) -> None:
    """Keep an id among those of what has ended; the oldest are forgotten."""
    ids[some_id] = None
    if len(ids) > _MAX_REMEMBERED:
        del ids[next(iter(ids))]
