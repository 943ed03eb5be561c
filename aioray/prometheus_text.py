"""Metrics in the text format of Prometheus. It is imported when somebody asks for that."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric as Shown
from prometheus_client.registry import Collector

from aioray.wire.metrics import COUNTER, HISTOGRAM, PREFIX, TOTAL

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from aioray.wire.metrics import Metric, Series

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _Given(Collector):
    """Stands where the library expects the metrics of this process."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Shown]:
        return map(_shown, self._metrics)


def rendered(metrics: Iterable[Metric]) -> str:
    """The text, with names and series in order."""
    return generate_latest(_Given(sorted(metrics, key=lambda metric: metric.name))).decode()


def _shown(metric: Metric) -> Shown:
    name = PREFIX + metric.name
    shown = Shown(name.removesuffix(TOTAL) if metric.kind == COUNTER else name, metric.description, metric.kind)
    for series in sorted(metric.series, key=lambda series: series.labels):
        labels = dict(zip(series.labels[::2], series.labels[1::2], strict=True))
        if metric.kind == HISTOGRAM:
            _add_buckets(shown, labels, metric.boundaries, series)
        else:
            shown.add_sample(name, labels, series.value)
    return shown


def _add_buckets(shown: Shown, labels: dict[str, str], boundaries: tuple[float, ...], series: Series) -> None:
    """As Prometheus has them: each bucket counts what the ones before it do, too."""
    up_to = list(itertools.accumulate(series.counts))
    for bound, count in zip((*map(repr, boundaries), "+Inf"), up_to, strict=True):
        shown.add_sample(f"{shown.name}_bucket", {**labels, "le": bound}, count)
    shown.add_sample(f"{shown.name}_count", labels, up_to[-1])
    shown.add_sample(f"{shown.name}_sum", labels, series.value)
