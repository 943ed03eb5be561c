"""Nothing outlives what it belongs to, whichever process is killed; and what a killed one leaves is swept up."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import tempfile
from typing import TYPE_CHECKING, Any

import psutil
import pytest

import aioray
from tests.api.support import eventually
from tests.processes.programs import PATIENCE_S, Program, wait_gone

if TYPE_CHECKING:
    from collections.abc import Iterator

SYNC = """
import json, os, time
import aioray as ray

ray.init(num_cpus=2)

@ray.remote
def work(n):
    return n

@ray.remote
class Busy:
    def where(self):
        return os.getpid()
    def hang(self):
        time.sleep(1000)

busy = Busy.remote()
ray.get([busy.where.remote(), *[work.remote(n) for n in range(10)]])
big = ray.put(bytes(1 << 20))
hanging = busy.hang.remote()
runtime = ray.current.get()
print(json.dumps({"session": runtime.session_dir, "workers": runtime.ask("pids")}), flush=True)
"""

INLINE = SYNC.replace("num_cpus=2", "num_cpus=2, inline=True")

COMPILED = """
import json
import aioray as ray
from aioray.dag import InputNode

ray.init(num_cpus=2)

@ray.remote
class Stage:
    def step(self, x):
        while x > 2:
            pass
        return x + 1

with InputNode() as graph:
    for _ in range(3):
        graph = Stage.bind().step.bind(graph)
compiled = graph.experimental_compile()
hanging = compiled.execute(1)
runtime = ray.current.get()
print(json.dumps({"session": runtime.session_dir, "workers": runtime.ask("pids")}), flush=True)
ray.get(hanging)
"""

ASYNC = """
import asyncio, json, time
import aioray as ray

@ray.remote
def hang():
    time.sleep(1000)

@ray.remote
class Echo:
    async def echo(self, x):
        return x

async def main():
    async with ray.connect(num_cpus=2) as cluster:
        echo = Echo.remote()
        await echo.echo.remote(1)
        hanging = hang.remote()
        runtime = ray.current.get()
        print(json.dumps({"session": runtime.session_dir, "workers": runtime.ask("pids")}), flush=True)
        await hanging

asyncio.run(main())
"""

IDLE = """
import asyncio, json, time
import aioray as ray

async def main():
    async with ray.connect(num_cpus=2):
        await ray.remote(time.time).remote()
        runtime = ray.current.get()
        print(json.dumps({"session": runtime.session_dir, "workers": runtime.ask("pids")}), flush=True)
        await asyncio.sleep(1000)

asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def nothing_of_ours_is_left(nothing_left: None) -> Iterator[None]:
    """A killed head leaves its session to the next one that starts, so one is started after each test."""
    yield
    aioray.init(num_cpus=1)
    aioray.shutdown()


@pytest.fixture
def own_temp_dir() -> Iterator[str]:
    """Where nobody else's node sweeps. Not tmp_path: the names of sockets in it would be too long."""
    with tempfile.TemporaryDirectory(prefix="aioray-") as directory:
        yield directory


def facts(program: Program) -> tuple[dict[str, Any], list[psutil.Process]]:
    """What it says of itself, and all processes under it."""
    line = program.line()
    assert line, program.rest()
    told = json.loads(line)
    descendants = program.descendants()
    assert {process.pid for process in descendants} >= set(told["workers"])
    return told, descendants


def segment_of(session: str) -> pathlib.Path:
    return pathlib.Path("/dev/shm") / pathlib.Path(session).name.replace("session-", "aioray-node-")


def is_removed(session: str) -> bool:
    return not pathlib.Path(session).exists() and not segment_of(session).exists()


def test_workers_die_with_a_head_that_is_killed_and_its_zygote_cleans_up(
    tmp_path: pathlib.Path, own_temp_dir: str
) -> None:
    """
    1. the head is killed with -9: workers, busy ones too, vanish, and the session with the zygote
    2. the driver, which waited for a call, hears of it and ends well
    """
    waits = """
try:
    ray.get(hanging)
except ray.exceptions.RayError as exc:
    print(type(exc).__name__, flush=True)
ray.shutdown()
"""
    with Program(tmp_path, SYNC + waits, TMPDIR=own_temp_dir) as program:
        told, descendants = facts(program)
        (head,) = psutil.Process(program.pid).children()
        head.kill()
        wait_gone(descendants)
        assert is_removed(told["session"])
        assert program.line() == "ActorDiedError"
        _, err = program.rest()
        assert program.process.returncode == 0, err


def test_what_a_head_leaves_that_is_killed_with_its_zygote_is_swept_up_by_the_next(
    tmp_path: pathlib.Path, own_temp_dir: str
) -> None:
    with Program(tmp_path, SYNC + "ray.get(hanging)", TMPDIR=own_temp_dir) as program:
        told, descendants = facts(program)
        (head,) = psutil.Process(program.pid).children()
        head.suspend()  # else it would start another
        psutil.Process(told["workers"][0]).kill()
        head.kill()
        wait_gone(descendants)
    session, segment = pathlib.Path(told["session"]), segment_of(told["session"])
    assert session.exists()
    assert segment.exists()
    aioray.init(num_cpus=1, _temp_dir=own_temp_dir)
    try:
        assert not session.exists()
        assert not segment.exists()
    finally:
        aioray.shutdown()


