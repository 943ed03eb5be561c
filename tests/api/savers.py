"""Actors with checkpoints, for tests; apart from these, since every worker that gets one imports this."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import aioray


class PlainSaver:
    """Saves after every call."""

    def __init__(self, start: int = 0) -> None:
        self.start = start
        self.total = start
        self.kept: Any = None
        self.trouble = False
        self.saved = 0

    def __aioray_checkpoint__(self) -> Any:
        if self.trouble:
            raise RuntimeError("the disk is round")
        self.saved += 1
        return {"total": self.total, "kept": self.kept}

    def __aioray_restore__(self, state: Any) -> None:
        self.total, self.kept = state["total"], state["kept"]

    def add(self, amount: int) -> int:
        self.total += amount
        return self.total

    def fail_after_adding(self, amount: int) -> None:
        self.total += amount
        raise LookupError("after it was added")

    def keep(self, value: Any) -> None:
        self.kept = value

    def keeps(self) -> Any:
        return self.kept

    def make_trouble(self) -> None:
        self.trouble = True

    def started_at(self) -> int:
        return self.start

    def times_saved(self) -> int:
        return self.saved

    def pid(self) -> int:
        return os.getpid()

    def die(self) -> None:
        os._exit(1)

    def sys_exit(self, amount: int = 0) -> None:
        self.total += amount
        sys.exit(1)


class PlainRareSaver(PlainSaver):
    """Saves after every third call."""

    @aioray.checkpoint(every_calls=3)
    def __aioray_checkpoint__(self) -> Any:
        return super().__aioray_checkpoint__()


class PlainTimedSaver(PlainSaver):
    """Saves when 50 ms have gone by, and says so."""

    @aioray.checkpoint(every_s=0.05)
    def __aioray_checkpoint__(self) -> Any:
        return super().__aioray_checkpoint__()


class PlainLateSaver(PlainSaver):
    """Would save after an hour; but it leaves before."""

    @aioray.checkpoint(every_s=3600)
    def __aioray_checkpoint__(self) -> Any:
        return super().__aioray_checkpoint__()


class PlainAsyncSaver:
    def __init__(self) -> None:
        self.total = 0

    async def __aioray_checkpoint__(self) -> int:
        await asyncio.sleep(0)
        return self.total

    async def __aioray_restore__(self, state: int) -> None:
        await asyncio.sleep(0)
        self.total = state

    async def add(self, amount: int) -> int:
        self.total += amount
        await asyncio.sleep(0)
        return self.total

    async def die(self) -> None:
        os._exit(1)

    async def sys_exit(self) -> None:
        sys.exit(1)


class PlainBadRestore(PlainSaver):
    def __aioray_restore__(self, state: Any) -> None:
        raise ValueError("what is this?")


Saver = aioray.remote(PlainSaver)
RareSaver = aioray.remote(PlainRareSaver)
TimedSaver = aioray.remote(PlainTimedSaver)
LateSaver = aioray.remote(PlainLateSaver)
AsyncSaver = aioray.remote(PlainAsyncSaver)
BadRestore = aioray.remote(PlainBadRestore)
