"""Whom a node sends what: stories; and many nodes that pull from each other while links break and nodes die."""

from __future__ import annotations

import collections
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from aioray.wire.values import object_id
from aioray_node.objects import pulls, sources
from aioray_node.objects.sources import (
    Asked,
    Began,
    Command,
    Event,
    Finished,
    Freed,
    Grown,
    Joined,
    Keep,
    Left,
    LetGo,
    LinkLost,
    Send,
    State,
    Stopped,
    TellGone,
    TellRefuse,
    TellSendOn,
    TellServe,
    check,
    handle,
)

X = object_id(b"owner---", 1)


def run(state: State, event: Event) -> list[Command]:
    commands = handle(state, event)
    check(state)
    return commands


def join(state: State, link: int, *, here: bool = True, **more: Any) -> list[Command]:
    return run(state, Joined(link, X, f"/{link}", here, **more))


def test_the_first_get_it_from_here_and_later_ones_from_those() -> None:
    """
    1. two are served: the bytes are kept for them
    2. the third is sent to the first, the fourth to the second
    3. the first has it all: it is no burden any more, and the next is served here
    """
    state = State(fan_out=2)
    assert join(state, 1) == [Keep(1, X), TellServe(1, X)]
    assert join(state, 2) == [Keep(2, X), TellServe(2, X)]
    assert join(state, 3) == [TellSendOn(3, X, "/1")]
    assert join(state, 4) == [TellSendOn(4, X, "/2")]
    assert run(state, Left(1, X, True)) == [LetGo(1, X)]
    assert join(state, 5) == [Keep(5, X), TellServe(5, X)]


def test_who_has_it_all_is_named_before_who_is_getting_it() -> None:
    state = State(fan_out=1)
    join(state, 1)
    run(state, Left(1, X, True))
    join(state, 2)
    assert join(state, 3) == [TellSendOn(3, X, "/1")]


def test_nobody_is_sent_to_one_that_it_feeds_or_has_lost() -> None:
    """
    1. 2 gets it from 1, 3 gets it from 2
    2. 2 has lost 1, and must not be sent to 3: it is served here, more than the fan-out says or not
    """
    state = State(fan_out=1)
    join(state, 1)
    assert join(state, 2) == [TellSendOn(2, X, "/1")]
    assert join(state, 3) == [TellSendOn(3, X, "/2")]
    assert join(state, 2, without=("/1",)) == [Keep(2, X), TellServe(2, X)]


def test_nobody_is_sent_below_a_node_that_is_cut_off_since_it_may_be_what_feeds_that() -> None:
    """
    1. 1 feeds 2, 2 feeds 3, 3 feeds 4; the link of 3 is lost, and 3 goes on with what 2 sends it
    2. 2 has lost 1: through 4 and 3 it would be fed by itself
    """
    state = State(fan_out=1)
    join(state, 1)
    for link in (2, 3, 4):
        assert join(state, link) == [TellSendOn(link, X, f"/{link - 1}")]
    run(state, LinkLost(3))
    assert join(state, 2, without=("/1",)) == [Keep(2, X), TellServe(2, X)]


def test_nodes_of_other_machines_are_not_sent_to_a_unix_socket() -> None:
    state = State(fan_out=1)
    join(state, 1, is_local=True)
    assert join(state, 2) == [Keep(2, X), TellServe(2, X)]


def test_a_question_for_bytes_that_are_on_their_way_waits_for_them() -> None:
    """
    1. we are getting it ourselves: who was sent here is served, and its question is parked
    2. the chunk comes, and is passed on
    3. all is here: what is asked for now is sent at once, and the bytes are kept meanwhile
    """
    state = State()
    run(state, Began(X, 30, 10))
    assert join(state, 1, here=False, placed=True) == [TellServe(1, X)]
    assert run(state, Asked(1, X, 0, 20)) == []
    assert run(state, Grown(X, 10)) == []
    assert run(state, Grown(X, 0)) == [Send(1, X, 0, 20)]
    assert run(state, Asked(1, X, 20, 10)) == []
    assert run(state, Finished(X)) == [Keep(1, X), Send(1, X, 20, 10)]
    assert run(state, Left(1, X, False)) == [LetGo(1, X)]
    assert state == State()


def test_who_waits_for_what_will_not_come_is_told_so() -> None:
    state = State()
    run(state, Began(X, 30, 10))
    join(state, 1, here=False, placed=True)
    run(state, Asked(1, X, 0, 20))
    assert run(state, Stopped(X, "given up")) == [TellRefuse(1, X, "given up")]
    assert state == State()


