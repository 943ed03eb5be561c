"""A node's directory, lock and shared memory; and what is swept up, and what is not."""

from __future__ import annotations

import os
import pathlib
import pickle
import select
import shutil
import subprocess
import sys
import tempfile
import threading
from typing import TYPE_CHECKING

import posix_ipc
import psutil
import pytest

import aioray_node.session
from aioray.config import Config
from aioray.wire.control import ForkWorker
from aioray_node.gcs.journal import Journal
from aioray_node.gcs.records import CheckpointRecord
from aioray_node.pool.zygote_process import ZygoteProcess
from aioray_node.session import Session, sessions_root, sweep
from tests.processes.programs import Program, wait_gone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NBYTES = 1 << 20


@pytest.fixture
def temp_dir(nothing_left: None) -> Iterator[str]:
    """Not tmp_path: the names of sockets in it would be too long."""
    with tempfile.TemporaryDirectory(prefix="aioray-") as directory:
        yield directory


@pytest.fixture
def root(temp_dir: str) -> pathlib.Path:
    return sessions_root(temp_dir)


def shared_memory(session: Session) -> pathlib.Path:
    return pathlib.Path("/dev/shm") / session.segment[1:]


def abandon(session: Session) -> None:
    """As the kernel does with a process that is killed: its locks go, and nothing else."""
    session.disown()


def test_a_session_makes_its_directory_for_this_user_alone_and_removes_all_it_made(
    temp_dir: str, root: pathlib.Path
) -> None:
    session = Session(temp_dir, NBYTES)
    assert session.dir.stat().st_mode & 0o777 == 0o700
    assert root.stat().st_mode & 0o777 == 0o700
    assert shared_memory(session).stat().st_size == NBYTES
    assert shared_memory(session).stat().st_mode & 0o777 == 0o600
    session.close()
    session.close()
    assert list(root.iterdir()) == []
    assert not shared_memory(session).exists()


CHECKPOINTS = """
import aioray

@aioray.remote(max_restarts=-1)
class Counter:
    total = 0
    def add(self):
        self.total += 1
        return self.total
    def __aioray_checkpoint__(self):
        return self.total
    def __aioray_restore__(self, total):
        self.total = total

context = aioray.init(num_cpus=1, _temp_dir=TEMP_DIR)
counter = Counter.remote()
print(context.address_info["session_dir"], counter._actor_id, flush=True)
while True:
    print(aioray.get(counter.add.remote()), flush=True)
"""


