"""Puts one node together: its session, its desks, and the connections of the processes it serves."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

import msgspec

from aioray.runtime.connection import Listener
from aioray.runtime.dialing import TOKEN_FILE, Dialer, tls_of
from aioray.runtime.doors import Door
from aioray.runtime.refusals import Refusals
from aioray.wire.reach import host_and_port
from aioray_node.desks import Desks
from aioray_node.other_nodes import OtherNodes
from aioray_node.peers import Peers
from aioray_node.pool.zygote_process import ZygoteProcess
from aioray_node.processes import Processes
from aioray_node.questions import Questions
from aioray_node.session import Session, default_store_nbytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray.runtime.reactor import Reactor
    from aioray_node.gcs.state_desk import StateDesk
    from aioray_node.node_options import NodeOptions


class Node:
    """One node. Everything runs on `reactor`, whose lock is held in every call but `open` and `close`."""

    def __init__(self, options: NodeOptions, reactor: Reactor, session: Session) -> None:
        self.node_id = session.session_id
        self.started_at = time.time()
        self.gcs_address = session.address  # until it is in a cluster
        self._reactor = reactor
        self._session = session
        self._config = options.config
        self._host = options.host
        self._token = token = (session.dir / TOKEN_FILE).read_text() if self._host else ""
        self._tls = tls_of(os.environ) if self._host else None
        self._refusals = Refusals(f"node {self.node_id}")
        self._peers = Peers(self.node_id)
        self._desks = Desks(
            options,
            reactor,
            session,
            self._peers,
            start_zygote=self._start_zygote,
            on_node_gone=lambda node_id, prefix: self._other_nodes.gone(node_id, prefix),
            started_at=self.started_at,
            token=token,
            dialer=Dialer(lambda: token, self._config.heartbeat_timeout_ms / 1000),
            tls=self._tls,
        )
        self.view = self._desks.view
        self.membership = self._desks.membership
        self.transfers = self._desks.transfers
        questions = Questions(self._desks, self._peers, lambda: self.gcs_address)
        self.exchange = questions.exchange  # for a driver of this process, which asks without a connection
        self._other_nodes = OtherNodes(reactor, self._desks, self._peers, questions)
        self._peers.neighbours = self._desks.neighbours
        self._peers.callers = self._other_nodes.callers
        self._processes = Processes(reactor, session, self._desks, self._peers, questions, self._refusals)
        self._listener: Listener | None = None
        self._door: Door | None = None  # for those from other machines
        self._first_zygote: ZygoteProcess | None = None

    @property
    def state(self) -> StateDesk:
        """What the GCS has beside members. Raises LookupError on a node that is not the head."""
        return self._desks.state.tables

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
                self._listener = Listener(self._reactor, self._session.address, self._processes.accept)
                undo.callback(self._listener.close)
                undo.callback(self.transfers.close)
                self.transfers.listen(self._desks.transfer_address)
                if self._host:
                    self._listen_for_others(undo)
                self._desks.pool.start()
            undo.pop_all()

    def _listen_for_others(self, undo: contextlib.ExitStack) -> None:
        """On TCP, too. Nobody has been told of this node yet."""
        any_port = host_and_port(self._host, 0)
        self._door = Door(self._reactor, any_port, self._token, self._processes.accept, self._refusals, self._tls)
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
            self._desks.pool.hang_up()
            return self._desks.pool.zygote_pid

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
            self._desks.environments.close()
            self._desks.neighbours.close()
            self._other_nodes.callers.close()
            self._desks.pool.close(self._config.shutdown_grace_s)
            self._peers.close(meanwhile)
            self._processes.close()
        self._desks.checkpoints.close()  # without the lock, which its thread may wait for
        self._session.close()

    @property
    def address(self) -> str:
        return self._session.address

    @property
    def session(self) -> Session:
        return self._session

    @property
    def reactor(self) -> Reactor:
        return self._reactor
