"""Actors that die, for tests of what comes after; apart from these, since every worker that gets one imports this."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import pathlib
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

import aioray

if TYPE_CHECKING:
    from tests.api.support import Meeting


class Lives:
    """Counts how often something happened, in a file: it outlives the process that counts."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = str(path)

    def one_more(self) -> int:
        with open(self.path, "ab") as file:
            file.write(b".")
        return self.count()

    def count(self) -> int:
        with contextlib.suppress(FileNotFoundError):
            return os.path.getsize(self.path)
        return 0


class PlainMortal:
    """Remembers what it was told, but only in this life."""

    def __init__(self, *given: Any) -> None:
        self.given = given
        self.told: list[Any] = []

    def tell(self, thing: Any) -> list[Any]:
        self.told.append(thing)
        return list(self.told)

    def constructed_with(self) -> Any:
        return self.given

    def pid(self) -> int:
        return os.getpid()

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def die_once(self, lives: Lives) -> int:
        """Dies the first time."""
        count = lives.one_more()
        if count == 1:
            self.die()
        return count

    def raise_until(self, lives: Lives, number: int, error: type[Exception] = ValueError) -> int:
        count = lives.one_more()
        if count < number:
            raise error(f"the {count}. time")
        return count

    def meet_and_die(self, meeting: Meeting) -> None:
        meeting.here()
        meeting.wait()
        self.die()

    def wait_for(self, meeting: Meeting) -> str:
        meeting.wait()
        return "met"

    def leave(self, note: str = "") -> None:
        if note:
            atexit.register(pathlib.Path(note).write_text, "it ran")
        aioray.actor.exit_actor()

    def leave_in_a_thread(self) -> None:
        thread = threading.Thread(target=self.leave)
        thread.start()
        thread.join()

    def sys_exit(self, status: Any = None) -> None:
        sys.exit(status)

    def restarts(self) -> int:
        return int(of_this_actor().restarts)


def of_this_actor() -> Any:
    """The ActorSpec of the actor that this is called in."""
    from aioray_node.worker.runtime import running

    call = running.get()
    assert call is not None
    assert call.actor is not None
    return call.actor.spec


class PlainAsyncMortal:
    def __init__(self) -> None:
        self.cancelled = False

    async def pid(self) -> int:
        return os.getpid()

    async def leave(self) -> None:
        aioray.actor.exit_actor()

    async def leave_and_clean_up(self, meeting: Meeting, note: pathlib.Path) -> None:
        """What it awaits after it has asked to end is awaited."""
        try:
            await self.leave()
        finally:
            await asyncio.to_thread(meeting.here)
            await asyncio.to_thread(meeting.wait)
            await asyncio.to_thread(note.touch)

    async def leave_in_a_group(self, meeting: Meeting, note: pathlib.Path) -> None:
        """The same, in a task that it has begun: both clean up."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.leave_and_clean_up(meeting, note.with_suffix(".inner")))
        finally:
            await asyncio.to_thread(note.touch)

    async def leave_in_the_background(self) -> None:
        async def soon() -> None:
            aioray.actor.exit_actor()

        self.task = asyncio.create_task(soon())
        await asyncio.Event().wait()

    def leave_in_a_thread(self) -> None:
        aioray.actor.exit_actor()

    async def sys_exit(self, status: Any = None) -> None:
        sys.exit(status)

    async def for_ever(self) -> None:
        await asyncio.Event().wait()

    async def echo(self, value: Any) -> Any:
        return value

    async def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    async def after(self, seconds: float, lives: Lives) -> int:
        await asyncio.sleep(seconds)
        return lives.one_more()


class PlainLateDeath:
    """Its constructor dies, from a certain life on, until another one."""

    def __init__(self, lives: Lives, first: int, last: int) -> None:
        life = lives.one_more()
        if first <= life <= last:
            os._exit(3)

    def pid(self) -> int:
        return os.getpid()

    def die(self) -> None:
        os._exit(4)


class PlainSlowBirth:
    """Meets somebody in its constructor, from its second life on."""

    def __init__(self, lives: Lives, meeting: Meeting) -> None:
        if lives.one_more() > 1:
            meeting.here()
            meeting.wait()

    def pid(self) -> int:
        return os.getpid()

    def die(self) -> None:
        os._exit(4)


class PlainRaisesLater:
    """Its constructor raises in its second life."""

    def __init__(self, lives: Lives) -> None:
        if lives.one_more() > 1:
            raise LookupError("not again")

    def die(self) -> None:
        os._exit(4)


Mortal = aioray.remote(PlainMortal)
AsyncMortal = aioray.remote(PlainAsyncMortal)
LateDeath = aioray.remote(PlainLateDeath)
SlowBirth = aioray.remote(PlainSlowBirth)
RaisesLater = aioray.remote(PlainRaisesLater)
