"""Where a call comes from: what the code is that runs here, and whom it works for."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioray.runtime.calls import Running
    from aioray.wire.control import ActorSpec
    from aioray.wire.strategies import InGroup


class Here:
    """A driver's answers, for code that is part of no call. Workers, which run other people's, have their own."""

    is_worker = False  # this process runs calls of the cluster, and has no other
    captures = False  # calls made here may have to follow the one that makes them into its placement group

    def __init__(self, job_id: bytes, namespace: str) -> None:
        self.job_id = job_id
        self.namespace = namespace

    def call_here(self) -> Running | None:
        """The call that this thread, or this coroutine, is; None when it is none."""
        return None

    def in_call(self) -> bool:
        """Whether this thread runs a task or a method."""
        return False

    def actor_here(self) -> ActorSpec | None:
        """What the actor is made of that this thread, or this coroutine, works for."""
        return None

    def light_actor_here(self) -> int:
        """Which of the actors that share this process the code here works for; 0 where none of them."""
        return 0

    def at_end_of_light_actor_here(self, then: Callable[[], None]) -> None:
        """Have `then` called, on its event loop, when it is over, whether or not its process goes on."""
        raise AssertionError("there is no light actor here")

    def group_here(self) -> InGroup | None:
        """The placement group in which the call is that this thread, or this coroutine, is busy with."""
        return None

    def job_here(self) -> bytes:
        """The driver for which this thread, or this coroutine, works."""
        return self.job_id

    def owner_here(self) -> bytes:
        """With whom goes what is made here for others: that driver, or the detached actor that this works for."""
        actor = self.actor_here()
        return actor.actor_id if actor is not None and actor.detached else self.job_here()

    def namespace_here(self) -> str:
        """Where actors are named, and looked for, that say nothing else."""
        return self.namespace

    def spares_children(self) -> bool:
        """Whether a cancelled await leaves what it awaits alone: `cancel(recursive=False)` is at work."""
        return False

    def exit_actor(self) -> NoReturn:
        """See aioray.actor."""
        raise TypeError("exit_actor() is for the code of an actor, and this is none")

    def on_block(self, blocked: bool) -> None:
        """A thread of user code waits for the cluster, or goes on. Workers give their CPU back meanwhile."""
