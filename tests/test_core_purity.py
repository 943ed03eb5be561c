"""What decides does no IO and reads no clock: that is what lets a simulation run it (DESIGN.md, section 7)."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PURE_NAMES = {
    "abroad.py", "actors.py", "arena.py", "book.py", "bundle_policy.py", "bundles.py", "candidates.py", "core.py",
    "demands.py", "described.py", "devices.py", "directory.py", "echoes.py", "extents.py", "fetching.py", "flight.py",
    "functions.py", "gcs/packages.py", "group_places.py", "hosts.py", "iter_steps.py", "jobs.py", "kv.py",
    "labels.py", "lines.py", "members.py", "metric_log.py", "metric_table.py", "own.py", "pacing.py", "pipeline.py",
    "placement/*.py", "policy.py", "preamble.py", "pulls.py", "reach.py", "recalls.py", "records.py", "resources.py",
    "rows.py", "schedule.py", "sources.py", "stragglers.py", "task_log.py", "task_table.py", "view.py", "window.py",
    *(
        f"scheduling/{name}.py"
        for name in ("arrivals", "checks", "events", "explaining", "leases_in_groups", "placing", "spilling", "state")
    ),
}  # fmt: skip
FORBIDDEN = {"asyncio", "socket", "time", "os", "threading", "subprocess"}
PURE_FILES = sorted(
    path
    for package in ("aioray/dag", "aioray/runtime", "aioray/util", "aioray/wire", "nodes")
    for path in (ROOT / package).rglob("*.py")
    if any(path.match(name) for name in PURE_NAMES)
)


def imported(source: str) -> Iterator[str]:
    """The top-level packages that are imported anywhere in `source`, functions and `if TYPE_CHECKING` included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("path", PURE_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_decides_imports_nothing_that_does(path: Path) -> None:
    assert not FORBIDDEN & set(imported(path.read_text()))


def test_there_are_cores_to_look_at() -> None:
    names = ("scheduling/core.py", "pool/core.py", "objects/directory.py", "gcs/actors.py")
    assert {ROOT / "nodes/aioray_node" / name for name in names} <= {*PURE_FILES}


def test_an_import_is_seen_wherever_it_hides() -> None:
    source = "import os.path as p, json\nfrom . import core\ndef f():\n    from asyncio.events import get_event_loop\n"
    assert sorted(imported(source)) == ["asyncio", "json", "os"]
