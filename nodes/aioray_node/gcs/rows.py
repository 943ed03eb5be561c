"""What the GCS knows, as rows that people read; filtered and cut. Pure."""

from __future__ import annotations

import collections
import heapq
from typing import TYPE_CHECKING, Any

import msgspec

from aioray.wire import state as asked
from aioray.wire.events import ENDED_STATES
from aioray_node.gcs.events import task_table
from aioray_node.scheduling.resources import to_floats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from aioray_node.gcs import actors, jobs
    from aioray_node.gcs.events.task_table import Known
    from aioray_node.gcs.view import ClusterView

_ACTOR_STATES = {"pending": "PENDING_CREATION", "alive": "ALIVE", "restarting": "RESTARTING", "dead": "DEAD"}


class BadFilter(LookupError):
    """A filter that says nothing about such rows."""


def check_filters(ask: asked._List, row: type[asked.Row]) -> None:
    """Raises BadFilter that says what is allowed."""
    for name, sign, value in ask.filters:
        if sign not in asked.FILTERS:
            raise BadFilter(f"the filter {name!r} {sign!r}: only {' and '.join(asked.FILTERS)} are known")
        if asked.split_field(name)[0] not in row.__struct_fields__:
            raise BadFilter(f"no filter {name!r}: there are {', '.join(row.__struct_fields__)}")
        if allowed := asked.unknown_choice(row, name, value):
            raise BadFilter(f"no {name} is {value!r}: there are {allowed}")


def listing(ask: asked._List, rows: Iterable[asked.Row], left_out: int = 0) -> asked.Listing:
    """Those that the filters let through, as far as `limit` goes."""
    wanted = [(*asked.split_field(name), sign, value) for name, sign, value in ask.filters]
    total = 0
    kept: list[dict[str, Any]] = []
    for row in rows:
        if all(_passes(_part(getattr(row, field), key), sign, value) for field, key, sign, value in wanted):
            total += 1
            if total <= ask.limit:
                kept.append(msgspec.structs.asdict(row))
    return asked.Listing(rows=kept, total=total, left_out=left_out)


def _part(found: Any, key: str) -> Any:
    """One label, None where it is not given."""
    return found.get(key) if key else found


def _passes(found: Any, sign: str, value: Any) -> bool:
    same = found == value
    if not same and isinstance(value, str) and not isinstance(found, dict):
        same = str(found).lower() == value.lower()  # as it was written on a command line; and texts as in Ray
    return bool(same) == (sign == "=")


# The fields of a TaskRow.
_TASK_FIELDS: dict[str, Callable[[bytes, Known], Any]] = {
    "task_id": lambda job_id, known: known.record.task_id.hex(),
    "name": lambda job_id, known: known.name,
    "state": lambda job_id, known: known.record.state,
    "type": lambda job_id, known: known.kind,
    "job_id": lambda job_id, known: job_id.hex(),
    "actor_id": lambda job_id, known: known.record.actor_id.hex() or None,
    "node_id": lambda job_id, known: known.node_id,
    "worker_id": lambda job_id, known: known.record.worker_id.hex() or None,
    "error_type": lambda job_id, known: known.record.error_type or None,
    "start_time_ms": lambda job_id, known: _ms(known.record.started_at) if known.record.started_at else None,
    "end_time_ms": lambda job_id, known: _ms(known.record.at) if known.record.state in ENDED_STATES else None,
    "labels": lambda job_id, known: known.record.labels,
}


def tasks(ask: asked.ListTasks, state: task_table.State) -> asked.Listing:
    check_filters(ask, asked.TaskRow)
    fields = [(*asked.split_field(name), sign, value) for name, sign, value in ask.filters]
    wanted = [(_TASK_FIELDS[field], key, sign, value) for field, key, sign, value in fields]
    found = [
        (job_id, known)  # a row is made of those only that are shown: there may be many
        for job_id, known in task_table.known(state)
        if all(_passes(_part(field(job_id, known), key), sign, value) for field, key, sign, value in wanted)
    ]
    newest = heapq.nlargest(ask.limit, found, key=lambda each: each[1].record.at)
    rows = [{name: field(*each) for name, field in _TASK_FIELDS.items()} for each in newest]
    return asked.Listing(rows=rows, total=len(found), left_out=task_table.left_out(state))


def task_summary(state: task_table.State) -> list[asked.TaskSummaryRow]:
    return [
        asked.TaskSummaryRow(
            job_id=line.job_id.hex(),
            name=line.name,
            type=line.kind,
            pending=line.pending,
            running=line.running,
            finished=line.finished,
            failed=line.failed,
            left_out=line.left_out,
        )
        for line in task_table.summary(state)
    ]


def actor_rows(state: actors.State, where: Callable[[bytes], str]) -> Iterator[asked.ActorRow]:
    """`where`: on which node one is."""
    for actor_id, actor in state.actors.items():
        spec = actor.spec
        yield asked.ActorRow(
            actor_id=actor_id.hex(),
            class_name=spec.cls,
            state=_ACTOR_STATES[actor.state],
            name=spec.name,
            ray_namespace=spec.namespace,
            job_id=spec.job_id.hex(),
            node_id=where(actor_id) if actor.state == "alive" else "",
            is_detached=spec.detached,
            num_restarts=spec.restarts,
            death_cause=actor.reason or None,
            labels=spec.labels,
        )


def actor_summary(state: actors.State) -> dict[str, dict[str, int]]:
    """Class name -> state -> how many."""
    found: dict[str, dict[str, int]] = {}
    for actor in state.actors.values():
        by_state = found.setdefault(actor.spec.cls, collections.Counter())
        by_state[_ACTOR_STATES[actor.state]] += 1
    return {cls: dict(by_state) for cls, by_state in found.items()}


def node_rows(view: ClusterView) -> Iterator[asked.NodeRow]:
    for node_id, known in view.known.items():
        facts, alive = known.facts, known.alive or node_id == view.own_id
        yield asked.NodeRow(
            node_id=node_id,
            node_ip=facts.ip_address,
            node_name=facts.hostname,
            is_head_node=facts.is_head,
            state="ALIVE" if alive else "DEAD",
            state_message=None if alive else known.end,
            resources_total=to_floats(facts.total),
            labels=dict(facts.labels),
            start_time_ms=_ms(facts.started_at),
        )


def group_rows(table: Mapping[str, dict[str, Any]]) -> Iterator[asked.PlacementGroupRow]:
    """`table`: as `placement_group_table` gives it."""
    for group_id, group in table.items():
        yield asked.PlacementGroupRow(
            placement_group_id=group_id,
            name=group["name"],
            state=group["state"],
            strategy=group["strategy"],
            bundles={str(index): bundle for index, bundle in group["bundles"].items()},
        )


def job_rows(state: jobs.State, node_of: Callable[[bytes], str]) -> Iterator[asked.JobRow]:
    """`node_of`: on which node a process is."""
    for job_id, job in state.jobs.items():
        driver = job.driver
        yield asked.JobRow(
            job_id=job_id.hex(),
            type="DRIVER",
            status="RUNNING" if job.ended_at is None else "FINISHED",
            entrypoint=driver.entrypoint,
            namespace=driver.namespace,
            node_id=node_of(job_id),
            pid=driver.pid,
            start_time=_ms(driver.started_at),
            end_time=None if job.ended_at is None else _ms(job.ended_at),
        )


def _ms(unix_time: float) -> int:
    return round(1000 * unix_time)
