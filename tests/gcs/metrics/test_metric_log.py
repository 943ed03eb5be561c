"""What a node tells the GCS of metrics, and when."""

from __future__ import annotations

from aioray.wire.control import MetricInterval, MetricsTold
from aioray.wire.gcs import MetricPace, MetricReport
from aioray.wire.metrics import GaugesOf, Metric
from aioray_node.gcs.metrics import metric_log
from aioray_node.gcs.metrics.metric_log import (
    Command,
    Connected,
    Disconnected,
    Event,
    Pace,
    Paced,
    ProcessGone,
    Send,
    State,
    Tick,
    Told,
    check,
    handle,
)
from aioray_node.gcs.pacing import WakeAt
from tests.gcs.metrics.test_book import counter, gauge

W1, W2 = b"worker 1", b"worker 2"


class Run:
    """A node's log; each event is followed by `check`."""

    def __init__(self, max_series: int = 100) -> None:
        self.state = State(base_interval_s=10.0, max_series=max_series)
        self.now = 100.0
        self.own: tuple[Metric, ...] = ()
        self.told: list[Pace] = []

    def feed(self, event: Event) -> list[Command]:
        commands = handle(self.state, event, self.now)
        check(self.state)
        self.told += [command for command in commands if isinstance(command, Pace)]
        return [command for command in commands if not isinstance(command, Pace)]

    def tell(self, *metrics: Metric, process: bytes = W1, left_out: int = 0) -> list[Command]:
        return self.feed(Told(process, MetricsTold(metrics, left_out)))

    def wake(self) -> list[Command]:
        """Wait for the time that it wants to be woken at."""
        assert self.state.wake_at is not None
        self.now = max(self.now, self.state.wake_at)
        return self.feed(Tick(self.own))

    def report(self) -> MetricReport:
        (sent,) = self.wake()
        assert isinstance(sent, Send)
        return sent.report

    def answer(self, after_s: float = 0.1, interval_s: float = 10.0) -> list[Command]:
        self.now += after_s
        return self.feed(Paced(MetricPace(self.state.seq, interval_s)))


def test_what_processes_tell_is_added_up_for_an_interval() -> None:
    """
    1. the first word goes at once
    2. what comes before that is answered, and before the interval is over, is gathered
    """
    run = Run()
    assert run.feed(Connected()) == [WakeAt(110.0)], "the node looks at itself when an interval is over"
    assert run.tell(counter("c_total", 2)) == [WakeAt(100.0)]
    assert run.report() == MetricReport(1, (counter("c_total", 2),), is_whole=True)
    assert run.tell(counter("c_total", 3)) == []
    assert run.tell(counter("c_total", 4), process=W2, left_out=5) == []
    assert run.answer() == [WakeAt(110.0)]
    assert run.report() == MetricReport(2, (counter("c_total", 7),), left_out=5)


def test_a_node_tells_of_itself_what_has_changed() -> None:
    run = Run()
    run.feed(Connected())
    run.own = (gauge("level", 1),)
    assert run.report().gauges == (GaugesOf(b"", run.own),)
    run.answer()
    assert run.wake() == [WakeAt(130.0)], "nothing has changed, so nothing is told"
    run.own = (gauge("level", 2),)
    assert run.report().gauges == (GaugesOf(b"", run.own),)


def test_gauges_are_told_when_they_change_and_when_their_process_is_gone() -> None:
    run = Run()
    run.feed(Connected())
    run.tell(gauge("g", 1), gauge("other", 1))
    assert run.report().gauges[0].process == W1
    run.answer()
    run.tell(gauge("g", 2), gauge("other", 1))
    run.tell(gauge("g", 5), process=W2)
    run.feed(ProcessGone(W2))
    report = run.report()
    assert (report.gauges, report.gone) == ((GaugesOf(W1, (gauge("g", 2),)),), (W2,))
    run.answer()
    run.feed(ProcessGone(W1))
    report = run.report()
    assert (report.gauges, report.gone) == ((), (W1,))
    run.answer()
    assert run.feed(ProcessGone(b"it had none")) == []


def test_a_report_that_was_not_answered_is_sent_again_and_all_gauges_after_it() -> None:
    """The GCS at the other end may be a new one, which knows nothing."""
    run = Run()
    run.feed(Connected())
    run.tell(gauge("g", 1), counter("c_total", 1))
    report = run.report()
    assert run.feed(Disconnected()) == []
    assert run.tell(counter("c_total", 5)) == []
    assert run.feed(Connected()) == [Send(report)]
    run.answer()
    again = run.report()
    assert again.is_whole
    assert (again.sums, again.gauges) == ((counter("c_total", 5),), (GaugesOf(W1, (gauge("g", 1),)),))


def test_a_node_that_leaves_tells_what_it_knows_though_the_report_before_is_unanswered() -> None:
    run = Run()
    run.feed(Connected())
    assert run.feed(metric_log.Leaving()) == [], "it knows nothing"
    run.tell(counter("c_total", 1))
    run.report()
    run.tell(counter("c_total", 2))
    assert run.feed(metric_log.Leaving()) == [Send(MetricReport(2, (counter("c_total", 2),)))]


def test_processes_are_told_how_often_the_node_wants_to_hear() -> None:
    """Each is told when it tells something: at first, and when the GCS answers late, or says that it wants less."""
    run = Run()
    run.feed(Connected())
    run.tell(counter("c_total", 1))
    run.report()
    run.answer(after_s=6.0)
    assert run.told == [Pace(W1, MetricInterval(10.0))]
    run.tell(counter("c_total", 1))
    assert run.told[1:] == [Pace(W1, MetricInterval(20.0))]
    run.tell(counter("c_total", 1))
    run.report()
    run.answer(interval_s=30.0)
    run.tell(counter("c_total", 1))
    assert run.told[2:] == [Pace(W1, MetricInterval(30.0))], "in time, so it is as the GCS wants it"


def test_what_does_not_fit_into_a_report_goes_with_the_next() -> None:
    run = Run(max_series=20_000)
    run.feed(Connected())
    run.tell(*(counter("c_total", 1, "k", str(n)) for n in range(4000)))
    run.tell(*(gauge("g", 1, "k", str(n)) for n in range(4000)))
    sums = gauges = 0
    for _ in range(2):
        report = run.report()
        told = sum(len(metric.series) for metric in report.sums)
        told_of_gauges = sum(len(metric.series) for each in report.gauges for metric in each.metrics)
        assert told + told_of_gauges <= metric_log._MAX_SERIES
        sums, gauges = sums + told, gauges + told_of_gauges
        run.answer()
    assert (sums, gauges) == (4000, 4000)
    assert not metric_log._has_news(run.state)
