"""`aioray start`, `status` and `stop`, and programs that join what they have started."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import psutil
import pytest

import aioray
from aioray.cli import main
from aioray.exceptions import InvalidOptionError
from aioray.far_cluster import head_of
from aioray.testing import LocalCluster
from aioray.util import placement_group
from aioray.util.metrics import Counter, Gauge
from aioray.wire.control import PROTOCOL_VERSION
from aioray.wire.preamble import preamble
from tests.processes.programs import wait_gone

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("nothing_left")


class Shell:
    """Runs `aioray` with sessions in a directory of its own: what else runs on this machine is not touched."""

    def __init__(self, temp_dir: str) -> None:
        self.temp_dir = temp_dir

    def __call__(self, command: str, *arguments: str, code: int = 0, **environment: str) -> str:
        """What it prints; on stderr, where it is to fail."""
        done = subprocess.run(
            [sys.executable, "-m", "aioray", command, "--temp-dir", self.temp_dir, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, **environment},
            check=False,
        )
        assert done.returncode == code, done
        return done.stderr if code else done.stdout

    def start_head(self, *arguments: str) -> str:
        """Its address."""
        store = str(64 << 20)
        out = self("start", "--head", "--port=0", "--num-cpus=1", "--object-store-memory", store, *arguments)
        found = re.search(r"The cluster is at (\S+);", out)
        assert found is not None, out
        return found[1]

    def join(self, address: str, *arguments: str, **options: Any) -> str:
        return self("start", "--address", address, "--object-store-memory", str(64 << 20), *arguments, **options)

    def processes(self) -> list[psutil.Process]:
        found = pathlib.Path(self.temp_dir).glob("*/session-*/node.json")
        return [psutil.Process(json.loads(path.read_text())["pid"]) for path in found]


@pytest.fixture
def shell() -> Iterator[Shell]:
    with tempfile.TemporaryDirectory(prefix="aioray-") as directory:  # not tmp_path: sockets' names would be too long
        shell = Shell(directory)
        yield shell
        processes = shell.processes()
        shell("stop", "--force")
        wait_gone(processes)
        assert not list(pathlib.Path(directory).glob("*/*"))


@aioray.remote
def add(a: int, b: int) -> int:
    return a + b


def test_programs_come_and_go_and_the_cluster_stays(shell: Shell) -> None:
    """
    1. a head, and a node that joins it
    2. a program joins, by "auto" and by address, in both faces, and runs something
    3. the status tells what is there; after `stop` nothing is
    """
    address = shell.start_head("--labels", "zone=a")
    shell.join("auto", "--num-cpus", "2", "--resources", '{"disk": 4}')
    for name in ("auto", address, address.replace("127.0.0.1", "localhost")):
        with aioray.init(address=name, _temp_dir=shell.temp_dir):
            assert aioray.get(add.remote(1, 2)) == 3
            assert aioray.cluster_resources()["CPU"] == 3
            assert {node["Labels"].get("zone") for node in aioray.nodes()} == {"a", None}

    async def use() -> None:
        async with aioray.connect(address="auto", _temp_dir=shell.temp_dir) as cluster:
            assert await add.remote(3, 4) == 7
            assert cluster.address_info["address"].startswith(shell.temp_dir)

    asyncio.run(use())
    status = shell("status")
    assert f"Cluster at {address}: 2 nodes alive, 0 dead" in status
    assert "0 of 2 CPU used, 0 of 4 disk used" in status
    assert "Nothing waits." in status
    processes = shell.processes()
    assert shell("stop") == "aioray: 2 of 2 nodes have ended\n"
    wait_gone(processes)
    assert "no node of a cluster runs on this machine" in shell("status", code=1)
    with pytest.raises(ConnectionError, match=f"no node of the cluster at {address} runs on this machine"):
        aioray.init(address=address, _temp_dir=shell.temp_dir)


class Holder:
    def ready(self) -> None: ...


def test_the_status_tells_what_is_used_and_what_waits_and_why(shell: Shell) -> None:
    shell.start_head()
    with aioray.init(address="auto", _temp_dir=shell.temp_dir):
        holder = aioray.remote(num_cpus=1)(Holder).remote()
        aioray.get(holder.ready.remote())
        waits = [add.remote(1, n) for n in range(3)]
        never = add.options(num_gpus=2).remote(1, 2)
        deadline = time.monotonic() + 10
        group = placement_group([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_PACK", name="pair")
        while "never run here" not in (status := shell("status")) or "1 CPU at node" not in status:
            assert time.monotonic() < deadline, status
        assert "1 of 1 CPU used" in status
        assert re.search(r"\d x 1 CPU at node \w+: add waits for 1 CPU; free: 0 CPU;", status), status
        assert re.search(r"1 x .*2 GPU.* at node \w+: add can never run here: needs 2 GPU", status), status
        assert "placement group 'pair'" in status
        assert "fits on no nodes that there are: 2 CPU on one node asked, best node has 1" in status
        del waits, never, group


def test_what_there_is_can_be_listed_and_summed_up(shell: Shell) -> None:
    shell.start_head("--system-config", '{"task_events_reporting_interval_ms": 20}')
    with aioray.init(address="auto", _temp_dir=shell.temp_dir):
        ref = add.options(_labels={"team": "blue"}).remote(1, 2)
        actor = aioray.remote(Holder).options(name="holder").remote()
        aioray.get([ref, actor.ready.remote()])
        deadline = time.monotonic() + 10
        while "2 in all" not in (tasks := shell("list", "tasks", "--filter", "state=FINISHED")):
            assert time.monotonic() < deadline, tasks
        assert re.search(rf"{ref.task_id().hex()} +add +FINISHED +NORMAL_TASK", tasks), tasks
        assert "1 in all" in shell("list", "tasks", "-f", "labels.team=blue")
        assert "0 in all" in shell("list", "tasks", "-f", "labels.team=red")
        assert re.search(r"add +NORMAL_TASK +0 +0 +1 +0", shell("summary", "tasks"))
        assert json.loads(shell("get", "tasks", ref.task_id().hex()))["name"] == "add"
        assert "no such entry among tasks" in shell("get", "tasks", "00", code=1)
        (row,) = json.loads(shell("list", "actors", "--format", "json", "--filter", "name!=other"))
        assert (row["name"], row["state"]) == ("holder", "ALIVE")
        assert "1 in all" in shell("list", "nodes")
        assert re.search(r'^aioray_tasks{State="FINISHED"} 2.0$', shell("metrics"), re.MULTILINE)
        assert "program" not in shell("list", "jobs", "--filter", "status!=RUNNING")
        assert "no filter 'colour': there are node_id" in shell("list", "nodes", "--filter", "colour=red", code=1)
        assert "FIELD=VALUE" in shell("list", "nodes", "--filter", "colour", code=2)


def test_what_a_program_that_has_ended_did_is_counted_and_its_workers_serve_the_next(shell: Shell) -> None:
    """Its tasks, and what it counted itself, until its last moment: once, though it comes twice."""
    config = '{"task_events_reporting_interval_ms": 20, "metrics_report_interval_ms": 20}'
    address = shell.start_head("--system-config", config)
    workers, programs, seconds = set(), Counter("test_programs"), Gauge("test_seconds")
    for _ in range(2):
        programs.inc()
        with aioray.init(address="auto", _temp_dir=shell.temp_dir):
            workers.update(aioray.get([aioray.remote(os.getpid).remote() for _ in range(20)]))
            programs.inc()
            seconds.set(1)
    assert len(workers) == 1
    deadline = time.monotonic() + 10
    while len(re.findall(r"getpid +NORMAL_TASK +0 +0 +20 +0", summary := shell("summary", "tasks"))) < 2:
        assert time.monotonic() < deadline, summary
    deadline = time.monotonic() + 10
    (token_path,) = pathlib.Path(shell.temp_dir).glob("*/session-*/token")
    request = urllib.request.Request(
        f"http://{address}/metrics", headers={"Authorization": f"Bearer {token_path.read_text()}"}
    )

    def scraped() -> str:
        with urllib.request.urlopen(request) as response:
            return str(response.read().decode())

    while "aioray_test_programs_total 4.0" not in (metrics := scraped()):
        assert time.monotonic() < deadline, metrics
    assert "aioray_test_seconds" not in metrics


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"aioray {aioray.__version__}\n"


def test_a_head_that_is_gone_is_said_in_plain_words(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    told = shell("status", "--address", f"127.0.0.1:{port}", code=1, AIORAY_AUTH_TOKEN="any")
    assert "does not answer" in told
    assert "ssl" not in told
    soon = ("--system-config", '{"gcs_reconnect_timeout_s": 0.2}')
    told = shell.join(f"127.0.0.1:{port}", *soon, code=1, AIORAY_AUTH_TOKEN="any")
    assert "was not reached for 0.2 s" in told
    assert "Connect call failed" in told


def test_stop_ends_what_start_has_started_and_nothing_else(shell: Shell) -> None:
    shell.start_head()
    with LocalCluster(nodes=1, _temp_dir=shell.temp_dir) as cluster:
        assert shell("stop") == "aioray: 1 of 1 nodes have ended\n"
        assert aioray.get(add.remote(1, 2)) == 3
        assert psutil.pid_exists(cluster.head.pid)
    assert shell("stop") == "aioray: 0 of 0 nodes have ended\n"


def test_a_node_without_the_token_is_refused_and_disturbs_nobody(shell: Shell) -> None:
    address = shell.start_head()
    with tempfile.TemporaryDirectory(prefix="aioray-") as elsewhere:  # as on another machine: no token there
        other = Shell(elsewhere)
        assert "AIORAY_AUTH_TOKEN" in other.join(address, code=1)
        assert "token is not that of its cluster" in other.join(address, code=1, AIORAY_AUTH_TOKEN="guessed")
        (token,) = pathlib.Path(shell.temp_dir).glob("*/session-*/token")
        other.join(address, "--num-cpus", "1", AIORAY_AUTH_TOKEN_PATH=str(token))
        assert "2 nodes alive, 0 dead" in shell("status")
        assert other("stop") == "aioray: 1 of 1 nodes have ended\n"
    assert "1 node alive, 1 dead" in shell("status")
    (log,) = pathlib.Path(shell.temp_dir).glob("*/session-*/node.log")
    refusals = [line for line in log.read_text().splitlines() if "refused" in line]
    assert len(refusals) == 1, refusals


def test_a_node_that_is_killed_is_dead_for_the_others(shell: Shell) -> None:
    address = shell.start_head()
    head = {process.pid for process in shell.processes()}
    shell.join(address, "--num-cpus", "1")
    (member,) = [process for process in shell.processes() if process.pid not in head]
    member.kill()
    deadline = time.monotonic() + 10
    while "its connection was lost" not in (status := shell("status")):
        assert time.monotonic() < deadline, status
    assert "1 node alive, 1 dead" in status


def test_bad_options_are_named(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (("--head", "--port", "70000"), "--port"),
        (("--head", "--resources", "disk"), "--resources"),
        (("--head", "--resources", "[1]"), "a JSON object"),
        (("--head", "--labels", "zone"), "'zone' has no value"),
        (("--head", "--num-cpus", "-1"), "--num-cpus=-1"),
        (("--head", "--system-config", '{"no_such": 1}'), "no_such"),
        (("--address", "nowhere"), "HOST:PORT"),
        (("--address", "10.0.0.1:1", "--port", "5"), "only the head listens"),
        (("--address", "10.0.0.1:1", "--system-config", '{"gcs_kv_max_nbytes": 1}'), "giving it to the head"),
        (("--head", "--node-ip-address", "here"), "--node-ip-address"),
        (("--head", "--node-ip-address", "0.0.0.0"), "nobody can dial it"),
        (("--head", "--node-ip-address", "192.0.2.1"), "--node-ip-address='192.0.2.1'"),  # of no machine
        ((), "one of the arguments --head --address is required"),
    ):
        with pytest.raises(SystemExit) as it:
            main(["start", "--temp-dir", shell.temp_dir, *arguments])
        assert it.value.code == 2
        assert words in capsys.readouterr().err, arguments
    with pytest.raises(InvalidOptionError, match="no client server"):
        aioray.init(address="ray://127.0.0.1:10001")
    with pytest.raises(InvalidOptionError, match="num_cpus"):
        aioray.init(address="auto", num_cpus=1, _temp_dir=shell.temp_dir)
    with pytest.raises(ConnectionError, match="aioray start --head"):
        aioray.connect(address="auto", _temp_dir=shell.temp_dir)


def test_certificates_that_cannot_be_used_are_named_when_a_node_starts(shell: Shell) -> None:
    told = shell("start", "--head", "--port", "0", code=2, AIORAY_TLS_SERVER_CERT="/nowhere/cert.pem")
    assert told.startswith("aioray: AIORAY_TLS_SERVER_CERT='/nowhere/cert.pem' is not accepted"), told
    assert shell.processes() == []


def test_a_port_that_is_taken_is_said(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert "address already in use" in shell("start", "--head", "--port", port, code=1)
    assert shell.processes() == []


def test_block_stays_until_it_is_interrupted(shell: Shell) -> None:
    command = [sys.executable, "-m", "aioray", "start", "--temp-dir", shell.temp_dir, "--head", "--port=0", "--block"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while "its end" not in process.stdout.readline():
            pass
        processes = shell.processes()
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 0
    wait_gone(processes)


def test_the_environment_may_name_the_cluster(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIORAY_ADDRESS", shell.start_head())
    with aioray.init(_temp_dir=shell.temp_dir) as context:
        assert context["session_dir"].startswith(shell.temp_dir)
    with aioray.init("local", num_cpus=1, _temp_dir=shell.temp_dir) as context:
        assert len(aioray.nodes()) == 1


def test_a_program_without_a_node_of_its_own_joins_and_strangers_disturb_nobody(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    1. a program that finds no node here joins through the head's port; a large value goes there and back
    2. peers without token, of another version, with random bytes, or frames too large to be true, are refused
    3. each is logged once, and the program goes on as before
    """
    address = shell.start_head()
    (path,) = pathlib.Path(shell.temp_dir).glob("*/session-*/token")
    token = path.read_text()
    monkeypatch.setenv("AIORAY_AUTH_TOKEN", token)
    oversized = b"\xff\xff\xff\xff" + bytes(100)
    with tempfile.TemporaryDirectory(prefix="aioray-") as elsewhere, aioray.init(address=address, _temp_dir=elsewhere):
        large = aioray.put(bytes(3 << 20))
        host, _, port = head_of(address).rpartition(":")
        for said in (
            os.urandom(100),
            oversized,
            preamble("guessed"),
            preamble(token, PROTOCOL_VERSION + 1),
            preamble(token) + oversized,
            preamble(token) + b"\x01\x00\x00\x00\xc1",
        ) * 2:
            stranger = socket.create_connection((host, int(port)), timeout=10)
            with stranger, contextlib.suppress(ConnectionResetError):
                stranger.sendall(said)
                assert stranger.recv(1) == b""
            assert aioray.get(add.remote(1, 2)) == 3
        assert aioray.get(aioray.remote(len).remote(large)) == len(aioray.get(large)) == 3 << 20
    (log,) = pathlib.Path(shell.temp_dir).glob("*/session-*/node.log")
    refusals = [line for line in log.read_text().splitlines() if "refused" in line]
    assert len(refusals) == len(set(refusals)) == 5, refusals
