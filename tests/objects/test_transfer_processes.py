"""Objects between two processes, one of which may be killed."""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import posix_ipc
import pytest

from aioray.wire.values import Value
from tests.objects.nodes import Net, Wish

if TYPE_CHECKING:
    from collections.abc import Iterator

NBYTES = 8 << 20
ROOT = pathlib.Path(__file__).parents[2]


@contextlib.contextmanager
def remote(address: str) -> Iterator[tuple[subprocess.Popen[str], str, Value, str]]:
    """A node in another process: the process, its address, its object, its shared memory."""
    program = f"from tests.objects.nodes import serve_until_told; serve_until_told({address!r}, {NBYTES})"
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        where, oid, segment = process.stdout.readline().split()
        yield process, where, Value(nbytes=NBYTES, oid=bytes.fromhex(oid)), segment
    assert process.stdin is not None  # closing it has ended the process


@pytest.fixture
def net(nothing_left: None) -> Iterator[Net]:
    with tempfile.TemporaryDirectory() as directory:
        net = Net(pathlib.Path(directory))
        yield net
        net.close()


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_an_object_comes_from_another_process(net: Net, kind: str) -> None:
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as undo:
        address = "127.0.0.1:0" if kind == "tcp" else f"{directory}/remote.sock"
        _, where, value, _ = undo.enter_context(remote(address))
        node = net.node(tcp=kind == "tcp", capacity_nbytes=2 * NBYTES, transfer_chunk_nbytes=65536)
        wish = Wish(node, value, where)
        net.run_until(lambda: bool(wish.answers))
        assert wish.data == bytes(range(256)) * (NBYTES // 256)
        wish.let_go()


def test_who_waits_hears_when_the_process_is_killed(net: Net) -> None:
    with (
        tempfile.TemporaryDirectory() as directory,
        remote(f"{directory}/remote.sock") as (process, where, value, segment),
    ):
        node = net.node(capacity_nbytes=2 * NBYTES, transfer_chunk_nbytes=65536)
        wish = Wish(node, value, where)
        net.run_until(lambda: any(pull.in_flight for pull in node.desk._pulls.pulls.values()))
        process.kill()
        process.wait()
        for _ in range(6):
            net.settle()
            net.now += 1.0
        net.run_until(lambda: bool(wish.answers))
        assert wish.failure.startswith("no node sends it (")
        assert node.store.used_nbytes == 0
        posix_ipc.unlink_shared_memory(segment)  # nobody else will
