"""What can be asked of the GCS over HTTP: lists, summaries, keys and values. And tasks on their way there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from aioray.config import Config
from aioray.exceptions import AuthenticationError, RaySystemError
from aioray.wire.control import ActorSpec, DriverStarted, TaskEvents
from aioray.wire.events import FAILED, FINISHED, NORMAL_TASK, RUNNING, TaskGroup, TaskRecord
from aioray.wire.state import MAX_VALUE_NBYTES
from aioray_node.gcs import actors
from aioray_node.gcs.client import GcsClient
from aioray_node.gcs.events.desks import TaskLogDesk
from aioray_node.gcs.state_desk import StateDesk
from tests.gcs.stage import TOKEN, GcsStage, StagedNode

if TYPE_CHECKING:
    import pathlib
    from collections.abc import AsyncIterator

DRIVER = DriverStarted(b"\0\0\0\x0adriv", "space", 77, "program.py", 5.0)


class FakeActors:
    """The directory of actors, without what hosts them."""

    def __init__(self) -> None:
        self.table = actors.State()

    def node_of(self, actor_id: bytes) -> str:
        return "0000000a"


class FakeGroups:
    def table(self) -> dict[str, dict[str, Any]]:
        bundles = {0: {"CPU": 1.0}}
        return {"0b": {"name": "g", "state": "CREATED", "strategy": "PACK", "bundles": bundles}}


class StateStage(GcsStage):
    """The GCS with all its tables; the head's own view is that of its first member."""

    def __init__(self, directory: Any, config: Config) -> None:
        super().__init__(directory, config)
        self.head = StagedNode("0000000a", self.reactor)
        self.actors = FakeActors()
        view, groups = self.head.view, FakeGroups()
        state = StateDesk(self.reactor, config, view, self.actors, groups, lambda *_: None)  # type: ignore[arg-type]
        self.tables = self.state = state
        self.tasks, self.metrics = state.tasks, state.metrics

    def log_of(self, node: StagedNode) -> TaskLogDesk:
        """Task events of a node; what it tells its processes goes nowhere."""
        log = node.membership.tasks = TaskLogDesk(self.reactor, self.config, lambda process, message: None)
        return log


@pytest.fixture
async def gcs(nothing_left: None, tmp_path: pathlib.Path) -> AsyncIterator[StateStage]:
    config = Config(task_events_reporting_interval_ms=20, gcs_kv_max_nbytes=1000)
    stage = StateStage(tmp_path, config)
    stage.reactor.attach(asyncio.get_running_loop())
    await stage.open()
    yield stage
    await stage.close()
    stage.reactor.close()


@pytest.fixture
async def client(gcs: StateStage) -> AsyncIterator[GcsClient]:
    async with GcsClient(gcs.path, TOKEN) as client:
        yield client


def group(*records: TaskRecord, finished: int = 0, failed: int = 0, running: int = 0) -> TaskGroup:
    return TaskGroup(DRIVER.process_id, "f", NORMAL_TASK, finished, failed, running=running, records=records)


async def until_counted(client: GcsClient, **wanted: int) -> dict[str, Any]:
    """The line of the only name, when it has these numbers."""
    async with asyncio.timeout(10):
        while True:
            lines = await client.ask("summarize_tasks")
            if lines and all(lines[0][name] == count for name, count in wanted.items()):
                line: dict[str, Any] = lines[0]
                return line
            await asyncio.sleep(0.005)


async def test_tasks_that_nodes_tell_of_can_be_asked_for(gcs: StateStage, client: GcsClient) -> None:
    """
    1. two nodes tell of tasks that have ended, in detail and only by number, and of one that runs
    2. the node where that runs is gone: it has failed
    """
    gcs.tables.driver_started(DRIVER)
    first, second = StagedNode("0000000a", gcs.reactor), StagedNode("0000000b", gcs.reactor)
    logs = [gcs.log_of(node) for node in (first, second)]
    async with gcs.line(first) as line:
        await line.joined(10)
        async with gcs.line(second) as other:
            await other.joined(10)
            with gcs.reactor.lock:
                done = TaskRecord(b"\1", FINISHED, 2.0, 1.0, b"\7")
                logs[0].told(b"w1", TaskEvents([group(done, finished=5)], []))
                runs = TaskRecord(b"\2", RUNNING, 3.0, 3.0, b"\x08")
                logs[1].told(b"w2", TaskEvents([group(finished=2)], [group(runs, running=1)]))
            await until_counted(client, finished=7, running=1, left_out=6)
            found = await client.ask("list_tasks")
            assert [row["task_id"] for row in found["rows"]] == ["02", "01"], "the newest first"
            assert (found["total"], found["left_out"]) == (2, 6)
            assert found["rows"][1] == {
                "task_id": "01", "name": "f", "state": "FINISHED", "type": "NORMAL_TASK", "error_type": None,
                "job_id": DRIVER.process_id.hex(), "actor_id": None, "node_id": "0000000a", "worker_id": "07",
                "start_time_ms": 1000, "end_time_ms": 2000, "labels": {},
            }  # fmt: skip
        with gcs.reactor.lock:
            gcs.tables.node_died("0000000b")
        await until_counted(client, finished=7, running=0, failed=1)
        found = await client.ask("list_tasks", filters=[("state", "=", FAILED)])
        assert [(row["task_id"], row["error_type"]) for row in found["rows"]] == [("02", "NodeDiedError")]


