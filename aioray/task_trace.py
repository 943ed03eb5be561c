"""timeline: when which worker was busy with what, as a trace that chrome://tracing and Perfetto show."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from aioray.wire.state import TaskRow

_FAILED = "terrible"  # one of the colours that the format has names for


def timeline(filename: str | os.PathLike[str] | None = None) -> list[dict[str, Any]] | None:
    """The tasks and calls of actors that have begun, as events in Chrome's trace format; written to a file as JSON,
    instead, where there is a `filename`.

    An event for each: `ts` (Unix time) and `dur` in microseconds, known to the millisecond; a process of the trace is a
    node, a thread a worker. What still runs lasts until now. It is as new as the last reports
    (`task_events_reporting_interval_ms`), and of the last 10,000 that are known one by one, see `aioray.util.state`.
    Works in an event loop, too. Raises OSError where the file cannot be written.
    """
    from aioray.util.state import list_tasks
    from aioray.wire.state import MAX_LIMIT

    events = trace_of(list_tasks(limit=MAX_LIMIT), int(time.time() * 1000))
    if filename is None:
        return events
    with open(filename, "w") as file:
        json.dump(events, file)
    return None


def trace_of(tasks: Iterable[TaskRow], now_ms: int) -> list[dict[str, Any]]:
    """Events of those that have begun, after those that name nodes and workers. Pure."""
    nodes: dict[str, int] = {}
    workers: dict[tuple[str, str], int] = {}
    names: list[dict[str, Any]] = []
    spans: list[dict[str, Any]] = []
    for task in tasks:
        if task.start_time_ms is None or task.worker_id is None:
            continue
        if task.node_id not in nodes:
            nodes[task.node_id] = len(nodes) + 1
            names.append(_name("process_name", f"node {task.node_id}", nodes[task.node_id], 0))
        worker = (task.node_id, task.worker_id)
        if worker not in workers:
            workers[worker] = len(workers) + 1
            names.append(_name("thread_name", f"worker {task.worker_id}", nodes[task.node_id], workers[worker]))
        end_ms = now_ms if task.end_time_ms is None else task.end_time_ms
        span = {
            "name": task.name,
            "cat": task.type.lower(),
            "ph": "X",
            "ts": task.start_time_ms * 1000,
            "dur": max(0, end_ms - task.start_time_ms) * 1000,
            "pid": nodes[task.node_id],
            "tid": workers[worker],
            "args": {
                "task_id": task.task_id,
                "job_id": task.job_id,
                "actor_id": task.actor_id,
                "state": task.state,
                "error_type": task.error_type,
            },
        }
        spans.append(span if task.error_type is None else {**span, "cname": _FAILED})
    return names + spans


def _name(what: str, name: str, pid: int, tid: int) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": pid, "tid": tid, "args": {"name": name}}
