"""Tells the node of the metrics of this process: what was added to them since the last time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from aioray.runtime.metric_cells import METRICS
from aioray.runtime.telling import Teller
from aioray.wire.control import MetricsTold
from aioray.wire.metrics import GAUGE, Metric, Series

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from aioray.runtime.metric_cells import Cell
    from aioray.runtime.runtime import Runtime
    from aioray.wire.control import MetricInterval

_MAX_SERIES_AT_ONCE = 1000  # in a message


class MetricReporter(Teller):
    """Called with the reactor's lock held. Each cluster of a process has its own."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime, runtime.config.metrics_report_interval_ms / 1000)
        self._told: dict[Cell, tuple[float, tuple[int, ...]]] = {}  # what each came to when it was told
        self._told_left_out = 0

    def open(self) -> None:
        """The node has let this process in. What other clusters were told before is not told again."""
        if self.is_on:
            self._told = {cell: cell.told for metric, cell in METRICS.each() if metric.kind != GAUGE}
            self._told_left_out = METRICS.told_left_out
            METRICS.listen(self._changed)

    def close(self) -> None:
        """Tell the last of it. Safe to call twice."""
        METRICS.unlisten(self._changed)
        self.tell()

    def paced(self, interval: MetricInterval) -> None:
        """The node says how often it wants to hear."""
        if self.is_on:
            self.interval_s = interval.interval_s

    def _changed(self) -> None:
        """In any thread, even in a finalizer."""
        if not self.armed:
            self._runtime.reactor.call_soon(self._arm_once)

    def _arm_once(self) -> None:
        if not self.armed:
            self.arm()

    def _tell(self) -> None:
        METRICS.is_changed = False  # before we look: what changes from here on is heard of again
        news: dict[str, tuple[Metric, list[Series]]] = {}
        for metric, cell in METRICS.each():
            if (series := self._news_of(metric, cell)) is not None:
                news.setdefault(metric.name, (metric, []))[1].append(series)
        left_out_now = METRICS.left_out
        left_out = left_out_now - self._told_left_out
        self._told_left_out = METRICS.told_left_out = left_out_now
        send = self._runtime.link.send
        for some in _in_pieces(news.values()):
            send(MetricsTold(some))
        if left_out:
            send(MetricsTold((), left_out))

    def _news_of(self, metric: Metric, cell: Cell) -> Series | None:
        """What to tell of a series, if anything; it is told then."""
        value, counts = cell.value, tuple(cell.counts)
        told = self._told.get(cell)
        if metric.kind == GAUGE:
            if not cell.is_set or (told is not None and told[0] == value):
                return None
            news = Series(cell.labels, value)
        else:
            before, counts_before = told or (0.0, (0,) * len(counts))
            added = tuple(count - old for count, old in zip(counts, counts_before, strict=True))
            if value == before and not any(added):
                return None
            news = Series(cell.labels, value - before, added)
        self._told[cell] = cell.told = value, counts
        return news


def _in_pieces(news: Iterable[tuple[Metric, list[Series]]]) -> Iterator[tuple[Metric, ...]]:
    """So many series in each, but for the last."""
    told: list[Metric] = []
    room = _MAX_SERIES_AT_ONCE
    for metric, series in news:
        while series:
            some, series = series[:room], series[room:]
            told.append(msgspec.structs.replace(metric, series=tuple(some)))
            room -= len(some)
            if not room:
                yield tuple(told)
                told, room = [], _MAX_SERIES_AT_ONCE
    if told:
        yield tuple(told)
