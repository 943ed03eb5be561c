"""Packages at the head: what `packages.py` decides carried out, their pieces in the GCS's key-value store."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, Any, ClassVar

from aioray.wire.control import PackageFound, SendPackage
from aioray.wire.state import PACKAGE_PIECE_NBYTES
from aioray.wire.values import home_of
from aioray_node.gcs import kv, packages
from aioray_node.gcs.view import Joined

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray_node.gcs.view import ClusterView, News

NAMESPACE = "aioray.packages"  # of the key-value store


class PackageDesk:
    """Every method is called with the reactor's lock held.

    tell: to the node of these first bytes of its id. is_alive: whether a job, or a detached actor, is.
    """

    def __init__(
        self,
        view: ClusterView,
        store: kv.State,
        tell: Callable[[bytes, SendPackage | PackageFound], None],
        is_alive: Callable[[bytes], bool],
    ) -> None:
        self._view = view
        self._store = store
        self._tell = tell
        self._is_alive = is_alive
        self._state = packages.State()
        view.subscribe(self._on_news)

    def _on_news(self, news: News) -> None:
        if isinstance(news, Joined) and self._state.is_alone:
            known = self._view.known
            if known[news.node_id].facts.boot_id != known[self._view.own_id].facts.boot_id:
                self.feed(packages.NotAlone())

    def feed(self, event: packages.Event) -> None:
        """Decide, and carry it out."""
        for command in packages.handle(self._state, event):
            match command:
                case packages.Send(node, name, upload):
                    self._tell(node, SendPackage(name, upload))
                case packages.Tell(node, name, upload, pieces, error):
                    self._tell(node, PackageFound(name, upload, pieces, error))
                case packages.Remove(name, upload):
                    kv.delete_all(self._store, NAMESPACE, _key(name, upload, None))

    def used_by_actor(self, actor_id: bytes, paths: list[str]) -> None:
        """A detached actor, which may outlive its job."""
        for path in paths:
            self.feed(packages.Used(posixpath.basename(path), actor_id))

    # questions: who asks, and what. Each raises LookupError with words for who asks.

    def answer(self, what: str, process: bytes, args: dict[str, Any]) -> Any:
        return self._answers[what](self, process, **args)

    def _user(self, process: bytes, user: bytes) -> bytes:
        """Of a job that has ended, a task that goes on for a detached actor say, the end would not be heard again."""
        return user if self._is_alive(user) else home_of(process)

    def _offer(self, process: bytes, name: str, user: bytes) -> None:
        self.feed(packages.Offered(name, self._user(process, user), home_of(process)))

    def _begin(self, process: bytes, name: str, user: bytes) -> str:
        return packages.begin(self._state, name, self._user(process, user))

    def _need(self, process: bytes, name: str) -> None:
        self.feed(packages.Asked(name, home_of(process)))

    def _put(self, process: bytes, name: str, upload: str, index: int, data: bytes) -> None:
        if not packages.takes(self._state, name, upload):
            raise LookupError("nobody uses it any more")
        if len(data) > PACKAGE_PIECE_NBYTES:
            raise LookupError(f"a piece of {len(data)} bytes is too large, at most {PACKAGE_PIECE_NBYTES} are allowed")
        key = _key(name, upload, index)
        kv.put(self._store, NAMESPACE, key, data, overwrite=True, request_id=key)

    def _piece(self, process: bytes, name: str, upload: str, index: int) -> bytes:
        data = kv.get(self._store, NAMESPACE, _key(name, upload, index))
        if data is None:
            raise LookupError("it is no longer in the store")
        return data

    def _sent(self, process: bytes, name: str, upload: str, pieces: int, error: str) -> None:
        self.feed(packages.Sent(name, upload, pieces, error))

    _answers: ClassVar[dict[str, Callable[..., Any]]] = {
        "offer_package": _offer,
        "begin_package": _begin,
        "need_package": _need,
        "put_package": _put,
        "package_piece": _piece,
        "package_sent": _sent,
    }


PACKAGE_QUESTIONS = tuple(PackageDesk._answers)


def _key(name: str, upload: str, index: int | None) -> bytes:
    """Of a piece; None: how those of all pieces begin."""
    return f"{name}/{upload}/{'' if index is None else index}".encode()
