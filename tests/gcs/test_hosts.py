"""In which process each light actor lives, without a process: stories, and random ones that `check` looks at."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aioray_node.gcs import hosts
from aioray_node.gcs.hosts import (
    Command,
    EndHost,
    Event,
    HostDown,
    HostUp,
    Lost,
    Over,
    Settle,
    StartHost,
    State,
    Wanted,
    check,
    handle,
    slot_of,
)

A, B, C = b"a", b"b", b"c"


def host(number: int) -> bytes:
    return b"host" + number.to_bytes(4, "big")


def run(state: State, event: Event) -> list[Command]:
    commands = handle(state, event)
    check(state)
    return commands


def test_actors_wait_for_a_process_and_settle_there_in_the_order_in_which_they_came() -> None:
    """
    1. the first actor has a process started; the second shares it
    2. it is up: both settle, each under a number of its own; a third settles at once
    3. asked for twice: nothing
    """
    state = State(max_hosts=2)
    assert run(state, Wanted(A)) == [StartHost(host(1))]
    assert run(state, Wanted(B)) == []
    assert run(state, HostUp(host(1))) == [Settle(A, host(1), 1), Settle(B, host(1), 2)]
    assert run(state, Wanted(C)) == [Settle(C, host(1), 3)]
    assert run(state, Wanted(C)) == []
    assert slot_of(state, B) == (host(1), 2)


def test_a_process_goes_with_its_last_actor() -> None:
    state = State(max_hosts=1)
    run(state, Wanted(A))
    run(state, Wanted(B))
    run(state, HostUp(host(1)))
    assert run(state, Over(A)) == []
    assert run(state, Over(B)) == [EndHost(host(1))]
    assert run(state, Over(B)) == []
    assert run(state, HostDown(host(1), "late news")) == []
    assert run(state, Wanted(A)) == [StartHost(host(2))]


def test_all_who_lived_there_are_lost_with_it_and_may_settle_elsewhere_under_new_numbers() -> None:
    state = State(max_hosts=1)
    run(state, Wanted(A))
    run(state, Wanted(B))
    run(state, HostUp(host(1)))
    assert run(state, HostDown(host(1), "crash")) == [Lost(A, "crash"), Lost(B, "crash")]
    assert slot_of(state, A) is None
    assert run(state, Wanted(B)) == [StartHost(host(2))]
    assert run(state, HostUp(host(2))) == [Settle(B, host(2), 3)]


def test_a_process_that_is_full_is_joined_by_others_up_to_the_limit() -> None:
    """
    1. as many as fill a process: one process; one more: a second one, where the next ones go, too
    2. both are full and there may be no third: they go where the fewest are
    """
    state = State(max_hosts=2)
    for number in range(hosts.FILL):
        handle(state, Wanted(b"1-%d" % number))
    assert len(state.hosts) == 1
    assert run(state, Wanted(A)) == [StartHost(host(2))]
    for number in range(hosts.FILL - 1):
        handle(state, Wanted(b"2-%d" % number))
    assert run(state, Wanted(B)) == []
    assert run(state, Wanted(C)) == []
    assert [len(each.actors) for each in state.hosts.values()] == [hosts.FILL + 1, hosts.FILL + 1]


def test_actors_of_different_environments_share_no_process() -> None:
    """
    1. two actors of one environment share a process; the third, of another, gets its own
    2. one process dies: the actor of the other is not disturbed
    """
    state = State(max_hosts=1)
    started = run(state, Wanted(A, "red"))
    assert isinstance(started[0], StartHost)
    red = started[0].host
    assert started == [StartHost(red, "red")]
    assert run(state, Wanted(B, "red")) == []
    started = run(state, Wanted(C, "blue"))
    assert isinstance(started[0], StartHost)
    blue = started[0].host
    assert started == [StartHost(blue, "blue")]
    assert run(state, HostUp(red)) == [Settle(A, red, 1), Settle(B, red, 2)]
    assert run(state, HostDown(red, "it died")) == [Lost(A, "it died"), Lost(B, "it died")]
    assert run(state, HostUp(blue)) == [Settle(C, blue, 3)]
    assert run(state, Over(C)) == [EndHost(blue)]


def test_who_was_busy_in_a_crash_comes_back_apart_from_the_others() -> None:
    """
    1. of three in a process, two were busy when it crashed: those come back in a process each, the third elsewhere
    2. a newcomer goes to the third
    3. one of the two crashes again: that disturbs nobody, and it is a suspect, busy or not, as it was alone
    """
    state = State(max_hosts=1)
    for actor in (A, B, C):
        run(state, Wanted(actor))
    run(state, HostUp(host(1)))
    lost = run(state, HostDown(host(1), "crash", frozenset({A, B})))
    assert lost == [Lost(A, "crash", True), Lost(B, "crash", True), Lost(C, "crash", False)]
    assert run(state, Wanted(A, "", True)) == [StartHost(host(2))]
    assert run(state, Wanted(B, "", True)) == [StartHost(host(3))]
    assert run(state, Wanted(C)) == [StartHost(host(4))]
    assert run(state, Wanted(b"new")) == []
    assert run(state, HostUp(host(2))) == [Settle(A, host(2), 4)]
    assert run(state, HostDown(host(2), "crash")) == [Lost(A, "crash", True)]


def test_suspects_beyond_the_limit_share_and_are_spread_anew_after_each_crash() -> None:
    """
    1. two for each process of suspects, by the limit
    2. two of them crash together: they go to different processes
    """
    state = State(max_hosts=1)
    many = [b"%d" % number for number in range(2 * hosts.SUSPECT_HOSTS)]
    for actor in many:
        run(state, Wanted(actor, "", True))
    assert [len(each.actors) for each in state.hosts.values()] == [2] * hosts.SUSPECT_HOSTS
    crashed, pair = next((name, list(each.actors)) for name, each in state.hosts.items())
    run(state, HostUp(crashed))
    assert run(state, HostDown(crashed, "crash", frozenset(pair))) == [Lost(actor, "crash", True) for actor in pair]
    for actor in pair:
        run(state, Wanted(actor, "", True))
    assert len({state.where[actor] for actor in pair}) == 2


actors = st.sampled_from([bytes([letter]) for letter in b"abcdefgh"])


class Hosts(RuleBasedStateMachine):
    """Any events in any order. Beyond `check`: actors settle once, in a process that is up, and are lost but once."""

    def __init__(self) -> None:
        super().__init__()
        self.state = State(max_hosts=2)
        self.starting: set[bytes] = set()
        self.up: set[bytes] = set()
        self.settled: dict[bytes, tuple[bytes, int]] = {}
        self.wanted: set[bytes] = set()
        self.slots: set[int] = set()

    def feed(self, event: Event) -> None:
        for command in handle(self.state, event):
            match command:
                case StartHost(name):
                    assert name not in self.starting | self.up
                    self.starting.add(name)
                case Settle(actor, name, slot):
                    assert name in self.up
                    assert actor in self.wanted
                    assert actor not in self.settled, "it lives twice"
                    assert slot not in self.slots, "a slot is used again"
                    self.slots.add(slot)
                    self.settled[actor] = name, slot
                case Lost(actor):
                    self.wanted.remove(actor)
                    self.settled.pop(actor, None)
                case EndHost(name):
                    self.starting.discard(name)
                    self.up.discard(name)

    @rule(actor=actors, environment=st.sampled_from(["", "red"]), is_suspect=st.booleans())
    def want(self, actor: bytes, environment: str, is_suspect: bool) -> None:
        self.wanted.add(actor)
        self.feed(Wanted(actor, environment, is_suspect))

    @rule(actor=actors)
    def over(self, actor: bytes) -> None:
        self.wanted.discard(actor)
        self.settled.pop(actor, None)
        self.feed(Over(actor))

    @precondition(lambda self: self.starting)
    @rule(data=st.data())
    def host_up(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.starting)))
        self.starting.remove(name)
        self.up.add(name)
        self.feed(HostUp(name))

    @rule(number=st.integers(1, 5), busy=st.frozensets(actors))
    def host_down(self, number: int, busy: frozenset[bytes]) -> None:
        self.starting.discard(host(number))
        self.up.discard(host(number))
        self.feed(HostDown(host(number), "crash", busy))

    @rule(number=st.integers(1, 5))
    def late_news_of_a_host(self, number: int) -> None:
        if host(number) not in self.state.hosts:
            self.feed(HostUp(host(number)))

    @invariant()
    def holds(self) -> None:
        check(self.state)
        assert self.wanted == self.state.where.keys()
        for actor, where in self.settled.items():
            assert slot_of(self.state, actor) == where


TestHosts = Hosts.TestCase
