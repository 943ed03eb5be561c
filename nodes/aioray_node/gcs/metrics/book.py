"""Metrics of many, in one book: counters and histograms are added up, gauges kept for each owner. Pure.

There are at most so many series. What is added to one that there is no room for goes to the series of its metric with
the label Overflow, so that sums stay right; a gauge is left out. Both are counted.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable
from typing import TYPE_CHECKING, Generic, TypeVar

from msgspec import field

from aioray.record import Record
from aioray.wire.metrics import COUNTER, GAUGE, HISTOGRAM, OVERFLOW, Metric, Series, sample_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from aioray.wire.metrics import Labels

Owner = TypeVar("Owner", bound=Hashable)
GaugeKey = tuple[str, "Labels"]


class Sum(Record):
    """What was added to a series."""

    value: float = 0.0
    counts: list[int] = field(default_factory=list)


class Book(Record, Generic[Owner]):
    """`left_out`, `conflicts`: how often something was told of a series for which there is no room, or of one whose
    metric is known here as something else."""

    max_series: int
    known: dict[str, Metric] = field(default_factory=dict)  # what each name is, without series
    taken: dict[str, str] = field(default_factory=dict)  # what stands in the text -> the name whose that is
    sums: dict[str, dict[Labels, Sum]] = field(default_factory=dict)
    gauges: dict[Owner, dict[GaugeKey, float]] = field(default_factory=dict)
    size: int = 0  # how many series there are, without those of overflows
    left_out: int = 0
    conflicts: int = 0


def add(book: Book[Owner], owner: Owner, metrics: Iterable[Metric]) -> list[GaugeKey]:
    """Take in what an owner tells; the gauges that are not what they were."""
    changed: list[GaugeKey] = []
    for metric in metrics:
        if not _is_room_for_name(book, metric):
            book.left_out += len(metric.series)
        elif not _fits(book, metric):
            book.conflicts += len(metric.series)
        elif metric.kind == GAUGE:
            changed += _set(book, owner, metric)
        else:
            _sum_up(book, metric)
    return changed


def forget(book: Book[Owner], owner: Owner) -> bool:
    """The owner is gone, and its gauges with it. Whether it had any."""
    gone = book.gauges.pop(owner, {})
    book.size -= len(gone)
    return bool(gone)


def take_sums(book: Book[Owner], most: int) -> tuple[Metric, ...]:
    """What was added up, so many series at most; they begin at nothing again."""
    taken: list[Metric] = []
    for name in list(book.sums):
        sums = book.sums[name]
        some = list(itertools.islice(sums, most))
        told = [_told(labels, sums.pop(labels)) for labels in some]
        book.size -= len(some) - (OVERFLOW in some)
        if not sums:
            del book.sums[name]
        if told:
            taken.append(_with(book.known[name], told))
        most -= len(told)
    return tuple(taken)


def sums_of(book: Book[Owner]) -> Iterator[Metric]:
    """All counters and histograms."""
    for name, series in book.sums.items():
        yield _with(book.known[name], (_told(labels, each) for labels, each in series.items()))


def gauges_of(book: Book[Owner], owner: Owner, keys: Iterable[GaugeKey] | None = None) -> tuple[Metric, ...]:
    """Gauges of an owner: these of them, or all."""
    held = book.gauges.get(owner, {})
    by_name: dict[str, list[Series]] = {}
    for name, labels in held if keys is None else keys:
        by_name.setdefault(name, []).append(Series(labels, held[name, labels]))
    return tuple(_with(book.known[name], series) for name, series in by_name.items())


def check(book: Book[Owner]) -> None:
    """Assert what holds between any two calls."""
    summed = sum(len(series) - (OVERFLOW in series) for series in book.sums.values())
    assert book.size == summed + sum(map(len, book.gauges.values())), book
    assert book.size <= book.max_series, f"the memory has no bound: {book}"
    assert len(book.known) <= book.max_series, f"the memory has no bound: {book}"
    assert all(book.gauges.values()), f"an owner without gauges is kept: {book}"
    for name, metric in book.known.items():
        assert all(book.taken[each] == name for each in sample_names(name, metric.kind)), book


def _told(labels: Labels, each: Sum) -> Series:
    return Series(labels, each.value, tuple(each.counts))


def _with(metric: Metric, series: Iterable[Series]) -> Metric:
    return Metric(metric.name, metric.kind, metric.description, metric.boundaries, tuple(series))


def _is_room_for_name(book: Book[Owner], metric: Metric) -> bool:
    return metric.name in book.known or len(book.known) < book.max_series


def _fits(book: Book[Owner], metric: Metric) -> bool:
    """Whether it is what its name means here. The first to tell of a name decides."""
    if metric.kind not in (COUNTER, GAUGE, HISTOGRAM):
        return False
    known = book.known.get(metric.name)
    if known is None:
        names = sample_names(metric.name, metric.kind)
        if any(name in book.taken for name in names):
            return False
        book.taken.update(dict.fromkeys(names, metric.name))
        known = book.known[metric.name] = _with(metric, ())
    buckets = len(known.boundaries) + 1 if known.kind == HISTOGRAM else 0
    if any(len(series.counts) != buckets for series in metric.series):
        return False
    return (known.kind, known.boundaries) == (metric.kind, metric.boundaries)


def _set(book: Book[Owner], owner: Owner, metric: Metric) -> list[GaugeKey]:
    changed = []
    held = book.gauges.get(owner, {})
    for series in metric.series:
        key = metric.name, series.labels
        if key not in held:
            if book.size >= book.max_series:
                book.left_out += 1
                continue
            book.size += 1
        elif held[key] == series.value:
            continue
        held[key] = series.value
        changed.append(key)
    if held:
        book.gauges[owner] = held
    return changed


def _sum_up(book: Book[Owner], metric: Metric) -> None:
    sums = book.sums.setdefault(metric.name, {})
    for series in metric.series:
        labels = series.labels
        if labels not in sums and labels != OVERFLOW:
            if book.size < book.max_series:
                book.size += 1
            else:
                labels = OVERFLOW
                book.left_out += 1
        each = sums.get(labels)
        if each is None:
            each = sums[labels] = Sum(0.0, [0] * len(series.counts))
        each.value += series.value
        for at, count in enumerate(series.counts):
            each.counts[at] += count
    if not sums:
        del book.sums[metric.name]
