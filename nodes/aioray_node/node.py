"""Puts one node together: its session, its desks, and the connections of the processes it serves."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from aioray.config import Config  # msgspec looks it up
from aioray.labels import ACCELERATOR_TYPE, NODE_ID, check_value
from aioray.runtime.connection import Connection, Listener
from aioray.runtime.dialing import TOKEN_FILE, Dialer, this_machine, tls_of
from aioray.runtime.doors import Door
from aioray.runtime.refusals import Refusals
from aioray.wire.control import (
    PROTOCOL_VERSION,
    Ack,
    ActorExit,
    ActorSpec,
    ActorStarted,
    ActorUpdate,
    Answer,
    Blocked,
    CancelCall,
    Checkpoint,
    Exit,
    Fetch,
    Fetched,
    GiveExtent,
    GroupSpec,
    Hello,
    Hold,
    HostActor,
    LeaseRequest,
    LeaseReturn,
    LeaveActor,
    LogLines,
    Notice,
    Notify,
    Orphaned,
    ProcessEnded,
    Query,
    Read,
    Release,
    RemoveGroup,
    Reserve,
    Reserved,
    Seal,
    Share,
    TaskEvents,
    WatchActor,
    WatchGroup,
    Welcome,
    Write,
)
from aioray.wire.framing import control_decoder
from aioray.wire.gcs import NodeFacts
from aioray.wire.reach import host_and_port
from aioray.wire.state import ASKS
from aioray.wire.values import home_of, node_prefix
from aioray_node import gpus
from aioray_node.environments.shell import EnvironmentDesk
from aioray_node.gcs import described
from aioray_node.gcs.checkpoints import CheckpointKeeper
from aioray_node.gcs.far import QUESTIONS, FarDirectory
from aioray_node.gcs.far_groups import FarGroups
from aioray_node.gcs.groups import GroupDesk
from aioray_node.gcs.hosting import ActorHosting
from aioray_node.gcs.journal import Journal
from aioray_node.gcs.membership import Membership, NodeLoad
from aioray_node.gcs.node_state import NodeState
from aioray_node.gcs.shell import ActorDesk
from aioray_node.gcs.view import ClusterView, Joined
from aioray_node.neighbours import Callers, Neighbours, NodeLine
from aioray_node.objects.far_drivers import FarDrivers
from aioray_node.objects.routing import ObjectRouter
from aioray_node.objects.segment import Segment
from aioray_node.objects.store import ObjectStore
from aioray_node.objects.transfer import TransferDesk
from aioray_node.pool.shell import Worker, WorkerPool
from aioray_node.pool.zygote_process import ZygoteProcess
from aioray_node.scheduling.bundle_desk import BundleDesk
from aioray_node.scheduling.resources import NodeResources, from_floats, to_floats
from aioray_node.scheduling.shell import LeaseDesk
from aioray_node.session import Session, default_store_nbytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioray.runtime.reactor import Reactor
    from aioray_node.gcs.state_desk import StateDesk
    from aioray_node.gcs.view import News

_DRIVER_READS_WITHIN_S = 30.0  # while it ends: its stdout may be a pipe that somebody reads slowly
_MAX_PRESTART = 16


class HeadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How other nodes reach the GCS: over a Unix socket in the session directory, and over TCP if there is a port."""

    host: str = "127.0.0.1"
    port: int | None = None  # 0: any that is free


class JoinOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Which cluster to join."""

    address: str  # of its GCS: host:port, or the path of a Unix socket
    token_path: str = ""  # "": the environment has it


class NodeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a node is told when it starts. None: find out."""

    config: Config
    num_cpus: float | None = None
    num_gpus: float | None = None
    memory: int | None = None  # bytes
    resources: dict[str, float] = {}
    object_store_memory: int | None = None  # bytes
    temp_dir: str | None = None
    labels: dict[str, str] = {}  # beside those that it gives itself
    session_id: str = ""  # "": a new one
    ip_address: str = "127.0.0.1"
    is_head: bool = True  # among nodes of one process; who joins is none in any case
    head: HeadOptions | None = None  # None, and nothing to join: a node alone, which no other can join
    join: JoinOptions | None = None
    daemon: bool = False  # it does not end with who started it

    @property
    def host(self) -> str:
        """The IP address at which it listens for other machines; "": not at all."""
        if self.join is not None:
            return "" if self.join.address.startswith("/") else self.ip_address
        return "" if self.head is None or self.head.port is None else self.ip_address

    def totals(self, found: Sequence[gpus.Gpu]) -> dict[str, float]:
        """The node's resources, with the GPUs that were found."""
        cpus = float(len(os.sched_getaffinity(0))) if self.num_cpus is None else float(self.num_cpus)
        totals = {"CPU": cpus, **gpus.kinds(found), **self.resources}
        if found:
            totals["GPU"] = float(len(found))
        if self.memory is None:
            totals["memory"] = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        else:
            totals["memory"] = float(self.memory)
        return totals