def test_checkpoints_whose_calls_were_answered_survive_a_node_that_is_killed_with_all_it_has(
    temp_dir: str, root: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """
    1. an actor saves after each call; the program prints what was answered
    2. program, node, zygote and workers are killed at once, so that nobody cleans up
    3. what was answered last is in the journal; the next start sweeps all of it
    """
    with Program(tmp_path, CHECKPOINTS.replace("TEMP_DIR", repr(temp_dir))) as program:
        directory, actor_id = program.line().split()
        for _ in range(20):
            answered = int(program.line())
        processes = [psutil.Process(program.pid), *program.descendants()]
        for process in processes:
            process.suspend()
        for process in processes:
            process.kill()
        wait_gone(processes)
        assert program.process.stdout is not None
        rest = program.process.stdout.read().split()
        answered = int(rest[-1]) if rest else answered
    found: list[tuple[object, bytes, str]] = []
    told = threading.Event()

    def deliver(callbacks: list[Callable[[], None]]) -> None:
        for callback in callbacks:
            callback()

    journal = Journal(pathlib.Path(directory) / "journal", deliver)
    key = (CheckpointRecord.kind, bytes.fromhex(actor_id))
    journal.read(key, lambda *answer: (found.append(answer), told.set()))  # type: ignore[arg-type, func-returns-value]
    assert told.wait(10)
    journal.close()
    ((record, _, error),) = found
    assert isinstance(record, CheckpointRecord), error
    assert answered <= pickle.loads(record.value.data) <= answered + 1
    assert sweep(root) == 1
    assert list(root.iterdir()) == []


def test_a_dead_session_is_swept_by_the_next_and_a_living_one_is_not(temp_dir: str, root: pathlib.Path) -> None:
    dead, living = Session(temp_dir, NBYTES), Session(temp_dir, NBYTES)
    (dead.dir / "node.sock").touch()
    abandon(dead)
    third = Session(temp_dir, NBYTES)
    assert not dead.dir.exists()
    assert not shared_memory(dead).exists()
    assert sorted(root.iterdir()) == sorted([living.dir, third.dir])
    assert shared_memory(living).exists()
    living.close()
    third.close()


def test_a_zygote_that_outlived_its_node_is_killed_with_the_sweep(temp_dir: str, root: pathlib.Path) -> None:
    orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    session = Session(temp_dir, NBYTES)
    session.note_zygote(orphan.pid)
    abandon(session)
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    try:
        assert sweep(root) == 1
        assert orphan.poll() is None or orphan.returncode == -9
        assert stranger.poll() is None
    finally:
        for process in (orphan, stranger):
            process.kill()
            process.wait()


def test_a_zygote_leaves_a_living_session_alone_though_its_last_report_was_not_read(temp_dir: str) -> None:
    session = Session(temp_dir, NBYTES)
    zygote = ZygoteProcess.spawn(Config(zygote_preload=""))
    zygote.inherit(str(session.dir))
    with open(os.devnull, "wb") as null:
        zygote.fork_worker(ForkWorker("0" * 16, str(session.dir)), null.fileno(), null.fileno())
    assert select.select([zygote.sock], [], [], 10)[0]
    zygote.close(5)
    assert zygote._process is not None
    assert zygote._process.returncode == 0  # it was not killed for waiting too long
    assert session.dir.exists()
    session.close()


@pytest.mark.parametrize("left", ["", "{", '{"segment": 5}', "[]"])
def test_a_session_that_died_while_it_wrote_is_swept_all_the_same(temp_dir: str, root: pathlib.Path, left: str) -> None:
    session = Session(temp_dir, NBYTES)
    (session.dir / "session.json").write_text(left)
    abandon(session)
    assert sweep(root) == 1
    assert not session.dir.exists()
    assert not shared_memory(session).exists()


def test_a_session_whose_shared_memory_is_gone_already_is_swept_and_closed_without_ado(
    temp_dir: str, root: pathlib.Path
) -> None:
    dead, closed = Session(temp_dir, NBYTES), Session(temp_dir, NBYTES)
    posix_ipc.unlink_shared_memory(dead.segment)
    abandon(dead)
    assert sweep(root) == 1
    posix_ipc.unlink_shared_memory(closed.segment)
    closed.close()
    assert list(root.iterdir()) == []


def test_a_directory_that_others_may_enter_is_refused(temp_dir: str) -> None:
    open_to_all = pathlib.Path(temp_dir) / f"aioray-{os.getuid()}"
    open_to_all.mkdir()
    open_to_all.chmod(0o755)
    with pytest.raises(PermissionError, match="0700"):
        Session(temp_dir, NBYTES)


def test_a_directory_with_a_name_too_long_for_sockets_is_refused_where_it_was_given_and_else_avoided(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = str(tmp_path / ("x" * 80))
    with pytest.raises(ValueError, match="too long"):
        sessions_root(long)
    monkeypatch.setattr(tempfile, "tempdir", long)
    assert sessions_root(None).parent == pathlib.Path("/tmp")


def test_sessions_that_start_at_the_same_time_do_not_sweep_each_other(temp_dir: str, root: pathlib.Path) -> None:
    start = f"""
import sys
from aioray_node.session import Session
for _ in range(60):
    session = Session({temp_dir!r}, 4096)
    assert session.dir.exists() and (session.dir / "lock").exists()
    session.close()
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    racers = [
        subprocess.Popen([sys.executable, "-c", start], env=environment, stderr=subprocess.PIPE) for _ in range(3)
    ]
    assert [racer.communicate()[1].decode() for racer in racers] == [""] * 3
    assert [racer.returncode for racer in racers] == [0] * 3


def test_memory_whose_directory_somebody_has_removed_is_swept_too(
    temp_dir: str, root: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A living node's is not, and none that is so new that its lock may be yet to come."""
    dead, alive = Session(temp_dir, NBYTES), Session(temp_dir, NBYTES)
    for session in (dead, alive):
        shutil.rmtree(session.dir)
    abandon(dead)
    sweep(root)
    assert shared_memory(dead).exists()
    monkeypatch.setattr(aioray_node.session, "_NEW_FOR_S", 0.0)
    sweep(root)
    assert not shared_memory(dead).exists()
    assert shared_memory(alive).exists()
    alive.close()
