"""What a process tells its node of metrics, and each of several clusters that it is in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from aioray.config import Config
from aioray.runtime import metric_reporter
from aioray.runtime.metric_cells import ProcessMetrics
from aioray.runtime.metric_reporter import MetricReporter
from aioray.wire.control import MetricInterval, MetricsTold
from aioray.wire.metrics import COUNTER, GAUGE, HISTOGRAM, Metric

if TYPE_CHECKING:
    from collections.abc import Callable


class Cluster:
    """A runtime, as far as its reporter can tell: a clock that a test moves, and a line to a node."""

    def __init__(self, interval_ms: float = 1000) -> None:
        self.now = 100.0
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.sent: list[MetricsTold] = []
        reactor = SimpleNamespace(time=lambda: self.now, call_soon=lambda fn: fn(), call_later=self._call_later)
        runtime: Any = SimpleNamespace(
            config=Config(metrics_report_interval_ms=interval_ms),
            reactor=reactor,
            link=SimpleNamespace(lost=False, send=self.sent.append),
            closed=False,
        )
        self.reporter = MetricReporter(runtime)
        self.reporter.open()

    def _call_later(self, delay_s: float, fn: Callable[[], None]) -> None:
        self.timers.append((self.now + delay_s, fn))

    def advance(self) -> float:
        """To the only timer; how long that took (s)."""
        ((due, fn),) = self.timers
        waited, self.now = due - self.now, due
        self.timers.clear()
        fn()
        return waited

    def told(self) -> dict[str, float]:
        """By name, all series together, since the last look."""
        found: dict[str, float] = {}
        for message in self.sent:
            for metric in message.metrics:
                found[metric.name] = found.get(metric.name, 0.0) + sum(series.value for series in metric.series)
        self.sent.clear()
        return found


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> ProcessMetrics:
    """Those of a process of its own."""
    metrics = ProcessMetrics()
    monkeypatch.setattr(metric_reporter, "METRICS", metrics)
    return metrics


def add(metrics: ProcessMetrics, value: float, *labels: str) -> None:
    family = metrics.cells_of(Metric("c_total", COUNTER))
    cell = family.cell(labels)
    assert cell is not None
    family.add(cell, value)


def put(metrics: ProcessMetrics, value: float) -> None:
    family = metrics.cells_of(Metric("g", GAUGE))
    cell = family.cell(())
    assert cell is not None
    family.put(cell, value)


def test_changes_are_told_soon_after_a_pause_and_else_when_the_interval_is_over(metrics: ProcessMetrics) -> None:
    cluster = Cluster()
    assert cluster.timers == [], "there is nothing to tell"
    add(metrics, 1)
    assert cluster.advance() == pytest.approx(0.1)
    assert cluster.told() == {"c_total": 1}
    assert cluster.timers == []
    add(metrics, 2)
    put(metrics, 5)
    assert cluster.advance() == pytest.approx(1.0)
    assert cluster.told() == {"c_total": 2, "g": 5}
    cluster.reporter.paced(MetricInterval(7.0))
    put(metrics, 5)
    assert cluster.advance() == pytest.approx(7.0)
    assert cluster.told() == {}, "it is as it was"


def test_clusters_that_a_process_is_in_are_all_told_and_later_ones_what_is_new(metrics: ProcessMetrics) -> None:
    """
    1. counted before there is a cluster: told to the first
    2. counted while there are two: told to both, the last of it when one is left
    3. counted while there is none: told to the next, with the gauges as they are
    """
    add(metrics, 1)
    put(metrics, 5)
    first = Cluster()
    first.advance()
    assert first.told() == {"c_total": 1, "g": 5}
    second = Cluster()
    add(metrics, 2)
    for cluster in (first, second):
        cluster.advance()
    assert first.told() == {"c_total": 2}
    assert second.told() == {"c_total": 2, "g": 5}
    add(metrics, 4)
    for cluster in (first, second):
        cluster.reporter.close()
        assert cluster.told() == {"c_total": 4}
    add(metrics, 8)
    third = Cluster()
    third.advance()
    assert third.told() == {"c_total": 8, "g": 5}


def test_of_a_histogram_the_buckets_are_told_in_which_something_came(metrics: ProcessMetrics) -> None:
    cluster = Cluster()
    family = metrics.cells_of(Metric("h", HISTOGRAM, boundaries=(1.0, 2.0)))
    cell = family.cell(())
    assert cell is not None
    for value in (1.0, 5.0):
        family.observe(cell, value)
    cluster.advance()
    family.observe(cell, 2.0)
    cluster.advance()
    told = [message.metrics[0].series[0] for message in cluster.sent]
    assert [(series.value, series.counts) for series in told] == [(6.0, (1, 0, 1)), (2.0, (0, 1, 0))]


def test_many_series_go_in_several_messages(metrics: ProcessMetrics) -> None:
    cluster = Cluster()
    put(metrics, 1)
    for number in range(2500):
        add(metrics, 1, "k", str(number))
    cluster.advance()
    sizes = [sum(len(metric.series) for metric in message.metrics) for message in cluster.sent]
    assert sizes == [1000, 1000, 501]
    assert cluster.told() == {"c_total": 2500, "g": 1}


def test_with_an_interval_of_zero_nothing_is_told(metrics: ProcessMetrics) -> None:
    cluster = Cluster(interval_ms=0)
    add(metrics, 1)
    cluster.reporter.close()
    assert cluster.timers == []
    assert cluster.sent == []
