"""Who does the I/O of a process: whichever thread waits for it, or an event loop that adopts it.

A synchronous program has no event loop, and a thread that does the I/O for it would cost two thread switches a call.
So the sockets of a process hang on one epoll, and *the thread that waits leads*: it polls and handles what comes until
its own answer is there. Others that wait meanwhile follow. When nobody leads for a moment (the program computes), a
helper thread does, and steps down as soon as somebody waits again. An event loop that is attached leads for as long
as it is: an epoll is itself a file that a loop can watch.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

from aioray.runtime.poller import Poller

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

_log = logging.getLogger("aioray")
_all: weakref.WeakSet[Reactor] = weakref.WeakSet()  # for what happens at a fork

_HELPER_PERIOD_S = 0.002  # how long nobody may lead before the helper does
_HELPER_LONG_PERIOD_S = 0.01  # the same, where threads led more than _OFTEN times in the period before
_OFTEN = 4
# What the module's functions wrap: the wrappers spend microseconds on looking for enum members.
_signal: Any = importlib.import_module("_signal")
_set_handler, _get_handler = _signal.signal, _signal.getsignal
_HELPER_PARKED_S = 1.0  # it is woken; this is for the thread that was interrupted in the middle of waking it
_HELPER_IDLE_ROUNDS = 20  # after that many looks at a program that waits anyway, the helper sleeps


class _Follower:
    """A thread that waits for its turn. `wake` may be called in the middle of `sleep`, by a signal handler."""

    __slots__ = ("_locked", "done")

    def __init__(self, done: Callable[[], bool]) -> None:
        self.done = done
        self._locked = threading.Lock()  # not an Event: that has a lock of its own to be caught with
        self._locked.acquire()

    def sleep(self, timeout_s: float | None) -> None:
        self._locked.acquire(timeout=-1 if timeout_s is None else min(timeout_s, threading.TIMEOUT_MAX))

    def wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is awake
            self._locked.release()


class Reactor(Poller):
    """A poller, and who polls: threads that wait, the helper, or an attached event loop."""

    def __init__(
        self, name: str = "aioray", *, spin_us: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(spin_us=spin_us, clock=clock)
        self.on_helper_leads: Callable[[], None] | None = None
        self._name = name
        # Re-entrant for one reason: it knows its owner. An exception that a signal handler raises between any two
        # steps of taking it can be caught then, and it is let go (see _try_to_lead).
        self._lead = threading.RLock()
        self._leader = 0  # thread ident; 0 when nobody leads
        self._attaching = 0  # loops that want to lead: threads make room for them, and follow
        self._followers: list[_Follower] = []
        self._beat = 0
        self._helper: threading.Thread | None = None
        self._helper_leads = False
        self._parked = False
        self._unpark = threading.Semaphore(0)
        self._interrupt: BaseException | Callable[[], object] | None = None
        self._shields = 0  # that the main thread has up, one in the other
        self._handlers_of_sigint: tuple[Any, Any] | None = None  # the program's, and ours, which puts it off
        self.careful_handler: Any = None  # of SIGINT, which asks `in_our_hands` itself, and need not be put off
        self._waiting_main = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        self._loop_timer: asyncio.TimerHandle | None = None
        self._loop_timer_due = 0.0
        _all.add(self)

    def _request_turn(self) -> None:
        if self._flush_pending:
            return
        self._flush_pending = True
        loop = self._loop
        if loop is not None:
            # RuntimeError: the loop is closed, and so are we, in a moment.
            with contextlib.suppress(RuntimeError):
                if threading.get_ident() == self._loop_thread:
                    loop.call_soon(self._turn_on_loop)
                else:
                    loop.call_soon_threadsafe(self._turn_on_loop)
        elif self._is_falling_asleep or self._leader not in (0, threading.get_ident()):
            self.wake()

    def nudge(self) -> None:
        """Something was completed outside of the I/O (by a cancel, say): threads that wait for it must look again."""
        if self._loop is None and self._leader not in (0, threading.get_ident()):
            self.wake()
        self._tell_followers()

    def _arm(self) -> None:
        if self._loop is not None:
            if threading.get_ident() == self._loop_thread:
                self._arm_loop_timer()
            else:
                self._request_turn()
        elif self._leader not in (0, threading.get_ident()):
            self.wake()

    # leading and following

    def run_until(self, done: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Do the I/O, or let who does it go on, until `done()`; False when `timeout_s` went by first."""
        deadline = None if timeout_s is None else self.time() + timeout_s
        while not done():
            if self.closed:
                return done()
            left = None if deadline is None else deadline - self.time()
            if left is not None and left <= 0:
                self._try_to_lead(done, None, once=True)  # timeout 0 still takes what lies ready
                return done()
            if not self._try_to_lead(done, deadline):
                self._follow(done, left)
        return True

    def _try_to_lead(self, done: Callable[[], bool], deadline: float | None, *, once: bool = False) -> bool:
        """Lead until `done()`, or for one look; False when somebody else does, or is about to."""
        if self._is_taken():
            return False
        if self._leader == threading.get_ident():  # a signal handler, or a finalizer, of user code
            if self.lock._is_owned():  # type: ignore[attr-defined]
                raise RuntimeError("a finalizer may not wait for the cluster: it can run in the middle of aioray's I/O")
            self._lead_until(done, deadline, once=once)
            self.wake()  # what was interrupted must look again, too: we may have taken what it waits for
            return True
        try:
            if not self._lead.acquire(blocking=False):
                return False
            self._leader = threading.get_ident()
            self._beat += 1
            if self._is_taken():
                return False
            self._lead_until(done, deadline, once=once)
            return True
        finally:
            try:
                if self._lead._is_owned():  # type: ignore[attr-defined]
                    self._let_go()
            finally:  # Ctrl-C may come in the middle of the line above
                if self._lead._is_owned():  # type: ignore[attr-defined]
                    self._let_go()

    def _is_taken(self) -> bool:
        """Whether a loop leads, or wants to."""
        return self._loop is not None or self._attaching > 0

    def _let_go(self) -> None:
        """Pass the lead on, to who follows or to the helper."""
        try:
            self._leader = 0
            self._lead.release()
        finally:
            if self._followers:
                self._pass_the_lead()
            if self._parked:  # the followers may have what they waited for, and leave without leading
                self._unpark_helper()

    def _lead_until(self, done: Callable[[], bool], deadline: float | None, *, once: bool) -> None:
        while not done() and not self.closed:
            if once:
                self.poll_once(0)
                return
            left = None if deadline is None else deadline - self.time()
            if (left is not None and left <= 0) or self._attaching:
                return
            if self._flush_pending:
                self.flush()
                continue  # a call that was made, or a connection found broken, may be what is waited for
            self.poll_once(left, spin=self._spin_s > 0.0)
            if self._interrupt is not None:
                self._raise_interrupt()
            self._tell_followers()

    def _tell_followers(self) -> None:
        """Wake those that have what they wait for."""
        if self._followers:
            for follower in list(self._followers):
                if follower.done():
                    follower.wake()

    def _pass_the_lead(self) -> None:
        for follower in list(self._followers):
            follower.wake()

    def _follow(self, done: Callable[[], bool], timeout_s: float | None) -> None:
        follower = _Follower(done)
        is_main = threading.current_thread() is threading.main_thread()
        try:
            # In here, and taken out first below: one that stayed for ever would keep the helper from leading.
            self._followers.append(follower)
            self._waiting_main = self._waiting_main or is_main
            if self._leader == 0 and self._loop is None and not self._attaching:
                return  # it was let go just now: try again
            if self.closed:
                return
            if self._helper_leads:
                self.wake()
            if done():
                return
            follower.sleep(timeout_s)
        finally:
            self._followers.remove(follower)
            if is_main:
                self._waiting_main = False
        if self._interrupt is not None:
            self._raise_interrupt()

    # interrupting the main thread

    def in_our_hands(self) -> bool:
        """Whether the main thread, which asks, is inside this class or holds the lock: raising there loses data."""
        if self._shields:
            return True
        ident = threading.get_ident()
        return self._leader == ident or self._waiting_main or self.lock._is_owned()  # type: ignore[attr-defined]

    def raise_shield(self) -> None:
        """Until `lower_shield`, Ctrl-C is handled in `run_until` of the main thread, which asks, and nowhere else.

        What handles it, Python's own handler or the program's, would raise in the middle of a message otherwise, and
        what else had come with that were lost. Shields nest.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        self._shields += 1
        if self._shields > 1:
            return
        handler = _get_handler(signal.SIGINT)
        if callable(handler) and handler is not self.careful_handler:

            def put_off(*args: Any) -> None:
                self.interrupt(lambda: handler(*args))

            self._interrupt = None
            self._handlers_of_sigint = handler, put_off
            _set_handler(signal.SIGINT, put_off)

    def lower_shield(self) -> None:
        """Undo `raise_shield`; handles Ctrl-C, where it came and no `run_until` has."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._shields -= 1
        if self._handlers_of_sigint is not None and not self._shields:
            (handler, put_off), self._handlers_of_sigint = self._handlers_of_sigint, None
            if _get_handler(signal.SIGINT) is put_off:  # else the program's has set another one
                _set_handler(signal.SIGINT, handler)
            self._raise_interrupt()

    def interrupt(self, interrupt: BaseException | Callable[[], object]) -> None:
        """Have the main thread raise this, or call it, in the `run_until` it is in, or is about to enter."""
        self._interrupt = interrupt
        self.wake()
        self._pass_the_lead()

    @property
    def is_interrupting(self) -> bool:
        """Whether what `interrupt` was given is still to be raised."""
        return self._interrupt is not None

    def forget_interrupt(self) -> None:
        """What was to be interrupted is over."""
        self._interrupt = None

    def _raise_interrupt(self) -> None:
        interrupt = self._interrupt
        if interrupt is not None and threading.current_thread() is threading.main_thread():
            self._interrupt = None
            try:
                if isinstance(interrupt, BaseException):
                    raise interrupt
                interrupt()
            finally:
                del interrupt  # else its traceback leads back to it, and keeps all that was interrupted alive

    # the helper

    def start_helper(self) -> None:
        """Start the thread that leads while nobody else does."""
        self._helper = threading.Thread(target=self._help, name=f"{self._name}-helper", daemon=True)
        self._helper.start()

    def _unpark_helper(self) -> None:
        self._parked = False
        self._unpark.release()

    def _help(self) -> None:
        seen, rounds, period_s = self._beat, 0, _HELPER_PERIOD_S
        while not self.closed:
            # Not a poll for state: this is the delay after which leading is worth a thread switch.
            self._unpark.acquire(timeout=period_s)
            if self._beat != seen:
                # A look costs the leader a wait for the GIL, so who leads often is looked at less often.
                period_s = _HELPER_LONG_PERIOD_S if self._beat - seen > _OFTEN else _HELPER_PERIOD_S
                seen, rounds = self._beat, 0
                continue
            period_s = _HELPER_PERIOD_S
            if self._help_once():
                seen = self._beat
                continue
            rounds += 1
            if rounds >= _HELPER_IDLE_ROUNDS:
                self._parked = True
                if self._leader != 0 or self._loop is not None:  # else: it was let go before we said so
                    self._unpark.acquire(timeout=_HELPER_PARKED_S)
                self._parked = False
                rounds = 0

    def _help_once(self) -> bool:
        """Lead until somebody follows; False when somebody else does."""
        if self._is_taken() or not self._lead.acquire(blocking=False):
            return False
        self._leader = threading.get_ident()
        try:
            if self._is_taken():
                return False
            self._helper_leads = True
            if self.on_helper_leads is not None:
                with self.lock:
                    self.on_helper_leads()
            while not self._followers and not self._attaching and not self.closed:
                self.poll_once(None)
            return True
        except Exception as exc:  # the helper is needed for as long as the process has a cluster
            self._failed(self, exc)
            return True
        finally:
            self._helper_leads = False
            self._let_go()

    @property
    def helper_leads(self) -> bool:
        return self._helper_leads

    # event loops

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let `loop` do the I/O, from its own thread (the caller's), until `detach`."""
        self._attaching += 1  # makes who leads step down
        try:
            self.wake()
            with self._lead, self.lock:
                loop.add_reader(self._epoll.fileno(), self._ready_on_loop)
                self._leader = self._loop_thread = threading.get_ident()
                self._loop = loop
                self._beat += 1
                self._flush_pending = False
                self._request_turn()
                self._arm_loop_timer()
        finally:
            self._attaching -= 1
            if self._loop is None:
                self._pass_the_lead()

    def detach(self) -> None:
        """Take the I/O back from the loop."""
        loop = self._loop
        if loop is None:
            return
        with self.lock:
            if not loop.is_closed():
                loop.remove_reader(self._epoll.fileno())
                if self._loop_timer is not None:
                    self._loop_timer.cancel()
            self._loop_timer = None
            self._leader = self._loop_thread = 0
            self._loop = None
            self._flush_pending = bool(self._dirty or self._soon)
        self._pass_the_lead()
        if self._parked:
            self._unpark_helper()

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that does the I/O, if one is attached."""
        return self._loop

    def in_loop(self) -> bool:
        """Whether the caller runs in the attached loop's thread, where nothing may block."""
        return self._loop is not None and threading.get_ident() == self._loop_thread

    def runs_in(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether the caller runs in `loop`, and `loop` is the attached one."""
        return self._loop is loop and threading.get_ident() == self._loop_thread

    def look(self, most_s: float = 0.0) -> bool:
        """Handle what lies ready, or comes within `most_s` (s); whether there was something.

        In the attached loop's thread, outside of handlers.
        """
        poll, now = self._epoll.poll, time.perf_counter
        until = now() + most_s
        while not (events := poll(0)):
            if now() >= until:
                return False
        self._handle(events)
        self._tell_followers()
        self._arm_loop_timer()
        return True

    def linger(self) -> None:
        """Look for a moment before the loop sleeps. In the attached loop's thread, outside of handlers."""
        if self.closed or self._spin_s <= 0.0:
            return
        events = self._spin()
        if events:
            self._handle(events)
            self._tell_followers()

    def _ready_on_loop(self) -> None:
        if self.closed:
            return
        self._handle(self._epoll.poll(0))
        self._tell_followers()
        self._arm_loop_timer()

    def _turn_on_loop(self) -> None:
        self.flush()
        self._tell_followers()
        self._arm_loop_timer()

    def _arm_loop_timer(self) -> None:
        if not self._timers or self._loop is None:
            return
        due = self._timers[0][0]
        if self._loop_timer is not None:
            if self._loop_timer_due == due:
                return
            self._loop_timer.cancel()
        self._loop_timer_due = due
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop_timer = self._loop.call_later(max(0.0, due - self.time()), self._timer_on_loop)

    def _timer_on_loop(self) -> None:
        self._loop_timer = None
        with self.lock:
            self._run_timers()
        self._tell_followers()
        self._arm_loop_timer()

    # the end

    def close(self) -> None:
        """Let go of everything; threads that wait return."""
        if self.closed:
            return
        self.flush()
        self.detach()
        self.closed = True
        self.wake()
        self._pass_the_lead()
        self._unpark_helper()
        if self._helper is not None and self._helper is not threading.current_thread():
            self._helper.join()
        with self._lead, self.lock:  # a leader in another thread has left by now
            self._handlers.clear()
            self._soon.clear()
            self._epoll.close()
            # From now on the number may be somebody else's: nobody must write to it any more.
            fd, self._wakeup_fd = self._wakeup_fd, -1
            os.close(fd)

    def disown(self) -> None:
        """In a forked child: all this is the parent's. Touch nothing that is shared, and keep nothing open."""
        self.lock = threading.RLock()
        self._lead = threading.RLock()
        self._followers = []
        self._helper = None
        self._loop = None
        self._leader = self._attaching = self._loop_thread = 0
        if self.closed:
            return
        self.closed = True
        handlers, self._handlers = self._handlers, {}
        self._dirty.clear()
        self._soon.clear()
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for fd in handlers:
            # Else the peer would not see the end of the parent. Replaced, not closed: some object owns the number.
            os.dup2(null, fd, inheritable=False)
        os.close(null)
        self._epoll.close()
        fd, self._wakeup_fd = self._wakeup_fd, -1
        os.close(fd)


def _disown_all() -> None:
    for reactor in list(_all):
        reactor.disown()


os.register_at_fork(after_in_child=_disown_all)
