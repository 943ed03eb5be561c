"""What a cluster could leave behind: the leak check that ends every test with one."""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile
import threading
import time

import psutil

_PATIENCE_S = 10.0
_TEMP_DIRS = "aioray-tests-"  # of test runs, and of each of the processes that share a run


def own_temp_dir(worker: str) -> pathlib.Path:
    """Make a directory for the sessions of one of the processes that share a test run, and use it from here on."""
    path = pathlib.Path(tempfile.mkdtemp(prefix=f"{_TEMP_DIRS}{worker}-"))
    os.environ["TMPDIR"] = str(path)
    tempfile.tempdir = None
    return path


class Leftovers:
    """What exists outside the memory of this process that a cluster could leave behind."""

    def __init__(self) -> None:
        me = psutil.Process()
        self.processes = {child.pid: _parent(child) for child in me.children(recursive=True)}
        self.threads = {thread.ident for thread in threading.enumerate()}
        self.fds = _open_files()
        root = pathlib.Path(tempfile.gettempdir()) / f"aioray-{os.getuid()}"
        self.sessions = set(root.iterdir()) if root.exists() else set()
        self.shared_memory = {name for name in os.listdir("/dev/shm") if "aioray" in name}

    def since(self, before: Leftovers) -> dict[str, list[str]]:
        """What is here now and was not then, but for what is of others. Whose it is, is asked of what is new only."""
        ours = {os.getpid(), *self.processes}
        sessions = self.sessions - before.sessions
        if sessions:
            sessions -= _of_others(sessions, ours)
        shared_memory = self.shared_memory - before.shared_memory
        if shared_memory:
            shared_memory -= _segments_of_others(ours) | _segments_beside()
        new = {
            "processes": [
                f"{pid} {_command(pid)}"
                for pid, parent in self.processes.items()
                if pid not in before.processes
                and parent not in before.processes  # a cluster of others forks as it likes
            ],
            "threads": [t.name for t in threading.enumerate() if t.ident in self.threads - before.threads],
            "fds": [f"{fd} -> {what}" for fd, what in self.fds.items() if before.fds.get(fd) != what],
            "shared memory": list(shared_memory),
            "sessions": [str(path) for path in sessions],
        }
        return {what: sorted(names) for what, names in new.items() if names}

    @classmethod
    def that_stay(cls, before: Leftovers) -> dict[str, list[str]]:
        """What was not there `before`, and does not go within some seconds: the kernel ends processes when it likes.

        Only what each of many looks finds counts: others that use this machine come and go, and what they leave for a
        moment is hard to tell from what is ours.
        """
        left = cls().since(before)
        deadline = time.monotonic() + _PATIENCE_S
        while left and time.monotonic() < deadline:
            time.sleep(0.01)
            now = cls().since(before)
            left = {
                what: found for what, names in left.items() if (found := [n for n in names if n in now.get(what, ())])
            }
        return left


def _of_others(sessions: set[pathlib.Path], ours: set[int]) -> set[pathlib.Path]:
    """Those that a process has locked which is not ours: somebody else runs aioray on this machine, too."""
    holders = {}
    with open("/proc/locks") as locks:
        for line in locks:
            fields = line.split()
            if fields[1] == "FLOCK":
                holders[int(fields[5].rpartition(":")[2])] = int(fields[4])
    strange = set()
    for session in sessions:
        with contextlib.suppress(OSError):
            if holders.get((session / "lock").stat().st_ino, os.getpid()) not in ours:
                strange.add(session)
    return strange


def _segments_of_others(ours: set[int]) -> set[str]:
    """Shared memory of live nodes, wherever their sessions are, that are not of this process or its children."""
    found = set()
    for process in psutil.process_iter():
        if process.pid not in ours:
            with contextlib.suppress(OSError):
                for fd in os.listdir(f"/proc/{process.pid}/fd"):
                    with contextlib.suppress(OSError):
                        path = pathlib.Path(os.readlink(f"/proc/{process.pid}/fd/{fd}"))
                        if path.parent == pathlib.Path("/dev/shm"):
                            found.add(path.name)
    return found


def _segments_beside() -> set[str]:
    """Shared memory of nodes, dead ones too, whose sessions are in the directories of others of this test run."""
    own = pathlib.Path(tempfile.gettempdir())
    found = set()
    for beside in own.parent.glob(f"{_TEMP_DIRS}*") if own.name.startswith(_TEMP_DIRS) else ():
        with contextlib.suppress(FileNotFoundError):  # that one comes and goes as it likes
            names = os.listdir(beside / f"aioray-{os.getuid()}") if beside != own else ()
            found |= {name.replace("session-", "aioray-node-") for name in names}
    return found


def _open_files() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


def _parent(process: psutil.Process) -> int:
    try:
        return process.ppid()
    except psutil.NoSuchProcess:
        return 0


def _command(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return "(gone)"
