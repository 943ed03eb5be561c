"""The limit: the simplest Python programs that move the same bytes as aioray's calls, puts, actors and starts.

A call: two processes, a Unix socket, uvloop, length-prefixed msgspec frames, pickled arguments and results. No ids of
functions, leases, owners, errors or retries: what a system can at best be, were all of that free.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import pickle
import signal
import socket
import struct
import time
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import msgspec
import uvloop

from bench.measure import (
    ACTORS,
    IN_FLIGHT,
    MIB,
    RESULT_AT,
    STREAM_ITEMS,
    Figure,
    in_loop,
    main,
    put_gb_per_s,
    rate,
    rate_async,
    start_seconds,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


class Call(msgspec.Struct, array_like=True):
    id: int
    args: bytes


class Reply(msgspec.Struct, array_like=True):
    id: int
    result: bytes


_length = struct.Struct("!I")
_encode = msgspec.msgpack.Encoder().encode
_decode_call = msgspec.msgpack.Decoder(Call).decode
_decode_reply = msgspec.msgpack.Decoder(Reply).decode


def framed(message: Call | Reply) -> bytes:
    body = _encode(message)
    return _length.pack(len(body)) + body


def echo(x: int) -> int:
    return x


class Framed(asyncio.Protocol):
    """Cuts what arrives into frames; a subclass says what a frame means."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        frames: list[bytes] = []
        at, end = 0, len(data)
        while at + 4 <= end:
            after = at + 4 + _length.unpack_from(data, at)[0]
            if after > end:
                break
            frames.append(data[at + 4 : after])
            at = after
        self._rest = data[at:]
        self.frames_received(frames)

    def frames_received(self, frames: list[bytes]) -> None:
        raise NotImplementedError


class Server(Framed):
    def __init__(self, closed: asyncio.Event) -> None:
        super().__init__()
        self._closed = closed

    def frames_received(self, frames: list[bytes]) -> None:
        replies = []
        for frame in frames:
            call = _decode_call(frame)
            replies.append(framed(Reply(call.id, pickle.dumps(echo(*pickle.loads(call.args)), 5))))
        self.transport.write(b"".join(replies))

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed.set()


class Client(Framed):
    def __init__(self) -> None:
        super().__init__()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._last_id = 0
        self._loop = asyncio.get_running_loop()

    def send(self, *args: Any) -> asyncio.Future[Any]:
        self._last_id = call_id = self._last_id + 1
        self._waiting[call_id] = future = self._loop.create_future()
        self.transport.write(framed(Call(call_id, pickle.dumps(args, 5))))
        return future

    def frames_received(self, frames: list[bytes]) -> None:
        for frame in frames:
            reply = _decode_reply(frame)
            self._waiting.pop(reply.id).set_result(pickle.loads(reply.result))


async def _serve(connection: socket.socket) -> None:
    closed = asyncio.Event()
    await asyncio.get_running_loop().create_connection(lambda: Server(closed), sock=connection)
    await closed.wait()


@contextmanager
def served() -> Iterator[socket.socket]:
    """The calling end of a Unix socket that has a forked server at its other end."""
    ours, theirs = socket.socketpair()
    if (pid := os.fork()) == 0:
        try:
            ours.close()
            uvloop.run(_serve(theirs))
        finally:
            os._exit(0)
    theirs.close()
    try:
        yield ours
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


async def _client(connection: socket.socket) -> Client:
    return (await asyncio.get_running_loop().create_connection(Client, sock=connection))[1]


async def _call(client: Client) -> None:
    assert await client.send(1) == 1


async def _call_many(client: Client) -> None:
    await asyncio.gather(*[client.send(i) for i in range(IN_FLIGHT)])


@contextmanager
def sync_client() -> Iterator[tuple[asyncio.AbstractEventLoop, Client]]:
    with served() as connection:
        loop = uvloop.new_event_loop()
        client = loop.run_until_complete(_client(connection))
        yield loop, client
        client.transport.close()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


def one_sync(seconds: float) -> Figure:
    with sync_client() as (loop, client):

        def step() -> None:
            for _ in range(20):
                loop.run_until_complete(_call(client))

        return rate(step, per_step=20, seconds=seconds)


def many_sync(seconds: float) -> Figure:
    with sync_client() as (loop, client):
        return rate(
            lambda: loop.run_until_complete(_call_many(client)),
            per_step=IN_FLIGHT,
            seconds=seconds,
        )


def one_async(seconds: float) -> Figure:
    with served() as connection:

        async def measure(seconds: float) -> Figure:
            client = await _client(connection)

            async def step() -> None:
                for _ in range(20):
                    await client.send(1)

            return await rate_async(step, per_step=20, seconds=seconds)

        return in_loop(measure)(seconds)


def many_async(seconds: float) -> Figure:
    with served() as connection:

        async def measure(seconds: float) -> Figure:
            client = await _client(connection)
            return await rate_async(lambda: _call_many(client), per_step=IN_FLIGHT, seconds=seconds)

        return in_loop(measure)(seconds)


