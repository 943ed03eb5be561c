"""Metrics on a node: what its processes tell, what it says of itself, and what can be asked."""

from __future__ import annotations

import pathlib
import tempfile
from typing import TYPE_CHECKING

import msgspec
import pytest

from aioray.wire.control import MetricsTold
from aioray.wire.metrics import COUNTER, GAUGE, Metric, Series
from tests.node.stage import DRIVER, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKER = b"worker--"


@pytest.fixture
def stage(nothing_left: None) -> Iterator[Stage]:
    with tempfile.TemporaryDirectory() as directory:
        stage = Stage(pathlib.Path(directory))
        yield stage
        stage.close()


def known(stage: Stage) -> dict[tuple[str, tuple[str, ...]], float]:
    """What the head answers."""
    found = msgspec.convert(stage.ask("metrics"), list[Metric])
    return {(metric.name, series.labels): series.value for metric in found for series in metric.series}


def told(count: float, level: float) -> MetricsTold:
    counter = Metric("c_total", COUNTER, series=(Series((), count),))
    return MetricsTold((counter, Metric("g", GAUGE, series=(Series((), level),))))


def test_counts_of_a_process_outlive_it_and_its_gauges_do_not(stage: Stage) -> None:
    """
    1. two processes tell: the first word is known at once, what comes later when the interval is over
    2. one of them ends
    """
    node = ("NodeId", stage.node.node_id)
    driver, other = stage.join(DRIVER), stage.join(WORKER)
    driver.say(told(1, 5))
    stage.settle()
    assert known(stage)["c_total", ()] == 1
    other.say(told(2, 6))
    stage.settle()
    assert known(stage)["c_total", ()] == 1
    stage.advance(10.0)
    found = known(stage)
    assert found["c_total", ()] == 3
    gauges = {labels[-1]: value for (name, labels), value in found.items() if name == "g"}
    assert gauges == {DRIVER.hex(): 5, WORKER.hex(): 6}
    with stage.reactor.lock:
        other.connection.close()
    stage.settle()
    stage.advance(10.0)
    found = known(stage)
    assert [labels for name, labels in found if name == "g"] == [(*node, "WorkerId", DRIVER.hex())]
    assert found["c_total", ()] == 3


def test_a_node_says_what_it_has_and_what_of_it_is_used(stage: Stage) -> None:
    node = ("NodeId", stage.node.node_id)
    assert ("node_mem_total", node) not in known(stage), "nobody looks before an interval is over"
    stage.advance(10.0)
    found = known(stage)
    assert found["resources", ("Name", "CPU", "State", "AVAILABLE", *node)] == 1
    assert found["resources", ("Name", "CPU", "State", "USED", *node)] == 0
    assert found["object_store_available_memory", node] == 1 << 20
    assert found["object_store_used_memory", node] == 0
    assert found["node_workers", node] == 0
    assert 0 < found["node_mem_used", node] < found["node_mem_total", node]
    assert found["tasks", ("State", "RUNNING")] == 0
