"""Who is a member, and what members are told of each other."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from aioray.wire.gcs import NODES_AT_BASE, Delta, Demand, Join, NodeFacts, Report
from aioray_node.gcs.members import (
    Admit,
    Command,
    Disconnected,
    Drop,
    Event,
    Joined,
    Left,
    Push,
    Refuse,
    Reported,
    ResyncAsked,
    State,
    Tick,
    WakeAt,
    check,
    delta_since,
    handle,
    status,
)
from aioray_node.gcs.view import ClusterView
from aioray_node.scheduling.policy import NodeView
from aioray_node.scheduling.resources import UNIT, NodeResources

CPU = {"CPU": 2 * UNIT}


def facts(node_id: str) -> NodeFacts:
    return NodeFacts(node_id, (f"/{node_id}.sock",), "boot", CPU)


def join(node_id: str, seq: int = 1, epoch: str = "", version: int = 0) -> Join:
    return Join(facts(node_id), CPU, seq, epoch, version)


@dataclass
class Run:
    """Feeds events as the shell does: a timer fires when it is due."""

    state: State = field(default_factory=lambda: State("gcs"))
    now: float = 100.0

    def feed(self, event: Event) -> list[Command]:
        commands = handle(self.state, event, self.now)
        check(self.state)
        return [command for command in commands if not isinstance(command, WakeAt)]

    def advance(self, seconds: float) -> list[Command]:
        end, commands = self.now + seconds, list[Command]()
        while self.state.wake_at is not None and self.state.wake_at <= end:
            self.now = max(self.now, self.state.wake_at)
            commands += self.feed(Tick())
        self.now = end
        return commands


def ends(commands: list[Command]) -> dict[str, str]:
    """Whose deaths were pushed, and why they died."""
    return {
        change.node_id: change.end
        for command in commands
        if isinstance(command, Push)
        for change in command.delta.changes
        if change.end is not None
    }


def test_who_joins_is_told_of_all_and_all_are_told_of_it() -> None:
    """
    1. a joins: it is a member, and is sent the whole view, which is itself
    2. b joins: it is sent both; a is sent b, at once
    """
    run = Run()
    admit, push = run.feed(Joined(1, join("a")))
    assert admit == Admit(1)
    assert isinstance(push, Push)
    assert [change.node_id for change in push.delta.changes] == ["a"]
    run.advance(1)
    admit, to_b, to_a = run.feed(Joined(2, join("b")))
    assert admit == Admit(2)
    assert isinstance(to_b, Push)
    assert to_b.connections == (2,)
    assert [change.node_id for change in to_b.delta.changes] == ["a", "b"]
    assert isinstance(to_a, Push)
    assert to_a.connections == (1,)
    assert (to_a.delta.since, [change.node_id for change in to_a.delta.changes]) == (1, ["b"])


def test_loads_are_gathered_and_all_are_sent_the_same() -> None:
    """Ten reports within an interval are one push of the newest, to everybody."""
    run = Run()
    run.feed(Joined(1, join("a")))
    run.feed(Joined(2, join("b")))
    run.advance(1)
    first, *rest = [run.feed(Reported(2, Report(seq, {"CPU": seq}))) for seq in range(2, 12)]
    assert len(first) == 1  # the first one after a pause goes at once
    assert rest == [[]] * 9
    (push,) = run.advance(0.2)
    assert isinstance(push, Push)
    assert push.connections == (1, 2)
    (change,) = push.delta.changes
    assert (change.node_id, change.available, change.facts) == ("b", {"CPU": 11}, None)


def test_a_report_without_change_is_a_heartbeat_and_tells_nobody_anything() -> None:
    run = Run()
    run.feed(Joined(1, join("a")))
    run.advance(1)
    version = run.state.version
    assert run.feed(Reported(1, Report(2))) == []
    assert run.state.version == version


def test_an_older_report_counts_for_nothing() -> None:
    run = Run()
    run.feed(Joined(1, join("a")))
    run.feed(Reported(1, Report(5, {"CPU": 7})))
    run.feed(Reported(1, Report(4, {"CPU": 9})))
    run.feed(Reported(1, Report(5, {"CPU": 9})))
    assert run.state.members["a"].available == {"CPU": 7}


def test_a_node_whose_connection_goes_is_dead_a_moment_later() -> None:
    run = Run()
    run.feed(Joined(1, join("a")))
    run.feed(Joined(2, join("b")))
    run.advance(1)
    assert run.feed(Disconnected(2, "closed by peer")) == []
    assert ends(run.advance(0.05)) == {}
    assert ends(run.advance(0.1)) == {"b": "its connection was lost: closed by peer"}


def test_a_node_that_connects_again_in_time_lives_on() -> None:
    run = Run()
    run.feed(Joined(1, join("a")))
    run.feed(Joined(2, join("b")))
    run.advance(1)
    run.feed(Disconnected(2, "closed by peer"))
    run.advance(0.05)
    has = run.state.version
    admit, push = run.feed(Joined(3, join("b", 9, "gcs", has)))
    assert admit == Admit(3)
    assert isinstance(push, Push)
    assert push.delta == Delta("gcs", has, has)
    assert ends(run.advance(5)) == {}


def test_the_old_connection_of_a_node_that_connects_again_is_closed_and_its_end_means_nothing() -> None:
    run = Run()
    run.feed(Joined(1, join("a")))
    assert Drop(1, "its node has connected again") in run.feed(Joined(2, join("a", 2)))
    run.feed(Disconnected(1, "closed"))
    run.feed(Reported(1, Report(50, {"CPU": 1})))
    run.advance(5)
    assert run.state.members["a"].end is None
    assert run.state.members["a"].available == CPU


def test_a_silent_node_is_dead_when_its_heartbeat_is_due() -> None:
    run = Run()
    run.feed(Joined(1, join("a")))
    run.feed(Joined(2, join("b")))
    heard = []
    for seq in range(2, 14):
        heard += run.advance(1)
        heard += run.feed(Reported(1, Report(seq)))
    assert ends(heard) == {"b": "nothing was heard of it for 10 s"}
    assert Drop(2, "nothing was heard of it for 10 s") in heard


def test_a_gcs_that_did_not_run_for_a_minute_takes_nobody_for_dead() -> None:
    """It hears them only afterwards: what they sent meanwhile still lies in the sockets."""
    run = Run()
    run.feed(Joined(1, join("a")))
    run.feed(Joined(2, join("b")))
    run.advance(1)
    run.now += 60
    assert ends(run.feed(Tick())) == {}
    assert ends(run.feed(Reported(1, Report(2)))) == {}
    for seq in range(3, 16):
        run.advance(1)
        run.feed(Reported(1, Report(seq)))
    assert run.state.members["a"].end is None
    assert run.state.members["b"].end == "nothing was heard of it for 10 s"


def test_a_dead_node_does_not_come_back() -> None:
    run = Run()
    run.feed(Joined(1, join("a")))
    run.feed(Left(1, "it was stopped"))
    refusal = Refuse(2, "node a was declared dead (it was stopped), and its work went elsewhere")
    assert run.feed(Joined(2, join("a", 7))) == [refusal]


def test_a_connection_is_of_one_node() -> None:
    run = Run()
    run.feed(Joined(1, join("a")))
    assert run.feed(Joined(1, join("b"))) == [Refuse(1, "this connection is of node a, not of node b")]
    assert "b" not in run.state.members


def test_joining_twice_is_as_joining_once() -> None:
    run = Run()
    run.feed(Joined(1, join("a")))
    before = run.state.version
    admit, push = run.feed(Joined(1, join("a")))
    assert admit == Admit(1)
    assert isinstance(push, Push)
    assert run.state.version == before


def test_who_missed_what_was_forgotten_is_sent_everything() -> None:
    run = Run(State("gcs", max_dead=1))
    run.feed(Joined(1, join("a")))
    has = run.state.version
    for number in range(2, 6):
        run.feed(Joined(number, join(f"n{number}")))
        run.feed(Left(number, "through"))
    assert delta_since(run.state, has).since == 0
    assert [change.node_id for change in delta_since(run.state, has).changes] == ["a", "n4", "n5"]


def test_the_intervals_grow_with_the_number_of_nodes() -> None:
    """A thousand nodes that each report ten times a second: who pays for a thousand pushes of a thousand loads?"""
    run = Run()
    for number in range(1000):
        run.feed(Joined(number, join(f"n{number:03}")))
    run.advance(5)
    pushes = 0
    for seq in range(2, 52):
        for number in range(0, 1000, 50):
            pushes += len(run.feed(Reported(number, Report(seq, {"CPU": seq}))))
        pushes += len(run.advance(0.1))
    assert pushes <= 3  # in five seconds; each is one encoded delta


def test_the_status_has_what_waits_and_who_is_dead() -> None:
    run = Run()
    run.feed(Joined(1, join("a")))
    run.feed(Joined(2, join("b")))
    waits = Demand({"GPU": UNIT}, 3, "needs 1 GPU, this node has 0")
    run.feed(Reported(1, Report(2, waiting=(waits,))))
    run.feed(Left(2, "stopped"))
    a, b = status(run.state).members
    assert (a.waiting, a.end) == ((waits,), None)
    assert (b.waiting, b.end) == ((), "stopped")


# any order of things


@dataclass
class Node:
    """A node: what it knows, and its line to the GCS, on which things are under way."""

    node_id: str
    view: ClusterView
    connection: int = 0  # 0: none
    seq: int = 0
    load: int = 2 * UNIT
    dead: bool = False
    inbox: list[Delta] = field(default_factory=list)


class World:
    """A GCS and nodes whose lines break, repeat themselves, and are slow."""

    def __init__(self) -> None:
        self.run = Run(State("gcs", max_dead=2))
        self.nodes: dict[str, Node] = {}
        self.owner: dict[int, Node] = {}
        self.connections = 0

    def carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Push(connections, delta):
                    for connection in connections:
                        node = self.owner[connection]
                        assert node.connection == connection, "pushed over a line that is closed"
                        node.inbox.append(delta)
                case Drop(connection, _) | Refuse(connection, _):
                    node = self.owner.pop(connection)
                    if node.connection == connection:
                        node.connection, node.dead = 0, True
                        node.inbox.clear()
                case _:
                    pass

    def feed(self, event: Event) -> None:
        self.carry_out(self.run.feed(event))

    def join(self, node_id: str) -> None:
        view = ClusterView(facts(node_id), NodeView(NodeResources(CPU)))
        node = self.nodes.setdefault(node_id, Node(node_id, view))
        if node.dead:
            return
        self.connections += 1
        node.connection = self.connections
        node.inbox.clear()
        self.owner[node.connection] = node
        node.seq += 1
        epoch, version = node.view.epoch, node.view.version
        self.feed(Joined(node.connection, Join(facts(node_id), {"CPU": node.load}, node.seq, epoch, version)))

    def report(self, node_id: str, load: int, repeat: bool) -> None:
        node = self.nodes.get(node_id)
        if node and node.connection:
            node.load = load
            node.seq += 1
            report = Report(node.seq, {"CPU": load})
            self.feed(Reported(node.connection, report))
            if repeat:
                self.feed(Reported(node.connection, report))

    def cut(self, node_id: str, leaves: bool) -> None:
        node = self.nodes.get(node_id)
        if node and node.connection:
            if leaves:
                self.feed(Left(node.connection, "stopped"))
                return
            connection, node.connection = node.connection, 0
            node.inbox.clear()
            self.feed(Disconnected(connection, "cut"))
            self.owner.pop(connection, None)

    def deliver(self, node_id: str, repeat: bool) -> None:
        node = self.nodes.get(node_id)
        if node and node.inbox:
            delta = node.inbox.pop(0)
            seen = node.view.version
            for _ in range(1 + repeat):
                if not node.view.apply(delta):
                    self.feed(ResyncAsked(node.connection))
            assert node.view.version >= seen, "a view went back in time"

    def advance(self, seconds: float) -> None:
        self.carry_out(self.run.advance(seconds))

    def settle(self) -> None:
        for _ in range(3):
            self.advance(1.0)
            for node in self.nodes.values():
                while node.inbox:
                    self.deliver(node.node_id, repeat=False)


names = st.sampled_from(["a", "b", "c", "d", "e", "f", "g"])
steps = st.one_of(
    st.tuples(st.just("join"), names),
    st.tuples(st.just("report"), names, st.integers(0, 2 * UNIT), st.booleans()),
    st.tuples(st.just("cut"), names, st.booleans()),
    st.tuples(st.just("deliver"), names, st.booleans()),
    st.tuples(st.just("advance"), st.sampled_from([0.005, 0.05, 0.2, 3.0, 40.0])),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(steps, max_size=60))
def test_every_view_becomes_the_truth(story: list[tuple[str, object]]) -> None:
    """Whatever is cut, repeated, late or forgotten: when all is quiet, who is connected knows what the GCS knows."""
    world = World()
    for what, *args in story:
        getattr(world, what)(*args)
    world.settle()
    members = world.run.state.members
    for node in world.nodes.values():
        if not node.connection:
            continue
        view = node.view
        assert {node_id: known.end for node_id, known in view.known.items()} == {
            node_id: member.end for node_id, member in members.items()
        }
        alive = {node_id: member for node_id, member in members.items() if member.end is None}
        assert view.nodes.keys() == alive.keys()
        for node_id in alive.keys() - {node.node_id}:
            assert view.nodes[node_id].resources.available == {"CPU": world.nodes[node_id].load}


def test_nothing_is_due_where_nobody_is() -> None:
    run = Run()
    assert run.feed(Tick()) == []
    assert run.state.death_at == math.inf


def test_of_many_nodes_those_that_join_at_once_are_sent_the_same_view() -> None:
    """
    1. up to some dozen, each is sent the view when it joins
    2. of more, those that join until the next push are sent it with that, in one piece; the others a delta
    """
    run = Run()
    for number in range(NODES_AT_BASE + 1):
        assert any(isinstance(each, Push) for each in run.feed(Joined(number, join(f"n{number}"))))
    run.advance(1.0)
    run.feed(Joined(100, join("n100")))  # it is long since the last push: this one is due
    for number in (101, 102):
        assert not any(isinstance(each, Push) for each in run.feed(Joined(number, join(f"n{number}"))))
    whole, rest = sorted(
        (each for each in run.advance(1.0) if isinstance(each, Push)), key=lambda each: each.delta.since
    )
    assert whole.connections == (101, 102)
    assert (whole.delta.since, len(whole.delta.changes)) == (0, NODES_AT_BASE + 4)
    assert len(rest.connections) == NODES_AT_BASE + 2
    assert [change.node_id for change in rest.delta.changes] == ["n101", "n102"]
