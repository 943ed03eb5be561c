"""Metrics of many owners in one book: sums that stay right, and a bound that holds."""

from __future__ import annotations

import collections
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from aioray.wire.metrics import COUNTER, GAUGE, HISTOGRAM, OVERFLOW, Metric, Series
from aioray_node.gcs.metrics.book import Book, add, check, forget, gauges_of, sums_of, take_sums

Added = tuple[str, int, tuple[str, ...]]


def counter(name: str, value: float, *labels: str) -> Metric:
    return Metric(name, COUNTER, series=(Series(labels, value),))


def gauge(name: str, value: float, *labels: str) -> Metric:
    return Metric(name, GAUGE, series=(Series(labels, value),))


def histogram(name: str, value: float, counts: tuple[int, ...], bounds: tuple[float, ...] = (1.0,)) -> Metric:
    return Metric(name, HISTOGRAM, boundaries=bounds, series=(Series((), value, counts),))


def totals(metrics: tuple[Metric, ...]) -> dict[tuple[str, tuple[str, ...]], float]:
    return {(metric.name, series.labels): series.value for metric in metrics for series in metric.series}


def test_what_several_tell_is_added_up() -> None:
    book: Book[str] = Book(10)
    add(book, "a", [counter("c_total", 1, "k", "v"), histogram("h", 1.5, (1, 2))])
    add(book, "b", [counter("c_total", 2, "k", "v"), counter("c_total", 5), histogram("h", 0.5, (4, 0))])
    found = tuple(sums_of(book))
    assert totals(found) == {("c_total", ("k", "v")): 3, ("c_total", ()): 5, ("h", ()): 2}
    assert found[1].series[0].counts == (5, 2)


def test_gauges_are_those_of_their_owners_and_go_with_them() -> None:
    book: Book[str] = Book(10)
    assert add(book, "a", [gauge("g", 1), gauge("g", 2, "k", "v")]) == [("g", ()), ("g", ("k", "v"))]
    assert add(book, "a", [gauge("g", 1), gauge("g", 3, "k", "v")]) == [("g", ("k", "v"))], "one is as it was"
    add(book, "b", [gauge("g", 7)])
    assert totals(gauges_of(book, "a")) == {("g", ()): 1, ("g", ("k", "v")): 3}
    assert forget(book, "a")
    assert not forget(book, "a")
    assert totals(gauges_of(book, "a")) == {}
    assert totals(gauges_of(book, "b")) == {("g", ()): 7}


def test_a_series_without_room_is_added_to_the_others_and_a_gauge_is_left_out() -> None:
    book: Book[str] = Book(2)
    add(book, "a", [counter("c_total", 1, "k", str(n)) for n in range(5)])
    add(book, "a", [counter("c_total", 10, "k", "0"), counter("c_total", 1, "k", "4"), gauge("g", 1)])
    wanted = {("c_total", ("k", "0")): 11, ("c_total", ("k", "1")): 1, ("c_total", OVERFLOW): 4}
    assert totals(tuple(sums_of(book))) == wanted
    assert book.left_out == 5
    check(book)


def test_a_name_that_means_something_else_is_a_conflict() -> None:
    """Another kind, other boundaries, buckets that do not fit, and a name that a histogram has in the text."""
    book: Book[str] = Book(10)
    add(book, "a", [counter("c_total", 1), histogram("h", 1, (1, 0))])
    wrong = [
        gauge("c_total", 1),
        histogram("h", 1, (1, 0, 0), (1.0, 2.0)),
        histogram("h", 1, (1,)),
        Metric("h", HISTOGRAM, boundaries=(1.0,), series=(Series((), 1.0),)),
        gauge("h_sum", 1),
        Metric("x", "rubbish", series=(Series((), 1.0),)),
    ]
    add(book, "b", wrong)
    assert book.conflicts == len(wrong)
    assert totals(tuple(sums_of(book))) == {("c_total", ()): 1, ("h", ()): 1}


_labels = st.sampled_from([(), ("k", "1"), ("k", "2"), ("k", "3"), OVERFLOW])
_metrics = st.one_of(
    st.builds(lambda name, value, labels: counter(name, value, *labels), st.sampled_from("abc"), st.just(1), _labels),
    st.builds(
        lambda name, value, labels: gauge(name, value, *labels), st.sampled_from("cd"), st.integers(0, 2), _labels
    ),
    st.builds(lambda name, at: histogram(name, 1, (1 - at, at)), st.sampled_from("ae"), st.integers(0, 1)),
)
_steps: st.SearchStrategy[Any] = st.one_of(
    st.tuples(st.just("add"), st.sampled_from("xy"), st.lists(_metrics, max_size=4)),
    st.tuples(st.just("forget"), st.sampled_from("xy"), st.just([])),
    st.tuples(st.just("take"), st.just("x"), st.lists(_metrics, max_size=3)),
)


@given(st.integers(1, 6), st.lists(_steps, max_size=30))
def test_nothing_is_lost_but_what_is_counted_as_left_out(most: int, story: list[tuple[str, str, list[Metric]]]) -> None:
    """Counters and histograms here add 1 each time: what is in sums, was taken, or is left out, is all."""
    book: Book[str] = Book(most)
    told = taken = 0.0
    sums_before: collections.Counter[str] = collections.Counter()
    for what, owner, metrics in story:
        if what == "add":
            add(book, owner, metrics)
            told += len(metrics)
            sums_before.update(metric.kind for metric in metrics)
        elif what == "forget":
            forget(book, owner)
        else:
            taken += sum(totals(take_sums(book, len(metrics))).values())
        check(book)
    summed = sum(totals(tuple(sums_of(book))).values()) + taken
    of_gauges = sums_before[GAUGE]
    assert summed <= told - of_gauges
    assert summed + of_gauges + book.left_out + book.conflicts >= told
    assert all(OVERFLOW not in series or book.left_out or told for series in book.sums.values())
