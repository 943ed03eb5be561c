"""A node's real shells in one process: no zygote, no workers, no time but what a test makes.

Peers are sockets without a process behind them, handed to the node as if they had connected; the clock stands still
until a test moves it.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from aioray.config import Config
from aioray.runtime.connection import Connection
from aioray.runtime.reactor import Reactor
from aioray.wire.control import Exited, Forked, ForkWorker, Hello, Query, Welcome
from aioray.wire.framing import control_decoder
from aioray_node.node import Node
from aioray_node.node_options import NodeOptions

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable

    import msgspec

M = TypeVar("M")
DRIVER = b"driver--"


@dataclass
class FakeSession:
    """What a node asks of its session, without a segment."""

    dir: pathlib.Path
    session_id: str = "7374616765640000"  # "staged"
    segment: str = "/none"
    capacity_nbytes: int = 1 << 20
    closed: bool = False

    @property
    def address(self) -> str:
        return str(self.dir / "node.sock")

    def note_zygote(self, pid: int) -> None:
        """Nobody will have to be killed."""

    def close(self) -> None:
        self.closed = True


class FakeZygote:
    """Takes orders and forks nobody; a test says what became of them."""

    pid = 0

    def __init__(self) -> None:
        self.ordered: list[str] = []
        self.orders: dict[str, ForkWorker] = {}
        self.is_open = True

    def start(
        self, reactor: Reactor, on_report: Callable[[Forked | Exited], None], on_death: Callable[[], None]
    ) -> None:
        self.report = on_report
        self.die = on_death

    def inherit(self, session_dir: str) -> None:
        """There will be nothing to remove."""

    def fork_worker(self, order: ForkWorker, stdout_fd: int, stderr_fd: int) -> None:
        self.ordered.append(order.worker_id)
        self.orders[order.worker_id] = order

    def hang_up(self) -> None:
        self.is_open = False

    def close(self, timeout_s: float) -> None:
        self.is_open = False


@dataclass
class Peer:
    """A process, as far as the node can tell."""

    heard: list[Any] = field(default_factory=list)
    connection: Connection = field(init=False)

    def say(self, *messages: msgspec.Struct) -> None:
        for message in messages:
            self.connection.send(message)

    def take(self, kind: type[M]) -> list[M]:
        """What was heard of one kind since the last look."""
        found = [message for message in self.heard if isinstance(message, kind)]
        self.heard = [message for message in self.heard if not isinstance(message, kind)]
        return found


class Stage:
    """One node and its peers. `settle` runs until nobody has anything more to say."""

    def __init__(
        self, directory: pathlib.Path, *, num_cpus: float = 1, prestart: int = 0, reap_s: float = 60.0
    ) -> None:
        self.now = 1000.0
        self.reactor = Reactor("stage", clock=lambda: self.now)
        config = Config(prestart_workers=prestart, worker_idle_reap_s=reap_s)
        self.session = FakeSession(directory)
        self.zygote = FakeZygote()
        options = NodeOptions(config=config, num_cpus=num_cpus, memory=0)
        self.node = Node(options, self.reactor, self.session)  # type: ignore[arg-type] # a fake
        self.node.open(self.zygote)  # type: ignore[arg-type] # a fake
        self.peers: list[Peer] = []
        self.settle()

    def settle(self) -> None:
        """Let everybody hear everything."""
        for _ in range(10):
            self.reactor.poll_once(0)

    def advance(self, seconds: float) -> None:
        """Time goes by."""
        self.now += seconds
        self.settle()

    def connect(self) -> Peer:
        """Somebody connects, and has not said anything yet."""
        ours, theirs = socket.socketpair()
        peer = Peer()
        with self.reactor.lock:
            self.node._processes.accept(theirs)
            connection = Connection(
                self.reactor, ours, control_decoder, lambda _, messages: peer.heard.extend(messages), lambda *_: None
            )
            peer.connection = connection
        self.peers.append(peer)
        return peer

    def join(self, process_id: bytes, role: str = "driver", address: str = "") -> Peer:
        """A process introduces itself."""
        peer = self.connect()
        peer.say(Hello(process_id, role, pid=0, address=address))
        self.settle()
        assert len(peer.take(Welcome)) == 1
        return peer

    def worker_starts(self, worker_id: str | None = None) -> Peer:
        """The worker that was ordered last, or this one, is forked and introduces itself."""
        worker_id = worker_id or self.zygote.ordered[-1]
        self.zygote.report(Forked(worker_id, 0))
        return self.join(bytes.fromhex(worker_id), "worker", f"at-{worker_id}")

    def worker_dies(self, worker_id: str, status: int = -9) -> None:
        """The zygote has reaped it."""
        with self.reactor.lock:
            self.zygote.report(Exited(worker_id, status))
        self.settle()

    def ask(self, what: str, **args: Any) -> Any:
        """A question of the driver."""
        return self.node.exchange(DRIVER, Query(0, what, args)).data  # type: ignore[attr-defined] # an Answer

    def close(self) -> None:
        self.node.close()
        with self.reactor.lock:
            for peer in self.peers:
                peer.connection.close()
        self.reactor.close()
