"""tqdm: progress of a loop, in the driver or in a task, shown at the driver."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterable, Iterable, Sized
from typing import TYPE_CHECKING, Any, Self

from aioray.exceptions import InvalidOptionError
from aioray.util.waiting import check_count, check_timeout

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

_WIDTH = 20


class tqdm:  # as everybody knows it
    """`for item in tqdm(items):` shows how far it is: `async for` works as well, and `update(n)` by hand.

    In a task or an actor it prints a line every flush_interval_s (seconds, default 1) that the driver shows like all
    that workers print; so does a driver whose stderr is no terminal. On a terminal the driver's own line is redrawn.
    desc: what stands before it. total: how many there will be, default len(iterable) where it has one. unit: what they
    are, default "it". position: a number to tell bars of the same name apart.
    """

    DEFAULT_FLUSH_INTERVAL_SECONDS = 1.0

    def __init__(
        self,
        iterable: Iterable[Any] | AsyncIterable[Any] | None = None,
        desc: str | None = None,
        total: int | None = None,
        unit: str | None = None,
        position: int | None = None,
        flush_interval_s: float | None = None,
    ) -> None:
        if iterable is not None and not isinstance(iterable, (Iterable, AsyncIterable)):
            raise TypeError(f"tqdm takes something to iterate over, not a {type(iterable).__name__}")
        for name, count in (("total", total), ("position", position)):
            if count is not None:
                check_count(count, name, 0)
        for name, text in (("desc", desc), ("unit", unit)):
            if text is not None and not isinstance(text, str):
                raise InvalidOptionError(name, text, "None, or a text")
        check_timeout(flush_interval_s, "flush_interval_s")
        self._iterable = iterable
        self._desc = desc or ""
        self._unit = unit or "it"
        self._position = position
        self.total = len(iterable) if total is None and isinstance(iterable, Sized) else total
        self.n = 0
        self._every_s = self.DEFAULT_FLUSH_INTERVAL_SECONDS if flush_interval_s is None else flush_interval_s
        self._began = self._shown = time.monotonic()
        self._closed = False
        self._drawn = 0  # how wide the line is that stands on the terminal

    def __iter__(self) -> Iterator[Any]:
        if not isinstance(self._iterable, Iterable):
            raise TypeError("this tqdm has nothing to iterate over with for")
        with self:
            for item in self._iterable:
                yield item
                self.update()

    async def __aiter__(self) -> AsyncIterator[Any]:
        if not isinstance(self._iterable, AsyncIterable):
            raise TypeError("this tqdm has nothing to iterate over with async for")
        with self:
            async for item in self._iterable:
                yield item
                self.update()

    def update(self, n: int = 1) -> None:
        """So many more are done."""
        self.n += n
        if time.monotonic() - self._shown >= self._every_s:
            self.refresh()

    def set_description(self, desc: str) -> None:
        """Change what stands before it."""
        self._desc = desc

    def refresh(self) -> None:
        """Show it now."""
        if not self._closed:
            self._show(end=False)

    def close(self) -> None:
        """Show it for the last time. Safe to call twice."""
        if not self._closed:
            self._show(end=True)
            self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __str__(self) -> str:
        took_s = time.monotonic() - self._began
        name = self._desc if self._position is None else f"{self._desc} [{self._position}]".lstrip()
        head = f"{name}: " if name else ""
        tail = f"[{took_s:.1f} s, {self.n / took_s if took_s else 0:.1f} {self._unit}/s]"
        if not self.total:
            return f"{head}{self.n} {self._unit} {tail}"
        share = min(1.0, self.n / self.total)
        bar = "#" * int(share * _WIDTH)
        return f"{head}{int(100 * share):3d}%|{bar:{_WIDTH}}| {self.n}/{self.total} {tail}"

    def _show(self, *, end: bool) -> None:
        self._shown = time.monotonic()
        stream = sys.stderr
        line = str(self)
        try:
            if stream.isatty():
                stream.write(f"\r{line:{self._drawn}}" + ("\n" if end else ""))
                self._drawn = len(line)
            else:
                stream.write(line + "\n")
            stream.flush()
        except (OSError, ValueError):  # nobody reads it any more: no reason to end the loop
            pass
