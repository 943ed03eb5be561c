"""A node's session: its directory, its lock, its shared memory; and sweeping up after nodes that were killed.

The directory is private to the user (0700). A lock on a file in it lives exactly as long as the node's process, so a
session whose lock can be taken is dead. Its zygote removes what it left, or, when that was killed as well, whoever
starts next on this machine. So is shared memory whose lock can be taken, wherever its directory was, or has gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import signal
import socket
import tempfile
import time
import uuid
import weakref
from typing import Any

import posix_ipc

from aioray.exceptions import InvalidOptionError

_PREFIX = "session-"
_MAX_ROOT_NBYTES = 107 - len("/session-0123456789abcdef/w-0123456789abcdef.sock")  # 107: what the kernel allows
_NODE_FILE = "node.json"
_SHARED_MEMORY = pathlib.Path("/dev/shm")
_SEGMENT = "aioray-node-"
_NEW_PREFIX = "new-"
_NEW_FOR_S = 60.0  # a session that is new for longer than this died in the making
_all: weakref.WeakSet[Session] = weakref.WeakSet()  # for what happens at a fork


def sessions_root(temp_dir: str | None) -> pathlib.Path:
    """Where sessions live: one directory a user.

    Raises PermissionError when it is not ours alone, InvalidOptionError when sockets in it would have names that are
    too long: the kernel allows few bytes, and a link to it from elsewhere would be one thing more to be left behind.
    """
    root = pathlib.Path(temp_dir or tempfile.gettempdir()) / f"aioray-{os.getuid()}"
    too_long = len(os.fsencode(root)) > _MAX_ROOT_NBYTES
    if too_long and temp_dir is None:
        root, too_long = pathlib.Path("/tmp") / root.name, False
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    if too_long:
        with contextlib.suppress(OSError):
            root.rmdir()
        most = _MAX_ROOT_NBYTES - len(f"/{root.name}")
        raise InvalidOptionError("_temp_dir", temp_dir, f"a path of at most {most} bytes", "too long for sockets in it")
    status = root.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(f"{root} must belong to this user alone (mode 0700)")
    return root


def new_session_id() -> str:
    """One that nobody has."""
    return uuid.uuid4().hex[:16]


def session_dir(temp_dir: str | None, session_id: str) -> pathlib.Path:
    """Where the session of that id is, or will be."""
    return sessions_root(temp_dir) / f"{_PREFIX}{session_id}"


class Session:
    """What one node keeps outside its memory; `close` removes it."""

    def __init__(self, temp_dir: str | None, capacity_nbytes: int, session_id: str = "") -> None:
        root = sessions_root(temp_dir)
        sweep(root)
        self.session_id = session_id or new_session_id()
        self.dir = root / f"{_NEW_PREFIX}{self.session_id}"  # not to be swept before it has its lock
        self.dir.mkdir(mode=0o700)
        self.segment = segment_of(self.session_id)
        self.capacity_nbytes = capacity_nbytes
        self._lock_fd = os.open(self.dir / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (self.dir / "session.json").write_text(json.dumps({"processes": []}))
        self.dir = self.dir.rename(root / f"{_PREFIX}{self.session_id}")
        # Sparse: a page takes memory when it is first written.
        memory = posix_ipc.SharedMemory(self.segment, posix_ipc.O_CREX, mode=0o600, size=capacity_nbytes)
        self._memory_fd: int = memory.fd
        fcntl.flock(self._memory_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _all.add(self)

    @property
    def address(self) -> str:
        """The node's socket."""
        return str(self.dir / "node.sock")

    def note_zygote(self, pid: int) -> None:
        """Remember whom to kill if we are killed: its workers die with it."""
        (self.dir / "session.json").write_text(json.dumps({"processes": [[pid, _start_of(pid)]]}))

    def note_node(self, facts: dict[str, object]) -> None:
        """Let others of this user find the node; it must listen already."""
        written = self.dir / "node.json.new"
        written.write_text(json.dumps(facts))
        written.rename(self.dir / _NODE_FILE)

    def close(self) -> None:
        """Remove everything. Safe to call twice."""
        if self._lock_fd < 0:
            return
        with contextlib.suppress(posix_ipc.ExistentialError):
            posix_ipc.unlink_shared_memory(self.segment)
        shutil.rmtree(self.dir, ignore_errors=True)
        self.disown()

    def disown(self) -> None:
        """Let go of the locks; in a forked child, whose copies of them would outlive the node."""
        fds = self._lock_fd, self._memory_fd
        self._lock_fd = self._memory_fd = -1
        for fd in fds:
            if fd >= 0:
                os.close(fd)