@pytest.mark.parametrize(
    "text", [SYNC + "ray.get(hanging)", SYNC + "while True: pass", ASYNC, COMPILED, INLINE + "input()"]
)
def test_everything_vanishes_with_a_driver_that_is_killed(tmp_path: pathlib.Path, own_temp_dir: str, text: str) -> None:
    with Program(tmp_path, text, TMPDIR=own_temp_dir) as program:
        told, descendants = facts(program)
        program.kill()
        wait_gone(descendants)
        assert is_removed(told["session"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("text", [SYNC + "ray.get(hanging)", ASYNC, INLINE + "ray.get(hanging)"])
def test_the_session_is_removed_when_a_whole_process_group_is_ended(
    tmp_path: pathlib.Path, own_temp_dir: str, text: str, number: signal.Signals
) -> None:
    with Program(tmp_path, text, TMPDIR=own_temp_dir) as program:
        told, descendants = facts(program)
        os.killpg(program.pid, number)
        wait_gone(descendants)
        assert is_removed(told["session"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_session_is_removed_though_its_zygote_is_in_the_middle_of_an_import(
    tmp_path: pathlib.Path, own_temp_dir: str, number: signal.Signals
) -> None:
    begun = tmp_path / "begun"
    (tmp_path / "endless.py").write_text(
        f"import pathlib, time\npathlib.Path({str(begun)!r}).touch()\nwhile True: time.sleep(0.01)\n"
    )
    preloads = 'num_cpus=2, _system_config={"zygote_preload": "endless"}'
    with Program(tmp_path, IDLE.replace("num_cpus=2", preloads), TMPDIR=own_temp_dir) as program:
        told, descendants = facts(program)
        eventually(begun.exists)
        if number == signal.SIGTERM:
            os.killpg(program.pid, number)
        else:
            program.kill()
        wait_gone(descendants)
        assert is_removed(told["session"])


def test_the_session_is_removed_though_a_process_that_the_driver_forked_lives_on(
    tmp_path: pathlib.Path, own_temp_dir: str
) -> None:
    """The fork has a copy of whatever the driver has open: of the lock, and of the line to the zygote."""
    forks = ASYNC.replace(
        "        print(json",
        """\
        import os
        if os.fork() == 0:
            time.sleep(1000)
        print(json""",
    )
    with Program(tmp_path, forks, TMPDIR=own_temp_dir) as program:
        told, descendants = facts(program)
        (fork,) = [each for each in psutil.Process(program.pid).children() if each.pid != told["workers"][0]]
        program.kill()
        wait_gone([each for each in descendants if each != fork])
        assert is_removed(told["session"])
        assert fork.is_running()


@pytest.mark.parametrize(
    "text", [SYNC + "ray.get(hanging)", SYNC + "ray.wait([hanging])", ASYNC, INLINE + "ray.get(hanging)"]
)
def test_ctrl_c_while_waiting_is_a_keyboard_interrupt_and_leaves_nothing(tmp_path: pathlib.Path, text: str) -> None:
    with Program(tmp_path, text) as program:
        told, descendants = facts(program)
        program.interrupt()
        out, err = program.rest()
        assert program.process.returncode == -signal.SIGINT, (out, err)
        assert err.rstrip().endswith("KeyboardInterrupt")
        assert err.count("Traceback (most recent call last)") <= 2, err  # asyncio.run chains a CancelledError
        wait_gone(descendants)
        assert not pathlib.Path(told["session"]).exists()


@pytest.mark.parametrize("starts", [SYNC, INLINE])
def test_a_program_that_catches_ctrl_c_goes_on_with_its_cluster(tmp_path: pathlib.Path, starts: str) -> None:
    text = """
for _ in range(3):
    try:
        print("waiting", flush=True)
        ray.get(hanging)
    except KeyboardInterrupt:
        print(ray.get(work.remote(5)), flush=True)
"""
    with Program(tmp_path, starts + text) as program:
        facts(program)
        for _ in range(3):
            assert program.line() == "waiting"
            program.interrupt()
            assert program.line() == "5"
        _, err = program.rest()
        assert program.process.returncode == 0, err


@pytest.mark.parametrize("starts", [SYNC, INLINE])
def test_a_program_that_just_ends_leaves_nothing(tmp_path: pathlib.Path, starts: str) -> None:
    for ending in ("", "raise SystemExit(0)", "ray.shutdown()"):
        with Program(tmp_path, starts + "input()\n" + ending) as program:
            told, descendants = facts(program)
            program.go_on()
            _, err = program.rest()
            assert (program.process.returncode, err) == (0, "")
            wait_gone(descendants)
            assert not pathlib.Path(told["session"]).exists()


def test_processes_that_workers_started_can_end_in_peace_after_sigterm_of_the_driver(tmp_path: pathlib.Path) -> None:
    with Program(tmp_path, SYNC + "ray.get(hanging)") as program:
        _, descendants = facts(program)
        with contextlib.suppress(ProcessLookupError):
            os.kill(program.pid, signal.SIGTERM)
        program.process.wait(PATIENCE_S)
        wait_gone(descendants)
