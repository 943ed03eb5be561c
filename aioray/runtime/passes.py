"""One pass of a compiled graph, as whoever executes the graph sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aioray.exceptions import TaskCancelledError
from aioray.refs import RAISED

if TYPE_CHECKING:
    from aioray.refs import ObjectRef
    from aioray.runtime.handing_over import HandedOver
    from aioray.runtime.plans import Plan
    from aioray.runtime.serialization import Serialized
    from aioray.wire.plans import Passed


class Pass:
    """One run of the graph, until all its outputs are here."""

    __slots__ = ("handed", "keeps", "messages", "name", "packed", "plan", "refs", "sent", "seq", "values")

    def __init__(
        self,
        plan: Plan,
        seq: int,
        name: str,
        refs: dict[int, ObjectRef[Any]],
        values: dict[int, Serialized | bytes],
        keeps: Any,
    ) -> None:
        self.plan = plan
        self.seq = seq
        self.name = name
        self.refs = refs  # by output
        self.keeps = keeps  # the graph, as its user sees it: not torn down while a pass is under way
        self.values = values  # inputs, by number, until they are packed
        self.messages: list[tuple[int, Passed]] = []  # to whom, and what
        self.handed: list[HandedOver] = []  # inputs that the node must know before
        self.packed = False
        self.sent = False

    def cancel(self) -> None:
        """Nobody wants its outputs, or one of them. What was not sent never runs. The lock is held."""
        self.fail(TaskCancelledError(next(iter(self.refs.values())).task_id().hex(), name=self.name))

    def fail(self, error: BaseException) -> None:
        """Who waits for it hears `error`; what was sent goes on, and what it makes is dropped. The lock is held."""
        for ref in self.refs.values():
            ref._complete(RAISED, error)
        self.plan.withdrawn(self)

    def is_alone(self) -> bool:
        """Whether no other pass of the graph is under way."""
        return len(self.plan.flight.missing) == 1

    def can_be_sent(self) -> bool:
        """Whether the node knows all that must be known before."""
        return self.packed and all(each.is_known for each in self.handed)

    def state(self) -> str:
        """Where it is, in words."""
        return "is under way in a compiled graph" if self.sent else "waits for the actors of its compiled graph"
