"""Among many nodes, a few are looked at; the decision is one that all of them would have allowed."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from aioray.labels import selector_of
from aioray.wire.strategies import Affinity, Strategy
from aioray_node.scheduling import candidates, policy
from aioray_node.scheduling.candidates import MANY, SAMPLE, Candidates, check
from aioray_node.scheduling.core import NodeNews, Place, Request, Spill, State, handle
from aioray_node.scheduling.core import check as check_core
from aioray_node.scheduling.policy import Chosen, Here, Infeasible, NodeView, Wait, Wish, choose
from aioray_node.scheduling.resources import UNIT, NodeResources, from_floats

HERE = Here("n000")


def view(labels: dict[str, str] | None = None, *, free: float | None = None, **amounts: float) -> NodeView:
    node = NodeView(NodeResources(from_floats(amounts)), labels or {})
    if free is not None:
        node.resources.available["CPU"] = int(free * UNIT)
    return node


def many(count: int = 1000, **amounts: float) -> dict[str, NodeView]:
    return {f"n{index:03}": NodeView(NodeResources(from_floats(amounts or {"CPU": 4}))) for index in range(count)}


def cpu(strategy: Strategy | None = None) -> Wish:
    return Wish(from_floats({"CPU": 1}), strategy)


def test_a_few_free_nodes_stand_for_all() -> None:
    nodes = many()
    few = Candidates("n000").narrow(cpu(), nodes, HERE)
    assert "n000" in few
    assert 1 < len(few) <= 1 + SAMPLE


def test_two_nodes_do_not_draw_the_same() -> None:
    nodes = many()
    assert set(Candidates("n001").narrow(cpu(), nodes, HERE)) != set(Candidates("n002").narrow(cpu(), nodes, HERE))


def test_the_only_free_node_is_found() -> None:
    """
    1. one of a thousand is free: it is among them
    2. it is full, and another one is free: that one is
    """
    nodes = {node_id: view(CPU=4, free=0) for node_id in many()}
    some = Candidates("n000")
    assert isinstance(choose(cpu(), some.narrow(cpu(), nodes, HERE), HERE), Wait)
    nodes["n500"].resources.available["CPU"] = UNIT
    some.changed("n500", nodes["n500"])
    assert choose(cpu(), some.narrow(cpu(), nodes, HERE), HERE) == Chosen("n500")
    nodes["n500"].resources.available["CPU"] = 0
    del nodes["n700"]
    nodes["n701"].resources.available["CPU"] = UNIT
    for node_id in ("n500", "n700", "n701"):
        some.changed(node_id, nodes.get(node_id))
    check(some, nodes)
    assert choose(cpu(), some.narrow(cpu(), nodes, HERE), HERE) == Chosen("n701")


def test_the_node_that_is_asked_for_is_among_them() -> None:
    nodes = many()
    for affinity in (Affinity("n700"), Affinity("n700", soft=True)):
        few = Candidates("n000").narrow(cpu(Strategy(affinity=affinity)), nodes, HERE)
        assert set(few) == {"n000", "n700"}
    gone = cpu(Strategy(affinity=Affinity("gone", soft=True)))
    assert isinstance(choose(gone, Candidates("n000").narrow(gone, nodes, HERE), HERE), Chosen)


def test_what_is_spread_goes_round_all_of_them() -> None:
    nodes = many(100)
    some, wish = Candidates("n000"), cpu(Strategy(spread=True))
    last, seen = "n000", []
    for _ in range(99):
        here = Here("n000", last)
        decision = choose(wish, some.narrow(wish, nodes, here), here)
        assert isinstance(decision, Chosen)
        seen.append(last := decision.node_id)
    assert seen == sorted(nodes)[1:]


def test_kinds_that_nobody_asks_for_any_more_are_forgotten() -> None:
    some, nodes = Candidates("n000"), many(100)
    for amount in range(1, 100):
        some.narrow(Wish({"CPU": amount}), nodes, HERE)
    assert len(some.kinds) == 32


nodes_of = st.lists(
    st.builds(
        view,
        st.sampled_from([{}, {"zone": "a"}, {"zone": "b"}, {"zone": "a", "tier": "fast"}]),
        free=st.sampled_from([0.0, 0.0, 1.0, 3.0, 4.0]),
        CPU=st.just(4.0),
        GPU=st.sampled_from([0.0, 0.0, 1.0]),
    ),
    min_size=1,
    max_size=30,
)
wishes = st.builds(
    Wish,
    st.sampled_from([from_floats(each) for each in ({"CPU": 1}, {"CPU": 4}, {"CPU": 1, "GPU": 1}, {"CPU": 9})]),
    st.none()
    | st.builds(
        Strategy,
        spread=st.booleans(),
        affinity=st.none()
        | st.builds(
            Affinity, st.sampled_from(["n001", "n004", "gone"]), soft=st.booleans(), spill_on_unavailable=st.booleans()
        ),
        required=st.sampled_from([(), selector_of({"zone": "a"})]),
        preferred=st.sampled_from([(), selector_of({"tier": "fast"})]),
        selectors=st.sampled_from([(), (selector_of({"zone": "b"}), selector_of({"zone": "a"}))]),
    ),
)


@given(nodes_of, nodes_of, wishes, st.integers(0, 2))
@settings(max_examples=150, deadline=None)
def test_a_decision_among_a_few_is_one_that_all_would_have_allowed(
    before: list[NodeView], after: list[NodeView], wish: Wish, draw: int
) -> None:
    """Both say it must wait, or cannot be, or both have a free node, as much liked, and GPUs are spared alike."""
    some = Candidates("n000")
    here = Here("n000", "n002", draw)
    nodes = {f"n{index:03}": node for index, node in enumerate(before)}
    some.narrow(wish, nodes, here)
    nodes = {f"n{index:03}": node for index, node in enumerate(after)}
    for index in range(max(len(before), len(after))):
        some.changed(f"n{index:03}", nodes.get(f"n{index:03}"))
    check(some, nodes)
    among_all, among_few = choose(wish, nodes, here), choose(wish, some.narrow(wish, nodes, here), here)
    assert type(among_all) is type(among_few)
    if isinstance(among_all, Infeasible):
        return
    assert isinstance(among_few, Chosen | Wait)
    one, other = nodes[among_all.node_id], nodes[among_few.node_id]
    assert ("tier" in one.labels) == ("tier" in other.labels) or not (wish.strategy and wish.strategy.preferred)
    if wish.strategy is None or not wish.strategy.spread:
        assert ("GPU" in one.resources.total) == ("GPU" in other.resources.total)
    else:
        assert among_all == among_few or isinstance(among_all, Wait)


def test_a_scheduler_of_many_nodes_sends_what_it_has_no_room_for_to_a_free_one() -> None:
    """
    1. the node is full: each request goes to one of the free nodes, no more to each than it has room for
    2. when all are taken, the next one waits; it goes to the first of which news come
    """
    state = State(NodeResources(from_floats({"CPU": 1})), node_id="n000")
    nodes = state.nodes = {**many(MANY + 10, CPU=1), "n000": state.own}
    placed = handle(state, Request(1, "ann", from_floats({"CPU": 1}), "f"), 0.0)
    assert placed == [Place(1)]
    sent = []
    for lease_id in range(2, MANY + 11):
        commands = handle(state, Request(lease_id, "ann", from_floats({"CPU": 1}), "f"), 0.0)
        check_core(state)
        candidates.check(state.candidates, nodes)
        assert isinstance(commands[0], Spill)
        sent.append(commands[0].node_id)
    assert sorted(sent) == sorted(nodes.keys() - {"n000"})
    handle(state, Request(500, "ann", from_floats({"CPU": 1}), "f"), 0.1)
    assert list(state.waiting) == [500]
    nodes["n033"].resources.available["CPU"] = UNIT
    assert Spill(500, "n033", 1) in handle(state, NodeNews("n033"), 0.2)
    check_core(state)


def test_what_no_node_of_many_can_have_is_told_with_what_the_best_has() -> None:
    state = State(NodeResources(from_floats({"CPU": 1})), node_id="n000")
    state.nodes = {**many(MANY + 10, CPU=1), "n000": state.own, "n050": view(CPU=3)}
    decision = state.choose(Request(1, "ann", from_floats({"CPU": 4, "cat": 1}), "f"))
    assert isinstance(decision, policy.Infeasible)
    assert "needs 1 cat" in decision.reason
