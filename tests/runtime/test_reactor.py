"""Who leads, who follows, and that nobody is left waiting: the reactor alone, over event descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from aioray.runtime.reactor import Reactor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE_S = 10.0


class Bell:
    """A descriptor that is rung from outside, as a peer would; `rings` is what the reactor heard."""

    def __init__(self, reactor: Reactor) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.rings = 0
        self.heard_by: set[int] = set()
        self.fail_with: BaseException | None = None
        reactor.register(self.fd, self)

    def ring(self) -> None:
        os.eventfd_write(self.fd, 1)

    def on_readable(self) -> None:
        os.eventfd_read(self.fd)
        self.rings += 1
        self.heard_by.add(threading.get_ident())
        if self.fail_with is not None:
            raise self.fail_with

    def on_writable(self) -> None: ...

    def heard(self, count: int) -> Callable[[], bool]:
        return lambda: self.rings >= count


@contextlib.contextmanager
def shielded(reactor: Reactor) -> Iterator[None]:
    reactor.raise_shield()
    try:
        yield
    finally:
        reactor.lower_shield()


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    reactor = Reactor("test")
    yield reactor
    reactor.close()


@pytest.fixture
def bell(reactor: Reactor) -> Iterator[Bell]:
    bell = Bell(reactor)
    yield bell
    reactor.unregister(bell.fd)
    os.close(bell.fd)


class Waiter(threading.Thread):
    """A thread that waits for a condition with `run_until`."""

    def __init__(self, reactor: Reactor, done: Callable[[], bool], timeout_s: float | None = PATIENCE_S) -> None:
        super().__init__(daemon=True)
        self._reactor, self._done, self._timeout_s = reactor, done, timeout_s
        self.outcome: bool | BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.outcome = self._reactor.run_until(self._done, self._timeout_s)
        except BaseException as exc:
            self.outcome = exc

    def finish(self) -> bool | BaseException | None:
        self.join(PATIENCE_S)
        assert not self.is_alive(), "it waits for ever"
        return self.outcome


def until(condition: Callable[[], object]) -> None:
    """Until another thread has come to where it is wanted."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.0005)


# leading and following


def test_the_thread_that_waits_does_the_io_itself(reactor: Reactor, bell: Bell) -> None:
    bell.ring()
    assert reactor.run_until(bell.heard(1))
    assert bell.heard_by == {threading.get_ident()}


def test_what_is_true_already_is_not_waited_for(reactor: Reactor, bell: Bell) -> None:
    bell.ring()
    assert reactor.run_until(lambda: True)
    assert bell.rings == 0


def test_a_wait_that_is_in_vain_ends_in_time(reactor: Reactor) -> None:
    started = time.monotonic()
    assert not reactor.run_until(lambda: False, 0.05)
    assert 0.05 <= time.monotonic() - started < 1.0


def test_a_timeout_of_zero_still_takes_what_lies_ready(reactor: Reactor, bell: Bell) -> None:
    assert not reactor.run_until(bell.heard(1), 0.0)
    bell.ring()
    assert reactor.run_until(bell.heard(1), 0.0)


def test_each_of_many_threads_hears_when_its_turn_has_come(reactor: Reactor, bell: Bell) -> None:
    """
    1. eight threads wait: one leads, seven follow
    2. at each ring one of them has what it waits for, be it the leader or a follower
    3. the lead is passed on until the last has gone
    """
    waiters = [Waiter(reactor, bell.heard(count)) for count in (1, 5, 2, 8, 3, 6, 4, 7)]
    until(lambda: len(reactor._followers) == 7)
    for _ in waiters:
        before = bell.rings
        bell.ring()
        until(bell.heard(before + 1))
    assert [waiter.finish() for waiter in waiters] == [True] * 8
    assert reactor._leader == 0
    assert not reactor._followers


