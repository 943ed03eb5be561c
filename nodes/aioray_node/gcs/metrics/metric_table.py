"""The metrics of all nodes, as the GCS knows them: a core.

Counters and histograms are added up over all processes there ever were, so what has ended still counts; gauges are
those of processes and nodes that live.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from aioray.record import Record
from aioray.wire.gcs import MetricPace, MetricReport
from aioray.wire.metrics import COUNTER, GAUGE, NODE_ID, WORKER_ID, Metric, Series
from aioray_node.gcs import pacing
from aioray_node.gcs.metrics import book as books
from aioray_node.gcs.metrics.book import Book

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_OWN_SERIES = 1_000_000  # as many as there are nodes and names of resources
SERIES_PER_S = 50_000.0  # from all nodes together: each takes some 2 us

Owner = tuple[str, bytes]  # the node, and the process
_NODE_ITSELF = b""


class Reported(msgspec.Struct, frozen=True):
    """A node tells of its metrics. Of the head itself, too."""

    node_id: str
    report: MetricReport


class NodeDied(msgspec.Struct, frozen=True):
    """Its gauges go with it."""

    node_id: str


class Answer(msgspec.Struct, frozen=True):
    """Tell the node."""

    node_id: str
    pace: MetricPace


Event = Reported | NodeDied
Command = Answer


class NodePart(Record):
    seq: int = 0
    processes: set[bytes] = msgspec.field(default_factory=set)  # that have gauges


@dataclass(slots=True)
class State:
    base_interval_s: float
    max_series: int
    book: Book[Owner] = field(init=False)
    own: Book[Owner] = field(default_factory=lambda: Book(_MAX_OWN_SERIES))  # of nodes: no process takes their room
    nodes: dict[str, NodePart] = field(default_factory=dict)
    dead: dict[str, None] = field(default_factory=dict)  # nodes whose late words mean nothing
    load: pacing.Load = field(default_factory=lambda: pacing.Load(SERIES_PER_S))
    left_out: int = 0  # by processes and nodes
    conflicts: int = 0  # the same

    def __post_init__(self) -> None:
        self.book = Book(self.max_series)


def handle(state: State, event: Event, now: float) -> list[Command]:
    """Apply `event` at loop time `now` (s); return what the shell must do, in that order."""
    match event:
        case Reported(node_id, report):
            return _reported(state, node_id, report, now)
        case NodeDied(node_id):
            pacing.remember(state.dead, node_id)
            _forget(state, node_id)
            state.nodes.pop(node_id, None)
    return []


def check(state: State) -> None:
    """Assert what holds between any two events."""
    books.check(state.book)
    books.check(state.own)
    owners = {(node_id, process) for node_id, part in state.nodes.items() for process in part.processes}
    assert owners == state.book.gauges.keys() | state.own.gauges.keys(), state
    assert not (state.nodes.keys() & state.dead.keys()), state


def _reported(state: State, node_id: str, report: MetricReport, now: float) -> list[Command]:
    if node_id in state.dead:
        return []
    part = state.nodes.setdefault(node_id, NodePart())
    if report.seq > part.seq:
        part.seq = report.seq
        _take_in(state, node_id, part, report)
        told = (*report.sums, *(metric for each in report.gauges for metric in each.metrics))
        pacing.note(state.load, sum(len(metric.series) for metric in told), now)
    interval_s = pacing.share_s(state.base_interval_s, len(state.nodes)) * pacing.behind(state.load)
    return [Answer(node_id, MetricPace(report.seq, interval_s))]


def _take_in(state: State, node_id: str, part: NodePart, report: MetricReport) -> None:
    if report.is_whole:
        _forget(state, node_id)
    for process in report.gone:
        books.forget(state.book, (node_id, process))
        part.processes.discard(process)
    for each in report.gauges:
        owner, book = (node_id, each.process), _book_of(state, each.process)
        books.add(book, owner, each.metrics)
        if owner in book.gauges:
            part.processes.add(each.process)
    books.add(state.book, (node_id, _NODE_ITSELF), report.sums)
    state.left_out += report.left_out
    state.conflicts += report.conflicts


def _forget(state: State, node_id: str) -> None:
    if (part := state.nodes.get(node_id)) is not None:
        for process in part.processes:
            books.forget(_book_of(state, process), (node_id, process))
        part.processes.clear()


def _book_of(state: State, process: bytes) -> Book[Owner]:
    return state.own if process == _NODE_ITSELF else state.book


# questions


def all_metrics(state: State) -> list[Metric]:
    """Everything, with the labels by which gauges of several processes differ; and what was left out."""
    return [*books.sums_of(state.book), *_gauges(state.book), *_gauges(state.own), _left_out(state)]


def _gauges(book: Book[Owner]) -> Iterator[Metric]:
    by_name: dict[str, list[Series]] = {}
    for owner in book.gauges:
        for metric in books.gauges_of(book, owner):
            by_name.setdefault(metric.name, []).extend(_labelled(series, *owner) for series in metric.series)
    for name, series in by_name.items():
        yield msgspec.structs.replace(book.known[name], series=tuple(series))


def _labelled(series: Series, node_id: str, process: bytes) -> Series:
    origin = (NODE_ID, node_id) if not process else (NODE_ID, node_id, WORKER_ID, process.hex())
    return Series((*series.labels, *origin), series.value)


def _left_out(state: State) -> Metric:
    left_out, conflicts = state.left_out + state.book.left_out, state.conflicts + state.book.conflicts
    return Metric(
        "metrics_left_out_total",
        COUNTER,
        "What was told of series that there is no room for (counters and histograms are in Overflow), or of metrics"
        " whose name means something else already.",
        series=(Series(("Reason", "no room"), float(left_out)), Series(("Reason", "conflict"), float(conflicts))),
    )


def of_tasks(counts: dict[str, int]) -> Metric:
    """How many tasks are, or were, in each state."""
    series = tuple(Series(("State", state), float(count)) for state, count in counts.items())
    return Metric("tasks", GAUGE, "Tasks by state, as far as they were told and not forgotten.", series=series)
