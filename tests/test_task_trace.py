"""The trace of tasks, from the rows that the state API gives."""

from __future__ import annotations

from typing import Any

from aioray.task_trace import trace_of
from aioray.wire.state import TaskRow


def row(name: str, start_ms: int | None, end_ms: int | None = None, **more: Any) -> TaskRow:
    fields = {"node_id": "aa", "worker_id": "w1", "actor_id": None, "error_type": None, "state": "FINISHED", **more}
    return TaskRow(
        task_id="01", name=name, type="NORMAL_TASK", job_id="07", start_time_ms=start_ms, end_time_ms=end_ms, **fields
    )


def test_each_task_is_a_span_of_its_worker_and_nodes_and_workers_have_names() -> None:
    events = trace_of([row("f", 10, 12), row("g", 13, 20, worker_id="w2"), row("h", 5, 6, node_id="bb")], now_ms=100)
    assert [(event["name"], event["args"]["name"], event["pid"], event["tid"]) for event in events[:5]] == [
        ("process_name", "node aa", 1, 0),
        ("thread_name", "worker w1", 1, 1),
        ("thread_name", "worker w2", 1, 2),
        ("process_name", "node bb", 2, 0),
        ("thread_name", "worker w1", 2, 3),
    ]
    assert [(e["ph"], e["name"], e["ts"], e["dur"], e["pid"], e["tid"]) for e in events[5:]] == [
        ("X", "f", 10_000, 2_000, 1, 1),
        ("X", "g", 13_000, 7_000, 1, 2),
        ("X", "h", 5_000, 1_000, 2, 3),
    ]


def test_what_runs_lasts_until_now_what_waits_is_left_out_and_what_failed_has_a_colour() -> None:
    """Clocks of two nodes may differ: what began after now has no length yet."""
    tasks = [
        row("runs", 10, state="RUNNING"),
        row("begun elsewhere", 101, state="RUNNING"),
        row("waits", None, worker_id=None, state="PENDING_NODE_ASSIGNMENT"),
        row("fails", 10, 11, state="FAILED", error_type="KeyError"),
    ]
    spans = [event for event in trace_of(tasks, now_ms=100) if event["ph"] == "X"]
    assert [(span["name"], span["dur"]) for span in spans] == [
        ("runs", 90_000),
        ("begun elsewhere", 0),
        ("fails", 1_000),
    ]
    assert ["cname" in span for span in spans] == [False, False, True]
    assert spans[2]["args"]["error_type"] == "KeyError"