async def test_what_a_node_tells_while_the_gcs_is_away_is_not_lost(gcs: StateStage, client: GcsClient) -> None:
    """Neither what was under way when the connection broke, nor what came after; and nothing counts twice."""
    node = StagedNode("0000000a", gcs.reactor)
    log = gcs.log_of(node)
    async with gcs.line(node) as line:
        await line.joined(10)
        with gcs.reactor.lock:
            log.told(b"w", TaskEvents([group(finished=1)], []))
            for outlet in list(gcs.desk._outlets.values()):
                outlet._transport.abort()  # type: ignore[attr-defined] # of a _NodeOutlet
            log.told(b"w", TaskEvents([group(finished=10)], []))
        await until_counted(client, finished=11)


async def test_a_node_that_is_to_tell_nothing_tells_nothing(gcs: StateStage) -> None:
    log = TaskLogDesk(gcs.reactor, Config(task_events_reporting_interval_ms=0), lambda process, message: None)
    reports: list[object] = []
    log.connected(reports.append)
    with gcs.reactor.lock:
        log.told(b"driver", TaskEvents([group(finished=1)], []))
    assert reports == []


async def test_nodes_actors_groups_and_jobs_are_listed(gcs: StateStage, client: GcsClient) -> None:
    gcs.tables.driver_started(DRIVER)
    gcs.tables.driver_started(DriverStarted(b"\0\0\0\x0bdriv", "other", 78, "b.py", 6.0))
    spec = ActorSpec(b"\1" * 16, "Counter", b"", b"", {}, {}, DRIVER.process_id, name="c", job_id=DRIVER.process_id)
    actors.handle(gcs.actors.table, actors.Created(spec), 0.0)
    gcs.tables.driver_ended(DRIVER.process_id)
    assert [row["node_id"] for row in (await client.ask("list_nodes"))["rows"]] == ["0000000a"]
    (actor,) = (await client.ask("list_actors", filters=[("is_detached", "=", "false")]))["rows"]
    assert (actor["class_name"], actor["state"], actor["name"]) == ("Counter", "PENDING_CREATION", "c")
    assert await client.ask("summarize_actors") == {"Counter": {"PENDING_CREATION": 1}}
    (row,) = (await client.ask("list_placement_groups"))["rows"]
    assert (row["placement_group_id"], row["bundles"]) == ("0b", {"0": {"CPU": 1.0}})
    (job,) = (await client.ask("list_jobs", filters=[("status", "!=", "RUNNING")]))["rows"]
    assert (job["entrypoint"], job["namespace"], job["node_id"]) == ("program.py", "space", "0000000a")
    assert job["end_time"] > job["start_time"] == 5000
    found = await client.ask("list_jobs", limit=1)
    assert (len(found["rows"]), found["total"]) == (1, 2)
    gcs.tables.node_died("0000000b")
    assert (await client.ask("list_jobs", filters=[("status", "=", "RUNNING")]))["rows"] == []


async def test_keys_and_values_are_kept_and_bounded(gcs: StateStage, client: GcsClient) -> None:
    put = {"key": b"k", "value": b"v", "request_id": b"request1"}
    assert await client.ask("kv_put", **put)
    assert await client.ask("kv_put", **put), "the same request again"
    assert not await client.ask("kv_put", **{**put, "request_id": b"request2", "value": b"w", "overwrite": False})
    assert await client.ask("kv_get", key=b"k") == b"v"
    assert await client.ask("kv_get", key=b"k", namespace="other") is None
    assert await client.ask("kv_keys", prefix=b"k") == [b"k"]
    with pytest.raises(RaySystemError, match="gcs_kv_max_nbytes=1000"):
        await client.ask("kv_put", key=b"large", value=bytes(1000), request_id=b"request3")
    assert await client.ask("kv_delete", key=b"k", request_id=b"request4")
    assert await client.ask("kv_delete", key=b"k", request_id=b"request4"), "the same request again"
    assert await client.ask("kv_keys") == []


@pytest.mark.parametrize(
    ("what", "args", "words"),
    [
        ("list_tasks", {"limit": 0}, "limit"),
        ("list_tasks", {"limit": 1_000_000}, "limit"),
        ("list_tasks", {"limit": "many"}, "limit"),
        ("list_tasks", {"colour": "red"}, "colour"),
        ("list_tasks", {"filters": [("colour", "=", "red")]}, "no filter 'colour': there are task_id"),
        ("list_nodes", {"filters": [("state", "=", "ASLEEP")]}, "no state is 'ASLEEP': there are ALIVE, DEAD"),
        ("list_tasks", {"filters": [("state", "~", "RUNNING")]}, "only = and != are known"),
        ("list_nodes", {"filters": [("state",)]}, "filters"),
        ("kv_get", {}, "key"),
        ("kv_get", {"key": b""}, "key"),
        ("kv_put", {"key": b"k", "value": b"", "request_id": b""}, "request_id"),
        ("kv_put", {"key": b"k", "value": bytes(MAX_VALUE_NBYTES + 1), "request_id": b"request1"}, "value"),
    ],
)
async def test_a_bad_question_is_answered_with_what_is_wrong_with_it(
    client: GcsClient, what: str, args: dict[str, Any], words: str
) -> None:
    with pytest.raises(RaySystemError, match=words):
        await client.ask(what, **args)


async def test_who_has_no_token_learns_and_changes_nothing(gcs: StateStage, client: GcsClient) -> None:
    async with GcsClient(gcs.path, "guessed") as stranger:
        for what, args in (
            ("list_tasks", {}),
            ("kv_put", {"key": b"k", "value": b"v", "request_id": b"request1"}),
        ):
            with pytest.raises(AuthenticationError):
                await stranger.ask(what, **args)
    assert await client.ask("kv_keys") == []
