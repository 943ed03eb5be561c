"""A node in a process of its own, which ends when this one does, however that happens."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import select
import signal
import subprocess
import time
import weakref
from typing import TYPE_CHECKING, Any

import msgspec

from aioray.exceptions import AuthenticationError, InvalidOptionError, RaySystemError
from aioray.runtime import child_python

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aioray.start_options import ClusterOptions

_START_TIMEOUT_S = 30.0
_SHUTDOWN_TIMEOUT_S = 5.0
_NODES = pathlib.Path(__file__).resolve().parent.parent / "nodes"  # in a checkout; elsewhere it is installed beside us
_ERRORS = {"AuthenticationError": AuthenticationError}


_all: weakref.WeakSet[NodeProcess] = weakref.WeakSet()  # for what happens at a fork


class NodeProcess:
    """A node as a child: `place` says what it is in its cluster, as in `NodeOptions`; nothing: a node alone.

    `environ`: variables beside ours. A daemon outlives this process.
    """

    def __init__(
        self,
        options: ClusterOptions,
        place: Mapping[str, Any] | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        daemon: bool = False,
    ) -> None:
        nodes = str(_NODES) if _NODES.is_dir() else ""
        told = {**msgspec.to_builtins(options), **(place or {}), "daemon": daemon}
        for name in ("namespace", "log_to_driver", "runtime_env", "logging_config", "inline", "node_ip_address"):
            del told[name]  # of drivers; the last is in `place`
        self._daemon = daemon
        self._process = subprocess.Popen(
            child_python.command("aioray_node.__main__", json.dumps(told), also_from=nodes),
            stdin=subprocess.DEVNULL if daemon else subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the driver
            env={**os.environ, **environ} if environ else None,
        )
        _all.add(self)

    def wait_ready(self) -> dict[str, Any]:
        """Where it listens. Raises what it said instead: InvalidOptionError, AuthenticationError, RaySystemError."""
        stdout = self._process.stdout
        assert stdout is not None
        import cloudpickle  # noqa: F401 # the first function will need it; the node takes longer than this

        line = b""
        deadline = time.monotonic() + _START_TIMEOUT_S
        poll = select.poll()
        poll.register(stdout, select.POLLIN)
        while not line.endswith(b"\n"):
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                self.close()
                raise RaySystemError(f"the node did not start within {_START_TIMEOUT_S:g} s")
            data = os.read(stdout.fileno(), 65536)
            if not data:
                break
            line += data
        facts: dict[str, Any] = json.loads(line) if line else {"error": "the node ended while it started"}
        if "error" in facts:
            self.close()
            if "bad_option" in facts:
                raise InvalidOptionError(*facts["bad_option"])
            raise _ERRORS.get(facts.get("kind", ""), RaySystemError)(facts["error"])
        return facts

    def hang_up(self) -> None:
        """Have it end. Safe to call twice."""
        if self._daemon:
            if self._process.poll() is None:
                self._process.terminate()
            return
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def disown(self) -> None:
        """In a forked child, whose copy of the pipe would keep the node alive after its driver."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()

    def kill(self) -> None:
        """As if the machine had lost power; what it leaves is removed by its zygote."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        self.close()

    def close(self) -> None:
        """Have it end, and wait until it and its workers are gone."""
        assert self._process.stdout is not None
        self.hang_up()
        try:
            self._process.wait(_SHUTDOWN_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    @property
    def pid(self) -> int:
        return self._process.pid


def _disown_all() -> None:
    for process in list(_all):
        process.disown()


os.register_at_fork(after_in_child=_disown_all)
