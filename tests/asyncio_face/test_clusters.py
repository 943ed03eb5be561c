"""Clusters in one process: one after the other, side by side, in threads and loops of all kinds; and their ends."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import logging
import multiprocessing
import os
import pathlib
import signal
import struct
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

import aioray
from aioray.exceptions import ActorDiedError, InvalidOptionError, RayError, RaySystemError, WorkerCrashedError
from aioray.far_cluster import head_of
from aioray.wire.control import PROTOCOL_VERSION, Hello, Welcome
from aioray.wire.framing import append_frame, control_decoder, split_frames

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray import Cluster

PATIENCE_S = 15.0
uvloop.new_event_loop().close()  # libuv keeps a pipe for the process; no test must take that for a leak


@aioray.remote
def double(x: int) -> int:
    return 2 * x


@aioray.remote
def node_id() -> str:
    return str(aioray.nodes()[0]["NodeID"])


@aioray.remote
def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class CounterActor:
    def __init__(self, start: int = 0) -> None:
        self._count = start

    def add(self, n: int = 1) -> int:
        self._count += n
        return self._count

    def pid(self) -> int:
        return os.getpid()


Counter: Any = aioray.remote(num_cpus=0)(CounterActor)


class HangActor:
    async def for_ever(self) -> None:
        await asyncio.Event().wait()


Hang: Any = aioray.remote(num_cpus=0)(HangActor)


# one after the other


async def test_connect_and_disconnect_without_a_block(nothing_left: None) -> None:
    assert not aioray.is_initialized()
    cluster = await aioray.connect(num_cpus=1)
    assert aioray.is_initialized()
    assert await double.remote(1) == 2
    assert cluster.address_info["node_id"] == await node_id.remote()
    await aioray.disconnect()
    assert not aioray.is_initialized()
    await cluster.shutdown()  # again, to no effect
    with pytest.raises(RaySystemError, match="no cluster was started"):
        await aioray.disconnect()
    with pytest.raises(RaySystemError, match="connect"):
        double.remote(1)
    with pytest.raises(RaySystemError, match="not running"):
        _ = cluster.runtime


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_ten_clusters_one_after_the_other(nothing_left: None, run: Callable[..., Any]) -> None:
    async def main() -> None:
        for x in range(5):
            async with aioray.connect(num_cpus=1):
                assert await double.remote(x) == 2 * x

    for _ in range(2):
        run(main())


async def test_one_cluster_object_starts_once_at_a_time_and_again_when_it_has_ended(nothing_left: None) -> None:
    cluster = aioray.connect(num_cpus=1)
    async with cluster:
        first = cluster.address_info["node_id"]
        with pytest.raises(RaySystemError, match="already"):
            await cluster.start()
    async with cluster:
        assert cluster.address_info["node_id"] != first
        assert await double.remote(1) == 2


# side by side


async def test_the_innermost_block_decides_for_which_cluster_a_call_is(nothing_left: None) -> None:
    async with aioray.connect(num_cpus=1) as outer:
        async with aioray.connect(num_cpus=1) as inner:
            assert await node_id.remote() == inner.address_info["node_id"]
            with outer.use():
                assert await node_id.remote() == outer.address_info["node_id"]

                async def in_a_task() -> str:
                    return await node_id.remote()

                task = asyncio.create_task(in_a_task())
            assert await task == outer.address_info["node_id"]
            assert await node_id.remote() == inner.address_info["node_id"]
        assert await node_id.remote() == outer.address_info["node_id"]


async def test_clusters_side_by_side_have_their_own_actors_names_and_refs(nothing_left: None) -> None:
    one, two = await aioray.connect(num_cpus=1), await aioray.connect(num_cpus=1)
    with pytest.raises(RaySystemError, match=r"use\(\)"):
        double.remote(1)
    counters = []
    for start, cluster in ((100, one), (200, two)):
        with cluster.use():
            counters.append(Counter.options(name="counter").remote(start))
            assert await aioray.get_actor("counter").add.remote(0) == start
    # Handles and refs know where they belong.
    assert await asyncio.gather(*(counter.add.remote() for counter in counters)) == [101, 201]
    await one.shutdown()
    with pytest.raises(RayError):
        await counters[0].add.remote()
    assert await counters[1].add.remote() == 202
    assert await double.remote(1) == 2  # only one is left: nothing to choose
    await two.shutdown()


def test_a_cluster_of_init_beside_one_in_a_loop(ray: Any) -> None:
    """Both work, and neither gets in the other's way, be the loop in this thread or in another."""

    async def main(block: bool) -> str:
        cluster = aioray.connect(num_cpus=1)
        async with cluster if block else contextlib.nullcontext():
            if not block:
                await cluster
            assert await double.remote(1) == 2
            assert aioray.get(ref) == 6
            found = await node_id.remote()
            assert found == cluster.address_info["node_id"]
            await cluster.shutdown()
            return found

    ref = double.remote(3)
    ours = ray.get(node_id.remote())
    assert asyncio.run(main(True)) != ours
    assert asyncio.run(main(False)) != ours
    found: list[str] = []
    started, go_on = threading.Event(), threading.Event()

    async def stay() -> None:
        await aioray.connect(num_cpus=1)
        started.set()
        await asyncio.to_thread(go_on.wait)
        found.append(await node_id.remote())
        await aioray.disconnect()

    thread = threading.Thread(target=lambda: asyncio.run(stay()))
    thread.start()
    assert started.wait(PATIENCE_S)
    assert ray.get(node_id.remote()) == ours
    go_on.set()
    thread.join()
    assert found
    assert found[0] != ours


