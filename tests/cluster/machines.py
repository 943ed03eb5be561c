"""Machines of their own, as far as a kernel without a second machine can have them: namespaces with a switch between.

Each has its own network address, mounts and shared memory; processes and most files are those of this machine. They
end with the processes that hold them, which read a pipe of ours: nothing is left behind, however a test ends.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Any, Self

import psutil

from tests.processes.programs import wait_gone

if TYPE_CHECKING:
    from collections.abc import Mapping

_TIMEOUT_S = 60.0
_STORE = str(64 << 20)


@functools.cache
def why_not() -> str:
    """Why there can be none here; "" when there can."""
    if os.geteuid():
        return "network namespaces are made by root only"
    for name in ("ip", "unshare", "nsenter"):
        if shutil.which(name) is None:
            return f"there is no command {name!r}"
    try:
        with Network(1):
            return ""
    except (OSError, subprocess.CalledProcessError) as exc:
        return f"the kernel does not let us: {exc}"


class _Holder:
    """A process that has namespaces, and does nothing."""

    def __init__(self) -> None:
        script = "mount --make-rprivate / && mount -t tmpfs none /dev/shm && ip link set lo up && echo && exec cat"
        self._process = subprocess.Popen(
            ["unshare", "--net", "--mount", "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.pid = self._process.pid
        assert self._process.stdout is not None
        if not self._process.stdout.read(1):
            self.close()
            raise OSError("there are no namespaces for a new network")

    def command(self, *command: str) -> list[str]:
        return ["nsenter", f"--target={self.pid}", "--net", "--mount", *command]

    def __call__(self, *command: str) -> None:
        subprocess.run(self.command(*command), check=True, capture_output=True)

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()


class Machine:
    """One of them; its sessions are in a directory of its own."""

    def __init__(self, holder: _Holder, ip: str, temp_dir: str) -> None:
        self.ip = ip
        self.temp_dir = temp_dir
        self._holder = holder

    def hide(self, other: Machine) -> None:
        """Have the sessions of another one be out of sight here, as they would be."""
        self._holder("mount", "-t", "tmpfs", "none", other.temp_dir)

    def aioray(self, *arguments: str, code: int = 0, environ: Mapping[str, str] | None = None) -> str:
        """Run the command `aioray`; what it prints, on stderr where it is to fail."""
        done = subprocess.run(
            self._holder.command(sys.executable, "-m", "aioray", *arguments, "--temp-dir", self.temp_dir),
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            env={**os.environ, **(environ or {})},
            check=False,
        )
        assert done.returncode == code, done
        return done.stderr if code else done.stdout

    def start_head(self, *arguments: str, environ: Mapping[str, str] | None = None) -> str:
        """Its address."""
        out = self.aioray("start", "--head", "--port=0", *self._as_node(), *arguments, environ=environ)
        found = re.search(r"The cluster is at (\S+);", out)
        assert found is not None, out
        return found[1]

    def join(self, address: str, *arguments: str, environ: Mapping[str, str] | None = None) -> str:
        return self.aioray("start", f"--address={address}", *self._as_node(), *arguments, environ=environ)

    def _as_node(self) -> list[str]:
        return [f"--node-ip-address={self.ip}", "--object-store-memory", _STORE]

    def program(self, text: str, environ: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Begin to run a Python program."""
        return subprocess.Popen(
            self._holder.command("timeout", str(_TIMEOUT_S), sys.executable, "-c", text),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "AIORAY_TEST_TEMP_DIR": self.temp_dir, **(environ or {})},
        )

    def run(self, text: str, environ: Mapping[str, str] | None = None) -> str:
        """What a Python program prints, which must come to a good end."""
        with self.program(text, environ) as process:
            out, err = process.communicate(timeout=_TIMEOUT_S)
            assert process.returncode == 0, err
            return out

    def token(self) -> str:
        (path,) = pathlib.Path(self.temp_dir).glob("*/session-*/token")
        return path.read_text()

    def stop(self) -> None:
        processes = [
            psutil.Process(int(found[1]))
            for path in pathlib.Path(self.temp_dir).glob("*/session-*/node.json")
            if (found := re.search(r'"pid": (\d+)', path.read_text()))
        ]
        self.aioray("stop", "--force")
        wait_gone(processes)


class Network:
    """`with Network(2) as (a, b)`: machines at 10.99.0.1 and so on. `cut(machine)` leaves it alone, without a word."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._undo = contextlib.ExitStack()
        self._ports: dict[str, str] = {}
        self.machines: list[Machine] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            self._switch = _Holder()
            undo.callback(self._switch.close)
            self._switch("ip", "link", "add", "switch", "type", "bridge")
            self._switch("ip", "link", "set", "switch", "up")
            for number in range(1, self._count + 1):
                self._add(number, undo)
            self._undo = undo.pop_all()
        return self

    def _add(self, number: int, undo: contextlib.ExitStack) -> None:
        holder = _Holder()
        undo.callback(holder.close)
        ip, port = f"10.99.0.{number}", f"port{number}"
        self._switch(
            "ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", f"/proc/{holder.pid}/ns/net"
        )
        self._switch("ip", "link", "set", port, "master", "switch", "up")
        holder("ip", "address", "add", f"{ip}/24", "dev", "eth0")
        holder("ip", "link", "set", "eth0", "up")
        directory = undo.enter_context(tempfile.TemporaryDirectory(prefix="aioray-"))
        self._ports[ip] = port
        machine = Machine(holder, ip, directory)
        self.machines.append(machine)
        undo.callback(machine.stop)

    def cut(self, machine: Machine) -> None:
        """From here on nothing comes from it or gets there."""
        self._switch("ip", "link", "set", self._ports[machine.ip], "nomaster")

    def __exit__(self, *exc_info: Any) -> None:
        self._undo.close()
