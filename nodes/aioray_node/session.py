"""A node's session: its directory, its lock, its shared memory; and sweeping up after nodes that were killed.

The directory is private to the user (0700). A lock on a file in it lives exactly as long as the node's process, so a
session whose lock can be taken is dead, and whoever starts next on this machine removes what it left.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import tempfile
import time
import uuid

import posix_ipc

_PREFIX = "session-"
_NEW_PREFIX = "new-"
_NEW_FOR_S = 60.0  # a session that is new for longer than this died in the making


def sessions_root(temp_dir: str | None) -> pathlib.Path:
    """Where sessions live: one directory a user. Raises PermissionError when it is not ours alone."""
    root = pathlib.Path(temp_dir or tempfile.gettempdir()) / f"aioray-{os.getuid()}"
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = root.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(f"{root} must belong to this user alone (mode 0700)")
    return root


class Session:
    """What one node keeps outside its memory; `close` removes it."""

    def __init__(self, temp_dir: str | None, capacity_nbytes: int) -> None:
        root = sessions_root(temp_dir)
        sweep(root)
        self.session_id = uuid.uuid4().hex[:16]
        self.dir = root / f"{_NEW_PREFIX}{self.session_id}"  # not to be swept before it has its lock
        self.dir.mkdir(mode=0o700)
        self.segment = f"/aioray-{self.session_id}"
        self.capacity_nbytes = capacity_nbytes
        self._lock_fd = os.open(self.dir / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (self.dir / "session.json").write_text(json.dumps({"segment": self.segment, "pids": []}))
        self.dir = self.dir.rename(root / f"{_PREFIX}{self.session_id}")
        # Sparse: a page takes memory when it is first written.
        posix_ipc.SharedMemory(self.segment, posix_ipc.O_CREX, mode=0o600, size=capacity_nbytes).close_fd()

    @property
    def address(self) -> str:
        """The node's socket."""
        return str(self.dir / "node.sock")

    def note_zygote(self, pid: int) -> None:
        """Remember whom to kill if we are killed: its workers die with it."""
        (self.dir / "session.json").write_text(json.dumps({"segment": self.segment, "pids": [pid]}))

    def close(self) -> None:
        """Remove everything. Safe to call twice."""
        if self._lock_fd < 0:
            return
        with contextlib.suppress(posix_ipc.ExistentialError):
            posix_ipc.unlink_shared_memory(self.segment)
        shutil.rmtree(self.dir, ignore_errors=True)
        os.close(self._lock_fd)
        self._lock_fd = -1


def sweep(root: pathlib.Path) -> int:
    """Remove what dead nodes of this user left; returns how many there were."""
    swept = 0
    for directory in root.glob(f"{_NEW_PREFIX}*"):
        with contextlib.suppress(OSError):  # it is a session by now
            if time.time() - directory.stat().st_mtime > _NEW_FOR_S:
                _remove(directory)
    for directory in root.glob(f"{_PREFIX}*"):
        try:
            fd = os.open(directory / "lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # being made, or being removed, right now
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(directory)
            swept += 1
        except BlockingIOError:
            pass  # alive
        finally:
            os.close(fd)
    return swept


def _remove(directory: pathlib.Path) -> None:
    with contextlib.suppress(OSError, ValueError, KeyError):
        left = json.loads((directory / "session.json").read_text())
        with contextlib.suppress(posix_ipc.ExistentialError):
            posix_ipc.unlink_shared_memory(left["segment"])
        for pid in left["pids"]:
            _kill_if_ours(pid)
    shutil.rmtree(directory, ignore_errors=True)


def _kill_if_ours(pid: int) -> None:
    import psutil  # late: it takes a tenth of the time that a node takes to start

    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        if any("aioray_node" in word for word in process.cmdline()):  # else the number was given to somebody else
            process.kill()


def default_store_nbytes(fraction: float) -> int:
    """`fraction` of the machine's memory, but never more than /dev/shm has free."""
    free = os.statvfs("/dev/shm")
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(min(total * fraction, free.f_bavail * free.f_frsize * 0.95))
