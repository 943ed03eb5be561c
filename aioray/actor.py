"""What code inside an actor asks for: `aioray.actor.exit_actor()`."""

from __future__ import annotations

from typing import NoReturn

from aioray import current
from aioray.actors import ActorHandle

__all__ = ["ActorHandle", "exit_actor"]


def exit_actor() -> NoReturn:
    """End the actor that this is called in, on purpose: it is not restarted, and its name is free.

    Its caller, and whoever has calls under way or waiting, gets ActorDiedError. What was registered with `atexit` runs,
    but not in a light actor, whose process goes on. Leaves the method by raising SystemExit; on the event loop of an
    async actor AsyncioActorExit. The actor goes when the method's `except` and `finally` are through, whatever they
    await; in an asyncio task that an async method has begun, that task's and then, by CancelledError, the method's.
    Raises TypeError where there is no actor to end.
    """
    runtime = current.find()
    if runtime is None:
        raise TypeError("exit_actor() is for the code of an actor, and this is none")
    runtime.exit_actor()
