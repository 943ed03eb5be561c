"""What the simulation leaves out of the GCS: its WebSockets. The real ones, on this machine, per message."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import aiohttp
import msgspec
import uvloop

from aioray.wire.gcs import NODE_PATH, PROTOCOL_HEADER, PROTOCOL_VERSION, Report
from aioray_node.gcs.app import GcsApp

if TYPE_CHECKING:
    from pathlib import Path

    from aioray.runtime.reactor import Reactor
    from aioray_node.gcs.member_desk import MemberDesk, Outlet, Packet

_NODES = 100
_ROUNDS = 30
_SMALL_NBYTES, _LARGE_NBYTES = 1_000, 101_000
_TOKEN = "of the benchmark"


@dataclass(frozen=True)
class SocketCosts:
    """CPU seconds of the GCS's process, for a message and for each byte of it."""

    in_s: float
    out_s: float
    out_byte_s: float


class _Desk:
    """Counts what it hears."""

    def __init__(self) -> None:
        self.outlets: dict[int, Outlet] = {}
        self.heard = 0

    def connect(self, outlet: Outlet) -> int:
        self.outlets[len(self.outlets)] = outlet
        return len(self.outlets) - 1

    def hear(self, connection: int, frame: object) -> None:
        self.heard += 1

    def gone(self, connection: int, reason: str) -> None:
        """All of them, in the end."""

    def close(self, farewell: str) -> None:
        for outlet in self.outlets.values():
            outlet.close("the end")


class _Lock:
    def __init__(self) -> None:
        self.lock = threading.RLock()


class _Packet:
    def __init__(self, nbytes: int) -> None:
        self.data = bytes(nbytes)


class _Nodes:
    """The other ends, in a thread of their own: what they need is not counted."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.read_nbytes = 0
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="nodes")
        self._over = asyncio.Event()
        self._reports: asyncio.Queue[int] = asyncio.Queue()
        self._thread.start()

    def report(self, rounds: int) -> None:
        """Each of them, so many times."""
        self.loop.call_soon_threadsafe(self._reports.put_nowait, rounds)

    def _run(self) -> None:
        self.loop.run_until_complete(self._serve())
        self.loop.close()

    async def _serve(self) -> None:
        headers = {"Authorization": f"Bearer {_TOKEN}", PROTOCOL_HEADER: str(PROTOCOL_VERSION)}
        connector = aiohttp.UnixConnector(self.path, limit=0)
        async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
            lines = [await session.ws_connect(f"http://gcs{NODE_PATH}", max_msg_size=0) for _ in range(_NODES)]
            readers = [asyncio.create_task(self._read(line)) for line in lines]
            speaker = asyncio.create_task(self._speak(lines))
            await self._over.wait()
            speaker.cancel()
            await asyncio.gather(speaker, *(line.close() for line in lines), return_exceptions=True)
            await asyncio.gather(*readers)

    async def _read(self, line: aiohttp.ClientWebSocketResponse) -> None:
        async for message in line:
            self.read_nbytes += len(message.data)

    async def _speak(self, lines: list[aiohttp.ClientWebSocketResponse]) -> None:
        seq = 0
        while True:
            for _ in range(await self._reports.get()):
                seq += 1
                data = msgspec.msgpack.encode(Report(seq, {"CPU": 10_000 * (seq % 4)}, seq))
                for line in lines:
                    await line.send_bytes(data)
                    await asyncio.sleep(0)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self._over.set)

    def join(self) -> None:
        self._thread.join()


def measure() -> SocketCosts:
    """Takes about a second."""
    with tempfile.TemporaryDirectory(prefix="aioray-simulate-") as directory:
        return uvloop.run(_measure(f"{directory}/gcs.sock"))


async def _measure(path: str | Path) -> SocketCosts:
    desk = _Desk()
    app = GcsApp(cast("Reactor", _Lock()), cast("MemberDesk", desk), _TOKEN, {}, list)
    await app.open(path=str(path), tls=None)
    nodes = _Nodes(str(path))
    try:
        await _until(lambda: len(desk.outlets) == _NODES)
        nodes.report(1)
        await _until(lambda: desk.heard == _NODES)
        before = time.thread_time()
        nodes.report(_ROUNDS)
        await _until(lambda: desk.heard == _NODES * (_ROUNDS + 1))
        in_s = (time.thread_time() - before) / (_NODES * _ROUNDS)
        small_s = await _tell(desk, nodes, _SMALL_NBYTES)
        large_s = await _tell(desk, nodes, _LARGE_NBYTES)
    finally:
        nodes.close()
        await app.close()
        await asyncio.to_thread(nodes.join)
    out_byte_s = max(0.0, (large_s - small_s) / (_LARGE_NBYTES - _SMALL_NBYTES))
    return SocketCosts(in_s, max(0.0, small_s - _SMALL_NBYTES * out_byte_s), out_byte_s)


async def _tell(desk: _Desk, nodes: _Nodes, nbytes: int) -> float:
    """CPU seconds for a message to a node."""
    before = time.thread_time()
    packet: Any = _Packet(nbytes)
    for _ in range(_ROUNDS // 3):
        expected = nodes.read_nbytes + nbytes * _NODES
        told: Packet = packet
        for outlet in desk.outlets.values():
            outlet.send(told)
        await _until(lambda expected=expected: nodes.read_nbytes >= expected)
    return (time.thread_time() - before) / (_NODES * (_ROUNDS // 3))


async def _until(condition: Any) -> None:
    while not condition():  # noqa: ASYNC110 # who would set an event is in another thread, and is not to be counted
        await asyncio.sleep(0.002)