def test_what_is_not_here_is_refused() -> None:
    state = State()
    assert join(state, 1, here=False) == [TellRefuse(1, X, "it is not here, or not any more")]
    assert run(state, Asked(1, X, 0, 10)) == [TellRefuse(1, X, "nobody said that it is sent from here")]
    assert state == State()


def test_those_with_a_copy_hear_when_it_is_freed_unless_they_have_let_go() -> None:
    state = State()
    for link in (1, 2, 3):
        join(state, link)
        run(state, Left(link, X, True))
    run(state, Left(2, X, False))
    run(state, LinkLost(3))
    assert run(state, Freed(X)) == [TellGone(1, X)]
    assert state == State()


def test_who_has_a_copy_though_its_link_was_lost_meanwhile_hears_of_the_end() -> None:
    """
    1. 1 gets the object from 9, loses its link to us, and has all when the link is there again, as 2
    2. when the object is freed it hears that; so does who comes with a copy after that
    """
    state = State(fan_out=1)
    join(state, 9)
    join(state, 1)
    run(state, LinkLost(1))
    assert run(state, Left(2, X, True)) == []
    assert run(state, Left(9, X, False)) == [LetGo(9, X)]
    assert run(state, Freed(X)) == [TellGone(2, X)]
    assert run(state, Left(3, X, True, here=False)) == [TellGone(3, X)]
    assert state == State(fan_out=1)


CHUNK, CHUNKS = 10, 6
HOME = "/0"


class Node:
    """Both cores of a node, with a store that has room."""

    def __init__(self, number: int, fan_out: int) -> None:
        self.address = f"/{number}"
        limits = pulls.Limits(chunk_nbytes=CHUNK, window=2, attempts=8, retry_s=0.01)
        self.pulls = pulls.State(limits)
        self.sources = sources.State(fan_out=fan_out)
        self.has = number == 0
        self.kept: set[int] = set()
        self.heard: list[str] = []
        self.is_alive = True


