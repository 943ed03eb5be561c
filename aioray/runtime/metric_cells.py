"""The metrics of this process, from its start on, whether or not there is a cluster to tell of them.

There is one `METRICS` in a process, as there is one `logging.root`: who counts need not know of clusters. What is
counted is told to all clusters that the process is in then; where there is none, to the next one.
"""

from __future__ import annotations

import bisect
import contextlib
import os
import threading
from typing import TYPE_CHECKING

from aioray.wire.metrics import COUNTER, GAUGE, HISTOGRAM, MAX_SERIES_OF_PROCESS, OVERFLOW, Metric, sample_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aioray.wire.metrics import Labels


class Cell:
    """A series: what it came to since the process began, and of that, what some cluster was told.

    `is_set`: of a gauge, whether it has a value at all.
    """

    __slots__ = ("counts", "is_set", "labels", "told", "value")

    def __init__(self, labels: Labels, buckets: int) -> None:
        self.labels = labels
        self.value = 0.0
        self.counts = [0] * buckets
        self.is_set = False
        self.told: tuple[float, tuple[int, ...]] = 0.0, tuple(self.counts)


class CellsOf:
    """What has one name."""

    def __init__(self, metrics: ProcessMetrics, metric: Metric) -> None:
        self._metrics = metrics
        self.metric = metric
        self.cells: dict[Labels, Cell] = {}

    def cell(self, labels: Labels) -> Cell | None:
        """That series, or the one that stands for all there is no room for; None for a gauge without room."""
        metrics = self._metrics
        with metrics.lock:
            found = self.cells.get(labels)
            if found is not None:
                return found
            if metrics.size < MAX_SERIES_OF_PROCESS:
                metrics.size += 1
            else:
                metrics.left_out += 1
                labels = OVERFLOW
                if self.metric.kind == GAUGE or labels in self.cells:
                    return self.cells.get(labels)
            buckets = len(self.metric.boundaries) + 1 if self.metric.kind == HISTOGRAM else 0
            found = self.cells[labels] = Cell(labels, buckets)
            return found

    def leave_out(self) -> None:
        """A gauge without room was set: that is told, too."""
        if not self._metrics.is_changed:
            self._metrics.changed()

    def add(self, cell: Cell, value: float) -> None:
        """To a counter."""
        metrics = self._metrics
        with metrics.lock:
            cell.value += value
        if not metrics.is_changed:
            metrics.changed()

    def put(self, cell: Cell, value: float) -> None:
        """Set a gauge."""
        cell.value, cell.is_set = value, True
        if not self._metrics.is_changed:
            self._metrics.changed()

    def observe(self, cell: Cell, value: float) -> None:
        """Add to a histogram: a bucket has what is not above its boundary."""
        metrics = self._metrics
        at = bisect.bisect_left(self.metric.boundaries, value)
        with metrics.lock:
            cell.value += value
            cell.counts[at] += 1
        if not metrics.is_changed:
            metrics.changed()


class ProcessMetrics:
    """Thread-safe. `is_changed`: listeners know that there is something new; who looks makes it False before."""

    def __init__(self) -> None:
        # It may be taken again by a finalizer, or a signal's handler, that runs in the middle of what it guards.
        self.lock = threading.RLock()
        self.is_changed = False
        self.size = 0
        self.left_out = 0  # how often something was told of a series that there is no room for
        self.told_left_out = 0  # of that, what some cluster was told
        self._by_name: dict[str, CellsOf] = {}
        self._taken: dict[str, str] = {}  # what stands in the text -> the name whose that is
        self._listeners: list[Callable[[], None]] = []

    def cells_of(self, metric: Metric) -> CellsOf:
        """Those of that name. Raises LookupError, with what it is called, where the name is something else already."""
        with self.lock:
            known = self._by_name.get(metric.name)
            if known is not None:
                if (known.metric.kind, known.metric.boundaries) != (metric.kind, metric.boundaries):
                    raise LookupError(_in_words(known.metric))
                return known
            if len(self._by_name) >= MAX_SERIES_OF_PROCESS:
                raise LookupError(f"there are {MAX_SERIES_OF_PROCESS} metrics in this process already")
            names = sample_names(metric.name, metric.kind)
            for name in names:
                if name in self._taken:
                    raise LookupError(_in_words(self._by_name[self._taken[name]].metric))
            self._taken.update(dict.fromkeys(names, metric.name))
            known = self._by_name[metric.name] = CellsOf(self, metric)
            return known

    def changed(self) -> None:
        """Something is new since somebody looked."""
        self.is_changed = True
        for listener in tuple(self._listeners):
            listener()

    def listen(self, listener: Callable[[], None]) -> None:
        """Have it called, in any thread, when something has changed; at once if there is anything."""
        # Without our lock: who calls has the reactor's, which a finalizer may want in the middle of what ours guards.
        self._listeners.append(listener)
        if self._by_name:
            listener()

    def unlisten(self, listener: Callable[[], None]) -> None:
        with contextlib.suppress(ValueError):
            self._listeners.remove(listener)

    def each(self) -> Iterator[tuple[Metric, Cell]]:
        """All series. Without the lock: who looks holds up nobody, and what is half added is whole the next time."""
        for family in list(self._by_name.values()):
            for cell in list(family.cells.values()):
                yield family.metric, cell

    def forget(self) -> None:
        """In a forked child: what was counted is its parent's; what exists stays, and counts from nothing."""
        self.lock = threading.RLock()  # another thread of the parent may have it
        self._listeners.clear()
        self.is_changed, self.left_out, self.told_left_out = False, 0, 0
        for _, cell in self.each():
            cell.value, cell.is_set = 0.0, False
            cell.counts[:] = [0] * len(cell.counts)
            cell.told = 0.0, tuple(cell.counts)


def _in_words(metric: Metric) -> str:
    kind = {COUNTER: "a counter", GAUGE: "a gauge", HISTOGRAM: "a histogram"}[metric.kind]
    bounds = f" with boundaries {list(metric.boundaries)}" if metric.boundaries else ""
    return f"{metric.name!r} is {kind}{bounds} in this process"


METRICS = ProcessMetrics()
os.register_at_fork(after_in_child=METRICS.forget)