def test_the_lead_goes_round_under_load(reactor: Reactor, bell: Bell) -> None:
    """Threads that come and go as fast as they can: a lost wake-up would leave one of them waiting for ever."""
    reactor.start_helper()
    failed: list[int] = []

    def come_and_go(seed: int) -> None:
        for _ in range(300):
            goal = bell.rings + 1
            bell.ring()
            if not reactor.run_until(bell.heard(goal), PATIENCE_S):
                failed.append(seed)
                return

    threads = [threading.Thread(target=come_and_go, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(4 * PATIENCE_S)
    assert not any(thread.is_alive() for thread in threads)
    assert not failed


def test_a_follower_whose_time_is_up_goes(reactor: Reactor, bell: Bell) -> None:
    leader = Waiter(reactor, bell.heard(1))
    until(lambda: reactor._leader)
    assert Waiter(reactor, lambda: False, 0.02).finish() is False
    assert not reactor._followers
    bell.ring()
    assert leader.finish() is True


@pytest.mark.parametrize("with_helper", [False, True])
def test_what_another_thread_completes_is_noticed_by_leader_and_follower(reactor: Reactor, with_helper: bool) -> None:
    """A cancel, say: nothing comes over a socket, only `nudge` tells."""
    if with_helper:
        reactor.start_helper()
    done = False
    waiters = [Waiter(reactor, lambda: done) for _ in range(3)]
    until(lambda: len(reactor._followers) == 2 and reactor._leader)
    done = True
    reactor.nudge()
    assert [waiter.finish() for waiter in waiters] == [True] * 3


# the helper


def test_the_helper_leads_when_nobody_waits(reactor: Reactor, bell: Bell) -> None:
    reactor.start_helper()
    bell.ring()
    until(bell.heard(1))
    assert reactor.helper_leads


def test_the_helper_steps_down_for_a_thread_that_waits(reactor: Reactor, bell: Bell) -> None:
    reactor.start_helper()
    until(lambda: reactor.helper_leads)
    waiter = Waiter(reactor, bell.heard(1))
    until(lambda: reactor._leader == waiter.ident)
    assert not reactor.helper_leads
    bell.ring()
    assert waiter.finish() is True
    assert bell.heard_by == {waiter.ident}
    until(lambda: reactor.helper_leads)


def test_the_helper_is_told_that_it_leads(reactor: Reactor) -> None:
    told = threading.Event()
    reactor.on_helper_leads = told.set
    reactor.start_helper()
    assert told.wait(PATIENCE_S)


def test_the_helper_sleeps_while_a_thread_waits_for_long_and_wakes_when_it_goes(reactor: Reactor, bell: Bell) -> None:
    reactor.start_helper()
    waiter = Waiter(reactor, bell.heard(1))
    until(lambda: reactor._parked)
    bell.ring()
    assert waiter.finish() is True
    bell.ring()
    until(bell.heard(2))
    assert reactor.helper_leads


def test_the_helper_wakes_though_the_lead_went_to_a_follower_that_did_not_want_it(reactor: Reactor, bell: Bell) -> None:
    """
    1. one thread leads, another follows, the helper sleeps
    2. one ring is what both wait for: the lead is passed to the follower, which goes without taking it
    3. somebody must hear the next ring
    """
    reactor.start_helper()
    waiters = [Waiter(reactor, bell.heard(1)) for _ in range(2)]
    until(lambda: reactor._parked and len(reactor._followers) == 1)
    bell.ring()
    assert [waiter.finish() for waiter in waiters] == [True, True]
    bell.ring()
    until(bell.heard(2))


def test_the_helper_survives_an_error(reactor: Reactor, bell: Bell, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> None:
        raise ValueError("on_helper_leads is broken")

    reactor.on_helper_leads = broken
    reactor.start_helper()
    until(lambda: "on_helper_leads is broken" in caplog.text)
    reactor.on_helper_leads = None
    bell.ring()
    until(bell.heard(1))


# timers and calls


def test_timers_run_in_order_at_their_time(reactor: Reactor) -> None:
    ran: list[str] = []
    started = time.monotonic()
    reactor.call_later(0.03, lambda: ran.append("second"))
    reactor.call_later(0.01, lambda: ran.append("first"))
    reactor.call_later(0.02, lambda: ran.append("never")).cancel()
    assert reactor.run_until(lambda: len(ran) == 2, PATIENCE_S)
    assert ran == ["first", "second"]
    assert time.monotonic() - started >= 0.03


def test_a_timer_set_by_another_thread_wakes_the_leader(reactor: Reactor) -> None:
    ran: list[int] = []
    waiter = Waiter(reactor, lambda: bool(ran))
    until(lambda: reactor._leader)
    reactor.call_later(0.005, lambda: ran.append(threading.get_ident()))
    assert waiter.finish() is True
    assert ran == [waiter.ident]


def test_calls_from_other_threads_are_made_by_the_leader_under_the_lock(reactor: Reactor) -> None:
    made: list[bool] = []
    waiter = Waiter(reactor, lambda: len(made) == 200)
    until(lambda: reactor._leader)

    def ask() -> None:
        for _ in range(50):
            reactor.call_soon(lambda: made.append(reactor.lock._is_owned()))  # type: ignore[attr-defined]

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert waiter.finish() is True
    assert made == [True] * 200


def test_calls_asked_for_before_anybody_leads_are_made_first(reactor: Reactor) -> None:
    made: list[int] = []
    reactor.call_soon(lambda: made.append(1))
    assert reactor.run_until(lambda: bool(made), PATIENCE_S)


def test_whatever_raises_disturbs_nothing_else(reactor: Reactor, bell: Bell, caplog: pytest.LogCaptureFixture) -> None:
    """Handlers, timers and calls alike; who leads neither sees the error nor loses the lead."""
    good = Bell(reactor)
    made: list[str] = []
    bell.fail_with = RuntimeError("a bad handler")

    def bad(what: str) -> Callable[[], None]:
        def raise_it() -> None:
            raise RuntimeError(what)

        return raise_it

    reactor.call_soon(bad("a bad call"))
    reactor.call_soon(lambda: made.append("call"))
    reactor.call_later(0.0, bad("a bad timer"))
    reactor.call_later(0.0, lambda: made.append("timer"))
    bell.ring()
    good.ring()
    assert reactor.run_until(lambda: bool(bell.rings and good.rings and len(made) == 2), PATIENCE_S)
    for what in ("a bad handler", "a bad call", "a bad timer"):
        assert what in caplog.text
    reactor.unregister(good.fd)
    os.close(good.fd)


# interrupting


def test_an_interrupt_leaves_run_until_of_the_main_thread_only(reactor: Reactor) -> None:
    class Stop(BaseException):
        pass

    other = Waiter(reactor, lambda: False, 0.2)
    until(lambda: reactor._leader)
    reactor.interrupt(Stop())
    with pytest.raises(Stop):
        reactor.run_until(lambda: False, PATIENCE_S)
    assert other.finish() is False
    assert not reactor.run_until(lambda: False, 0.01)  # once is enough


def test_ctrl_c_under_a_shield_waits_until_what_is_being_handled_is_through(reactor: Reactor, bell: Bell) -> None:
    """
    1. Ctrl-C comes while a message is handled: that is through before run_until raises
    2. it comes outside of any I/O, and after all that was waited for is there: it is not lost, and tears nothing
    3. without a shield Python has its way again
    """
    torn = True

    class Torn(Bell):
        def on_readable(self) -> None:
            nonlocal torn
            os.kill(os.getpid(), signal.SIGINT)
            super().on_readable()
            torn = False

    interrupted = Torn(reactor)
    interrupted.ring()
    with pytest.raises(KeyboardInterrupt), shielded(reactor):
        reactor.run_until(interrupted.heard(2), PATIENCE_S)
    assert not torn

    def interrupted_between() -> None:
        with shielded(reactor):
            os.kill(os.getpid(), signal.SIGINT)
            bell.ring()

    with pytest.raises(KeyboardInterrupt):
        interrupted_between()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with shielded(reactor):
        assert reactor.run_until(bell.heard(1), PATIENCE_S)
    os.close(interrupted.fd)


def test_what_a_finalizer_asks_for_right_before_the_leader_sleeps_is_done_at_once() -> None:
    """Garbage is collected at any step, also between the leader's last look at what there is to do and its sleep."""
    done: list[int] = []
    is_armed = False

    def clock() -> float:
        nonlocal is_armed
        if is_armed:  # with a timer set, it is asked for in between
            is_armed = False
            restless.call_soon(lambda: done.append(1))
        return time.monotonic()

    restless = Reactor("test", clock=clock)
    with contextlib.closing(restless):
        restless.call_later(PATIENCE_S, lambda: None)
        is_armed = True
        started = time.monotonic()
        assert restless.run_until(lambda: bool(done))
        assert time.monotonic() - started < PATIENCE_S / 2


def test_ctrl_c_wakes_a_main_thread_that_follows(reactor: Reactor, bell: Bell) -> None:
    leader = threading.Thread(target=reactor.run_until, args=(bell.heard(1), PATIENCE_S))
    leader.start()
    until(lambda: bool(reactor._leader))

    def interrupt() -> None:
        until(lambda: len(reactor._followers) == 1)
        os.kill(os.getpid(), signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt), shielded(reactor):
        reactor.run_until(lambda: False, PATIENCE_S)
    bell.ring()
    leader.join()
    interrupter.join()


def test_a_shield_leaves_the_programs_own_handler_alone(reactor: Reactor) -> None:
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        with shielded(reactor):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_interrupt_that_is_not_wanted_any_more_is_forgotten(reactor: Reactor) -> None:
    reactor.interrupt(KeyboardInterrupt())
    reactor.forget_interrupt()
    assert not reactor.run_until(lambda: False, 0.01)


def test_a_signal_handler_that_raises_at_any_moment_leaves_the_lead_free(reactor: Reactor, bell: Bell) -> None:
    """Ctrl-C in `get`, five hundred times, at whatever line that may be."""

    class CtrlC(BaseException):
        pass

    def on_signal(*_: Any) -> None:
        raise CtrlC

    before = signal.signal(signal.SIGALRM, on_signal)
    reached = 0
    try:
        for at in range(500):
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-6 + at % 50 * 2e-6)
                for _ in range(20):
                    reactor.run_until(lambda: True)
                    reactor.run_until(bell.heard(1), 0.0)
                reactor.run_until(lambda: False, 0.05)
            except CtrlC:
                reached += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            assert not reactor._lead._is_owned()  # type: ignore[attr-defined]
            assert reactor._leader == 0
            assert not reactor.lock._is_owned()  # type: ignore[attr-defined]
    finally:
        signal.signal(signal.SIGALRM, before)
    assert reached > 400
    bell.ring()
    assert Waiter(reactor, bell.heard(1)).finish() is True


def test_a_signal_handler_may_itself_wait(reactor: Reactor, bell: Bell) -> None:
    inside: list[bool] = []

    def on_signal(*_: Any) -> None:
        bell.ring()
        inside.append(reactor.run_until(bell.heard(1), PATIENCE_S))

    before = signal.signal(signal.SIGALRM, on_signal)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        assert reactor.run_until(lambda: bool(inside), PATIENCE_S)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert inside == [True]


def test_a_handler_that_waits_fails_instead_of_hanging(reactor: Reactor, bell: Bell) -> None:
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            reactor.run_until(lambda: False)
        except RuntimeError as exc:
            errors.append(exc)

    reactor.call_soon(wait)
    assert reactor.run_until(lambda: bool(errors), PATIENCE_S)
    assert "finalizer" in str(errors[0])


# event loops


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop() if request.param == "asyncio" else uvloop.new_event_loop()
    loop.set_debug(True)
    yield loop
    loop.close()


async def loop_until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 # nobody tells: it is the inside of the reactor
            await asyncio.sleep(0)


def test_a_loop_does_the_io_while_it_is_attached(reactor: Reactor, bell: Bell, loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        assert not reactor.in_loop()
        reactor.attach(loop)
        assert reactor.in_loop()
        assert reactor.runs_in(loop)
        bell.ring()
        await loop_until(bell.heard(1))
        timers: list[int] = []
        reactor.call_later(0.02, lambda: timers.append(2))
        reactor.call_later(0.001, lambda: timers.append(1))
        await loop_until(lambda: len(timers) == 2)
        assert timers == [1, 2]
        calls: list[int] = []
        await asyncio.to_thread(lambda: reactor.call_soon(lambda: calls.append(threading.get_ident())))
        await loop_until(lambda: calls)
        assert calls == [threading.get_ident()]
        await asyncio.to_thread(lambda: reactor.call_later(0.001, lambda: timers.append(3)))
        await loop_until(lambda: len(timers) == 3)
        reactor.detach()
        await loop.shutdown_default_executor()

    loop.run_until_complete(main())
    assert not reactor.in_loop()
    bell.ring()
    assert reactor.run_until(bell.heard(2), PATIENCE_S)


def test_threads_follow_an_attached_loop(reactor: Reactor, bell: Bell, loop: asyncio.AbstractEventLoop) -> None:
    """What they wait for may come over a socket, by a timer, by a call, or be nudged from the loop."""
    seen: set[str] = set()
    flag = False

    async def main() -> None:
        nonlocal flag
        reactor.attach(loop)
        conditions: list[Callable[[], bool]] = [
            bell.heard(1),
            lambda: "timer" in seen,
            lambda: "call" in seen,
            lambda: flag,
        ]
        waiters = [Waiter(reactor, condition) for condition in conditions]
        await loop_until(lambda: len(reactor._followers) == 4)
        bell.ring()
        reactor.call_later(0.001, lambda: seen.add("timer"))
        reactor.call_soon(lambda: seen.add("call"))
        await loop_until(lambda: len(reactor._followers) == 1)
        flag = True
        reactor.nudge()
        await loop_until(lambda: not reactor._followers)
        assert [waiter.finish() for waiter in waiters] == [True] * 4
        reactor.detach()

    loop.run_until_complete(main())


@pytest.mark.parametrize("with_helper", [False, True])
def test_a_loop_takes_the_lead_from_threads_and_gives_it_back(
    reactor: Reactor, bell: Bell, loop: asyncio.AbstractEventLoop, with_helper: bool
) -> None:
    """
    1. two threads wait, one of them leads
    2. the loop attaches at once, though neither has what it waits for: both follow
    3. the loop detaches: one of them leads again, and both are served
    """
    if with_helper:
        reactor.start_helper()
        until(lambda: reactor.helper_leads)
    waiters = [Waiter(reactor, bell.heard(count)) for count in (1, 2)]
    until(lambda: len(reactor._followers) == 1 and not reactor.helper_leads and reactor._leader)

    async def main() -> None:
        reactor.attach(loop)
        assert reactor.in_loop()
        await loop_until(lambda: len(reactor._followers) == 2)
        reactor.detach()

    for _ in range(20):
        loop.run_until_complete(main())
    assert not any(waiter.outcome for waiter in waiters)
    for _ in waiters:
        before = bell.rings
        bell.ring()
        until(bell.heard(before + 1))
    assert [waiter.finish() for waiter in waiters] == [True, True]


def test_a_loop_that_lingers_hears_what_comes_before_it_would_have_slept(loop: asyncio.AbstractEventLoop) -> None:
    reactor = Reactor("test", spin_us=PATIENCE_S * 1e6)
    try:
        bell = Bell(reactor)

        async def story() -> int:
            reactor.attach(loop)
            reactor.look()  # attaching rang the reactor's own bell
            threading.Timer(0.02, bell.ring).start()
            reactor.linger()
            return bell.rings  # the loop itself had no turn

        assert loop.run_until_complete(story()) == (1 if len(os.sched_getaffinity(0)) > 1 else 0)
        os.close(bell.fd)
    finally:
        reactor.close()


def test_a_loop_that_was_closed_under_the_reactor_does_not_break_it(
    reactor: Reactor, bell: Bell, loop: asyncio.AbstractEventLoop
) -> None:
    async def main() -> None:
        reactor.attach(loop)

    loop.run_until_complete(main())
    loop.close()
    reactor.call_soon(lambda: None)
    reactor.call_later(0.0, lambda: None)
    reactor.nudge()
    reactor.detach()
    bell.ring()
    assert reactor.run_until(bell.heard(1), PATIENCE_S)


# the end


def test_closing_wakes_leader_followers_and_helper() -> None:
    reactor = Reactor("test")
    reactor.start_helper()
    waiters = [Waiter(reactor, lambda: False, None) for _ in range(4)]
    until(lambda: len(reactor._followers) == 3 and reactor._leader)
    reactor.close()
    assert [waiter.finish() for waiter in waiters] == [False] * 4
    assert reactor._helper is not None
    assert not reactor._helper.is_alive()
    reactor.close()  # twice is fine


def test_a_closed_reactor_refuses_to_wait_and_touches_no_descriptor() -> None:
    reactor = Reactor("test")
    reactor.close()
    taken = os.eventfd(0, os.EFD_NONBLOCK)  # gets a number that the reactor had
    assert not reactor.run_until(lambda: False)
    assert not reactor.run_until(lambda: False, 0.0)
    reactor.wake()
    reactor.nudge()
    reactor.call_soon(lambda: None)
    with pytest.raises(BlockingIOError):
        os.eventfd_read(taken)
    os.close(taken)


def test_closing_again_and_again_leaves_no_descriptor_and_no_thread() -> None:
    gc.collect()
    before = (len(os.listdir("/proc/self/fd")), threading.active_count())
    for _ in range(20):
        reactor = Reactor("test")
        reactor.start_helper()
        bell = Bell(reactor)
        bell.ring()
        reactor.run_until(bell.heard(1), PATIENCE_S)
        reactor.close()
        os.close(bell.fd)
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before


FORK = """
import os, sys, threading
from aioray.runtime.reactor import Reactor

reactor = Reactor("test")
rung = []

class Bell:
    def __init__(self):
        self.reader, self.writer = os.pipe()
        reactor.register(self.reader, self)
    def on_readable(self):
        rung.append(os.read(self.reader, 1))
    def on_writable(self):
        pass

bell = Bell()
reactor.start_helper()
lead = threading.Thread(target=reactor.run_until, args=(lambda: len(rung) == 2,))
lead.start()
pid = os.fork()
if pid == 0:
    assert reactor.closed
    assert not reactor.run_until(lambda: False)
    reactor.unregister(bell.reader)
    reactor.call_soon(lambda: None)
    reactor.close()
    assert not os.path.samestat(os.fstat(bell.reader), os.stat(f"/proc/{os.getppid()}/fd/{bell.reader}"))
    mine = Reactor("of the child")
    assert not mine.run_until(lambda: False, 0.01)
    mine.close()
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
os.write(bell.writer, b"x")
os.write(bell.writer, b"x")
lead.join(10)
assert not lead.is_alive(), "the child took something from the parent"
reactor.close()
print("fine")
"""


def test_a_forked_child_has_nothing_of_the_reactor_and_disturbs_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("fine\n", "")


def test_waiting_threads_are_gone_with_their_reactor(bell: Bell, reactor: Reactor) -> None:
    """A stress of closing: at whatever moment it comes, nobody is left behind."""
    for _ in range(50):
        other = Reactor("test")
        other.start_helper()
        waiters = [Waiter(other, lambda: False, None) for _ in range(3)]
        with contextlib.suppress(RuntimeError):
            other.close()
        assert [waiter.finish() for waiter in waiters] == [False] * 3
