"""The metrics of a process: counted by many threads, told of in one word, bounded."""

from __future__ import annotations

import threading

import pytest

from aioray.runtime.metric_cells import ProcessMetrics
from aioray.wire.metrics import COUNTER, GAUGE, HISTOGRAM, MAX_SERIES_OF_PROCESS, OVERFLOW, Metric


def counts(metrics: ProcessMetrics) -> dict[str, float]:
    return {metric.name: cell.value for metric, cell in metrics.each()}


def test_what_threads_count_at_once_is_all_there() -> None:
    metrics = ProcessMetrics()
    family = metrics.cells_of(Metric("c_total", COUNTER))

    def count() -> None:
        cell = family.cell(())
        assert cell is not None
        for _ in range(20_000):
            family.add(cell, 1.0)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts(metrics) == {"c_total": 80_000}


def test_a_listener_hears_once_until_somebody_looks() -> None:
    metrics = ProcessMetrics()
    family = metrics.cells_of(Metric("c_total", COUNTER))
    heard: list[str] = []
    metrics.listen(lambda: heard.append("late"))
    assert heard == ["late"], "there are metrics already"
    cell = family.cell(())
    assert cell is not None
    for _ in range(5):
        family.add(cell, 1.0)
    assert heard == ["late"] * 2
    metrics.is_changed = False
    family.add(cell, 1.0)
    assert heard == ["late"] * 3


def test_beyond_the_bound_counts_go_together_and_gauges_are_left_out() -> None:
    metrics = ProcessMetrics()
    counter, gauge = metrics.cells_of(Metric("c_total", COUNTER)), metrics.cells_of(Metric("g", GAUGE))
    for number in range(MAX_SERIES_OF_PROCESS):
        assert counter.cell(("k", str(number))) is not None
    for number in range(3):
        cell = counter.cell(("k", f"more {number}"))
        assert cell is not None
        assert cell.labels == OVERFLOW
        counter.add(cell, 1.0)
    assert counter.cells[OVERFLOW].value == 3
    metrics.is_changed = False
    assert gauge.cell(()) is None
    gauge.leave_out()
    assert metrics.left_out == 4
    assert metrics.is_changed


def test_a_name_is_one_thing_and_so_are_the_names_that_its_text_has() -> None:
    metrics = ProcessMetrics()
    bounded = Metric("h", HISTOGRAM, boundaries=(1.0,))
    assert metrics.cells_of(bounded) is metrics.cells_of(bounded)
    for other in (Metric("h", GAUGE), Metric("h", HISTOGRAM, boundaries=(2.0,)), Metric("h_sum", GAUGE)):
        with pytest.raises(LookupError, match=r"'h' is a histogram with boundaries \[1.0\] in this process"):
            metrics.cells_of(other)


def test_a_forked_child_begins_at_nothing() -> None:
    metrics = ProcessMetrics()
    heard: list[str] = []
    metrics.listen(lambda: heard.append("of the parent"))
    family = metrics.cells_of(Metric("h", HISTOGRAM, boundaries=(1.0,)))
    cell = family.cell(())
    assert cell is not None
    family.observe(cell, 1.0)
    assert (cell.value, cell.counts, heard) == (1.0, [1, 0], ["of the parent"])
    metrics.forget()
    assert (cell.value, cell.counts) == (0.0, [0, 0])
    family.observe(cell, 2.0)
    assert (cell.value, cell.counts, heard) == (2.0, [0, 1], ["of the parent"])
