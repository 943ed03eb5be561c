"""Stores of several nodes in one process, with real shared memory and sockets, and transfers between them."""

from __future__ import annotations

import itertools
import sys
from typing import TYPE_CHECKING

import posix_ipc

from aioray.config import Config
from aioray.runtime.reactor import Reactor
from aioray.wire.values import Value, object_id, worker_process_id
from aioray_node.objects.directory import Released, Shared
from aioray_node.objects.directory import check as check_directory
from aioray_node.objects.segment import Segment
from aioray_node.objects.store import ObjectStore
from aioray_node.objects.transfer import TransferDesk

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable

    import msgspec

OWNER = b"owner---"
_names = itertools.count()


class StoreNode:
    """What of a node has to do with objects."""

    def __init__(
        self,
        reactor: Reactor,
        address: str,
        config: Config,
        capacity_nbytes: int,
        token: str = "",
        *,
        node_id: str = "",
        send: Callable[[bytes, msgspec.Struct], None] = lambda process, message: None,
    ) -> None:
        self.node_id = node_id
        self.owner = worker_process_id(node_id, 1) if node_id else OWNER
        self.name = f"/aioray-test-{id(reactor):x}-{next(_names)}"
        posix_ipc.SharedMemory(self.name, posix_ipc.O_CREX, mode=0o600, size=capacity_nbytes).close_fd()
        self.segment = Segment(self.name, capacity_nbytes)
        self.store = ObjectStore(capacity_nbytes, send, lambda oid: None, node_id=node_id)
        try:
            self.desk = TransferDesk(
                reactor, self.store, self.segment, config, node_id=node_id or self.name, token=token
            )
            self.address = self.desk.listen(address)
        except BaseException:
            posix_ipc.unlink_shared_memory(self.name)
            raise
        self.is_open = True
        self._seqs = itertools.count(1)

    def put(self, data: bytes) -> Value:
        """An object that is at home here, and owned by a process of this node."""
        offset = self.store.allocate(len(data))
        assert offset is not None
        with self.segment.view(offset, len(data)) as view:
            view[:] = data
        oid = object_id(self.owner, next(self._seqs))
        value = Value(nbytes=len(data), offset=offset, oid=oid, node_id=self.node_id)
        self.store.feed(Shared(value.oid, value))
        return value

    def free(self, value: Value) -> None:
        """Its owner lets go."""
        self.store.feed(Released(self.owner, [value.oid]))

    def read(self, value: Value) -> bytes:
        with self.segment.view(value.offset, value.nbytes) as view:
            return bytes(view)

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self.desk.close()
            self.segment.close()
            posix_ipc.unlink_shared_memory(self.name)


class Wish:
    """Somebody who wants a copy."""

    def __init__(self, node: StoreNode, value: Value, source: StoreNode | str, priority: int = 0) -> None:
        self.node = node
        self.answers: list[tuple[Value | None, str]] = []
        address = source if isinstance(source, str) else source.address
        self.ticket = node.desk.pull(value, address, priority, lambda *answer: self.answers.append(answer))

    @property
    def copy(self) -> Value:
        ((value, reason),) = self.answers
        assert value is not None, reason
        return value

    @property
    def failure(self) -> str:
        ((value, reason),) = self.answers
        assert value is None
        return reason

    @property
    def data(self) -> bytes:
        return self.node.read(self.copy)

    def let_go(self) -> None:
        self.node.desk.let_go(self.ticket)


class Net:
    """Some nodes on one reactor."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.now = 0.0
        self.reactor = Reactor("net", clock=lambda: self.now)
        self.nodes: list[StoreNode] = []
        self._directory = directory

    def node(
        self,
        *,
        tcp: bool = False,
        capacity_nbytes: int = 1 << 20,
        token: str = "secret",
        node_id: str = "",
        send: Callable[[bytes, msgspec.Struct], None] = lambda process, message: None,
        **tunables: object,
    ) -> StoreNode:
        """One more. Chunks are small, so that there are many."""
        address = "127.0.0.1:0" if tcp else str(self._directory / f"{len(self.nodes)}.sock")
        config = Config(**{"transfer_chunk_nbytes": 4096, **tunables})  # type: ignore[arg-type]
        node = StoreNode(self.reactor, address, config, capacity_nbytes, token, node_id=node_id, send=send)
        self.nodes.append(node)
        return node

    def run_until(self, done: Callable[[], bool]) -> None:
        for _ in range(100_000):
            if done():
                return
            self.reactor.poll_once(0.0)
            for node in self.nodes:
                if node.is_open:
                    node.desk.check()
                    check_directory(node.store._directory)
        raise AssertionError(f"not in 100,000 turns: {[node.desk.figures() for node in self.nodes]}")

    def settle(self) -> None:
        """Until nobody has anything more to say."""
        for _ in range(30):
            self.reactor.poll_once(0.001)

    def close(self) -> None:
        for node in self.nodes:
            node.close()
        self.reactor.close()


def serve_until_told(name: str, nbytes: int) -> None:
    """A node in a process of its own, with one object; ends when its standard input does."""
    reactor = Reactor("remote")
    node = StoreNode(reactor, name, Config(transfer_chunk_nbytes=65536), 2 * nbytes, "secret")
    value = node.put(bytes(range(256)) * (nbytes // 256))
    reactor.start_helper()
    print(node.address, value.oid.hex(), node.name, flush=True)
    sys.stdin.read()
    with reactor.lock:
        node.close()
    reactor.close()
