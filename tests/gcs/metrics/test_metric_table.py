"""The metrics of all nodes, as the GCS knows them, whatever is lost on the way."""

from __future__ import annotations

import collections
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from aioray.wire.control import MetricsTold
from aioray.wire.gcs import MetricPace, MetricReport
from aioray.wire.metrics import GaugesOf
from aioray_node.gcs.metrics import metric_log
from aioray_node.gcs.metrics.metric_table import (
    SERIES_PER_S,
    Command,
    Event,
    NodeDied,
    Reported,
    State,
    all_metrics,
    check,
    handle,
    of_tasks,
)
from tests.gcs.metrics.test_book import counter, gauge, totals

LEFT_OUT = {
    ("metrics_left_out_total", ("Reason", "no room")): 0.0,
    ("metrics_left_out_total", ("Reason", "conflict")): 0.0,
}


class Run:
    """The GCS's table; each event is followed by `check`."""

    def __init__(self, max_series: int = 100) -> None:
        self.state = State(10.0, max_series)
        self.now = 0.0

    def feed(self, event: Event) -> list[Command]:
        commands = handle(self.state, event, self.now)
        check(self.state)
        return commands

    def shown(self) -> dict[tuple[str, tuple[str, ...]], float]:
        found = totals(tuple(all_metrics(self.state)))
        return {key: value for key, value in found.items() if key not in LEFT_OUT or value}


def test_counters_of_what_has_ended_stay_and_its_gauges_go() -> None:
    """
    1. two nodes tell; gauges have the labels of node and process
    2. a process is gone, then a node: sums are as they were
    3. the late words of the dead node mean nothing
    """
    run = Run()
    gauges = (GaugesOf(b"\1", (gauge("g", 1),)), GaugesOf(b"\2", (gauge("g", 2),)), GaugesOf(b"", (gauge("own", 3),)))
    run.feed(Reported("a", MetricReport(1, (counter("c_total", 1),), gauges)))
    run.feed(Reported("b", MetricReport(1, (counter("c_total", 2),), (GaugesOf(b"\1", (gauge("g", 4),)),))))
    assert run.shown() == {
        ("c_total", ()): 3,
        ("g", ("NodeId", "a", "WorkerId", "01")): 1,
        ("g", ("NodeId", "a", "WorkerId", "02")): 2,
        ("own", ("NodeId", "a")): 3,
        ("g", ("NodeId", "b", "WorkerId", "01")): 4,
    }
    run.feed(Reported("a", MetricReport(2, gone=(b"\1",))))
    run.feed(NodeDied("b"))
    assert run.feed(Reported("b", MetricReport(2, (counter("c_total", 2),)))) == []
    assert run.shown() == {
        ("c_total", ()): 3,
        ("g", ("NodeId", "a", "WorkerId", "02")): 2,
        ("own", ("NodeId", "a")): 3,
    }


def test_a_node_that_tells_all_it_has_replaces_what_was_known_of_it() -> None:
    run = Run()
    run.feed(Reported("a", MetricReport(1, gauges=(GaugesOf(b"\1", (gauge("g", 1),)),))))
    run.feed(Reported("a", MetricReport(2, gauges=(GaugesOf(b"\2", (gauge("g", 2),)),), is_whole=True)))
    assert run.shown() == {("g", ("NodeId", "a", "WorkerId", "02")): 2}


def test_what_is_left_out_is_counted_and_shown() -> None:
    run = Run(max_series=1)
    told = (counter("c_total", 1), counter("c_total", 1, "k", "v"))
    run.feed(Reported("a", MetricReport(1, told, left_out=2, conflicts=3)))
    run.feed(Reported("a", MetricReport(2, (gauge("c_total", 1),), (GaugesOf(b"", (gauge("own", 1),)),))))
    assert run.shown() == {
        ("c_total", ()): 1,
        ("c_total", ("Overflow", "true")): 1,
        ("own", ("NodeId", "a")): 1,  # that of a node has its own room
        ("metrics_left_out_total", ("Reason", "no room")): 3,
        ("metrics_left_out_total", ("Reason", "conflict")): 4,
    }


def test_nodes_report_less_often_where_they_are_many_or_tell_much() -> None:
    run = Run()

    def answered(node_id: str, report: MetricReport) -> float:
        (answer,) = run.feed(Reported(node_id, report))
        return answer.pace.interval_s

    assert answered("a", MetricReport(1)) == 10.0
    for number in range(2000):
        answered(f"n{number}", MetricReport(1))
    assert answered("a", MetricReport(2)) == 20.01, "100 reports a second from all of them"
    run = Run(max_series=10)
    much = tuple(counter("c_total", 1) for _ in range(2 * int(SERIES_PER_S)))
    assert answered("a", MetricReport(1, much)) == 20.0
    run.now = 1.0
    assert answered("a", MetricReport(2)) == 10.0


