"""Metrics on their way: from processes to their node, from nodes to the GCS, and to whoever asks.

Counters and histograms travel as what was added since the last time, gauges as what they are. Field order is the
format: append fields with defaults, never reorder.
"""

from __future__ import annotations

import msgspec

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
PREFIX = "aioray_"  # of all names, where they are shown
TOTAL = "_total"  # how names of counters end, as Prometheus wants it
MAX_SERIES_OF_PROCESS = 10_000
OVERFLOW = ("Overflow", "true")  # the labels under which series are added up that there is no room for
NODE_ID, WORKER_ID = "NodeId", "WorkerId"  # labels of gauges, so that those of two processes are two
RESERVED_LABELS = frozenset({"le", OVERFLOW[0], NODE_ID, WORKER_ID})
# Of nodes and of the GCS: no metric of a program is called so.
RESERVED_NAMES = frozenset(
    {
        *("resources", "node_mem_total", "node_mem_used", "node_workers"),
        *("object_store_used_memory", "object_store_available_memory"),
        *("tasks", "metrics_left_out_total"),
    }
)

Labels = tuple[str, ...]  # key, value, key, value; by key


class Series(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One metric with certain labels."""

    labels: Labels
    value: float  # what was added; of a histogram, to its sum; of a gauge, what it is
    counts: tuple[int, ...] = ()  # of a histogram: what was added to each bucket, by itself; the last has no bound


class Metric(msgspec.Struct, array_like=True, frozen=True):
    """What has one name."""

    name: str  # without the prefix; that of a counter with its end
    kind: str
    description: str = ""
    boundaries: tuple[float, ...] = ()
    series: tuple[Series, ...] = ()


class GaugesOf(msgspec.Struct, array_like=True, frozen=True):
    """Gauges of one process."""

    process: bytes  # b"": of the node itself
    metrics: tuple[Metric, ...]


def sample_names(name: str, kind: str) -> tuple[str, ...]:
    """What a metric is called in the text, line by line: no other metric may have one of these names."""
    if kind != HISTOGRAM:
        return (name,)
    return (name, f"{name}_bucket", f"{name}_count", f"{name}_sum")