class Network:
    """Messages arrive in the order of their link, and otherwise in any."""

    def __init__(self, seed: int, count: int, fan_out: int = 2) -> None:
        self.random = random.Random(seed)
        self.nodes = {node.address: node for node in (Node(number, fan_out) for number in range(count))}
        self.links: dict[int, tuple[Node, Node]] = {}  # number -> who dialled, whom
        self.queues: dict[tuple[int, bool], collections.deque[Any]] = {}  # (link, to the source?) -> messages
        self.numbers = 0
        self.now = 0.0
        self.sent: collections.Counter[str] = collections.Counter()

    def link(self, node: Node, address: str) -> int:
        return next(number for number, ends in self.links.items() if ends == (node, self.nodes[address]))

    def feed(self, node: Node, event: pulls.Event) -> None:
        news = collections.deque([event])
        while news:
            for command in pulls.handle(node.pulls, news.popleft(), self.now):
                match command:
                    case pulls.Reserve(oid, nbytes):
                        self.source(node, Began(oid, nbytes, CHUNK))
                        news.append(pulls.Room(oid))
                    case pulls.Unreserve(oid, reason):
                        self.source(node, Stopped(oid, reason))
                    case pulls.Dial(address):
                        if self.nodes[address].is_alive:
                            self.numbers += 1
                            self.links[self.numbers] = (node, self.nodes[address])
                            self.queues[self.numbers, True] = collections.deque()
                            self.queues[self.numbers, False] = collections.deque([pulls.LinkUp(address)])
                        else:
                            news.append(pulls.LinkDown(address, "refused"))
                    case pulls.AskWhere(address, oid, without, placed):
                        self.ask(node, address, lambda link: ("join", link, without, placed))
                    case pulls.AskBytes(address, oid, start, nbytes):
                        self.ask(node, address, lambda link: Asked(link, oid, start, nbytes))
                    case pulls.Quit(address, oid, keeps):
                        self.ask(node, address, lambda link: Left(link, oid, keeps))
                    case pulls.Complete(oid):
                        node.has = True
                        self.source(node, Finished(oid))
                    case pulls.Deliver():
                        node.heard.append("has it")
                    case pulls.Fail(_, _, reason):
                        node.heard.append(reason)
        pulls.check(node.pulls)

    def ask(self, node: Node, address: str, message: Any) -> None:
        number = self.link(node, address)
        self.queues[number, True].append(message(number))

    def source(self, node: Node, event: Event) -> None:
        for command in handle(node.sources, event):
            answer: pulls.Event
            match command:
                case Keep(link):
                    assert node.has
                    assert link not in node.kept
                    node.kept.add(link)
                    continue
                case LetGo(link):
                    node.kept.remove(link)
                    continue
                case TellServe(link, oid):
                    answer = pulls.Served(node.address, oid)
                case TellSendOn(link, oid, to):
                    answer = pulls.SentOn(node.address, oid, to)
                case TellRefuse(link, oid, reason):
                    answer = pulls.Refused(node.address, oid, reason)
                case TellGone(link, oid):
                    answer = pulls.NoMore(oid)
                case Send(link, oid, start):
                    self.sent[node.address] += 1
                    answer = pulls.Arrived(node.address, oid, start)
            if (link, False) in self.queues:
                self.queues[link, False].append(answer)
        check(node.sources)

    def deliver(self) -> bool:
        """One message; False when there is none."""
        full = [key for key, queue in self.queues.items() if queue]
        if not full:
            return False
        number, to_source = key = self.random.choice(full)
        message = self.queues[key].popleft()
        dialler, source = self.links[number]
        if not to_source:
            wanted = not isinstance(message, pulls.Arrived) or pulls.wants(
                dialler.pulls, message.address, message.oid, message.start
            )
            if wanted:  # else the shell drops the bytes
                if isinstance(message, pulls.Arrived):
                    self.source(dialler, Grown(message.oid, message.start))
                self.feed(dialler, message)
        elif isinstance(message, tuple):
            _, link, without, placed = message
            self.source(source, Joined(link, X, dialler.address, source.has, without, placed))
        else:
            self.source(source, message)
        return True

    def cut(self, number: int) -> None:
        dialler, source = self.links.pop(number)
        del self.queues[number, True], self.queues[number, False]
        if source.is_alive:
            self.source(source, LinkLost(number))
        if dialler.is_alive:
            self.feed(dialler, pulls.LinkDown(source.address, "reset"))

    def kill(self, node: Node) -> None:
        node.is_alive = False
        for number in [number for number, ends in self.links.items() if node in ends]:
            self.cut(number)

    def tick(self) -> None:
        self.now += 0.1
        for node in self.nodes.values():
            if node.is_alive:
                self.feed(node, pulls.Tick())


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(2, 9),
    fan_out=st.integers(1, 2),
    cuts=st.integers(0, 6),
    deaths=st.integers(0, 2),
)
def test_all_nodes_that_live_get_the_object_whatever_breaks(
    seed: int, count: int, fan_out: int, cuts: int, deaths: int
) -> None:
    net = Network(seed, count, fan_out)
    others = list(net.nodes.values())[1:]
    for waiter, node in enumerate(others):
        net.feed(node, pulls.Wanted(waiter, X, CHUNK * CHUNKS, HOME))
    for _ in range(5000):
        if cuts and net.links and net.random.random() < 0.05:
            cuts -= 1
            net.cut(net.random.choice(sorted(net.links)))
        elif deaths and net.random.random() < 0.01:
            deaths -= 1
            net.kill(net.random.choice(others))
        elif not net.deliver():
            if all(node.heard for node in others if node.is_alive):
                break
            net.tick()
    living = [node for node in others if node.is_alive]
    assert [node.heard for node in living] == [["has it"]] * len(living)
    for node in living:
        assert (node.pulls.pulls, node.pulls.begun, node.pulls.waiters) == ({}, {}, {})
    for node in (*living, net.nodes[HOME]):
        assert (node.sources.serving, node.sources.parked, node.sources.partial) == ({}, {}, {})
        assert node.kept == set()


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(2, 12))
def test_when_nothing_breaks_the_home_sends_to_few_and_nothing_is_sent_twice(seed: int, count: int) -> None:
    """A few: those that it serves at first, and those that come when these are through."""
    net = Network(seed, count)
    others = list(net.nodes.values())[1:]
    for waiter, node in enumerate(others):
        net.feed(node, pulls.Wanted(waiter, X, CHUNK * CHUNKS, HOME))
    for _ in range(20):  # all have asked before the first has it
        net.deliver()
    while net.deliver():
        pass
    assert [node.heard for node in others] == [["has it"]] * len(others)
    assert sum(net.sent.values()) == CHUNKS * len(others)
