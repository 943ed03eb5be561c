"""The nodes of a local cluster as processes. They find each other by Unix sockets in the head's session directory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aioray.node_process import NodeProcess

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aioray.start_options import ClusterOptions


@dataclass(frozen=True, eq=False)
class LocalNode:
    """One node of a local cluster."""

    node_id: str
    address: str  # its socket
    session_dir: str
    pid: int  # of the process that it is; this one, if it runs in this event loop
    is_head: bool
    part: Any = field(repr=False)  # NodeProcess or EmbeddedNode


class ProcessNodes:
    """Starts and ends them; every call blocks. They end when this process does."""

    def __init__(self, temp_dir: str | None) -> None:
        from aioray_node.session import new_session_id, session_dir

        self.nodes: list[LocalNode] = []
        self._temp_dir = temp_dir
        self._head_id = new_session_id()
        directory = session_dir(temp_dir, self._head_id)
        self.gcs_address = str(directory / "gcs.sock")
        self._token_path = str(directory / "token")
        self._starting: list[NodeProcess] = []
        self._has_head = False
        self._removed: list[str] = []  # session directories of nodes that were killed

    def start(self, specs: Sequence[ClusterOptions], environ: Mapping[str, str] | None = None) -> list[LocalNode]:
        """Start these beside each other; the very first one is the head. Raises why one of them did not start."""
        self._starting = [self._spawn(options, environ) for options in specs]
        started = []
        while self._starting:
            facts = self._starting[0].wait_ready()
            process = self._starting.pop(0)
            node = LocalNode(
                facts["node_id"], facts["address"], facts["session_dir"], process.pid, facts["is_head"], process
            )
            self.nodes.append(node)
            started.append(node)
        return started

    def _spawn(self, options: ClusterOptions, environ: Mapping[str, str] | None) -> NodeProcess:
        if self._has_head:
            place: dict[str, Any] = {"join": {"address": self.gcs_address, "token_path": self._token_path}}
        else:
            place = {"session_id": self._head_id, "head": {}}
            self._has_head = True
        return NodeProcess(options, place, environ=environ)

    def remove(self, node: LocalNode, *, kill: bool) -> None:
        """End one node: it leaves, or is killed as if its machine had lost power."""
        self.nodes.remove(node)
        if kill:
            self._removed.append(node.session_dir)
            node.part.kill()
        else:
            node.part.close()

    def hang_up(self) -> None:
        """Have all end. `close` must follow."""
        # The head last, or others would hear that their cluster has ended before they are told to.
        for process in [*self._starting, *(node.part for node in reversed(self.nodes))]:
            process.hang_up()

    def close(self) -> None:
        """End all; when this returns they are gone, and what they left is removed. Safe to call twice."""
        self.hang_up()
        for process in [*self._starting, *(node.part for node in self.nodes)]:
            process.close()
        self._starting.clear()
        self.nodes.clear()
        if self._removed:
            # By its zygote, as a rule; but that is killed along with its node while it imports what workers will need.
            from aioray_node.session import sessions_root, sweep

            self._removed.clear()
            sweep(sessions_root(self._temp_dir))
