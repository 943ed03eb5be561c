"""Light actors for tests, apart from these: every worker that gets one imports this."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import sys
import threading
from typing import TYPE_CHECKING, Any

import aioray

if TYPE_CHECKING:
    from tests.api.support import Meeting


class PlainLight:
    """Plain methods, which run in threads, one at a time."""

    def __init__(self, start: int = 0) -> None:
        self.value = start
        self.calls: list[int] = []
        self.inside = 0

    def add(self, amount: int = 1) -> int:
        self.value += amount
        return self.value

    def note(self, number: int) -> int:
        self.inside += 1
        assert self.inside == 1, "two calls at once"
        self.calls.append(number)
        self.inside -= 1
        return threading.get_ident()

    def notes(self) -> list[int]:
        return self.calls

    def pid(self) -> int:
        return os.getpid()

    def in_main_thread(self) -> bool:
        return threading.current_thread() is threading.main_thread()

    def fail(self) -> None:
        raise LookupError("mine alone")

    def sys_exit(self, status: Any = None) -> None:
        sys.exit(status)

    def die(self) -> None:
        os._exit(9)

    def ask(self, other: Any) -> Any:
        return aioray.get(other.add.remote(0))

    def make(self, start: int) -> Any:
        return Light.remote(start)


class PlainAsyncLight:
    async def __init__(self, start: Any = 0) -> None:  # type: ignore[misc] # ours: a constructor may be awaited
        await asyncio.sleep(0)
        if start == "raise":
            raise KeyError("bad start")
        self.value = start
        self.event = asyncio.Event()

    async def get(self) -> Any:
        return self.value

    async def wait(self) -> str:
        await self.event.wait()
        return "released"

    async def release(self) -> None:
        self.event.set()

    async def find_in_thread(self, name: str) -> Any:
        def find() -> Any:
            return aioray.get(aioray.get_actor(name).get.remote()), aioray.get_runtime_context().get_job_id()

        return await asyncio.get_running_loop().run_in_executor(None, find)

    async def sum_of(self, others: list[Any]) -> int:
        return sum(await asyncio.gather(*[other.get.remote() for other in others]))


class PlainStubborn:
    """Goes on with its constructor although that is cancelled."""

    async def __init__(self, meeting: Meeting, freed: str) -> None:  # type: ignore[misc] # as above
        self.freed = freed
        meeting.here()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    def __del__(self) -> None:
        pathlib.Path(self.freed).touch()


class PlainRaises:
    def __init__(self, how: str) -> None:
        if how == "exit":
            sys.exit(3)
        raise LookupError(how)

    def nothing(self) -> None:
        pass


class PlainBlocks:
    """Meets somebody in a method."""

    def wait(self, meeting: Meeting) -> str:
        meeting.here()
        meeting.wait()
        return "met"

    def pid(self) -> int:
        return os.getpid()


class PlainCrashes:
    def __init__(self) -> None:
        os._exit(9)


Light = aioray.remote(isolation="shared")(PlainLight)
Crashes = aioray.remote(isolation="shared")(PlainCrashes)
AsyncLight = aioray.remote(isolation="shared")(PlainAsyncLight)
Raises = aioray.remote(isolation="shared")(PlainRaises)
Stubborn = aioray.remote(isolation="shared")(PlainStubborn)
Blocks = aioray.remote(isolation="shared")(PlainBlocks)