def stream_items(seconds: float) -> Figure:
    """STREAM_ITEMS pickled numbers from a forked process, a hundred to a write, split and unpickled here."""
    ours, theirs = socket.socketpair()
    if (pid := os.fork()) == 0:
        try:
            ours.close()
            _send_items(theirs)
        finally:
            os._exit(0)
    theirs.close()
    with ours:

        def step() -> None:
            ours.sendall(b"x")
            rest, count = b"", 0
            while count < STREAM_ITEMS:
                data = rest + ours.recv(1 << 18)
                at = 0
                while at + 4 <= len(data) and (after := at + 4 + _length.unpack_from(data, at)[0]) <= len(data):
                    assert pickle.loads(_decode_reply(data[at + 4 : after]).result) == count
                    at, count = after, count + 1
                rest = data[at:]

        figure = rate(step, per_step=STREAM_ITEMS, seconds=seconds)
    os.waitpid(pid, 0)
    return figure


def _send_items(connection: socket.socket) -> None:
    while connection.recv(1):
        for start in range(0, STREAM_ITEMS, 100):
            frames = [framed(Reply(i, pickle.dumps(i, 5))) for i in range(start, start + 100)]
            connection.sendall(b"".join(frames))


def put_100mib(_seconds: float) -> Figure:
    """A copy into shared memory that has been written to before."""
    import numpy as np

    nbytes = 100 * MIB
    array = np.ones(nbytes, dtype=np.uint8)
    fd = os.memfd_create("bench-limit")
    os.ftruncate(fd, nbytes)
    with mmap.mmap(fd, nbytes) as shared:
        os.close(fd)
        with memoryview(shared) as view:

            def put() -> None:
                view[:] = array.data

            return put_gb_per_s(put, nbytes=nbytes)


def transfer_tcp(_seconds: float) -> Figure:
    """A plain copy over TCP: `sendall` from mapped memory, `recv_into` mapped memory that was touched before."""
    nbytes, rounds = 256 * MIB, 6
    with socket.create_server(("127.0.0.1", 0)) as listener:
        if (pid := os.fork()) == 0:
            try:
                with socket.create_connection(listener.getsockname()) as connection, mmap.mmap(-1, nbytes) as source:
                    source[:] = b"x" * nbytes
                    while connection.recv(1):
                        connection.sendall(source)
            finally:
                os._exit(0)
        connection = listener.accept()[0]
    taken_s = []
    with connection, mmap.mmap(-1, nbytes) as target, memoryview(target) as view:
        for _ in range(rounds):
            start = time.perf_counter()
            connection.sendall(b"x")
            at = 0
            while at < nbytes:
                with view[at:] as rest:
                    at += connection.recv_into(rest)
            taken_s.append(time.perf_counter() - start)
    os.waitpid(pid, 0)
    del taken_s[0]
    return Figure(nbytes / sorted(taken_s)[len(taken_s) // 2] / 1e9, {"taken_s": taken_s})


def actors(seconds: float) -> Figure:
    """Fork, connect, answer a call: ACTORS of them at a time."""
    import_module("cloudpickle")  # forked from a process that has the imports of an aioray program
    taken_s: list[float] = []
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        taken_s.append(_fork_actors())
    return Figure(ACTORS * len(taken_s) / sum(taken_s), {"batches_s": taken_s})


def _fork_actors() -> float:
    """Seconds until ACTORS forked processes have each answered a call; they are ended after that."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind("")  # an abstract name of the kernel's choice: no file to clean up
        listener.listen(ACTORS)
        start = time.perf_counter()
        pids = [_fork_actor(listener.getsockname()) for _ in range(ACTORS)]
        connections = [listener.accept()[0] for _ in pids]
        for i, connection in enumerate(connections):
            connection.sendall(framed(Call(i, pickle.dumps((i,), 5))))
        for i, connection in enumerate(connections):
            assert pickle.loads(_decode_reply(_read_frame(connection)).result) == i
        taken_s = time.perf_counter() - start
    for connection in connections:
        connection.close()
    for pid in pids:
        os.waitpid(pid, 0)
    return taken_s


def _fork_actor(address: bytes) -> int:
    if pid := os.fork():
        return pid
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(address)
            call = _decode_call(_read_frame(connection))
            connection.sendall(framed(Reply(call.id, pickle.dumps(echo(*pickle.loads(call.args)), 5))))
            connection.recv(1)  # lives until the caller hangs up
    finally:
        os._exit(0)


def _read_frame(connection: socket.socket) -> bytes:
    (size,) = _length.unpack(connection.recv(4, socket.MSG_WAITALL))
    return connection.recv(size, socket.MSG_WAITALL)


def start(_seconds: float) -> Figure:
    """One Python start with the imports of an aioray program: the driver's, its node's and its workers'."""
    imports = "time, asyncio, uvloop, msgspec, cloudpickle, aioray, aioray_node.node, aioray_node.worker.main"
    return start_seconds(f"import {imports}\n{RESULT_AT}", times=5)


MEASUREMENTS = {
    "task_sync": one_sync,
    "task_async": one_async,
    "actor_sync": one_sync,
    "actor_async": one_async,
    "light_call": one_async,
    "group_call": one_async,
    "tasks_sync_1000": many_sync,
    "tasks_async_1000": many_async,
    "actor_async_1000": many_async,
    "stream_items": stream_items,
    "stream_items_async": stream_items,
    "put_100mib": put_100mib,
    "put_get_100mib": put_100mib,  # to read what is mapped already takes no copy
    "transfer_tcp": transfer_tcp,
    "actors": actors,
    "start_sync": start,
    "start_inline": start,
    "start_async": start,
}

if __name__ == "__main__":
    main(MEASUREMENTS)
