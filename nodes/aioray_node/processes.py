"""The connections of the processes that a node serves: who they are, what they say, and what ends with them."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from aioray.runtime.connection import Connection
from aioray.wire.control import (
    PROTOCOL_VERSION,
    ActorExit,
    ActorSpec,
    ActorStarted,
    Blocked,
    CancelCall,
    Checkpoint,
    Exit,
    Fetch,
    GiveExtent,
    GroupSpec,
    Hello,
    Hold,
    LeaseRequest,
    LeaseReturn,
    MetricsTold,
    Query,
    Read,
    Release,
    RemoveGroup,
    Seal,
    Share,
    TaskEvents,
    WatchActor,
    WatchGroup,
    Welcome,
)
from aioray.wire.framing import control_decoder
from aioray_node.gcs.far import QUESTIONS, FarDirectory
from aioray_node.peers import Peer

if TYPE_CHECKING:
    import socket

    from aioray.runtime.reactor import Reactor
    from aioray.runtime.refusals import Refusals
    from aioray_node.desks import Desks
    from aioray_node.peers import Peers
    from aioray_node.questions import Questions
    from aioray_node.session import Session


class Processes:
    """Called with the reactor's lock held."""

    def __init__(
        self, reactor: Reactor, session: Session, desks: Desks, peers: Peers, questions: Questions, refusals: Refusals
    ) -> None:
        self._reactor = reactor
        self._session = session
        self._leases = desks.leases
        self._store = desks.store
        self._objects = desks.objects
        self._far_drivers = desks.far_drivers
        self._actors = desks.actors
        self._hosting = desks.hosting
        self._groups = desks.groups
        self._state = desks.state
        self._pool = desks.pool
        self._callers = peers.callers
        self._peers = peers.by_id
        self._exchange = questions.exchange
        self._refusals = refusals
        self._strangers: set[Connection] = set()  # have not said Hello yet, or are side lines: closed with the node

    def accept(self, sock: socket.socket) -> None:
        """Somebody has connected."""
        self._strangers.add(Connection(self._reactor, sock, control_decoder, self._first_messages, self._stranger_gone))

    def _stranger_gone(self, connection: Connection, reason: str) -> None:
        self._strangers.discard(connection)
        if connection.sent_rubbish:
            self._refusals.note("a process", reason)

    def _first_messages(self, connection: Connection, messages: list[Any]) -> None:
        hello = messages[0]
        if not isinstance(hello, Hello):
            connection.close()
            self._strangers.discard(connection)
            return
        if hello.version != PROTOCOL_VERSION:
            reason = f"protocol version {hello.version} was offered, this node speaks {PROTOCOL_VERSION}"
            connection.send(self._welcome(reason))
            connection.flush()
            connection.close()
            self._strangers.discard(connection)
            return
        peer = Peer(hello.process_id, hello.role, connection, hello.pid, hello.namespace, hello.log_to_driver)
        if hello.role == "side":
            connection.on_messages = functools.partial(self._side_messages, peer)
            connection.send(self._welcome())
        elif hello.role == "node":
            self._strangers.discard(connection)
            refused = self._callers.admit(hello, connection, self._welcome())
            if refused:
                connection.send(self._welcome(refused))
                connection.flush()
                connection.close()
                return
        else:
            before = self._peers.get(peer.process_id)
            if before is not None:  # the end of its other connection is still to come
                before.connection.close()
                self._gone(before, before.connection, "it has come again")
            self._strangers.discard(connection)
            self._peers[peer.process_id] = peer
            connection.on_messages = functools.partial(self._messages, peer)
            connection.on_close = functools.partial(self._gone, peer)
            connection.send(self._welcome())
            if hello.role == "driver":
                self._state.driver_started(hello)
            if hello.role == "worker":
                peer.worker = self._pool.connected(hello.process_id.hex(), connection, hello.pid, hello.address)
                if peer.worker is None:  # of a zygote that was given up: it may have outlived that by a moment
                    connection.flush()
                    connection.close()
                    self._gone(peer, connection, "it is no worker of ours")
                    return
        if len(messages) > 1:
            connection.on_messages(connection, messages[1:])

    def _welcome(self, error: str = "") -> Welcome:
        session = self._session
        return Welcome(session.session_id, str(session.dir), session.segment, session.capacity_nbytes, error)

    def _gone(self, peer: Peer, connection: Connection, reason: str) -> None:
        """A process is gone: what it owned goes elsewhere or away."""
        if connection.sent_rubbish:
            self._refusals.note(f"a {peer.role}", reason)
        process = peer.process_id
        if self._peers.get(process) is not peer:
            return  # it has come again over another connection
        del self._peers[process]
        if peer.role == "visitor":
            self._leases.process_gone(process)  # all else of it is its own node's
            return
        if peer.worker is not None:
            self._pool.kill(peer.worker, "")
        self._state.process_gone(process)
        self._actors.process_gone(process, driver=peer.role == "driver")
        self._leases.process_gone(process)
        self._groups.process_gone(process)
        self._store.process_gone(process)
        self._objects.process_gone(process)

    def _messages(self, peer: Peer, connection: Connection, messages: list[Any]) -> None:
        for message in messages:
            if peer.worker is not None and peer.worker.given_up:
                return  # who gave it up has let go of all that it was to make
            self._handle(peer, connection, message)

    def _handle(self, peer: Peer, connection: Connection, message: Any) -> None:
        process = peer.process_id
        if peer.role == "visitor" and not isinstance(message, (LeaseRequest, LeaseReturn)):
            connection.close()
            self._gone(peer, connection, f"sent {type(message).__name__}, which is not for a visitor")
            return
        match message:
            case LeaseRequest(number, demand, name, environment, strategy, hops, nbytes):
                self._leases.request(process, number, demand, name, environment, strategy, hops, nbytes)
            case LeaseReturn(number, kill, retire):
                self._leases.give_back(process, number, kill=kill, retire=retire)
            case Blocked(blocked):
                if peer.worker is not None:
                    self._leases.blocked(peer.worker, blocked)
            case Share() | Hold() | Release() | Fetch() | Seal() | CancelCall():
                self._objects.handle(process, connection, message)
                if isinstance(message, Release):
                    self._actors.released(process, message.oids)
            case Read() if peer.role == "driver":
                connection.send(self._far_drivers.read(message))
            case GiveExtent(offset, nbytes):
                self._store.give_back(process, offset, nbytes)
            case ActorSpec():
                self._objects.create_actor(message.actor_id, detached=message.detached)
                self._actors.create(message)
            case WatchActor(actor_id):
                self._actors.watch(process, actor_id)
            case ActorStarted():
                if peer.worker is not None:
                    self._hosting.started(peer.worker, message)
            case ActorExit():
                self._hosting.light_exit(message)
            case Checkpoint():
                self._actors.saved(process, message)
            case GroupSpec():
                self._groups.create(message)
            case RemoveGroup(group_id):
                self._groups.remove(group_id)
            case WatchGroup(group_id):
                self._groups.watch(process, group_id)
            case TaskEvents() | MetricsTold():
                self._state.told(process, message)
            case Exit():
                if peer.worker is not None:
                    peer.worker.why_killed = peer.worker.why_killed or message.reason
                    self._hosting.exiting(peer.worker, message)
            case _:
                connection.close()
                self._gone(peer, connection, f"sent {type(message).__name__}, which is not for a node")

    def _side_messages(self, peer: Peer, connection: Connection, messages: list[Any]) -> None:
        for message in messages:
            if isinstance(self._actors, FarDirectory) and isinstance(message, Query) and message.what in QUESTIONS:
                if (main := self._peers.get(peer.process_id)) is not None:
                    main.connection.drain()  # as in `exchange`
                self._actors.ask(peer.process_id, message, connection.send)
            else:
                connection.send(self._exchange(peer.process_id, message))

    def close(self) -> None:
        """Hang up on those that are no peers."""
        for connection in self._strangers:
            connection.close()
        self._strangers.clear()
