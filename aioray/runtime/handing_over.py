"""Values that are too large, or have refs inside, on their way to several processes at once in a compiled graph.

Nodes know who holds them before anybody is sent one: so a maker that dies takes nothing from who reads, and a
taker that dies leaves nothing behind. For each taker a *token* holds the value from the start, an id that begins with
the taker's; whoever has loaded the value holds it under its own name, and lets go of the token. A taker on another node
has the value brought first, as it has arguments of calls.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any

from aioray.refs import ObjectRef
from aioray.wire.control import Hold, Release, Seal
from aioray.wire.values import home_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioray.runtime.link import NodeLink
    from aioray.runtime.runtime import Runtime
    from aioray.runtime.serialization import Serialized
    from aioray.wire.values import Value

_TOKEN_NBYTES = 8


def is_small(runtime: Runtime, serialized: Serialized) -> bool:
    """Whether a value may travel by itself, unknown to the node."""
    return not serialized.refs and serialized.nbytes <= runtime.config.inline_max_nbytes


class HandedOver:
    """A value in shared memory, or with refs inside, that the nodes concerned know, or are about to."""

    __slots__ = ("_keeps", "_then", "_unanswered", "is_known", "tokens", "value")

    def __init__(self, value: Value, tokens: list[bytes], keeps: Any) -> None:
        self.value = value
        self.tokens = tokens  # one for each taker, in their order
        self.is_known = False  # the nodes have said so: it can be sent
        self._keeps = keeps
        self._unanswered = 0  # of what nodes were told
        self._then: Callable[[], object] | None = None

    def when_known(self, then: Callable[[], object]) -> None:
        """Call `then` once, under the lock, when it can be sent. The lock is held."""
        if self.is_known:
            then()
        else:
            self._then = then

    def tell(self, link: NodeLink, message: Callable[[int], Hold | Seal]) -> None:
        """Tell our node, and go on when it, and whoever it passes that on to, knows. The lock is held."""
        req, reply = link.expect()
        self._unanswered += 1
        reply.then = self._answered
        link.send(message(req))
        if reply.done:  # the node is gone
            self._answered(reply)

    def _answered(self, _: Any) -> None:
        self._unanswered -= 1
        if self._unanswered:
            return
        self.is_known = True
        self._keeps = None
        then, self._then = self._then, None
        if then is not None:
            then()


def hand_over(runtime: Runtime, serialized: Serialized, takers: Sequence[bytes], result: bytes = b"") -> HandedOver:
    """Store a value for processes. `result`: the id under which another one, the driver, is to own it, too.

    Raises ObjectStoreFullError.
    """
    link, objects = runtime.link, runtime.objects
    tokens = [taker + os.urandom(_TOKEN_NBYTES) for taker in takers]
    ref: ObjectRef[Any] | None = None
    if result:
        value, oid = objects.store(serialized, oid=result), result
    else:
        ref = ObjectRef(runtime, runtime.next_seq())
        objects.put(ref, serialized)
        value, oid = ref._value, ref.binary()
    with runtime.reactor.lock:
        if ref is not None:
            objects.share(ref)
        elif serialized.refs:
            objects.hold_for(oid, serialized.refs)
        handed = HandedOver(value, tokens, (ref, serialized))
        here = home_of(runtime.process_id)
        for token in tokens:
            if home_of(token) == here:  # known when our node has answered what comes after
                link.send(Hold(token, [oid]))
            else:
                handed.tell(link, functools.partial(Hold, token, [oid]))
        if result and value.nbytes:
            handed.tell(link, functools.partial(Seal, value))
        else:
            handed.tell(link, functools.partial(Hold, runtime.process_id, []))
    return handed


def take(runtime: Runtime, value: Value, token: bytes) -> Any:
    """Load what was handed over. Raises what unpickling raises; the token is let go in any case."""
    try:
        return runtime.objects.load(value)
    finally:
        leave(runtime, token)


def leave(runtime: Runtime, token: bytes) -> None:
    """Nobody will load it here, or it is loaded."""
    if token and not runtime.closed:
        with runtime.reactor.lock:
            runtime.link.send(Release(token, []))