def test_each_thread_has_a_loop_and_a_cluster_of_its_own(nothing_left: None) -> None:
    results: dict[int, list[int]] = {}
    together = threading.Barrier(3)

    async def main(at: int) -> None:
        await aioray.connect(num_cpus=1)
        counter = Counter.remote(at)
        await asyncio.to_thread(together.wait, PATIENCE_S)
        results[at] = [await counter.add.remote(), *await asyncio.gather(*(double.remote(x) for x in range(20)))]
        await asyncio.to_thread(together.wait, PATIENCE_S)
        await aioray.disconnect()

    threads = [threading.Thread(target=lambda at=at: asyncio.run(main(at))) for at in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {at: [at + 1, *(2 * x for x in range(20))] for at in range(3)}


# errors and cancels


async def test_an_exception_leaves_the_body_as_it_is(nothing_left: None) -> None:
    error = LookupError("mine")
    with pytest.raises(LookupError) as caught:
        async with aioray.connect(num_cpus=1):
            raise error
    assert caught.value is error
    with pytest.raises(ExceptionGroup):
        async with aioray.connect(num_cpus=1), asyncio.TaskGroup() as group:
            group.create_task(_raise())


async def _raise() -> None:
    raise ValueError


async def test_a_body_that_is_cancelled_at_any_moment_leaves_nothing(nothing_left: None) -> None:
    """In the middle of the start, of the calls, and of the end: `nothing_left` looks."""

    async def body() -> None:
        async with aioray.connect(num_cpus=1):
            calls = asyncio.gather(*(double.remote(x) for x in range(10)))
            await asyncio.gather(calls, Hang.remote().for_ever.remote())

    for turns in (0, 1, 2, 3, 5, 10, 50, 500):
        task = asyncio.create_task(body())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not aioray.is_initialized()


async def test_an_end_that_is_cancelled_is_finished_all_the_same(nothing_left: None) -> None:
    for turns in (1, 2, 3):
        cluster = await aioray.connect(num_cpus=1)
        assert await double.remote(1) == 2
        ending = [asyncio.create_task(cluster.shutdown()) for _ in range(2)]
        for _ in range(turns):
            await asyncio.sleep(0)
        ending[0].cancel()
        outcomes = await asyncio.gather(*ending, return_exceptions=True)
        assert outcomes[1] is None


async def test_calls_under_way_fail_when_the_cluster_ends(nothing_left: None) -> None:
    async with aioray.connect(num_cpus=1):
        hanging = Hang.remote().for_ever.remote()
        borrowed = await _make_ref.remote()
        waiting = double.remote(hanging)
        pending = [hanging, waiting, *borrowed]
    for ref in pending:
        with pytest.raises((RayError,)):
            async with asyncio.timeout(PATIENCE_S):
                await ref


@aioray.remote
def _make_ref() -> list[Any]:
    return [Hang.options(name="kept", lifetime="detached").remote().for_ever.remote()]


def test_a_program_that_forgets_the_end_leaves_nothing(nothing_left: None) -> None:
    """
    1. a loop is closed with a cluster in it: the next call ends that, instead of hanging
    2. a program ends with a cluster that nobody shut down
    """
    asyncio.run(_forget())
    assert not aioray.is_initialized()
    asyncio.run(_forget())

    async def again() -> int:
        async with aioray.connect(num_cpus=1):
            return await double.remote(2)

    assert asyncio.run(again()) == 4
    code = (
        "import asyncio, aioray\n"
        "async def main():\n"
        "    c = await aioray.connect(num_cpus=1)\n"
        "    print(c.address_info['session_dir'])\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert not os.path.exists(done.stdout.strip())


async def _forget() -> None:
    await aioray.connect(num_cpus=1)
    assert await double.remote(1) == 2


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"num_cpus": -1}, "num_cpus"),
        ({"num_cpus": float("nan")}, "num_cpus"),
        ({"num_cpus": float("inf")}, "num_cpus"),
        ({"num_gpus": "2"}, "num_gpus"),
        ({"resources": {"CPU": 1}}, "resources"),
        ({"resources": {"x": float("inf")}}, "resources"),
        ({"resources": ["x"]}, "resources"),
        ({"object_store_memory": 10}, "object_store_memory"),
        ({"object_store_memory": 1 << 60}, "object_store_memory"),
        ({"namespace": 5}, "namespace"),
        ({"_temp_dir": 5}, "_temp_dir"),
        ({"log_to_driver": "yes"}, "log_to_driver"),
        ({"address": "10.0.0.1"}, "address"),
        ({"num_cpu": 1}, "num_cpu"),
        ({"include_dashboard": True}, "include_dashboard"),
        ({"dashboard_port": 8265}, "dashboard_port"),
        ({"_node_ip_address": "192.0.2.1"}, "_node_ip_address"),
        ({"_system_config": {"no_such_thing": 1}}, "no_such_thing"),
    ],
    ids=str,
)
async def test_a_bad_option_is_named_and_starts_nothing(nothing_left: None, options: Any, named: str) -> None:
    with pytest.raises(InvalidOptionError, match=named):
        await aioray.connect(**options)


