"""One epoll, its timers, and what is to be written: what one turn does. `reactor.py` says who takes the turn."""

from __future__ import annotations

import abc
import collections
import contextlib
import heapq
import itertools
import logging
import os
import select
import threading
import time
from typing import TYPE_CHECKING, Protocol

from aioray.runtime.spinning import Spinning

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("aioray")

_BUFFER_NBYTES = 256 * 1024


class Handler(Protocol):
    """What is registered for a file descriptor. Both are called with the reactor's lock held.

    One that raises is logged, and does not disturb the others; what has `on_failure(exc)` is told, and should give up.
    """

    def on_readable(self) -> None: ...
    def on_writable(self) -> None: ...


class Flushable(Protocol):
    """Something with output to write before the next wait."""

    def flush(self) -> None: ...


class Timer:
    """A call that is due later; `cancel` makes it not happen."""

    __slots__ = ("cancelled", "fn")

    def __init__(self, fn: Callable[[], None]) -> None:
        self.fn = fn
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Poller(abc.ABC):
    """Handlers, timers and dirty connections. All state is guarded by `lock`; `time` is what timers go by (s)."""

    def __init__(self, *, spin_us: float, clock: Callable[[], float]) -> None:
        self.lock = threading.RLock()
        self.time = clock
        self.closed = False
        # Connections receive into this, one at a time: a fresh buffer for each read would cost three system calls more.
        self.buffer = memoryview(bytearray(_BUFFER_NBYTES))
        self._spinning = Spinning()
        # On a single core the answer cannot come while we look.
        self._spin_s = self._usual_spin_s = spin_us / 1e6 if len(os.sched_getaffinity(0)) > 1 else 0.0
        self._hops: list[int] = []  # that answers take which somebody expects, where they are more than there and back
        self._epoll = select.epoll()
        self._wakeup_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wakeup_fd, select.EPOLLIN)
        self._handlers: dict[int, Handler] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._timer_order = itertools.count()
        self._soon: collections.deque[Callable[[], None]] = collections.deque()
        self._dirty: list[Flushable] = []
        self._flush_pending = False
        self._is_falling_asleep = False  # who polls has looked for the last time, and must be woken from now on

    @abc.abstractmethod
    def _request_turn(self) -> None:
        """There is something to flush: have whoever polls do it before the next wait."""

    @abc.abstractmethod
    def _arm(self) -> None:
        """The first timer is another one now: whoever polls must not wait too long."""

    # registration

    def register(self, fd: int, handler: Handler) -> None:
        self._handlers[fd] = handler
        self._epoll.register(fd, select.EPOLLIN)

    def watch_writable(self, fd: int, wanted: bool) -> None:
        self._epoll.modify(fd, select.EPOLLIN | (select.EPOLLOUT if wanted else 0))

    def unregister(self, fd: int) -> None:
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_later(self, delay_s: float, fn: Callable[[], None]) -> Timer:
        """Call `fn` (under the lock) after `delay_s` seconds."""
        timer = Timer(fn)
        with self.lock:
            first = not self._timers or self._timers[0][0] > self.time() + delay_s
            heapq.heappush(self._timers, (self.time() + delay_s, next(self._timer_order), timer))
            if first:
                self._arm()
        return timer

    def call_soon(self, fn: Callable[[], None]) -> None:
        """Call `fn` (under the lock) from whoever does the I/O. Safe in any thread and in finalizers."""
        self._soon.append(fn)
        self._request_turn()

    def mark_dirty(self, connection: Flushable) -> None:
        """Have `connection.flush()` called before the next wait. The lock is held."""
        self._dirty.append(connection)
        self._request_turn()

    def wake(self) -> None:
        """Make the leader look around."""
        with contextlib.suppress(OSError, ValueError):  # it is closed
            os.eventfd_write(self._wakeup_fd, 1)

    def expect_hops(self, hops: int) -> None:
        """Answers come that go from process to process: look for them as much longer. The lock is held."""
        self._hops.append(hops)
        self._stretch_spin()

    def expect_hops_no_more(self, hops: int) -> None:
        """Undo `expect_hops`."""
        self._hops.remove(hops)
        self._stretch_spin()

    @property
    def spin_s(self) -> float:
        """How long to look for what is expected before sleeping; 0 where nobody is to look."""
        return self._spin_s

    def _stretch_spin(self) -> None:
        self._spin_s = self._usual_spin_s * max([2, *self._hops]) / 2

    # one turn

    def flush(self) -> None:
        """Write what is to be written, and make the calls that were asked for soon."""
        with self.lock:
            self._flush_pending = False
            while self._soon:
                fn = self._soon.popleft()
                try:
                    fn()
                except Exception as exc:
                    self._failed(fn, exc)
            while self._dirty:
                dirty, self._dirty = self._dirty, []
                for connection in dirty:
                    try:
                        connection.flush()
                    except Exception as exc:
                        self._failed(connection, exc)

    def _run_timers(self) -> None:
        timers = self._timers
        now = self.time()
        while timers and (timers[0][0] <= now or timers[0][2].cancelled):
            timer = heapq.heappop(timers)[2]
            if not timer.cancelled:
                try:
                    timer.fn()
                except Exception as exc:
                    self._failed(timer.fn, exc)

    def _handle(self, events: list[tuple[int, int]]) -> None:
        with self.lock:
            for fd, mask in events:
                if fd == self._wakeup_fd:
                    with contextlib.suppress(BlockingIOError):
                        os.eventfd_read(fd)
                    continue
                handler = self._handlers.get(fd)
                if handler is None:
                    continue
                try:
                    if mask & select.EPOLLOUT:
                        handler.on_writable()
                    if mask & ~select.EPOLLOUT:
                        handler.on_readable()
                except Exception as exc:
                    self._failed(handler, exc)
            if self._timers:
                self._run_timers()

    def _failed(self, what: object, exc: Exception) -> None:
        """Our own fault. Who waits for what got lost here must hear of it, and all others must notice nothing."""
        _log.error("aioray: an error in aioray itself, in %r; please report it", what, exc_info=exc)
        on_failure = getattr(what, "on_failure", None)
        if on_failure is not None:
            try:
                on_failure(exc)
            except Exception:
                _log.exception("aioray: giving up %r failed, too", what)

    def poll_once(self, timeout_s: float | None, *, spin: bool = False) -> None:
        """One turn of the leader: write, wait at most `timeout_s`, handle. Not under the lock."""
        if self._flush_pending:
            self.flush()
        if self._timers:
            until = max(0.0, self._timers[0][0] - self.time())
            timeout_s = until if timeout_s is None else min(until, timeout_s)
        self._is_falling_asleep = True
        if self._flush_pending:  # by a finalizer, just now
            timeout_s, spin = 0.0, False
        events = self._look_then_wait(timeout_s) if spin else self._epoll.poll(timeout_s)
        self._is_falling_asleep = False
        self._handle(events)
        if self._flush_pending:
            self.flush()

    def _look_then_wait(self, timeout_s: float | None) -> list[tuple[int, int]]:
        return self._spin() or self._epoll.poll(timeout_s)

    def _spin(self) -> list[tuple[int, int]]:
        """What comes within a moment, where looking has paid lately."""
        poll, spinning = self._epoll.poll, self._spinning
        if spinning.is_worth_it():
            until = time.perf_counter() + self._spin_s
            while True:
                events = poll(0)
                if events:
                    spinning.hit()
                    return events
                if time.perf_counter() >= until:
                    break
            spinning.missed()
        return []
