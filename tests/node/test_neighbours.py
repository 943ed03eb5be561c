"""Lines between nodes over real sockets: what is said comes once and in order, whatever becomes of connections."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from aioray.runtime.connection import Connection, Listener, dial
from aioray.runtime.dialing import Dialer
from aioray.runtime.reactor import Reactor
from aioray.wire.control import Ack, Answer, Fetch, Fetched, Hello, Hold, Query, Release, Welcome
from aioray.wire.framing import control_decoder
from aioray.wire.gcs import Delta, MemberChange, NodeFacts
from aioray.wire.values import Value, node_prefix, object_id, process_id_of_node, worker_process_id
from aioray_node.gcs.view import ClusterView
from aioray_node.neighbours import Callers, Neighbours, NodeLine
from aioray_node.scheduling.policy import NodeView
from aioray_node.scheduling.resources import NodeResources

if TYPE_CHECKING:
    import pathlib
    import socket
    from collections.abc import Iterator

HERE, THERE = "aa" * 8, "bb" * 8
PREFIX, ME = node_prefix(THERE), process_id_of_node(HERE)
OIDS = [object_id(worker_process_id(THERE, 1), number) for number in range(1, 400)]


class Pair:
    """This node's lines to another, and what comes there."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.now = 0.0
        self.reactor = Reactor("pair", clock=lambda: self.now)
        facts = NodeFacts(HERE, (), "machine", {})
        self.view = ClusterView(facts, NodeView(NodeResources({}), {}))
        self.answers: list[Any] = []
        self.heard: list[Any] = []  # here, that was no answer
        self.gone: list[tuple[str, bytes]] = []
        self.neighbours = Neighbours(
            self.reactor,
            Dialer.of_session("/nowhere"),
            self.view,
            self.heard.append,
            lambda *node: self.gone.append(node),
        )
        self.address = str(directory / "there.sock")
        self.came: list[Any] = []  # there
        self.refused: list[str] = []
        self.connections: list[Connection] = []
        self.callers = Callers(self.reactor, self._take)
        self.listener = Listener(self.reactor, self.address, self._accept)

    def _accept(self, sock: socket.socket) -> None:
        self.connections.append(Connection(self.reactor, sock, control_decoder, self._hello, lambda *_: None))

    def _hello(self, connection: Connection, messages: list[Any]) -> None:
        self.refused.append(self.callers.admit(messages[0], connection, Welcome(THERE, "", "", 0)))
        if self.refused[-1]:
            connection.close()
        elif len(messages) > 1:
            connection.on_messages(connection, messages[1:])

    def _take(self, process: bytes, line: NodeLine, message: Any) -> None:
        """Who asks is answered."""
        assert process == ME
        self.came.append(message)
        match message:
            case Hold(_, _, req) if req:
                line.send(Ack(req))
            case Query(req):
                line.send(Answer(req, "answered"))
            case Fetch(oid):
                line.send(Fetched(oid, Value(b"value")))

    def tell(self, *, end: str | None = None) -> None:
        """The view has the other node now, or its end."""
        version = self.view.version + 1
        facts = NodeFacts(THERE, (self.address,), "machine", {})
        change = MemberChange(THERE, version, facts, {}, end)
        assert self.view.apply(Delta("epoch", self.view.version, version, (change,)))

    def cut_here(self) -> None:
        """This side finds the connection broken: what is on its way here is lost."""
        link = self.neighbours._all[PREFIX].link
        if link is not None and link._connection is not None and not link._connection.closed:
            link._connection._lost("cut")

    def cut_there(self) -> None:
        """The other side does."""
        self.callers.hang_up(ME)

    def settle(self, after_s: float = 0.0) -> None:
        self.now += after_s
        for _ in range(10):
            self.reactor.poll_once(0)

    def close(self) -> None:
        with self.reactor.lock:
            self.neighbours.close()
            self.callers.close()
            self.listener.close()
            for connection in self.connections:
                connection.close()
        self.reactor.close()


@pytest.fixture
def pair(tmp_path: pathlib.Path) -> Iterator[Pair]:
    pair = Pair(tmp_path)
    with pair.reactor.lock:
        yield pair
    pair.close()


def test_what_is_said_to_a_node_that_nobody_has_told_of_yet_comes_when_it_is_known(pair: Pair) -> None:
    words = [Release(ME, [oid]) for oid in OIDS[:3]]
    for word in words:
        pair.neighbours.send(PREFIX, word)
    pair.settle()
    assert pair.came == []
    pair.tell()
    pair.settle()
    assert pair.came == words