async def test_a_start_that_fails_leaves_nothing(nothing_left: None, tmp_path: pathlib.Path) -> None:
    too_long = tmp_path / ("x" * 100)
    with pytest.raises(ValueError, match="too long"):
        await aioray.connect(num_cpus=1, _temp_dir=str(too_long))
    with pytest.raises(NotADirectoryError):
        await aioray.connect(num_cpus=1, _temp_dir="/dev/null")
    async with aioray.connect(num_cpus=1):
        assert await double.remote(1) == 2


async def test_an_embedded_head_with_an_address_is_reached_there(nothing_left: None) -> None:
    async with aioray.connect(num_cpus=1, include_dashboard=False, _node_ip_address="127.0.0.2") as cluster:
        info = cluster.address_info
        token = {"AIORAY_AUTH_TOKEN_PATH": info["token_path"]}
        with concurrent.futures.ThreadPoolExecutor(1) as pool:  # this blocks, and the GCS is in this loop
            asking = asyncio.get_running_loop().run_in_executor(pool, head_of, info["gcs_address"], token)
            assert (await asking).startswith("127.0.0.2:")
        assert await double.remote(2) == 4


# what dies


async def test_a_worker_that_dies_is_replaced(cluster: Cluster) -> None:
    for _ in range(3):
        with pytest.raises(WorkerCrashedError):
            await die.options(max_retries=0).remote()
        assert await asyncio.gather(*(double.remote(x) for x in range(10))) == [2 * x for x in range(10)]
    counter = Counter.remote()
    os.kill(await counter.pid.remote(), signal.SIGKILL)
    with pytest.raises(ActorDiedError):
        await asyncio.wait_for(_add_for_ever(counter), PATIENCE_S)


async def _add_for_ever(counter: Any) -> None:
    while True:
        await counter.add.remote()


def test_a_head_that_dies_fails_what_waits_and_what_comes(nothing_left: None) -> None:
    aioray.init(num_cpus=1)
    hanging = Hang.remote().for_ever.remote()
    from aioray.node_process import NodeProcess
    from aioray.starting import _sync_clusters

    head = _sync_clusters[0]._head
    assert isinstance(head, NodeProcess)
    os.kill(head.pid, signal.SIGKILL)
    with pytest.raises(RayError):
        aioray.get(hanging, timeout=PATIENCE_S)
    with pytest.raises(RaySystemError, match="gone"):
        aioray.get(double.remote(1), timeout=PATIENCE_S)
    session = pathlib.Path(_sync_clusters[0].facts["session_dir"])
    aioray.shutdown()
    aioray.init(num_cpus=1)  # sweeps
    assert not session.exists()
    assert aioray.get(double.remote(1)) == 2
    aioray.shutdown()


# strangers


def _frame(message: Any) -> bytes:
    out = bytearray()
    append_frame(out, message)
    return bytes(out)


