"""`aioray list`, `aioray get` and `aioray summary`: what there is, and what becomes of it."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from aioray.exceptions import InvalidOptionError
from aioray.wire.state import MAX_LIMIT

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator, Sequence

_KINDS = {
    "nodes": "list_nodes",
    "actors": "list_actors",
    "tasks": "list_tasks",
    "placement-groups": "list_placement_groups",
    "jobs": "list_jobs",
}
_IDS = {
    "nodes": "node_id",
    "actors": "actor_id",
    "tasks": "task_id",
    "placement-groups": "placement_group_id",
    "jobs": "job_id",
}
# What a table has room for; `--format json` has all.
_COLUMNS = {
    "nodes": ("node_id", "state", "is_head_node", "node_ip", "node_name"),
    "actors": ("actor_id", "class_name", "state", "name", "ray_namespace", "node_id"),
    "tasks": ("task_id", "name", "state", "type", "node_id", "error_type"),
    "placement-groups": ("placement_group_id", "name", "state", "strategy"),
    "jobs": ("job_id", "status", "namespace", "entrypoint"),
}


def add_commands(commands: Any) -> None:
    """Add them to the parser's subcommands."""
    listing = commands.add_parser("list", help="nodes, actors, tasks and more", description=_list.__doc__)
    listing.add_argument("kind", choices=sorted(_KINDS))
    listing.add_argument(
        "-f",
        "--filter",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="or FIELD!=VALUE; all must hold; labels.KEY is one label",
    )
    listing.add_argument("--limit", type=int, default=100)
    listing.set_defaults(run=_list)
    single = commands.add_parser("get", help="one of them, by id", description=_get.__doc__)
    single.add_argument("kind", choices=sorted(_KINDS))
    single.add_argument("id")
    single.set_defaults(run=_get)
    summary = commands.add_parser("summary", help="how many tasks, or actors", description=_summary.__doc__)
    summary.add_argument("kind", choices=["tasks", "actors"])
    summary.set_defaults(run=_summary)
    for command in (listing, summary):
        command.add_argument("--format", choices=["table", "json"], default="table")
    for command in (listing, single, summary):
        command.add_argument(
            "--address",
            default="auto",
            metavar="HOST:PORT",
            help="of the cluster (default: the newest on this machine)",
        )
        command.add_argument("--temp-dir", metavar="DIRECTORY")


def _ask(given: argparse.Namespace, what: str, **args: Any) -> Any:
    from aioray.cluster_questions import ask_cluster

    return ask_cluster(given.address, given.temp_dir, what, **args)[1]


def _list(given: argparse.Namespace) -> int:
    """List what there is in a cluster; tasks with the newest first."""
    filters = [_filter(text) for text in given.filter]
    if not 1 <= given.limit <= MAX_LIMIT:
        raise InvalidOptionError("--limit", given.limit, f"a whole number from 1 to {MAX_LIMIT}")
    found = _ask(given, _KINDS[given.kind], filters=filters, limit=given.limit)
    lines = [json.dumps(found["rows"], indent=2)] if given.format == "json" else listed(given.kind, found)
    print("\n".join(lines))
    return 0


def listed(kind: str, found: dict[str, Any]) -> Iterator[str]:
    """The lines to print."""
    columns = _COLUMNS[kind]
    yield from _table(columns, ([_shown(row[column]) for column in columns] for row in found["rows"]))
    shown = len(found["rows"])
    yield f"{shown} of {found['total']} shown" if shown < found["total"] else f"{shown} in all"
    if found["left_out"]:
        yield f"{found['left_out']} more tasks were only counted: `aioray summary tasks` has their numbers"


def _filter(text: str) -> tuple[str, str, str]:
    sign = "!=" if "!=" in text else "="
    name, found, value = text.partition(sign)
    if not name or not found:
        raise InvalidOptionError("--filter", text, "FIELD=VALUE or FIELD!=VALUE")
    return name.strip(), sign, value.strip()


def _get(given: argparse.Namespace) -> int:
    """Show all that is known of one node, actor, task, placement group or job, as JSON."""
    found = _ask(given, _KINDS[given.kind], filters=[(_IDS[given.kind], "=", given.id)], limit=1)
    if not found["rows"]:
        print(f"aioray: no such entry among {given.kind}: {given.id}", file=sys.stderr)
        return 1
    print(json.dumps(found["rows"][0], indent=2))
    return 0


def _summary(given: argparse.Namespace) -> int:
    """Count tasks by name and job, or actors by class, and what state they are in."""
    found = _ask(given, f"summarize_{given.kind}")
    if given.format == "json":
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(summed_up(given.kind, found)))
    return 0


def summed_up(kind: str, found: Any) -> Iterator[str]:
    """The lines to print."""
    if kind == "tasks":
        columns: Sequence[str] = ("name", "type", "pending", "running", "finished", "failed", "job_id")
        yield from _table(columns, ([_shown(line[column]) for column in columns] for line in found))
        if left_out := sum(line["left_out"] for line in found):
            yield f"Of those that have ended, {left_out} were only counted; `aioray list tasks` cannot show them."
        return
    rows = [(cls, state, str(count)) for cls, counts in found.items() for state, count in counts.items()]
    yield from _table(("class_name", "state", "count"), rows)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    lines = [[column.upper() for column in columns], *(list(row) for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(columns))]
    for line in lines:
        yield "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()


def _shown(value: Any) -> str:
    return "-" if value is None or value == "" else str(value)
