"""Counters, gauges and histograms: what they refuse, and what of them is known in a cluster."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import aioray
from aioray.exceptions import InvalidOptionError
from aioray.util.metrics import Counter, Gauge, Histogram, prometheus_text
from tests.api.support import eventually, started

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

QUICK = {"metrics_report_interval_ms": 50, "task_events_reporting_interval_ms": 0}

# Counted before there is a cluster, in this process; its copies count where they are.
items = Counter("test_items", "Items by place.", tag_keys=("place",)).set_default_tags({"place": "driver"})


@pytest.fixture(scope="module")
def quick_ray() -> Iterator[Any]:
    items.inc(2)
    with started(num_cpus=2, namespace="tests", _system_config=QUICK) as ray:
        yield ray


def known(name: str) -> dict[tuple[str, ...], float]:
    """The samples of that name, by the values of their labels, in the order of these."""
    return {
        tuple(value for key, value in sorted(sample.labels.items()) if key not in ("NodeId", "WorkerId")): sample.value
        for family in text_string_to_metric_families(prometheus_text())
        for sample in family.samples
        if sample.name == f"aioray_{name}"
    }


def until_known(name: str, wanted: dict[tuple[str, ...], float]) -> None:
    eventually(lambda: known(name) == wanted, lambda: f"{name}: {known(name)}, not {wanted}")


@aioray.remote
def count(n: float) -> None:
    items.inc(n, tags={"place": "task"})


class MeterClass:
    def __init__(self) -> None:
        self.level = Gauge("test_level", "Of an actor.")
        self.sizes = Histogram("test_sizes", "Of things.", boundaries=[1, 10], tag_keys=("kind",))

    def measure(self, value: float) -> None:
        self.level.set(value)
        self.sizes.observe(value, tags={"kind": "round"})


Meter = aioray.remote(MeterClass)


def test_what_driver_tasks_and_actors_count_is_added_up(quick_ray: Any) -> None:
    """
    1. a Counter of the driver, before and after it has a cluster, and in tasks
    2. a Gauge and a Histogram of an actor; when that has ended, the Gauge is gone, and the sums stay
    """
    items.inc()
    quick_ray.get([count.remote(n) for n in (1, 2.5)])
    until_known("test_items_total", {("driver",): 3, ("task",): 3.5})
    meter = Meter.remote()
    quick_ray.get([meter.measure.remote(value) for value in (0.5, 10, 11)])
    until_known("test_level", {(): 11})
    sizes: dict[tuple[str, ...], float] = {("round", "1.0"): 1.0, ("round", "10.0"): 2.0, ("round", "+Inf"): 3.0}
    until_known("test_sizes_bucket", sizes)
    meter.measure.remote(12)
    del meter  # it finishes its calls, and says how they went
    until_known("test_level", {})
    until_known("test_sizes_sum", {("round",): 33.5})
    assert known("test_sizes_count") == {("round",): 4}


# without a cluster


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: Counter(""), "name=''"),
        (lambda: Counter("no spaces"), "letters, digits, '_' and ':'"),
        (lambda: Counter("9lives"), "begins with no digit"),
        (lambda: Counter("x" * 201), "200 characters"),
        (lambda: Counter(7), "name=7"),  # type: ignore[arg-type]
        (lambda: Gauge("node_workers"), "nodes have a metric that is called so"),
        (lambda: Counter("tasks", 7), "description=7"),  # type: ignore[arg-type]
        (lambda: Counter("test_bad", "\ud800"), "UTF-8"),
        (lambda: Counter("test_bad", tag_keys=["a"]), "a tuple of texts"),  # type: ignore[arg-type]
        (lambda: Counter("test_bad", tag_keys=(1,)), "tag_keys=1"),  # type: ignore[arg-type]
        (lambda: Counter("test_bad", tag_keys=("__a",)), "nor '__' at the beginning"),
        (lambda: Counter("test_bad", tag_keys=("le",)), "other names than"),
        (lambda: Counter("test_bad", tag_keys=("a", "a")), "each name once"),
        (lambda: Histogram("test_bad"), "one at least"),
        (lambda: Histogram("test_bad", boundaries=[]), "one at least"),
        (lambda: Histogram("test_bad", boundaries=[0, 1]), "numbers above 0"),
        (lambda: Histogram("test_bad", boundaries=[2, 1]), "greater than the one before"),
        (lambda: Histogram("test_bad", boundaries=["1"]), "a number"),  # type: ignore[list-item]
        (lambda: Gauge("test_items_total"), "'test_items_total' is a counter in this process"),
        (lambda: items.set_default_tags({"colour": "red"}), "'colour' is not among the tag_keys of 'test_items'"),
        (lambda: items.set_default_tags({"place": 1}), "tags\\['place'\\]=1"),  # type: ignore[dict-item]
    ],
)
def test_what_makes_no_metric_is_refused(made: Callable[[], object], words: str) -> None:
    with pytest.raises(InvalidOptionError, match=words):
        made()


@pytest.mark.parametrize(
    ("recorded", "words"),
    [
        (lambda: items.inc(0), "a counter only grows"),
        (lambda: items.inc(-1.0), "a counter only grows"),
        (lambda: items.inc(float("nan")), "a finite one"),
        (lambda: items.inc(float("inf")), "a finite one"),
        (lambda: items.inc("1"), "value='1'"),  # type: ignore[arg-type]
        (lambda: items.inc(1, tags={"colour": "red"}), "'colour' is not among the tag_keys"),
        (lambda: items.inc(1, tags={"place": 7}), "tags\\['place'\\]=7"),  # type: ignore[dict-item]
        (lambda: items.inc(1, tags={"place": []}), "tags\\['place'\\]="),  # type: ignore[dict-item]
        (lambda: items.inc(1, tags=[]), "a dict with 'place'"),  # type: ignore[arg-type]
        (lambda: items.inc(1, tags="place"), "a dict with 'place'"),  # type: ignore[arg-type]
        (lambda: items.inc(1, tags={"place": "x" * 1001}), "1000 bytes"),
        (lambda: Counter("test_tagged", tag_keys=("a", "b")).inc(1, tags={"a": "x"}), "no b"),
        (lambda: Gauge("test_gauge").set("high"), "value='high'"),  # type: ignore[arg-type]
        (lambda: Histogram("test_h", boundaries=[1]).observe(None), "value=None"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_recorded_is_refused_at_the_call(recorded: Callable[[], object], words: str) -> None:
    with pytest.raises(InvalidOptionError, match=words) as caught:
        recorded()
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, TypeError)


def test_a_metric_tells_what_it_is_and_survives_pickling() -> None:
    sizes = Histogram("test_pickled", "Sizes.", [1, 2.5], ("kind",)).set_default_tags({"kind": "any"})
    again = pickle.loads(pickle.dumps(sizes))
    assert (
        again.info
        == sizes.info
        == {
            "name": "test_pickled",
            "description": "Sizes.",
            "tag_keys": ("kind",),
            "default_tags": {"kind": "any"},
            "boundaries": [1.0, 2.5],
        }
    )
    assert repr(again) == "<aioray.util.metrics.Histogram 'test_pickled'>"
    Gauge("test_none").set(None)


def test_counting_needs_no_cluster_and_imports_none() -> None:
    program = (
        "import sys\n"
        "from aioray.util.metrics import Counter\n"
        "Counter('c').inc()\n"
        "assert not {'prometheus_client', 'aioray.runtime.runtime', 'aiohttp'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=30)
