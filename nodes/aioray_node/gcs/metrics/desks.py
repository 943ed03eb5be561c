"""Metrics carried out: a node's side, and the GCS's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioray_node.gcs.metrics import metric_log, metric_table
from aioray_node.gcs.pacing import WakeAt

if TYPE_CHECKING:
    from collections.abc import Callable

    import msgspec

    from aioray.config import Config
    from aioray.runtime.poller import Timer
    from aioray.runtime.reactor import Reactor
    from aioray.wire.control import MetricsTold
    from aioray.wire.gcs import MetricPace, MetricReport
    from aioray.wire.metrics import Metric


class MetricLogDesk:
    """Every method is called with the reactor's lock held. `look()`: the node's own gauges. `send`: to a process."""

    def __init__(
        self,
        reactor: Reactor,
        config: Config,
        send: Callable[[bytes, msgspec.Struct], None],
        look: Callable[[], tuple[Metric, ...]],
    ) -> None:
        self._reactor = reactor
        self._send = send
        self._look = look
        self._is_on = config.metrics_report_interval_ms > 0
        self._state = metric_log.State(
            base_interval_s=config.metrics_report_interval_ms / 1000, max_series=config.metrics_max_series
        )
        self._line: Callable[[MetricReport], None] | None = None
        self._timer: Timer | None = None

    def connected(self, line: Callable[[MetricReport], None]) -> None:
        """There is a way to the GCS."""
        self._line = line
        self._feed(metric_log.Connected())

    def disconnected(self) -> None:
        self._line = None
        self._feed(metric_log.Disconnected())

    def leaving(self) -> None:
        """The node ends on purpose."""
        self._feed(metric_log.Leaving())

    def told(self, process: bytes, told: MetricsTold) -> None:
        """A process of this node tells of its metrics: a driver may, though the node is to tell nothing."""
        self._feed(metric_log.Told(process, told))

    def process_gone(self, process: bytes) -> None:
        self._feed(metric_log.ProcessGone(process))

    def paced(self, pace: MetricPace) -> None:
        """The GCS has taken a report in."""
        self._feed(metric_log.Paced(pace))

    def _feed(self, event: metric_log.Event) -> None:
        if not self._is_on:
            return
        for command in metric_log.handle(self._state, event, self._reactor.time()):
            match command:
                case metric_log.Send(report):
                    if self._line is not None:
                        self._line(report)
                case metric_log.Pace(process, interval):
                    self._send(process, interval)
                case WakeAt(when):
                    if self._timer is not None:
                        self._timer.cancel()
                    self._timer = self._reactor.call_later(max(0.0, when - self._reactor.time()), self._tick)

    def _tick(self) -> None:
        self._feed(metric_log.Tick(self._look()))


class MetricTableDesk:
    """Every method is called with the reactor's lock held."""

    def __init__(self, reactor: Reactor, config: Config) -> None:
        self._reactor = reactor
        self.state = metric_table.State(config.metrics_report_interval_ms / 1000, config.metrics_max_series)

    def reported(self, node_id: str, report: MetricReport) -> MetricPace | None:
        """What a node tells; what it is to be answered."""
        for answer in metric_table.handle(self.state, metric_table.Reported(node_id, report), self._reactor.time()):
            return answer.pace
        return None

    def node_died(self, node_id: str) -> None:
        metric_table.handle(self.state, metric_table.NodeDied(node_id), self._reactor.time())

    def all_metrics(self) -> list[Metric]:
        """Everything that is known."""
        return metric_table.all_metrics(self.state)