def test_a_release_that_is_said_while_the_line_is_cut_comes_and_a_hold_before_it_not_again(pair: Pair) -> None:
    """
    1. a hold is heard, and acknowledged, and the answer is lost
    2. meanwhile it is let go of
    3. over the next connection the answer comes, and the release, and the hold not once more
    """
    pair.tell()
    pair.neighbours.ask(PREFIX, lambda req: Hold(ME, OIDS[:1], req), pair.answers.append)
    while not pair.came:
        pair.reactor.poll_once(0)
    pair.cut_here()
    pair.neighbours.send(PREFIX, Release(ME, OIDS[:1]))
    pair.settle()
    pair.settle(after_s=0.2)
    assert [type(word) for word in pair.came] == [Hold, Release]
    assert pair.answers == [None]


def test_all_words_come_once_and_in_order_through_a_hundred_cuts(pair: Pair) -> None:
    dice = random.Random(7)
    pair.tell()
    for number, oid in enumerate(OIDS):
        pair.neighbours.send(PREFIX, Release(ME, [oid]))
        pair.neighbours.send(PREFIX, Fetch(oid))
        pair.neighbours.ask(PREFIX, lambda req, n=number: Query(req, str(n), {}), pair.answers.append)  # type: ignore[misc]
        for _ in range(dice.randrange(4)):
            pair.reactor.poll_once(0)
        if dice.random() < 0.3:
            dice.choice([pair.cut_here, pair.cut_there])()
        if dice.random() < 0.3:
            pair.now += 0.1
    while len(pair.answers) < len(OIDS):
        pair.settle(after_s=0.1)
    assert len(pair.connections) > 50
    assert [word.oids[0] for word in pair.came if isinstance(word, Release)] == OIDS
    assert [word.what for word in pair.came if isinstance(word, Query)] == [str(n) for n in range(len(OIDS))]
    assert [word.oid for word in pair.heard] == OIDS
    assert all(answer.data == "answered" for answer in pair.answers)


def test_neither_side_keeps_what_the_other_has_heard(pair: Pair) -> None:
    pair.tell()
    for oid in OIDS[:100]:
        pair.neighbours.send(PREFIX, Fetch(oid))
    pair.settle()
    pair.settle(after_s=1.1)
    assert pair.neighbours._all[PREFIX].line.kept == 0
    assert pair.callers._lines[ME].kept == 0


def test_who_asks_a_node_that_dies_hears_so_and_words_to_it_are_lost(pair: Pair) -> None:
    pair.tell()
    pair.settle()
    pair.listener.close()
    pair.neighbours.ask(PREFIX, lambda req: Hold(ME, OIDS[:1], req), pair.answers.append)
    pair.settle()
    assert pair.answers == []
    pair.tell(end="it was killed")
    pair.neighbours.ask(PREFIX, lambda req: Hold(ME, OIDS[:1], req), pair.answers.append)
    pair.neighbours.send(PREFIX, Release(ME, OIDS[:1]))
    pair.settle()
    assert pair.answers == [None, None]
    assert pair.gone == [(THERE, PREFIX)]


def test_a_node_of_which_nobody_tells_for_long_is_taken_for_dead(pair: Pair) -> None:
    pair.neighbours.ask(PREFIX, lambda req: Hold(ME, OIDS[:1], req), pair.answers.append)
    pair.settle(after_s=9.9)
    assert pair.answers == []
    pair.settle(after_s=0.2)
    assert pair.answers == [None]


@pytest.mark.parametrize(("first", "heard"), [(1, 0), (0, 1), (-1, 0)])
def test_who_goes_on_from_what_was_never_said_is_refused(pair: Pair, first: int, heard: int) -> None:
    stranger = Reactor("stranger")
    sock = dial(pair.address)
    connection = Connection(stranger, sock, control_decoder, lambda *_: None, lambda *_: None)
    with stranger.lock:
        connection.send(Hello(ME, "node", 0, first=first, heard=heard))
        connection.flush()
        pair.settle()
        assert "do not go on" in pair.refused[0]
        connection.close()
    stranger.close()


def test_a_node_that_is_dead_is_not_admitted_any_more(pair: Pair) -> None:
    pair.tell()
    pair.neighbours.send(PREFIX, Release(ME, OIDS[:1]))
    pair.settle()
    pair.callers.node_gone(node_prefix(HERE))
    pair.neighbours.send(PREFIX, Release(ME, OIDS[1:2]))
    pair.settle()
    pair.settle(after_s=0.2)
    assert pair.came == [Release(ME, OIDS[:1])]
    assert pair.refused == ["", "your node is dead"]
