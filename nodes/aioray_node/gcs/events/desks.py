"""Task events carried out: a node's side, and the GCS's."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING

from aioray_node.gcs.events import task_log, task_table
from aioray_node.gcs.pacing import WakeAt

if TYPE_CHECKING:
    from collections.abc import Callable

    import msgspec

    from aioray.config import Config
    from aioray.runtime.poller import Timer
    from aioray.runtime.reactor import Reactor
    from aioray.wire.control import TaskEvents
    from aioray.wire.gcs import GcsPace, TaskReport


class TaskLogDesk:
    """Every method is called with the reactor's lock held. `send` tells a process something."""

    def __init__(self, reactor: Reactor, config: Config, send: Callable[[bytes, msgspec.Struct], None]) -> None:
        self._reactor = reactor
        self._send = send
        interval_s = config.task_events_reporting_interval_ms / 1000
        self._state = task_log.State(base_interval_s=interval_s, max_room=config.task_events_report_max)
        self._line: Callable[[TaskReport], None] | None = None
        self._timer: Timer | None = None

    def connected(self, line: Callable[[TaskReport], None]) -> None:
        """There is a way to the GCS."""
        self._line = line
        self._feed(task_log.Connected())

    def disconnected(self) -> None:
        self._line = None
        self._feed(task_log.Disconnected())

    def told(self, process: bytes, events: TaskEvents) -> None:
        """A process of this node tells of tasks: a driver may, though the node is to tell nothing."""
        if self._state.base_interval_s:
            self._feed(task_log.Told(process, events))

    def process_gone(self, process: bytes) -> None:
        self._feed(task_log.ProcessGone(process, time.time()))

    def paced(self, pace: GcsPace) -> None:
        """The GCS has taken a report in."""
        self._feed(task_log.Paced(pace))

    def _feed(self, event: task_log.Event) -> None:
        for command in task_log.handle(self._state, event, self._reactor.time()):
            match command:
                case task_log.Send(report):
                    if self._line is not None:
                        self._line(report)
                case task_log.Pace(process, pace):
                    self._send(process, pace)
                case WakeAt(when):
                    if self._timer is not None:
                        self._timer.cancel()
                    delay_s = max(0.0, when - self._reactor.time())
                    self._timer = self._reactor.call_later(delay_s, functools.partial(self._feed, task_log.Tick()))


class TaskTableDesk:
    """Every method is called with the reactor's lock held."""

    def __init__(self, reactor: Reactor, config: Config) -> None:
        self._reactor = reactor
        self.state = task_table.State(
            config.task_events_reporting_interval_ms / 1000,
            config.task_events_report_max,
            config.task_events_max_per_job,
            config.task_events_cleaning_interval_ms / 1000,
        )

    def reported(self, node_id: str, report: TaskReport) -> GcsPace | None:
        """What a node tells; what it is to be answered."""
        answer = None
        for command in self._handle(task_table.Reported(node_id, report)):
            if isinstance(command, task_table.Answer):
                answer = command.pace
        return answer

    def left_out(self) -> int:
        """How many tasks are known by their number only."""
        return task_table.left_out(self.state)

    def node_died(self, node_id: str) -> None:
        self._handle(task_table.NodeDied(node_id, time.time()))

    def job_ended(self, job_id: bytes) -> None:
        self._handle(task_table.JobEnded(job_id))

    def _handle(self, event: task_table.Event) -> list[task_table.Command]:
        commands = task_table.handle(self.state, event, self._reactor.time())
        for command in commands:
            if isinstance(command, WakeAt):
                self._reactor.call_later(max(0.0, command.when - self._reactor.time()), self._tick)
        return commands

    def _tick(self) -> None:
        self._handle(task_table.Tick())
