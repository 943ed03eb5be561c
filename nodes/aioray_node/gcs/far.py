"""What a node says of actors to the head, which keeps their directory; and whom it tells what the head answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from aioray.wire.control import (
    Ack,
    ActorReport,
    ActorSpec,
    ActorUpdate,
    Answer,
    Checkpoint,
    HostActor,
    LeaveActor,
    ProcessEnded,
    Query,
    Unheld,
    Unwatched,
    WatchActor,
)
from aioray.wire.state import ASKS
from aioray.wire.values import node_prefix
from aioray_node.gcs.view import Joined
from aioray_node.objects.directory import Held

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray_node.gcs.hosting import ActorHosting
    from aioray_node.gcs.view import ClusterView, News
    from aioray_node.neighbours import Neighbours
    from aioray_node.objects.store import ObjectStore

QUESTIONS = {
    *("get_actor", "reserve_name", "kill_actor", "list_named_actors", "explain_actor"),
    *("get_group", "group_bundles", "group_over", "group_table", "explain_group"),
    *("offer_package", "begin_package", "put_package", "package_sent"),
    *ASKS,
}


class FarDirectory:
    """The head's directory of actors, as another node has it. Called with the reactor's lock held."""

    def __init__(
        self,
        view: ClusterView,
        neighbours: Neighbours,
        store: ObjectStore,
        send: Callable[[bytes, msgspec.Struct], None],
    ) -> None:
        self._view = view
        self._neighbours = neighbours
        self._store = store
        self._send = send
        self._head_prefix: bytes | None = None
        self._watchers: dict[bytes, set[bytes]] = {}  # actor_id -> processes of this node
        self._unsent: list[tuple[Callable[[int], msgspec.Struct], Callable[[Any], None] | None]] = []
        self.hosting: ActorHosting
        view.subscribe(self._on_news)

    def _head(self) -> bytes | None:
        if self._head_prefix is None:  # there is one, always the same
            heads = [facts.node_id for facts in self._view.alive() if facts.is_head]
            self._head_prefix = node_prefix(heads[0]) if heads else None
        return self._head_prefix

    def _on_news(self, news: News) -> None:
        if isinstance(news, Joined) and self._unsent and self._head() is not None:
            unsent, self._unsent = self._unsent, []
            for message, then in unsent:
                self.put(message, then)

    def put(self, message: Callable[[int], msgspec.Struct], then: Callable[[Any], None] | None) -> None:
        """Say `message(req)` to the head. `then`: with its answer, and said again until there is one."""
        head = self._head()
        if head is None:  # the first we hear of the cluster will have it
            self._unsent.append((message, then))
        elif then is None:
            self._neighbours.send(head, message(0))
        else:
            self._neighbours.ask(head, message, then)

    def tell(self, message: msgspec.Struct) -> None:
        """Say something to the head."""
        self.put(lambda _: message, None)

    def ask_head(self, what: str, then: Callable[[Answer], None], /, **args: Any) -> None:
        """See `HeadLine`."""
        gone = Answer(0, error="the head of the cluster is gone")
        self.put(lambda req: Query(req, what, args), lambda answer: then(answer or gone))

    def ask(self, process: bytes, query: Query, answer: Callable[[Answer], None]) -> None:
        """Pass on a question of a process of this node."""

        def answered(found: Answer | None) -> None:
            if found is None:
                answer(Answer(query.req, error="the head of the cluster is gone"))
                return
            if query.what in ("get_actor", "reserve_name") and found.data is not None:
                self._store.feed(Held(process, [found.data["actor_id"]]))
            answer(Answer(query.req, found.data, found.error))

        self.put(lambda req: Query(req, query.what, query.args), answered)

    # as `ActorDesk`, for what processes of this node say

    def create(self, spec: ActorSpec) -> None:
        self.tell(spec)

    def watch(self, process: bytes, actor_id: bytes) -> None:
        """A process wants to hear of an actor: at once, too, so the head is asked each time."""
        self._watchers.setdefault(actor_id, set()).add(process)
        self.tell(WatchActor(actor_id))

    def reported(self, report: ActorReport) -> None:
        self.tell(report)

    def unheld(self, actor_id: bytes) -> None:
        self.tell(Unheld(actor_id))

    def saved(self, process: bytes, message: Checkpoint) -> None:
        self.put(lambda req: msgspec.structs.replace(message, req=req), lambda _: self._send(process, Ack(message.req)))

    def released(self, process: bytes, actor_ids: list[bytes]) -> None:
        """A process let go of handles."""
        for actor_id in actor_ids:
            watchers = self._watchers.get(actor_id)
            if watchers is not None:
                watchers.discard(process)
                if not watchers:
                    del self._watchers[actor_id]
                    self.tell(Unwatched(actor_id))

    def process_gone(self, process: bytes, *, driver: bool) -> None:
        self.released(process, [each for each, watchers in self._watchers.items() if process in watchers])
        self.put(lambda req: ProcessEnded(process, driver, req), lambda _: None)

    # what nodes say

    def heard(self, message: msgspec.Struct) -> None:
        """The head has decided something."""
        match message:
            case ActorUpdate(actor_id):
                for process in list(self._watchers.get(actor_id, ())):
                    self._send(process, message)
            case HostActor(spec, hops):
                self.hosting.place(spec, hops)
            case LeaveActor(actor_id, now):
                self.hosting.leave(actor_id, now=now)

    def node_gone(self, node_id: str, prefix: bytes) -> None:
        """That is for the head to know; and without a head there is no cluster."""