def _disown_all() -> None:
    for session in list(_all):
        session.disown()


os.register_at_fork(after_in_child=_disown_all)


def sweep(root: pathlib.Path) -> int:
    """Remove what dead nodes of this user left; returns how many there were."""
    swept = 0
    for directory in root.glob(f"{_NEW_PREFIX}*"):
        with contextlib.suppress(OSError):  # it is a session by now
            if time.time() - directory.stat().st_mtime > _NEW_FOR_S:
                _kill_processes_of(directory)
                _remove(directory)
    for directory in root.glob(f"{_PREFIX}*"):
        try:
            fd = os.open(directory / "lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # being made, or being removed, right now
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _kill_processes_of(directory)
            _remove(directory)
            swept += 1
        except BlockingIOError:
            pass  # alive
        finally:
            os.close(fd)
    _sweep_memory()
    return swept


def _sweep_memory() -> None:
    """Remove shared memory of dead nodes whose directories are gone: somebody cleaned up where those were."""
    for path in _SHARED_MEMORY.glob(f"{_SEGMENT}*"):
        with contextlib.suppress(OSError):  # another user's, or gone, or alive
            if time.time() - path.stat().st_ctime < _NEW_FOR_S:
                continue  # its maker may be about to lock it
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(fd)


def running_nodes(temp_dir: str | None) -> list[dict[str, Any]]:
    """What the nodes of this user that run on this machine, and can be joined, have noted; the newest comes first."""
    found = []
    for path in sessions_root(temp_dir).glob(f"{_PREFIX}*/{_NODE_FILE}"):
        with contextlib.suppress(OSError, ValueError):  # it is being removed, or dead and not swept yet
            facts = json.loads(path.read_text())
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.connect(facts["address"])
            found.append(facts)
    return sorted(found, key=lambda facts: float(facts["started_at"]), reverse=True)


def remove_after_death(directory: pathlib.Path) -> None:
    """Remove a session when its node is dead. Blocks for as long as the node lives."""
    try:
        fd = os.open(directory / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # it is gone already
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        _remove(directory)
    finally:
        os.close(fd)


def _kill_processes_of(directory: pathlib.Path) -> None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # it may have died while it wrote this
        for pid, started in json.loads((directory / "session.json").read_text())["processes"]:
            if _start_of(pid) == started:  # else the number was given to somebody else
                os.kill(pid, signal.SIGKILL)


def _remove(directory: pathlib.Path) -> None:
    with contextlib.suppress(posix_ipc.ExistentialError):
        posix_ipc.unlink_shared_memory(segment_of(directory.name.rpartition("-")[2]))
    shutil.rmtree(directory, ignore_errors=True)


def segment_of(session_id: str) -> str:
    return f"/{_SEGMENT}{session_id}"


def _start_of(pid: int) -> int:
    """When a process was started, in clock ticks since the machine was. Raises OSError when it is not there."""
    stat = pathlib.Path(f"/proc/{int(pid)}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[19])  # the name before may contain anything


def default_store_nbytes(fraction: float) -> int:
    """`fraction` of the machine's memory, but never more than /dev/shm has free."""
    free = os.statvfs("/dev/shm")
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(min(total * fraction, free.f_bavail * free.f_frsize * 0.95))