HELLO = Hello(b"stranger", "driver", 1)
STRANGE = {
    "noise": os.urandom(1000),
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "half a frame": _frame(HELLO)[:9],
    "nothing": b"",
    "a huge frame": struct.pack("<I", 0xFFFFFFFF),
    "no hello": _frame(Welcome("", "", "", 0)),
    "hello, then noise": _frame(HELLO) + b"\xff" * 100,
    "hello, then what is not for a node": _frame(HELLO) + _frame(Welcome("", "", "", 0)),
    "hello as a worker that nobody started": _frame(Hello(b"stranger", "worker", 1, address="/nowhere")),
    "nested too deeply": struct.pack("<I", 100_010) + b"\x94\x17\x01\xa1x\x81\xa1a" + b"\x91" * 100_001 + b"\xc0",
}


@pytest.mark.parametrize("what", STRANGE)
async def test_a_stranger_at_the_door_disturbs_nobody(cluster: Cluster, what: str) -> None:
    counter = Counter.remote()
    assert await counter.add.remote() == 1
    reader, writer = await asyncio.open_unix_connection(cluster.address_info["address"])
    writer.write(STRANGE[what])
    calls = asyncio.gather(*(double.remote(x) for x in range(50)))
    if what in ("noise", "http", "half a frame", "nothing", "hello as a worker that nobody started"):
        await calls  # they may go on: only their end tells
    else:
        async with asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(ConnectionError):
                await reader.read()  # until the node hangs up
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    assert await calls == [2 * x for x in range(50)]
    assert await counter.add.remote() == 2


async def test_another_version_of_the_protocol_is_told_why_it_is_refused(cluster: Cluster) -> None:
    reader, writer = await asyncio.open_unix_connection(cluster.address_info["address"])
    writer.write(_frame(Hello(b"stranger", "driver", 1, version=PROTOCOL_VERSION + 1)))
    (welcome,), _ = split_frames(await reader.read(), control_decoder)
    assert str(PROTOCOL_VERSION + 1) in welcome.error
    writer.close()
    await writer.wait_closed()
    assert await double.remote(1) == 2


# the rest of the process


async def test_nothing_of_the_process_is_touched(nothing_left: None) -> None:
    def state() -> dict[str, Any]:
        root = logging.getLogger()
        return {
            "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
            "root logger": (root.level, list(root.handlers), list(root.filters)),
            "policy": type(asyncio.get_event_loop_policy()),
            "hooks": (sys.excepthook, threading.excepthook, sys.unraisablehook),
            "streams": (sys.stdout, sys.stderr),
            "environment": dict(os.environ),
            "directory": os.getcwd(),
            "path": list(sys.path),
            "start method": multiprocessing.get_start_method(allow_none=True),
            "exception handler": asyncio.get_running_loop().get_exception_handler(),
            "gc": (gc.isenabled(), gc.get_threshold()),
        }

    before = state()
    async with aioray.connect(num_cpus=1):
        assert await double.remote(1) == 2
        assert state() == before
    assert state() == before


def test_a_forked_child_has_no_cluster_and_does_no_harm(nothing_left: None) -> None:
    """In a fresh process: pytest's own threads must not be forked."""
    code = """
import os, sys, aioray as ray

@ray.remote
def double(x):
    return 2 * x

ray.init(num_cpus=1)
ref = double.remote(1)
pid = os.fork()
if pid == 0:
    assert not ray.is_initialized()
    try:
        ref._runtime.require_open()
        assert False
    except ray.exceptions.RaySystemError as exc:
        assert "forked" in str(exc), exc
    ray.shutdown()
    sys.exit(7)  # atexit and all
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
assert ray.get([ref, *[double.remote(x) for x in range(100)]]) == [2, *[2 * x for x in range(100)]]
ray.shutdown()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_importing_is_quick_and_brings_in_little() -> None:
    code = (
        "import sys, time; now = time.perf_counter; t = now(); import asyncio; usual = now() - t\n"
        "import aioray; t = now() - t\n"
        "heavy = {'numpy', 'aiohttp', 'aioray_node', 'cloudpickle', 'uvloop', 'psutil', 'json', 'pathlib', 'difflib'}\n"
        "heavy &= set(sys.modules)\n"
        "import threading; print(t, usual, *heavy, threading.active_count())"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
        for _ in range(5)
    ]
    assert all(run.split()[2:] == ["1"] for run in runs), runs
    took, usual = (min(float(run.split()[at]) for run in runs) for at in (0, 1))
    # asyncio alone takes 25 ms on the machine on which 100 ms were asked for; on a slower one, or a busy one, more.
    assert took < max(0.1, 4.5 * usual)


async def test_the_socket_of_the_node_is_ours_alone(cluster: Cluster) -> None:
    directory = cluster.address_info["session_dir"]
    assert os.path.dirname(cluster.address_info["address"]) == directory
    for path in (directory, os.path.dirname(directory)):
        status = os.stat(path)
        assert status.st_uid == os.getuid()
        assert status.st_mode & 0o077 == 0
