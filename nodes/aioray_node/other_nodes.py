"""What other nodes say to this one, and what goes with one that is dead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aioray.wire.control import (
    Ack,
    ActorUpdate,
    CancelCall,
    Fetch,
    Hold,
    HostActor,
    LeaveActor,
    Notice,
    Notify,
    Orphaned,
    PackageFound,
    ProcessEnded,
    Query,
    Release,
    Seal,
    SendPackage,
)
from aioray.wire.values import home_of, node_prefix
from aioray_node.gcs.far import FarDirectory
from aioray_node.gcs.groups import GroupDesk
from aioray_node.gcs.shell import ActorDesk
from aioray_node.neighbours import Callers

if TYPE_CHECKING:
    from aioray.runtime.reactor import Reactor
    from aioray_node.desks import Desks
    from aioray_node.neighbours import NodeLine
    from aioray_node.peers import Peers
    from aioray_node.questions import Questions


class OtherNodes:
    """Called with the reactor's lock held. `callers`: the lines that they have opened."""

    def __init__(self, reactor: Reactor, desks: Desks, peers: Peers, questions: Questions) -> None:
        self._view = desks.view
        self._objects = desks.objects
        self._actors = desks.actors
        self._groups = desks.groups
        self._state = desks.state
        self._environments = desks.environments
        self._peers = peers
        self._exchange = questions.exchange
        self.callers = Callers(reactor, self._handle)

    def _handle(self, process: bytes, line: NodeLine, message: Any) -> None:
        """Another node has said something."""
        if self._state.heard(message):
            return
        match message:
            case Hold() | Release() | Fetch() | Seal() | CancelCall() | Orphaned():
                self._objects.handle_node(process, line, message)
            case Query():
                line.send(self._exchange(process, message))
            case Notify(addressee, text):
                self._peers.send(addressee, Notice(text))
            case ProcessEnded(ended, driver, req) if isinstance(self._actors, ActorDesk):
                self._actors.process_gone(ended, driver=driver)
                self._groups.process_gone(ended)
                line.send(Ack(req))
            case SendPackage() | PackageFound() if isinstance(self._actors, FarDirectory):
                self._environments.heard(message)
            case ActorUpdate() | HostActor() | LeaveActor() if isinstance(self._actors, FarDirectory):
                self._actors.heard(message)
            case _ if isinstance(self._actors, ActorDesk) and self._actors.heard(
                process, self._node_id_of(process), message
            ):
                pass
            case _ if self._groups.heard(process, message, line.send):
                pass
            case _:
                self.callers.hang_up(process)  # it says what no node of ours would

    def _node_id_of(self, process: bytes) -> str:
        return next((node_id for node_id in self._view.known if node_prefix(node_id) == home_of(process)), "")

    def gone(self, node_id: str, prefix: bytes) -> None:
        """Another node is dead, and so are its processes."""
        self.callers.node_gone(prefix)
        self._objects.node_gone(node_id, prefix)
        self._actors.node_gone(node_id, prefix)
        if isinstance(self._groups, GroupDesk):
            self._groups.node_gone(node_id, prefix)