def _accelerator_label(found: Sequence[gpus.Gpu]) -> dict[str, str]:
    """What kind its GPUs are; nothing where that is not known, or no value of a label."""
    kind = next((gpu.kind for gpu in found if gpu.kind), "")
    with contextlib.suppress(ValueError):
        check_value(kind)
        return {ACCELERATOR_TYPE: kind} if kind else {}
    return {}


@dataclass(slots=True, eq=False)
class Peer:
    """A process that has said Hello."""

    process_id: bytes
    role: str
    connection: Connection
    pid: int
    namespace: str = ""
    log_to_driver: bool = False
    worker: Worker | None = None


def _state_answer(what: str, node: Node, process: bytes, **args: Any) -> Any:
    return node.state.answer(what, **args)


class Node:
    """One node. Everything runs on `reactor`, whose lock is held in every call but `open` and `close`."""

    def __init__(self, options: NodeOptions, reactor: Reactor, session: Session) -> None:
        config = options.config
        found = gpus.find(options.num_gpus, os.environ)
        totals = options.totals(found)
        self.node_id = session.session_id
        self.started_at = time.time()
        self.gcs_address = session.address  # until it is in a cluster
        self._reactor = reactor
        self._session = session
        self._config = config
        self._peers: dict[bytes, Peer] = {}
        self._host = options.host
        token = (session.dir / TOKEN_FILE).read_text() if self._host else ""
        self._dialer = Dialer(lambda: token, config.heartbeat_timeout_ms / 1000)
        self._token = token
        self._tls = tls_of(os.environ) if self._host else None
        self._refusals = Refusals(f"node {self.node_id}")
        self._totals = totals
        self._labels = {**options.labels, NODE_ID: self.node_id, **_accelerator_label(found)}
        self._store = ObjectStore(
            session.capacity_nbytes, self._send, lambda oid: self._actors.unheld(oid), node_id=self.node_id
        )
        self._leases = LeaseDesk(
            reactor,
            NodeResources(from_floats(totals)),
            self._send,
            exit_grace_s=config.actor_exit_grace_s,
            gpu_ids=[gpu.device_id for gpu in found],
            node_id=self.node_id,
            labels=self._labels,
        )
        self.view = ClusterView(self._facts(options), self._leases.own_view())
        self.membership = Membership(reactor, self.view, NodeLoad(self._leases, self._store))
        self._leases.on_change = self.membership.load_changed
        self._leases.refresh_with(self.membership.refresh)
        self.membership.on_refreshed = self._leases.view_refreshed
        self._leases.use(self.view)
        self._objects = ObjectRouter(
            reactor, self.view, self._store, self._send, reads_neighbours=config.transfer_share_memory
        )
        self._neighbours = Neighbours(reactor, self._dialer, self.view, self._objects.heard, self._node_gone)
        self._callers = Callers(reactor, self._handle_node)
        self._objects.neighbours = self._neighbours
        self.view.subscribe(self._on_news)
        self._environments = EnvironmentDesk(reactor, str(session.dir), self._leases.go_on, self._leases.refuse)
        self._leases.environments = self._environments
        segment = Segment(session.segment, session.capacity_nbytes)
        self.transfers = TransferDesk(
            reactor, self._store, segment, config, node_id=self.node_id, token=token, dialer=self._dialer, tls=self._tls
        )
        self._objects.transfers = self.transfers
        self._far_drivers = FarDrivers(self.view, self._store, segment)
        self._checkpoints = CheckpointKeeper(Journal(session.dir / "journal", self._in_turn), self._store, segment)
        self._actors = self._actor_directory(is_head=options.is_head and options.join is None)
        self._hosting = self._actors.hosting = ActorHosting(
            reactor,
            self._leases,
            self._actors.reported,
            exit_grace_s=config.actor_exit_grace_s,
            max_light_hosts=max(1, min(_MAX_PRESTART, int(totals["CPU"]))),
        )
        warm = config.prestart_workers if config.prestart_workers >= 0 else int(totals["CPU"])
        self._groups = self._leases.groups = self._group_directory()
        self._state = NodeState(
            reactor,
            config,
            self.view,
            self.membership,
            self._actors,
            self._groups,
            self._send,
        )
        self._pool = WorkerPool(
            reactor,
            self._start_zygote,
            self._leases,
            self._pass_on_log,
            str(session.dir),
            node_id=self.node_id,
            prestart=min(warm, _MAX_PRESTART),
            max_idle=max(64, 4 * int(totals["CPU"])),
            idle_reap_s=config.worker_idle_reap_s,
            host=self._host,
        )
        self._leases.pool = self._hosting.pool = self._pool
        self._leases.actors = self._hosting
        self._listener: Listener | None = None
        self._door: Door | None = None  # for those from other machines
        self._strangers: set[Connection] = set()  # have not said Hello yet, or are side lines: closed with the node
        self._first_zygote: ZygoteProcess | None = None

    def _facts(self, options: NodeOptions) -> NodeFacts:
        return NodeFacts(
            self.node_id,
            (self.address,),
            this_machine(),
            from_floats(self._totals),
            self._labels,
            hostname=socket.gethostname(),
            pid=os.getpid(),
            started_at=self.started_at,
            session_dir=str(self._session.dir),
            store_nbytes=self._store.capacity_nbytes,
            is_head=options.is_head and options.join is None,
            ip_address=options.ip_address,
            segment=self._session.segment if self._config.transfer_share_memory else "",
            transfer_addresses=(self.transfer_address,),
        )

    @property
    def state(self) -> StateDesk:
        """What the GCS has beside members. Raises LookupError on a node that is not the head."""
        return self._state.tables

    def _actor_directory(self, *, is_head: bool) -> ActorDesk | FarDirectory:
        if not is_head:
            return FarDirectory(self.view, self._neighbours, self._store, self._send)
        return ActorDesk(
            self._reactor, self.node_id, self._store, self._objects, self._send, checkpoints=self._checkpoints
        )

    def _group_directory(self) -> GroupDesk | FarGroups:
        bundles, on_update = BundleDesk(self._leases), self._leases.group_update
        if isinstance(self._actors, FarDirectory):
            return FarGroups(self._actors, bundles, self._send, on_update)
        desk = self._actors.groups = GroupDesk(
            self._reactor, self.view, self._neighbours, bundles, self._send, on_update
        )
        return desk

    @classmethod
    def session_for(cls, options: NodeOptions) -> Session:
        """Make the session of a node to come."""
        capacity = options.object_store_memory or default_store_nbytes(options.config.object_store_fraction)
        return Session(options.temp_dir, capacity, options.session_id)

    # opening and closing

    def open(self, zygote: ZygoteProcess | None = None) -> None:
        """Listen, and start workers. `zygote`: one that runs already. Its errors undo what was done."""
        self._first_zygote = zygote
        with contextlib.ExitStack() as undo:
            undo.callback(self._session.close)
            with self._reactor.lock:
                self._listener = Listener(self._reactor, self._session.address, self._accept)
                undo.callback(self._listener.close)
                undo.callback(self.transfers.close)
                self.transfers.listen(self.transfer_address)
                if self._host:
                    self._listen_for_others(undo)
                self._pool.start()
            undo.pop_all()

    def _listen_for_others(self, undo: contextlib.ExitStack) -> None:
        """On TCP, too. Nobody has been told of this node yet."""
        any_port = host_and_port(self._host, 0)
        self._door = Door(self._reactor, any_port, self._token, self._accept, self._refusals, self._tls)
        undo.callback(self._door.close)
        pulls = self.transfers.listen(any_port)
        own = self.view.known[self.node_id]
        own.facts = msgspec.structs.replace(
            own.facts,
            addresses=(*own.facts.addresses, self._door.address),
            transfer_addresses=(*own.facts.transfer_addresses, pulls),
        )

    def _start_zygote(self) -> ZygoteProcess:
        zygote, self._first_zygote = self._first_zygote, None
        if zygote is None:
            zygote = ZygoteProcess.spawn(self._config)
        zygote.inherit(str(self._session.dir))
        self._session.note_zygote(zygote.pid)
        return zygote

    def hang_up(self) -> int:
        """Have all processes of the node end; returns the pid of the one that ends last. `close` must follow."""
        with self._reactor.lock:
            self._pool.hang_up()
            return self._pool.zygote_pid

    def close(self, meanwhile: Callable[[], None] | None = None) -> None:
        """End everything that belongs to the node. Blocks for some milliseconds, until all processes are gone.

        Then drivers take in what workers printed last, however slowly; `meanwhile` lets one in this thread do so.
        """
        with self._reactor.lock:
            if self._listener is not None:
                self._listener.close()
            if self._door is not None:
                self._door.close()
            self.transfers.close()
            self._environments.close()
            self._neighbours.close()
            self._callers.close()
            self._pool.close(self._config.shutdown_grace_s)
            for peer in list(self._peers.values()):
                if peer.role == "driver":
                    peer.connection.say_all(_DRIVER_READS_WITHIN_S, meanwhile)
                peer.connection.close()
            self._peers.clear()
            for connection in self._strangers:
                connection.close()
            self._strangers.clear()
        self._checkpoints.close()  # without the lock, which its thread may wait for
        self._session.close()

    def _in_turn(self, callbacks: list[Callable[[], None]]) -> None:
        """Call these, which another thread has brought, where messages are handled."""
        for callback in callbacks:
            self._reactor.call_soon(callback)

    @property
    def address(self) -> str:
        return self._session.address

    @property
    def session(self) -> Session:
        return self._session

    @property
    def reactor(self) -> Reactor:
        return self._reactor

    @property
    def transfer_address(self) -> str:
        """Where nodes of this machine pull objects from."""
        return str(self._session.dir / "transfer.sock")

    # connections

    def _accept(self, sock: socket.socket) -> None:
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
        return Welcome(self.node_id, str(session.dir), session.segment, session.capacity_nbytes, error)

    def _send(self, process: bytes, message: msgspec.Struct) -> None:
        if process.endswith(bytes(4)):
            if isinstance(message, (Ack, Fetched)):
                self._callers.send(process, message)
            else:
                self._neighbours.send(home_of(process), message)  # what is no answer goes over a line of our own
        elif (peer := self._peers.get(process)) is not None:
            peer.connection.send(message)
        elif isinstance(message, Notice) and process and home_of(process) != node_prefix(self.node_id):
            self._neighbours.send(home_of(process), Notify(process, message.text))

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

    def _pass_on_log(self, lines: LogLines) -> None:
        for peer in self._peers.values():
            if peer.role in ("driver", "visitor") and peer.log_to_driver:
                peer.connection.send(lines)

    # what processes say

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
            case TaskEvents():
                self._state.told(process, message)
            case Exit():
                if peer.worker is not None:
                    peer.worker.why_killed = peer.worker.why_killed or message.reason
                    self._hosting.exiting(peer.worker, message)
            case _:
                connection.close()
                self._gone(peer, connection, f"sent {type(message).__name__}, which is not for a node")

    def _handle_node(self, process: bytes, line: NodeLine, message: Any) -> None:
        """Another node has said something."""
        if self._state.heard(message):
            return
        match message:
            case Hold() | Release() | Fetch() | Seal() | CancelCall() | Orphaned():
                self._objects.handle_node(process, line, message)
            case Query():
                line.send(self.exchange(process, message))
            case Notify(addressee, text):
                self._send(addressee, Notice(text))
            case ProcessEnded(ended, driver, req) if isinstance(self._actors, ActorDesk):
                self._actors.process_gone(ended, driver=driver)
                self._groups.process_gone(ended)
                line.send(Ack(req))
            case ActorUpdate() | HostActor() | LeaveActor() if isinstance(self._actors, FarDirectory):
                self._actors.heard(message)
            case _ if isinstance(self._actors, ActorDesk) and self._actors.heard(
                process, self._node_id_of(process), message
            ):
                pass
            case _ if self._groups.heard(process, message, line.send):
                pass
            case _:
                self._callers.hang_up(process)  # it says what no node of ours would

    def _node_id_of(self, process: bytes) -> str:
        return next((node_id for node_id in self.view.known if node_prefix(node_id) == home_of(process)), "")

    def _on_news(self, news: News) -> None:
        if isinstance(news, Joined):
            self._objects.joined()

    def _node_gone(self, node_id: str, prefix: bytes) -> None:
        """Another node is dead, and so are its processes."""
        self._callers.node_gone(prefix)
        self._objects.node_gone(node_id, prefix)
        self._actors.node_gone(node_id, prefix)
        if isinstance(self._groups, GroupDesk):
            self._groups.node_gone(node_id, prefix)

    def _side_messages(self, peer: Peer, connection: Connection, messages: list[Any]) -> None:
        for message in messages:
            if isinstance(self._actors, FarDirectory) and isinstance(message, Query) and message.what in QUESTIONS:
                if (main := self._peers.get(peer.process_id)) is not None:
                    main.connection.drain()  # as in `exchange`
                self._actors.ask(peer.process_id, message, connection.send)
            else:
                connection.send(self.exchange(peer.process_id, message))

    def exchange(self, process: bytes, message: Any) -> msgspec.Struct:
        """Answer a request that its sender waits for, on the spot."""
        match message:
            case Reserve(nbytes):
                if process not in self._peers:  # its question outlived it: nobody would give the extent back
                    return Reserved(-1, 0, self._store.used_nbytes)
                return self._store.reserve(process, nbytes)
            case Write():
                return self._far_drivers.write(process, message)
            case Query(req, what, args):
                question = self._questions.get(what)
                if question is None:
                    return Answer(req, error=f"nobody here can answer {what!r}")
                if (peer := self._peers.get(process)) is not None:
                    peer.connection.drain()  # what it told us before it asked comes over another line
                try:
                    return Answer(req, question(self, process, **args))
                except LookupError as exc:
                    return Answer(req, error=str(exc.args[0]))
                except TypeError:
                    return Answer(req, error=f"{what!r} cannot be asked with {args!r:.200}")
            case _:
                return Answer(0, error=f"{type(message).__name__} is no question")

    # questions

    @property
    def _desk(self) -> ActorDesk:
        """Raises LookupError on a node that is not the head."""
        if not isinstance(self._actors, ActorDesk):
            raise LookupError("this node is not the head, which keeps the directory of actors")
        return self._actors

    @property
    def _group_desk(self) -> GroupDesk:
        """Raises LookupError on a node that is not the head."""
        if not isinstance(self._groups, GroupDesk):
            raise LookupError("this node is not the head, which keeps the directory of placement groups")
        return self._groups

    def _explain_actor(self, actor_id: bytes) -> str:
        where = self._desk.where(actor_id)
        return f"it is to be on node {where}" if where else self._leases.explain_actor(actor_id)

    def _store_figures(self, process: bytes) -> dict[str, int]:
        return {
            "used_nbytes": self._store.used_nbytes,
            "capacity_nbytes": self._store.capacity_nbytes,
            "known_objects": self._store.known(),
        }

    def _assigned(self, process: bytes) -> dict[str, float]:
        peer = self._peers.get(process)
        return {} if peer is None or peer.worker is None else to_floats(self._leases.assigned(peer.worker))

    _questions: ClassVar[dict[str, Callable[..., Any]]] = {
        "gcs_address": lambda self, process: self.gcs_address,
        "nodes": lambda self, process: described.nodes(self.view),
        "cluster_resources": lambda self, process: described.totals(self.view),
        "available_resources": lambda self, process: described.available(self.view, self._store.used_nbytes),
        "assigned": _assigned,
        "explain": lambda self, process, lease_id: self._leases.explain(process, lease_id),
        "explain_actor": lambda self, process, actor_id: self._explain_actor(actor_id),
        "get_actor": lambda self, process, namespace, name: self._desk.find(process, namespace, name),
        "reserve_name": lambda self, process, **wanted: self._desk.reserve_name(process, **wanted),
        "kill_actor": lambda self, process, actor_id, reason, no_restart: self._desk.kill(
            actor_id, reason, no_restart=no_restart
        ),
        "get_group": lambda self, process, namespace, name: self._group_desk.find(namespace, name),
        "group_bundles": lambda self, process, group_id: self._group_desk.bundles_of(group_id),
        "group_over": lambda self, process, group_id: self._group_desk.why_over(group_id),
        "group_table": lambda self, process, group_id=None: self._group_desk.table(group_id),
        "explain_group": lambda self, process, group_id: self._group_desk.explain(group_id),
        "list_named_actors": lambda self, process, namespace: self._desk.names(namespace),
        "store": _store_figures,
        "pids": lambda self, process: self._pool.pids,
        **{what: functools.partial(_state_answer, what) for what in ASKS},
    }
