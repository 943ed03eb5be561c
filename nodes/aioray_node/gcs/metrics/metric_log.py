"""What a node tells the GCS of metrics: a core.

What its processes tell is added up, and told in one report an interval, with what the node says of itself at that time
(`pacing.py` says when). Processes are told how often the node wants to hear.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from aioray.wire.control import MetricInterval, MetricsTold
from aioray.wire.gcs import MetricPace, MetricReport
from aioray.wire.metrics import GaugesOf, Metric
from aioray_node.gcs import pacing
from aioray_node.gcs.metrics import book as books
from aioray_node.gcs.metrics.book import Book, GaugeKey
from aioray_node.gcs.pacing import WakeAt

if TYPE_CHECKING:
    from collections.abc import Iterator

_NODE_ITSELF = b""
_MAX_OWN_SERIES = 1_000
_MAX_SERIES = 5_000  # in a report, which must fit into a frame; what is left goes with the next


class Told(msgspec.Struct, frozen=True):
    """A process of this node tells of its metrics."""

    process: bytes
    told: MetricsTold


class ProcessGone(msgspec.Struct, frozen=True):
    """Its gauges go with it."""

    process: bytes


class Connected(msgspec.Struct, frozen=True):
    """There is a way to the GCS, perhaps to a new one."""


class Disconnected(msgspec.Struct, frozen=True):
    """There is none."""


class Leaving(msgspec.Struct, frozen=True):
    """The node ends on purpose: what it knows is told now."""


class Paced(msgspec.Struct, frozen=True):
    """The GCS has taken a report in."""

    pace: MetricPace


class Tick(msgspec.Struct, frozen=True):
    """The time of a WakeAt has come; the node's own gauges, as they are now."""

    own: tuple[Metric, ...]


class Send(msgspec.Struct, frozen=True):
    """To the GCS. It may have it already."""

    report: MetricReport


class Pace(msgspec.Struct, frozen=True):
    """Tell the process."""

    process: bytes
    interval: MetricInterval


Event = Told | ProcessGone | Connected | Disconnected | Leaving | Paced | Tick
Command = Send | Pace | WakeAt


@dataclass(slots=True, kw_only=True)
class State(pacing.Reporting[MetricReport]):
    max_series: int
    book: Book[bytes] = field(init=False)
    own: Book[bytes] = field(default_factory=lambda: Book(_MAX_OWN_SERIES))  # room that no process takes away
    fresh: dict[bytes, dict[GaugeKey, None]] = field(default_factory=dict)  # gauges that the GCS was not told of
    gone: dict[bytes, None] = field(default_factory=dict)  # processes whose gauges it still has
    is_new: bool = False  # the GCS may know nothing of our gauges
    left_out: int = 0  # that the processes themselves had no room for
    paced: dict[bytes, float] = field(default_factory=dict)  # process -> the interval that it was told last (s)
    looked_at: float = -math.inf  # when the node looked at itself last, or was connected first

    def __post_init__(self) -> None:
        self.book = Book(self.max_series)


def handle(state: State, event: Event, now: float) -> list[Command]:
    """Apply `event` at loop time `now` (s); return what the shell must do, in that order."""
    commands: list[Command] = []
    match event:
        case Told(process, told):
            _note(state, process, told.metrics)
            state.left_out += told.left_out
            commands += _pace(state, process)
        case ProcessGone(process):
            state.paced.pop(process, None)
            state.fresh.pop(process, None)
            if books.forget(state.book, process):
                state.gone[process] = None
        case Connected():
            commands += _connected(state, now)
        case Disconnected():
            pacing.disconnected(state)
        case Leaving():
            commands += _leaving(state, now)
        case Paced(pace):
            pacing.answered(state, pace.seq, pace.interval_s, now)
        case Tick(own):
            state.wake_at = None
            commands += _tick(state, own, now)
    return commands + _plan(state, now)


def check(state: State) -> None:
    """Assert what holds between any two events."""
    books.check(state.book)
    books.check(state.own)
    pacing.check(state, has_news=True)  # the node itself has news at any time
    assert not (state.gone.keys() & state.book.gauges.keys()), state
    for process, keys in state.fresh.items():
        assert keys.keys() <= _book_of(state, process).gauges[process].keys(), state


def _book_of(state: State, process: bytes) -> Book[bytes]:
    return state.book if process else state.own


def _note(state: State, process: bytes, metrics: tuple[Metric, ...]) -> None:
    changed = books.add(_book_of(state, process), process, metrics)
    if changed:
        state.gone.pop(process, None)  # an id never comes back, but a process over another connection does
        state.fresh.setdefault(process, {}).update(dict.fromkeys(changed))


def _pace(state: State, process: bytes) -> list[Command]:
    interval_s = state.current_interval_s
    if state.paced.get(process) == interval_s:
        return []
    state.paced[process] = interval_s
    return [Pace(process, MetricInterval(interval_s))]


def _connected(state: State, now: float) -> list[Command]:
    again = pacing.connected(state, now)
    state.is_new = True
    held = {**state.own.gauges, **state.book.gauges}
    state.fresh = {process: dict.fromkeys(gauges) for process, gauges in held.items()}
    state.looked_at = max(state.looked_at, now)
    return [] if again is None else [Send(again)]


def _tick(state: State, own: tuple[Metric, ...], now: float) -> list[Command]:
    if not state.may_report:
        return []
    state.looked_at = now
    _note(state, _NODE_ITSELF, own)
    if not _has_news(state):
        return []
    state.unanswered = _report(state, pacing.number(state, now))
    return [Send(state.unanswered)]


def _leaving(state: State, now: float) -> list[Command]:
    """The report before may be unanswered: it is on the same way, before this one."""
    if not (state.connected and state.book.sums):
        return []
    state.unanswered = _report(state, pacing.number(state, now))
    return [Send(state.unanswered)]


def _has_news(state: State) -> bool:
    book = state.book
    return bool(book.sums or state.fresh or state.gone or state.left_out or book.left_out or book.conflicts)


def _plan(state: State, now: float) -> list[Command]:
    """Look at the node once an interval; at once where a process has news, and the last report is long ago."""
    if not state.may_report:
        return []
    since = state.told_at if _has_news(state) else max(state.told_at, state.looked_at)
    return [*pacing.wake(state, max(now, since + state.current_interval_s))]


def _report(state: State, seq: int) -> MetricReport:
    book = state.book
    sums = books.take_sums(book, _MAX_SERIES)
    room = _MAX_SERIES - sum(len(metric.series) for metric in sums)
    report = MetricReport(
        seq,
        sums,
        tuple(_fresh_gauges(state, room)),
        tuple(state.gone),
        state.is_new,
        state.left_out + book.left_out,
        book.conflicts,
    )
    state.gone.clear()
    state.is_new = False
    state.left_out = book.left_out = book.conflicts = 0
    return report


def _fresh_gauges(state: State, most: int) -> Iterator[GaugesOf]:
    """Gauges that the GCS was not told of, so many at most; what is given is told."""
    for process in list(state.fresh):
        keys = state.fresh[process]
        some = list(itertools.islice(keys, most))
        for key in some:
            del keys[key]
        if not keys:
            del state.fresh[process]
        if some:
            yield GaugesOf(process, books.gauges_of(_book_of(state, process), process, some))
        most -= len(some)