def test_tasks_are_counted_by_state() -> None:
    assert totals((of_tasks({"RUNNING": 2, "FAILED": 0}),)) == {
        ("tasks", ("State", "RUNNING")): 2,
        ("tasks", ("State", "FAILED")): 0,
    }


@dataclass
class World:
    """Nodes with a log each, and a line to the table that loses, repeats and delays."""

    run: Run = field(default_factory=Run)
    logs: dict[str, metric_log.State] = field(default_factory=dict)
    inbox: list[tuple[str, MetricReport]] = field(default_factory=list)
    answers: list[tuple[str, MetricPace]] = field(default_factory=list)
    counted: collections.Counter[str] = field(default_factory=collections.Counter)
    gauges: dict[tuple[str, bytes], int] = field(default_factory=dict)  # of processes that live

    def feed(self, node_id: str, event: metric_log.Event) -> None:
        log = self.logs.get(node_id)
        if log is None:
            log = self.logs[node_id] = metric_log.State(base_interval_s=1.0, max_series=50)
            self.feed(node_id, metric_log.Connected())
        for command in metric_log.handle(log, event, self.run.now):
            if isinstance(command, metric_log.Send) and log.connected:
                self.inbox.append((node_id, command.report))
        metric_log.check(log)

    def tell(self, node_id: str, process: bytes, name: str, value: int) -> None:
        self.counted[name] += value
        self.gauges[node_id, process] = value
        told = MetricsTold((counter(f"{name}_total", value, "k", "v"), gauge("level", value)))
        self.feed(node_id, metric_log.Told(process, told))

    def end(self, node_id: str, process: bytes) -> None:
        self.gauges.pop((node_id, process), None)
        self.feed(node_id, metric_log.ProcessGone(process))

    def cut(self, node_id: str) -> None:
        """What is on its way is lost, one way or the other."""
        self.inbox = [each for each in self.inbox if each[0] != node_id]
        self.answers = [each for each in self.answers if each[0] != node_id]
        self.feed(node_id, metric_log.Disconnected())

    def mend(self, node_id: str) -> None:
        self.feed(node_id, metric_log.Connected())

    def deliver(self, repeat: bool) -> None:
        if self.inbox:
            node_id, report = self.inbox.pop(0)
            for _ in range(1 + repeat):
                for command in self.run.feed(Reported(node_id, report)):
                    self.answers.append((node_id, command.pace))

    def answer(self) -> None:
        if self.answers:
            node_id, pace = self.answers.pop(0)
            self.feed(node_id, metric_log.Paced(pace))

    def advance(self, seconds: float) -> None:
        self.run.now += seconds
        for node_id in self.logs:
            self.feed(node_id, metric_log.Tick((gauge("own", self.run.now),)))

    def settle(self) -> None:
        for node_id in self.logs:
            self.mend(node_id)
        for _ in range(3):
            self.advance(1000.0)
            while self.inbox or self.answers:
                self.deliver(repeat=False)
                self.answer()


_nodes, _processes = st.sampled_from(["a", "b"]), st.sampled_from([b"\1", b"\2", b"\3"])
_steps = st.one_of(
    st.tuples(st.just("tell"), _nodes, _processes, st.sampled_from(["f", "g"]), st.integers(1, 9)),
    st.tuples(st.just("end"), _nodes, _processes),
    st.tuples(st.just("cut"), _nodes),
    st.tuples(st.just("mend"), _nodes),
    st.tuples(st.just("deliver"), st.booleans()),
    st.tuples(st.just("answer")),
    st.tuples(st.just("advance"), st.sampled_from([0.1, 0.7, 2.0, 20.0])),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(_steps, max_size=60))
def test_all_is_counted_once_and_gauges_are_those_of_who_lives(story: list[tuple[str, object]]) -> None:
    world = World()
    for what, *args in story:
        getattr(world, what)(*args)
    world.settle()
    wanted: dict[tuple[str, tuple[str, ...]], float] = {
        ("level", ("NodeId", node_id, "WorkerId", process.hex())): value
        for (node_id, process), value in world.gauges.items()
    }
    wanted |= {("own", ("NodeId", node_id)): world.run.now for node_id in world.logs}
    wanted |= {(f"{name}_total", ("k", "v")): count for name, count in world.counted.items()}
    assert world.run.shown() == wanted
