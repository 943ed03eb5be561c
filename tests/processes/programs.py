"""Programs that use aioray, run beside the test: to be interrupted, killed, and listened to."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    import pathlib

PATIENCE_S = 15.0


class Program:
    """`with Program(tmp_path, text) as program`: a Python script in a process group of its own, killed at the end."""

    def __init__(self, where: pathlib.Path, text: str, **environment: str) -> None:
        script = where / "program.py"
        script.write_text(text)
        self.process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=where,
            process_group=0,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), **environment},
        )
        self.pid = self.process.pid

    def line(self) -> str:
        """The next line that it prints; "" when it has ended."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.pid).children(recursive=True)

    def go_on(self) -> None:
        """Answer its input()."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def interrupt(self) -> None:
        """Ctrl-C, as a terminal does it: for the whole group."""
        os.killpg(self.pid, signal.SIGINT)

    def rest(self) -> tuple[str, str]:
        """What it still prints until its end, and its stderr."""
        return self.process.communicate(timeout=PATIENCE_S)

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *exc_info: Any) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.communicate()


def run(where: pathlib.Path, text: str, **environment: str) -> tuple[str, str]:
    """Run a program to its end, which must be a good one; its stdout and stderr."""
    with Program(where, text, **environment) as program:
        out, err = program.rest()
        assert program.process.returncode == 0, err
        return out, err


def wait_gone(processes: list[psutil.Process]) -> None:
    """Until all of them have ended; fails with the names of those that do not."""
    deadline = time.monotonic() + PATIENCE_S
    for process in processes:
        try:
            fd = os.pidfd_open(process.pid)
        except ProcessLookupError:
            continue
        try:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            ended = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
            assert ended, f"still there: {[each for each in processes if each.is_running()]}"
        finally:
            os.close(fd)
